"""Conditions with the `$names` in them replaced by what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from ..facts import FactName, FactType
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
    Operand,
    SettingRef,
    StartsWith,
)


def fill_settings(condition: Condition, values: Mapping[tuple[str, FactName], Operand]) -> Condition:
    """The condition with values (by setting and fact) for settings; unchanged parts stay the same objects."""
    match condition:
        case All(conditions=inner) | Any(conditions=inner):
            filled = tuple(fill_settings(part, values) for part in inner)
            if all(new is old for new, old in zip(filled, inner, strict=True)):
                return condition
            return replace(condition, conditions=filled)
        case Not(condition=part):
            new = fill_settings(part, values)
            return condition if new is part else Not(new, condition.span)
        case Compare(fact=fact, operand=SettingRef(name=name)):
            value = values.get((name, fact))
            if value is None:
                return condition
            if condition.type is FactType.IP and condition.op is Op.EQUALS and isinstance(value, Literal):
                return InNetworks(fact, (str(value.value),), condition.span)
            return replace(condition, operand=value)
        case StartsWith(fact=fact, prefix=SettingRef(name=name)):
            prefix = values.get((name, fact))
            if prefix is None:
                return condition
            assert isinstance(prefix, Literal)
            return replace(condition, prefix=prefix)
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            return condition
        case _:
            assert_never(condition)
