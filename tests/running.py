"""A real service in a real process on a loopback port, for tests of what a user meets."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from fraudengine.access import AccessKeys, Role
from fraudengine.audit import AuditLog
from fraudengine.config import Config
from fraudengine.environment import environment_of

REPOSITORY = Path(__file__).parent.parent
PATIENCE_S = 30.0

CARD = {"pan": "4111111111111111", "country": "TN"}
TRANSACTION: dict[str, Any] = {
    "merchant": "carthage-market",
    "transaction_id": "T-1",
    "at": "2026-11-23T10:15:00Z",
    "amount": "50.000",
    "currency": "TND",
    "card": CARD,
    "ip_address": "41.226.11.9",
}


@dataclass
class Service:
    """A running `fraudengine serve` with its directories; `stderr` holds what it said so far."""

    process: subprocess.Popen[str]
    url: str
    rules: Path
    state: Path
    data: Path
    client: httpx.Client
    stderr: list[str] = field(default_factory=list)

    def screen(self, **changes: Any) -> httpx.Response:
        """Sends the ordinary transaction with what differs."""
        return self.client.post("/v1/screenings", json=TRANSACTION | changes)

    def problems(self) -> list[str]:
        found = self.client.get("/readyz").json()["problems"]
        assert isinstance(found, list)
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def wait_until(claim: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> float:
    """Waits for the claim to hold and returns how long that took; fails when it does not."""
    started = time.monotonic()
    while not claim():
        assert time.monotonic() - started < within_s, f"waited {within_s} s in vain: {what}"
        time.sleep(0.01)
    return time.monotonic() - started


def copy_rules(target: Path) -> Path:
    shutil.copytree(REPOSITORY / "rules", target)
    return target


def copy_data(target: Path) -> Path:
    target.mkdir()
    for name in ("ip-country.mmdb", "bins.dat"):
        shutil.copy(REPOSITORY / "data" / name, target / name)
    return target


@contextmanager
def running_service(
    directory: Path,
    environment: Mapping[str, str] | None = None,
    *,
    arguments: tuple[str, ...] = (),
    verify: Path | None = None,
) -> Iterator[Service]:
    """Serves copies of the sample rules and data from below `directory`; what is there is used as it is."""
    directory.mkdir(exist_ok=True)
    rules = directory / "rules"
    data = directory / "data"
    if not rules.exists():
        copy_rules(rules)
    if not data.exists():
        copy_data(data)
    settings = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDENGINE_")}
    settings |= {
        "FRAUDENGINE_RULES": str(rules),
        "FRAUDENGINE_STATE": str(directory / "var"),
        "FRAUDENGINE_DATA": str(data),
        "FRAUDENGINE_PORT": "0",
        "FRAUDENGINE_DEVELOPMENT": "1",
        **(environment or {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "fraudengine", "serve", *arguments],
        env=settings,
        cwd=directory,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    said: list[str] = []
    reader = threading.Thread(target=_read, args=(process, lines, said), daemon=True)
    reader.start()
    try:
        url = _ready_url(lines, said)
        trusted = ssl.create_default_context(cafile=verify) if verify is not None else True
        headers = key_headers(directory / "var")
        with httpx.Client(base_url=url, timeout=PATIENCE_S, headers=headers, verify=trusted) as client:
            yield Service(process, url, rules, directory / "var", data, client, said)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        reader.join(PATIENCE_S)
        assert process.stderr is not None
        process.stderr.close()


def key_headers(state: Path) -> dict[str, str]:
    """The header of a key that may do everything: the one that `make run` prints, else one made now."""
    held = state / "development.key"
    if held.exists():
        return {"authorization": f"Bearer {held.read_text().strip()}"}
    with AuditLog(state) as audit, AccessKeys(state, environment_of(Config(state=state)), audit) as keys:
        key, _ = keys.create("tests", Role.ADMIN, by="tests")
    return {"authorization": f"Bearer {key}"}


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None], said: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        lines.put(line)
    lines.put(None)


def _ready_url(lines: queue.Queue[str | None], said: list[str]) -> str:
    while (line := lines.get(timeout=PATIENCE_S)) is not None:
        found = re.search(r"ready on (https?://\S+)", line)
        if found:
            return found[1]
    raise AssertionError("the service ended before it was ready:\n" + "".join(said))


def files_below(directory: Path) -> dict[Path, bytes]:
    """Every file below a directory with its content."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def fraudengine(
    *arguments: str, stdin: str = "", directory: str | Path = REPOSITORY, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs one command in that directory, in a process of its own, with no settings of the surroundings.

    Where a process of its own shows nothing more, `command_line.fraudengine_here` is a second faster.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDENGINE_")}
    return subprocess.run(
        [sys.executable, "-m", "fraudengine", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=clean | environment,
        cwd=directory,
        timeout=60,
        check=False,
    )
