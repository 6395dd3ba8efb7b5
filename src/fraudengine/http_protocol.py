"""uvicorn's HTTP protocol, with bounds on what a client may send, and short ways for requests that are whole.

The short way: a request of ordinary form (HTTP/1.1, body of known and modest length, nobody before it on the
connection still unanswered) reaches the application when its last byte is there, and an answer that is given at
once leaves in one write. Anything else goes uvicorn's own way.

The direct way: such a request that is a screening, and that the gate admits, reaches `ScreeningEndpoint.answer`
without ASGI: no task, scope or future of its own; the commit's return writes the answer. The head of such a request
is remembered, byte for byte, with what the parser read in it: a gateway sends the same few heads all day, so that
most requests need no parsing. The key in the head is asked for anew each time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Any, Final, TypeAlias

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .api.app import ScreeningApp
from .api.problems import OVERLOADED, TIMEOUT, UNREADABLE, Problem
from .api.screenings import JSON, NO_STORE, PATH, Given, send_problem
from .http_cycles import WITH_A_WILL_OF_THEIR_OWN, DirectCycle, WholeCycle
from .structured_log import Trace

MAX_HEAD_BYTES: Final = 32 * 1024
_TOO_LONG: Final = "The request line and headers are too long."
_NO_UPGRADE: Final = "A request with a body cannot ask for an upgrade: send HTTP/1.1 without `Upgrade`."
_CUT_SHORT: Final = "The request ended before it was whole."
MAX_WHOLE_BYTES: Final = 64 * 1024
ARRIVAL_SECONDS: Final = 10.0
UNREAD_SECONDS: Final = 0.2  # how long a stop still reads what had arrived by then
FIRST_SECONDS: Final = 1.0  # the same where nothing was asked yet: who has just connected is about to ask
GOODBYE_SECONDS: Final = 2.0  # how long a TLS client may take to say goodbye too; asyncio waits 30 s for it
ROOM_SECONDS: Final = 0.02  # how often room is made for newcomers at most: it looks at every connection

_SCREENING: Final = PATH.encode()
_SCREENING_HEAD: Final = f"POST {PATH} HTTP/1.1\r\n".encode()
_HEAD_END: Final = b"\r\n\r\n"
MAX_KNOWN_HEADS: Final = 1024
_ANSWER_HEAD: Final = b"".join(name + b": " + value + b"\r\n" for name, value in (JSON, NO_STORE))

_Headers: TypeAlias = list[tuple[bytes, bytes]]


class _Room:
    """When room was last made among the connections of this process."""

    made_at = 0.0


_CONNECTED: Final = itertools.count()  # uvloop's clock stands still within a round: times of arrival may be equal
_ROOM: Final = _Room()


class _KnownHeads(dict[bytes, tuple[_Headers, int]]):
    """Heads of screenings as they were sent, with their fields as the parser reads them and the body's length."""

    def remember(self, head: bytes, headers: _Headers, length: int) -> None:
        if len(self) >= MAX_KNOWN_HEADS:
            self.clear()
        self[head] = headers, length


_KNOWN_HEADS: Final = _KnownHeads()


class _DefaultHeaders:
    """The fields that every answer has (`date`), as bytes; uvicorn makes a new list of them each second."""

    def __init__(self) -> None:
        self._made_of: object = None
        self._written = b""

    def written(self, headers: _Headers) -> bytes:
        if headers is not self._made_of:
            self._written = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
            self._made_of = headers
        return self._written


_DEFAULT_HEADERS: Final = _DefaultHeaders()


