"""What is called impossible never happens; what is plainly impossible is called so."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fraudengine.backends.reference import evaluate, match_rule
from fraudengine.facts import CATALOGUE, CHANNELS, THREE_DS, WEEKDAYS, Facts, FactValue
from fraudengine.rules.ast import All, Any, Condition, Not, Outcome, Rule, RuleId, RuleSet, walk
from fraudengine.rules.check import check_text
from fraudengine.rules.reachability import find_conflict, find_contradiction

from . import strategies as generated


def found_in(when: str, extra: str = "") -> list[str]:
    text = f"merchant: shop\nrules:\n  - id: a-rule\n    when: {when}\n    then: refuse\n{extra}"
    return [item.code for item in check_text("shop.yaml", text)[1]]


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("{all: [{ip_country: TN}, {ip_country: FR}]}", id="two values"),
        pytest.param("{ip_country: {not: TN}, all: [{ip_country: TN}]}", id="a value and not it"),
        pytest.param("{all: [{ip_country: [TN, FR]}, {ip_country: {not: [FR, TN, DE]}}]}", id="sets"),
        pytest.param("{amount: {over: 300 TND, under: 300.001 TND}}", id="no minor unit between"),
        pytest.param("{amount: {over: 300 TND, under: 500 EUR}}", id="two currencies"),
        pytest.param("{amount: {over: 300 TND}, currency: EUR}", id="another currency"),
        pytest.param("{amount: {under: 0 TND}}", id="below nothing"),
        pytest.param("{hour: {over: 23}}", id="after the last hour"),
        pytest.param("{hour: {between: [20, 6]}}", id="between backwards"),
        pytest.param("{not: {any: [{hour: {over: 5}}, {hour: {at_most: 5}}]}}", id="neither over nor at most"),
        pytest.param("{all: [{card_country: unknown}, {card_country: TN}]}", id="unknown and a value"),
        pytest.param("{all: [{card_country: unknown}, {card_country: {not: TN}}]}", id="unknown and not a value"),
        pytest.param("{all: [{card_country: unknown}, {ip_country: $card_country}]}", id="unknown and compared"),
        pytest.param("{amount: unknown}", id="never unknown"),
        pytest.param("{card_type: {not: [credit, debit, prepaid, charge]}}", id="every word excluded"),
        pytest.param("{card_bin: {starts_with: 54, not: {starts_with: 5}}}", id="prefix within a prefix"),
        pytest.param("{all: [{card_bin: 407024}, {card_bin: {starts_with: 41}}]}", id="bin prefixes"),
        pytest.param("{all: [{email: a@b.tn}, {email: {starts_with: c}}]}", id="text and prefix"),
        pytest.param("{all: [{ip_address: 10.0.0.0/8}, {ip_address: 11.0.0.1}]}", id="networks apart"),
        pytest.param("{all: [{ip_address: 10.1.0.0/16}, {ip_address: {not: 10.0.0.0/8}}]}", id="network within"),
        pytest.param("{ip_country: TN, any: [{ip_country: FR}, {ip_country: NO, hour: 3}]}", id="every branch"),
    ],
)
def test_impossible_condition_is_found(when: str) -> None:
    assert found_in(when) == ["never-matches"]


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("{any: [{ip_country: TN}, {ip_country: FR}]}", id="either"),
        pytest.param("{amount: {at_least: 300 TND, at_most: 300 TND}}", id="exactly"),
        pytest.param(
            "{amount: {over: {TND: 300, EUR: 90}, under: {TND: 100, EUR: 100}}}", id="one currency remains"
        ),
        pytest.param("{hour: {between: [6, 6]}}", id="one hour"),
        pytest.param("{amount: {over: 300 TND, at_most: 300.001 TND}}", id="one minor unit"),
        pytest.param("{ip_country: TN, any: [{ip_country: FR}, {hour: 3}]}", id="one branch remains"),
        pytest.param("{all: [{card_bin: 407024}, {card_bin: 40702411}]}", id="longer bin"),
        pytest.param("{all: [{ip_address: 10.0.0.0/8}, {ip_address: {not: 10.1.0.0/16}}]}", id="hole in a network"),
    ],
)
def test_possible_condition_is_left_alone(when: str) -> None:
    assert found_in(when) == []


@pytest.mark.parametrize(
    ("when", "unless", "covered"),
    [
        pytest.param("{ip_country: TN}", "{ip_country: [TN, FR]}", True, id="wider set"),
        pytest.param("{ip_country: [TN, FR]}", "{ip_country: TN}", False, id="narrower set"),
        pytest.param("{amount: {over: 300 TND}}", "{amount: {over: 100 TND}}", True, id="lower figure"),
        pytest.param(
            "{amount: {over: {TND: 300, EUR: 9}}}", "{amount: {over: 100 TND}}", False, id="fewer currencies"
        ),
        pytest.param("{any: [{hour: 1}, {hour: 2}]}", "{any: [{hour: 1}, {hour: 2}]}", True, id="the same"),
        pytest.param("{ip_country: TN}", "{card_country: TN}", False, id="another fact"),
        pytest.param("{ip_country: unknown}", "{ip_country: {not: TN}}", False, id="unknown rescues nobody"),
        pytest.param("{ip_country: TN, hour: 3}", "{any: [{hour: 3}, {card_type: debit}]}", True, id="one branch"),
        pytest.param("{ip_country: TN}", "{ip_country: {not: unknown}}", True, id="is known"),
    ],
)
def test_unless_that_covers_when(when: str, unless: str, covered: bool) -> None:
    assert found_in(when, f"    unless: {unless}\n") == (["never-matches"] if covered else [])


def test_only_an_unknown_when_can_still_match() -> None:
    when = "{all: [{ip_country: TN}, {ip_country: FR}]}"
    text = f"merchant: shop\nrules:\n  - {{id: a-rule, when: {when}, then: refuse, if_unknown: refuse}}\n"
    (mistake,) = check_text("shop.yaml", text)[1]
    assert mistake.message == "the `when` of rule `a-rule` can never be true"


# ---- never wrong ----------------------------------------------------------------------------------


@st.composite
def possible_facts(draw: st.DrawFn) -> Facts:
    """Generated facts as enrichment could make them: those that are never unknown are there, and agree."""
    facts: dict[str, FactValue] = dict(draw(generated.facts()))
    amount = draw(generated.monies())
    facts |= {
        "amount": amount,
        "currency": amount.currency,
        "channel": draw(st.sampled_from(CHANNELS)),
        "three_ds": draw(st.sampled_from(THREE_DS)),
        "hour": draw(st.integers(0, 23)),
        "weekday": draw(st.sampled_from(WEEKDAYS)),
    }
    for name, spec in CATALOGUE.items():
        if spec.words and name in facts and facts[name] not in spec.words:
            facts[name] = draw(st.sampled_from(spec.words))
    return facts


@st.composite
def narrow_conditions(draw: st.DrawFn) -> Condition:
    """Several generated conditions at once, so that contradictions are common."""
    parts = draw(st.lists(generated.conditions(max_leaves=4), min_size=2, max_size=5))
    return All(tuple(parts), generated.SPAN)


SAMPLES = st.lists(possible_facts(), min_size=1, max_size=10)
RULE_SETS = generated.rule_sets(max_rules=1)


@settings(max_examples=300)
@given(narrow_conditions(), SAMPLES, RULE_SETS)
def test_what_is_called_impossible_never_holds(
    condition: Condition, samples: list[Facts], rule_set: RuleSet
) -> None:
    impossible = find_conflict(condition) is not None
    event(f"impossible: {impossible}")
    lists = generated.lists_of(rule_set)
    for facts in samples if impossible else ():
        assert evaluate(condition, facts, lists) is not True


@st.composite
def rules_with_unless(draw: st.DrawFn) -> Rule:
    """Rules whose `unless` is often made of what the `when` says."""
    when = draw(st.one_of(narrow_conditions(), generated.conditions(max_leaves=3)))
    parts = [part for part in walk(when) if not isinstance(part, All | Any | Not)]
    chosen = st.sampled_from(parts) if parts else generated.leaves()
    pool: st.SearchStrategy[Condition] = st.one_of(chosen, generated.leaves(), st.just(when))
    unless: Condition = draw(pool)
    if draw(st.booleans()):
        pair = (unless, draw(pool))
        all_of: bool = draw(st.booleans())
        unless = All(pair, generated.SPAN) if all_of else Any(pair, generated.SPAN)
    return Rule(RuleId("rule"), when, Outcome.REFUSE, "TESTED", unless=unless, span=generated.SPAN)


@settings(max_examples=300)
@given(rules_with_unless(), SAMPLES, RULE_SETS)
def test_a_rule_called_unmatchable_never_matches(rule: Rule, samples: list[Facts], rule_set: RuleSet) -> None:
    unmatchable = find_contradiction(rule) is not None
    event(f"unmatchable: {unmatchable}")
    lists = generated.lists_of(rule_set)
    for facts in samples if unmatchable else ():
        assert match_rule(rule, facts, lists) is None


@given(
    generated.conditions(max_leaves=4),
    st.lists(possible_facts(), min_size=1, max_size=20),
    generated.rule_sets(max_rules=1),
)
def test_a_condition_that_holds_is_possible(condition: Condition, samples: list[Facts], rule_set: RuleSet) -> None:
    """Narrowed by its own truth: whatever holds of some facts must not be called impossible."""
    lists = generated.lists_of(rule_set)
    for facts in samples:
        if evaluate(condition, facts, lists) is True:
            assert find_conflict(condition) is None
            assert find_conflict(Not(Not(condition, generated.SPAN), generated.SPAN)) is None
            assert find_conflict(Any((condition,), generated.SPAN)) is None
