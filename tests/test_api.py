"""The HTTP face: what each address answers, every problem document, and a real server on a loopback port.

The screener is a stand-in without rules, data or log; the whole path is tested with the real one elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from fraudengine import http_protocol
from fraudengine import serve as server_module
from fraudengine.access import Environment, Grant, Role
from fraudengine.api import create_app
from fraudengine.api.answers import ScreeningAnswer
from fraudengine.api.problems import KINDS
from fraudengine.api.screenings import Call as AskedCall
from fraudengine.cards import CardKey
from fraudengine.config import Config
from fraudengine.decision_log import DecisionLog
from fraudengine.diagnostics import Span, StoreUnavailable, UnknownMerchant
from fraudengine.facts import FactType, ListKind, Transaction
from fraudengine.list_admin import ListAdmin
from fraudengine.metrics import Counts
from fraudengine.request_schema import EXAMPLE
from fraudengine.rules.ast import (
    All,
    ChallengeOutcomes,
    Compare,
    DeclaredList,
    ListEntry,
    ListName,
    Literal,
    Mode,
    MoneyFigures,
    Op,
    Outcome,
    Rule,
    RuleId,
    RuleSet,
    SettingValue,
)
from fraudengine.serve import CannotListen, open_socket, serve

PAN = "4111111111111111"
ROOT = Path(__file__).resolve().parents[1]
HERE = Span("rules/platform.yaml", 7, 3, 9)

RULES = RuleSet(
    name="carthage-market",
    description="Groceries.",
    revision="9f2c",
    otherwise=Outcome.ACCEPT,
    challenge=ChallengeOutcomes(),
    timezone="Africa/Tunis",
    rules=(
        Rule(
            RuleId("amount-high"),
            Compare("amount", FactType.MONEY, Op.OVER, MoneyFigures((("TND", 300_000),)), HERE),
            Outcome.CHALLENGE,
            "AMOUNT_NEEDS_3DS",
            description="Too much without 3-D Secure.",
            if_unknown=Outcome.CHALLENGE,
            origin="platform",
            span=HERE,
        ),
        Rule(
            RuleId("off-one"),
            All((), HERE),
            Outcome.REFUSE,
            "OFF_ONE",
            mode=Mode.OFF,
            off_because="nobody gave `$limit` a value",
            origin="carthage-market",
            span=HERE,
        ),
    ),
    lists={
        ListName("blocked"): DeclaredList(
            ListName("blocked"), ListKind.COUNTRY, "Countries.", (ListEntry("RU"), ListEntry("KP")), "platform"
        )
    },
    settings={
        "limit": SettingValue(
            "limit", FactType.MONEY, "A limit.", MoneyFigures((("TND", 1_500),)), "platform", "x"
        ),
        "hours": SettingValue("hours", FactType.INTEGER, "Hours.", Literal(3), "platform", "x"),
        "unset": SettingValue("unset", FactType.INTEGER, "Unset.", None, "platform", ""),
    },
    metadata={"shop": FactType.TEXT},
    reads=frozenset({"amount"}),
    sources=(("rules/platform.yaml", "aa"),),
)


class StandIn:
    """Answers with what it understood; fails on demand."""

    log: DecisionLog  # none: what is asked of it is tested with the real one

    def __init__(self) -> None:
        self.card_key = CardKey(b"k" * 32)
        self.list_admin: ListAdmin | None = None
        self.fails: Exception | None = None
        self.said: tuple[str, ...] = ()
        self.is_ready = True
        self.seen: list[Transaction] = []
        self.delay_s = 0.0
        self.stopped = False

    def begin(self, asked: Sequence[AskedCall]) -> None:
        for call in asked:
            transaction = call.transaction
            if self.fails is not None:
                call.tell(self.fails)
            elif transaction.merchant != "carthage-market":
                call.tell(UnknownMerchant(transaction.merchant))
            else:
                self.seen.append(transaction)
                answer = json.dumps({"screening_id": call.digest.hex(), "decision": "accept"}).encode()
                if self.delay_s:
                    print("asked", file=sys.stderr, flush=True)
                    asyncio.get_running_loop().call_later(self.delay_s, call.tell, answer)
                else:
                    call.tell(answer)

    def screening(self, id_text: str) -> bytes | None:
        if self.fails is not None:
            raise self.fails
        return b'{"transaction": {}}' if id_text == "known" else None

    def count(self, name: str) -> None: ...

    def counted(self) -> Counts:
        return Counts()

    def gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        return {"ready": {(): 1.0}}

    def merchant_of(self, id_text: str) -> str | None:
        return "carthage-market" if id_text == "known" else None

    def rule_texts(self, revision: str) -> list[tuple[str, str]]:
        return []

    def rule_set(self, merchant: str) -> RuleSet:
        if merchant != RULES.name:
            raise UnknownMerchant(merchant, refused=merchant == "refused")
        return RULES

    def problems(self) -> tuple[str, ...]:
        return self.said

    def ready(self) -> bool:
        return self.is_ready

    async def start(self) -> None: ...

    async def stop(self) -> None:
        print("stopped", file=sys.stderr, flush=True)


class Anyone:
    """Lets every call pass as an admin's; access is tested with real keys elsewhere."""

    environment: Environment = "test"

    def grant(self, headers: Iterable[tuple[bytes, bytes]]) -> Grant | None:
        return Grant("stand-in", "anyone", Role.ADMIN, None, b"")


