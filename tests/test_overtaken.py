"""Calls of one transaction decided at one moment: a record is built on what the log holds, or is not written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from fraudengine.api.problems import problem_for
from fraudengine.batch_writer import Settled
from fraudengine.calls import MOST_ATTEMPTS
from fraudengine.decision_log import APPENDED, AlreadyRecorded, DecisionLog, ScreeningRecord, Written
from fraudengine.diagnostics import Overtaken, StoreUnavailable
from fraudengine.request import transaction_from_object
from fraudengine.service import Screener

from .log_worker import count_recorded, make_record
from .running import TRANSACTION
from .screeners import opened_screener


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.db"


@pytest.fixture
def log(path: Path) -> Iterator[DecisionLog]:
    with DecisionLog.open(path, retry_us=0) as opened:
        yield opened


Told = Written | BaseException


def append(log: DecisionLog, *records: ScreeningRecord) -> list[Told]:
    """What became of records that were appended in one round, so in one batch."""

    async def run() -> list[Told]:
        return list(await asyncio.gather(*(log.append(record) for record in records), return_exceptions=True))

    return asyncio.run(run())


def step(log: DecisionLog, body: str, *after: ScreeningRecord, presumed: tuple[int, ...] = ()) -> ScreeningRecord:
    """A record of the one transaction, decided knowing of `after`."""
    return replace(make_record(log, "T", body=body), after=tuple(one.id for one in after), presumed=presumed)


def kept(log: DecisionLog) -> list[int]:
    return [row.id for row in log.find_transaction("carthage-market", "T")]


def test_a_record_that_knows_all_that_is_there_is_written(log: DecisionLog) -> None:
    first = step(log, "1")
    assert append(log, first) == [APPENDED]
    second = step(log, "2", first)
    assert append(log, second) == [APPENDED]
    third = step(log, "3", first, second, presumed=(second.id,))
    assert append(log, third) == [APPENDED]
    assert kept(log) == [first.id, second.id, third.id]


def test_a_record_that_does_not_know_of_one_there_is_decided_again(log: DecisionLog, path: Path) -> None:
    with DecisionLog.open(path) as other:
        theirs = step(other, "theirs")
        assert append(other, theirs) == [APPENDED]
        (told,) = append(log, step(log, "ours"))
        assert isinstance(told, Overtaken)
        assert append(log, step(log, "ours", theirs)) == [APPENDED]
    assert log.overtaken == 1
    assert len(kept(log)) == 2


def test_a_retry_is_answered_whatever_it_knew_of(log: DecisionLog, path: Path) -> None:
    with DecisionLog.open(path) as other:
        theirs = step(other, "same")
        assert append(other, theirs, step(other, "more", theirs, presumed=(theirs.id,))) == [APPENDED, APPENDED]
    (told,) = append(log, step(log, "same"))
    assert isinstance(told, AlreadyRecorded)
    assert told.id == theirs.id


def test_steps_of_one_batch_build_on_each_other(log: DecisionLog) -> None:
    first = step(log, "1")
    second = step(log, "2", first, presumed=(first.id,))
    third = step(log, "3", first, second, presumed=(first.id, second.id))
    assert append(log, first, second, third) == [APPENDED] * 3
    assert kept(log) == [first.id, second.id, third.id]


def test_what_built_on_an_overtaken_record_is_overtaken_with_it(log: DecisionLog, path: Path) -> None:
    with DecisionLog.open(path) as other:
        theirs = step(other, "theirs")
        append(other, theirs)
    first = step(log, "1")
    second = step(log, "2", first, presumed=(first.id,))
    neighbour = replace(make_record(log, "other"), after=())
    told = append(log, first, second, neighbour)
    assert [isinstance(one, Overtaken) for one in told] == [True, True, False]
    assert kept(log) == [theirs.id]
    assert log.find_transaction("carthage-market", "other")


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two"])
def test_what_built_on_a_record_that_could_not_be_written_is_decided_again(
    log: DecisionLog, together: bool
) -> None:
    """The first cannot be taken by SQLite; the second presumed that it would be there."""
    append(log, make_record(log, "warm"))
    failing = replace(step(log, "1"), code="\ud800")
    second = step(log, "2", failing, presumed=(failing.id,))
    told = append(log, failing, second) if together else append(log, failing) + append(log, second)
    assert isinstance(told[0], UnicodeError)
    assert isinstance(told[1], Overtaken)
    assert kept(log) == []
    assert append(log, step(log, "2")) == [APPENDED]


def test_what_built_on_a_record_that_the_disk_refused_is_decided_again(
    log: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, make_record(log, "warm"))
    first = step(log, "1")

    def fail(*_: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(log._writer, "write", fail)
    (told,) = append(log, first)
    assert isinstance(told, StoreUnavailable)
    monkeypatch.undo()
    (told,) = append(log, step(log, "2", first, presumed=(first.id,)))
    assert isinstance(told, Overtaken)
    assert kept(log) == []


# ---- the screener: decided again, and in the end 503 ------------------------------------------------


@pytest.fixture
def screener(tmp_path: Path) -> Iterator[Screener]:
    with opened_screener(tmp_path) as opened:
        yield opened


class Asked:
    """A call, and what it was told."""

    def __init__(self, screener: Screener, **changes: Any) -> None:
        described = TRANSACTION | changes
        now_us = time.time_ns() // 1000
        self.transaction, self.digest = transaction_from_object(described, screener.card_key, now_us)
        self.received_ns = time.perf_counter_ns()
        self.told: list[bytes | Exception] = []

    def tell(self, outcome: bytes | Exception, /) -> None:
        self.told.append(outcome)


def begin(screener: Screener, *asked: Asked) -> None:
    async def run() -> None:
        screener.begin(asked)
        while not all(one.told for one in asked):
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), 30))


def overtake(log: DecisionLog, times: int, monkeypatch: pytest.MonkeyPatch) -> list[ScreeningRecord]:
    """Has the next `times` records told that another came first; those records."""
    refused: list[ScreeningRecord] = []
    append_then, append_and_wait = log.append_then, log.append_and_wait

    def then(record: ScreeningRecord, tell: Callable[[Settled], None]) -> None:
        if len(refused) >= times:
            append_then(record, tell)
        else:
            refused.append(record)
            asyncio.get_running_loop().call_soon(tell, Overtaken("another came first"))

    def wait(record: ScreeningRecord) -> Written:
        if len(refused) >= times:
            return append_and_wait(record)
        refused.append(record)
        raise Overtaken("another came first")

    monkeypatch.setattr(log, "append_then", then)
    monkeypatch.setattr(log, "append_and_wait", wait)
    return refused


def test_a_call_is_decided_again_until_nobody_came_first(
    screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = overtake(screener.log, MOST_ATTEMPTS - 1, monkeypatch)
    asked = Asked(screener)
    begin(screener, asked)
    assert len(refused) == MOST_ATTEMPTS - 1
    (told,) = asked.told
    assert isinstance(told, bytes)
    assert orjson.loads(told)["decision"] == "accept"
    assert count_recorded(screener.log) == 1


def test_a_call_that_is_always_overtaken_gets_503_and_leaves_no_record(
    screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = overtake(screener.log, 10_000, monkeypatch)
    asked = Asked(screener)
    begin(screener, asked)
    (told,) = asked.told
    assert isinstance(told, StoreUnavailable)
    assert len(refused) == MOST_ATTEMPTS
    problem = problem_for(told)
    assert problem is not None
    assert problem.status == 503
    assert ("retry-after", "1") in problem.headers
    with pytest.raises(StoreUnavailable, match="send it again later"):
        screener.screen_and_wait(asked.transaction, asked.digest, asked.received_ns)
    assert len(refused) == 2 * MOST_ATTEMPTS
    monkeypatch.undo()
    assert count_recorded(screener.log) == 0
    begin(screener, again := Asked(screener))
    assert isinstance(again.told[0], bytes)


def test_a_second_step_whose_first_call_fails_is_decided_as_the_first(
    screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of one round: the first's record cannot be written, and the second must not count on it."""
    write, failures = screener.log._writer.write, iter([True, True])  # the batch, then the first alone
    begin(screener, Asked(screener, transaction_id="warm"))
    first = Asked(screener, transaction_id="T", amount="450.000")
    result = {"status": "Y", "eci": "05", "version": "2.2.0"}
    second = Asked(screener, transaction_id="T", amount="450.000", three_ds=result)

    def fail(entries: Any, files: Any) -> Any:
        built_on_nothing = any(entry.record.after == () for entry in entries)
        if built_on_nothing and next(failures, False):
            raise ValueError("injected: SQLite cannot take it")
        return write(entries, files)

    monkeypatch.setattr(screener.log._writer, "write", fail)
    begin(screener, first, second)
    assert isinstance(first.told[0], ValueError)
    assert isinstance(second.told[0], bytes)
    answer = orjson.loads(second.told[0])
    assert answer["reason"]["code"] == "THREE_DS_AUTHENTICATED"
    rows = screener.log.find_transaction("carthage-market", "T")
    assert len(rows) == 1
