"""Counts and sums over histories that say which rows are second steps and which arrived late.

The same contract as `columnar_velocity`, which works these two things out with windows of its own over the whole
history. Here the history brings them (`step`, `late`, see `replay.history`), so that one window for each counter
runs over everything, and what must be taken back comes from the few rows concerned:

- a later step of a transaction counts only where no earlier one has counted under its key;
- an event that arrived late, or that a report called a technical failure, is taken back from those who would see
  it although it was not known, or no longer; a row that is not late is known to everybody after it;
- a transaction's own earlier step is taken back from its later ones.

Small tables are stored between the queries (`Stored`): they are read several times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Final, TypeAlias

import ibis

from ..facts import FactName
from ..rules.counters import Among, Counter, CounterScope, Measure
from ..velocity import FAILED_3DS, ReportKind
from .columnar import CURRENCY_SUFFIX, Expr

NEEDED: Final = ("step", "late")
_OUTCOMES: Final = {Among.ACCEPTED: "accept", Among.CHALLENGED: "challenge", Among.REFUSED: "refuse"}
Store: TypeAlias = Callable[[str, Expr | None], Expr]
"""Has a query stored under a name, and gives the table that it then is; without a query, the one stored before."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The screenings that counters run over, as a table with `sequence`, `merchant_no`, `step`, `late`, `at_us`,
    `currency`, `minor`, `outcome`, `three_ds`, `transaction_key` and `key_<fact>` for each fact counted per.

    Keys stand for texts and may be 64-bit hashes of them, as the index of the decision log has it. `reports` has
    sequence, merchant_no, transaction_key and kind. `prefix` begins the names of stored tables.
    """

    table: Expr
    reports: Expr | None
    store: Store
    prefix: str


def can_count(counter: Counter) -> bool:
    """Whether this module makes the counter; distinct counts are `columnar_velocity`'s."""
    return counter.measure is not Measure.COUNT_DISTINCT


def add_counts(calls: Calls, counters: Mapping[Counter, str]) -> Expr:
    """The calls with a column for each counter, NULL where it is unknown; a sum has its currency beside it."""
    table = _with_reports(calls)
    multi = calls.store(f"{calls.prefix}_multi", _of_several_steps(table))
    repeats: dict[tuple[tuple[FactName, ...], Among], str] = {}
    for counter in counters:
        seen = (counter.per, counter.among)
        if seen not in repeats:
            name = f"again_{len(repeats)}"
            repeated = calls.store(f"{calls.prefix}_{name}", _repeats(multi, counter).select("sequence"))
            flagged = repeated.select(again_sequence=repeated["sequence"], **{name: ibis.literal(True)})
            table = table.left_join(flagged, table["sequence"] == flagged["again_sequence"]).drop("again_sequence")
            repeats[seen] = name
    found = table
    dropped = [*repeats.values()]
    for number, (counter, column) in enumerate(counters.items()):
        again = repeats[counter.per, counter.among]
        back = calls.store(
            f"{calls.prefix}_back_{number}", _taken_back(calls, counter, multi, f"{calls.prefix}_{again}")
        )
        found = _count(found, counter, column, again, back)
    kept = [name for name in found.columns if name not in dropped and not name.endswith("__")]
    return found.select(*kept)


def key_of(fact: FactName) -> str:
    return f"key_{fact}"


def _with_reports(calls: Calls) -> Expr:
    """With the sequence from which each row is known as declined and as a technical failure, else NULL."""
    table, reports = calls.table, calls.reports
    for kind, name in ((ReportKind.DECLINED, "declined__"), (ReportKind.TECHNICAL_FAILURE, "technical__")):
        if reports is None:
            table = table.mutate(**{name: ibis.null("int64")})
            continue
        said = reports.filter(reports["kind"] == kind.value)
        heard = calls.table.inner_join(
            said,
            [
                calls.table["merchant_no"] == said["merchant_no"],
                calls.table["transaction_key"] == said["transaction_key"],
                said["sequence"] > calls.table["sequence"],
            ],
        ).select(heard=calls.table["sequence"], said_at=said["sequence"])
        first = heard.group_by("heard").agg(**{name: heard["said_at"].min()})
        stored = calls.store(f"{calls.prefix}_{kind.value}", first)
        table = table.left_join(stored, table["sequence"] == stored["heard"]).drop("heard")
    return table


def _of_several_steps(table: Expr) -> Expr:
    later = table.filter(table["step"] > 0).select("merchant_no", "transaction_key").distinct()
    return table.semi_join(later, ["merchant_no", "transaction_key"])


def _fits(table: Expr, counter: Counter) -> tuple[Expr, Expr, Expr]:
    """The row fits the counter; from which sequence on that is known; until which (NULL: for ever)."""
    has_key = reduce(and_, (table[key_of(fact)].notnull() for fact in counter.per))
    match counter.among:
        case Among.TECHNICAL_FAILURES:
            return has_key & table["technical__"].notnull(), table["technical__"], ibis.null("int64")
        case Among.DECLINED:
            return has_key & table["declined__"].notnull(), table["declined__"], table["technical__"]
        case Among.FAILED_3DS:
            fits = has_key & table["three_ds"].isin(sorted(FAILED_3DS))
        case Among.ALL:
            fits = has_key
        case _:
            fits = has_key & (table["outcome"] == _OUTCOMES[counter.among]).fill_null(False)
    return fits, table["sequence"], table["technical__"]


