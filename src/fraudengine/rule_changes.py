"""What changed in meaning between two states of the rules: settings, entries, rules; comments and order never.

Conditions are compared with their `$settings` not filled in, so that another figure is one change of a setting
and not a change of every rule that reads it, and in their canonical form (`rules.canonical`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeAlias

from .explain_words import day_words
from .money import format_minor
from .rule_words import condition_words, entry_words, setting_words, when_words
from .rules.ast import DeclaredList, ListEntry, Mode, MoneyFigures, Rule, RuleId, RuleSet, SettingValue
from .rules.canonical import canonical_form
from .rules.checked import CheckedFile, FileKind
from .rules.counters import describe_counter
from .rules.library import PLATFORM, Library
from .rules.link import resolve_extends, rules_before_settings

SHOWN: Final = 8


class ChangeKind(StrEnum):
    """What a change is about, in the order of reports."""

    MERCHANT = "merchant"
    SETTING = "setting"
    LIST = "list"
    RULE = "rule"
    COUNTER = "counter"
    ANSWER = "answer"
    WORDING = "wording"  # descriptions, notes, declarations that nothing reads: no decision changes


@dataclass(frozen=True, slots=True)
class RuleChange:
    """One change of one rule set, in words; equal changes of several merchants are equal objects."""

    kind: ChangeKind
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class SharedChange:
    """A change with every merchant that it is made for."""

    change: RuleChange
    merchants: tuple[str, ...]


@dataclass(slots=True)
class RulesState:
    """The rule sets of a directory, with their rules as files write them."""

    rule_sets: Mapping[str, RuleSet]
    _library: Library
    _files: dict[str, CheckedFile] = field(init=False)
    _shared: dict[str, CheckedFile] = field(init=False)

    def __post_init__(self) -> None:
        checked = self._library.checked_files.values()
        self._shared = {file.name: file for file in checked if file.kind is FileKind.SHARED_LIST}
        self._files = {file.name: file for file in checked if file.kind is not FileKind.SHARED_LIST}

    @classmethod
    def of(cls, library: Library) -> RulesState:
        return cls(library.snapshot.rule_sets, library)

    def written_rules(self, name: str) -> dict[RuleId, Rule]:
        parents = resolve_extends(name, self._files)
        assert not isinstance(parents, list), "a rule set in force has parents"
        return rules_before_settings(self._files[name], parents, self._shared)


# What comparing two objects gave, by their ids: merchants share the rules and lists that they inherit alike.
_Known: TypeAlias = dict[Hashable, tuple[RuleChange, ...]]


def compare_rules(before: RulesState, after: RulesState) -> tuple[SharedChange, ...]:
    """Every change in meaning, each with its merchants.

    The house rules alone are reported only for what no merchant shows.
    """
    found: dict[RuleChange, list[str]] = {}
    known: _Known = {}
    for name in sorted(before.rule_sets.keys() | after.rule_sets.keys(), key=lambda name: (name == PLATFORM, name)):
        for change in _compare_one(name, before, after, known):
            merchants = found.setdefault(change, [])
            if name != PLATFORM or not merchants:
                merchants.append(name)
    order = list(ChangeKind)
    ordered = sorted(found.items(), key=lambda item: (order.index(item[0].kind), item[0].subject, item[0].text))
    return tuple(SharedChange(change, tuple(merchants)) for change, merchants in ordered)


def _compare_one(name: str, before: RulesState, after: RulesState, known: _Known) -> Iterator[RuleChange]:
    old, new = before.rule_sets.get(name), after.rule_sets.get(name)
    if old is None or new is None:
        what = "the rule set" if name == PLATFORM else "the merchant"
        yield RuleChange(ChangeKind.MERCHANT, name, f"{what} {name} is {'new' if old is None else 'gone'}")
        return
    if old.revision == new.revision:
        return
    for setting in sorted(old.settings.keys() | new.settings.keys()):
        yield from _compare_settings(setting, old.settings.get(setting), new.settings.get(setting))
    for list_name in sorted(old.lists.keys() | new.lists.keys()):
        lists = old.lists.get(list_name), new.lists.get(list_name)
        key = (id(lists[0]), id(lists[1]), new.timezone)
        if key not in known:
            known[key] = tuple(_compare_lists(list_name, *lists, new.timezone))
        yield from known[key]
    yield from _compare_rules(old, new, before.written_rules(name), after.written_rules(name), known)
    yield from _compare_counters(old, new)
    yield from _compare_answers(old, new)
    if old.description != new.description:
        yield RuleChange(ChangeKind.WORDING, name, f"the description of {name} is reworded")


# ---- settings -------------------------------------------------------------------------------------


def _compare_settings(name: str, old: SettingValue | None, new: SettingValue | None) -> Iterator[RuleChange]:
    before = old.value if old is not None else None
    after = new.value if new is not None else None
    if before == after:
        if old is None or new is None:
            said = "declared" if old is None else "no longer declared"
            yield RuleChange(ChangeKind.WORDING, name, f"the setting {name} is {said}")
        return
    if before is None:
        yield RuleChange(ChangeKind.SETTING, name, f"{name} filled in: {setting_words(after)}")
    elif after is None:
        yield RuleChange(ChangeKind.SETTING, name, f"{name} no longer filled in, was {setting_words(before)}")
    elif isinstance(before, MoneyFigures) and isinstance(after, MoneyFigures):
        for currency in sorted({code for code, _ in (*before.figures, *after.figures)}):
            text = _figure_change(before.minor_in(currency), after.minor_in(currency), currency)
            if text:
                yield RuleChange(ChangeKind.SETTING, name, f"{name} {text}")
    else:
        yield RuleChange(ChangeKind.SETTING, name, f"{name} {setting_words(before)} → {setting_words(after)}")


def _figure_change(before: int | None, after: int | None, currency: str) -> str:
    if before == after:
        return ""
    old = format_minor(before, currency) if before is not None else ""
    new = format_minor(after, currency) if after is not None else ""
    if not old:
        return f"in {currency} added: {new} {currency}"
    if not new:
        return f"in {currency} removed, was {old} {currency}"
    return f"{old} → {new} {currency}"


# ---- lists ----------------------------------------------------------------------------------------


def _compare_lists(
    name: str, old: DeclaredList | None, new: DeclaredList | None, timezone: str
) -> Iterator[RuleChange]:
    if old is new:
        return
    declared = new or old
    assert declared is not None
    before = _by_value(old.entries if old is not None else ())
    after = _by_value(new.entries if new is not None else ())
    added = [value for value in after if value not in before]
    removed = [value for value in before if value not in after]
    for said, values, entries in (("added", added, after), ("removed", removed, before)):
        if values:
            words = [entry_words(entries[value][0], declared.kind) for value in sorted(values)]
            yield RuleChange(ChangeKind.LIST, name, f"{name}: {said} {_several(words)}")
    for value in sorted(before.keys() & after.keys()):
        if before[value] == after[value]:
            continue
        shown = entry_words(after[value][0], declared.kind)
        dates = [_dates(entries[value], timezone) for entries in (before, after)]
        if dates[0] != dates[1]:
            yield RuleChange(ChangeKind.LIST, name, f"{name}: {shown} {dates[0]} → {dates[1]}")
        else:
            yield RuleChange(ChangeKind.WORDING, name, f"{name}: the notes on {shown} are changed")
    if (old is None or new is None) and not before and not after:
        yield RuleChange(ChangeKind.WORDING, name, f"the list {name} is {'declared' if old is None else 'gone'}")


def _by_value(entries: tuple[ListEntry, ...]) -> dict[str, tuple[ListEntry, ...]]:
    found: dict[str, tuple[ListEntry, ...]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.value, entry.added_us or 0, entry.expires_us or 0)):
        found[entry.value] = (*found.get(entry.value, ()), entry)
    return found


def _dates(entries: tuple[ListEntry, ...], timezone: str) -> str:
    spans = []
    for entry in entries:
        since = f"since {day_words(entry.added_us, timezone)}" if entry.added_us is not None else ""
        until = f"until {day_words(entry.expires_us, timezone)}" if entry.expires_us is not None else ""
        spans.append(" ".join(part for part in (since, until) if part) or "always")
    return " and ".join(spans)


def _several(words: list[str]) -> str:
    shown = ", ".join(words[:SHOWN])
    return f"{shown} and {len(words) - SHOWN} more" if len(words) > SHOWN else shown


# ---- rules ----------------------------------------------------------------------------------------


def _compare_rules(
    old: RuleSet, new: RuleSet, before: Mapping[RuleId, Rule], after: Mapping[RuleId, Rule], known: _Known
) -> Iterator[RuleChange]:
    olds, news = {rule.id: rule for rule in old.rules}, {rule.id: rule for rule in new.rules}
    for rule_id in sorted(olds.keys() | news.keys()):
        one, other = olds.get(rule_id), news.get(rule_id)
        if one is None and other is not None:
            text = f"rule {rule_id} added ({_mode(other)}): {_outcome(other)} {when_words(after[rule_id])}"
            yield RuleChange(ChangeKind.RULE, rule_id, text)
        elif other is None and one is not None:
            yield RuleChange(ChangeKind.RULE, rule_id, f"rule {rule_id} removed (was {_mode(one)})")
        elif one is not None and other is not None and one is not other:
            key = (id(one), id(other))  # equal objects come from one written rule
            if key not in known:
                known[key] = tuple(_compare_rule(one, other, before[rule_id], after[rule_id]))
            yield from known[key]


def _compare_rule(old: Rule, new: Rule, before: Rule, after: Rule) -> Iterator[RuleChange]:
    """`old` and `new` are in force; `before` and `after` have their settings not filled in."""

    def changed(text: str, kind: ChangeKind = ChangeKind.RULE) -> RuleChange:
        return RuleChange(kind, new.id, f"rule {new.id} {text}")

    if old.mode is not new.mode:
        yield changed(f"now {_mode(new)}, was {_mode(old)}")
    elif old.mode is Mode.OFF and old.off_because != new.off_because:
        yield changed(f"still off, but now because {new.off_because}", ChangeKind.WORDING)
    if _outcome(old) != _outcome(new):
        yield changed(f"now gives {_outcome(new)}, gave {_outcome(old)}")
    if canonical_form(before.when) != canonical_form(after.when):
        yield changed(f"now matches when {condition_words(after.when)}, was when {condition_words(before.when)}")
    if canonical_form(before.unless) != canonical_form(after.unless):
        yield changed(f"unless: {_unless(after)}, was {_unless(before)}")
    if old.if_unknown is not new.if_unknown:
        said = new.if_unknown or "does not match"
        yield changed(f"when that cannot be known: {said}, was {old.if_unknown or 'does not match'}")
    if old.reason != new.reason:
        yield changed(f"now answers {new.reason}, was {old.reason}")
    if old.challenge_indicator != new.challenge_indicator:
        yield changed(f"challenge indicator {old.challenge_indicator} → {new.challenge_indicator}")
    if (old.description, old.description_fr) != (new.description, new.description_fr):
        yield changed("is described in other words", ChangeKind.WORDING)


def _mode(rule: Rule) -> str:
    if rule.mode is not Mode.OFF:
        return rule.mode.value
    return f"off: {rule.off_because}" if rule.off_because else "off"


def _outcome(rule: Rule) -> str:
    return f"{rule.then}{' (final)' * rule.final}"


def _unless(rule: Rule) -> str:
    return condition_words(rule.unless) if rule.unless is not None else "nothing"


# ---- the rest -------------------------------------------------------------------------------------


def _compare_counters(old: RuleSet, new: RuleSet) -> Iterator[RuleChange]:
    for name in sorted(old.velocity.keys() | new.velocity.keys()):
        before, after = old.velocity.get(name), new.velocity.get(name)
        if before is None and after is not None:
            text = f"counter {name} added: {describe_counter(after)}"
        elif after is None:
            text = f"counter {name} removed"
        elif before is not None and replace(before, help="") != replace(after, help=""):
            text = f"counter {name} now {describe_counter(after)}, was {describe_counter(before)}"
        else:
            continue
        yield RuleChange(ChangeKind.COUNTER, name, text)


def _compare_answers(old: RuleSet, new: RuleSet) -> Iterator[RuleChange]:
    """What holds for the whole rule set."""
    challenge = "after a challenge, when 3-D Secure"
    for subject, words, before, after in (
        ("otherwise", "when no rule decides:", old.otherwise, new.otherwise),
        ("attempted", f"{challenge} was only attempted:", old.challenge.attempted, new.challenge.attempted),
        ("unavailable", f"{challenge} is unavailable:", old.challenge.unavailable, new.challenge.unavailable),
        ("impossible", f"{challenge} is impossible:", old.challenge.impossible, new.challenge.impossible),
        ("timezone", "timezone", old.timezone, new.timezone),
    ):
        if before != after:
            yield RuleChange(ChangeKind.ANSWER, subject, f"{words} {before} → {after}")
    for key in sorted(old.metadata.keys() | new.metadata.keys()):
        kinds = [
            found.value if found is not None else "nothing"
            for found in (old.metadata.get(key), new.metadata.get(key))
        ]
        if kinds[0] != kinds[1]:
            yield RuleChange(ChangeKind.ANSWER, key, f"metadata.{key} is {kinds[1]}, was {kinds[0]}")
