"""Whole screenings over HTTP against a bare FastAPI route with the same request and response models.

Both servers are one uvicorn process on uvloop and httptools, pinned to the same core; wrk is pinned to another and
keeps 16 connections busy with requests that differ in transaction, card, address, amount and merchant. They take
turns, so that a machine that slows down slows both. Ours enriches from the real tables, decides by the sample
merchants' rules and has every record durable before it answers; at the end the log must hold every answer.

    python -m tests.benchmarks.bench_http [ROUNDS [SECONDS]]
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fraudengine.api.answers import ScreeningAnswer
from fraudengine.cards import luhn_ok
from fraudengine.config import Config
from fraudengine.request_schema import EXAMPLE, ScreeningRequest

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = 16
VARIANTS = 2_000
SERVER_CORE, WRK_CORE = "0", "1"
MERCHANTS = ("carthage-market", "sahara-travel", "medina-topup", "yasmine-donations")
BINS = (
    "407024",
    "404383",
    "404763",
    "412545",
    "410968",
    "414646",
    "402379",
    "405664",
    "497010",
    "457173",
    "546616",
)
NETWORKS = ("41.226", "197.0", "196.203", "102.152", "81.2", "8.8", "90.80", "2.16")

WRK_SCRIPT = """
local prefix, round = dofile("{variants}"), "{round}"
local sent = 0
local headers = {{["content-type"] = "application/json", ["authorization"] = "Bearer {key}"}}
request = function()
  sent = sent + 1
  local body = prefix[sent % #prefix + 1] .. "T-" .. round .. "-" .. sent .. '"}}'
  return wrk.format("POST", "/v1/screenings", headers, body)
end
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Round:
    per_second: float
    p50_us: int
    p99_us: int
    answers: int
    cpu_us: float  # of the server, all its threads, for one answer: what other load on the machine moves least


@dataclass(frozen=True, slots=True)
class Server:
    port: int
    pid: int

    def cpu_us(self) -> float:
        """Processor time used so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    if shutil.which("wrk") is None or shutil.which("taskset") is None:
        sys.exit("bench_http needs wrk and taskset: apt-get install wrk util-linux")
    if (os.cpu_count() or 1) < 2:
        sys.exit("bench_http needs two cores: one for the server, one for wrk")
    with tempfile.TemporaryDirectory() as held:
        directory = Path(held)
        write_variants(directory / "variants.lua")
        with started("ours", directory) as ours, started("echo", directory) as echo:
            for server in (ours, echo):
                measure(server, "warm", 2, directory)
            pairs = []
            for number in range(rounds):
                pair = (
                    measure(ours, f"a{number}", seconds, directory),
                    measure(echo, f"b{number}", seconds, directory),
                )
                print(f"round {number + 1}: ours {_shown(pair[0])}; echo {_shown(pair[1])}", flush=True)
                pairs.append(pair)
        check_every_answer_is_recorded(directory / "state", sum(mine.answers for mine, _ in pairs))
    report(pairs)


def report(pairs: list[tuple[Round, Round]]) -> None:
    """The medians over the rounds, and the medians of each round's ratios."""
    for name, index in (("screening", 0), ("echo", 1)):
        of_kind = [pair[index] for pair in pairs]
        print(f"figure http_{name}_per_second {statistics.median(r.per_second for r in of_kind):.0f} 1/s")
        print(f"figure http_{name}_p50 {statistics.median(r.p50_us for r in of_kind):.0f} us")
        print(f"figure http_{name}_p99 {statistics.median(r.p99_us for r in of_kind):.0f} us")
        print(f"figure http_{name}_cpu {statistics.median(r.cpu_us for r in of_kind):.0f} us")
    print(f"figure http_cpu_vs_echo {statistics.median(b.cpu_us / a.cpu_us for a, b in pairs):.2f} x")
    print(f"figure http_vs_echo {statistics.median(a.per_second / b.per_second for a, b in pairs):.2f} x")
    print(f"figure http_p99_vs_echo {statistics.median(a.p99_us / b.p99_us for a, b in pairs):.2f} x")


def _shown(r: Round) -> str:
    return f"{r.per_second:.0f}/s, p50 {r.p50_us} us, p99 {r.p99_us} us, cpu {r.cpu_us:.0f} us"


# ---- the load -----------------------------------------------------------------------------------------------


def write_variants(path: Path) -> None:
    """The beginnings of request bodies as a Lua table; wrk appends a transaction id to each."""
    chance = random.Random(20261123)
    lines = []
    for number in range(VARIANTS):
        described: dict[str, Any] = {**EXAMPLE, "merchant": chance.choice(MERCHANTS)}
        del described["transaction_id"]
        described["amount"] = f"{chance.randint(1, 900)}.{chance.randint(0, 999):03d}"
        described["card"] = {"pan": make_pan(chance)}
        described["ip_address"] = f"{chance.choice(NETWORKS)}.{chance.randint(0, 255)}.{chance.randint(1, 254)}"
        described["email"] = f"buyer{number}@example.tn"
        described["customer_id"] = f"c-{number}"
        if chance.random() < 0.3:
            described["three_ds"] = {"status": "Y", "eci": "05", "version": "2.2.0"}
        lines.append(f'[=[{json.dumps(described)[:-1]}, "transaction_id": "]=]')
    path.write_text("return {\n" + ",\n".join(lines) + "\n}\n")


def make_pan(chance: random.Random) -> str:
    digits = chance.choice(BINS) + "".join(chance.choices("0123456789", k=9))
    return next(digits + last for last in "0123456789" if luhn_ok(digits + last))


def measure(server: Server, name: str, seconds: int, directory: Path) -> Round:
    script = directory / f"{name}.lua"
    key = (directory / "state" / "development.key").read_text().strip()
    variants = directory / "variants.lua"
    script.write_text(WRK_SCRIPT.format(variants=variants, round=f"{name}-{server.port}", key=key))
    wrk = ["taskset", "-c", WRK_CORE, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
    before = server.cpu_us()
    ran = subprocess.run([*wrk, f"http://127.0.0.1:{server.port}"], capture_output=True, text=True, check=True)
    used = server.cpu_us() - before
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", ran.stdout)
    if found is None:
        raise SystemExit(f"wrk said nothing that can be read:\n{ran.stdout}{ran.stderr}")
    answers, duration_us, p50, p99, errors = map(int, found.groups())
    if errors:
        raise SystemExit(f"{errors} of {answers} requests failed:\n{ran.stdout}")
    return Round(answers / duration_us * 1e6, p50, p99, answers, used / answers)


def check_every_answer_is_recorded(state: Path, answers: int) -> None:
    for path in state.iterdir():
        if path.name == "decisions.db":
            with sqlite3.connect(path) as database:
                (recorded,) = database.execute(
                    "SELECT count(*) FROM screenings WHERE transaction_id LIKE 'T-a%'"
                ).fetchone()
            # wrk does not count the answers that were under way when its time was over.
            print(f"{answers} answers, {recorded} screenings recorded", flush=True)
            if recorded < answers:
                raise SystemExit("an answer left that is not in the log")
            return
    raise SystemExit(f"there is no decision log in {state}")


# ---- the servers --------------------------------------------------------------------------------------------


@contextmanager
def started(which: str, directory: Path) -> Iterator[Server]:
    """Starts one of the servers in a process of its own on the server core."""
    run = [sys.executable, "-m", "tests.benchmarks.bench_http", f"--serve-{which}", str(directory / "state")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDENGINE_")}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    log = directory / f"{which}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(["taskset", "-c", SERVER_CORE, *run], cwd=ROOT, env=environ, stderr=errors)
    try:
        yield Server(_port_when_ready(process, log), process.pid)
    except BaseException:
        sys.stderr.write(f"--- the {which} server said:\n{log.read_text()[-4000:]}")
        raise
    finally:
        process.terminate()
        process.wait(30)


def _port_when_ready(process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(600):
        if found := re.search(r"ready on http://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("a server did not start")


def serve_ours(state: Path) -> None:
    """The service as `fraudengine serve` runs it, on the repository's rules and data."""
    from fraudengine.access import development_key
    from fraudengine.assembly import open_access, open_screener
    from fraudengine.audit import AuditLog
    from fraudengine.environment import claim_state
    from fraudengine.serve import log_to_stderr, serve

    log_to_stderr()
    config = Config(port=0, rules=ROOT / "rules", data=ROOT / "data", state=state, development=True)
    claim_state(config)
    with AuditLog(state) as audit, open_access(config, audit) as access:
        development_key(access, state)
        serve(config, open_screener(config), access)


def serve_echo() -> None:
    """A FastAPI route as its tutorial writes one: models in, models out, nothing in between."""
    import asyncio

    import uvicorn
    import uvloop
    from fastapi import FastAPI

    from fraudengine.serve import _Server, open_socket

    app = FastAPI()
    example: dict[str, Any] = ScreeningAnswer.model_json_schema()["examples"][0]

    @app.post("/v1/screenings")
    async def echo(body: ScreeningRequest) -> ScreeningAnswer:
        return ScreeningAnswer(**{**example, "screening_id": body["transaction_id"]})

    server = _Server(
        uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False),
        Config(port=0),
    )
    with open_socket(Config(port=0)) as listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets=[listening]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve-ours"]:
        serve_ours(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--serve-echo"]:
        serve_echo()
    else:
        main()
