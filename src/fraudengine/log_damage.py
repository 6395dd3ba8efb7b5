"""A damaged decision log is set aside at start, and the service comes up on a new one rather than not at all.

What that means is said until an operator moves the old file away: the new log knows none of the earlier screenings,
so a retry of one is decided anew, a 3-D Secure result is not held against its first step, velocity counters begin
at nothing, and outcomes of earlier screenings are refused. Everything that can still be read stays in the old file.

The check is SQLite's own (`quick_check`), for CHECK_SECONDS at most: a small log is read whole, of a large one a
part. It finds broken pages, not a changed byte within a document, for which SQLite keeps no sum. Keys, lists and
the audit log are never set aside: without them the service must not start.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from . import store
from .diagnostics import StoreUnavailable

CHECK_SECONDS: Final = 2.0
_STEPS_BETWEEN_LOOKS: Final = 10_000
_MARK: Final = ".damaged-"
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def find_damage(path: Path, within_s: float = CHECK_SECONDS) -> str | None:
    """What SQLite finds wrong with a file in that time; None when nothing, or when there is no file."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    until = time.monotonic() + within_s
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS_BETWEEN_LOOKS)
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return str(error) if code in _DAMAGE else None  # what else is wrong, opening it tells
    return None if found == "ok" else " ".join(found.split())


def set_aside_if_damaged(path: Path, now: datetime | None = None) -> str | None:
    """Renames a damaged log with what belongs to it; says where it is, or None when it is sound.

    Raises StoreUnavailable when another process has the log open: it must stop first.
    """
    damage = find_damage(path)
    if damage is None:
        return None
    slot = store.claim_worker_slot(path)
    try:
        if slot.number:
            raise StoreUnavailable(
                f"{path} is damaged ({damage}) and another process uses it: stop that, then start"
            )
        if find_damage(path) is None:  # another worker has set it aside meanwhile
            return None
        moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        aside = path.with_name(f"{path.name}{_MARK}{moment}")
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    except OSError as error:
        raise StoreUnavailable(f"{path} is damaged ({damage}) and cannot be set aside: {error.strerror}") from error
    finally:
        slot.release()
    return f"{path} is damaged ({damage})"


def logs_set_aside(path: Path) -> tuple[str, ...]:
    """A sentence for each damaged log that still lies beside the one in use."""
    held = sorted(path.parent.glob(f"{path.name}{_MARK}*"))
    return tuple(
        f"a damaged decision log was set aside as {old.name}: retries, 3-D Secure steps and velocity counters "
        "began anew without it; restore a backup or recover it (`sqlite3 FILE .recover`), then move it away"
        for old in held
        if not old.name.endswith(("-wal", "-shm"))
    )
