"""Transactions that the two sides decide otherwise, each with the conditions that made the difference.

Only those that are listed are explained, one by one, by the reference backend; it decides them again on the way,
and a decision that differs from the columns' is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import duckdb
import pyarrow as pa

from ..backends import reference
from ..backends.columnar_counters import name_counters
from ..decision import Decision, decide
from ..enrich import Enricher
from ..explain import explain_match
from ..facts import FactName, FactValue
from ..lists import ListsAsOf, build_indexes
from ..lookups import DataFiles
from ..money import Money
from ..rules.counters import Measure
from .list_history import ListHistory
from .result import ReplayTable
from .rows import earlier_of, transaction_of
from .shapes import Shape, Side

SCHEMA: Final = pa.schema(
    [
        *(("seq", pa.int64()), ("merchant", pa.string()), ("transaction_id", pa.string())),
        *(("at", pa.timestamp("us", "UTC")), ("currency", pa.string()), ("minor", pa.int64())),
        ("label", pa.string()),
        *((f"{side}{rest}", pa.string()) for side in ("champion", "candidate") for rest in ("", "_code", "_rule")),
        *((name, pa.list_(pa.string())) for name in ("gone", "new", "because")),
        *(("card_bin", pa.string()), ("card_last4", pa.string())),
    ]
)


BATCH: Final = 5_000


class FlipExplainer:
    """Decides single rows of a replay again, by the law, and says why."""

    def __init__(
        self, shapes: list[Shape], data: DataFiles, list_history: ListHistory, as_of_us: int | None
    ) -> None:
        self._enricher = Enricher(data)
        self._list_history, self._as_of_us = list_history, as_of_us
        self._of_merchant = {
            merchant: (shape, pair) for shape in shapes for merchant, pair in shape.members.items()
        }
        self._indexes: dict[tuple[str, bool], Any] = {}

    def decide(
        self, row: Mapping[str, Any], counters: Mapping[str, int | None], champion: bool
    ) -> tuple[Decision, dict[str, list[str]]]:
        """The decision of one side, and for each rule that matched the tests that made it."""
        merchant = row["merchant"]
        shape, (present, proposed) = self._of_merchant[merchant]
        side = present if champion else proposed
        assert side is not None
        transaction = transaction_of(row)
        facts = dict(self._enricher.facts(transaction, side.rule_set, earlier_of(row)))
        facts |= self._counter_facts(shape, side, counters, row["currency"])
        lists = self._lists(merchant, side, champion, transaction.at_us)
        rule_set = self._awake(side, transaction.at_us)
        matches = reference.find_matches(rule_set, facts, lists)
        decision = decide(rule_set, matches, three_ds=str(facts["three_ds"]), channel=str(facts["channel"]))
        reasons = {
            str(match.rule.id): [
                f"{item.fact} {item.value}, {item.test}" for item in explain_match(match, facts, lists)
            ]
            for match in matches
        }
        return decision, reasons

    def has_champion(self, merchant: str) -> bool:
        """Whether the champion's side has rules, so that it can be decided again."""
        return self._of_merchant[merchant][1][0] is not None

    def _awake(self, side: Side, at_us: int) -> Any:
        """The rule set without rules that waited for a list that was empty then."""
        at = at_us if self._as_of_us is None else self._as_of_us
        asleep = {rule for rule, spans in side.form.guards if not any(start <= at < end for start, end in spans)}
        if not asleep:
            return side.rule_set
        return replace(side.rule_set, rules=tuple(rule for rule in side.rule_set.rules if rule.id not in asleep))

    def _lists(self, merchant: str, side: Side, champion: bool, at_us: int) -> ListsAsOf:
        key = (merchant, champion)
        if key not in self._indexes:
            self._indexes[key] = build_indexes(self._list_history.merged(side.rule_set, merchant))
        return ListsAsOf(self._indexes[key], at_us if self._as_of_us is None else self._as_of_us)

    @staticmethod
    def _counter_facts(
        shape: Shape, side: Side, values: Mapping[str, int | None], currency: str
    ) -> dict[FactName, FactValue]:
        forms = [form for form in (shape.champion, shape.candidate) if form is not None]
        names = name_counters(shape.number, [form.counters for form in forms])
        found: dict[FactName, FactValue] = {}
        for counter in side.form.counters:
            value = values.get(names[replace(counter, name="")])
            if value is not None:
                found[counter.name] = Money(value, currency) if counter.measure is Measure.SUM else value
        return found


class FlipLister:
    """The flips of one replay, explained a batch at a time in the order of the history."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, explainer: FlipExplainer) -> None:
        self._connection, self._explainer = connection, explainer
        self.disagreements = 0

    def batches(self, limit: int | None = None, size: int = BATCH) -> Iterator[pa.RecordBatch]:
        """The first `limit` flips, or all of them; one batch is held at a time."""
        listed, after = 0, -1
        while limit is None or listed < limit:
            wanted = size if limit is None else min(size, limit - listed)
            picked = self._connection.sql(
                "SELECT * FROM decisions WHERE champion <> candidate AND champion <> 'unrecorded'"
                f" AND seq > {after} ORDER BY seq LIMIT {int(wanted)}"
            ).to_arrow_table()
            if not len(picked):
                return
            yield self._explain(picked)
            listed += len(picked)
            after = picked["seq"][-1].as_py()
            if len(picked) < wanted:
                return

    def _explain(self, picked: pa.Table) -> pa.RecordBatch:
        self._connection.register("picked_flips", picked.select(["seq"]))
        # One after the other: a join with a view over Parquet, whose row groups know which `seq` they hold.
        rows = self._connection.sql(
            "SELECT * FROM history WHERE seq IN (SELECT seq FROM picked_flips)"
        ).to_arrow_table()
        self._connection.unregister("picked_flips")
        by_seq = {row["seq"]: row for row in rows.to_pylist()}
        listed = [self._row(decided, by_seq[decided["seq"]]) for decided in picked.to_pylist()]
        return pa.RecordBatch.from_pylist(listed, schema=SCHEMA)

    def _row(self, decided: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        counters = {name: value for name, value in decided.items() if name.startswith("counter_")}
        new_decision, new = self._explainer.decide(row, counters, champion=False)
        old: dict[str, list[str]] = {}
        self.disagreements += new_decision.outcome.value != decided["candidate"]
        if self._explainer.has_champion(row["merchant"]):
            old_decision, old = self._explainer.decide(row, counters, champion=True)
            self.disagreements += old_decision.outcome.value != decided["champion"]
        rule = decided["candidate_rule"]
        return {
            **{name: decided[name] for name in SCHEMA.names if name in decided},
            "transaction_id": row["transaction_id"],
            "at": datetime.fromtimestamp(row["at_us"] / 1e6, UTC),
            "gone": [f"{name}: {'; '.join(tests)}" for name, tests in old.items() if name not in new],
            "new": [f"{name}: {'; '.join(tests)}" for name, tests in new.items() if name not in old],
            "because": new.get(rule, []) if rule is not None else [],
            "card_bin": row.get("card_bin"),
            "card_last4": row.get("card_last4"),
        }


def list_flips(lister: FlipLister, limit: int) -> ReplayTable:
    """The first `limit` flips of the history, explained."""
    table = pa.Table.from_batches(lister.batches(limit), SCHEMA)
    return ReplayTable("flips", table, "transactions decided otherwise")
