"""A realistic history, made up: seeded, so that equal arguments give equal files, and written day by day.

Merchants of the samples with their daily and weekly rhythm. Among ordinary payments are card-testing bursts (many
cards from one address within minutes), stolen cards (large amounts from somebody else's address, charged back weeks
later), offices and mobile networks that share an address, masked cards, and second steps after 3-D Secure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .atomic import replaced_file
from .history import COLUMNS, FORMAT, FORMAT_KEY, expires_us
from .population import TRADES, Buyers, Ints, RealTables, Rng, make_buyers

Bools: TypeAlias = npt.NDArray[np.bool_]

DAY_US: Final = 86_400_000_000
LAST_DAY: Final = date(2026, 11, 22)
HOURS: Final = np.array([3, 2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 11, 11, 10, 9, 10, 11, 12, 13, 14, 15, 13, 9, 5], float)
WEEKDAYS: Final = np.array([1.0, 0.95, 0.95, 1.0, 1.1, 1.3, 1.15])
METADATA: Final = "metadata.campaign:text"
SECOND_STEPS: Final = 0.12  # of all screenings come after 3-D Secure
_ORDINARY, _TESTING, _STOLEN = 0, 1, 2


def generate(
    transactions: int,
    out: Path,
    tables: RealTables,
    *,
    seed: int = 1,
    days: int = 90,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Writes a history of that many screenings over the days that end on 22 November 2026.

    `progress` hears how many rows are written. The file appears under its name when it is whole.
    """
    rng = np.random.default_rng(seed)
    buyers = make_buyers(rng, max(transactions // 12, 200), tables)
    schema = pa.schema([*COLUMNS.items(), (METADATA, pa.string())], metadata={FORMAT_KEY: FORMAT})
    first_day = (
        int(datetime(LAST_DAY.year, LAST_DAY.month, LAST_DAY.day, tzinfo=UTC).timestamp()) // 86_400 - days + 1
    )
    weights = np.array([WEEKDAYS[(first_day + day + 3) % 7] for day in range(days)])
    counts = rng.multinomial(transactions, weights / weights.sum())
    done, latest = 0, 0
    with replaced_file(out) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as writer:
        for day, count in enumerate(counts):
            if not count:
                continue
            day_table = _make_day(rng, (first_day + day) * DAY_US, int(count), buyers, done, schema)
            table, latest = _mark_late(day_table, latest)
            writer.write_table(table, row_group_size=122_880)
            done += int(count)
            progress(done)


# ---- one day --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Rows:
    """The payments of a day before they become columns; the card is `buyer`'s, everything else `person`'s."""

    at_us: Ints
    trade: Ints
    buyer: Ints
    person: Ints
    kind: Ints


def _make_day(rng: Rng, midnight_us: int, count: int, buyers: Buyers, seq: int, schema: pa.Schema) -> pa.Table:
    steps = int(count * SECOND_STEPS)
    first = count - steps
    rows = _draw_rows(rng, midnight_us, first, buyers)
    source = np.concatenate([np.arange(first), rng.choice(first, steps, replace=False)])
    is_second = np.arange(count) >= first
    at_us = rows.at_us[source] + np.where(is_second, rng.integers(20, 120, count) * 1_000_000, 0)
    order = np.lexsort((is_second, at_us))
    source, is_second, at_us = source[order], is_second[order], at_us[order]
    taken = pa.array(source)
    columns = {name: array.take(taken) for name, array in _shared_columns(rng, rows, buyers, seq).items()}
    columns["seq"] = pa.array(np.arange(seq, seq + count))
    columns["at_us"] = pa.array(at_us)
    columns["step"] = pa.array(is_second.astype(np.int32))
    columns |= _three_ds(rng, columns, is_second, buyers.brands[rows.buyer][source])
    columns |= _labels(rng, at_us, is_second, rows.kind[source], columns["three_ds_status"], seq)
    whole = [columns.get(name, pa.nulls(count, schema.field(name).type)) for name in schema.names]
    return pa.table(whole, schema=schema)


def _mark_late(table: pa.Table, latest: int) -> tuple[pa.Table, int]:
    """With the column `late`; the second is the greatest `at_us` so far."""
    at_us = table["at_us"].to_numpy()
    before = np.maximum.accumulate(np.concatenate([[latest], at_us]))
    place = table.schema.get_field_index("late")
    late = pa.array(before[:-1] > at_us)
    return table.set_column(place, table.schema.field(place), late), int(before[-1])


def _draw_rows(rng: Rng, midnight_us: int, count: int, buyers: Buyers) -> _Rows:
    trade = rng.choice(len(TRADES), count, p=[item.share for item in TRADES])
    hour = rng.choice(24, count, p=HOURS / HOURS.sum())
    at_us = midnight_us + hour * 3_600_000_000 + rng.integers(0, 3_600_000_000, count)
    buyer = np.zeros(count, np.int64)
    for place, pool in enumerate(buyers.by_trade):
        of_trade = np.flatnonzero(trade == place)
        # Squared: some buyers come often, most seldom.
        buyer[of_trade] = pool[(rng.random(len(of_trade)) ** 2 * len(pool)).astype(np.int64)] if len(pool) else 0
    person, kind = buyer.copy(), np.zeros(count, np.int64)
    everybody = len(buyers.cards)
    done = 0
    while done < count * 0.01:  # card testing: one person, many cards, minutes
        size = min(int(rng.integers(15, 60)), count - done)
        rows = rng.choice(count, size, replace=False)
        trade[rows] = 1 if rng.random() < 0.4 else 3
        at_us[rows] = midnight_us + rng.integers(0, 86_000_000_000) + np.sort(rng.integers(0, 600_000_000, size))
        person[rows], buyer[rows] = rng.integers(0, everybody), rng.integers(0, everybody, size)
        kind[rows] = _TESTING
        done += size
    done = 0
    while done < count * 0.002:  # a stolen card: large amounts from somebody else's address
        size = min(int(rng.integers(2, 7)), count - done)
        rows = rng.choice(count, size, replace=False)
        trade[rows] = rng.choice([0, 2])
        at_us[rows] = midnight_us + rng.integers(0, 70_000_000_000) + np.sort(rng.integers(0, 14_000_000_000, size))
        person[rows], buyer[rows], kind[rows] = rng.integers(0, everybody), rng.integers(0, everybody), _STOLEN
        done += size
    return _Rows(at_us, trade, buyer, person, kind)


# ---- columns --------------------------------------------------------------------------------------

_CHANNELS: Final = pa.array(["ecommerce", "recurring", "moto"])
_CURRENCIES: Final = pa.array(["TND", "EUR", "USD"])
_MERCHANTS: Final = pa.array([item.merchant for item in TRADES])
_CAMPAIGNS: Final = pa.array([None, "winter", "round-up-3", "round-up-9"])


def _shared_columns(rng: Rng, rows: _Rows, buyers: Buyers, seq: int) -> dict[str, pa.Array]:
    """The columns that both steps of a payment have alike."""
    count = len(rows.trade)
    currency, minor = _amounts(rng, rows)
    channel = np.where(rng.random(count) < np.array([item.recurring for item in TRADES])[rows.trade], 1, 0)
    channel = np.where(rng.random(count) < 0.01, 2, channel)
    masked = rng.random(count) < 0.05
    months, month_texts, month_ends = _months(rows, buyers)
    person, buyer = pa.array(rows.person), pa.array(rows.buyer)
    no_address = (channel == 1) | (rng.random(count) < 0.01)
    campaign = np.where((rows.trade == 3) & (rng.random(count) < 0.3), rng.integers(1, 4, count), 0)
    names = pc.binary_join_element_wise("c", person.cast(pa.string()), "-")
    country = pa.array(["TN", "FR", "DE"]).take(pa.array(rows.person % 17 // 8))
    numbers = pa.array(np.arange(seq, seq + count)).cast(pa.string())
    return {
        "merchant": _MERCHANTS.take(pa.array(rows.trade)),
        "transaction_id": pc.binary_join_element_wise("T", numbers, "-"),
        "minor": pa.array(minor),
        "currency": _CURRENCIES.take(pa.array(currency)),
        "channel": _CHANNELS.take(pa.array(channel)),
        "card": _where(~masked, buyers.cards.take(buyer)),
        "card_bin": buyers.bins.take(buyer),
        "card_last4": buyers.last4.take(buyer),
        "card_expiry": month_texts.take(pa.array(months)),
        "card_expires_us": month_ends.take(pa.array(months)),
        "ip_address": _where(~no_address, buyers.addresses.take(person)),
        "ip_key": _where(~no_address, buyers.address_keys.take(person)),
        "email": _where(rng.random(count) < 0.9, buyers.emails.take(person)),
        "phone": _where(rng.random(count) < 0.6, buyers.phones.take(person)),
        "customer": _where(rows.person % 3 != 0, names),
        "device": _where(channel == 0, pc.binary_join_element_wise("d", person.cast(pa.string()), "-")),
        "billing_country": _where(rows.person % 4 == 0, country),
        METADATA: _CAMPAIGNS.take(pa.array(campaign)),
    }


def _where(held: Bools, values: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(held), values, pa.scalar(None, values.type))


def _amounts(rng: Rng, rows: _Rows) -> tuple[Ints, Ints]:
    """Currency by place in `_CURRENCIES`, and minor units; testers pay little, thieves much."""
    count = len(rows.trade)
    currency, median, per_major = np.zeros(count, np.int64), np.zeros(count), np.zeros(count, np.int64)
    for place, item in enumerate(TRADES):
        of_trade = np.flatnonzero(rows.trade == place)
        chosen = rng.choice(len(item.currencies), len(of_trade), p=[share for _, share, _, _ in item.currencies])
        currency[of_trade] = chosen  # every merchant's currencies begin as `_CURRENCIES` does
        median[of_trade] = np.array([amount for _, _, amount, _ in item.currencies])[chosen]
        per_major[of_trade] = np.array([units for _, _, _, units in item.currencies])[chosen]
    factor = np.array([1.0, 0.08, 4.0])[rows.kind]
    major = np.maximum(median * factor * rng.lognormal(0.0, 0.7, count), 0.5)
    return currency, np.round(major * 10).astype(np.int64) * (per_major // 10)


def _months(rows: _Rows, buyers: Buyers) -> tuple[Ints, pa.Array, pa.Array]:
    """The expiry of each card as a place in a list of months, the months as text, and when each is over."""
    months = buyers.expiry[rows.buyer]
    first = int(months.min())
    texts = []
    for offset in range(first, int(months.max()) + 1):
        number = LAST_DAY.year * 12 + LAST_DAY.month - 1 + offset
        texts.append(f"{number // 12}-{number % 12 + 1:02d}")
    return months - first, pa.array(texts), pa.array([expires_us(text) for text in texts], pa.int64())


_STATUSES: Final = pa.array(["Y", "A", "N", "U", "R", None])


def _three_ds(rng: Rng, columns: dict[str, pa.Array], is_second: Bools, brands: Ints) -> dict[str, pa.Array]:
    """3-D Secure results of second steps and of a few first ones, and what the first step was about."""
    count = len(is_second)
    drawn = np.where(
        is_second,
        rng.choice(5, count, p=[0.80, 0.06, 0.08, 0.04, 0.02]),
        np.where(rng.random(count) < 0.05, rng.choice(5, count, p=[0.9, 0.04, 0.03, 0.02, 0.01]), 5),
    )
    agreed = np.array([["05", "06", "07", "07", "07", ""], ["02", "01", "00", "00", "00", ""]], dtype=object)
    eci = agreed[np.where(rng.random(count) < 0.02, 1 - brands, brands), drawn]
    known = drawn < 5
    minor = columns["minor"].to_numpy()
    first_minor = np.where(rng.random(count) < 0.02, minor // 2, minor)
    unmasked = columns["card"]
    masked = pc.binary_join_element_wise(columns["card_bin"], columns["card_last4"], columns["card_expiry"], "/")
    return {
        "three_ds_status": _STATUSES.take(pa.array(drawn)),
        "eci": _where(known, pa.array(eci, pa.string())),
        "three_ds_version": _where(known, pa.array(["2.2.0"] * count)),
        "first_card_identity": _where(is_second, pc.coalesce(unmasked, masked)),
        "first_currency": _where(is_second, columns["currency"]),
        "first_minor": _where(is_second, pa.array(first_minor)),
    }


_LABELS: Final = pa.array(["authorised", "declined", "refunded", "chargeback", "fraud", "technical_failure", None])
_OUTCOMES: Final = pa.array(["accept", "challenge", "refuse"])


def _labels(rng: Rng, at_us: Ints, is_second: Bools, kind: Ints, status: pa.Array, seq: int) -> dict[str, pa.Array]:
    """What became of each payment and when that was known, and what was answered at the time."""
    count = len(at_us)
    label = rng.choice(7, count, p=[0.86, 0.08, 0.015, 0.0008, 0.0002, 0.004, 0.04])
    label = np.where(kind == _TESTING, rng.choice([1, 4, 0], count, p=[0.75, 0.2, 0.05]), label)
    label = np.where(kind == _STOLEN, rng.choice([3, 4, 1], count, p=[0.6, 0.25, 0.15]), label)
    failed = pc.fill_null(pc.is_in(status, pa.array(["N", "R"])), False).to_numpy(zero_copy_only=False)
    outcome = np.where(failed, 2, np.where(rng.random(count) < 0.1, 1, 0))
    outcome = np.where(is_second & (outcome == 1), 0, outcome)
    outcome = np.where((kind != _ORDINARY) & (rng.random(count) < 0.3), 2, outcome)
    label = np.where(outcome == 2, 6, label)
    days = np.array([0, 0, 8, 45, 30, 0, 0])[label] * rng.random(count)
    labelled = at_us + 2_000_000 + (days * DAY_US).astype(np.int64)
    at_once = (label == 1) | (label == 5)
    heard = seq + np.searchsorted(at_us, labelled) - 1
    return {
        "labelled_seq": _where(at_once, pa.array(heard)),
        "label": _LABELS.take(pa.array(label)),
        "labelled_us": _where(label < 6, pa.array(labelled)),
        "recorded_outcome": _OUTCOMES.take(pa.array(outcome)),
        "answered_us": pa.array(at_us + 1_000),
    }
