"""The IP and BIN tables as ranges side by side, which engines join with; made once for each data file and kept.

They say exactly what `lookups.IpCountries` and `bin_table.BinTable` answer: special-purpose networks, tunnels and
codes that are no country have no range, and a BIN with fewer digits than the table tells apart has the attributes
that everything below it agrees on. A range never crosses a bucket (`columnar_enrich`), so wide ones are cut.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import maxminddb
import pyarrow as pa
import pyarrow.parquet as pq

from ..backends.columnar import ip_key
from ..backends.columnar_enrich import BIN_BUCKET
from ..bin_ranges import KEY_DIGITS, BinInfo, attributes
from ..bin_table import BinTable
from ..countries import read_country
from ..lookups import SPECIAL_NETWORKS, DataFiles

_FORMAT: Final = 2
_IP_SCHEMA: Final = pa.schema([(name, pa.string()) for name in ("bucket", "low", "high", "country")])
_BIN_SCHEMA: Final = pa.schema(
    [
        ("bucket", pa.string()),
        ("digits", pa.int32()),
        *((name, pa.string()) for name in ("low", "high", "country", "brand", "type", "issuer")),
    ]
)
BIN_DIGITS: Final = (6, 7, 8)
_BUCKET_BITS: Final = {4: 24, 6: 112}  # bits of an address below its bucket (`columnar_enrich.IP_BUCKET`)


def ip_ranges_file(data: DataFiles, cache: Path) -> Path:
    """Parquet with the ranges of the IP table in use: bucket, low, high (`ip_key`s) and country."""
    digest = _digest(data.ip_path)
    return _cached(cache / f"ip-ranges-{_FORMAT}-{digest}.parquet", lambda: ip_ranges(data.ip_path))


def bin_ranges_file(data: DataFiles, cache: Path) -> Path:
    """Parquet with the ranges of the BIN table in use for BINs of 6, 7 and 8 digits."""
    digest = _digest(data.bins_path, data.local_bins)
    return _cached(cache / f"bin-ranges-{_FORMAT}-{digest}.parquet", lambda: bin_ranges(data.bins))


def _digest(*paths: Path | None) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path is not None and path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _cached(path: Path, make: object) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        assert callable(make)
        try:
            pq.write_table(make(), draft, compression="zstd")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return path


# ---- addresses ------------------------------------------------------------------------------------


def ip_ranges(path: Path) -> pa.Table:
    """The ranges of a country .mmdb, as `IpCountries` reads it."""
    rows = list(_bucketed(_merged(path)))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    return pa.table(columns, schema=_IP_SCHEMA)


def _merged(path: Path) -> Iterator[tuple[int, int, int, str]]:
    """(version, first, last, country) without special-purpose networks, neighbours of one country joined."""
    special = {
        version: sorted(
            (int(network[0]), int(network[-1])) for network in SPECIAL_NETWORKS if network.version == version
        )
        for version in (4, 6)
    }
    held: tuple[int, int, int, str] | None = None
    with maxminddb.open_database(path) as reader:
        for network, record in reader:
            country = _country(record)
            if country is None:
                continue
            version, first = network.version, int(network.network_address)
            last = first | ((1 << (network.max_prefixlen - network.prefixlen)) - 1)
            for low, high in _without(first, last, special[version]):
                if held is not None and held[0] == version and held[2] + 1 == low and held[3] == country:
                    held = (version, held[1], high, country)
                    continue
                if held is not None:
                    yield held
                held = (version, low, high, country)
    if held is not None:
        yield held


def _country(record: object) -> str | None:
    found = record.get("country") if isinstance(record, dict) else None
    code = found.get("iso_code") if isinstance(found, dict) else None
    return read_country(code) if isinstance(code, str) and code else None


def _without(first: int, last: int, special: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is left of a range without the special ones."""
    place = max(bisect_right(special, (first, 1 << 130)) - 1, 0)
    for low, high in special[place:]:
        if low > last:
            break
        if high < first:
            continue
        if low > first:
            yield first, low - 1
        first = high + 1
        if first > last:
            return
    yield first, last


def _bucketed(ranges: Iterator[tuple[int, int, int, str]]) -> Iterator[tuple[str, str, str, str]]:
    for version, first, last, country in ranges:
        bits = _BUCKET_BITS[version]
        for bucket in range(first >> bits, (last >> bits) + 1):
            low, high = max(first, bucket << bits), min(last, ((bucket + 1) << bits) - 1)
            text = ip_key(version, low)
            yield text[: len(text) - bits // 4], text, ip_key(version, high), country


# ---- BINs -----------------------------------------------------------------------------------------


def bin_ranges(table: BinTable) -> pa.Table:
    """For each number of digits, the BINs of which something is known, as `BinTable.look_up` answers."""
    rows = [row for digits in BIN_DIGITS for row in _bins_of(table, digits)]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in _BIN_SCHEMA]
    return pa.table(columns, schema=_BIN_SCHEMA)


def _bins_of(table: BinTable, digits: int) -> Iterator[tuple[object, ...]]:
    scale, bucket_scale = 10 ** (KEY_DIGITS - digits), 10 ** (digits - BIN_BUCKET)
    shared: set[int] = set()  # BINs below which a segment ends and another begins
    for start, end, info in table.segments():
        if start % scale:
            shared.add(start // scale)
        first, last = -(-start // scale), end // scale - 1
        if info is not None and first <= last:
            yield from _rows(digits, first, last, info, bucket_scale)
    for number in sorted(shared):
        info = table.look_up(f"{number:0{digits}d}")
        if info is not None:
            yield from _rows(digits, number, number, info, bucket_scale)


def _rows(digits: int, first: int, last: int, info: BinInfo, bucket_scale: int) -> Iterator[tuple[object, ...]]:
    for bucket in range(first // bucket_scale, last // bucket_scale + 1):
        low, high = max(first, bucket * bucket_scale), min(last, (bucket + 1) * bucket_scale - 1)
        yield f"{bucket:06d}", digits, f"{low:0{digits}d}", f"{high:0{digits}d}", *attributes(info)
