"""Records on their way to the disk, and the connection that writes them in batches.

A batch is one INSERT with many rows rather than `executemany`: Python's sqlite3 lets go of the interpreter lock
at every step, and on a busy core each row would wait for the event loop to give it back.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

from . import store
from .diagnostics import Overtaken, StoreUnavailable
from .overtaken import find_overtaken, nobody_came_first, values_of
from .records import record
from .velocity_documents import rows_of_document
from .velocity_history import append_next_steps
from .velocity_index import Registry, read_generation, read_registry, tail_row_of
from .velocity_merge import Merging
from .velocity_tail import TailRow, TailValues, add_to_tail, append_to_tail
from .write_turns import WriteTurns


@record
class ScreeningRecord:
    """One screening as it is recorded. `document` is the whole of it as JSON bytes; times are UTC microseconds.

    `request_digest` (8 bytes or more, best keyed) tells a retried call from another one of the same transaction.
    `card_identity` is a fingerprint or BIN, last four digits and expiry; INVARIANT: never a card number.
    """

    id: int
    merchant: str
    transaction_id: str
    request_digest: bytes
    at_us: int
    answered_us: int
    card_identity: str
    currency: str
    minor: int
    outcome: str
    code: str
    revision: str
    document: bytes
    velocity: TailRow = ()  # its events, as the only screening of its transaction
    velocity_generation: int = 0  # of the registry by which `velocity` was made
    after: tuple[int, ...] | None = None  # the screenings of its transaction that it knows of; None: nobody looked
    presumed: tuple[int, ...] = ()  # those of them that were on their way to the disk


@dataclass(frozen=True, slots=True)
class Appended:
    """The record is durable."""


@dataclass(frozen=True, slots=True)
class AlreadyRecorded:
    """The same call was recorded before, here or by another worker: answer with this document instead."""

    id: int
    document: bytes


Written: TypeAlias = Appended | AlreadyRecorded
Settled: TypeAlias = Written | Exception
Waiter: TypeAlias = Callable[[Settled], None]
APPENDED: Final = Appended()


class PendingRecord:
    """A record on its way to the disk, and everyone who waits for it; one who hangs up disturbs nobody else."""

    __slots__ = ("_event", "_lock", "_outcome", "_waiters", "record", "request_hash", "transaction_hash")

    def __init__(self, record: ScreeningRecord, lock: threading.Lock) -> None:
        self.record = record
        self.transaction_hash = store.transaction_hash(record.merchant, record.transaction_id)
        self.request_hash = store.request_hash(record.request_digest)
        self._outcome: Settled | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, Waiter]] = []
        self._event: threading.Event | None = None
        self._lock = lock

    def wait(self) -> asyncio.Future[Written]:
        """A future of the caller's own for this record's commit."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Written] = loop.create_future()
        self.then(loop, partial(_resolve, future))
        return future

    def then(self, loop: asyncio.AbstractEventLoop, tell: Waiter) -> None:
        """Has `tell` called in that loop, in the thread of which this is called, once the commit returned."""
        with self._lock:
            outcome = self._outcome
            if outcome is None:
                self._waiters.append((loop, tell))
        if outcome is not None:
            loop.call_soon(tell, outcome)

    def wait_in_thread(self) -> Written:
        """Blocks until the commit."""
        with self._lock:
            if self._event is None:
                self._event = threading.Event()
                if self._outcome is not None:
                    self._event.set()
        self._event.wait()
        if isinstance(self._outcome, Exception):
            raise copy.copy(self._outcome)
        assert self._outcome is not None
        return self._outcome

    def settle(self, outcome: Settled) -> list[tuple[asyncio.AbstractEventLoop, Waiter]]:
        """Fixes the outcome and hands over those who wait for it; the caller holds the lock."""
        self._outcome = outcome
        if self._event is not None:
            self._event.set()
        return self._waiters


def _resolve(future: asyncio.Future[Written], outcome: Settled) -> None:
    if future.done():  # the client hung up
        return
    if isinstance(outcome, Exception):
        # A copy for everyone: an exception raised in many tasks would gather all their tracebacks.
        future.set_exception(copy.copy(outcome))
    else:
        future.set_result(outcome)


def tell_all(loop: asyncio.AbstractEventLoop, told: Iterable[tuple[Waiter, Settled]]) -> None:
    for tell, outcome in told:
        try:
            tell(outcome)
        except Exception as error:  # noqa: BLE001 - one who fails must not leave the others waiting
            loop.call_exception_handler({"message": "a record's waiter failed", "exception": error})


