"""`fraudengine check`: every mistake and warning of rule files and of the tests beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import click

from ..assembly import open_data
from ..backends.online import OnlineRuleSet
from ..cards import hide_pans
from ..decision import Match
from ..diagnostics import (
    DataFileError,
    Diagnostic,
    RuleFilesRefused,
    Severity,
    Span,
    UnknownMerchant,
    render_annotation,
    render_json,
    render_text,
)
from ..engine import Engine, ReadyRuleSet
from ..enrich import Enricher
from ..facts import Facts
from ..lists import ListsAsOf, build_indexes
from ..rules.activation import activate
from ..rules.ast import ListName, RuleId, RuleSet
from ..rules.checked import FileKind, in_order
from ..rules.library import Library, find_test_files, find_unread_files, read_rule_file
from ..rules.link import find_mistakes
from ..rules.lint import find_unmatched_rules, find_warnings
from ..rules.sourcetext import decode_source, text_for_display
from ..ruletest import RuleTest, read_test_merchant, read_tests, screen_test
from ..velocity_index import counter_reader
from .options import Problem, configuration, data_option, rules_option
from .selection import changed_since_option, paths_argument, rule_file, select


@click.command()
@paths_argument
@rules_option
@changed_since_option
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.option(
    "--as-of",
    type=click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="The UTC time by which list entries have expired (default: now).",
)
@data_option
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "github"]),
    default=None,
    help="How mistakes are written: for people, for programs, or as annotations in code review.",
)
def check(
    paths: tuple[Path, ...],
    rules: Path | None,
    changed_since: str | None,
    strict: bool,
    as_of: datetime | None,
    data_directory: Path | None,
    output: str | None,
) -> None:
    """Find every mistake in the rule files and their tests: where it is, what it is, what to do about it.

    Warnings (a rule that adds nothing, a list that nothing reads, a rule that no test makes match …) leave the
    exit code at 0 unless --strict is given.
    """
    selection = select(paths, rules, changed_since)
    directory = selection.directory
    library = Library(directory)
    library.refresh()
    if library.problem:
        raise Problem(f"{directory} {library.problem}")
    only = selection.affected(library)
    moment = as_of.replace(tzinfo=UTC) if as_of is not None else datetime.now(UTC)
    tests = _TestFiles(library)
    tests.read(only)
    found = [
        *library.diagnostics,
        *_further_mistakes(library),
        *_unread_files(directory),
        *tests.mistakes,
        *find_warnings(
            library.checked_files, library.snapshot.rule_sets, library.sources, int(moment.timestamp() * 1_000_000)
        ),
        *find_unmatched_rules(library.checked_files, library.snapshot.rule_sets, tests.matched(data_directory)),
    ]
    found = list(in_order(found))
    if only is not None:
        only |= {path for path in tests.sources if rule_file(path) in only}
        found = [item for item in found if item.span.path in only]
    form = output or configuration().format
    print_diagnostics(found, library.sources | tests.sources, directory, form)
    errors = sum(item.severity is Severity.ERROR for item in found)
    warnings = len(found) - errors
    if form == "text":
        seen = library.sources.keys() | tests.sources.keys()
        count = len(seen if only is None else seen & only)
        if paths and not count:
            raise Problem(f"{paths[0]} is no rule file: the name of one ends in `.yaml`", 2)
        files = f"{count} file{'s' * (count != 1)}"
        said = "no mistakes" if not errors else f"{errors} mistake{'s' * (errors > 1)}"
        more = f", {warnings} warning{'s' * (warnings > 1)}" if warnings else ""
        click.echo(f"{files} checked: {said}{more}", err=bool(errors))
    if errors or (strict and warnings):
        sys.exit(1)


def _further_mistakes(library: Library) -> Iterator[Diagnostic]:
    """Of files with mistakes of their own, those against the files that they extend: all are shown at once."""
    good = library.checked_files
    by_name = {file.name: file for file in good.values() if file.kind is not FileKind.SHARED_LIST}
    shared = {file.name: file for file in good.values() if file.kind is FileKind.SHARED_LIST}
    for path in library.sources.keys() - good.keys():
        try:
            text, _ = decode_source(path, read_rule_file(library.directory / path))
        except OSError:
            continue
        if text is not None:
            yield from find_mistakes(path, text, by_name, shared)


def _unread_files(directory: Path) -> Iterator[Diagnostic]:
    for path, hint in find_unread_files(directory):
        place = Span(path, 1, 1, 2)
        yield Diagnostic("unread-file", "this file is not read", place, hint, Severity.WARNING)


@dataclass(slots=True)
class _TestFiles:
    """The test files of a library: their mistakes, and which rules of which merchant they make match."""

    library: Library
    sources: dict[str, str] = field(default_factory=dict)
    mistakes: list[Diagnostic] = field(default_factory=list)
    tests: dict[str, list[RuleTest]] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)  # merchants of whose tests some cannot be read

    def read(self, only: frozenset[str] | None) -> None:
        """Every test file; with `only`, those of files that are not meant only when a rule's match needs them."""
        for path in find_test_files(self.library.directory):
            if only is None or path in only or rule_file(path) in only:
                self.read_file(path)

    def read_file(self, path: str) -> None:
        text, problems = decode_source(path, (self.library.directory / path).read_bytes())
        self.sources[path] = text_for_display(text) if text is not None else ""
        merchant = ""
        try:
            if text is None:
                raise RuleFilesRefused(problems)
            merchant = read_test_merchant(path, text)
            rule_set = self.library.snapshot.rule_set(merchant)
            self.tests.setdefault(merchant, []).extend(read_tests(path, text, rule_set))
        except RuleFilesRefused as refused:
            self.mistakes += refused.diagnostics
            self.doubtful.add(merchant)
        except UnknownMerchant as error:
            if not error.refused:
                place = Span(path, 1, 1, 2)
                hint = "a test file names the merchant whose rule file it stands beside"
                self.mistakes.append(Diagnostic("unknown-merchant", str(error), place, hint))

    def matched(self, data_directory: Path | None) -> Mapping[str, frozenset[RuleId]]:
        """By merchant with readable tests, the rules that at least one test makes match."""
        merchants = {name: tests for name, tests in self.tests.items() if name not in self.doubtful}
        if not merchants:
            return {}
        try:
            enricher = Enricher(open_data(configuration(data=data_directory)))
        except DataFileError as error:
            click.echo(f"rules that no test makes match are not looked for: {error}", err=True)
            return {}
        engine = _LawOnly()
        found: dict[str, frozenset[RuleId]] = {}
        for name, tests in merchants.items():
            ready = engine.prepare(self.library.snapshot.rule_set(name))
            screened = [screen_test(test, ready, engine, enricher) for test in tests]
            found[name] = frozenset(match.rule.id for one in screened for match in one.decision.matches)
        return found