@pytest.fixture
def screener() -> StandIn:
    return StandIn()


Call = Callable[..., httpx.Response]


@pytest.fixture
def call(screener: StandIn) -> Call:
    app = create_app(screener, Config(), Anyone())

    def _call(method: str, path: str, **given: Any) -> httpx.Response:
        async def talk() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
                return await client.request(method, path, **given)

        return asyncio.run(talk())

    return _call


def post(call: Call, described: Any, **headers: str) -> httpx.Response:
    content = described if isinstance(described, bytes) else json.dumps(described).encode()
    return call("POST", "/v1/screenings", content=content, headers={"content-type": "application/json", **headers})


def expect_problem(response: httpx.Response, name: str) -> dict[str, Any]:
    kind = KINDS[name]
    document: dict[str, Any] = response.json()
    assert response.status_code == kind.status
    assert response.headers["content-type"] == "application/problem+json"
    assert document["type"] == f"/problems/{name}"
    assert document["title"] == kind.title
    assert document["status"] == kind.status
    assert document["detail"]
    assert PAN not in response.text
    return document


# ---- POST /v1/screenings ------------------------------------------------------------------------------------


def test_a_screening_is_answered_with_the_screeners_bytes(call: Call, screener: StandIn) -> None:
    response = post(call, EXAMPLE)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["decision"] == "accept"
    assert screener.seen[0].transaction_id == EXAMPLE["transaction_id"]


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"],
)
def test_media_types_of_json_are_taken(call: Call, content_type: str) -> None:
    assert post(call, EXAMPLE, **{"content-type": content_type}).status_code == 200


def test_no_media_type_is_taken_for_json(call: Call) -> None:
    assert call("POST", "/v1/screenings", content=json.dumps(EXAMPLE).encode()).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data", "application/jsonx"]
)
def test_other_media_types_are_refused(call: Call, content_type: str) -> None:
    expect_problem(post(call, EXAMPLE, **{"content-type": content_type}), "unsupported-media-type")


