"""The online backend answers what the law answers, and survives what the C core does not."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine.backends import reference
from fraudengine.backends.online import compile_rule_set
from fraudengine.facts import Facts
from fraudengine.rules.ast import RuleSet
from tests import strategies

thorough = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@thorough
@given(strategies.rule_sets(), st.lists(strategies.facts(), min_size=1, max_size=6))
def test_online_agrees_with_the_law(rule_set: RuleSet, transactions: list[Facts]) -> None:
    compiled = compile_rule_set(rule_set)
    lists = strategies.lists_of(rule_set)
    for facts in transactions:
        assert compiled.find_matches(facts, lists) == reference.find_matches(rule_set, facts, lists)
