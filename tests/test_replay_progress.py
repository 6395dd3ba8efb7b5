"""What a replay shows while it runs: how far it is, how fast, how long it still takes; on a terminal alone."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fraudengine.cli import replaying
from tests.replaying import RULES, configuration, make_history


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rate_and_time_left_are_those_of_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, clock = Terminal(), [100.0]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    bar = replaying.ProgressBar()
    bar.expect("deciding", 40_000)
    bar.show("reading h.csv: 40,000 rows", 0.0)
    bar.show("deciding", 0.0)
    clock[0] += 5
    bar.show("deciding", 0.25)
    last = terminal.getvalue().rpartition("\r")[2].rstrip()
    assert last == "deciding [######..................]  25%, 15 s left, 2,000 rows/s"
    bar.show("exporting flips", 0.5)
    assert "rows/s" not in terminal.getvalue().rpartition("\r")[2], "nobody said how many flips there are"
    bar.clear()
    assert terminal.getvalue().rpartition("\r")[2] == ""


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    bar = replaying.ProgressBar()
    bar.show("deciding", 0.5)
    bar.clear()
    assert file.getvalue() == ""


def test_the_command_draws_it_on_a_terminal(tmp_path: Path) -> None:
    make_history(tmp_path / "h.parquet", 1_000)
    configuration(tmp_path / "state")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fraudengine", "replay", "h.parquet", "--rules", RULES, "--state", "state"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65_536)
        except OSError:  # how a pseudo-terminal says that its other end is closed
            break
    os.close(ours)
    assert process.wait(60) == 0, shown
    lines = [line for line in shown.decode().split("\r") if line.startswith("deciding")]
    assert re.fullmatch(r"deciding \[#{24}\] 100%, 0 s left, [0-9,]+ rows/s *", lines[-1])
