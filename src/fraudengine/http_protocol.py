"""uvicorn's HTTP protocol, with bounds on what a client may send, and a short way for requests that are whole.

The short way: a request of ordinary form (HTTP/1.1, body of known and modest length, nobody before it on the
connection still unanswered) reaches the application when its last byte is there, and an answer that is given at
once leaves in one write. Anything else goes uvicorn's own way.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from .api.problems import OVERLOADED, TIMEOUT, UNREADABLE, Problem
from .api.screenings import send_problem

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_WHOLE_BYTES: Final = 64 * 1024
ARRIVAL_SECONDS: Final = 10.0

_WITH_A_WILL_OF_THEIR_OWN: Final = frozenset({b"transfer-encoding", b"connection", b"upgrade", b"expect"})


class BoundedHttp(HttpToolsProtocol):
    """Bounds what a client may send before it is answered: MAX_HEAD_BYTES of request line and headers, and
    ARRIVAL_SECONDS for a whole request. uvicorn itself waits for ever and httptools has no bound.

    A request that arrives in one piece, as nearly all do, starts no timer.
    """

    _head_bytes = 0
    _in_head = True
    _whole = False
    _late: asyncio.TimerHandle | None = None
    _short: bytes | None = None  # the body so far of a request that goes the short way

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._served = self.app
        self._done = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._late = self.loop.call_later(ARRIVAL_SECONDS, self._end_late)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._whole:
            if self._late is not None:
                self._late.cancel()
                self._late = None
            return
        if self._late is None:
            self._late = self.loop.call_later(ARRIVAL_SECONDS, self._end_late)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request line and headers are too long.")

    # ---- the parser's calls -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head, self._whole, self._head_bytes = True, False, 0
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        self._in_head = False
        most = self._most
        crowded = most is not None and max(len(self.connections), len(self.tasks)) >= most
        self.app = _answer_overloaded if crowded else self._served
        if self._goes_the_short_way():
            self._short = b""
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _goes_the_short_way(self) -> bool:
        if (self.cycle is not None and not self.cycle.response_complete) or self.flow.write_paused:
            return False
        for name, value in self.headers:
            if name in _WITH_A_WILL_OF_THEIR_OWN or (name == b"content-length" and int(value) > MAX_WHOLE_BYTES):
                return False
        url = self.url
        if url[:1] != b"/" or b"%" in url or b"?" in url or b"#" in url or not url.isascii():
            return False
        return bool(self.parser.get_http_version() == "1.1" and self.parser.get_method() != b"HEAD")

    def on_body(self, body: bytes) -> None:
        if self._short is None:
            super().on_body(body)
        else:
            self._short += body

    def on_message_complete(self) -> None:
        self._whole = True
        body, self._short = self._short, None
        if body is None:
            super().on_message_complete()
            return
        path = self.url.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]  # as uvicorn's
            "method": self.parser.get_method().decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + path,
            "raw_path": self.root_path.encode("ascii") + self.url,
            "query_string": b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self._done.clear()
        self.cycle = WholeCycle(
            self.scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            self.access_log,
            self.server_state.default_headers,
            self._done,
            False,
            True,
            self.on_response_complete,
        )
        self.cycle.unread = body
        self._start_asgi_task(self.cycle, self.app)

    # ---- refusals ---------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(UNREADABLE, msg, close=True))

    def _end_late(self) -> None:
        """Answers 408 when the request is under way and nothing was answered yet; closes in any case."""
        if self.transport.is_closing():
            return
        under_way = self._head_bytes > 0 or not self._in_head
        unanswered = self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        if under_way and unanswered:
            self._refuse(Problem(TIMEOUT, TIMEOUT.help, close=True))
        self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answers from here, the application not having been asked, and closes."""
        body = problem.body()
        head = "".join(f"{name}: {value}\r\n" for name, value in problem.headers)
        start = STATUS_LINE[problem.status] + f"{head}content-length: {len(body)}\r\n\r\n".encode()
        self.transport.write(start + body)
        self.transport.close()


class WholeCycle(RequestResponseCycle):
    """A request whose body is there, and its answer."""

    unread: bytes | None = None
    _start: Any = None

    async def receive(self) -> Any:
        if self.unread is None or self.disconnected:
            return await super().receive()
        body, self.unread = self.unread, None
        self.more_body = False
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        if self._start is None:
            if self.response_started or self.flow.write_paused or message["type"] != "http.response.start":
                await super().send(message)
            else:
                self._start, self.response_started = message, True
            return
        start, self._start = self._start, None
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            whole = self._in_one_piece(start, message.get("body", b""))
            if whole is not None:
                if not self.disconnected:
                    self.transport.write(whole)
                    self.response_complete = True
                    self.message_event.set()
                    self.on_response()
                return
        self.response_started = False
        await super().send(start)
        await super().send(message)

    def _in_one_piece(self, start: Any, body: bytes) -> bytes | None:
        """The whole answer, or None when uvicorn has to look at it: no length, or the connection is to close."""
        if not self.keep_alive:
            return None
        fields = [*self.default_headers, *start["headers"]]
        length = None
        for name, value in fields:
            if name == b"content-length":
                length = int(value)
            elif name in _WITH_A_WILL_OF_THEIR_OWN:
                return None
        if length != len(body):
            return None
        head = b"".join([name + b": " + value + b"\r\n" for name, value in fields])
        if head.count(b"\n") != len(fields) or head.count(b"\r") != len(fields) or b"\0" in head:
            return None  # a header that would end early: uvicorn says what is wrong with it
        return b"".join((STATUS_LINE[start["status"]], head, b"\r\n", body))


async def _answer_overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    await send_problem(Problem(OVERLOADED, OVERLOADED.help, close=True), send)
