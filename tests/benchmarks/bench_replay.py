"""Replay against SQL written by hand for the same work, and against deciding the history one by one.

`make bench-replay` runs ten million transactions; REPLAY_ROWS gives another number. Each measurement runs in a
process of its own, so that its memory is its own.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from fraudengine.config import read_configuration
from fraudengine.engine import Engine
from fraudengine.enrich import Enricher
from fraudengine.lookups import DataFiles
from fraudengine.replay.data_ranges import bin_ranges_file, ip_ranges_file
from fraudengine.replay.engine import replay
from fraudengine.replay.generate import generate
from fraudengine.replay.population import read_real_tables
from fraudengine.replay.rows import earlier_of, transaction_of
from fraudengine.rules.library import Library
from fraudengine.screening import screen_transaction
from fraudengine.velocity_index import EVENTS_TABLE, counter_reader, event_rows, place_of
from tests.benchmarks.replay_rules import write_rules
from tests.benchmarks.replay_sql import statements

MEMORY = "4GB"
THREADS = 2
LOOP_ROWS = 20_000


def data_files() -> DataFiles:
    config = read_configuration()
    return DataFiles(config.ip_country_file, config.data / "bins.dat", config.data / "bins.local.csv")


def measure_replay(history: Path, rules: Path, state: Path) -> None:
    """Prints seconds and the decisions by outcome."""
    config = read_configuration(state=state)
    started = time.perf_counter()
    with replay(history, rules, config=config, memory_limit=MEMORY, threads=THREADS, flip_limit=0) as result:
        seconds = time.perf_counter() - started
        rows = result.query(
            "SELECT candidate, sum(transactions)::BIGINT AS n FROM cube GROUP BY ALL ORDER BY ALL"
        ).rows()
    report(seconds, {row["candidate"]: row["n"] for row in rows})


def measure_sql(history: Path, cache: Path, scratch: Path) -> None:
    data = data_files()
    paths = ip_ranges_file(data, cache), bin_ranges_file(data, cache)
    started = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute(f"SET threads = {THREADS}")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(f"SET temp_directory = '{scratch / 'spill-sql'}'")
        for statement in statements(history, *paths):
            connection.execute(statement).fetchall()
        seconds = time.perf_counter() - started
        rows = connection.execute(
            "SELECT outcome, sum(transactions)::BIGINT FROM by_hand_cube GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    report(seconds, dict(rows))


def measure_loop(history: Path, rules: Path, counted: bool) -> None:
    """Seconds for LOOP_ROWS of the history through enrichment and the online backend, one by one.

    The loop reads the rows, as replay does. `counted`: with the counters of the payment path, read from and written
    to its own index, which is kept in memory here and waits for no disk.
    """
    engine, enricher = Engine(), Enricher(data_files())
    library = Library.load(rules)
    ready = {name: engine.prepare(library.snapshot.rule_set(name)) for name in library.snapshot.merchants}
    readers = {name: counter_reader(found.rule_set) for name, found in ready.items()}
    index = sqlite3.connect(":memory:", isolation_level=None)
    index.execute(EVENTS_TABLE)
    with pq.ParquetFile(history) as file:
        batch = next(file.iter_batches(batch_size=LOOP_ROWS))
    started = time.perf_counter()
    for row in batch.to_pylist():
        transaction, earlier = transaction_of(row), earlier_of(row)
        found, reader = ready[transaction.merchant], readers[transaction.merchant]
        if not counted or reader is None:
            screen_transaction(engine, enricher, found, transaction, earlier)
            continue
        merchant, amount, at_us = transaction.merchant, transaction.amount, transaction.at_us
        facts = enricher.facts(transaction, found.rule_set, earlier)
        question = reader.question(merchant, facts, at_us, amount)
        facts |= reader.answer(index.execute(*question).fetchone(), facts, amount)
        decision = engine.decide(found, facts, found.lists_as_of(at_us))
        if row["step"] == 0:
            series = dict.fromkeys(planned.series for planned in reader.counters)
            for event in event_rows(series, merchant, facts, amount, decision.outcome):
                place = place_of(at_us, event.bucket_us, event.key_hash)
                index.execute(
                    "INSERT OR IGNORE INTO velocity_events VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (place, event.key_hash[1], at_us, row["seq"], event.fits, event.currency, event.value),
                )
    report(time.perf_counter() - started, {})


def report(seconds: float, outcomes: dict[str, int]) -> None:
    print(f"{seconds} {most_memory()} {outcomes}")


def most_memory() -> float:
    """The most that this process held, in gigabytes. `ru_maxrss` would tell what the one that started it held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6


