"""The append-only audit log, `var/audit.db`: who changed lists, keys or rules, when, and what.

Decisions that a reader would question:

- A row is durable before the change that it tells of, because the two are in different files. So no change is ever
  without its row; a change that then failed is followed by a row that says so, and one cut off by a crash leaves a
  row whose change is not there, which the file of the change shows.
- Triggers refuse UPDATE and DELETE, which stops accidents and this program's own mistakes. Whoever may write the
  file could drop them, so each row also holds the SHA-256 of itself and the row before: `fraudengine audit
  --verify` finds the first row that was altered or taken out. Keep the newest hash elsewhere to notice a cut tail.
- Rows never hold a card number: every text is masked before it is written.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from . import store
from .cards import hide_pans
from .store import Database, Migrations, Schema

APPLICATION_ID: Final = 0x46524441  # "FRDA"

migrations = Migrations("fraudengine audit")


@migrations()
def m0001_rows(db: Database) -> None:
    """Rows that nothing may change, and what each rule file was when it was last told of."""
    for statement in (
        """CREATE TABLE audit (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at_us INTEGER NOT NULL,
            action TEXT NOT NULL,
            who TEXT NOT NULL,
            merchant TEXT NOT NULL,
            what TEXT NOT NULL,
            hash BLOB NOT NULL
        ) STRICT""",
        """CREATE TRIGGER audit_is_never_updated BEFORE UPDATE ON audit
            BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END""",
        """CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
            BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END""",
        "CREATE TABLE rule_files (path TEXT PRIMARY KEY, sha256 TEXT NOT NULL) STRICT, WITHOUT ROWID",
    ):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


AUDIT: Final = Schema(migrations, APPLICATION_ID)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A change: its kind (`lists.add`), who made it, and what it was in JSON's terms."""

    action: str
    who: str
    what: Mapping[str, Any]
    merchant: str = ""


@dataclass(frozen=True, slots=True)
class RecordedRow:
    """A row as it is kept; `at_us` is UTC microseconds."""

    id: int
    at_us: int
    action: str
    who: str
    merchant: str
    what: dict[str, Any]


