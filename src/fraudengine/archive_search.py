"""Finds archived screenings by what is asked of them, reading only the columns and row groups that may matter.

That takes long in a large archive: it is for commands, never for the service's own threads. pyarrow
comes with the extra `replay`; without it ConfigurationError names the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Any, Final

from . import store
from .archive_reading import (
    DIRECTORY,
    MAX_ID,
    archive_files,
    groups_of,
    ids_of_month,
    month_of_file,
    months_in,
    opened_file,
    pyarrow_for,
)
from .log_search import RecordedScreening, Search
from .search_index import first_id_at

_OF_A_PAYMENT: Final = ("id", "merchant", "transaction_id", "currency", "minor", "outcomes")
_FOUND: Final = (
    "id",
    "merchant",
    "transaction_id",
    "at_us",
    "answered_us",
    "currency",
    "minor",
    "outcome",
    "code",
    "revision",
)


@dataclass(frozen=True, slots=True)
class ArchivedPayment:
    """What a report about an archived screening needs to know of it; `outcomes` are those of its file."""

    id: int
    merchant: str
    transaction_id: str
    currency: str
    minor: int
    outcomes: Sequence[dict[str, Any]]

    @property
    def row(self) -> dict[str, Any]:
        return {"id": self.id, "outcomes": self.outcomes}


def find_payments(
    state: Path, ids: Collection[int], transactions: Collection[tuple[str, str]]
) -> Iterator[ArchivedPayment]:
    """The archived screenings with these ids, and all of these transactions (merchant, transaction id).

    Raises StoreUnavailable and ConfigurationError.
    """
    paths = archive_files(state)
    if not paths or not (ids or transactions):
        return
    arrow, _ = pyarrow_for(paths)
    import pyarrow.compute as compute

    wanted_ids = arrow.array(sorted(ids), arrow.int64())
    hashes = arrow.array(sorted({store.transaction_hash(*one) for one in transactions}), arrow.int64())
    known, named = frozenset(ids), frozenset(transactions)

    def fits(keys: Any) -> Any:
        return compute.or_(
            compute.is_in(keys.column("id"), value_set=wanted_ids),
            compute.is_in(keys.column("transaction_hash"), value_set=hashes),
        )

    low, high = (0, MAX_ID) if transactions else (min(ids), max(ids) + 1)
    for path in paths:
        for row in _rows(path, low, high, ("id", "transaction_hash"), fits, _OF_A_PAYMENT):
            if row["id"] in known or (row["merchant"], row["transaction_id"]) in named:
                yield ArchivedPayment(**row)


def newest_archived_id(state: Path) -> int:
    """No archived screening has this id or a greater one; 0 when there is no archive."""
    return max((ids_of_month(month_of_file(path))[1] for path in archive_files(state)), default=0)


def search_archive(state: Path, asked: Search) -> Iterator[RecordedScreening]:
    """Archived screenings for which everything asked holds, newest first. Raises as `find_payments`."""
    low = first_id_at(asked.since_us) if asked.since_us is not None else 0
    high = first_id_at(asked.until_us) if asked.until_us is not None else MAX_ID
    if asked.before is not None:
        high = min(high, asked.before)
    for paths in reversed(months_in(state / DIRECTORY, low, high)):
        pyarrow_for(paths)
        found = [_search_file(path, asked, low, high) for path in paths]
        yield from merge(*found, key=lambda one: -one.id)


def _search_file(path: Path, asked: Search, low: int, high: int) -> Iterator[RecordedScreening]:
    import pyarrow.compute as compute

    tests = {
        "merchant": asked.merchant,
        "transaction_id": asked.transaction_id,
        "card_identity": asked.card,
        "outcome": asked.outcome,
        "code": asked.code,
    }
    tests = {name: value for name, value in tests.items() if value is not None}

    def fits(keys: Any) -> Any:
        ids = keys.column("id")
        mask = compute.and_(compute.greater_equal(ids, low), compute.less(ids, high))
        for name, value in tests.items():
            mask = compute.and_(mask, compute.equal(keys.column(name), value))
        return mask

    columns = _FOUND if asked.order_ref is None else (*_FOUND, "document")
    for row in _rows(path, low, high, ("id", *tests), fits, columns, newest_first=True):
        document = row.pop("document", None)
        if document is None or json.loads(document)["transaction"].get("order_ref") == asked.order_ref:
            yield RecordedScreening(**row)


def _rows(
    path: Path,
    low: int,
    high: int,
    keys: Sequence[str],
    fits: Callable[[Any], Any],
    columns: Sequence[str],
    *,
    newest_first: bool = False,
) -> Iterator[dict[str, Any]]:
    """Those rows of a file whose keys fit, from the row groups that reach into the ids `[low, high)`."""
    import pyarrow.compute as compute

    with opened_file(path) as file:
        groups = groups_of(file, low, high)
        for group in reversed(groups) if newest_first else groups:
            mask = fits(file.read_row_group(group, columns=list(keys)))
            if compute.any(mask).as_py():
                found = file.read_row_group(group, columns=list(columns)).filter(mask).to_pylist()
                yield from reversed(found) if newest_first else found
