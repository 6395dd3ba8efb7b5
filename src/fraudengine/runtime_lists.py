"""Run-time lists as a screening reads them: as of any instant, at once after a change by whichever process.

Each screening compares one shared number (`list_generation`). When it moved, the changes since are read before
anything else. What is kept in memory only denies (`list_filter`): a value that it lets through is looked up in
SQLite, so the reasons, tickets and dates of a million entries stay on disk.

A change too large to read between two screenings (an import) is taken in by a thread. Until that is done every
value is looked up in SQLite: slower, never wrong.
"""

from __future__ import annotations

import ipaddress
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import orjson

from . import store
from .facts import FactValue, ListKind
from .list_entries import COLUMNS, FROM, ListTarget, StoredEntry, read_row
from .list_filter import HashFilter, IntervalFilter
from .list_generation import Generation
from .list_tables import LISTS, SHARED, address_place, value_hash
from .lists import ANYTHING, ListIndex, read_address
from .rules.ast import DeclaredList, ListContents, ListEntry, ListName

_log = logging.getLogger(__name__)

LARGE_CHANGE: Final = 1_000  # entries; reading them takes about a millisecond
MAX_RECENT: Final = 50_000  # entries beside the sorted array before it is made anew
MAX_CACHED: Final = 8_192
LIVE_WITHIN_US: Final = 86_400_000_000

Connection: TypeAlias = sqlite3.Connection


@dataclass(slots=True)
class _Ref:
    """A list that has entries: its number, its salt, and which lengths its networks have, by version."""

    id: int
    target: ListTarget
    salt: int
    lengths: dict[int, set[int]] = field(default_factory=dict)


_Find: TypeAlias = Callable[[_Ref, FactValue, int], StoredEntry | None]


@dataclass(slots=True)
class _Memory:
    """What one load of the database gave; replaced as a whole by the next load."""

    hashes: HashFilter
    networks: dict[tuple[int, int], IntervalFilter]
    change: int


