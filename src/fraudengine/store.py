"""The SQLite file under the decision log: how it is opened, its tables, its ids and what its errors mean.

The only importer of `sqlite_utils`. Decisions that a reader would question:

- WAL with synchronous=FULL: a commit that returned survives a power cut. Checkpoints are taken by the writer
  through `take_checkpoint`, never by SQLite on its own: up to 3.51.2 SQLite can corrupt a database when a
  checkpoint runs while another connection commits and restarts the WAL (sqlite.org/wal.html#walresetbug).
  A RESTART checkpoint that gets the write lock keeps commits out while it copies, and so out of that defect's
  way; one that does not get it within CHECKPOINT_BUSY_MS goes on as a PASSIVE one would. Every process of this
  package takes checkpoints so, and a release of SQLite with the fix needs none of it. Given up: commits wait.
- A screening's id is its rowid and grows with time, so rows append to the B-tree. The retried call is found
  through two 64-bit hashes, 20 bytes per index row: a wide text index would not stay in memory at 100 million
  rows. A hash collision cannot mislead: the text is compared as well.
- Migrations only go forward, all pending ones in one transaction under the write lock, so two processes that
  start together apply them once. A file that holds a migration unknown to this release is refused.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Final

from . import velocity_before, velocity_index, velocity_tail
from .diagnostics import StoreUnavailable

# sqlite_utils imports pandas and numpy where they are installed, for column types that nothing here has: more than
# half a second at each start of a command or a worker. Meanwhile those that are not there yet count as absent.
_hidden = [name for name in ("pandas", "numpy") if name not in sys.modules]
for _name in _hidden:
    sys.modules[_name] = None  # type: ignore[assignment]  # what importlib takes for "there is none"
try:
    from sqlite_utils import Database, Migrations
finally:
    for _name in _hidden:
        del sys.modules[_name]

__all__ = [
    "Database",
    "Migrations",
    "Schema",
    "ScreeningIds",
    "WorkerSlot",
    "claim_worker_slot",
    "explain_error",
    "lock_file",
    "open_database",
    "parse_screening_id",
    "request_hash",
    "screening_id_text",
    "take_checkpoint",
    "transaction_hash",
]

_log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x46524445  # "FRDE" in the file's header: tells it from anybody else's SQLite file

# ---- tables ---------------------------------------------------------------------------------------

migrations = Migrations("fraudengine")


@migrations()
def m0001_screenings(db: Database) -> None:
    """The decision log and the rules that decided: texts once per sha256, names as small integers."""
    for statement in (
        "CREATE TABLE merchants (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
        """CREATE TABLE revisions (
            id INTEGER PRIMARY KEY, revision TEXT NOT NULL UNIQUE, rule_set TEXT NOT NULL DEFAULT ''
        ) STRICT""",
        "CREATE TABLE rule_texts (id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, text TEXT NOT NULL) STRICT",
        """CREATE TABLE revision_files (
            revision_id INTEGER NOT NULL REFERENCES revisions (id),
            position INTEGER NOT NULL,
            path TEXT NOT NULL,
            text_id INTEGER NOT NULL REFERENCES rule_texts (id),
            PRIMARY KEY (revision_id, position)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE screenings (
            id INTEGER PRIMARY KEY,
            transaction_hash INTEGER NOT NULL,
            request_hash INTEGER NOT NULL,
            merchant_id INTEGER NOT NULL REFERENCES merchants (id),
            revision_id INTEGER NOT NULL REFERENCES revisions (id),
            at_us INTEGER NOT NULL,
            answered_us INTEGER NOT NULL,
            minor INTEGER NOT NULL,
            currency TEXT NOT NULL,
            outcome TEXT NOT NULL,
            code TEXT NOT NULL,
            transaction_id TEXT NOT NULL,
            card_identity TEXT NOT NULL,
            document BLOB NOT NULL
        ) STRICT""",
        "CREATE UNIQUE INDEX screenings_request ON screenings (transaction_hash, request_hash)",
        # (merchant_id, rowid): one merchant's newest screenings without reading everybody's.
        "CREATE INDEX screenings_merchant ON screenings (merchant_id)",
    ):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


@migrations()
def m0002_velocity(db: Database) -> None:
    """Which velocity series are kept, their events, and what the gateway reports afterwards."""
    for statement in velocity_index.TABLES:
        db.execute(statement)


@migrations()
def m0003_velocity_tail(db: Database) -> None:
    """The newest events in the order of their commits, and how far they are merged into the index."""
    for statement in velocity_tail.TABLES:
        db.execute(statement)


@migrations()
def m0004_late_outcomes(db: Database) -> None:
    """What is reported of payments whose screening is archived: `outcomes` refers to those that are here."""
    db.execute(
        """CREATE TABLE late_outcomes (
            id INTEGER PRIMARY KEY,
            screening_id INTEGER NOT NULL,
            at_us INTEGER NOT NULL,
            kind TEXT NOT NULL,
            code TEXT NOT NULL
        ) STRICT"""
    )
    db.execute("CREATE INDEX late_outcomes_screening ON late_outcomes (screening_id)")


@migrations()
def m0005_velocity_places(db: Database) -> None:
    """Events by one leading integer, and the events of one screening in one row of the tail."""
    made = (velocity_index.EVENTS_TABLE, velocity_tail.TAIL_TABLE)
    for statement in (*velocity_before.SET_ASIDE, *made, *velocity_before.BRING_FORWARD):
        db.execute(statement)
    velocity_before.drop_if_empty(db.conn)


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one kind of file; `application_id` in its header tells it from every other kind."""

    migrations: Migrations
    application_id: int
    when_damaged: str | None = None  # what to do then; without it, a backup is to be restored


# ---- opening --------------------------------------------------------------------------------------

WRITER_CACHE_KIB: Final = 65_536
READER_CACHE_KIB: Final = 16_384
CHECKPOINT_BUSY_MS: Final = 100


def open_database(
    path: Path,
    *,
    create: bool = True,
    query_only: bool = False,
    busy_timeout_ms: int = 5_000,
    schema: Schema | None = None,
) -> Database:
    """The database with its tables up to date (by default the decision log's); for one thread at a time.

    A file that is made gets mode 0600, and its directory 0700 when that is made too. `query_only` refuses
    writes and applies no migration. Raises StoreUnavailable.
    """
    schema = schema or Schema(migrations, APPLICATION_ID)
    try:
        if create and not query_only:
            _create_private_file(path)
        elif not path.exists():
            raise StoreUnavailable(f"{path} is gone: put the file back, or restart to begin a new one")
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            timeout=busy_timeout_ms / 1000,
        )
    except OSError as error:
        raise StoreUnavailable(
            f"cannot open {path}: {error.strerror}; check the directory and its owner"
        ) from error
    except sqlite3.Error as error:
        raise explain_error(error, path, schema.when_damaged) from error
    try:
        # Plug-ins of sqlite-utils that happen to be installed have no business in this file.
        database = Database(connection, execute_plugins=False)
        database.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB if query_only else WRITER_CACHE_KIB}")
        database.execute("PRAGMA foreign_keys = ON")
        _refuse_foreign_or_newer(database, path, schema)
        if query_only:
            database.execute("PRAGMA query_only = ON")
        else:
            database.enable_wal()
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA wal_autocheckpoint = 0")
            _migrate(database, path, schema)
    except sqlite3.Error as error:
        connection.close()
        raise explain_error(error, path, schema.when_damaged) from error
    except BaseException:
        connection.close()
        raise
    return database


