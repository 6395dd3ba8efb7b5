"""`fraudengine verify --recompute`: the facts of logged decisions made again, and what became of them since.

Tables are those in use now, lists those of the recorded instant, counters are counted by their law over the log
itself, without the index that the payment path reads. So drift means: a table was replaced, an entry was changed
behind the log's back, a counter was wrong, or a fact needs what no record holds.

Kept in memory are the screenings of the longest window that a rule set of the log counts in, and a day.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..decision import Decision, EarlierScreening
from ..enrich import INDICATORS, Enricher
from ..facts import METADATA_PREFIX, FactName, FactValue, Transaction
from ..lists import ListIndex, ListsAsOf, build_indexes
from ..log_reader import LoggedScreening, LogReader
from ..lookups import DataFiles
from ..recorded_transaction import read_transaction
from ..rules.ast import InList, ListName, Outcome, RuleSet, walk
from ..rules.counters import CounterScope
from ..velocity import Past, PlannedCounter, Report, ReportKind, key_values, plan_counters, value_of
from ..velocity_documents import facts_of_document
from ..verify import Cause, ReadRecord, decide_again, told_value
from .list_history import ListHistory

_DAY_US: Final = 86_400_000_000
_TIDY_EVERY: Final = 50_000
_FROM_BINS: Final = frozenset({"card_country", "card_brand", "card_type", "card_issuer"})


def recompute(log: LogReader, data: DataFiles, lists: ListHistory, rule_sets: Iterable[RuleSet]) -> Recomputation:
    """A check for `verify_log`; `rule_sets` are those of every revision of the log."""
    return Recomputation(log, data, lists, CountedPast.of_log(log, rule_sets))


class Recomputation:
    """Derives the facts of each record again. It hears of every screening in the order of the log."""

    def __init__(self, log: LogReader, data: DataFiles, lists: ListHistory, counted: CountedPast) -> None:
        self._log, self._data, self._lists, self._counted = log, data, lists, counted
        self._enricher = Enricher(data)
        self.reach_us = counted.reach_us
        self._indexes: dict[tuple[str, str], tuple[RuleSet, Mapping[ListName, ListIndex]]] = {}
        self._awake: dict[tuple[str, str], tuple[RuleSet, Mapping[str, Sequence[tuple[int, int]]]]] = {}

    def observe(self, screening: LoggedScreening, document: Mapping[str, Any]) -> None:
        self._counted.add(screening, document)

    def drifts(self, record: ReadRecord) -> Iterator[tuple[Cause, str, Decision | None]]:
        """What comes out otherwise, each with the decision that all of it together leads to."""
        transaction = read_transaction(record.document["transaction"])
        rule_set = self._awake_then(record, transaction)
        facts = self._enricher.facts(transaction, rule_set, self._earlier(record.screening, transaction))
        counted = self._counted.values(record.screening, transaction, facts, plan_counters(rule_set))
        facts |= counted
        lists = self._lists_then(record, rule_set, transaction)
        found = [*self._facts_that_differ(record, transaction, facts), *_lists_that_differ(record, rule_set, lists)]
        if not found:
            return
        decision = decide_again(rule_set, facts, lists)
        same = _outcome_of(decision) == _outcome_of(record.decision)
        for cause, detail in found:
            yield cause, detail, None if same else decision

    def _earlier(self, screening: LoggedScreening, transaction: Transaction) -> EarlierScreening | None:
        """What the first screening of the transaction was about; only a 3-D Secure result asks."""
        if transaction.three_ds is None:
            return None
        first = self._log.first_of_transaction(screening.merchant, transaction.transaction_id, screening.id)
        return None if first is None else EarlierScreening(*first)

    # ---- lists ----------------------------------------------------------------------------------------

    def _awake_then(self, record: ReadRecord, transaction: Transaction) -> RuleSet:
        """The rule set with the rules whose lists were filled at the recorded instant, by the list's history."""
        linked, key = record.rules.linked, (transaction.merchant, record.screening.revision)
        if key not in self._awake:
            name = record.document.get("rule_set", transaction.merchant)  # the platform's, where that stood in
            self._awake[key] = self._lists.woken(linked, str(name))
        awake, guards = self._awake[key]
        as_of_us = record.lists.as_of_us
        asleep = {rule for rule, spans in guards.items() if not any(low <= as_of_us < high for low, high in spans)}
        before = {rule.id: rule for rule in linked.rules}
        if not asleep:
            return awake
        return replace(awake, rules=tuple(before[rule.id] if rule.id in asleep else rule for rule in awake.rules))

    def _lists_then(self, record: ReadRecord, rule_set: RuleSet, transaction: Transaction) -> ListsAsOf:
        key = (str(transaction.merchant), record.screening.revision)
        if key not in self._indexes:
            merged = self._lists.merged(rule_set, str(transaction.merchant))
            self._indexes[key] = rule_set, build_indexes(merged)
        return ListsAsOf(self._indexes[key][1], record.lists.as_of_us, None, transaction.card)

    # ---- facts ----------------------------------------------------------------------------------------

    def _facts_that_differ(
        self, record: ReadRecord, transaction: Transaction, facts: Mapping[FactName, FactValue]
    ) -> Iterator[tuple[Cause, str]]:
        counters = {planned.counter.name for planned in plan_counters(record.rules.rule_set)}
        said = record.document["answer"].get("data", {})
        for name in sorted((record.rules.rule_set.reads | INDICATORS) & (facts.keys() | record.facts.keys())):
            then, now = record.facts.get(name), facts.get(name)
            if then == now:
                continue
            detail = f"{name} was {told_value(then)}, now {told_value(now)}"
            if name in counters:
                yield Cause.COUNTER, detail
            elif name == "ip_country":
                yield (
                    Cause.IP_DATA,
                    f"{detail} (table of {said.get('ip_country')}, now {self._dates['ip_country']})",
                )
            elif name in _FROM_BINS or (
                name == "three_ds" and record.facts.get("card_brand") != facts.get("card_brand")
            ):
                if name in _FROM_BINS and self._hides_digits(transaction, said):
                    yield Cause.NOT_DERIVABLE, f"{detail}: the table tells by digits that no record holds"
                else:
                    yield Cause.BIN_DATA, f"{detail} (table of {said.get('bins')}, now {self._dates['bins']})"
            elif name.startswith(METADATA_PREFIX) or then is None or now is not None:
                yield Cause.FACT, detail
            else:
                yield Cause.NOT_DERIVABLE, detail

    @property
    def _dates(self) -> Mapping[str, str]:
        return self._data.dates

    def _hides_digits(self, transaction: Transaction, said: Mapping[str, str]) -> bool:
        """Whether the same table answers otherwise for want of the digits beyond the recorded BIN."""
        card = transaction.card
        return card is not None and card.fingerprint is not None and said.get("bins") == self._dates["bins"]


