"""From conditions to forms: three-valued trees become and/or trees over 0/1 properties that the core can hold.

Step 1, `lower`: negation is pushed to the leaves with five polarities, since a Kleene condition can be asked for
being true, false, not true, not false or unknown. What remains are `Conjunction` and `Disjunction` over
`Test`s; a test is one condition asked in one polarity and becomes one property, sent only when it holds.

Step 2, cutting: where a tree exceeds what the core can hold, its largest part becomes one `Test` that the
evaluator answers by computing the whole part.

- two true branches of an `$or` fire their rule twice, and `$or`s under an `$and` multiply: `MAX_PATHS`;
- an expression has room for 32 marks, two for each `$and` or `$or`: `MAX_OPERATORS`.

Step 3, `plan_forms`: the rules of one layer are dealt over as many forms as the core's limits ask for.

- 64 alpha nodes on its stack (error 303), worked out exactly by `_Alpha.stack_bound`: `MAX_STACK`;
- 255 properties in a message (error 302): `MAX_PROPERTIES`;
- each rule costs about 10 kB and each message probes every property of the form: `MAX_RULES`.

The text of a form depends only on the boolean structure: rules are put in the order of their shapes and properties
are numbered in that order, so that merchants with equally shaped rules share one compiled form.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from ..diagnostics import BackendFault
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
from .durable_core import PROBE_PROPERTY, PROBE_RULE

MAX_PATHS: Final = 16
MAX_OPERATORS: Final = 14
MAX_TESTS: Final = 48
MAX_STACK: Final = 60
MAX_PROPERTIES: Final = 240
# The core answers with the rule's name and the whole message: names of one letter are the fastest to cut out.
RULE_NAMES: Final = string.digits + string.ascii_letters
MAX_RULES: Final = len(RULE_NAMES)


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
# The polarities that hold together when a condition is true, false or unknown.
_HOLD_TOGETHER: Final = (
    frozenset({Polarity.TRUE, Polarity.NOT_FALSE}),
    frozenset({Polarity.FALSE, Polarity.NOT_TRUE}),
    frozenset({Polarity.UNKNOWN, Polarity.NOT_TRUE, Polarity.NOT_FALSE}),
)


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


def _count_links(expression: Expression) -> int:
    """At most how many links between alpha nodes an expression adds."""
    match expression:
        case bool():
            return 0
        case Test():
            return 1
        case Conjunction(parts=parts):
            return sum(map(_count_links, parts))
        case Disjunction(parts=parts):
            return len(parts) + sum(map(_count_links, parts))
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


# ---- forms ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FormRule:
    """A rule of a form: what it came from and whether it stands for the rule's `if_unknown`."""

    rule: Rule
    by_unknown: bool
    expression: Expression


@dataclass(frozen=True, slots=True)
class FormPlan:
    """A form before it is compiled: its text, its rules in the order of RULE_NAMES, and each test's property."""

    text: str
    rules: tuple[FormRule, ...]
    properties: dict[Test, str]


def plan_forms(rules: Sequence[Rule]) -> tuple[tuple[FormPlan, ...], tuple[FormRule, ...]]:
    """The forms for the rules of one layer, and the rules that match every transaction.

    A rule whose condition is constantly true has no test, so the core could never see it.
    """
    wanted: list[FormRule] = []
    always: list[FormRule] = []
    for rule in rules:
        variants = [FormRule(rule, False, lower_match(rule))]
        if rule.if_unknown is not None:
            variants.append(FormRule(rule, True, lower_match_by_unknown(rule)))
        for variant in variants:
            if variant.expression is True:
                always.append(variant)
            elif variant.expression is not False:
                wanted.append(variant)
    wanted.sort(key=lambda variant: (_shape(variant.expression), variant.rule.id, variant.by_unknown))
    forms: list[FormPlan] = []
    pending: list[FormRule] = []
    top, bound = _Alpha(), 0
    sent: set[Test] = set()
    for variant in wanted:
        top.insert(variant.expression)
        together = sent.union(tests_of(variant.expression))
        bound += _count_links(variant.expression)
        if (
            bound > MAX_STACK
        ):  # no link deepens the stack by more than one; only now is the exact bound worth its time
            bound = top.stack_bound({})
        full = (
            len(pending) == MAX_RULES
            or bound > MAX_STACK
            or (len(together) > MAX_PROPERTIES and _most_together(together) > MAX_PROPERTIES)
        )
        if full and pending:
            forms.append(_plan_form(pending))
            pending, together, top = [], set(tests_of(variant.expression)), _Alpha()
            top.insert(variant.expression)
            bound = top.stack_bound({})
        pending.append(variant)
        sent = together
    if pending:
        forms.append(_plan_form(pending))
    return tuple(forms), tuple(always)


def _plan_form(rules: Sequence[FormRule]) -> FormPlan:
    numbers: dict[Condition, int] = {}
    properties: dict[Test, str] = {}
    for variant in rules:
        for test in tests_of(variant.expression):
            number = numbers.setdefault(test.condition, len(numbers))
            properties[test] = f"{test.polarity.value}{number}"
    check_no_collision([*properties.values(), PROBE_PROPERTY])
    texts = [
        f'"{name}":{{"all":[{{"m":{_write(variant.expression, properties)}}}]}}'
        for name, variant in zip(RULE_NAMES, rules, strict=False)
    ]
    return FormPlan("{" + ",".join([*texts, PROBE_RULE]) + "}", tuple(rules), properties)


