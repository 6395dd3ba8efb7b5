"""Why a rule matched, in words that a support agent reads: the leaves of its condition, with values.

The reference backend is the source: a leaf is named when its truth carried the truth of the whole.
"""

from __future__ import annotations

from typing import assert_never

from .backends.reference import evaluate
from .decision import Because, Match
from .facts import Facts, FactValue
from .money import format_minor
from .rules.ast import (
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
    SettingRef,
    StartsWith,
)

_OP_WORDS = {
    Op.EQUALS: "is",
    Op.OVER: "over",
    Op.AT_LEAST: "at least",
    Op.UNDER: "under",
    Op.AT_MOST: "at most",
}


def explain_match(match: Match, facts: Facts, lists: Lists) -> tuple[Because, ...]:
    """The tests that made the rule match, without repeats, in the order they are written."""
    wanted = None if match.by_unknown else True
    return tuple(dict.fromkeys(_carriers(match.rule.when, wanted, facts, lists)))


def _carriers(condition: Condition, wanted: bool | None, facts: Facts, lists: Lists) -> list[Because]:
    """The leaves below `condition` that give it the truth `wanted`."""
    if evaluate(condition, facts, lists) is not wanted:
        return []
    match condition:
        case All(conditions=inner) | Any(conditions=inner):
            return [because for part in inner for because in _carriers(part, wanted, facts, lists)]
        case Not(condition=All() | Any() | Not() as part):
            return _carriers(part, None if wanted is None else not wanted, facts, lists)
        case Not(condition=leaf):
            return [describe_leaf(leaf, facts, lists, negated=True)]
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            return [describe_leaf(condition, facts, lists, negated=wanted is False)]
        case _:
            assert_never(condition)


def describe_leaf(leaf: Condition, facts: Facts, lists: Lists, *, negated: bool = False) -> Because:
    """One test with the value it saw: `amount`, `450.000 TND`, `over 300.000 TND`."""
    assert not isinstance(leaf, All | Any | Not)
    value = facts.get(leaf.fact)
    words = test_words(leaf, value, facts, lists)
    return Because(leaf.fact, show(value), f"not {words}" if negated else words)


def test_words(leaf: Condition, value: FactValue | None, facts: Facts, lists: Lists) -> str:
    """What a test asks, in words; a money figure is given in the transaction's own currency."""
    match leaf:
        case Compare(op=op, operand=operand):
            return f"{_OP_WORDS[op]} {_operand_words(operand, value, facts)}"
        case OneOf(values=values):
            names = [str(v) for v in values]
            shown = ", ".join(names[:8]) + (f" … ({len(names)} in all)" if len(names) > 8 else "")
            return f"one of {shown}"
        case StartsWith(prefix=prefix):
            return f"starts with {_operand_words(prefix, value, facts)}"
        case InNetworks(networks=networks):
            return f"in network {', '.join(networks)}"
        case InList(list_name=name):
            entry = None if value is None else lists.find(name, value)
            if entry is None:
                return f"in list {name}"
            notes = [entry.reason, entry.ticket, f"by {entry.author}" if entry.author else ""]
            shown = ", ".join(note for note in notes if note)
            return f"in list {name}" + (f" ({shown})" if shown else "")
        case IsUnknown():
            return "unknown"
        case All() | Any() | Not():
            raise AssertionError("not a leaf")
        case _:
            assert_never(leaf)


def _operand_words(operand: Operand, value: FactValue | None, facts: Facts) -> str:
    match operand:
        case Literal(value=literal):
            return show(literal)
        case MoneyFigures(figures=figures):
            currency = facts.get("currency")
            mine = [f for f in figures if f[0] == currency]
            if not mine:
                known = ", ".join(f"{format_minor(minor, code)} {code}" for code, minor in figures)
                return f"{known} (no figure for {currency})"
            return f"{format_minor(mine[0][1], mine[0][0])} {mine[0][0]}"
        case FactRef(fact=fact):
            return f"{fact} ({show(facts.get(fact))})"
        case SettingRef(name=name):
            return f"${name}"
        case _:
            assert_never(operand)


def show(value: FactValue | None) -> str:
    """A fact's value as people read it; no value is `unknown`, never an empty word."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
