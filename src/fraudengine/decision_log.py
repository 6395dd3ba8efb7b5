"""The append-only log of screenings: no answer leaves before its row is durable on disk.

Group commit: the records that one round of the event loop appends are handed at its end to the writer thread,
which writes them in one transaction and wakes the loop once for all of them. While a commit runs, the next batch
gathers by itself. When the disk fails, the batch's futures raise StoreUnavailable, nothing of it stays in the
file, and the writer tries the disk again after a growing pause (also when nobody appends), so `healthy` turns
true by itself. Tried and dropped: the loop committing by itself; it stands still while the disk syncs, and at 16
connections on a busy machine that nearly halved what `tests/benchmarks/bench_http.py` counts.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from . import store
from .batch_writer import (
    APPENDED,
    AlreadyRecorded,
    Appended,
    BatchWriter,
    PendingRecord,
    RuleFiles,
    ScreeningRecord,
    Settled,
    Waiter,
    Written,
    tell_all,
)
from .diagnostics import Overtaken, StoreUnavailable
from .metrics import Counts
from .recorded_rows import RecordedRows
from .velocity_history import record_outcome
from .velocity_index import Registry

__all__ = [
    "APPENDED",
    "AlreadyRecorded",
    "Appended",
    "DecisionLog",
    "EarlierRow",
    "PendingRecord",
    "ScreeningRecord",
    "Written",
]


@dataclass(frozen=True, slots=True)
class EarlierRow:
    """An earlier screening of a transaction; `pending` when its commit has not returned yet in this process."""

    id: int
    request_hash: int
    card_identity: str
    currency: str
    minor: int
    pending: PendingRecord | None = None

    def is_same_request(self, request_digest: bytes) -> bool:
        return self.request_hash == store.request_hash(request_digest)


# INDEXED BY: left alone, SQLite 3.40 takes the merchant's index and reads all of the merchant's rows.
_SELECT_EARLIER: Final = (
    "SELECT id, request_hash, card_identity, currency, minor FROM screenings INDEXED BY screenings_request"
    " WHERE transaction_hash = ? AND transaction_id = ?"
    " AND merchant_id = (SELECT id FROM merchants WHERE name = ?)"
)
_SELECT_KNOWN: Final = (
    "SELECT transaction_hash FROM screenings INDEXED BY screenings_request"
    " WHERE transaction_hash IN (SELECT value FROM json_each(?))"
)
_REVISIONS_PER_BATCH: Final = 64
_LONGEST_PAUSE_S: Final = 1.0
_SHORTEST_PROBE_S: Final = 0.05


class DecisionLog:
    """The log of one process. Counters (`batches`, `rows` …) are plain integers for the metrics page.

    Open it after any fork. Reads see what every process committed; those of the disk alone are `recorded`'s.
    `append` and `find_transaction` are made for the event loop's thread: they wait for nobody.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_batch: int,
        max_delay_us: int,
        max_waiting: int,
        busy_timeout_ms: int,
        retry_us: int,
        clock: Callable[[], int] | None,
    ) -> None:
        self.path = path
        self.batches = self.rows = self.already_recorded = self.overtaken = 0
        self.failed_batches = self.refused = self.last_commit_us = 0
        self.last_problem: str | None = None
        self.counts: Counts | None = None  # where commits are counted, when anybody asks
        self._max_batch, self._max_delay_us, self._max_waiting = max_batch, max_delay_us, max_waiting
        self._first_pause_s = retry_us / 1e6
        self._pause_s = self._retry_at = 0.0
        self._lock = threading.Lock()  # guards _closed, _waiting, _in_flight, _files, every PendingRecord's waiters
        self._wake: SimpleQueue[None] = SimpleQueue()  # what is put in wakes the writer thread
        self._waiting: list[PendingRecord] = []
        self._left_over = self._closed = False
        self._hand_over_is_due_in: asyncio.AbstractEventLoop | None = None
        self._in_flight: dict[tuple[str, str], tuple[PendingRecord, ...]] = {}
        self._files: dict[str, RuleFiles] = {}  # not durable yet
        self._durable_revisions: set[str] = set()
        self._writer = BatchWriter(path, busy_timeout_ms, partial(self._wake.put, None))
        self._writer.connect(create=True)
        self.recorded = RecordedRows(path)
        self._slot: store.WorkerSlot | None = None
        try:
            self._slot = store.claim_worker_slot(path)
            newest = self.recorded.read("SELECT max(id) FROM screenings")[0][0]
            self._ids = store.ScreeningIds(self._slot.number, newest or 0, clock)
            if self.velocity.generation:
                self.recorded.refresh_tail()  # not at the first payment
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        max_batch: int = 512,
        max_delay_us: int = 0,
        max_waiting: int = 10_000,
        busy_timeout_ms: int = 5_000,
        retry_us: int = 20_000,
        clock: Callable[[], int] | None = None,
    ) -> DecisionLog:
        """Opens or makes the log. Raises StoreUnavailable, with what to do, when that is impossible.

        `max_delay_us` lets a batch wait for company; `max_waiting` records may queue before appends are refused;
        `retry_us` is the first pause after a failure, doubled up to a second. `clock` gives UTC microseconds.
        """
        return cls(
            Path(path),
            max_batch=max_batch,
            max_delay_us=max_delay_us,
            max_waiting=max_waiting,
            busy_timeout_ms=busy_timeout_ms,
            retry_us=retry_us,
            clock=clock,
        )

    @property
    def healthy(self) -> bool:
        return self.last_problem is None and not self._closed

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def worker(self) -> int:
        """The number of this worker among those that write to the log."""
        return self._slot.number if self._slot is not None else 0

    def next_id(self, after: int = 0) -> int:
        """An id greater than every one before it in this process, and than `after`, which may be another's."""
        return self._ids.next_id(after)

    # ---- appending --------------------------------------------------------------------------------

    def append(self, record: ScreeningRecord) -> asyncio.Future[Written]:
        """A future that resolves once the record is on disk, or raises StoreUnavailable: then it is not.

        It raises Overtaken when the log holds a screening of the transaction that is not in the record's `after`.
        Raises StoreUnavailable at once when the log is closed or too many records wait.
        """
        entry = PendingRecord(record, self._lock)
        future = entry.wait()
        self._enqueue(entry, future.get_loop())
        return future

    def append_then(self, record: ScreeningRecord, tell: Waiter) -> None:
        """The same without a future: `tell` is called in the running loop once the record is on disk or refused."""
        entry = PendingRecord(record, self._lock)
        loop = asyncio.get_running_loop()
        entry.then(loop, tell)
        self._enqueue(entry, loop)

    def append_and_wait(self, record: ScreeningRecord) -> Written:
        """The same for callers without an event loop; blocks until the record is on disk."""
        entry = PendingRecord(record, self._lock)
        self._enqueue(entry, None)
        return entry.wait_in_thread()

    def _enqueue(self, entry: PendingRecord, loop: asyncio.AbstractEventLoop | None) -> None:
        record = entry.record
        # INVARIANT: a card number is never recorded; the caller's mistake must not reach the disk.
        if record.card_identity.isdigit() and len(record.card_identity) >= 12:
            raise ValueError("the card identity of a screening looks like a card number")
        key = (record.merchant, record.transaction_id)
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the decision log is closed")
            if len(self._waiting) >= self._max_waiting:
                self.refused += 1
                raise StoreUnavailable(f"overloaded: {self._max_waiting} screenings wait for the disk")
            held = self._in_flight.get(key)
            self._in_flight[key] = (entry,) if held is None else (*held, entry)
            self._waiting.append(entry)
        if loop is None:
            self._wake.put(None)
        elif loop is not self._hand_over_is_due_in:
            self._hand_over_is_due_in = loop
            loop.call_soon(self._hand_over)

    def remember_revision(self, revision: str, rule_set: str, files: Sequence[tuple[str, str]]) -> None:
        """Has the rule texts of a revision written soon, and no later than the first record that refers to it."""
        for text in (revision, rule_set, *(part for file in files for part in file)):
            text.encode()  # what SQLite could not take is refused here, not in the writer thread
        with self._lock:
            if self._closed or revision in self._durable_revisions or revision in self._files:
                return
            self._files[revision] = (rule_set, tuple(files))
            if len(self._files) == 1:
                self._wake.put(None)

    # ---- reading ----------------------------------------------------------------------------------

    def find_transaction(self, merchant: str, transaction_id: str) -> tuple[EarlierRow, ...]:
        """Every screening of the transaction, oldest first: on disk by any process, or under way in this one."""
        # Before the disk: what leaves `_in_flight` meanwhile is on disk already.
        pending = self._in_flight.get((merchant, transaction_id), ())
        found = self.recorded.read(
            _SELECT_EARLIER, (store.transaction_hash(merchant, transaction_id), transaction_id, merchant)
        )
        if not found and not pending:
            return ()
        rows = {row[0]: EarlierRow(*row) for row in found}
        for entry in pending:
            record = entry.record
            if record.id not in rows:
                rows[record.id] = EarlierRow(
                    record.id, entry.request_hash, record.card_identity, record.currency, record.minor, entry
                )
        return tuple(rows[screening_id] for screening_id in sorted(rows))

    def find_transactions(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[EarlierRow, ...]]:
        """The same for several, each as (merchant, transaction id), at once; without those that have none."""
        if len(keys) == 1:
            rows = self.find_transaction(*keys[0])
            return {keys[0]: rows} if rows else {}
        in_flight = self._in_flight  # before the disk, as above
        doubtful = {key for key in keys if key in in_flight}
        hashes = [store.transaction_hash(*key) for key in keys]
        found = self.recorded.read(_SELECT_KNOWN, (json.dumps(hashes),))
        if found:
            known = {row[0] for row in found}
            doubtful |= {key for key, hashed in zip(keys, hashes, strict=True) if hashed in known}
        rows_by_key = {key: self.find_transaction(*key) for key in doubtful}
        return {key: rows for key, rows in rows_by_key.items() if rows}

    @property
    def velocity(self) -> Registry:
        """The velocity series that are kept, as this process knows them."""
        return self._writer.registry

    @velocity.setter
    def velocity(self, registry: Registry) -> None:
        self._writer.registry = registry

    def record_outcome(self, screening_id: int, kind: str, code: str, at_us: int) -> bool:
        """Records durably what became of a payment; False when no screening has that id. Blocks until it is done.

        `kind` is the gateway's word; `declined` and `technical_failure` (`velocity.ReportKind`) change what later
        payments count. The same report again changes nothing. Raises StoreUnavailable.
        """
        try:
            with closing(store.open_database(self.path, create=False).conn) as connection:
                return record_outcome(connection, self.next_id(), screening_id, kind, code, at_us)
        except sqlite3.Error as error:
            raise store.explain_error(error, self.path) from error

    def read_revision(self, revision: str) -> list[tuple[str, str]]:
        """Path and text of every file of a revision, in the order given; empty when nobody remembered it."""
        with self._lock:
            waiting = self._files.get(revision)
        if waiting is not None:
            return list(waiting[1])
        return self.recorded.rule_texts(revision)

    # ---- the writer thread ------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Wakes the thread, in the loop, once for all that this round of it appended."""
        self._hand_over_is_due_in = None
        self._wake.put(None)

    def _take_waiting(self) -> list[PendingRecord]:
        with self._lock:
            taken, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
        return taken

    def _run(self) -> None:
        while True:
            self._sleep()
            entries = self._take_waiting()
            self._left_over = len(entries) == self._max_batch
            with self._lock:
                files = self._due_files(entries)
                done = self._closed and not entries and not files and not self._waiting
            if done:
                return
            self._write(entries, files)
            if self._closed and self.last_problem is not None:
                with self._lock:
                    self._files.clear()  # the disk does not take them; do not hang in close()
            self._writer.checkpoint_if_due()
            if self.last_problem is not None:
                self._writer.merges.leave()
            elif not self._closed:
                self._writer.merge_if_due(nobody_waits=not entries)

    def _sleep(self) -> None:
        """Until somebody wakes the thread, or the disk is to be tried again; then, as told, for company."""
        timeout: float | None = None
        if self._left_over:
            timeout = 0.0
        elif self.last_problem is not None and not self._closed:
            timeout = max(self._retry_at - time.monotonic(), _SHORTEST_PROBE_S)
        elif self._files or self._closed or self._writer.merges.is_under_way:
            timeout = 0.0  # more rule texts than one batch took, a merge's next piece, or the end
        with suppress(Empty):
            self._wake.get(timeout=timeout)
            while not self._wake.empty():
                self._wake.get_nowait()
            if self._max_delay_us and not self._closed:
                deadline = time.monotonic() + self._max_delay_us / 1e6
                while len(self._waiting) < self._max_batch and (left := deadline - time.monotonic()) > 0:
                    self._wake.get(timeout=left)

    def _due_files(self, entries: Sequence[PendingRecord]) -> dict[str, RuleFiles]:
        """Rule texts for this batch: those its records refer to, and some of the others."""
        if not self._files:
            return {}
        due = {entry.record.revision: None for entry in entries if entry.record.revision in self._files}
        for revision in self._files:
            if len(due) >= _REVISIONS_PER_BATCH:
                break
            due[revision] = None
        return {revision: self._files[revision] for revision in due}

    def _write(self, entries: list[PendingRecord], files: dict[str, RuleFiles]) -> None:
        if self.last_problem is not None and time.monotonic() < self._retry_at and not self._closed:
            self._settle([(entry, StoreUnavailable(self.last_problem)) for entry in entries])
            return
        started = time.perf_counter()
        try:
            if entries or files:
                doubtful = self._writer.write(entries, files)
            elif self.last_problem is not None:
                doubtful = []
                self._writer.probe()
            else:
                return
        except StoreUnavailable as error:
            self._note_problem(error)
            self._settle([(entry, error) for entry in entries])
        except Exception as error:  # noqa: BLE001 - goes to whoever appended it; the thread must live on
            self._isolate(error, entries, files)
        else:
            self._settle(self._note_commit(entries, files, started, doubtful))

    def _note_commit(
        self,
        entries: list[PendingRecord],
        files: dict[str, RuleFiles],
        started: float,
        doubtful: Sequence[PendingRecord],
    ) -> list[tuple[PendingRecord, Settled]]:
        """Counts a commit that returned; the entries with what became of each."""
        self.last_commit_us = int((time.perf_counter() - started) * 1e6)
        self.last_problem, self._pause_s = None, 0.0
        if files:
            with self._lock:
                self._durable_revisions.update(files)
                for revision in files:
                    del self._files[revision]
        if entries:
            self.batches += 1
            self.rows += len(entries)
            if self.counts is not None:
                self.counts.commit.observe(self.last_commit_us / 1e6)
                self.counts.batch.observe(len(entries))
        if doubtful:
            return [(entry, self._settle_doubt(entry)) for entry in entries]
        return [(entry, APPENDED) for entry in entries]

    def _isolate(self, error: Exception, entries: list[PendingRecord], files: dict[str, RuleFiles]) -> None:
        """One record that SQLite cannot take must not fail its neighbours."""
        if len(entries) > 1 or (entries and files):
            if files:
                self._write([], files)
            for entry in entries:
                self._write([entry], {})
        elif entries:
            self._settle([(entries[0], error)])
        else:
            with self._lock:
                for revision in files:
                    del self._files[revision]
            self._note_problem(error)

    def _settle_doubt(self, entry: PendingRecord) -> Settled:
        """Whose row the UNIQUE index kept: ours, or that of the same call recorded before."""
        try:
            found = self._writer.find_recorded(entry)
        except Overtaken as error:
            self.rows -= 1
            self.overtaken += 1
            return error
        except StoreUnavailable as error:
            return error
        if isinstance(found, AlreadyRecorded):
            self.rows -= 1
            self.already_recorded += 1
        return found

    def _note_problem(self, error: Exception) -> None:
        self.failed_batches += 1
        self.last_problem = str(error)
        self._pause_s = min(max(self._pause_s * 2, self._first_pause_s), _LONGEST_PAUSE_S)
        self._retry_at = time.monotonic() + self._pause_s

    def _settle(self, settled: Sequence[tuple[PendingRecord, Settled]]) -> None:
        """Tells everyone who waits, each in the loop in which it waits."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Settled]]] = {}
        with self._lock:
            for entry, outcome in settled:
                key = (entry.record.merchant, entry.record.transaction_id)
                others = self._in_flight.pop(key)
                if len(others) > 1:
                    self._in_flight[key] = tuple(other for other in others if other is not entry)
                for loop, tell in entry.settle(outcome):
                    by_loop.setdefault(loop, []).append((tell, outcome))
        for loop, told in by_loop.items():
            with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(tell_all, loop, told)

    # ---- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Writes what waits, takes a checkpoint and lets go of the file; blocks until that is done."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.recorded.open_no_more()
        self._wake.put(None)
        self._thread.join()
        self._release()

    def _release(self) -> None:
        self._writer.close()
        self.recorded.close()
        if self._slot is not None:
            self._slot.release()

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
