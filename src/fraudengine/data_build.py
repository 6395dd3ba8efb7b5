"""Builds the data files: addresses to countries (`data/ip-country.mmdb`) and BINs (`data/bins.dat`).

Both builds are deterministic: the same sources and source date give the same bytes. A file is written beside
its place and renamed into it once it is complete, so a running service never reads half of one.
Needs the extra packages of `pip install 'fraudengine[data]'`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import pickle
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final, NoReturn

from .bin_ranges import BinInfo, BinRange, Segments, lay_over, pad_range
from .bin_table import write_table
from .binlist import read_binlist, read_brand
from .countries import read_country
from .diagnostics import ConfigurationError, DataFileError

DATABASE_TYPE: Final = "fraudengine-Country"
ATTRIBUTION: Final = (
    "IP to country by IPFire Location (https://location.ipfire.org/), as Debian's tor-geoipdb ships it, "
    "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/); changed: ranges of one country merged, "
    "special addresses left out"
)


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did. `skipped` counts the rows left out, by reason; `source_date` is the data's own date."""

    path: Path
    source_date: date
    rows_read: int
    ranges_written: int
    bytes_written: int
    skipped: Mapping[str, int] = field(default_factory=dict)


# --- files --------------------------------------------------------------------------------------------------


@contextmanager
def _replace_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; what stands there at the end takes the place of `path` at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# --- addresses ----------------------------------------------------------------------------------------------

_GENERATED: Final = re.compile(r"#\s*Generated:\s*(.+)")
_MAGIC: Final = b"\xab\xcd\xefMaxMind.com"
_NO_DIGEST: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class _AddressRange:
    first: int
    last: int
    version: int


def build_ip_country(v4: Path, v6: Path, out: Path, source_date: date | None = None) -> BuildReport:
    """Writes the .mmdb of countries from the two text files of Debian's `tor-geoipdb`.

    `v4` has rows `first,last,CC` with integers, `v6` with addresses. `source_date` becomes the file's build date;
    without it, the `# Generated:` line of `v4` says it. A code that is no ISO 3166 country is left out, which
    makes its addresses unknown. The metadata holds a SHA-256 of the contents, which the reader checks.
    Takes about a minute. Raises DataFileError on a source that cannot be read, naming the line.
    """
    ranges: dict[str, list[_AddressRange]] = {}
    skipped: Counter[str] = Counter()
    rows = 0
    for version, source in ((4, v4), (6, v6)):
        for first, last, code in _read_tor_rows(source, version):
            rows += 1
            country = read_country(code)
            if country is None:
                skipped[f"`{code}` is no ISO 3166 country"] += 1
                continue
            mine = ranges.setdefault(country, [])
            if mine and mine[-1].version == version and mine[-1].last + 1 == first:
                mine[-1] = _AddressRange(mine[-1].first, last, version)
            else:
                mine.append(_AddressRange(first, last, version))
    if not ranges:
        raise DataFileError(f"{v4} and {v6} hold no row with a country; are they the files of tor-geoipdb?")
    source_date = source_date or _read_generated_date(v4)
    networks = _write_mmdb(ranges, out, source_date)
    return BuildReport(out, source_date, rows, networks, out.stat().st_size, dict(sorted(skipped.items())))


def _read_tor_rows(path: Path, version: int) -> Iterator[tuple[int, int, str]]:
    try:
        with path.open(encoding="ascii") as lines:
            for number, line in enumerate(lines, 1):
                if line.startswith("#") or not line.strip():
                    continue
                try:
                    first, last, code = line.rstrip("\n").split(",")
                    low, high = _read_address(first, version), _read_address(last, version)
                    if low > high:
                        raise ValueError("the range ends before it begins")
                except ValueError:
                    raise DataFileError(
                        f"{path}:{number}: a row is `first,last,CC` of addresses; install Debian's tor-geoipdb "
                        "again or give its files geoip and geoip6"
                    ) from None
                yield low, high, code
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(
            f"{path} cannot be read ({error}); install Debian's tor-geoipdb or name its files"
        ) from error


def _read_address(text: str, version: int) -> int:
    if version == 4:
        return int(ipaddress.IPv4Address(int(text)))
    return int(ipaddress.IPv6Address(text))


def _read_generated_date(path: Path) -> date:
    with path.open(encoding="ascii") as lines:
        for line in lines:
            if found := _GENERATED.match(line):
                return parsedate_to_datetime(found[1]).date()
            if not line.startswith("#"):
                break
    raise DataFileError(f"{path} has no `# Generated:` line; give the date of the data (source_date)")


