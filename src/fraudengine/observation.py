"""What a running screener shows of itself: its counters brought together, and the state of its parts as gauges."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from .decision_log import DecisionLog
from .engine import Engine
from .lookups import DataFiles
from .metrics import Counts, Metrics
from .rules.library import Library

LIST_SIZES_SECONDS: Final = 30.0

Gauges = dict[str, dict[tuple[str, ...], float]]


class Observation:
    """Counters and gauges of one worker. `persist` and `gauges` open files and may run on any thread."""

    def __init__(
        self,
        metrics: Metrics,
        log: DecisionLog,
        engine: Engine,
        data: DataFiles,
        library: Library,
        lists: Path | None,
        health: Callable[[], tuple[bool, int]],
    ) -> None:
        self.metrics = metrics
        self._log, self._engine, self._data, self._library, self._lists = log, engine, data, library, lists
        self._health = health
        self._taken: dict[str, int] = {}
        self._list_sizes: dict[tuple[str, ...], float] = {}
        self._sizes_at = 0.0
        log.counts = metrics.counts

    def counted(self) -> Counts:
        """The counts of all workers up to now."""
        self._take_over()
        return self.metrics.of_all_workers()

    def persist(self) -> None:
        """Writes this worker's counts for the others, and for its successor."""
        self._take_over()
        self.metrics.write()

    def _take_over(self) -> None:
        """Adds what the parts counted since the last time."""
        now = {
            "fault_online": self._engine.online_faults,
            "fault_reference": self._engine.reference_faults,
            "log_rows": self._log.rows,
            "log_failures": self._log.failed_batches,
            "log_refused": self._log.refused,
            "log_overtaken": self._log.overtaken,
        }
        for name, count in now.items():
            self.metrics.counts.named[name] += max(0, count - self._taken.get(name, 0))
        self._taken = now

    def gauges(self) -> Gauges:
        """How things are now; the counts of list entries are at most LIST_SIZES_SECONDS old."""
        ready, problems = self._health()
        snapshot = self._library.snapshot
        found: Gauges = {
            "ready": {(): float(ready)},
            "problems": {(): float(problems)},
            "rule_files_refused": {(): float(len(snapshot.refusals))},
            "rule_sets": {(): float(len(snapshot.rule_sets))},
            "data_age_seconds": {(name,): data_age_s(day) for name, day in self._data.dates.items()},
            "list_entries": self._sizes(),
            "log_waiting": {(): float(self._log.waiting)},
            "log_bytes": {(): float(log_bytes(self._log.path))},
            "worker_resident_bytes": {(): float(_resident_bytes())},
        }
        with suppress(OSError):
            found["disk_free_bytes"] = {(): float(shutil.disk_usage(self._log.path.parent).free)}
        return found

    def _sizes(self) -> dict[tuple[str, ...], float]:
        if self._lists is not None and time.monotonic() >= self._sizes_at:
            self._sizes_at = time.monotonic() + LIST_SIZES_SECONDS
            with suppress(sqlite3.Error):
                self._list_sizes = count_entries(self._lists)
        return self._list_sizes


def count_entries(path: Path) -> dict[tuple[str, ...], float]:
    """Entries that nobody removed, by list and kind."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT l.name, l.kind, sum(e.n) FROM lists l JOIN (SELECT list_id, count(*) AS n FROM entries"
            " INDEXED BY entries_kept WHERE removed_us IS NULL GROUP BY list_id) e ON e.list_id = l.id"
            " GROUP BY l.name, l.kind"
        ).fetchall()
    return {(name, kind): float(number) for name, kind, number in rows}


def data_age_s(day: str, now: float | None = None) -> float:
    """Seconds since the day (YYYY-MM-DD) began in UTC; not a number for no date."""
    try:
        began = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return float("nan")
    return (time.time() if now is None else now) - began


def log_bytes(path: Path) -> int:
    total = 0
    for name in (path, Path(f"{path}-wal")):
        with suppress(OSError):
            total += os.stat(name).st_size
    return total


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
