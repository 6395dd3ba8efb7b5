"""`POST /v1/screenings` on raw ASGI: the body's bytes to the compiled validator, the answer's bytes back.

FastAPI's machinery costs more per request than a whole screening; `tests/benchmarks/bench_http.py` measures it.
What is given up is dependency injection on this one route; OpenAPI documents it from the same classes.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

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

_JSON: Final = (b"content-type", b"application/json")
_NO_STORE: Final = (b"cache-control", b"no-store")


class Screens(Protocol):
    """What this route needs of the screener."""

    @property
    def card_key(self) -> CardKey: ...

    async def screen(self, transaction: Transaction, request_digest: bytes, received_ns: int) -> bytes: ...

    def count(self, name: str) -> None: ...


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.kind.name)
        self.problem = problem


class _Disconnected(Exception):
    pass


class ScreeningEndpoint:
    """Answers one call after another; holds nothing of any of them."""

    def __init__(self, screener: Screens, max_body_bytes: int, lines: ScreeningLines | None = None) -> None:
        self._lines = lines
        self._screener = screener
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a call that the gate admitted; `scope["grant"]` says for which merchants it may be."""
        grant: Grant = scope["grant"]
        received_ns = time.perf_counter_ns()
        trace = read_trace(scope["headers"])
        if trace is None and self._lines is not None:
            trace = new_trace()
        try:
            body = await self._read_body(scope, receive)
            transaction, digest = read_transaction(body, self._screener.card_key, time.time_ns() // 1000)
            if not grant.covers(transaction.merchant):
                raise _Refused(Problem(FORBIDDEN, NOT_YOURS, (("merchant", "is not one of the key's"),)))
            answer = await self._screener.screen(transaction, digest, received_ns)
        except _Disconnected:
            return
        except _Refused as refused:
            problem = refused.problem
        except Exception as error:  # noqa: BLE001 - the outermost frame of a call: every error gets an answer
            found = problem_for(error)
            if found is None:
                _log.exception("a screening failed")
            problem = found or Problem(INTERNAL, INTERNAL.help)
        else:
            headers = [_JSON, (b"content-length", b"%d" % len(answer)), _NO_STORE]
            if trace is not None:
                headers.append(trace.header)
                if self._lines is not None:
                    elapsed_us = (time.perf_counter_ns() - received_ns) // 1000
                    self._lines.write(transaction.merchant, answer, trace, elapsed_us)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
            return
        self._screener.count(f"refused_{problem.kind.name}")
        await send_problem(problem, send, trace)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, never holding more than the bound. How long it may take is the server's to bound."""
        length, expects = 0, False
        for name, value in scope["headers"]:
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
        if length > self._max_body_bytes:
            if not expects and length <= DRAIN_BYTES:
                await self._drain(receive)
            raise _Refused(self._too_large())
        message = await receive()
        if message["type"] != "http.request":
            raise _Disconnected
        first: bytes = message.get("body", b"")
        if not message.get("more_body", False) and len(first) <= self._max_body_bytes:
            return first
        return await self._read_rest(first, message.get("more_body", False), receive)

    async def _read_rest(self, first: bytes, more: bool, receive: Receive) -> bytes:
        chunks, size = [first], len(first)
        while more and size <= self._max_body_bytes:
            message = await receive()
            if message["type"] != "http.request":
                raise _Disconnected
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
        if size > self._max_body_bytes:
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
        return Problem(TOO_LARGE, f"The body has more than {self._max_body_bytes} bytes.", close=True)


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
