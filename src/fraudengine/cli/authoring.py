"""Commands for those who edit rule files: `test` and `show`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..api.rule_sets import describe_rule_set
from ..assembly import open_data
from ..diagnostics import (
    RuleFilesRefused,
    UnknownMerchant,
    suggest,
)
from ..engine import Engine
from ..enrich import Enricher
from ..explain import show as show_value
from ..money import format_minor
from ..rules.ast import DeclaredList, Literal, Mode, MoneyFigures, Outcome, Rule, RuleSet, SettingValue
from ..rules.library import Library, find_test_files
from ..ruletest import Outcomes, explain_outcome, read_test_merchant, read_tests, run_test
from .options import Problem, configuration, data_option, format_option, rules_option
from .selection import changed_since_option, paths_argument, rule_file, select

# ---- test -----------------------------------------------------------------------------------------


@click.command(name="test")
@paths_argument
@click.option("-k", "name_filter", default="", help="Run only tests whose name holds this text.")
@rules_option
@changed_since_option
@data_option
@format_option
def run_tests(
    paths: tuple[Path, ...],
    name_filter: str,
    rules: Path | None,
    changed_since: str | None,
    data_directory: Path | None,
    output: str | None,
) -> None:
    """Run the tests beside the rule files (*.test.yaml), all or those of some files, on every backend."""
    selection = select(paths, rules, changed_since)
    directory = selection.directory
    config = configuration(data=data_directory, format=output)
    library = Library.load(directory)
    engine, enricher = Engine(), Enricher(open_data(config))
    only = selection.affected(library)
    files = [path for path in find_test_files(directory) if only is None or path in only or rule_file(path) in only]
    if not files and changed_since is None:
        named = "these files" if selection.named else str(directory)
        raise Problem(f"there are no tests (*.test.yaml) for {named}")
    results: list[tuple[str, Outcomes]] = []
    for file in files:
        text = (directory / file).read_text(encoding="utf-8")
        shown = str(directory / file)
        merchant = read_test_merchant(shown, text)
        try:
            rule_set = library.snapshot.rule_set(merchant)
        except UnknownMerchant as error:
            raise RuleFilesRefused(library.diagnostics, library.sources) from None if library.diagnostics else error
        ready = engine.prepare(rule_set)
        for test in read_tests(shown, text, rule_set):
            if name_filter.lower() in test.name.lower():
                results.append((shown, run_test(test, ready, engine, enricher)))
    _print_results(results, config.format)


def _print_results(results: list[tuple[str, Outcomes]], form: str) -> None:
    failed = [(file, result) for file, result in results if not result.passed]
    if form == "json":
        click.echo(json.dumps([_result_object(file, result) for file, result in results], indent=2))
    else:
        for file, result in failed:
            click.echo(f"FAIL {result.merchant}: {result.test.name}\n  --> {file}:{result.test.span.line}")
            for failure in result.failures:
                click.echo(f"  {failure}")
            for line in explain_outcome(result):
                click.echo(f"    {line}")
        merchants = len({result.merchant for _, result in results})
        went = f"{len(results) - len(failed)} passed, {len(failed)} failed"
        click.echo(f"{len(results)} tests of {merchants} merchants: {went}")
    if failed:
        sys.exit(1)


def _result_object(file: str, result: Outcomes) -> dict[str, object]:
    decision = result.screened.decision
    return {
        "file": file,
        "line": result.test.span.line,
        "merchant": result.merchant,
        "name": result.test.name,
        "passed": result.passed,
        "failures": list(result.failures),
        "outcome": decision.outcome.value,
        "reason": decision.code,
        "matches": [match.rule.id for match in decision.matches],
    }


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


COMMANDS: list[click.Command] = [run_tests, show]
