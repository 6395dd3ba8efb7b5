"""One of two workers killed, stopped or raced with: nothing answered is lost, nothing is recorded twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import pytest

from fraudengine.request_schema import AFTER_CHALLENGE_EXAMPLE
from fraudengine.store import parse_screening_id

from .running import TRANSACTION, Service, fraudengine, running_service, wait_until
from .test_access import make_certificate
from .test_workers import NOW, TWO, one_client_for_each, slot_of, standing_still, state_of, workers_of

AT = TRANSACTION["at"]
CUT = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)  # not refused, not timed out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers that the tests kill one by one; each test waits until both serve."""
    with running_service(tmp_path_factory.mktemp("two"), arguments=TWO) as service:
        yield service


def wait_for_both(service: Service) -> None:
    wait_until(lambda: state_of(service)["ready"] == 2, "both workers serve", 60)


@contextmanager
def one_replaced(service: Service) -> Iterator[None]:
    """Begins when both workers serve, and ends when both serve again and one, no more, was started anew.

    That a worker is dead is known only when the kernel has ended it; who asks before is told of two.
    """
    wait_for_both(service)
    restarts = state_of(service)["restarts"]
    yield
    expected = {"wanted": 2, "ready": 2, "restarts": restarts + 1}
    wait_until(lambda: state_of(service) == expected, "it is replaced", 60)


def recorded(service: Service, begins: str) -> list[tuple[str, int]]:
    """(transaction id, screening id) of every screening whose transaction id begins so."""
    with closing(sqlite3.connect(f"file:{service.state / 'decisions.db'}?mode=ro", uri=True)) as log:
        sql = "SELECT transaction_id, id FROM screenings WHERE transaction_id LIKE ? ORDER BY id"
        return log.execute(sql, (f"{begins}%",)).fetchall()


def worker_behind(service: Service, local_port: int) -> int:
    """The process id of the worker that holds the other end of a connection, by the kernel's book."""
    port = int(service.url.rpartition(":")[2])
    wanted = (f"0100007F:{port:04X}", f"0100007F:{local_port:04X}")
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(one[9] for one in lines if (one[1], one[2]) == wanted)
    for pid in workers_of(service):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(handle) == f"socket:[{inode}]":
                    return pid
            except FileNotFoundError:
                continue
    raise AssertionError("no worker holds the connection")


def unread(service: Service, local_port: int) -> bool:
    """Whether the worker has not taken all that was sent from this port."""
    port = int(service.url.rpartition(":")[2])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (fields[1], fields[2]) == (f"0100007F:{port:04X}", f"0100007F:{local_port:04X}"):
            return int(fields[4].split(":")[1], 16) > 0
    return False


# ---- a worker that dies ---------------------------------------------------------------------------


def test_kill_9_of_one_worker_under_load_loses_no_answer_and_records_nothing_twice(two: Service) -> None:
    """Callers retry what was cut off, as a gateway does; nobody is refused and nobody gets an error."""
    wait_for_both(two)
    before = workers_of(two)
    answers: dict[str, str] = {}
    cut: list[str] = []
    enough = threading.Event()

    def load(caller: int) -> None:
        client = httpx.Client(base_url=two.url, timeout=30, headers=two.client.headers)
        number = 0
        while not enough.is_set():
            number += 1
            name = f"load-{caller}-{number}"
            while name not in answers:
                try:
                    given = client.post("/v1/screenings", json=TRANSACTION | {"transaction_id": name})
                except CUT:
                    cut.append(name)
                    client.close()
                    client = httpx.Client(base_url=two.url, timeout=30, headers=two.client.headers)
                    continue
                assert given.status_code == 200, given.text
                answers[name] = given.json()["screening_id"]
        client.close()

    with ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(load, caller) for caller in range(8)]
        try:
            wait_until(lambda: len(answers) >= 300, "payments are answered")
            with one_replaced(two):
                os.kill(before[0], signal.SIGKILL)
                killed_at = len(answers)
                wait_until(lambda: len(answers) >= killed_at + 300, "payments go on")
        finally:
            enough.set()
        for one in under_way:
            one.result()
    assert cut, "the worker that was killed had connections"
    assert set(before) & set(workers_of(two)) == {before[1]}
    rows = recorded(two, "load-")
    assert len(rows) == len({name for name, _ in rows}), "a screening is recorded twice"
    assert dict(rows) == {name: parse_screening_id(answer) for name, answer in answers.items()}
    for name in [*cut, *list(answers)[:5]]:
        assert two.screen(transaction_id=name).json()["screening_id"] == answers[name]


