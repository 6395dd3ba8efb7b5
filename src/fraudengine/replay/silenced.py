"""What a history does not say: facts that rules read and rows do not give, and rules that fell silent for it."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import duckdb
import pyarrow as pa

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
    connection: duckdb.DuckDBPyConnection, shapes: Sequence[Shape], columns: AbstractSet[str]
) -> ReplayTable:
    """Facts that rules read and that some transactions do not give, with how many, and which rules read them."""
    by_fact = _rules_by_fact(shapes)
    asked = []
    for _, sources in by_fact:
        held = [f'"{name}" IS NOT NULL' for name in sources if name in columns]
        asked.append(f"count(*) FILTER ({' OR '.join(held)})" if held else "0")
    merchants = [merchant for shape in shapes for merchant in shape.members]
    counted = connection.execute(
        f"SELECT {', '.join(['count(*)', *asked])} FROM history WHERE merchant IN (SELECT unnest(?))", [merchants]
    ).fetchall()[0]
    rows = []
    for ((fact, _), readers), known in zip(by_fact.items(), counted[1:], strict=True):
        if known < counted[0]:
            rows.append(
                {
                    "fact": fact,
                    "transactions": counted[0] - known,
                    "known": known,
                    "rules": sorted({rule for _, rule in readers}),
                }
            )
    rows.sort(key=lambda row: (-row["transactions"], row["fact"]))
    return ReplayTable("absent", pa.Table.from_pylist(rows, schema=_ABSENT), "facts that the history does not give")


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
