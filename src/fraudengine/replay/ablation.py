"""Ablation: what would have been answered without one rule, or without one list entry.

Without a rule: only the rule that decides a payment changes anything by going, so the payments of one combination
of matches are decided once more without it, by the law.

Without an entry: the entry holds nothing any more, and the rules stay as they are (a list that is really emptied
puts its rules to sleep; that is what the line of the rule tells). Only a payment whose value no other entry of the
list holds can change, and for it the list might as well be empty. So there is one more side for each list and fact
that is sought in it, with that list empty for that fact, and its decisions are laid beside the entries that held.

The past stays as it was: counters of what was refused read the answers of the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ..backends.columnar import WORD_BITS
from ..backends.columnar_codes import Codes
from ..backends.columnar_lists import ALWAYS, dated, lists_read, network_prefixes
from ..backends.columnar_plan import CANDIDATE, Planner, ShapePlan
from ..backends.columnar_sides import SidePlan
from ..facts import FactName, ListKind
from ..rules.ast import InList, ListName, Mode
from .engines import Engine
from .list_history import ListHistory
from .result import ReplayTable
from .shapes import Shape, Side
from .tally import FIGURES, Payments, Redecider, Tally, as_date

AT_ONCE: Final = 8
"""So many sides with an empty list are decided in one pass: each takes its columns in memory."""
_FETCHED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Hole:
    """A list that holds nothing of some of the facts that are sought in it."""

    list_name: ListName
    tests: tuple[InList, ...]

    @property
    def cells(self) -> frozenset[tuple[ListName, FactName]]:
        return frozenset((self.list_name, test.fact) for test in self.tests)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a list as one merchant has it. `source`: rule file and line, or `run-time` with its number."""

    merchant: str
    list_name: str
    kind: str
    value: str
    source: str


@dataclass(slots=True)
class _OfRule:
    rule: Any
    tally: Tally
    covering: frozenset[str] | None = None  # None: it never matched


