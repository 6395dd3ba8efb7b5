"""Entries of lists as they are kept at run time, and the lists that hold them."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from .facts import ListKind
from .list_tables import SHARED, list_salt
from .rules.ast import ListEntry, ListName

RUN_TIME: Final = "run-time"


@dataclass(frozen=True, slots=True)
class ListTarget:
    """A list of one scope: a merchant's name, or `*` for the entries that every merchant has."""

    scope: str
    name: ListName
    kind: ListKind

    @property
    def salt(self) -> int:
        return list_salt(self.scope, self.name, self.kind.value)

    @property
    def is_shared(self) -> bool:
        return self.scope == SHARED


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry as kept: in force when `added_us <= as_of`, and `as_of` is before it expires and is removed.

    Times are UTC microseconds. Of a card, `key_id` names the key of its fingerprint, and `former_value` is the
    fingerprint under the key before, once the entry was re-keyed.
    """

    id: int
    target: ListTarget
    value: str
    reason: str
    ticket: str
    author: str
    added_us: int
    expires_us: int | None = None
    removed_us: int | None = None
    removed_by: str | None = None
    removed_reason: str | None = None
    removed_ticket: str | None = None
    key_id: str | None = None
    former_value: str | None = None

    def in_force(self, as_of_us: int) -> bool:
        return (
            self.added_us <= as_of_us
            and (self.expires_us is None or as_of_us < self.expires_us)
            and (self.removed_us is None or as_of_us < self.removed_us)
        )

    def state(self, as_of_us: int) -> str:
        """`in force`, `expired`, `removed`, or `not yet` for an instant before it was added."""
        if as_of_us < self.added_us:
            return "not yet"
        if self.removed_us is not None and self.removed_us <= as_of_us:
            return "removed"
        if self.expires_us is not None and self.expires_us <= as_of_us:
            return "expired"
        return "in force"

    def as_list_entry(self) -> ListEntry:
        """The entry as rules see it."""
        return ListEntry(
            self.value,
            self.reason,
            self.ticket,
            self.author,
            self.added_us,
            self.expires_us,
            RUN_TIME,
            self.id,
            self.target.scope,
        )


COLUMNS: Final = (
    "e.id, l.scope, l.name, l.kind, e.value, e.reason, e.ticket, e.author, e.added_us, e.expires_us, e.removed_us,"
    " e.removed_by, e.removed_reason, e.removed_ticket, e.key_id, e.former_value"
)
FROM: Final = "FROM entries e JOIN lists l ON l.id = e.list_id"


def read_row(row: sqlite3.Row | tuple[object, ...]) -> StoredEntry:
    """An entry from the columns of `COLUMNS`."""
    number, scope, name, kind, *rest = row
    target = ListTarget(str(scope), ListName(str(name)), ListKind(str(kind)))
    return StoredEntry(number, target, *rest)  # type: ignore[arg-type]  # the table is STRICT


# ---- times ----------------------------------------------------------------------------------------

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII).fullmatch


def time_text(us: int | None) -> str | None:
    """RFC 3339 in UTC, with microseconds only when there are some."""
    if us is None:
        return None
    return (_EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def read_time(text: str, timezone: str = "UTC") -> int | None:
    """UTC microseconds of an RFC 3339 time, or of midnight in `timezone` on a date; None for anything else."""
    if _RFC_3339(text) is None and _DATE(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(timezone))
    if not 2000 <= moment.year <= 2200:
        return None
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
