"""The `velocity` block: what counters mean once read, linked and warned about. Mistakes are golden files."""

from __future__ import annotations

import pytest

from fraudengine.facts import FactType
from fraudengine.rules.ast import Compare, FactRef, Literal, MoneyFigures, Op, RuleSet, walk
from fraudengine.rules.check import check_text
from fraudengine.rules.check_velocity import COUNTER_KEYS
from fraudengine.rules.counters import (
    MAX_WINDOW_US,
    PER_FACTS,
    Among,
    Counter,
    CounterScope,
    Measure,
    describe_counter,
    format_duration,
    guess_duration,
    read_duration,
)
from fraudengine.rules.link import link
from fraudengine.rules.lint import find_warnings

from .golden_files import checked, link_text, read_golden

SECOND = 1_000_000
HOUR = 3_600 * SECOND


def linked_good() -> RuleSet:
    rule_set, mistakes = link_text(*read_golden("velocity.good.yaml"))
    assert not mistakes
    assert rule_set is not None
    return rule_set


def test_counters_are_read_with_their_defaults() -> None:
    velocity = linked_good().velocity
    assert velocity["cards_per_network"] == Counter(
        "cards_per_network",
        Measure.COUNT_DISTINCT,
        ("ip_network",),
        MAX_WINDOW_US,
        scope=CounterScope.ALL,
        distinct="card",
        help="Cards of a network.",
    )
    assert velocity["declined"] == Counter(
        "declined", Measure.COUNT, ("card_bin", "email"), 45 * SECOND, Among.DECLINED
    )
    assert velocity["attempts_per_card_1h"] == Counter("attempts_per_card_1h", Measure.COUNT, ("card",), HOUR)
    assert (velocity["declined"].origin, velocity["attempts_per_card_1h"].origin) == ("shop", "platform")
    assert velocity["spent_per_card_24h"].type is FactType.MONEY


def test_rules_read_own_and_inherited_counters_on_both_sides() -> None:
    rule_set = linked_good()
    (rule,) = [rule for rule in rule_set.rules if rule.id == "counters"]
    seen = {(part.fact, part.op, part.operand) for part in walk(rule.when) if isinstance(part, Compare)}
    assert ("cards_per_network", Op.AT_LEAST, Literal(3)) in seen
    assert ("declined", Op.OVER, FactRef("attempts_per_card_1h")) in seen
    assert ("amount", Op.OVER, FactRef("spent_per_card_24h")) in seen
    assert ("spent_per_card_24h", Op.OVER, MoneyFigures((("TND", 300_000),))) in seen


def test_a_catalogue_fact_beside_an_inherited_counter() -> None:
    """`$name` of a counter that only the parent knows is a setting until link."""
    rule_set, mistakes = link_text(
        "rules/merchants/shop.yaml",
        "merchant: shop\nextends: platform\nrules:\n"
        "  - {id: more, when: {amount: {over: $spent_per_card_24h}}, then: refuse}\n",
    )
    assert rule_set is not None, mistakes
    (rule,) = [rule for rule in rule_set.rules if rule.id == "more"]
    assert isinstance(rule.when, Compare)
    assert rule.when.operand == FactRef("spent_per_card_24h")
    assert {"amount", "spent_per_card_24h", "card"} <= rule_set.reads


def test_reads_hold_what_the_counters_need_only_when_a_rule_reads_them() -> None:
    text = (
        "merchant: shop\nvelocity:\n  a: {count: transactions, per: [phone_country, ip_network], within: 1 hour}\n"
        "rules:\n  - {id: r, mode: MODE, when: {a: {over: 3}}, then: refuse}\n"
    )
    live, _ = link_text("rules/merchants/shop.yaml", text.replace("MODE", "live"))
    off, _ = link_text("rules/merchants/shop.yaml", text.replace("MODE", "off"))
    assert live is not None
    assert off is not None
    assert live.reads == {"a", "phone_country", "ip_address"}
    assert off.reads == frozenset()


def test_a_rule_is_off_until_its_figure_is_given() -> None:
    text = (
        "merchant: shop\nsettings:\n  most: {type: integer}\nvelocity:\n"
        "  a: {count: transactions, per: card, within: 1 hour}\n"
        "rules:\n  - {id: r, when: {a: {at_least: $most}}, then: refuse}\n"
    )
    rule_set, _ = link_text("rules/merchants/shop.yaml", text)
    given, _ = link_text("rules/merchants/shop.yaml", text.replace("integer}", "integer, value: 5}"))
    assert rule_set is not None
    assert given is not None
    assert rule_set.rules[0].off_because == "nobody gave `most` a value"
    assert given.rules[0].when == Compare("a", FactType.INTEGER, Op.AT_LEAST, Literal(5), given.rules[0].span)


def test_a_sum_compares_with_money() -> None:
    text = (
        "merchant: shop\nvelocity:\n  a: {sum: amount, per: card, within: 1 hour}\n"
        "rules:\n  - {id: r, when: {a: {over: 5 TND}}, then: refuse}\n"
    )
    rule_set, _ = link_text("rules/merchants/shop.yaml", text)
    assert rule_set is not None
    when = rule_set.rules[0].when
    assert isinstance(when, Compare)
    assert (when.type, when.operand) == (FactType.MONEY, MoneyFigures((("TND", 5_000),)))


