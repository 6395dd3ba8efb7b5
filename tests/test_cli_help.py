"""Every command and every option says what it is for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

import fraudengine.cli
from fraudengine.cli import MODULES, program
from tests.command_line import run


def commands(
    group: click.Group = program, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = list(commands())
MINE = {"test", "explain", "show", "diff", "new", "new merchant", "report", "report shadow"}


def test_the_commands_of_rule_authors_exist() -> None:
    assert {" ".join(path) for path, _ in COMMANDS} >= MINE


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_command_and_options_have_help(path: tuple[str, ...], command: click.Command) -> None:
    first = (command.help or "").strip().split("\n")[0]
    assert first[:1].isupper(), "the help of a command is a sentence"
    assert first.rstrip()[-1:] in ".,:)", first
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert (parameter.help or "").strip().endswith((".", "]", ")", "…")), parameter.opts


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=[" ".join(path) for path, _ in COMMANDS])
def test_help_can_be_asked_for(path: tuple[str, ...]) -> None:
    ran = run(*path, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: fraudengine {' '.join(path)}")
    assert max(map(len, ran.out.splitlines())) <= 100


def test_every_command_of_every_module_is_in_the_table() -> None:
    made: dict[str, set[str]] = {}
    for path in Path(fraudengine.cli.__file__).parent.glob("[!_]*.py"):
        for command in getattr(import_module(f"fraudengine.cli.{path.stem}"), "COMMANDS", ()):
            made.setdefault(command.name, set()).add(path.stem)
    assert {name: set(modules) for name, modules in MODULES.items()} == made


def test_a_command_imports_only_what_it_needs() -> None:
    asked = "import sys; from fraudengine.cli import program; program(['fmt', '--help'], standalone_mode=False);"
    said = "print(sorted({'fastapi', 'sqlite_utils', 'duckdb', 'pandas', 'ibis', 'uvicorn'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", asked + said], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
