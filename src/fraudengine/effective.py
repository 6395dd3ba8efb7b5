"""Where each part of an effective rule set is from: file and line of a setting, of entries, of a change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .diagnostics import Span
from .rules.ast import ListName, RuleId, RuleSet
from .rules.checked import CheckedFile
from .rules.library import Library


@dataclass(frozen=True, slots=True)
class Sources:
    """Places by name: `settings` the value in force, `lists` every file with entries, `changes` each tuned rule."""

    files: tuple[str, ...]
    settings: Mapping[str, Span]
    lists: Mapping[ListName, tuple[tuple[Span, int], ...]]
    changes: Mapping[RuleId, tuple[Span, ...]]


def find_sources(library: Library, rule_set: RuleSet) -> Sources:
    """The places in the files that the rule set is made from, the merchant's own file first."""
    known = library.checked_files
    files = [known[path] for path, _ in rule_set.sources if path in known]
    settings: dict[str, Span] = {}
    lists: dict[ListName, list[tuple[Span, int]]] = {}
    changes: dict[RuleId, list[Span]] = {}
    for file in files:
        for name, span in _settings_given(file).items():
            settings.setdefault(name, span)
        for filled in file.lists_filled:
            lists.setdefault(filled.name, []).append((filled.span, len(filled.entries.items)))
        for declared in file.lists_declared:
            if declared.entries:
                lists.setdefault(declared.name, []).append((declared.span, len(declared.entries)))
        for change in file.changes:
            changes.setdefault(change.rule_id, []).append(change.span)
    return Sources(
        tuple(file.path for file in files),
        settings,
        {name: tuple(places) for name, places in lists.items()},
        {rule_id: tuple(places) for rule_id, places in changes.items()},
    )


def _settings_given(file: CheckedFile) -> dict[str, Span]:
    found = {declared.name: declared.span for declared in file.settings_declared if declared.value is not None}
    return found | {given.name: given.value.span for given in file.settings_given}
