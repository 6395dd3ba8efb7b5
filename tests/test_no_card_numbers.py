"""A card number planted wherever a caller can put text is nowhere afterwards: not in files, logs, answers, metrics.

One service takes all that its own OpenAPI document says can be sent, so that a field that is added is covered
without a word here; an operation whose ordinary call is not answered well fails, and wants a row in `ORDINARY`.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
import pytest

from fraudengine.cards import CardKey, Pan
from fraudengine.request_schema import AFTER_CHALLENGE_EXAMPLE

from .card_numbers import (
    PANS,
    SPELLINGS,
    assert_nowhere,
    card_numbers_in,
    digits_of,
    write_rule_files,
)
from .running import Service, files_below, running_service, wait_until

OUTSIDE: Final = (SPELLINGS["plain"], SPELLINGS["spaced"])  # tried where nothing reads what is sent
CARD_KEY = "5c" * 32
KNOWN_FINGERPRINT = Pan.parse("6011111111111117").fingerprint(CardKey(bytes.fromhex(CARD_KEY)))
HEADERS: Final = ("accept", "cookie", "idempotency-key", "origin", "referer", "tracestate", "user-agent")
MORE_HEADERS: Final = (*HEADERS, "x-forwarded-for", "x-forwarded-proto", "x-request-id", "content-type", PANS[0])


def test_the_search_finds_what_it_looks_for() -> None:
    for spelling in SPELLINGS.values():
        assert card_numbers_in(f"x {spelling}".encode())
        assert card_numbers_in(f"GET /{quote(spelling, safe='')} HTTP/1.1".encode())
    assert not card_numbers_in(b"411111******1111 555555******4444 4111 1111 1111 1112")


# ---- what can be sent ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A call with a card number in one place of it."""

    operation: str
    place: str
    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None

    def send(self, service: Service) -> httpx.Response:
        content = self.body.encode() if isinstance(self.body, str) else None
        body = self.body if content is None else None
        return service.client.request(
            self.method,
            self.path,
            params=self.query,
            headers=[(name.encode(), value.encode()) for name, value in self.headers.items()],
            content=content,
            json=body,
        )


# What an ordinary call of each operation holds; an operation that is not here takes its document's examples.
PATHS: Final = {"merchant": "carthage-market", "list": "blacklist", "name": "not-json"}
ORDINARY: Final[dict[str, dict[str, Any]]] = {
    "post /v1/screenings": AFTER_CHALLENGE_EXAMPLE
    | {
        "card": {"pan": "6011 1111 1111 1117", "issuer": "Bank"},
        "metadata": {"note": "n", "count": 1},
        "phone": "+216 20 123 456",
        "device_id": "d",
        "shipping_country": "TN",
    },
    "post /v1/merchants/{merchant}/lists/{list}/entries": {
        "value": KNOWN_FINGERPRINT,
        "reason": "r",
        "ticket": "t",
        "author": "a",
    },
    "delete /v1/merchants/{merchant}/lists/{list}/entries": {"value": KNOWN_FINGERPRINT},
    "post /v1/merchants/{merchant}/lists/{list}/import": {"": f"value,reason\n{KNOWN_FINGERPRINT},r\n"},
    "post /v1/screenings/{screening_id}/outcome": {"outcome": "authorised", "code": "00", "reference": "r"},
}