_COLUMNS: Final = (
    "id, transaction_hash, request_hash, merchant_id, revision_id, at_us, answered_us, minor, currency, outcome,"
    " code, transaction_id, card_identity, document"
)
_ROW: Final = f"({', '.join('?' * len(_COLUMNS.split(',')))})"
_ROWS_PER_INSERT: Final = 32
# One statement per number of rows, so that SQLite prepares each once.
_INSERTS: Final = tuple(
    f"INSERT INTO screenings ({_COLUMNS}) VALUES {', '.join([_ROW] * rows)}"
    " ON CONFLICT (transaction_hash, request_hash) DO NOTHING"
    for rows in range(_ROWS_PER_INSERT + 1)
)
# The same for a log without counters: one statement that writes nothing once another process has registered one,
# or has recorded a screening of which one of the records should know.
_INSERTS_WITHOUT_COUNTERS: Final = tuple(
    f"INSERT INTO screenings ({_COLUMNS}) SELECT * FROM (VALUES {', '.join([_ROW] * rows)})"
    f" WHERE NOT EXISTS (SELECT 1 FROM velocity_series) AND {nobody_came_first(rows)}"
    " ON CONFLICT (transaction_hash, request_hash) DO NOTHING"
    for rows in range(1, _ROWS_PER_INSERT + 1)
)
_KNOWN_WHERE: Final = (
    "SELECT transaction_hash FROM screenings INDEXED BY screenings_request WHERE transaction_hash IN"
)
_KNOWN: Final = tuple(f"{_KNOWN_WHERE} ({', '.join('?' * rows)})" for rows in range(_ROWS_PER_INSERT + 1))
_KNOWN_OF_MANY: Final = f"{_KNOWN_WHERE} (SELECT value FROM json_each(?))"
_CHECKPOINT_ROWS: Final = 500
"""Commits wait some 10 us for each row of a checkpoint: 5 ms instead of the 20 of 2,000 rows, so that no payment
waits for long (with 16 connections those were the slowest hundredth), for about 2 % of the throughput."""

_ROWS_OF_A_PIECE: Final = 60  # as many pages as a piece of a merge writes, more or less

RuleFiles: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]  # rule set, (path, text) of each file
Parameter: TypeAlias = int | str | bytes | None


