"""`fraudengine log`: search the decision log, keep its search index."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from ..cards import FINGERPRINT, Pan
from ..config import Config
from ..diagnostics import InvalidTransaction
from ..list_entries import read_time
from ..log_search import Found, LogSearch, Search, found_object
from ..search_index import SearchIndex
from ..store import parse_screening_id
from .options import Problem, configuration, format_option, state_option


@click.group()
def log() -> None:
    """The decision log: search it, and keep what searches use."""


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
    """Find recorded screenings for which everything given holds, newest first.

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
    left = limit
    with LogSearch(config.state) as reader:
        while left > 0:
            page = reader.find(asked, min(left, 500))
            for one in page.found:
                click.echo(json.dumps(found_object(one)) if config.format == "json" else _in_words(one))
            left -= len(page.found)
            if page.next is None:
                break
            asked = replace(asked, before=page.next)
    if left == limit:
        click.echo("fraudengine: no screening was found", err=True)


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


def _in_words(one: Found) -> str:
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


COMMANDS: list[click.Command] = [log]