class Surface:
    """The operations of a running service, by its own document, and every place of theirs that takes a value."""

    def __init__(self, service: Service) -> None:
        self.numbers = itertools.count()
        self.document = service.client.get("/openapi.json").json()
        self.paths = PATHS | {"screening_id": service.screen(transaction_id="first").json()["screening_id"]}
        added = service.client.post(
            "/v1/merchants/carthage-market/lists/trusted_customers/entries", json={"value": "c-1"}
        )
        self.entry_of_another_list = added.json()["id"]

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, operations in self.document["paths"].items():
            for method, operation in operations.items():
                yield method, path, operation

    def ordinary(self, method: str, path: str, operation: Mapping[str, Any]) -> Planted:
        """The call with nothing planted."""
        name = f"{method} {path}"
        held = ORDINARY.get(name, {})
        taken = {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
        query = {key: str(value) for key, value in held.items() if key in taken}
        body: Any = None
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            body = {key: value for key, value in held.items() if key not in taken}
        elif content:
            body = held[""]
        paths = self.paths | {"entry_id": str(self.entry_of_another_list)}
        if "{entry_id}" in path:
            paths["list"] = "trusted_customers"
        headers = {"content-type": next(iter(content))} if content else {}
        return Planted(name, "nothing", method.upper(), path.format(**paths), query, headers, body)

    def planted(self, spelling: str) -> Iterator[Planted]:
        """Every operation with the card number in each place in turn, and an address that is none."""
        yield Planted("none", "path", "GET", f"/{quote(spelling, safe='')}", {spelling: spelling})
        for method, path, operation in self.operations():
            plain = self.ordinary(method, path, operation)
            for name in re.findall(r"\{(\w+)\}", path):
                elsewhere = self.paths | {"entry_id": "1", name: quote(spelling, safe="")}
                yield _changed(plain, f"path {name}", path=path.format(**elsewhere))
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "query":
                    given = {**plain.query, parameter["name"]: spelling}
                    yield _changed(plain, f"query {parameter['name']}", query=given)
            if spelling in OUTSIDE:
                yield _changed(plain, "query, its name", query={**plain.query, spelling: "x"})
                yield _changed(plain, "query, unknown", query={**plain.query, "unknown": spelling})
                yield from _in_headers(plain, spelling)
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                schema = content["application/json"]["schema"]
                for place, body in self._in_body(schema, plain.body, spelling):
                    own = {"transaction_id": f"T-{next(self.numbers)}"} if "card" in plain.body else {}
                    given = own | body if place.startswith("transaction_id") else body | own
                    yield _changed(plain, f"body {place}", body=given)
                yield _changed(plain, "body, broken", body=f'{{"reason": "{spelling}')
                yield _changed(plain, "body, all", body=spelling)
                yield _changed(plain, "body, a list", body=json.dumps([spelling, plain.body]))
            elif content:
                for place, text in _tables(spelling):
                    yield _changed(plain, f"table, {place}", body=text)

    def _in_body(self, schema: Mapping[str, Any], plain: Any, spelling: str) -> Iterator[tuple[str, Any]]:
        """The body with the number as each property, as a number, as a list, as a key; and inside of objects."""
        digits = int(digits_of(spelling))
        for name, inner in self._properties(schema):
            yield name, {**plain, name: spelling}
            if spelling in OUTSIDE:
                yield f"{name}, a number", {**plain, name: digits}
                yield f"{name}, a list", {**plain, name: [spelling]}
                yield f"{name}, a key", {**plain, name: {spelling: spelling}}
                yield f"{name}, alone", {name: spelling}
            held = plain.get(name) if isinstance(plain.get(name), dict) else {}
            for place, body in self._in_body(inner, held, spelling):
                yield f"{name}.{place}", {**plain, name: body}
        extra = self._resolve(schema).get("additionalProperties")
        if extra:
            yield "*", {**plain, "free": spelling}
            yield "*, a number", {**plain, "free": digits}
        yield "unknown", {**plain, "unknown": spelling}
        yield "its key", {**plain, spelling: "x"}
        yield "its plain key", {**plain, f"k{digits}": "x"}

    def _properties(self, schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield from self._resolve(schema).get("properties", {}).items()

    def _resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for choice in schema.get("anyOf", []):
            if choice.get("type") != "null":
                return self._resolve(choice)
        if "$ref" in schema:
            found = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            assert isinstance(found, dict)
            return found
        return schema


def _changed(plain: Planted, place: str, **changes: Any) -> Planted:
    return Planted(**{**vars(plain), "place": place, **changes})


def _in_headers(plain: Planted, spelling: str) -> Iterator[Planted]:
    digits = digits_of(spelling)
    trace = f"00-{digits.ljust(32, 'a')}-{digits.rjust(16, 'b')[:16]}-01"
    given = dict.fromkeys(MORE_HEADERS, spelling) | {"traceparent": trace, "x-" + digits: spelling}
    for name, value in given.items():
        yield _changed(plain, f"header {name}", headers={**plain.headers, name: value})
    for value in (spelling, f"Bearer {spelling}", f"Bearer fe_live_{spelling}", f"Basic {spelling}"):
        yield _changed(plain, "header authorization", headers={**plain.headers, "authorization": value})


def _tables(spelling: str) -> Iterator[tuple[str, str]]:
    """CSV texts with the number in every column, in the header, as a line of its own and out of place."""
    columns = ("value", "pan", "reason", "ticket", "author", "expires", "id", "unknown")
    for name in columns:
        held = [name] if name in ("value", "pan") else ["value", name]
        cells = [spelling if column == name else f"fp_5c5c5c_{'a' * 32}" for column in held]
        yield name, f"{','.join(held)}\n{','.join(cells)}\n"
    yield "header", f"value,{spelling}\n{KNOWN_FINGERPRINT},x\n"
    yield "line", f"{spelling}\n"
    yield "quoted", f'value,reason\n"{spelling},"{spelling}\n'
    yield "wide", f"value\n{KNOWN_FINGERPRINT},{spelling},{spelling}\n"
    yield "semicolons", f"value;reason\n{KNOWN_FINGERPRINT};{spelling}\n"


# ---- the service -----------------------------------------------------------------------------------


@dataclass
class Aftermath:
    """A service that was sent card numbers in every place, and what it answered; it still runs."""

    service: Service
    answers: dict[str, httpx.Response]
    ordinary: dict[str, int]
    screenings: set[str]


def _every_file(state: Path) -> dict[str, bytes]:
    return {str(path): content for path, content in files_below(state).items()}


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    settings = {
        "FRAUDENGINE_DEVELOPMENT": "0",
        "FRAUDENGINE_CARD_KEY": CARD_KEY,
        "FRAUDENGINE_LOG_FORMAT": "json",
        "FRAUDENGINE_UNKNOWN_MERCHANT": "platform",
        "FRAUDENGINE_TRUSTED_PROXIES": "127.0.0.1",
        "FRAUDENGINE_METRICS_MERCHANTS": "carthage-market",
    }
    with running_service(tmp_path_factory.mktemp("planted"), settings) as service:
        surface = Surface(service)
        ordinary = {}
        for operation in surface.operations():
            call = surface.ordinary(*operation)
            ordinary[call.operation] = call.send(service).status_code
        answers = {}
        for name, spelling in SPELLINGS.items():
            for call in surface.planted(spelling):
                try:
                    answers[f"{call.operation}, {call.place}, {name}"] = call.send(service)
                except (httpx.LocalProtocolError, httpx.InvalidURL):
                    continue  # the client refuses to send it
        screenings = {
            found
            for answer in answers.values()
            for found in re.findall(r"scr_\w+", answer.text if answer.status_code == 200 else "")
        }
        for screening in screenings:
            path = f"/v1/screenings/{screening}"
            answers[path] = service.client.get(path, params={"explain": True})
        yield Aftermath(service, answers, ordinary, screenings)


def test_every_operation_has_an_ordinary_call(aftermath: Aftermath) -> None:
    """Without one, what is planted there would be refused for another reason and prove nothing."""
    assert {name: status for name, status in aftermath.ordinary.items() if not 200 <= status < 300} == {}


def test_many_planted_calls_are_processed_and_none_breaks_anything(aftermath: Aftermath) -> None:
    statuses = [answer.status_code for answer in aftermath.answers.values()]
    assert sum(200 <= status < 300 for status in statuses) > 500
    broken = [name for name, answer in aftermath.answers.items() if answer.status_code >= 500]
    assert not broken
    assert len(aftermath.screenings) > 100


def test_no_answer_repeats_a_card_number(aftermath: Aftermath) -> None:
    written = {}
    for place, answer in aftermath.answers.items():
        head = b"\n".join(b"%b: %b" % pair for pair in answer.headers.raw)
        written[place] = head + b"\n" + answer.content
    published = {place for place in written if place.startswith("get /openapi.json")}
    assert_nowhere({place: content for place, content in written.items() if place not in published})


def test_pages_about_everything_show_no_card_number(aftermath: Aftermath) -> None:
    pages = ("/metrics", "/readyz", "/healthz", "/v1/screenings?limit=100")
    written = {page: aftermath.service.client.get(page).content for page in pages}
    for name in ("blacklist", "trusted_customers"):
        page = f"/v1/merchants/carthage-market/lists/{name}/entries?limit=1000&all=true"
        written[page] = aftermath.service.client.get(page).content
    assert_nowhere(written)
    assert b"fraudengine_" in written["/metrics"]


def test_what_is_no_http_is_refused_without_being_repeated(aftermath: Aftermath) -> None:
    """Heads that no client library would send, and a body that is cut off."""
    address = urlsplit(aftermath.service.url)
    written = {}
    for name, spelling in SPELLINGS.items():
        for head in (
            f"{spelling}\r\n\r\n",
            f"{spelling} / HTTP/1.1\r\nhost: x\r\n\r\n",
            f"GET /{spelling} HTTP/1.1\r\nhost: x\r\n{spelling}\r\n\r\n",
            f"GET / HTTP/{spelling}\r\nhost: x\r\n\r\n",
            f"GET / HTTP/1.1\r\nhost: {spelling}\r\n{spelling}: {spelling}\r\n\r\n",
            f"POST /v1/screenings HTTP/1.1\r\nhost: x\r\ncontent-length: {spelling}\r\n\r\n{spelling}",
            f"POST /v1/screenings HTTP/1.1\r\nhost: x\r\ncontent-length: 400\r\n\r\n{spelling}",
            f"GET /?{spelling} HTTP/1.1\r\nhost: x\r\nupgrade: {spelling}\r\nconnection: upgrade\r\n\r\n",
        ):
            with socket.create_connection((address.hostname, address.port or 0), 5) as connection:
                connection.sendall(head.encode())
                connection.shutdown(socket.SHUT_WR)
                written[f"{name}: {head.split(spelling)[0]!r}"] = _read_all(connection)
    assert_nowhere(written)


def _read_all(connection: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := connection.recv(65_536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def test_rule_files_with_card_numbers_are_refused_without_showing_them(aftermath: Aftermath) -> None:
    service = aftermath.service
    planted = write_rule_files(service.rules)
    wait_until(lambda: len(service.problems()) >= planted, "the rule files are refused")
    pages = ("/readyz", "/metrics", *(f"/v1/merchants/m{number}/rules" for number in range(planted)))
    assert_nowhere({page: service.client.get(page).content for page in pages})


def test_no_file_holds_a_card_number_while_the_service_runs_or_after_it_stopped(aftermath: Aftermath) -> None:
    """Last in this file of those about the service: it stops it."""
    service = aftermath.service
    running = _every_file(service.state)
    assert any(name.endswith("-wal") for name in running)
    assert service.stop() == 0
    stopped = {f"{name}, stopped": content for name, content in _every_file(service.state).items()}
    said = "".join(service.stderr)
    assert '"event":"screening"' in said
    assert_nowhere({**running, **stopped, "standard error": said.encode()})
