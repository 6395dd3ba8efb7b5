"""`POST /v1/screenings` on raw ASGI: the body's bytes to the compiled validator, the answer's bytes back.

FastAPI's machinery costs more per request than a whole screening; `tests/benchmarks/bench_http.py` measures it.
What is given up is dependency injection on this one route; OpenAPI documents it from the same classes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from starlette.types import Receive, Scope, Send

from ..access import Grant
from ..cards import CardKey
from ..facts import Transaction
from ..request import read_transaction
from ..structured_log import ScreeningLines, Trace, new_trace, read_trace
from .gate import NOT_YOURS
from .problems import FORBIDDEN, INTERNAL, MEDIA_TYPE_REFUSED, TOO_LARGE, Problem, problem_for

_log = logging.getLogger(__name__)

PATH: Final = "/v1/screenings"
DRAIN_BYTES: Final = 32 * 1024 * 1024  # a refused body up to this is read and dropped, so that the answer arrives

MAX_ROUND: Final = 64  # calls that are decided before the event loop goes on

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
NO_STORE: Final = (b"cache-control", b"no-store")


class Screens(Protocol):
    """What this route needs of the screener."""

    @property
    def card_key(self) -> CardKey: ...

    def begin(self, asked: Sequence[Call]) -> None: ...

    def count(self, name: str) -> None: ...


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.kind.name)
        self.problem = problem


class _Disconnected(Exception):
    pass


Given: TypeAlias = bytes | Problem
"""What a call comes to: the answer as JSON, or a problem."""
Reply: TypeAlias = Callable[[Given, Trace | None], None]


class Call:
    """One call, whose answer waits for the disk. `transaction` and `digest` are there once its body was read."""

    __slots__ = ("_body", "_endpoint", "_grant", "_reply", "digest", "received_ns", "trace", "transaction")

    transaction: Transaction
    digest: bytes

    def __init__(self, endpoint: ScreeningEndpoint, trace: Trace | None, reply: Reply) -> None:
        self._endpoint, self.trace, self._reply = endpoint, trace, reply
        self.received_ns = time.perf_counter_ns()

    def take(self, body: bytes, grant: Grant) -> None:
        self._body, self._grant = body, grant

    def read(self) -> None:
        """Reads the body that was taken."""
        card_key = self._endpoint.screener.card_key
        self.transaction, self.digest = read_transaction(self._body, card_key, time.time_ns() // 1000)
        if not self._grant.covers(self.transaction.merchant):
            raise _Refused(Problem(FORBIDDEN, NOT_YOURS, (("merchant", "is not one of the key's"),)))

    def tell(self, outcome: bytes | Exception, /) -> None:
        """Gives the answer; an answer that cannot be given leaves the others of the round alone."""
        try:
            self._tell(outcome)
        except Exception:  # noqa: BLE001 - whatever is wrong with one connection
            _log.exception("an answer could not be given")

    def _tell(self, outcome: bytes | Exception) -> None:
        if not isinstance(outcome, bytes):
            self._reply(self._endpoint.refusal(outcome), self.trace)
            return
        trace, lines = self.trace, self._endpoint.lines
        if trace is not None and lines is not None:
            elapsed_us = (time.perf_counter_ns() - self.received_ns) // 1000
            lines.write(self.transaction.merchant, outcome, trace, elapsed_us)
        self._reply(outcome, trace)


class ScreeningEndpoint:
    """Answers one call after another; holds nothing of any of them.

    A whole request comes by `answer`, straight from the protocol; any other through ASGI. What one round of the
    event loop received is read and decided together: stage by stage, a processor finds code and data in its caches.
    """

    def __init__(self, screener: Screens, max_body_bytes: int, lines: ScreeningLines | None = None) -> None:
        self.lines = lines
        self.screener = screener
        self.max_body_bytes = max_body_bytes
        self._round: list[Call] = []

    def answer(self, headers: Headers, body: bytes, grant: Grant, reply: Reply) -> None:
        """Answers a whole request that the gate admitted: `reply` is called once, at once or after the commit."""
        call = self._call(headers, reply)
        try:
            _check_headers(headers)
            if len(body) > self.max_body_bytes:
                raise _Refused(self._too_large())
        except _Refused as refused:
            call.tell(refused)
        else:
            self._begin_soon(call, body, grant)

    def _begin_soon(self, call: Call, body: bytes, grant: Grant) -> None:
        """Has the call answered at the end of this round of the event loop, with the others of the round."""
        call.take(body, grant)
        self._round.append(call)
        if len(self._round) == 1:
            asyncio.get_running_loop().call_soon(self._begin_round)

    def _begin_round(self) -> None:
        calls, self._round = self._round[:MAX_ROUND], self._round[MAX_ROUND:]
        if self._round:  # a crowd: the disk begins with the first of it, and other events get their turn
            asyncio.get_running_loop().call_soon(self._begin_round)
        read = []
        for call in calls:
            try:
                call.read()
            except Exception as error:  # noqa: BLE001 - the outermost frame of a call: every error gets an answer
                call.tell(error)
            else:
                read.append(call)
        if read:
            self.screener.begin(read)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a call that the gate admitted; `scope["grant"]` says for which merchants it may be."""
        grant: Grant = scope["grant"]
        given: asyncio.Future[Given] = asyncio.get_running_loop().create_future()

        def reply(outcome: Given, _: Trace | None) -> None:
            if not given.done():  # the server gave up waiting
                given.set_result(outcome)

        call = self._call(scope["headers"], reply)
        try:
            self._begin_soon(call, await self._read_body(scope, receive), grant)
        except _Disconnected:
            return
        except _Refused as refused:
            call.tell(refused)
        outcome, trace = await given, call.trace
        if isinstance(outcome, Problem):
            await send_problem(outcome, send, trace)
            return
        headers = [JSON, (b"content-length", b"%d" % len(outcome)), NO_STORE]
        if trace is not None:
            headers.append(trace.header)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": outcome})

    def _call(self, headers: Headers, reply: Reply) -> Call:
        trace = read_trace(headers)
        if trace is None and self.lines is not None:
            trace = new_trace()
        return Call(self, trace, reply)

    def refusal(self, error: Exception) -> Problem:
        """What a caller is told of an error; it is counted by its kind."""
        if isinstance(error, _Refused):
            problem = error.problem
        else:
            found = problem_for(error)
            if found is None:
                _log.error("a screening failed", exc_info=error)
            problem = found or Problem(INTERNAL, INTERNAL.help)
        self.screener.count(f"refused_{problem.kind.name}")
        return problem

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, never holding more than the bound. How long it may take is the server's to bound."""
        length, expects = _check_headers(scope["headers"])
        if length > self.max_body_bytes:
            if not expects and length <= DRAIN_BYTES:
                await self._drain(receive)
            raise _Refused(self._too_large())
        message = await receive()
        if message["type"] != "http.request":
            raise _Disconnected
        first: bytes = message.get("body", b"")
        if not message.get("more_body", False) and len(first) <= self.max_body_bytes:
            return first
        return await self._read_rest(first, message.get("more_body", False), receive)

    async def _read_rest(self, first: bytes, more: bool, receive: Receive) -> bytes:
        chunks, size = [first], len(first)
        while more and size <= self.max_body_bytes:
            message = await receive()
            if message["type"] != "http.request":
                raise _Disconnected
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
        if size > self.max_body_bytes:
            chunks.clear()
            if more:
                await self._drain(receive)
            raise _Refused(self._too_large())
        return b"".join(chunks)

    async def _drain(self, receive: Receive) -> None:
        """Reads and drops the rest: a server that closes on unread bytes resets, and the answer is lost."""
        size, more = 0, True
        while more and size <= DRAIN_BYTES:
            message = await receive()
            if message["type"] != "http.request":
                raise _Disconnected
            size += len(message.get("body", b""))
            more = message.get("more_body", False)

    def _too_large(self) -> Problem:
        return Problem(TOO_LARGE, f"The body has more than {self.max_body_bytes} bytes.", close=True)


