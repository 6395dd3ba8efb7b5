"""Every command and every option says what it is for."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from fraudengine.cli import program
from tests.command_line import run


def commands(
    group: click.Group = program, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in sorted(group.commands.items()):
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