def _create_private_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return


def _migrate(database: Database, path: Path, schema: Schema) -> None:
    if not schema.migrations.pending(database):
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        _refuse_foreign_or_newer(database, path, schema)
        if database.table_names():
            pending = ", ".join(one.name for one in schema.migrations.pending(database))
            _log.warning("bringing %s (%.1f MB) forward to this release: %s", path, _megabytes(path), pending)
        schema.migrations.apply(database)
        database.commit()
    finally:
        database.rollback()


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def _refuse_foreign_or_newer(database: Database, path: Path, schema: Schema) -> None:
    unknown = {done.name for done in schema.migrations.applied(database)} - _known_migrations(schema)
    if unknown:
        raise StoreUnavailable(
            f"{path} was written by a newer release of fraudengine (it holds {', '.join(sorted(unknown))}): "
            "install that release, or restore a backup made before the upgrade"
        )
    application_id = database.execute("PRAGMA application_id").fetchone()[0]
    if application_id != schema.application_id and (application_id or database.table_names()):
        raise StoreUnavailable(f"{path} is a database of another program: name another file")


def _known_migrations(schema: Schema) -> set[str]:
    with closing(sqlite3.connect(":memory:")) as empty:
        pending = schema.migrations.pending(Database(empty, execute_plugins=False))
        return {migration.name for migration in pending}


