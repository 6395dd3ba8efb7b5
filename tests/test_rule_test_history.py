"""The `history` of rule tests: what its lines come to, and every mistake in them."""

from __future__ import annotations

import pytest

from fraudengine.diagnostics import RuleFilesRefused
from fraudengine.rules.ast import RuleSet
from fraudengine.ruletest.model import RuleTest
from fraudengine.ruletest.reading import read_tests

from .golden_files import link_text

MINUTE_US = 60_000_000
HEAD = "merchant: shop\nnow: 2026-11-23T10:15:00Z\ntransaction: {amount: 5 TND, card_country: TN}\ntests:\n"


def rule_set() -> RuleSet:
    linked, mistakes = link_text(
        "rules/merchants/shop.yaml",
        "merchant: shop\nextends: platform\n"
        "rules:\n  - {id: r, when: {attempts_per_card_1h: {over: 3}}, then: refuse}\n",
    )
    assert linked is not None, mistakes
    return linked


def read(line: str) -> RuleTest:
    text = f"{HEAD}  - name: a\n    history:\n      - {line}\n    expect: accept\n"
    (test,) = read_tests("shop.test.yaml", text, rule_set())
    return test


@pytest.mark.parametrize(
    ("line", "minutes_ago"),
    [
        ("{times: 3, every: 1 minute, ending: 1 minute ago}", [1, 2, 3]),
        ("{times: 2, every: 1 hour, ending: now}", [0, 60]),
        ("{ending: 90 minutes ago}", [90]),
        ("{at: 2026-11-23T10:00:00Z}", [15]),
        ("{times: 2, every: 5 minutes, ending: 2026-11-23T10:10:00Z}", [5, 10]),
    ],
)
def test_series_notation(line: str, minutes_ago: list[int]) -> None:
    test = read(line)
    (past,) = test.history
    assert [(test.at_us - at) // MINUTE_US for at in past.at_us] == minutes_ago
    assert past.given == test.given


def test_a_line_differs_from_the_payment_in_what_it_gives() -> None:
    (past,) = read(
        "{ending: 1 minute ago, amount: 7 EUR, card: unknown, outcome: declined, merchant: other}"
    ).history
    assert str(past.given["amount"]) == "7.00 EUR"
    assert past.given["card"] is None
    assert past.given["card_country"] == "TN"
    assert (past.ended, past.merchant, past.transaction) == ("declined", "other", "")


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ("5", ["not-a-mapping"]),
        ("{times: 2, every: 1 minute}", ["missing-key"]),
        ("{times: 2, ending: 1 minute ago}", ["missing-key"]),
        ("{times: 0, ending: 1 minute ago}", ["out-of-range"]),
        ("{times: 99999, every: 1 minute, ending: now}", ["out-of-range"]),
        ("{times: 2, every: 1m, ending: now}", ["not-a-duration"]),
        ("{ending: 1m ago}", ["not-a-date"]),
        ("{ending: 1 minute}", ["not-a-date"]),
        ("{at: 2026-11-23T10:00:00Z, times: 2}", ["two-times"]),
        ("{ending: now, outcome: refuse}", ["unknown-word"]),
        ("{ending: now, crad: fp_x}", ["unknown-fact"]),
        ("{ending: now, merchant: [a]}", ["no-text"]),
    ],
)
def test_mistakes(line: str, codes: list[str]) -> None:
    with pytest.raises(RuleFilesRefused) as refused:
        read(line)
    assert [item.code for item in refused.value.diagnostics] == codes
    assert all(item.hint for item in refused.value.diagnostics)


def test_a_history_is_a_list() -> None:
    with pytest.raises(RuleFilesRefused) as refused:
        read_tests("shop.test.yaml", f"{HEAD}  - {{name: a, history: 5, expect: accept}}\n", rule_set())
    assert [item.code for item in refused.value.diagnostics] == ["not-a-list"]
