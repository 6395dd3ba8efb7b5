"""Faults injected into real processes: what a gateway, and an operator, meet when something breaks.

A full disk and bad data files are in `test_running_service`, the log alone in `test_decision_log`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from fraudengine.store import parse_screening_id

from .command_line import fraudengine_here
from .running import REPOSITORY, TRANSACTION, Service, copy_rules, running_service, wait_until

HOUR_S = 3_600


def port_of(service: Service) -> int:
    return int(service.url.rpartition(":")[2])


def screening_bytes(service: Service, transaction_id: str, length: int | None = None) -> bytes:
    """A screening as a client writes it; `length` is what it announces, if that is not the truth."""
    body = json.dumps(TRANSACTION | {"transaction_id": transaction_id}).encode()
    head = (
        f"POST /v1/screenings HTTP/1.1\r\nhost: x\r\nauthorization: {service.client.headers['authorization']}\r\n"
        f"content-type: application/json\r\ncontent-length: {length or len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(service)), timeout=30)


def recorded(state: Path, sql: str = "SELECT transaction_id, id FROM screenings") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{state / 'decisions.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def memory_kib(service: Service) -> int:
    fields = Path(f"/proc/{service.process.pid}/status").read_text().split()
    return int(fields[fields.index("VmRSS:") + 1])


def files_open(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for faults of clients, which must leave it as it was."""
    with running_service(tmp_path_factory.mktemp("faults") / "own") as service:
        yield service


# ---- processes that die ---------------------------------------------------------------------------


def test_kill_9_under_load_loses_no_answer_and_records_nothing_twice(tmp_path: Path) -> None:
    """Killed twice in the middle of traffic; callers retry what was not answered, as a gateway does."""
    answers: dict[str, str] = {}
    unanswered: set[str] = set()

    def load(service: Service, name: str) -> None:
        with httpx.Client(base_url=service.url, timeout=30, headers=service.client.headers) as client:
            for number in range(100_000):
                known_as = f"{name}-{number}"
                unanswered.add(known_as)
                try:
                    response = client.post("/v1/screenings", json=TRANSACTION | {"transaction_id": known_as})
                except httpx.TransportError:
                    return
                assert response.status_code == 200
                answers[known_as] = response.json()["screening_id"]
                unanswered.discard(known_as)

    for run in range(2):
        with running_service(tmp_path / "own") as service, ThreadPoolExecutor(8) as pool:
            under_way = [pool.submit(load, service, f"run{run}-{caller}") for caller in range(8)]
            enough = len(answers) + 150
            wait_until(lambda enough=enough: len(answers) >= enough, "payments are answered")  # type: ignore[misc]
            assert service.stop(signal.SIGKILL) == -signal.SIGKILL
            for one in under_way:
                one.result()

    with running_service(tmp_path / "own") as service:
        for name in sorted(unanswered):
            first, again = service.screen(transaction_id=name), service.screen(transaction_id=name)
            assert first.status_code == 200
            assert again.content == first.content
            answers[name] = first.json()["screening_id"]
        for name in list(answers)[:20]:
            assert service.screen(transaction_id=name).json()["screening_id"] == answers[name]
        assert service.problems() == []
        assert service.stop() == 0
    rows = recorded(tmp_path / "own" / "var")
    assert len(rows) == len({name for name, _ in rows}), "a screening is recorded twice"
    assert dict(rows) == {name: parse_screening_id(answer) for name, answer in answers.items()}
    assert recorded(tmp_path / "own" / "var", "PRAGMA integrity_check") == [("ok",)]


# ---- a log that cannot be written -----------------------------------------------------------------


