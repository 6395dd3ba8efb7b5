"""What people do with lists, whether over HTTP or on the command line: find, add, remove, blacklist, page through.

Only a list that a rule set in force declares can be filled, and only with values of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .cards import CardFingerprint, CardKey, Pan, is_fingerprint
from .diagnostics import FraudengineError, InvalidTransaction, UnknownMerchant, suggest
from .facts import ListKind
from .list_entries import RUN_TIME, ListTarget, StoredEntry, time_text
from .list_import import read_expiry
from .list_reading import ListReader
from .list_store import ListStore
from .list_tables import SHARED
from .list_values import InvalidEntry, holds_card_number, read_note, read_value
from .rules.ast import DeclaredList, ListEntry, ListName, RuleSet
from .rules.checked import DEFAULT_TIMEZONE

BLACKLIST: Final = "blacklist"


class UnknownList(FraudengineError):
    """No rule set in force declares a list of that name for that merchant; `hint` may name one."""

    def __init__(self, hint: str = "") -> None:
        super().__init__("no such list: a rule file must declare it first" + (f"; {hint}" if hint else ""))
        self.hint = hint


class UnknownEntry(FraudengineError):
    """The list holds no such entry at run time."""


class NoFingerprint(FraudengineError):
    """The card of a recorded screening is not known by its whole number, so it cannot be listed."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The entry of a value, whether it was made now, and what its author should know."""

    entry: StoredEntry
    created: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Entries as JSON objects, and the cursor of the next page (None: this is the last)."""

    entries: list[dict[str, Any]]
    next: str | None


class ListAdmin:
    """The lists of one machine for those who keep them. Safe to use from any thread."""

    def __init__(
        self,
        lists: ListStore,
        rule_sets: Callable[[], Mapping[str, RuleSet]],
        card_key: Callable[[], CardKey | None],
        *,
        platform: str = "platform",
        fall_back_to_platform: bool = False,
    ) -> None:
        self.lists = lists
        self._rule_sets = rule_sets
        self._card_key = card_key
        self._platform = platform
        self._fall_back = fall_back_to_platform

    # ---- lists --------------------------------------------------------------------------------------

    def target(self, merchant: str, name: str) -> tuple[ListTarget, DeclaredList]:
        """The list of a merchant, or of `*` for all. Raises UnknownMerchant, UnknownList."""
        declared = self._shared_lists() if merchant == SHARED else self._rule_set(merchant).lists
        found = declared.get(ListName(name))
        if found is None:
            raise UnknownList(suggest(name[:64], declared))
        return ListTarget(merchant, found.name, found.kind), found

    def timezone(self, merchant: str) -> str:
        """Where the day of an expiry begins: as in the merchant's rule files, for `*` as in the platform's.

        Raises UnknownMerchant.
        """
        if merchant != SHARED:
            return self._rule_set(merchant).timezone
        house = self._rule_sets().get(self._platform)
        return house.timezone if house is not None else DEFAULT_TIMEZONE

    def _rule_set(self, merchant: str) -> RuleSet:
        rule_sets = self._rule_sets()
        found = rule_sets.get(merchant) if merchant != self._platform else None
        if found is None and self._fall_back and merchant != self._platform and not holds_card_number(merchant):
            found = rule_sets.get(self._platform)
        if found is None:
            raise UnknownMerchant(merchant)
        return found

    def _shared_lists(self) -> dict[ListName, DeclaredList]:
        """Every list that any rule set declares; of two kinds under one name the platform's, else none."""
        rule_sets = self._rule_sets()
        found: dict[ListName, DeclaredList] = {}
        doubtful: set[ListName] = set()
        for rule_set in rule_sets.values():
            for name, declared in rule_set.lists.items():
                if found.setdefault(name, declared).kind is not declared.kind:
                    doubtful.add(name)
        house = rule_sets[self._platform].lists if self._platform in rule_sets else {}
        return {name: declared for name, declared in found.items() if name not in doubtful} | dict(house)

    # ---- entries ------------------------------------------------------------------------------------

    def add(
        self,
        merchant: str,
        name: str,
        *,
        value: str | None = None,
        pan: str | None = None,
        reason: str = "",
        ticket: str = "",
        author: str = "",
        expires: str | None = None,
    ) -> Listed:
        """Adds a value, or answers the entry in force that holds it. Raises InvalidEntry, which repeats nothing."""
        target, declared = self.target(merchant, name)
        note = read_note(reason, ticket, author)
        expires_us = read_expiry(expires, self.lists.clock_us(), self.timezone(merchant)) if expires else None
        read, former = self._read(target, value, pan)
        added = self.lists.add(target, read, note, expires_us, former)
        warnings = [f"overlaps {other}, which is in the list; the narrowest counts" for other in added.overlaps]
        if not added.created:
            warnings.append("the value was in the list already; its entry is unchanged")
        if any(entry.value in (read, former) for entry in declared.entries):
            warnings.append("the rule files hold this value in the same list")
        return Listed(added.entry, added.created, tuple(warnings))

    def _read(
        self, target: ListTarget, value: str | None, pan: str | None, is_new: bool = True
    ) -> tuple[str, str | None]:
        if (value is None) == (pan is None):
            raise InvalidEntry("value", "exactly one of `value` and `pan` is given")
        if pan is not None:
            if target.kind is not ListKind.CARD:
                raise InvalidEntry("pan", "goes into lists of cards only")
            try:
                number = Pan.parse(pan, "pan")
            except InvalidTransaction as error:
                raise InvalidEntry(error.field, error.problem) from None
            key = self._card_key()
            if key is None:
                raise InvalidEntry("pan", "there is no card key, so no fingerprint can be made")
            return number.fingerprint(key), number.fingerprint(key.former) if key.former is not None else None
        return read_value(target.kind, value or "", is_new=is_new), None

    def remove(
        self,
        merchant: str,
        name: str,
        *,
        entry_id: int | None = None,
        value: str | None = None,
        pan: str | None = None,
        reason: str = "",
        ticket: str = "",
        author: str = "",
    ) -> StoredEntry:
        """Removes the entry with that id or value from now on. Raises UnknownEntry when none is in force."""
        target, declared = self.target(merchant, name)
        note = read_note(reason, ticket, author)
        if entry_id is None:
            read, former = self._read(target, value, pan, is_new=False)
            held = self.lists.find(target, read) + (self.lists.find(target, former) if former else ())
            now_us = self.lists.clock_us()
            entry = next((item for item in held if item.in_force(now_us) or item.added_us > now_us), None)
            if entry is None and any(item.value == read for item in declared.entries):
                raise UnknownEntry("the value stands in the rule files: take it out there")
        else:
            entry = self.lists.get(entry_id)
        if entry is None or entry.target != target:
            raise UnknownEntry("the list has no such entry in force that is kept at run time")
        removed = self.lists.remove(entry.id, note)
        assert removed is not None
        return removed

    def blacklist(
        self,
        document: bytes,
        *,
        name: str = BLACKLIST,
        reason: str = "",
        ticket: str = "",
        author: str = "",
        expires: str | None = None,
    ) -> Listed:
        """Adds the card of a recorded screening to its merchant's blacklist. Raises NoFingerprint."""
        transaction = orjson.loads(document)["transaction"]
        fingerprint = (transaction.get("card") or {}).get("fingerprint")
        if fingerprint is None:
            why = "came with a masked number" if transaction.get("card") else "names no card"
            raise NoFingerprint(f"the screening {why}, which fits many cards: only a whole number can be listed")
        if not is_fingerprint(fingerprint):
            raise NoFingerprint("the screening's card fingerprint is not one that this engine makes")
        value = CardFingerprint(fingerprint)
        return self.add(
            transaction["merchant"], name, value=value, reason=reason, ticket=ticket, author=author, expires=expires
        )

    def page(
        self,
        merchant: str,
        name: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        search: str = "",
        as_of_us: int | None = None,
        everything: bool = False,
    ) -> Page:
        """Entries in force (or, with `everything`, all that ever were): of rule files first, then run-time ones."""
        target, declared = self.target(merchant, name)
        if holds_card_number(search):
            raise InvalidEntry("search", "holds a card number; search by fingerprint, reason, ticket or author")
        now_us = as_of_us if as_of_us is not None else self.lists.clock_us()
        phase, place = _read_cursor(cursor)
        found: list[dict[str, Any]] = []
        if phase == "f":
            matching = [e for e in declared.entries if (everything or e.in_force(now_us)) and _matches(e, search)]
            found = [file_entry_object(target, entry, now_us) for entry in matching[place : place + limit]]
            if place + limit < len(matching):
                return Page(found, f"f{place + limit}")
            place = 0
        left = limit - len(found)
        with ListReader(self.lists.path) as reader:
            rows = reader.page(
                target, after=place, limit=left + 1, search=search, as_of_us=None if everything else now_us
            )
        found += [stored_entry_object(entry, now_us) for entry in rows[:left]]
        more = len(rows) > left
        return Page(found, f"r{rows[left - 1].id if left else place}" if more else None)


