"""From expressions to forms: the rules of one layer, dealt over as many forms as the core's limits ask for.

- 64 alpha nodes on its stack (error 303), worked out exactly by `_Alpha.stack_bound`: `MAX_STACK`;
- 255 properties in a message (error 302): `MAX_PROPERTIES`;
- each rule costs about 10 kB and each message probes every property of the form: `MAX_RULES`.

The text of a form depends only on the boolean structure: rules are put in the order of their shapes and properties
are numbered in that order, so that merchants with equally shaped rules share one compiled form.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from ..diagnostics import BackendFault
from ..rules.ast import Condition, Rule
from .durable_core import PROBE_PROPERTY, PROBE_RULE
from .lowering import (
    Conjunction,
    Disjunction,
    Expression,
    Polarity,
    Test,
    count_links,
    lower_match,
    lower_match_by_unknown,
    tests_of,
)

MAX_STACK: Final = 60
MAX_PROPERTIES: Final = 240
# The core answers with the rule's name and the whole message: names of one letter are the fastest to cut out.
RULE_NAMES: Final = string.digits + string.ascii_letters
MAX_RULES: Final = len(RULE_NAMES)

# The polarities that hold together when a condition is true, false or unknown.
_HOLD_TOGETHER: Final = (
    frozenset({Polarity.TRUE, Polarity.NOT_FALSE}),
    frozenset({Polarity.FALSE, Polarity.NOT_TRUE}),
    frozenset({Polarity.UNKNOWN, Polarity.NOT_TRUE, Polarity.NOT_FALSE}),
)


@dataclass(frozen=True, slots=True)
class FormRule:
    """A rule of a form: what it came from and whether it stands for the rule's `if_unknown`."""

    rule: Rule
    by_unknown: bool
    expression: Expression


@dataclass(frozen=True, slots=True)
class FormPlan:
    """A form before it is compiled: its text, its rules in the order of RULE_NAMES, and each test's property.

    `names` are the properties in the order of their bits in a mask; equal texts have equal names.
    """

    text: str
    rules: tuple[FormRule, ...]
    properties: dict[Test, str]
    names: tuple[str, ...]


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
        bound += count_links(variant.expression)
        if bound > MAX_STACK:
            # No link deepens the stack by more than one; only now is the exact bound worth its time.
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
    text = "{" + ",".join([*texts, PROBE_RULE]) + "}"
    return FormPlan(text, tuple(rules), properties, tuple(sorted(properties.values())))


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