class AuditLog:
    """The audit log of one state directory; any number of processes append to it."""

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = state / "audit.db"
        self._clock = clock
        self._lock = threading.Lock()
        self._connection = store.open_database(self.path, schema=AUDIT).conn

    def record(self, *rows: AuditRow) -> None:
        """Appends the rows in one durable transaction; raises StoreUnavailable."""
        with self._writing() as connection:
            for row in rows:
                self._append(connection, row)

    @contextmanager
    def change(self, row: AuditRow) -> Iterator[None]:
        """Records the row, then lets the change happen; one that fails is followed by a row that says so."""
        self.record(row)
        try:
            yield
        except Exception as error:
            failed = {**row.what, "failed": hide_pans(str(error)) or type(error).__name__}
            self.record(AuditRow(f"{row.action}.failed", row.who, failed, row.merchant))
            raise

    def record_rule_files(self, files: Mapping[str, tuple[str, str]]) -> int:
        """Tells of every rule file that is not as it was told of last, once for all processes; how many there were.

        `files` are path -> (SHA-256 of the text in force, who owns the file).
        """
        with self._writing() as connection:
            known = dict(connection.execute("SELECT path, sha256 FROM rule_files"))
            changed = [path for path in sorted(files) if known.get(path) != files[path][0]]
            removed = sorted(known.keys() - files.keys())
            by_owner: dict[str, list[dict[str, str | None]]] = {}
            for path in changed:
                digest, owner = files[path]
                told = {"file": path, "before": known.get(path), "after": digest}
                by_owner.setdefault(owner, []).append(told)
                connection.execute("INSERT OR REPLACE INTO rule_files VALUES (?, ?)", (path, digest))
            for path in removed:
                by_owner.setdefault("unknown", []).append({"file": path, "before": known[path], "after": None})
                connection.execute("DELETE FROM rule_files WHERE path = ?", (path,))
            for owner, told_files in sorted(by_owner.items()):
                self._append(connection, AuditRow("rules.change", f"owner {owner}", {"files": told_files}))
        return len(changed) + len(removed)

    def rows(
        self,
        *,
        limit: int = 100,
        since_us: int = 0,
        action: str = "",
        who: str = "",
        merchant: str = "",
        before: int | None = None,
    ) -> tuple[RecordedRow, ...]:
        """The newest rows first. `action` may be a prefix (`lists`), `who` any part of the name."""
        try:
            found = self._connection.execute(
                "SELECT id, at_us, action, who, merchant, what FROM audit WHERE id < ? AND at_us >= ?"
                " AND substr(action, 1, length(?)) = ? AND instr(lower(who), lower(?)) AND (? = '' OR merchant = ?)"
                " ORDER BY id DESC LIMIT ?",
                (
                    (1 << 63) - 1 if before is None else before,
                    since_us,
                    action,
                    action,
                    who,
                    merchant,
                    merchant,
                    limit,
                ),
            ).fetchall()
        except sqlite3.Error as error:
            raise store.explain_error(error, self.path) from error
        return tuple(
            RecordedRow(row_id, at_us, action, who, merchant, json.loads(what))
            for row_id, at_us, action, who, merchant, what in found
        )

    def verify(self) -> tuple[int, int | None]:
        """How many rows follow from each other, and the id of the first that does not (None: all do)."""
        before, count, expected = b"", 0, 1
        for row_id, at_us, action, who, merchant, what, digest in self._connection.execute(
            "SELECT id, at_us, action, who, merchant, what, hash FROM audit ORDER BY id"
        ):
            before = _hash(before, at_us, action, who, merchant, what)
            if row_id != expected or before != digest:
                return count, row_id
            count, expected = count + 1, row_id + 1
        return count, None

    def _append(self, connection: sqlite3.Connection, row: AuditRow) -> None:
        newest = connection.execute("SELECT at_us, hash FROM audit ORDER BY id DESC LIMIT 1").fetchone()
        at_us = max(int(self._clock() * 1_000_000), newest[0] if newest else 0)
        what = json.dumps(_masked(row.what), ensure_ascii=False, sort_keys=True)
        told = (at_us, hide_pans(row.action), hide_pans(row.who), hide_pans(row.merchant), what)
        connection.execute(
            "INSERT INTO audit (at_us, action, who, merchant, what, hash) VALUES (?, ?, ?, ?, ?, ?)",
            (*told, _hash(newest[1] if newest else b"", *told)),
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        with self._lock:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise store.explain_error(error, self.path) from error
            finally:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")

    def close(self) -> None:
        with self._lock:
            with suppress(sqlite3.Error):
                store.take_checkpoint(self._connection, 1_000)
            self._connection.close()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hash(before: bytes, at_us: int, *texts: str) -> bytes:
    return sha256(before + json.dumps([at_us, *texts], ensure_ascii=False).encode()).digest()


_DIGEST: Final = re.compile("[0-9a-f]{64}")


def _masked(value: Any) -> Any:
    """The value with every card number in its texts masked; a SHA-256, whose digits mean nothing, stays."""
    match value:
        case str():
            return value if _DIGEST.fullmatch(value) else hide_pans(value)
        case Mapping():
            return {hide_pans(str(name)): _masked(item) for name, item in value.items()}
        case list() | tuple():
            return [_masked(item) for item in value]
        case _:
            return value


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call over HTTP: the name of the key's owner, and `who` as the audit log tells key and address."""

    owner: str
    who: str


acting: ContextVar[Caller | None] = ContextVar("acting", default=None)
"""Who the current call is made by; None: whoever runs this process."""


def who_acts() -> str:
    caller = acting.get()
    return caller.who if caller is not None else operator()


def sign(author: str) -> str:
    """The author of a change as it is kept: nobody signs for another over HTTP without that being told.

    Without a name it is the owner of the key; another name stands with the owner behind it. On the command line
    the name is kept as it is given.
    """
    caller = acting.get()
    if caller is None or author == caller.owner:
        return author
    if not author:
        return caller.owner
    behind = f" (by key {caller.owner})"
    return author if author.endswith(behind) else author + behind


def operator() -> str:
    """Who runs this command, as the system knows it; behind `sudo`, who called that."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = f"uid {os.getuid()}"
    caller = os.environ.get("SUDO_USER", "")
    return f"{caller} (as {user})" if caller and caller != user else user