def run(*arguments: object) -> tuple[float, float, str]:
    """Seconds, gigabytes and outcomes of one measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_replay", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, memory, outcomes = done.stdout.strip().splitlines()[-1].split(" ", 2)
    return float(seconds), float(memory), outcomes


def main() -> None:
    rows = int(os.environ.get("REPLAY_ROWS", "10000000"))
    sizes = sorted({min(100_000, rows), min(1_000_000, rows), rows})
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        scratch = Path(directory)
        rules, state = write_rules(scratch / "rules"), scratch / "state"
        tables = read_real_tables(data_files(), state / "replay-cache")
        times: dict[int, tuple[float, float, str]] = {}
        loops: list[float] = []
        for size in sizes:
            history = scratch / f"{size}.parquet"
            started = time.perf_counter()
            generate(size, history, tables, seed=size)
            with_no_reports(history)
            print(f"generated {size:,} in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            loops += looped(history, rules, "counted") if size == rows else []
            times[size] = run("replay", history, rules, state)
            print(f"replayed {size:,}: {times[size]}", file=sys.stderr)
        seconds, memory, outcomes = times[rows]
        by_hand, _, by_hand_outcomes = run("sql", history, state / "replay-cache", scratch)
        print(f"by hand {rows:,}: {by_hand:.1f} s {by_hand_outcomes}", file=sys.stderr)
        loops += looped(history, rules, "counted", 2)
        loop = statistics.median(loops)
        plain_loop = statistics.median(looped(history, rules, "uncounted"))
        if outcomes != by_hand_outcomes:
            print(f"the outcomes differ: {outcomes} and by hand {by_hand_outcomes}", file=sys.stderr)
        for size in sizes:
            print(f"{size:>12,} transactions: {times[size][0]:8.2f} s, {times[size][0] / size * 1e6:8.2f} us each")
        print(f"figure replay_seconds {seconds:.1f} s")
        print(f"figure replay_vs_sql {seconds / by_hand:.2f} x")
        each = seconds / rows
        of_loops = ", ".join(f"{seconds / LOOP_ROWS * 1e6:.0f}" for seconds in loops)
        print(f"by hand {by_hand / rows * 1e6:.2f} us each; a loop {of_loops} us each")
        print(f"figure replay_vs_loop {loop / LOOP_ROWS / each:.1f} x")
        print(f"figure replay_vs_loop_without_counters {plain_loop / LOOP_ROWS / each:.1f} x")
        print(f"figure replay_memory {memory:.2f} GB")


def looped(history: Path, rules: Path, counted: str, times: int = 2) -> list[float]:
    """Seconds of the loop, which is over in two: a machine that runs fast or slow for a moment must not decide."""
    return [run("loop", history, rules, counted)[0] for _ in range(times)]


def with_no_reports(history: Path) -> None:
    """Takes out when failures were reported, which the SQL by hand does not read."""
    draft = history.with_suffix(".draft")
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * EXCLUDE (labelled_seq) FROM '{history}' ORDER BY seq) TO '{draft}' (FORMAT parquet,"
            " COMPRESSION zstd, KV_METADATA {'fraudengine.history': '1'})"
        )
    draft.replace(history)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["replay", history, rules, state]:
            measure_replay(Path(history), Path(rules), Path(state))
        case ["sql", history, cache, scratch]:
            measure_sql(Path(history), Path(cache), Path(scratch))
        case ["loop", history, rules, counted]:
            measure_loop(Path(history), Path(rules), counted == "counted")
        case _:
            main()