class BatchWriter:
    """The connection that writes; used by the writer thread only. Every method raises StoreUnavailable."""

    def __init__(self, path: Path, busy_timeout_ms: int, wake: Callable[[], None]) -> None:
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._merchant_ids: dict[str, int] = {}
        self._revision_ids: dict[str, int] = {}
        self._since_checkpoint = 0
        self.registry = Registry()  # of velocity series; replaced as a whole, so any thread may read it
        self._connection: sqlite3.Connection | None = None
        self._inode = (0, 0)
        self._turns = WriteTurns(path)
        self.merges = Merging(path, wake)  # `wake`: called when they want `merge_if_due` to be called

    def connect(self, *, create: bool = False) -> sqlite3.Connection:
        """The open connection, or a new one after a failure. Never on a file that was moved away or replaced."""
        connection = self._connection
        if connection is None:
            connection = store.open_database(self._path, create=create, busy_timeout_ms=self._busy_timeout_ms).conn
            self._connection = connection
            self._inode = self._read_inode()
            self.registry = read_registry(connection)
        elif self._read_inode() != self._inode:
            self.disconnect()
            raise StoreUnavailable(f"{self._path} was replaced while it was open: put it back or restart")
        return connection

    def _read_inode(self) -> tuple[int, int]:
        try:
            status = os.stat(self._path)
        except OSError as error:
            self.disconnect()
            raise StoreUnavailable(f"{self._path} is gone ({error.strerror}): put the file back") from error
        return status.st_dev, status.st_ino

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._merchant_ids.clear()  # some may be of a transaction that was rolled back
        self._revision_ids.clear()
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def write(self, entries: Sequence[PendingRecord], files: dict[str, RuleFiles]) -> list[PendingRecord]:
        """One durable transaction; returns the entries that may not have been inserted: calls recorded before,
        and those that were `overtaken`. `find_recorded` tells what became of each.
        """
        connection = self.connect()
        try:
            with self._turns:
                doubtful = self._write_batch(connection, entries, files)
        except BaseException as error:
            self._recover(connection)
            if isinstance(error, sqlite3.Error):
                raise store.explain_error(error, self._path) from error
            raise
        self._since_checkpoint += len(entries) + len(files)
        return doubtful

    def _write_batch(
        self, connection: sqlite3.Connection, entries: Sequence[PendingRecord], files: dict[str, RuleFiles]
    ) -> list[PendingRecord]:
        short = len(entries) <= _ROWS_PER_INSERT and not files and self._names_are_known(entries)
        written = self._insert_without_counters(connection, entries) if short else None
        if written is not None:
            return written
        connection.execute("BEGIN IMMEDIATE")
        self._write_names(connection, entries, files)
        known = self._known_transactions(connection, entries)
        doubtful = []
        if known or any(entry.record.presumed for entry in entries):
            doubtful = find_overtaken(connection, entries)
        taken = entries
        if doubtful:
            again = set(doubtful)
            taken = [entry for entry in entries if entry not in again]
        for start in range(0, len(taken), _ROWS_PER_INSERT):
            doubtful += self._insert(connection, taken[start : start + _ROWS_PER_INSERT])
        self._write_events(connection, taken, doubtful, known)
        connection.execute("COMMIT")
        return doubtful

    def probe(self) -> None:
        """A transaction that changes nothing and yet must reach the disk."""
        connection = self.connect()
        try:
            connection.execute(f"PRAGMA application_id = {store.APPLICATION_ID}")
        except sqlite3.Error as error:
            self._recover(connection)
            raise store.explain_error(error, self._path) from error

    def checkpoint_if_due(self) -> None:
        """Moves the WAL into the file, and begins to merge the tail of counted events, each when there is much."""
        if self._connection is None or self._since_checkpoint < _CHECKPOINT_ROWS:
            return
        self._since_checkpoint = 0
        # What failed here fails again, and is told, at the next commit; the rows are safe in the WAL.
        with suppress(sqlite3.Error):
            with self._turns:
                store.take_checkpoint(self._connection, self._busy_timeout_ms)
            self.merges.begin_if_due(self._connection)

    def merge_if_due(self, *, nobody_waits: bool) -> None:
        """Moves some of the tail of counted events into their index, when a merge is under way."""
        if self.merges.has_piece(nobody_waits=nobody_waits):
            with self._turns:
                self._since_checkpoint += _ROWS_OF_A_PIECE * self.merges.go_on(nobody_waits=nobody_waits)

    def find_recorded(self, entry: PendingRecord) -> Written:
        """Whether the row in the file is this entry's own or an earlier one of the same call.

        Raises Overtaken when there is none because a decision has to be made again.
        """
        connection = self.connect()
        try:
            row = connection.execute(
                "SELECT id, document FROM screenings WHERE transaction_hash = ? AND request_hash = ?",
                (entry.transaction_hash, entry.request_hash),
            ).fetchone()
        except sqlite3.Error as error:
            self._recover(connection)
            raise store.explain_error(error, self._path) from error
        if row is None and entry.record.after is not None:
            raise Overtaken("another call of the transaction was recorded first")
        if row is None:
            raise StoreUnavailable(f"{self._path}: a row that was there is gone; somebody deletes from the log")
        return APPENDED if row[0] == entry.record.id else AlreadyRecorded(row[0], row[1])

    def _recover(self, connection: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self.disconnect()

    def _names_are_known(self, entries: Sequence[PendingRecord]) -> bool:
        merchants, revisions = self._merchant_ids, self._revision_ids
        return all(entry.record.merchant in merchants and entry.record.revision in revisions for entry in entries)

    def _insert_without_counters(
        self, connection: sqlite3.Connection, entries: Sequence[PendingRecord]
    ) -> list[PendingRecord] | None:
        """One statement that is its own transaction, as long as nobody counts; None when it wrote nothing."""
        if not entries or self.registry.generation:
            return None
        known = values_of(entries)
        if known is None:
            return None
        statement = _INSERTS_WITHOUT_COUNTERS[len(entries) - 1]
        inserted = connection.execute(statement, [*self._parameters(entries), *known]).rowcount
        if inserted == len(entries):
            return []
        return list(entries) if inserted else None

    def _write_events(
        self,
        connection: sqlite3.Connection,
        entries: Sequence[PendingRecord],
        doubtful: Sequence[PendingRecord],
        known: AbstractSet[int],
    ) -> None:
        """The velocity rows of the batch, by the series that are registered in this very transaction."""
        generation = read_generation(connection)
        if not generation:
            return
        if generation != self.registry.generation:
            self.registry = read_registry(connection)
        recorded = self._recorded_of(connection, entries) if doubtful else None
        tail: TailValues = {}
        again: list[ScreeningRecord] = []
        for entry in entries:
            record = entry.record
            row = record.velocity
            if record.velocity_generation != generation:
                rows = rows_of_document(self.registry, record.merchant, record.document)
                row = tail_row_of(rows, record.at_us)
            if not row or (recorded is not None and record.id not in recorded):
                continue
            if entry.transaction_hash in known:
                again.append(record)
            else:
                add_to_tail(tail, record.id, record.at_us, row)
        append_to_tail(connection, tail)
        if again:
            ids = {record.id for record in again}
            for merchant, transaction_id in dict.fromkeys((one.merchant, one.transaction_id) for one in again):
                append_next_steps(connection, self.registry, merchant, transaction_id, ids)

    @staticmethod
    def _recorded_of(connection: sqlite3.Connection, entries: Sequence[PendingRecord]) -> set[int]:
        """The ids of those that the log took: another process may have recorded some of these calls."""
        found = connection.execute(
            "SELECT id FROM screenings WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([entry.record.id for entry in entries]),),
        ).fetchall()
        return {row[0] for row in found}

    @staticmethod
    def _known_transactions(connection: sqlite3.Connection, entries: Sequence[PendingRecord]) -> set[int]:
        """The hashes of those transactions that have a screening in the log, or another one in this batch."""
        hashes = [entry.transaction_hash for entry in entries]
        if len(hashes) <= _ROWS_PER_INSERT:
            rows = connection.execute(_KNOWN[len(hashes)], hashes).fetchall()
        else:
            rows = connection.execute(_KNOWN_OF_MANY, (json.dumps(hashes),)).fetchall()
        known = {row[0] for row in rows}
        if len(set(hashes)) < len(hashes):
            known.update(found for found, count in Counter(hashes).items() if count > 1)
        return known

    def _insert(self, connection: sqlite3.Connection, entries: Sequence[PendingRecord]) -> list[PendingRecord]:
        if not entries:
            return []
        inserted = connection.execute(_INSERTS[len(entries)], self._parameters(entries)).rowcount
        return [] if inserted == len(entries) else list(entries)

    def _parameters(self, entries: Sequence[PendingRecord]) -> list[Parameter]:
        merchants, revisions = self._merchant_ids, self._revision_ids
        parameters: list[Parameter] = []
        for entry in entries:
            record = entry.record
            parameters += (
                record.id,
                entry.transaction_hash,
                entry.request_hash,
                merchants[record.merchant],
                revisions[record.revision],
                record.at_us,
                record.answered_us,
                record.minor,
                record.currency,
                record.outcome,
                record.code,
                record.transaction_id,
                record.card_identity,
                record.document,
            )
        return parameters

    def _write_names(
        self, connection: sqlite3.Connection, entries: Sequence[PendingRecord], files: dict[str, RuleFiles]
    ) -> None:
        for merchant in {entry.record.merchant for entry in entries} - self._merchant_ids.keys():
            connection.execute("INSERT INTO merchants (name) VALUES (?) ON CONFLICT DO NOTHING", (merchant,))
            self._merchant_ids[merchant] = _only_int(
                connection.execute("SELECT id FROM merchants WHERE name = ?", (merchant,))
            )
        for revision in {entry.record.revision for entry in entries} - self._revision_ids.keys() | files.keys():
            connection.execute("INSERT INTO revisions (revision) VALUES (?) ON CONFLICT DO NOTHING", (revision,))
            self._revision_ids[revision] = _only_int(
                connection.execute("SELECT id FROM revisions WHERE revision = ?", (revision,))
            )
        for revision, (rule_set, texts) in files.items():
            self._write_texts(connection, self._revision_ids[revision], rule_set, texts)

    @staticmethod
    def _write_texts(
        connection: sqlite3.Connection, revision_id: int, rule_set: str, texts: Iterable[tuple[str, str]]
    ) -> None:
        connection.execute(
            "UPDATE revisions SET rule_set = ? WHERE id = ? AND rule_set = ''", (rule_set, revision_id)
        )
        for position, (path, text) in enumerate(texts):
            digest = sha256(text.encode()).digest()
            connection.execute(
                "INSERT INTO rule_texts (sha256, text) VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, text)
            )
            connection.execute(
                "INSERT INTO revision_files (revision_id, position, path, text_id)"
                " SELECT ?, ?, ?, id FROM rule_texts WHERE sha256 = ? ON CONFLICT DO NOTHING",
                (revision_id, position, path, digest),
            )

    def close(self) -> None:
        self.merges.stop()
        if self._connection is not None:
            with suppress(sqlite3.Error):
                store.take_checkpoint(self._connection, self._busy_timeout_ms)
        self.disconnect()
        self._turns.close()


def _only_int(cursor: sqlite3.Cursor) -> int:
    row = cursor.fetchone()
    return int(row[0])
