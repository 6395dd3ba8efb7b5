"""`fraudengine fmt`: rule files in their canonical form."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from ..cards import hide_pans
from ..diagnostics import Diagnostic, Severity, render_text
from ..rules.check import check_text
from ..rules.fmt import CannotFormat, format_text
from ..rules.library import find_rule_files, find_test_files
from ..rules.sourcetext import decode_source, text_for_display
from .options import Problem, rules_option
from .selection import is_test_file, paths_argument, select


@click.command()
@paths_argument
@click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; list what would change, and exit with 1."
)
@rules_option
def fmt(paths: tuple[Path, ...], only_check: bool, rules: Path | None) -> None:
    """Rewrite rule files and their tests in one uniform form. Comments and meaning stay as they are.

    A file with mistakes of its own is left as it is, and they are shown; `check` also finds those that only show
    beside the files that it extends.
    """
    files = list(_files(paths, rules))
    changed, refused = [], 0
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Problem(f"{path} cannot be read: {error.strerror}", 3) from None
        text, mistakes = decode_source(str(path), content)
        try:
            formatted = _formatted(path, text, mistakes)
        except CannotFormat as problem:
            refused += 1
            _explain(path, text or "", problem)
            continue
        if formatted.encode() != content:
            changed.append(path)
            if not only_check:
                write_atomically(path, formatted)
    for path in changed:
        click.echo(hide_pans(f"{'would change' if only_check else 'changed'} {path}"))
    kept = len(files) - len(changed) - refused
    said = f", {refused} left alone because of mistakes" if refused else ""
    word = "would change" if only_check else "changed"
    click.echo(f"{len(changed)} {word}, {kept} in canonical form already{said}", err=True)
    if refused or (only_check and changed):
        sys.exit(1)


def _files(paths: tuple[Path, ...], rules: Path | None) -> Iterator[Path]:
    selection = select(paths, rules, None)
    if selection.named is not None:
        yield from (selection.directory / path for path in sorted(selection.named))
        return
    try:
        found = [*(path for path, _ in find_rule_files(selection.directory)), *find_test_files(selection.directory)]
    except OSError as error:
        raise Problem(f"{selection.directory} cannot be read: {error.strerror}", 2) from None
    yield from (selection.directory / path for path in sorted(found))


def _formatted(path: Path, text: str | None, mistakes: list[Diagnostic]) -> str:
    """The canonical text; raises CannotFormat for a file that `check` would find mistakes in by itself."""
    if text is None:
        raise CannotFormat("the file cannot be read", mistakes)
    if not is_test_file(path.name):
        _, found = check_text(str(path), text)
        errors = [item for item in found if item.severity is Severity.ERROR]
        if errors:
            raise CannotFormat("the file has mistakes", errors)
    return format_text(str(path), text)


def _explain(path: Path, text: str, problem: CannotFormat) -> None:
    sources = {str(path): text_for_display(text)}
    for item in problem.diagnostics:
        click.echo(hide_pans(render_text(item, sources)) + "\n", err=True)
    click.echo(hide_pans(f"{path} is left as it is: {problem}"), err=True)


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file in one step, so that no reader ever sees half of it; keeps its permissions."""
    target = path.resolve()
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


COMMANDS: list[click.Command] = [fmt]
