"""Several workers behind one port, with real processes: what one does the others know, and what dies comes back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx

from fraudengine.store import COUNTER_BITS, WORKER_BITS, parse_screening_id

from .command_line import fraudengine_here
from .running import REPOSITORY, TRANSACTION, Service, fraudengine, running_service, wait_until

TWO = ("--workers", "2")
NOW = {name: value for name, value in TRANSACTION.items() if name != "at"}


def workers_of(service: Service) -> list[int]:
    """The process ids of the workers, by the kernel's book."""
    path = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def state_of(service: Service) -> dict[str, int]:
    found = httpx.get(f"{service.url}/readyz", timeout=30).json()["workers"]
    assert isinstance(found, dict)
    return found


def slot_of(answer: dict[str, Any]) -> int:
    """Which worker's log slot the screening was recorded in."""
    number = parse_screening_id(answer["screening_id"])
    assert number is not None
    return number >> COUNTER_BITS & (1 << WORKER_BITS) - 1


@contextmanager
def standing_still(pids: Iterable[int]) -> Iterator[None]:
    """Those processes take nothing meanwhile; for much less than a stall."""
    stopped = []
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
            stat = Path(f"/proc/{pid}/stat")
            wait_until(lambda stat=stat: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stands")  # type: ignore[misc]
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def one_client_for_each(service: Service, stack: ExitStack, marked: str) -> dict[int, httpx.Client]:
    """Kept connections, one to each of the two workers.

    Which of two idle workers takes a connection is up to the kernel, and it may be the same one more than a hundred
    times: so the other stands still until the connection is taken, by a request that reads no database.
    """
    found: dict[int, httpx.Client] = {}
    pids = workers_of(service)
    for number, pid in enumerate(pids):
        client = stack.enter_context(httpx.Client(base_url=service.url, timeout=30, headers=service.client.headers))
        with standing_still(other for other in pids if other != pid):
            assert client.get("/healthz").status_code == 200
        given = client.post("/v1/screenings", json=TRANSACTION | {"transaction_id": f"{marked}-{number}"})
        found[slot_of(given.json())] = client
    assert len(found) == 2
    return found


def test_two_workers_obey_what_any_process_changes(tmp_path: Path) -> None:
    """Lists, rules, API keys and the card key, from the command line, while both serve; then an orderly end."""
    with running_service(tmp_path / "s", arguments=TWO) as service, ExitStack() as stack:
        assert len(workers_of(service)) == 2
        complete = {"wanted": 2, "ready": 2, "restarts": 0}
        wait_until(lambda: state_of(service) == complete, "each worker knows of the other")
        assert [line for line in service.stderr if "ready on" in line] == [f"fraudengine: ready on {service.url}\n"]
        surroundings = {
            "FRAUDENGINE_STATE": str(service.state),
            "FRAUDENGINE_RULES": str(service.rules),
            "FRAUDENGINE_DATA": str(service.data),
        }

        def command(*arguments: str, stdin: str = "") -> str:
            done = fraudengine_here(*arguments, stdin=stdin, **surroundings, FRAUDENGINE_DEVELOPMENT="1")
            assert done.returncode == 0, done
            return done.stdout

        assert "2 of 2 workers serve, 0 started anew" in command("status", "--url", service.url)
        clients = one_client_for_each(service, stack, "find")
        number = 0

        def ask(client: httpx.Client, **changes: Any) -> httpx.Response:
            nonlocal number
            number += 1
            return client.post("/v1/screenings", json=NOW | {"transaction_id": f"T{number}"} | changes)

        def both(claim: Callable[[httpx.Response], bool], what: str, within_s: float, **changes: Any) -> None:
            for client in clients.values():
                wait_until(lambda client=client: claim(ask(client, **changes)), what, within_s)  # type: ignore[misc]

        # One worker's record is the other's retry.
        held = [client.post("/v1/screenings", json=TRANSACTION).json() for client in clients.values()]
        assert held[0]["screening_id"] == held[1]["screening_id"]

        command("lists", "add", "carthage-market", "blacklist", "--reason", "stolen", stdin="4111111111111111\n")
        for client in clients.values():
            assert ask(client).json()["reason"]["code"] == "CARD_BLACKLISTED"  # the very next one

        command("keys", "rotate")
        both(lambda given: given.json()["decision"] == "refuse", "still listed under the new card key", 10)

        file = service.rules / "merchants" / "carthage-market.yaml"
        text = file.read_text()
        assert "challenge_above: {TND: 300" in text
        file.write_text(text.replace("challenge_above: {TND: 300", "challenge_above: {TND: 20"))
        other = {"pan": "5555555555554444", "country": "TN"}
        both(lambda given: given.json()["decision"] == "challenge", "the edited rule is in force", 10, card=other)

        made = command("keys", "create", "extra", "--role", "gateway", "--format", "json")
        key = next(word.strip('",') for word in made.split() if word.strip('",').startswith("fe_test_"))
        extra = {"authorization": f"Bearer {key}"}
        for client in clients.values():
            assert client.get("/v1/merchants/carthage-market/rules", headers=extra).status_code == 200
        command("keys", "revoke", key.removeprefix("fe_test_").split("_")[0])
        for client in clients.values():
            assert client.get("/v1/merchants/carthage-market/rules", headers=extra).status_code == 401

        def counted(client: httpx.Client) -> float:
            lines = client.get("/metrics").text.splitlines()
            figures = [one.rsplit(" ", 1)[1] for one in lines if one.startswith("fraudengine_screenings_total{")]
            return sum(map(float, figures))

        first, second = clients.values()
        wait_until(lambda: counted(first) == counted(second) > 0, "both tell the counts of both", 15)
        assert service.stop() == 0


def test_a_killed_worker_is_replaced_and_no_connection_is_refused(tmp_path: Path) -> None:
    with running_service(tmp_path / "s", arguments=TWO) as service:
        before = workers_of(service)
        waiting = [socket.create_connection(("127.0.0.1", int(service.url.rsplit(":", 1)[1]))) for _ in range(20)]
        os.kill(before[0], signal.SIGKILL)
        for one in waiting:
            one.close()
        for number in range(20):
            with httpx.Client(base_url=service.url, timeout=30, headers=service.client.headers) as fresh:
                given = fresh.post("/v1/screenings", json=TRANSACTION | {"transaction_id": f"after-{number}"})
                assert given.status_code == 200
        wait_until(lambda: state_of(service) == {"wanted": 2, "ready": 2, "restarts": 1}, "the worker is replaced")
        after = workers_of(service)
        assert len(after) == 2
        assert set(before) & set(after) == {before[1]}
        assert any(f"worker {before[0]} ended by signal 9" in line for line in service.stderr)

        # Workers whose supervisor is killed end by themselves.
        pids = workers_of(service)
        service.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), "no orphan stays")


