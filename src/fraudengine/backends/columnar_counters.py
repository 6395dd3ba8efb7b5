"""The counters of a shape: each made by `columnar_counts` where that can be, else by `columnar_velocity`.

They run over each merchant's own screenings, and over everybody's where their scope is that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import ibis
import pyarrow as pa

from ..facts import FactName
from ..rules.counters import Among, Counter, CounterScope, Measure
from ..velocity import PlannedCounter
from .columnar import CURRENCY_SUFFIX, Dialect, Expr, table_named
from .columnar_codes import CODED
from .columnar_counts import NEEDED, Calls, Store, add_counts, can_count, key_of
from .columnar_enrich import FactsWanted, add_facts
from .columnar_history import KEPT, ReplayedHistory, with_answers
from .columnar_velocity import add_counters, network_key

OF_ANSWERS: Final = frozenset({Among.ACCEPTED, Among.CHALLENGED, Among.REFUSED})


class ShapeCounters:
    """What the sides of a shape count, as columns. Keys of `names` are counters without their names.

    `tables` are those that the shape makes known, `members_<number>` among them; one is added for all merchants.
    """

    def __init__(
        self,
        number: int,
        sides: Sequence[Sequence[Counter]],
        history: ReplayedHistory,
        store: Store,
        tables: dict[str, pa.Table],
    ) -> None:
        self.number, self.history, self.tables = number, history, tables
        self.names = name_counters(number, sides)
        self._store = store

    @property
    def _own(self) -> list[Counter]:
        """Counters among each merchant's own screenings."""
        return [counter for counter in self.names if counter.scope is CounterScope.MERCHANT]

    @property
    def _of_all(self) -> list[Counter]:
        """Counters among everybody's screenings."""
        return [counter for counter in self.names if counter.scope is CounterScope.ALL]

    def columns_of(self, counters: Iterable[Counter]) -> dict[FactName, str]:
        """The column of each counter of a side."""
        return {counter.name: self.names[replace(counter, name="")] for counter in counters}

    # ---- what they count by -----------------------------------------------------------------------

    @property
    def facts(self) -> set[FactName]:
        """The facts that they count by."""
        return {fact for counter in self.names for fact in (*counter.per, counter.distinct) if fact is not None}

    def with_network(self, facts: Expr) -> Expr:
        """With the column `ip_network` where a counter is per network."""
        if any("ip_network" in counter.per for counter in self.names) and "ip_key" in facts.columns:
            return facts.mutate(ip_network=network_key(facts))
        return facts

    def needed(self) -> set[str]:
        """Columns that `add_own` reads."""
        needed = {"seq", "at_us", "minor", "merchant_no", *NEEDED}
        fast = set(NEEDED) <= set(self.history.table.columns)
        slow = [counter for counter in self._own if not (fast and can_count(counter))]
        needed |= {fact for counter in slow for fact in (*counter.per, counter.distinct or "")}
        if slow:
            needed |= {"merchant", "transaction_id", "currency", "recorded_outcome", "three_ds"}
        asked = {counter.among for counter in self._own}
        needed |= {"three_ds"} if Among.FAILED_3DS in asked else set()
        needed |= {"recorded_outcome"} if asked & OF_ANSWERS else set()
        return needed

    def own_keys(self, facts: Expr) -> dict[str, Expr]:
        """What `add_own` reads beside `needed`, made of facts that need not be carried on."""
        return self._keys(facts, self._own)

    def _keys(self, facts: Expr, counters: Sequence[Counter]) -> dict[str, Expr]:
        """What `columnar_counts` counts by; hashes where the engine has good ones, so that little is sorted."""
        if not (set(NEEDED) <= set(facts.columns) and any(can_count(counter) for counter in self.names)):
            return {}
        per = sorted({fact for counter in counters if can_count(counter) for fact in counter.per})
        keys = {key_of(fact): self._key(facts[fact]) for fact in per if fact in facts.columns}
        return keys | {"transaction_key": self._key(facts["transaction_id"])}

    def _key(self, value: Expr) -> Expr:
        if self.history.dialect is not Dialect.DUCKDB:
            return value
        if not value.type().is_string():
            return ibis.ifelse(value.isnull(), ibis.null("int64"), value.hash())
        # 63 bits of the hash: Ibis 12 makes a signed number of all 64 through a text of ones and zeros. It takes
        # what it shifts for signed, and would leave out the second cast without the first.
        number = (_hash(value) >> 1).cast("uint64").cast("int64")
        return ibis.ifelse(value.isnull(), ibis.null("int64"), number)

    # ---- counting ---------------------------------------------------------------------------------

    def add_own(self, staged: Expr, merchants: Iterable[int]) -> Expr:
        """The rows of these merchants with the counters among each one's own screenings."""
        return self._add(staged, self._own, merchants, f"counts_{self.number}")

    def add_those_of_all(self, staged: Expr) -> Expr:
        """The rows with the counters among everybody's screenings, where there are any."""
        if not self._of_all:
            return staged
        everybody = self._count_among_all()
        joined = staged.left_join(everybody, staged["seq"] == everybody["counted_seq"])
        return self._store(f"staged_with_all_{self.number}", joined.drop("counted_seq"))

    def _count_among_all(self) -> Expr:
        """`counted_seq` and the counters that look at all merchants, those without rules too."""
        numbers = self.history.merchant_numbers
        table = pa.table({"member": list(numbers), "merchant_no": pa.array(numbers.values(), pa.int32())})
        self.tables[f"everybody_{self.number}"] = table
        everybody = table_named(f"everybody_{self.number}", table.schema)
        history = self.history.table
        joined = history.inner_join(everybody, history["merchant"] == everybody["member"]).drop("member")
        names = {fact for counter in self._of_all for fact in (*counter.per, counter.distinct) if fact is not None}
        facts = self.with_network(
            add_facts(
                joined,
                FactsWanted(frozenset(names - {"ip_network"}) | {"ip_address"}, "UTC", {}),
                self.history.lookups,
                [(0, 0)],
                [*KEPT, *NEEDED, "merchant_no"],
            )
        )
        facts = self.history.codes.add(with_answers(facts))
        needed = {*KEPT, *NEEDED, *CODED, "merchant_no", "three_ds", *names}
        keys = self._keys(facts, self._of_all)
        stored = self._store(
            f"staged_all_{self.number}",
            facts.select(*(name for name in facts.columns if name in needed), **keys),
        )
        counted = self._add(stored, self._of_all, numbers.values(), f"counts_all_{self.number}")
        made = [self.names[counter] for counter in self._of_all if self.names[counter] in counted.columns]
        sums = [name + CURRENCY_SUFFIX for name in made if name + CURRENCY_SUFFIX in counted.columns]
        return self._store(
            f"counted_all_{self.number}", counted.select("seq", *made, *sums).rename(counted_seq="seq")
        )

    def _add(self, stored: Expr, counters: Sequence[Counter], merchants: Iterable[int], prefix: str) -> Expr:
        planned = [
            PlannedCounter(replace(counter, name=self.names[counter]), None, None)  # type: ignore[arg-type]
            for counter in counters
            if self._has_all(stored, counter) and self._has_answers(counter)
        ]
        sequenced = stored.mutate(sequence=stored["seq"] * 2)
        if "recorded_outcome" in stored.columns:
            sequenced = sequenced.rename(outcome="recorded_outcome")
        if "transaction_key" in stored.columns:
            fast = {one.counter: one.counter.name for one in planned if can_count(one.counter)}
            planned = [one for one in planned if one.counter not in fast]
            held = frozenset().union(*(self.history.currencies[number] for number in merchants))
            reports, currencies = self._keyed_reports(prefix), tuple(sorted(held))
            calls = Calls(sequenced, reports, self._store, prefix, "currency_no", currencies)
            sequenced = add_counts(calls, fast) if fast else sequenced
        counted = add_counters(sequenced, planned, self.history.reports)
        currency = self.history.codes.currency_of(counted["currency_no"])
        sums = [name for counter, name in self.names.items() if counter.measure is Measure.SUM]
        named = {name + CURRENCY_SUFFIX: currency for name in sums if name in counted.columns}
        return counted.mutate(**{"currency": currency, "amount" + CURRENCY_SUFFIX: currency, **named})

    def _keyed_reports(self, prefix: str) -> Expr | None:
        reports = self.history.reports
        if reports is None:
            return None
        source = f"everybody_{self.number}" if prefix.startswith("counts_all") else f"members_{self.number}"
        members = table_named(source, self.tables[source].schema)
        joined = reports.inner_join(members, reports["merchant"] == members["member"])
        key = self._key(joined["transaction_id"])
        return joined.select("sequence", "merchant_no", "kind", transaction_key=key)

    def _has_all(self, stored: Expr, counter: Counter) -> bool:
        """Whether the history has what the counter counts by; else it is unknown everywhere."""
        held = set(stored.columns)
        if "transaction_key" in held and can_count(counter):
            return {key_of(fact) for fact in counter.per} <= held
        return {*counter.per, *([counter.distinct] if counter.distinct is not None else [])} <= held

    def _has_answers(self, counter: Counter) -> bool:
        """Whether the history says what was answered, where the counter asks."""
        return counter.among not in OF_ANSWERS or "recorded_outcome" in self.history.table.columns


def name_counters(number: int, sides: Sequence[Sequence[Counter]]) -> dict[Counter, str]:
    """A column for each counter that some side of a shape reads; one of equal meaning is computed once.

    The keys are counters without their names.
    """
    found: dict[Counter, str] = {}
    for counters in sides:
        for counter in counters:
            found.setdefault(replace(counter, name=""), f"counter_{number}_{len(found)}_{counter.name}")
    return found


@ibis.udf.scalar.builtin(name="hash")  # type: ignore[untyped-decorator]
def _hash(text: str) -> ibis.dtype("uint64"):  # type: ignore[valid-type]
    """DuckDB's hash of a text; of NULL it is a number too."""
