"""The index of the decision log that searches use: a file of its own, `search.db`, made behind the payments.

Decisions that a reader would question:

- Nothing of it is written with a payment. An index of cards in the log itself would dirty a page of its own for
  each row; here rows are indexed 4,096 at a time, sorted, as a run that is appended. 16 runs become one of 65,536
  rows, and 16 of those one of 1,048,576: a search looks into one place of each run, about 125 at 100,000,000 rows.
- It can be thrown away: `fraudengine log index` makes it again from the log. A search verifies every row that it
  names against the log, so an index that is behind, or holds rows that were archived, misleads nobody; what it does
  not reach yet is read from the log itself.
- Everything is done by a few long SQL statements, so the thread holds the interpreter for microseconds only.
- A run is written in parts, each a transaction and a checkpoint, so that the WAL stays small however large the run.
  A run counts from when `runs` lists it, and until `runs` no longer does: postings that are not listed are of a run
  that was never finished, or that another took the place of, and are deleted, in parts too.
- INVARIANT: transactions begin without IMMEDIATE, which would lock the attached log as well, and payments would
  wait. `test_payments_are_written_while_the_index_works` shows it.
- Ids are taken before their rows are committed, so rows of the last SETTLED_US are left for later. A row that comes
  later still (a disk that stood still) is found when its run is merged: the rows are counted again then.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from . import store
from .diagnostics import StoreUnavailable
from .store import Database, Migrations, Schema

_log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x46524453  # "FRDS"
FILE: Final = "search.db"
ROWS: Final = (4_096, 65_536, 1_048_576)  # of a run of each level
FAN: Final = 16
SETTLED_US: Final = 10_000_000
PAUSE_S: Final = 2.0
CACHE_KIB: Final = 8_192  # runs are appended and merged in order: more would only grow with the index
PART: Final = 131_072  # postings of one transaction: some 5 MB of WAL
TRIM_AFTER_S: Final = 60.0
WAL_BYTES: Final = 33_554_432  # what a WAL is cut back to that grew because a reader stood in the way

migrations = Migrations("fraudengine search")


@migrations()
def m0001_runs(db: Database) -> None:
    """Runs of consecutive screenings, and for each run its terms in order with the screenings that have them."""
    for statement in (
        """CREATE TABLE runs (
            run INTEGER PRIMARY KEY,
            level INTEGER NOT NULL,
            first_id INTEGER NOT NULL,
            last_id INTEGER NOT NULL,
            screenings INTEGER NOT NULL
        ) STRICT""",
        """CREATE TABLE postings (
            run INTEGER NOT NULL, term TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (run, term, id)
        ) STRICT, WITHOUT ROWID""",
    ):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


SEARCH: Final = Schema(migrations, APPLICATION_ID, "the file is damaged: delete it, it is made again from the log")

# What a search can ask for; `log_search` asks in the same words. Acceptances without a reason are most of the log:
# they are no term, the log's own order finds them at once.
_TERMS: Final = """
    SELECT 't' || transaction_id AS term, id FROM chosen
    UNION ALL SELECT 'c' || substr(card_identity, -16), id FROM chosen WHERE card_identity <> ''
    UNION ALL SELECT 'o' || order_ref, id FROM chosen WHERE order_ref IS NOT NULL
    UNION ALL SELECT 'k' || code, id FROM chosen WHERE code <> 'NO_RULE_MATCHED'
    UNION ALL SELECT 'k' || merchant_id || ':' || code, id FROM chosen WHERE code <> 'NO_RULE_MATCHED'
    UNION ALL SELECT 'u' || outcome, id FROM chosen WHERE outcome <> 'accept'
    UNION ALL SELECT 'u' || merchant_id || ':' || outcome, id FROM chosen WHERE outcome <> 'accept'