@pytest.mark.long
def test_a_log_locked_by_another_process_answers_503_and_recovers_by_itself(tmp_path: Path) -> None:
    """The write lock is held for longer than the log waits for it (5 s)."""
    with running_service(tmp_path / "own") as service:
        before = service.screen(transaction_id="before")
        holder = [sys.executable, "-m", "tests.log_worker", "hold", str(service.state / "decisions.db"), "-"]
        with subprocess.Popen(
            holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "locked\n"
            refused = service.screen(transaction_id="while")
            assert (refused.status_code, refused.json()["type"]) == (503, "/problems/store-unavailable")
            assert "Retry-After" in refused.headers
            assert service.client.get("/readyz").status_code == 503
            assert "another process holds it locked" in " ".join(service.problems())
            assert service.client.get("/healthz").status_code == 200
            other.stdin.write("\n")
            other.stdin.close()
        wait_until(lambda: service.screen(transaction_id="while").status_code == 200, "the service recovers")
        wait_until(lambda: service.problems() == [], "nothing is wrong any more")
        assert service.screen(transaction_id="before").content == before.content
        assert sorted(name for name, _ in recorded(service.state)) == ["before", "while"]


def test_a_read_only_disk_is_said_at_start(tmp_path: Path) -> None:
    """A disk cannot turn read-only under a log that is open, so the service meets it when it starts."""
    state = tmp_path / "own" / "var"
    state.mkdir(parents=True)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", state], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with running_service(tmp_path / "own") as service:
            assert service.screen(transaction_id="kept").status_code == 200
            assert service.stop() == 0
        subprocess.run(["mount", "-o", "remount,ro", state], check=True)
        with (
            pytest.raises(AssertionError, match="ended before it was ready") as ended,
            running_service(state.parent),
        ):
            pass
        assert "read-only" in str(ended.value).lower()
        assert "Traceback" not in str(ended.value)
        subprocess.run(["mount", "-o", "remount,rw", state], check=True)
        with running_service(tmp_path / "own") as service:
            assert [name for name, _ in recorded(service.state)] == ["kept"]
            assert service.screen(transaction_id="after").status_code == 200
    finally:
        subprocess.run(["umount", "--lazy", state], check=True)


def test_a_damaged_log_is_set_aside_and_the_service_comes_up_on_a_new_one_and_says_so(tmp_path: Path) -> None:
    state = tmp_path / "own" / "var"
    with running_service(tmp_path / "own") as service:
        for number in range(60):
            assert service.screen(transaction_id=f"old-{number}").status_code == 200
        assert service.stop() == 0
    log = state / "decisions.db"
    damaged = bytearray(log.read_bytes())
    for page in range(2, len(damaged) // 4096, 2):  # every other page, the first ones left whole
        damaged[page * 4096 : page * 4096 + 64] = os.urandom(64)
    log.write_bytes(damaged)
    with running_service(tmp_path / "own") as service:
        assert "is damaged" in "".join(service.stderr)
        (told,) = service.problems()
        assert "set aside" in told
        assert "velocity counters began anew" in told
        assert service.client.get("/readyz").status_code == 200
        assert service.screen(transaction_id="new").status_code == 200
        (aside,) = state.glob("decisions.db.damaged-*Z")
        assert aside.read_bytes() == damaged
        assert [name for name, _ in recorded(state)] == ["new"]
        examined = fraudengine_here("doctor", "--state", str(state), FRAUDENGINE_DEVELOPMENT="1")
        assert aside.name in examined.stdout
        assert service.stop() == 0
        aside.rename(tmp_path / "kept")
    with running_service(tmp_path / "own") as service:
        assert service.problems() == []
        assert [name for name, _ in recorded(state)] == ["new"]


# ---- rule files -----------------------------------------------------------------------------------


def test_rule_files_deleted_or_half_written_leave_the_last_good_rules_in_force(tmp_path: Path) -> None:
    with running_service(tmp_path / "own") as service:
        merchant = service.rules / "merchants/carthage-market.yaml"
        good = merchant.read_bytes()
        expected = service.screen(transaction_id="whole", amount="450.000").json()["decision"]
        for number, cut in enumerate((1, len(good) // 2, len(good) - 40)):
            merchant.write_bytes(good[:cut])
            wait_until(lambda: service.problems() != [], "the half-written file is reported")
            answer = service.screen(transaction_id=f"half-{number}", amount="450.000").json()
            assert answer["decision"] == expected
        (service.rules / "platform.yaml").rename(tmp_path / "platform.yaml")
        wait_until(lambda: "platform" in " ".join(service.problems()), "the missing house rules are reported")
        assert service.screen(transaction_id="no-platform", amount="450.000").json()["decision"] == expected
        assert service.client.get("/readyz").status_code == 200
        (tmp_path / "platform.yaml").rename(service.rules / "platform.yaml")
        merchant.write_bytes(good)
        wait_until(lambda: service.problems() == [], "all is well again")
        assert service.screen(transaction_id="mended", amount="450.000").json()["decision"] == expected


# ---- clocks and backends: faults put into the process by Python's own start-up hook ---------------


def injected(directory: Path, code: str) -> dict[str, str]:
    """Has the service run this code before anything else (`sitecustomize`)."""
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(directory)}


CLOCK = """
import os, time
real, real_ns = time.time, time.time_ns
def offset():
    try:
        return int(open({path!r}).read())
    except (FileNotFoundError, ValueError):
        return 0
time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + offset() * 1_000_000_000
"""


def test_a_clock_stepped_back_an_hour_keeps_ids_counters_and_lists_right(tmp_path: Path) -> None:
    """Counters go by the times that payments have: what is an hour ahead is not counted until then."""
    clock = tmp_path / "clock"
    environment = injected(tmp_path / "hook", CLOCK.format(path=str(clock)))
    (tmp_path / "own").mkdir()
    merchant = copy_rules(tmp_path / "own" / "rules") / "merchants/carthage-market.yaml"
    merchant.write_text(merchant.read_text().replace("settings:\n", "settings:\n  max_attempts_per_card: 100\n", 1))
    with running_service(tmp_path / "own", environment) as service:

        def screen(name: str) -> dict[str, Any]:
            sent = {key: value for key, value in TRANSACTION.items() if key != "at"} | {"transaction_id": name}
            answer: dict[str, Any] = service.client.post("/v1/screenings", json=sent).json()
            return answer

        def attempts(answer: dict[str, Any]) -> int:
            found = service.client.get(f"/v1/screenings/{answer['screening_id']}").json()["facts"]
            counted: int = found["attempts_per_card_1h"]
            return counted

        before = [screen(f"before-{number}") for number in range(3)]
        listed = service.client.post(
            f"/v1/screenings/{before[0]['screening_id']}/blacklist", json={"reason": "stolen", "ticket": "SUP-1"}
        )
        assert listed.status_code == 201
        clock.write_text(str(-HOUR_S))
        after = [screen(f"after-{number}") for number in range(3)]
        ids = [answer["screening_id"] for answer in before + after]
        assert ids == sorted(ids)
        assert len(set(ids)) == len(ids)
        assert {answer["reason"]["code"] for answer in after} == {"CARD_BLACKLISTED"}
        assert [screen(f"before-{number}")["screening_id"] for number in range(3)] == ids[:3]
        assert [attempts(one) for one in before + after] == [0, 1, 2, 0, 1, 2]
        assert service.stop(signal.SIGKILL)
    with running_service(tmp_path / "own", environment) as service:  # the log knows ids of the clock's future
        assert (restarted := screen("restarted"))["screening_id"] > ids[-1]
        clock.write_text("0")
        assert (forward := screen("stepped forward"))["screening_id"] > restarted["screening_id"]
        assert attempts(restarted) == 3
        assert attempts(forward) == 3  # those from before the step; those after it are more than an hour old now


BACKEND = """
from pathlib import Path
import fraudengine.engine
class Broken:
    def __init__(self, compiled):
        self.compiled = compiled
    def __getattr__(self, name):
        return getattr(self.compiled, name)
    def find_matches(self, facts, lists, **asked):
        if Path({path!r}).exists():
            raise RuntimeError("injected")
        return self.compiled.find_matches(facts, lists, **asked)
compile_rule_set = fraudengine.engine.compile_rule_set
fraudengine.engine.compile_rule_set = lambda rule_set: Broken(compile_rule_set(rule_set))
"""


def test_when_the_backend_fails_the_reference_decides_and_the_fault_is_counted_and_logged(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    environment = injected(tmp_path / "hook", BACKEND.format(path=str(broken)))
    with running_service(tmp_path / "own", environment) as service:
        payments: list[dict[str, Any]] = [{}, {"amount": "450.000"}, {"ip_address": "8.8.8.8"}]
        well = [service.screen(transaction_id=f"well-{n}", **sent).json() for n, sent in enumerate(payments)]
        broken.touch()
        faulty = [service.screen(transaction_id=f"faulty-{n}", **sent).json() for n, sent in enumerate(payments)]
        for one, other in zip(well, faulty, strict=True):
            assert (one["decision"], one["reason"], one["matches"]) == (
                other["decision"],
                other["reason"],
                other["matches"],
            )
        page = service.client.get("/metrics").text
        assert 'fraudengine_backend_faults_total{backend="online"} 3' in page
        assert 'fraudengine_backend_faults_total{backend="reference"} 0' in page
        said = "".join(service.stderr)
        assert said.count("the online backend failed on rule set carthage-market") == 3
        assert service.client.get("/readyz").status_code == 200


# ---- clients --------------------------------------------------------------------------------------


def test_clients_that_hang_up_leave_nothing_behind_and_their_retry_is_answered(shared: Service) -> None:
    """A call that arrived whole is decided and recorded though nobody waits; half a call is not."""
    assert shared.screen(transaction_id="warm").status_code == 200
    before = files_open(shared)
    for number in range(100):
        with connect(shared) as connection:
            connection.sendall(screening_bytes(shared, f"left-{number}"))
        with connect(shared) as connection:
            connection.sendall(screening_bytes(shared, f"half-{number}")[:-5])
    names = {f"left-{number}" for number in range(100)}

    def held() -> set[str]:
        return {name for name, _ in recorded(shared.state) if name.startswith(("left-", "half-"))}

    wait_until(lambda: held() == names, "every whole call is recorded, and no half one")
    for number in range(100):
        assert shared.screen(transaction_id=f"left-{number}").status_code == 200
    assert held() == names
    wait_until(lambda: files_open(shared) <= before, "every connection is let go of")


@pytest.mark.long
def test_slow_clients_are_ended_and_others_are_answered_meanwhile(shared: Service) -> None:
    """A byte a second: each call is ended ten seconds after it began, however alive its client looks."""
    slow = [connect(shared) for _ in range(200)]
    started = time.monotonic()
    sent = screening_bytes(shared, "slow")
    ended = 0
    for second in range(30):
        for connection in list(slow):
            try:
                connection.sendall(sent[second : second + 1])
                connection.setblocking(False)
                with suppress(BlockingIOError):
                    connection.recv(65_536)
                    raise ConnectionResetError
                connection.setblocking(True)
            except OSError:
                connection.close()
                slow.remove(connection)
                ended += 1
        assert shared.screen(transaction_id=f"meanwhile-{second}").status_code == 200
        if not slow:
            break
        time.sleep(0.5)
    assert ended == 200
    assert time.monotonic() - started < 30
    assert "slow" not in {name for name, _ in recorded(shared.state)}


HOLD = """
import resource, socket, sys
count, port = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = []
for _ in range(count):
    held.append(socket.create_connection(("127.0.0.1", port), timeout=30))
print("held", flush=True)
sys.stdin.readline()
"""


@contextmanager
def held_connections(service: Service, count: int) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD, str(count), str(port_of(service))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        answered = 0
        waits = threading.Thread(target=holder.stdout.readline)
        waits.start()
        while waits.is_alive():  # while they come
            assert service.screen(transaction_id=f"arriving-{answered}").status_code == 200
            answered += 1
        assert answered > 0
        yield
        holder.stdin.write("\n")
        holder.stdin.close()


@pytest.mark.long
def test_ten_thousand_idle_connections_keep_nobody_out_and_memory_bounded(tmp_path: Path) -> None:
    with running_service(tmp_path / "own") as service:
        service.screen(transaction_id="warm")
        before = memory_kib(service)
        with held_connections(service, 10_000):
            for number in range(20):
                with httpx.Client(base_url=service.url, headers=service.client.headers, timeout=30) as newcomer:
                    answer = newcomer.post("/v1/screenings", json=TRANSACTION | {"transaction_id": f"new-{number}"})
                    assert answer.status_code == 200
            assert files_open(service) < 4_096 + 512
            assert memory_kib(service) - before < 200_000
        assert service.problems() == []
        wait_until(lambda: files_open(service) < 100, "the connections are let go of")
