"""The queries of a replay: from a history to the decisions of both sides, for merchants whose rules have one form.

A rule set with velocity counters takes two steps. The first makes facts and the matches of every rule that reads no
counter, and is stored: narrow, because windows carry what they sort. The second adds counters, the remaining rules,
and the decisions. Without counters there is only one query.

`champion` and `candidate` name the sides in columns. A champion that is the recorded answers has no rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from typing import Any as AnyType
from typing import Final

import ibis
import pyarrow as pa

from ..facts import FactName
from ..rules.ast import InList, Rule, facts_read
from .columnar import CURRENCY_SUFFIX, Columns, Expr, table_named
from .columnar_codes import CODED
from .columnar_counters import ShapeCounters
from .columnar_counts import NEEDED
from .columnar_decision import add_decisions, decision_names, match_words, name_conditions, read_named
from .columnar_enrich import FactsWanted, add_facts, zone_offsets
from .columnar_history import KEPT, ReplayedHistory, with_answers
from .columnar_lists import Spans, inline_membership, join_membership
from .columnar_sides import SidePlan, operand_of

CHAMPION: Final = "champion"
CANDIDATE: Final = "candidate"


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
class Planner:
    """Makes the plans of one replay; `as_of_us` None judges each transaction by the lists of its own time."""

    history: ReplayedHistory
    as_of_us: int | None

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
        self.history, self.as_of_us = planner.history, planner.as_of_us
        self.number, self.members, self.sides, self.held = number, members, sides, held
        self.tables: dict[str, pa.Table] = {}
        self.stored: dict[str, Expr] = {}
        counters = [side.counters for side in sides]
        self.counters = ShapeCounters(number, counters, self.history, self._store, self.tables)

    @property
    def _whole_sides(self) -> list[SidePlan]:
        """The sides that have columns of their own."""
        return [side for side in self.sides if not side.made_from]

    def _counter_columns(self, side: SidePlan) -> dict[FactName, str]:
        return self.counters.columns_of(side.counters)

    # ---- the steps --------------------------------------------------------------------------------

    def plan(self, slices: Sequence[Sequence[int]]) -> ShapePlan:
        facts = self._facts()
        if not self.counters.names:
            whole = Slice({}, self._decided(self._with_words(facts, lambda rule, side: True)))
            return ShapePlan(self.number, self.tables, {}, [whole], ())
        counter_facts = {side.name: frozenset(self._counter_columns(side)) for side in self.sides}
        early = self._with_words(facts, lambda rule, side: not _reads(rule) & counter_facts[side.name], "early_")
        carried = self._carried(counter_facts)
        named = [name for name in early.columns if name in carried or name.startswith("early_")]
        staged = self._store(f"staged_{self.number}", early.select(*named, **self.counters.own_keys(early)))
        staged = self.counters.add_those_of_all(staged)
        whole_stored, made = dict(self.stored), []
        for numbers in slices:
            self.stored = dict(whole_stored)
            part = staged if len(slices) == 1 else staged.filter(staged["merchant_no"].isin(list(numbers)))
            counted = self.history.span.cut(self.counters.add_own(part, numbers))
            late = self._with_words(counted, lambda rule, side: bool(_reads(rule) & counter_facts[side.name]))
            words = {
                name.removeprefix("early_"): late[name.removeprefix("early_")] + late[name]
                for name in late.columns
                if name.startswith("early_")
            }
            decided = self._decided(late.mutate(**words))
            stored = {name: query for name, query in self.stored.items() if name not in whole_stored}
            made.append(Slice(stored, decided))
        return ShapePlan(self.number, self.tables, whole_stored, made, tuple(self.counters.names.values()))

    def _store(self, name: str, query: Expr | None) -> Expr:
        """Has the query stored; without one, the table that was stored under that name."""
        if query is not None:
            self.stored[name] = query
        return table_named(name, self.stored[name].schema().to_pyarrow())

    def _carried(self, counter_facts: Mapping[str, frozenset[FactName]]) -> set[str]:
        """Columns that the second step still needs."""
        needed = {*self.counters.needed(), *CODED}
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
            fact for side in self.sides for fact in side.reads if fact not in self._counter_columns(side)
        )
        names |= self.counters.facts
        if "ip_network" in names:
            names = (names - {"ip_network"}) | {"ip_address"}
        main = self.sides[-1]
        kept = [*KEPT, *(NEEDED if self.counters.names else ()), "merchant_no", *self._parameter_names]
        offsets = partial(zone_offsets, first_us=self.history.span.first_us, last_us=self.history.span.last_us)
        wanted = FactsWanted(names, main.timezone, main.metadata)
        lookups = self.history.lookups
        facts = add_facts(history, wanted, lookups, offsets(main.timezone), kept, self._local(offsets))
        facts = self.history.codes.add(self.counters.with_network(with_answers(facts)))
        if not self.counters.names:
            facts = self.history.span.cut(facts)
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

    def _of_members(self) -> Expr:
        """The history of the shape's merchants, with their numbers and the figures that differ between them."""
        rows = {
            "member": pa.array([name for name, _ in self.members], pa.string()),
            "merchant_no": pa.array([number for _, number in self.members], pa.int32()),
        }
        self._parameter_names: list[str] = []
        for side in self._whole_sides:
            for place, (values, constant) in enumerate(side.operand_columns([name for name, _ in self.members])):
                if constant:
                    continue
                for suffix, column in values.items():
                    name = f"{side.name}_p{place}{suffix}"
                    rows[name] = column
                    self._parameter_names.append(name)
        table = self.tables[f"members_{self.number}"] = pa.table(rows)
        members = table_named(f"members_{self.number}", table.schema)
        history = self.history.table
        return history.inner_join(members, history["merchant"] == members["member"]).drop("member")

    def _join_lists(self, facts: Expr) -> Expr:
        """Membership of lists that are too many or too large to stand in the query."""
        self._joined: dict[str, tuple[str, InList]] = {}
        as_of = None if self.as_of_us is None else ibis.literal(self.as_of_us, "int64")
        for side in self._whole_sides:
            for test in side.list_tests():
                name = side.membership_name(test)
                if name in self._joined or side.is_inline(test.list_name) or not _has(facts, test.fact):
                    continue
                listed = side.tabulated(test.list_name)
                source = f"list_{self.number}_{side.name}_{test.list_name}"
                self.tables[source] = listed.table
                entries = table_named(source, listed.table.schema)
                value = "ip_key" if test.fact == "ip_address" else test.fact
                facts = join_membership(facts, entries, listed, value, as_of, name)
                self._joined[name] = (source, test)
        return facts

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
        at = table["at_us"] if self.as_of_us is None else ibis.literal(self.as_of_us, "int64")
        return reduce(or_, (((at >= start) & (at < end)) for start, end in spans), ibis.literal(False))

    def _columns(self, table: Expr, side: SidePlan) -> Columns:
        at = table["at_us"] if self.as_of_us is None else ibis.literal(self.as_of_us, "int64")

        def in_list(test: InList, value: Expr) -> Expr:
            if (test.list_name, test.fact) in side.without:
                return ibis.literal(False)
            name = side.membership_name(test)
            if name in self._joined:
                return table[name]
            keys = side.inline_keys(test.list_name)
            return inline_membership(keys, table["ip_key"] if test.fact == "ip_address" else value, at)

        parameters: dict[str, Callable[[Expr | None], Expr]] = {}
        for place, (values, constant) in enumerate(side.operand_columns([name for name, _ in self.members])):
            name = f"{side.columns_of}_p{place}"
            parameters[f"p{place}"] = partial(operand_of, table, name, values, constant, self.history.codes)
        aliases = {fact: self._alias(side, fact) for fact in side.reads} | self._counter_columns(side)
        return Columns(table, in_list, parameters, aliases)

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
        names += [name for name in self.counters.names.values() if name in matched.columns]
        columns |= {name: matched[name] for name in names}
        return matched.select(**columns)


def _reads(rule: Rule) -> frozenset[FactName]:
    return facts_read(rule.when) | (facts_read(rule.unless) if rule.unless is not None else frozenset())


def _has(table: Expr, fact: FactName) -> bool:
    return ("ip_key" if fact == "ip_address" else fact) in table.columns