class RuntimeLists:
    """The run-time lists for reading. `refresh` and `find` belong to the thread that screens."""

    def __init__(self, path: Path, generation: Generation) -> None:
        self.path = path
        self._cell = generation.cell
        self._connection = self._connect()
        self._cache: dict[tuple[int, str], tuple[StoredEntry, ...]] = {}
        self._by_scope: dict[str, dict[tuple[ListName, ListKind], _Ref]] = {}
        self._views: dict[str, tuple[Mapping[ListName, DeclaredList], MerchantLists | None]] = {}
        self._hashed: FactValue | None = None
        self._hash = 0
        self._by_id: dict[int, _Ref] = {}
        self._filled: dict[int, bool] = {}
        self._loading: threading.Thread | None = None
        self._loaded: _Memory | None = None
        self.change = 0  # the newest change that is seen
        self.newest_us = 0  # its instant
        self.rekeyed = False
        self._seen = self._cell[0]
        self._read_changes()
        self._memory: _Memory | None = _load(self._connection)
        self._note_lengths(self._connection)

    def _connect(self) -> Connection:
        return store.open_database(self.path, query_only=True, schema=LISTS, busy_timeout_ms=1_000).conn

    # ---- keeping up ---------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Takes up what any process committed; nothing to do costs some 50 ns. Raises StoreUnavailable."""
        if self._cell[0] != self._seen or self._loaded is not None:
            self._catch_up()

    def _catch_up(self) -> None:
        seen = self._cell[0]  # before the database: a change that is committed meanwhile moves the number again
        try:
            if self._loaded is not None:
                self._take_up_load()
            entries = self._read_changes()
            if entries:
                self._take_in(entries)
        except sqlite3.Error as error:
            raise store.explain_error(error, self.path) from error
        self._seen = seen

    def _read_changes(self) -> list[tuple[int, int]]:
        """Reads the changes that are new; gives the ranges of entries that the filters do not know yet."""
        changes = self._connection.execute(
            "SELECT id, at_us, what, list_id, first_entry, last_entry FROM changes WHERE id > ? ORDER BY id",
            (self.change,),
        ).fetchall()
        if not changes:
            return []
        if {list_id for _, _, _, list_id, _, _ in changes} - self._by_id.keys():
            self._read_lists()
        self._cache.clear()
        self._filled.clear()
        self.change, self.newest_us = changes[-1][0], max(self.newest_us, changes[-1][1])
        self.rekeyed = self.rekeyed or any(what == "rekey" for _, _, what, _, _, _ in changes)
        return [(first, last) for _, _, what, _, first, last in changes if what != "remove"]

    def _read_lists(self) -> None:
        for list_id, scope, name, kind in self._connection.execute("SELECT id, scope, name, kind FROM lists"):
            if list_id in self._by_id:
                continue
            target = ListTarget(scope, ListName(name), ListKind(kind))
            ref = self._by_id[list_id] = _Ref(list_id, target, target.salt)
            self._by_scope.setdefault(scope, {})[target.name, target.kind] = ref
        self._views.clear()

    def _take_in(self, ranges: list[tuple[int, int]]) -> None:
        memory = self._memory
        total = sum(last - first + 1 for first, last in ranges)
        if memory is None:
            return  # being loaded; the load is repeated until it has everything
        if total > LARGE_CHANGE or memory.hashes.recent > MAX_RECENT:
            self._memory = None
            self._note_lengths(self._connection)
            self._load_in_background()
            return
        for first, last in ranges:
            rows = self._connection.execute(
                "SELECT hash, former_hash FROM entries WHERE id BETWEEN ? AND ?", (first, last)
            ).fetchall()
            for mixed, former in rows:
                memory.hashes.add(mixed)
                if former is not None:
                    memory.hashes.add(former)
            networks = self._connection.execute(
                "SELECT list_id, version, length, low, high FROM networks WHERE entry_id BETWEEN ? AND ?",
                (first, last),
            ).fetchall()
            for list_id, version, length, low, high in networks:
                memory.networks.setdefault((list_id, version), IntervalFilter()).add(low, high)
                self._by_id[list_id].lengths.setdefault(version, set()).add(length)
        memory.change = self.change

    def _note_lengths(self, connection: Connection) -> None:
        """Which lengths networks have, so that only those are tried."""
        for list_id, version, length in connection.execute(
            "SELECT DISTINCT list_id, version, length FROM networks"
        ):
            if list_id in self._by_id:
                self._by_id[list_id].lengths.setdefault(version, set()).add(length)

    def _load_in_background(self) -> None:
        if self._loading is None:
            self._loading = threading.Thread(target=self._load_in_thread, name="load-lists", daemon=True)
            self._loading.start()

    def _load_in_thread(self) -> None:
        loaded: _Memory | None = None
        try:
            with closing(self._connect()) as connection:
                loaded = _load(connection)
        except Exception:  # noqa: BLE001 - a thread of its own: look-ups go on in SQLite, `look_after` tries again
            _log.exception("run-time lists could not be loaded; every value is looked up on disk until they are")
        self._loading = None  # before the result: whoever takes that up may start another load
        self._loaded = loaded

    def _take_up_load(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        newer = self._connection.execute(
            "SELECT first_entry, last_entry FROM changes WHERE id > ? AND id <= ? AND what <> 'remove'",
            (loaded.change, self.change),
        ).fetchall()
        self._memory = loaded
        if newer:
            self._take_in(newer)

    def look_after(self) -> None:
        """What cannot wait for a change: a number lost by a killed writer, a load that is ready."""
        newest = self._connection.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0]
        if newest != self.change or self._loaded is not None:
            self._catch_up()
        if self._memory is None and self._loaded is None:
            self._load_in_background()

    # ---- reading ------------------------------------------------------------------------------------

    def instant_for(self, at_us: int, now_us: int) -> int:
        """As of when the lists hold for a payment: now for one of the last day, whose gateway may be late;
        its own time for an older one.
        """
        return max(now_us, self.newest_us) if at_us > now_us - LIVE_WITHIN_US else at_us

    def of_merchant(self, merchant: str, declared: Mapping[ListName, DeclaredList]) -> MerchantLists | None:
        """The lists that hold for a merchant, its own before those of all; None when there are none."""
        known = self._views.get(merchant)
        if known is None or known[0] is not declared:
            known = self._views[merchant] = (declared, self._make_view(merchant, declared))
            if len(self._views) > MAX_CACHED:
                self._views = {merchant: known}
        return known[1]

    def _make_view(self, merchant: str, declared: Mapping[ListName, DeclaredList]) -> MerchantLists | None:
        found: dict[ListName, tuple[tuple[_Find, _Ref], ...]] = {}
        for scope in (merchant, SHARED):
            for (name, kind), ref in self._by_scope.get(scope, {}).items():
                # A list that was of another kind before keeps those entries, and nobody asks for them.
                if name in declared and declared[name].kind is kind:
                    found[name] = (*found.get(name, ()), (self._finder(kind), ref))
        return MerchantLists(self, found) if found else None

    def _finder(self, kind: ListKind) -> _Find:
        """How the entry in force that holds a value is found: of several the narrowest, then the one added last."""
        match kind:
            case ListKind.BIN:
                return self._find_prefix
            case ListKind.IP:
                return self._find_network
            case _:
                return self._find_exact

    def _find_prefix(self, ref: _Ref, value: FactValue, as_of_us: int) -> StoredEntry | None:
        digits = str(value)
        for length in range(min(11, len(digits)), 5, -1):
            found = self._find_exact(ref, digits[:length], as_of_us)
            if found is not None:
                return found
        return None

    def _find_exact(self, ref: _Ref, value: FactValue, as_of_us: int) -> StoredEntry | None:
        if value is not self._hashed:  # one value is sought in several lists, one after the other
            self._hashed = value
            self._hash = value_hash(str(value))
        mixed = self._hash ^ ref.salt
        memory = self._memory
        if memory is not None and not memory.hashes.holds(mixed):
            return None
        text = str(value)
        key = (ref.id, text)
        held = self._cache.get(key)
        if held is None:
            found = self._read([mixed])
            held = tuple(e for e in found if e.target == ref.target and text in (e.value, e.former_value))
            self._remember(key, held)
        return next((entry for entry in held if entry.in_force(as_of_us)), None)

    def _find_network(self, ref: _Ref, value: FactValue, as_of_us: int) -> StoredEntry | None:
        address = str(value)
        version, number = read_address(address)
        memory = self._memory
        if memory is not None:
            networks = memory.networks.get((ref.id, version))
            if networks is None or not networks.holds(address_place(version, number)):
                return None
        key = (ref.id, address)
        held = self._cache.get(key)
        if held is None:
            whole = 32 if version == 4 else 128
            network = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
            wanted = {
                str(network((number >> (whole - length) << (whole - length), length))): length
                for length in ref.lengths.get(version, ())
            }
            found = self._read([value_hash(text) ^ ref.salt for text in wanted])
            mine = [entry for entry in found if entry.target == ref.target and entry.value in wanted]
            held = tuple(sorted(mine, key=lambda entry: -wanted[entry.value]))  # stable: the last added stays first
            self._remember(key, held)
        return next((entry for entry in held if entry.in_force(as_of_us)), None)

    def _remember(self, key: tuple[int, str], held: tuple[StoredEntry, ...]) -> None:
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[key] = held

    def _read(self, mixed: list[int]) -> list[StoredEntry]:
        """Entries by their hashes, the one added last first. Raises StoreUnavailable."""
        if not mixed:
            return []
        marks = ",".join("?" * len(mixed))
        sql = f"SELECT {COLUMNS} {FROM} WHERE e.hash IN ({marks})"
        if self.rekeyed:
            sql += f" UNION SELECT {COLUMNS} {FROM} WHERE e.former_hash IN ({marks})"
        try:
            rows = self._connection.execute(f"{sql} ORDER BY 9 DESC, 1 DESC", mixed * (1 + self.rekeyed)).fetchall()
        except sqlite3.Error as error:
            raise store.explain_error(error, self.path) from error
        return [read_row(row) for row in rows]

    def is_filled(self, list_id: int) -> bool:
        """Whether the list of that number has an entry that nobody removed."""
        known = self._filled.get(list_id)
        if known is None:
            sql = "SELECT 1 FROM entries WHERE list_id = ? AND removed_us IS NULL LIMIT 1"
            known = self._filled[list_id] = bool(self._connection.execute(sql, (list_id,)).fetchone())
        return known

    def close(self) -> None:
        loading = self._loading
        if loading is not None:
            loading.join()
        self._connection.close()

    @property
    def is_loading(self) -> bool:
        return self._memory is None