def _outcome_of(decision: Decision) -> tuple[str, str, str | None]:
    return decision.outcome.value, decision.code, decision.rule.id if decision.rule is not None else None


def _lists_that_differ(record: ReadRecord, rule_set: RuleSet, lists: ListsAsOf) -> Iterator[tuple[Cause, str]]:
    """Rules that lists woke then and not now, and values that a list held then and not now, or the other way."""
    then = {rule.id for rule in record.rules.rule_set.evaluated_rules}
    now = {rule.id for rule in rule_set.evaluated_rules}
    for rule in sorted(then ^ now):
        what = (
            "asleep now: the list that it waits for was empty" if rule in then else "awake now: its list was filled"
        )
        yield Cause.LIST, f"rule {rule} is {what}"
    for name, fact in sorted({(test.list_name, test.fact) for test in _list_tests(rule_set)}):
        value = record.facts.get(fact)
        if value is None:
            continue
        held, holds = record.lists.find(name, value), lists.find(name, value)
        if (held is None) != (holds is None):
            said = "held it then and not now" if holds is None else "did not hold it then and does now"
            yield Cause.LIST, f"list {name} {said} ({fact})"


def _list_tests(rule_set: RuleSet) -> Iterator[InList]:
    for rule in rule_set.evaluated_rules:
        for condition in (rule.when, *(() if rule.unless is None else (rule.unless,))):
            yield from (test for test in walk(condition) if isinstance(test, InList))


# ---- counters -------------------------------------------------------------------------------------


