"""API keys: who may call, in which role, for which merchants. Decisions that a reader would question:

- A key is 258 random bits, so one SHA-256 hides it as well as a slow hash would and costs a screening under a
  microsecond. A caller's key is hashed first and looked up by that hash, so timing tells nothing about a key.
- Every key in force is held in memory, by hash. One shared number (`list_generation`) tells every process that a
  key was made or revoked: the call that arrives after the answer to "revoke" is refused, in every worker.
- A key is written in small letters only: no run of digits that could be taken for a card number, and nothing that
  a double click does not select. It begins with its environment, so that a test key is known as one anywhere.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from . import store
from .access_tables import ACCESS
from .audit import AuditLog, AuditRow
from .cards import find_pans
from .diagnostics import ConfigurationError, FraudengineError, StoreUnavailable
from .list_generation import Generation

Environment: TypeAlias = Literal["live", "test"]

KEY: Final = re.compile(r"fe_(live|test)_([a-z]{8})_[a-z]{55}")
_LETTERS: Final = string.ascii_lowercase
LOOK_AGAIN_S: Final = 1.0
DEVELOPMENT_NAME: Final = "development"


class Role(StrEnum):
    """Who a key is for. What each may do is the table `MAY`."""

    GATEWAY = "gateway"
    SUPPORT = "support"
    ANALYST = "analyst"
    ADMIN = "admin"


class Action(StrEnum):
    """What a call does, as far as access goes."""

    SCREEN = "screen"
    OUTCOME = "report outcomes"
    READ = "read"
    CHANGE_LISTS = "change lists"
    METRICS = "read metrics"
    ADMINISTER = "administer"
    LOOK = "read the documentation"


MAY: Final[dict[Role, frozenset[Action]]] = {
    Role.GATEWAY: frozenset({Action.SCREEN, Action.OUTCOME, Action.READ, Action.LOOK}),
    Role.SUPPORT: frozenset({Action.READ, Action.CHANGE_LISTS, Action.OUTCOME, Action.LOOK}),
    Role.ANALYST: frozenset({Action.READ, Action.METRICS, Action.LOOK}),
    Role.ADMIN: frozenset(Action),
}


class KeyRefused(FraudengineError):
    """A key that is asked for cannot be made, or there is none to revoke; the message says why."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one key allows. `merchants` is None for all of them."""

    key_id: str
    name: str
    role: Role
    merchants: frozenset[str] | None
    digest: bytes
    expires_s: float = float("inf")

    def may(self, action: Action) -> bool:
        return action in MAY[self.role]

    def covers(self, merchant: str) -> bool:
        return self.merchants is None or merchant in self.merchants

    @property
    def who(self) -> str:
        """How the audit log and list entries name the holder."""
        return f"{self.name} (key {self.key_id})"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key as `fraudengine keys list` shows it; times are UTC microseconds."""

    id: str
    name: str
    role: Role
    merchants: tuple[str, ...]
    created_us: int
    created_by: str
    expires_us: int | None
    revoked_us: int | None
    revoked_by: str | None

    def state(self, now_us: int) -> str:
        if self.revoked_us is not None:
            return "revoked"
        return "expired" if self.expires_us is not None and self.expires_us <= now_us else "in force"


_COLUMNS: Final = "id, name, role, merchants, created_us, created_by, expires_us, revoked_us, revoked_by"


class AccessKeys:
    """The keys of one state directory: made, listed, revoked, and asked on every call."""

    def __init__(
        self, state: Path, environment: Environment, audit: AuditLog, clock: Callable[[], float] = time.time
    ) -> None:
        self.environment: Environment = environment
        self.path = state / "access.db"
        self._audit = audit
        self._clock = clock
        self._lock = threading.RLock()
        self._connection = store.open_database(self.path, schema=ACCESS).conn
        self._generation = Generation(state / "access.generation")
        self._cell = self._generation.cell
        self._grants: dict[bytes, Grant] = {}
        self._seen = -1
        self._look_again = 0.0
        self._take_up()

    # ---- asking -------------------------------------------------------------------------------------

    def grant(self, headers: Iterable[tuple[bytes, bytes]]) -> Grant | None:
        """The grant of the key in `Authorization: Bearer`, or None when there is none in force."""
        for name, value in headers:
            if name == b"authorization":
                if value[:7].lower() != b"bearer ":
                    return None
                return self.grant_of(value[7:].strip())
        return None

    def grant_of(self, key: bytes) -> Grant | None:
        now = self._clock()
        if self._cell[0] != self._seen:
            self._take_up()
        elif now >= self._look_again:
            with suppress(StoreUnavailable):  # what is in memory is what was in force a second ago
                self._take_up()
        digest = sha256(key).digest()
        grant = self._grants.get(digest)
        if grant is None or now >= grant.expires_s or not compare_digest(grant.digest, digest):
            return None
        return grant

    def _take_up(self) -> None:
        """Reads what is in force. Once a second as well: a writer killed before it published tells nobody."""
        with self._lock:
            self._look_again = self._clock() + LOOK_AGAIN_S
            seen = self._cell[0]
            newest = self._rows("SELECT coalesce(max(id), 0) FROM changes")[0][0]
            if newest != seen or self._seen != newest:
                rows = self._rows(f"SELECT {_COLUMNS}, digest FROM keys WHERE revoked_us IS NULL")
                self._grants = {row[-1]: _read_grant(row) for row in rows}
                if newest != seen:
                    self._generation.publish(newest)
                self._seen = newest

    @property
    def names(self) -> frozenset[str]:
        """Whose keys are not revoked."""
        return frozenset(grant.name for grant in self._grants.values())

    # ---- changing -----------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        role: Role,
        *,
        by: str,
        merchants: Iterable[str] = (),
        expires_us: int | None = None,
    ) -> tuple[str, KeyRow]:
        """A new key, whose text is in no file and cannot be had again, and its row. Raises KeyRefused."""
        scope = tuple(sorted(set(merchants)))
        _check_name(name)
        for merchant in scope:
            _check_name(merchant)
        now_us = self._now_us()
        if expires_us is not None and expires_us <= now_us:
            raise KeyRefused("the key would have expired already; name a later date")
        key_id = "".join(secrets.choice(_LETTERS) for _ in range(8))
        secret = "".join(secrets.choice(_LETTERS) for _ in range(55))
        key = f"fe_{self.environment}_{key_id}_{secret}"
        row = KeyRow(key_id, name, role, scope, now_us, by, expires_us, None, None)
        told = {"key": key_id, "name": name, "role": role.value, "merchants": list(scope)}
        with self._audit.change(AuditRow("keys.create", by, told)):
            self._write(
                "INSERT INTO keys (id, digest, name, role, merchants, created_us, created_by, expires_us)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key_id,
                    sha256(key.encode()).digest(),
                    name,
                    role.value,
                    json.dumps(scope),
                    now_us,
                    by,
                    expires_us,
                ),
                key_id,
            )
        return key, row

    def revoke(self, key_id: str, *, by: str) -> KeyRow:
        """Ends a key from now on, in every process. Raises KeyRefused when there is none of that id."""
        found = next((row for row in self.rows() if row.id == key_id), None)
        if found is None:
            raise KeyRefused("there is no key of that id; `fraudengine keys list` shows the ids")
        if found.revoked_us is not None:
            return found
        with self._audit.change(AuditRow("keys.revoke", by, {"key": key_id, "name": found.name})):
            self._write(
                "UPDATE keys SET revoked_us = ?, revoked_by = ? WHERE id = ?", (self._now_us(), by, key_id), key_id
            )
        return next(row for row in self.rows() if row.id == key_id)

    def rows(self) -> tuple[KeyRow, ...]:
        """Every key that there ever was, oldest first."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM keys ORDER BY created_us, id")
        return tuple(_read_row(row) for row in rows)

    def _now_us(self) -> int:
        return int(self._clock() * 1_000_000)

    def _write(self, sql: str, parameters: tuple[Any, ...], key_id: str) -> None:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute(sql, parameters)
                change = self._connection.execute("INSERT INTO changes (key_id) VALUES (?)", (key_id,)).lastrowid
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                raise store.explain_error(error, self.path) from error
            self._generation.publish(change or 0)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(sql).fetchall()
            except sqlite3.Error as error:
                raise store.explain_error(error, self.path) from error

    def close(self) -> None:
        with self._lock:
            with suppress(sqlite3.Error):
                store.take_checkpoint(self._connection, 1_000)
            self._connection.close()
            self._generation.close()

    def __enter__(self) -> AccessKeys:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_environment(key: str) -> Environment | None:
    """The environment that a key's text names; None when it has no key's form."""
    found = KEY.fullmatch(key)
    if found is None:
        return None
    return "live" if found[1] == "live" else "test"


