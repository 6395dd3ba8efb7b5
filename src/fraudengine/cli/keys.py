"""`fraudengine keys rotate|status|retire`: the keys of card fingerprints, two live while one replaces the other.

After `rotate` cards are sought under both keys, and each list entry moves to the new one when its card is seen.
When `status` shows none left on the old key, `retire` ends it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from .. import card_keys
from ..audit import AuditLog, AuditRow, operator
from ..config import Config
from ..diagnostics import ConfigurationError
from ..list_reading import ListReader
from ..list_store import utc_us
from .key_group import keys
from .options import Problem, configuration, format_option, state_option


@keys.command()
@click.option("--force", is_flag=True, help="Also when two keys are live: the older is dropped.")
@state_option
def rotate(force: bool, state: Path | None) -> None:
    """Make a new key and keep the current one live beside it. Running services take it up within a second."""
    config = configuration(state=state)
    try:
        with _told(config, "card_keys.rotate"):
            key = card_keys.rotate(_key_file(config), force=force)
    except ConfigurationError as error:
        raise Problem(str(error)) from None
    former = key.former.id if key.former is not None else ""
    click.echo(f"new card key {key.id}; {former} stays live beside it")


@keys.command()
@click.option("--force", is_flag=True, help="Also while entries hang on the old key; they are never met again.")
@state_option
def retire(force: bool, state: Path | None) -> None:
    """End the older of two live keys, once no list entry hangs on it."""
    config = configuration(state=state)
    path = _key_file(config)
    key = config.load_card_key().key
    if key.former is not None and not force:
        hanging = _count(config).get(key.former.id, 0)
        if hanging:
            raise Problem(
                f"{hanging:,} entries still hang on key {key.former.id} and would never be met again; "
                "wait until their cards are seen, or use --force"
            )
    try:
        with _told(config, "card_keys.retire"):
            key = card_keys.retire(path)
    except ConfigurationError as error:
        raise Problem(str(error)) from None
    click.echo(f"card key {key.id} is the only one live")


@keys.command()
@state_option
@format_option
def status(state: Path | None, output: str | None) -> None:
    """Say which keys are live, and how many list entries in force hang on each."""
    config = configuration(state=state, format=output)
    key = config.load_card_key().key
    counts = _count(config)
    live = {key.id: "current"} | ({key.former.id: "former"} if key.former is not None else {})
    rows = [
        {"key": name, "state": live.get(name, "gone"), "entries": counts.get(name, 0)}
        for name in dict.fromkeys([*live, *sorted(counts)])
    ]
    if config.format == "json":
        click.echo(json.dumps(rows))
        return
    for row in rows:
        gone = "; no card is found by them any more" if row["state"] == "gone" and row["entries"] else ""
        click.echo(f"{row['key']} ({row['state']}): {row['entries']:,} list entries{gone}")


@contextmanager
def _told(config: Config, action: str) -> Iterator[None]:
    """Has the audit log tell of the change, with the ids of the keys that were live before."""
    key = config.load_card_key().key
    live = [key.id] + ([key.former.id] if key.former is not None else [])
    with AuditLog(config.state) as log, log.change(AuditRow(action, operator(), {"live_before": live})):
        yield


def _key_file(config: Config) -> Path:
    if config.card_key is not None:
        raise Problem(
            "the card key comes from FRAUDENGINE_CARD_KEY: set it to the new key, a comma and the old one", 2
        )
    return config.key_file


def _count(config: Config) -> dict[str, int]:
    if not config.lists_file.exists():
        return {}
    with ListReader(config.lists_file) as reader:
        return reader.entries_by_key(utc_us())


COMMANDS: list[click.Command] = [keys]
