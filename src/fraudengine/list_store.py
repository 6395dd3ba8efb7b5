"""List entries kept at run time, written: added, removed, re-keyed, each as one durable transaction.

A method returns when its change is on disk and every process of the machine can see it (`list_generation`).
Decisions that a reader would question:

- An instant of change is never before the one that was committed last, also when the clock steps back: what any
  past instant shows stays what it showed then.
- The WAL is emptied by whoever finds it long, never by SQLite on its own (see `store`).
- A list's entry of a value that is in force already is not made twice: the one that is there is answered.
"""

from __future__ import annotations

import ipaddress
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from . import store
from .audit import AuditLog, AuditRow, who_acts
from .facts import ListKind
from .list_entries import COLUMNS, FROM, ListTarget, StoredEntry, read_row
from .list_generation import Generation
from .list_tables import LISTS, network_span, value_hash
from .list_values import Note

BUSY_MS: Final = 30_000  # as long as the commit of a large import may keep others waiting
LONG_WAL_BYTES: Final = 8 << 20
MAX_OVERLAPS: Final = 5


def utc_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Added:
    """The entry, whether it was made now, and networks in force that overlap it."""

    entry: StoredEntry
    created: bool
    overlaps: tuple[str, ...] = ()


class ListStore:
    """The lists of one machine, for writing. One thread at a time is let in; others wait."""

    def __init__(self, path: Path, clock_us: Callable[[], int] = utc_us) -> None:
        self.path = path
        self.clock_us = clock_us
        self.lock = threading.RLock()
        self.connection = store.open_database(path, schema=LISTS, busy_timeout_ms=BUSY_MS).conn
        try:
            self.connection.execute(f"PRAGMA journal_size_limit = {LONG_WAL_BYTES // 2}")
            self.generation = Generation(path.with_suffix(".generation"))
            self.audit = AuditLog(path.parent)
        except BaseException:
            self.connection.close()
            raise
        self._list_ids: dict[ListTarget, int] = {}
        self.publish()

    # ---- writing ------------------------------------------------------------------------------------

    def add(
        self, target: ListTarget, value: str, note: Note, expires_us: int | None = None, former: str | None = None
    ) -> Added:
        """Adds a normalised value, or answers the entry in force that holds it already.

        `former` is the fingerprint of the same card under the key before. Raises StoreUnavailable.
        """
        with self.writing() as write:
            for held in self.find(target, value) + (self.find(target, former) if former else ()):
                if held.in_force(write.now_us):
                    return Added(held, created=False)
            overlaps = self._overlaps(target, value, write.now_us) if target.kind is ListKind.IP else ()
            entry_id = self.next_entry_id()
            entry = StoredEntry(
                entry_id,
                target,
                value,
                note.reason,
                note.ticket,
                note.author,
                write.now_us,
                expires_us,
                key_id=key_id_of(target, value),
            )
            list_id = self.list_id(target)
            self.execute(
                "INSERT INTO entries"
                " (id, list_id, hash, value, reason, ticket, author, added_us, expires_us, key_id)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                entry_id,
                list_id,
                value_hash(value) ^ target.salt,
                value,
                note.reason,
                note.ticket,
                note.author,
                write.now_us,
                expires_us,
                entry.key_id,
            )
            if target.kind is ListKind.IP:
                self.execute(
                    "INSERT INTO networks VALUES (?, ?, ?, ?, ?, ?)", entry_id, list_id, *network_row(value)
                )
            write.record("add", list_id, entry_id, entry_id)
        return Added(entry, created=True, overlaps=overlaps)

    def remove(self, entry_id: int, note: Note) -> StoredEntry | None:
        """Removes the entry from now on; one that is removed already stays as it was. None: there is none."""
        with self.writing() as write:
            entry = self.get(entry_id)
            if entry is None or entry.removed_us is not None:
                return entry
            self.execute(
                "UPDATE entries SET removed_us = ?, removed_by = ?, removed_reason = ?, removed_ticket = ?"
                " WHERE id = ?",
                write.now_us,
                note.author,
                note.reason,
                note.ticket,
                entry_id,
            )
            write.record("remove", self.list_id(entry.target), entry_id, entry_id)
        return replace(
            entry,
            removed_us=write.now_us,
            removed_by=note.author,
            removed_reason=note.reason,
            removed_ticket=note.ticket,
        )

    def rekey(self, entry_id: int, value: str) -> bool:
        """Gives a card's entry its fingerprint under the current key; the one before finds it as well."""
        with self.writing() as write:
            entry = self.get(entry_id)
            key_id = key_id_of(entry.target, value) if entry is not None else None
            if entry is None or key_id is None or entry.key_id == key_id:
                return False
            self.execute(
                "UPDATE entries SET value = ?, hash = ?, key_id = ?, former_value = ?, former_hash = ?"
                " WHERE id = ?",
                value,
                value_hash(value) ^ entry.target.salt,
                key_id,
                entry.value,
                value_hash(entry.value) ^ entry.target.salt,
                entry_id,
            )
            write.record("rekey", self.list_id(entry.target), entry_id, entry_id)
        return True

    def note_matches(self, entries: Mapping[int, int], file_entries: Mapping[tuple[str, str, str], int]) -> None:
        """Writes when entries last matched: run-time ones by id, those of files by merchant, list, value."""
        later = "DO UPDATE SET last_us = max(last_us, excluded.last_us)"
        with self.writing():
            self.connection.executemany(
                f"INSERT INTO entry_matches VALUES (?, ?) ON CONFLICT (entry_id) {later}", list(entries.items())
            )
            self.connection.executemany(
                f"INSERT INTO file_entry_matches VALUES (?, ?, ?, ?) ON CONFLICT (merchant, list, value) {later}",
                [(*key, last_us) for key, last_us in file_entries.items()],
            )

    # ---- reading, within the lock -------------------------------------------------------------------

    def get(self, entry_id: int) -> StoredEntry | None:
        found = self.rows(f"SELECT {COLUMNS} {FROM} WHERE e.id = ?", entry_id)
        return read_row(found[0]) if found else None

    def find(self, target: ListTarget, value: str) -> tuple[StoredEntry, ...]:
        """Every entry of exactly this value, the one added last first, also expired and removed ones."""
        mixed = value_hash(value) ^ target.salt
        found = self.rows(
            f"SELECT {COLUMNS} {FROM} WHERE e.hash = ? UNION SELECT {COLUMNS} {FROM} WHERE e.former_hash = ?"
            " ORDER BY 9 DESC, 1 DESC",
            mixed,
            mixed,
        )
        entries = map(read_row, found)
        return tuple(item for item in entries if item.target == target and value in (item.value, item.former_value))

    def _overlaps(self, target: ListTarget, value: str, now_us: int) -> tuple[str, ...]:
        """Networks of the list in force that hold this one or lie in it; a few of many."""
        mine = ipaddress.ip_network(value)
        version, _, low, high = network_row(value)
        wider = [str(mine.supernet(new_prefix=length)) for length in range(mine.prefixlen)]
        held = [entry for other in wider for entry in self.find(target, other)] if self._has_list(target) else []
        inside = self.rows(
            f"SELECT {COLUMNS} {FROM} JOIN networks n ON n.entry_id = e.id"
            " WHERE n.list_id = (SELECT id FROM lists WHERE scope = ? AND name = ? AND kind = ?)"
            " AND n.version = ? AND n.low BETWEEN ? AND ? LIMIT 50",
            target.scope,
            target.name,
            target.kind.value,
            version,
            low,
            high,
        )
        held += map(read_row, inside)
        found = [
            entry.value
            for entry in held
            if entry.in_force(now_us) and ipaddress.ip_network(entry.value).overlaps(mine)
        ]
        return tuple(dict.fromkeys(found))[:MAX_OVERLAPS]

    def _has_list(self, target: ListTarget) -> bool:
        return bool(
            self.rows(
                "SELECT 1 FROM lists WHERE scope = ? AND name = ? AND kind = ?",
                target.scope,
                target.name,
                target.kind.value,
            )
        )

    # ---- transactions -------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """One transaction under the write lock. What it records is durable and published when this ends."""
        with self.lock:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                newest = self.connection.execute(
                    "SELECT id, at_us FROM changes ORDER BY id DESC LIMIT 1"
                ).fetchone()
                write = Write(self, max(self.clock_us(), newest[1] + 1 if newest else 0))
                yield write
                with self._told_of(write):
                    self.connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise store.explain_error(error, self.path) from error
            except BaseException:
                self._roll_back()
                raise
            if write.newest_change:
                self.generation.publish(write.newest_change)

    @contextmanager
    def _told_of(self, write: Write) -> Iterator[None]:
        """Has the audit log tell of what people changed, before it is committed; re-keying is the service's own."""
        rows = [self._audit_row(*change) for change in write.recorded if change[0] != "rekey"]
        with ExitStack() as told:
            for row in rows:
                told.enter_context(self.audit.change(row))
            yield

    def _audit_row(self, what: str, list_id: int, first_entry: int, last_entry: int) -> AuditRow:
        scope, name = self.connection.execute("SELECT scope, name FROM lists WHERE id = ?", (list_id,)).fetchone()
        told: dict[str, object] = {"list": name, "entry": first_entry}
        entry = self.get(first_entry)
        if last_entry != first_entry:
            told |= {"to_entry": last_entry, "entries": last_entry - first_entry + 1}
        elif entry is not None and what == "remove":
            told |= {"value": entry.value, "reason": entry.removed_reason, "ticket": entry.removed_ticket}
            told |= {"author": entry.removed_by}
        elif entry is not None:
            told |= {"value": entry.value, "reason": entry.reason, "ticket": entry.ticket, "author": entry.author}
        return AuditRow(f"lists.{what}", who_acts(), told, scope)

    def _roll_back(self) -> None:
        self._list_ids.clear()  # some may be of the transaction that is undone
        with suppress(sqlite3.Error):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return self.connection.execute(sql, parameters)

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.lock:
            try:
                return self.connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise store.explain_error(error, self.path) from error

    def list_id(self, target: ListTarget) -> int:
        """The number of the list, made when it is new; within a transaction."""
        known = self._list_ids.get(target)
        if known is None:
            names = (target.scope, target.name, target.kind.value)
            self.execute("INSERT INTO lists (scope, name, kind) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", *names)
            sql = "SELECT id FROM lists WHERE scope = ? AND name = ? AND kind = ?"
            known = self._list_ids[target] = int(self.execute(sql, *names).fetchone()[0])
        return known

    def next_entry_id(self) -> int:
        """INVARIANT: within one transaction ids are consecutive, which is what a change's range relies on."""
        return int(self.execute("SELECT coalesce(max(id), 0) + 1 FROM entries").fetchone()[0])

    def publish(self) -> None:
        """Publishes the newest change, which another process may have committed and died before publishing."""
        newest = self.rows("SELECT coalesce(max(id), 0) FROM changes")[0][0]
        if self.generation.cell[0] != newest:
            self.generation.publish(newest)

    # ---- upkeep -------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> None:
        """Empties a long WAL; everybody's commits wait for it."""
        try:
            size = os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return
        if size > LONG_WAL_BYTES:
            self.checkpoint()

    def checkpoint(self) -> None:
        with self.lock, suppress(sqlite3.Error):  # what failed is told at the next commit; the rows are in the WAL
            store.take_checkpoint(self.connection, BUSY_MS)

    def close(self) -> None:
        with self.lock:
            self.checkpoint_if_due()
            self.connection.close()
            self.generation.close()
            self.audit.close()

    def __enter__(self) -> ListStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Write:
    """A transaction under way: its instant, and the changes that it records."""

    __slots__ = ("_store", "newest_change", "now_us", "recorded")

    def __init__(self, owner: ListStore, now_us: int) -> None:
        self._store = owner
        self.now_us = now_us
        self.newest_change = 0
        self.recorded: list[tuple[str, int, int, int]] = []

    def record(self, what: str, list_id: int, first_entry: int, last_entry: int) -> None:
        cursor = self._store.execute(
            "INSERT INTO changes (at_us, what, list_id, first_entry, last_entry) VALUES (?, ?, ?, ?, ?)",
            self.now_us,
            what,
            list_id,
            first_entry,
            last_entry,
        )
        self.newest_change = cursor.lastrowid or 0
        self.recorded.append((what, list_id, first_entry, last_entry))


def key_id_of(target: ListTarget, value: str) -> str | None:
    """The id of the key that a card's fingerprint says it was made with; None for every other kind."""
    return value[3:9] if target.kind is ListKind.CARD else None


def network_row(value: str) -> tuple[int, int, int, int]:
    """Version, prefix length and span of a network in canonical form."""
    network = ipaddress.ip_network(value)
    span = network_span(network.version, int(network.network_address), network.prefixlen)
    return network.version, network.prefixlen, *span
