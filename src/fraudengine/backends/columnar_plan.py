"""The queries of a replay: from a history to the decisions of both sides, for merchants whose rules have one form.

A rule set with velocity counters takes two steps. The first makes facts and the matches of every rule that reads no
counter, and is stored: narrow, because windows carry what they sort. The second adds counters, the remaining rules,
and the decisions. Without counters there is only one query.

`champion` and `candidate` name the sides in columns. A champion that is the recorded answers has no rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import or_
from typing import Any as AnyType
from typing import Final

import ibis
import pyarrow as pa

from ..facts import FactName, FactType
from ..rules.ast import InList, ListName, Literal, MoneyFigures, Rule, facts_read
from ..rules.counters import Among, Counter, CounterScope, Measure
from ..velocity import PlannedCounter
from .columnar import CURRENCY_SUFFIX, Columns, Dialect, Expr, table_named
from .columnar_codes import CODED, Codes
from .columnar_counts import NEEDED, Calls, add_counts, can_count, key_of
from .columnar_decision import (
    DecisionRules,
    add_decisions,
    decision_names,
    match_words,
    name_conditions,
    read_named,
)
from .columnar_enrich import FactsWanted, LookupTables, add_facts, zone_offsets
from .columnar_lists import (
    INLINE_VALUES,
    JoinedList,
    ListKeys,
    Spans,
    inline_membership,
    join_membership,
    tabulate,
)
from .columnar_velocity import add_counters, network_key

CHAMPION: Final = "champion"
CANDIDATE: Final = "candidate"
OF_ANSWERS: Final = frozenset({Among.ACCEPTED, Among.CHALLENGED, Among.REFUSED})
KEPT: Final = ("seq", "merchant", "transaction_id", "at_us", "currency", "minor", "label", "recorded_outcome")


@dataclass(frozen=True, slots=True)
class SidePlan:
    """One side of the merchants of a shape. `operands` and `lists` are by merchant.

    A side may be another one with holes: the lists of `without` hold none of the fact beside them. It has a name
    of its own, and shares the columns of the side that it is `made_from`.
    """

    name: str
    rules: DecisionRules
    timezone: str
    metadata: Mapping[str, FactType]
    counters: tuple[Counter, ...]
    reads: frozenset[FactName]
    operands: Mapping[str, Sequence[Literal | MoneyFigures]]
    lists: Mapping[str, Mapping[ListName, ListKeys]]
    guards: Mapping[str, Spans] = field(default_factory=dict)
    made_from: str = ""
    without: frozenset[tuple[ListName, FactName]] = frozenset()

    @property
    def columns_of(self) -> str:
        """The side whose figures and memberships it reads."""
        return self.made_from or self.name


@dataclass(frozen=True, slots=True)
class Slice:
    """Decisions for some merchants of a shape: queries to store in order, then the query of decisions."""

    stored: dict[str, Expr]
    decided: Expr


@dataclass(frozen=True, slots=True)
class ShapePlan:
    """What an engine runs for one shape: tables to make known, queries to store for all slices, and the slices."""

    number: int
    tables: dict[str, pa.Table]
    stored: dict[str, Expr]
    slices: list[Slice]
    counters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HistorySpan:
    """The instants between which the history lies, and those between which decisions are asked for."""

    first_us: int
    last_us: int
    since_us: int | None = None
    until_us: int | None = None


class Planner:
    """Makes the plans of one replay; `as_of_us` None judges each transaction by the lists of its own time.

    `currencies` are by merchant's number those of its transactions, each as its place in `codes`.
    """

    def __init__(
        self,
        history: Expr,
        lookups: LookupTables,
        span: HistorySpan,
        as_of_us: int | None,
        reports: Expr | None,
        dialect: Dialect,
        merchant_numbers: Mapping[str, int],
        codes: Codes,
        currencies: Mapping[int, frozenset[int]],
    ) -> None:
        self.history = history
        self.history_columns = frozenset(history.columns)
        self.dialect = dialect
        self.merchant_numbers = merchant_numbers
        self.codes = codes
        self.currencies = currencies
        self.lookups = lookups
        self.span = span
        self.as_of_us = as_of_us
        self.reports = reports

    def plan(
        self,
        number: int,
        members: Sequence[tuple[str, int]],
        sides: Sequence[SidePlan],
        slices: Sequence[Sequence[int]],
        held: Sequence[InList] | None = None,
    ) -> ShapePlan:
        """The queries for one shape; `members` are its merchants with their numbers.

        `slices` are those numbers in groups: counters sort one group after the other, so that less is in memory.
        For test k of `held` the decisions have a column `held_k`, the value that the last side's list holds or
        NULL, and with it `settling`.
        """
        return _Shape(self, number, members, sides, held).plan(slices)


class _Shape:
    def __init__(
        self,
        planner: Planner,
        number: int,
        members: Sequence[tuple[str, int]],
        sides: Sequence[SidePlan],
        held: Sequence[InList] | None,
    ) -> None:
        self.planner, self.number, self.members, self.sides, self.held = planner, number, members, sides, held
        self.tables: dict[str, pa.Table] = {}
        self.stored: dict[str, Expr] = {}
        self.counters = name_counters(number, [side.counters for side in sides])

    @property
    def _whole_sides(self) -> list[SidePlan]:
        """The sides that have columns of their own."""
        return [side for side in self.sides if not side.made_from]

    def counter_columns(self, side: SidePlan) -> dict[FactName, str]:
        return {counter.name: self.counters[replace(counter, name="")] for counter in side.counters}

    # ---- the steps --------------------------------------------------------------------------------

    def plan(self, slices: Sequence[Sequence[int]]) -> ShapePlan:
        facts = self._facts()
        if not self.counters:
            whole = Slice({}, self._decided(self._with_words(facts, lambda rule, side: True)))
            return ShapePlan(self.number, self.tables, {}, [whole], ())
        counter_facts = {side.name: frozenset(self.counter_columns(side)) for side in self.sides}
        early = self._with_words(facts, lambda rule, side: not _reads(rule) & counter_facts[side.name], "early_")
        carried = self._carried(counter_facts)
        named = [name for name in early.columns if name in carried or name.startswith("early_")]
        keys = self._keys(early, self._own) if self._is_fast(early) else {}
        staged = self._store(f"staged_{self.number}", early.select(*named, **keys))
        if self._of_all:
            everybody = self._count_among_all()
            joined = staged.left_join(everybody, staged["seq"] == everybody["counted_seq"])
            staged = self._store(f"staged_with_all_{self.number}", joined.drop("counted_seq"))
        whole_stored, made = dict(self.stored), []
        for numbers in slices:
            self.stored = dict(whole_stored)
            part = staged if len(slices) == 1 else staged.filter(staged["merchant_no"].isin(list(numbers)))
            counted = self._in_time(self._add_counters(part, self._own, numbers, f"counts_{self.number}"))
            late = self._with_words(counted, lambda rule, side: bool(_reads(rule) & counter_facts[side.name]))
            words = {
                name.removeprefix("early_"): late[name.removeprefix("early_")] + late[name]
                for name in late.columns
                if name.startswith("early_")
            }
            decided = self._decided(late.mutate(**words))
            stored = {name: query for name, query in self.stored.items() if name not in whole_stored}
            made.append(Slice(stored, decided))
        return ShapePlan(self.number, self.tables, whole_stored, made, tuple(self.counters.values()))

    @property
    def _own(self) -> list[Counter]:
        """Counters among each merchant's own screenings."""
        return [counter for counter in self.counters if counter.scope is CounterScope.MERCHANT]

    @property
    def _of_all(self) -> list[Counter]:
        """Counters among everybody's screenings."""
        return [counter for counter in self.counters if counter.scope is CounterScope.ALL]

    def _count_among_all(self) -> Expr:
        """`counted_seq` and the counters that look at all merchants, those without rules too."""
        numbers = self.planner.merchant_numbers
        table = pa.table({"member": list(numbers), "merchant_no": pa.array(numbers.values(), pa.int32())})
        self.tables[f"everybody_{self.number}"] = table
        everybody = table_named(f"everybody_{self.number}", table.schema)
        history = self.planner.history
        joined = history.inner_join(everybody, history["merchant"] == everybody["member"]).drop("member")
        names = {fact for counter in self._of_all for fact in (*counter.per, counter.distinct) if fact is not None}
        facts = self._with_network(
            add_facts(
                joined,
                FactsWanted(frozenset(names - {"ip_network"}) | {"ip_address"}, "UTC", {}),
                self.planner.lookups,
                [(0, 0)],
                [*KEPT, *NEEDED, "merchant_no"],
            )
        )
        facts = self.planner.codes.add(_with_answers(facts))
        needed = {*KEPT, *NEEDED, *CODED, "merchant_no", "three_ds", *names}
        keys = self._keys(facts, self._of_all) if self._is_fast(facts) else {}
        stored = self._store(
            f"staged_all_{self.number}",
            facts.select(*(name for name in facts.columns if name in needed), **keys),
        )
        counted = self._add_counters(stored, self._of_all, numbers.values(), f"counts_all_{self.number}")
        made = [self.counters[counter] for counter in self._of_all if self.counters[counter] in counted.columns]
        sums = [name + CURRENCY_SUFFIX for name in made if name + CURRENCY_SUFFIX in counted.columns]
        return self._store(
            f"counted_all_{self.number}", counted.select("seq", *made, *sums).rename(counted_seq="seq")
        )

    def _store(self, name: str, query: Expr | None) -> Expr:
        """Has the query stored; without one, the table that was stored under that name."""
        if query is not None:
            self.stored[name] = query
        return table_named(name, self.stored[name].schema().to_pyarrow())

    def _is_fast(self, table: Expr) -> bool:
        return set(NEEDED) <= set(table.columns) and any(can_count(counter) for counter in self.counters)

    def _keys(self, facts: Expr, counters: Sequence[Counter]) -> dict[str, Expr]:
        """What `columnar_counts` counts by; hashes where the engine has good ones, so that little is sorted."""
        per = sorted({fact for counter in counters if can_count(counter) for fact in counter.per})
        keys = {key_of(fact): self._key(facts[fact]) for fact in per if fact in facts.columns}
        return keys | {"transaction_key": self._key(facts["transaction_id"])}

    def _key(self, value: Expr) -> Expr:
        if self.planner.dialect is not Dialect.DUCKDB:
            return value
        if not value.type().is_string():
            return ibis.ifelse(value.isnull(), ibis.null("int64"), value.hash())
        # 63 bits of the hash: Ibis 12 makes a signed number of all 64 through a text of ones and zeros. It takes
        # what it shifts for signed, and would leave out the second cast without the first.
        number = (_hash(value) >> 1).cast("uint64").cast("int64")
        return ibis.ifelse(value.isnull(), ibis.null("int64"), number)

    def _keyed_reports(self, prefix: str) -> Expr | None:
        reports = self.planner.reports
        if reports is None:
            return None
        source = f"everybody_{self.number}" if prefix.startswith("counts_all") else f"members_{self.number}"
        members = table_named(source, self.tables[source].schema)
        joined = reports.inner_join(members, reports["merchant"] == members["member"])
        key = self._key(joined["transaction_id"])
        return joined.select("sequence", "merchant_no", "kind", transaction_key=key)

    def _carried(self, counter_facts: Mapping[str, frozenset[FactName]]) -> set[str]:
        """Columns that the second step still needs."""
        needed = {"seq", "at_us", "minor", "merchant_no", *NEEDED, *CODED}
        fast = set(NEEDED) <= self.planner.history_columns
        slow = [counter for counter in self._own if not (fast and can_count(counter))]
        needed |= {fact for counter in slow for fact in (*counter.per, counter.distinct or "")}
        if slow:
            needed |= {"merchant", "transaction_id", "currency", "recorded_outcome", "three_ds"}
        asked = {counter.among for counter in self._own}
        needed |= {"three_ds"} if Among.FAILED_3DS in asked else set()
        needed |= {"recorded_outcome"} if asked & OF_ANSWERS else set()
        needed |= {f"held_{number}" for number in range(len(self.held or ()))}
        for side in self.sides:
            for rule in side.rules.rules:
                read = _reads(rule)
                if read & counter_facts[side.name]:
                    needed |= {self._alias(side, fact) for fact in read}
                    needed |= {fact + CURRENCY_SUFFIX for fact in read if fact != "amount"}
                    needed |= {"ip_key"} if "ip_address" in read else set()
                    needed |= {name for name in self._joined if name.startswith(f"in_{side.columns_of}_")}
                    needed |= {name for name in self._parameter_names if name.startswith(f"{side.columns_of}_p")}
        return needed

    def _facts(self) -> Expr:
        """Facts of both sides, the merchants' own figures, and membership of the lists that are joined."""
        history = self._of_members()
        names = frozenset(
            fact for side in self.sides for fact in side.reads if fact not in self.counter_columns(side)
        )
        names |= {
            fact for counter in self.counters for fact in (*counter.per, counter.distinct) if fact is not None
        }
        if "ip_network" in names:
            names = (names - {"ip_network"}) | {"ip_address"}
        main = self.sides[-1]
        kept = [*KEPT, *(NEEDED if self.counters else ()), "merchant_no", *self._parameter_names]
        offsets = partial(zone_offsets, first_us=self.planner.span.first_us, last_us=self.planner.span.last_us)
        wanted = FactsWanted(names, main.timezone, main.metadata)
        lookups = self.planner.lookups
        facts = add_facts(history, wanted, lookups, offsets(main.timezone), kept, self._local(offsets))
        facts = self.planner.codes.add(self._with_network(_with_answers(facts)))
        if not self.counters:
            facts = self._in_time(facts)
        return self._with_held(self._join_lists(facts))

    def _with_held(self, facts: Expr) -> Expr:
        """With the values that lists hold, as far as they are asked for."""
        if not self.held:
            return facts
        columns, nothing = self._columns(facts, self.sides[-1]), ibis.null("string")
        values = {}
        for number, test in enumerate(self.held):
            name = "ip_key" if test.fact == "ip_address" else test.fact
            if _has(facts, test.fact):
                value = facts[name]
                values[f"held_{number}"] = ibis.ifelse(columns.in_list(test, value), value, nothing)
            else:
                values[f"held_{number}"] = nothing
        return facts.mutate(**values)

    def _with_network(self, facts: Expr) -> Expr:
        if any("ip_network" in counter.per for counter in self.counters) and "ip_key" in facts.columns:
            return facts.mutate(ip_network=network_key(facts))
        return facts

    def _local(self, offsets: Callable[[str], list[tuple[int, int]]]) -> dict[str, list[tuple[int, int]]]:
        """Suffix and offsets of the champion's local time where its rule set has another timezone."""
        champion, candidate = self.sides[0], self.sides[-1]
        if champion.timezone == candidate.timezone or not champion.reads & {"hour", "weekday"}:
            return {}
        return {f"__{champion.name}": offsets(champion.timezone)}

    def _alias(self, side: SidePlan, fact: FactName) -> str:
        main = self.sides[-1]
        if fact in ("hour", "weekday") and side.timezone != main.timezone:
            return f"{fact}__{side.name}"
        return fact

    def _in_time(self, table: Expr) -> Expr:
        span = self.planner.span
        if span.since_us is not None:
            table = table.filter(table["at_us"] >= span.since_us)
        if span.until_us is not None:
            table = table.filter(table["at_us"] < span.until_us)
        return table

    def _of_members(self) -> Expr:
        """The history of the shape's merchants, with their numbers and the figures that differ between them."""
        rows = {
            "member": pa.array([name for name, _ in self.members], pa.string()),
            "merchant_no": pa.array([number for _, number in self.members], pa.int32()),
        }
        self._parameter_names: list[str] = []
        for side in self._whole_sides:
            for place, (values, constant) in enumerate(_operand_columns(side, [name for name, _ in self.members])):
                if constant:
                    continue
                for suffix, column in values.items():
                    name = f"{side.name}_p{place}{suffix}"
                    rows[name] = column
                    self._parameter_names.append(name)
        table = self.tables[f"members_{self.number}"] = pa.table(rows)
        members = table_named(f"members_{self.number}", table.schema)
        history = self.planner.history
        return history.inner_join(members, history["merchant"] == members["member"]).drop("member")

    def _join_lists(self, facts: Expr) -> Expr:
        """Membership of lists that are too many or too large to stand in the query."""
        self._joined: dict[str, tuple[str, InList]] = {}
        as_of = None if self.planner.as_of_us is None else ibis.literal(self.planner.as_of_us, "int64")
        for side in self._whole_sides:
            for test in _list_tests(side):
                name = _membership_name(side, test)
                if name in self._joined or self._is_inline(side, test.list_name) or not _has(facts, test.fact):
                    continue
                listed = self._tabulate(side, test.list_name)
                source = f"list_{self.number}_{side.name}_{test.list_name}"
                self.tables[source] = listed.table
                entries = table_named(source, listed.table.schema)
                value = "ip_key" if test.fact == "ip_address" else test.fact
                facts = join_membership(facts, entries, listed, value, as_of, name)
                self._joined[name] = (source, test)
        return facts

    def _tabulate(self, side: SidePlan, name: ListName) -> JoinedList:
        held = {merchant: lists[name] for merchant, lists in side.lists.items()}
        return tabulate(next(iter(held.values())).kind, held)

    def _is_inline(self, side: SidePlan, name: ListName) -> bool:
        held = [lists[name] for lists in side.lists.values()]
        if not any(keys.spans for keys in held):
            return True
        same = all(keys.spans == held[0].spans for keys in held[1:])
        return same and len(held[0].spans) <= INLINE_VALUES

    def _with_words(self, table: Expr, is_wanted: Callable[[Rule, SidePlan], bool], prefix: str = "") -> Expr:
        """The table with the match words of both sides, which hold the bits of the wanted rules."""
        named: dict[AnyType, tuple[str, Expr]] = {}
        by_side: dict[str, dict[int, tuple[str, str | None]]] = {}
        for side in self.sides:
            wanted = [place for place, rule in enumerate(side.rules.rules) if is_wanted(rule, side)]
            by_side[side.name] = name_conditions(side.rules, self._columns(table, side), wanted, named)
        conditions = dict(named.values())
        table = table.mutate(**conditions) if conditions else table
        words: dict[str, Expr] = {}
        for side in self.sides:
            guards = {rule: self._awake(table, spans) for rule, spans in side.guards.items()}
            words |= match_words(side.rules, read_named(side.rules, table, by_side[side.name]), side.name, guards)
        table = table.mutate(**{prefix + name: word for name, word in words.items()})
        return table.drop(*conditions) if conditions else table

    def _awake(self, table: Expr, spans: Spans) -> Expr:
        at = table["at_us"] if self.planner.as_of_us is None else ibis.literal(self.planner.as_of_us, "int64")
        return reduce(or_, (((at >= start) & (at < end)) for start, end in spans), ibis.literal(False))

    def _columns(self, table: Expr, side: SidePlan) -> Columns:
        at = table["at_us"] if self.planner.as_of_us is None else ibis.literal(self.planner.as_of_us, "int64")

        def in_list(test: InList, value: Expr) -> Expr:
            if (test.list_name, test.fact) in side.without:
                return ibis.literal(False)
            name = _membership_name(side, test)
            if name in self._joined:
                return table[name]
            keys = next(iter(side.lists.values()))[test.list_name]
            return inline_membership(keys, table["ip_key"] if test.fact == "ip_address" else value, at)

        parameters: dict[str, Callable[[Expr | None], Expr]] = {}
        for place, (values, constant) in enumerate(_operand_columns(side, [name for name, _ in self.members])):
            name = f"{side.columns_of}_p{place}"
            parameters[f"p{place}"] = partial(_operand, table, name, values, constant, self.planner.codes)
        aliases = {fact: self._alias(side, fact) for fact in side.reads} | self.counter_columns(side)
        return Columns(table, in_list, parameters, aliases)

    def _add_counters(
        self, stored: Expr, counters: Sequence[Counter], merchants: Iterable[int], prefix: str
    ) -> Expr:
        planned = [
            PlannedCounter(replace(counter, name=self.counters[counter]), None, None)  # type: ignore[arg-type]
            for counter in counters
            if self._has_all(stored, counter) and self._has_answers(counter)
        ]
        sequenced = stored.mutate(sequence=stored["seq"] * 2)
        if "recorded_outcome" in stored.columns:
            sequenced = sequenced.rename(outcome="recorded_outcome")
        if "transaction_key" in stored.columns:
            fast = {one.counter: one.counter.name for one in planned if can_count(one.counter)}
            planned = [one for one in planned if one.counter not in fast]
            held = frozenset().union(*(self.planner.currencies[number] for number in merchants))
            reports, currencies = self._keyed_reports(prefix), tuple(sorted(held))
            calls = Calls(sequenced, reports, self._store, prefix, "currency_no", currencies)
            sequenced = add_counts(calls, fast) if fast else sequenced
        counted = add_counters(sequenced, planned, self.planner.reports)
        currency = self.planner.codes.currency_of(counted["currency_no"])
        sums = [name for counter, name in self.counters.items() if counter.measure is Measure.SUM]
        named = {name + CURRENCY_SUFFIX: currency for name in sums if name in counted.columns}
        return counted.mutate(**{"currency": currency, "amount" + CURRENCY_SUFFIX: currency, **named})

    def _has_all(self, stored: Expr, counter: Counter) -> bool:
        """Whether the history has what the counter counts by; else it is unknown everywhere."""
        held = set(stored.columns)
        if "transaction_key" in held and can_count(counter):
            return {key_of(fact) for fact in counter.per} <= held
        return {*counter.per, *([counter.distinct] if counter.distinct is not None else [])} <= held

    def _has_answers(self, counter: Counter) -> bool:
        """Whether the history says what was answered, where the counter asks."""
        return counter.among not in OF_ANSWERS or "recorded_outcome" in self.planner.history.columns

    # ---- decisions --------------------------------------------------------------------------------

    def _decided(self, matched: Expr) -> Expr:
        names = []
        for side in self.sides:
            matched = add_decisions(side.rules, matched, side.name)
            names += [side.name, f"{side.name}_d"] if side.without else decision_names(side.rules, side.name)
        columns = {
            "seq": matched["seq"],
            "shape": ibis.literal(self.number, "int32"),
            "merchant_no": matched["merchant_no"],
            "at_us": matched["at_us"],
            "day": ((matched["at_us"] - matched["at_us"] % 86_400_000_000) / 86_400_000_000).cast("int32"),
            "currency_no": matched["currency_no"],
            "minor": matched["minor"],
            "label_no": matched["label_no"],
        }
        if len(self.sides) == 1 and self.held is None:
            columns |= {
                CHAMPION: matched["recorded_no"],
                f"{CHAMPION}_d": ibis.literal(-1, "int16"),
                f"{CHAMPION}_how": ibis.literal(0, "int8"),
            }
        if self.held is not None:
            names += ["settling", *(f"held_{number}" for number in range(len(self.held)))]
        names += [name for name in self.counters.values() if name in matched.columns]
        columns |= {name: matched[name] for name in names}
        return matched.select(**columns)


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


