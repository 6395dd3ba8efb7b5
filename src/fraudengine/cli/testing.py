"""`fraudengine test`: runs the tests that stand beside rule files, and reports how they went."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click

from ..assembly import open_data
from ..cards import hide_pans
from ..diagnostics import Diagnostic, RuleFilesRefused, Span, UnknownMerchant, to_json_object
from ..engine import Engine, ReadyRuleSet
from ..enrich import Enricher
from ..rules.checked import in_order
from ..rules.library import Library, find_test_files
from ..rules.sourcetext import decode_source, text_for_display
from ..ruletest import (
    BACKENDS,
    MerchantCoverage,
    RuleTestResult,
    junit_xml,
    measure_coverage,
    read_test_merchant,
    read_tests,
)
from ..ruletest import run_tests as run_all
from ..ruletest.coverage import matched_by_nobody
from .options import Problem, configuration, data_option, format_option, rules_option
from .selection import Selection, changed_since_option, paths_argument, rule_file, select


@dataclass(slots=True)
class _Run:
    """What has been run so far: results with their files, and the files that could not be read."""

    results: list[tuple[str, RuleTestResult]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    mistakes: list[Diagnostic] = field(default_factory=list)
    tests_seen: int = 0

    @property
    def failed(self) -> list[tuple[str, RuleTestResult]]:
        return [(file, result) for file, result in self.results if not result.passed]

    def refuse(self, file: str, refused: RuleFilesRefused) -> None:
        self.refused.append((file, str(refused)))
        self.mistakes += refused.diagnostics


@click.command(name="test")
@paths_argument
@click.option("-k", "name_filter", metavar="TEXT", default="", help="Run only tests whose name holds this text.")
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the results to FILE as JUnit XML, which CI servers read.",
)
@click.option("--coverage", is_flag=True, help="Also say which live rules no test makes match.")
@rules_option
@changed_since_option
@data_option
@format_option
def run_tests(
    paths: tuple[Path, ...],
    name_filter: str,
    junit: Path | None,
    coverage: bool,
    rules: Path | None,
    changed_since: str | None,
    data_directory: Path | None,
    output: str | None,
) -> None:
    """Run the tests beside the rule files (*.test.yaml), all or those of some files, on every backend.

    A failed test says what was expected, what came out, which rule decided and by how much each figure was off.
    The exit code is 0 when every test passed, 1 when one failed or a file cannot be read, 2 for a wrong call.
    """
    if coverage and name_filter:
        raise Problem("--coverage counts all tests of a merchant: leave out -k", 2)
    selection = select(paths, rules, changed_since)
    config = configuration(data=data_directory, format=output)
    library = Library.load(selection.directory)
    run = _run_files(selection, library, Enricher(open_data(config)), name_filter, bool(changed_since))
    if junit is not None:
        junit.write_text(junit_xml(run.results, run.refused), encoding="utf-8")
    covered = _coverage(selection, library, run) if coverage else None
    if config.format == "json":
        click.echo(json.dumps(_report_object(run, covered), indent=2, ensure_ascii=False))
    else:
        _print_run(run)
        if covered is not None:
            _print_coverage(covered)
    if run.failed or run.refused:
        sys.exit(1)


def _run_files(
    selection: Selection, library: Library, enricher: Enricher, name_filter: str, may_be_none: bool
) -> _Run:
    directory, only = selection.directory, selection.affected(library)
    files = [path for path in find_test_files(directory) if only is None or path in only or rule_file(path) in only]
    if not files and not may_be_none:
        named = "these files" if selection.named else str(directory)
        raise Problem(f"there are no tests (*.test.yaml) for {named}")
    run, engine = _Run(), Engine()
    ready: dict[str, ReadyRuleSet] = {}
    for path in files:
        shown = hide_pans(str(directory / path))
        try:
            _run_file(run, shown, directory / path, library, engine, enricher, ready, name_filter.lower())
        except RuleFilesRefused as refused:
            run.refuse(shown, refused)
    if name_filter and run.tests_seen and not run.results and not run.refused:
        raise Problem(f"none of {run.tests_seen} tests has `{name_filter}` in its name", 2)
    return run


def _run_file(
    run: _Run,
    shown: str,
    path: Path,
    library: Library,
    engine: Engine,
    enricher: Enricher,
    ready: dict[str, ReadyRuleSet],
    wanted: str,
) -> None:
    text, problems = decode_source(shown, path.read_bytes())
    if text is None:
        raise RuleFilesRefused(problems)
    merchant = read_test_merchant(shown, text)
    try:
        rule_set = library.snapshot.rule_set(merchant)
    except UnknownMerchant as error:
        place, hint = Span(shown, 1, 1, 2), "a test file names the merchant whose rule file it stands beside"
        if error.refused:
            hint = "`fraudengine check` says what is wrong with it"
        mistake = Diagnostic("unknown-merchant", str(error), place, hint)
        raise RuleFilesRefused([mistake], {shown: text_for_display(text)}) from None
    if merchant not in ready:
        ready[merchant] = engine.prepare(rule_set)
    tests = read_tests(shown, text, rule_set)
    run.tests_seen += len(tests)
    chosen = [test for test in tests if wanted in test.name.lower()]
    run.results += [(shown, result) for result in run_all(chosen, ready[merchant], engine, enricher)]


def _coverage(selection: Selection, library: Library, run: _Run) -> tuple[MerchantCoverage, ...]:
    only = selection.affected(library)
    rule_sets = {
        str(name): library.snapshot.rule_set(name)
        for name in library.snapshot.merchants
        if only is None or library.snapshot.rule_set(name).sources[0][0] in only
    }
    return measure_coverage(rule_sets, (result for _, result in run.results))


# ---- reports --------------------------------------------------------------------------------------


def _print_run(run: _Run) -> None:
    for _, problem in run.refused:
        click.echo(problem + "\n", err=True)
    for file, result in run.failed:
        click.echo(f"{click.style('FAIL', fg='red', bold=True)} {result.merchant}: {result.test.name}")
        click.echo(f"  --> {file}:{result.test.span.line}")
        for failure in result.failures:
            click.echo(f"  {click.style(failure.message, bold=True)}")
            for line in failure.because:
                click.echo(f"    {line}")
        click.echo()
    merchants = len({result.merchant for _, result in run.results})
    tests, failed = len(run.results), len(run.failed)
    said = f"{_count(tests, 'test')} of {_count(merchants, 'merchant')}: {tests - failed} passed, {failed} failed"
    unread = f", {_count(len(run.refused), 'file')} not readable" if run.refused else ""
    click.echo(f"{said}{unread}")


def _print_coverage(covered: Iterable[MerchantCoverage]) -> None:
    merchants = tuple(covered)
    click.echo("\nLive rules that no test of the merchant makes match:")
    for one in merchants:
        live = len(one.matched) + len(one.unmatched)
        click.echo(f"  {one.merchant}: {len(one.unmatched)} of {live}, with {_count(one.tests, 'test')}")
        by_origin: dict[str, list[str]] = {}
        for rule in sorted(one.unmatched, key=lambda rule: (rule.origin != one.merchant, rule.origin, rule.id)):
            by_origin.setdefault(rule.origin, []).append(rule.id)
        for origin, rule_ids in by_origin.items():
            whose = "its own" if origin == one.merchant else f"from {origin}"
            click.echo(f"    {whose}: {', '.join(rule_ids)}")
    matched = sum(len(one.matched) for one in merchants)
    live = matched + sum(len(one.unmatched) for one in merchants)
    click.echo(
        f"{matched} of {live} live rules of {_count(len(merchants), 'merchant')} are made to match by a test"
    )
    for origin, unmatched in matched_by_nobody(merchants).items():
        click.echo(f"no merchant's test makes these of {origin} match: {', '.join(unmatched)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _report_object(run: _Run, covered: tuple[MerchantCoverage, ...] | None) -> dict[str, object]:
    report: dict[str, object] = {
        "passed": len(run.results) - len(run.failed),
        "failed": len(run.failed),
        "backends": list(BACKENDS),
        "tests": [_result_object(file, result) for file, result in run.results],
        "mistakes": [to_json_object(item) for item in in_order(run.mistakes)],
    }
    if covered is not None:
        report["coverage"] = [
            {
                "merchant": one.merchant,
                "tests": one.tests,
                "matched": list(one.matched),
                "unmatched": [{"rule": rule.id, "origin": rule.origin} for rule in one.unmatched],
            }
            for one in covered
        ]
    return report


def _result_object(file: str, result: RuleTestResult) -> dict[str, object]:
    decision = result.screened.decision
    return {
        "file": file,
        "line": result.test.span.line,
        "merchant": result.merchant,
        "name": result.test.name,
        "passed": result.passed,
        "failures": [{"message": failure.message, "because": list(failure.because)} for failure in result.failures],
        "outcome": decision.outcome.value,
        "reason": decision.code,
        "rule": decision.rule.id if decision.rule is not None else None,
        "matches": [match.rule.id for match in decision.matches],
    }


COMMANDS: list[click.Command] = [run_tests]
