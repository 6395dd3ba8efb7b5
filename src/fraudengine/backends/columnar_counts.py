"""Counts and sums over histories that say which rows are second steps and which arrived late.

The same contract as `columnar_velocity`, which works these two things out with windows of its own over the whole
history. Here the history brings them (`step`, `late`, see `replay.history`), so that one window for each counter
runs over everything, and what must be taken back comes from the few rows concerned:

- a later step of a transaction counts only where no earlier one has counted under its key;
- an event that arrived late, or that a report called a technical failure, is taken back from those who would see
  it although it was not known, or no longer; a row that is not late is known to everybody after it;
- a transaction's own earlier step is taken back from its later ones.

Counters of one key and one kind of event share what is taken back: one small table for each such group, joined
once. Small tables are stored between the queries (`Stored`): they are read several times.
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
_SUMMED_APART: Final = 2  # sums of three currencies in one sorted window cost more than a second sort
_OUTCOMES: Final = {Among.ACCEPTED: "accept", Among.CHALLENGED: "challenge", Among.REFUSED: "refuse"}
Store: TypeAlias = Callable[[str, Expr | None], Expr]
"""Has a query stored under a name, and gives the table that it then is; without a query, the one stored before."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The screenings that counters run over, as a table with `sequence`, `merchant_no`, `step`, `late`, `at_us`,
    `minor`, `transaction_key`, `key_<fact>` for each fact counted per, and a column named `currency`; `outcome` and
    `three_ds` where a counter is among events of those.

    Keys stand for texts and may be 64-bit hashes of them, as the index of the decision log has it. `reports` has
    sequence, merchant_no, transaction_key and kind. `prefix` begins the names of stored tables. `currencies` are
    all that the calls have; None where that is not known.
    """

    table: Expr
    reports: Expr | None
    store: Store
    prefix: str
    currency: str = "currency"
    currencies: tuple[int | str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """Counters of one key and one kind of event; they differ in measure and window."""

    number: int
    per: tuple[FactName, ...]
    among: Among
    scope: CounterScope
    counters: tuple[Counter, ...]

    @property
    def key(self) -> list[str]:
        merchant = ["merchant_no"] if self.scope is CounterScope.MERCHANT else []
        return [*merchant, *map(key_of, self.per)]

    @property
    def again(self) -> str:
        return f"again_{self.number}__"

    def back(self, place: int) -> str:
        return f"back_{self.number}_{place}__"


def can_count(counter: Counter) -> bool:
    """Whether this module makes the counter; distinct counts are `columnar_velocity`'s."""
    return counter.measure is not Measure.COUNT_DISTINCT


def add_counts(calls: Calls, counters: Mapping[Counter, str]) -> Expr:
    """The calls with a column for each counter, NULL where it is unknown; a sum has its currency beside it."""
    names = calls.table.columns
    reported = _with_reports(calls)
    multi = calls.store(f"{calls.prefix}_multi", _of_several_steps(calls, reported))
    groups = _group(counters)
    table = reported
    for group in groups:
        corrected = calls.store(
            f"{calls.prefix}_corrected_{group.number}", _corrections(calls, group, reported, multi)
        )
        table = table.left_join(corrected, table["sequence"] == corrected["corrected"]).drop("corrected")
    table = table.mutate(**{f"{name}__": added for name, added in _added(calls, groups, table, counters).items()})
    windows: dict[str, Expr] = {}
    for group in groups:
        for counter in group.counters:
            windows |= _windows(calls, group, table, counter, counters[counter])
    table = table.mutate(**windows)
    columns: dict[str, Expr] = {}
    for group in groups:
        has_key = _has_key(table, group.per)
        for place, counter in enumerate(group.counters):
            column = counters[counter]
            value = _raw(calls, table, counter, column).fill_null(0) - table[group.back(place)].fill_null(0)
            columns[column] = ibis.ifelse(has_key, value.cast("int64"), ibis.null("int64"))
            if counter.measure is Measure.SUM:
                columns[column + CURRENCY_SUFFIX] = table[calls.currency]
    return table.select(*names, **columns)


def _group(counters: Mapping[Counter, str]) -> list[_Group]:
    found: dict[tuple[tuple[FactName, ...], Among, CounterScope], list[Counter]] = {}
    for counter in counters:
        found.setdefault((counter.per, counter.among, counter.scope), []).append(counter)
    return [
        _Group(number, per, among, scope, tuple(held))
        for number, ((per, among, scope), held) in enumerate(found.items())
    ]


def _added(calls: Calls, groups: Sequence[_Group], table: Expr, names: Mapping[Counter, str]) -> dict[str, Expr]:
    """What each row adds to the counters, by the counter's name."""
    found = {}
    for group in groups:
        fits, _, _ = _fits(table, group.per, group.among)
        counts = fits & table[group.again].isnull()
        for counter in group.counters:
            found[names[counter]] = ibis.ifelse(counts, _value(table, counter), ibis.literal(0, "int64"))
    return found


