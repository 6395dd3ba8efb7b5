"""A rule of a merged file -> the rule in force: settings filled in, or off with the reason why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from ..diagnostics import Diagnostic
from ..facts import CATALOGUE
from .ast import Compare, ListName, Literal, Mode, MoneyFigures, Op, Rule, SettingRef, walk
from .check_values import Wrong, literal
from .checked import CheckedRule, SettingUse
from .fill import fill_settings
from .link_merge import Merged
from .reachability import find_contradiction

_MUST_BE_FILLED: Final = "allowed_"
_MAY_BE_EMPTY: Final = ("trusted_", "blocked_", "blacklist")


def make_effective(checked: CheckedRule, merged: Merged, base: Merged | None) -> Rule | list[Diagnostic]:
    """The rule in force; the same object for every heir of `base` for whom it comes out equal."""
    rule = checked.rule
    if not checked.settings and not checked.lists:
        return rule
    values = tuple([merged.settings[use.name].value for use in checked.settings])
    empty = _empty_lists(checked, merged)
    if not values and (not empty or rule.mode is Mode.OFF):
        return rule
    key = (id(checked), values, empty)
    known = base.variants.get(key) if base is not None else None
    if known is not None:
        shared = known[1]
        assert isinstance(shared, Rule)
        return shared
    made = _make_effective(checked, merged, empty)
    if base is not None and isinstance(made, Rule) and rule.origin != merged.file.name:
        base.keep(key, (checked, made))  # `checked` is kept so that its id stays its own
    return made


def _make_effective(checked: CheckedRule, merged: Merged, empty: tuple[ListName, ...]) -> Rule | list[Diagnostic]:
    rule = checked.rule
    missing = _off_because(checked, merged, empty) if rule.mode is not Mode.OFF else ""
    if not missing:
        return _fill_in(checked, merged)
    # Only lists that run-time entries may fill can still turn it on: it waits for them, filled in.
    awaits = () if any(merged.settings[use.name].value is None for use in checked.settings) else empty
    filled = _fill_in(checked, merged) if awaits and checked.settings else rule
    if not isinstance(filled, Rule):
        return filled
    return replace(filled, mode=Mode.OFF, off_because=missing, awaits=awaits, mode_when_filled=rule.mode)


def _off_because(checked: CheckedRule, merged: Merged, empty: tuple[ListName, ...]) -> str:
    """Why the rule cannot work for this rule set, in a support agent's words; empty when it can."""
    why: list[str] = []
    for use in checked.settings:
        if merged.settings[use.name].value is None:
            why.append(f"nobody gave `{use.name}` a value")
    why += [f"nobody filled the list `{name}`" for name in empty]
    return " and ".join(dict.fromkeys(why))


def _empty_lists(checked: CheckedRule, merged: Merged) -> tuple[ListName, ...]:
    """The lists that turn the rule off while they hold nothing."""
    empty: list[ListName] = []
    for reads in checked.lists:
        declared = merged.lists.get(reads.name)
        if declared is None or declared.entries:
            continue
        if reads.name.startswith(_MUST_BE_FILLED) or (reads.turns_off and not reads.name.startswith(_MAY_BE_EMPTY)):
            empty.append(reads.name)
    return tuple(dict.fromkeys(empty))


def _fill_in(checked: CheckedRule, merged: Merged) -> Rule | list[Diagnostic]:
    """The rule with its settings' values; mistakes when a value does not suit the fact it meets."""
    rule = checked.rule
    mistakes: list[Diagnostic] = []
    values: dict[tuple[str, str], Literal | MoneyFigures] = {}
    for use in checked.settings:
        value = merged.settings[use.name].value
        if value is None:  # the rule is off by its own word, so nothing needs to be filled in
            return rule
        suited = _suit(value, use, merged)
        if isinstance(suited, Diagnostic):
            mistakes.append(suited)
        else:
            values[use.name, use.fact] = suited
    mistakes += _always_reached(checked, merged, values)
    if mistakes:
        return mistakes
    filled = replace(
        rule,
        when=fill_settings(rule.when, values),
        unless=fill_settings(rule.unless, values) if rule.unless is not None else None,
    )
    contradiction = find_contradiction(filled)
    if contradiction is None:
        return filled
    given = [(merged.value_places[use.name], f"`{use.name}` has its value here") for use in checked.settings]
    return [replace(contradiction, also=(*contradiction.also, *dict.fromkeys(given)))]


def _always_reached(
    checked: CheckedRule, merged: Merged, values: Mapping[tuple[str, str], Literal | MoneyFigures]
) -> Iterator[Diagnostic]:
    """A figure that every count reaches, such as 0 where it was to switch the rule off."""
    rule = checked.rule
    for test in (*walk(rule.when), *(walk(rule.unless) if rule.unless is not None else ())):
        if not (
            isinstance(test, Compare) and isinstance(test.operand, SettingRef) and test.fact in merged.velocity
        ):
            continue
        name = test.operand.name
        value = values.get((name, test.fact))
        figure = value.value if isinstance(value, Literal) else None
        least = {Op.AT_LEAST: 1, Op.OVER: 0}.get(test.op)
        if isinstance(figure, int) and least is not None and figure < least:
            yield Diagnostic(
                "always-reached",
                f"`{name}` is {figure}, which every payment reaches: rule `{rule.id}` would match every payment",
                merged.value_places[name],
                f"write {least} or more, or delete the line: then the rule is off",
                also=((test.span, f"`{test.fact}` is compared with it here"),),
            )


def _suit(value: Literal | MoneyFigures, use: SettingUse, merged: Merged) -> Literal | MoneyFigures | Diagnostic:
    """The setting's value as the fact's values are written, such as an e-mail in lower case."""
    spec = CATALOGUE.get(use.fact)
    if isinstance(value, MoneyFigures) or spec is None or isinstance(value.value, bool):
        return value
    read = literal(str(value.value), spec)
    if not isinstance(read, Wrong):
        return Literal(read)
    also = ((use.span, f"`{use.fact}` is compared with it here"),)
    return Diagnostic(read.code, read.message, merged.value_places[use.name], read.hint, also=also)
