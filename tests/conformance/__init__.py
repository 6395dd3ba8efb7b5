"""Cases that every backend must answer alike: boundaries written down by hand, and counterexamples once found.

A file holds `cases`; a case has `rules`, perhaps `lists`, and `transactions` with the rules that match (`id`, or
`id (outcome)` where `if_unknown` made it match). Rules are written in the words of rule files, figures in minor
units as `{TND: 100000}`. Facts have the types of `tests.strategies.TYPES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any as Untyped

import yaml

from fraudengine.decision import Match
from fraudengine.facts import FactName, Facts, FactType, FactValue
from fraudengine.lists import ListsAsOf
from fraudengine.money import Money
from fraudengine.rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    DeclaredList,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    ListEntry,
    ListName,
    Literal,
    Mode,
    MoneyFigures,
    Not,
    OneOf,
    Op,
    Operand,
    Outcome,
    Rule,
    RuleId,
    RuleSet,
    StartsWith,
)
from tests import strategies
from tests.strategies import SPAN, TYPES

DIRECTORY = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    rule_set: RuleSet
    transactions: tuple[tuple[Facts, tuple[str, ...]], ...]

    @property
    def lists(self) -> ListsAsOf:
        return strategies.lists_of(self.rule_set)


def read_cases() -> Iterator[Case]:
    """Every case of every file, in the order of file names."""
    for path in sorted(DIRECTORY.glob("*.yaml")):
        for case in yaml.safe_load(path.read_text("utf-8"))["cases"]:
            transactions = tuple((_read_facts(one["facts"]), tuple(one["matches"])) for one in case["transactions"])
            yield Case(f"{path.stem}: {case['case']}", _read_rule_set(case), transactions)


def show_matches(matches: tuple[Match, ...]) -> tuple[str, ...]:
    """Matches as the files write them."""
    return tuple(
        f"{match.rule.id} ({match.outcome.value})" if match.by_unknown else str(match.rule.id) for match in matches
    )


def _read_rule_set(case: Untyped) -> RuleSet:
    rules = [
        Rule(
            id=RuleId(rule["id"]),
            when=read_condition(rule["when"]),
            then=Outcome(rule.get("then", "refuse")),
            reason="TESTED",
            unless=read_condition(rule["unless"]) if "unless" in rule else None,
            if_unknown=Outcome(rule["if_unknown"]) if "if_unknown" in rule else None,
            mode=Mode(rule.get("mode", "live")),
            origin=rule.get("from", strategies.MERCHANT),
        )
        for rule in case["rules"]
    ]
    lists = {}
    for name, entries in case.get("lists", {}).items():
        held = tuple(ListEntry(**(entry if isinstance(entry, dict) else {"value": entry})) for entry in entries)
        lists[ListName(name)] = DeclaredList(ListName(name), strategies.LISTS[name][0], entries=held)
    return strategies.make_rule_set(rules, lists)


def _read_facts(given: dict[str, Untyped]) -> Facts:
    return {name: _read_value(name, value) for name, value in given.items()}


def _read_value(fact: FactName, value: Untyped) -> FactValue:
    if TYPES[fact] is FactType.MONEY:
        ((currency, minor),) = value.items()
        return Money(minor, currency)
    assert isinstance(value, str | int)
    return value


def read_condition(given: Untyped) -> Condition:
    """A mapping holds when all its keys do."""
    parts = [_read_part(key, value) for key, value in given.items()]
    return parts[0] if len(parts) == 1 else All(tuple(parts), SPAN)


def _read_part(key: str, value: Untyped) -> Condition:
    if key == "all":
        return All(tuple(map(read_condition, value)), SPAN)
    if key == "any":
        return Any(tuple(map(read_condition, value)), SPAN)
    if key == "not":
        return Not(read_condition(value), SPAN)
    tests = value.items() if isinstance(value, dict) else [("equals", value)]
    parts = [_read_test(key, word, operand) for word, operand in tests]
    return parts[0] if len(parts) == 1 else All(tuple(parts), SPAN)


def _read_test(fact: FactName, word: str, operand: Untyped) -> Condition:
    match word:
        case "in_list":
            return InList(fact, ListName(operand), SPAN)
        case "not_in_list":
            return Not(InList(fact, ListName(operand), SPAN), SPAN)
        case "starts_with":
            return StartsWith(fact, Literal(operand), SPAN)
        case "not":
            return Not(_read_test(fact, "equals", operand), SPAN)
        case "equals" if operand == "unknown":
            return IsUnknown(fact, SPAN)
        case "equals" if isinstance(operand, list) and TYPES[fact] is FactType.IP:
            return InNetworks(fact, tuple(operand), SPAN)
        case "equals" if isinstance(operand, list):
            return OneOf(fact, TYPES[fact], tuple(operand), SPAN)
        case _:
            return Compare(fact, TYPES[fact], Op(word), _read_operand(operand), SPAN)


def _read_operand(given: Untyped) -> Operand:
    if isinstance(given, dict):
        return MoneyFigures(tuple(sorted(given.items())))
    if isinstance(given, str) and given.startswith("$"):
        return FactRef(given.removeprefix("$"))
    return Literal(given)
