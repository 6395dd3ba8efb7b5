"""`fraudengine show`: what is in force for a merchant."""

from __future__ import annotations

from pathlib import Path

import click

from ..api.rule_sets import describe_rule_set
from ..diagnostics import (
    RuleFilesRefused,
    UnknownMerchant,
    suggest,
)
from ..explain import show as show_value
from ..money import format_minor
from ..rules.ast import DeclaredList, Literal, Mode, MoneyFigures, Outcome, Rule, RuleSet, SettingValue
from ..rules.library import Library
from .options import Problem, configuration, format_option, rules_option

# ---- show -----------------------------------------------------------------------------------------


@click.command()
@click.argument("merchant")
@rules_option
@format_option
def show(merchant: str, rules: Path | None, output: str | None) -> None:
    """Show what is in force for MERCHANT: every rule with its origin, what is off and why, settings, lists."""
    config = configuration(rules=rules, format=output)
    library = Library.load(config.rules)
    try:
        rule_set = library.snapshot.rule_set(merchant)
    except UnknownMerchant as error:
        if error.refused:
            raise RuleFilesRefused(library.diagnostics, library.sources) from None
        hint = suggest(merchant, library.snapshot.merchants)
        raise Problem(f"{error}" + (f"; {hint}" if hint else "")) from None
    if config.format == "json":
        click.echo(describe_rule_set(merchant, rule_set).model_dump_json(indent=2))
    else:
        click.echo("\n".join(_describe(rule_set)))


def _describe(rule_set: RuleSet) -> list[str]:
    lines = [rule_set.name, f"  {rule_set.description}", f"  revision {rule_set.revision[:12]}", ""]
    active = sorted(rule_set.evaluated_rules, key=_precedence)
    lines.append("Rules in force, the first that matches decides:")
    lines += [_rule_line(rule) for rule in active] or ["  none"]
    lines.append(f"  otherwise: {rule_set.otherwise}")
    off = [rule for rule in rule_set.rules if rule.mode is Mode.OFF]
    if off:
        lines += ["", "Rules that are off:"]
        lines += [f"  {rule.id:<28} {rule.off_because or 'set off'}  ({rule.origin})" for rule in off]
    lines += ["", "Settings:"]
    lines += [_setting_line(setting) for _, setting in sorted(rule_set.settings.items())] or ["  none"]
    lines += ["", "Lists:"]
    lines += [_list_line(declared) for _, declared in sorted(rule_set.lists.items())] or ["  none"]
    challenge = rule_set.challenge
    lines += [
        "",
        "When a challenge was asked for and 3-D Secure",
        f"  was attempted only: {challenge.attempted};  could not be performed: {challenge.unavailable};"
        f"  has nobody to challenge: {challenge.impossible}",
    ]
    return lines


def _precedence(rule: Rule) -> tuple[int, str]:
    match rule.then:
        case Outcome.REFUSE:
            return (0 if rule.final else 2, rule.id)
        case Outcome.ACCEPT:
            return (1, rule.id)
        case _:
            return (3, rule.id)


def _rule_line(rule: Rule) -> str:
    outcome = f"{rule.then}{' (final)' * rule.final}"
    notes = [rule.reason, f"from {rule.origin}"]
    if rule.mode is Mode.SHADOW:
        notes.append("SHADOW: decides nothing")
    if rule.if_unknown is not None:
        notes.append(f"if unknown: {rule.if_unknown}")
    return f"  {rule.id:<28} {outcome:<16} {', '.join(notes)}"


def _setting_line(setting: SettingValue) -> str:
    value = "not filled in" if setting.value is None else _setting_text(setting.value)
    given = f"  (in {setting.given_in})" if setting.given_in and setting.value is not None else ""
    return f"  {setting.name:<28} {value}{given}"


def _setting_text(value: Literal | MoneyFigures) -> str:
    if isinstance(value, MoneyFigures):
        return ", ".join(f"{format_minor(minor, code)} {code}" for code, minor in value.figures)
    return show_value(value.value)


def _list_line(declared: DeclaredList) -> str:
    shown = ", ".join(entry.value for entry in declared.entries[:6])
    more = f" … {len(declared.entries)} in all" if len(declared.entries) > 6 else ""
    return f"  {declared.name:<28} {declared.kind}: {shown or 'empty'}{more}"


COMMANDS: list[click.Command] = [show]
