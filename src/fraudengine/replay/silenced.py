"""What a history does not say: facts that rules read and rows do not give, and rules that fell silent for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..facts import METADATA_PREFIX, FactName, FactType
from ..rules.ast import facts_read
from .result import ReplayTable
from .shapes import Form, Shape

_SOURCES: Final[dict[FactName, tuple[str, ...]]] = {
    "amount": ("minor",),
    "ip_address": ("ip_key",),
    "ip_country": ("ip_key",),
    "ip_network": ("ip_key",),
    "email_domain": ("email",),
    "phone_country": ("phone",),
    "card_expired": ("card_expires_us",),
    **{name: (name, "card_bin") for name in ("card_country", "card_brand", "card_type", "card_issuer")},
}
_ALWAYS: Final = frozenset({"hour", "weekday", "channel", "three_ds", "currency", "amount"})
_SILENCED: Final = pa.schema(
    [
        *(("side", pa.string()), ("rule", pa.string()), ("transactions", pa.int64())),
        ("absent_facts", pa.list_(pa.string())),
    ]
)
_ABSENT: Final = pa.schema(
    [
        *(("fact", pa.string()), ("transactions", pa.int64()), ("known", pa.int64())),
        ("rules", pa.list_(pa.string())),
    ]
)


def sources_of(fact: FactName, form: Form) -> tuple[str, ...]:
    """Columns of a history, any of which can give the fact."""
    if fact.startswith(METADATA_PREFIX):
        kind = dict(form.metadata).get(fact.removeprefix(METADATA_PREFIX))
        column = {FactType.INTEGER: "integer", FactType.BOOLEAN: "boolean"}.get(kind or FactType.TEXT, "text")
        return (f"{fact}:{column}",)
    return _SOURCES.get(fact, (fact,))


def _base_facts(fact: FactName, form: Form) -> frozenset[FactName]:
    """The fact, or of a velocity counter the facts that it counts by."""
    for counter in form.counters:
        if counter.name == fact:
            answers = {"recorded_outcome"} if counter.among in ("accepted", "challenged", "refused") else set()
            return counter.needs | answers
    return frozenset({fact})


def _rules_by_fact(shapes: Sequence[Shape]) -> dict[tuple[FactName, tuple[str, ...]], set[tuple[str, str]]]:
    """For each fact with its source columns, the (side, rule) that read it."""
    found: dict[tuple[FactName, tuple[str, ...]], set[tuple[str, str]]] = {}
    for shape in shapes:
        for side, form in (("champion", shape.champion), ("candidate", shape.candidate)):
            for rule in form.decided_by.rules if form is not None else ():
                assert form is not None
                read = facts_read(rule.when) | (facts_read(rule.unless) if rule.unless is not None else frozenset())
                for fact in {base for name in read for base in _base_facts(name, form)} - _ALWAYS:
                    found.setdefault((fact, sources_of(fact, form)), set()).add((side, rule.id))
    return found


def absent_table(
    connection: duckdb.DuckDBPyConnection, shapes: Sequence[Shape], columns: AbstractSet[str], files: Sequence[Path]
) -> ReplayTable:
    """Facts that rules read and that some transactions do not give, with how many, and which rules read them."""
    by_fact = _rules_by_fact(shapes)
    asked = {sources: [name for name in sources if name in columns] for _, sources in by_fact}
    merchants = [merchant for shape in shapes for merchant in shape.members]
    transactions, known = count_known(connection, merchants, asked, files)
    rows: list[dict[str, Any]] = []
    for (fact, sources), readers in by_fact.items():
        if known[sources] < transactions:
            rows.append(
                {
                    "fact": fact,
                    "transactions": transactions - known[sources],
                    "known": known[sources],
                    "rules": sorted({rule for _, rule in readers}),
                }
            )
    rows.sort(key=lambda row: (-row["transactions"], row["fact"]))
    return ReplayTable("absent", pa.Table.from_pylist(rows, schema=_ABSENT), "facts that the history does not give")


def count_known(
    connection: duckdb.DuckDBPyConnection,
    merchants: Sequence[str],
    asked: Mapping[tuple[str, ...], Sequence[str]],
    files: Sequence[Path],
) -> tuple[int, dict[tuple[str, ...], int]]:
    """The transactions of the merchants, and for each choice of columns how many give one of them.

    Where these are all transactions of the history, its files mostly say it themselves, and need not be read.
    """
    of_merchants = "FROM history WHERE merchant IN (SELECT unnest(?))"
    transactions = connection.execute(f"SELECT count(*) {of_merchants}", [merchants]).fetchall()[0][0]
    in_files, absent = _count_absent(files)
    known = {sources: 0 for sources, held in asked.items() if not held}
    if transactions == in_files:
        for sources, held in asked.items():
            partial = [name for name in held if absent.get(name) != in_files]
            if any(absent.get(name) == 0 for name in held):
                known[sources] = in_files
            elif not partial:
                known[sources] = 0
            elif len(partial) == 1 and partial[0] in absent:
                known[sources] = in_files - absent[partial[0]]
    rest = [sources for sources in asked if sources not in known]
    if rest:
        tests = [" OR ".join(f'"{name}" IS NOT NULL' for name in asked[sources]) for sources in rest]
        counts = ", ".join(f"count(*) FILTER ({test})" for test in tests)
        counted = connection.execute(f"SELECT {counts} {of_merchants}", [merchants]).fetchall()[0]
        known |= dict(zip(rest, counted, strict=True))
    return transactions, known


def _count_absent(files: Sequence[Path]) -> tuple[int, dict[str, int]]:
    """The rows of Parquet files, and how many have no value in each column, where every file tells it."""
    rows, absent, untold = 0, Counter[str](), set[str]()
    named = [frozenset(pq.read_schema(file).names) for file in files]
    columns = frozenset().union(*named)
    for file, held in zip(files, named, strict=True):
        metadata = pq.read_metadata(file)
        rows += metadata.num_rows
        absent.update(dict.fromkeys(columns - held, metadata.num_rows))
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for place in range(group.num_columns):
                column = group.column(place)
                told = column.statistics
                if told is None or not told.has_null_count:
                    untold.add(column.path_in_schema)
                else:
                    absent[column.path_in_schema] += told.null_count
    return rows, {name: absent[name] for name in columns - untold}


def silenced_table(shapes: Sequence[Shape], rules: ReplayTable, columns: AbstractSet[str]) -> ReplayTable:
    """Rules whose condition was unknown, and that did not match for it, with the facts that no row gives."""
    wanting: dict[tuple[str, str], set[str]] = {}
    for (fact, sources), readers in _rules_by_fact(shapes).items():
        if not set(sources) & columns:
            for reader in readers:
                wanting.setdefault(reader, set()).add(fact)
    rows = []
    for row in rules.rows():
        silent = row["unknown"] - row["by_unknown"]
        if silent > 0:
            absent = sorted(wanting.get((row["side"], row["rule"]), ()))
            rows.append({"side": row["side"], "rule": row["rule"], "transactions": silent, "absent_facts": absent})
    rows.sort(key=lambda row: (row["side"], -row["transactions"], row["rule"]))
    return ReplayTable("silenced", pa.Table.from_pylist(rows, schema=_SILENCED), "rules that could not be judged")
