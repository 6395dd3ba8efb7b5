"""Merchants whose rules differ only in figures and list entries, grouped so that one query decides for all of them.

A `Side` is one effective rule set made ready for columns. Its operands (figures, limits) are taken out and named;
two sides of one `form` differ in nothing else, so their merchants share a query, and an operand that is not the
same for all of them becomes a column of a small table that is joined by merchant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, assert_never

from ..backends.columnar_decision import DecisionRules
from ..backends.columnar_lists import ListKeys
from ..diagnostics import Span
from ..facts import FactName, FactType, ListKind
from ..rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    InList,
    InNetworks,
    IsUnknown,
    ListName,
    Literal,
    MoneyFigures,
    Not,
    OneOf,
    Operand,
    Rule,
    RuleSet,
    SettingRef,
    StartsWith,
    walk,
)
from ..rules.counters import Counter
from .list_history import FilledSpans

OperandValue: TypeAlias = Literal | MoneyFigures
_NOWHERE: Final = Span("", 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Form:
    """Everything of a rule set that a query is made from; hashable, operands replaced by names `p0`, `p1` …"""

    decided_by: DecisionRules
    timezone: str
    metadata: tuple[tuple[str, FactType], ...]
    counters: tuple[Counter, ...]
    lists: tuple[tuple[ListName, ListKind, bool], ...]  # those that rules read; the last: some entry may match
    operand_types: tuple[FactType, ...]
    reads: frozenset[FactName]
    guards: tuple[tuple[str, FilledSpans], ...] = ()  # rules that hold only while an awaited list was filled

    @property
    def list_tests(self) -> list[InList]:
        return [test for test in tests_of(self.decided_by.rules) if isinstance(test, InList)]


@dataclass(frozen=True, slots=True)
class Side:
    """One merchant's rules ready for columns."""

    form: Form
    operands: tuple[OperandValue, ...]
    lists: Mapping[ListName, ListKeys]
    rule_set: RuleSet


def make_side(rule_set: RuleSet, lists: Mapping[ListName, ListKeys], guards: Mapping[str, FilledSpans]) -> Side:
    """The rule set with its operands taken out. Rules that are off do not matter; nor do names and descriptions."""
    taken: list[OperandValue] = []
    types: list[FactType] = []
    rules = tuple(_strip(rule, taken, types) for rule in rule_set.evaluated_rules)
    read = sorted({test.list_name for test in tests_of(rules) if isinstance(test, InList)})
    counters = tuple(rule_set.velocity[name] for name in sorted(rule_set.reads & rule_set.velocity.keys()))
    timed = rule_set.reads & {"hour", "weekday"}
    form = Form(
        DecisionRules(rules, rule_set.otherwise, rule_set.challenge),
        rule_set.timezone if timed else "UTC",
        tuple(
            sorted((key, kind) for key, kind in rule_set.metadata.items() if f"metadata.{key}" in rule_set.reads)
        ),
        tuple(replace(counter, help="", origin="", span=_NOWHERE) for counter in counters),
        tuple((name, rule_set.lists[name].kind, bool(lists[name].spans)) for name in read),
        tuple(types),
        rule_set.reads,
        tuple(sorted(guards.items())),
    )
    return Side(form, tuple(taken), {name: lists[name] for name in read}, rule_set)


def _strip(rule: Rule, taken: list[OperandValue], types: list[FactType]) -> Rule:
    when = _take_operands(rule.when, taken, types)
    unless = None if rule.unless is None else _take_operands(rule.unless, taken, types)
    return replace(
        rule, when=when, unless=unless, description="", description_fr="", origin="", off_because="", awaits=()
    )


def _take_operands(condition: Condition, taken: list[OperandValue], types: list[FactType]) -> Condition:
    match condition:
        case All(conditions=inner, span=span):
            return All(tuple(_take_operands(part, taken, types) for part in inner), span)
        case Any(conditions=inner, span=span):
            return Any(tuple(_take_operands(part, taken, types) for part in inner), span)
        case Not(condition=part, span=span):
            return Not(_take_operands(part, taken, types), span)
        case Compare(operand=(Literal() | MoneyFigures()) as operand):
            taken.append(operand)
            types.append(condition.type)
            name: Operand = SettingRef(f"p{len(taken) - 1}", _NOWHERE)
            return replace(condition, operand=name)
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            return condition
        case _:
            assert_never(condition)


def tests_of(rules: Iterable[Rule]) -> Iterable[Condition]:
    for rule in rules:
        yield from walk(rule.when)
        if rule.unless is not None:
            yield from walk(rule.unless)


@dataclass(frozen=True, slots=True)
class Shape:
    """Merchants that one query decides for, with both sides of each; a side may be None: nothing to replay."""

    number: int
    champion: Form | None
    candidate: Form
    members: Mapping[str, tuple[Side | None, Side]]

    def candidate_kind(self, list_name: ListName) -> ListKind:
        """The kind of a list that the candidate's rules read."""
        return next(kind for name, kind, _ in self.candidate.lists if name == list_name)


def group_by_form(sides: Mapping[str, tuple[Side | None, Side]]) -> list[Shape]:
    """The shapes of all merchants, those of most merchants first."""
    grouped: dict[tuple[Form | None, Form], dict[str, tuple[Side | None, Side]]] = {}
    for merchant, (champion, candidate) in sorted(sides.items()):
        key = (None if champion is None else champion.form, candidate.form)
        grouped.setdefault(key, {})[merchant] = (champion, candidate)
    ordered = sorted(grouped.items(), key=lambda item: (-len(item[1]), min(item[1])))
    return [
        Shape(number, champion, candidate, held) for number, ((champion, candidate), held) in enumerate(ordered)
    ]
