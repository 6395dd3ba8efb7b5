"""From facts to 0/1 properties: Python generated for a form's tests, with their constants as arguments.

Text, lists, money figures and addresses never reach the core. For each form one function works out which of its
properties hold, exactly as the reference would, as a bit mask. A test is asked in one polarity, so that no
three-valued truth is made: that a fact is unknown is one more reason for a test not to hold. The source depends on
the kinds of tests, the facts and the bits; figures, texts and list names come in as arguments, so that merchants
with equally shaped rules share one code object. It reads like this:

    v1 = get('hour')
    if v1 is not None and v1 < c2:
        m |= 1
        if n0 > k0[1]: m |= 2
    v2 = get('ip_country')
    if v2 is not None and v2 in held[c3] and find(c3, v2) is not None: m |= 4
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never, cast
from weakref import WeakValueDictionary

from ..diagnostics import BackendFault
from ..facts import CATALOGUE, FactName, Facts, FactType
from ..lists import Networks
from ..rules.ast import (
    All,
    Any,
    Compare,
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
from .lowering import Polarity, Test
from .reference import test_value

Evaluate: TypeAlias = Callable[[Facts, Lists], int]
"""The properties that hold, as the sum of their bits."""

_Factory: TypeAlias = Callable[..., Evaluate]
_Guards: TypeAlias = frozenset[Test]

_OPEN: Final[_Guards] = frozenset()
_OPERATORS: Final = {Op.EQUALS: "==", Op.OVER: ">", Op.AT_LEAST: ">=", Op.UNDER: "<", Op.AT_MOST: "<="}
_NEGATED: Final = {"==": "!=", ">": "<=", ">=": "<", "<": ">=", "<=": ">"}
# A figure with which the comparison never holds: it stands where a currency has no figure.
_NEVER: Final = {">": math.inf, ">=": math.inf, "<": -math.inf, "<=": -math.inf}

_TEXTS: Final = (FactType.TEXT, FactType.BIN, FactType.CARD)

_factories: WeakValueDictionary[str, _Factory] = WeakValueDictionary()


class Evaluator:
    """The evaluator of one form: `evaluate` with its constants, and the source that it shares with others."""

    __slots__ = ("_factory", "evaluate", "source")

    def __init__(self, source: str, factory: _Factory, constants: Sequence[object]) -> None:
        self.source = source
        self._factory = factory  # keeps the shared code alive
        self.evaluate: Evaluate = factory(*constants)


@dataclass(frozen=True, slots=True)
class SentProperty:
    """A property of a form and its bit; it is looked at only where one of `guards` holds (none: always)."""

    test: Test
    bit: int
    guards: _Guards


def build_evaluator(properties: Sequence[SentProperty]) -> Evaluator:
    """The evaluator that says which of the properties hold."""
    generator = _Generator(properties)
    source = generator.write_source()
    factory = _factories.get(source)
    if factory is None:
        namespace: dict[str, object] = {}
        exec(compile(source, "<fraudengine rules>", "exec"), namespace)
        factory = _factories[source] = cast(_Factory, namespace["make"])
    return Evaluator(source, factory, generator.constants)


class _Scope:
    """Lines that run together, and the names that they and what they are nested in have set."""

    def __init__(self, outer: _Scope | None = None) -> None:
        self.lines: list[str] = []
        self.facts: dict[FactName, str] = dict(outer.facts) if outer else {}
        self.figures: set[FactName] = set(outer.figures) if outer else set()
        self.truths: dict[Test, str] = dict(outer.truths) if outer else {}


class _Generator:
    """Writes one evaluator; constants, facts and truths are numbered in the order in which they are met."""

    def __init__(self, properties: Sequence[SentProperty]) -> None:
        self.constants: list[object] = []
        self._by_guards: dict[_Guards, list[SentProperty]] = {_OPEN: []}
        for sent in properties:
            self._by_guards.setdefault(sent.guards, []).append(sent)
        self._scope = _Scope()
        self._fact_numbers: dict[FactName, int] = {}
        self._truth_count = 0
        self._money = _MoneyTables()
        self._reads_lists = False
        self._shared = self._find_shared()

    def _find_shared(self) -> frozenset[Test]:
        """The tests that the open part works out once and names, since several places ask for them."""
        asked: Counter[Test] = Counter()
        for guards, sent in self._by_guards.items():
            asked.update(_base(one.test) for one in sent)
            if len(guards) > 1:
                asked.update(map(_base, guards))
        return frozenset(test for test, times in asked.items() if times > 1)

    def write_source(self) -> str:
        nested = {next(iter(guards)): sent for guards, sent in self._by_guards.items() if len(guards) == 1}
        # Those that open no block come first: what they fetch, the blocks need not fetch each for itself.
        for sent in sorted(self._by_guards[_OPEN], key=lambda sent: sent.test in nested):
            self._write_property(sent, nested.pop(sent.test, ()))
        # INVARIANT: a guard is the first test of a rule, so that it is a property of the open part itself.
        assert not nested
        for guards, guarded in self._by_guards.items():
            if len(guards) > 1:
                self._write_block(" or ".join(sorted(map(self._holds, guards))), [], guarded)
        head = ["get = facts.get", "m = 0"]
        if self._reads_lists:
            head += ["find, held, noted = lists.find, lists.could_hold, lists.hits is not None"]
        self._money.fill(self.constants)
        constants = [f"c{number}" for number in range(len(self.constants))]
        # As defaults they are local to each call, which is quicker than reading them from around it.
        given = "".join(f", {c}={c}" for c in constants)
        return "\n".join(
            [
                f"def make({', '.join(constants)}):",
                f"    def evaluate(facts, lists{given}):",
                *(f"        {line}" for line in (*head, *self._scope.lines)),
                "        return m",
                "    return evaluate",
                "",
            ]
        )

    def _write_property(self, sent: SentProperty, guarded: Sequence[SentProperty]) -> None:
        holds = self._holds(sent.test)
        if guarded:
            self._write_block(holds, [f"m |= {sent.bit}"], guarded)
        else:
            self._scope.lines.append(f"if {holds}: m |= {sent.bit}")

    def _write_block(self, holds: str, first: list[str], guarded: Sequence[SentProperty]) -> None:
        """What is looked at only where that holds."""
        outer = self._scope
        for sent in guarded:
            if _base(sent.test) in self._shared:
                self._holds(sent.test)  # names it outside
        inner = self._scope = _Scope(outer)
        for sent in guarded:
            self._write_property(sent, ())
        self._scope = outer
        outer.lines += [f"if {holds}:", *(f"    {line}" for line in (*first, *inner.lines))]

    # ---- truths ---------------------------------------------------------------------------------------

    def _holds(self, test: Test) -> str:
        """An expression that is true just when the test holds; its lines of preparation are written before."""
        base = _base(test)
        holds = self._scope.truths.get(base)
        if holds is None:
            holds = self._expression(base)
            if base in self._shared or isinstance(base.condition, All | Any):
                holds = self._name(base, holds)
        return holds if base == test else f"not ({holds})"

    def _name(self, test: Test, holds: str) -> str:
        name = self._scope.truths[test] = f"x{self._truth_count}"
        self._truth_count += 1
        self._scope.lines.append(f"{name} = {holds}")
        return name

    def _expression(self, test: Test) -> str:
        """For a test of being true, false or unknown."""
        condition, asked = test.condition, test.polarity
        match condition:
            case All(conditions=inner) | Any(conditions=inner):
                if asked is Polarity.UNKNOWN:
                    sides = (Test(side, condition) for side in (Polarity.NOT_TRUE, Polarity.NOT_FALSE))
                    return " and ".join(map(self._holds, sides))
                every = isinstance(condition, All) is (asked is Polarity.TRUE)
                parts = [f"({self._holds(Test(asked, part))})" for part in inner]
                return (" and " if every else " or ").join(parts) or str(every)
            case Not(condition=part):
                return self._holds(Test(_NEGATION[asked], part))
            case IsUnknown(fact=fact):
                if asked is Polarity.UNKNOWN:
                    return "False"
                return f"{self._fact(fact)} is {'' if asked is Polarity.TRUE else 'not '}None"
            case Compare():
                return self._comparison(condition, asked)
            case OneOf(fact=fact, type=FactType.BIN, values=values):
                return self._starts(fact, tuple(map(str, values)), asked)
            case OneOf(fact=fact, values=values):
                # None is no member, so that a membership that must hold needs no other guard.
                guard = "" if asked is Polarity.TRUE else None
                return self._leaf(fact, asked, f"{{v}} in {self._constant(frozenset(values))}", guard)
            case StartsWith(fact=fact, prefix=Literal(value=prefix)):
                text = "{v}" if fact in CATALOGUE and CATALOGUE[fact].type in _TEXTS else "str({v})"
                return self._leaf(fact, asked, f"{text}.startswith({self._constant(str(prefix))})")
            case InNetworks(fact=fact, networks=networks):
                return self._leaf(fact, asked, f"{self._constant(Networks(networks).hold)}({{v}})")
            case InList(fact=fact, list_name=name):
                self._reads_lists = True
                c = self._constant(name)
                known = None
                if asked is Polarity.FALSE:
                    # It nearly always holds the value; the entry is sought only where somebody wants to know of it.
                    known = f"{{v}} is not None and (noted or {{v}} not in held[{c}].always) and "
                return self._leaf(fact, asked, f"{{v}} in held[{c}] and find({c}, {{v}}) is not None", known)
            case StartsWith(prefix=SettingRef(name=name)):
                raise _unresolved(name)
            case StartsWith():
                raise AssertionError("mypy cannot see that every prefix is handled")
            case _:
                assert_never(condition)

    def _leaf(self, fact: FactName, asked: Polarity, true: str, guard: str | None = None) -> str:
        """A test that is unknown only with its fact; `true` is its truth when the fact `{v}` is known."""
        v = self._fact(fact)
        if asked is Polarity.UNKNOWN:
            return f"{v} is None"
        true = true.format(v=v)
        known = f"{v} is not None and " if guard is None else guard.format(v=v)
        return f"{known}{true}" if asked is Polarity.TRUE else f"{known}not ({true})"

    def _starts(self, fact: FactName, prefix: object, asked: Polarity) -> str:
        return self._leaf(fact, asked, f"{{v}}.startswith({self._constant(prefix)})")

    def _comparison(self, test: Compare, asked: Polarity) -> str:
        op = _OPERATORS[test.op]
        is_equality = test.op is Op.EQUALS
        match test.operand:
            case SettingRef(name=name):
                raise _unresolved(name)
            case MoneyFigures(figures=figures) if test.type is FactType.MONEY:
                return self._money_comparison(test.fact, dict(reversed(figures)), op, asked)
            case FactRef(fact=fact) if test.type is FactType.MONEY:
                v, w = self._fact(test.fact), self._fact(fact)
                if asked is Polarity.UNKNOWN:
                    return f"{v} is None or {w} is None or {v}.currency != {w}.currency"
                op = op if asked is Polarity.TRUE else _NEGATED[op]
                known = f"{v} is not None and {w} is not None and {v}.currency == {w}.currency"
                return f"{known} and {v}.minor {op} {w}.minor"
            case FactRef(fact=fact) if is_equality or test.type is FactType.INTEGER:
                v, w = self._fact(test.fact), self._fact(fact)
                if asked is Polarity.UNKNOWN:
                    return f"{v} is None or {w} is None"
                known = f"{v} is not None and {w} is not None"
                if is_equality and test.type is FactType.BIN:
                    return f"{known} and {'' if asked is Polarity.TRUE else 'not '}{v}.startswith({w})"
                if is_equality and asked is Polarity.FALSE:
                    return f"{v} != {w} and {known}"  # most often equal: the guards come last
                return f"{known} and {v} {op if asked is Polarity.TRUE else _NEGATED[op]} {w}"
            case Literal(value=value) if is_equality and test.type is FactType.BIN:
                return self._starts(test.fact, str(value), asked)
            case Literal(value=value) if is_equality or test.type is FactType.INTEGER:
                v, c = self._fact(test.fact), self._constant(value)
                if asked is Polarity.UNKNOWN:
                    return f"{v} is None"
                if asked is Polarity.TRUE and is_equality:
                    return f"{v} == {c}"  # None equals no constant
                return f"{v} is not None and {v} {op if asked is Polarity.TRUE else _NEGATED[op]} {c}"
            case Literal() | MoneyFigures() | FactRef():
                # No checked rule holds such a pair; the law says what it would mean.
                v, law = self._fact(test.fact), self._constant(test_value)
                truth = f"{law}({self._constant(test)}, {v}, facts, lists)"
                if asked is Polarity.UNKNOWN:
                    return f"{v} is None or {truth} is None"
                return f"{v} is not None and {truth} is {asked is Polarity.TRUE}"
            case _:
                assert_never(test.operand)

    def _money_comparison(self, fact: FactName, figures: Mapping[str, int], op: str, asked: Polarity) -> str:
        if asked is Polarity.UNKNOWN:
            v = self._fact(fact)
            return f"{v} is None or {v}.currency not in {self._constant(frozenset(figures))}"
        n, k = self._figures(fact)
        if asked is Polarity.FALSE:
            op = _NEGATED[op]
        figure = f"{k}[{self._money.add(fact, figures, _NEVER.get(op))}]"
        return f"{figure} is not None and {n} != {figure}" if op == "!=" else f"{n} {op} {figure}"

    # ---- names ----------------------------------------------------------------------------------------

    def _fact(self, fact: FactName) -> str:
        """The variable that holds the fact's value, or None."""
        v = self._scope.facts.get(fact)
        if v is None:
            v = self._scope.facts[fact] = f"v{self._number(fact)}"
            self._scope.lines.append(f"{v} = get({fact!r})")
        return v

    def _figures(self, fact: FactName) -> tuple[str, str]:
        """The variables that hold the minor units of an amount and the figures of its currency, one per test."""
        n, k = f"n{self._number(fact)}", f"k{self._number(fact)}"
        if fact not in self._scope.figures:
            self._scope.figures.add(fact)
            v = self._fact(fact)
            table, none = self._money.constants_of(fact, self.constants)
            known = f"({v}.minor, c{table}.get({v}.currency, c{none}))"
            self._scope.lines.append(f"{n}, {k} = {known} if {v} is not None else (0, c{none})")
        return n, k

    def _number(self, fact: FactName) -> int:
        return self._fact_numbers.setdefault(fact, len(self._fact_numbers))

    def _constant(self, value: object) -> str:
        self.constants.append(value)
        return f"c{len(self.constants) - 1}"


