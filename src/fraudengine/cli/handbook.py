"""`fraudengine schema` and `fraudengine docs`: what editors and the handbook know of the grammar."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..rules.handbook import MissingSection, write_sections
from ..rules.library import Library
from ..rules.schema import House, list_schema, read_house, rules_schema, tests_schema
from ..rules.schema_values import Schema
from ..ruletest.past import HISTORY_KEYS, OUTCOMES
from ..ruletest.reading import EXPECT_KEYS, STATUSES, TEST_KEYS, TOP_KEYS
from .formatting import write_atomically
from .options import Problem, configuration, rules_option

KINDS = ("rules", "test", "list")


@click.command()
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option("--write", is_flag=True, help="Write rules.schema.json, test.schema.json, list.schema.json there.")
@rules_option
def schema(kind: str | None, write: bool, rules: Path | None) -> None:
    """Print the JSON Schema of rule files, test files or shared lists, which editors complete words from.

    It knows the house rules of the rule directory: their settings, lists, counters and rules.
    """
    directory = configuration(rules=rules).rules
    if not write and kind is None:
        raise Problem(f"say which: {', '.join(KINDS)}; or --write for all", 2)
    house = house_of(directory)
    if not write:
        assert kind is not None
        click.echo(render(make_schema(kind, house)), nl=False)
        return
    for one in KINDS if kind is None else (kind,):
        path = directory / f"{one}.schema.json"
        _write(path, render(make_schema(one, house)))


def house_of(directory: Path) -> House:
    """What the house rules of a directory declare; raises RuleFilesRefused when there are none in force."""
    return read_house(Library.load(directory).checked_files.values())


def make_schema(kind: str, house: House) -> Schema:
    match kind:
        case "rules":
            return rules_schema(house)
        case "test":
            return tests_schema(house, TOP_KEYS, TEST_KEYS, EXPECT_KEYS, STATUSES, HISTORY_KEYS, OUTCOMES)
        case _:
            return list_schema()


def render(made: Schema) -> str:
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        click.echo(f"{path} is current")
        return
    if not path.exists():
        path.touch(mode=0o644)
    write_atomically(path, text)
    click.echo(f"{path} written")


@click.command()
@click.option("--write", is_flag=True, help="Bring the tables of README.md up to date.")
@rules_option
def docs(write: bool, rules: Path | None) -> None:
    """Say whether the tables of the handbook (README.md of the rule directory) are up to date; exit 1 when not."""
    directory = configuration(rules=rules).rules
    path = directory / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}", 2) from None
    try:
        current = write_sections(text, house_of(directory))
    except MissingSection as problem:
        raise Problem(f"{path}: {problem}") from None
    if write:
        _write(path, current)
    elif current != text:
        click.echo(f"{path} is out of date: run `fraudengine docs --write`", err=True)
        sys.exit(1)
    else:
        click.echo(f"{path} is current")


COMMANDS: list[click.Command] = [schema, docs]
