"""What the velocity index must know of the past: series that are new, and outcomes reported afterwards.

A counter that a rule set begins to read must count what happened before: there is no time in which it is blind.
Its series is registered first, from which moment every process writes its rows with each screening; then the rows
of earlier screenings are made from their records, oldest first, in small transactions between those of the payment
path. Until that is done `is_ready` is false, and whoever puts rules in force keeps the old ones (`ready_rules`).
A start waits for it. Screenings recorded longer ago than the window and a day are not looked at.

Filling and reporting may run in any process and be repeated: rows are keyed by screening, and those of a
transaction with several steps or reports are always made anew together, by the law in `velocity`.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from . import store
from .rules.ast import RuleSet, facts_read
from .rules.counters import Among, Counter
from .velocity import ReportKind, Series, parse_series, series_of
from .velocity_before import leave_before
from .velocity_documents import rows_of_document
from .velocity_index import (
    BITS,
    DECLINED,
    OWN_BITS,
    TECHNICAL,
    EventRow,
    KeyHash,
    Registry,
    add_events,
    owner_of,
    place_of,
    read_registry,
)
from .velocity_tail import (
    EVENT_COLUMNS,
    WIDTH,
    EventValues,
    TailValues,
    add_to_tail,
    append_to_tail,
    insert_into_index,
)

_log = logging.getLogger(__name__)

CHUNK: Final = 500
_DAY_US: Final = 86_400_000_000
_ID_MS_SHIFT: Final = 21  # a screening id begins with its milliseconds
_CHECKPOINT_CHUNKS: Final = 20
_ONE_BY_ONE: Final = 20  # so many merchants are read by their own index; for more the whole log is read

Wanted = tuple[Series, str]  # a series and its owner: a merchant, or nothing for everybody


def wanted_series(name: str, rule_set: RuleSet, *, for_everybody: bool = False) -> frozenset[Wanted]:
    """The series that the rule set reads or can come to read when lists are filled at run time."""
    if not rule_set.velocity:
        return frozenset()
    read = set(rule_set.reads)
    for rule in rule_set.rules:
        if rule.awaits:
            read |= facts_read(rule.when) | (facts_read(rule.unless) if rule.unless is not None else frozenset())
    counters = [rule_set.velocity[fact] for fact in read & rule_set.velocity.keys()]
    return frozenset((series_of(one), "" if for_everybody else _owner(one, name)) for one in counters)


def _owner(counter: Counter, merchant: str) -> str:
    return owner_of(series_of(counter), merchant)


def is_ready(registry: Registry, wanted: Iterable[Wanted]) -> bool:
    """Whether every wanted series knows its past."""
    ready = registry.ready
    return all((series.text, owner) in ready or (series.text, "") in ready for series, owner in wanted)


class Event(NamedTuple):
    """A row of the index, in the order of its columns."""

    place: int
    key_low: int
    at_us: int
    screening_id: int
    classes: int
    currency: int
    value: int


@dataclass(frozen=True, slots=True)
class Unfilled:
    """A series whose past is not in the index yet: the ids after `filled_id` up to `upto_id` are to be read."""

    series: Series
    owner: str
    upto_id: int
    filled_id: int


class VelocityHistory:
    """Registers series and fills in their past. Each call opens the file anew, so any thread may make it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def register(self, wanted: Iterable[Wanted]) -> Registry:
        """Has the series kept from now on; the registry as it then is."""
        with closing(self._open()) as connection:
            registry = read_registry(connection)
            known = {(series, owner) for owner, kept in registry.of_merchant.items() for series in kept}
            known |= {(series, "") for series in registry.everywhere}
            missing = sorted(set(wanted) - known, key=lambda one: (one[0].text, one[1]))
            if missing:
                connection.execute("BEGIN IMMEDIATE")
                newest = connection.execute("SELECT coalesce(max(id), 0) FROM screenings").fetchone()[0]
                for series, owner in missing:
                    connection.execute(
                        "INSERT INTO velocity_series (series, merchant, upto_id, filled_id) VALUES (?, ?, ?, ?)"
                        " ON CONFLICT DO NOTHING",
                        (series.text, owner, newest, self._start(connection, series, owner, newest)),
                    )
                connection.execute("COMMIT")
                registry = read_registry(connection)
        return registry

    @staticmethod
    def _start(connection: sqlite3.Connection, series: Series, owner: str, newest: int) -> int:
        """The id after which the past is to be read; `newest` when there is nothing."""
        window_ms = (series.bucket_us + _DAY_US) // 1000
        start = max((newest >> _ID_MS_SHIFT) - window_ms, 0) << _ID_MS_SHIFT
        if not owner:
            return start
        found = connection.execute(
            "SELECT min(id) FROM screenings"
            " WHERE merchant_id = (SELECT id FROM merchants WHERE name = ?) AND id > ?",
            (owner, start),
        ).fetchone()[0]
        return newest if found is None else int(found) - 1

    def fill(self, *, go_on: Callable[[], bool] = lambda: True) -> Registry:
        """Fills in every series that lacks its past, as long as `go_on()`; the registry as it then is."""
        with closing(self._open()) as connection:
            chunks = 0
            while unfilled := _read_unfilled(connection):
                if not go_on():
                    break
                self._fill_chunk(connection, unfilled)
                chunks += 1
                if chunks % _CHECKPOINT_CHUNKS == 0:
                    store.take_checkpoint(connection, store.CHECKPOINT_BUSY_MS)
                    _log.info("velocity: filled in %s screenings of the past", f"{chunks * CHUNK:,}")
            return read_registry(connection)

    def _open(self) -> sqlite3.Connection:
        connection = store.open_database(self._path, create=False).conn
        assert isinstance(connection, sqlite3.Connection)
        return connection

    def _fill_chunk(self, connection: sqlite3.Connection, unfilled: Sequence[Unfilled]) -> None:
        """The next screenings of those series that are the farthest behind."""
        start = min(one.filled_id for one in unfilled)
        behind = [one for one in unfilled if one.filled_id == start]
        stops = [one.filled_id for one in unfilled if one.filled_id > start]
        upto = min([max(one.upto_id for one in behind), *stops])
        owners = {one.owner for one in behind}
        found = _read_screenings(connection, start, upto, owners if len(owners) <= _ONE_BY_ONE else {""})
        reached = found[-1].id if len(found) == CHUNK else upto
        kept = _only(behind)
        repeated = _with_steps_or_reports(connection, found)
        values: EventValues = []
        for one in found:
            if one.transaction_hash not in repeated:
                add_events(values, one.id, one.at_us, rows_of_document(kept, one.merchant, one.document))
        connection.execute("BEGIN IMMEDIATE")
        try:
            leave_before(connection, zip(*(values[column::WIDTH] for column in range(4)), strict=True))
            insert_into_index(connection, values)
            registry = read_registry(connection)
            for one in found:
                if one.transaction_hash in repeated:
                    index_transaction(connection, registry, one.merchant, one.transaction_id)
            for series in behind:
                connection.execute(
                    "UPDATE velocity_series SET filled_id = max(filled_id, ?) WHERE series = ? AND merchant = ?",
                    (min(reached, series.upto_id), series.series.text, series.owner),
                )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _only(unfilled: Sequence[Unfilled]) -> Registry:
    """A registry of these series alone."""
    of_merchant: dict[str, tuple[Series, ...]] = {}
    for one in unfilled:
        if one.owner:
            of_merchant[one.owner] = (*of_merchant.get(one.owner, ()), one.series)
    return Registry(1, tuple(one.series for one in unfilled if not one.owner), of_merchant)