def _read_row(row: tuple[Any, ...]) -> KeyRow:
    return KeyRow(row[0], row[1], Role(row[2]), tuple(json.loads(row[3])), *row[4:9])


def _read_grant(row: tuple[Any, ...]) -> Grant:
    key = _read_row(row[:9])
    expires_s = float("inf") if key.expires_us is None else key.expires_us / 1e6
    return Grant(key.id, key.name, key.role, frozenset(key.merchants) or None, row[9], expires_s)


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise KeyRefused("a name has 1 to 64 printable characters")
    if find_pans(name):
        raise KeyRefused("the name holds a card number, which is never stored; choose another")


# ---- the development key ----------------------------------------------------------------------------


def development_key(keys: AccessKeys, state: Path) -> str:
    """The admin key of `make run`, kept in `development.key`, so that the examples work after a restart.

    Made anew when the file is gone or its key was revoked. Raises ConfigurationError when it cannot be written.
    """
    path = state / "development.key"
    with suppress(OSError, UnicodeDecodeError):
        held = path.read_text(encoding="ascii").strip()
        if keys.grant_of(held.encode()) is not None:
            return held
    key, _ = keys.create(DEVELOPMENT_NAME, Role.ADMIN, by="fraudengine serve")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        draft.touch(0o600)
        draft.write_text(key + "\n", encoding="ascii")
        draft.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}; check the directory") from None
    return key
