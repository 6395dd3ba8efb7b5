"""The service under load: sustained throughput, and latency at half of it, with enrichment and four counters.

Throughput is that of 16 connections kept busy. Latency is that of calls which come at a fixed rate, half of the
throughput found, counted from when each was due (`load`). The load generator is pinned to one core, the service to
the other; with two workers both share both. The baseline is a bare FastAPI route with the same models, in the same
run, at half of its own throughput and at the same rate as the service.

    python -m tests.benchmarks.bench_service [SECONDS [WORKERS ...]]
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from .bench_http import started
from .load import LOAD_CORE, Measured, Requests, Service, figure, put_load, served


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 15.0
    counts = [int(text) for text in sys.argv[2:]] or [1, 2]
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as held:
        directory = Path(held)
        with started("echo", directory) as echo:
            bare = Service(subprocess.Popen(["true"]), echo.port, directory, "none")
            bare.process.wait()
            echo_rate, echo_half = measure(bare, "echo", seconds)
        for workers in counts:
            cores = "0" if workers == 1 else "0,1"
            with served(directory / f"workers-{workers}", workers, cores) as service:
                before = service.cpu_s()
                rate, half = measure(service, f"w{workers}", seconds)
                used = service.cpu_s() - before
                check_counters(service)
            name = f"service_{workers}"
            figure(f"{name}_cpu", used / recorded(service) * 1e6, "us", 0)
            figure(f"{name}_vs_echo", rate / echo_rate, "x")
            for share, label in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99_9")):
                figure(f"{name}_{label}_vs_echo", half.percentile(share) / echo_half.percentile(share), "x")


def measure(service: Service, name: str, seconds: float) -> tuple[float, Measured]:
    """Throughput, and the latencies at half of it; prints both."""
    requests = Requests(service, name)
    put_load(service, requests, 2_000, None, 16)
    rate = put_load(service, requests, 2_000, None, 16).per_second
    rate = put_load(service, requests, max(int(rate * seconds), 100), None, 16).per_second
    half = put_load(service, requests, max(int(rate / 2 * seconds), 100), rate / 2)
    figure(f"{name}_per_second", rate, "1/s", 0)
    for share, label in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99_9")):
        figure(f"{name}_half_{label}", half.percentile(share), "ms")
    return rate, half


def check_counters(service: Service) -> None:
    """Nothing is measured unless the four counters are kept."""
    with closing(sqlite3.connect(service.state / "decisions.db")) as connection:
        series = connection.execute("SELECT count(DISTINCT series) FROM velocity_series").fetchone()[0]
    if series < 4:
        raise SystemExit(f"{series} counters were kept, not four")


def recorded(service: Service) -> int:
    with closing(sqlite3.connect(service.state / "decisions.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM screenings").fetchone()[0])


if __name__ == "__main__":
    main()
