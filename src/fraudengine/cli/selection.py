"""Which rule files a command is about: the whole directory, named files, or what changed since a git revision.

Whoever names a shared file (`platform.yaml`, a list) means every merchant whose rules are made from it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click

from ..rules.library import Library
from .options import Command, Problem, configuration

_MERCHANTS = "merchants"
_TEST = ".test"

paths_argument: Callable[[Command], Command] = click.argument(
    "paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path)
)
changed_since_option: Callable[[Command], Command] = click.option(
    "--changed-since",
    metavar="GIT-REV",
    help="Only the merchants whose rules changed since that revision, also through a file that they share.",
)


@dataclass(frozen=True, slots=True)
class Selection:
    """The rule directory as it was named, and the files below it that are meant (None: all of them)."""

    directory: Path
    named: frozenset[str] | None = None

    def affected(self, library: Library) -> frozenset[str] | None:
        """The files meant, and those of every merchant that is made from one of them; None: all files."""
        if self.named is None:
            return None
        known = library.sources.keys()
        shared = {path for path in self.named if _is_shared(path)}
        if shared - known:  # one that is gone: nobody can say any more who was made from it
            return None
        found = set(self.named)
        linked = set()
        for rule_set in library.snapshot.rule_sets.values():
            sources = [path for path, _ in rule_set.sources]
            linked.add(sources[0])
            if not found.isdisjoint(sources):
                found.add(sources[0])
        if shared:
            found |= {path for path in known - linked if not _is_shared(path)}
        found |= {rule_file(path) for path in self.named if is_test_file(path)}
        return frozenset(found)


def is_test_file(path: str) -> bool:
    return PurePosixPath(path).stem.endswith(_TEST)


def rule_file(path: str) -> str:
    """The rule file that a test file stands beside."""
    pure = PurePosixPath(path)
    return str(pure.with_name(pure.stem.removesuffix(_TEST) + pure.suffix))


def _is_shared(path: str) -> bool:
    return not path.startswith(f"{_MERCHANTS}/")


def select(paths: Iterable[Path], rules: Path | None, changed_since: str | None) -> Selection:
    """What the command line names. Raises Problem (exit code 2) for a path that is no rule file."""
    given = list(paths)
    if changed_since is not None:
        if given and not (len(given) == 1 and _is_rule_directory(given[0])):
            raise Problem("name files or --changed-since, not both", 2)
        directory = given[0] if given else configuration(rules=rules).rules
        return Selection(directory, changed_files(directory, changed_since))
    if not given:
        return Selection(configuration(rules=rules).rules)
    if len(given) == 1 and _is_rule_directory(given[0]):
        return Selection(given[0])
    directories = {_rule_directory_of(path) for path in given}
    if len(directories) > 1:
        raise Problem(f"{given[0]} and the others are in different rule directories", 2)
    directory = directories.pop()
    named: set[str] = set()
    for path in given:
        inside = path.resolve().relative_to(directory.resolve())
        if path.is_dir():
            named |= {str(inside / item.name) for item in path.iterdir() if item.suffix in (".yaml", ".yml")}
        else:
            named.add(inside.as_posix())
    return Selection(directory, frozenset(named))


def _is_rule_directory(path: Path) -> bool:
    if not path.is_dir():
        return False
    if (path / "platform.yaml").exists() or (path / _MERCHANTS).is_dir():
        return True
    return not any(_is_rule_directory(parent) for parent in path.resolve().parents)


def _rule_directory_of(path: Path) -> Path:
    """The rule directory above a path, written as the path is: relative when that is relative."""
    if not path.exists():
        raise Problem(f"there is no file or directory {path}", 2)
    for directory in path.parents if path.is_absolute() else (*path.parents, *path.resolve().parents):
        if (directory / "platform.yaml").exists() or (directory / _MERCHANTS).is_dir():
            return directory
    raise Problem(f"{path} is in no rule directory: none above it holds platform.yaml or merchants/", 2)


def changed_files(directory: Path, revision: str) -> frozenset[str]:
    """The rule files below `directory` that differ from the revision, also new, removed and uncommitted ones."""
    if not directory.is_dir():
        raise Problem(f"there is no directory {directory}", 2)
    if revision.startswith("-"):
        raise Problem(f"`{revision}` is no revision", 2)
    tracked = _git(directory, "diff", "--name-only", "--no-renames", "-z", "--relative", revision, "--", ".")
    new = _git(directory, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    return frozenset(path for path in (*tracked, *new) if path.endswith((".yaml", ".yml")))


def _git(directory: Path, *arguments: str) -> list[str]:
    try:
        done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise Problem("git is not installed", 3) from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Problem(said[0] if said else "git failed", 2)
    return [path for path in done.stdout.decode("utf-8", "surrogateescape").split("\0") if path]