def _with_answers(facts: Expr) -> Expr:
    """With the columns `label` and `recorded_outcome`, NULL where the history has none."""
    absent = {name: ibis.null("string") for name in ("label", "recorded_outcome") if name not in facts.columns}
    return facts.mutate(**absent) if absent else facts


def _reads(rule: Rule) -> frozenset[FactName]:
    return facts_read(rule.when) | (facts_read(rule.unless) if rule.unless is not None else frozenset())


def _has(table: Expr, fact: FactName) -> bool:
    return ("ip_key" if fact == "ip_address" else fact) in table.columns


def _list_tests(side: SidePlan) -> list[InList]:
    from ..rules.ast import walk

    found: dict[tuple[ListName, FactName], InList] = {}
    for rule in side.rules.rules:
        for condition in (rule.when, rule.unless):
            if condition is not None:
                for part in walk(condition):
                    if isinstance(part, InList):
                        found.setdefault((part.list_name, part.fact), part)
    return list(found.values())


def _membership_name(side: SidePlan, test: InList) -> str:
    return f"in_{side.columns_of}_{test.list_name}_{test.fact.replace('.', '_')}"


# ---- operands -------------------------------------------------------------------------------------


def _operand_columns(side: SidePlan, merchants: Sequence[str]) -> list[tuple[dict[str, pa.Array], bool]]:
    """For each operand its column, or one for each currency, and whether all merchants have the same value."""
    first = side.operands[merchants[0]]
    found = []
    for place, operand in enumerate(first):
        values = [side.operands[merchant][place] for merchant in merchants]
        constant = all(value == operand for value in values)
        if isinstance(operand, MoneyFigures):
            figures = [dict(value.figures) for value in values if isinstance(value, MoneyFigures)]
            codes = sorted({code for figure in figures for code in figure})
            columns = {f"_{code}": pa.array([held.get(code) for held in figures], pa.int64()) for code in codes}
        else:
            columns = {"": pa.array([value.value for value in values if isinstance(value, Literal)])}
        found.append((columns, constant))
    return found


def _operand(
    table: Expr, name: str, values: Mapping[str, pa.Array], constant: bool, codes: Codes, currency: Expr | None
) -> Expr:
    """The operand in each row. Money is in the row's currency, whose number compares faster than its text."""

    def of(suffix: str, column: pa.Array) -> Expr:
        return ibis.literal(column[0].as_py()) if constant else table[f"{name}{suffix}"]

    if currency is None:
        return of("", values[""])
    branches = [
        (table["currency_no"] == codes.currencies.index(suffix[1:]), of(suffix, column))
        for suffix, column in values.items()
        if suffix[1:] in codes.currencies and (not constant or column[0].as_py() is not None)
    ]
    return ibis.cases(*branches, else_=ibis.null("int64")) if branches else ibis.null("int64")