class _MoneyTables:
    """Of each money fact the figures of all tests on it, by currency, so that one look-up serves them all."""

    def __init__(self) -> None:
        self._columns: dict[FactName, list[tuple[Mapping[str, int], float | None]]] = {}
        self._constants: dict[FactName, tuple[int, int]] = {}

    def constants_of(self, fact: FactName, constants: list[object]) -> tuple[int, int]:
        """The places among the constants of the figures by currency, and of those for any other currency."""
        places = self._constants.get(fact)
        if places is None:
            places = self._constants[fact] = len(constants), len(constants) + 1
            constants += (None, None)
        return places

    def add(self, fact: FactName, figures: Mapping[str, int], never: float | None) -> int:
        """The place of a test's figure among those of its currency; `never` where it has none."""
        columns = self._columns.setdefault(fact, [])
        columns.append((figures, never))
        return len(columns) - 1

    def fill(self, constants: list[object]) -> None:
        for fact, columns in self._columns.items():
            table, none = self._constants[fact]
            currencies = {currency for figures, _ in columns for currency in figures}
            constants[table] = {
                currency: tuple(figures.get(currency, never) for figures, never in columns)
                for currency in currencies
            }
            constants[none] = tuple(never for _, never in columns)


_NEGATION: Final = {
    Polarity.TRUE: Polarity.FALSE,
    Polarity.FALSE: Polarity.TRUE,
    Polarity.UNKNOWN: Polarity.UNKNOWN,
}
_BASE: Final = {Polarity.NOT_TRUE: Polarity.TRUE, Polarity.NOT_FALSE: Polarity.FALSE}


def _base(test: Test) -> Test:
    """The test of being true, false or unknown that this one is, or denies."""
    base = _BASE.get(test.polarity)
    return test if base is None else Test(base, test.condition)


def _unresolved(name: str) -> BackendFault:
    return BackendFault(f"a live rule reads the setting `{name}`, which has no value")
