"""Conditions, rules, settings and lists in one line of words each, for `show`, `diff` and reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from .explain_words import ask, phrase, say_country, show
from .facts import ListKind
from .money import format_minor
from .reasons import Language
from .rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    InList,
    InNetworks,
    IsUnknown,
    ListEntry,
    Literal,
    MoneyFigures,
    Not,
    OneOf,
    Rule,
    StartsWith,
)


def condition_words(condition: Condition, language: Language = "en") -> str:
    """`amount is over $challenge_above and card_type is prepaid`."""
    match condition:
        case All(conditions=inner):
            return _joined((_grouped(part, language) for part in inner), phrase("and", language))
        case Any(conditions=inner):
            return _joined((_grouped(part, language) for part in inner), phrase("or", language))
        case Not(condition=part):
            if isinstance(part, Not):
                return condition_words(part.condition, language)
            if isinstance(part, All | Any):
                return phrase("not", language, condition_words(part, language))
            return f"{part.fact} {ask(part, language, negated=True)}"
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            return f"{condition.fact} {ask(condition, language)}"
        case _:
            assert_never(condition)


def _grouped(condition: Condition, language: Language) -> str:
    words = condition_words(condition, language)
    return f"({words})" if isinstance(condition, Any) and len(condition.conditions) > 1 else words


def _joined(parts: Iterable[str], word: str) -> str:
    return f" {word} ".join(parts)


def when_words(rule: Rule, language: Language = "en") -> str:
    """When the rule matches: its `when` and its `unless`."""
    words = f"{phrase('when', language)} {condition_words(rule.when, language)}"
    if rule.unless is not None:
        words += f", {phrase('unless', language)} {condition_words(rule.unless, language)}"
    return words


def setting_words(value: Literal | MoneyFigures | None) -> str:
    """A setting's value as the rule file says it; figures of several currencies one after the other."""
    match value:
        case None:
            return "not filled in"
        case MoneyFigures(figures=figures):
            return ", ".join(f"{format_minor(minor, code)} {code}" for code, minor in figures)
        case Literal(value=plain):
            return show(plain)


def entry_words(entry: ListEntry, kind: ListKind, language: Language = "en") -> str:
    """The value of a list entry; a country with its name."""
    return say_country(entry.value, language) if kind is ListKind.COUNTRY else entry.value
