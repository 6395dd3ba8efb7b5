"""A log of many screenings: GET by id, and each kind of search, in the time that they take here.

The log is made by SQL in order of ids, with the tables and indexes of the real one; its documents are short but
valid (about 170 bytes; real ones have 1 to 2 kB, which makes the table larger, not deeper by more than one level).
They are of 1,000 merchants unevenly, cards repeat about 20 times. The index is made by the code that the service
runs. Questions are drawn at random over the whole log, so most pages are not in memory of SQLite.

    python -m tests.benchmarks.bench_log [ROWS [DIRECTORY]]

Beside the figures of ROWS it prints those of a tenth of it, made the same way: how the times grow.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fraudengine import store
from fraudengine.decision_log import DecisionLog
from fraudengine.log_search import LogSearch, Search
from fraudengine.search_index import SearchIndex, first_id_at

START_US = 1_780_000_000_000_000
STEP_US = 20_000  # 50 a second
MERCHANTS = 1_000
CHUNK = 1_000_000
QUESTIONS = 400
BOUND_MS = 50.0
BYTES_A_ROW = 620  # log with its indexes, search index, and what making them wants beside

_ROWS = """
    INSERT INTO screenings
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :last),
    m AS (
        SELECT i, (:start + i * :step) AS at_us, abs((i * 2654435761) % 4294967291) AS h FROM n
    )
    SELECT
        (at_us / 1000) << 21 | (i & 8191), hash_of(i), i * 7919,
        1 + (h % :merchants) * (h / 7 % :merchants) / :merchants, 1, at_us, at_us + 900, 1000 + h % 900000, 'TND',
        CASE WHEN h % 100 < 90 THEN 'accept' WHEN h % 100 < 96 THEN 'refuse' ELSE 'challenge' END,
        CASE WHEN i % 1000000 = 4321 THEN 'CARD_BLACKLISTED' WHEN h % 100 < 90 THEN 'NO_RULE_MATCHED'
             WHEN h % 100 < 96 THEN 'IP_COUNTRY_BLOCKED' ELSE 'AMOUNT_NEEDS_3DS' END,
        'T-' || i, printf('fp_0123ab_%.32s', card_of(h % :cards)),
        CAST('{"transaction":{"merchant":"m","transaction_id":"T-' || i || '","order_ref":"C-' || i
            || '","at_us":' || at_us || '},"facts":{},"rule_set":"m","lists":{},"answer":{}}' AS BLOB)
    FROM m
"""


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000_000
    parent = sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory(dir=parent) as held:
        free = shutil.disk_usage(held).free
        if free < rows * BYTES_A_ROW * 1.2:
            sys.exit(f"{rows:,} rows want {rows * BYTES_A_ROW * 1.2 / 1e9:.0f} GB; {free / 1e9:.0f} GB are free")
        small = measure(Path(held) / "small", max(rows // 10, 10_000))
        shutil.rmtree(Path(held) / "small")
        large = measure(Path(held) / "large", rows)
        for name, times in large.items():
            print(f"figure log_{name}_p50 {times.p50:.3f} ms")
            print(f"figure log_{name}_p99 {times.p99:.3f} ms")
            print(f"figure log_{name}_cpu_p99 {times.cpu_p99:.3f} ms")
            print(f"figure log_{name}_growth {times.cpu_p50 / small[name].cpu_p50:.2f} x")
        worst = max(times.p99 for times in large.values())
        print(f"figure log_rows {rows} 1")
        print(f"figure log_worst_p99 {worst:.1f} ms")
        if worst > BOUND_MS:
            sys.exit(f"a p99 is above {BOUND_MS:.0f} ms")


def measure(state: Path, rows: int) -> dict[str, Times]:
    """The times of every kind of question to a log of that many rows."""
    make_log(state, rows)
    started = time.perf_counter()
    index = SearchIndex.claim(state)
    assert index is not None
    with index:
        while index.step(largest=2):
            pass
    took = time.perf_counter() - started
    size = (state / "search.db").stat().st_size
    print(f"{rows:,} rows: indexed in {took:.0f} s, {took / rows * 1e6:.1f} us and {size / rows:.0f} bytes a row")
    print(
        f"{rows:,} rows: the log has {(state / 'decisions.db').stat().st_size / rows:.0f} bytes a row", flush=True
    )
    chance = random.Random(7)
    cards = max(rows // 20, 1)

    def merchant() -> str:
        return f"m-{1 + chance.randrange(MERCHANTS) * chance.randrange(MERCHANTS) // MERCHANTS}"

    def span() -> tuple[int, int]:
        at = START_US + chance.randrange(rows) * STEP_US
        return at, at + 86_400_000_000

    kinds: dict[str, Callable[[], Search]] = {
        "merchant": lambda: Search(merchant=merchant()),
        "merchant_day": lambda: Search(merchant=merchant(), since_us=(at := span())[0], until_us=at[1]),
        "transaction": lambda: Search(transaction_id=f"T-{chance.randrange(rows)}"),
        "merchant_transaction": lambda: Search(merchant=merchant(), transaction_id=f"T-{chance.randrange(rows)}"),
        "order": lambda: Search(order_ref=f"C-{chance.randrange(rows)}"),
        "card": lambda: Search(card=f"fp_0123ab_{card_of(chance.randrange(cards))}"),
        "merchant_card": lambda: Search(merchant=merchant(), card=f"fp_0123ab_{card_of(chance.randrange(cards))}"),
        "rare_code": lambda: Search(code="CARD_BLACKLISTED", until_us=span()[1]),
        "merchant_code": lambda: Search(merchant=merchant(), code="IP_COUNTRY_BLOCKED", until_us=span()[1]),
        "outcome_day": lambda: Search(outcome="refuse", since_us=(at := span())[0], until_us=at[1]),
        "merchant_outcome": lambda: Search(merchant=merchant(), outcome="challenge"),
        "absent": lambda: Search(card="fp_0123ab_" + "p" * 32),
    }
    figures = {}
    with DecisionLog.open(state / "decisions.db") as log, LogSearch(state) as search:
        assert search.find(Search(transaction_id="T-5")).found[0].transaction_id == "T-5"
        figures["get"] = timed(lambda: log.recorded.get(id_of(chance.randrange(rows))))
        print(f"{rows:,} rows, get: {figures['get']}", flush=True)
        for name, ask in kinds.items():
            figures[name] = timed(partial(ask_one, search, ask))
            print(f"{rows:,} rows, {name}: {figures[name]}", flush=True)
    return figures


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds by the clock, and of processor time, which other load on the machine moves less."""

    p50: float
    p99: float
    cpu_p50: float
    cpu_p99: float

    def __str__(self) -> str:
        return f"p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms (cpu {self.cpu_p50:.2f}, {self.cpu_p99:.2f})"


