"""Moves the tail of velocity events into their index, sorted, in small transactions between those of the payments.

One process at a time merges (`flock` on `<file>.merging`, which the kernel frees when the process dies). What is
to be moved is gathered and sorted in a thread of its own; the pieces are written by the writer thread, after a
batch was answered or while nobody waits, so that records and pieces never wait for each other's turn, and a piece
runs while the event loop is busy with what comes next. A merge that was cut off, by `kill -9` or a full disk, is
taken up again by whoever writes next: its rows are inserted again, those that are there already stay as they are.

What it costs. A merge of 400,000 events sorts them once, then writes each page of the index that gets any of them
once: in a day of a million events that is a seventh of a page for each screening with four counters, in one of four
million half a page; without a tail it was four. Its commits are not synced by themselves (`synchronous = NORMAL`):
the next record's commit syncs them too, and one that power takes away was not the only copy.

INVARIANT: the log is read in short statements. A reader that is at it for longer holds up the next checkpoint, and
with it the payments, for `store.CHECKPOINT_BUSY_MS`.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from . import store
from .velocity_tail import EVENT_COLUMNS, events_in

_log = logging.getLogger(__name__)

MERGE_ROWS: Final = 130_000  # of the tail, one for each screening: 400,000 events with three each
PIECE: Final = 1_000  # events of one transaction: a millisecond or two in which no record is committed
DELETIONS: Final = 4  # so many pieces of the tail are deleted at once: what lies together costs a quarter
RETRY_S: Final = 30.0  # after a merge that failed
PIECE_EVERY_S: Final = 0.012  # under load: a merge takes some five seconds, in which no tail grows as fast
_GATHERED_AT_ONCE: Final = 5_000  # rows of the tail: some five milliseconds
_CACHE_KIB: Final = 8_192  # pages come in order and once: a cache that stays small is filled again while it is warm
_SORT_KIB: Final = 2_048  # for each of four sorts; more is not faster
_PREPARE: Final = (
    "PRAGMA synchronous = NORMAL",
    f"PRAGMA cache_size = -{_SORT_KIB}",
    "PRAGMA secure_delete = OFF",  # what it deletes holds hashes and times, and goes on in the index
    "PRAGMA temp_store = FILE",  # 50 MB that a process would not give back
    "PRAGMA temp.journal_mode = OFF",  # what fails is thrown away with its connection
    "PRAGMA temp.secure_delete = OFF",
    "CREATE TEMP TABLE gathered AS SELECT * FROM velocity_tail LIMIT 0",
    f"CREATE TEMP TABLE merging AS SELECT {EVENT_COLUMNS} FROM velocity_events LIMIT 0",
)
_GATHER: Final = "INSERT INTO temp.gathered SELECT * FROM velocity_tail WHERE seq > ? AND seq <= ?"
# By the first column alone: one integer sorts faster than the whole key.
_SORT: Final = f"INSERT INTO temp.merging {events_in('temp.gathered')} ORDER BY place"
_INSERT: Final = (
    f"INSERT INTO velocity_events ({EVENT_COLUMNS}) SELECT {EVENT_COLUMNS} FROM temp.merging"
    " WHERE rowid > ? AND rowid <= ? ON CONFLICT DO NOTHING"
)


def is_due(connection: sqlite3.Connection, merge_rows: int = MERGE_ROWS) -> bool:
    """Whether the tail is long, or a merge was cut off. Reads the two ends of the tail only."""
    first, last, upto, merged_upto = connection.execute(
        "SELECT (SELECT min(seq) FROM velocity_tail), (SELECT max(seq) FROM velocity_tail), upto, merged_upto"
        " FROM velocity_merges"
    ).fetchone()
    return first is not None and (last - first >= merge_rows or upto > merged_upto or first <= merged_upto)


class TailMerge:
    """One merge: `begin`, `move` until it says that all is done, `close`. Each raises StoreUnavailable.

    What was done so far stays, and the next merge goes on from there. For one thread at a time.
    """

    def __init__(self, path: Path, piece: int = PIECE) -> None:
        self._path, self._piece = path, piece
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._pieces: Iterator[None] = iter(())

    def begin(self) -> bool:
        """Finds and sorts what there is to move; False when another process is at it."""
        self._lock = store.lock_file(self._path.with_name(f"{self._path.name}.merging"))
        if self._lock is None:
            return False
        try:
            connection = self._connection = store.open_database(self._path, create=False).conn
            for statement in _PREPARE:
                connection.execute(statement)
            connection.execute(
                "UPDATE velocity_merges SET upto = coalesce((SELECT max(seq) FROM velocity_tail), upto)"
                " WHERE upto = merged_upto"
            )
            upto, merged_upto = connection.execute("SELECT upto, merged_upto FROM velocity_merges").fetchone()
            first = connection.execute("SELECT coalesce(min(seq), 0) FROM velocity_tail").fetchone()[0]
            for start in range(max(merged_upto, first - 1), upto, _GATHERED_AT_ONCE):
                connection.execute(_GATHER, (start, min(start + _GATHERED_AT_ONCE, upto)))
            connection.execute(_SORT)
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._pieces = self._all_pieces(connection, first, upto)
        except sqlite3.Error as error:
            raise store.explain_error(error, self._path) from error
        return True

    def _all_pieces(self, connection: sqlite3.Connection, first: int, upto: int) -> Iterator[None]:
        """Each step is one statement, a transaction of its own."""
        events = connection.execute("SELECT coalesce(max(rowid), 0) FROM temp.merging").fetchone()[0]
        for start in range(0, events, self._piece):
            connection.execute(_INSERT, (start, min(start + self._piece, events)))
            yield
        connection.execute("UPDATE velocity_merges SET merged_upto = upto")
        yield
        delete = "DELETE FROM velocity_tail WHERE seq > ? AND seq <= ?"
        for start in range(first - 1, upto, self._piece * DELETIONS):
            connection.execute(delete, (start, min(start + self._piece * DELETIONS, upto)))
            yield

    def move(self) -> bool:
        """Writes one piece; False when there is none left."""
        try:
            return next(self._pieces, self) is not self
        except sqlite3.Error as error:
            raise store.explain_error(error, self._path) from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._pieces = iter(())
        if connection is not None:
            connection.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def run(self) -> bool:
        """All of it at once, in a log that nobody writes to; False when another process is at it."""
        with closing(self):
            if not self.begin():
                return False
            while self.move():
                pass
            return True


class Merging:
    """Merges of one process, one after another. All but the preparation is done by the thread that writes.

    `wake` is called when there are pieces to write.
    """

    def __init__(self, path: Path, wake: Callable[[], None], merge_rows: int = MERGE_ROWS) -> None:
        self._path, self._wake, self._merge_rows = path, wake, merge_rows
        self._thread: threading.Thread | None = None
        self._prepared: TailMerge | None = None
        self._due_at = self._retry_at = 0.0  # by `time.monotonic`

    def begin_if_due(self, connection: sqlite3.Connection) -> None:
        """Prepares a merge in a thread of its own when there is reason to and none is under way here."""
        if self._prepared is not None or (self._thread is not None and self._thread.is_alive()):
            return
        if time.monotonic() >= self._retry_at and is_due(connection, self._merge_rows):
            thread = threading.Thread(target=self._prepare, name="velocity-merge", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the machine gives no thread
                self._note(error)
            else:
                self._thread = thread

    def _prepare(self) -> None:
        merge = TailMerge(self._path)
        try:
            if merge.begin():
                self._due_at = time.monotonic()
                self._prepared = merge
                self._wake()  # that thread may sleep, and nobody else can merge meanwhile
                return
        except Exception as error:  # noqa: BLE001 - or the lock would stay taken, and nobody could merge
            self._note(error)
        merge.close()

    def _note(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + RETRY_S
        _log.warning("velocity events wait to be merged: %s", error)

    @property
    def is_under_way(self) -> bool:
        """Whether there are pieces to write."""
        return self._prepared is not None

    def has_piece(self, *, nobody_waits: bool) -> bool:
        """Whether there is a piece to write now: any when nobody waits, else one that is due by time."""
        return self._prepared is not None and (nobody_waits or time.monotonic() >= self._due_at)

    def go_on(self, *, nobody_waits: bool) -> int:
        """Writes a piece when there is one to write now; how many it wrote."""
        merge = self._prepared
        if merge is None or not self.has_piece(nobody_waits=nobody_waits):
            return 0
        self._due_at = time.monotonic() + PIECE_EVERY_S
        try:
            if merge.move():
                return 1
        except Exception as error:  # noqa: BLE001 - the thread that records payments must live on
            self._note(error)
        self.leave()
        return 0

    def leave(self) -> None:
        """Lets go of a merge that is under way, so that another process can take it up."""
        merge, self._prepared = self._prepared, None
        if merge is not None:
            merge.close()

    def stop(self) -> None:
        """Leaves what is not merged yet to whoever writes next."""
        if self._thread is not None:
            self._thread.join()
        self.leave()
