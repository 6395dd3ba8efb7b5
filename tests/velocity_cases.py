"""Generated histories of screenings and reports, and counters of every kind, for the tests of velocity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import orjson
from hypothesis import strategies as st

from fraudengine import store
from fraudengine.decision_log import AlreadyRecorded, DecisionLog, ScreeningRecord
from fraudengine.facts import FactValue
from fraudengine.money import Money
from fraudengine.rules.ast import Outcome
from fraudengine.rules.counters import Among, Counter, CounterScope, Measure
from fraudengine.velocity import Past, PlannedCounter, Report, ReportKind, series_of
from fraudengine.velocity_history import VelocityHistory, Wanted
from fraudengine.velocity_index import CounterReader, owner_of, tail_row
from fraudengine.velocity_tail import TailRow

NOW_US: Final = 1_795_428_900_000_000
MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
MERCHANTS: Final = ("carthage-market", "sahara-travel")

C: Final = Counter
COUNTERS: Final = (
    C("attempts", Measure.COUNT, ("card",), HOUR_US),
    C("refusals", Measure.COUNT, ("ip_address",), HOUR_US, Among.REFUSED),
    C("challenges", Measure.COUNT, ("card", "email"), 2 * HOUR_US, Among.CHALLENGED),
    C("acceptances", Measure.COUNT, ("ip_network",), 24 * HOUR_US, Among.ACCEPTED, CounterScope.ALL),
    C("failures", Measure.COUNT, ("card",), HOUR_US, Among.FAILED_3DS),
    C("declines", Measure.COUNT, ("card",), HOUR_US, Among.DECLINED),
    C("outages", Measure.COUNT, ("card",), HOUR_US, Among.TECHNICAL_FAILURES),
    C("spent", Measure.SUM, ("card",), HOUR_US),
    C("spent_accepted", Measure.SUM, ("email",), 90 * 24 * HOUR_US, Among.ACCEPTED, CounterScope.ALL),
    C("cards", Measure.COUNT_DISTINCT, ("ip_address",), HOUR_US, distinct="card"),
    C("declined_cards", Measure.COUNT_DISTINCT, ("ip_network",), HOUR_US, Among.DECLINED, distinct="card"),
    C("refused_emails", Measure.COUNT_DISTINCT, ("card",), HOUR_US, Among.REFUSED, CounterScope.ALL, "email"),
)


def planned(at_most: int | None = None, counters: tuple[Counter, ...] = COUNTERS) -> tuple[PlannedCounter, ...]:
    return tuple(
        PlannedCounter(one, None if one.measure is Measure.SUM else at_most, series_of(one)) for one in counters
    )


# ---- generated histories --------------------------------------------------------------------------

# Ties, both ends of the windows of an hour and two, and one microsecond beside each of them.
_OFFSETS: Final = tuple(
    sorted(
        {base + step for base in (0, HOUR_US, 2 * HOUR_US, 3 * HOUR_US, 25 * HOUR_US) for step in (-1, 0, 1)}
        | {30 * MINUTE_US, 90 * MINUTE_US}
    )
)
_CARDS: Final = ("fp_a", "fp_b", None)
_ADDRESSES: Final = ("41.226.11.9", "41.226.11.10", "2c0f:f698::1", None)
_EMAILS: Final = ("a@b.tn", "c@d.tn", None)


@st.composite
def calls(draw: st.DrawFn) -> Past:
    facts: dict[str, FactValue] = {"three_ds": draw(st.sampled_from(("none", "none", "failed", "authenticated")))}
    for name, values in (("card", _CARDS), ("ip_address", _ADDRESSES), ("email", _EMAILS)):
        value = draw(st.sampled_from(values))
        if value is not None:
            facts[name] = value
    return Past(
        0,
        draw(st.sampled_from(MERCHANTS + MERCHANTS[:1])),
        draw(st.sampled_from(("T1", "T2", "T3", "T4", "T5", "T6"))),
        NOW_US + draw(st.sampled_from(_OFFSETS)),
        Money(draw(st.sampled_from((0, 1, 100_000))), draw(st.sampled_from(("TND", "TND", "EUR")))),
        draw(st.sampled_from(list(Outcome))),
        facts,
        draw(st.integers(0, 3)),
    )


@dataclass(frozen=True)
class Step:
    """A call, or a report about an earlier one."""

    call: Past | None = None
    report_on: int = 0
    kind: ReportKind | None = None


def steps() -> st.SearchStrategy[Step]:
    reports = st.builds(Step, st.none(), st.integers(0, 20), st.sampled_from(list(ReportKind)))
    return st.one_of(calls().map(Step), calls().map(Step), calls().map(Step), calls().map(Step), reports)


def histories(max_size: int = 20) -> st.SearchStrategy[list[Step]]:
    return st.lists(steps(), min_size=1, max_size=max_size)


# ---- a log that is driven by them -----------------------------------------------------------------


class Driven:
    """A decision log to which calls and reports are made as the screener makes them."""

    def __init__(self, log: DecisionLog) -> None:
        self.log = log
        self.history = VelocityHistory(log.path)
        self.calls: list[Past] = []  # recorded ones
        self.reports: list[Report] = []
        self.told: set[tuple[int, ReportKind]] = set()

    def keep(self, counters: tuple[Counter, ...] = COUNTERS, *, fill: bool = True) -> None:
        wanted: set[Wanted] = {
            (series_of(one), owner_of(series_of(one), merchant)) for one in counters for merchant in MERCHANTS
        }
        self.log.velocity = self.history.register(wanted)
        if fill:
            self.log.velocity = self.history.fill()

    def count(self, call: Past, reader: CounterReader) -> tuple[Past, dict[str, FactValue]]:
        """The counters of a call before it is recorded, and the call with its place in the order."""
        rows = self.log.find_transaction(call.merchant, call.transaction_id)
        counted = self.log.recorded.read_counters(
            reader, call.merchant, call.facts, call.at_us, call.amount, [row.id for row in rows]
        )
        return replace(call, sequence=self.log.next_id()), counted

    def record(self, call: Past) -> bool:
        """Records the call; False when it is a retried one."""
        registry = self.log.velocity
        series = registry.series_for(call.merchant)
        row = tail_row(series, call.merchant, call.facts, call.amount, call.outcome, call.at_us)
        written = self.log.append_and_wait(record_of(call, row, registry.generation))
        if isinstance(written, AlreadyRecorded):
            return False
        self.calls.append(call)
        return True

    def report(self, about: Past, kind: ReportKind) -> None:
        """Reports what became of a call. The same report again changes nothing, for later steps neither."""
        assert self.log.record_outcome(about.sequence, kind.value, "05", about.at_us)
        if (about.sequence, kind) in self.told:
            return
        self.told.add((about.sequence, kind))
        newest = self.log.next_id()  # after the report, before whatever comes next
        self.reports.append(Report(newest, about.merchant, about.transaction_id, kind))


def record_of(call: Past, row: TailRow = (), generation: int = 0) -> ScreeningRecord:
    facts = dict(call.facts)
    transaction = {name: value for name, value in facts.items() if name in ("ip_address", "email")}
    if "card" in facts:
        transaction["card"] = {"fingerprint": facts["card"]}  # type: ignore[assignment]
    document = orjson.dumps(
        {
            "transaction": {**transaction, "amount": str(call.amount), "merchant": call.merchant},
            "facts": {"three_ds": facts.get("three_ds", "none")},
            "answer": {"decision": call.outcome.value},
        }
    )
    return ScreeningRecord(
        id=call.sequence,
        merchant=call.merchant,
        transaction_id=call.transaction_id,
        request_digest=repr(call.request).encode().ljust(8),
        at_us=call.at_us,
        answered_us=call.at_us,
        card_identity=str(facts.get("card", "")),
        currency=call.amount.currency,
        minor=call.amount.minor,
        outcome=call.outcome.value,
        code="X",
        revision="r",
        document=document,
        velocity=row,
        velocity_generation=generation,
    )


def transaction_hash(call: Past) -> int:
    return store.transaction_hash(call.merchant, call.transaction_id)
