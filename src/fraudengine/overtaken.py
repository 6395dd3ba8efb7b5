"""Calls of one transaction that several processes decide at the same moment: each must know of those before it.

Whoever decides reads the earlier screenings of the transaction first; until its own record is written another
process may have recorded one more. Inside the transaction that writes, when nobody else can, the records are
compared with what is in the file by then. One that does not know of a screening there, or that built on one which
never got there, is not written, and is decided again. So the first call of a transaction is the first for
everybody, a call in conflict with it is refused whichever process it comes to, and what a decision took for its
earlier step is what the log holds before it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .batch_writer import PendingRecord

_SELECT_STEPS: Final = (
    "SELECT m.name, s.transaction_id, s.id, s.request_hash"
    " FROM screenings s INDEXED BY screenings_request JOIN merchants m ON m.id = s.merchant_id"
    " WHERE s.transaction_hash IN (SELECT value FROM json_each(?))"
)


def nobody_came_first(entries: int) -> str:
    """A condition for a statement that writes so many entries; its values are `values_of` them.

    It may be false for no reason (two transactions of one hash), never true without one.
    """
    return (
        "NOT EXISTS (SELECT 1 FROM screenings INDEXED BY screenings_request"
        f" WHERE transaction_hash IN ({', '.join('?' * entries)})"
        " AND id NOT IN (SELECT value FROM json_each(?)))"
    )


def values_of(entries: Sequence[PendingRecord]) -> list[int | str | None] | None:
    """The values of `nobody_came_first`; None when the condition cannot tell and `find_overtaken` has to."""
    hashes: list[int | str | None] = []
    known: list[int] = []
    for entry in entries:
        record = entry.record
        if record.presumed:
            return None
        if record.after is not None:
            known += record.after
        hashes.append(None if record.after is None else entry.transaction_hash)
    if len(entries) > 1 and len({entry.transaction_hash for entry in entries}) < len(entries):
        return None
    hashes.append(json.dumps(known) if known else "[]")
    return hashes


def find_overtaken(connection: sqlite3.Connection, entries: Iterable[PendingRecord]) -> list[PendingRecord]:
    """Those that have to be decided again, in the order given; asked in the transaction that writes the others.

    A call that is recorded already is none of them: it gets the answer that it got before.
    """
    batch = list(entries)
    if all(entry.record.after is None for entry in batch):
        return []
    steps: dict[tuple[str, str], dict[int, int]] = {}
    hashes = json.dumps([entry.transaction_hash for entry in batch])
    for merchant, transaction_id, screening_id, request_hash in connection.execute(_SELECT_STEPS, (hashes,)):
        steps.setdefault((merchant, transaction_id), {})[screening_id] = request_hash
    overtaken = []
    for entry in batch:
        record = entry.record
        there = steps.setdefault((record.merchant, record.transaction_id), {})
        if entry.request_hash in there.values():
            continue
        if record.after is not None and not (
            there.keys() <= set(record.after) and there.keys() >= set(record.presumed)
        ):
            overtaken.append(entry)
        else:
            there[record.id] = entry.request_hash
    return overtaken
