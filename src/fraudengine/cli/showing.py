"""`fraudengine show`: what is in force for a merchant, and from which line of which file."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from ..api.rule_sets import describe_rule_set
from ..config import Config
from ..decision import Match, Outcome, level
from ..diagnostics import RuleFilesRefused, Span, StoreUnavailable, UnknownMerchant, suggest
from ..effective import Sources, find_sources
from ..explain import describe_rule
from ..explain_words import day_words
from ..rule_words import entry_words, setting_words, when_words
from ..rules.activation import activate
from ..rules.ast import DeclaredList, ListEntry, ListName, Mode, Rule, RuleSet, SettingValue
from ..rules.counters import describe_counter
from ..rules.library import Library
from .options import Problem, configuration, format_option, rules_option, state_option
from .run_time import open_run_time_lists

WIDEST: Final = 100
NARROWEST: Final = 40
SHOWN_ENTRIES: Final = 12

_LEVELS: Final = (
    "Refuses, and no other rule can rescue the payment",
    "Accepts, before any refusal below",
    "Refuses",
    "Asks for 3-D Secure",
)


@click.command()
@click.argument("merchant")
@click.option("--all-entries", is_flag=True, help=f"Show every list entry, not only the first {SHOWN_ENTRIES}.")
@rules_option
@state_option
@format_option
def show(merchant: str, all_entries: bool, rules: Path | None, state: Path | None, output: str | None) -> None:
    """Show what is in force for MERCHANT, in the order in which it decides.

    Settings and lists that are filled in come first, then every rule with the file and line it is from, then the
    rules that are off and why. Lists with entries that are kept at run time are named; `lists show` shows them.
    """
    config = configuration(rules=rules, state=state, format=output)
    library = Library.load(config.rules)
    linked = merchant_rule_set(library, merchant)
    sources = find_sources(library, linked)
    filled = _filled_at_run_time(config, linked)
    rule_set = activate(linked, filled)
    now_us = time.time_ns() // 1000
    if config.format == "json":
        shown = _as_object(merchant, rule_set, sources) | {"filled_at_run_time": sorted(filled)}
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    columns = shutil.get_terminal_size((WIDEST, 24)).columns if sys.stdout.isatty() else WIDEST
    page = Page(max(NARROWEST, min(columns, WIDEST)))
    _describe(page, rule_set, sources, now_us, None if all_entries else SHOWN_ENTRIES, filled)
    click.echo("\n".join(page.lines))


def _filled_at_run_time(config: Config, rule_set: RuleSet) -> frozenset[ListName]:
    """The merchant's lists that have run-time entries, as far as this user may read them."""
    try:
        with open_run_time_lists(config) as run_time:
            held = run_time.of_merchant(rule_set.name, rule_set.lists) if run_time is not None else None
            return frozenset(filter(held.is_filled, rule_set.lists)) if held is not None else frozenset()
    except StoreUnavailable as error:
        click.echo(f"entries that are kept at run time are not looked at: {error}", err=True)
        return frozenset()


def merchant_rule_set(library: Library, merchant: str) -> RuleSet:
    """The merchant's rule set; a Problem with a guess when there is none, its mistakes when it is refused."""
    try:
        return library.snapshot.rule_set(merchant)
    except UnknownMerchant as error:
        if error.refused:
            raise RuleFilesRefused(library.diagnostics, library.sources) from None
        hint = suggest(merchant, library.snapshot.merchants)
        raise Problem(f"{error}" + (f"; {hint}" if hint else "")) from None