def test_a_compressed_body_is_refused(call: Call) -> None:
    expect_problem(post(call, EXAMPLE, **{"content-encoding": "gzip"}), "unsupported-media-type")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 60_000, b'{"merchant": "\\ud800"}', b"\x00"], ids=lambda b: b[:9]
)
def test_what_is_no_json(call: Call, body: bytes) -> None:
    document = expect_problem(post(call, body), "not-json")
    assert document["errors"][0]["field"] == "body"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": "NaN"}, "amount"),
        ({"card": {"pan": "4111111111111112"}}, "card.pan"),
        ({"card": {"pan": PAN, "cvv": "123"}}, "card.cvv"),
        ({"ip_address": PAN}, "ip_address"),
        ({"currency": PAN[:16]}, "currency"),
        ({PAN: PAN}, "(name not shown)"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(call: Call, changed: dict[str, Any], field: str) -> None:
    document = expect_problem(post(call, {**EXAMPLE, **changed}), "invalid-transaction")
    assert [error["field"] for error in document["errors"]] == [field]
    assert document["detail"].startswith(field)


def test_every_wrong_field_is_named(call: Call) -> None:
    document = expect_problem(post(call, {**EXAMPLE, "amount": "x", "email": "x"}), "invalid-transaction")
    assert {error["field"] for error in document["errors"]} == {"amount", "email"}


@pytest.mark.parametrize("field", [*EXAMPLE, "device_id", "metadata", "three_ds", "unheard_of"])
@pytest.mark.parametrize("planted", [PAN, int(PAN), [PAN], {PAN: PAN}], ids=str)
def test_a_card_number_planted_anywhere_never_comes_back(call: Call, field: str, planted: Any) -> None:
    assert PAN not in post(call, {**EXAMPLE, field: planted}).text


def test_an_unknown_merchant_is_a_problem_that_does_not_repeat_it(call: Call) -> None:
    response = post(call, {**EXAMPLE, "merchant": "nobody"})
    document = expect_problem(response, "unknown-merchant")
    assert document["errors"] == [{"field": "merchant", "problem": "no rule file has that name"}]
    assert "nobody" not in response.text


def test_a_log_that_cannot_be_written_answers_503_and_when_to_try_again(call: Call, screener: StandIn) -> None:
    screener.fails = StoreUnavailable("disk full at /srv/state/log.db")
    response = post(call, EXAMPLE)
    expect_problem(response, "store-unavailable")
    assert response.headers["retry-after"] == "1"
    assert "/srv" not in response.text


def test_our_own_fault_is_500_without_details(
    call: Call, screener: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    screener.fails = ZeroDivisionError("inside")
    with caplog.at_level(logging.ERROR):
        response = post(call, EXAMPLE)
    expect_problem(response, "internal-error")
    assert "inside" not in response.text
    assert "a screening failed" in caplog.text
    assert PAN not in caplog.text


@pytest.mark.parametrize("size", [65_537, 10_000_000], ids=["one byte over", "10 MB"])
def test_a_large_body_is_refused(call: Call, size: int) -> None:
    expect_problem(post(call, b" " * size), "too-large")


def test_the_largest_body_is_read(call: Call) -> None:
    body = json.dumps(EXAMPLE).encode()
    assert post(call, body + b" " * (65_536 - len(body))).status_code == 200


def test_a_large_body_of_no_announced_length_is_refused(call: Call) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    response = call("POST", "/v1/screenings", content=chunks(), headers={"content-type": "application/json"})
    expect_problem(response, "too-large")


# ---- other addresses ----------------------------------------------------------------------------------------


def test_a_recorded_screening(call: Call, screener: StandIn) -> None:
    response = call("GET", "/v1/screenings/known")
    assert (response.status_code, response.json()) == (200, {"transaction": {}})
    expect_problem(call("GET", "/v1/screenings/unknown"), "unknown-screening")
    expect_problem(call("GET", f"/v1/screenings/{PAN}"), "unknown-screening")
    screener.fails = StoreUnavailable("gone")
    expect_problem(call("GET", "/v1/screenings/known"), "store-unavailable")


def test_the_effective_rule_set(call: Call) -> None:
    shown = call("GET", "/v1/merchants/carthage-market/rules").json()
    assert (shown["merchant"], shown["revision"], shown["otherwise"]) == ("carthage-market", "9f2c", "accept")
    on, off = shown["rules"]
    assert (on["id"], on["origin"], on["mode"], on["off_because"]) == ("amount-high", "platform", "live", None)
    assert (on["challenge_indicator"], on["reads"], on["file"], on["line"]) == (
        "04",
        ["amount"],
        "rules/platform.yaml",
        7,
    )
    assert (off["mode"], off["off_because"]) == ("off", "nobody gave `$limit` a value")
    assert shown["settings"]["limit"]["value"] == {"TND": "1.500"}
    assert shown["settings"]["hours"]["value"] == 3
    assert shown["settings"]["unset"]["value"] is None
    assert shown["lists"]["blocked"] == {"of": "country", "help": "Countries.", "entries": 2, "origin": "platform"}


@pytest.mark.parametrize("merchant", ["nobody", PAN, "%0a", "x" * 64])
def test_the_rule_set_of_nobody(call: Call, merchant: str) -> None:
    expect_problem(call("GET", f"/v1/merchants/{merchant}/rules"), "unknown-merchant")


def test_the_rule_set_of_a_merchant_whose_file_is_refused(call: Call) -> None:
    expect_problem(call("GET", "/v1/merchants/refused/rules"), "rules-refused")


def test_a_name_that_is_too_long_is_an_invalid_request(call: Call) -> None:
    document = expect_problem(call("GET", f"/v1/merchants/{PAN * 5}/rules"), "invalid-request")
    assert document["errors"] == [{"field": "merchant", "problem": "longer than 64 characters"}]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "is required"),
        ({"outcome": "chargebak"}, "is one of `authorised`, `declined`, "),
        ({"outcome": 7}, "is one of `authorised`, `declined`, "),
        ({"outcome": "fraud", "code": 7}, "is text"),
        ({"outcome": "fraud", "code": "x" * 65}, "longer than 64 characters"),
        ({"outcome": "fraud", "extra": PAN}, "unknown field"),
        ([], "is a JSON object"),
    ],
)
def test_what_is_wrong_with_other_requests_says_what_they_take(call: Call, body: Any, problem: str) -> None:
    given = call("POST", "/v1/screenings/scr_38g9445ym0000/outcome", json=body)
    document = expect_problem(given, "invalid-request")
    assert document["errors"][0]["problem"].startswith(problem), document


