"""What the service counts about itself: plain integers in each worker, added up over the workers when asked.

Decisions that a reader would question:

- The payment path increments integers of its own, about two microseconds for a screening. prometheus_client writes
  the page (`api/metrics_page`), and stays out of the path: its counters take a lock and its multi-process mode a
  memory-mapped file for each sample.
- Each worker writes its counts to `metrics/worker-NNN.json` in the state directory, every second and when it ends,
  and begins with what its number had counted before. So any worker can answer for all, and counters go on rising
  over a restart. A worker that is killed loses a second of counts; the decision log loses nothing.
- Labels are bounded: merchants that `FRAUDENGINE_METRICS_MERCHANTS` does not name count as `other`, and beyond
  MAX_CODES reason codes the rest count as `OTHER`.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SECONDS: Final = (
    *(0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
)
ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
MAX_CODES: Final = 200
OTHER_MERCHANTS: Final = "other"
STAGES: Final = ("read", "decide", "record", "whole")


class Histogram:
    """How many values fell into each bucket (the last is unbounded), and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        if len(other.counts) == len(self.counts):
            self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
            self.sum += other.sum


@dataclass(slots=True)
class Counts:
    """What one worker, or all of them, counted. `named` are counters without labels of their own."""

    screenings: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # merchant, outcome, code
    stages: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram(SECONDS) for name in STAGES})
    commit: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch: Histogram = field(default_factory=lambda: Histogram(ROWS))
    named: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        self.screenings.update(other.screenings)
        self.named.update(other.named)
        for name, histogram in other.stages.items():
            if name in self.stages:
                self.stages[name].add(histogram)
        self.commit.add(other.commit)
        self.batch.add(other.batch)

    def as_object(self) -> dict[str, object]:
        return {
            "screenings": [[*labels, count] for labels, count in sorted(self.screenings.items())],
            "stages": {name: [h.counts, h.sum] for name, h in self.stages.items()},
            "commit": [self.commit.counts, self.commit.sum],
            "batch": [self.batch.counts, self.batch.sum],
            "named": dict(self.named),
        }


def read_counts(path: Path) -> Counts:
    """The counts of a worker's file; none when there is no such file or it is damaged."""
    counts = Counts()
    with suppress(OSError, ValueError, KeyError, TypeError):
        held = json.loads(path.read_bytes())
        read = Counts()
        read.screenings.update({(merchant, outcome, code): n for merchant, outcome, code, n in held["screenings"]})
        read.named.update(held["named"])
        pairs = [(read.stages[name], value) for name, value in held["stages"].items() if name in read.stages]
        for histogram, (numbers, total) in (*pairs, (read.commit, held["commit"]), (read.batch, held["batch"])):
            if len(numbers) == len(histogram.counts):
                histogram.counts, histogram.sum = list(map(int, numbers)), float(total)
        counts = read
    return counts


class Metrics:
    """The counts of this worker, and through their files those of the others."""

    def __init__(self, directory: Path, worker: int, named_merchants: Iterable[str] = ()) -> None:
        self._directory = directory
        self._path = directory / f"worker-{worker:03d}.json"
        self._named_merchants = frozenset(named_merchants)
        self.counts = read_counts(self._path)
        self._codes = {code for _, _, code in self.counts.screenings}

    def count_screening(
        self, merchant: str, outcome: str, code: str, read_s: float, decide_s: float, record_s: float
    ) -> None:
        """One screening that was decided and recorded, with how long each stage of it took."""
        if merchant not in self._named_merchants:
            merchant = OTHER_MERCHANTS
        if code not in self._codes:
            code = self._admit_code(code)
        counts = self.counts
        counts.screenings[merchant, outcome, code] += 1
        stages = counts.stages
        stages["read"].observe(read_s)
        stages["decide"].observe(decide_s)
        stages["record"].observe(record_s)
        stages["whole"].observe(read_s + decide_s + record_s)

    def _admit_code(self, code: str) -> str:
        if len(self._codes) >= MAX_CODES:
            code = "OTHER"
        self._codes.add(code)
        return code

    def count(self, name: str) -> None:
        self.counts.named[name] += 1

    def write(self) -> None:
        """Writes the counts for the other workers to read; a disk that refuses costs only the page."""
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            draft = self._path.with_suffix(".new")
            draft.write_text(json.dumps(self.counts.as_object()))
            os.replace(draft, self._path)

    def of_all_workers(self) -> Counts:
        """What every worker counted, this one up to now."""
        total = Counts()
        total.add(self.counts)
        for path in sorted(self._directory.glob("worker-*.json")):
            if path != self._path:
                total.add(read_counts(path))
        return total