@dataclass(frozen=True, slots=True)
class Ablation:
    """What an ablation works with: the replay's engine, plans, merchants' numbers and lists."""

    engine: Engine
    planner: Planner
    shapes: Sequence[Shape]
    slices: Callable[[Shape], list[list[int]]]
    side_plan: Callable[[Shape], SidePlan]
    merchants: Mapping[str, int]
    codes: Codes
    list_history: ListHistory
    as_of_us: int | None

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        return self.engine.connection

    def tables(self) -> list[ReplayTable]:
        """`ablation_rules` and `ablation_entries`, each for all merchants and for each."""
        of_rules: dict[tuple[str, str], _OfRule] = {}
        of_entries: list[tuple[Entry, Tally]] = []
        passes = [(shape, part) for shape in self.shapes for part in _parts(list_holes(shape))]
        for number, (shape, holes) in enumerate(passes):
            self._decide(shape, holes, (number / len(passes), (number + 1) / len(passes)))
            if holes == _parts(list_holes(shape))[0]:
                self._add_rules(shape, of_rules)
            for name in dict.fromkeys(hole.list_name for hole in holes):
                of_entries += self._entries(shape, name, holes)
            self.connection.execute("DROP TABLE ablated")
        return [*rule_tables(of_rules), *entry_tables(of_entries)]

    # ---- decisions ----------------------------------------------------------------------------------

    def _decide(self, shape: Shape, holes: Sequence[Hole], fraction: tuple[float, float]) -> None:
        """Makes the table `ablated`: the decisions of a shape with everything, and with each hole."""
        base = self.side_plan(shape)
        sides = [
            replace(base, name=f"without_{number}", made_from=base.name, without=hole.cells)
            for number, hole in enumerate(holes)
        ]
        members = [(merchant, self.merchants[merchant]) for merchant in shape.members]
        tests = _tests_of(holes)
        plan = self.planner.plan(shape.number, members, [*sides, base], self.slices(shape), tests)
        self.connection.execute(f"CREATE TABLE ablated ({', '.join(_columns(shape, holes, plan))})")
        self.engine.add_tables(plan.tables)
        for name, query in plan.stored.items():
            self.engine.store(name, query)
        first, last = fraction
        for number, part in enumerate(plan.slices):
            for name, query in part.stored.items():
                self.engine.store(name, query)
            begun, ended = ((last - first) * step / len(plan.slices) + first for step in (number, number + 1))
            self.engine.decide(part.decided, (begun, ended), "ablated")
            for name in part.stored:
                self.engine.drop(name)
        for name in plan.stored:
            self.engine.drop(name)

    # ---- rules --------------------------------------------------------------------------------------

    def _add_rules(self, shape: Shape, found: dict[tuple[str, str], _OfRule]) -> None:
        decided_by = shape.candidate.decided_by
        names = {self.merchants[merchant]: merchant for merchant in shape.members}
        for merchant in shape.members:
            for rule in decided_by.rules:
                if rule.mode is Mode.LIVE:
                    found[merchant, rule.id] = _OfRule(rule, Tally())
        redecider = Redecider(next(iter(shape.members.values()))[1].rule_set, decided_by.rules)
        words = [f"{CANDIDATE}_{letter}{word}" for letter in "mu" for word in range(decided_by.words)]
        rows = self._rows(
            f"SELECT merchant_no, currency_no, label_no, settling, count(*), sum(minor)::BIGINT, max(day)"
            f"{''.join(', ' + word for word in words)} FROM ablated GROUP BY ALL"
        )
        for merchant_no, currency_no, label_no, settling, count, minor, day, *bits in rows:
            matched, unknown = (_joined(part) for part in (bits[: decided_by.words], bits[decided_by.words :]))
            without = redecider.without(matched, unknown, settling)
            payments = self._payments(count, minor, currency_no, label_no, without.outcome, day)
            for rule in without.matched:
                one = found[names[merchant_no], rule.id]
                gone = rule is without.deciding
                left = without.next_deciding if gone else without.deciding
                answer = without.next_outcome if gone else without.outcome
                one.tally.add(payments, answer, None if left is None else left.id)
                covering = without.covering[rule.id]
                one.covering = covering if one.covering is None else one.covering & covering

    def _payments(
        self, count: int, minor: int, currency_no: int, label_no: int, answered: int, last_day: int
    ) -> Payments:
        codes = self.codes
        return Payments(count, minor, codes.currencies[currency_no], codes.labels[label_no], answered, last_day)

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        found = self.connection.execute(sql)
        while rows := found.fetchmany(_FETCHED):
            yield from rows

    # ---- entries ------------------------------------------------------------------------------------

    def _entries(self, shape: Shape, name: ListName, holes: Sequence[Hole]) -> list[tuple[Entry, Tally]]:
        entries, keys = self._keys(shape, name)
        tests = _tests_of(holes)
        facts = [number for number, test in enumerate(tests) if test.list_name == name]
        of_list = [number for number, hole in enumerate(holes) if hole.list_name == name]
        tallies = [Tally() for _ in entries]
        self.connection.register("ablation_keys", keys)
        try:
            self._make_atoms(keys, facts, of_list)
            bits = {test.fact: 1 << place for place, test in enumerate(tests[number] for number in facts)}
            masks = {number: sum(bits[test.fact] for test in holes[number].tests) for number in of_list}
            rows = self._rows(_held_sql(facts, masks, _lengths(keys), self.as_of_us))
            variants = shape.candidate.decided_by.variants
            for entry, candidate, without, without_d, currency_no, label_no, count, minor, day in rows:
                payments = self._payments(count, minor, currency_no, label_no, candidate, day)
                decided_by = variants[without_d].rule.id if without_d >= 0 else None
                tallies[entry].add(payments, without, decided_by)
            self.connection.execute("DROP TABLE ablation_atoms")
        finally:
            self.connection.unregister("ablation_keys")
        return list(zip(entries, tallies, strict=True))

    def _keys(self, shape: Shape, name: ListName) -> tuple[list[Entry], pa.Table]:
        """The entries of one list of all merchants of the shape, and the keys that values are found by."""
        entries: list[Entry] = []
        rows: list[tuple[int, str, int, int, int]] = []
        for merchant, (_, side) in shape.members.items():
            for entry, texts in self._dated(side, merchant, name):
                for value, start, end in texts:
                    keys = network_prefixes(value) if entry.kind == ListKind.IP.value else [value]
                    rows += [(self.merchants[merchant], key, len(entries), start, end) for key in keys]
                entries.append(entry)
        by_prefix = shape.candidate_kind(name) in (ListKind.BIN, ListKind.IP)
        table = {
            "merchant_no": pa.array([row[0] for row in rows], pa.int32()),
            "key": pa.array([row[1] for row in rows], pa.string()),
            "length": pa.array([len(row[1]) if by_prefix else 0 for row in rows], pa.int64()),
            "entry": pa.array([row[2] for row in rows], pa.int64()),
            "a": pa.array([row[3] for row in rows], pa.int64()),
            "u": pa.array([row[4] for row in rows], pa.int64()),
        }
        return entries, pa.table(table)

    def _dated(
        self, side: Side, merchant: str, name: ListName
    ) -> Iterator[tuple[Entry, list[tuple[str, int, int]]]]:
        """Each entry with the texts that it holds and when."""
        declared = side.rule_set.lists[name]
        kind = declared.kind.value
        for entry in declared.entries:
            held = dated(entry)
            texts = [(held.value, held.added_us, held.until_us)]
            yield Entry(merchant, name, kind, entry.value, entry.source), texts
        by_number: dict[int, tuple[Entry, list[tuple[str, int, int]]]] = {}
        for kept in self.list_history.of(merchant, name, kind):
            scope = f" of {kept.scope}" if kept.scope != merchant else ""
            entry_of = Entry(merchant, name, kind, kept.value, f"run-time {kept.id}{scope}")
            _, found = by_number.setdefault(kept.id, (entry_of, []))
            found.append((kept.value, kept.added_us, kept.until_us))
        yield from by_number.values()

    def _make_atoms(self, keys: pa.Table, facts: Sequence[int], holes: Sequence[int]) -> None:
        """Payments that the list held something of, those together that no entry can tell apart."""
        told = self.as_of_us is None and any(
            pc.any(pc.not_equal(keys[name], bound)).as_py() for name, bound in zip("au", ALWAYS, strict=True)
        )
        held = [f"held_{number}" for number in facts]
        without = [f"without_{number}{rest}" for number in holes for rest in ("", "_d")]
        alike = ["merchant_no", "candidate", "candidate_d", "currency_no", "label_no", *held, *without]
        alike.append("at_us" if told else "0::BIGINT AS at_us")
        self.connection.execute(
            f"CREATE TEMP TABLE ablation_atoms AS SELECT row_number() OVER () AS atom, * FROM (SELECT"
            f" {', '.join(alike)}, count(*) AS transactions, sum(minor)::BIGINT AS minor, max(day) AS last_day"
            f" FROM ablated WHERE {' OR '.join(f'{name} IS NOT NULL' for name in held)} GROUP BY ALL)"
        )


