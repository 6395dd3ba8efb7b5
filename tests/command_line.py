"""Runs the program in this process, with what it prints and its exit code, for tests of commands."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest.mock import patch

from fraudengine.cli import main

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: object) -> Ran:
    """The program with these arguments; no terminal, so no colours."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch("sys.argv", ["fraudengine", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
    return Ran(code, out.getvalue(), err.getvalue())


def fraudengine_here(
    *arguments: str, stdin: str = "", directory: str | Path = REPOSITORY, **environment: str
) -> CompletedProcess[str]:
    """`running.fraudengine` in this process: a second sooner."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDENGINE_")}
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    with (
        patch.dict("os.environ", clean | environment, clear=True),
        patch("sys.stdin", given),
        contextlib.chdir(directory),
        _logging_left_alone(),
    ):
        ran = run(*arguments)
    return CompletedProcess(arguments, ran.code, ran.out, ran.err)


@contextlib.contextmanager
def _logging_left_alone() -> Iterator[None]:
    """`screen` sends the log of its process to standard error; here the process is that of the tests."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def write_rules(directory: Path, **files: str) -> Path:
    """A rule directory; `merchants__shop` is the file merchants/shop.yaml, `merchants__shop__test` its tests."""
    for name, text in files.items():
        path = directory / (name.replace("__test", ".test").replace("__", "/").replace("_", "-") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory


def sample_rules(directory: Path) -> Path:
    """A copy of the rules of the repository, to be changed."""
    shutil.copytree(REPOSITORY / "rules", directory / "rules")
    return directory / "rules"