class KeyedPast:
    """The screenings that are counted under one key, by their times and by transaction.

    A counter looks at those of its own window: a card or a country that is seen all day costs no more than its
    screenings of an hour where an hour is counted.
    """

    __slots__ = ("_by_time", "_steps", "_times")

    def __init__(self) -> None:
        self._times: list[int] = []
        self._by_time: list[Past] = []
        self._steps: dict[tuple[str, str], list[Past]] = {}

    @property
    def newest_us(self) -> int:
        return self._times[-1]

    def add(self, past: Past) -> None:
        place = bisect_right(self._times, past.at_us)
        self._times.insert(place, past.at_us)
        self._by_time.insert(place, past)
        self._steps.setdefault((past.merchant, past.transaction_id), []).append(past)

    def forget_before(self, at_us: int) -> None:
        """Lets go of what is older once that is half of it: letting go of one costs as much as of many."""
        if self._times[len(self._times) // 2] >= at_us:
            return
        count = bisect_left(self._times, at_us)
        for past in self._by_time[:count]:
            key = past.merchant, past.transaction_id
            self._steps[key] = [step for step in self._steps[key] if step is not past]
            if not self._steps[key]:
                del self._steps[key]
        del self._times[:count], self._by_time[:count]

    def transactions(self, since_us: int, until_us: int) -> dict[tuple[str, str], list[Past]]:
        """All steps of each transaction that has one in `[since_us, until_us)`."""
        low, high = bisect_left(self._times, since_us), bisect_left(self._times, until_us)
        found = dict.fromkeys((past.merchant, past.transaction_id) for past in self._by_time[low:high])
        return {transaction: self._steps[transaction] for transaction in found}


@dataclass(slots=True)
class CountedPast:
    """The screenings that counters count, by what they are counted per; and what was reported about them.

    `groups` are the (scope, per) of every counter of the log; `longest_us` their longest window.
    """

    groups: frozenset[tuple[CounterScope, tuple[FactName, ...]]]
    longest_us: int
    reports: Iterator[tuple[int, str, str, str]]
    _added: int = 0
    _next: tuple[int, str, str, str] | None = None
    _heard: dict[tuple[str, str], list[Report]] = field(default_factory=dict)
    _past: dict[tuple[object, ...], KeyedPast] = field(default_factory=dict)

    @classmethod
    def of_log(cls, log: LogReader, rule_sets: Iterable[RuleSet]) -> CountedPast:
        counters = [counter for rule_set in rule_sets for counter in rule_set.velocity.values()]
        longest = max((counter.within_us for counter in counters), default=0)
        groups = frozenset((counter.scope, counter.per) for counter in counters)
        return cls(groups, longest, log.reports(tuple(ReportKind)) if groups else iter(()))

    @property
    def reach_us(self) -> int:
        """How long before a screening the past may matter: the longest window, and a day for late ones."""
        return self.longest_us + _DAY_US if self.groups else 0

    def add(self, screening: LoggedScreening, document: Mapping[str, Any]) -> None:
        """Keeps a screening for those after it."""
        if not self.groups:
            return
        recorded = document["transaction"]
        facts = facts_of_document(dict(document))
        past = Past(
            screening.id,
            screening.merchant,
            recorded["transaction_id"],
            screening.at_us,
            read_transaction(recorded).amount,
            Outcome(screening.outcome),
            facts,
        )
        for scope, per in self.groups:
            key = _key(scope, per, screening.merchant, facts)
            if key is not None:
                held = self._past.get(key)
                if held is None:
                    held = self._past[key] = KeyedPast()
                held.add(past)
                held.forget_before(screening.at_us - self.reach_us)
        self._added += 1
        if self._added % _TIDY_EVERY == 0:
            oldest = screening.at_us - self.reach_us
            self._past = {key: held for key, held in self._past.items() if held.newest_us >= oldest}

    def values(
        self,
        screening: LoggedScreening,
        transaction: Transaction,
        facts: Mapping[FactName, FactValue],
        counters: Sequence[PlannedCounter],
    ) -> dict[FactName, FactValue]:
        """The counters of a screening by the law, over what was recorded before it."""
        if not counters:
            return {}
        self._hear(screening.id)
        subject = Past(
            screening.id,
            screening.merchant,
            transaction.transaction_id,
            transaction.at_us,
            transaction.amount,
            Outcome(screening.outcome),
            facts,
        )
        found: dict[FactName, FactValue] = {}
        for planned in counters:
            counter = planned.counter
            key = _key(counter.scope, counter.per, screening.merchant, facts)
            held = None if key is None else self._past.get(key)
            steps = {} if held is None else held.transactions(subject.at_us - counter.within_us, subject.at_us)
            past = [step for of_one in steps.values() for step in of_one]
            said = [report for transaction in steps for report in self._heard.get(transaction, ())]
            value = value_of(counter, subject, past, said, planned.at_most)
            if value is not None:
                found[counter.name] = value
        return found

    def _hear(self, before_id: int) -> None:
        """Takes up what was reported before a screening."""
        while True:
            if self._next is None:
                self._next = next(self.reports, None)
            if self._next is None or self._next[0] >= before_id:
                return
            number, merchant, transaction_id, kind = self._next
            about = self._heard.setdefault((merchant, transaction_id), [])
            about.append(Report(number, merchant, transaction_id, ReportKind(kind)))
            self._next = None


def _key(
    scope: CounterScope, per: tuple[FactName, ...], merchant: str, facts: Mapping[FactName, FactValue]
) -> tuple[object, ...] | None:
    values = key_values(per, facts)
    return None if values is None else (per, merchant if scope is CounterScope.MERCHANT else None, values)
