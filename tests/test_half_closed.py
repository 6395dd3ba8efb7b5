"""Clients that send their request and then no more (SHUT_WR): what arrived whole is answered before the end."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from fraudengine.request_schema import EXAMPLE

from .test_api import read_answers, request_bytes, served

BODY = json.dumps(EXAMPLE).encode()
WHOLE = request_bytes(BODY)
CHUNKED = WHOLE.replace(b"content-length: %d" % len(BODY), b"transfer-encoding: chunked").replace(BODY, b"")
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"

Server = tuple[subprocess.Popen[str], int]


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    """A server whose screener takes its time, so that the end of what a client sends comes before the answer.

    It says `asked` for each screening. That it has no log is told once by its search index; nothing else is said.
    """
    with served(delay_s=0.3) as running:
        yield running
        process, _ = running
        process.terminate()
        out, err = process.communicate(timeout=30)
        said = [
            line for line in err.splitlines() if not line.startswith("the search index: there is no decision log")
        ]
        assert (out, set(said) - {"asked", "stopped"}, process.returncode) == ("", set(), 0)


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server[1]), timeout=30)


def received_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        pytest.param([WHOLE], 1, id="plain"),
        pytest.param([WHOLE], 1, id="a head that was seen before"),
        pytest.param([request_bytes(BODY, "connection: close")], 1, id="connection: close"),
        pytest.param([WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0")], 1, id="HTTP 1.0"),
        pytest.param([CHUNKED + CHUNKS], 1, id="chunked"),
        pytest.param([WHOLE[:50], WHOLE[50:]], 1, id="in two pieces"),
        pytest.param([WHOLE + WHOLE], 2, id="two at once"),
        pytest.param([WHOLE + HEALTH + WHOLE], 3, id="three at once"),
    ],
)
def test_what_arrived_whole_is_answered_and_then_the_connection_is_closed(
    slow: Server, sent: list[bytes], answers: int
) -> None:
    with connect(slow) as connection:
        for piece in sent:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        given = received_to_the_end(connection)
    assert given.count(b"HTTP/1.1 200 ") == answers
    assert given.count(b"HTTP/1.1 ") == answers
    assert given.count(b'"screening_id"') == sum(piece.count(b"POST ") for piece in sent[:1]) * (answers > 0)


def test_the_last_request_of_a_kept_connection_is_answered(slow: Server) -> None:
    with connect(slow) as connection:
        for _ in range(2):
            connection.sendall(WHOLE)
            assert read_answers(connection, 1)[0][0] == 200
        connection.sendall(WHOLE)
        connection.shutdown(socket.SHUT_WR)
        assert read_answers(connection, 1)[0][0] == 200
        assert connection.recv(1) == b""


def test_a_kept_connection_that_says_goodbye_between_two_requests_is_closed(slow: Server) -> None:
    with connect(slow) as connection:
        connection.sendall(WHOLE)
        assert read_answers(connection, 1)[0][0] == 200
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["first", "kept"])
@pytest.mark.parametrize("cut", [1, 20, 90, -1], ids=["in the method", "in the head", "in the body", "at the end"])
def test_a_request_that_ends_before_it_is_whole_is_refused(slow: Server, before: bytes, cut: int) -> None:
    with connect(slow) as connection:
        if before:
            connection.sendall(before)
            assert read_answers(connection, 1)[0][0] == 200
        connection.sendall(WHOLE[:cut])
        connection.shutdown(socket.SHUT_WR)
        ((status, document),) = read_answers(connection, 1)
        assert connection.recv(1) == b""
    assert (status, document["type"]) == (400, "/problems/unreadable-request")
    assert document["detail"] == "The request ended before it was whole."


@pytest.mark.parametrize("cut", [0, 5, -1], ids=["before the body", "in the body", "at the end"])
def test_a_chunked_request_that_ends_before_it_is_whole_is_let_go_of(slow: Server, cut: int) -> None:
    with connect(slow) as connection:
        connection.sendall(CHUNKED + CHUNKS[:cut])
        connection.shutdown(socket.SHUT_WR)
        given = received_to_the_end(connection)
    assert not given or given.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("rest", [WHOLE[:20], WHOLE[:-1], CHUNKED + CHUNKS[:5]], ids=["head", "body", "chunks"])
def test_what_was_whole_is_answered_though_more_had_begun(slow: Server, rest: bytes) -> None:
    with connect(slow) as connection:
        connection.sendall(WHOLE + rest)
        connection.shutdown(socket.SHUT_WR)
        given = received_to_the_end(connection)
    assert given.startswith(b"HTTP/1.1 200 ")
    assert given.count(b'"screening_id"') == 1


def test_whoever_hangs_up_is_let_go_of(slow: Server) -> None:
    """Without a reset, and with one; the answer goes nowhere."""
    for linger in (False, True):
        for _ in range(5):
            with connect(slow) as connection:
                connection.sendall(WHOLE)
                if linger:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with httpx.Client(base_url=f"http://127.0.0.1:{slow[1]}") as client:
        assert client.post("/v1/screenings", json=EXAMPLE).status_code == 200
