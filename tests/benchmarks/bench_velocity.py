"""What velocity counters cost: reading them beside millions of logged screenings, and writing their rows.

    make bench-velocity        # 10,000,000 screenings, some minutes and about 11 GB below --directory
    python -m tests.benchmarks.bench_velocity --rows 200000

The log is filled by SQL over 30 days, with one hot card, address, e-mail and customer that have 10,000 screenings
within the last hour and the last day, and the rest spread over many. Counters are then read through the log as the
screener reads them, one at a time: half of the questions are about hot keys, half about ordinary ones of the last
hour, after a round that brings the present's pages into memory, as writing them does in service. Writing appends
batches as the service does, in turns with and without four counters, to the same log; the time of the turns with
counters ends when all their events are merged into the index. The payments of a turn come at once, in a day of
their own that holds a whole day of the log already: were it one day for all turns, each would find a fuller index.

`--keep FILE` fills that file, or uses it as it is when it is there already.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final

from fraudengine.decision_log import DecisionLog, ScreeningRecord
from fraudengine.money import Money
from fraudengine.rules.ast import Outcome
from fraudengine.rules.counters import Among, Counter, Measure
from fraudengine.velocity import PlannedCounter, Series, series_of
from fraudengine.velocity_index import (
    BITS,
    CounterReader,
    KeyHash,
    Registry,
    hash_key,
    hash_value,
    place_of,
    tail_row,
)
from fraudengine.velocity_merge import MERGE_ROWS, TailMerge
from fraudengine.velocity_tail import TailRow

MERCHANT: Final = "carthage-market"
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
NOW_US: Final = 1_795_428_900_000_000
SPREAD_US: Final = 30 * DAY_US
HOT: Final = 10_000
TND: Final = int.from_bytes(b"TND", "big")
READS: Final = 4_000
RUN: Final = time.time_ns()
APPENDS: Final = 2 * MERGE_ROWS + 1_024  # two merges of a whole tail, as all are in service
TURNS: Final = 5

PLANNED: Final = tuple(
    PlannedCounter(counter, at_most, series_of(counter))
    for counter, at_most in (
        (Counter("attempts_per_card_1h", Measure.COUNT, ("card",), HOUR_US), 6),
        (
            Counter("cards_per_address_24h", Measure.COUNT_DISTINCT, ("ip_address",), DAY_US, distinct="card"),
            4,
        ),
        (
            Counter("cards_per_customer_24h", Measure.COUNT_DISTINCT, ("customer",), DAY_US, distinct="card"),
            4,
        ),
        (Counter("refusals_per_address_1h", Measure.COUNT, ("ip_address",), HOUR_US, Among.REFUSED), 11),
    )
)
EXACT: Final = tuple(
    PlannedCounter(counter, None, series_of(counter))
    for counter in (
        Counter("attempts_exact", Measure.COUNT, ("card",), HOUR_US),
        Counter("spent_exact", Measure.SUM, ("card",), HOUR_US),
    )
)
DOCUMENT: Final = b'{"transaction":{"amount":"450.000 TND"},"facts":{},"answer":{"decision":"accept"}}'.ljust(700)


def value(fact: str, number: int) -> str:
    return (
        f"41.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        if fact == "ip_address"
        else f"{fact}_{number}"
    )


def facts_of(number: int, keys: int) -> dict[str, str | int | bool | Money]:
    """The facts of the ordinary screening `number`; number -1 is the hot one."""
    dice = random.Random(number)
    of = {
        fact: dice.randrange(1, keys // share) for fact, share in (("card", 1), ("ip_address", 2), ("customer", 2))
    }
    found: dict[str, str | int | bool | Money] = {
        fact: value(fact, 0 if number < 0 else index) for fact, index in of.items()
    }
    return {**found, "three_ds": "none"}


# ---- filling --------------------------------------------------------------------------------------


def fill(path: Path, rows: int) -> None:
    """A log with its index, written by SQL in the order of the tables."""
    DecisionLog.open(path).close()
    database = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000", "temp_store = FILE"):
        database.execute(f"PRAGMA {pragma}")
    keys = max(rows // 5, 1000)
    database.execute("INSERT INTO merchants VALUES (1, ?)", (MERCHANT,))
    database.execute("INSERT INTO revisions VALUES (1, 'r', 'x')")
    step = SPREAD_US // rows
    started = time.perf_counter()
    first_id = ((NOW_US - SPREAD_US) // 1000) << 21
    # Every row has its place in time; the last hour and day hold the hot key 10,000 times.
    database.execute(
        f"""INSERT INTO screenings
        WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})
        SELECT {first_id} + i * (({step} << 21) / 1000), ((i * 2654435761) % 4294967296 << 31) + i, i, 1, 1,
            {NOW_US - SPREAD_US} + i * {step}, 0, 450000, 'TND', 'accept', 'X', 'T-' || i, '', ? FROM n""",
        (DOCUMENT,),
    )
    print(f"{rows:,} screenings in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    started = time.perf_counter()
    for planned in PLANNED:
        counter, series = planned.counter, planned.series
        (per,) = counter.per
        share = 1 if per == "card" else 2
        span = {"card": HOUR_US, "ip_address": DAY_US, "customer": DAY_US}[per]
        if counter.among is Among.REFUSED:
            span = HOUR_US

        @cache
        def key_of(index: int, per: str = per, planned: PlannedCounter = planned) -> KeyHash:
            return hash_key(planned.series, MERCHANT, (value(per, index),))

        def place(index: int, at_us: int, series: Series = series) -> int:
            return place_of(at_us, series.bucket_us, key_of(index))

        database.create_function("place_of", 2, place, deterministic=True)
        database.create_function("key_low", 1, lambda index: key_of(index)[1], deterministic=True)
        bits = BITS[Among.ALL] | BITS[Among.ACCEPTED]
        # Ordinary rows, then the hot key's: spread over the window, each with its own card where cards are counted.
        database.execute(
            f"""INSERT INTO velocity_events
            SELECT place_of(key, at_us), key_low(key), at_us, id, {bits}, {TND},
                {"450000" if counter.distinct is None else "request_hash"}
            FROM (SELECT *, 1 + (request_hash * 7919 + {share}) % {keys // share - 1} AS key FROM screenings)
            ORDER BY 1, 2, 3, 4"""
        )
        hot_bits = BITS[Among.ALL] | BITS[Among.REFUSED]
        database.executemany(
            "INSERT INTO velocity_events VALUES (?,?,?,?,?,?,?)",
            [
                (
                    place_of(at, series.bucket_us, key_of(0)),
                    key_of(0)[1],
                    at,
                    i,
                    hot_bits,
                    TND,
                    1000 if counter.distinct is None else hash_value(f"card_{i % 3_000}"),
                )
                for i in range(HOT)
                for at in (NOW_US - 1 - i * (span // HOT),)
            ],
        )
        print(f"  {counter.name} after {time.perf_counter() - started:.0f} s", file=sys.stderr)
    for planned in PLANNED:
        database.execute(
            "INSERT OR IGNORE INTO velocity_series (series, merchant, upto_id, filled_id) VALUES (?, ?, 0, 0)",
            (planned.series.text, MERCHANT),
        )
    database.close()
    size = path.stat().st_size / 1e9
    print(f"the file has {size:.2f} GB", file=sys.stderr)


# ---- reading --------------------------------------------------------------------------------------


def percentile(sorted_values: Sequence[float], share: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def measure_reads(log: DecisionLog, rows: int, planned: PlannedCounter, reads: int = READS) -> list[float]:
    """Microseconds of each read of one counter, hot and ordinary keys in turn."""
    reader = CounterReader([planned])
    amount = Money(450_000, "TND")
    keys = max(rows // 5, 1000)
    taken = []
    for number in range(reads):
        facts = facts_of(-1 if number % 2 else number + 1, keys)
        at = NOW_US if number % 2 else NOW_US - random.Random(number).randrange(HOUR_US)
        started = time.perf_counter_ns()
        log.recorded.read_counters(reader, MERCHANT, facts, at, amount)
        taken.append((time.perf_counter_ns() - started) / 1000)
    return taken


# ---- writing --------------------------------------------------------------------------------------


def records(log: DecisionLog, count: int, turn: int, keys: int, registry: Registry | None) -> list[ScreeningRecord]:
    """Records with the rows of four counters, or of a merchant that has none."""
    made = []
    amount = Money(450_000, "TND")
    dice = random.Random(turn)
    merchant = "sahara-travel" if registry is None else MERCHANT
    for number in range(count):
        at = NOW_US - turn * DAY_US + number
        facts = facts_of(dice.randrange(1 << 40), keys)
        row: TailRow = ()
        if registry is not None:
            row = tail_row(registry.series_for(merchant), merchant, facts, amount, Outcome.ACCEPT, at)
        made.append(
            ScreeningRecord(
                id=log.next_id(),
                merchant=merchant,
                transaction_id=f"W-{RUN}-{turn}-{number}-{registry is None}",
                request_digest=(turn * count + number).to_bytes(8, "big"),
                at_us=at,
                answered_us=at,
                card_identity="fp_x",
                currency="TND",
                minor=450_000,
                outcome="accept",
                code="X",
                revision="r",
                document=DOCUMENT,
                velocity=row,
                velocity_generation=log.velocity.generation,
            )
        )
    return made


async def append_all(
    log: DecisionLog, made: Sequence[ScreeningRecord], at_once: int = 512, *, merges: bool = False
) -> tuple[float, float]:
    """Records per second, and per second of processor, with that many callers waiting at a time, as under load.

    With `merges` the time is counted that it takes to merge every event of them into the index.
    """
    started, used = time.perf_counter(), time.process_time()
    for start in range(0, len(made), at_once):
        await asyncio.gather(*(log.append(record) for record in made[start : start + at_once]))
    if merges:
        while not TailMerge(log.path).run():
            await asyncio.sleep(0.01)  # the log's own merge is under way
        with closing(sqlite3.connect(log.path)) as database:
            assert database.execute("SELECT count(*) FROM velocity_tail").fetchone() == (0,)
    return len(made) / (time.perf_counter() - started), len(made) / (time.process_time() - used)


Rates = list[tuple[float, float]]


def measure_writes(log: DecisionLog, rows: int, count: int) -> tuple[Rates, Rates]:
    keys = max(rows // 5, 1000)
    without: Rates = []
    with_counters: Rates = []
    arms: list[tuple[Rates, Registry | None]] = [(without, None), (with_counters, log.velocity)]
    for turn in range(TURNS + 1):
        for rates, registry in arms if turn % 2 else arms[::-1]:
            made = records(log, count, turn, keys, registry)
            # As `serve` does when it has started: the collector does not walk the records that wait for their turn.
            gc.collect()
            gc.freeze()
            rate = asyncio.run(append_all(log, made, merges=registry is not None))
            if turn:  # the first warms the caches
                rates.append(rate)
    return without, with_counters


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--appends", type=int, default=APPENDS)
    parser.add_argument("--directory", type=Path, default=None, help="where the log is made (default: /tmp)")
    parser.add_argument("--keep", type=Path, default=None, help="a log to fill and keep, or to use again")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bench-velocity-", dir=given.directory))
    try:
        path: Path = given.keep or directory / "decisions.db"
        if not path.exists():
            fill(path, given.rows)
        with DecisionLog.open(path) as log:
            all_taken: list[float] = []
            for planned in PLANNED:
                measure_reads(log, given.rows, planned)
                taken = measure_reads(log, given.rows, planned)
                _say(planned.counter.name, taken)
                all_taken += taken
            for planned in EXACT:
                _say(planned.counter.name + " (no cap)", measure_reads(log, given.rows, planned, 400))
            without, with_counters = measure_writes(log, given.rows, given.appends)
        print(f"records a second without counters: {', '.join(f'{rate:,.0f}' for rate, _ in without)}")
        print(f"records a second with four:        {', '.join(f'{rate:,.0f}' for rate, _ in with_counters)}")
        ratios, of_cpu = (
            statistics.median(one[which] / other[which] for one, other in zip(with_counters, without, strict=True))
            for which in (0, 1)
        )
        all_taken.sort()
        print(f"figure counter_median {statistics.median(all_taken):.1f} us")
        print(f"figure counter_p99 {percentile(all_taken, 0.99):.1f} us")
        print(f"figure log_throughput_with_counters {ratios:.2f} x")
        print(f"figure log_throughput_with_counters_by_cpu {of_cpu:.2f} x")
    finally:
        shutil.rmtree(directory)


def _say(name: str, taken: list[float]) -> None:
    hot, ordinary = sorted(taken[1::2]), sorted(taken[::2])
    print(
        f"{name:<28} hot key: median {statistics.median(hot):7.1f} us, p99 {percentile(hot, 0.99):7.1f} us;  "
        f"ordinary: median {statistics.median(ordinary):6.1f} us, p99 {percentile(ordinary, 0.99):6.1f} us"
    )


if __name__ == "__main__":
    main()
