"""A service as `fraudengine serve` runs it, with four counters on, and honest load: for bench_service and soak.

Load is open: each call has its time by a fixed rate, and its latency counts from that time, not from when a
connection was free. So a service that stands still for a second shows it in every call that came due meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from .bench_http import MERCHANTS, NETWORKS, ROOT, _port_when_ready, make_pan

COUNTERS = {
    "max_attempts_per_card": 500,
    "max_cards_per_address": 500,
    "max_cards_per_customer": 500,
    "max_refusals_per_address": 5000,
}
SERVER_CORE, LOAD_CORE = 0, 1
USES = 20  # payments of one buyer


@dataclass
class Service:
    """A running service; `pids` are its processes."""

    process: subprocess.Popen[bytes]
    port: int
    state: Path
    key: str

    def pids(self) -> list[int]:
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            try:
                waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                found.append(pid)
            except OSError:
                continue
        return found

    def resident(self) -> int:
        """Bytes in memory that are not another process's as well."""
        total = 0
        for pid in self.pids():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(kb) for kb in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)) * 1024
        return total

    def cpu_s(self) -> float:
        total = 0.0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total


def copy_rules_with_counters(target: Path) -> None:
    """The sample rules with every merchant's figures for the four counters of the house rules filled in."""
    shutil.copytree(ROOT / "rules", target)
    for merchant in MERCHANTS:
        path = target / "merchants" / f"{merchant}.yaml"
        lines = [line for line in path.read_text().splitlines() if line.strip().split(":")[0] not in COUNTERS]
        figures = [f"  {name}: {figure}" for name, figure in COUNTERS.items()]
        if "settings:" in lines:
            place = lines.index("settings:") + 1
            lines[place:place] = figures
        else:
            lines += ["settings:", *figures]
        path.write_text("\n".join(lines) + "\n")


@contextmanager
def served(directory: Path, workers: int = 1, cores: str = str(SERVER_CORE)) -> Iterator[Service]:
    """`fraudengine serve` on the repository's data, with a new state directory, pinned to `cores`."""
    directory.mkdir(parents=True)
    copy_rules_with_counters(directory / "rules")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDENGINE_")}
    environ |= {
        "PYTHONPATH": str(ROOT / "src"),
        "FRAUDENGINE_RULES": str(directory / "rules"),
        "FRAUDENGINE_STATE": str(directory / "var"),
        "FRAUDENGINE_DATA": str(ROOT / "data"),
        "FRAUDENGINE_PORT": "0",
        "FRAUDENGINE_DEVELOPMENT": "1",
        "FRAUDENGINE_WORKERS": str(workers),
    }
    said = directory / "service.log"
    with said.open("w") as errors:
        process = subprocess.Popen(
            ["taskset", "-c", cores, sys.executable, "-m", "fraudengine", "serve"],
            env=environ,
            stderr=errors,
            cwd=directory,
        )
    try:
        port = _port_when_ready(process, said)
        yield Service(process, port, directory / "var", (directory / "var" / "development.key").read_text().strip())
    except BaseException:
        sys.stderr.write(f"--- the service said:\n{said.read_text()[-3000:]}")
        raise
    finally:
        process.terminate()
        process.wait(60)


# ---- requests -------------------------------------------------------------------------------------


