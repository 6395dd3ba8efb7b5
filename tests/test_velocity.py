"""Velocity: the law on its boundaries, and the index of the decision log, which must count what the law counts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine.decision_log import DecisionLog
from fraudengine.money import Money
from fraudengine.rules.ast import Outcome
from fraudengine.rules.counters import Among, Counter, CounterScope, Measure
from fraudengine.velocity import (
    BUCKETS_US,
    Past,
    Report,
    ReportKind,
    parse_series,
    plan_counters,
    series_of,
    value_of,
    without_retries,
)
from fraudengine.velocity_history import VelocityHistory
from fraudengine.velocity_index import CounterReader, hash_key

from .golden_files import link_text
from .velocity_cases import COUNTERS, HOUR_US, MINUTE_US, NOW_US, Driven, Step, histories, planned, record_of

ATTEMPTS = Counter("attempts", Measure.COUNT, ("card",), HOUR_US)
SHOP = "carthage-market"


def past(sequence: int, at_us: int = NOW_US - MINUTE_US, **given: object) -> Past:
    facts = {"card": "fp_a", "ip_address": "41.226.11.9", "three_ds": "none"}
    named = [name for name in ("card", "ip_address", "email", "three_ds") if name in given]
    facts |= {name: str(given.pop(name)) for name in named}
    base = Past(sequence, SHOP, f"T{sequence}", at_us, Money(1000, "TND"), Outcome.ACCEPT, facts)
    return replace(base, **given)  # type: ignore[arg-type]


SUBJECT = past(100, NOW_US)


# ---- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([past(1)], 1, id="one"),
        pytest.param([past(1, NOW_US - HOUR_US)], 1, id="the window's start is in it"),
        pytest.param([past(1, NOW_US - HOUR_US - 1)], 0, id="one microsecond before is not"),
        pytest.param([past(1, NOW_US)], 0, id="as_of itself is not"),
        pytest.param([past(1, NOW_US - 1)], 1, id="one microsecond before as_of is"),
        pytest.param([past(1, NOW_US + 1)], 0, id="the future is not"),
        pytest.param([past(101)], 0, id="what arrives later is not known"),
        pytest.param([past(2), past(1, NOW_US - 2 * MINUTE_US)], 2, id="order of at does not matter"),
        pytest.param([past(1, transaction_id="T100")], 0, id="the transaction's own first step"),
        pytest.param([past(1, transaction_id="T100", merchant="sahara-travel")], 0, id="another merchant"),
        pytest.param([past(1, transaction_id="A"), past(2, transaction_id="A")], 1, id="two steps count once"),
        pytest.param([past(1, card="fp_b")], 0, id="another card"),
        pytest.param(
            [past(1, transaction_id="A", card="fp_b"), past(2, transaction_id="A")], 1, id="once for each card"
        ),
        pytest.param(
            [past(1, NOW_US - HOUR_US - 1, transaction_id="A"), past(2, transaction_id="A")],
            0,
            id="the first step counts, where it stands",
        ),
    ],
)
def test_what_counts(history: list[Past], expected: int) -> None:
    assert value_of(ATTEMPTS, SUBJECT, history) == expected


def test_unknown_when_a_per_fact_is() -> None:
    nobody = replace(SUBJECT, facts={})
    assert value_of(ATTEMPTS, nobody, [past(1)]) is None
    assert value_of(replace(ATTEMPTS, per=("card", "email")), SUBJECT, [past(1)]) is None


def test_among_fits_the_step_that_it_is_about() -> None:
    steps = [
        past(1, transaction_id="A", outcome=Outcome.CHALLENGE),
        past(2, transaction_id="A", outcome=Outcome.REFUSE, three_ds="failed"),
        past(3, transaction_id="B", outcome=Outcome.CHALLENGE),
        past(4, transaction_id="B", outcome=Outcome.ACCEPT, three_ds="authenticated"),
    ]
    found = {among: value_of(replace(ATTEMPTS, among=among), SUBJECT, steps) for among in Among}
    assert found == {
        Among.ALL: 2,
        Among.ACCEPTED: 1,
        Among.CHALLENGED: 2,
        Among.REFUSED: 1,
        Among.FAILED_3DS: 1,
        Among.DECLINED: 0,
        Among.TECHNICAL_FAILURES: 0,
    }


def test_outages_do_not_count_as_fraud() -> None:
    history = [past(1, transaction_id="A"), past(3, transaction_id="A"), past(4, transaction_id="B")]
    outage = Report(2, SHOP, "A", ReportKind.TECHNICAL_FAILURE)
    assert value_of(ATTEMPTS, SUBJECT, history[:1], [outage]) == 0
    assert value_of(ATTEMPTS, SUBJECT, history, [outage]) == 2, "the attempt after the outage counts"
    failures = replace(ATTEMPTS, among=Among.TECHNICAL_FAILURES)
    assert value_of(failures, SUBJECT, history, [outage]) == 1
    later = replace(outage, sequence=SUBJECT.sequence + 1)
    assert value_of(ATTEMPTS, SUBJECT, history, [later]) == 2, "a report is known once it is made"


def test_a_decline_is_about_what_came_before_it() -> None:
    declines = replace(ATTEMPTS, among=Among.DECLINED)
    report = Report(2, SHOP, "A", ReportKind.DECLINED)
    assert value_of(declines, SUBJECT, [past(1, transaction_id="A")], [report]) == 1
    assert value_of(declines, SUBJECT, [past(3, transaction_id="A")], [report]) == 0
    assert value_of(declines, SUBJECT, [past(1, transaction_id="B")], [report]) == 0


def test_sums_add_one_currency_only() -> None:
    spent = Counter("spent", Measure.SUM, ("card",), HOUR_US)
    history = [past(1), past(2, amount=Money(500, "EUR")), past(3, amount=Money(7, "TND"))]
    assert value_of(spent, SUBJECT, history) == Money(1007, "TND")
    assert value_of(spent, replace(SUBJECT, amount=Money(1, "JPY")), history) == Money(0, "JPY")


def test_distinct_counts_look_at_every_step() -> None:
    cards = Counter("cards", Measure.COUNT_DISTINCT, ("ip_address",), HOUR_US, distinct="card")
    history = [
        past(1, transaction_id="A", card="fp_b"),
        past(2, transaction_id="A", card="fp_c"),
        past(3, card="fp_b"),
        past(4, transaction_id="T100", card="fp_d"),
    ]
    assert value_of(cards, SUBJECT, history) == 2
    assert value_of(cards, replace(SUBJECT, facts={"ip_address": "41.226.11.9"}), history) == 2


def test_networks() -> None:
    by_network = replace(ATTEMPTS, per=("ip_network",))
    history = [past(1, ip_address="41.226.11.200"), past(2, ip_address="41.226.12.9"), past(3, ip_address="::1")]
    assert value_of(by_network, SUBJECT, history) == 1
    six = replace(SUBJECT, facts={"ip_address": "2c0f:f698:1:2::1"})
    wide = [past(1, ip_address="2c0f:f698:1:2:ffff::"), past(2, ip_address="2c0f:f698:1:3::1")]
    assert value_of(by_network, six, wide) == 1


def test_scope_all_counts_other_merchants() -> None:
    history = [past(1, merchant="sahara-travel"), past(2)]
    assert value_of(replace(ATTEMPTS, scope=CounterScope.ALL), SUBJECT, history) == 2
    assert value_of(ATTEMPTS, SUBJECT, history) == 1


def test_a_count_stops_where_nobody_asks_for_more() -> None:
    assert value_of(ATTEMPTS, SUBJECT, [past(n) for n in range(1, 10)], at_most=6) == 6


def test_retried_calls_are_one() -> None:
    first = past(1, request=b"x")
    kept = without_retries([replace(first, sequence=2), first, replace(first, sequence=3, request=b"y")])
    assert kept == [first, replace(first, sequence=3, request=b"y")]


# ---- what rules ask -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "at_most"),
    [
        ("{a: {at_least: 5}}", 6),
        ("{a: {over: 5}, b: {over: 9}}", 6),
        ("{a: {under: 3}}", 4),
        ("{a: [7, 2]}", 8),
        ("{a: 0}", 1),
        ("{a: unknown}", 1),
        ("{a: {over: $b}}", None),
        ("{b: {over: $a}}", None),
        ("{a: {over: 5}, not: {a: {between: [1, 20]}}}", 21),
        ("{a: {over: $most}}", 13),
    ],
)
def test_where_a_count_may_stop(condition: str, at_most: int | None) -> None:
    rule_set, mistakes = link_text(
        "rules/merchants/shop.yaml",
        "merchant: shop\nsettings:\n  most: {type: integer, value: 12}\nvelocity:\n"
        "  a: {count: transactions, per: card, within: 1 hour}\n"
        "  b: {count: transactions, per: email, within: 1 hour}\n"
        f"rules:\n  - {{id: r, when: {condition}, then: refuse}}\n",
    )
    assert rule_set is not None, mistakes
    plan = {one.counter.name: one.at_most for one in plan_counters(rule_set)}
    assert plan["a"] == at_most


def test_nothing_is_planned_for_a_rule_set_that_counts_nothing() -> None:
    rule_set, _ = link_text("rules/merchants/shop.yaml", "merchant: shop\nextends: platform\n")
    assert rule_set is not None
    assert rule_set.velocity
    assert plan_counters(rule_set) == ()


@pytest.mark.parametrize("counter", COUNTERS, ids=lambda counter: counter.name)
def test_series_read_back_from_their_names(counter: Counter) -> None:
    series = series_of(counter)
    assert parse_series(series.text) == series
    assert counter.within_us <= series.bucket_us


@pytest.mark.parametrize(
    ("within", "bucket"),
    [
        (1_000_000, 0),
        (HOUR_US, 0),
        (HOUR_US + 1, 1),
        (24 * HOUR_US, 1),
        (10 * 24 * HOUR_US, 2),
        (90 * 24 * HOUR_US, 3),
    ],
)
def test_windows_span_two_buckets_at_most(within: int, bucket: int) -> None:
    assert series_of(replace(ATTEMPTS, within_us=within)).bucket_us == BUCKETS_US[bucket]


def test_keys_cannot_be_forged_by_joining_values() -> None:
    series = series_of(replace(ATTEMPTS, per=("customer", "device")))
    keys = {
        hash_key(series, "m", values) for values in (("a", "b"), ("a\0b", ""), ("", "a\0b"), ("ab", ""), ("b", "a"))
    }
    assert len(keys) == 5


# ---- the log counts what the law counts -----------------------------------------------------------


def play(driven: Driven, history: list[Step], reader: CounterReader, at_most: int | None) -> int:
    """Makes the calls and reports; how many counters were compared."""
    compared = 0
    for step in history:
        if step.call is not None:
            call, counted = driven.count(step.call, reader)
            for one in reader.counters:
                expected = value_of(one.counter, call, driven.calls, driven.reports, one.at_most)
                assert counted.get(one.counter.name) == expected, (one.counter, call)
                compared += 1
            driven.record(call)
        elif step.kind is not None and driven.calls:
            driven.report(driven.calls[step.report_on % len(driven.calls)], step.kind)
    return compared


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), st.sampled_from([None, 1, 2, 3]))
def test_the_log_counts_what_the_law_counts(history: list[Step], at_most: int | None) -> None:
    with TemporaryDirectory() as directory, DecisionLog.open(Path(directory) / "log.db") as log:
        driven = Driven(log)
        driven.keep()
        play(driven, history, CounterReader(planned(at_most)), at_most)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(12), histories(6), histories(8))
def test_a_new_counter_knows_the_past(before: list[Step], meanwhile: list[Step], after: list[Step]) -> None:
    """Registered after some calls, filled in after some more: then it counts as if it had always been there."""
    nothing = CounterReader(planned(None, COUNTERS[:1]))
    with TemporaryDirectory() as directory, DecisionLog.open(Path(directory) / "log.db") as log:
        driven = Driven(log)
        for history in (before, meanwhile):
            for step in history:
                if step.call is not None:
                    driven.record(driven.count(step.call, nothing)[0])
                elif step.kind is not None and driven.calls:
                    driven.report(driven.calls[step.report_on % len(driven.calls)], step.kind)
            if history is before:
                driven.keep(fill=False)
        driven.keep()
        assert log.velocity.is_complete
        play(driven, after, CounterReader(planned(None)), None)


@pytest.fixture
def log(tmp_path: Path) -> DecisionLog:
    return DecisionLog.open(tmp_path / "decisions.db")


def test_another_process_that_does_not_know_the_series_writes_its_rows(tmp_path: Path) -> None:
    """A worker whose registry is old cannot leave a hole: the writer looks in the same transaction."""
    reader = CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(tmp_path / "log.db") as one, DecisionLog.open(tmp_path / "log.db") as other:
        first, second = Driven(one), Driven(other)
        first.keep((ATTEMPTS,))
        assert other.velocity.generation == 0
        call, _ = second.count(past(0, transaction_id="other"), reader)
        second.record(call)
        assert other.velocity.generation == one.velocity.generation
        _, counted = first.count(SUBJECT, reader)
        assert counted == {"attempts": 1}


def test_an_answered_call_is_seen_at_once_by_every_log(tmp_path: Path) -> None:
    reader = CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(tmp_path / "log.db") as one, DecisionLog.open(tmp_path / "log.db") as other:
        first, second = Driven(one), Driven(other)
        first.keep((ATTEMPTS,))
        for number in range(1, 6):
            at_us = NOW_US - MINUTE_US + number
            call, counted = (first, second)[number % 2].count(past(0, at_us, transaction_id=f"A{number}"), reader)
            assert counted == {"attempts": number - 1}
            (first, second)[number % 2].record(call)


def test_the_same_call_in_two_processes_counts_once(tmp_path: Path) -> None:
    reader = CounterReader(planned(None, (ATTEMPTS,)))
    with DecisionLog.open(tmp_path / "log.db") as one, DecisionLog.open(tmp_path / "log.db") as other:
        first, second = Driven(one), Driven(other)
        first.keep((ATTEMPTS,))
        mine, _ = first.count(past(0, transaction_id="A", request=1), reader)
        theirs, _ = second.count(past(0, transaction_id="A", request=1), reader)
        assert first.record(mine)
        assert not second.record(theirs)
        assert first.count(SUBJECT, reader)[1] == {"attempts": 1}


def test_counts_survive_a_kill(tmp_path: Path) -> None:
    """kill -9 after the answers: the next process counts every one of them, without any warm-up."""
    path = tmp_path / "log.db"
    worker = (
        "import os, signal, sys; from pathlib import Path\n"
        "from fraudengine.decision_log import DecisionLog\n"
        "from tests.test_velocity import ATTEMPTS, past, planned, CounterReader\n"
        "from tests.velocity_cases import Driven\n"
        "driven = Driven(DecisionLog.open(Path(sys.argv[1])))\n"
        "driven.keep((ATTEMPTS,))\n"
        "reader = CounterReader(planned(None, (ATTEMPTS,)))\n"
        "for n in range(7): driven.record(driven.count(past(0, transaction_id=f'A{n}'), reader)[0])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", worker, str(path)], env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with DecisionLog.open(path) as log:
        assert log.velocity.is_complete
        _, counted = Driven(log).count(SUBJECT, CounterReader(planned(None, (ATTEMPTS,))))
        assert counted == {"attempts": 7}


def test_reports_are_recorded_once_and_only_about_known_screenings(log: DecisionLog) -> None:
    with log:
        driven = Driven(log)
        driven.keep((ATTEMPTS,))
        reader = CounterReader(planned(None, (ATTEMPTS,)))
        call, _ = driven.count(past(0, transaction_id="A"), reader)
        driven.record(call)
        assert not log.record_outcome(12345, "declined", "05", NOW_US)
        for _ in range(2):
            assert log.record_outcome(call.sequence, "technical_failure", "91", NOW_US)
            assert log.record_outcome(call.sequence, "chargeback", "10.4", NOW_US)
        assert driven.count(SUBJECT, reader)[1] == {"attempts": 0}
        kinds = log.recorded.read("SELECT kind, count(*) FROM outcomes GROUP BY kind ORDER BY kind")
        assert kinds == [("chargeback", 1), ("technical_failure", 1)]


def test_a_second_report_leaves_steps_alone_that_came_after_the_first(log: DecisionLog) -> None:
    with log:
        driven = Driven(log)
        counters = (ATTEMPTS, replace(ATTEMPTS, name="declines", among=Among.DECLINED))
        driven.keep(counters)
        reader = CounterReader(planned(None, counters))
        for number, kind in enumerate((ReportKind.TECHNICAL_FAILURE, ReportKind.DECLINED)):
            call, _ = driven.count(past(0, transaction_id="A", request=number), reader)
            driven.record(call)
            driven.report(call, kind)
        subject, counted = driven.count(SUBJECT, reader)
        assert counted == {"attempts": 1, "declines": 1}
        assert counted == {one.name: value_of(one, subject, driven.calls, driven.reports) for one in counters}


def test_the_same_report_again_leaves_steps_alone_that_came_after_it(log: DecisionLog) -> None:
    """A gateway that retries a report says nothing new, whatever happened in between."""
    with log:
        driven = Driven(log)
        counters = (ATTEMPTS, replace(ATTEMPTS, name="declines", among=Among.DECLINED))
        driven.keep(counters)
        reader = CounterReader(planned(None, counters))
        first, _ = driven.count(past(0, transaction_id="A", request=0), reader)
        driven.record(first)
        driven.report(first, ReportKind.TECHNICAL_FAILURE)
        second, _ = driven.count(past(0, transaction_id="A", request=1), reader)
        driven.record(second)
        driven.report(first, ReportKind.TECHNICAL_FAILURE)
        subject, counted = driven.count(SUBJECT, reader)
        assert counted == {"attempts": 1, "declines": 0}
        assert counted == {one.name: value_of(one, subject, driven.calls, driven.reports) for one in counters}


def test_a_long_past_is_filled_in_by_chunks_that_may_be_interrupted(log: DecisionLog) -> None:
    with log:
        driven = Driven(log)
        past_calls = [replace(past(log.next_id()), transaction_id=f"P{number}") for number in range(1_204)]
        asyncio.run(append_all(log, past_calls))
        driven.keep((ATTEMPTS,), fill=False)
        assert not log.velocity.is_complete
        goes = iter([True, False])
        VelocityHistory(log.path).fill(go_on=lambda: next(goes))
        indexed = log.recorded.read(
            "SELECT (SELECT count(*) FROM velocity_events) + (SELECT count(*) FROM velocity_tail)"
        )[0][0]
        assert indexed == 500
        log.velocity = VelocityHistory(log.path).fill()
        assert driven.count(SUBJECT, CounterReader(planned(None, (ATTEMPTS,))))[1] == {"attempts": 1_204}


async def append_all(log: DecisionLog, calls: list[Past]) -> None:
    await asyncio.gather(*(log.append(record_of(call)) for call in calls))


def test_only_the_series_of_a_merchant_are_written(log: DecisionLog) -> None:
    """A screening of a merchant whose rules count nothing leaves nothing in the index."""
    with log:
        driven = Driven(log)
        reader = CounterReader(planned(None, (ATTEMPTS,)))
        driven.log.velocity = driven.history.register({(series_of(ATTEMPTS), "sahara-travel")})
        driven.record(driven.count(past(0, transaction_id="A"), reader)[0])
        assert log.recorded.read(
            "SELECT (SELECT count(*) FROM velocity_events) + (SELECT count(*) FROM velocity_tail)"
        ) == [(0,)]
        driven.record(driven.count(past(0, transaction_id="A", merchant="sahara-travel"), reader)[0])
        assert log.recorded.read(
            "SELECT (SELECT count(*) FROM velocity_events) + (SELECT count(*) FROM velocity_tail)"
        ) == [(1,)]
