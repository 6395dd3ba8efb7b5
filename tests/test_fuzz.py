"""atheris on the readers of what comes from outside, from a corpus of good files; a finding is kept as a file.

What is kept in `tests/fuzz` is read again in every run, without atheris, each in a time that no bomb may exceed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fraudengine.request_schema import EXAMPLE

from .fuzz_targets import TARGETS
from .running import REPOSITORY

FOUND = Path(__file__).with_name("fuzz")
KEPT = sorted(path for target in TARGETS for path in FOUND.glob(f"{target}-*"))
MOST_SECONDS = 2.0  # for a few kB, on a busy machine; what grows with the square of its input takes longer


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_what_was_found_once_breaks_nothing_any_more(path: Path) -> None:
    content = path.read_bytes()
    started = time.process_time()
    TARGETS[path.name.partition("-")[0]](content)
    assert time.process_time() - started < MOST_SECONDS


@pytest.mark.parametrize("opened", [b"[", b'{"a":', b'{"metadata":{"a":', b'{"a":[{"b":'], ids=repr)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "unclosed"])
def test_nesting_as_deep_as_a_body_may_be_is_refused_at_once(opened: bytes, closed: bool) -> None:
    """65,536 bytes are the most that is read; a reader that recursed would take seconds or end the process."""
    closing = bytes({ord("["): ord("]"), ord("{"): ord("}")}[byte] for byte in reversed(opened) if byte in b"[{")
    most = 65_536 // (len(opened) + len(closing)) if closed else 65_536 // len(opened)
    body = opened * most + (b"1" + closing * most if closed else b"")
    started = time.process_time()
    TARGETS["body"](body)
    assert time.process_time() - started < 0.1


def fuzz(target: str, corpus: Path, runs: int, seconds: int) -> None:
    corpus.mkdir()
    (corpus / "numbers.txt").write_text("4111 1111 1111 1111, 5555-5555-5555-4444")
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


@pytest.mark.parametrize("target", list(TARGETS))
def test_no_bytes_break_a_reader(target: str, tmp_path: Path) -> None:
    fuzz(target, tmp_path / "corpus", 10_000, 4)


@pytest.mark.long
@pytest.mark.parametrize("target", list(TARGETS))
def test_many_more_bytes_break_no_reader(target: str, tmp_path: Path) -> None:
    fuzz(target, tmp_path / "corpus", 2_000_000, 300)