def test_health_and_readiness(call: Call, screener: StandIn) -> None:
    assert call("GET", "/healthz").json() == {"status": "up"}
    assert call("GET", "/readyz").json() == {"ready": True, "problems": []}
    screener.said = (f"rules/merchants/x.yaml is refused: {PAN}",)
    degraded = call("GET", "/readyz")
    assert degraded.status_code == 200  # the last good rules serve on
    assert degraded.json() == {
        "ready": True,
        "problems": ["rules/merchants/x.yaml is refused: 411111******1111"],
    }
    screener.is_ready = False
    assert call("GET", "/readyz").status_code == 503


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("DELETE", "/v1/screenings/known", "method-not-allowed"),
        ("POST", "/v1/screenings/", "not-found"),
        ("GET", "/", "not-found"),
        ("GET", f"/{PAN}", "not-found"),
        ("GET", "/docs", "not-found"),
        ("GET", "/problems/none", "not-found"),
    ],
)
def test_what_is_not_there(call: Call, method: str, path: str, name: str) -> None:
    response = call(method, path)
    expect_problem(response, name)
    if name == "method-not-allowed":
        assert response.headers["allow"]


def test_an_unexpected_fault_outside_screenings_is_500_without_details(call: Call, screener: StandIn) -> None:
    screener.fails = ZeroDivisionError("inside")
    response = call("GET", "/v1/screenings/known")
    expect_problem(response, "internal-error")
    assert "inside" not in response.text


def test_a_problems_type_leads_to_what_it_means(call: Call) -> None:
    kinds = call("GET", "/problems").json()
    assert {kind["type"] for kind in kinds} == {kind.uri for kind in KINDS.values()}
    for kind in kinds:
        assert call("GET", kind["type"]).json() == kind


# ---- OpenAPI ------------------------------------------------------------------------------------------------


