"""Entries worth a second look: those that no transaction met in a while, and those about to expire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .list_entries import RUN_TIME, time_text
from .list_reading import ListReader
from .rules.ast import ListEntry, ListName, RuleSet

DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One entry and why it is shown: `unused` (since `last_us`, None: never met) or `expiring`."""

    why: str
    scope: str
    list_name: ListName
    entry: ListEntry
    last_us: int | None = None

    def as_object(self) -> dict[str, Any]:
        return {
            "why": self.why,
            "scope": self.scope,
            "list": self.list_name,
            "id": self.entry.id,
            "value": self.entry.value,
            "source": self.entry.source,
            "reason": self.entry.reason,
            "ticket": self.entry.ticket,
            "author": self.entry.author,
            "added": time_text(self.entry.added_us),
            "expires": time_text(self.entry.expires_us),
            "last_matched": time_text(self.last_us),
        }

    def as_text(self) -> str:
        entry = self.entry
        where = f"entry {entry.id}" if entry.source == RUN_TIME else entry.source
        notes = ", ".join(note for note in (entry.reason, entry.ticket, entry.author) if note)
        if self.why == "expiring":
            said = f"expires {time_text(entry.expires_us)}"
        else:
            said = f"last matched {time_text(self.last_us)}" if self.last_us is not None else "never matched"
        return f"{self.scope} {self.list_name} {entry.value} ({where}): {said}{'; ' + notes if notes else ''}"


def review_entries(
    reader: ListReader, rule_sets: Mapping[str, RuleSet], now_us: int, unused_days: int, expiring_days: int
) -> list[Finding]:
    """Unused entries first, then expiring ones.

    An entry of a rule file counts as added when matches began to be noted, or on its later date; one that several
    merchants inherit is unused when none of them met it.
    """
    since_us, until_us = now_us - unused_days * DAY_US, now_us + expiring_days * DAY_US
    found = [
        Finding("unused", row.entry.target.scope, row.entry.target.name, row.entry.as_list_entry(), row.last_us)
        for row in reader.unused(since_us, now_us)
    ]
    matches, began_us = reader.file_matches(), reader.began_us()
    met: dict[tuple[str, ListName, str], int] = {}
    files: dict[tuple[str, ListName, str], tuple[str, ListEntry]] = {}
    for scope, name, entry in _file_entries(rule_sets):
        key = (entry.source, name, entry.value)
        files.setdefault(key, (scope, entry))
        met[key] = max(met.get(key, 0), matches.get((scope, name, entry.value), 0))
    in_force = {key: held for key, held in files.items() if held[1].in_force(now_us)}
    for key, (scope, entry) in in_force.items():
        if max(entry.added_us or 0, began_us) < since_us and met[key] < since_us:
            found.append(Finding("unused", scope, key[1], entry, met[key] or None))
    found += [
        Finding("expiring", entry.target.scope, entry.target.name, entry.as_list_entry())
        for entry in reader.expiring(until_us, now_us)
    ]
    found += [
        Finding("expiring", scope, key[1], entry)
        for key, (scope, entry) in in_force.items()
        if entry.expires_us is not None and entry.expires_us <= until_us
    ]
    return found


def _file_entries(rule_sets: Mapping[str, RuleSet]) -> Iterator[tuple[str, ListName, ListEntry]]:
    for merchant, rule_set in rule_sets.items():
        for name, declared in rule_set.lists.items():
            for entry in declared.entries:
                yield merchant, name, entry
