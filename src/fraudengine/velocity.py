"""Velocity: what a counter means (the law), and the keys under which its events are kept.

The contract, which the index of the decision log (`velocity_index`), rule tests and replay all follow:

1. A counter reads the screenings that were recorded before the transaction's own screening began, whose `at` lies
   in `[as_of - window, as_of)`, and whose `per` facts equal the transaction's. `as_of` is the transaction's `at`.
   Arrival decides what is known, `at` what lies in the window: a screening that arrives late counts from then on,
   one dated in the future counts once its time has come.
2. The transaction itself never counts: no screening of the same merchant and transaction id does.
3. A retried call is the same screening. Of a transaction's several screenings (before and after 3-D Secure) the
   *first that fits* counts, at its own `at` and amount: a transaction counts once per key, and under `among:
   refused` from the step that was refused. A distinct count looks at all of them.
4. `among` fits a screening by its own answer (`accepted`, `challenged`, `refused`), by its own 3-D Secure result
   (`failed_3ds`), or by an outcome that the gateway reported for the transaction afterwards (`declined`,
   `technical_failures`). A report speaks about the screenings recorded before it, and is known from then on.
5. Screenings that a report calls technical failures count nowhere but among `technical_failures`: an outage is no
   fraud. Such a report is final.
6. A counter is unknown when a `per` fact of the transaction is. A screening counts only where its own facts are
   known. A sum adds amounts of the transaction's currency only.

A count stops where no rule of the rule set can tell more from less: at one more than the largest figure it is
compared with (`count_at_most`). The fact's value is then that figure and means "at least so many"; decisions
are the same, every backend caps alike, and a key with thousands of events costs no more than one with a few. A
counter compared with another fact, and every sum, is exact.

How it grows. Kept per screening: one row of about 45 bytes for each `series` in use, that is for each combination
of scope, `per`, counted fact and window class (1 hour, 1 day, 10 days, 90 days), not for each counter; of an
`among` other than all and accepted only when the screening fits. A count is a range scan of one or two time
buckets of one B-tree, bounded by the cap; a sum or uncapped count is linear in the events of its key within the
window (about 0.1 us each, ten times that for events not yet merged). Writing appends to a tail (`velocity_tail`)
that each process also holds in memory, 20 to 50 MB at the most, and that is merged into the B-tree 130,000
screenings at a time (`velocity_merge`). Events that a release before the present layout wrote are read beside it,
for some microseconds more each time, and stay until the log is replaced (`velocity_before`).

Where it stops. One machine: the log is one SQLite file, written by one process at a time. Screenings that are in
flight when another begins are not counted by it, and payments with equal `at` do not see each other: a gateway
that rounds to the second hides what happens within one. Windows end at 90 days. A series once used keeps being
written until the log is replaced. A card's counts begin anew when its fingerprint changes with the card key.
Appending and merging the rows of four counters costs about a third of the processor of the record itself.
Keys are 64-bit hashes: two keys of one bucket collide with a chance of one in 10^12 at ten million keys, and would
then share a count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, assert_never

from .facts import FactName, Facts, FactValue
from .lists import read_address
from .money import Money
from .rules.ast import Compare, Condition, FactRef, IsUnknown, Literal, OneOf, Outcome, RuleSet, walk
from .rules.counters import IP_NETWORK, Among, Counter, CounterScope, Measure

__all__ = [
    "Past",
    "PlannedCounter",
    "Report",
    "ReportKind",
    "Series",
    "plan_counters",
    "value_of",
    "without_retries",
]

FAILED_3DS: Final = frozenset({"failed", "rejected"})


# ---- the law --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Past:
    """A screening as counters see it. `sequence` orders by arrival; `request` tells retried calls from steps."""

    sequence: int
    merchant: str
    transaction_id: str
    at_us: int
    amount: Money
    outcome: Outcome
    facts: Facts
    request: object = None


class ReportKind(StrEnum):
    """What the gateway says became of a payment, as far as counters ask. Other reports are theirs to ignore."""

    DECLINED = "declined"
    TECHNICAL_FAILURE = "technical_failure"


@dataclass(frozen=True, slots=True)
class Report:
    """An outcome that was reported; `sequence` is in one order with those of screenings."""

    sequence: int
    merchant: str
    transaction_id: str
    kind: ReportKind


def value_of(
    counter: Counter,
    subject: Past,
    history: Iterable[Past],
    reports: Sequence[Report] = (),
    at_most: int | None = None,
) -> int | Money | None:
    """The counter's value for the transaction `subject`, None when unknown. `history` may hold later rows."""
    key = key_values(counter.per, subject.facts)
    if key is None:
        return None
    known = [past for past in history if past.sequence < subject.sequence and not _same_transaction(past, subject)]
    heard = [report for report in reports if report.sequence < subject.sequence]
    same_key = [
        past
        for past in known
        if key_values(counter.per, past.facts) == key
        and (counter.scope is CounterScope.ALL or past.merchant == subject.merchant)
        and (counter.distinct is None or counter.distinct in past.facts)
    ]
    fitting = [past for past in same_key if _fits(counter.among, past, heard)]
    if counter.distinct is None:
        fitting = _first_of_each_transaction(fitting)
    start = subject.at_us - counter.within_us
    counted = [past for past in fitting if start <= past.at_us < subject.at_us]
    match counter.measure:
        case Measure.SUM:
            currency = subject.amount.currency
            return Money(sum(past.amount.minor for past in counted if past.amount.currency == currency), currency)
        case Measure.COUNT:
            found = len(counted)
        case Measure.COUNT_DISTINCT:
            assert counter.distinct is not None
            found = len({past.facts[counter.distinct] for past in counted})
        case _:
            assert_never(counter.measure)
    return found if at_most is None else min(found, at_most)


