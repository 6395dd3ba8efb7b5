"""What `verify --recompute` keeps of the past under one key is all that the law of counters asks for."""

from __future__ import annotations

import random

from fraudengine.facts import Facts
from fraudengine.money import Money
from fraudengine.replay.recompute import KeyedPast
from fraudengine.rules.ast import Outcome
from fraudengine.rules.counters import Among, Counter, Measure
from fraudengine.velocity import Past, Report, ReportKind, value_of

SECOND = 1_000_000
COUNTERS = (
    Counter("attempts", Measure.COUNT, ("ip_address",), 60 * SECOND),
    Counter("refused", Measure.COUNT, ("ip_address",), 600 * SECOND, Among.REFUSED),
    Counter("declined", Measure.COUNT, ("ip_address",), 60 * SECOND, Among.DECLINED),
    Counter("spent", Measure.SUM, ("ip_address",), 300 * SECOND),
    Counter("cards", Measure.COUNT_DISTINCT, ("ip_address",), 60 * SECOND, distinct="card"),
)
REACH = 1_800 * SECOND  # the longest window, the latest screening, the longest that a transaction took


def made(count: int) -> list[Past]:
    """Screenings of one address: transactions of several steps, equal times, some up to 10 minutes late."""
    dice = random.Random(11)
    found = []
    at_us = 0
    for number in range(count):
        at_us += dice.choice((0, 1, 5, 20)) * SECOND
        facts: Facts = {"ip_address": "41.226.11.9", "card": f"card_{dice.randrange(6)}"}
        late_us = dice.choice((0, 0, 0, 30, 600)) * SECOND
        transaction = f"T-{number - dice.choice((0, 0, 0, 1, 2, 30))}"
        amount = Money(dice.randrange(1, 9) * 1000, dice.choice(("TND", "EUR")))
        outcome = dice.choice((Outcome.ACCEPT, Outcome.REFUSE, Outcome.CHALLENGE))
        found.append(Past(2 * number, "shop", transaction, at_us - late_us, amount, outcome, facts))
    return found


def test_the_past_under_a_key_is_what_the_law_counts() -> None:
    pasts = made(350)
    dice = random.Random(12)
    reports = [
        Report(
            past.sequence + 1 + 2 * dice.randrange(9), "shop", past.transaction_id, dice.choice(list(ReportKind))
        )
        for past in pasts[::4]
    ]
    held = KeyedPast()
    values = set()
    for number, subject in enumerate(pasts):
        for counter in COUNTERS:
            steps = held.transactions(subject.at_us - counter.within_us, subject.at_us)
            kept = [step for of_one in steps.values() for step in of_one]
            found = value_of(counter, subject, kept, reports)
            assert found == value_of(counter, subject, pasts[:number], reports), (number, counter.name)
            values.add((counter.name, found))
        held.add(subject)
        held.forget_before(subject.at_us - REACH)
    assert len(values) > 60, "nothing much was counted"


def test_what_is_older_than_counters_reach_is_let_go_of() -> None:
    pasts = made(2_000)
    held = KeyedPast()
    most = 0
    for past in pasts:
        held.add(past)
        held.forget_before(past.at_us - REACH)
        most = max(most, sum(map(len, held.transactions(-REACH, 10**15).values())))
    assert most < 2 * 350, "1,800 seconds are some 280 screenings, and as many may wait to be forgotten"
    assert held.newest_us == max(past.at_us for past in pasts)
