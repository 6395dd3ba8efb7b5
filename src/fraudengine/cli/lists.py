"""`fraudengine lists`: entries kept at run time, in force for the next screening of every running process.

Card numbers come from standard input or a file and become fingerprints at once; as an argument they are refused.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import click

from ..cards import CardKey
from ..config import Config
from ..diagnostics import ConfigurationError, InvalidTransaction, RuleFilesRefused, UnknownMerchant
from ..facts import ListKind
from ..list_admin import ListAdmin, UnknownEntry, UnknownList, stored_entry_object
from ..list_entries import read_time, time_text
from ..list_history import event_object, event_text
from ..list_import import ImportRefused, import_entries, lines_of
from ..list_reading import ListReader
from ..list_review import review_entries
from ..list_store import ListStore
from ..list_values import NoCardKey, holds_card_number, read_note
from ..rules.ast import RuleSet
from ..rules.library import PLATFORM, Library
from .options import Command, Problem, configuration, format_option, rules_option, state_option

_CHUNK = 1 << 20


@click.group()
def lists() -> None:
    """Show, add, remove, import and review list entries kept at run time.

    MERCHANT is a merchant's name, or '*' (in quotes) for entries that hold for every merchant. LIST is a list that
    the rule files declare. Card numbers are read from standard input or a file only.
    """


def _notes(command: Command) -> Command:
    for option in (
        click.option("--by", "author", default=None, help="Who does it (default: your user name)."),
        click.option("--ticket", default="", help="The ticket that asked for it."),
        click.option("--reason", default="", help="Why."),
    ):
        command = option(command)
    return command


@contextmanager
def _open(config: Config) -> Iterator[ListAdmin]:
    """The lists of this machine; every expected mistake becomes one sentence."""
    library = Library.load(config.rules)
    rule_sets = _known_rule_sets(library)
    with ListStore(config.lists_file) as store:
        try:
            yield ListAdmin(store, lambda: rule_sets, lambda: config.load_card_key().key)
        except UnknownMerchant as error:
            if error.merchant in library.snapshot.refused_merchants:
                raise RuleFilesRefused(library.diagnostics, library.sources) from None
            raise
        except (InvalidTransaction, UnknownList, UnknownEntry) as error:
            raise Problem(str(error)) from None


def _known_rule_sets(library: Library) -> dict[str, RuleSet]:
    """Those in force; for a merchant whose file has a mistake the house rules, so that a card can still be listed.

    Without them such a merchant is not known: nobody can say of which kind its lists are.
    """
    snapshot = library.snapshot
    known = dict(snapshot.rule_sets)
    house = known.get(PLATFORM)
    if house is not None:
        for refusal in snapshot.refusals:
            name = PurePosixPath(refusal.path).stem
            if name in snapshot.refused_merchants:
                known[name] = house
                first = refusal.diagnostics[0]
                click.echo(
                    f"{refusal.path}:{first.span.line} is refused: {first.message}; meanwhile `{name}` is known to "
                    "have the lists of the house rules only",
                    err=True,
                )
    return known


def _card_key(config: Config) -> CardKey | None:
    """The key, or None: a list of fingerprints needs none."""
    try:
        return config.load_card_key().key
    except ConfigurationError:
        return None


def _author(given: str | None) -> str:
    return given if given is not None else getpass.getuser()


def _refuse_card_numbers(*arguments: str | None) -> None:
    """Arguments are seen by every user of the machine, so what came in one is no secret any more."""
    if any(text and holds_card_number(text) for text in arguments):
        raise Problem(
            "an argument holds a card number, which everybody on this machine could read; "
            "give it on standard input, and take it out of the shell's history",
            2,
        )


def _values(value: str | None, file: BinaryIO | None) -> Iterator[str]:
    """The value of the argument, else one a line from the file or standard input."""
    if value is not None and value != "-":
        yield value
        return
    source = file or sys.stdin.buffer
    if file is None and sys.stdin.isatty():
        click.echo("type values, one a line, then Ctrl-D", err=True)
    for line in source:
        text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if text:
            yield text


def _given(kind: ListKind, text: str) -> dict[str, str]:
    is_number = kind is ListKind.CARD and text[:1].isdigit()
    return {"pan": text} if is_number else {"value": text}


@lists.command("add")
@click.argument("merchant")
@click.argument("list_name", metavar="LIST")
@click.argument("value", required=False)
@click.option("--file", type=click.File("rb"), help="Read values from this file, one a line.")
@_notes
@click.option(
    "--expires",
    help="A date (it begins in the merchant's timezone, for '*' the platform's) or RFC 3339 time; left out: never.",
)
@rules_option
@state_option
@format_option
def add(
    merchant: str,
    list_name: str,
    value: str | None,
    file: BinaryIO | None,
    reason: str,
    ticket: str,
    author: str | None,
    expires: str | None,
    rules: Path | None,
    state: Path | None,
    output: str | None,
) -> None:
    """Add a value; without VALUE, each line of standard input or of --file. Card numbers only that way."""
    _refuse_card_numbers(value, merchant, list_name, reason, ticket, author, expires)
    config = configuration(rules=rules, state=state, format=output)
    wrong = []
    with _open(config) as admin:
        target, _ = admin.target(merchant, list_name)
        for number, text in enumerate(_values(value, file), start=1):
            try:
                listed = admin.add(
                    merchant,
                    list_name,
                    **_given(target.kind, text),
                    reason=reason,
                    ticket=ticket,
                    author=_author(author),
                    expires=expires,
                )
            except InvalidTransaction as error:
                wrong.append(f"{error}" if value else f"line {number}: {error}")
                continue
            for warning in listed.warnings:
                click.echo(f"fraudengine: {warning}", err=True)
            _print([stored_entry_object(listed.entry, listed.entry.added_us)], config)
    if wrong:
        raise Problem("\n".join(wrong))


@lists.command("remove")
@click.argument("merchant")
@click.argument("list_name", metavar="LIST")
@click.argument("value", required=False)
@click.option("--id", "entry_id", type=int, help="The entry's id, in the place of its value.")
@click.option("--file", type=click.File("rb"), help="Read values from this file, one a line.")
@_notes
@rules_option
@state_option
@format_option
def remove(
    merchant: str,
    list_name: str,
    value: str | None,
    entry_id: int | None,
    file: BinaryIO | None,
    reason: str,
    ticket: str,
    author: str | None,
    rules: Path | None,
    state: Path | None,
    output: str | None,
) -> None:
    """Remove the entry of a value from now on; without VALUE, each line of standard input or of --file."""
    _refuse_card_numbers(value, merchant, list_name, reason, ticket, author)
    config = configuration(rules=rules, state=state, format=output)
    with _open(config) as admin:
        target, _ = admin.target(merchant, list_name)
        wanted: list[dict[str, Any]]
        if entry_id is not None:
            wanted = [{"entry_id": entry_id}]
        else:
            wanted = [dict(_given(target.kind, text)) for text in _values(value, file)]
        for which in wanted:
            entry = admin.remove(merchant, list_name, **which, reason=reason, ticket=ticket, author=_author(author))
            _print([stored_entry_object(entry, entry.removed_us or 0)], config)


@lists.command("show")
@click.argument("merchant")
@click.argument("list_name", metavar="LIST")
@click.option("--search", default="", help="Only entries with this in value, reason, ticket or author.")
@click.option("--as-of", "as_of", help="As of this instant (RFC 3339); left out: now.")
@click.option("--all", "everything", is_flag=True, help="Also expired and removed entries.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="At most so many.")
@rules_option
@state_option
@format_option
def show(
    merchant: str,
    list_name: str,
    search: str,
    as_of: str | None,
    everything: bool,
    limit: int,
    rules: Path | None,
    state: Path | None,
    output: str | None,
) -> None:
    """Show the entries of a list: those of the rule files, then those kept at run time."""
    _refuse_card_numbers(merchant, list_name, search)
    config = configuration(rules=rules, state=state, format=output)
    as_of_us = _instant(as_of, "--as-of")
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    with _open(config) as admin:
        while len(found) < limit:
            page = admin.page(
                merchant,
                list_name,
                limit=min(1000, limit - len(found)),
                cursor=cursor,
                search=search,
                as_of_us=as_of_us,
                everything=everything,
            )
            found += page.entries
            cursor = page.next
            if cursor is None:
                break
    _print(found, config)
    if cursor is not None:
        click.echo("fraudengine: there are more; raise --limit or use `lists export`", err=True)


@lists.command("history")
@click.argument("merchant")
@click.argument("list_name", metavar="LIST")
@click.option("--search", default="", help="Only entries with this in value, reason, ticket or author.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@rules_option
@state_option
@format_option
def history(
    merchant: str,
    list_name: str,
    search: str,
    limit: int,
    rules: Path | None,
    state: Path | None,
    output: str | None,
) -> None:
    """Show who added and removed what, when and why, the newest first.

    An import of several entries is one line, with a few of its values and its authors, reasons and tickets; a
    search shows each entry of it that fits.
    """
    _refuse_card_numbers(merchant, list_name, search)
    config = configuration(rules=rules, state=state, format=output)
    with _open(config) as admin:
        target, _ = admin.target(merchant, list_name)
        with ListReader(admin.lists.path) as reader:
            events = reader.history(target, limit, search)
    for event in events:
        click.echo(
            json.dumps(event_object(event), ensure_ascii=False) if config.format == "json" else event_text(event)
        )


@lists.command("import")
@click.argument("merchant")
@click.argument("list_name", metavar="LIST")
@click.argument("file", type=click.File("rb"), default="-")
@_notes
@rules_option
@state_option
@format_option
def import_file(
    merchant: str,
    list_name: str,
    file: BinaryIO,
    reason: str,
    ticket: str,
    author: str | None,
    rules: Path | None,
    state: Path | None,
    output: str | None,
) -> None:
    """Import a CSV, all or nothing: one value a line, or a header with value, reason, ticket, author, expires.

    A header may also be in French or name the list's fact (customer, e-mail …). A first line that looks like a
    header and is not surely one is refused; where it is a value, put a line `value` above it. A date in expires
    begins in the merchant's timezone, or for '*' in the platform's.
    In a list of cards a card number becomes its fingerprint as it is read. Options fill columns that are empty.
    """
    _refuse_card_numbers(merchant, list_name, reason, ticket, author)
    config = configuration(rules=rules, state=state, format=output)
    with _open(config) as admin:
        target, _ = admin.target(merchant, list_name)
        note = read_note(reason, ticket, _author(author))
        key = _card_key(config) if target.kind is ListKind.CARD else None
        try:
            report = import_entries(
                admin.lists,
                target,
                iter(lambda: file.read(_CHUNK), b""),
                note,
                key=key,
                take_pans=True,
                timezone=admin.timezone(merchant),
            )
        except NoCardKey:
            config.load_card_key()  # raises what is to be done
            raise
        except ImportRefused as refused:
            shown = [f"line {line}: {problem}" for line, problem in refused.problems]
            more = refused.wrong - len(shown)
            raise Problem(
                "\n".join([*shown, *([f"and {more} more"] if more else []), "nothing was imported"])
            ) from None
    if config.format == "json":
        click.echo(
            json.dumps(
                {
                    "lines": report.lines,
                    "added": report.added,
                    "existing": report.existing,
                    "repeated": report.repeated,
                }
            )
        )
    else:
        click.echo(
            f"{report.lines:,} lines: {report.added:,} entries added, {report.existing:,} in the list already, "
            f"{report.repeated:,} repeated"
        )


@lists.command("export")
@click.argument("merchant")
@click.argument("list_name", metavar="LIST")
@click.option("--as-of", "as_of", help="As of this instant (RFC 3339); left out: now.")
@rules_option
@state_option
def export(merchant: str, list_name: str, as_of: str | None, rules: Path | None, state: Path | None) -> None:
    """Write the run-time entries in force as CSV, in the form that `lists import` reads."""
    _refuse_card_numbers(merchant, list_name)
    config = configuration(rules=rules, state=state)
    as_of_us = _instant(as_of, "--as-of")
    with _open(config) as admin:
        target, _ = admin.target(merchant, list_name)
        instant = as_of_us if as_of_us is not None else admin.lists.clock_us()
        with ListReader(admin.lists.path) as reader:
            rows = (
                (
                    entry.value,
                    entry.reason,
                    entry.ticket,
                    entry.author,
                    time_text(entry.expires_us) or "",
                    time_text(entry.added_us) or "",
                    entry.target.scope,
                )
                for entry in reader.every(target, instant)
            )
            click.echo("value,reason,ticket,author,expires,added,scope")
            for line in lines_of(rows):
                click.echo(line, nl=False)


@lists.command("review")
@click.option(
    "--unused-days",
    type=click.IntRange(1, 3650),
    default=90,
    show_default=True,
    help="Name entries that matched nothing for so many days.",
)
@click.option(
    "--expiring-days",
    type=click.IntRange(1, 3650),
    default=14,
    show_default=True,
    help="Name entries that expire within so many days.",
)
@rules_option
@state_option
@format_option
def review(
    unused_days: int, expiring_days: int, rules: Path | None, state: Path | None, output: str | None
) -> None:
    """Show entries that held no transaction's value for that many days, and those about to expire."""
    config = configuration(rules=rules, state=state, format=output)
    library = Library.load(config.rules)
    with ListStore(config.lists_file) as store, ListReader(store.path) as reader:
        found = review_entries(reader, library.snapshot.rule_sets, store.clock_us(), unused_days, expiring_days)
    if config.format == "json":
        click.echo(json.dumps([row.as_object() for row in found], ensure_ascii=False, indent=2))
        return
    for row in found:
        click.echo(row.as_text())
    if not found:
        click.echo("nothing to review")


def _instant(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    found = read_time(text)
    if found is None:
        raise Problem(f"{option} is a time as in 2026-11-23T10:15:00Z", 2)
    return found


def _print(entries: list[dict[str, Any]], config: Config) -> None:
    for entry in entries:
        if config.format == "json":
            click.echo(json.dumps(entry, ensure_ascii=False))
            continue
        notes = [entry["reason"], entry["ticket"], f"by {entry['author']}" if entry["author"] else ""]
        notes += [f"since {entry['added']}" if entry["added"] else ""]
        notes += [f"until {entry['expires']}" if entry["expires"] else ""]
        notes += [f"removed {entry['removed']} by {entry['removed_by']}" if entry["removed"] else ""]
        name = f"{entry['id']:>8}" if entry["id"] is not None else "    file"
        where = f" [{entry['scope']}]" if entry["scope"] == "*" else ""
        where += f" [{entry['source']}]" if entry["id"] is None else ""
        state = "" if entry["state"] == "in force" else f" ({entry['state']})"
        click.echo(f"{name}  {entry['value']}{state}{where}  {', '.join(note for note in notes if note)}".rstrip())


COMMANDS: list[click.Command] = [lists]