def without_retries(calls: Iterable[Past]) -> list[Past]:
    """What the log keeps of calls: of equal requests of one transaction the first."""
    kept: dict[object, Past] = {}
    for call in sorted(calls, key=lambda call: call.sequence):
        request = call.sequence if call.request is None else call.request
        kept.setdefault((call.merchant, call.transaction_id, request), call)
    return list(kept.values())


def _same_transaction(one: Past | Report, other: Past) -> bool:
    return one.merchant == other.merchant and one.transaction_id == other.transaction_id


def _fits(among: Among, past: Past, reports: Sequence[Report]) -> bool:
    about = [report for report in reports if _same_transaction(report, past) and report.sequence > past.sequence]
    technical = any(report.kind is ReportKind.TECHNICAL_FAILURE for report in about)
    if among is Among.TECHNICAL_FAILURES or technical:
        return among is Among.TECHNICAL_FAILURES and technical
    match among:
        case Among.ALL:
            return True
        case Among.ACCEPTED:
            return past.outcome is Outcome.ACCEPT
        case Among.CHALLENGED:
            return past.outcome is Outcome.CHALLENGE
        case Among.REFUSED:
            return past.outcome is Outcome.REFUSE
        case Among.FAILED_3DS:
            return past.facts.get("three_ds") in FAILED_3DS
        case Among.DECLINED:
            return any(report.kind is ReportKind.DECLINED for report in about)
        case _:
            assert_never(among)


def _first_of_each_transaction(past: Iterable[Past]) -> list[Past]:
    first: dict[tuple[str, str], Past] = {}
    for one in sorted(past, key=lambda one: one.sequence):
        first.setdefault((one.merchant, one.transaction_id), one)
    return list(first.values())


# ---- keys -----------------------------------------------------------------------------------------


def key_values(per: Sequence[FactName], facts: Facts) -> tuple[str, ...] | None:
    """The values that a counter counts per, or None when one is unknown."""
    values = []
    for name in per:
        value = network_of(facts.get("ip_address")) if name == IP_NETWORK else facts.get(name)
        if value is None:
            return None
        values.append(str(value))
    return tuple(values)


def network_of(address: FactValue | None) -> str | None:
    """The /24 of an IPv4 address, the /64 of an IPv6 one, as a short text."""
    if address is None:
        return None
    version, number = read_address(str(address))
    return f"4:{number >> 8:x}" if version == 4 else f"6:{number >> 64:x}"


_HOUR_US: Final = 3_600_000_000
BUCKETS_US: Final = (_HOUR_US, 24 * _HOUR_US, 240 * _HOUR_US, 2_160 * _HOUR_US)
"""Lengths of time buckets. A counter uses the smallest that its window fits in, so it spans two at most."""


@dataclass(frozen=True, slots=True)
class Series:
    """What is kept for a counter: everything that decides under which keys a screening's rows lie."""

    scope: CounterScope
    per: tuple[FactName, ...]
    distinct: FactName | None
    bucket_us: int
    only: Among | None = None  # rare screenings have series of their own, so that the many leave no row in them
    text: str = field(init=False, compare=False)  # its name in the log; `parse_series` reads it back

    def __post_init__(self) -> None:
        seconds = self.bucket_us // 1_000_000
        parts = (self.scope, ",".join(self.per), self.distinct or "", str(seconds), self.only or "")
        object.__setattr__(self, "text", "/".join(parts))


def parse_series(text: str) -> Series:
    scope, per, distinct, seconds, only = text.split("/")
    among = Among(only) if only else None
    return Series(CounterScope(scope), tuple(per.split(",")), distinct or None, int(seconds) * 1_000_000, among)


def series_of(counter: Counter) -> Series:
    bucket = next(length for length in BUCKETS_US if counter.within_us <= length)
    only = None if counter.among in (Among.ALL, Among.ACCEPTED) else counter.among
    return Series(counter.scope, counter.per, counter.distinct, bucket, only)


# ---- what a rule set asks -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedCounter:
    """A counter that rules in force read, and the figure at which its count may stop (None: exact)."""

    counter: Counter
    at_most: int | None
    series: Series


def plan_counters(rule_set: RuleSet) -> tuple[PlannedCounter, ...]:
    """The counters that the evaluated rules read, by name."""
    names = sorted(rule_set.reads & rule_set.velocity.keys())
    if not names:
        return ()
    conditions = [rule.when for rule in rule_set.evaluated_rules]
    conditions += [rule.unless for rule in rule_set.evaluated_rules if rule.unless is not None]
    tests = [part for condition in conditions for part in walk(condition)]
    planned = []
    for name in names:
        counter = rule_set.velocity[name]
        planned.append(PlannedCounter(counter, count_at_most(counter, tests), series_of(counter)))
    return tuple(planned)


def count_at_most(counter: Counter, tests: Iterable[Condition]) -> int | None:
    """One more than the largest figure that a test compares the counter with; None when it must be exact."""
    if counter.measure is Measure.SUM:
        return None
    most = 0
    for test in tests:
        match test:
            case Compare(fact=fact, operand=FactRef(fact=other)) if counter.name in (fact, other):
                return None
            case Compare(fact=fact, operand=Literal(value=int(value))) if fact == counter.name:
                most = max(most, value)
            case OneOf(fact=fact, values=values) if fact == counter.name:
                most = max([most, *(value for value in values if isinstance(value, int))])
            case IsUnknown() | _:
                pass
    return most + 1
