"""Calls that one round of the event loop received are decided together, and each as if it had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from fraudengine.access import Grant, Role
from fraudengine.api.screenings import MAX_ROUND, Call, Given, Reply, ScreeningEndpoint
from fraudengine.cards import CardKey
from fraudengine.diagnostics import ConflictingTransaction, StoreUnavailable, UnknownMerchant
from fraudengine.request_schema import AFTER_CHALLENGE_EXAMPLE
from fraudengine.service import Screener
from fraudengine.structured_log import Trace

from .log_worker import count_recorded
from .running import TRANSACTION
from .screeners import answer_of, ask, opened_screener


@pytest.fixture
def screener(tmp_path: Path) -> Iterator[Screener]:
    with opened_screener(tmp_path) as opened:
        yield opened


def test_a_retry_in_the_same_round_and_in_a_later_one_gets_the_same_answer(screener: Screener) -> None:
    first, again, other = ask(screener, {}, {}, {"transaction_id": "T-2"})
    assert answer_of(first) == answer_of(again)
    assert answer_of(other)["screening_id"] != answer_of(first)["screening_id"]
    later, new, wrong = ask(screener, {}, {"transaction_id": "T-3"}, {"amount": "9.000"})
    assert answer_of(later) == answer_of(first)
    assert answer_of(new)["screening_id"] != answer_of(first)["screening_id"]
    assert isinstance(wrong.told[0], ConflictingTransaction)
    assert count_recorded(screener.log) == 3


def test_a_second_step_in_the_same_round_is_held_against_the_first(screener: Screener) -> None:
    result = {"three_ds": AFTER_CHALLENGE_EXAMPLE["three_ds"]}
    first, second, dearer = ask(screener, {}, result, {**result, "amount": "900.000"})
    assert answer_of(first)["decision"] == "challenge"
    assert answer_of(second)["reason"]["code"] == "THREE_DS_AUTHENTICATED"
    assert answer_of(dearer)["indicators"]["three_ds"] == "none"  # its result was for less


def test_another_payment_in_the_same_round_is_a_conflict(screener: Screener) -> None:
    first, wrong = ask(screener, {}, {"amount": "451.000"})
    assert answer_of(first)["decision"] == "challenge"
    assert isinstance(wrong.told[0], ConflictingTransaction)


def test_one_that_fails_does_not_fail_the_others(screener: Screener) -> None:
    first, unknown, last = ask(screener, {}, {"merchant": "nobody"}, {"transaction_id": "T-2"})
    assert isinstance(unknown.told[0], UnknownMerchant)
    assert answer_of(first)["decision"] == answer_of(last)["decision"] == "challenge"


def test_a_log_that_cannot_be_asked_is_told_to_all(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailable("the disk is gone")

    monkeypatch.setattr(screener.log, "find_transactions", fail)
    for one in ask(screener, {}, {"transaction_id": "T-2"}):
        assert isinstance(one.told[0], StoreUnavailable)
    monkeypatch.undo()
    assert count_recorded(screener.log) == 0


def test_a_closed_log_is_told(screener: Screener) -> None:
    screener.log.close()
    for one in ask(screener, {}, {"transaction_id": "T-2"}):
        assert isinstance(one.told[0], StoreUnavailable)


class Answers:
    """A screener that notes how many calls come at once and answers each."""

    card_key = CardKey(b"k" * 32)

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def begin(self, asked: Sequence[Call]) -> None:
        self.rounds.append(len(asked))
        for one in asked:
            one.tell(b"{}")

    def count(self, name: str) -> None: ...


def test_a_crowd_is_decided_in_rounds_and_one_that_cannot_be_answered_is_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    screener = Answers()
    endpoint = ScreeningEndpoint(screener, 65_536)
    grant = Grant("key", "gateway", Role.GATEWAY, None, b"")
    answered: list[int] = []

    def reply_to(number: int) -> Reply:
        def reply(given: Given, _: Trace | None) -> None:
            if number == 3:
                raise OSError("the connection is gone")
            answered.append(number)

        return reply

    async def crowd() -> None:
        body = orjson.dumps(TRANSACTION)
        for number in range(2 * MAX_ROUND + 5):
            endpoint.answer([], body, grant, reply_to(number))
        while len(answered) < 2 * MAX_ROUND + 4:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(crowd(), 30))
    assert screener.rounds == [MAX_ROUND, MAX_ROUND, 5]
    assert answered == [number for number in range(2 * MAX_ROUND + 5) if number != 3]
    assert "an answer could not be given" in caplog.text