class _LawOnly(Engine):
    """Prepares rule sets for `screen_test`, whose decision the reference backend makes: nothing is compiled."""

    def prepare(self, linked: RuleSet, filled: frozenset[ListName] = frozenset()) -> ReadyRuleSet:
        rule_set = activate(linked, filled)
        online = cast(OnlineRuleSet, _NoMatches())
        indexes = build_indexes(rule_set.lists)
        return ReadyRuleSet(rule_set, online, indexes, linked, filled, counter_reader(rule_set))


class _NoMatches:
    """Stands in the place of a compiled rule set, whose answer nobody reads."""

    def find_matches(self, facts: Facts, lists: ListsAsOf) -> tuple[Match, ...]:
        return ()


def print_diagnostics(found: Iterable[Diagnostic], sources: Mapping[str, str], directory: Path, form: str) -> None:
    """Paths are shown as the reader would open them: below the rule directory as it was named."""
    items = [_below(item, directory) for item in found]
    texts = {hide_pans(str(directory / path)): text for path, text in sources.items()}
    if form == "json":
        click.echo(render_json(items))
    for item in items:
        if form == "text":
            click.echo(render_text(item, texts) + "\n")
        elif form == "github":
            click.echo(render_annotation(item))


def _below(item: Diagnostic, directory: Path) -> Diagnostic:
    def moved(span: Span) -> Span:
        return replace(span, path=hide_pans(str(directory / span.path)))

    also = tuple((moved(span), note) for span, note in item.also)
    return replace(item, span=moved(item.span), also=also)


COMMANDS: list[click.Command] = [check]
