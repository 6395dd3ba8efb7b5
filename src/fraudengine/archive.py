"""Old months of the decision log as Parquet files, `archive/screenings-YYYY-MM.parquet`, and out of SQLite.

A month is archived in steps, each of which may be cut off by `kill -9` and is gone on with by the next call:

1. a draft is written, made durable and read back; every row of it must be what was read from the log;
2. the draft gets its name: from now on the file is whole and never changes;
3. rows are deleted from the log a few at a time, each only if the file holds it as it is now, with its outcomes.

Decisions that a reader would question:

- A month goes only when it ended KEPT_DAYS ago: counters reach 90 days back, and so does the filling of new ones.
- Rows that came to a month after its file was made go to a second file, `screenings-YYYY-MM.2.parquet`.
- SQLite uses the pages again that a month leaves; the file does not shrink. Who wants the disk back: `VACUUM`.
- A call that repeats an archived transaction, months later, is decided anew.
- What is reported of an archived payment stays in the log's file (`late_outcomes`).
- pyarrow comes with the extra `replay`. The payment path never imports it.

Columns: those of the table `screenings` (times in UTC microseconds, `minor` in minor units), with `merchant` and
`revision` as texts, `document` as the JSON that was recorded, and `outcomes`, the reports in their order.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeAlias

from . import store
from .archive_reading import (
    DIRECTORY,
    FORMAT,
    FORMAT_KEY,
    Row,
    archive_files,
    ids_of_month,
    load_pyarrow,
    month_of,
    rows_of_file,
)
from .audit import AuditLog, AuditRow, who_acts
from .diagnostics import ConfigurationError, StoreUnavailable
from .search_index import first_id_at

KEPT_DAYS: Final = 93
DAY_US: Final = 86_400_000_000
ROWS_IN_GROUP: Final = 4_096
_DELETED_AT_ONCE: Final = 500

Step: TypeAlias = Callable[[str], None]

COLUMNS: Final = (
    "id",
    "merchant",
    "revision",
    "transaction_hash",
    "request_hash",
    "at_us",
    "answered_us",
    "minor",
    "currency",
    "outcome",
    "code",
    "transaction_id",
    "card_identity",
    "document",
)
_OWN: Final = frozenset(COLUMNS) - {"merchant", "revision"} | {"merchant_id", "revision_id"}
_SELECT: Final = (
    "SELECT s.id, m.name, r.revision, s.transaction_hash, s.request_hash, s.at_us, s.answered_us, s.minor,"
    " s.currency, s.outcome, s.code, s.transaction_id, s.card_identity, s.document,"
    " (SELECT json_group_array(json_array(id, at_us, kind, code)) FROM"
    " (SELECT id, at_us, kind, code FROM outcomes WHERE screening_id = s.id ORDER BY id))"
    " FROM screenings s JOIN merchants m ON m.id = s.merchant_id JOIN revisions r ON r.id = s.revision_id"
)


@dataclass(frozen=True, slots=True)
class ArchivedMonth:
    """What one call did with a month: rows written to files, deleted from the log, and left for the next call."""

    month: str
    files: tuple[Path, ...]
    written: int
    deleted: int
    left: int


def old_months(state: Path, older_than_days: int, now_us: int) -> list[str]:
    """The months in the log that ended so long ago, the oldest first.

    Raises ConfigurationError for fewer days than counters reach back.
    """
    if older_than_days < KEPT_DAYS:
        raise ConfigurationError(
            f"screenings stay in the log for {KEPT_DAYS} days at least: velocity counters reach 90 days back"
        )
    found: list[str] = []
    with opened_log(state) as connection:
        after = -1
        while True:
            row = connection.execute("SELECT min(id) FROM screenings WHERE id > ?", (after,)).fetchone()
            if row[0] is None:
                return found
            month = month_of(row[0])
            after = ids_of_month(month)[1] - 1
            if after >= first_id_at(now_us - older_than_days * DAY_US):
                return found
            found.append(month)


def archive_month(state: Path, month: str, audit: AuditLog, step: Step = lambda name: None) -> ArchivedMonth:
    """Moves a month from the log to files. `step` is told of each step that was done.

    Raises StoreUnavailable, and then nothing is lost: what was deleted from the log is in a file that was verified.
    """
    load_pyarrow()
    with alone(state), opened_log(state, writes=True) as connection:
        _refuse_what_is_not_understood(connection)
        deleted = written = 0
        for path in archive_files(state, month):  # a call before this one may have been cut off
            deleted += _delete_what_the_file_holds(connection, path, step)
        low, high = ids_of_month(month)
        if _count(connection, low, high):
            path, written = _write_file(connection, state, month, step)
            told = {"month": month, "file": path.name, "screenings": written}
            audit.record(AuditRow("log.archive", who_acts(), told))
            step("told")
            deleted += _delete_what_the_file_holds(connection, path, step)
        left = _count(connection, low, high)
    return ArchivedMonth(month, tuple(archive_files(state, month)), written, deleted, left)


# ---- writing --------------------------------------------------------------------------------------


def _schema() -> Any:
    arrow, _ = load_pyarrow()
    numbers = {"id", "transaction_hash", "request_hash", "at_us", "answered_us", "minor"}
    outcome = arrow.struct(
        [("id", arrow.int64()), ("at_us", arrow.int64()), ("kind", arrow.string()), ("code", arrow.string())]
    )
    fields = [
        (name, arrow.int64() if name in numbers else arrow.binary() if name == "document" else arrow.string())
        for name in COLUMNS
    ]
    return arrow.schema([*fields, ("outcomes", arrow.list_(outcome))], metadata={FORMAT_KEY: FORMAT})


def _write_file(connection: sqlite3.Connection, state: Path, month: str, step: Step) -> tuple[Path, int]:
    arrow, parquet = load_pyarrow()
    directory = state / DIRECTORY
    number = len(archive_files(state, month)) + 1
    path = directory / f"screenings-{month}{'' if number == 1 else f'.{number}'}.parquet"
    draft = directory / f".{path.name}.unfinished"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        draft.unlink(missing_ok=True)
        rows, digest = 0, blake2b(digest_size=16)
        schema = _schema()
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "wb") as file:
            with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
                for batch in _rows_of_log(connection, *ids_of_month(month)):
                    _add_to_digest(digest, batch)
                    rows += len(batch)
                    writer.write_table(arrow.Table.from_pylist(batch, schema=schema), row_group_size=len(batch))
                    step("written")
            file.flush()
            os.fsync(file.fileno())
        step("synced")
        read, again = 0, blake2b(digest_size=16)
        for batch in rows_of_file(draft):
            _add_to_digest(again, batch)
            read += len(batch)
        if (read, again.digest()) != (rows, digest.digest()):
            draft.unlink()
            raise StoreUnavailable(f"{path}: what was read back is not what was written; nothing was deleted")
        step("verified")
        os.rename(draft, path)
        sync_directory(directory)
        sync_directory(state)
    except (OSError, arrow.ArrowException) as error:
        raise StoreUnavailable(f"{path} cannot be written: {error}; nothing was deleted") from error
    step("named")
    return path, rows


def _rows_of_log(connection: sqlite3.Connection, low: int, high: int) -> Iterator[list[Row]]:
    """In short reads, so that the service's checkpoints wait for none of them."""
    while True:
        found = connection.execute(
            f"{_SELECT} WHERE s.id >= ? AND s.id < ? ORDER BY s.id LIMIT ?", (low, high, ROWS_IN_GROUP)
        ).fetchall()
        if found:
            yield [_row(one) for one in found]
        if len(found) < ROWS_IN_GROUP:
            return
        low = found[-1][0] + 1


