"""Requests under way whose body is there, as uvicorn's protocol is to see them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

WITH_A_WILL_OF_THEIR_OWN: Final = frozenset({b"transfer-encoding", b"connection", b"upgrade", b"expect"})


class DirectCycle:
    """What uvicorn asks of a request under way, for one that goes the direct way; one for each connection."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete", "response_started")

    def __init__(self, done: asyncio.Event) -> None:
        self.message_event = done
        self.response_complete = self.keep_alive = True
        self.disconnected = self.response_started = False


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
            elif name in WITH_A_WILL_OF_THEIR_OWN:
                return None
        if length != len(body):
            return None
        head = b"".join([name + b": " + value + b"\r\n" for name, value in fields])
        if head.count(b"\n") != len(fields) or head.count(b"\r") != len(fields) or b"\0" in head:
            return None  # a header that would end early: uvicorn says what is wrong with it
        return b"".join((STATUS_LINE[start["status"]], head, b"\r\n", body))