def test_openapi_documents_the_screening_whole(call: Call) -> None:
    described = call("GET", "/openapi.json").json()
    operation = described["paths"]["/v1/screenings"]["post"]
    request = operation["requestBody"]["content"]["application/json"]["schema"]
    assert request["$ref"].endswith("/ScreeningRequest")
    schemas = described["components"]["schemas"]
    assert schemas["ScreeningRequest"]["examples"][0]["amount"] == "450.000"
    assert schemas["ScreeningRequest"]["additionalProperties"] is False
    assert schemas["ScreeningAnswer"]["examples"]
    documented = (200, 400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503)
    assert set(operation["responses"]) == {str(status) for status in documented}
    for status, response in operation["responses"].items():
        if status != "200":
            assert list(response["content"]) == ["application/problem+json"]


def test_openapi_refers_only_to_what_it_holds(call: Call) -> None:
    text = call("GET", "/openapi.json").text
    held = json.loads(text)["components"]["schemas"]
    referred = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert referred <= set(held)
    assert not re.findall(r'"#/\$defs/', text)
    assert "HTTPValidationError" not in text


def test_the_examples_of_the_documentation_are_true(call: Call) -> None:
    schemas = call("GET", "/openapi.json").json()["components"]["schemas"]
    for example in schemas["ScreeningRequest"]["examples"]:
        assert post(call, example).status_code == 200
    for example in schemas["ScreeningAnswer"]["examples"]:
        TypeAdapter(ScreeningAnswer).validate_python(example, strict=True)


# ---- a real server ------------------------------------------------------------------------------------------


def serve_stand_in() -> None:
    """What the subprocess below runs; the screener's delay and the server's patience come as arguments."""
    screener = StandIn()
    screener.delay_s = float(sys.argv[1])
    http_protocol.ARRIVAL_SECONDS = float(sys.argv[2])  # type: ignore[misc]
    server_module.MAX_CONNECTIONS = int(sys.argv[3])  # type: ignore[misc]
    server_module.KEEP_ALIVE_SECONDS = int(sys.argv[4])  # type: ignore[misc]
    http_protocol.FIRST_SECONDS = float(sys.argv[5])  # type: ignore[misc]
    serve(Config(port=0), screener, Anyone())


@contextmanager
def served(
    delay_s: float = 0.0,
    arrival_s: float = 10.0,
    most_connections: int = 100,
    keep_alive_s: int = 75,
    first_s: float = 1.0,
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDENGINE_")}
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from tests.test_api import serve_stand_in; serve_stand_in()",
            str(delay_s),
            str(arrival_s),
            str(most_connections),
            str(keep_alive_s),
            str(first_s),
        ],
        cwd=ROOT,
        env={**environ, "PYTHONPATH": str(ROOT / "src")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        ready = process.stderr.readline()
        found = re.fullmatch(r"fraudengine: ready on http://127\.0\.0\.1:(\d+)\n", ready)
        assert found, ready
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    with served() as running:
        yield running


def test_a_real_server_screens(server: tuple[subprocess.Popen[str], int]) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server[1]}") as client:
        assert client.get("/healthz").json() == {"status": "up"}
        for _ in range(3):  # on one connection
            response = client.post("/v1/screenings", json=EXAMPLE)
            assert response.status_code == 200
        assert response.headers["content-length"] == str(len(response.content))
        assert "server" not in response.headers
        expect_problem(client.post("/v1/screenings", content=b"{"), "not-json")


def test_a_real_server_answers_a_10_mb_body(server: tuple[subprocess.Popen[str], int]) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server[1]}", timeout=30) as client:
        expect_problem(client.post("/v1/screenings", content=b" " * 10_000_000), "too-large")
        expect_problem(
            client.post("/v1/screenings", content=(b" " * 100_000 for _ in range(100))), "too-large"
        )  # chunked
        assert client.post("/v1/screenings", json=EXAMPLE).status_code == 200