def timed(question: Callable[[], object]) -> Times:
    took, used = [], []
    for _ in range(QUESTIONS):
        started, started_cpu = time.perf_counter(), time.process_time()
        question()
        took.append((time.perf_counter() - started) * 1e3)
        used.append((time.process_time() - started_cpu) * 1e3)
    return Times(
        statistics.median(took),
        statistics.quantiles(took, n=100)[98],
        statistics.median(used),
        statistics.quantiles(used, n=100)[98],
    )


def ask_one(search: LogSearch, ask: Callable[[], Search]) -> object:
    return search.find(ask(), 50)


def card_of(number: int) -> str:
    """32 letters that differ in many places, as those of a fingerprint do."""
    mixed = (number * 0x9E3779B97F4A7C15) % (1 << 64)
    return f"{mixed:032x}".translate(_LETTERS)


_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


def id_of(number: int) -> int:
    return first_id_at(START_US + number * STEP_US) | (number & 8191)


def make_log(state: Path, rows: int) -> None:
    """A decision log with that many rows, in order of ids; its indexes are made at the end."""
    started = time.perf_counter()
    path = state / "decisions.db"
    DecisionLog.open(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("card_of", 1, card_of, deterministic=True)
        connection.create_function("hash_of", 1, hash_of, deterministic=True)
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'screenings' AND sql NOTNULL"
        ).fetchall()
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -500000", "foreign_keys = OFF"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute(f"PRAGMA temp_store_directory = '{state}'")
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.executemany(
            "INSERT INTO merchants VALUES (?, ?)", [(n, f"m-{n}") for n in range(1, MERCHANTS + 1)]
        )
        connection.execute("INSERT INTO revisions (id, revision) VALUES (1, 'r1')")
        for first in range(0, rows, CHUNK):
            last = min(first + CHUNK, rows)
            values = {"first": first, "last": last, "start": START_US, "step": STEP_US}
            connection.execute(_ROWS, values | {"merchants": MERCHANTS, "cards": max(rows // 20, 1)})
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute("PRAGMA journal_mode = WAL")
    print(f"{rows:,} rows: made in {time.perf_counter() - started:.0f} s", flush=True)


def hash_of(number: int) -> int:
    """The hash of merchant and transaction id, as the log keeps it."""
    mixed = abs(number * 2654435761 % 4294967291)
    merchant = 1 + (mixed % MERCHANTS) * (mixed // 7 % MERCHANTS) // MERCHANTS
    return store.transaction_hash(f"m-{merchant}", f"T-{number}")


if __name__ == "__main__":
    main()