def _row(found: Sequence[Any]) -> Row:
    row = dict(zip(COLUMNS, found[:-1], strict=True))
    names = ("id", "at_us", "kind", "code")
    row["outcomes"] = [dict(zip(names, one, strict=True)) for one in json.loads(found[-1])]
    return row


def _add_to_digest(digest: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        digest.update(repr([(name, row[name]) for name in (*COLUMNS, "outcomes")]).encode())


# ---- deleting -------------------------------------------------------------------------------------


def _delete_what_the_file_holds(connection: sqlite3.Connection, path: Path, step: Step) -> int:
    deleted = 0
    for batch in rows_of_file(path):
        for start in range(0, len(batch), _DELETED_AT_ONCE):
            part = {row["id"]: row for row in batch[start : start + _DELETED_AT_ONCE]}
            connection.execute("BEGIN IMMEDIATE")
            try:
                found = connection.execute(
                    f"{_SELECT} WHERE s.id IN (SELECT value FROM json_each(?))", (json.dumps(list(part)),)
                ).fetchall()
                same = json.dumps([one[0] for one in found if _row(one) == part[one[0]]])
                delete_screenings(connection, same)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            deleted += len(json.loads(same))
            if found:
                store.take_checkpoint(connection, 5_000)
                step("deleted")
    return deleted


def delete_screenings(connection: sqlite3.Connection, ids: str) -> None:
    """Deletes the screenings of a JSON array of ids, with their outcomes, in the transaction that is open."""
    connection.execute("DELETE FROM outcomes WHERE screening_id IN (SELECT value FROM json_each(?))", (ids,))
    connection.execute("DELETE FROM screenings WHERE id IN (SELECT value FROM json_each(?))", (ids,))


def _count(connection: sqlite3.Connection, low: int, high: int) -> int:
    found = connection.execute("SELECT count(*) FROM screenings WHERE id >= ? AND id < ?", (low, high)).fetchone()
    return int(found[0])


def _refuse_what_is_not_understood(connection: sqlite3.Connection) -> None:
    columns = {row[1] for row in connection.execute("PRAGMA table_info(screenings)")}
    if columns != _OWN:
        raise StoreUnavailable(
            f"the log has columns that an archive would lose ({', '.join(sorted(columns ^ _OWN))})"
        )
    filling = connection.execute("SELECT count(*) FROM velocity_series WHERE filled_id < upto_id").fetchone()[0]
    if filling:
        raise StoreUnavailable(
            f"{filling} velocity counters are still being filled from the log: archive when the service is done"
        )


# ---- files ----------------------------------------------------------------------------------------


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """One archiving or purging process at a time."""
    lock = os.open(state / f"{DIRECTORY}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreUnavailable("another process archives or purges just now") from None
    finally:
        os.close(lock)


@contextmanager
def opened_log(state: Path, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
    path = state / "decisions.db"
    if not path.exists():
        raise StoreUnavailable(f"there is no decision log in {state}: name the service's directory with --state")
    connection = store.open_database(path, create=False, query_only=not writes).conn
    try:
        yield connection
    except sqlite3.Error as error:
        raise store.explain_error(error, path) from error
    finally:
        with suppress(sqlite3.Error):
            connection.close()


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