"""
_PREPARE: Final = (
    "PRAGMA synchronous = NORMAL",  # what a power cut takes is made again
    f"PRAGMA cache_size = -{CACHE_KIB}",
    f"PRAGMA journal_size_limit = {WAL_BYTES}",
    "PRAGMA secure_delete = ON",  # what is purged from the log is overwritten here too, also what merges left of it
    "PRAGMA temp.journal_mode = OFF",
    """CREATE TEMP TABLE chosen (
        id INTEGER PRIMARY KEY, merchant_id INTEGER, transaction_id TEXT, card_identity TEXT, outcome TEXT,
        code TEXT, order_ref TEXT
    )""",
    "CREATE TEMP TABLE sorted (place INTEGER PRIMARY KEY, term TEXT, id INTEGER)",
)
_CHOOSE: Final = """
    INSERT INTO temp.chosen
    SELECT id, merchant_id, transaction_id, card_identity, outcome, code,
        json_extract(CAST(document AS TEXT), '$.transaction.order_ref')
    FROM log.screenings WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?
"""
READ_ROWS: Final = 128
"""Rows of the log that are read at a time: its checkpoints, and the payments with them, wait for a reader."""


def first_id_at(instant_us: int) -> int:
    """The least id that can be made at an instant (UTC microseconds): ids grow with time."""
    return min(max(instant_us // 1000 << store.WORKER_BITS + store.COUNTER_BITS, 0), (1 << 63) - 1)


class SearchIndex:
    """The one writer of a state directory's index; `claim` gives it, or None while another process is."""

    def __init__(
        self, state: Path, lock: int, clock_us: Callable[[], int], rest: Callable[[float], object]
    ) -> None:
        self.path = state / FILE
        self._rest = rest
        self._rested = time.monotonic()
        self._lock = lock
        self._clock_us = clock_us
        self._oldest, self._trim_at = 0, math.inf  # where the log began last, and when that is settled
        self._connection = store.open_database(self.path, schema=SEARCH).conn
        for statement in _PREPARE:
            self._connection.execute(statement)
        self._connection.execute("ATTACH DATABASE ? AS log", (str(state / "decisions.db"),))

    @classmethod
    def claim(
        cls,
        state: Path,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        rest: Callable[[float], object] = lambda _seconds: None,
    ) -> SearchIndex | None:
        """`rest` is called between the parts of a step, with the seconds of work since the last rest.

        Raises StoreUnavailable when there is no log, or the index cannot be written.
        """
        if not (state / "decisions.db").exists():
            raise StoreUnavailable(
                f"there is no decision log in {state}: name the service's directory with --state"
            )
        try:
            lock = os.open(state / f"{FILE}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{state} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(state, lock, clock_us, rest)
        except BlockingIOError:
            os.close(lock)
            return None
        except sqlite3.Error as error:
            os.close(lock)
            raise store.explain_error(error, state / FILE, SEARCH.when_damaged) from error
        except BaseException:
            os.close(lock)
            raise

    def step(self, largest: int = 0) -> int:
        """Does one piece of what is due; how many screenings it indexed or merged, 0 when nothing was due.

        `largest` is the highest level of a run that may be made at once: 0 keeps the log's snapshot short.
        """
        self._rested = time.monotonic()
        try:
            self._sweep()
            return self._merge() or self._index(largest) or self._forget()
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error) -> StoreUnavailable | sqlite3.Error:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        return store.explain_error(error, self.path, SEARCH.when_damaged)

    @contextmanager
    def _part(self) -> Iterator[None]:
        """A transaction, its checkpoint and a rest; one that raises is left to the caller to roll back."""
        self._connection.execute("BEGIN")
        yield
        self._connection.execute("COMMIT")
        # Of this file alone: it has no other writer, so no commit can come between (see `store`).
        self._connection.execute("PRAGMA main.wal_checkpoint(PASSIVE)")
        self._rest(time.monotonic() - self._rested)
        self._rested = time.monotonic()

    def _index(self, largest: int) -> int:
        # No larger run than the newest is: those that are merged must lie side by side.
        newest = self._connection.execute(
            "SELECT last_id, level FROM runs ORDER BY last_id DESC LIMIT 1"
        ).fetchone()
        after, level_before = newest or (0, largest)
        settled = first_id_at(self._clock_us() - SETTLED_US)
        for level in range(min(largest, level_before), -1, -1):
            last, count = self._connection.execute(
                "SELECT max(id), count(*) FROM"
                " (SELECT id FROM log.screenings WHERE id > ? AND id < ? ORDER BY id LIMIT ?)",
                (after, settled, ROWS[level]),
            ).fetchone()
            if count == ROWS[level]:
                self._write_chosen(level, after + 1, last)  # no gap: a late row has a run
                return int(count)
        return 0

    def _write_chosen(self, level: int, first: int, last: int, replaced: str = "") -> None:
        """Makes a run from the log, whose rows it first reads into a table of its own, a few at a time."""
        self._connection.execute("DELETE FROM temp.chosen")
        start = first
        while self._connection.execute(_CHOOSE, (start, last, READ_ROWS)).rowcount == READ_ROWS:
            start = self._connection.execute("SELECT max(id) FROM temp.chosen").fetchone()[0] + 1
        count = self._connection.execute("SELECT count(*) FROM temp.chosen").fetchone()[0]
        self._write_run((level, first, last, count), _TERMS, replaced)

    def _write_run(self, run: tuple[int, int, int, int], source: str, replaced: str = "") -> None:
        """Writes the terms of `source` as a run (its level, ids and screenings), and lists it for those `replaced`.

        Nothing of the log is read while it is written.
        """
        execute = self._connection.execute
        execute("DELETE FROM temp.sorted")
        execute(f"INSERT INTO temp.sorted (term, id) SELECT term, id FROM ({source}) ORDER BY 1, 2")
        end = execute("SELECT coalesce(max(place), 0) FROM temp.sorted").fetchone()[0]
        number = execute("SELECT coalesce(max(run), 0) + 1 FROM runs").fetchone()[0]
        for start in range(0, end, PART):
            with self._part():
                execute(
                    "INSERT INTO postings (run, term, id)"
                    " SELECT ?, term, id FROM temp.sorted WHERE place > ? AND place <= ? ORDER BY place",
                    (number, start, start + PART),
                )
        with self._part():
            execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", (number, *run))
            execute(f"DELETE FROM runs WHERE run IN ({replaced})")
        self._sweep()

    def _count(self, first: int, last: int) -> int:
        found = self._connection.execute(
            "SELECT count(*) FROM log.screenings WHERE id BETWEEN ? AND ?", (first, last)
        ).fetchone()
        return int(found[0])

    def _merge(self) -> int:
        for level in range(len(ROWS) - 1):
            runs = self._connection.execute(
                "SELECT run, first_id, last_id, screenings FROM runs WHERE level = ? ORDER BY first_id LIMIT ?",
                (level, FAN),
            ).fetchall()
            if len(runs) < FAN:
                continue
            first, last, count = runs[0][1], runs[-1][2], sum(row[3] for row in runs)
            held = ", ".join(str(row[0]) for row in runs)
            # Counting again is a reading of the rows: cheap while they are recent, and nothing comes later still.
            if level > 0 or self._count(first, last) == count:
                source = f"SELECT term, id FROM postings WHERE run IN ({held})"
                self._write_run((level + 1, first, last, count), source, held)
            else:  # rows came after their run was made, or were archived
                self._write_chosen(level + 1, first, last, held)
            return int(count)
        return 0

    def _forget(self) -> int:
        """Drops a run of screenings that are no longer in the log."""
        (oldest,) = self._connection.execute(
            "SELECT coalesce(min(id), ?) FROM log.screenings", ((1 << 63) - 1,)
        ).fetchone()
        row = self._connection.execute(
            "SELECT run, screenings FROM runs WHERE last_id < ? LIMIT 1", (oldest,)
        ).fetchone()
        if row is None:
            return self._trim(oldest)
        with self._part():
            self._connection.execute("DELETE FROM runs WHERE run = ?", row[:1])
        self._sweep()
        return int(row[1])

    def _trim(self, oldest: int) -> int:
        """Writes the run in which the log begins anew without what was purged or archived before it.

        Once `oldest` has not moved for TRIM_AFTER_S: a purge under way would have it written again and again.
        """
        now = time.monotonic()
        if oldest != self._oldest:
            self._oldest, self._trim_at = oldest, now + TRIM_AFTER_S
        if now < self._trim_at:
            return 0
        self._trim_at = math.inf  # until the log begins elsewhere; after a failure the index is claimed anew
        execute = self._connection.execute
        row = execute(
            "SELECT run, level, last_id FROM runs WHERE first_id < ? AND last_id >= ?", (oldest, oldest)
        ).fetchone()
        if row is None:
            return 0
        run, level, last = row
        # Each screening has one term of this kind.
        gone, count = execute(
            "SELECT count(*) FILTER (WHERE id < ?), count(*) FILTER (WHERE id >= ?) FROM postings"
            " WHERE run = ? AND term >= 't' AND term < 'u'",
            (oldest, oldest, run),
        ).fetchone()
        if not gone:
            return 0
        source = f"SELECT term, id FROM postings WHERE run = {run:d} AND id >= {oldest:d}"
        self._write_run((level, oldest, last, count), source, str(run))
        return int(count)

    def _sweep(self) -> None:
        """Deletes the postings of runs that are not listed."""
        execute = self._connection.execute
        listed = {row[0] for row in execute("SELECT run FROM runs")}
        run = 0
        while run := execute("SELECT coalesce(min(run), 0) FROM postings WHERE run > ?", (run,)).fetchone()[0]:
            while run not in listed and self._delete_part(run):
                pass

    def _delete_part(self, run: int) -> bool:
        """Deletes the first postings of a run; False when none are left."""
        execute = self._connection.execute
        with self._part():
            upto = execute(
                "SELECT term, id FROM postings WHERE run = ? ORDER BY term, id LIMIT 1 OFFSET ?", (run, PART)
            ).fetchone()
            if upto is None:
                execute("DELETE FROM postings WHERE run = ?", (run,))
            else:
                execute("DELETE FROM postings WHERE run = ? AND (term, id) < (?, ?)", (run, *upto))
        return upto is not None

    def empty(self) -> None:
        """Drops every run, so that the steps that follow make all of them anew. Raises StoreUnavailable."""
        try:
            with self._part():
                self._connection.execute("DELETE FROM runs")
                self._connection.execute("DELETE FROM postings")
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def interrupt(self) -> None:
        """Cuts off the step that another thread is doing; it raises and is rolled back."""
        with suppress(sqlite3.Error):
            self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()
        os.close(self._lock)

    def __enter__(self) -> SearchIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Indexing:
    """A thread of the service that keeps the index near the log; of several processes one does it.

    It runs at the lowest priority. `problem` says why it cannot, until it can again.
    """

    def __init__(self, state: Path, pause_s: float = PAUSE_S) -> None:
        self.problem: str | None = None
        self._index: SearchIndex | None = None
        self._state = state
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="search-index", daemon=True)

    def __enter__(self) -> Indexing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends at once: a step that is under way is rolled back and done again after the next start."""
        self._stop.set()
        while self._thread.is_alive():
            if (index := self._index) is not None:
                index.interrupt()
            self._thread.join(0.05)

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # on Linux: of this thread
        while not self._stop.wait(self._pause_s):
            try:
                index = SearchIndex.claim(self._state, rest=self._stop.wait)  # payments come first
                if index is not None:
                    with index:
                        self._index = index
                        try:
                            self._keep_up(index)
                        finally:
                            self._index = None
            except (StoreUnavailable, sqlite3.Error) as error:
                if self._stop.is_set():
                    return
                if self.problem is None:
                    _log.warning("the search index: %s", error)
                self.problem = str(error)

    def _keep_up(self, index: SearchIndex) -> None:
        while not self._stop.is_set():
            worked = index.step()
            self.problem = None
            if not worked:
                self._stop.wait(self._pause_s)
