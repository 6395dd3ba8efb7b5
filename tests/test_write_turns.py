"""Processes that write one log take turns; nobody starves, and nobody waits for a process that stands still."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fraudengine import write_turns
from fraudengine.decision_log import APPENDED, DecisionLog
from fraudengine.write_turns import PATIENCE_S, WriteTurns

from .log_worker import make_record

HOLDING = """
import sys, time
from pathlib import Path
from fraudengine.write_turns import WriteTurns
with WriteTurns(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(600)
"""
GREEDY = """
import sys, time
from pathlib import Path
from fraudengine.write_turns import WriteTurns
turns = WriteTurns(Path(sys.argv[1]))
print("writing", flush=True)
while True:
    with turns:
        time.sleep(0.002)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.db"


@contextmanager
def other_process(path: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes the log; at the end it is killed."""
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def seconds_until_turn(turns: WriteTurns) -> float:
    time.sleep(0.003)  # the others go on meanwhile
    began = time.monotonic()
    with turns:
        return time.monotonic() - began


@pytest.mark.parametrize("neighbours", [1, 2])
def test_nobody_starves_beside_those_who_always_have_something_to_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, neighbours: int
) -> None:
    monkeypatch.setattr(write_turns, "PATIENCE_S", 30.0)
    turns = WriteTurns(path)
    with ExitStack() as running:
        for _ in range(neighbours):
            running.enter_context(other_process(path, GREEDY))
        waited = [seconds_until_turn(turns) for _ in range(15)]
        assert statistics.median(waited) < 0.1, waited
    turns.close()


def test_a_process_that_dies_has_no_turn_any_more(path: Path) -> None:
    turns = WriteTurns(path)
    with other_process(path, HOLDING) as process:
        process.kill()
        process.wait()
        assert seconds_until_turn(turns) < PATIENCE_S
    turns.close()


def test_payments_do_not_wait_for_a_process_that_stands_still_in_its_turn(path: Path) -> None:
    with DecisionLog.open(path) as log, other_process(path, HOLDING):
        began = time.monotonic()
        assert log.append_and_wait(make_record(log, "T-1")) is APPENDED
        waited = time.monotonic() - began
        assert waited >= PATIENCE_S, "it did wait its turn"
        for number in range(20):
            assert log.append_and_wait(make_record(log, f"T-{number}-after")) is APPENDED
        assert time.monotonic() - began - waited < 10 * PATIENCE_S, "the next ones do not wait again"
    with DecisionLog.open(path) as log, WriteTurns(path):
        assert log.append_and_wait(make_record(log, "T-2")) is APPENDED


def test_turns_that_cannot_be_marked_are_not_taken(tmp_path: Path) -> None:
    turns = WriteTurns(tmp_path / "nowhere" / "decisions.db")
    with turns, turns:
        pass
    turns.close()
