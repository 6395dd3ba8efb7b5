"""The command line: one program, `fraudengine`.

Results go to standard output, everything else to standard error. Exit codes: 0 well, 1 the input or a rule is
wrong, 2 called wrongly, 3 the machine's fault (disk, permission, port).
"""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Final

import click

from .. import cards
from ..diagnostics import ConfigurationError, FraudengineError, RuleFilesRefused, StoreUnavailable
from .options import Problem

__all__ = ["main", "program"]

# The modules that make each command; `keys` has the keys of callers and those of cards.
MODULES: Final[dict[str, tuple[str, ...]]] = {
    "audit": ("access",),
    "backup": ("operating",),
    "check": ("checking",),
    "data": ("data",),
    "diff": ("comparing",),
    "docs": ("handbook",),
    "doctor": ("operating",),
    "explain": ("explaining",),
    "fingerprint": ("data",),
    "fmt": ("formatting",),
    "generate": ("replaying",),
    "keys": ("access", "keys"),
    "lists": ("lists",),
    "log": ("log",),
    "new": ("starting",),
    "outcomes": ("outcomes",),
    "replay": ("replaying",),
    "report": ("reporting",),
    "restore": ("operating",),
    "schema": ("handbook",),
    "screen": ("running",),
    "serve": ("running",),
    "show": ("showing",),
    "status": ("running",),
    "test": ("testing",),
    "verify": ("verifying",),
}


class LazyGroup(click.Group):
    """Commands whose modules are imported when they are called: `fmt` need not wait for the HTTP server's."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(MODULES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        for module in MODULES.get(name, ()):
            for command in import_module(f"{__name__}.{module}").COMMANDS:
                self.add_command(command)
        return super().get_command(context, name)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fraudengine")
def program() -> None:
    """Screens card payments against each merchant's rules before they are authorised.

    Rule files are in the directory `rules` (see rules/README.md). After an edit:

    \b
      fraudengine check        finds mistakes and says where and what to do
      fraudengine test         runs the tests beside the rule files
      fraudengine show NAME    shows what is in force for a merchant, and from where
    """


def main() -> None:
    """Runs the program; every expected error becomes one sentence and its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no `—` still shows the rest
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
    except (StoreUnavailable, ConfigurationError) as error:
        _say(str(error))
        sys.exit(3)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        sys.exit(3)
    except FraudengineError as error:
        _say(str(error))
        sys.exit(1)


def _say(message: str) -> None:
    click.echo(f"fraudengine: {cards.hide_pans(message)}", err=True)
