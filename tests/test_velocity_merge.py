"""The tail of velocity events and its merge into the index: what is counted is the same at every moment of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine import batch_writer, velocity_merge
from fraudengine.decision_log import DecisionLog
from fraudengine.velocity import value_of
from fraudengine.velocity_index import CounterReader
from fraudengine.velocity_merge import PIECE_EVERY_S, RETRY_S, Merging, TailMerge, is_due
from tests.running import wait_until
from tests.test_velocity import ATTEMPTS, SUBJECT, past
from tests.velocity_cases import MINUTE_US, NOW_US, Driven, Step, histories, planned


def merge(path: Path, pieces: int = 1_000_000, piece: int = 1) -> bool:
    """A merge that is cut off after so many transactions."""
    with closing(TailMerge(path, piece)) as one:
        return one.begin() and any(not one.move() for _ in range(pieces))


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
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "INSERT INTO velocity_tail (at_us, screening_id, classes, currency, place_0, key_low_0, value_0)"
            " VALUES (1, 2, 3, 4, 5, 6, 7)"
        )
        database.commit()
    with closing(TailMerge(path)) as one:
        assert one.begin()
        assert not merge(path)
        assert one.move()
        assert not merge(path)
    assert merge(path)


def test_a_merge_that_was_killed_is_taken_up_again(tmp_path: Path) -> None:
    path, reader = tmp_path / "log.db", CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(path) as log:
        driven = Driven(log)
        driven.keep((ATTEMPTS,))
        for number in range(20):
            driven.record(driven.count(past(0, transaction_id=f"A{number}"), reader)[0])
    killed = (
        "import os, signal, sys; from pathlib import Path\n"
        "from fraudengine.velocity_merge import TailMerge\n"
        "merge = TailMerge(Path(sys.argv[1]), 1)\n"
        "assert merge.begin()\n"
        "assert all(merge.move() for _ in range(int(sys.argv[2])))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
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
            log._writer.merges = Merging(path, partial(log._wake.put, None), merge_rows=15)
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


def test_a_merge_is_ended_although_no_record_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer sleeps when the merge is prepared; another process could not merge meanwhile."""
    monkeypatch.setattr(batch_writer, "_CHECKPOINT_ROWS", 10)
    path, reader = tmp_path / "log.db", CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(path) as log:
        merges = log._writer.merges = Merging(path, partial(log._wake.put, None), merge_rows=15)
        driven = Driven(log)
        driven.keep((ATTEMPTS,))
        for number in range(20):
            driven.record(driven.count(past(0, transaction_id=f"A{number}"), reader)[0])
        wait_until(lambda: rows_of(path, "velocity_events") >= 16 and not merges.is_under_way, "it is merged")
        assert merge(path), "the lock is free again"
        assert driven.count(SUBJECT, reader)[1] == {"attempts": 20}


@pytest.mark.parametrize("broken", ["begin", "move"])
def test_a_merge_that_fails_as_nobody_foresaw_leaves_payments_and_other_merges_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(batch_writer, "_CHECKPOINT_ROWS", 10)
    whole = getattr(TailMerge, broken)
    failed = threading.Event()

    def fail(merge: TailMerge) -> bool:
        whole(merge)
        failed.set()
        raise sqlite3.OperationalError("no such table")

    path, reader = tmp_path / "log.db", CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(path) as log:
        log._writer.merges = Merging(path, partial(log._wake.put, None), merge_rows=15)
        driven = Driven(log)
        driven.keep((ATTEMPTS,))
        with monkeypatch.context() as patch:
            patch.setattr(TailMerge, broken, fail)
            for number in range(40):
                driven.record(driven.count(past(0, transaction_id=f"A{number}"), reader)[0])
            assert failed.wait(30)
            wait_until(lambda: not log._writer.merges.is_under_way, "it is given up")
        driven.record(driven.count(past(0, transaction_id="afterwards"), reader)[0])
        wait_until(lambda: merge(path), "the lock is free")
        assert driven.count(SUBJECT, reader)[1] == {"attempts": 41}


@pytest.fixture
def merging(tmp_path: Path) -> Iterator[Merging]:
    """A merge that is prepared, of 4,500 events."""
    path = tmp_path / "log.db"
    DecisionLog.open(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.executemany(
            "INSERT INTO velocity_tail (at_us, screening_id, classes, currency, place_0, key_low_0, value_0)"
            " VALUES (?, 2, 3, 4, 5, 6, 7)",
            [(number,) for number in range(4_500)],
        )
        database.commit()
        prepared = threading.Event()
        made = Merging(path, prepared.set, merge_rows=100)
        made.begin_if_due(database)
    assert prepared.wait(30)
    yield made
    made.stop()


def test_under_load_pieces_come_by_time_and_else_as_they_can(
    merging: Merging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic() + 1.0
    monkeypatch.setattr("fraudengine.velocity_merge.time.monotonic", lambda: now)
    assert [merging.go_on(nobody_waits=False) for _ in range(3)] == [1, 0, 0]
    now += PIECE_EVERY_S
    assert [merging.go_on(nobody_waits=False) for _ in range(2)] == [1, 0]
    assert rows_of(tmp_path / "log.db", "velocity_events") == 2_000
    while merging.is_under_way:
        merging.go_on(nobody_waits=True)
    assert rows_of(tmp_path / "log.db", "velocity_events") == 4_500
    assert rows_of(tmp_path / "log.db", "velocity_tail") == 0
    assert merging.go_on(nobody_waits=True) == 0


def test_a_machine_that_gives_no_thread_only_puts_the_merge_off(
    merging: Merging, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with closing(sqlite3.connect(tmp_path / "log.db")) as database:
        merging.stop()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            merging.begin_if_due(database)
        assert "velocity events wait to be merged: can't start new thread" in caplog.text
        later = time.monotonic() + RETRY_S
        monkeypatch.setattr("fraudengine.velocity_merge.time.monotonic", lambda: later)
        merging.begin_if_due(database)
    wait_until(lambda: merging.is_under_way, "it is tried again")


def test_a_merge_that_cannot_write_is_left_to_others_and_tried_again_later(
    merging: Merging, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert merging.go_on(nobody_waits=True) == 1
    assert not merge(tmp_path / "log.db")
    assert merging._prepared is not None
    assert merging._prepared._connection is not None
    merging._prepared._connection.execute("PRAGMA query_only = ON")
    assert merging.go_on(nobody_waits=True) == 0
    assert "velocity events wait to be merged" in caplog.text
    with closing(sqlite3.connect(tmp_path / "log.db")) as database:
        thread = merging._thread
        merging.begin_if_due(database)
        assert merging._thread is thread, "not at once"
        later = time.monotonic() + RETRY_S
        monkeypatch.setattr("fraudengine.velocity_merge.time.monotonic", lambda: later)
        merging.begin_if_due(database)
        assert merging._thread is not thread
        merging.stop()
    assert merge(tmp_path / "log.db")
    assert rows_of(tmp_path / "log.db", "velocity_events") == 4_500


def test_the_log_is_not_read_while_events_are_sorted(tmp_path: Path) -> None:
    """A reader that is at it for half a second would hold up every checkpoint, and with it the payments."""
    DecisionLog.open(tmp_path / "log.db").close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as database:
        for statement in velocity_merge._PREPARE:
            database.execute(statement)
        steps = database.execute(f"EXPLAIN {velocity_merge._SORT}").fetchall()
    assert [step[2] for step in steps if step[1] == "Transaction"] == [1], "1 is the database of temporary tables"
