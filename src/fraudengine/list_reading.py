"""Questions about run-time lists: pages of entries as of any instant, history, review, keys. Never writes.

Each opens the database for itself, so that a long search keeps nobody waiting.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import store
from .list_entries import COLUMNS, FROM, ListTarget, StoredEntry, read_row
from .list_tables import LISTS, SHARED

MAX_PAGE: Final = 1_000
MAX_VALUES: Final = 5  # of an import's in the history
MAX_NOTES: Final = 20
_IN_FORCE: Final = (
    "e.added_us <= :as_of AND (e.expires_us IS NULL OR e.expires_us > :as_of)"
    " AND (e.removed_us IS NULL OR e.removed_us > :as_of)"
)
_HELD_BY: Final = (
    "e.list_id IN (SELECT id FROM lists WHERE scope IN (:scope, :shared) AND name = :name AND kind = :kind)"
)
_SEARCH: Final = (
    " AND (e.value LIKE :like ESCAPE '\\' OR e.former_value LIKE :like ESCAPE '\\'"
    + "".join(f" OR e.{column} LIKE :like ESCAPE '\\'" for column in ("reason", "ticket", "author"))
    + ")"
)
_SEARCH_HISTORY: Final = (
    _SEARCH.removesuffix(")")
    + " OR c.what = 'remove' AND ("
    + " OR ".join(
        f"e.{column} LIKE :like ESCAPE '\\'" for column in ("removed_by", "removed_reason", "removed_ticket")
    )
    + "))"
)


@dataclass(frozen=True, slots=True)
class Several:
    """What the entries of an import have: a few values, and who added them and why, each once.

    Entries of one import are in no order. With `more_notes` there may be authors, reasons and tickets beyond these.
    """

    first_id: int
    last_id: int
    scope: str
    values: tuple[str, ...]
    authors: tuple[str, ...]
    reasons: tuple[str, ...]
    tickets: tuple[str, ...]
    more_notes: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a list: an entry added, removed or re-keyed, or an import of `several`."""

    at_us: int
    what: str
    entries: int
    entry: StoredEntry | None
    several: Several | None = None


@dataclass(frozen=True, slots=True)
class Reviewed:
    """An entry in force, and when it last held a transaction's value (None: never)."""

    entry: StoredEntry
    last_us: int | None