def guards_of(rules: Iterable[FormRule]) -> dict[Test, frozenset[Test]]:
    """For each test, the tests one of which must hold for the core ever to look at it; empty: it always looks.

    The core walks a conjunction in order: where its first test does not hold, the others need not be worked out
    or sent, as long as no other rule asks for them.
    """
    found: dict[Test, frozenset[Test]] = {}
    for rule in rules:
        first = first_test(rule.expression)
        for test in tests_of(rule.expression):
            guards = frozenset({first}) if first is not None and test != first else frozenset[Test]()
            known = found.get(test, guards)
            found[test] = known | guards if known and guards else frozenset()
    return found


def first_test(expression: Expression) -> Test | None:
    """The test that a conjunction is entered by."""
    if isinstance(expression, Conjunction):
        return next((part for part in expression.parts if isinstance(part, Test)), None)
    return None


def _write(expression: Expression, properties: dict[Test, str]) -> str:
    match expression:
        case Test():
            return f'{{"{properties[expression]}":1}}'
        case Conjunction(parts=parts):
            # Equalities first: they end most paths before a disjunction multiplies them.
            ordered = sorted(parts, key=lambda part: not isinstance(part, Test))
            return f'{{"$and":[{",".join(_write(part, properties) for part in ordered)}]}}'
        case Disjunction(parts=parts):
            return f'{{"$or":[{",".join(_write(part, properties) for part in parts)}]}}'
        case bool():
            raise AssertionError("a constant has no place in a form")
        case _:
            assert_never(expression)


def _shape(expression: Expression) -> str:
    """The boolean structure without what is tested."""
    match expression:
        case bool():
            return str(expression)
        case Test(polarity=polarity):
            return polarity.value
        case Conjunction(parts=parts):
            return f"({'&'.join(map(_shape, parts))})"
        case Disjunction(parts=parts):
            return f"({'|'.join(map(_shape, parts))})"
        case _:
            assert_never(expression)


class _Alpha:
    """A node of the core's alpha network as `createAlpha` in its rete.c builds it: shared below equal parents."""

    __slots__ = ("children", "forwards")

    def __init__(self) -> None:
        self.children: dict[Test, _Alpha] = {}
        self.forwards: list[_Alpha] = []

    def insert(self, expression: Expression) -> _Alpha:
        """Adds the paths of an expression below this node; the node at which they end."""
        match expression:
            case Test():
                return self.children.setdefault(expression, _Alpha())
            case Conjunction(parts=parts):
                node = self
                for part in sorted(parts, key=lambda part: not isinstance(part, Test)):
                    node = node.insert(part)
                return node
            case Disjunction(parts=parts):
                meeting = _Alpha()
                for part in parts:
                    self.insert(part).forwards.append(meeting)
                return meeting
            case bool():
                return self
            case _:
                assert_never(expression)

    def stack_bound(self, known: dict[int, int]) -> int:
        """The most nodes that wait on the core's stack while this node and all below it are walked."""
        found = known.get(id(self))
        if found is None:
            below = [*self.children.values(), *self.forwards]
            pushed = _most_together(self.children) + len(self.forwards)
            deepest = max((node.stack_bound(known) for node in below), default=0)
            found = known[id(self)] = max(pushed, pushed - 1 + deepest) if pushed else 0
        return found


def _most_together(tests: Iterable[Test]) -> int:
    """How many of the tests can hold at once, each condition taken by itself."""
    asked: dict[Condition, set[Polarity]] = {}
    for test in tests:
        asked.setdefault(test.condition, set()).add(test.polarity)
    return sum(max(len(polarities & together) for together in _HOLD_TOGETHER) for polarities in asked.values())


# ---- property names -------------------------------------------------------------------------------

# Names that mean something to the core: properties of every message, and operators in the place of a property.
_RESERVED: Final = (
    *("id", "sid", "m", "$s", "$m", "$forward"),
    *("$eq", "$neq", "$lt", "$lte", "$gt", "$gte", "$ex", "$nex", "$mt", "$imt", "$iall", "$iany"),
    *("$and", "$or", "$all", "$any", "$not", "$add", "$sub", "$mul", "$div", "$l", "$r"),
)


def hash_name(name: str) -> int:
    """The 32-bit FNV-1a hash by which alone the core knows a name (`fnv1Hash32` in its state.c)."""
    found = 2166136261
    for byte in name.encode():
        found = ((found ^ byte) * 16777619) & 0xFFFFFFFF
    return found


_RESERVED_HASHES: Final = {hash_name(name): name for name in _RESERVED}


def check_no_collision(names: Iterable[str]) -> None:
    """Raises BackendFault if the core would take two of the names, or a name and a word of its own, for one."""
    seen = dict(_RESERVED_HASHES)
    for name in names:
        other = seen.setdefault(hash_name(name), name)
        if other != name:
            raise BackendFault(f"durable_rules takes the properties {name} and {other} for one")