class MerchantLists:
    """What the rules of one merchant see: a list's entries of the merchant's own, then those that all have."""

    __slots__ = ("_could_hold", "_found", "_indexes", "_lists")

    def __init__(self, lists: RuntimeLists, found: Mapping[ListName, tuple[tuple[_Find, _Ref], ...]]) -> None:
        self._lists = lists
        self._found = found
        self._indexes: Mapping[ListName, ListIndex] | None = None
        self._could_hold: Mapping[ListName, ListContents] = {}

    def could_hold(self, indexes: Mapping[ListName, ListIndex]) -> Mapping[ListName, ListContents]:
        """What each list could hold: anything where it has run-time entries."""
        if indexes is not self._indexes:
            self._indexes, self._could_hold = indexes, {**indexes, **dict.fromkeys(self._found, ANYTHING)}
        return self._could_hold

    def find(self, name: ListName, value: FactValue, as_of_us: int) -> ListEntry | None:
        """The entry in force that holds the value, or None."""
        held = self._found.get(name)
        if held is None:
            return None
        for find, ref in held:
            found = find(ref, value, as_of_us)
            if found is not None:
                return found.as_list_entry()
        return None

    def is_filled(self, name: ListName) -> bool:
        """Whether the list has an entry that nobody removed; an expired one counts, as it does in a rule file."""
        return any(self._lists.is_filled(ref.id) for _, ref in self._found.get(name, ()))


