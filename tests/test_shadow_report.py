"""`fraudengine report shadow`: what rules on trial matched, and what each would have changed had it been live."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudengine.backends.reference import find_matches
from fraudengine.decision import Match, Outcome, decide
from fraudengine.facts import Facts
from fraudengine.log_reader import LoggedScreening, LogReader
from fraudengine.rules.ast import Mode, RuleSet
from fraudengine.shadow_report import EXAMPLES, report_shadow, would_have
from tests import strategies
from tests.command_line import Ran, run, write_rules

SHOP = """\
merchant: shop
rules:
  - {id: large, when: {amount: {over: 100 TND}}, then: challenge, reason: LARGE}
  - {id: trusted, when: {customer: vip}, then: accept, reason: TRUSTED}
  - {id: stolen, when: {customer: thief}, then: refuse, reason: STOLEN, final: true}
  - {id: try-abroad, mode: shadow, when: {billing_country: FR}, then: refuse, reason: ABROAD}
  - {id: try-ask, mode: shadow, when: {billing_country: [FR, DZ]}, then: challenge, reason: ASK}
  - {id: try-never, mode: shadow, when: {billing_country: AQ}, then: refuse, reason: NEVER}
"""
CAFE = "merchant: cafe\nrules:\n  - {id: try-all, mode: shadow, when: {channel: ecommerce}, then: refuse}\n"


def payment(number: int, merchant: str = "shop", **fields: Any) -> dict[str, Any]:
    return {
        "merchant": merchant,
        "transaction_id": f"T-{number}",
        "amount": "50.000",
        "currency": "TND",
        **fields,
    }


PAYMENTS = [
    payment(1, billing_country="FR"),  # accept; abroad would refuse, ask would challenge
    payment(2, billing_country="FR", amount="10.00", currency="EUR"),
    payment(3, billing_country="DZ", amount="150.000"),  # challenged already: ask changes nothing
    payment(4, billing_country="FR", amount="150.000"),  # challenged already: abroad would refuse
    payment(5, billing_country="FR", customer_id="vip"),  # an accept rule comes first: nothing changes
    payment(6, billing_country="FR", customer_id="thief"),  # refused already
    payment(7, billing_country="TN"),
    payment(8, billing_country="DZ", three_ds={"status": "Y"}),  # authenticated: the challenge becomes accept
    payment(9, billing_country="DZ", channel="moto"),  # nobody can be challenged: ask would refuse
    payment(10, merchant="cafe"),
]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Rules and state after the payments; the rules were changed since."""
    directory = tmp_path_factory.mktemp("shadow")
    rules = write_rules(directory / "rules", merchants__shop=SHOP, merchants__cafe=CAFE)
    file = directory / "payments.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in PAYMENTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUDENGINE_DEVELOPMENT", "1")
        ran = run("screen", file, "--rules", rules, "--state", directory / "var")
    assert ran.code == 0, ran.err
    changed = SHOP.replace("try-abroad, mode: shadow", "try-abroad, mode: live").replace("accept", "refuse")
    write_rules(rules, merchants__shop=changed)
    return rules, directory / "var"


def report(logged: tuple[Path, Path], *options: object) -> Ran:
    rules, state = logged
    return run("report", "shadow", "--rules", rules, "--state", state, *options)


def rule_in(found: Any, rule: str) -> Any:
    return next(one for one in found["rules"] if one["rule"] == rule)


def test_counts_what_each_rule_matched_and_would_have_changed(logged: tuple[Path, Path]) -> None:
    found = report(logged, "--since", "2020-01-01", "--format", "json").json
    assert (found["screenings"], found["unreadable"]) == (10, 0)
    abroad, ask = rule_in(found, "try-abroad"), rule_in(found, "try-ask")
    assert (abroad["matched"], abroad["amounts"]) == (5, {"EUR": "10.00", "TND": "300.000"})
    assert abroad["would_have_changed"] == 3
    assert abroad["changes"] == [
        {"from": "accept", "to": "refuse", "count": 2, "amounts": {"EUR": "10.00", "TND": "50.000"}},
        {"from": "challenge", "to": "refuse", "count": 1, "amounts": {"TND": "150.000"}},
    ]
    assert (ask["matched"], ask["would_have_changed"]) == (8, 3)
    assert {(change["from"], change["to"]): change["count"] for change in ask["changes"]} == {
        ("accept", "challenge"): 2,
        ("accept", "refuse"): 1,
    }
    assert (rule_in(found, "try-never")["matched"], rule_in(found, "try-all")["matched"]) == (0, 1)


def test_text_has_examples_that_can_be_explained(logged: tuple[Path, Path]) -> None:
    ran = report(logged, "--since", "2020-01-01", "--merchant", "shop")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("9 screenings since 2020-01-01\n")
    assert "shop: try-abroad (refuse)\n" in ran.out
    assert "  would have changed 3:\n    accept → refuse: 2, 10.00 EUR, 50.000 TND\n" in ran.out
    assert "shop: try-never (refuse)" in ran.out
    assert "cafe" not in ran.out
    examples = [line.split()[0] for line in ran.out.splitlines() if line.startswith("    scr_")]
    assert len(examples) == 2 * EXAMPLES
    rules, state = logged
    explained = run("explain", examples[0], "--rules", rules, "--state", state, "--rule", "try-abroad")
    assert "try-abroad — would have matched: refuse" in explained.out


