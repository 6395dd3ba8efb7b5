"""The columnar counters against the law: the same history, every transaction, on DuckDB and on Spark."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine.backends.columnar_velocity import add_counters
from fraudengine.facts import FactValue
from fraudengine.money import Money
from fraudengine.rules.ast import Outcome
from fraudengine.rules.counters import Counter
from fraudengine.velocity import Past, Report, network_of, value_of, without_retries

from .velocity_cases import COUNTERS, MERCHANTS, MINUTE_US, NOW_US, Step, histories, planned

CALLS = pa.schema(
    [
        ("sequence", pa.int64()),
        ("merchant", pa.string()),
        ("transaction_id", pa.string()),
        ("request", pa.string()),
        ("at_us", pa.int64()),
        ("currency", pa.string()),
        ("minor", pa.int64()),
        ("outcome", pa.string()),
        ("three_ds", pa.string()),
        ("card", pa.string()),
        ("ip_address", pa.string()),
        ("ip_network", pa.string()),
        ("email", pa.string()),
    ]
)
REPORTS = pa.schema(
    [("sequence", pa.int64()), ("merchant", pa.string()), ("transaction_id", pa.string()), ("kind", pa.string())]
)


def numbered(history: list[Step]) -> tuple[list[Past], list[Report]]:
    """Every call, retried ones too, and the reports, in one order of arrival."""
    calls: list[Past] = []
    reports: list[Report] = []
    for sequence, step in enumerate(history, start=1):
        if step.call is not None:
            calls.append(replace(step.call, sequence=sequence))
        elif step.kind is not None and calls:
            about = calls[step.report_on % len(calls)]
            reports.append(Report(sequence, about.merchant, about.transaction_id, step.kind))
    return calls, reports


def as_tables(calls: list[Past], reports: list[Report]) -> tuple[pa.Table, pa.Table]:
    rows = [
        {
            "sequence": call.sequence,
            "merchant": call.merchant,
            "transaction_id": call.transaction_id,
            "request": None if call.request is None else repr(call.request),
            "at_us": call.at_us,
            "currency": call.amount.currency,
            "minor": call.amount.minor,
            "outcome": call.outcome.value,
            "three_ds": call.facts["three_ds"],
            "card": call.facts.get("card"),
            "ip_address": call.facts.get("ip_address"),
            "ip_network": network_of(call.facts.get("ip_address")),
            "email": call.facts.get("email"),
        }
        for call in calls
    ]
    said = [
        {
            "sequence": report.sequence,
            "merchant": report.merchant,
            "transaction_id": report.transaction_id,
            "kind": report.kind.value,
        }
        for report in reports
    ]
    return pa.Table.from_pylist(rows, CALLS), pa.Table.from_pylist(said, REPORTS)


def by_the_law(
    calls: list[Past], reports: list[Report], at_most: int | None, counters: tuple[Counter, ...] = COUNTERS
) -> dict[int, dict[str, int | Money | None]]:
    kept = without_retries(calls)
    first = {(call.merchant, call.transaction_id, call.request): call for call in kept}
    return {
        call.sequence: {
            one.counter.name: value_of(
                one.counter, first[call.merchant, call.transaction_id, call.request], kept, reports, one.at_most
            )
            for one in planned(at_most, counters)
        }
        for call in calls
    }


def by_columns(
    connection: Any, calls: list[Past], reports: list[Report], at_most: int | None, counters: tuple[Counter, ...]
) -> Any:
    history, said = (given_to(connection, table) for table in as_tables(calls, reports))
    expression = add_counters(history, planned(at_most, counters), said)
    return {row["sequence"]: row for row in connection.to_pyarrow(expression).to_pylist()}


def given_to(connection: Any, table: pa.Table) -> Any:
    """The table as a replay gives it to the engine: Spark reads Parquet (by way of pandas a NULL becomes `NaN`)."""
    if connection.name != "pyspark":
        return ibis.memtable(table)
    path = connection.scratch / f"{len(list(connection.scratch.iterdir()))}.parquet"
    pq.write_table(table, path)
    return connection.read_parquet(path)


def value_in(row: dict[str, Any], name: str) -> FactValue | None:
    found = row[name]
    if found is None or f"{name}__currency" not in row:
        return found  # type: ignore[no-any-return]
    return Money(found, row[f"{name}__currency"])


_APART_US = 400 * 86_400_000_000


def compare(
    connection: Any, many: list[list[Step]], at_most: int | None, counters: tuple[Counter, ...] = COUNTERS
) -> None:
    """Many histories in one query, which costs seconds whatever its size: each in a year of its own."""
    expected: dict[int, dict[str, int | Money | None]] = {}
    calls: list[Past] = []
    reports: list[Report] = []
    for number, history in enumerate(many):
        before = number * 1_000
        own_calls, own_reports = numbered(history)
        own_calls = [
            replace(
                call,
                sequence=before + call.sequence,
                transaction_id=f"{number}-{call.transaction_id}",
                at_us=call.at_us + number * _APART_US,
            )
            for call in own_calls
        ]
        own_reports = [
            replace(one, sequence=before + one.sequence, transaction_id=f"{number}-{one.transaction_id}")
            for one in own_reports
        ]
        expected |= by_the_law(own_calls, own_reports, at_most, counters)
        calls += own_calls
        reports += own_reports
    if not calls:
        return
    found = by_columns(connection, calls, reports, at_most, counters)
    assert len(found) == len(calls)
    for call in calls:
        row = found[call.sequence]
        counted = {name: value_in(row, name) for name in expected[call.sequence]}
        assert counted == expected[call.sequence], call


@pytest.fixture(scope="module")
def duckdb() -> Any:
    return ibis.duckdb.connect()


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(histories(15), min_size=20, max_size=20), st.sampled_from([None, 2]))
def test_duckdb_counts_what_the_law_counts(duckdb: Any, many: list[list[Step]], at_most: int | None) -> None:
    compare(duckdb, many, at_most)


@pytest.mark.long
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(histories(25), min_size=25, max_size=25), st.sampled_from([None, 1, 3]))
def test_duckdb_counts_what_the_law_counts_at_length(
    duckdb: Any, many: list[list[Step]], at_most: int | None
) -> None:
    compare(duckdb, many, at_most)


def test_steps_in_different_currencies_add_up_as_the_first(duckdb: Any) -> None:
    """The first step counts, in its own currency; a later one in another is not added beside it."""
    facts: dict[str, FactValue] = {"three_ds": "none", "card": "fp_a", "email": "a@b.tn"}

    def call(sequence: int, transaction_id: str, amount: Money) -> Past:
        at_us = NOW_US + sequence * MINUTE_US
        return Past(sequence, MERCHANTS[0], transaction_id, at_us, amount, Outcome.ACCEPT, facts, sequence)

    steps = (Money(1_000, "EUR"), Money(5, "TND"))
    one = [call(number, "T1", amount) for number, amount in enumerate(steps, start=1)]
    one += [call(3, "T2", Money(7, "TND")), call(4, "T3", Money(9, "EUR"))]
    sums = tuple(counter for counter in COUNTERS if counter.name == "spent")
    found = by_columns(duckdb, one, [], None, sums)
    counted = {number: {"spent": value_in(row, "spent")} for number, row in found.items()}
    assert counted == by_the_law(one, [], None, sums)
    assert counted[3] == {"spent": Money(0, "TND")}
    assert counted[4] == {"spent": Money(1_000, "EUR")}


def test_no_counters_change_nothing(duckdb: Any) -> None:
    table = ibis.memtable(as_tables([], [])[0])
    assert add_counters(table, []) is table


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("pyspark", reason="pyspark is not installed (pip install -e '.[spark]')")
    if (
        shutil.which("java") is None
        or subprocess.run(["java", "-version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("Spark needs Java 17")
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.ansi.enabled", "true")
        .getOrCreate()
    )
    connection = ibis.pyspark.connect(session)
    connection.scratch = tmp_path_factory.mktemp("spark")
    yield connection
    session.stop()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_spark_counts_what_the_law_counts(spark: Any) -> None:
    """One query of Spark's takes as long as a hundred of the others, so it gets one collection."""
    found: list[list[Step]] = []

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(histories(25))
    def collect(history: list[Step]) -> None:
        found.append(history)

    collect()
    kinds = ("attempts", "declines", "spent", "declined_cards")
    compare(spark, found, None, tuple(one for one in COUNTERS if one.name in kinds))
