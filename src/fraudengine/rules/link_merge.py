"""One checked file merged into what it extends: declarations, values, entries, changes and rules."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..diagnostics import Diagnostic, Span, suggest
from ..facts import CATALOGUE, FactName, FactType, ListKind
from .ast import DeclaredList, FactRef, ListEntry, ListName, Mode, Outcome, Rule, RuleId, SettingValue
from .check import read_setting_value
from .check_lists import read_entries
from .check_rules import read_rule
from .checked import (
    DEFAULT_TIMEZONE,
    Change,
    CheckedFile,
    CheckedRule,
    KnownFacts,
    ListUse,
    Mistakes,
    SettingUse,
    shown,
)
from .counters import Counter
from .fill import fill_settings

MAX_VARIANTS: Final = 10_000


@dataclass(slots=True)
class Merged:
    """What a file and its parents say together; `rules` are changed but their settings not yet filled in.

    `variants` keeps the forms that rules of this chain take for heirs, so that equal heirs share them. It is
    emptied when it grows past a bound.
    """

    file: CheckedFile
    settings: dict[str, SettingValue]
    setting_places: dict[str, Span]
    value_places: dict[str, Span]
    lists: dict[ListName, DeclaredList]
    list_places: dict[ListName, Span]
    metadata: dict[str, FactType]
    metadata_places: dict[str, Span]
    velocity: dict[FactName, Counter]
    rules: dict[RuleId, CheckedRule]
    otherwise: Outcome | None
    timezone: str | None
    attempted: Outcome | None
    unavailable: Outcome | None
    impossible: Outcome | None
    mistakes: tuple[Diagnostic, ...] = ()
    variants: dict[Hashable, Any] = field(default_factory=dict)

    def keep(self, key: Hashable, value: Any) -> None:
        if len(self.variants) >= MAX_VARIANTS:
            self.variants.clear()
        self.variants[key] = value

    def shared_reads(self, reads: frozenset[FactName]) -> frozenset[FactName]:
        known = self.variants.get(reads)
        if known is None:
            self.keep(reads, reads)
            return reads
        assert isinstance(known, frozenset)
        return known


def merge(file: CheckedFile, base: Merged | None, shared_lists: Mapping[str, CheckedFile]) -> Merged:
    """The file over `base`. Never changes `base`; tables that the file adds nothing to are shared with it."""
    return _Merger(file, base, shared_lists).merge()


class _Merger:
    def __init__(self, file: CheckedFile, base: Merged | None, shared_lists: Mapping[str, CheckedFile]) -> None:
        self.file = file
        self.base = base
        self.shared_lists = shared_lists
        self.mistakes = Mistakes()
        self.report = self.mistakes.report

    def merge(self) -> Merged:
        file, base = self.file, self.base
        if base is None:
            merged = Merged(file, {}, {}, {}, {}, {}, {}, {}, {}, {}, *_given(file))
        else:
            merged = Merged(
                file,
                base.settings,
                base.setting_places,
                base.value_places,
                base.lists,
                base.list_places,
                base.metadata,
                base.metadata_places,
                base.velocity,
                dict(base.rules),
                file.otherwise or base.otherwise,
                file.timezone or base.timezone,
                file.attempted or base.attempted,
                file.unavailable or base.unavailable,
                file.impossible or base.impossible,
            )
        if file.settings_declared or file.settings_given:
            merged.settings = dict(merged.settings)
            merged.setting_places = dict(merged.setting_places)
            merged.value_places = dict(merged.value_places)
            self.merge_settings(merged)
        if file.lists_declared or file.lists_filled:
            merged.lists = dict(merged.lists)
            merged.list_places = dict(merged.list_places)
            self.merge_lists(merged)
        if file.metadata:
            merged.metadata = dict(merged.metadata)
            merged.metadata_places = dict(merged.metadata_places)
            self.merge_metadata(merged)
        if file.velocity:
            merged.velocity = dict(merged.velocity)
            self.merge_velocity(merged)
        if merged.velocity:
            self.check_setting_names(merged)
        for change in file.changes:
            self.apply_change(merged, change)
        for checked in file.rules:
            self.add_rule(merged, checked)
        inherited = base.mistakes if base is not None else ()
        merged.mistakes = (*inherited, *self.mistakes.found)
        return merged

    # ---- declarations and values --------------------------------------------------------------

    def merge_settings(self, merged: Merged) -> None:
        origin = self.file.name
        for declared in self.file.settings_declared:
            first = merged.setting_places.get(declared.name)
            if first is not None:
                self.report_again("setting", declared.name, declared.span, first)
                continue
            given_in = origin if declared.value is not None else ""
            merged.settings[declared.name] = SettingValue(
                declared.name, declared.type, declared.help, declared.value, origin, given_in
            )
            merged.setting_places[declared.name] = declared.span
            merged.value_places[declared.name] = declared.span
        for given in self.file.settings_given:
            setting = merged.settings.get(given.name)
            if setting is None:
                hint = suggest(given.name[:64], merged.settings) or "declare it with `{type: money, help: …}`"
                self.report("unknown-setting", f"unknown setting {shown(given.name)}", given.span, hint)
                continue
            value = read_setting_value(given.value, setting.type, self.mistakes)
            if value is not None:
                merged.settings[given.name] = replace(setting, value=value, given_in=origin)
                merged.value_places[given.name] = given.value.span

    def merge_lists(self, merged: Merged) -> None:
        origin = self.file.name
        timezone = merged.timezone or DEFAULT_TIMEZONE
        for declared in self.file.lists_declared:
            first = merged.list_places.get(declared.name)
            if first is not None:
                self.report_again("list", declared.name, declared.span, first)
                continue
            shared = self.shared_lists.get(declared.name)
            if shared is not None:
                self.report_again("shared list", declared.name, declared.span, shared.span)
                continue
            entries = self.entries_in(declared.name, declared.kind, declared.entries, timezone)
            merged.lists[declared.name] = DeclaredList(declared.name, declared.kind, declared.help, entries, origin)
            merged.list_places[declared.name] = declared.span
        for filled in self.file.lists_filled:
            known = merged.lists.get(filled.name)
            if known is not None:
                entries = read_entries(filled.entries, known.kind, timezone, self.mistakes)
                merged.lists[filled.name] = replace(known, entries=entries + known.entries)
            elif (shared := self.shared_lists.get(filled.name)) is not None:
                hint = "add the entries there, or declare a list of your own under another name"
                also = ((shared.span, "its entries stand in this file"),)
                self.report("fills-shared-list", f"`{filled.name}` is a shared list", filled.span, hint, also)
            else:
                hint = suggest(filled.name[:64], merged.lists) or "declare it: `{of: country, entries: […]}`"
                self.report("unknown-list", f"unknown list {shown(filled.name)}", filled.span, hint)

    def entries_in(
        self, name: ListName, kind: ListKind, entries: tuple[ListEntry, ...], timezone: str
    ) -> tuple[ListEntry, ...]:
        """The entries with their dates read again when an inherited timezone says what midnight is."""
        if timezone != DEFAULT_TIMEZONE:
            for dated in self.file.dated_lists:
                if dated.name == name:
                    return read_entries(dated.entries, kind, timezone, Mistakes())
        return entries

    def merge_metadata(self, merged: Merged) -> None:
        for declared in self.file.metadata:
            known = merged.metadata.get(declared.key)
            if known is not None and known is not declared.type:
                also = ((merged.metadata_places[declared.key], f"it is {known.value} here"),)
                hint = f"declare it as `{known.value}`, or delete it: it is inherited"
                message = f"metadata {shown(declared.key)} is declared with two types"
                self.report("metadata-types-differ", message, declared.span, hint, also)
            elif known is None:
                merged.metadata[declared.key] = declared.type
                merged.metadata_places[declared.key] = declared.span

    def merge_velocity(self, merged: Merged) -> None:
        for counter in self.file.velocity:
            first = merged.velocity.get(counter.name)
            if first is not None:
                self.report_again("counter", counter.name, counter.span, first.span)
            else:
                merged.velocity[counter.name] = replace(counter, origin=self.file.name)

    def check_setting_names(self, merged: Merged) -> None:
        """`$name` must mean one thing, so no setting is named like a counter of another file in the chain."""
        for name in merged.velocity.keys() & merged.setting_places.keys():
            counter, setting = merged.velocity[name].span, merged.setting_places[name]
            if (counter.path == self.file.path) != (setting.path == self.file.path):
                mine, other = (counter, setting) if counter.path == self.file.path else (setting, counter)
                message = f"`{name}` is the name of a counter and of a setting, so `${name}` would mean both"
                also = ((other, "the other one"),)
                self.report("counter-named-like-setting", message, mine, "give it another name", also)

    def report_again(self, what: str, name: str, span: Span, first: Span) -> None:
        hint = _SAY_INSTEAD.get(what, "write only its entries, or use another name")
        also = ((first, "it is declared here already"),)
        self.report(
            f"{what.replace(' ', '-')}-declared-twice", f"{what} `{name}` is declared twice", span, hint, also
        )

    # ---- rules --------------------------------------------------------------------------------

    def apply_change(self, merged: Merged, change: Change) -> None:
        base = self.base
        checked = base.rules.get(change.rule_id) if base is not None else None
        if base is None or checked is None:
            own = [rule.rule.span for rule in self.file.rules if rule.rule.id == change.rule_id]
            if own:
                also = ((own[0], "the rule is in this file"),)
                hint = "edit the rule itself; `change` tunes inherited rules"
                self.report("change-of-own-rule", f"`{change.rule_id}` is not inherited", change.span, hint, also)
                return
            hint = suggest(change.rule_id[:64], merged.rules) or "`change` tunes rules that `extends` brings"
            self.report("unknown-rule", f"unknown rule {shown(change.rule_id)}", change.span, hint)
            return
        key = (id(checked), replace(change, span=_NOWHERE))
        known = base.variants.get(key)
        if known is None:
            known = replace(checked, rule=changed_rule(checked.rule, change))
            if known.rule.final and known.rule.then is not Outcome.REFUSE:
                also = ((checked.rule.span, "the rule is `final` here"),)
                message = f"`{change.rule_id}` is final, so it can only refuse"
                self.report("final-not-refuse", message, change.span, "leave its `then` as it is", also)
                return
            base.keep(key, known)
        merged.rules[change.rule_id] = known

    def add_rule(self, merged: Merged, checked: CheckedRule) -> None:
        if checked.deferred is not None:
            again = read_rule(checked.deferred, self.mistakes, KnownFacts(merged.metadata, merged.velocity), False)
            if again is None:
                return
            checked = again
        rule = checked.rule
        inherited = self.base.rules.get(rule.id) if self.base is not None else None
        if inherited is not None:
            also = ((inherited.rule.span, f"`{inherited.rule.origin}` brings it"),)
            hint = f"use another id, or tune it: `change: {{{rule.id}: {{mode: …}}}}`"
            self.report("redefined-rule", f"rule `{rule.id}` is inherited already", rule.span, hint, also)
            return
        before = len(self.mistakes.found)
        if any(setting.name in merged.velocity for setting in checked.settings):
            checked = self.refer_to_counters(merged, checked)
            rule = checked.rule
        for setting in checked.settings:
            self.check_setting(merged, setting)
        for reads in checked.lists:
            self.check_list(merged, reads)
        if len(self.mistakes.found) > before:
            return
        merged.rules[rule.id] = replace(checked, rule=replace(rule, origin=self.file.name))

    def refer_to_counters(self, merged: Merged, checked: CheckedRule) -> CheckedRule:
        """The rule with its `$name`s that turn out to be inherited counters as facts instead of settings."""
        named = {use.name: merged.velocity[use.name] for use in checked.settings if use.name in merged.velocity}
        for use in checked.settings:
            counter = named.get(use.name)
            if counter is not None and counter.type is not use.type:
                also = ((counter.span, f"its type is {counter.type.value}"),)
                message = f"`{use.fact}` cannot be compared with the counter `{use.name}`"
                self.report("types-differ", message, use.span, f"use a counter of type {use.type.value}", also)
        references = {(use.name, use.fact): FactRef(use.name) for use in checked.settings if use.name in named}
        rule = checked.rule
        filled = replace(
            rule,
            when=fill_settings(rule.when, references),
            unless=fill_settings(rule.unless, references) if rule.unless is not None else None,
        )
        left = tuple(use for use in checked.settings if use.name not in named)
        return replace(checked, rule=filled, settings=left, reads=checked.reads | named.keys())

    def check_setting(self, merged: Merged, use: SettingUse) -> None:
        setting = merged.settings.get(use.name)
        if setting is None:
            known = [*merged.settings, *CATALOGUE, *merged.velocity]
            hint = suggest(use.name[:64], known) or "declare it under `settings:`, with its type"
            message = f"{shown('$' + use.name)} is neither a setting nor a fact"
            self.report("unknown-setting", message, use.span, hint)
        elif setting.type is not use.type and not (setting.type is FactType.TEXT and use.type is FactType.WORD):
            also = ((merged.setting_places[use.name], f"its type is {setting.type.value}"),)
            message = f"`{use.fact}` cannot be compared with `${use.name}`"
            self.report("types-differ", message, use.span, f"use a setting of type {use.type.value}", also)

    def check_list(self, merged: Merged, use: ListUse) -> None:
        kind: ListKind | None = None
        place: Span | None = None
        declared = merged.lists.get(use.name)
        shared = self.shared_lists.get(use.name)
        if declared is not None:
            kind, place = declared.kind, merged.list_places[use.name]
        elif shared is not None:
            kind, place = shared.lists_declared[0].kind, shared.span
        if kind is None or place is None:
            hint = suggest(use.name[:64], [*merged.lists, *self.shared_lists])
            hint = hint or "declare it under `lists:`, with what it is of"
            self.report("unknown-list", f"unknown list {shown(use.name)}", use.span, hint)
        elif kind not in CATALOGUE[use.fact].lists:
            wanted = " or ".join(f"`of: {one.value}`" for one in CATALOGUE[use.fact].lists)
            also = ((place, f"it is of {kind.value}"),)
            message = f"`{use.fact}` cannot be in `{use.name}`"
            self.report("wrong-list-kind", message, use.span, f"use a list {wanted}", also)


_SAY_INSTEAD: Final = {"setting": "give its value only", "counter": "use another name"}
_NOWHERE: Final = Span("", 0, 0, 0)


def _given(
    file: CheckedFile,
) -> tuple[Outcome | None, str | None, Outcome | None, Outcome | None, Outcome | None]:
    return file.otherwise, file.timezone, file.attempted, file.unavailable, file.impossible


def changed_rule(rule: Rule, change: Change) -> Rule:
    """The rule with what the change gives; its origin and condition stay."""
    mode = change.mode or rule.mode
    off_because = rule.off_because
    if change.mode is not None:
        off_because = "`change` says `mode: off`" if change.mode is Mode.OFF else ""
    return replace(
        rule,
        mode=mode,
        off_because=off_because,
        then=change.then or rule.then,
        if_unknown=change.if_unknown or rule.if_unknown,
        reason=change.reason or rule.reason,
        description=change.description if change.description is not None else rule.description,
        challenge_indicator=change.challenge_indicator or rule.challenge_indicator,
        description_fr=change.description_fr if change.description is not None else rule.description_fr,
    )
