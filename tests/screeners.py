"""A screener with the sample rules in the test's own process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from fraudengine.assembly import open_screener
from fraudengine.config import Config
from fraudengine.environment import claim_state
from fraudengine.facts import Transaction
from fraudengine.request import transaction_from_object
from fraudengine.service import Screener

from .running import REPOSITORY, TRANSACTION


@contextmanager
def opened_screener(state: Path) -> Iterator[Screener]:
    """Its state is in that directory; closed at the end."""
    config = Config(rules=REPOSITORY / "rules", data=REPOSITORY / "data", state=state, development=True)
    claim_state(config)
    opened = open_screener(config)
    yield opened
    opened.close()


@dataclass
class Asked:
    """A call and what it was told."""

    transaction: Transaction
    digest: bytes
    told: list[bytes | Exception] = field(default_factory=list)
    received_ns: int = field(default_factory=time.perf_counter_ns)

    def tell(self, outcome: bytes | Exception, /) -> None:
        self.told.append(outcome)


def ask(screener: Screener, *changes: dict[str, Any]) -> list[Asked]:
    """What calls of one round were told, each of them once."""

    async def begin() -> list[Asked]:
        asked = [
            Asked(
                *transaction_from_object(
                    {**TRANSACTION, "amount": "450.000", **changed}, screener.card_key, time.time_ns() // 1000
                )
            )
            for changed in changes
        ]
        screener.begin(asked)
        while not all(one.told for one in asked):
            await asyncio.sleep(0)
        assert all(len(one.told) == 1 for one in asked)
        return asked

    return asyncio.run(asyncio.wait_for(begin(), 30))


def answer_of(asked: Asked) -> dict[str, Any]:
    (told,) = asked.told
    assert isinstance(told, bytes), told
    found: dict[str, Any] = orjson.loads(told)
    return found
