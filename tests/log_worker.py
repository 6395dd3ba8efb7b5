"""Processes that the tests of the decision log start: they append, hold the lock, or race for the same call.

What they append is made here for the tests too, and counted.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from hashlib import blake2b
from pathlib import Path

from fraudengine.decision_log import DecisionLog, ScreeningRecord


def make_record(
    log: DecisionLog,
    transaction_id: str,
    *,
    merchant: str = "carthage-market",
    body: str = "",
    revision: str = "r1",
    document: bytes | None = None,
    minor: int = 450_000,
    card_identity: str = "fp_0123",
    currency: str = "TND",
) -> ScreeningRecord:
    return ScreeningRecord(
        id=log.next_id(),
        merchant=merchant,
        transaction_id=transaction_id,
        request_digest=blake2b((transaction_id + body).encode(), digest_size=16).digest(),
        at_us=1_795_000_000_000_000,
        answered_us=1_795_000_000_000_084,
        card_identity=card_identity,
        currency=currency,
        minor=minor,
        outcome="accept",
        code="NO_RULE_MATCHED",
        revision=revision,
        document=b'{"decision":"accept"}' if document is None else document,
    )


def count_recorded(log: DecisionLog) -> int:
    """How many screenings are on disk."""
    return int(log.recorded.read("SELECT count(*) FROM screenings")[0][0])


async def append_for_ever(log: DecisionLog, name: str) -> None:
    """Prints each id once its future resolved; 8 tasks at a time, until somebody kills the process."""

    async def run(task: int) -> None:
        number = 0
        while True:
            number += 1
            record = make_record(log, f"{name}-{task}-{number}", document=b"x" * 900)
            await log.append(record)
            print(record.id, flush=True)

    await asyncio.gather(*(run(task) for task in range(8)))


async def append_calls(log: DecisionLog, count: int) -> None:
    """Appends `count` calls that the other process appends as well; prints the id that each was recorded under."""

    async def run(number: int) -> None:
        record = make_record(log, f"T-{number}", document=f'"{log.path}-{number}"'.encode())
        written = await log.append(record)
        print(getattr(written, "id", record.id))

    print("ready", flush=True)
    sys.stdin.readline()
    for start in range(0, count, 10):
        await asyncio.gather(*(run(number) for number in range(start, start + 10)))


def hold_lock(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    print("locked", flush=True)
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    connection.close()


def main(what: str, path: Path, argument: str) -> None:
    if what == "hold":
        hold_lock(path)
        return
    with DecisionLog.open(path) as log:
        asyncio.run(append_for_ever(log, argument) if what == "append" else append_calls(log, int(argument)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