class Requests:
    """Calls that differ in merchant, card, address, customer and amount; every one a transaction of its own.

    `buyers` take turns. Each pays USES times and makes room for a new one: so counters are as full after millions
    of calls as after the first minutes, as those of a gateway are, and what grows is the service's own.
    """

    def __init__(self, service: Service, name: str, buyers: int = 5_000) -> None:
        self._chance = random.Random(20261126)
        self._count = self._made = 0
        self._name = name
        self._head = (
            f"POST /v1/screenings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._bodies = [self._buyer() for _ in range(buyers)]

    def _buyer(self) -> bytes:
        chance, number = self._chance, self._made
        self._made += 1
        body: dict[str, Any] = {
            "merchant": chance.choice(MERCHANTS),
            "order_ref": f"C-{number}",
            "amount": f"{chance.randint(1, 900)}.{chance.randint(0, 999):03d}",
            "currency": "TND",
            "channel": "ecommerce",
            "card": {"pan": make_pan(chance)},
            "ip_address": f"{chance.choice(NETWORKS)}.{chance.randint(0, 255)}.{chance.randint(1, 254)}",
            "email": f"buyer{number}@example.tn",
            "customer_id": f"c-{number}",
            "billing_country": "TN",
        }
        return json.dumps(body)[:-1].encode() + b', "transaction_id": "'

    def next(self) -> bytes:
        self._count += 1
        turn, place = divmod(self._count, len(self._bodies))
        if (turn + place) % USES == 0:
            self._bodies[place] = self._buyer()
        body = self._bodies[place] + f'{self._name}-{self._count}"}}'.encode()
        return self._head + b"%d\r\n\r\n" % len(body) + body


# ---- load -----------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What one run of load saw: seconds from when each call was due to its answer, in the order of answers."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e3

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def __add__(self, later: Measured) -> Measured:
        return Measured(self.latencies + later.latencies, self.failed + later.failed, self.seconds + later.seconds)


class _Connection(asyncio.Protocol):
    """One keep-alive connection: a call at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._due = 0.0
        self._held = b""
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by its class

    def send(self, due: float, request: bytes) -> None:
        assert self.transport is not None
        self._due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        held = self._held + data
        end = held.find(b"\r\n\r\n")
        if end >= 0:
            found = re.search(rb"content-length: (\d+)", held[:end], re.IGNORECASE)
            if found is not None and len(held) >= end + 4 + int(found[1]):
                self._held = b""
                self._load.answered(self, self._due, held.startswith(b"HTTP/1.1 200"))
                return
        self._held = held

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost()


class _Load:
    def __init__(self, requests: Requests, count: int, rate: float | None) -> None:
        self.measured = Measured()
        self._requests, self._count, self._rate = requests, count, rate
        self._idle: deque[_Connection] = deque()
        self._sent = 0
        self._done = asyncio.Event()
        self._closing = False

    async def run(self, port: int, connections: int) -> Measured:
        loop = asyncio.get_running_loop()
        opened = []
        for _ in range(connections):
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
            opened.append(connection)
        self._idle.extend(opened)
        self._began = time.perf_counter()
        self._pump()
        while not self._done.is_set():
            await asyncio.sleep(0.0005)
            self._pump()
        self.measured.seconds = time.perf_counter() - self._began
        self._closing = True
        for connection in opened:
            assert connection.transport is not None
            connection.transport.close()
        return self.measured

    def _pump(self) -> None:
        """Sends every call that is due, as far as connections are free."""
        now = time.perf_counter()
        while self._idle and self._sent < self._count:
            due = now if self._rate is None else self._began + self._sent / self._rate
            if due > now:
                return
            self._sent += 1
            self._idle.popleft().send(due, self._requests.next())

    def answered(self, connection: _Connection, due: float, is_well: bool) -> None:
        self.measured.latencies.append(time.perf_counter() - due)
        self.measured.failed += not is_well
        self._idle.append(connection)
        if len(self.measured.latencies) == self._count:
            self._done.set()
        else:
            self._pump()

    def lost(self) -> None:
        if not self._closing:
            raise SystemExit("the service closed a connection under load")


def put_load(
    service: Service, requests: Requests, count: int, rate: float | None, connections: int = 64
) -> Measured:
    """Sends `count` calls at `rate` a second (None: each connection as fast as it is answered)."""

    async def run() -> Measured:
        return await _Load(requests, count, rate).run(service.port, connections)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(run())
    if measured.failed:
        raise SystemExit(f"{measured.failed} of {count} calls were not answered with 200")
    return measured


def figure(name: str, value: float, unit: str, digits: int = 2) -> None:
    print(f"figure {name} {value:.{digits}f} {unit}", flush=True)