def list_holes(shape: Shape) -> list[Hole]:
    """Every list of the shape's candidate that holds something, without each fact, and without several of them."""
    form = shape.candidate
    filled = {name for name, _, holds in form.lists if holds}
    by_fact = {(test.list_name, test.fact): test for test in form.list_tests}
    found = []
    for name, facts in sorted(lists_read(form.list_tests).items()):
        if name in filled:
            tests = [by_fact[name, fact] for fact in sorted(facts)]
            found += [Hole(name, part) for size in range(len(tests)) for part in combinations(tests, size + 1)]
    return found


def _parts(holes: Sequence[Hole]) -> list[list[Hole]]:
    """The holes in groups of about AT_ONCE, those of one list together; one empty group where there are none."""
    parts: list[list[Hole]] = [[]]
    for name in dict.fromkeys(hole.list_name for hole in holes):
        same = [hole for hole in holes if hole.list_name == name]
        if parts[-1] and len(parts[-1]) + len(same) > AT_ONCE:
            parts.append([])
        parts[-1] += same
    return parts


def _tests_of(holes: Sequence[Hole]) -> list[InList]:
    return list({(test.list_name, test.fact): test for hole in holes for test in hole.tests}.values())


def _columns(shape: Shape, holes: Sequence[Hole], plan: ShapePlan) -> list[str]:
    words = [
        f"{CANDIDATE}_{letter}{word} BIGINT" for letter in "mu" for word in range(shape.candidate.decided_by.words)
    ]
    return [
        *("seq BIGINT", "shape INTEGER", "merchant_no INTEGER", "at_us BIGINT", "day INTEGER"),
        *("currency_no SMALLINT", "minor BIGINT", "label_no SMALLINT", "settling TINYINT"),
        *(f"{CANDIDATE} TINYINT", f"{CANDIDATE}_d SMALLINT", f"{CANDIDATE}_how TINYINT", *words),
        *(f"without_{number}{rest}" for number in range(len(holes)) for rest in (" TINYINT", "_d SMALLINT")),
        *(f"held_{number} VARCHAR" for number in range(len(_tests_of(holes)))),
        *(f'"{name}" BIGINT' for name in plan.counters),
    ]