def test_a_counter_that_nobody_reads_is_a_warning() -> None:
    path = "merchants/shop.yaml"
    text = (
        "merchant: shop\nvelocity:\n  read: {count: transactions, per: card, within: 1 hour}\n"
        "  compared: {count: transactions, per: card, within: 2 hours}\n"
        "  unread: {count: transactions, per: card, within: 3 hours}\n"
        "rules:\n  - {id: r, when: {read: {over: $compared}}, then: refuse}\n"
    )
    file, mistakes = check_text(path, text)
    assert file is not None, mistakes
    rule_set = link(file, (), {})
    assert isinstance(rule_set, RuleSet)
    found = find_warnings({path: file}, {"shop": rule_set}, {path: text}, 0)
    assert [(item.code, item.message, item.span.line) for item in found] == [
        ("unread-counter", "no rule reads the counter `unread`", 5)
    ]


@pytest.mark.parametrize(
    ("counter", "warned"),
    [
        ("{sum: amount, per: terminal, within: 1 day}", True),
        ("{sum: amount, per: [card_country, channel], within: 30 days, among: accepted}", True),
        ("{count_distinct: ip_country, per: card_country, within: 2 hours}", True),
        ("{sum: amount, per: terminal, within: 1 hour}", False),
        ("{sum: amount, per: [card_country, customer], within: 30 days}", False),
        ("{count_distinct: card, per: card_country, within: 30 days}", False),
        ("{count: transactions, per: card_country, within: 30 days}", False),
    ],
)
def test_a_counter_that_would_read_everybodys_payments_is_a_warning(counter: str, warned: bool) -> None:
    path = "merchants/shop.yaml"
    file, mistakes = check_text(path, f"merchant: shop\nvelocity:\n  crowded: {counter}\nrules: []\n")
    assert file is not None, mistakes
    found = [one for one in find_warnings({path: file}, {}, {}, 0) if one.code == "crowded-counter"]
    assert [(one.span.line, "`crowded`" in one.message) for one in found] == [(3, True)] * warned


def test_a_house_counter_that_a_merchant_reads_is_no_warning() -> None:
    platform, shop = checked("platform.good.yaml"), checked("velocity.good.yaml")
    found = find_warnings({"platform.yaml": platform, "shop.yaml": shop}, {}, {}, 0)
    assert not [item for item in found if item.code == "unread-counter"]
    alone = find_warnings({"platform.yaml": platform}, {}, {}, 0)
    assert [item.message for item in alone if item.code == "unread-counter"] == [
        "no rule reads the counter `attempts_per_card_1h`",
        "no rule reads the counter `spent_per_card_24h`",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1 second", 1),
        ("45 seconds", 45),
        ("1 minute", 60),
        ("24 hours", 86_400),
        ("90 days", 7_776_000),
        ("2 weeks", 1_209_600),
        ("1h", None),
        ("1  hour", None),
        ("-1 hours", None),
        ("one hour", None),
        ("1.5 hours", None),
        ("٣ hours", None),
        ("", None),
    ],
)
def test_durations(text: str, seconds: int | None) -> None:
    assert read_duration(text) == (None if seconds is None else seconds * SECOND)


@pytest.mark.parametrize("seconds", [1, 59, 60, 3_600, 5_400, 86_399, 86_400, 172_800, 604_800, 7_776_000])
def test_a_written_duration_reads_as_itself(seconds: int) -> None:
    assert read_duration(format_duration(seconds * SECOND)) == seconds * SECOND


def test_a_day_is_written_as_24_hours() -> None:
    assert format_duration(24 * HOUR) == "24 hours"
    assert format_duration(48 * HOUR) == "2 days"


@pytest.mark.parametrize(
    ("text", "guess"),
    [("1h", "1 hour"), ("5 mins", "5 minutes"), ("30s", "30 seconds"), ("2 moons", ""), ("h", "")],
)
def test_guesses(text: str, guess: str) -> None:
    assert guess_duration(text) == guess


def test_counters_describe_themselves() -> None:
    counters = linked_good().velocity
    assert describe_counter(counters["attempts_per_card_1h"]) == "transactions per card within 1 hour"
    assert describe_counter(counters["spent_per_card_24h"]) == (
        "amount of accepted transactions per card within 24 hours"
    )
    assert describe_counter(counters["cards_per_network"]) == (
        "different values of card in transactions per ip_network within 90 days, of all merchants"
    )


def test_every_word_is_in_the_docstring_of_the_grammar() -> None:
    """The handbook is made from these lists; a new word must come with its help."""
    assert set(COUNTER_KEYS) == {"count", "sum", "count_distinct", "per", "within", "among", "scope", "help"}
    assert {"card", "ip_address", "ip_network", "email", "customer", "device", "terminal"} <= set(PER_FACTS)
    assert not {"amount", "hour", "three_ds"} & set(PER_FACTS)