@dataclass(slots=True)
class Page:
    """Lines of text no wider than the terminal; click takes the colours out when it is none."""

    width: int
    lines: list[str]

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines = []

    def heading(self, text: str) -> None:
        self.lines += ["", *(click.style(line, bold=True) for line in textwrap.wrap(text.upper(), self.width))]

    def subheading(self, text: str) -> None:
        self.lines += [click.style(line, underline=True) for line in textwrap.wrap(text, self.width)]

    def item(self, name: str, text: str = "", *, colour: str = "cyan") -> None:
        """A name and a short text, on one line when they fit."""
        head = f"  {name}"
        if text and len(head) + 2 + len(text) <= self.width:
            self.lines.append(f"  {click.style(name, fg=colour)}  {text}")
            return
        self.lines.append(f"  {click.style(name, fg=colour)}")
        if text:
            self.text(text, indent=6)

    def text(self, text: str, *, indent: int = 6, dim: bool = False) -> None:
        pad = " " * indent
        for line in textwrap.wrap(
            text, self.width, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False
        ):
            self.lines.append(click.style(line, dim=True) if dim else line)


def _place(span: Span) -> str:
    return f"{span.path}:{span.line}"


def _describe(
    page: Page,
    rule_set: RuleSet,
    sources: Sources,
    now_us: int,
    shown: int | None,
    filled: AbstractSet[ListName],
) -> None:
    page.lines.append(click.style(rule_set.name, bold=True))
    page.text(rule_set.description, indent=2)
    page.text(f"from {', '.join(sources.files)}", indent=2)
    page.text(f"revision {rule_set.revision[:12]}, times in {rule_set.timezone}", indent=2)
    _describe_settings(page, rule_set, sources)
    _describe_lists(page, rule_set, sources, now_us, shown)
    if filled:
        page.text(
            f"with entries that are kept at run time, see `lists show`: {', '.join(sorted(filled))}", indent=2
        )
    empty = [
        name for name, declared in sorted(rule_set.lists.items()) if not declared.entries and name not in filled
    ]
    if empty:
        page.text(f"empty: {', '.join(empty)}", indent=2)
    if rule_set.velocity:
        page.heading("counters")
        for name, counter in sorted(rule_set.velocity.items()):
            page.item(name, describe_counter(counter))
    _describe_rules(page, rule_set, sources)
    challenge = rule_set.challenge
    page.heading("when 3-D Secure was asked for")
    page.text(f"it was only attempted: {challenge.attempted}", indent=2)
    page.text(f"it could not be performed: {challenge.unavailable}", indent=2)
    page.text(f"nobody can be asked (moto, recurring): {challenge.impossible}", indent=2)


def _describe_settings(page: Page, rule_set: RuleSet, sources: Sources) -> None:
    page.heading("settings")
    settings = [setting for _, setting in sorted(rule_set.settings.items())]
    for setting in settings:
        if setting.value is not None:
            page.item(setting.name, setting_words(setting.value))
            page.text(_setting_source(setting, sources), dim=True)
    empty = [setting.name for setting in settings if setting.value is None]
    if empty:
        page.text(f"not filled in: {', '.join(empty)}", indent=2)
    if not settings:
        page.text("none", indent=2)


def _setting_source(setting: SettingValue, sources: Sources) -> str:
    span = sources.settings.get(setting.name)
    return _place(span) if span is not None else f"in {setting.given_in}"


def _describe_lists(page: Page, rule_set: RuleSet, sources: Sources, now_us: int, shown: int | None) -> None:
    page.heading("lists")
    lists = [declared for _, declared in sorted(rule_set.lists.items())]
    for declared in lists:
        if declared.entries:
            page.item(declared.name, _entries_words(declared, now_us, shown))
            places = [f"{_place(span)} ({count})" for span, count in sources.lists.get(declared.name, ())]
            page.text(", ".join(places) or declared.origin, dim=True)
            for entry in declared.entries[:shown]:
                if note := _entry_note(entry, rule_set.timezone):
                    page.text(f"{entry_words(entry, declared.kind)}: {note}", indent=6)
    if not lists:
        page.text("none", indent=2)


