"""The columnar backend answers what the law answers: on generated rule sets, facts and lists, in DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine import reasons
from fraudengine.backends import reference
from fraudengine.backends.columnar import CURRENCY_SUFFIX, Columns, Dialect, table_named, to_sql
from fraudengine.backends.columnar_decision import (
    OUTCOMES,
    SETTLED,
    DecisionRules,
    add_decisions,
    match_words,
    name_conditions,
    read_named,
    settling,
)
from fraudengine.backends.columnar_lists import (
    dated,
    inline_membership,
    join_membership,
    key_entries,
    tabulate,
)
from fraudengine.backends.online import compile_rule_set
from fraudengine.decision import decide
from fraudengine.facts import THREE_DS, Facts, FactType
from fraudengine.money import Money
from fraudengine.replay.history import ip_key
from fraudengine.rules.ast import InList, RuleSet
from tests import strategies
from tests.strategies import AS_OF_US, TYPES, lists_of

_ARROW = {FactType.INTEGER: pa.int64(), FactType.BOOLEAN: pa.bool_(), FactType.MONEY: pa.int64()}


def facts_table(transactions: Sequence[Facts]) -> pa.Table:
    """Facts as the columnar backend reads them: a column for each, money with its currency beside it."""
    columns: dict[str, pa.Array] = {}
    for name, fact_type in TYPES.items():
        values = [facts.get(name) for facts in transactions]
        if fact_type is FactType.MONEY:
            money = [value if isinstance(value, Money) else None for value in values]
            columns[name] = pa.array([None if m is None else m.minor for m in money], pa.int64())
            currencies = [None if m is None else m.currency for m in money]
            columns[name + CURRENCY_SUFFIX] = pa.array(currencies, pa.string())
        else:
            columns[name] = pa.array(values, _ARROW.get(fact_type, pa.string()))
    addresses = [facts.get("ip_address") for facts in transactions]
    columns["ip_key"] = pa.array([None if a is None else ip_key(str(a)) for a in addresses], pa.string())
    columns["three_ds"] = pa.array([facts["three_ds"] for facts in transactions], pa.string())
    columns["merchant"] = pa.array([strategies.MERCHANT] * len(transactions), pa.string())
    columns["at_us"] = pa.array([AS_OF_US] * len(transactions), pa.int64())
    columns["seq"] = pa.array(range(len(transactions)), pa.int64())
    return pa.table(columns)


def decide_in_columns(rule_set: RuleSet, transactions: Sequence[Facts], *, joined: bool) -> list[dict[str, Any]]:
    """The decisions of the columnar backend, its rows in the order of the transactions."""
    connection = duckdb.connect()
    rules = DecisionRules(rule_set.evaluated_rules, rule_set.otherwise, rule_set.challenge)
    try:
        given_facts = facts_table(transactions)
        connection.register("facts", given_facts)
        table = table_named("facts", given_facts.schema)
        keys = {
            name: key_entries(declared.kind, [dated(entry) for entry in declared.entries])
            for name, declared in rule_set.lists.items()
        }
        sought = sorted({(test.list_name, test.fact) for test in list_tests(rule_set)}) if joined else []
        lists = {pair: f"list_{number}" for number, pair in enumerate(sought)}
        for (name, fact), column in lists.items():
            listed = tabulate(keys[name].kind, {strategies.MERCHANT: keys[name]})
            connection.register(f"entries_{column}", listed.table)
            entries = table_named(f"entries_{column}", listed.table.schema)
            value = "ip_key" if fact == "ip_address" else fact
            table = join_membership(table, entries, listed, value, None, column)

        def in_list(test: InList, value: Any) -> Any:
            if joined:
                return table[lists[test.list_name, test.fact]]
            sought_value = table["ip_key"] if test.fact == "ip_address" else value
            return inline_membership(keys[test.list_name], sought_value, table["at_us"])

        places = range(len(rules.rules))
        named: dict[Any, tuple[str, Any]] = {}
        names = name_conditions(rules, Columns(table, in_list), places, named)
        table = table.mutate(settling=settling(table["three_ds"], table["channel"]), **dict(named.values()))
        matched = table.mutate(**match_words(rules, read_named(rules, table, names), "x"))
        decided = add_decisions(rules, matched, "x").order_by("seq")
        rows: list[dict[str, Any]] = connection.sql(to_sql(decided, Dialect.DUCKDB)).to_arrow_table().to_pylist()
        return rows
    finally:
        connection.close()


def list_tests(rule_set: RuleSet) -> list[InList]:
    from fraudengine.rules.ast import walk

    conditions = [rule.when for rule in rule_set.evaluated_rules]
    conditions += [rule.unless for rule in rule_set.evaluated_rules if rule.unless is not None]
    return [part for condition in conditions for part in walk(condition) if isinstance(part, InList)]


def read_decision(rule_set: RuleSet, row: dict[str, Any]) -> tuple[Any, ...]:
    """Outcome, reason code, determining rule and matches of a row."""
    rules = DecisionRules(rule_set.evaluated_rules, rule_set.otherwise, rule_set.challenge)
    variant = rules.variants[row["x_d"]] if row["x_d"] >= 0 else None
    code = SETTLED[row["x_how"]] or (variant.rule.reason if variant is not None else reasons.NO_RULE_MATCHED)
    matches = []
    for place, rule in enumerate(rules.rules):
        if row["x_m0"] >> place & 1:
            by_unknown = bool(row["x_u0"] >> place & 1)
            matches.append((rule.id, rule.if_unknown if by_unknown else rule.then, by_unknown))
    return OUTCOMES[row["x"]], code, variant.rule.id if variant is not None else None, matches


def agrees(rule_set: RuleSet, transactions: Sequence[Facts], *, joined: bool) -> None:
    if not rule_set.evaluated_rules:
        return
    rows = decide_in_columns(rule_set, transactions, joined=joined)
    online = compile_rule_set(rule_set)
    lists = lists_of(rule_set)
    for facts, row in zip(transactions, rows, strict=True):
        matches = reference.find_matches(rule_set, facts, lists)
        assert online.find_matches(facts, lists) == matches
        channel = str(facts.get("channel"))
        law = decide(rule_set, matches, three_ds=str(facts["three_ds"]), channel=channel)
        expected = (
            law.outcome,
            law.code,
            law.rule.id if law.rule is not None else None,
            [(match.rule.id, match.outcome, match.by_unknown) for match in matches],
        )
        assert read_decision(rule_set, row) == expected, facts


words = st.sampled_from(THREE_DS)
histories = st.lists(
    st.builds(lambda facts, word: {**facts, "three_ds": word}, strategies.facts(), words), min_size=1, max_size=12
)
bounded = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@bounded
@given(strategies.rule_sets(), histories, st.booleans())
def test_reference_online_and_columnar_agree(rule_set: RuleSet, transactions: list[Facts], joined: bool) -> None:
    agrees(rule_set, transactions, joined=joined)


@pytest.mark.long
@settings(bounded, max_examples=2_000)
@given(strategies.rule_sets(), histories, st.booleans())
def test_they_agree_at_length(rule_set: RuleSet, transactions: list[Facts], joined: bool) -> None:
    agrees(rule_set, transactions, joined=joined)
