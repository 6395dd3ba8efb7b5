"""The columnar backend on the payments of rule tests: the rules of a merchant as one query, a row for each test.

List look-ups are columns that the lists themselves filled, because a test may add entries to them; how the
columnar backend joins lists is for its own tests. Imported only where DuckDB and Ibis are installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa

from ..backends.columnar import CURRENCY_SUFFIX, Columns, Dialect, ip_key, table_named, to_sql
from ..backends.columnar_decision import DecisionRules, match_columns
from ..decision import Match
from ..facts import CATALOGUE, METADATA_PREFIX, FactName, Facts, FactType
from ..lists import read_address
from ..money import Money
from ..rules.ast import Condition, InList, RuleSet, walk
from ..screening import Screened

_ARROW: Final = {FactType.INTEGER: pa.int64(), FactType.BOOLEAN: pa.bool_(), FactType.MONEY: pa.int64()}
_SIDE: Final = "test"


def find_columnar_matches(screened: Sequence[Screened]) -> list[tuple[Match, ...]]:
    """The matches of each payment; all are of one merchant."""
    rule_set = screened[0].ready.rule_set
    rules = DecisionRules(rule_set.evaluated_rules, rule_set.otherwise, rule_set.challenge)
    if not rules.rules:
        return [() for _ in screened]
    memberships = {pair: f"list_{number}" for number, pair in enumerate(_list_tests(rule_set))}
    held = _table(rule_set, [one.facts for one in screened])
    for (name, fact), column in memberships.items():
        held = held.append_column(column, pa.array([_in_list(one, name, fact) for one in screened], pa.bool_()))
    held = held.append_column("row", pa.array(range(len(screened)), pa.int64()))
    table = table_named("payments", held.schema)

    def in_list(test: InList, value: Any) -> Any:
        return table[memberships[test.list_name, test.fact]]

    found = table.select("row", **match_columns(rules, Columns(table, in_list, {}), _SIDE)).order_by("row")
    with duckdb.connect() as connection:
        connection.register("payments", held)
        rows = connection.sql(to_sql(found, Dialect.DUCKDB)).to_arrow_table().to_pylist()
    return [_matches(rules, row) for row in rows]


def _matches(rules: DecisionRules, row: dict[str, Any]) -> tuple[Match, ...]:
    found = []
    for place, rule in enumerate(rules.rules):
        if row[f"{_SIDE}_match_{place}"]:
            by_unknown = bool(row[f"{_SIDE}_unknown_{place}"])
            outcome = rule.if_unknown if by_unknown and rule.if_unknown is not None else rule.then
            found.append(Match(rule, outcome, by_unknown))
    return tuple(found)


def _in_list(screened: Screened, name: Any, fact: FactName) -> bool | None:
    value = screened.facts.get(fact)
    return None if value is None else screened.lists.find(name, value) is not None


def _list_tests(rule_set: RuleSet) -> list[tuple[Any, FactName]]:
    conditions: list[Condition] = [rule.when for rule in rule_set.evaluated_rules]
    conditions += [rule.unless for rule in rule_set.evaluated_rules if rule.unless is not None]
    tests = (part for condition in conditions for part in walk(condition) if isinstance(part, InList))
    return sorted({(test.list_name, test.fact) for test in tests})


def _table(rule_set: RuleSet, payments: Sequence[Facts]) -> pa.Table:
    """A column for each fact that the rules read; unknown is null."""
    columns: dict[str, pa.Array] = {}
    for fact in sorted(rule_set.reads | {"amount", "currency"}):
        fact_type = _type_of(fact, rule_set)
        values = [facts.get(fact) for facts in payments]
        if fact_type is FactType.MONEY:
            money = [value if isinstance(value, Money) else None for value in values]
            columns[fact] = pa.array([None if one is None else one.minor for one in money], pa.int64())
            currencies = [None if one is None else one.currency for one in money]
            columns[fact + CURRENCY_SUFFIX] = pa.array(currencies, pa.string())
        else:
            columns[fact] = pa.array(values, _ARROW.get(fact_type, pa.string()))
    addresses = [facts.get("ip_address") for facts in payments]
    keys = [None if address is None else ip_key(*read_address(str(address))) for address in addresses]
    return pa.table({**columns, "ip_key": pa.array(keys, pa.string())})


def _type_of(fact: FactName, rule_set: RuleSet) -> FactType:
    if fact in CATALOGUE:
        return CATALOGUE[fact].type
    counter = rule_set.velocity.get(fact)
    return counter.type if counter is not None else rule_set.metadata[fact.removeprefix(METADATA_PREFIX)]
