"""The command line: one program, `fraudengine`.

Results go to standard output, everything else to standard error. Exit codes: 0 well, 1 the input or a rule is
wrong, 2 called wrongly, 3 the machine's fault (disk, permission, port).
"""

from __future__ import annotations

import io
import sys

import click

from .. import cards
from ..diagnostics import ConfigurationError, FraudengineError, RuleFilesRefused, StoreUnavailable
from . import (
    access,
    checking,
    comparing,
    data,
    explaining,
    formatting,
    handbook,
    keys,
    lists,
    operating,
    outcomes,
    replaying,
    reporting,
    running,
    showing,
    starting,
    testing,
)
from .options import Problem

__all__ = ["main", "program"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fraudengine")
def program() -> None:
    """Screens card payments against each merchant's rules before they are authorised.

    Rule files are in the directory `rules` (see rules/README.md). After an edit:

    \b
      fraudengine check        finds mistakes and says where and what to do
      fraudengine test         runs the tests beside the rule files
      fraudengine show NAME    shows what is in force for a merchant, and from where
    """


for group in (
    running,
    checking,
    formatting,
    handbook,
    testing,
    explaining,
    showing,
    comparing,
    starting,
    reporting,
    access,
    lists,
    outcomes,
    operating,
    keys,
    data,
    replaying,
):
    for command in group.COMMANDS:
        program.add_command(command)


def main() -> None:
    """Runs the program; every expected error becomes one sentence and its exit code."""
    try:
        program.main(standalone_mode=False)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(file=said)
        click.echo(cards.hide_pans(said.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except Problem as problem:
        _say(str(problem))
        sys.exit(problem.exit_code)
    except RuleFilesRefused as refused:
        click.echo(cards.hide_pans(str(refused)), err=True)
        sys.exit(1)
    except (StoreUnavailable, ConfigurationError, PermissionError) as error:
        _say(str(error))
        sys.exit(3)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except (FraudengineError, OSError) as error:
        _say(str(error))
        sys.exit(3 if isinstance(error, OSError) else 1)


def _say(message: str) -> None:
    click.echo(f"fraudengine: {cards.hide_pans(message)}", err=True)
