"""Counts and sums over a history that brings `step` and `late` are those of the law, on generated histories."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine.backends.columnar import Dialect, Expr, table_named, to_sql
from fraudengine.backends.columnar_counts import Calls, add_counts, can_count
from fraudengine.money import Money
from fraudengine.rules.counters import IP_NETWORK
from fraudengine.velocity import Past, Report, network_of, value_of, without_retries
from tests import velocity_cases as cases
from tests.test_columnar_velocity import numbered

COUNTERS = tuple(counter for counter in cases.COUNTERS if can_count(counter))


def call_table(calls: Sequence[Past]) -> pa.Table:
    """Calls in the order of arrival, with what a history knows of steps and lateness."""
    numbers = {name: number for number, name in enumerate(sorted({call.merchant for call in calls}))}
    steps: dict[tuple[str, str], int] = {}
    rows, latest = [], 0
    for call in sorted(calls, key=lambda call: call.sequence):
        key = (call.merchant, call.transaction_id)
        rows.append(
            {
                "sequence": call.sequence,
                "merchant": call.merchant,
                "merchant_no": numbers[call.merchant],
                "transaction_key": call.transaction_id,
                "step": steps.get(key, 0),
                "late": call.at_us < latest,
                "at_us": call.at_us,
                "currency": call.amount.currency,
                "minor": call.amount.minor,
                "outcome": call.outcome.value,
                "three_ds": call.facts["three_ds"],
                **{f"key_{name}": call.facts.get(name) for name in ("card", "ip_address", "email")},
                f"key_{IP_NETWORK}": network_of(call.facts.get("ip_address")),
            }
        )
        steps[key] = steps.get(key, 0) + 1
        latest = max(latest, call.at_us)
    keys = [f"key_{name}" for name in ("card", "ip_address", "email", IP_NETWORK)]
    texts = ("merchant", "transaction_key", "currency", "outcome", "three_ds", *keys)
    types = {**dict.fromkeys(texts, pa.string()), "step": pa.int32(), "late": pa.bool_(), "merchant_no": pa.int32()}
    schema = pa.schema([(name, types.get(name, pa.int64())) for name in rows[0]])
    return pa.Table.from_pylist(rows, schema=schema)


def count_in_columns(
    calls: Sequence[Past], reports: Sequence[Report], are_currencies_known: bool
) -> dict[int, dict[str, Any]]:
    connection = duckdb.connect()
    table = call_table(calls)
    connection.register("calls", table)
    given_reports: pa.Table | None = None
    if reports:
        numbers = {name: number for number, name in enumerate(sorted({call.merchant for call in calls}))}
        reported = [(r.sequence, numbers[r.merchant], r.transaction_id, r.kind.value) for r in reports]
        names = ("sequence", "merchant_no", "transaction_key", "kind")
        given_reports = pa.table(dict(zip(names, map(list, zip(*reported, strict=True)), strict=True)))
        connection.register("reports", given_reports)
    currencies = tuple(sorted({call.amount.currency for call in calls})) if are_currencies_known else None
    try:
        reports_schema = given_reports.schema if given_reports is not None else None
        *stored, counted = queries(table.schema, reports_schema, currencies)
        for query in stored:
            connection.execute(query)
        rows = connection.sql(counted).to_arrow_table().to_pylist()
        return {row["sequence"]: row for row in rows}
    finally:
        connection.close()


@cache
def queries(calls: pa.Schema, reports: pa.Schema | None, currencies: tuple[str, ...] | None) -> tuple[str, ...]:
    """The SQL that stores what is counted with, then the one that counts: made from the columns alone."""
    stored: dict[str, Expr] = {}
    made: list[str] = []

    def store(name: str, query: Expr | None) -> Expr:
        if query is not None:
            stored[name] = query
            made.append(f'CREATE TABLE "{name}" AS {to_sql(query, Dialect.DUCKDB)}')
        return table_named(name, stored[name].schema().to_pyarrow())

    said = table_named("reports", reports) if reports is not None else None
    wanted = {one: one.name for one in COUNTERS}
    counted = add_counts(Calls(table_named("calls", calls), said, store, "t", currencies=currencies), wanted)
    return *made, to_sql(counted, Dialect.DUCKDB)


relaxed = [HealthCheck.too_slow, HealthCheck.data_too_large]


def agrees_with_the_law(history: list[cases.Step], are_currencies_known: bool) -> None:
    made, reports = numbered(history)
    if not made:
        return
    kept = without_retries(made)
    counted = count_in_columns(kept, reports, are_currencies_known)
    for call in kept:
        for counter in COUNTERS:
            law = value_of(counter, call, kept, reports)
            expected = law.minor if isinstance(law, Money) else law
            assert counted[call.sequence][counter.name] == expected, (counter, call)


@settings(max_examples=15, deadline=None, suppress_health_check=relaxed)
@given(cases.histories(), st.booleans())
def test_counts_are_those_of_the_law(history: list[cases.Step], are_currencies_known: bool) -> None:
    agrees_with_the_law(history, are_currencies_known)


@pytest.mark.long
@settings(max_examples=300, deadline=None, suppress_health_check=relaxed)
@given(cases.histories(), st.booleans())
def test_counts_are_those_of_the_law_at_length(history: list[cases.Step], are_currencies_known: bool) -> None:
    agrees_with_the_law(history, are_currencies_known)
