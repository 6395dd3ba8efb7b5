"""`fraudengine log`: search the decision log, keep its search index, archive and purge old months."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from heapq import merge
from itertools import chain, islice
from pathlib import Path

import click

from ..archive import KEPT_DAYS, archive_month, old_months
from ..archive_search import newest_archived_id, search_archive
from ..audit import AuditLog
from ..cards import FINGERPRINT, Pan
from ..config import Config
from ..diagnostics import ConfigurationError, InvalidTransaction
from ..list_entries import read_time
from ..log_search import LogSearch, RecordedScreening, Search, found_object
from ..retention import purge
from ..search_index import SearchIndex
from ..store import parse_screening_id
from .options import Problem, configuration, format_option, state_option


@click.group()
def log() -> None:
    """The decision log: search it, archive and purge old months."""


@log.command("search")
@click.option("--merchant", metavar="NAME", help="Of this merchant.")
@click.option("--transaction", "transaction_id", metavar="ID", help="With this transaction id.")
@click.option("--order", "order_ref", metavar="REF", help="With this order reference.")
@click.option("--card", metavar="fp_…|-", help="With this card: a fingerprint, or `-` to type the number.")
@click.option("--outcome", type=click.Choice(["accept", "challenge", "refuse"]), help="Decided so.")
@click.option("--code", metavar="CODE", help="With this reason code, such as IP_COUNTRY_BLOCKED.")
@click.option("--since", metavar="TIME", help="Answered then or later: 2026-11-23 or 2026-11-23T10:15:00Z.")
@click.option("--until", metavar="TIME", help="Answered before then.")
@click.option("--before", metavar="SCREENING", help="Go on below this screening (scr_…).")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many.")
@state_option
@format_option
def search(
    merchant: str | None,
    transaction_id: str | None,
    order_ref: str | None,
    card: str | None,
    outcome: str | None,
    code: str | None,
    since: str | None,
    until: str | None,
    before: str | None,
    limit: int,
    state: Path | None,
    output: str | None,
) -> None:
    """Find recorded screenings for which everything given holds, newest first, in the log and its archive.

    A card number is never an argument: with `--card -` it is read from standard input and at once becomes its
    fingerprint. `fraudengine explain SCREENING` says why one was decided so.
    """
    config = configuration(state=state, format=output)
    cursor = parse_screening_id(before) if before is not None else None
    if before is not None and cursor is None:
        raise Problem("--before is not a screening id (scr_ and 13 letters or digits)", 2)
    asked = Search(
        merchant,
        transaction_id,
        order_ref,
        _fingerprint(card, config) if card is not None else None,
        outcome,
        code,
        _instant("--since", since),
        _instant("--until", until),
        cursor,
    )
    found = False
    for one in islice(_of_log_and_archive(config.state, asked, limit), limit):
        found = True
        click.echo(json.dumps(found_object(one)) if config.format == "json" else _in_words(one))
    if not found:
        click.echo("fraudengine: no screening was found", err=True)


def _of_log_and_archive(state: Path, asked: Search, limit: int) -> Iterator[RecordedScreening]:
    """What is found, newest first; the archive is opened once that is asked for which may be in it."""
    archived_to, last = newest_archived_id(state), -1
    logged = _of_log(state, asked, limit)
    older: list[RecordedScreening] = []
    for one in logged:
        if one.id < archived_to:
            older.append(one)
            break
        yield one
    try:
        for one in merge(chain(older, logged), search_archive(state, asked), key=lambda one: -one.id):
            if one.id != last:  # a month that is being archived is in both for a while
                yield one
            last = one.id
    except ConfigurationError as error:
        click.echo(f"fraudengine: archived screenings are not searched: {error}", err=True)
        yield from chain(older, logged)


def _of_log(state: Path, asked: Search, limit: int) -> Iterator[RecordedScreening]:
    with LogSearch(state) as reader:
        while True:
            page = reader.find(asked, min(limit, 500))
            yield from page.found
            if page.next is None:
                return
            asked = replace(asked, before=page.next)


def _fingerprint(card: str, config: Config) -> str:
    if card == "-":
        if sys.stdin.isatty():
            click.echo("type the card number, then Enter", err=True)
        try:
            return Pan.parse(sys.stdin.readline().strip()).fingerprint(config.load_card_key().key)
        except InvalidTransaction as error:
            raise Problem(error.problem) from None
    if FINGERPRINT.fullmatch(card) is None:
        raise Problem("--card is no card fingerprint (fp_…); give a number as `--card -`", 2)
    return card


def _instant(option: str, text: str | None) -> int | None:
    found = read_time(text) if text is not None else None
    if text is not None and found is None:
        raise Problem(f"{option} is a date or a time as in 2026-11-23T10:15:00Z", 2)
    return found


def _in_words(one: RecordedScreening) -> str:
    told = found_object(one)
    amount = f"{told['amount']} {told['currency']}"
    return (
        f"{told['screening_id']}  {told['answered'][:19]}Z  {told['decision']:9} {told['code']:28}"
        f" {amount:>16}  {told['merchant']}  {told['transaction_id']}"
    )


@log.command("index")
@click.option("--rebuild", is_flag=True, help="Make it anew from the whole log.")
@state_option
def index(rebuild: bool, state: Path | None) -> None:
    """Bring the search index up to the log, as the running service does by itself a little at a time.

    The service goes on meanwhile. The index may be deleted at any time: searches then read the log.
    """
    config = configuration(state=state)
    claimed = SearchIndex.claim(config.state)
    if claimed is None:
        raise Problem("another process keeps the index (the service does): it needs nothing", 1)
    with claimed:
        if rebuild:
            claimed.empty()
        done = 0
        while worked := claimed.step(largest=2):
            done += worked
            if sys.stderr.isatty():
                click.echo(f"\r{done:,} screenings indexed or merged", err=True, nl=False)
    click.echo(f"the index is up to date ({done:,} screenings indexed or merged)")


@log.command("archive")
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(KEPT_DAYS),
    metavar="DAYS",
    help="Months that ended so long ago (default: the setting).",
)
@state_option
def archive(days: int | None, state: Path | None) -> None:
    """Move old months from the log to Parquet files in `archive`, which `fraudengine replay` reads.

    A file is durable and verified before anything is deleted from the log. Cut off at any point, the next call
    goes on. The service goes on meanwhile, and uses the freed pages again.
    """
    config = configuration(state=state, archive_after_days=days)
    months = old_months(config.state, config.archive_after_days, time.time_ns() // 1000)
    with AuditLog(config.state) as audit:
        for month in months:
            done = archive_month(config.state, month, audit)
            files = ", ".join(path.name for path in done.files)
            click.echo(
                f"{month}: {done.written:,} screenings written, {done.deleted:,} taken out of the log: {files}"
            )
            if done.left:
                click.echo(f"fraudengine: {done.left:,} changed meanwhile; call again to archive them", err=True)
    if not months:
        click.echo(f"no month in the log ended more than {config.archive_after_days} days ago")


@log.command("purge")
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(KEPT_DAYS),
    metavar="DAYS",
    help="Months that ended so long ago (default: the setting).",
)
@click.option("--pretend", is_flag=True, help="Only say what would be deleted.")
@state_option
def purge_months(days: int | None, pretend: bool, state: Path | None) -> None:
    """Delete for good the months that are older than they may be kept, from the archive and from the log.

    Each deletion is in the audit log. Backups and copies of the archive are yours to delete.
    """
    config = configuration(state=state, retention_days=days)
    if config.retention_days is None:
        raise Problem("say how long screenings are kept: --older-than DAYS or FRAUDENGINE_RETENTION_DAYS", 2)
    with AuditLog(config.state) as audit:
        done = purge(config.state, config.retention_days, audit, time.time_ns() // 1000, pretend=pretend)
    verb = "would be deleted" if pretend else "were deleted"
    click.echo(f"{len(done.files)} archive files and {done.screenings:,} screenings of the log {verb}")
    for name in done.files:
        click.echo(f"  {name}")


COMMANDS: list[click.Command] = [log]