def take_checkpoint(connection: sqlite3.Connection, busy_timeout_ms: int) -> bool:
    """Moves the WAL into the database file, so that the next commit starts the WAL over; True when all moved.

    RESTART rather than PASSIVE, because it asks for the write lock; see the module's docstring. A reader that
    stays in the way costs CHECKPOINT_BUSY_MS, not `busy_timeout_ms`, which is put back afterwards.
    """
    connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_BUSY_MS}")
    try:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    return not busy


# ---- errors ---------------------------------------------------------------------------------------

_WHAT_TO_DO: Final[dict[int, str]] = {
    sqlite3.SQLITE_FULL: "the disk is full: free space or enlarge the volume; recording resumes by itself",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write: check the volume and the system log",
    sqlite3.SQLITE_READONLY: "it cannot be written: check the owner, the mode and whether the volume is read-only",
    sqlite3.SQLITE_PERM: "access is denied: check the owner and the mode",
    sqlite3.SQLITE_CANTOPEN: "check that its directory exists, is this user's, and is not on a read-only volume",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop, keep a copy, and restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is not a database or is damaged: keep a copy, and restore a backup",
    sqlite3.SQLITE_BUSY: "another process holds it locked: find who writes to it (`fuser`) and stop that",
    sqlite3.SQLITE_LOCKED: "another connection holds it locked",
    sqlite3.SQLITE_PROTOCOL: "its locks do not work: it must lie on a local disk, not on a network share",
    sqlite3.SQLITE_NOMEM: "no memory is left",
}


_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def explain_error(
    error: sqlite3.Error, path: Path, when_damaged: str | None = None
) -> StoreUnavailable | sqlite3.Error:
    """StoreUnavailable with what to do when disk, file or lock is at fault; our own mistakes stay."""
    code = getattr(error, "sqlite_errorcode", None)
    advice = _WHAT_TO_DO.get(code & 0xFF) if code is not None else None
    if when_damaged is not None and code is not None and code & 0xFF in _DAMAGED:
        advice = when_damaged
    if advice is None:
        return error
    return StoreUnavailable(f"{path}: {error}; {advice}")


# ---- hashes ---------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def transaction_hash(merchant: str, transaction_id: str) -> int:
    """64 bits of BLAKE2b over merchant and transaction id, signed as SQLite's integers are."""
    return int.from_bytes(
        blake2b(f"{merchant}\0{transaction_id}".encode(), digest_size=8).digest(), "big", signed=True
    )


def request_hash(digest: bytes) -> int:
    """The first 64 bits of the request's digest, signed as SQLite's integers are."""
    if len(digest) < 8:
        raise ValueError("a request digest has at least 8 bytes")
    return int.from_bytes(digest[:8], "big", signed=True)


# ---- ids ------------------------------------------------------------------------------------------

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_DIGITS: Final = {letter: value for value, letter in enumerate(_ALPHABET)} | {"i": 1, "l": 1, "o": 0}
_PREFIX: Final = "scr_"
_LENGTH: Final = 13
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
WORKER_BITS: Final = 8
COUNTER_BITS: Final = 13
_TIME_SHIFT: Final = WORKER_BITS + COUNTER_BITS
_COUNTER_MASK: Final = (1 << COUNTER_BITS) - 1