def send_raw(service: Service, stack: ExitStack, name: str) -> socket.socket:
    """A call that was sent whole, whose answer nobody has read."""
    body = json.dumps(TRANSACTION | {"transaction_id": name}).encode()
    key = service.client.headers["authorization"]
    head = (
        f"POST /v1/screenings HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
    connection = stack.enter_context(socket.create_connection(address, timeout=30))
    connection.sendall(head.encode() + body)
    return connection


def test_a_retry_at_the_other_worker_gets_what_the_killed_one_recorded(two: Service) -> None:
    """Killed between the commit and the client's reading of the answer."""
    with one_replaced(two), ExitStack() as stack:
        connection = send_raw(two, stack, "answered-1")
        wait_until(lambda: len(recorded(two, "answered-1")) == 1, "it is recorded")
        os.kill(worker_behind(two, connection.getsockname()[1]), signal.SIGKILL)
    ((_, screening_id),) = recorded(two, "answered-1")
    for _ in range(4):
        given = httpx.post(
            f"{two.url}/v1/screenings",
            json=TRANSACTION | {"transaction_id": "answered-1"},
            headers=two.client.headers,
            timeout=30,
        )
        assert parse_screening_id(given.json()["screening_id"]) == screening_id
    assert len(recorded(two, "answered-1")) == 1


def read_one(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""


@contextmanager
def locked_log(service: Service) -> Iterator[None]:
    """The decision log with its write lock held: calls are decided, and none is recorded."""
    with closing(sqlite3.connect(service.state / "decisions.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def test_a_retry_at_the_other_worker_of_a_call_that_was_cut_off_is_the_first_decision(two: Service) -> None:
    """Killed after the worker took the call and before its record was written."""
    with one_replaced(two), ExitStack() as stack:
        with locked_log(two):
            connection = send_raw(two, stack, "cut-1")
            port = connection.getsockname()[1]
            wait_until(lambda: not unread(two, port), "the worker took it")
            os.kill(worker_behind(two, port), signal.SIGKILL)
            assert read_one(connection) == b"", "nobody answered"
        assert recorded(two, "cut-1") == []
        retried = {"json": TRANSACTION | {"transaction_id": "cut-1"}, "headers": two.client.headers, "timeout": 30}
        # Each by a connection of its own: a kept one may be that of the killed worker.
        answers = [httpx.post(f"{two.url}/v1/screenings", **retried) for _ in range(3)]  # type: ignore[arg-type]
        given = [answer.json()["screening_id"] for answer in answers]
        assert len(set(given)) == 1
        assert [("cut-1", parse_screening_id(given[0]))] == recorded(two, "cut-1")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers that are replaced when they stand still for three seconds, or take ten to begin to serve."""
    settings = {"FRAUDENGINE_WORKER_STALL_SECONDS": "3", "FRAUDENGINE_WORKER_START_SECONDS": "10"}
    with running_service(tmp_path_factory.mktemp("hasty"), settings, arguments=TWO) as service:
        yield service


def test_a_worker_that_stands_still_is_killed_and_replaced_and_the_other_answers_meanwhile(hasty: Service) -> None:
    with one_replaced(hasty), ExitStack() as stack:
        still = workers_of(hasty)[0]
        clients = one_client_for_each(hasty, stack, "still")
        ports = {}
        for slot, client in clients.items():
            (pooled,) = client._transport._pool.connections  # type: ignore[attr-defined]
            stream = pooled._connection._network_stream
            ports[slot] = worker_behind(hasty, stream.get_extra_info("client_addr")[1])
        os.kill(still, signal.SIGSTOP)
        other = next(clients[slot] for slot, pid in ports.items() if pid != still)
        answered = 0
        while still in workers_of(hasty):
            given = other.post("/v1/screenings", json=TRANSACTION | {"transaction_id": f"meanwhile-{answered}"})
            assert given.status_code == 200
            answered += 1
        assert answered > 10
    assert any(f"worker {still} does not respond" in line for line in hasty.stderr)


def test_a_machine_that_was_paused_costs_no_worker(hasty: Service) -> None:
    """Supervisor and workers stand still longer than a worker may, and the supervisor comes to first."""
    wait_for_both(hasty)
    pids, before = workers_of(hasty), state_of(hasty)
    with standing_still(pids):
        with standing_still([hasty.process.pid]):
            paused_at = time.monotonic()
            wait_until(lambda: time.monotonic() > paused_at + 4, "the pause is long")
        woken_at = time.monotonic()
        wait_until(lambda: time.monotonic() > woken_at + 0.5, "the supervisor has looked at them")
    assert hasty.screen(transaction_id="after-the-pause").status_code == 200
    assert (workers_of(hasty), state_of(hasty)) == (pids, before)
    assert not any("does not respond" in line and str(pid) in line for line in hasty.stderr for pid in pids)


def test_a_worker_that_hangs_before_it_serves_is_killed_and_replaced(hasty: Service) -> None:
    wait_for_both(hasty)
    killed, other = workers_of(hasty)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(set(workers_of(hasty)) - {killed, other}) == 1, "another is started")
    (hung,) = set(workers_of(hasty)) - {killed, other}
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: state_of(hasty)["ready"] == 1, "the other knows that it is alone")
    wait_until(lambda: hung not in workers_of(hasty), "it is killed")
    assert any(f"worker {hung} does not begin to serve: killing it" in line for line in hasty.stderr)
    wait_for_both(hasty)
    assert other in workers_of(hasty)


# ---- a second step that races its first call ------------------------------------------------------


def test_a_3d_secure_result_that_races_its_first_call_is_decided_by_what_is_recorded_before(two: Service) -> None:
    """First call and second step at both workers at once; the log tells of each what was there before it."""
    wait_for_both(two)
    dear = NOW | {"at": AT, "amount": "450.000"}
    result = {"three_ds": AFTER_CHALLENGE_EXAMPLE["three_ds"]}
    names = [f"step-{number}" for number in range(60)]
    gate = Barrier(2)
    with ExitStack() as stack:
        clients = list(one_client_for_each(two, stack, "find-step").values())

        def send(who: int) -> list[dict[str, Any]]:
            given = []
            for number, name in enumerate(names):
                client = clients[(who + number) % 2]
                gate.wait(60)
                body = dear | {"transaction_id": name} | (result if who else {})
                answer = client.post("/v1/screenings", json=body)
                assert answer.status_code == 200, answer.text
                given.append(answer.json())
            return given

        with ThreadPoolExecutor(2) as pool:
            firsts, seconds = pool.map(send, range(2))
        assert {one["reason"]["code"] for one in firsts} == {"AMOUNT_NEEDS_3DS"}
        assert {one["reason"]["code"] for one in seconds} == {"THREE_DS_AUTHENTICATED"}
        assert {slot_of(one) for one in firsts} == {slot_of(one) for one in seconds}
        rows = recorded(two, "step-")
        assert len(rows) == 2 * len(names)
        answered = zip(names * 2, firsts + seconds, strict=True)
        assert {(name, parse_screening_id(one["screening_id"])) for name, one in answered} == set(rows)
        for client in clients:  # each at the other worker as well
            for name, first, second in zip(names[:10], firsts, seconds, strict=False):
                body = dear | {"transaction_id": name}
                assert client.post("/v1/screenings", json=body).json() == first
                assert client.post("/v1/screenings", json=body | result).json() == second
    derived = fraudengine("verify", "--recompute", "--state", str(two.state), "--data", str(two.data))
    assert derived.returncode == 0, derived.stdout + derived.stderr


# ---- TLS ------------------------------------------------------------------------------------------


def test_sighup_gives_new_connections_the_certificate_that_is_in_the_file_now(tmp_path: Path) -> None:
    certificate, private = tmp_path / "tls.pem", tmp_path / "tls.key"
    make_certificate(certificate, private)
    settings = {
        "FRAUDENGINE_SSL_CERTFILE": str(certificate),
        "FRAUDENGINE_SSL_KEYFILE": str(private),
        "SSL_CERT_FILE": str(certificate),
    }
    with running_service(tmp_path / "own", settings, arguments=TWO, verify=certificate) as service:
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))

        def served() -> set[str]:
            """What the next twenty connections are given, as they fall to one worker or the other."""
            return {ssl.get_server_certificate(address) for _ in range(20)}

        former = certificate.read_text()
        assert served() == {former}
        assert service.screen(transaction_id="before").status_code == 200
        make_certificate(certificate, private)
        assert served() == {former}, "not before it is told"
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: served() == {certificate.read_text()}, "new connections get the new certificate")
        assert certificate.read_text() != former
        assert service.screen(transaction_id="kept").status_code == 200  # on the connection from before
        trusted = ssl.create_default_context(cafile=certificate)
        with httpx.Client(base_url=service.url, verify=trusted, headers=service.client.headers) as fresh:
            assert fresh.post("/v1/screenings", json=TRANSACTION | {"transaction_id": "new"}).status_code == 200

        renewed = certificate.read_text()
        certificate.write_text("no certificate\n")
        service.process.send_signal(signal.SIGHUP)
        said = "the certificate from before stays in use"
        wait_until(lambda: sum(said in line for line in service.stderr) == 2, "both workers say that it is bad")
        assert served() == {renewed}
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 15, "a client that keeps its connection holds up no stop"
