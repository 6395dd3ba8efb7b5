"""From facts to messages: Python generated for a layer's tests, with their constants as arguments.

Text, lists, money tables and addresses never reach the core. For each layer one function computes the truth of
each leaf (True, False, None for unknown) exactly as the reference does, and writes the properties that hold
into the message of each form. The source depends on the kinds of tests, the facts and the property names; figures,
texts and list names come in as arguments, so that merchants with equally shaped rules share one code object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never, cast
from weakref import WeakValueDictionary

from ..diagnostics import BackendFault
from ..facts import FactName, Facts, FactType
from ..lists import Networks
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
    SettingRef,
    StartsWith,
)
from .durable_core import MESSAGE_HEAD
from .lowering import Polarity, Test
from .reference import test_value

Evaluate: TypeAlias = Callable[[Facts, Lists], tuple[str, ...]]
"""The message of each form, without its closing brace; MESSAGE_HEAD alone when no property holds."""

_Factory: TypeAlias = Callable[..., Evaluate]

_OPERATORS: Final = {Op.EQUALS: "==", Op.OVER: ">", Op.AT_LEAST: ">=", Op.UNDER: "<", Op.AT_MOST: "<="}
_HOLDS: Final = {
    Polarity.TRUE: "{0}",
    Polarity.FALSE: "{0} is False",
    Polarity.NOT_TRUE: "not {0}",
    Polarity.NOT_FALSE: "{0} is not False",
    Polarity.UNKNOWN: "{0} is None",
}

_factories: WeakValueDictionary[str, _Factory] = WeakValueDictionary()


class Evaluator:
    """The evaluator of one layer: `evaluate` with its constants, and the source that it shares with others."""

    __slots__ = ("_factory", "evaluate", "source")

    def __init__(self, source: str, factory: _Factory, constants: Sequence[object]) -> None:
        self.source = source
        self._factory = factory  # keeps the shared code alive
        self.evaluate: Evaluate = factory(*constants)


@dataclass(frozen=True, slots=True)
class SentProperty:
    """A property of a form's message; it is looked at only where one of `guards` holds (none: always)."""

    form: int
    name: str
    test: Test
    guards: frozenset[Test]


def build_evaluator(forms: int, properties: Sequence[SentProperty]) -> Evaluator:
    """The evaluator that writes the messages of that many forms."""
    generator = _Generator()
    source = generator.write_source(forms, properties)
    factory = _factories.get(source)
    if factory is None:
        namespace: dict[str, object] = {}
        exec(compile(source, "<fraudengine rules>", "exec"), namespace)
        factory = _factories[source] = cast(_Factory, namespace["make"])
    return Evaluator(source, factory, generator.constants)