def _repeats(multi: Expr, counter: Counter) -> Expr:
    """Steps whose transaction has counted under the same key before. What one report ends, another may follow."""
    fits, _, _ = _fits(multi, counter)
    fitting = multi.filter(fits)
    group = [fitting["merchant_no"], fitting["transaction_key"], *(fitting[key_of(fact)] for fact in counter.per)]
    if counter.among is not Among.TECHNICAL_FAILURES:
        group.append(fitting["technical__"])
    numbered = fitting.mutate(place__=ibis.row_number().over(group_by=group, order_by=fitting["sequence"]))
    return numbered.filter(numbered["place__"] > 0)


def _key(counter: Counter) -> list[str]:
    merchant = ["merchant_no"] if counter.scope is CounterScope.MERCHANT else []
    return [*merchant, *map(key_of, counter.per), *(["currency"] if counter.measure is Measure.SUM else [])]


def _value(table: Expr, counter: Counter) -> Expr:
    return table["minor"] if counter.measure is Measure.SUM else ibis.literal(1, "int64")


def _taken_back(calls: Calls, counter: Counter, multi: Expr, again: str) -> Expr:
    """For each call what its window holds and must not: `back_sequence`, `back`."""
    table = _with_reports_stored(calls)
    repeated = calls.store(again, None)
    late = _events(
        table.filter(table["late"] | table["technical__"].notnull() | _reported(table, counter)), counter
    )
    late = late.anti_join(repeated, late["e_sequence"] == repeated["sequence"])
    seen = table.inner_join(late, _in_window(table, late, counter))
    other = (table["merchant_no"] != late["e_merchant_no"]) | (
        table["transaction_key"] != late["e_transaction_key"]
    )
    known = (late["e_start"] < table["sequence"]) & (late["e_end"].isnull() | (late["e_end"] > table["sequence"]))
    early = seen.filter(other & ~known).select("sequence", "e_value")
    own = _events(multi, counter)
    own = own.anti_join(repeated, own["e_sequence"] == repeated["sequence"])
    mine = multi.inner_join(
        own,
        [
            *_in_window(multi, own, counter),
            multi["merchant_no"] == own["e_merchant_no"],
            multi["transaction_key"] == own["e_transaction_key"],
        ],
    ).select("sequence", "e_value")
    both = early.union(mine)
    return both.group_by(back_sequence=both["sequence"]).agg(back=both["e_value"].sum().cast("int64"))


def _with_reports_stored(calls: Calls) -> Expr:
    """As `_with_reports`, from what it stored."""
    table = calls.table
    for kind, name in ((ReportKind.DECLINED, "declined__"), (ReportKind.TECHNICAL_FAILURE, "technical__")):
        if calls.reports is None:
            table = table.mutate(**{name: ibis.null("int64")})
        else:
            stored = calls.store(f"{calls.prefix}_{kind.value}", None)
            table = table.left_join(stored, table["sequence"] == stored["heard"]).drop("heard")
    return table


def _reported(table: Expr, counter: Counter) -> Expr:
    """Events of reports are known only from the report on, so each of them may be seen too early."""
    if counter.among in (Among.DECLINED, Among.TECHNICAL_FAILURES):
        return table["declined__"].notnull()
    return ibis.literal(False)


def _events(rows: Expr, counter: Counter) -> Expr:
    fits, start, end = _fits(rows, counter)
    marked = rows.mutate(fits__=fits, start__=start, end__=end, value__=_value(rows, counter))
    marked = marked.filter(marked["fits__"])
    renamed = {f"k_{name}": marked[name] for name in _key(counter)}
    return marked.select(
        e_sequence=marked["sequence"],
        e_at=marked["at_us"],
        e_start=marked["start__"],
        e_end=marked["end__"],
        e_value=marked["value__"],
        e_merchant_no=marked["merchant_no"],
        e_transaction_key=marked["transaction_key"],
        **renamed,
    )


def _in_window(rows: Expr, events: Expr, counter: Counter) -> list[Expr]:
    return [
        *(rows[name] == events[f"k_{name}"] for name in _key(counter)),
        rows["at_us"] > events["e_at"],
        rows["at_us"] <= events["e_at"] + counter.within_us,
    ]


def _count(table: Expr, counter: Counter, column: str, again: str, back: Expr) -> Expr:
    fits, _, _ = _fits(table, counter)
    added = ibis.ifelse(fits & table[again].isnull(), _value(table, counter), ibis.literal(0, "int64"))
    raw = table.mutate(add__=added)
    key = _key(counter)
    window = ibis.range_window(preceding=(counter.within_us, 1), group_by=key, order_by="at_us")
    counted = raw.mutate(raw__=raw["add__"].sum().over(window).fill_null(0))
    joined = counted.left_join(back, counted["sequence"] == back["back_sequence"])
    has_key = reduce(and_, (joined[key_of(fact)].notnull() for fact in counter.per))
    value = (joined["raw__"] - joined["back"].fill_null(0)).cast("int64")
    columns = {column: ibis.ifelse(has_key, value, ibis.null("int64"))}
    if counter.measure is Measure.SUM:
        columns[column + CURRENCY_SUFFIX] = joined["currency"]
    return joined.mutate(**columns).drop("add__", "raw__", "back", "back_sequence")


def reading(counters: Sequence[Counter]) -> frozenset[FactName]:
    """The facts that the counters run over."""
    return frozenset(fact for counter in counters for fact in counter.per)