def _windows(calls: Calls, group: _Group, table: Expr, counter: Counter, name: str) -> dict[str, Expr]:
    """What lies in the window of each row, as columns.

    A sum is of the row's own currency. Where there are few, each has a window of its own, NULL for none: windows of
    one key share what is costly, which is to sort by it, and a key with the currency in it would be sorted again.
    """
    by = [_spread(table, name) for name in group.key]
    added = table[f"{name}__"]
    if counter.measure is Measure.SUM and not _has_few_currencies(calls):
        by = [*by, table[calls.currency]]
    window = ibis.range_window(preceding=(counter.within_us, 1), group_by=by, order_by=table["at_us"])
    if not _is_summed_apart(calls, counter):
        return {f"raw_{name}": added.sum().over(window)}
    assert calls.currencies is not None
    nothing = ibis.literal(0, "int64")
    return {
        f"raw_{name}_{place}": ibis.ifelse(table[calls.currency] == currency, added, nothing).sum().over(window)
        for place, currency in enumerate(calls.currencies)
    }


def _raw(calls: Calls, table: Expr, counter: Counter, name: str) -> Expr:
    """What `_windows` found for the row."""
    if not _is_summed_apart(calls, counter):
        return table[f"raw_{name}"]
    assert calls.currencies is not None
    own = [(table[calls.currency] == code, table[f"raw_{name}_{n}"]) for n, code in enumerate(calls.currencies)]
    return ibis.cases(*own, else_=ibis.null("int64"))


def _has_few_currencies(calls: Calls) -> bool:
    return calls.currencies is not None and len(calls.currencies) <= _SUMMED_APART


def _is_summed_apart(calls: Calls, counter: Counter) -> bool:
    """Whether a counter has a window for each currency."""
    if calls.currencies is None or counter.measure is not Measure.SUM:
        return False
    return 1 < len(calls.currencies) <= _SUMMED_APART


def _spread(table: Expr, name: str) -> Expr:
    """The key that a window runs by.

    Rows whose key is unknown count nothing and are not counted: each is by itself, else they were one large window.
    """
    if name == "merchant_no":
        return table[name]
    return ibis.coalesce(table[name], table["sequence"].cast(table[name].type()))


def key_of(fact: FactName) -> str:
    return f"key_{fact}"


def _with_reports(calls: Calls) -> Expr:
    """With the sequence from which each row is known as declined and as a technical failure, else NULL."""
    table = calls.table
    for kind, name in ((ReportKind.DECLINED, "declined__"), (ReportKind.TECHNICAL_FAILURE, "technical__")):
        if calls.reports is None:
            table = table.mutate(**{name: ibis.null("int64")})
        else:
            stored = calls.store(f"{calls.prefix}_{kind.value}", _heard(calls, calls.reports, kind, name))
            table = table.left_join(stored, table["sequence"] == stored["heard"]).drop("heard")
    return table


def _heard(calls: Calls, reports: Expr, kind: ReportKind, name: str) -> Expr:
    said = reports.filter(reports["kind"] == kind.value)
    heard = calls.table.inner_join(
        said,
        [
            calls.table["merchant_no"] == said["merchant_no"],
            calls.table["transaction_key"] == said["transaction_key"],
            said["sequence"] > calls.table["sequence"],
        ],
    ).select(heard=calls.table["sequence"], said_at=said["sequence"])
    return heard.group_by("heard").agg(**{name: heard["said_at"].min()})


def _of_several_steps(calls: Calls, table: Expr) -> Expr:
    """The rows of transactions of several steps, with the columns that corrections read."""
    later = calls.table.filter(calls.table["step"] > 0).select("merchant_no", "transaction_key").distinct()
    wanted = ("sequence", "merchant_no", "transaction_key", "at_us", "minor", calls.currency)
    more = [name for name in table.columns if name.startswith("key_") or name in ("outcome", "three_ds")]
    rows = table.select(*wanted, *more, "declined__", "technical__")
    return rows.semi_join(later, ["merchant_no", "transaction_key"])


def _fits(table: Expr, per: Sequence[FactName], among: Among) -> tuple[Expr, Expr, Expr]:
    """The row fits the counter; from which sequence on that is known; until which (NULL: for ever)."""
    has_key = _has_key(table, per)
    match among:
        case Among.TECHNICAL_FAILURES:
            return has_key & table["technical__"].notnull(), table["technical__"], ibis.null("int64")
        case Among.DECLINED:
            return has_key & table["declined__"].notnull(), table["declined__"], table["technical__"]
        case Among.FAILED_3DS:
            fits = has_key & table["three_ds"].isin(sorted(FAILED_3DS))
        case Among.ALL:
            fits = has_key
        case _:
            fits = has_key & (table["outcome"] == _OUTCOMES[among]).fill_null(False)
    return fits, table["sequence"], table["technical__"]


def _has_key(table: Expr, per: Sequence[FactName]) -> Expr:
    return reduce(and_, (table[key_of(fact)].notnull() for fact in per))


