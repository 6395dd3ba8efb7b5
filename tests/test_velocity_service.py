"""Counters in the whole screener: from a merchant's YAML to the refusal, across steps, restarts and edits."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fraudengine.assembly import open_screener
from fraudengine.config import Config
from fraudengine.request import read_transaction
from fraudengine.service import Screener
from fraudengine.store import parse_screening_id

from .screeners import answer_of, ask

ROOT = Path(__file__).parent.parent
SHOP = """merchant: shop
extends: platform
settings: {max_attempts_per_card: 3, max_refusals_per_address: 2}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    rules = tmp_path / "rules"
    (rules / "merchants").mkdir(parents=True)
    shutil.copy(ROOT / "rules" / "platform.yaml", rules)
    (rules / "merchants" / "shop.yaml").write_text(SHOP)
    (rules / "merchants" / "quiet.yaml").write_text("merchant: quiet\nextends: platform\n")
    return Config(rules=rules, state=tmp_path / "var", data=ROOT / "data", development=True, reload_interval_ms=20)


@pytest.fixture
def screener(config: Config) -> Iterator[Screener]:
    opened = open_screener(config)
    yield opened
    opened.close()


def described(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "merchant": "shop",
        "transaction_id": f"T-{number}",
        "at": f"2026-11-23T10:00:{number:02d}Z",
        "amount": "50.000",
        "currency": "TND",
        "card": {"pan": "4111111111111111", "country": "TN", "expiry": "2030-01"},
        "ip_address": "41.226.11.9",
        **changes,
    }