def test_workers_that_cannot_start_end_the_service_with_3(tmp_path: Path) -> None:
    with running_service(tmp_path / "s", arguments=TWO) as service:
        shutil.rmtree(service.rules)
        for pid in workers_of(service):
            os.kill(pid, signal.SIGKILL)
        assert service.process.wait(60) == 3
        wait_until(lambda: any("giving up" in line for line in service.stderr), "it says why")


def test_a_mistake_at_the_first_start_is_told_once_with_its_own_code(tmp_path: Path) -> None:
    done = fraudengine(
        "serve", *TWO, FRAUDENGINE_STATE=str(tmp_path / "var"), FRAUDENGINE_RULES=str(tmp_path / "nowhere"),
        FRAUDENGINE_DATA=str(REPOSITORY / "data"), FRAUDENGINE_PORT="0",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("nowhere") == 1


def test_stopping_answers_what_was_accepted(tmp_path: Path) -> None:
    with running_service(tmp_path / "s", arguments=TWO) as service:

        def ask(number: int) -> int:
            try:
                with httpx.Client(base_url=service.url, timeout=30, headers=service.client.headers) as client:
                    body = TRANSACTION | {"transaction_id": f"S{number}"}
                    given = client.post("/v1/screenings", json=body)
            except httpx.ConnectError:
                return 0  # came after the stop
            if number == 40:
                service.process.send_signal(signal.SIGTERM)
            return given.status_code

        with ThreadPoolExecutor(8) as pool:
            given = list(pool.map(ask, range(160)))
        assert set(given) <= {0, 200}
        assert given.count(200) >= 40
        assert service.process.wait(30) == 0
        with closing(sqlite3.connect(f"file:{service.state / 'decisions.db'}?mode=ro", uri=True)) as log:
            rows = log.execute("SELECT count(*) FROM screenings WHERE transaction_id LIKE 'S%'").fetchone()
        assert rows == (given.count(200),), "what was read was answered"


def test_systemd_is_told_when_all_serve_and_that_it_ends(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(30)
        heard: list[str] = []
        with running_service(tmp_path / "s", {"NOTIFY_SOCKET": str(tmp_path / "notify")}, arguments=TWO) as service:
            while "READY=1" not in heard:
                heard.append(told.recv(4096).decode())
            assert "STATUS=1 of 2 workers serve" in heard
            while "WATCHDOG=1" not in heard:
                heard.append(told.recv(4096).decode())
            assert service.stop() == 0
            while "STOPPING=1" not in heard:
                heard.append(told.recv(4096).decode())


def test_conflicting_and_repeated_first_calls_in_both_workers_leave_one_record(tmp_path: Path) -> None:
    """Each id is sent by both workers' connections at once, by half of them with another amount."""
    with running_service(tmp_path / "s", arguments=TWO) as service, ExitStack() as stack:
        clients = one_client_for_each(service, stack, "find")
        ids = [f"race-{number}" for number in range(150)]
        gate = Barrier(4)

        def send(who: int) -> list[httpx.Response]:
            slot, amount = list(clients)[who % 2], ("50.000", "60.000")[who // 2]
            given = []
            with httpx.Client(base_url=service.url, timeout=30, headers=service.client.headers) as own:
                for one in ids:
                    client = clients[slot] if who < 2 else own
                    gate.wait(60)
                    body = NOW | {"at": "2026-11-23T10:15:00Z", "transaction_id": one, "amount": amount}
                    given.append(client.post("/v1/screenings", json=body))
            return given

        with ThreadPoolExecutor(4) as pool:
            answers = list(zip(*pool.map(send, range(4)), strict=True))
        for one in answers:
            fifty, sixty = one[:2], one[2:]
            assert sorted(given.status_code for given in one) == [200, 200, 409, 409]
            assert fifty[0].status_code == fifty[1].status_code
            assert sixty[0].status_code == sixty[1].status_code
            assert len({given.json()["screening_id"] for given in one if given.status_code == 200}) == 1
            conflict = next(given.json() for given in one if given.status_code == 409)
            assert "amount" in str(conflict["errors"])
        with closing(sqlite3.connect(f"file:{service.state / 'decisions.db'}?mode=ro", uri=True)) as log:
            rows = log.execute("SELECT count(*) FROM screenings WHERE transaction_id LIKE 'race-%'").fetchone()
        assert rows == (150,)
