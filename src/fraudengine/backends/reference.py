"""The obvious interpreter: the law in executable form, and the source of explanations.

Everything here follows DESIGN.md section 4 sentence by sentence and is written to be read, not to be fast.
Truth is three-valued: True, False, or None for unknown (Kleene).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias, assert_never

from ..decision import Match
from ..facts import Facts, FactType, FactValue
from ..money import Money
from ..rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    Lists,
    Literal,
    MoneyFigures,
    Not,
    OneOf,
    Op,
    Operand,
    Rule,
    RuleSet,
    SettingRef,
    StartsWith,
)

Truth: TypeAlias = bool | None


def find_matches(rule_set: RuleSet, facts: Facts, lists: Lists) -> tuple[Match, ...]:
    """Every live and shadow rule that matches, in the order of rule ids."""
    found = (match_rule(rule, facts, lists) for rule in rule_set.evaluated_rules)
    return tuple(match for match in found if match is not None)


def match_rule(rule: Rule, facts: Facts, lists: Lists) -> Match | None:
    """The match of one rule: `when` true and `unless` not true; an unknown `when` only by `if_unknown`."""
    when = evaluate(rule.when, facts, lists)
    if when is False or (when is None and rule.if_unknown is None):
        return None
    if rule.unless is not None and evaluate(rule.unless, facts, lists) is True:
        return None
    if when is None:
        assert rule.if_unknown is not None
        return Match(rule, rule.if_unknown, by_unknown=True)
    return Match(rule, rule.then)


def evaluate(condition: Condition, facts: Facts, lists: Lists) -> Truth:
    """The truth of a condition about one transaction."""
    match condition:
        case All(conditions=inner):
            return all_of(evaluate(part, facts, lists) for part in inner)
        case Any(conditions=inner):
            return any_of(evaluate(part, facts, lists) for part in inner)
        case Not(condition=part):
            truth = evaluate(part, facts, lists)
            return None if truth is None else not truth
        case IsUnknown(fact=fact):
            return fact not in facts
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList():
            value = facts.get(condition.fact)
            return None if value is None else test_value(condition, value, facts, lists)
        case _:
            assert_never(condition)


def test_value(
    test: Compare | OneOf | StartsWith | InNetworks | InList, value: FactValue, facts: Facts, lists: Lists
) -> Truth:
    """The truth of one test on a fact that has a value; unknown when what it compares with is unknown."""
    match test:
        case Compare(op=op, operand=operand, type=fact_type):
            other = operand_value(operand, value, facts)
            return None if other is None else compare(op, value, other, fact_type)
        case OneOf(values=values, type=fact_type):
            return any(compare(Op.EQUALS, value, other, fact_type) for other in values)
        case StartsWith(prefix=prefix):
            wanted = operand_value(prefix, value, facts)
            return str(value).startswith(str(wanted))
        case InNetworks(networks=networks):
            address = ipaddress.ip_address(str(value))
            return any(address in ipaddress.ip_network(network) for network in networks)
        case InList(list_name=name):
            return lists.find(name, value) is not None
        case _:
            assert_never(test)


def operand_value(operand: Operand, value: FactValue, facts: Facts) -> FactValue | None:
    """What a fact is compared with, or None when that is unknown; money only in the fact's own currency."""
    match operand:
        case Literal(value=literal):
            return literal
        case MoneyFigures():
            assert isinstance(value, Money)
            minor = operand.minor_in(value.currency)
            return None if minor is None else Money(minor, value.currency)
        case FactRef(fact=fact):
            other = facts.get(fact)
            if isinstance(value, Money) and isinstance(other, Money) and value.currency != other.currency:
                return None
            return other
        case SettingRef(name=name):
            raise AssertionError(f"a live rule reads the unresolved setting {name}")
        case _:
            assert_never(operand)


def compare(op: Op, value: FactValue, other: FactValue, fact_type: FactType) -> bool:
    """Whether `value` stands in the relation `op` to `other`; both have a value and one type."""
    if op is Op.EQUALS:
        if fact_type is FactType.BIN:
            return str(value).startswith(str(other))
        return value == other
    left, right = magnitude(value), magnitude(other)
    match op:
        case Op.OVER:
            return left > right
        case Op.AT_LEAST:
            return left >= right
        case Op.UNDER:
            return left < right
        case Op.AT_MOST:
            return left <= right
        case _:
            assert_never(op)


def magnitude(value: FactValue) -> int:
    if isinstance(value, Money):
        return value.minor
    assert isinstance(value, int)
    return value


def all_of(truths: Iterable[Truth]) -> Truth:
    """Kleene's conjunction: false if any is, else unknown if any is, else true."""
    seen = list(truths)
    if False in seen:
        return False
    return None if None in seen else True


def any_of(truths: Iterable[Truth]) -> Truth:
    """Kleene's disjunction: true if any is, else unknown if any is, else false."""
    seen = list(truths)
    if True in seen:
        return True
    return None if None in seen else False
