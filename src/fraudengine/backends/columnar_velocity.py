"""Velocity counters as columns: the contract of `fraudengine.velocity` as window expressions of Ibis.

One expression runs on DuckDB and on Spark. A history is a table with a row for each call:

    sequence int64 (order of arrival, unique), merchant, transaction_id, request (equal for a retried call; may be
    NULL), at_us int64, currency, minor int64, outcome, three_ds, and a column of text for each fact counted per

How each counter is made. What lies in `[at - w, at)` is a range window over `at_us` within the key. It sees rows
by their `at` alone, so two things are taken back by joins: rows that had not arrived yet (or had been reported
as technical failures by then), and earlier steps of the transaction itself. The first join takes only the few
events that somebody could see too early; in a history that is in order without reports it is empty. A distinct
count is a running sum: a value is there from each of its occurrences until the window leaves it behind or the
next one takes its place. Where a join would take something back it is counted afresh.

Integers only: microseconds, minor units. Equal `at`s do not see each other, whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import and_
from typing import Final

import ibis

from ..facts import FactName
from ..rules.counters import IP_NETWORK, Among, Counter, CounterScope, Measure
from ..velocity import FAILED_3DS, PlannedCounter, ReportKind
from .columnar import CURRENCY_SUFFIX, Expr

_OUTCOMES: Final = {Among.ACCEPTED: "accept", Among.CHALLENGED: "challenge", Among.REFUSED: "refuse"}
_BASE: Final = ("sequence", "merchant", "transaction_id", "at_us", "currency", "minor", "outcome", "three_ds")


def add_counters(history: Expr, planned: Iterable[PlannedCounter], reports: Expr | None = None) -> Expr:
    """The history with a column for each counter, NULL where it is unknown; a sum has its currency beside it.

    `reports` has the columns sequence, merchant, transaction_id and kind (`velocity.ReportKind`). A retried call
    has the counters of the call that it repeats.
    """
    counters = list(planned)
    if not counters:
        return history
    request = history.request.fill_null(history.sequence.cast("string")) if "request" in history.columns else None
    numbered = history.mutate(
        first__=history.sequence
        if request is None
        else history.sequence.min().over(group_by=[history.merchant, history.transaction_id, request])
    )
    facts = sorted({fact for one in counters for fact in _facts_of(one.counter)})
    calls = numbered.filter(numbered.first__ == numbered.sequence)
    calls = calls.mutate(**{IP_NETWORK: network_key(calls)}) if IP_NETWORK in facts else calls
    calls = _with_reports(calls.select(*_BASE, *(fact for fact in facts if fact not in _BASE)), reports)
    added = numbered
    names = list(history.columns)
    for one in counters:
        counter = one.counter
        counted = _count(calls, counter)
        value = counted.value__ if one.at_most is None else ibis.least(counted.value__, one.at_most)
        columns = {counter.name: value}
        if counter.measure is Measure.SUM:
            columns[counter.name + CURRENCY_SUFFIX] = counted.currency__
        column = counted.select(first__=counted.sequence, **columns)
        added = added.left_join(column, "first__").drop("first___right")
        names += columns
    return added.select(*names)


def _facts_of(counter: Counter) -> tuple[FactName, ...]:
    return (*counter.per, *([counter.distinct] if counter.distinct is not None else []))


def network_key(calls: Expr) -> Expr:
    """The /24 or /64 of an address: the leading digits of `ip_key`, which is the version, then hexadecimal."""
    if IP_NETWORK in calls.columns:
        return calls[IP_NETWORK]
    key = calls.ip_key
    return ibis.cases((key.startswith("4"), key.substr(0, 7)), else_=key.substr(0, 17))


def _with_reports(calls: Expr, reports: Expr | None) -> Expr:
    """The calls with the sequence from which they are known as declined and as technical failures, else NULL."""
    nothing = ibis.null("int64")
    if reports is None:
        return calls.mutate(declined__=nothing, technical__=nothing)
    for kind, name in ((ReportKind.DECLINED, "declined__"), (ReportKind.TECHNICAL_FAILURE, "technical__")):
        said = reports.filter(reports.kind == kind.value)
        said = said.select(said_at__=said.sequence, merchant=said.merchant, transaction_id=said.transaction_id)
        heard = calls.inner_join(
            said,
            [
                calls.merchant == said.merchant,
                calls.transaction_id == said.transaction_id,
                said.said_at__ > calls.sequence,
            ],
        )
        first = heard.group_by(heard.sequence).agg(**{name: heard.said_at__.min()})
        calls = calls.left_join(first, "sequence").drop("sequence_right")
    return calls


# ---- one counter ----------------------------------------------------------------------------------


def _count(calls: Expr, counter: Counter) -> Expr:
    """Columns `sequence` and `value__` of every call whose `per` facts are known."""
    key = [*counter.per, *(["merchant"] if counter.scope is CounterScope.MERCHANT else [])]
    if counter.measure is Measure.SUM:
        key.append("currency")
    known = calls.filter(reduce(and_, (calls[fact].notnull() for fact in counter.per)))
    known = known.mutate(key__=_join([known[name] for name in dict.fromkeys(key)]))
    events = _mark_events(known, counter)
    return _count_distinct(events, counter) if counter.distinct is not None else _add_up(events, counter)


def _join(parts: Sequence[Expr]) -> Expr:
    """One text for several, which no other parts come to: each with its length before it."""
    texts = [part.length().cast("string") + ibis.literal(":") + part for part in parts]
    return reduce(lambda one, other: one + other, texts)


def _mark_events(known: Expr, counter: Counter) -> Expr:
    """With `event__` (the row counts for others), `start__` (from when it is known) and `end__` (until when)."""
    among = counter.among
    if among is Among.TECHNICAL_FAILURES:
        fits, start, end = known.technical__.notnull(), known.technical__, ibis.null("int64")
    elif among is Among.DECLINED:
        fits, start, end = known.declined__.notnull(), known.declined__, known.technical__
    else:
        fits = ibis.literal(True)
        if among is Among.FAILED_3DS:
            fits = known.three_ds.isin(sorted(FAILED_3DS)).fill_null(False)
        elif among is not Among.ALL:
            fits = known.outcome == _OUTCOMES[among]
        start, end = known.sequence, known.technical__
    if counter.distinct is not None:
        fits = fits & known[counter.distinct].notnull()
    marked = known.mutate(fits__=fits, start__=start, end__=end)
    if counter.distinct is None:
        # The first of the transaction's steps that fits, in whatever currency: `key__` may hold the currency,
        # and a later step in another one does not count beside it. What one report ends, another may follow.
        group = [*(marked[fact] for fact in counter.per), marked.merchant, marked.transaction_id, marked.fits__]
        if among is not Among.TECHNICAL_FAILURES:
            group.append(marked.technical__)
        first = ibis.row_number().over(group_by=group, order_by=marked.sequence) == 0
        marked = marked.mutate(event__=marked.fits__ & first)
    else:
        marked = marked.mutate(event__=marked.fits__)
    # Somebody of a later `at` that arrived before this event was known would see it too early.
    earliest = marked.sequence.min().over(
        ibis.range_window(following=(1, None), group_by=marked.key__, order_by=marked.at_us)
    )
    too_early = (earliest <= marked.start__).fill_null(False)
    return marked.mutate(doubtful__=marked.event__ & (too_early | marked.end__.notnull()))


def _seen(calls: Expr, events: Expr, counter: Counter) -> list[Expr]:
    """The event lies in the window of the call."""
    return [
        calls.key__ == events.e_key,
        calls.at_us > events.e_at,
        calls.at_us <= events.e_at + counter.within_us,
    ]


def _same_transaction(calls: Expr, events: Expr) -> Expr:
    return (calls.merchant == events.e_merchant) & (calls.transaction_id == events.e_transaction)


def _known_then(calls: Expr, events: Expr) -> Expr:
    return (events.e_start < calls.sequence) & (events.e_end.isnull() | (events.e_end > calls.sequence))


def _as_events(rows: Expr, value: Expr) -> Expr:
    return rows.select(
        e_key=rows.key__,
        e_at=rows.at_us,
        e_start=rows.start__,
        e_end=rows.end__,
        e_merchant=rows.merchant,
        e_transaction=rows.transaction_id,
        e_value=value,
    )


def _taken_back(marked: Expr, value_name: str, counter: Counter) -> Expr:
    """Pairs of a call (`sequence`) and an event (`e_value`) in its window that it must not count."""
    doubtful = marked.filter(marked.doubtful__)
    unknown = _as_events(doubtful, doubtful[value_name])
    early = marked.inner_join(unknown, _seen(marked, unknown, counter))
    early = early.filter(~_known_then(early, early) & ~_same_transaction(early, early))
    steps = marked.group_by([marked.key__, marked.merchant, marked.transaction_id]).having(marked.count() > 1)
    steps = steps.agg(steps__=marked.count())
    repeated = marked.semi_join(steps, ["key__", "merchant", "transaction_id"])
    events = repeated.filter(repeated.event__)
    own = _as_events(events, events[value_name])
    mine = repeated.inner_join(own, [*_seen(repeated, own, counter), _same_transaction(repeated, own)])
    return early.select("sequence", "e_value").union(mine.select("sequence", "e_value"))


def _add_up(marked: Expr, counter: Counter) -> Expr:
    amount = marked.minor if counter.measure is Measure.SUM else ibis.literal(1, "int64")
    marked = marked.mutate(add__=ibis.ifelse(marked.event__, amount, 0).cast("int64"))
    window = ibis.range_window(preceding=(counter.within_us, 1), group_by=marked.key__, order_by=marked.at_us)
    raw = marked.mutate(raw__=marked.add__.sum().over(window).fill_null(0))
    pairs = _taken_back(marked, "add__", counter)
    back = pairs.group_by(pairs.sequence).agg(back__=pairs.e_value.sum())
    joined = raw.left_join(back, "sequence")
    value = (joined.raw__ - joined.back__.fill_null(0)).cast("int64")
    return joined.select("sequence", value__=value, currency__=joined.currency)


def _count_distinct(marked: Expr, counter: Counter) -> Expr:
    assert counter.distinct is not None
    marked = marked.mutate(told__=marked[counter.distinct])
    running = _running_count(marked, counter)
    pairs = _taken_back(marked, "told__", counter)
    afresh = pairs.select("sequence").distinct().mutate(afresh__=ibis.literal(True))
    calls = marked.semi_join(afresh, "sequence")
    events_ = marked.filter(marked.event__)
    events = _as_events(events_, events_.told__)
    seen = calls.inner_join(events, _seen(calls, events, counter))
    seen = seen.filter(_known_then(seen, seen) & ~_same_transaction(seen, seen))
    exact = seen.group_by(seen.sequence).agg(exact__=seen.e_value.nunique())
    joined = running.left_join(afresh, "sequence").drop("sequence_right")
    joined = joined.left_join(exact, "sequence").drop("sequence_right")
    value = ibis.ifelse(joined.afresh__.notnull(), joined.exact__.fill_null(0), joined.raw__)
    return joined.select("sequence", value__=value.cast("int64"))


def _running_count(marked: Expr, counter: Counter) -> Expr:
    """How many values are in the window of each call, by `at` alone: a running sum of comings and goings."""
    events = marked.filter(marked.event__)
    again = events.at_us.lead().over(
        group_by=[events.key__, events.told__], order_by=[events.at_us, events.sequence]
    )
    leaves = events.at_us + counter.within_us
    events = events.mutate(gone__=ibis.ifelse(again.notnull() & (again < leaves), again, leaves))
    nobody = ibis.null("int64")
    comings = events.select(key__=events.key__, when__=events.at_us, change__=_int(1), sequence=nobody)
    goings = events.select(key__=events.key__, when__=events.gone__, change__=_int(-1), sequence=nobody)
    asking = marked.select(key__=marked.key__, when__=marked.at_us, change__=_int(0), sequence=marked.sequence)
    line = comings.union(goings).union(asking)
    before = ibis.range_window(preceding=(None, 1), group_by=line.key__, order_by=line.when__)
    counted = line.mutate(raw__=line.change__.sum().over(before).fill_null(0))
    counted = counted.filter(counted.sequence.notnull())
    return counted.select("sequence", "raw__")


def _int(value: int) -> Expr:
    return ibis.literal(value, "int64")