def _check_headers(headers: Headers) -> tuple[int, bool]:
    """The body's length as announced, and whether the client waits to be asked for it.

    Raises _Refused for a body of another media type.
    """
    length, expects = 0, False
    for name, value in headers:
        if name == b"content-type":
            if not _is_json(value):
                raise _Refused(Problem(MEDIA_TYPE_REFUSED, MEDIA_TYPE_REFUSED.help, close=True))
        elif name == b"content-encoding":
            if value.strip().lower() not in (b"", b"identity"):
                detail = "A compressed body is not read; send it without Content-Encoding."
                raise _Refused(Problem(MEDIA_TYPE_REFUSED, detail, close=True))
        elif name == b"content-length":
            length = int(value)
        elif name == b"expect":
            expects = True
    return length, expects


def _is_json(content_type: bytes) -> bool:
    if content_type == b"application/json":
        return True
    kind = content_type.partition(b";")[0].strip().lower()
    return kind in (b"", b"application/json") or (kind.startswith(b"application/") and kind.endswith(b"+json"))


async def send_problem(problem: Problem, send: Send, trace: Trace | None = None) -> None:
    body = problem.body()
    headers = [(name.encode(), value.encode()) for name, value in problem.headers]
    headers.append((b"content-length", b"%d" % len(body)))
    if trace is not None:
        headers.append(trace.header)
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
