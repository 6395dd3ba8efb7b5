"""An effective rule set as `GET /v1/merchants/{merchant}/rules` shows it."""

from __future__ import annotations

from typing import Any

from ..money import format_minor
from ..rules.ast import Literal, Mode, MoneyFigures, Outcome, Rule, RuleSet, SettingValue, facts_read
from .answers import ListAnswer, RuleAnswer, RuleSetAnswer, SettingAnswer


def describe_rule_set(merchant: str, rule_set: RuleSet) -> RuleSetAnswer:
    """`merchant` is as asked for: it may be decided by `platform`."""
    return RuleSetAnswer(
        merchant=merchant,
        rule_set=rule_set.name,
        description=rule_set.description,
        revision=rule_set.revision,
        otherwise=rule_set.otherwise.value,
        challenge={
            "attempted": rule_set.challenge.attempted.value,
            "unavailable": rule_set.challenge.unavailable.value,
            "impossible": rule_set.challenge.impossible.value,
        },
        timezone=rule_set.timezone,
        rules=[_describe_rule(rule) for rule in rule_set.rules],
        settings={name: _describe_setting(setting) for name, setting in sorted(rule_set.settings.items())},
        lists={
            name: ListAnswer(
                of=declared.kind.value, help=declared.help, entries=len(declared.entries), origin=declared.origin
            )
            for name, declared in sorted(rule_set.lists.items())
        },
        metadata={name: kind.value for name, kind in sorted(rule_set.metadata.items())},
        reads=sorted(rule_set.reads),
        sources=dict(rule_set.sources),
    )


def _describe_rule(rule: Rule) -> RuleAnswer:
    challenges = Outcome.CHALLENGE in (rule.then, rule.if_unknown)
    reads = facts_read(rule.when) | (facts_read(rule.unless) if rule.unless is not None else frozenset())
    return RuleAnswer(
        id=rule.id,
        description=rule.description,
        mode=rule.mode.value,
        off_because=(rule.off_because or None) if rule.mode is Mode.OFF else None,
        origin=rule.origin,
        then=rule.then.value,
        if_unknown=rule.if_unknown.value if rule.if_unknown is not None else None,
        final=rule.final,
        reason=rule.reason,
        challenge_indicator=rule.challenge_indicator if challenges else None,
        reads=sorted(reads),
        file=rule.span.path,
        line=rule.span.line,
    )


def _describe_setting(setting: SettingValue) -> SettingAnswer:
    return SettingAnswer(
        type=setting.type.value,
        help=setting.help,
        value=_setting_value(setting.value),
        declared_in=setting.declared_in,
        given_in=setting.given_in or None,
    )


def _setting_value(value: Literal | MoneyFigures | None) -> Any:
    match value:
        case None:
            return None
        case Literal(value=plain):
            return plain
        case MoneyFigures(figures=figures):
            return {currency: format_minor(minor, currency) for currency, minor in figures}
