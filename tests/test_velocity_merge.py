"""The tail of velocity events and its merge into the index: what is counted is the same at every moment of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine import batch_writer
from fraudengine.decision_log import DecisionLog
from fraudengine.velocity import value_of
from fraudengine.velocity_index import CounterReader
from fraudengine.velocity_merge import MergeThread, TailMerge, is_due
from tests.test_velocity import ATTEMPTS, SUBJECT, past
from tests.velocity_cases import MINUTE_US, NOW_US, Driven, Step, histories, planned


def merge(path: Path, pieces: int = 1_000_000, chunk: int = 1) -> bool:
    """A merge that is told to stop after so many transactions."""
    return TailMerge(path, threading.Lock(), stopping_after(pieces), chunk).run()


def stopping_after(pieces: int) -> Callable[[], bool]:
    left = iter(range(pieces))
    return lambda: next(left, None) is not None


def rows_of(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), st.lists(st.integers(-6, 12), min_size=8, max_size=8), st.sampled_from([None, 1, 3]))
def test_counts_are_the_laws_at_every_moment_of_a_merge(
    history: list[Step], pieces: list[int], at_most: int | None
) -> None:
    """Merges are cut off anywhere; a second process, which seldom looks, counts the same."""
    reader = CounterReader(planned(at_most))
    with TemporaryDirectory() as directory:
        path = Path(directory) / "log.db"
        with DecisionLog.open(path) as log, DecisionLog.open(path) as other:
            driven, seldom = Driven(log), Driven(other)
            driven.keep()
            for number, step in enumerate(history):
                if step.call is not None:
                    call, counted = driven.count(step.call, reader)
                    expected = {
                        one.counter.name: value
                        for one in reader.counters
                        if (value := value_of(one.counter, call, driven.calls, driven.reports, one.at_most))
                        is not None
                    }
                    assert counted == expected
                    if number % 4 == 0:
                        assert seldom.count(step.call, reader)[1] == expected
                    driven.record(call)
                elif step.kind is not None and driven.calls:
                    driven.report(driven.calls[step.report_on % len(driven.calls)], step.kind)
                if (count := pieces[number % len(pieces)]) > 0:
                    merge(path, count)


def test_a_merge_moves_all_of_the_tail_and_what_comes_meanwhile_stays(tmp_path: Path) -> None:
    path, reader = tmp_path / "log.db", CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(path) as log:
        driven = Driven(log)
        driven.keep((ATTEMPTS,))
        for number in range(10):
            driven.record(driven.count(past(0, transaction_id=f"A{number}"), reader)[0])
        assert not merge(path, 4)
        driven.record(driven.count(past(0, transaction_id="meanwhile"), reader)[0])
        assert merge(path)
        assert (rows_of(path, "velocity_events"), rows_of(path, "velocity_tail")) == (10, 1)
        assert driven.count(SUBJECT, reader)[1] == {"attempts": 11}
        assert merge(path)
        assert (rows_of(path, "velocity_events"), rows_of(path, "velocity_tail")) == (11, 0)
        driven.record(driven.count(past(0, transaction_id="afterwards"), reader)[0])
        assert driven.count(SUBJECT, reader)[1] == {"attempts": 12}
    with DecisionLog.open(path) as log:
        assert Driven(log).count(SUBJECT, reader)[1] == {"attempts": 12}


def test_only_one_merges(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    DecisionLog.open(path).close()
    inner: list[bool] = []

    def go_on() -> bool:
        inner.append(merge(path))
        return True

    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "INSERT INTO velocity_tail (at_us, screening_id, classes, currency, place_0, key_low_0, value_0)"
            " VALUES (1, 2, 3, 4, 5, 6, 7)"
        )
        database.commit()
    assert TailMerge(path, threading.Lock(), go_on).run()
    assert inner == [False, False]


def test_a_merge_that_was_killed_is_taken_up_again(tmp_path: Path) -> None:
    path, reader = tmp_path / "log.db", CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(path) as log:
        driven = Driven(log)
        driven.keep((ATTEMPTS,))
        for number in range(20):
            driven.record(driven.count(past(0, transaction_id=f"A{number}"), reader)[0])
    killed = (
        "import os, signal, sys, threading; from pathlib import Path\n"
        "from fraudengine.velocity_merge import TailMerge\n"
        "left = iter(range(int(sys.argv[2])))\n"
        "go_on = lambda: next(left, None) is not None or os.kill(os.getpid(), signal.SIGKILL)\n"
        "TailMerge(Path(sys.argv[1]), threading.Lock(), go_on, 1).run()\n"
    )
    for pieces in (7, 22):  # while rows are inserted, and while they are deleted
        done = subprocess.run(
            [sys.executable, "-c", killed, str(path), str(pieces)],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        assert rows_of(path, "velocity_tail") > 0
        with DecisionLog.open(path) as log:
            assert Driven(log).count(SUBJECT, reader)[1] == {"attempts": 20}
            assert is_due(log._writer.connect())
    assert merge(path)
    assert (rows_of(path, "velocity_events"), rows_of(path, "velocity_tail")) == (20, 0)
    with DecisionLog.open(path) as log:
        assert Driven(log).count(SUBJECT, reader)[1] == {"attempts": 20}


def test_the_writer_begins_merges_and_counts_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two logs write and count while merges run: every count is exact."""
    monkeypatch.setattr(batch_writer, "_CHECKPOINT_ROWS", 10)
    path, reader = tmp_path / "log.db", CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(path) as one, DecisionLog.open(path) as other:
        for log in (one, other):
            log._writer.merges = MergeThread(path, log._writer.turn, merge_rows=15)
        first, second = Driven(one), Driven(other)
        first.keep((ATTEMPTS,))
        for number in range(200):
            driven = (first, second)[number % 2]
            at_us = NOW_US - MINUTE_US + number
            call, counted = driven.count(past(0, at_us, transaction_id=f"A{number}"), reader)
            assert counted == {"attempts": number}
            driven.record(call)
    assert rows_of(path, "velocity_events") >= 100
    assert rows_of(path, "velocity_tail") < 100
