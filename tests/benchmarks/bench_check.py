"""`fraudengine check` on 1,000 files: the samples under many names, without and with their tests.

Times are of the processor, in a process of its own, so that a busy machine does not change them much.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RULES = Path(__file__).parents[2] / "rules"
SAMPLES = sorted(path for path in (RULES / "merchants").glob("*.yaml") if not path.name.endswith(".test.yaml"))


def make_rules(directory: Path, files: int, *, with_tests: bool) -> None:
    """A rule directory of about so many files."""
    shutil.copytree(RULES, directory, ignore=lambda _, names: [name for name in names if name == "merchants"])
    (directory / "merchants").mkdir()
    for number in range(files // (2 if with_tests else 1)):
        sample = SAMPLES[number % len(SAMPLES)]
        for path in [sample, sample.with_suffix(".test.yaml")][: 1 + with_tests]:
            text = path.read_text(encoding="utf-8").replace(f"merchant: {sample.stem}", f"merchant: m{number}")
            (directory / "merchants" / path.name.replace(sample.stem, f"m{number}")).write_text(text)


def check_seconds(directory: Path) -> float:
    """Processor seconds of one run, start of the program included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", "from fraudengine.cli import main; main()", "check", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        for name, files, with_tests in (
            ("check_start", 4, False),
            ("check_1000_rule_files", 1000, False),
            ("check_500_rule_files_500_test_files", 1000, True),
        ):
            directory = Path(place) / name
            make_rules(directory, files, with_tests=with_tests)
            seconds = min(check_seconds(directory) for _ in range(3))
            print(f"figure {name} {seconds:.2f} s")


if __name__ == "__main__":
    main()
