"""One form for all conditions that mean the same: written order, nesting and double negation make no difference.

Under Kleene's logic each step keeps the meaning, unknown included: negation is pushed to the tests (De Morgan),
`not over` becomes `at_most`, groups of one kind are flattened, repeats are dropped, and a list of one value is the
value. Two conditions of different forms may still mean the same; two of one form never differ.
"""

from __future__ import annotations

from typing import Final, TypeAlias, assert_never

from .ast import (
    All,
    Any,
    Compare,
    Condition,
    InList,
    InNetworks,
    IsUnknown,
    Literal,
    Not,
    OneOf,
    Op,
    StartsWith,
)

Canonical: TypeAlias = tuple[object, ...]

_CONTRARY: Final = {Op.OVER: Op.AT_MOST, Op.AT_MOST: Op.OVER, Op.UNDER: Op.AT_LEAST, Op.AT_LEAST: Op.UNDER}


def canonical_form(condition: Condition | None, *, negated: bool = False) -> Canonical:
    """The form as nested tuples, which compare equal when the conditions mean the same in the ways above."""
    match condition:
        case None:
            return ()
        case All(conditions=inner):
            return _group("any" if negated else "all", [canonical_form(part, negated=negated) for part in inner])
        case Any(conditions=inner):
            return _group("all" if negated else "any", [canonical_form(part, negated=negated) for part in inner])
        case Not(condition=part):
            return canonical_form(part, negated=not negated)
        case Compare(op=op) if negated and op in _CONTRARY:
            return ("compare", condition.fact, _CONTRARY[op].value, _plain(condition.operand), False)
        case Compare(fact=fact, op=op, operand=operand):
            return ("compare", fact, op.value, _plain(operand), negated)
        case OneOf(fact=fact, values=(value,)):
            return ("compare", fact, Op.EQUALS.value, _plain(Literal(value)), negated)
        case OneOf(fact=fact, values=values):
            return ("one of", fact, tuple(sorted(repr(value) for value in set(values))), negated)
        case StartsWith(fact=fact, prefix=prefix):
            return ("starts with", fact, _plain(prefix), negated)
        case InNetworks(fact=fact, networks=networks):
            return ("networks", fact, tuple(sorted(set(networks))), negated)
        case InList(fact=fact, list_name=name):
            return ("list", fact, name, negated)
        case IsUnknown(fact=fact):
            return ("unknown", fact, negated)
        case _:
            assert_never(condition)


def _plain(operand: object) -> str:
    """An operand without its place."""
    name = getattr(operand, "name", None)  # only a SettingRef has one, and only it has a span
    return f"${name}" if name is not None else repr(operand)


def _group(kind: str, parts: list[Canonical]) -> Canonical:
    flat: list[Canonical] = []
    for part in parts:
        inner = part[1] if part and part[0] == kind else None
        flat += list(inner) if isinstance(inner, tuple) else [part]
    distinct = tuple(sorted(set(flat), key=repr))
    return distinct[0] if len(distinct) == 1 else (kind, distinct)
