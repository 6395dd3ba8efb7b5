"""`fraudengine report`: what the decision log says."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import click

from ..explain import describe_rule
from ..explain_words import day_words
from ..log_reader import LogReader
from ..money import format_minor
from ..rules.checked import DEFAULT_TIMEZONE
from ..rules.library import PLATFORM, Library
from ..shadow_report import ShadowReport, ShadowTally, report_shadow
from .options import Problem, configuration, format_option, rules_option, state_option

_DAY: Final = click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.group()
def report() -> None:
    """Reports from the decision log."""


@report.command("shadow")
@click.option(
    "--since",
    type=_DAY,
    required=True,
    help=f"First day to look at, as 2026-11-01; times are those of {DEFAULT_TIMEZONE}.",
)
@click.option("--until", type=_DAY, help="The day after the last one to look at (default: up to now).")
@click.option("--merchant", metavar="NAME", help="Look at one merchant only.")
@rules_option
@state_option
@format_option
def shadow(
    since: datetime,
    until: datetime | None,
    merchant: str | None,
    rules: Path | None,
    state: Path | None,
    output: str | None,
) -> None:
    """Say what rules on trial (`mode: shadow`) matched, and what each would have changed had it been live.

    A payment is decided again from what was recorded, with that one rule taken as live. Set the rule live when
    what it would have changed is what you want.
    """
    config = configuration(rules=rules, state=state, format=output)
    since_us, until_us = _instant(since), _instant(until) if until is not None else None
    if until_us is not None and until_us <= since_us:
        raise Problem("--until is not after --since", 2)
    library = Library(config.rules)
    library.refresh()
    in_force = [rule_set for name, rule_set in library.snapshot.rule_sets.items() if name != PLATFORM]
    with LogReader(config.state / "decisions.db") as log:
        found = report_shadow(log, since_us, until_us, merchant, in_force)
    if config.format == "json":
        click.echo(json.dumps(_as_object(found, since_us, until_us), indent=2, ensure_ascii=False))
    else:
        _print(found, since_us, until_us)


def _instant(moment: datetime) -> int:
    return int(moment.replace(tzinfo=ZoneInfo(DEFAULT_TIMEZONE)).timestamp()) * 1_000_000


def _print(found: ShadowReport, since_us: int, until_us: int | None) -> None:
    until = f" until {day_words(until_us, DEFAULT_TIMEZONE)}" if until_us is not None else ""
    click.echo(f"{found.screenings:,} screenings since {day_words(since_us, DEFAULT_TIMEZONE)}{until}")
    if not found.rules:
        click.echo("no rule was on trial (`mode: shadow`)")
    for tally in found.rules:
        _print_tally(tally)
    if found.unreadable:
        click.echo(
            f"\n{found.unreadable:,} matches are left out: the rules of their revision cannot be read any more"
        )


def _print_tally(tally: ShadowTally) -> None:
    rule = tally.rule
    click.echo(f"\n{click.style(tally.merchant, bold=True)}: {rule.id} ({rule.then})")
    click.echo(f"  {describe_rule(rule, 'en')}")
    amounts = f", {_amounts(tally.amounts)}" if tally.matched else ""
    click.echo(f"  matched {tally.matched:,}{amounts}")
    if tally.matched:
        click.echo(f"  would have changed {tally.changed:,}{':' if tally.changed else ''}")
    for change, count in tally.changes.most_common():
        before, after = change
        click.echo(f"    {before} → {after}: {count:,}, {_amounts(tally.changed_amounts[change])}")
    for example in tally.examples:
        amount = f"{format_minor(example.minor, example.currency)} {example.currency}"
        at = day_words(example.at_us, DEFAULT_TIMEZONE)
        click.echo(f"    {example.screening_id}  {at}  {amount}  {example.before} → {example.after}")
    if tally.examples:
        click.echo(f"    (fraudengine explain {tally.examples[-1].screening_id} --rule {rule.id} says why)")


def _amounts(by_currency: Counter[str]) -> str:
    return ", ".join(f"{format_minor(minor, code)} {code}" for code, minor in sorted(by_currency.items()))


def _as_object(found: ShadowReport, since_us: int, until_us: int | None) -> dict[str, object]:
    return {
        "since": day_words(since_us, DEFAULT_TIMEZONE),
        "until": day_words(until_us, DEFAULT_TIMEZONE) if until_us is not None else None,
        "timezone": DEFAULT_TIMEZONE,
        "screenings": found.screenings,
        "unreadable": found.unreadable,
        "rules": [_tally_object(tally) for tally in found.rules],
    }


def _tally_object(tally: ShadowTally) -> dict[str, object]:
    return {
        "merchant": tally.merchant,
        "rule": tally.rule.id,
        "then": tally.rule.then.value,
        "description": describe_rule(tally.rule, "en"),
        "matched": tally.matched,
        "amounts": _amounts_object(tally.amounts),
        "would_have_changed": tally.changed,
        "changes": [
            {
                "from": before.value,
                "to": after.value,
                "count": count,
                "amounts": _amounts_object(tally.changed_amounts[before, after]),
            }
            for (before, after), count in tally.changes.most_common()
        ],
        "examples": [
            {
                "screening_id": example.screening_id,
                "at": day_words(example.at_us, "UTC").replace(" ", "T"),
                "amount": format_minor(example.minor, example.currency),
                "currency": example.currency,
                "from": example.before.value,
                "to": example.after.value,
            }
            for example in tally.examples
        ],
    }


def _amounts_object(by_currency: Counter[str]) -> dict[str, str]:
    return {code: format_minor(minor, code) for code, minor in sorted(by_currency.items())}


COMMANDS: list[click.Command] = [report]
