"""Proof, when a rule set is loaded, that the online backend says about it what the law says.

The transactions are made from the rule set's own constants: each figure, one minor unit over and under it, a
currency without a figure, each word and another one, members of each list and values that are none, and unknown.
They are dealt so that each fact takes each of its values; then each test is driven to true, false and unknown,
and each rule to matching, where some combination of those values does it.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeAlias, assert_never

from ..decision import Match
from ..diagnostics import BackendFault
from ..explain import show
from ..facts import FactName, Facts, FactType, FactValue, ListKind
from ..lists import ListsAsOf, build_indexes
from ..money import Money
from ..rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    DeclaredList,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    ListName,
    Lists,
    Literal,
    MoneyFigures,
    Not,
    OneOf,
    RuleSet,
    SettingRef,
    StartsWith,
    walk,
)
from . import reference
from .online import CheckKey, OnlineRuleSet

MAX_TRANSACTIONS: Final = 200
_SEED: Final = 4217
_MEMBERS: Final = 3  # entries of a list that are tried
_OTHER_CURRENCIES: Final = ("XAF", "XAG")
_OTHER_TEXT: Final = "ZZ"
_OTHER_ADDRESS: Final = "192.0.2.1"

Values: TypeAlias = dict[FactName, list[FactValue]]

_proven: set[CheckKey] = set()


def is_proven(compiled: OnlineRuleSet) -> bool:
    """Whether forms and evaluators of this shape were checked before in this process, with whatever constants."""
    return compiled.check_key in _proven


def check_agreement(rule_set: RuleSet, compiled: OnlineRuleSet) -> int:
    """How many transactions both backends agree on; BackendFault shows the first one on which they differ.

    Must be called by the thread that owns the core. Lists are read one microsecond after their youngest entry.
    """
    lists = ListsAsOf(build_indexes(rule_set.lists), _instant(rule_set.lists))
    count = 0
    for facts in boundary_transactions(rule_set, lists):
        expected = reference.find_matches(rule_set, facts, lists)
        answered = compiled.find_matches(facts, lists, ask=True)
        if answered != expected:
            raise BackendFault(_disagreement(rule_set, facts, _ids(expected), _ids(answered)))
        count += 1
    _proven.add(compiled.check_key)
    return count


def _ids(matches: Sequence[Match]) -> str:
    words = [f"{match.rule.id} ({match.outcome.value})" for match in matches]
    return ", ".join(words) or "nothing"


def _disagreement(rule_set: RuleSet, facts: Facts, expected: str, answered: str) -> str:
    shown = ", ".join(f"{name} = {show(facts[name])}" for name in sorted(facts)) or "every fact unknown"
    return (
        f"the online backend disagrees with the law on rule set `{rule_set.name}`: for {shown} "
        f"it finds {answered}, but what matches is {expected}"
    )


def _instant(lists: Mapping[ListName, DeclaredList]) -> int:
    added = [entry.added_us for declared in lists.values() for entry in declared.entries]
    return max((instant for instant in added if instant is not None), default=0) + 1


# ---- transactions -----------------------------------------------------------------------------------


def boundary_transactions(rule_set: RuleSet, lists: Lists) -> Iterator[Facts]:
    """At most MAX_TRANSACTIONS transactions, the same ones each time, starting with everything unknown."""
    conditions = [rule.when for rule in rule_set.evaluated_rules]
    conditions += [rule.unless for rule in rule_set.evaluated_rules if rule.unless is not None]
    leaves = list(dict.fromkeys(part for whole in conditions for part in walk(whole)))
    leaves = [part for part in leaves if not isinstance(part, All | Any | Not)]
    values = _values_to_try(leaves, rule_set.lists)
    dice = random.Random(_SEED)
    undriven = {(leaf, truth) for leaf in leaves for truth in (True, False, None)}

    def deal(fixed: Mapping[FactName, FactValue | None]) -> Facts:
        """A transaction with those facts as given (None: unknown) and all others by chance."""
        facts: dict[FactName, FactValue] = {}
        for fact, known in values.items():
            value = fixed[fact] if fact in fixed else dice.choice([*known, None])
            if value is not None:
                facts[fact] = value
        undriven.difference_update([(leaf, reference.evaluate(leaf, facts, lists)) for leaf in leaves])
        return facts

    def wanted() -> Iterator[Facts]:
        yield deal(dict.fromkeys(values))
        rounds = max((len(known) for known in values.values()), default=0)
        for turn in range(rounds):
            yield deal(
                {fact: known[(turn + shift) % len(known)] for shift, (fact, known) in enumerate(values.items())}
            )
        for rule in rule_set.evaluated_rules:
            for truth in (True, None) if rule.if_unknown is not None else (True,):
                if (found := _solve(rule.when, truth, values, lists)) is not None:
                    yield deal(found)
        for leaf in leaves:
            for truth in (True, False, None):
                if (leaf, truth) in undriven and (found := _solve(leaf, truth, values, lists)) is not None:
                    yield deal(found)

    yield from islice(wanted(), MAX_TRANSACTIONS)


def _solve(
    condition: Condition, truth: bool | None, values: Values, lists: Lists
) -> dict[FactName, FactValue | None] | None:
    """Facts (None: unknown) that give the condition that truth, or None where the first try finds none."""
    match condition:
        case Not(condition=inner):
            return _solve(inner, None if truth is None else not truth, values, lists)
        case All(conditions=inner) | Any(conditions=inner):
            every = truth is None or truth is isinstance(condition, All)
            found: dict[FactName, FactValue | None] = {}
            for part in inner:
                facts = _solve(part, truth, values, lists)
                if facts is None or any(found.get(name, value) != value for name, value in facts.items()):
                    continue
                found |= facts
                if not every:
                    break
            return found
        case IsUnknown(fact=fact):
            return {fact: None if truth else values[fact][0]} if truth is not None and values[fact] else None
        case Compare(fact=fact, operand=FactRef(fact=other)):
            pairs = (
                {fact: left, other: right} for left in [*values[fact], None] for right in [*values[other], None]
            )
            return next((pair for pair in pairs if _truth(condition, pair, lists) is truth), None)
        case (
            Compare(fact=fact)
            | OneOf(fact=fact)
            | StartsWith(fact=fact)
            | InNetworks(fact=fact)
            | InList(fact=fact)
        ):
            tried = ({fact: value} for value in [*values[fact], None])
            return next((one for one in tried if _truth(condition, one, lists) is truth), None)
        case _:
            assert_never(condition)


def _truth(condition: Condition, facts: Mapping[FactName, FactValue | None], lists: Lists) -> bool | None:
    known = {name: value for name, value in facts.items() if value is not None}
    return reference.evaluate(condition, known, lists)


# ---- values -----------------------------------------------------------------------------------------


def _values_to_try(leaves: Sequence[Condition], lists: Mapping[ListName, DeclaredList]) -> Values:
    """The values of each fact that the tests tell apart; facts that are compared share theirs."""
    found: dict[FactName, dict[FactValue, None]] = {}
    compared: list[tuple[FactName, FactName]] = []
    for leaf in leaves:
        assert not isinstance(leaf, All | Any | Not)
        mine = found.setdefault(leaf.fact, {})
        mine.update(dict.fromkeys(_values_around(leaf, lists)))
        if isinstance(leaf, Compare) and isinstance(leaf.operand, FactRef):
            compared.append((leaf.fact, leaf.operand.fact))
            found.setdefault(leaf.operand.fact, {}).update(dict.fromkeys(_values_around(leaf, lists)))
    for one, other in compared:
        both = {**found[one], **found[other]}
        found[one], found[other] = both, dict(both)
    return {fact: list(known) or [_OTHER_TEXT] for fact, known in found.items()}


def _values_around(leaf: Condition, lists: Mapping[ListName, DeclaredList]) -> Iterator[FactValue]:
    match leaf:
        case Compare():
            yield from _values_around_comparison(leaf)
        case OneOf(values=values, type=fact_type):
            for value in (values[0], values[-1]) if values else ():
                yield from _literal_and_another(value, fact_type)
        case StartsWith(prefix=Literal(value=prefix)):
            yield from (str(prefix), f"{prefix}x", f"x{prefix}")
        case InNetworks(networks=networks):
            for network in networks[:_MEMBERS]:
                yield from _addresses_around(network)
        case InList(list_name=name):
            declared = lists[name]
            for entry in declared.entries[:_MEMBERS]:
                yield from _listed_and_another(entry.value, declared.kind)
            yield from _unlisted(declared.kind)
        case StartsWith() | IsUnknown():
            return
        case All() | Any() | Not():
            raise AssertionError("not a leaf")
        case _:
            assert_never(leaf)


def _values_around_comparison(test: Compare) -> Iterator[FactValue]:
    match test.operand:
        case MoneyFigures(figures=figures):
            for currency, minor in figures:
                yield from (Money(near, currency) for near in _near(minor))
            mine = {currency for currency, _ in figures}
            yield Money(1, next(code for code in _OTHER_CURRENCIES if code not in mine))
        case Literal(value=value):
            yield from _literal_and_another(value, test.type)
        case FactRef():
            yield from _two_of(test.type)
        case SettingRef():
            return
        case _:
            assert_never(test.operand)


def _near(number: int) -> tuple[int, int, int]:
    return number, number + 1, number - 1


def _literal_and_another(value: str | int | bool, fact_type: FactType) -> Iterator[FactValue]:
    if isinstance(value, bool):
        yield from (value, not value)
    elif isinstance(value, int):
        yield from _near(value)
    elif fact_type is FactType.BIN:
        yield from (value, value + "0", value[:-1])
    else:
        yield from (value, _OTHER_ADDRESS if fact_type is FactType.IP else _OTHER_TEXT)


def _two_of(fact_type: FactType) -> tuple[FactValue, ...]:
    """Values for facts that are compared with each other."""
    match fact_type:
        case FactType.MONEY:
            return Money(1, "EUR"), Money(2, "EUR"), Money(1, "TND")
        case FactType.INTEGER:
            return 1, 2
        case FactType.BOOLEAN:
            return True, False
        case FactType.BIN:
            return "407024", "40702411"
        case FactType.IP:
            return _OTHER_ADDRESS, "2001:db8::1"
        case FactType.COUNTRY | FactType.WORD | FactType.CURRENCY | FactType.TEXT | FactType.CARD:
            return "AA", _OTHER_TEXT
        case _:
            assert_never(fact_type)


def _addresses_around(network: str) -> Iterator[FactValue]:
    """The first and last address of a network, and the one after it."""
    found = ipaddress.ip_network(network)
    yield from (str(found[0]), str(found[-1]))
    if int(found[-1]) + 1 < 1 << found.max_prefixlen:
        yield str(found[-1] + 1)


def _listed_and_another(value: str, kind: ListKind) -> Iterator[FactValue]:
    if kind is ListKind.IP:
        yield from _addresses_around(value)
    elif kind is ListKind.BIN:
        yield from (value, value + "0", value[:-1])
    else:
        yield value


def _unlisted(kind: ListKind) -> tuple[FactValue, ...]:
    if kind is ListKind.IP:
        return _OTHER_ADDRESS, "2001:db8::1"
    if kind is ListKind.BIN:
        return ("000000",)
    return (_OTHER_TEXT, f"{_OTHER_TEXT}2")
