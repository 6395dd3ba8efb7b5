"""Answers and records written from pieces are, byte for byte, what `screening` says they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine import written_answer
from fraudengine.backends import reference
from fraudengine.backends.online import compile_rule_set
from fraudengine.cards import CardKey
from fraudengine.decision import decide
from fraudengine.engine import Engine, ReadyRuleSet
from fraudengine.enrich import Enricher
from fraudengine.facts import Facts, FactType, MerchantId, Transaction
from fraudengine.lists import Hit, ListsAsOf, build_indexes
from fraudengine.lookups import DataFiles
from fraudengine.money import Money
from fraudengine.request import transaction_from_object
from fraudengine.request_schema import AFTER_CHALLENGE_EXAMPLE, EXAMPLE
from fraudengine.rules.ast import (
    Compare,
    DeclaredList,
    InList,
    ListEntry,
    ListName,
    Literal,
    Op,
    Outcome,
    Rule,
    RuleId,
    RuleSet,
)
from fraudengine.rules.library import Library
from fraudengine.screening import (
    Screened,
    answer,
    recorded_facts,
    recorded_lists,
    screen_transaction,
    transaction_object,
)
from fraudengine.velocity_index import counter_reader
from fraudengine.written_answer import AnswerWriter

from . import strategies
from .running import REPOSITORY
from .strategies import AS_OF_US, SPAN, make_rule_set

DATES = {"ip_country": "2026-06-25", "bins": "2026-11-01"}
NEEDED = frozenset({"email"})
ID = "scr_38gstyfwc0000"


def transaction(amount: Money) -> Transaction:
    return Transaction(MerchantId("carthage-market"), "T-1", AS_OF_US, amount, "ecommerce")


def screened(rule_set: RuleSet, facts: Facts, filled: frozenset[ListName] = frozenset()) -> Screened:
    ready = ReadyRuleSet(
        rule_set, compile_rule_set(rule_set), build_indexes(rule_set.lists), filled=filled, counters=None
    )
    return anew(ready, facts)


def anew(ready: ReadyRuleSet, facts: Facts) -> Screened:
    amount = facts["amount"]
    assert isinstance(amount, Money)
    lists = ListsAsOf(ready.indexes, AS_OF_US, hits=[])
    matches = reference.find_matches(ready.rule_set, facts, lists)
    decision = decide(ready.rule_set, matches, three_ds=str(facts["three_ds"]), channel=str(facts["channel"]))
    return Screened(transaction(amount), ready, facts, lists, decision)


def expect_same(writer: AnswerWriter, decided: Screened, change: int = 7) -> None:
    written = writer.answer(decided, ID, 84)
    assert written == orjson.dumps(answer(decided, ID, DATES, 84))
    assert writer.document(decided, change, written) == orjson.dumps(
        {
            "transaction": transaction_object(decided.transaction),
            "facts": recorded_facts(decided, writer.needed),
            "rule_set": decided.ready.rule_set.name,
            "lists": recorded_lists(decided, change),
            "answer": orjson.Fragment(written),
        }
    )


complete = strategies.facts().map(
    lambda drawn: {
        "amount": Money(1, "TND"),
        "currency": "TND",
        "channel": "ecommerce",
        "three_ds": "none",
        **drawn,
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(strategies.rule_sets(), st.lists(complete, min_size=1, max_size=4), st.booleans())
def test_generated_screenings_are_written_the_same(rule_set: RuleSet, drawn: list[Facts], is_filled: bool) -> None:
    filled = frozenset(rule_set.lists) if is_filled else frozenset[ListName]()
    first = screened(rule_set, drawn[0], filled)
    writer = AnswerWriter(first, DATES, NEEDED)
    for facts in [*drawn, *drawn]:  # the second time from what was kept
        expect_same(writer, anew(first.ready, facts))


@pytest.fixture(scope="module")
def service() -> Callable[..., Screened]:
    library, data = Library.load(REPOSITORY / "rules"), DataFiles.in_directory(REPOSITORY / "data")
    engine, enricher, prepared = Engine(), Enricher(data), dict[str, ReadyRuleSet]()

    def screen(counts: Facts | None = None, **changes: Any) -> Screened:
        described = {**EXAMPLE, **changes}
        merchant = described["merchant"]
        if merchant not in prepared:
            prepared[merchant] = engine.prepare(library.snapshot.rule_set(merchant))
        read, _ = transaction_from_object(described, CardKey(b"k" * 32), 2_000_000_000_000_000)
        return screen_transaction(engine, enricher, prepared[merchant], read, count=lambda *_: counts or {})

    return screen


@pytest.mark.parametrize("merchant", ["carthage-market", "sahara-travel", "medina-topup", "yasmine-donations"])
def test_the_sample_merchants_screenings_are_written_the_same(
    service: Callable[..., Screened], merchant: str
) -> None:
    writer: AnswerWriter | None = None
    for counts in ({}, {"spent_per_card_24h": Money(500_000, "TND")}):
        for changes in (
            {},
            {"amount": "1.000"},
            {"ip_address": "8.8.8.8", "card": {"masked_pan": "411111**1111", "country": "NG", "expiry": "2027-09"}},
            {"card": None, "phone": "+21671123456", "device_id": 'd-"1"\\', "metadata": {"basket": "é"}},
            {"three_ds": AFTER_CHALLENGE_EXAMPLE["three_ds"], "order_ref": None, "shipping_country": "FR"},
            {"channel": "moto", "customer_id": None, "email": None, "terminal_id": None, "billing_country": None},
        ):
            decided = service(counts, merchant=merchant, **changes)
            if writer is None:
                writer = AnswerWriter(decided, DATES, NEEDED)
            expect_same(writer, decided)


COUNTRY_LISTED = Rule(
    RuleId("listed"), InList("ip_country", ListName("blocked_countries"), SPAN), Outcome.REFUSE, "LISTED"
)
FACTS: Facts = {
    "amount": Money(1, "TND"),
    "currency": "TND",
    "channel": "ecommerce",
    "three_ds": "none",
    "ip_country": "NG",
    "card": "fp_a",
}


def test_the_entry_that_holds_a_value_now_is_told_and_not_the_one_before() -> None:
    kind, _, _ = strategies.LISTS["blocked_countries"]
    entries = (
        ListEntry("NG", reason="before", expires_us=AS_OF_US),
        ListEntry("NG", reason="after", added_us=AS_OF_US),
    )
    declared = DeclaredList(ListName("blocked_countries"), kind, entries=entries)
    first = screened(make_rule_set([COUNTRY_LISTED], {ListName("blocked_countries"): declared}), FACTS)
    writer = AnswerWriter(first, DATES, NEEDED)
    told = []
    for as_of_us in (AS_OF_US - 1, AS_OF_US, AS_OF_US - 1):
        lists = replace(first.lists, as_of_us=as_of_us, hits=[])
        decided = replace(first, lists=lists)
        expect_same(writer, decided)
        told.append(orjson.loads(writer.answer(decided, ID, 1))["matches"][0]["because"][0]["entry"]["reason"])
    assert told == ["before", "after", "before"]


def test_a_run_time_entry_is_told_and_recorded() -> None:
    kind, _, _ = strategies.LISTS["blocked_countries"]
    entry = ListEntry("NG", reason="chargebacks", source="run-time", id=4, scope="*")
    declared = DeclaredList(ListName("blocked_countries"), kind, entries=(entry,))
    decided = screened(make_rule_set([COUNTRY_LISTED], {ListName("blocked_countries"): declared}), FACTS)
    assert any(isinstance(hit, Hit) for hit in decided.lists.hits or ())
    writer = AnswerWriter(decided, DATES, NEEDED)
    expect_same(writer, decided)
    assert b'"entries":[{"sought":"NG"' in writer.document(decided, 1, b"{}")


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_answer, "MAX_KEPT", 2)
    monkeypatch.setattr(written_answer, "MAX_MATCHES", 1)
    over = [
        Rule(RuleId(f"hour-{n}"), Compare("hour", FactType.INTEGER, Op.OVER, Literal(n), SPAN), Outcome.REFUSE, "X")
        for n in range(2)
    ]
    rules = make_rule_set(over)
    writer = AnswerWriter(screened(rules, {**FACTS, "hour": 5}), DATES, NEEDED)
    for hour in range(6):
        expect_same(writer, anew(writer.ready, {**FACTS, "hour": hour}))
    assert len(writer._matches) <= 1


def test_a_writer_is_for_one_rule_set_and_one_date_of_data() -> None:
    first, other = screened(make_rule_set([]), FACTS), screened(make_rule_set([]), FACTS)
    writer = AnswerWriter(first, DATES, NEEDED)
    assert writer.is_for(first, dict(DATES), NEEDED)
    assert not writer.is_for(other, DATES, NEEDED)
    assert not writer.is_for(first, {**DATES, "bins": "2026-11-02"}, NEEDED)
    assert not writer.is_for(first, DATES, frozenset({"phone"}))
    assert counter_reader(first.ready.rule_set) is None
