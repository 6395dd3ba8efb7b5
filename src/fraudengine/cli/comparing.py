"""`fraudengine diff`: what changed in meaning between two directories or git revisions, or one and now."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from ..diagnostics import RuleFilesRefused, Severity
from ..rule_changes import ChangeKind, RulesState, SharedChange, compare_rules
from ..rules.library import PLATFORM, Library
from .checking import print_diagnostics
from .options import Problem, configuration, format_option, rules_option

NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two states, by the name that the reader gave it."""

    name: str
    directory: Path


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="[B]", required=False)
@rules_option
@format_option
def diff(before: str, after: str | None, rules: Path | None, output: str | None) -> None:
    """Say what changed in meaning from A to B, merchant by merchant; a comment or another order is no change.

    A and B are each a rule directory, or a git revision of the rule directory (HEAD, main, a commit, a tag).
    Without B, A is compared with the files as they are now.
    """
    config = configuration(rules=rules, format=output)
    with _side(before, config.rules) as old, _side(after or str(config.rules), config.rules) as new:
        states = [RulesState.of(_load(side, config.format)) for side in (old, new)]
        changes = compare_rules(*states)
    if config.format == "json":
        click.echo(json.dumps(_as_object(old, new, changes), indent=2, ensure_ascii=False))
    else:
        _print_changes(changes, states)


# ---- the two sides --------------------------------------------------------------------------------


@contextmanager
def _side(given: str, rules: Path) -> Iterator[_Side]:
    """A directory as it is, or the rule directory of a git revision in a directory that goes away again."""
    path = Path(given)
    if path.is_dir():
        yield _Side(given, path)
        return
    if given.startswith("-") or path.is_file():
        raise Problem(f"`{given}` is neither a directory nor a git revision", 2)
    if not rules.is_dir():
        raise Problem(f"there is no rule directory {rules}", 2)
    inside = _git(rules, given, "rev-parse", "--show-prefix").decode().strip().rstrip("/")
    top = Path(_git(rules, given, "rev-parse", "--show-toplevel").decode().strip())
    commit = _git(top, given, "rev-parse", "--verify", "--quiet", f"{given}^{{commit}}").decode().strip()
    archive = _git(top, given, "archive", "--format=tar", f"{commit}:{inside}" if inside else commit)
    with tempfile.TemporaryDirectory(prefix="fraudengine-diff-") as directory:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(directory, filter="data")
        yield _Side(f"{given}:{inside}", Path(directory))


def _git(directory: Path, given: str, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise Problem("git is not installed, so only directories can be compared", 3) from None
    if done.returncode != 0:
        raise Problem(f"`{given}` is neither a directory nor a git revision that holds {directory}", 2)
    return done.stdout


def _load(side: _Side, form: str) -> Library:
    """The rules of one side; files with mistakes mean nothing, so nothing can be compared."""
    library = Library(side.directory)
    library.refresh()
    errors = [item for item in library.diagnostics if item.severity is Severity.ERROR]
    if library.problem:
        raise Problem(f"{side.name} {library.problem}")
    if errors:
        print_diagnostics(errors, library.sources, Path(side.name), form)
        raise Problem(f"{side.name} holds mistakes, so it cannot be compared")
    if not library.snapshot.rule_sets:
        raise RuleFilesRefused(library.diagnostics, library.sources)
    return library


# ---- reports --------------------------------------------------------------------------------------


def _print_changes(changes: tuple[SharedChange, ...], states: list[RulesState]) -> None:
    decisive = [one for one in changes if one.change.kind is not ChangeKind.WORDING]
    words = [one for one in changes if one.change.kind is ChangeKind.WORDING]
    merchants = {name for state in states for name in state.rule_sets if name != PLATFORM}
    if not changes:
        click.echo("no difference in meaning")
        return
    for one in decisive:
        click.echo(_line(one, len(merchants)))
    if words:
        click.echo("\nwords only, no decision changes:" if decisive else "words only, no decision changes:")
        for one in words:
            click.echo(f"  {_line(one, len(merchants))}")


def _line(one: SharedChange, merchants: int) -> str:
    if one.change.kind is ChangeKind.MERCHANT:
        return one.change.text
    names = one.merchants
    if names == (PLATFORM,):
        return f"{one.change.text} for {PLATFORM} alone: no merchant differs"
    if len(names) == merchants and merchants > 1:
        return f"{one.change.text} for all {merchants} merchants"
    shown = ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
    return f"{one.change.text} for {len(names)} merchant{'s' * (len(names) != 1)} ({shown})"


def _as_object(old: _Side, new: _Side, changes: tuple[SharedChange, ...]) -> dict[str, object]:
    return {
        "before": old.name,
        "after": new.name,
        "changes": [
            {
                "kind": one.change.kind.value,
                "subject": one.change.subject,
                "text": one.change.text,
                "changes_decisions": one.change.kind is not ChangeKind.WORDING,
                "merchants": list(one.merchants),
            }
            for one in changes
        ],
    }


COMMANDS: list[click.Command] = [diff]
