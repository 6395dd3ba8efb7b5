"""Searches the decision log: by merchant, time, transaction, order, card, outcome and reason code, newest first.

Every call is bounded: it looks at EXAMINED screenings at most and then says how far back it got, so that a search
for what is rare or absent is a few calls, never one that reads 100,000,000 rows. With the index of `search_index`
what is rare is found at once. Without it, or where it does not reach yet, the log itself is read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from . import store
from .diagnostics import StoreUnavailable
from .list_entries import time_text
from .money import format_minor
from .search_index import FILE, SEARCH, first_id_at

MAX_ID: Final = (1 << 63) - 1
EXAMINED: Final = 4_000  # with all their columns; rows that the index does not reach yet count an eighth each
_AT_A_TIME: Final = 256
_SCANNED: Final = 4_096
_SCAN_COST: Final = 8

_COLUMNS: Final = (
    "s.id, m.name, s.transaction_id, s.at_us, s.answered_us, s.currency, s.minor, s.outcome, s.code, r.revision"
)
# CROSS JOIN and the plus signs of `_tests`: left alone, SQLite 3.40 begins with all rows of the merchant.
_JOINS: Final = (
    "CROSS JOIN screenings s ON s.id = x.id CROSS JOIN merchants m ON m.id = s.merchant_id"
    " CROSS JOIN revisions r ON r.id = s.revision_id"
)


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for; everything given must hold. Times are those of the answers, in `[since, until)`."""

    merchant: str | None = None
    transaction_id: str | None = None
    order_ref: str | None = None
    card: str | None = None
    outcome: str | None = None
    code: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    before: int | None = None  # the id that the page before ended with


@dataclass(frozen=True, slots=True)
class RecordedScreening:
    """The columns of a recorded screening, without its document."""

    id: int
    merchant: str
    transaction_id: str
    at_us: int
    answered_us: int
    currency: str
    minor: int
    outcome: str
    code: str
    revision: str


@dataclass(frozen=True, slots=True)
class Page:
    """What one call found, newest first; `next` is where the next one goes on, None at the end."""

    found: tuple[RecordedScreening, ...]
    next: int | None