def screen(screener: Screener, number: int, **changes: Any) -> dict[str, Any]:
    body = json.dumps(described(number, **changes)).encode()
    transaction, digest = read_transaction(body, screener.card_key, time.time_ns() // 1000)
    given = screener.screen_and_wait(transaction, digest, time.perf_counter_ns())
    return dict(json.loads(given))


def counted(given: dict[str, Any]) -> list[str]:
    return [f"{because['value']}, {because['test']}" for match in given["matches"] for because in match["because"]]


def events(screener: Screener) -> int:
    return int(
        screener.log.recorded.read(
            "SELECT (SELECT count(*) FROM velocity_events) + (SELECT count(*) FROM velocity_tail)"
        )[0][0]
    )


def test_card_testing_is_refused_and_says_why(screener: Screener) -> None:
    answers = [screen(screener, number) for number in range(1, 6)]
    assert [given["decision"] for given in answers] == ["accept"] * 3 + ["refuse"] * 2
    assert answers[3]["reason"]["rule"] == "card-testing"
    assert counted(answers[3]) == ["3 transactions per card within 1 hour, at least 3"]
    assert counted(answers[4]) == ["at least 4 transactions per card within 1 hour, at least 3"]


def test_a_retried_call_and_a_second_step_count_once(screener: Screener) -> None:
    for _ in range(4):
        screen(screener, 1)
    screen(screener, 1, three_ds={"status": "Y", "eci": "05"})
    screen(screener, 2)
    assert screen(screener, 3)["decision"] == "accept"
    given = screen(screener, 4)
    assert counted(given) == ["3 transactions per card within 1 hour, at least 3"]


def test_the_second_step_does_not_count_its_first(screener: Screener) -> None:
    for number in (1, 2, 3):
        screen(screener, number)
    again = screen(screener, 3, three_ds={"status": "Y", "eci": "05"})
    assert again["decision"] == "accept", "its own first step is not among the earlier two"


def test_an_outage_that_is_reported_does_not_count(screener: Screener) -> None:
    given = [screen(screener, number) for number in (1, 2, 3)]
    screening_id = parse_screening_id(given[0]["screening_id"])
    assert screening_id is not None
    assert screener.log.record_outcome(screening_id, "technical_failure", "91", time.time_ns() // 1000)
    assert screen(screener, 4)["decision"] == "accept"
    assert screen(screener, 5)["decision"] == "refuse"


def test_refusals_of_an_address(screener: Screener) -> None:
    for number in (1, 2):
        screen(
            screener, number, card={"fingerprint": f"fp_0123ab_{'ab'[number - 1] * 32}"}, three_ds={"status": "N"}
        )
    given = screen(screener, 3, card={"fingerprint": f"fp_0123ab_{'c' * 32}"})
    assert given["reason"]["rule"] == "many-refusals-per-address"
    assert counted(given) == ["2 refused transactions per ip_address within 1 hour, at least 2"]


def test_a_payment_that_arrives_late_is_counted_from_then_on(screener: Screener) -> None:
    for number in (10, 11):
        screen(screener, number)
    screen(screener, 5)
    assert counted(screen(screener, 12)) == ["3 transactions per card within 1 hour, at least 3"]
    assert screen(screener, 4, transaction_id="T-early")["decision"] == "accept", "nothing lies before it"


def test_calls_of_one_round_see_what_was_answered_before_it_and_not_each_other(screener: Screener) -> None:
    for first in (1, 3):
        given = ask(screener, *(described(number) for number in (first, first + 1)))
        counts = [answer_of(one)["decision"] for one in given]
        assert counts == ["accept"] * 2, first
    assert counted(answer_of(ask(screener, described(5))[0])) == [
        "at least 4 transactions per card within 1 hour, at least 3"
    ]
    ask(screener, described(1, card={"fingerprint": f"fp_0123ab_{'a' * 32}"}, transaction_id="other"))
    screener.log.recorded._forget_tail()  # as after a fault of the disk
    assert answer_of(ask(screener, described(6))[0])["decision"] == "refuse"


def test_an_unknown_card_is_not_counted(screener: Screener) -> None:
    for number in range(1, 6):
        assert screen(screener, number, card={"masked_pan": "411111******1111"})["decision"] == "accept"


def test_counts_go_on_after_a_restart(config: Config) -> None:
    for number in range(1, 5):
        screener = open_screener(config)
        given = screen(screener, number)
        screener.close()
    assert given["reason"]["rule"] == "card-testing"


def test_a_merchant_without_counters_leaves_nothing_and_asks_nothing(screener: Screener) -> None:
    ready = screener.rules.ready_for("quiet")
    assert ready.counters is None
    before = events(screener)
    screen(screener, 1, merchant="quiet")
    assert events(screener) == before == 0
    screen(screener, 2)
    assert events(screener) > 0


def test_a_counter_that_a_restart_brings_knows_the_past(config: Config) -> None:
    shop = config.rules / "merchants" / "shop.yaml"
    shop.write_text("merchant: shop\nextends: platform\n")
    first = open_screener(config)
    for number in range(1, 4):
        screen(first, number)
    assert events(first) == 0
    first.close()
    shop.write_text(SHOP)
    second = open_screener(config)
    try:
        assert screen(second, 4)["reason"]["rule"] == "card-testing"
    finally:
        second.close()


def test_a_counter_that_an_edit_brings_knows_the_past_when_it_comes_into_force(config: Config) -> None:
    shop = config.rules / "merchants" / "shop.yaml"
    shop.write_text("merchant: shop\nextends: platform\n")

    async def edit() -> dict[str, Any]:
        screener = open_screener(config)
        await screener.start()
        try:
            for number in range(1, 4):
                screen(screener, number)
            before = screener.rule_set("shop").revision
            shop.write_text(SHOP)
            async with asyncio.timeout(30):
                while screener.rule_set("shop").revision == before:
                    await asyncio.sleep(0.01)
            return screen(screener, 4)
        finally:
            await screener.stop()

    assert asyncio.run(edit())["reason"]["rule"] == "card-testing"


def test_rules_wait_until_their_counters_know_the_past(config: Config) -> None:
    """While the past is filled in, the rules from before stay in force and the screener says so."""
    shop = config.rules / "merchants" / "shop.yaml"
    shop.write_text("merchant: shop\nextends: platform\n")
    screener = open_screener(config)
    try:
        screen(screener, 1)
        before = screener.rule_set("shop").revision
        shop.write_text(SHOP)
        assert screener.library.refresh()
        screener.counting.adopt(screener.library.snapshot.rule_sets)
        screener.rules.take_up()
        assert screener.rule_set("shop").revision == before
        assert any("computed from the past" in problem for problem in screener.problems())
        assert screen(screener, 2)["decision"] == "accept"
        assert screener.counting.catch_up()
        screener.rules.take_up()
        assert screener.rule_set("shop").revision != before
        assert not any("computed from the past" in problem for problem in screener.problems())
        screen(screener, 3)
        assert screen(screener, 4)["reason"]["rule"] == "card-testing"
    finally:
        screener.close()
