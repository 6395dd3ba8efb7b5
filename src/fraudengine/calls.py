"""Calls on their way to an answer: told once the record is durable, or begun again where another came first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

import orjson

from .batch_writer import Settled
from .decision_log import AlreadyRecorded, ScreeningRecord
from .diagnostics import Overtaken, StoreUnavailable
from .facts import Transaction
from .metrics import Metrics

MOST_ATTEMPTS: Final = 100
"""How often a call is decided again because others of its transaction came first, before it gets 503."""
OVERTAKEN_TOO_OFTEN: Final = "other calls of the same transaction are recorded all the time: send it again later"

Tell: TypeAlias = Callable[[bytes | Exception], None]
"""Takes the answer of a screening, or why there is none."""


class Asked(Protocol):
    """One call: its transaction, the digest that a retry has again, when it came, and who is told."""

    @property
    def transaction(self) -> Transaction: ...

    @property
    def digest(self) -> bytes: ...

    @property
    def received_ns(self) -> int: ...

    def tell(self, outcome: bytes | Exception, /) -> None: ...


Begin: TypeAlias = Callable[[Sequence[Asked]], None]
"""Has calls decided, as those of one round of the event loop."""


class Again:
    """A call that is decided again, because another process recorded one of its transaction first."""

    __slots__ = ("attempts", "digest", "received_ns", "tell", "transaction")

    def __init__(self, asked: Asked) -> None:
        self.transaction, self.digest, self.received_ns = asked.transaction, asked.digest, asked.received_ns
        self.tell: Tell = asked.tell
        self.attempts: int = getattr(asked, "attempts", 1) + 1


class UnderWay:
    """A screening whose record is on its way to the disk."""

    __slots__ = ("asked", "begin", "decided_ns", "given", "metrics", "read_ns", "record")

    def __init__(
        self,
        metrics: Metrics,
        record: ScreeningRecord,
        given: bytes,
        read_ns: int,
        decided_ns: int,
        asked: Asked,
        begin: Begin,
    ) -> None:
        self.metrics, self.record, self.given, self.asked, self.begin = metrics, record, given, asked, begin
        self.read_ns, self.decided_ns = read_ns, decided_ns

    def settled(self, outcome: Settled) -> None:
        """Tells the answer once the commit returned, in the loop's thread."""
        if isinstance(outcome, Exception):
            tell_or_begin_again(self.asked, outcome, self.begin)
            return
        record = self.record
        self.metrics.count_screening(
            record.merchant,
            record.outcome,
            record.code,
            (self.read_ns - self.asked.received_ns) / 1e9,
            (self.decided_ns - self.read_ns) / 1e9,
            (time.perf_counter_ns() - self.decided_ns) / 1e9,
        )
        self.asked.tell(answer_in(outcome.document) if isinstance(outcome, AlreadyRecorded) else self.given)


def tell_or_begin_again(asked: Asked, error: Exception, begin: Begin) -> None:
    """Tells why there is no answer, unless the call was only overtaken: then it is begun again."""
    if not isinstance(error, Overtaken):
        asked.tell(error)
        return
    again = Again(asked)
    if again.attempts > MOST_ATTEMPTS:
        asked.tell(StoreUnavailable(OVERTAKEN_TOO_OFTEN))
    else:
        begin((again,))


def answer_in(document: bytes) -> bytes:
    """The answer that a recorded document holds."""
    return orjson.dumps(orjson.loads(document)["answer"])
