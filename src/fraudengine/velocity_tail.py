"""The newest velocity events: a tail in the order of their commits, until they are merged into the index.

A row of `velocity_events` lies by its key, so each screening's rows touch pages of their own: copied, summed and
written into the WAL, and again at the checkpoint. So a commit only appends to `velocity_tail`, whose pages fill one
after the other, and `velocity_merge` moves the tail's rows, sorted, into the index: then neighbours share a page.
One row of the tail holds what a screening leaves, up to four events; sorting and splitting it up is left to SQLite,
which does it without the interpreter's lock. Tried and dropped: one packed BLOB for each commit; appending gets
cheaper still, but taking it apart in Python costs more than that saves, and holds the lock.

A reader holds the tail in memory, in two temporary tables with the index's own order (`old` is what a merge is
moving or has moved, `new` what came after it began), and brings them up to date before it reads a counter:
`seq` is given out under the write lock, so it is in the order of commits, of all processes, and has no gap that
would fill later. What a reader counts is index and tail together.

INVARIANT: where a row is in both, the index's is the one that counts. So a merge may move rows in small
transactions, and a report may change rows of the index (`velocity_history`) while older ones are still in the tail.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final, TypeAlias

from .velocity_before import has_before

EVENT_COLUMNS: Final = "place, key_low, at_us, screening_id, classes, currency, value"
PRIMARY_KEY: Final = "place, key_low, at_us, screening_id"

# As the release that began the tail made them; `velocity_before` brings the first into today's form.
TABLES: Final = (
    # AUTOINCREMENT: a number is never given out again, also when all rows before it are merged and gone.
    """CREATE TABLE velocity_tail (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        bucket INTEGER NOT NULL,
        key_hash INTEGER NOT NULL,
        at_us INTEGER NOT NULL,
        screening_id INTEGER NOT NULL,
        classes INTEGER NOT NULL,
        currency INTEGER NOT NULL,
        value INTEGER NOT NULL
    ) STRICT""",
    # One row: a merge moves the tail up to `upto`; all up to `merged_upto` is in the index.
    """CREATE TABLE velocity_merges (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        upto INTEGER NOT NULL,
        merged_upto INTEGER NOT NULL
    ) STRICT""",
    "INSERT INTO velocity_merges VALUES (1, 0, 0)",
)

SLOTS: Final = 4  # events of one row: one row costs little more than one event, and a screening has some three
TAIL_TABLE: Final = f"""CREATE TABLE velocity_tail (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    screening_id INTEGER NOT NULL,
    classes INTEGER NOT NULL,
    currency INTEGER NOT NULL,
    {", ".join(f"place_{n} INTEGER, key_low_{n} INTEGER, value_{n} INTEGER" for n in range(SLOTS))}
) STRICT"""

# A screening's events: classes, currency, and for each event place, key_low, value.
TailRow: TypeAlias = tuple[int, ...]
# Values of tail rows one after another, at_us and screening_id before each, by their number of events.
# What is not named stays NULL: binding a NULL costs more than leaving it out.
TailValues: TypeAlias = dict[int, list[int]]
# Values of events one after another, `WIDTH` each in the order of the columns: no object for each event.
EventValues: TypeAlias = list[int]
WIDTH: Final = 7

_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)  # rows of one statement; SQLite prepares each once


def _inserts(table: str, columns: str, end: str = "") -> dict[int, str]:
    row = f"({','.join('?' * len(columns.split(',')))})"
    return {size: f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * size)}{end}" for size in _SIZES}


_TO_TAIL: Final = {
    events: _inserts(
        "velocity_tail",
        "at_us, screening_id, classes, currency"
        + "".join(f", place_{n}, key_low_{n}, value_{n}" for n in range(events)),
    )
    for events in range(1, SLOTS + 1)
}
_TO_INDEX: Final = _inserts("velocity_events", EVENT_COLUMNS, " ON CONFLICT DO NOTHING")


def add_to_tail(tail: TailValues, screening_id: int, at_us: int, row: TailRow) -> None:
    """Adds a screening's events to those that are to be written together."""
    if len(row) > 2 + 3 * SLOTS:
        for start in range(2, len(row), 3 * SLOTS):
            add_to_tail(tail, screening_id, at_us, row[:2] + row[start : start + 3 * SLOTS])
        return
    values = tail.get(len(row) // 3)
    if values is None:
        values = tail[len(row) // 3] = []
    values += (at_us, screening_id)
    values += row


def append_to_tail(connection: sqlite3.Connection, tail: TailValues) -> None:
    """Writes events in the transaction of their screenings' records."""
    for events, values in tail.items():
        _insert(connection, values, 4 + 3 * events, _TO_TAIL[events])


def insert_into_index(connection: sqlite3.Connection, values: EventValues) -> None:
    """Writes events of the past straight into the index; those that are there already stay as they are."""
    _insert(connection, values, WIDTH, _TO_INDEX)


def _insert(connection: sqlite3.Connection, values: list[int], width: int, statements: Mapping[int, str]) -> None:
    start, rows = 0, len(values) // width
    while rows:
        size = max(size for size in _SIZES if size <= rows)
        connection.execute(statements[size], values[start : start + size * width])
        start += size * width
        rows -= size


def events_in(table: str, condition: str = "1") -> str:
    """A SELECT of the events of a tail's rows."""
    return " UNION ALL ".join(
        f"SELECT place_{n} AS place, key_low_{n} AS key_low, at_us, screening_id, classes, currency,"
        f" value_{n} AS value FROM {table} WHERE {condition} AND place_{n} IS NOT NULL"
        for n in range(SLOTS)
    )


TAILS: Final = ("tail_a", "tail_b")
_TABLE: Final = f"""CREATE TEMP TABLE {{name}} (
    place INTEGER, key_low INTEGER, at_us INTEGER, screening_id INTEGER,
    classes INTEGER, currency INTEGER, value INTEGER, PRIMARY KEY ({PRIMARY_KEY})
) WITHOUT ROWID"""
# What fails half-way is thrown away with its connection, so nothing is to be rolled back; and emptying a table of
# 20 MB, which the event loop waits for, takes half the time when its pages are not filled with zeros.
_TEMPORARY: Final = ("journal_mode = OFF", "secure_delete = OFF")
_STATE: Final = "SELECT upto, merged_upto, (SELECT max(seq) FROM velocity_tail) FROM velocity_merges"
_EVENTS: Final = events_in("velocity_tail", "seq > ?1 AND seq <= ?2")
_LOAD: Final = {name: f"INSERT INTO temp.{name} {_EVENTS} ON CONFLICT DO NOTHING" for name in TAILS}


class TailView:
    """The tail as one connection sees it, in memory, some 100 bytes an event. For one thread at a time.

    One of the two tables takes what is new; the other holds what the merge moves that began last, until it is done.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.execute("PRAGMA temp_store = MEMORY")
        for setting in _TEMPORARY:
            connection.execute(f"PRAGMA temp.{setting}")
        for name in TAILS:
            connection.execute(_TABLE.format(name=name))
        self.has_before = has_before(connection)
        self._new, self._old = TAILS
        _, merged_upto, _ = connection.execute(_STATE).fetchone()
        self._seen: int = merged_upto
        self._boundary: int = merged_upto  # what is in `_old` came before it, what is in `_new` after
        self.tables: tuple[str, ...] = ()  # those that hold anything

    def refresh(self) -> None:
        """Takes up what was committed since, by any process."""
        upto, merged_upto, newest = self.connection.execute(_STATE).fetchone()
        if upto > self._boundary:
            # INVARIANT: `_new` holds nothing after `upto`, which was the newest number when the merge began.
            self._load(max(self._seen, merged_upto), upto)
            self._seen = upto
            self._forget_old()  # a merge begins when the one before it is done
            self._new, self._old = self._old, self._new
            self._boundary = upto
        if merged_upto >= self._boundary:
            self._forget_old()
        if newest is not None and newest > self._seen:
            self._load(self._seen, newest)
            self._seen = newest

    def _load(self, after: int, upto: int) -> None:
        if after < upto:
            self.connection.execute(_LOAD[self._new], (after, upto))
            if self._new not in self.tables:
                self.tables = (*self.tables, self._new)

    def _forget_old(self) -> None:
        if self._old in self.tables:
            self.connection.execute(f"DELETE FROM temp.{self._old}")
            self.tables = tuple(name for name in self.tables if name != self._old)
