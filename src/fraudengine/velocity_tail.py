"""The newest velocity events: a tail in the order of their commits, until they are merged into the index.

A row of `velocity_events` lies by its key, so each screening's rows touch pages of their own: copied, summed and
written into the WAL, and again at the checkpoint. So a commit only appends to `velocity_tail`, whose pages fill one
after the other, and `velocity_merge` moves the tail's rows, sorted, into the index: then neighbours share a page.

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
from typing import Final

EVENT_COLUMNS: Final = "bucket, key_hash, at_us, screening_id, classes, currency, value"
PRIMARY_KEY: Final = "bucket, key_hash, at_us, screening_id"

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

_SIZES: Final = (*range(1, 33), 48, 64, 96, 128)  # rows of one statement; SQLite prepares each once
_TO_TAIL: Final = {
    size: f"INSERT INTO velocity_tail ({EVENT_COLUMNS}) VALUES {', '.join(['(?,?,?,?,?,?,?)'] * size)}"
    for size in _SIZES
}
_TO_INDEX: Final = {
    size: f"INSERT INTO velocity_events ({EVENT_COLUMNS}) VALUES {', '.join(['(?,?,?,?,?,?,?)'] * size)}"
    " ON CONFLICT DO NOTHING"
    for size in _SIZES
}


# Values of events one after another, `WIDTH` each in the order of the columns: no object for each event.
EventValues = list[int]
WIDTH: Final = 7


def append_to_tail(connection: sqlite3.Connection, values: EventValues) -> None:
    """Writes events in the transaction of their screenings' records."""
    _insert(connection, values, _TO_TAIL)


def insert_into_index(connection: sqlite3.Connection, values: EventValues) -> None:
    """Writes events of the past straight into the index; those that are there already stay as they are."""
    _insert(connection, values, _TO_INDEX)


def _insert(connection: sqlite3.Connection, values: EventValues, statements: Mapping[int, str]) -> None:
    start, events = 0, len(values) // WIDTH
    while events:
        size = max(size for size in _SIZES if size <= events)
        connection.execute(statements[size], values[start : start + size * WIDTH])
        start += size * WIDTH
        events -= size


TAILS: Final = ("tail_a", "tail_b")
_TABLE: Final = f"""CREATE TEMP TABLE {{name}} (
    bucket INTEGER, key_hash INTEGER, at_us INTEGER, screening_id INTEGER,
    classes INTEGER, currency INTEGER, value INTEGER, PRIMARY KEY ({PRIMARY_KEY})
) WITHOUT ROWID"""
_STATE: Final = "SELECT upto, merged_upto, (SELECT max(seq) FROM velocity_tail) FROM velocity_merges"
_LOAD: Final = {
    name: f"INSERT INTO temp.{name} SELECT {EVENT_COLUMNS} FROM velocity_tail WHERE seq > ? AND seq <= ?"
    " ON CONFLICT DO NOTHING"
    for name in TAILS
}


class TailView:
    """The tail as one connection sees it, in memory, some 50 bytes an event. For one thread at a time.

    One of the two tables takes what is new; the other holds what the merge moves that began last, until it is done.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.execute("PRAGMA temp_store = MEMORY")
        for name in TAILS:
            connection.execute(_TABLE.format(name=name))
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
