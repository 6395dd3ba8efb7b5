"""`fraudengine keys create|list|revoke`, the keys that callers carry; `fraudengine audit`, who changed what."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from ..access import AccessKeys, KeyRow, Role
from ..audit import AuditLog, RecordedRow, operator
from ..environment import claim_state
from .key_group import keys
from .options import Problem, configuration, format_option, state_option

_DAY = click.DateTime(formats=["%Y-%m-%d"])


@contextmanager
def _open_keys(state: Path | None) -> Iterator[AccessKeys]:
    config = configuration(state=state)
    environment = claim_state(config)
    with AuditLog(config.state) as audit, AccessKeys(config.state, environment, audit) as opened:
        yield opened


@keys.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What it may do.")
@click.option(
    "--merchant", "merchants", multiple=True, metavar="NAME", help="Only this merchant; may be given several times."
)
@click.option("--expires", type=_DAY, metavar="YYYY-MM-DD", help="First day (UTC) on which it is no longer taken.")
@state_option
@format_option
def create(
    name: str,
    role: str,
    merchants: tuple[str, ...],
    expires: datetime | None,
    state: Path | None,
    output: str | None,
) -> None:
    """Make an API key for NAME and show it, once: only its hash is kept.

    \b
    gateway   asks for decisions, reports outcomes, reads screenings
    support   reads, changes run-time lists, reports outcomes
    analyst   reads, and reads /metrics
    admin     everything
    """
    config = configuration(state=state, format=output)
    expires_us = None if expires is None else int(expires.replace(tzinfo=UTC).timestamp() * 1_000_000)
    with _open_keys(state) as opened:
        key, row = opened.create(name, Role(role), by=operator(), merchants=merchants, expires_us=expires_us)
    if config.format == "json":
        click.echo(json.dumps({"key": key, **_as_object(row)}))
        return
    click.echo(key)
    click.echo(f"made for {row.name}: {_scope(row)}. It is not shown again; its id is {row.id}.", err=True)


@keys.command("list")
@click.option("--all", "also_ended", is_flag=True, help="Also those that were revoked or have expired.")
@state_option
@format_option
def list_keys(also_ended: bool, state: Path | None, output: str | None) -> None:
    """Show the API keys: id, name, role, merchants, when made and by whom. Never the keys themselves."""
    config = configuration(state=state, format=output)
    now_us = int(datetime.now(UTC).timestamp() * 1_000_000)
    with _open_keys(state) as opened:
        rows = [row for row in opened.rows() if also_ended or row.state(now_us) == "in force"]
    if config.format == "json":
        click.echo(json.dumps([{**_as_object(row), "state": row.state(now_us)} for row in rows], indent=2))
        return
    for row in rows:
        ends = f", until {_when(row.expires_us)[:10]}" if row.expires_us is not None else ""
        ended = f", {row.state(now_us)}" + (f" by {row.revoked_by}" if row.revoked_by else "")
        ended = "" if row.state(now_us) == "in force" else ended
        made = f"made {_when(row.created_us)} by {row.created_by}"
        click.echo(f"{row.id}  {row.name}: {_scope(row)}; {made}{ends}{ended}")
    if not rows:
        click.echo("there is no key in force: fraudengine keys create NAME --role gateway", err=True)


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@state_option
def revoke(key_id: str, state: Path | None) -> None:
    """End an API key at once, in every worker; ID is the one that `keys list` shows."""
    with _open_keys(state) as opened:
        row = opened.revoke(key_id, by=operator())
    click.echo(f"{row.id}  {row.name} was revoked {_when(row.revoked_us or 0)} by {row.revoked_by}")


def _scope(row: KeyRow) -> str:
    return f"{row.role} for " + (", ".join(row.merchants) if row.merchants else "all merchants")


def _when(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _as_object(row: KeyRow) -> dict[str, object]:
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role.value,
        "merchants": list(row.merchants),
        "created": _when(row.created_us),
        "created_by": row.created_by,
        "expires": None if row.expires_us is None else _when(row.expires_us),
        "revoked": None if row.revoked_us is None else _when(row.revoked_us),
        "revoked_by": row.revoked_by,
    }


@click.command()
@click.option("--since", type=_DAY, metavar="YYYY-MM-DD", help="Only changes from this day (UTC) on.")
@click.option("--action", default="", metavar="WORD", help="Only this kind: keys, lists, rules, keys.revoke …")
@click.option("--who", default="", metavar="TEXT", help="Only by those whose name contains this.")
@click.option("--merchant", default="", metavar="NAME", help="Only what concerned this merchant alone.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="At most so many.")
@click.option("--verify", is_flag=True, help="Check that no row was altered or taken out.")
@state_option
@format_option
def audit(
    since: datetime | None,
    action: str,
    who: str,
    merchant: str,
    limit: int,
    verify: bool,
    state: Path | None,
    output: str | None,
) -> None:
    """Show who changed lists, keys and rules, and when: the newest first."""
    config = configuration(state=state, format=output)
    if not (config.state / "audit.db").exists():
        raise Problem(f"there is no audit log in {config.state}: name the service's directory with --state", 3)
    with AuditLog(config.state) as log:
        if verify:
            count, wrong = log.verify()
            if wrong is not None:
                raise Problem(f"the audit log was altered: row {wrong} does not follow from the {count} before it")
            click.echo(f"{count} rows, each follows from the one before")
            return
        since_us = 0 if since is None else int(since.replace(tzinfo=UTC).timestamp() * 1_000_000)
        rows = log.rows(limit=limit, since_us=since_us, action=action, who=who, merchant=merchant)
    for row in rows:
        click.echo(json.dumps(_row_object(row), ensure_ascii=False) if config.format == "json" else _row_line(row))
    if not rows:
        click.echo("nothing was changed", err=True)
        sys.exit(0)


def _row_object(row: RecordedRow) -> dict[str, object]:
    return {
        "id": row.id,
        "at": _when(row.at_us),
        "action": row.action,
        "who": row.who,
        "merchant": row.merchant or None,
        "what": row.what,
    }


def _row_line(row: RecordedRow) -> str:
    if row.action == "rules.change":
        files = [item["file"] + ("" if item["after"] else " (removed)") for item in row.what["files"]]
        told = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
    else:
        told = ", ".join(
            f"{name} {_plain(value)}" for name, value in row.what.items() if value not in (None, "", [])
        )
    merchant = f" [{row.merchant}]" if row.merchant else ""
    return f"{_when(row.at_us)}  {row.action}{merchant}  {row.who}: {told}"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


COMMANDS: list[click.Command] = [keys, audit]