def _write_mmdb(ranges: Mapping[str, list[_AddressRange]], out: Path, source_date: date) -> int:
    try:
        from mmdb_writer import MMDBWriter
        from netaddr import IPAddress, IPRange, IPSet
    except ImportError:
        raise ConfigurationError(
            "building the IP table needs mmdb-writer: pip install 'fraudengine[data]'"
        ) from None

    epoch = int(datetime(source_date.year, source_date.month, source_date.day, tzinfo=UTC).timestamp())

    class Writer(MMDBWriter):
        """Writes the source's date where MMDBWriter writes the time of the build."""

        def _build_meta(self) -> dict[str, Any]:
            return {**super()._build_meta(), "build_epoch": epoch}

    writer = Writer(
        ip_version=6,
        database_type=DATABASE_TYPE,
        languages=["en"],
        description={"en": f"{ATTRIBUTION}; sha256:{_NO_DIGEST}"},
        ipv4_compatible=True,
    )
    networks = 0
    for country, mine in sorted(ranges.items()):
        members = IPSet(
            IPRange(IPAddress(item.first, item.version), IPAddress(item.last, item.version)) for item in mine
        )
        networks += len(members.iter_cidrs())
        record = {"iso_code": country}
        writer.insert_network(members, {"country": record, "registered_country": record})
    with tempfile.TemporaryDirectory() as directory:
        draft = Path(directory, "draft.mmdb")
        writer.to_db_file(str(draft))
        content = draft.read_bytes()
    body = content[: content.rindex(_MAGIC)]
    metadata = content[len(body) :].replace(_NO_DIGEST.encode(), hashlib.sha256(body).hexdigest().encode())
    with _replace_atomically(out) as draft:
        draft.write_bytes(body + metadata)
    return networks


# --- BINs ---------------------------------------------------------------------------------------------------

# The package carries no date of its own; this is the day its release was fetched.
_SMARTBINDB_FETCHED: Final = {"5.17.7": date(2026, 11, 23)}
_NUMBERED_COUNTRY: Final = re.compile(r"([A-Z]{2})[0-9]")  # `US2`: a country that fills several files


def build_bins(
    out: Path, csv_paths: Sequence[Path] = (), smartbindb: bool = True, source_date: date | None = None
) -> BuildReport:
    """Writes the BIN table from CSV files in binlist's columns (which win, the last one first) and smartbindb.

    `source_date` becomes the table's date; without it, it is the day the installed smartbindb was fetched when
    that is known, else ConfigurationError asks for it. Wrong rows are skipped and counted in the report.
    """
    skipped: Counter[str] = Counter()
    ranges: list[BinRange] = []
    sources: list[str] = []
    rows = 0
    for number, path in enumerate(csv_paths):
        sources.append(path.name)
        for _, row in read_binlist(path):
            rows += 1
            if isinstance(row, str):
                skipped[f"{path.name}: {row}"] += 1
            else:
                ranges.append(replace(row, order=number * 100_000_000 + row.order))
    if smartbindb:
        version, entries = _read_smartbindb()
        sources.append(f"smartbindb {version} (MIT)")
        source_date = source_date or _SMARTBINDB_FETCHED.get(version)
        for entry in entries:
            rows += 1
            row = _read_smartbindb_entry(entry)
            if isinstance(row, str):
                skipped[f"smartbindb: {row}"] += 1
            else:
                ranges.append(row)
    if source_date is None:
        raise ConfigurationError("the sources carry no date; give the date of the BIN data (source_date)")
    if not ranges:
        raise DataFileError("no source holds a BIN; give a CSV file in binlist's columns or use smartbindb")
    segments = lay_over(Segments(), ranges)
    with _replace_atomically(out) as draft:
        write_table(draft, segments, source_date.isoformat(), sources)
    written = len(segments.cells)
    return BuildReport(out, source_date, rows, written, out.stat().st_size, dict(sorted(skipped.items())))


class _PlainUnpickler(pickle.Unpickler):
    """Reads a pickle of dicts, lists and texts only: one that names any class or function could run code."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names `{module_name}.{global_name}`, and plain data names nothing")


def _read_smartbindb() -> tuple[str, list[dict[str, str]]]:
    # The package is located, not imported: nothing of it runs here.
    try:
        package = distribution("smartbindb")
    except PackageNotFoundError:
        raise ConfigurationError(
            "building the BIN table needs smartbindb: pip install 'fraudengine[data]', or give CSV files only"
        ) from None
    path = Path(str(package.locate_file("smartbindb/data/smartbin.db")))
    return package.version, read_plain_pickle(path)


def read_plain_pickle(path: Path) -> list[dict[str, str]]:
    """The entries of smartbindb's pickle in the order of their BINs; a pickle that names code is refused."""
    try:
        with path.open("rb") as file:
            index = _PlainUnpickler(file).load()["bin_index"]
        return [entry for _, (_, entry) in sorted(index.items())]
    except (OSError, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError) as error:
        raise DataFileError(
            f"{path} cannot be read as smartbindb's BINs ({error}); use version 5.17 of it, or CSV files only"
        ) from error


def _read_smartbindb_entry(entry: Mapping[str, str]) -> BinRange | str:
    try:
        low, high = pad_range(entry["bin"])
    except ValueError:
        return "no BIN of 6 to 11 digits"
    code = entry["country_code"].strip().upper()
    numbered = _NUMBERED_COUNTRY.fullmatch(code)
    category, kind = entry["category"].upper(), entry["type"].upper()
    info = BinInfo(
        country=read_country(numbered[1] if numbered else code),
        brand=read_brand(entry["brand"]),
        type="prepaid" if category.startswith(("PREPAID", "GIFT")) else _SMARTBINDB_TYPES.get(kind),
        issuer=" ".join(entry["issuer"].split()) or None,
    )
    return BinRange(low, high, info, rank=1)


_SMARTBINDB_TYPES: Final = {"CREDIT": "credit", "DEBIT": "debit", "PREPAID": "prepaid", "CHARGE CARD": "charge"}
