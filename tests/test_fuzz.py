"""atheris on the readers of what comes from outside, from a corpus of good files; a finding is kept as a file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fraudengine.request_schema import EXAMPLE

from .running import REPOSITORY

FOUND = Path(__file__).with_name("fuzz")  # counterexamples, run again each time


def fuzz(target: str, corpus: Path, runs: int, seconds: int) -> None:
    corpus.mkdir()
    if target == "rules":
        for path in (REPOSITORY / "rules").rglob("*.yaml"):
            shutil.copy(path, corpus / path.name)
    else:
        (corpus / "example.json").write_text(json.dumps(EXAMPLE))
    for path in FOUND.glob(f"{target}-*"):
        shutil.copy(path, corpus / path.name)
    command = [sys.executable, "-m", "tests.fuzz_readers", target, str(corpus), f"-runs={runs}"]
    limits = [
        f"-max_total_time={seconds}",
        "-seed=7",
        "-max_len=4096",
        "-timeout=10",
        f"-artifact_prefix={corpus}-",
    ]
    ended = subprocess.run([*command, *limits], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert ended.returncode == 0, ended.stderr[-4_000:] + f"\nkeep the input named there as {FOUND}/{target}-NAME"


@pytest.mark.parametrize("target", ["rules", "body"])
def test_no_bytes_break_a_reader(target: str, tmp_path: Path) -> None:
    fuzz(target, tmp_path / "corpus", 10_000, 5)


@pytest.mark.long
@pytest.mark.parametrize("target", ["rules", "body"])
def test_many_more_bytes_break_no_reader(target: str, tmp_path: Path) -> None:
    fuzz(target, tmp_path / "corpus", 2_000_000, 300)