def screening_id_text(screening_id: int) -> str:
    """`scr_` and 13 characters of Crockford's base 32; texts sort as the ids do."""
    if not 0 <= screening_id < 1 << 63:
        raise ValueError("a screening id has 63 bits")
    pairs = (screening_id >> 50 & 1023, screening_id >> 40 & 1023, screening_id >> 30 & 1023)
    high = _ALPHABET[screening_id >> 60] + _PAIRS[pairs[0]] + _PAIRS[pairs[1]] + _PAIRS[pairs[2]]
    low = _PAIRS[screening_id >> 20 & 1023] + _PAIRS[screening_id >> 10 & 1023] + _PAIRS[screening_id & 1023]
    return _PREFIX + high + low


def parse_screening_id(text: str) -> int | None:
    """The id, or None when the text is none; takes capitals and the look-alikes I, L and O as Crockford does."""
    lowered = text.strip().lower()
    if len(lowered) != len(_PREFIX) + _LENGTH or not lowered.startswith(_PREFIX):
        return None
    value = 0
    for letter in lowered[len(_PREFIX) :]:
        digit = _DIGITS.get(letter)
        if digit is None:
            return None
        value = value << 5 | digit
    return value if value < 1 << 63 else None


class ScreeningIds:
    """Ids of one worker: 42 bits of milliseconds since 1970, 8 of worker, 13 of counter; always increasing.

    A clock that steps back, or more than 8,192 ids in a millisecond, makes the time part run ahead of the clock.
    `after` is the greatest id recorded so far, by whomever.
    """

    def __init__(self, worker: int, after: int = 0, clock_us: Callable[[], int] | None = None) -> None:
        self._worker = worker << COUNTER_BITS
        self._clock_us = clock_us or _utc_us
        # INVARIANT: the first id lies a millisecond past `after`, so no earlier holder of the slot made it.
        self._last = (((after >> _TIME_SHIFT) + 1) << _TIME_SHIFT) - 1 if after else 0
        self._lock = threading.Lock()

    def next_id(self, after: int = 0) -> int:
        """The next id, greater than `after` too: another worker may have made that one in this millisecond."""
        now = (self._clock_us() // 1000) << _TIME_SHIFT | self._worker
        if now <= after:
            now = ((after >> _TIME_SHIFT) + 1) << _TIME_SHIFT | self._worker
        with self._lock:
            last = self._last
            if now <= last:
                now = last + 1
                if last & _COUNTER_MASK == _COUNTER_MASK:
                    now = ((last >> _TIME_SHIFT) + 1) << _TIME_SHIFT | self._worker
            self._last = now
        return now


def _utc_us() -> int:
    return time.time_ns() // 1000


class WorkerSlot:
    """The number of this worker among those that write to one log; the kernel frees it when the process dies."""

    def __init__(self, number: int, descriptor: int) -> None:
        self.number = number
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lock_file(name: Path) -> int | None:
    """A descriptor that holds the lock of a file, made when it is missing; None when another process holds it.

    `flock`: the kernel frees it when the process dies. Closing the descriptor frees it too; the file stays behind
    empty. Raises StoreUnavailable.
    """
    try:
        descriptor = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(
            f"cannot open {name}: {error.strerror}; check the directory and its owner"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise StoreUnavailable(f"cannot lock {name}: {error.strerror}; it must lie on a local disk") from error
    return descriptor


def claim_worker_slot(path: Path) -> WorkerSlot:
    """The lowest number that no other open log on this file holds: two workers never make the same id.

    Held through the lock of `<file>.worker-NNN`. Raises StoreUnavailable.
    """
    for number in range(1 << WORKER_BITS):
        descriptor = lock_file(path.with_name(f"{path.name}.worker-{number:03d}"))
        if descriptor is not None:
            return WorkerSlot(number, descriptor)
    raise StoreUnavailable(f"{1 << WORKER_BITS} workers write to {path} already")