class LogSearch:
    """Searches the log of a state directory; for one thread at a time. Raises StoreUnavailable."""

    def __init__(self, state: Path) -> None:
        self.path = state / "decisions.db"
        if not self.path.exists():
            raise StoreUnavailable(
                f"there is no decision log {self.path}: name the directory of the service's with --state"
            )
        self._index_path = state / FILE
        self._log = store.open_database(self.path, query_only=True, busy_timeout_ms=1_000).conn
        self._index: sqlite3.Connection | None = None
        self._at_a_time = _AT_A_TIME

    def __enter__(self) -> LogSearch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._log.close()
        if self._index is not None:
            self._index.close()

    def find(self, search: Search, limit: int = 50) -> Page:
        """The next page of at most `limit` screenings."""
        try:
            return self._find(search, limit)
        except sqlite3.Error as error:
            raise store.explain_error(error, self.path) from error
        finally:
            if self._index is not None and self._index.in_transaction:
                self._index.execute("ROLLBACK")

    def _find(self, search: Search, limit: int) -> Page:
        low = first_id_at(search.since_us) if search.since_us is not None else 0
        high = first_id_at(search.until_us) if search.until_us is not None else MAX_ID
        if search.before is not None:
            high = min(high, search.before)
        merchant_id = None
        if search.merchant is not None:
            row = self._log.execute("SELECT id FROM merchants WHERE name = ?", (search.merchant,)).fetchone()
            if row is None:
                return Page((), None)
            merchant_id = int(row[0])
            if search.transaction_id is not None:
                return self._of_transaction(search, merchant_id, low, high)
        tests, values = _tests(search, merchant_id)
        term = _term(search, merchant_id)
        reached = self._reached() if term is not None else 0
        found: list[RecordedScreening] = []
        left = EXAMINED
        is_plain = term is None and search.outcome is None and search.code is None
        self._at_a_time = min(limit, _AT_A_TIME) if is_plain else _AT_A_TIME  # of a plain search every row fits
        if term is not None:
            upper = high
            while (least := self._boundary(max(low, reached + 1), upper)) is not None:
                found += self._scan(search, merchant_id, least, upper)
                if len(found) >= limit:
                    return Page(tuple(found[:limit]), found[limit - 1].id)
                upper = least
                left -= _SCANNED // _SCAN_COST
                if left <= 0:
                    return Page(tuple(found), least)
        for ids, at_end in self._candidates(term, merchant_id, low, high, reached):
            rows = self._log.execute(
                f"SELECT {_COLUMNS} FROM (SELECT value AS id FROM json_each(?)) x {_JOINS}"
                f" WHERE {tests} ORDER BY s.id DESC",
                (json.dumps(ids), *values),
            )
            for row in rows:
                found.append(RecordedScreening(*row))
                if len(found) == limit:
                    is_last = at_end and row[0] == ids[-1]
                    return Page(tuple(found), None if is_last else int(row[0]))
            left -= len(ids)
            if left <= 0 and not at_end:
                return Page(tuple(found), ids[-1])
        return Page(tuple(found), None)

    def _of_transaction(self, search: Search, merchant_id: int, low: int, high: int) -> Page:
        """Every screening of one transaction: few, and the log has an index of them."""
        assert search.merchant is not None
        assert search.transaction_id is not None
        tests, values = _tests(search, merchant_id)
        rows = self._log.execute(
            f"SELECT {_COLUMNS} FROM (SELECT id FROM screenings INDEXED BY screenings_request"
            f" WHERE transaction_hash = ? AND id >= ? AND id < ?) x {_JOINS} WHERE {tests} ORDER BY s.id DESC",
            (store.transaction_hash(search.merchant, search.transaction_id), low, high, *values),
        ).fetchall()
        return Page(tuple(RecordedScreening(*row) for row in rows), None)

    # ---- what the index does not reach yet --------------------------------------------------------

    def _boundary(self, low: int, high: int) -> int | None:
        """The least of the newest ids in `[low, high)` that one scan reads; None when there are none."""
        found = self._log.execute(
            "SELECT min(id) FROM (SELECT id FROM screenings WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?)",
            (low, high, _SCANNED),
        ).fetchone()
        return None if found[0] is None else int(found[0])

    def _scan(self, search: Search, merchant_id: int | None, low: int, high: int) -> list[RecordedScreening]:
        tests, values = _tests(search, merchant_id)
        if search.order_ref is not None:  # cheaper than reading every document as JSON
            tests = f"instr(s.document, CAST(? AS BLOB)) > 0 AND {tests}"
            values.insert(0, json.dumps(search.order_ref, ensure_ascii=False))
        rows = self._log.execute(
            f"SELECT {_COLUMNS} FROM (SELECT s.id FROM screenings s NOT INDEXED"
            f" WHERE s.id >= ? AND s.id < ? AND {tests}) x {_JOINS} ORDER BY s.id DESC",
            (low, high, *values),
        )
        return [RecordedScreening(*row) for row in rows]

    # ---- candidates -------------------------------------------------------------------------------

    def _candidates(
        self, term: str | None, merchant_id: int | None, low: int, high: int, reached: int
    ) -> Iterator[tuple[list[int], bool]]:
        """Ids that may fit, newest first, some at a time, and whether these are the last."""
        if term is None:
            yield from self._newest(merchant_id, low, high)
            return
        if self._index is None or low > reached:
            return
        runs = self._index.execute(
            "SELECT run FROM runs WHERE first_id < ? AND last_id >= ? ORDER BY first_id DESC", (high, low)
        ).fetchall()
        for (run,) in runs:
            upper = high
            while True:
                ids = [
                    row[0]
                    for row in self._index.execute(
                        "SELECT id FROM postings WHERE run = ? AND term = ? AND id >= ? AND id < ?"
                        " ORDER BY id DESC LIMIT ?",
                        (run, term, low, upper, self._at_a_time),
                    )
                ]
                if ids:
                    yield ids, False
                if len(ids) < self._at_a_time:
                    break
                upper = ids[-1]

    def _newest(self, merchant_id: int | None, low: int, high: int) -> Iterator[tuple[list[int], bool]]:
        by_merchant, values = "", list[int]()
        if merchant_id is not None:
            by_merchant, values = " INDEXED BY screenings_merchant WHERE merchant_id = ? AND", [merchant_id]
        while True:
            ids = [
                row[0]
                for row in self._log.execute(
                    f"SELECT id FROM screenings{by_merchant or ' WHERE'} id >= ? AND id < ?"
                    " ORDER BY id DESC LIMIT ?",
                    (*values, low, high, self._at_a_time),
                )
            ]
            at_end = len(ids) < self._at_a_time
            if ids:
                yield ids, at_end
            if at_end:
                return
            high = ids[-1]

    def _reached(self) -> int:
        """The greatest id that the index knows; 0 when there is none, or it cannot be read."""
        try:
            if self._index is None:
                if not self._index_path.exists():
                    return 0
                self._index = store.open_database(
                    self._index_path, query_only=True, busy_timeout_ms=1_000, schema=SEARCH
                ).conn
            self._index.execute("BEGIN")  # one snapshot: a merge moves what this search looks for
            found = self._index.execute("SELECT coalesce(max(last_id), 0) FROM runs").fetchone()
            return int(found[0])
        except (sqlite3.Error, StoreUnavailable):
            index, self._index = self._index, None
            if index is not None:
                with suppress(sqlite3.Error):
                    index.close()
            return 0


def found_object(one: RecordedScreening) -> dict[str, str]:
    """A screening as a search answers it, in JSON's terms."""
    return {
        "screening_id": store.screening_id_text(one.id),
        "merchant": one.merchant,
        "transaction_id": one.transaction_id,
        "at": time_text(one.at_us) or "",
        "answered": time_text(one.answered_us) or "",
        "amount": format_minor(one.minor, one.currency),
        "currency": one.currency,
        "decision": one.outcome,
        "code": one.code,
        "revision": one.revision,
    }


def _term(search: Search, merchant_id: int | None) -> str | None:
    """The rarest thing asked for that the index has; None when the log's own order is as good."""
    scope = "" if merchant_id is None else f"{merchant_id}:"
    if search.transaction_id is not None:
        return f"t{search.transaction_id}"
    if search.order_ref is not None:
        return f"o{search.order_ref}"
    if search.card is not None:
        return f"c{search.card[-16:]}"
    if search.code is not None and search.code != "NO_RULE_MATCHED":
        return f"k{scope}{search.code}"
    if search.outcome is not None and search.outcome != "accept":
        return f"u{scope}{search.outcome}"
    return None


def _tests(search: Search, merchant_id: int | None) -> tuple[str, list[Any]]:
    tests, values = ["1"], list[Any]()
    for column, value in (
        ("+s.merchant_id", merchant_id),
        ("s.transaction_id", search.transaction_id),
        ("s.card_identity", search.card),
        ("s.outcome", search.outcome),
        ("s.code", search.code),
        ("json_extract(CAST(s.document AS TEXT), '$.transaction.order_ref')", search.order_ref),
    ):
        if value is not None:
            tests.append(f"{column} = ?")
            values.append(value)
    return " AND ".join(tests), values