class ListReader:
    """Reads one lists database. Close it, or use it as a context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = store.open_database(path, query_only=True, schema=LISTS, busy_timeout_ms=5_000).conn

    def page(
        self,
        target: ListTarget,
        *,
        after: int = 0,
        limit: int = 100,
        search: str = "",
        as_of_us: int | None = None,
    ) -> list[StoredEntry]:
        """Entries of the list with an id above `after`, of all merchants too; without an instant all ever."""
        sql = f"SELECT {COLUMNS} {FROM} WHERE {_HELD_BY} AND e.id > :after"
        if as_of_us is not None:
            sql += f" AND {_IN_FORCE}"
        if search:
            sql += _SEARCH
        found = self._all(
            f"{sql} ORDER BY e.id LIMIT :limit",
            after=after,
            limit=limit,
            as_of=as_of_us or 0,
            like=_like(search),
            **_names(target),
        )
        return [read_row(row) for row in found]

    def every(self, target: ListTarget, as_of_us: int) -> Iterator[StoredEntry]:
        """Every entry of the list in force at that instant, in bounded memory."""
        after = 0
        while page := self.page(target, after=after, limit=MAX_PAGE, as_of_us=as_of_us):
            yield from page
            after = page[-1].id

    def get(self, entry_id: int) -> StoredEntry | None:
        found = self._all(f"SELECT {COLUMNS} {FROM} WHERE e.id = :id", id=entry_id)
        return read_row(found[0]) if found else None

    def history(self, target: ListTarget, limit: int = 100, search: str = "") -> list[Event]:
        """The newest changes of the list first; a search finds entries, also each one that came by an import.

        Of a removal it looks at both notes: of who added the entry and of who removed it.
        """
        # Changes before entries, always: their ranges lead to the entries, and no index leads back.
        last = "c.last_entry" if search else "c.first_entry"
        sql = (
            f"SELECT c.at_us, c.what, c.first_entry, c.last_entry, {COLUMNS} FROM changes c"
            f" CROSS JOIN entries e ON e.id BETWEEN c.first_entry AND {last} CROSS JOIN lists l ON l.id = e.list_id"
            f" WHERE {_HELD_BY.replace('e.', 'c.', 1)}{_SEARCH_HISTORY if search else ''}"
            " ORDER BY c.id DESC, e.id LIMIT :limit"
        )
        events = []
        for at_us, what, first, last_entry, *row in self._all(
            sql, limit=limit, like=_like(search), **_names(target)
        ):
            entry = read_row(tuple(row))
            if first == last_entry or search:
                events.append(Event(at_us, what, 1, entry))
            else:
                events.append(
                    Event(at_us, what, last_entry - first + 1, None, self._sum_up(first, last_entry, entry))
                )
        return events

    def _sum_up(self, first: int, last: int, entry: StoredEntry) -> Several:
        notes = self._all(
            "SELECT DISTINCT author, reason, ticket FROM entries WHERE id BETWEEN :first AND :last LIMIT :most",
            first=first,
            last=last,
            most=MAX_NOTES,
        )
        values = self._all(
            "SELECT value FROM entries WHERE id BETWEEN :first AND :last ORDER BY id LIMIT :most",
            first=first,
            last=last,
            most=MAX_VALUES,
        )
        authors, reasons, tickets = (
            tuple(sorted({str(row[place]) for row in notes if row[place]})) for place in range(3)
        )
        return Several(
            first,
            last,
            entry.target.scope,
            tuple(value for (value,) in values),
            authors,
            reasons,
            tickets,
            len(notes) == MAX_NOTES,
        )

    def began_us(self) -> int:
        """Since when matches are noted."""
        return int(self._all("SELECT at_us FROM began")[0][0])

    def unused(self, since_us: int, now_us: int, limit: int = MAX_PAGE) -> list[Reviewed]:
        """Entries in force, added before that instant, that held no transaction's value since."""
        sql = (
            f"SELECT m.last_us, {COLUMNS} {FROM} LEFT JOIN entry_matches m ON m.entry_id = e.id"
            f" WHERE {_IN_FORCE} AND e.added_us < :since AND coalesce(m.last_us, 0) < :since"
            " ORDER BY l.scope, l.name, e.id LIMIT :limit"
        )
        found = self._all(sql, as_of=now_us, since=since_us, limit=limit)
        return [Reviewed(read_row(tuple(row)), last_us) for last_us, *row in found]

    def expiring(self, until_us: int, now_us: int, limit: int = MAX_PAGE) -> list[StoredEntry]:
        """Entries in force that expire before that instant, the first to expire first."""
        soon = f"{_IN_FORCE} AND e.expires_us <= :until"
        sql = f"SELECT {COLUMNS} {FROM} WHERE {soon} ORDER BY e.expires_us LIMIT :limit"
        return [read_row(row) for row in self._all(sql, as_of=now_us, until=until_us, limit=limit)]

    def file_matches(self) -> dict[tuple[str, str, str], int]:
        """When entries of rule files last held a value, by merchant, list and value."""
        found = self._all("SELECT merchant, list, value, last_us FROM file_entry_matches")
        return {(merchant, name, value): last_us for merchant, name, value, last_us in found}

    def entries_by_key(self, now_us: int) -> dict[str, int]:
        """How many entries in force hang on each card key."""
        sql = f"SELECT e.key_id, count(*) {FROM} WHERE {_IN_FORCE} AND e.key_id IS NOT NULL GROUP BY 1"
        return dict(self._all(sql, as_of=now_us))

    def _all(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise store.explain_error(error, self._path) from error

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> ListReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _names(target: ListTarget) -> dict[str, str]:
    return {"scope": target.scope, "shared": SHARED, "name": target.name, "kind": target.kind.value}


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
