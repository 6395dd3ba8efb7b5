"""From conditions to expressions: three-valued trees become and/or trees over 0/1 properties.

Step 1, `lower`: negation is pushed to the leaves with five polarities, since a Kleene condition can be asked for
being true, false, not true, not false or unknown. What remains are `Conjunction` and `Disjunction` over
`Test`s; a test is one condition asked in one polarity and becomes one property, sent only when it holds.

Step 2, cutting: where a tree exceeds what the core can hold, its largest part becomes one `Test` that the
evaluator answers by computing the whole part.

- two true branches of an `$or` fire their rule twice, and `$or`s under an `$and` multiply: `MAX_PATHS`;
- an expression has room for 32 marks, two for each `$and` or `$or`: `MAX_OPERATORS`.

Step 3, the forms themselves, is forms.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from ..rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    InList,
    InNetworks,
    IsUnknown,
    Not,
    OneOf,
    Rule,
    StartsWith,
)

MAX_PATHS: Final = 16
MAX_OPERATORS: Final = 14
MAX_TESTS: Final = 48


class Polarity(StrEnum):
    """What is asked of a three-valued condition; the values begin the names of properties."""

    TRUE = "t"
    FALSE = "f"
    NOT_TRUE = "n"
    NOT_FALSE = "p"
    UNKNOWN = "u"


_OPPOSITE: Final = {
    Polarity.TRUE: Polarity.FALSE,
    Polarity.FALSE: Polarity.TRUE,
    Polarity.NOT_TRUE: Polarity.NOT_FALSE,
    Polarity.NOT_FALSE: Polarity.NOT_TRUE,
    Polarity.UNKNOWN: Polarity.UNKNOWN,
}


# ---- expressions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Test:
    """One condition asked in one polarity: one property of a message."""

    __test__ = False  # no test of pytest's

    polarity: Polarity
    condition: Condition


@dataclass(frozen=True, slots=True)
class Conjunction:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Disjunction:
    parts: tuple[Expression, ...]


Expression: TypeAlias = Test | Conjunction | Disjunction | bool


def lower_match(rule: Rule) -> Expression:
    """When the rule matches with its own outcome: `when` is true and `unless` is not."""
    return _with_unless(lower(rule.when, Polarity.TRUE), Test(Polarity.TRUE, rule.when), rule)


def lower_match_by_unknown(rule: Rule) -> Expression:
    """When the rule's `if_unknown` applies: `when` is unknown and `unless` is not true."""
    return _with_unless(lower(rule.when, Polarity.UNKNOWN), Test(Polarity.UNKNOWN, rule.when), rule)


def _with_unless(when: Expression, whole: Test, rule: Rule) -> Expression:
    if rule.unless is None:
        return when
    rescue = Test(Polarity.NOT_TRUE, rule.unless)
    return _conjunction([(when, whole), (lower(rule.unless, Polarity.NOT_TRUE), rescue)], None)


def lower(condition: Condition, polarity: Polarity) -> Expression:
    """The condition asked in that polarity, over tests that are leaves wherever the limits allow it."""
    whole = Test(polarity, condition)
    match condition:
        case Not(condition=inner):
            return lower(inner, _OPPOSITE[polarity])
        case IsUnknown():
            match polarity:
                case Polarity.TRUE | Polarity.NOT_FALSE:
                    return Test(Polarity.TRUE, condition)
                case Polarity.FALSE | Polarity.NOT_TRUE:
                    return Test(Polarity.FALSE, condition)
                case Polarity.UNKNOWN:
                    return False
                case _:
                    assert_never(polarity)
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList():
            return whole
        case All(conditions=inner) | Any(conditions=inner):
            if polarity is Polarity.UNKNOWN:
                sides = (Polarity.NOT_TRUE, Polarity.NOT_FALSE)
                return _conjunction([(lower(condition, side), Test(side, condition)) for side in sides], whole)
            parts = [(lower(part, polarity), Test(polarity, part)) for part in inner]
            asks_holding = polarity in (Polarity.TRUE, Polarity.NOT_FALSE)
            join = _conjunction if isinstance(condition, All) is asks_holding else _disjunction
            return join(parts, whole)
        case _:
            assert_never(condition)


_Parts: TypeAlias = list[tuple[Expression, Test]]  # each part, and the test that can stand for it


def _conjunction(parts: _Parts, whole: Test | None) -> Expression:
    """All parts hold. `whole` stands for the conjunction where it is too large (None: there is no such test)."""
    if any(part is False for part, _ in parts):
        return False
    parts = [(part, stand_in) for part, stand_in in parts if part is not True]
    while not _fits(joined := _join(Conjunction, [part for part, _ in parts])):
        largest = max(range(len(parts)), key=lambda index: _size(parts[index][0]))
        part, stand_in = parts[largest]
        if isinstance(part, Test):
            break
        parts[largest] = (stand_in, stand_in)
    if whole is not None and not _fits(joined):
        return whole
    return joined


def _disjunction(parts: _Parts, whole: Test) -> Expression:
    """At least one part holds."""
    if any(part is True for part, _ in parts):
        return True
    joined = _join(Disjunction, [part for part, _ in parts if part is not False])
    return joined if _fits(joined) else whole


def _join(kind: type[Conjunction] | type[Disjunction], parts: Iterable[Expression]) -> Expression:
    """The parts under one node: nested nodes of the same kind dissolved, repeats dropped."""
    flat: dict[Expression, None] = {}
    for part in parts:
        flat.update(dict.fromkeys(part.parts if isinstance(part, kind) else (part,)))
    if len(flat) == 1:
        return next(iter(flat))
    if not flat:
        return kind is Conjunction
    return kind(tuple(flat))


def _fits(expression: Expression) -> bool:
    return (
        count_paths(expression) <= MAX_PATHS
        and count_operators(expression) <= MAX_OPERATORS
        and len(list(tests_of(expression))) <= MAX_TESTS
    )


def _size(expression: Expression) -> tuple[int, int, int]:
    return count_paths(expression), count_operators(expression), len(list(tests_of(expression)))


def count_paths(expression: Expression) -> int:
    """How often the core fires a rule of this condition when every test of it holds."""
    match expression:
        case Test() | bool():
            return 1
        case Conjunction(parts=parts):
            return math.prod(count_paths(part) for part in parts)
        case Disjunction(parts=parts):
            return sum(count_paths(part) for part in parts)
        case _:
            assert_never(expression)


def count_operators(expression: Expression) -> int:
    match expression:
        case Test() | bool():
            return 0
        case Conjunction(parts=parts) | Disjunction(parts=parts):
            return 1 + sum(count_operators(part) for part in parts)
        case _:
            assert_never(expression)


def count_links(expression: Expression) -> int:
    """At most how many links between alpha nodes an expression adds."""
    match expression:
        case bool():
            return 0
        case Test():
            return 1
        case Conjunction(parts=parts):
            return sum(map(count_links, parts))
        case Disjunction(parts=parts):
            return len(parts) + sum(map(count_links, parts))
        case _:
            assert_never(expression)


def tests_of(expression: Expression) -> Iterable[Test]:
    match expression:
        case bool():
            return
        case Test():
            yield expression
        case Conjunction(parts=parts) | Disjunction(parts=parts):
            for part in parts:
                yield from tests_of(part)
        case _:
            assert_never(expression)