def _read_unfilled(connection: sqlite3.Connection) -> list[Unfilled]:
    rows = connection.execute(
        "SELECT series, merchant, upto_id, filled_id FROM velocity_series WHERE filled_id < upto_id"
    ).fetchall()
    return [Unfilled(parse_series(text), owner, upto, filled) for text, owner, upto, filled in rows]


class _Screening(NamedTuple):
    id: int
    transaction_hash: int
    transaction_id: str
    at_us: int
    merchant: str
    document: bytes


def _read_screenings(connection: sqlite3.Connection, after: int, upto: int, owners: set[str]) -> list[_Screening]:
    of_owner = "" if "" in owners else " AND m.name IN (SELECT value FROM json_each(?))"
    rows = connection.execute(
        "SELECT s.id, s.transaction_hash, s.transaction_id, s.at_us, m.name, s.document"
        f" FROM screenings s JOIN merchants m ON m.id = s.merchant_id WHERE s.id > ? AND s.id <= ?{of_owner}"
        " ORDER BY s.id LIMIT ?",
        (after, upto, *([json.dumps(sorted(owners))] if of_owner else []), CHUNK),
    ).fetchall()
    return [_Screening(*row) for row in rows]


def _with_steps_or_reports(connection: sqlite3.Connection, found: Sequence[_Screening]) -> set[int]:
    """The transactions among these that have another screening or a report: their rows are made together."""
    hashes = json.dumps([one.transaction_hash for one in found])
    ids = json.dumps([one.id for one in found])
    steps = connection.execute(
        "SELECT transaction_hash FROM screenings WHERE transaction_hash IN (SELECT value FROM json_each(?))"
        " GROUP BY transaction_hash HAVING count(*) > 1",
        (hashes,),
    ).fetchall()
    reported = connection.execute(
        "SELECT s.transaction_hash FROM outcomes o JOIN screenings s ON s.id = o.screening_id"
        " WHERE o.screening_id IN (SELECT value FROM json_each(?))",
        (ids,),
    ).fetchall()
    return {row[0] for row in (*steps, *reported)}