def test_period_and_merchant_bound_the_report(logged: tuple[Path, Path]) -> None:
    assert report(logged, "--since", "2099-01-01", "--format", "json").json["screenings"] == 0
    assert (
        report(logged, "--since", "2020-01-01", "--until", "2020-02-01", "--format", "json").json["screenings"] == 0
    )
    cafe = report(logged, "--since", "2020-01-01", "--merchant", "cafe", "--format", "json").json
    assert (cafe["screenings"], [one["rule"] for one in cafe["rules"]]) == (1, ["try-all"])
    assert (
        report(logged, "--since", "2020-01-01", "--merchant", "nobody", "--format", "json").json["screenings"] == 0
    )


def test_the_first_and_the_last_instant(logged: tuple[Path, Path]) -> None:
    """`since` is included, `until` is not, to the millisecond of the answer."""
    from fraudengine.store import COUNTER_BITS, WORKER_BITS

    with LogReader(logged[1] / "decisions.db") as log:
        ids = [one.id for one in log.with_shadow_matches(0, None, None)]
        first_us, last_us = ((number >> (WORKER_BITS + COUNTER_BITS)) * 1000 for number in (ids[0], ids[-1]))
        assert log.count(first_us, last_us + 1000, None) == 10
        assert log.count(first_us + 1000, None, None) < 10
        assert log.count(first_us, last_us, None) < 10


@pytest.mark.parametrize(
    "options",
    [(), ("--since", "yesterday"), ("--since", "2026-02-01", "--until", "2026-01-01"), ("--since", "2026-02-30")],
)
def test_wrong_calls(options: tuple[str, ...], logged: tuple[Path, Path]) -> None:
    assert report(logged, *options).code == 2


def test_no_log_is_the_machines_fault(logged: tuple[Path, Path], tmp_path: Path) -> None:
    ran = run("report", "shadow", "--since", "2026-01-01", "--rules", logged[0], "--state", tmp_path)
    assert (ran.code, "there is no decision log" in ran.err) == (3, True)
    assert list(tmp_path.iterdir()) == []


@given(
    strategies.rule_sets(), strategies.facts(), st.sampled_from(["none", "authenticated", "failed", "attempted"])
)
def test_each_rule_is_decided_as_if_it_had_been_live(rule_set: RuleSet, facts: Facts, three_ds: str) -> None:
    """Deciding again from the record equals evaluating a rule set in which that one rule is live."""
    from dataclasses import replace

    lists, channel = strategies.lists_of(rule_set), "ecommerce"
    matches = find_matches(rule_set, facts, lists)
    decision = decide(rule_set, matches, three_ds=three_ds, channel=channel)
    document = _document(matches, decision.outcome, decision.code, three_ds, channel)
    found = {rule.id: (before, after) for rule, before, after in would_have(document, rule_set)}
    assert found.keys() == {match.rule.id for match in matches if match.rule.mode is Mode.SHADOW}
    for rule_id, (before, after) in found.items():
        rules = tuple(replace(rule, mode=Mode.LIVE) if rule.id == rule_id else rule for rule in rule_set.rules)
        live = replace(rule_set, rules=rules)
        expected = decide(live, find_matches(live, facts, lists), three_ds=three_ds, channel=channel)
        assert (before, after) == (decision.outcome, expected.outcome)


def _document(matches: tuple[Match, ...], outcome: Outcome, code: str, three_ds: str, channel: str) -> bytes:
    answer = {
        "decision": outcome.value,
        "reason": {"code": code, "rule": None},
        "matches": [
            {"rule": match.rule.id, "outcome": match.outcome.value, "mode": match.rule.mode.value}
            for match in matches
        ],
        "indicators": {"three_ds": three_ds},
    }
    return json.dumps({"transaction": {"channel": channel}, "answer": answer}).encode()


class _EndlessLog(LogReader):
    """A log of many equal screenings, without a file."""

    def __init__(self, screening: LoggedScreening, texts: tuple[tuple[str, str], ...]) -> None:
        self.screening, self.texts, self.length = screening, texts, 0

    def revision_texts(self, revision: str) -> tuple[tuple[str, str], ...]:
        return self.texts

    def count(self, since_us: int, until_us: int | None, merchant: str | None) -> int:
        return self.length

    def with_shadow_matches(
        self, since_us: int, until_us: int | None, merchant: str | None
    ) -> Iterator[LoggedScreening]:
        for _ in range(self.length):
            yield self.screening


def test_memory_does_not_grow_with_the_log(logged: tuple[Path, Path]) -> None:
    with LogReader(logged[1] / "decisions.db") as log:
        screening = next(log.with_shadow_matches(0, None, "shop"))
        endless = _EndlessLog(screening, log.revision_texts(screening.revision))
    peaks = Counter[int]()
    for endless.length in (200, 200, 4_000):  # the first run fills caches
        tracemalloc.start()
        found = report_shadow(endless, 0)
        peaks[endless.length] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(tally.matched for tally in found.rules) >= endless.length
    assert peaks[4_000] < peaks[200] + 100_000


def test_rules_that_were_not_kept_are_counted(logged: tuple[Path, Path]) -> None:
    with LogReader(logged[1] / "decisions.db") as log:
        screening = next(log.with_shadow_matches(0, None, "shop"))
    forgotten = _EndlessLog(screening, ())
    forgotten.length = 3
    found = report_shadow(forgotten, 0)
    assert (found.unreadable, found.rules) == (3, ())
