"""`fraudengine data compare`: what a new IP or BIN table would change, before it is put live."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..cards import hide_pans
from ..money import format_minor
from .options import Problem, configuration, data_option, format_option, rules_option, state_option
from .replaying import ProgressBar, require_extra

if TYPE_CHECKING:
    from ..replay.data_compare import DataComparison, DataFlip

_MOMENT = click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])
_LISTED = 20


@click.command("compare")
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--history",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What is replayed, as of `fraudengine replay`; may be given again (default: the decision log).",
)
@click.option("--mapping", help="Mapping file of the history: which column is what.")
@click.option("--merchant", "merchants", multiple=True, help="Only this merchant; may be given again.")
@click.option("--since", type=_MOMENT, help="Only transactions from this UTC time on.")
@click.option("--until", type=_MOMENT, help="Only transactions before this UTC time.")
@rules_option
@state_option
@data_option
@format_option
def compare(
    new: Path,
    history: tuple[Path, ...],
    mapping: str | None,
    merchants: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    rules: Path | None,
    state: Path | None,
    data_directory: Path | None,
    output: str | None,
) -> None:
    """Say which decisions a new table would flip: NEW is an .mmdb, a BIN table, or a CSV of your own BINs.

    The history is decided twice by the rules in force, by the table in use and by the new one; nothing is changed.
    """
    require_extra()
    config = configuration(rules=rules, state=state, data=data_directory, format=output)
    if not new.is_file():
        raise Problem(f"there is no file {new}", 2)
    from ..assembly import open_data
    from ..replay.data_compare import compare_data
    from ..replay.exports import hide_in

    bar = ProgressBar()
    try:
        found = compare_data(
            history or (config.state / "decisions.db",),
            config.rules,
            open_data(config),
            new,
            config,
            merchants=merchants or None,
            since_us=_us(since),
            until_us=_us(until),
            limit=None if config.format == "json" else _LISTED,
            progress=bar.show,
            mapping=mapping,
        )
    finally:
        bar.clear()
    if config.format == "json":
        click.echo(json.dumps(hide_in(_as_object(found)), indent=2))
    else:
        click.echo(hide_pans(_as_text(found)))


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1_000_000)


def _as_text(found: DataComparison) -> str:
    what = "addresses" if found.kind == "ip" else "BINs"
    lines = [
        f"table of {found.before} against {found.after}: "
        f"{found.flipped:,} of {found.transactions:,} decisions flip",
        f"{found.values_changed:,} of {found.looked_up:,} {what} of the history are told otherwise",
    ]
    lines += [
        f"  {fact} {before or 'unknown'} → {after or 'unknown'}: {count:,}"
        for (fact, before, after), count in list(found.changed.items())[:_LISTED]
    ]
    if len(found.changed) > _LISTED:
        lines.append(f"  and {len(found.changed) - _LISTED:,} more kinds, all of them with --format json")
    lines += [
        f"{merchant}: {before} → {after}: {count:,}"
        for (merchant, before, after), count in found.by_merchant.items()
    ]
    lines += [f"  {_line(flip)}" for flip in found.flips]
    if found.flipped > len(found.flips):
        lines.append(f"  and {found.flipped - len(found.flips):,} more, all of them with --format json")
    return "\n".join(lines)


def _line(flip: DataFlip) -> str:
    from ..replay.data_compare import told_at

    changed = ", ".join(f"{fact} {old or 'unknown'} → {new or 'unknown'}" for fact, old, new in flip.changed)
    amount = f"{format_minor(flip.minor, flip.currency)} {flip.currency}"
    sides = f"{flip.before} ({flip.before_rule or 'no rule'}) → {flip.after} ({flip.after_rule or 'no rule'})"
    why = changed or "a counter or 3-D Secure's word changed with the table"
    return f"{flip.merchant} {flip.transaction_id}  {told_at(flip.at_us)}  {amount}  {sides}: {why}"


def _as_object(found: DataComparison) -> dict[str, object]:
    from ..replay.data_compare import told_at

    return {
        "kind": found.kind,
        "before": found.before,
        "after": found.after,
        "transactions": found.transactions,
        "flipped": found.flipped,
        "looked_up": found.looked_up,
        "values_changed": found.values_changed,
        "changed": [
            {"fact": fact, "before": old, "after": new, "values": count}
            for (fact, old, new), count in found.changed.items()
        ],
        "by_merchant": [
            {"merchant": merchant, "before": old, "after": new, "transactions": count}
            for (merchant, old, new), count in found.by_merchant.items()
        ],
        "flips": [
            {
                "merchant": flip.merchant,
                "transaction_id": flip.transaction_id,
                "at": told_at(flip.at_us),
                "amount": format_minor(flip.minor, flip.currency),
                "currency": flip.currency,
                "before": flip.before,
                "before_rule": flip.before_rule,
                "after": flip.after,
                "after_rule": flip.after_rule,
                "changed": [{"fact": fact, "before": old, "after": new} for fact, old, new in flip.changed],
            }
            for flip in found.flips
        ],
    }