def _read_cursor(cursor: str | None) -> tuple[str, int]:
    if not cursor:
        return "f", 0
    if cursor[0] not in "fr" or not (cursor[1:].isascii() and cursor[1:].isdigit()) or len(cursor) > 20:
        raise InvalidEntry("cursor", "is the `next` of the page before")
    place = int(cursor[1:])
    if place >= 1 << 63:  # no database has such an id, nor takes one
        raise InvalidEntry("cursor", "is the `next` of the page before")
    return cursor[0], place


def _matches(entry: ListEntry, search: str) -> bool:
    wanted = search.lower()
    return any(wanted in text.lower() for text in (entry.value, entry.reason, entry.ticket, entry.author))


def stored_entry_object(entry: StoredEntry, now_us: int) -> dict[str, Any]:
    """A run-time entry as JSON."""
    return {
        "id": entry.id,
        "list": entry.target.name,
        "kind": entry.target.kind.value,
        "scope": entry.target.scope,
        "value": entry.value,
        "source": RUN_TIME,
        "state": entry.state(now_us),
        "reason": entry.reason,
        "ticket": entry.ticket,
        "author": entry.author,
        "added": time_text(entry.added_us),
        "expires": time_text(entry.expires_us),
        "removed": time_text(entry.removed_us),
        "removed_by": entry.removed_by,
        "removed_reason": entry.removed_reason,
        "removed_ticket": entry.removed_ticket,
    }


def file_entry_object(target: ListTarget, entry: ListEntry, now_us: int) -> dict[str, Any]:
    """An entry of a rule file in the same form; it has no id and is removed by editing the file."""
    state = "in force" if entry.in_force(now_us) else "not yet" if (entry.added_us or 0) > now_us else "expired"
    return {
        "id": None,
        "list": target.name,
        "kind": target.kind.value,
        "scope": target.scope,
        "value": entry.value,
        "source": entry.source or "rule files",
        "state": state,
        "reason": entry.reason,
        "ticket": entry.ticket,
        "author": entry.author,
        "added": time_text(entry.added_us),
        "expires": time_text(entry.expires_us),
        "removed": None,
        "removed_by": None,
        "removed_reason": None,
        "removed_ticket": None,
    }
