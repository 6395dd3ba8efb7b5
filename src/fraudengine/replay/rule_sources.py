"""The rules of one side of a replay: a directory, or a git revision of one."""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ..diagnostics import FraudengineError, RuleFilesRefused
from ..rules.ast import RuleSet
from ..rules.library import Library


class NoSuchRules(FraudengineError):
    """What was named is neither a rule directory nor a git revision that holds one."""


@dataclass(frozen=True, slots=True)
class RuleSource:
    """The effective rule set of every merchant, and how the caller named them."""

    name: str
    rule_sets: dict[str, RuleSet]
    directory: Path


def load_rules(named: str | Path, scratch: Path, *, beside: Path = Path("rules")) -> RuleSource:
    """Rules from a directory, or from a git revision (`main`, `HEAD~3`), whose tree holds the directory `beside`.

    Raises RuleFilesRefused when a file has a mistake (a replay of half the rules would mislead), NoSuchRules.
    """
    path = Path(named)
    if path.is_dir():
        return _load(str(named), path)
    return _load(str(named), _check_out(str(named), beside, scratch))


def _load(name: str, directory: Path) -> RuleSource:
    library = Library.load(directory)
    if library.snapshot.refusals:
        raise RuleFilesRefused(library.diagnostics, library.sources)
    rule_sets = {str(merchant): library.snapshot.rule_set(merchant) for merchant in library.snapshot.merchants}
    return RuleSource(name, rule_sets, directory)


def _check_out(revision: str, directory: Path, scratch: Path) -> Path:
    """The rule directory as it was at that revision, below `scratch`."""
    if revision.startswith("-"):
        raise NoSuchRules(f"`{revision}` is no revision")
    where = directory.resolve()
    while not where.is_dir():
        where = where.parent
    try:
        prefix = _git(where, "rev-parse", "--show-prefix").decode().strip().rstrip("/")
        top = Path(_git(where, "rev-parse", "--show-toplevel").decode().strip())
    except NoSuchRules:
        raise NoSuchRules(f"there is no rule directory `{revision}`, and {where} is in no git repository") from None
    missing = directory.resolve().relative_to(where).as_posix() if where != directory.resolve() else ""
    inside = "/".join(part for part in (prefix, missing) if part and part != ".")
    try:
        packed = _git(top, "archive", "--format=tar", f"{revision}:{inside}")
    except NoSuchRules as error:
        raise NoSuchRules(
            f"`{revision}` is neither a rule directory nor a git revision that holds {directory}: {error}"
        ) from None
    target = scratch / f"rules-{len(list(scratch.glob('rules-*')))}"
    target.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(target, filter="data")
    return target


def _git(where: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise NoSuchRules("git is not installed") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise NoSuchRules(said[0] if said else "git failed")
    return done.stdout