def _value(table: Expr, counter: Counter) -> Expr:
    return table["minor"] if counter.measure is Measure.SUM else ibis.literal(1, "int64")


def _corrections(calls: Calls, group: _Group, reported: Expr, multi: Expr) -> Expr:
    """For the few rows concerned (`corrected`): whether the row counts again what has counted (`again`, else NULL),
    and for each counter of the group what its window holds and must not.
    """
    marked = calls.store(f"{calls.prefix}_marked_{group.number}", _mark(multi, group))
    again = marked.filter(marked["again__"])
    nothing = ibis.literal(0, "int64")
    repeated = again.select(
        "sequence",
        again=ibis.literal(1, "int64"),
        age=nothing,
        minor=nothing,
        one=nothing,
        same=ibis.literal(False),
    )
    pairs = _own_pairs(calls, group, marked).union(_early_pairs(calls, group, reported, again))
    taken = pairs.select("sequence", "age", "minor", "same", again=ibis.null("int64"), one=ibis.literal(1, "int64"))
    both = repeated.union(taken.select(*repeated.columns))
    sums = {}
    for place, counter in enumerate(group.counters):
        held = both["age"] <= counter.within_us
        if counter.measure is Measure.SUM:
            held = held & both["same"]
        value = both["minor"] if counter.measure is Measure.SUM else both["one"]
        sums[group.back(place)] = ibis.ifelse(held, value, nothing).sum().cast("int64")
    return both.group_by(corrected=both["sequence"]).agg(**{group.again: both["again"].max()}, **sums)


def _mark(multi: Expr, group: _Group) -> Expr:
    """Steps with `event__`, the first of its transaction that fits under the key, and `again__`, those after it.

    What one report ends, another may follow.
    """
    fits, start, end = _fits(multi, group.per, group.among)
    fitting = multi.mutate(fits__=fits, start__=start, end__=end)
    same = [fitting["merchant_no"], fitting["transaction_key"], *(fitting[key_of(fact)] for fact in group.per)]
    same.append(fitting["fits__"])
    if group.among is not Among.TECHNICAL_FAILURES:
        same.append(fitting["technical__"])
    placed = fitting.mutate(place__=ibis.row_number().over(group_by=same, order_by=fitting["sequence"]))
    first = placed["place__"] == 0
    return placed.mutate(event__=placed["fits__"] & first, again__=placed["fits__"] & ~first)


def _own_pairs(calls: Calls, group: _Group, marked: Expr) -> Expr:
    """Each step with its transaction's own event in its window."""
    own = _events(calls, group, marked.filter(marked["event__"]))
    same = [
        marked["merchant_no"] == own["e_merchant_no"],
        marked["transaction_key"] == own["e_transaction_key"],
    ]
    return _pairs(calls, marked.inner_join(own, [*_in_window(marked, own, group), *same]))


def _early_pairs(calls: Calls, group: _Group, table: Expr, again: Expr) -> Expr:
    """Each row with others' events in its window that were not known when it came, or no longer."""
    doubtful = table["late"] | table["technical__"].notnull()
    if group.among in (Among.DECLINED, Among.TECHNICAL_FAILURES):
        doubtful = doubtful | table["declined__"].notnull()  # known only from the report on
    rows = table.filter(doubtful)
    fits, start, end = _fits(rows, group.per, group.among)
    rows = rows.mutate(fits__=fits, start__=start, end__=end)
    rows = rows.filter(rows["fits__"])
    late = _events(calls, group, rows.anti_join(again, rows["sequence"] == again["sequence"]))
    seen = table.inner_join(late, _in_window(table, late, group))
    other = (seen["merchant_no"] != seen["e_merchant_no"]) | (seen["transaction_key"] != seen["e_transaction_key"])
    known = (seen["e_start"] < seen["sequence"]) & (seen["e_end"].isnull() | (seen["e_end"] > seen["sequence"]))
    return _pairs(calls, seen.filter(other & ~known))


def _events(calls: Calls, group: _Group, rows: Expr) -> Expr:
    return rows.select(
        e_at=rows["at_us"],
        e_start=rows["start__"],
        e_end=rows["end__"],
        e_minor=rows["minor"],
        e_currency=rows[calls.currency],
        e_merchant_no=rows["merchant_no"],
        e_transaction_key=rows["transaction_key"],
        **{f"k_{name}": rows[name] for name in group.key},
    )


def _in_window(rows: Expr, events: Expr, group: _Group) -> list[Expr]:
    return [
        *(rows[name] == events[f"k_{name}"] for name in group.key),
        rows["at_us"] > events["e_at"],
        rows["at_us"] <= events["e_at"] + max(counter.within_us for counter in group.counters),
    ]


def _pairs(calls: Calls, joined: Expr) -> Expr:
    return joined.select(
        "sequence",
        age=joined["at_us"] - joined["e_at"],
        minor=joined["e_minor"],
        same=joined[calls.currency] == joined["e_currency"],
    )