# ---- loading --------------------------------------------------------------------------------------

_CHUNK: Final = 20_000
_LEAST: Final = -(1 << 63)


def _load(connection: Connection) -> _Memory:
    """Filters over the whole database, in one snapshot of it.

    Rows come thousands at a time as one JSON text: Python's sqlite3 lets go of the interpreter lock at every row,
    and a thread that loads beside a busy event loop would wait for it a million times.
    """
    connection.execute("BEGIN")
    try:
        change = int(connection.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0])
        hashes = HashFilter(_hashes(connection, "hash"))
        for number in _hashes(connection, "former_hash"):
            hashes.add(number)
        networks: dict[tuple[int, int], IntervalFilter] = {}
        for list_id, version in connection.execute("SELECT DISTINCT list_id, version FROM networks").fetchall():
            networks[list_id, version] = IntervalFilter(_spans(connection, list_id, version))
    finally:
        connection.execute("COMMIT")
    return _Memory(hashes, networks, change)


def _hashes(connection: Connection, column: str) -> Iterator[int]:
    """Each hash of the column once, ascending."""
    sql = (
        f"SELECT json_group_array({column}) FROM (SELECT DISTINCT {column} FROM entries"
        f" WHERE {column} IS NOT NULL AND {column} > ? ORDER BY {column} LIMIT {_CHUNK})"
    )
    after = _LEAST
    while chunk := orjson.loads(connection.execute(sql, (after,)).fetchone()[0]):
        yield from chunk
        after = chunk[-1]


def _spans(connection: Connection, list_id: int, version: int) -> Iterator[tuple[int, int]]:
    sql = (
        "SELECT json_group_array(low), json_group_array(high) FROM (SELECT low, max(high) AS high FROM networks"
        f" WHERE list_id = ? AND version = ? AND low > ? GROUP BY low ORDER BY low LIMIT {_CHUNK})"
    )
    after = _LEAST
    while True:
        lows, highs = map(orjson.loads, connection.execute(sql, (list_id, version, after)).fetchone())
        if not lows:
            return
        yield from zip(lows, highs, strict=True)
        after = lows[-1]