def test_a_real_server_ends_endless_headers(server: tuple[subprocess.Popen[str], int]) -> None:
    with socket.create_connection(("127.0.0.1", server[1]), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
        received = b""
        try:
            for _ in range(100):
                connection.sendall(b"a" * 16_384)
            while chunk := connection.recv(65_536):
                received += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert not received or received.startswith(b"HTTP/1.1 400")


def test_a_request_that_does_not_arrive_whole_is_ended() -> None:
    head = b"POST /v1/screenings HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n"
    with served(arrival_s=0.2) as (_, port):
        for begun, answered in ((b"", b""), (b"POST /v1/scr", b"HTTP/1.1 408"), (head + b"{", b"HTTP/1.1 408")):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(begun)
                received = b""
                while chunk := connection.recv(65_536):
                    received += chunk
                assert received.startswith(answered)
                assert bool(received) == bool(answered)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.post("/v1/screenings", json=EXAMPLE).status_code == 200


def request_bytes(body: bytes, *fields: str) -> bytes:
    head = "\r\n".join(("POST /v1/screenings HTTP/1.1", "host: x", f"content-length: {len(body)}", *fields))
    return head.encode() + b"\r\n\r\n" + body


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Status and document of so many answers; each must say its length."""
    answers: list[tuple[int, dict[str, Any]]] = []
    held = connection.makefile("rb")
    for _ in range(count):
        status = int(held.readline().split()[1])
        fields = dict(line.lower().split(b": ", 1) for line in iter(held.readline, b"\r\n"))
        answers.append((status, json.loads(held.read(int(fields[b"content-length"])))))
    return answers


@pytest.mark.parametrize("cut", [1, 20, 90, -1], ids=["in the method", "in the head", "in the body", "at the end"])
def test_requests_in_two_pieces_and_several_in_one(server: tuple[subprocess.Popen[str], int], cut: int) -> None:
    """However the bytes come, each request is answered once and in order: the short way and uvicorn's meet."""
    bodies = [json.dumps({**EXAMPLE, "transaction_id": f"T-{number}"}).encode() for number in range(6)]
    sent = b"".join(map(request_bytes, [*bodies[:3], b"{", *bodies[3:]]))
    sent += b"GET /healthz?x=1 HTTP/1.1\r\nhost: x\r\n\r\n" + request_bytes(bodies[0], "connection: close")
    with socket.create_connection(("127.0.0.1", server[1]), timeout=30) as connection:
        connection.sendall(sent[:cut])
        with httpx.Client(base_url=f"http://127.0.0.1:{server[1]}") as other:
            assert other.get("/healthz").status_code == 200
        connection.sendall(sent[cut:])
        answers = read_answers(connection, 9)
        assert connection.recv(1) == b""
    assert [status for status, _ in answers] == [200, 200, 200, 400, 200, 200, 200, 200, 200]


def test_a_head_that_was_seen_before_is_answered_however_it_comes(
    server: tuple[subprocess.Popen[str], int],
) -> None:
    """Whole, in pieces, with a wrong body, with more behind it: a known head answers nothing wrongly."""
    body = json.dumps(EXAMPLE).encode()
    whole = request_bytes(body, "connection: Keep-Alive")
    bad = request_bytes(b" " * len(body), "connection: Keep-Alive")
    with socket.create_connection(("127.0.0.1", server[1]), timeout=30) as connection:
        for sent, expected in (
            ([whole], [200]),
            ([whole], [200]),
            ([whole[:-1], whole[-1:]], [200]),
            ([whole[:30], whole[30:]], [200]),
            ([bad], [400]),
            ([whole + whole], [200, 200]),
            ([whole + whole[:40], whole[40:]], [200, 200]),
            ([b"\r\n", whole], [200]),
            ([whole], [200]),
        ):
            for piece in sent:
                connection.sendall(piece)
                time.sleep(0.01)  # so that the pieces come apart; they may also come together
            assert [status for status, _ in read_answers(connection, len(expected))] == expected
        connection.sendall(request_bytes(body, "connection: close"))
        read_answers(connection, 1)
        assert connection.recv(1) == b""


def test_known_heads_are_bounded() -> None:
    known = http_protocol._KnownHeads()
    for number in range(http_protocol.MAX_KNOWN_HEADS + 5):
        known.remember(b"%d" % number, [], 0)
    assert len(known) == 5


def test_an_idle_connection_is_closed_and_a_used_one_is_not() -> None:
    with (
        served(keep_alive_s=1) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
    ):
        sent = request_bytes(json.dumps(EXAMPLE).encode())
        for _ in range(4):  # longer together than a connection may be idle
            connection.sendall(sent)
            assert read_answers(connection, 1)[0][0] == 200
            time.sleep(0.4)
        used = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.3 < time.monotonic() - used < 10


@pytest.mark.parametrize("sent", [b"\0\0\0\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 40_000])
def test_what_is_no_request_gets_a_problem_document(server: tuple[subprocess.Popen[str], int], sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server[1]), timeout=30) as connection:
        connection.sendall(sent)
        ((status, document),) = read_answers(connection, 1)
        assert connection.recv(1) == b""
    assert (status, document["type"]) == (400, "/problems/unreadable-request")


def test_more_requests_under_way_than_are_taken_get_a_problem_document() -> None:
    with served(most_connections=2, delay_s=2.0) as (process, port):
        held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(2)]
        for connection in held:
            connection.sendall(request_bytes(json.dumps(EXAMPLE).encode()))
            assert process.stderr is not None
            assert process.stderr.readline() == "asked\n"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as third:
            third.sendall(request_bytes(json.dumps(EXAMPLE).encode()))
            ((status, document),) = read_answers(third, 1)
            assert (status, document["type"]) == (503, "/problems/overloaded")
        for connection in held:
            assert read_answers(connection, 1)[0][0] == 200
            connection.close()


def test_connections_that_wait_give_way_to_newcomers_and_used_ones_last() -> None:
    with served(most_connections=3) as (_, port):
        used = socket.create_connection(("127.0.0.1", port), timeout=30)
        used.sendall(request_bytes(json.dumps(EXAMPLE).encode()))
        assert read_answers(used, 1)[0][0] == 200
        half = socket.create_connection(("127.0.0.1", port), timeout=30)
        half.sendall(b"POST /v1/scr")
        unused = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(2)]
        assert half.recv(1) == b"", "it came before the other two and never sent a whole request"
        for connection in (used, *unused):
            connection.sendall(request_bytes(json.dumps(EXAMPLE).encode()))
            assert read_answers(connection, 1)[0][0] == 200
            connection.close()
        half.close()