def _entries_words(declared: DeclaredList, now_us: int, shown: int | None) -> str:
    words = ", ".join(entry_words(entry, declared.kind) for entry in declared.entries[:shown])
    count = len(declared.entries)
    more = f" … {count} in all" if shown is not None and count > shown else ""
    idle = sum(not entry.in_force(now_us) for entry in declared.entries)
    return words + more + (f" ({idle} not in force today)" if idle else "")


def _entry_note(entry: ListEntry, timezone: str) -> str:
    dates = [
        f"since {day_words(entry.added_us, timezone)}" if entry.added_us is not None else "",
        f"until {day_words(entry.expires_us, timezone)}" if entry.expires_us is not None else "",
    ]
    author = f"by {entry.author}" if entry.author else ""
    return ", ".join(part for part in (entry.reason, entry.ticket, author, *dates) if part)


def _describe_rules(page: Page, rule_set: RuleSet, sources: Sources) -> None:
    page.heading("rules, the first that matches decides")
    evaluated = sorted(rule_set.evaluated_rules, key=lambda rule: (level(Match(rule, rule.then)), rule.id))
    previous = -1
    for rule in evaluated:
        current = level(Match(rule, rule.then))
        if current != previous:
            page.subheading(_LEVELS[current])
            previous = current
        _describe_rule(page, rule, sources)
    page.subheading("Otherwise")
    page.text(str(rule_set.otherwise), indent=2)
    off = [rule for rule in rule_set.rules if rule.mode is Mode.OFF]
    if off:
        page.heading("rules that are off")
        for rule in off:
            page.item(rule.id, rule.off_because or "set off", colour="yellow")
            page.text(", ".join(_rule_places(rule, sources)), dim=True)


def _describe_rule(page: Page, rule: Rule, sources: Sources) -> None:
    trial = rule.mode is Mode.SHADOW
    page.item(rule.id, rule.reason + (" — SHADOW, decides nothing" if trial else ""), colour=_colour(rule))
    page.text(describe_rule(rule, "en"))
    page.text(when_words(rule))
    if rule.if_unknown is not None:
        page.text(f"when that cannot be known: {rule.if_unknown}")
    page.text(", ".join(_rule_places(rule, sources)), dim=True)


def _colour(rule: Rule) -> str:
    if rule.mode is Mode.SHADOW:
        return "magenta"
    return {Outcome.REFUSE: "red", Outcome.ACCEPT: "green", Outcome.CHALLENGE: "blue"}[rule.then]


def _rule_places(rule: Rule, sources: Sources) -> Iterator[str]:
    yield _place(rule.span)
    for span in sources.changes.get(rule.id, ()):
        if span != rule.span:
            yield f"changed in {_place(span)}"


# ---- JSON -----------------------------------------------------------------------------------------


def _as_object(merchant: str, rule_set: RuleSet, sources: Sources) -> dict[str, Any]:
    """What `GET /v1/merchants/{merchant}/rules` answers, in the order of decision, with places and entries."""
    found: dict[str, Any] = describe_rule_set(merchant, rule_set).model_dump()
    rules = {rule.id: rule for rule in rule_set.rules}
    for described in found["rules"]:
        rule = rules[described["id"]]
        described["when"] = when_words(rule)
        described["changed_at"] = [_place(span) for span in sources.changes.get(rule.id, ())]
    found["rules"].sort(
        key=lambda described: (
            described["mode"] == Mode.OFF.value,
            level(Match(rules[described["id"]], rules[described["id"]].then)),
            described["id"],
        )
    )
    for name, setting in found["settings"].items():
        span = sources.settings.get(name)
        setting["given_at"] = _place(span) if span is not None else None
    for name, declared in rule_set.lists.items():
        found["lists"][name]["given_at"] = [_place(span) for span, _ in sources.lists.get(name, ())]
        found["lists"][name]["values"] = [entry.value for entry in declared.entries]
    for part in ("settings", "lists"):
        filled = found[part]
        found[part] = dict(sorted(filled.items(), key=lambda item: (not item[1]["given_at"], item[0])))
    return found


COMMANDS: list[click.Command] = [show]
