"""Commands of operators: `doctor`, `backup` and `restore`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from ..backup import back_up
from ..backup import restore as restore_backup
from ..cards import hide_pans
from ..doctor import Verdict, examine
from .options import configuration, data_option, format_option, rules_option, state_option

_COLOURS = {Verdict.WELL: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "red"}


@click.command()
@rules_option
@state_option
@data_option
@format_option
def doctor(rules: Path | None, state: Path | None, data_directory: Path | None, output: str | None) -> None:
    """Check configuration, rules, permissions, keys, data, disk and clock; exit code 1 when something is wrong.

    Give it the service's own settings and run it as the service's user. It changes nothing.
    """
    config = configuration(rules=rules, state=state, data=data_directory, format=output)
    findings = [replace(one, text=hide_pans(one.text)) for one in examine(config)]
    if config.format == "json":
        rows = [{"verdict": one.verdict.value, "check": one.check, "text": one.text} for one in findings]
        click.echo(json.dumps(rows, indent=2))
    else:
        for one in findings:
            click.echo(f"{click.style(f'{one.verdict.value:8}', fg=_COLOURS[one.verdict])} {one.check}: {one.text}")
    if any(one.verdict is Verdict.WRONG for one in findings):
        sys.exit(1)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@rules_option
@state_option
def backup(directory: Path, rules: Path | None, state: Path | None) -> None:
    """Copy decisions, lists, keys, audit log and rules into a new directory below DIRECTORY, while serving.

    Archived months too: those that the backup before it holds are linked. The card key is not in it: keep that
    where secrets are kept. What is named by a time is whole.
    """
    config = configuration(rules=rules, state=state)
    made, copied = back_up(config.state, directory, config.rules)
    click.echo(hide_pans(f"{made}: {len(copied)} files") + f", {sum(one.bytes for one in copied) / 1e6:.1f} MB")


@click.command()
@click.argument("backup_directory", metavar="BACKUP", type=click.Path(path_type=Path))
@state_option
def restore(backup_directory: Path, state: Path | None) -> None:
    """Put a backup into a new or empty state directory (--state), after checking every file of it.

    Then put the card key beside the files, and the backup's rules where the service reads them.
    """
    config = configuration(state=state)
    restored = restore_backup(backup_directory, config.state)
    click.echo(f"{config.state}: {', '.join(one.name for one in restored)}")
    click.echo(
        "API keys that were revoked after the backup was made are in force again: fraudengine keys list", err=True
    )
    if config.card_key is None and not config.key_file.exists():
        click.echo(f"the card key is still missing: {config.key_file}, mode 0600", err=True)


COMMANDS: list[click.Command] = [doctor, backup, restore]