class _Generator:
    """Writes one evaluator; constants, facts and truths are numbered in the order in which they are met."""

    def __init__(self) -> None:
        self.constants: list[object] = []
        self._lines: list[str] = []
        self._facts: dict[FactName, str] = {}
        self._truths: dict[Condition, str] = {}
        self._truth_count = 0

    def write_source(self, forms: int, properties: Sequence[SentProperty]) -> str:
        by_guards: dict[frozenset[Test], list[SentProperty]] = {}
        for sent in properties:
            by_guards.setdefault(sent.guards, []).append(sent)
        open_properties = by_guards.pop(frozenset(), [])
        asked_by: dict[Condition, set[frozenset[Test]]] = {}
        for sent in properties:
            asked_by.setdefault(sent.test.condition, set()).add(sent.guards)
        self._lines += [f"m{form} = {MESSAGE_HEAD!r}" for form in range(forms)]
        for condition, askers in asked_by.items():
            if askers == {frozenset()} or len(askers) > 1:
                self._truth(condition)
        self._lines += map(self._emission, open_properties)
        for guards, guarded in by_guards.items():
            self._write_guarded(guards, guarded)
        reads = [f"{variable} = get({fact!r})" for fact, variable in self._facts.items()]
        arguments = ", ".join(f"c{number}" for number in range(len(self.constants)))
        body = ["get = facts.get", "find = lists.find", *reads, *self._lines]
        return "\n".join(
            [
                f"def make({arguments}):",
                "    def evaluate(facts, lists):",
                *(f"        {line}" for line in body),
                f"        return ({''.join(f'm{form}, ' for form in range(forms))})",
                "    return evaluate",
                "",
            ]
        )

    def _write_guarded(self, guards: frozenset[Test], guarded: Sequence[SentProperty]) -> None:
        """The properties under `if`, with what only they need to know."""
        # INVARIANT: a guard is the first test of a rule, so that its own truth is worked out outside every `if`.
        entered = " or ".join(sorted(f"({self._holds(guard)})" for guard in guards))
        outside, truths = self._lines, dict(self._truths)
        self._lines = []
        emissions = list(map(self._emission, guarded))
        inside = [*self._lines, *emissions]
        self._lines, self._truths = outside, truths
        self._lines += [f"if {entered}:", *(f"    {line}" for line in inside)]

    def _emission(self, sent: SentProperty) -> str:
        return f"if {self._holds(sent.test)}: m{sent.form} += ',\"{sent.name}\":1'"

    def _holds(self, test: Test) -> str:
        return _HOLDS[test.polarity].format(self._truth(test.condition))

    def _truth(self, condition: Condition) -> str:
        """The variable that holds the condition's truth."""
        known = self._truths.get(condition)
        if known is None:
            expression = self._expression(condition)
            known = self._truths[condition] = f"x{self._truth_count}"
            self._truth_count += 1
            self._lines.append(f"{known} = {expression}")
        return known

    def _fact(self, fact: FactName) -> str:
        return self._facts.setdefault(fact, f"v{len(self._facts)}")

    def _constant(self, value: object) -> str:
        self.constants.append(value)
        return f"c{len(self.constants) - 1}"

    def _expression(self, condition: Condition) -> str:
        match condition:
            case All(conditions=inner):
                return self._join(inner, "{0} is False", "False", "True")
            case Any(conditions=inner):
                return self._join(inner, "{0}", "True", "False")
            case Not(condition=part):
                truth = self._truth(part)
                return f"None if {truth} is None else not {truth}"
            case IsUnknown(fact=fact):
                return f"{self._fact(fact)} is None"
            case Compare():
                return self._comparison(condition)
            case OneOf(fact=fact, type=FactType.BIN, values=values):
                v = self._fact(fact)
                return f"None if {v} is None else {v}.startswith({self._constant(tuple(map(str, values)))})"
            case OneOf(fact=fact, values=values):
                v = self._fact(fact)
                return f"None if {v} is None else {v} in {self._constant(frozenset(values))}"
            case StartsWith(fact=fact, prefix=Literal(value=prefix)):
                v = self._fact(fact)
                return f"None if {v} is None else str({v}).startswith({self._constant(str(prefix))})"
            case InNetworks(fact=fact, networks=networks):
                v = self._fact(fact)
                return f"None if {v} is None else {self._constant(Networks(networks).hold)}({v})"
            case InList(fact=fact, list_name=name):
                v = self._fact(fact)
                return f"None if {v} is None else find({self._constant(name)}, {v}) is not None"
            case StartsWith(prefix=SettingRef(name=name)):
                raise _unresolved(name)
            case StartsWith():
                raise AssertionError("mypy cannot see that every prefix is handled")
            case _:
                assert_never(condition)

    def _join(self, inner: tuple[Condition, ...], decides: str, decided: str, otherwise: str) -> str:
        """Kleene's all or any: one part decides, else one unknown part makes it unknown."""
        truths = [self._truth(part) for part in inner]
        if not truths:
            return otherwise
        any_decides = " or ".join(decides.format(truth) for truth in truths)
        any_unknown = " or ".join(f"{truth} is None" for truth in truths)
        return f"{decided} if {any_decides} else None if {any_unknown} else {otherwise}"

    def _comparison(self, test: Compare) -> str:
        v, op = self._fact(test.fact), _OPERATORS[test.op]
        is_equality = test.op is Op.EQUALS
        match test.operand:
            case SettingRef(name=name):
                raise _unresolved(name)
            case MoneyFigures(figures=figures) if test.type is FactType.MONEY:
                minors = self._constant(dict(reversed(figures)))
                unknown = f"{v} is None or (k := {minors}.get({v}.currency)) is None"
                return f"None if {unknown} else {v}.minor {op} k"
            case FactRef(fact=fact) if test.type is FactType.MONEY:
                w = self._fact(fact)
                unknown = f"{v} is None or {w} is None or {v}.currency != {w}.currency"
                return f"None if {unknown} else {v}.minor {op} {w}.minor"
            case FactRef(fact=fact) if is_equality and test.type is FactType.BIN:
                w = self._fact(fact)
                return f"None if {v} is None or {w} is None else {v}.startswith({w})"
            case FactRef(fact=fact) if is_equality or test.type is FactType.INTEGER:
                w = self._fact(fact)
                return f"None if {v} is None or {w} is None else {v} {op} {w}"
            case Literal(value=value) if is_equality and test.type is FactType.BIN:
                return f"None if {v} is None else {v}.startswith({self._constant(str(value))})"
            case Literal(value=value) if is_equality or test.type is FactType.INTEGER:
                return f"None if {v} is None else {v} {op} {self._constant(value)}"
            case Literal() | MoneyFigures() | FactRef():
                # No checked rule holds such a pair; the law says what it would mean.
                law = self._constant(test_value)
                return f"None if {v} is None else {law}({self._constant(test)}, {v}, facts, lists)"
            case _:
                assert_never(test.operand)


def _unresolved(name: str) -> BackendFault:
    return BackendFault(f"a live rule reads the setting `{name}`, which has no value")
