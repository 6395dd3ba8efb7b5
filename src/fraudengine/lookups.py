"""Looks up the country of an address and what is known of a BIN, in data files that can be replaced while it runs.

The only importer of geoip2. A good file that takes the place of another is picked up by `reload_if_changed`; a bad
one changes nothing and is reported until it is put right.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final, TypeAlias, TypeVar

from geoip2.database import Reader
from geoip2.errors import AddressNotFoundError
from maxminddb import InvalidDatabaseError

from .bin_ranges import BinInfo
from .bin_table import BinTable
from .countries import read_country
from .diagnostics import DataFileError, InvalidTransaction

__all__ = ["BinInfo", "BinTable", "DataFiles", "IpCountries", "parse_ip"]

REBUILD: Final = "rebuild it with: fraudengine data build-ip"
CACHE_ENTRIES: Final = 65_536

# --- addresses ----------------------------------------------------------------------------------------------


def parse_ip(text: str, field_name: str = "ip_address") -> str:
    """The address in its canonical text; IPv4 written as IPv6 (`::ffff:41.224.0.1`) becomes IPv4.

    Raises InvalidTransaction for anything else than one IPv4 or IPv6 address: no port, no zone, no spaces.
    """
    try:
        if inet_ntop(AF_INET, inet_pton(AF_INET, text)) == text:
            return text
    except (OSError, ValueError):
        pass
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        raise InvalidTransaction(
            field_name, "write one IPv4 or IPv6 address, such as 41.226.11.9, without port, zone or spaces"
        )
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


# IANA's special-purpose registries (RFC 6890 and successors): private, loopback, link-local, shared, documentation,
# benchmarking, multicast, reserved; and the tunnels 6to4 and Teredo, where the relay's place says nothing of the
# buyer's. Nobody connects from elsewhere than 2000::/3.
SPECIAL_NETWORKS: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
            *("::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1"),
        ),
    )
)


def _bounds(version: int) -> tuple[list[bytes], list[bytes]]:
    networks = sorted(item for item in SPECIAL_NETWORKS if item.version == version)
    return [item[0].packed for item in networks], [item[-1].packed for item in networks]


_SPECIAL_V4: Final = _bounds(4)
_SPECIAL_V6: Final = _bounds(6)
_MAPPED: Final = bytes(10) + b"\xff\xff"


def _is_special(packed: bytes) -> bool:
    firsts, lasts = _SPECIAL_V4 if len(packed) == 4 else _SPECIAL_V6
    index = bisect_right(firsts, packed) - 1
    return index >= 0 and packed <= lasts[index]


def _country_of(reader: Reader, path: Path, text: str) -> str | None:
    try:
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        text = parse_ip(text)
        packed = ipaddress.ip_address(text).packed
    if len(packed) == 16 and packed.startswith(_MAPPED):
        packed = packed[12:]
        text = inet_ntop(AF_INET, packed)
    if _is_special(packed):
        return None
    try:
        code = reader.country(text).country.iso_code
    except AddressNotFoundError:
        return None
    except (InvalidDatabaseError, AttributeError, TypeError, ValueError) as error:
        raise DataFileError(f"{path} is damaged: it cannot answer for an address ({error}); {REBUILD}") from error
    return read_country(code) if code else None


class IpCountries:
    """Country of an address, from an .mmdb file: ours, MaxMind's GeoLite2-Country or DB-IP's.

    The country is the one where the network is used (`country`); where the file has none, the answer is unknown:
    the country that a network is registered in says nothing of the buyer. Safe to share between threads.
    """

    def __init__(self, reader: Reader, path: Path, build_date: str) -> None:
        self.build_date = build_date
        self.country: Callable[[str], str | None] = lru_cache(CACHE_ENTRIES)(partial(_country_of, reader, path))
        """The ISO 3166 code for an address as `parse_ip` writes it; None is unknown. May raise DataFileError."""

    @classmethod
    def open(cls, path: Path) -> IpCountries:
        """Opens and verifies the file; raises DataFileError, which says what is wrong and what to do.

        Reads a private copy: a file that somebody overwrites in place would kill the process (SIGBUS) while it
        is mapped into memory.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataFileError(f"{path} cannot be read ({error.strerror}); {REBUILD}") from error
        _check_digest(path, content)
        try:
            with _private_copy(content) as copy:
                reader = Reader(copy)
            metadata = reader.metadata()
            built = datetime.fromtimestamp(metadata.build_epoch, UTC).date().isoformat()
        except (InvalidDatabaseError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise DataFileError(f"{path} is no readable .mmdb file: its metadata is damaged; {REBUILD}") from error
        if "Country" not in metadata.database_type:
            raise DataFileError(
                f"{path} is a database of type `{metadata.database_type}`, not of countries; {REBUILD}"
            )
        opened = cls(reader, path, built)
        _probe(path, partial(_country_of, reader, path), metadata.node_count)
        return opened


_DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")
_METADATA: Final = b"\xab\xcd\xefMaxMind.com"


def _check_digest(path: Path, content: bytes) -> None:
    """Compares the checksum that our own builder writes into the metadata; other makers write none."""
    body, marker, metadata = content.rpartition(_METADATA)
    if not marker:
        what = "truncated or no .mmdb file: it has no metadata at its end" if content else "empty"
        raise DataFileError(f"{path} is {what}; {REBUILD}")
    found = _DIGEST.search(metadata)
    if found is not None and hashlib.sha256(body).hexdigest().encode() != found[1]:
        raise DataFileError(f"{path} is damaged (its checksum differs); {REBUILD}")


def _probe(path: Path, country: Callable[[str], str | None], nodes: int) -> None:
    """Looks up addresses spread over IPv4 and IPv6, so that a damaged file is found now and not at a payment."""
    v4 = (f"{first}.{second}.7.1" for first in range(1, 224) for second in range(0, 256, 32))
    v6 = (
        f"{high:x}:{low:x}::1"
        for high in (*range(0x2001, 0x2020), *range(0x2400, 0x2C10, 16))
        for low in (0, 0xF698)
    )
    known = sum(country(address) is not None for address in (*v4, *v6))
    if not known and nodes > 10_000:  # a small file may hold only a few networks of one's own
        raise DataFileError(f"{path} knows the country of no address; {REBUILD}")


@contextlib.contextmanager
def _private_copy(content: bytes) -> Iterator[str]:
    """A name under which a copy that nobody else can change can be opened until the block ends."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("ip-country", os.MFD_CLOEXEC)
        name = f"/proc/self/fd/{handle}"
    else:
        handle, name = tempfile.mkstemp(prefix="ip-country-")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            yield name
    finally:
        if not name.startswith("/proc/"):
            os.unlink(name)


# --- files that may be replaced -----------------------------------------------------------------------------

_Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]
_Table = TypeVar("_Table", IpCountries, BinTable)


def _stamp(*paths: Path | None) -> _Stamp:
    """What changes when a file is replaced: time of change, size and inode; None for a file that is not there."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = os.stat(path) if path is not None else None
        except OSError:
            status = None
        stamps.append((status.st_mtime_ns, status.st_size, status.st_ino) if status else None)
    return tuple(stamps)


class DataFiles:
    """The IP table and the BIN table in use, each the last good one.

    `ip_countries` and `bins` are replaced by reference: read the attribute once for each transaction. A table that
    was replaced is never closed; it goes when the last look-up that uses it is over.
    """

    def __init__(self, ip_path: Path, bins_path: Path, local_bins: Path | None = None) -> None:
        """Raises DataFileError when one of the files cannot be used: there is no last good one yet."""
        self.ip_path, self.bins_path, self.local_bins = ip_path, bins_path, local_bins
        self._ip_stamp, self._bins_stamp = _stamp(ip_path), _stamp(bins_path, local_bins)
        self._ip_problem: str | None = None
        self._bins_problem: str | None = None
        self.ip_countries = IpCountries.open(ip_path)
        self.bins = BinTable.load(bins_path, local_bins)

    @classmethod
    def in_directory(cls, directory: Path) -> DataFiles:
        """The files of a data directory under the names that `fraudengine data` gives them."""
        return cls(directory / "ip-country.mmdb", directory / "bins.dat", directory / "bins.local.csv")

    @property
    def dates(self) -> dict[str, str]:
        """Dates (YYYY-MM-DD) of the data in use, as a decision records them."""
        return {"ip_country": self.ip_countries.build_date, "bins": self.bins.build_date}

    @property
    def problems(self) -> list[str]:
        """In plain language, which replaced files could not be used; empty when all is well."""
        return [problem for problem in (self._ip_problem, self._bins_problem) if problem is not None]

    def reload_if_changed(self) -> list[str]:
        """Takes up files that changed since the last call, and returns `problems`. Costs three `stat` calls."""
        stamp = _stamp(self.ip_path)
        if stamp != self._ip_stamp:
            self._ip_stamp = stamp
            self.ip_countries, self._ip_problem = _renew(
                self.ip_path, self.ip_countries, lambda: IpCountries.open(self.ip_path)
            )
        stamp = _stamp(self.bins_path, self.local_bins)
        if stamp != self._bins_stamp:
            self._bins_stamp = stamp
            self.bins, self._bins_problem = _renew(
                self.bins_path, self.bins, lambda: BinTable.load(self.bins_path, self.local_bins)
            )
        return self.problems


def _renew(path: Path, current: _Table, load: Callable[[], _Table]) -> tuple[_Table, str | None]:
    try:
        return load(), None
    except DataFileError as error:
        return current, (
            f"the file that took the place of {path} cannot be used ({error}); "
            f"the one of {current.build_date} stays in use"
        )