def _joined(words: Sequence[int]) -> int:
    return sum(word << WORD_BITS * place for place, word in enumerate(words))


def _lengths(keys: pa.Table) -> list[int]:
    """The lengths of prefixes that values are found by; 0: as a whole."""
    return sorted(set(keys["length"].to_pylist()))


def _held_sql(facts: Sequence[int], masks: Mapping[int, int], lengths: Sequence[int], as_of_us: int | None) -> str:
    """What each entry held, and what was answered with it and without it.

    `masks` has for each side with a hole the bits of its facts. An entry that alone holds the value of some facts
    leaves a hole for just these; one that is never alone leaves none.
    """
    at = "atoms.at_us" if as_of_us is None else str(as_of_us)
    pairs = [
        f"SELECT atoms.atom, {1 << bit} AS fact, keys.entry FROM ablation_atoms atoms JOIN ablation_keys keys"
        f" ON keys.merchant_no = atoms.merchant_no AND keys.length = {length} AND keys.key = "
        + (f"left(atoms.held_{number}, {length})" if length else f"atoms.held_{number}")
        + f" AND keys.a <= {at} AND {at} < keys.u"
        for bit, number in enumerate(facts)
        for length in lengths
    ] or ["SELECT 0 AS atom, 0 AS fact, 0 AS entry WHERE false"]
    branches = [
        " ".join(f"WHEN {mask} THEN without_{number}{rest}" for number, mask in masks.items())
        for rest in ("", "_d")
    ]
    return (
        f"WITH pairs AS (SELECT DISTINCT * FROM ({' UNION ALL '.join(pairs)})),"
        " holders AS (SELECT atom, fact, count(*) AS holders FROM pairs GROUP BY ALL),"
        " alone AS (SELECT atom, entry, sum(CASE WHEN holders = 1 THEN fact ELSE 0 END)::INTEGER AS facts"
        " FROM pairs JOIN holders USING (atom, fact) GROUP BY ALL),"
        " gone AS (SELECT entry, candidate, currency_no, label_no, transactions, minor, last_day,"
        f" CASE facts {branches[0]} ELSE candidate END AS without,"
        f" CASE facts {branches[1]} ELSE candidate_d END AS without_d"
        " FROM alone JOIN ablation_atoms USING (atom))"
        " SELECT entry, candidate, without, without_d, currency_no, label_no, sum(transactions)::BIGINT,"
        " sum(minor)::BIGINT, max(last_day) FROM gone GROUP BY ALL"
    )


