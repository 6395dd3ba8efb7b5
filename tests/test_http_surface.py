"""schemathesis over the OpenAPI document that a real process serves: every check, cases that a seed repeats."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .running import Service, running_service

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
FOUND = Path(__file__).with_name("fuzz")
SEED = 7


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("surface")) as running:
        yield running


def run_schemathesis(service: Service, examples: int, phases: str, within_s: float) -> tuple[int, str]:
    """How many cases were tried, and what schemathesis said; fails when it found anything."""
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)),
            *(
                "run",
                f"{service.url}/openapi.json",
                "--header",
                f"Authorization: {service.client.headers['authorization']}",
            ),
            *("--checks", "all", "--seed", str(SEED), "--max-examples", str(examples), "--phases", phases),
            *("--no-color", "--warnings", "off", "--continue-on-failure", "--no-shrink"),
        ],
        capture_output=True,
        text=True,
        cwd=service.state.parent,
        timeout=within_s,
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    tried = re.search(r"(\d+) generated", said)
    assert tried is not None, said
    return int(tried[1]), said


def assert_nothing_broke(service: Service) -> None:
    """No fault of ours in what the service said, nothing out of order, and the next payment is answered."""
    said = "".join(service.stderr)
    assert "Traceback" not in said, said
    assert service.client.get("/readyz").json() == {"ready": True, "problems": []}
    assert service.screen(transaction_id="after the storm").status_code == 200


def test_two_thousand_calls_break_nothing_and_are_answered_as_documented(service: Service) -> None:
    tried, said = run_schemathesis(service, 100, "examples,coverage,fuzzing", 900)
    assert tried >= 2_000, said
    assert_nothing_broke(service)


@pytest.mark.long
def test_twenty_thousand_calls_break_nothing_and_are_answered_as_documented(service: Service) -> None:
    tried, said = run_schemathesis(service, 2_400, "examples,coverage,fuzzing,stateful", 3_000)
    assert tried >= 20_000, said
    assert_nothing_broke(service)


@pytest.mark.parametrize("path", sorted(FOUND.glob("http-*")), ids=lambda path: path.name)
def test_what_was_found_once_is_answered_or_cut_off(service: Service, path: Path) -> None:
    """Sent as bytes: each is refused, or answered as any other call, and soon; the next call is answered."""
    sent = path.read_bytes().replace(b"{key}", service.client.headers["authorization"].encode())
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=20) as connection:
        answer = exchange(connection, sent)
    assert time.monotonic() - started < 5
    for status, rest in re.findall(rb"HTTP/1\.1 (\d{3})([^\n]*)", answer):
        assert int(status) < 500, (status, rest, answer)
    if not answer.startswith(b"HTTP/1.1 2"):
        assert answer == b"" or b"application/problem+json" in answer, answer
    assert "Traceback" not in "".join(service.stderr)
    assert service.client.get("/healthz").status_code == 200


def exchange(connection: socket.socket, sent: bytes) -> bytes:
    """The first answer, or what there is of it when the other side closes."""
    answer = b""
    try:
        connection.sendall(sent)
        while not is_whole(answer) and (piece := connection.recv(65_536)):
            answer += piece
    except (ConnectionResetError, BrokenPipeError):
        pass
    return answer


def is_whole(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    return bool(blank) and length is not None and len(body) >= int(length[1])


def test_a_client_that_hangs_up_while_its_import_is_read_is_no_fault(service: Service) -> None:
    key = service.client.headers["authorization"]
    head = (
        "POST /v1/merchants/carthage-market/lists/blacklist/import HTTP/1.1\r\nhost: x\r\n"
        f"content-type: text/csv\r\nauthorization: {key}\r\ncontent-length: 4000\r\n\r\n{'x' * 4000}"
    )
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=20) as connection:
            connection.sendall(head.encode())
    whole = "/v1/merchants/carthage-market/lists/blacklist/import"
    for _ in range(3):  # goes through the same threads, after the others
        refused = service.client.post(whole, content="value\nx\n", headers={"content-type": "text/csv"})
        assert refused.status_code == 422
    assert_nothing_broke(service)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/merchants/carthage-market/lists/blacklist/entries", "DELETE, GET, POST"),
        ("/v1/screenings", "GET, POST"),
        ("/healthz", "GET"),
    ],
)
def test_a_method_that_is_not_taken_is_told_all_that_are(service: Service, path: str, methods: str) -> None:
    refused = service.client.put(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)


def test_every_operation_that_wants_a_key_documents_its_refusal(service: Service) -> None:
    for path, operations in service.client.get("/openapi.json").json()["paths"].items():
        for operation in operations.values():
            without_key = operation.get("security") == []
            assert without_key or {"401", "403"} <= operation["responses"].keys(), path


@pytest.mark.parametrize("at_once", [True, False])
def test_a_body_behind_an_upgrade_is_not_read_as_the_next_request(service: Service, at_once: bool) -> None:
    """The parser takes it for another protocol's; behind a proxy, answers would go to the wrong callers."""
    body = b"GET /healthz HTTP/1.1\r\nhost: smuggled\r\n\r\n"
    head = (
        f"POST /v1/screenings HTTP/1.1\r\nhost: x\r\nauthorization: {service.client.headers['authorization']}\r\n"
        f"content-type: application/json\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", service.client.base_url.port or 0), timeout=10) as connection:
        connection.sendall(head + body if at_once else head)
        if not at_once:
            time.sleep(0.2)
            with suppress(OSError):  # it is closed by then
                connection.sendall(body)
        answered = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65_536):
                answered += part
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answered) == [b"400"], answered
    assert b"cannot ask for an upgrade" in answered
    assert service.client.get("/healthz", headers={"connection": "Upgrade", "upgrade": "h2c"}).status_code == 200