# ---- one transaction ------------------------------------------------------------------------------


def record_outcome(
    connection: sqlite3.Connection, outcome_id: int, screening_id: int, kind: str, code: str, at_us: int
) -> bool:
    """Writes what became of a payment and regards it in the index, in one SQLite transaction.

    False when there is no such screening. A report that is recorded already is not recorded again.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        named = connection.execute(
            "SELECT m.name, s.transaction_id FROM screenings s JOIN merchants m ON m.id = s.merchant_id"
            " WHERE s.id = ?",
            (screening_id,),
        ).fetchone()
        same = connection.execute(
            "SELECT 1 FROM outcomes WHERE screening_id = ? AND kind = ? AND code = ?", (screening_id, kind, code)
        ).fetchone()
        if named is not None and same is None:
            connection.execute(
                "INSERT INTO outcomes (id, screening_id, at_us, kind, code) VALUES (?, ?, ?, ?, ?)",
                (outcome_id, screening_id, at_us, kind, code),
            )
            if kind in list(ReportKind):
                index_transaction(connection, read_registry(connection), *named)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return named is not None


def index_transaction(
    connection: sqlite3.Connection, registry: Registry, merchant: str, transaction_id: str
) -> None:
    """Makes the rows of every screening of a transaction anew, with what is reported about it."""
    events, _ = events_of_transaction(connection, registry, merchant, transaction_id, with_reports=True)
    leave_before(connection, [event[:4] for event in events])
    connection.executemany(
        f"INSERT INTO velocity_events ({EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET classes = excluded.classes",
        events,
    )


def append_next_steps(
    connection: sqlite3.Connection,
    registry: Registry,
    merchant: str,
    transaction_id: str,
    new_ids: AbstractSet[int],
) -> None:
    """Writes the rows of a transaction's new screenings, which others of it came before, in their transaction."""
    events, is_reported = events_of_transaction(connection, registry, merchant, transaction_id)
    if is_reported:
        index_transaction(connection, registry, merchant, transaction_id)
    else:
        new = [event for event in events if event.screening_id in new_ids and event.classes]
        tail: TailValues = {}
        for place, key_low, at_us, screening_id, classes, currency, value in new:
            add_to_tail(tail, screening_id, at_us, (classes, currency, place, key_low, value))
        append_to_tail(connection, tail)


def events_of_transaction(
    connection: sqlite3.Connection,
    registry: Registry,
    merchant: str,
    transaction_id: str,
    *,
    with_reports: bool = False,
) -> tuple[list[Event], bool]:
    """The rows of every screening of a transaction, and whether anything is reported about it.

    `with_reports` adds rows that hold nothing yet of what a report may make them fit.
    """
    if not registry.series_for(merchant):
        return [], False
    steps = connection.execute(
        "SELECT s.id, s.at_us, s.document FROM screenings s INDEXED BY screenings_request"
        " WHERE s.transaction_hash = ? AND s.transaction_id = ?"
        " AND s.merchant_id = (SELECT id FROM merchants WHERE name = ?) ORDER BY s.id",
        (store.transaction_hash(merchant, transaction_id), transaction_id, merchant),
    ).fetchall()
    reports = connection.execute(
        "SELECT id, kind FROM outcomes WHERE screening_id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps([step[0] for step in steps]),),
    ).fetchall()
    taken: dict[KeyHash, int] = {}
    events = []
    for screening_id, at_us, document in steps:
        kinds = {kind for report_id, kind in reports if report_id > screening_id}
        for row in rows_of_document(registry, merchant, document, reported=with_reports):
            classes = _classes(row, kinds, taken)
            place = place_of(at_us, row.bucket_us, row.key_hash)
            events.append(Event(place, row.key_hash[1], at_us, screening_id, classes, row.currency, row.value))
    return events, bool(reports)


def _classes(row: EventRow, reported: set[str], taken: dict[KeyHash, int]) -> int:
    """The bits of a step's row; `taken` are those that the transaction's steps before it have under each key."""
    before = taken.get(row.key_hash, 0) if row.once else 0
    if ReportKind.TECHNICAL_FAILURE in reported:
        found = TECHNICAL & ~before
    else:
        found = row.fits & ~(before & OWN_BITS)
        first = bool(found & BITS[Among.ALL])
        if ReportKind.DECLINED in reported and (first or not row.once):
            found |= DECLINED
    taken[row.key_hash] = before | found
    return found
