"""The service's log as JSON, one object a line, and a line for each screening with its trace.

A trace is W3C Trace Context (`traceparent`): a call that carries one gets its trace id back with a span of our own;
with JSON logs a call that carries none begins one. The screening's line is written by a thread, so that a log
reader that stalls stops no payment: beyond MAX_WAITING lines they are dropped and counted.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

from .cards import find_pans

MAX_WAITING: Final = 50_000
FLUSH_SECONDS: Final = 0.05
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?"
)
_ANSWER: Final = re.compile(rb'\{"screening_id":"([^"]+)","decision":"([^"]+)","reason":\{"code":"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace that a call belongs to, and our span in it."""

    trace_id: str
    span_id: str
    flags: str

    @property
    def header(self) -> tuple[bytes, bytes]:
        return b"traceparent", f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode()


def read_trace(headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
    """The trace of a call with a span made now; None when the call carries none that can be read.

    An id in which a card number stands is none: it would be answered, and written into the log.
    """
    for name, value in headers:
        if name == b"traceparent":
            found = _TRACEPARENT.fullmatch(value)
            if found is not None and not find_pans(found[1].decode()):
                return Trace(found[1].decode(), _span_id(), found[2].decode())
    return None


def new_trace() -> Trace:
    return Trace(f"{random.getrandbits(128) or 1:032x}", _span_id(), "00")


def _span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


class ScreeningLines:
    """A line of JSON for each screening, written by a thread of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[bytes] = deque()
        self._stop = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="screening-log", daemon=True)
        self._thread.start()

    def write(self, merchant: str, answer: bytes, trace: Trace, elapsed_us: int) -> None:
        found = _ANSWER.match(answer)
        if found is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        screening_id, decision, code = found.groups()
        line = {
            "time": _now(),
            "level": "info",
            "event": "screening",
            "screening_id": screening_id.decode(),
            "trace_id": trace.trace_id,
            "span_id": trace.span_id,
            "merchant": merchant,
            "decision": decision.decode(),
            "code": code.decode(),
            "elapsed_us": elapsed_us,
        }
        self._waiting.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if lines:
            try:
                self._stream.write(b"".join(lines).decode())
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more
                self.dropped += len(lines)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class JsonFormatter(logging.Formatter):
    """A log record as one JSON object on one line; put `cards.HidePans` on its handler."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _now(),
            "level": record.levelname.lower(),
            "event": "message",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info or record.exc_text:
            line["error"] = record.exc_text or self.formatException(record.exc_info or (None, None, None))
        return orjson.dumps(line).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def screening_lines() -> ScreeningLines:
    return ScreeningLines(sys.stderr)
