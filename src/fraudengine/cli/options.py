"""What commands share: the options that are also environment variables, reading input, and one kind of failure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..config import Config, read_configuration

Command = TypeVar("Command", bound=Callable[..., Any])


class Problem(Exception):
    """What stops a command: a sentence for people and the exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _path_option(name: str, parameter: str, variable: str, help_text: str) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}",
        parameter,
        type=click.Path(path_type=Path),
        default=None,
        help=f"{help_text} [env: {variable}]",
    )


rules_option = _path_option("rules", "rules", "FRAUDENGINE_RULES", "Directory of the rule files (default: rules).")
state_option = _path_option(
    "state", "state", "FRAUDENGINE_STATE", "Directory of the decision log and keys (default: var)."
)
data_option = _path_option(
    "data", "data_directory", "FRAUDENGINE_DATA", "Directory of the IP and BIN tables (default: data)."
)
format_option = click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json"]),
    default=None,
    help="How the result is written (default: text). [env: FRAUDENGINE_FORMAT]",
)


def configuration(**given: object) -> Config:
    """The settings of this call: options, then environment, then defaults."""
    return read_configuration(**given)


def read_input(source: str) -> str:
    """The text of a file, or of standard input for `-`."""
    if source == "-":
        return sys.stdin.read()
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Problem(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}") from None