# ---- tables ---------------------------------------------------------------------------------------

_COVERED: Final = pa.field("covered_by", pa.list_(pa.string()))


def rule_tables(found: Mapping[tuple[str, str], _OfRule]) -> list[ReplayTable]:
    """Of the live rules, those first on which most hangs."""
    whole: dict[str, _OfRule] = {}
    merchants: dict[str, int] = {}
    rows = []
    for (merchant, name), one in found.items():
        rows.append({"merchant": merchant} | _rule_row(one))
        all_of_it = whole.setdefault(name, _OfRule(one.rule, Tally()))
        all_of_it.tally.merge(one.tally)
        merchants[name] = merchants.get(name, 0) + 1
        if one.covering is not None:
            held = all_of_it.covering
            all_of_it.covering = one.covering if held is None else held & one.covering
    over_all = [_rule_row(one) | {"merchants": merchants[name]} for name, one in whole.items()]
    names = [("rule", pa.string()), ("outcome", pa.string()), ("reason", pa.string())]
    touched = [("matches", pa.int64()), ("last_match", pa.date32())]
    text = "what would have been answered without each rule"
    return [
        _table("ablation_rules", text, over_all, [*names, ("merchants", pa.int64()), *touched], covered=True),
        _table(
            "ablation_rules_by_merchant", text, rows, [("merchant", pa.string()), *names, *touched], covered=True
        ),
    ]


def _rule_row(one: _OfRule) -> dict[str, Any]:
    return {
        "rule": one.rule.id,
        "outcome": one.rule.then.value,
        "reason": one.rule.reason,
        "matches": one.tally.touched,
        "last_match": as_date(one.tally.last_touched),
        "covered_by": sorted(one.covering or ()),
        **one.tally.figures(),
    }


def entry_tables(found: Sequence[tuple[Entry, Tally]]) -> list[ReplayTable]:
    """Of every list entry that rules read, those first on which most hangs."""
    whole: dict[tuple[str, str, str], tuple[Entry, Tally]] = {}
    merchants: dict[tuple[str, str, str], int] = {}
    for entry, tally in found:
        key = (entry.list_name, entry.value, entry.source)
        whole.setdefault(key, (entry, Tally()))[1].merge(tally)
        merchants[key] = merchants.get(key, 0) + 1
    rows = [_entry_row(entry, tally) | {"merchant": entry.merchant} for entry, tally in found]
    over_all = [_entry_row(*held) | {"merchants": merchants[key]} for key, held in whole.items()]
    names = [("list", pa.string()), ("value", pa.string()), ("source", pa.string())]
    touched = [("held", pa.int64()), ("last_held", pa.date32())]
    text = "what would have been answered without each list entry"
    return [
        _table("ablation_entries", text, over_all, [*names, ("merchants", pa.int64()), *touched]),
        _table("ablation_entries_by_merchant", text, rows, [("merchant", pa.string()), *names, *touched]),
    ]


def _entry_row(entry: Entry, tally: Tally) -> dict[str, Any]:
    return {
        "list": entry.list_name,
        "value": entry.value,
        "source": entry.source,
        "held": tally.touched,
        "last_held": as_date(tally.last_touched),
        **tally.figures(),
    }


def _table(
    name: str, text: str, rows: list[dict[str, Any]], first: list[tuple[str, pa.DataType]], covered: bool = False
) -> ReplayTable:
    schema = pa.schema([*first, *FIGURES, *([_COVERED] if covered else [])])
    keys = [column for column, _ in first if column in ("merchant", "rule", "list", "value", "source")]
    rows.sort(key=lambda row: (-row["needed"], *(row[column] for column in keys)))
    return ReplayTable(name, pa.Table.from_pylist(rows, schema=schema), text)
