"""Reads the decision log for reports and explanations: no writer thread, no worker slot, nothing is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from . import store
from .diagnostics import StoreUnavailable

_FIRST_TIME_BIT: Final = store.WORKER_BITS + store.COUNTER_BITS
_MAX_ID: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class LoggedScreening:
    """A recorded screening with its document; times are UTC microseconds."""

    id: int
    merchant: str
    at_us: int
    currency: str
    minor: int
    outcome: str
    code: str
    revision: str
    document: bytes


class LogReader:
    """The log as it is when each read begins; another process may be appending."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise StoreUnavailable(
                f"there is no decision log {path}: name the directory of the service's with --state"
            )
        self.path = path
        self._connection = store.open_database(path, query_only=True, busy_timeout_ms=1_000).conn

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def document(self, screening_id: int) -> tuple[bytes, str] | None:
        """The document of a screening and the revision that decided it."""
        rows = self._rows(
            "SELECT s.document, r.revision FROM screenings s JOIN revisions r ON r.id = s.revision_id"
            " WHERE s.id = ?",
            (screening_id,),
        )
        found = next(rows, None)
        return (found[0], found[1]) if found is not None else None

    def revision_texts(self, revision: str) -> tuple[tuple[str, str], ...]:
        """Path and text of every file of a revision; empty when nobody remembered it."""
        rows = self._rows(
            "SELECT f.path, t.text FROM revision_files f JOIN rule_texts t ON t.id = f.text_id"
            " WHERE f.revision_id = (SELECT id FROM revisions WHERE revision = ?) ORDER BY f.position",
            (revision,),
        )
        return tuple((path, text) for path, text in rows)

    def count(self, since_us: int, until_us: int | None, merchant: str | None) -> int:
        """How many screenings were answered in `[since_us, until_us)`."""
        where, values = self._answered_in(since_us, until_us, merchant)
        return int(next(self._rows(f"SELECT count(*) FROM screenings s WHERE {where}", values))[0])

    def with_shadow_matches(
        self, since_us: int, until_us: int | None, merchant: str | None
    ) -> Iterator[LoggedScreening]:
        """Screenings answered in `[since_us, until_us)` that a shadow rule matched, oldest first, one at a time."""
        where, values = self._answered_in(since_us, until_us, merchant)
        rows = self._rows(
            "SELECT s.id, m.name, s.at_us, s.currency, s.minor, s.outcome, s.code, r.revision, s.document"
            " FROM screenings s JOIN merchants m ON m.id = s.merchant_id JOIN revisions r ON r.id = s.revision_id"
            f" WHERE {where} AND instr(s.document, ?) > 0 ORDER BY s.id",
            (*values, b'"mode":"shadow"'),
        )
        for row in rows:
            yield LoggedScreening(*row)

    def screenings(self, since_us: int, until_us: int | None, merchant: str | None) -> Iterator[LoggedScreening]:
        """Every screening answered in `[since_us, until_us)`, oldest first, one at a time."""
        where, values = self._answered_in(since_us, until_us, merchant)
        rows = self._rows(
            "SELECT s.id, m.name, s.at_us, s.currency, s.minor, s.outcome, s.code, r.revision, s.document"
            " FROM screenings s JOIN merchants m ON m.id = s.merchant_id JOIN revisions r ON r.id = s.revision_id"
            f" WHERE {where} ORDER BY s.id",
            values,
        )
        for row in rows:
            yield LoggedScreening(*row)

    def revisions(self) -> tuple[str, ...]:
        """Every revision that decided a screening of the log."""
        return tuple(revision for (revision,) in self._rows("SELECT revision FROM revisions ORDER BY id", ()))

    def first_of_transaction(
        self, merchant: str, transaction_id: str, before_id: int
    ) -> tuple[str, str, int] | None:
        """Card identity, currency and minor units of a transaction's first screening, when before that one."""
        rows = self._rows(
            "SELECT card_identity, currency, minor FROM screenings INDEXED BY screenings_request"
            " WHERE transaction_hash = ? AND transaction_id = ? AND id < ?"
            " AND merchant_id = (SELECT id FROM merchants WHERE name = ?) ORDER BY id LIMIT 1",
            (store.transaction_hash(merchant, transaction_id), transaction_id, before_id, merchant),
        )
        found = next(rows, None)
        return None if found is None else (found[0], found[1], found[2])

    def reports(self, kinds: Sequence[str]) -> Iterator[tuple[int, str, str, str]]:
        """What was reported of payments, in the order of the log: id, merchant, transaction id and kind."""
        marks = ", ".join("?" * len(kinds))
        rows = self._rows(
            "SELECT o.id, m.name, s.transaction_id, o.kind FROM outcomes o"
            " JOIN screenings s ON s.id = o.screening_id JOIN merchants m ON m.id = s.merchant_id"
            f" WHERE o.kind IN ({marks}) ORDER BY o.id",
            tuple(map(str, kinds)),
        )
        yield from ((number, merchant, transaction_id, kind) for number, merchant, transaction_id, kind in rows)

    @staticmethod
    def answered_us(screening_id: int) -> int:
        """When a screening was answered, to the millisecond, as its id says."""
        return (screening_id >> _FIRST_TIME_BIT) * 1000

    @staticmethod
    def ids_answered_in(since_us: int, until_us: int | None) -> tuple[int, int]:
        """The first id of a period, and the first one after it."""
        first = min(max(since_us // 1000 << _FIRST_TIME_BIT, 0), _MAX_ID)
        last = _MAX_ID if until_us is None else min(max(until_us // 1000 << _FIRST_TIME_BIT, 0), _MAX_ID)
        return first, last

    @staticmethod
    def _answered_in(
        since_us: int, until_us: int | None, merchant: str | None
    ) -> tuple[str, tuple[int | str, ...]]:
        """A range of ids, because the time part of an id is that of the answer and ids are the rows' order."""
        first, last = LogReader.ids_answered_in(since_us, until_us)
        if merchant is None:
            return "s.id >= ? AND s.id < ?", (first, last)
        return (
            "s.merchant_id = (SELECT id FROM merchants WHERE name = ?) AND s.id >= ? AND s.id < ?",
            (merchant, first, last),
        )

    def _rows(self, sql: str, values: tuple[int | str | bytes, ...]) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise store.explain_error(error, self.path) from error
