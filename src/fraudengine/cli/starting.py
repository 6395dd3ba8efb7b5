"""`fraudengine new`: the files that something new starts from."""

from __future__ import annotations

from pathlib import Path

import click

from ..cards import find_pans, hide_pans
from ..diagnostics import RuleFilesRefused
from ..new_merchant import starting_files
from ..rules.ast import RuleSet
from ..rules.check import NAME
from ..rules.library import PLATFORM, Library
from .options import Problem, configuration, rules_option


@click.group()
def new() -> None:
    """Start something new from a commented file."""


@new.command("merchant")
@click.argument("name")
@click.option(
    "--description",
    metavar="TEXT",
    default="",
    help="What the merchant sells and to whom, in a sentence (default: a reminder to write it).",
)
@rules_option
def merchant(name: str, description: str, rules: Path | None) -> None:
    """Write rules/merchants/NAME.yaml and NAME.test.yaml, with everything that can be filled in as comments.

    NAME is how the gateway names the merchant: lower-case letters and digits with dashes between. Both files pass
    `fraudengine check` and `fraudengine test` as they are. A file that exists is never overwritten.
    """
    if NAME.fullmatch(name) is None or name == PLATFORM:
        reason = (
            "that is the house rules' own name" if name == PLATFORM else "lower-case letters, digits and dashes"
        )
        raise Problem(f"`{name}` cannot be a merchant's name: {reason}", 2)
    if any(not character.isprintable() for character in description) or len(description) > 1000:
        raise Problem("the description is one line of at most 1000 characters", 2)
    if find_pans(name) or find_pans(description):
        raise Problem("a card number is in the name or the description; it must be in no rule file", 2)
    directory = configuration(rules=rules).rules
    parent = _house_rules(directory)
    folder = directory / "merchants"
    targets = [folder / f"{name}{suffix}" for suffix in (".yaml", ".test.yaml")]
    for path in (*targets, folder / f"{name}.yml"):
        if path.exists():
            raise Problem(f"{path} exists already; nothing is written")
    text = description or "Say here what the merchant sells and to whom."
    files = starting_files(name, text, parent, schemas=(directory / "rules.schema.json").exists())
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in zip(targets, (files.rules, files.tests), strict=True):
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
        click.echo(hide_pans(f"wrote {path}"))
    then = f"then run: fraudengine check && fraudengine test && fraudengine show {name}"
    click.echo(hide_pans(f"next: edit {targets[0]}, {then}"))


def _house_rules(directory: Path) -> RuleSet | None:
    """The rule set that the merchant extends, if the directory has one; nothing starts from refused rules."""
    if not directory.is_dir():
        raise Problem(f"there is no rule directory {directory}: make it, or name another with --rules")
    library = Library(directory)
    library.refresh()
    parent = library.snapshot.rule_sets.get(PLATFORM)
    if parent is None and (directory / f"{PLATFORM}.yaml").exists():
        raise RuleFilesRefused(library.diagnostics, library.sources)
    return parent


COMMANDS: list[click.Command] = [new]
