"""Who pays in a made-up history: merchants of the samples, and buyers with cards, addresses and devices.

Addresses and BINs are drawn from the tables in use, so that look-ups find what they find in life; fingerprints are
random letters and belong to no card.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..lookups import DataFiles
from .data_ranges import bin_ranges_file, ip_ranges_file

Ints: TypeAlias = npt.NDArray[np.int64]
Rng: TypeAlias = np.random.Generator


@dataclass(frozen=True, slots=True)
class Trade:
    """What a sample merchant sells: its share of payments, currencies with their shares, and amounts."""

    merchant: str
    share: float
    currencies: tuple[
        tuple[str, float, float, int], ...
    ]  # code, share, median in major units, minor units per major
    tunisian: float  # share of Tunisian cards
    recurring: float = 0.0


TRADES: Final = (
    Trade("carthage-market", 0.45, (("TND", 1.0, 85.0, 1000),), 0.96),
    Trade("medina-topup", 0.35, (("TND", 1.0, 10.0, 1000),), 0.85, 0.08),
    Trade(
        "sahara-travel",
        0.08,
        (("TND", 0.5, 900.0, 1000), ("EUR", 0.35, 320.0, 100), ("USD", 0.15, 350.0, 100)),
        0.45,
    ),
    Trade(
        "yasmine-donations",
        0.12,
        (("TND", 0.6, 30.0, 1000), ("EUR", 0.3, 20.0, 100), ("USD", 0.1, 20.0, 100)),
        0.5,
        0.15,
    ),
)
FOREIGN: Final = ("FR", "DE", "IT", "US", "GB", "DZ", "LY", "BE", "NG", "RU", "CA", "ES")


@dataclass(frozen=True, slots=True)
class RealTables:
    """What is drawn from: for each country first and last addresses as numbers, and 6-digit BINs."""

    addresses: dict[str, tuple[Ints, Ints]]
    bins: dict[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Buyers:
    """Everybody who ever pays, as arrays by number."""

    cards: pa.StringArray
    bins: pa.StringArray
    last4: pa.StringArray
    brands: Ints
    expiry: Ints
    addresses: pa.StringArray
    address_keys: pa.StringArray
    emails: pa.StringArray
    phones: pa.StringArray
    by_trade: tuple[Ints, ...]


def make_buyers(rng: Rng, number: int, tables: RealTables) -> Buyers:
    trade = rng.choice(len(TRADES), number, p=[item.share for item in TRADES])
    tunisian = rng.random(number) < np.array([item.tunisian for item in TRADES])[trade]
    country = np.where(tunisian, 0, 1 + rng.choice(len(FOREIGN), number))
    elsewhere = rng.random(number) < 0.03
    connects_from = np.where(elsewhere, 1 + rng.choice(len(FOREIGN), number), country)
    addresses = _draw_addresses(rng, connects_from, tables)
    # Offices and carrier networks: one address in ten is shared by several buyers.
    shared = rng.random(number) < 0.10
    addresses[shared] = addresses[rng.integers(0, max(number // 200, 1), int(shared.sum()))]
    brands = rng.choice(2, number, p=[0.6, 0.4])
    names = ("TN", *FOREIGN)
    bins = np.empty(number, dtype=object)
    for place, name in enumerate(names):
        of_country = country == place
        pool = np.array(tables.bins.get(name) or ["400000"], dtype=object)
        bins[of_country] = pool[rng.integers(0, len(pool), int(of_country.sum()))]
    tails = rng.integers(0, 100, number)
    text_addresses = [_address_text(int(high), int(low)) for high, low in addresses]
    return Buyers(
        cards=_fingerprints(rng, number),
        bins=pa.array([f"{head}{tail:02d}" for head, tail in zip(bins, tails, strict=True)], pa.string()),
        last4=pa.array([f"{digits:04d}" for digits in rng.integers(0, 10_000, number)], pa.string()),
        brands=brands,
        expiry=rng.integers(-2, 60, number),
        addresses=pa.array([text for text, _ in text_addresses], pa.string()),
        address_keys=pa.array([key for _, key in text_addresses], pa.string()),
        emails=pa.array(
            [f"buyer{place}@{_DOMAINS[place % len(_DOMAINS)]}" for place in range(number)], pa.string()
        ),
        phones=pa.array([f"+216{20_000_000 + place * 7 % 79_999_999}" for place in range(number)], pa.string()),
        by_trade=tuple(np.flatnonzero(trade == place) for place in range(len(TRADES))),
    )


_DOMAINS: Final = ("gmail.com", "topnet.tn", "yahoo.fr", "gnet.tn", "outlook.com", "planet.tn", "mailinator.com")


def _fingerprints(rng: Rng, number: int) -> pa.StringArray:
    letters = (rng.integers(0, 16, (number, 42), dtype=np.uint8) + ord("a")).astype(np.uint8)
    letters[:, :10] = np.frombuffer(b"fp_00beef_", dtype=np.uint8)
    offsets = np.arange(0, number * 42 + 1, 42, dtype=np.int32)
    return pa.StringArray.from_buffers(number, pa.py_buffer(offsets), pa.py_buffer(letters.tobytes()))


def _draw_addresses(rng: Rng, country: Ints, tables: RealTables) -> npt.NDArray[np.uint64]:
    """Pairs (upper and lower 64 bits); the upper is 0 for IPv4. One in twenty Tunisian addresses is IPv6."""
    found = np.zeros((len(country), 2), dtype=np.uint64)
    for place, name in enumerate(("TN", *FOREIGN)):
        rows = np.flatnonzero(country == place)
        lows, highs = tables.addresses[name]
        sizes = (highs - lows + 1).astype(float)
        chosen = rng.choice(len(lows), len(rows), p=sizes / sizes.sum())
        found[rows, 1] = (lows[chosen] + rng.integers(0, 1 << 40, len(rows)) % (highs - lows + 1)[chosen]).astype(
            np.uint64
        )
        if name == "TN":
            six = rows[rng.random(len(rows)) < 0.05]
            found[six, 0] = np.uint64(0x2C0FF698 << 32) | rng.integers(0, 1 << 32, len(six)).astype(np.uint64)
            found[six, 1] = rng.integers(1, 1 << 16, len(six)).astype(np.uint64)
    return found


def _address_text(high: int, low: int) -> tuple[str, str]:
    """An address as text and as `ip_key`."""
    if not high:
        return f"{low >> 24}.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}", f"4{low:08x}"
    return str(ipaddress.IPv6Address(high << 64 | low)), f"6{high << 64 | low:032x}"


# ---- the tables in use ----------------------------------------------------------------------------


def read_real_tables(data: DataFiles, cache: Path) -> RealTables:
    """Ranges of IPv4 addresses and 6-digit BINs of each country that a made-up buyer is from."""
    ranges = pq.read_table(ip_ranges_file(data, cache))
    ranges = ranges.filter(pc.starts_with(ranges["low"], "4"))
    bins = pq.read_table(bin_ranges_file(data, cache), columns=["digits", "low", "country", "brand"])
    bins = bins.filter(pc.equal(bins["digits"], 6))
    addresses, digits = {}, {}
    for name in ("TN", *FOREIGN):
        of_country = ranges.filter(pc.equal(ranges["country"], name))
        bounds = [[int(key[1:], 16) for key in of_country[side].to_pylist()] for side in ("low", "high")]
        addresses[name] = (np.array(bounds[0], np.int64), np.array(bounds[1], np.int64))
        cards = bins.filter(
            pc.and_(pc.equal(bins["country"], name), pc.is_in(bins["brand"], pa.array(["visa", "mastercard"])))
        )
        digits[name] = cards["low"].to_pylist()
    return RealTables(addresses, digits)
