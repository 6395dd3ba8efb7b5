"""`fraudengine data`: build the IP and BIN tables, and look into them; `fraudengine fingerprint` beside it."""

from __future__ import annotations

import json
import sys
from datetime import date, datetime
from pathlib import Path

import click

from .. import data_build
from ..cards import Pan, hide_pans
from ..diagnostics import InvalidTransaction
from ..lookups import DataFiles, parse_ip
from .data_comparing import compare
from .options import Problem, configuration, data_option, format_option, state_option

_DATE = click.DateTime(formats=["%Y-%m-%d"])


@click.group()
def data() -> None:
    """Build and look into the tables that say which country an address or a card is from."""


data.add_command(compare)


@data.command("build-ip")
@click.option(
    "--v4",
    type=click.Path(path_type=Path),
    default=Path("/usr/share/tor/geoip"),
    show_default=True,
    help="IPv4 ranges, from Debian's package tor-geoipdb.",
)
@click.option(
    "--v6",
    type=click.Path(path_type=Path),
    default=Path("/usr/share/tor/geoip6"),
    show_default=True,
    help="IPv6 ranges, from the same package.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write (default: ip-country.mmdb in the data)."
)
@click.option("--source-date", type=_DATE, help="Date of the source data (default: what the source says).")
@data_option
def build_ip(
    v4: Path, v6: Path, out: Path | None, source_date: datetime | None, data_directory: Path | None
) -> None:
    """Build the IP table from the two text files of Debian's tor-geoipdb. Takes about a minute and a half."""
    target = out or configuration(data=data_directory).data / "ip-country.mmdb"
    _show(data_build.build_ip_country(v4, v6, target, _day(source_date)))


@data.command("build-bins")
@click.argument("csv", nargs=-1, type=click.Path(path_type=Path))
@click.option("--without-smartbindb", is_flag=True, help="Take only the CSV files.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write (default: bins.dat in the data).")
@click.option("--source-date", type=_DATE, help="Date of the source data (default: what the source says).")
@data_option
def build_bins(
    csv: tuple[Path, ...],
    without_smartbindb: bool,
    out: Path | None,
    source_date: datetime | None,
    data_directory: Path | None,
) -> None:
    """Build the BIN table from smartbindb and CSV files in binlist's columns (a CSV wins, the last one first)."""
    target = out or configuration(data=data_directory).data / "bins.dat"
    _show(data_build.build_bins(target, csv, not without_smartbindb, _day(source_date)))


@data.command("lookup")
@click.argument("what", nargs=-1, required=True)
@data_option
@format_option
def lookup(what: tuple[str, ...], output: str | None, data_directory: Path | None) -> None:
    """Say what the tables know of internet addresses and of cards (their first 6 to 8 digits)."""
    config = configuration(data=data_directory, format=output)
    tables = DataFiles(config.ip_country_file, config.data / "bins.dat", config.data / "bins.local.csv")
    found = [_look_up(tables, item) for item in what]
    if config.format == "json":
        click.echo(json.dumps(found, indent=2))
        return
    for row in found:
        known = ", ".join(f"{name} {value}" for name, value in row.items() if name != "looked_up" and value)
        click.echo(f"{row['looked_up']}: {known or 'unknown'}")


def _look_up(tables: DataFiles, item: str) -> dict[str, str | None]:
    if item.isascii() and item.isdigit():
        if len(item) > 11:
            raise Problem("give the first 6 to 11 digits of a card, never its whole number", 2)
        info = tables.bins.look_up(item)
        return {
            "looked_up": item,
            "country": info.country if info else None,
            "brand": info.brand if info else None,
            "type": info.type if info else None,
            "issuer": info.issuer if info else None,
        }
    try:
        address = parse_ip(item)
    except InvalidTransaction as error:
        raise Problem(error.problem) from None
    return {"looked_up": address, "country": tables.ip_countries.country(address)}


@click.command()
@state_option
def fingerprint(state: Path | None) -> None:
    """Read card numbers from standard input, one a line, and print the fingerprint of each.

    Card numbers are never taken as arguments, because arguments are seen by every user of the machine and kept
    in the shell's history.
    """
    loaded = configuration(state=state).load_card_key()
    if sys.stdin.isatty():
        click.echo("type card numbers, one a line, then Ctrl-D", err=True)
    wrong = []
    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            continue
        try:
            click.echo(Pan.parse(line.strip()).fingerprint(loaded.key))
        except InvalidTransaction as error:
            wrong.append(f"line {number}: {error.problem}")
    if wrong:
        raise Problem("\n".join(wrong))


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()


def _show(report: data_build.BuildReport) -> None:
    click.echo(
        f"{hide_pans(str(report.path))}: {report.ranges_written:,} ranges from {report.rows_read:,} rows of "
        f"{report.source_date.isoformat()}, {report.bytes_written / 1e6:.1f} MB"
    )
    for reason, rows in sorted(report.skipped.items(), key=lambda item: -item[1]):
        click.echo(f"  left out {rows:,}: {hide_pans(reason)}", err=True)


COMMANDS: list[click.Command] = [data, fingerprint]