class BoundedHttp(HttpToolsProtocol):
    """Bounds what a client may send before it is answered: MAX_HEAD_BYTES of request line and headers, and
    ARRIVAL_SECONDS for a whole request. uvicorn itself waits for ever and httptools has no bound.

    A request that arrives in one piece, as nearly all do, starts no timer.

    Connections beyond the configured number displace those that wait: first the ones that never sent a whole
    request, then the longest idle. Whoever holds thousands of them open keeps nobody else out; 503 is answered only
    where every connection has a request under way.
    """

    _head_bytes = 0
    _in_head = True
    _whole = False
    _went_directly = False
    _late: asyncio.TimerHandle | None = None
    _short: bytes | None = None  # the body so far of a request that goes the short way

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._served = self.app
        self._done = asyncio.Event()
        self._screens = self.config.app if isinstance(self.config.app, ScreeningApp) else None
        self._direct = DirectCycle(self._done)
        self._at_rest = True  # the parser has read whole requests, and nothing of the next one
        self._idle_since = 0.0  # until the first answer
        self._connected_at, self._number = 0.0, 0
        self._found_no_room = False
        self._ended = False  # the client sends no more, and reads

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._late = self.loop.call_later(ARRIVAL_SECONDS, self._end_late)
        self._connected_at, self._number = self.loop.time(), next(_CONNECTED)
        if self._most is not None and len(self.connections) > self._most:
            self._make_room(self._most)

    def _make_room(self, most: int) -> None:
        """Closes as many connections without a request under way as there are too many, or a sixteenth of all."""
        if self._connected_at - _ROOM.made_at < ROOM_SECONDS:
            return
        _ROOM.made_at = self._connected_at
        others = [one for one in self.connections if isinstance(one, BoundedHttp) and one is not self]
        there = [one for one in others if not one.transport.is_closing()]
        too_many = len(there) + 1 - most
        if too_many > 0:
            waiting = [one for one in there if not one._is_answering()]
            for one in heapq.nsmallest(max(too_many, most // 16), waiting, key=BoundedHttp._worth):
                one._close()
            self._found_no_room = not waiting

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _worth(self) -> tuple[bool, float, int]:
        """Orders connections that wait: the least is closed first, one on which a further request arrives last."""
        return self._idle_since > 0 and self._late is not None, self._idle_since, self._number

    def shutdown(self) -> None:
        """Begins the graceful stop: a request that stands unread in the socket came before it and is answered."""
        self.loop.call_later(UNREAD_SECONDS if self._idle_since else FIRST_SECONDS, self._end)

    def _end(self) -> None:
        super().shutdown()
        self._end_goodbye()

    def _end_goodbye(self) -> None:
        """Looks from time to time whether what is closed by now waits for its client alone."""
        if self.transport.is_closing():
            self._close()
        else:
            self.loop.call_later(GOODBYE_SECONDS, self._end_goodbye)

    def _close(self) -> None:
        """Closes the connection; a TLS client that does not answer to that is let go of after GOODBYE_SECONDS."""
        self.transport.close()
        if self.transport.get_extra_info("ssl_object") is not None:
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        cut = 0
        if self._at_rest and self._screens is not None and data.startswith(_SCREENING_HEAD):
            cut = data.find(_HEAD_END) + len(_HEAD_END)
            known = _KNOWN_HEADS.get(data[:cut])
            if known is not None and len(data) == cut + known[1] and self._answer_known(known[0], data[cut:]):
                return
        super().data_received(data)
        if self._whole:
            if self._late is not None:
                self._late.cancel()
                self._late = None
            if self._went_directly and self._at_rest:
                length = len(data) - cut
                if cut >= len(_HEAD_END) and (b"content-length", b"%d" % length) in self.headers:
                    _KNOWN_HEADS.remember(data[:cut], self.headers, length)
            return
        if self._late is None:
            self._late = self.loop.call_later(ARRIVAL_SECONDS, self._end_late)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(_TOO_LONG)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn's closes in any case
        """A client that has sent all it had to say (SHUT_WR) is answered what arrived whole, then let go of.

        By TLS the connection is closed: asyncio knows no half of it. Whoever hung up looks the same until the
        answer is written, which then goes nowhere.
        """
        if self.transport.is_closing() or self.transport.get_extra_info("ssl_object") is not None:
            return None
        cut_short = not self._whole and (self._head_bytes > 0 or not self._in_head)
        if not self._is_answering():
            if cut_short:
                self.send_400_response(_CUT_SHORT)
            return None
        if cut_short and not self._in_head:  # its body is missing, and it is the newest of those under way
            if not self.pipeline:
                return None
            self.pipeline.popleft()
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._ended = True
        return True

    # ---- the direct way ---------------------------------------------------------------------------

    def _answer_known(self, headers: _Headers, body: bytes) -> bool:
        """Takes a whole request whose head is known; False when it has to go through the parser."""
        cycle = self.cycle
        if (cycle is not None and not cycle.response_complete) or self.flow.write_paused or self._is_crowded():
            return False
        if self.transport.is_closing() or not self._answer_directly(headers, body):
            return False
        if self._late is not None:
            self._late.cancel()
            self._late = None
        return True

    def _answer_directly(self, headers: _Headers, body: bytes) -> bool:
        """Has a screening answered; False when the gate does not admit it, which ASGI then tells it."""
        assert self._screens is not None
        grant = self._screens.admit_screening(headers)
        if grant is None:
            return False
        direct = self._direct
        direct.response_complete = direct.response_started = False
        direct.keep_alive = True
        self.cycle = direct  # type: ignore[assignment]  # it has what is asked of it
        self._screens.screenings.answer(headers, body, grant, self._reply)
        return True

    def _reply(self, given: Given, trace: Trace | None) -> None:
        """Writes the answer of the direct request under way."""
        direct = self._direct
        direct.response_complete = True
        if self.transport.is_closing():
            return
        lines = [_DEFAULT_HEADERS.written(self.server_state.default_headers)]
        close = not direct.keep_alive
        if isinstance(given, bytes):
            status, body = 200, given
            lines.append(_ANSWER_HEAD)
        else:
            status, body = given.status, given.body()
            close = close or given.close
            lines += [f"{name}: {value}\r\n".encode() for name, value in given.headers if name != "connection"]
        if trace is not None:
            lines.append(b"%b: %b\r\n" % trace.header)
        if close:
            lines.append(b"connection: close\r\n")
        self.transport.write(
            b"%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINE[status] + b"".join(lines), len(body), body)
        )
        if close:
            self._close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Begins what waits in the pipeline, or the time that an idle connection has."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        if self._ended:
            self._close()
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:  # else the one that runs looks at `_idle_since` when it ends
            self._wait_for_more(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """Leaves the timer alone: one for each connection, not one for each request."""

    def _wait_for_more(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        under_way = self.cycle is not None and not self.cycle.response_complete
        if self.transport.is_closing() or under_way or self._late is not None:
            return  # whoever ends what is under way begins anew
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._wait_for_more(left)
        else:
            self._close()

    # ---- the parser's calls -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head, self._whole, self._head_bytes = True, False, 0
        self._at_rest = self._went_directly = False
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.app = _answer_overloaded if self._is_crowded() else self._served
        if self._head_is_too_long():  # it came in one piece
            self.app = _answer_too_long
        elif self.parser.should_upgrade() and self._has_body():
            self.app = _answer_upgrade
        if self._goes_the_short_way():
            self._short = b""
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _head_is_too_long(self) -> bool:
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value)
        return size > MAX_HEAD_BYTES

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        )

    def _is_crowded(self) -> bool:
        most = self._most
        if most is None:
            return False
        self._found_no_room = self._found_no_room and len(self.connections) > most
        return self._found_no_room or len(self.tasks) >= most

    def _goes_the_short_way(self) -> bool:
        if (self.cycle is not None and not self.cycle.response_complete) or self.flow.write_paused:
            return False
        for name, value in self.headers:
            if name in WITH_A_WILL_OF_THEIR_OWN and (name != b"connection" or value.lower() != b"keep-alive"):
                return False
            if name == b"content-length" and int(value) > MAX_WHOLE_BYTES:
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
        self._at_rest = True
        url, app = self.url, self.app
        method = self.parser.get_method()
        screens = url == _SCREENING and method == b"POST" and self._screens is not None and app is self._served
        if screens and self._answer_directly(self.headers, body):
            self._went_directly = True
            return
        path = url.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]  # as uvicorn's
            "method": method.decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + path,
            "raw_path": self.root_path.encode("ascii") + url,
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
        self._start_asgi_task(self.cycle, app)

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
        self._close()

    def _refuse(self, problem: Problem) -> None:
        """Answers from here, the application not having been asked, and closes."""
        body = problem.body()
        head = "".join(f"{name}: {value}\r\n" for name, value in problem.headers)
        start = STATUS_LINE[problem.status] + f"{head}content-length: {len(body)}\r\n\r\n".encode()
        self.transport.write(start + body)
        self._close()


async def _answer_too_long(scope: Scope, receive: Receive, send: Send) -> None:
    await send_problem(Problem(UNREADABLE, _TOO_LONG, close=True), send)


async def _answer_upgrade(scope: Scope, receive: Receive, send: Send) -> None:
    """The parser takes what follows for another protocol's, so a body would be read as the next request."""
    await send_problem(Problem(UNREADABLE, _NO_UPGRADE, close=True), send)


async def _answer_overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    await send_problem(Problem(OVERLOADED, OVERLOADED.help, close=True), send)
