"""Moves the tail of velocity events into their index, sorted, in small transactions between those of the payments.

One process at a time merges (`flock` on `<file>.merging`, which the kernel frees when the process dies), in a
thread of its own that takes turns with the writer. A merge that was cut off, by `kill -9` or a full disk, is taken
up again by whoever writes next: its rows are inserted again, those that are there already stay as they are.

What it costs. A merge of 400,000 events sorts them once, then writes each page of the index that gets any of them
once: in a day of a million events that is a seventh of a page for each screening with four counters, in one of four
million half a page; without a tail it was four. Its commits are not synced by themselves (`synchronous = NORMAL`):
the next record's commit syncs them too, and one that power takes away was not the only copy.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from . import store
from .diagnostics import StoreUnavailable
from .velocity_tail import EVENT_COLUMNS, EVENTS_OF_TAIL

_log = logging.getLogger(__name__)

MERGE_ROWS: Final = 130_000  # of the tail, one for each screening: 400,000 events with three each
CHUNK: Final = 4_000  # events of one transaction: some five milliseconds in which no record is committed
DELETIONS: Final = 4  # so many chunks are deleted at once: what lies together costs a quarter
_CACHE_KIB: Final = 8_192  # pages come in order and once: a cache that stays small is filled again while it is warm
_CHECKPOINT_CHUNKS: Final = 19  # some 75,000 events: the WAL of a merge stays far below 64 MB


def is_due(connection: sqlite3.Connection, merge_rows: int = MERGE_ROWS) -> bool:
    """Whether the tail is long, or a merge was cut off. Reads the two ends of the tail only."""
    first, last, upto, merged_upto = connection.execute(
        "SELECT (SELECT min(seq) FROM velocity_tail), (SELECT max(seq) FROM velocity_tail), upto, merged_upto"
        " FROM velocity_merges"
    ).fetchone()
    return first is not None and (last - first >= merge_rows or upto > merged_upto or first <= merged_upto)


class TailMerge:
    """One merge from beginning to end. `turn` is held while it writes; `go_on` is asked before each transaction."""

    def __init__(self, path: Path, turn: threading.Lock, go_on: Callable[[], bool], chunk: int = CHUNK) -> None:
        self._path, self._turn, self._go_on, self._chunk = path, turn, go_on, chunk

    def run(self) -> bool:
        """True when the merge is done; False when somebody else is at it or it was told to stop.

        Raises StoreUnavailable; what was done so far stays, and the next merge goes on from there.
        """
        try:
            with _only_one(self._path) as is_mine:
                if not is_mine:
                    return False
                with closing(store.open_database(self._path, create=False).conn) as connection:
                    connection.execute("PRAGMA synchronous = NORMAL")
                    return self._merge(connection)
        except sqlite3.Error as error:
            raise store.explain_error(error, self._path) from error

    def _merge(self, connection: sqlite3.Connection) -> bool:
        with self._writing(connection):
            connection.execute(
                "UPDATE velocity_merges SET upto = coalesce((SELECT max(seq) FROM velocity_tail), upto)"
                " WHERE upto = merged_upto"
            )
        upto, merged_upto = connection.execute("SELECT upto, merged_upto FROM velocity_merges").fetchone()
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(
            "PRAGMA secure_delete = OFF"
        )  # what it deletes holds hashes and times, and goes on in the index
        # By the first column alone: one integer sorts faster than the whole key.
        connection.execute(
            f"CREATE TEMP TABLE merging AS SELECT * FROM ({EVENTS_OF_TAIL}) ORDER BY place", (merged_upto, upto)
        )
        events = connection.execute("SELECT coalesce(max(rowid), 0) FROM temp.merging").fetchone()[0]
        insert = (
            f"INSERT INTO velocity_events ({EVENT_COLUMNS}) SELECT {EVENT_COLUMNS} FROM temp.merging"
            " WHERE rowid > ? AND rowid <= ? ON CONFLICT DO NOTHING"
        )
        if not self._in_chunks(connection, insert, 0, events, self._chunk):
            return False
        with self._writing(connection):
            connection.execute("UPDATE velocity_merges SET merged_upto = upto")
        first = connection.execute("SELECT coalesce(min(seq), 0) FROM velocity_tail").fetchone()[0]
        delete = "DELETE FROM velocity_tail WHERE seq > ? AND seq <= ?"
        return self._in_chunks(connection, delete, first - 1, upto, self._chunk * DELETIONS)

    def _in_chunks(self, connection: sqlite3.Connection, statement: str, after: int, upto: int, chunk: int) -> bool:
        """Runs a statement over (after, upto] a chunk at a time; False when told to stop."""
        for number, start in enumerate(range(after, upto, chunk), 1):
            if not self._go_on():
                return False
            with self._writing(connection):
                connection.execute(statement, (start, min(start + chunk, upto)))
            if number % _CHECKPOINT_CHUNKS == 0:
                with self._turn:
                    store.take_checkpoint(connection, store.CHECKPOINT_BUSY_MS)
        return True

    @contextmanager
    def _writing(self, connection: sqlite3.Connection) -> Iterator[None]:
        with self._turn:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """Whether this process is the one that merges."""
    descriptor = store.lock_file(path.with_name(f"{path.name}.merging"))
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


class MergeThread:
    """Merges of one process, one after another, each begun when the tail is long."""

    def __init__(self, path: Path, turn: threading.Lock, merge_rows: int = MERGE_ROWS) -> None:
        self._path, self._turn, self._merge_rows = path, turn, merge_rows
        self._stopped = False
        self._thread: threading.Thread | None = None

    def begin_if_due(self, connection: sqlite3.Connection) -> None:
        """Starts a merge in a thread of its own when there is reason to and none is running here."""
        if self._stopped or (self._thread is not None and self._thread.is_alive()):
            return
        if is_due(connection, self._merge_rows):
            self._thread = threading.Thread(target=self._run, name="velocity-merge", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            TailMerge(self._path, self._turn, lambda: not self._stopped).run()
        except StoreUnavailable as error:
            _log.warning("velocity events wait to be merged: %s", error)

    def stop(self) -> None:
        """Ends a merge between two of its transactions."""
        self._stopped = True
        if self._thread is not None:
            self._thread.join()