def test_a_client_that_leaves_in_the_middle_hurts_nobody(server: tuple[subprocess.Popen[str], int]) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server[1]), timeout=10) as connection:
            connection.sendall(b"POST /v1/screenings HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
    with httpx.Client(base_url=f"http://127.0.0.1:{server[1]}") as client:
        assert client.post("/v1/screenings", json=EXAMPLE).status_code == 200


def test_shutdown_answers_what_was_accepted_and_stops_the_screener() -> None:
    body = json.dumps(EXAMPLE).encode()
    head = f"POST /v1/screenings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with served(delay_s=0.5) as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(head + body)
            assert process.stderr is not None
            assert process.stderr.readline() == "asked\n"
            process.send_signal(signal.SIGTERM)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert (out, err) == ("", "stopped\n")


def test_shutdown_still_reads_what_a_new_connection_is_about_to_ask() -> None:
    """Of those that have been answered before it reads only what is there already."""
    with served(first_s=20) as (process, port):
        new, used = (socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(2))
        used.sendall(request_bytes(json.dumps(EXAMPLE).encode()))
        assert read_answers(used, 1)[0][0] == 200
        process.send_signal(signal.SIGTERM)
        assert used.recv(1) == b""
        new.sendall(request_bytes(json.dumps(EXAMPLE).encode()))
        assert read_answers(new, 1)[0][0] == 200
        new.close()
        used.close()
        assert process.wait(15) == 0


def test_a_port_in_use_is_said_clearly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"cannot listen on 127.0.0.1 port {port}: .*FRAUDENGINE_PORT"):
            open_socket(Config(port=port))
