"""The service for millions of screenings: memory, latency, log size and the WAL must not grow with their number.

Four counters and real enrichment; 16 connections kept busy by calls that each are a transaction of their own, of
5,000 cards, addresses and customers at a time that come and go. After every twentieth of the run the private memory
of the service's processes is taken. It is compared between the fifth twentieth, when caches are full, and the last;
latency between the second tenth and the last, as so many times that of a bare FastAPI route, which takes turns with
the service ten times in each twentieth: within an hour a machine that is shared becomes a quarter slower or faster.
The largest size of each WAL is watched.

    python -m tests.benchmarks.soak [COUNT [WORKERS]]
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

from .bench_http import started
from .load import LOAD_CORE, Measured, Requests, Service, figure, put_load, served

PARTS = 20
SLICES = 10  # of each part, the bare route's turn after each
BOUND_MEMORY = 1.05
BOUND_LATENCY = 1.25
BOUND_WAL = 64 * 1024 * 1024


class WalWatch:
    """The largest that each WAL in a state directory was, looked at ten times a second."""

    def __init__(self, state: Path) -> None:
        self.largest: dict[str, int] = {}
        self._state = state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> WalWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for path in self._state.glob("*.db-wal"):
                try:
                    size = path.stat().st_size
                except OSError:
                    continue
                self.largest[path.name] = max(self.largest.get(path.name, 0), size)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    os.sched_setaffinity(0, {LOAD_CORE})
    with (
        tempfile.TemporaryDirectory() as held,
        started("echo", Path(held)) as echo,
        served(Path(held) / "soak", workers) as service,
    ):
        bare = Service(subprocess.Popen(["true"]), echo.port, Path(held), "none")
        bare.process.wait()
        requests, echoed = Requests(service, "S"), Requests(bare, "E")
        for warmed, calls in ((service, requests), (bare, echoed)):
            put_load(warmed, calls, 2_000, None, 16)
        memory, medians, tails, cpu, bare_medians = [], [], [], [], []
        with WalWatch(service.state) as wal:
            for part in range(PARTS):
                before = service.cpu_s()
                measured, bare_measured = Measured(), Measured()
                for _ in range(SLICES):
                    measured += put_load(service, requests, max(count // PARTS // SLICES, 100), None, 16)
                    bare_measured += put_load(bare, echoed, max(count // PARTS // SLICES // 10, 100), None, 16)
                cpu.append((service.cpu_s() - before) / len(measured.latencies) * 1e6)
                memory.append(service.resident())
                medians.append(measured.percentile(0.5))
                tails.append(measured.percentile(0.99))
                bare_medians.append(bare_measured.percentile(0.5))
                said = f"{memory[-1] / 1e6:.1f} MB, {measured.per_second:.0f}/s, cpu {cpu[-1]:.0f} us"
                print(
                    f"part {part + 1}: {said}, p50 {medians[-1]:.2f}, p99 {tails[-1]:.2f} ms,"
                    f" of a bare route p50 {bare_medians[-1]:.2f} ms",
                    flush=True,
                )
        report(service, count, memory, cpu, medians, tails, bare_medians, wal)


def report(
    service: Service,
    count: int,
    memory: list[int],
    cpu: list[float],
    medians: list[float],
    tails: list[float],
    bare: list[float],
    wal: WalWatch,
) -> None:
    """The figures; exits with 1 when memory, latency or a WAL is out of its bound."""
    tenth = PARTS // 10
    grown = memory[-1] / memory[PARTS // 4 - 1]

    def growth(values: list[float]) -> float:
        return statistics.mean(values[-tenth:]) / statistics.mean(values[tenth : 2 * tenth])

    slower = growth([one / other for one, other in zip(medians, bare, strict=True)])
    figure("soak_screenings", count, "1", 0)
    figure("soak_memory", memory[-1] / 1e6, "MB", 1)
    figure("soak_memory_last_vs_first", grown, "x", 3)
    figure("soak_latency_vs_echo_last_vs_first", slower, "x")
    figure("soak_p50_last_vs_first", growth(medians), "x")
    figure("soak_echo_p50_last_vs_first", growth(bare), "x")
    figure("soak_p99_last_vs_first", growth(tails), "x")
    figure("soak_cpu_last_vs_first", growth(cpu), "x")
    rows = 0
    with closing(sqlite3.connect(service.state / "decisions.db")) as connection:
        rows = connection.execute("SELECT count(*) FROM screenings").fetchone()[0]
        document = connection.execute(
            "SELECT avg(length(document)) FROM (SELECT document FROM screenings ORDER BY id DESC LIMIT 1000)"
        ).fetchone()[0]
    for path in sorted(service.state.glob("*.db")):
        if path.stat().st_size > rows:
            figure(f"soak_bytes_per_screening_{path.stem}", path.stat().st_size / rows, "B", 0)
    figure("soak_document", document, "B", 0)
    for name, size in sorted(wal.largest.items()):
        figure(f"soak_largest_wal_{name.partition('.')[0]}", size / 1e6, "MB", 1)
    too_much = [
        said
        for said, is_wrong in (
            ("memory", grown > BOUND_MEMORY),
            ("latency", slower > BOUND_LATENCY),
            ("a WAL", max(wal.largest.values()) > BOUND_WAL),
        )
        if is_wrong
    ]
    if too_much:
        sys.exit(f"grew beyond its bound: {', '.join(too_much)}")


if __name__ == "__main__":
    main()
