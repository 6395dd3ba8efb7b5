"""Lists as they were: entries of the rule files and of run time with the instants between which each held.

Run-time entries are read from `lists.db` with those that were removed since, so that a transaction of last March is
judged by the list of last March (`lists='as-of'`), or by what is in force at one instant (`lists='now'`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from .. import store
from ..backends.columnar_lists import ALWAYS, DatedValue, ListKeys, dated, key_entries, merge_spans
from ..list_tables import LISTS, SHARED
from ..rules.activation import activate, awaited_lists
from ..rules.ast import DeclaredList, ListEntry, ListName, RuleSet

FilledSpans: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RunTimeEntry:
    """A run-time entry: its value, when it was in force, and when it stood in its list, in force or expired.

    A card whose fingerprint was made with a former key too is there twice, with one `id`.
    """

    id: int
    scope: str
    value: str
    added_us: int
    until_us: int
    removed_us: int


class ListHistory:
    """The run-time entries of every scope and list, by (scope, list, kind)."""

    def __init__(self, entries: Mapping[tuple[str, str, str], list[RunTimeEntry]] | None = None) -> None:
        self._entries = entries or {}

    @classmethod
    def read(cls, path: Path) -> ListHistory:
        """All entries that `lists.db` ever held; empty where there is no such file. Raises StoreUnavailable."""
        if not path.exists():
            return cls()
        found: dict[tuple[str, str, str], list[RunTimeEntry]] = {}
        with closing(store.open_database(path, query_only=True, schema=LISTS).conn) as connection:
            rows = connection.execute(
                "SELECT l.scope, l.name, l.kind, e.id, e.value, e.former_value, e.added_us, e.expires_us,"
                " e.removed_us FROM entries e JOIN lists l ON l.id = e.list_id"
            )
            for scope, name, kind, number, value, former, added, expires, removed in rows:
                removed = ALWAYS[1] if removed is None else removed
                until = removed if expires is None else min(expires, removed)
                for text in (value, former):
                    if text is not None:
                        entry = RunTimeEntry(number, scope, text, added, until, removed)
                        found.setdefault((scope, name, kind), []).append(entry)
        return cls(found)

    def of(self, merchant: str, name: str, kind: str) -> Iterable[RunTimeEntry]:
        """The run-time entries of one of the merchant's lists, its own and those of everybody."""
        for scope in (merchant, SHARED):
            yield from self._entries.get((scope, name, kind), ())

    def keys_of(self, rule_set: RuleSet, merchant: str) -> dict[ListName, ListKeys]:
        """Every list of the merchant, as rows are matched with it."""
        found = {}
        for name, declared in rule_set.lists.items():
            entries = [dated(entry) for entry in declared.entries]
            run_time = self.of(merchant, name, declared.kind.value)
            entries += [DatedValue(entry.value, entry.added_us, entry.until_us) for entry in run_time]
            found[name] = key_entries(declared.kind, entries)
        return found

    def merged(self, rule_set: RuleSet, merchant: str) -> dict[ListName, DeclaredList]:
        """The lists of the merchant with their run-time entries beside those of the files, removal as expiry."""
        found = {}
        for name, declared in rule_set.lists.items():
            entries = [
                ListEntry(entry.value, added_us=entry.added_us, expires_us=entry.until_us, source="run-time")
                for entry in self.of(merchant, name, declared.kind.value)
            ]
            found[name] = replace(declared, entries=(*declared.entries, *entries)) if entries else declared
        return found

    def woken(self, rule_set: RuleSet, merchant: str) -> tuple[RuleSet, dict[str, FilledSpans]]:
        """The rule set with the rules that run-time entries ever woke, and when each of those was awake."""
        filled = {}
        for name in awaited_lists(rule_set):
            declared = rule_set.lists[name]
            spans = [(entry.added_us, entry.removed_us) for entry in self.of(merchant, name, declared.kind.value)]
            if spans:
                filled[name] = merge_spans(spans)
        if not filled:
            return rule_set, {}
        awake = activate(rule_set, filled.keys())
        guards: dict[str, FilledSpans] = {}
        for before, after in zip(rule_set.rules, awake.rules, strict=True):
            if before is not after:
                spans_of = [filled[name] for name in before.awaits]
                guards[after.id] = _intersect(spans_of)
        return awake, guards


def _intersect(several: list[FilledSpans]) -> FilledSpans:
    found = several[0]
    for other in several[1:]:
        pairs = [(max(a, c), min(b, d)) for a, b in found for c, d in other]
        found = tuple((start, end) for start, end in pairs if start < end)
    return found
