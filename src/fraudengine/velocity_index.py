"""The index of velocity events in the decision log's file: what is kept, how it is written and read.

Every recorded screening leaves one row for each `Series` that is registered for its merchant or for all merchants,
in the same SQLite transaction as its record: at first in the tail (`velocity_tail`), from which merges move it to
`velocity_events`; counters are read from both. So an answer that was given is counted, in every process, after a
restart and after `kill -9`, and nothing else is.

Which series are kept is a table of its own, `velocity_series`, that all processes share. A writer compares its
generation (the greatest id) inside each of its transactions, so that no screening is recorded without the rows
of a series that another process has just registered. `velocity_history` fills in what came before.

`classes` holds one bit for each `among`. In a row of a plain series a bit says that the screening is the *first*
of its transaction under that key to fit; in a row of a distinct series that it fits.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

from .facts import FactName, Facts, FactValue
from .money import Money
from .rules.ast import Outcome, RuleSet
from .rules.counters import IP_NETWORK, Among, CounterScope, Measure, tell_counter
from .velocity import FAILED_3DS, PlannedCounter, Series, key_values, parse_series, plan_counters
from .velocity_before import BEFORE_RANGE
from .velocity_tail import EventValues, TailRow

BITS: Final[Mapping[Among, int]] = {among: 1 << place for place, among in enumerate(Among)}
TECHNICAL: Final = BITS[Among.TECHNICAL_FAILURES]
DECLINED: Final = BITS[Among.DECLINED]
# What a screening can fit by itself; the other two are reported afterwards.
OWN_BITS: Final = sum(BITS.values()) - TECHNICAL - DECLINED
_OUTCOME_BITS: Final = {
    Outcome.ACCEPT: BITS[Among.ALL] | BITS[Among.ACCEPTED],
    Outcome.CHALLENGE: BITS[Among.ALL] | BITS[Among.CHALLENGED],
    Outcome.REFUSE: BITS[Among.ALL] | BITS[Among.REFUSED],
}

# As the release that began to count made them; `velocity_before` says what became of `velocity_events`.
TABLES: Final = (
    """CREATE TABLE velocity_series (
        id INTEGER PRIMARY KEY,
        series TEXT NOT NULL,
        merchant TEXT NOT NULL,
        upto_id INTEGER NOT NULL,
        filled_id INTEGER NOT NULL,
        UNIQUE (series, merchant)
    ) STRICT""",
    """CREATE TABLE velocity_events (
        bucket INTEGER NOT NULL,
        key_hash INTEGER NOT NULL,
        at_us INTEGER NOT NULL,
        screening_id INTEGER NOT NULL,
        classes INTEGER NOT NULL,
        currency INTEGER NOT NULL,
        value INTEGER NOT NULL,
        PRIMARY KEY (bucket, key_hash, at_us, screening_id)
    ) STRICT, WITHOUT ROWID""",
    # What became of payments, as the gateway reports it; `id` is in one order with the ids of screenings.
    """CREATE TABLE outcomes (
        id INTEGER PRIMARY KEY,
        screening_id INTEGER NOT NULL REFERENCES screenings (id),
        at_us INTEGER NOT NULL,
        kind TEXT NOT NULL,
        code TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX outcomes_screening ON outcomes (screening_id)",
)
# By time bucket first (`place_of`): writing touches the pages of the current hour or day only.
EVENTS_TABLE: Final = """CREATE TABLE velocity_events (
    place INTEGER NOT NULL,
    key_low INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    screening_id INTEGER NOT NULL,
    classes INTEGER NOT NULL,
    currency INTEGER NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (place, key_low, at_us, screening_id)
) STRICT, WITHOUT ROWID"""


KeyHash: TypeAlias = tuple[int, int]  # the high and the low 32 bits, each signed


class EventRow(NamedTuple):
    """A screening's row of one series, before it is known which `among` it is the first to fit."""

    key_hash: KeyHash
    fits: int
    currency: int
    value: int
    bucket_us: int
    once: bool  # count once per transaction; False for distinct series


# ---- keys -----------------------------------------------------------------------------------------


def hash_key(series: Series, merchant: str, values: tuple[str, ...]) -> KeyHash:
    """64 bits of BLAKE2b over series, merchant (its own scope only) and values."""
    return _hash_parts((series.text, merchant if series.scope is CounterScope.MERCHANT else "", *values))


@lru_cache(maxsize=8_192)  # a screening reads a key before it writes it
def _hash_parts(parts: tuple[str, ...]) -> KeyHash:
    high, low = divmod(_hash("\0".join([*(str(len(part)) for part in parts), *parts])), 1 << 32)
    return high, low - (1 << 31)  # signed, an integer of 32 bits takes four bytes in SQLite, else six


def place_of(at_us: int, bucket_us: int, key_hash: KeyHash) -> int:
    """Where an event lies in the index: by time bucket, then by the key's high half, as one integer.

    One leading integer is what SQLite compares fastest: inserting and finding cost half of what they cost with the
    bucket and the whole key as columns.
    """
    return (at_us // bucket_us << 32) + key_hash[0]


@lru_cache(maxsize=8_192)
def hash_value(value: FactValue) -> int:
    return _hash(str(value))


def _hash(text: str) -> int:
    found = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found, "big", signed=True)


@lru_cache(maxsize=256)
def currency_number(currency: str) -> int:
    return int.from_bytes(currency.encode(), "big")


def fits_by_itself(outcome: Outcome, three_ds: FactValue | None) -> int:
    """The `among` bits that a screening fits before anything is reported about it."""
    return _OUTCOME_BITS[outcome] | (BITS[Among.FAILED_3DS] if three_ds in FAILED_3DS else 0)


# ---- which series are kept ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registry:
    """The series that are kept, as of one generation; `ready` are those whose history is filled in."""

    generation: int = 0
    everywhere: tuple[Series, ...] = ()
    of_merchant: Mapping[str, tuple[Series, ...]] = field(default_factory=dict)
    ready: frozenset[tuple[str, str]] = frozenset()  # (series, owner: a merchant, or nothing for everybody)
    is_complete: bool = True  # all of them are ready

    def series_for(self, merchant: str) -> tuple[Series, ...]:
        own = self.of_merchant.get(merchant)
        return self.everywhere if own is None else own + self.everywhere

    def needs_of(self, merchant: str) -> frozenset[FactName]:
        """The facts that a record must hold so that its rows can be made again."""
        found: set[FactName] = set()
        for series in self.series_for(merchant):
            found |= {"ip_address" if name == IP_NETWORK else name for name in series.per}
            found |= {series.distinct} if series.distinct is not None else set()
        return frozenset(found)

    def knows(self, series: Series, owner: str) -> bool:
        return series in (self.of_merchant.get(owner, ()) if owner else self.everywhere)


def owner_of(series: Series, merchant: str) -> str:
    return merchant if series.scope is CounterScope.MERCHANT else ""


def read_generation(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM velocity_series").fetchone()[0])


def read_registry(connection: sqlite3.Connection) -> Registry:
    rows = connection.execute(
        "SELECT id, series, merchant, filled_id >= upto_id FROM velocity_series ORDER BY id"
    ).fetchall()
    everywhere: list[Series] = []
    of_merchant: dict[str, tuple[Series, ...]] = {}
    for _, text, merchant, _ in rows:
        series = parse_series(text)
        if not merchant:
            everywhere.append(series)
        else:
            of_merchant[merchant] = (*of_merchant.get(merchant, ()), series)
    ready = frozenset((text, merchant) for _, text, merchant, complete in rows if complete)
    return Registry(rows[-1][0] if rows else 0, tuple(everywhere), of_merchant, ready, len(ready) == len(rows))


# ---- writing --------------------------------------------------------------------------------------


def event_rows(
    series: Iterable[Series],
    merchant: str,
    facts: Facts,
    amount: Money,
    outcome: Outcome,
    *,
    reported: bool = False,
) -> tuple[EventRow, ...]:
    """The rows of one screening; none for a series whose facts it does not know or whose `only` it does not fit.

    With `reported`, something was said about it afterwards, so that it may come to fit.
    """
    fits = fits_by_itself(outcome, facts.get("three_ds"))
    currency = currency_number(amount.currency)
    rows = []
    for one in series:
        if one.only is not None and not reported and not fits & BITS[one.only]:
            continue
        kept = _key_and_value(one, merchant, facts, amount)
        if kept is not None:
            rows.append(EventRow(kept[0], fits, currency, kept[1], one.bucket_us, one.distinct is None))
    return tuple(rows)


def tail_row(
    series: Iterable[Series], merchant: str, facts: Facts, amount: Money, outcome: Outcome, at_us: int
) -> TailRow:
    """The same for a screening that is the only one of its transaction, as the tail takes them; empty for none."""
    fits = fits_by_itself(outcome, facts.get("three_ds"))
    row = [fits, currency_number(amount.currency)]
    for one in series:
        if one.only is not None and not fits & BITS[one.only]:
            continue
        kept = _key_and_value(one, merchant, facts, amount)
        if kept is not None:
            (high, low), value = kept
            row += ((at_us // one.bucket_us << 32) + high, low, value)
    return tuple(row) if len(row) > 2 else ()


def tail_row_of(rows: Iterable[EventRow], at_us: int) -> TailRow:
    """The same from rows that were made already."""
    found: list[int] = []
    for key_hash, fits, currency, value, bucket_us, _ in rows:
        found = found or [fits, currency]  # all rows of one screening have the same
        found += (place_of(at_us, bucket_us, key_hash), key_hash[1], value)
    return tuple(found)


def _key_and_value(series: Series, merchant: str, facts: Facts, amount: Money) -> tuple[KeyHash, int] | None:
    """Under which key a screening counts, and the value that is added up or told apart; None where unknown."""
    values = key_values(series.per, facts)
    if values is None:
        return None
    if series.distinct is None:
        return hash_key(series, merchant, values), amount.minor
    distinct = facts.get(series.distinct)
    return None if distinct is None else (hash_key(series, merchant, values), hash_value(distinct))


def add_events(values: EventValues, screening_id: int, at_us: int, rows: Iterable[EventRow]) -> None:
    """Adds the rows of a screening that is the only one of its transaction: what it fits, it is the first to."""
    for key_hash, fits, currency, value, bucket_us, _ in rows:
        values += (place_of(at_us, bucket_us, key_hash), key_hash[1], at_us, screening_id, fits, currency, value)


# ---- reading --------------------------------------------------------------------------------------

# Numbered parameters, so that each part of a question names them again; {n} is the counter's first.
_PARAMETERS: Final = 7
_RANGE: Final = " AND e.key_low = ?{n2} AND e.at_us >= ?{n3} AND e.at_us < ?{n4}"
# The window's last place, and its first one where that is another. `place IN (…)` would fill a table for the two
# values in each part of each question: a sixth of its time.
_RANGES: Final = ("e WHERE e.place = ?{n1}" + _RANGE, "e WHERE e.place = ?{n0} AND ?{n0} <> ?{n1}" + _RANGE)
_OF_CLASS: Final = " AND e.classes & {bit}"
_WITHOUT_OWN: Final = " AND e.screening_id NOT IN (SELECT value FROM json_each(?{n6}))"
_OF_CURRENCY: Final = " AND e.currency = ?{n5}"
# Where a row is in the tail and in the index, the index's counts: see `velocity_tail`.
_NOT_IN_INDEX: Final = (
    " AND NOT EXISTS (SELECT 1 FROM velocity_events i WHERE i.place = e.place AND i.key_low = e.key_low"
    " AND i.at_us = e.at_us AND i.screening_id = e.screening_id)"
)


class CounterReader:
    """Reads the counters of one rule set in one statement; there are few of it, so SQLite prepares each once."""

    __slots__ = ("_statements", "counters")

    def __init__(self, counters: Sequence[PlannedCounter]) -> None:
        self.counters = tuple(counters)
        self._statements: dict[tuple[Sequence[str], bool, bool], str] = {}

    def question(
        self,
        merchant: str,
        facts: Facts,
        at_us: int,
        amount: Money,
        own_ids: Sequence[int] = (),
        tails: Sequence[str] = (),
        before: bool = False,
    ) -> tuple[str, tuple[int | str | None, ...]]:
        """The statement and its parameters; `own_ids` are the transaction's own earlier screenings, `tails` the
        tables of the tail that hold anything (`velocity_tail.TailView.tables`); `before`: events of an earlier
        release are read too (`velocity_before`)."""
        parameters: list[int | str | None] = []
        own = json.dumps(list(own_ids)) if own_ids else None
        for planned in self.counters:
            counter, series = planned.counter, planned.series
            values = key_values(counter.per, facts)
            start = at_us - counter.within_us
            if values is None:
                parameters += (None, None, None, start, at_us)
            else:
                key_hash = hash_key(series, merchant, values)
                places = (place_of(at, series.bucket_us, key_hash) for at in (start, at_us))
                parameters += (*places, key_hash[1], start, at_us)
            if counter.measure is Measure.SUM:
                parameters.append(currency_number(amount.currency))
            else:
                parameters.append(-1 if planned.at_most is None else planned.at_most)
            parameters.append(own)
        asked = (tails, own is not None, before)
        statement = self._statements.get(asked)
        if statement is None:
            statement = self._statements[asked] = _statement(self.counters, *asked)
        return statement, tuple(parameters)

    def tell(self, fact: FactName, value: str) -> str:
        """The value with what was counted, where the fact is a counter that has one; else the value alone."""
        planned = next((one for one in self.counters if one.counter.name == fact), None)
        if planned is None or value == "unknown":
            return value
        return tell_counter(planned.counter, value, at_least=value == str(planned.at_most))

    def answer(self, row: Sequence[Any], facts: Facts, amount: Money) -> dict[FactName, FactValue]:
        """The counters as facts, without those that are unknown."""
        found: dict[FactName, FactValue] = {}
        for planned, value in zip(self.counters, row, strict=True):
            counter = planned.counter
            if key_values(counter.per, facts) is not None:
                is_sum = counter.measure is Measure.SUM
                found[counter.name] = Money(int(value), amount.currency) if is_sum else int(value)
        return found


def counter_reader(rule_set: RuleSet) -> CounterReader | None:
    """The reader of the counters that the rules in force read; None when they read none."""
    planned = plan_counters(rule_set)
    return CounterReader(planned) if planned else None


def _statement(counters: Sequence[PlannedCounter], tails: Sequence[str], without_own: bool, before: bool) -> str:
    selects = [
        _select(one, number * _PARAMETERS, tails, without_own, before) for number, one in enumerate(counters)
    ]
    # The last parameter is named also where nothing is left out, so that both statements take the same.
    return f"SELECT {', '.join(selects)} WHERE ?{len(counters) * _PARAMETERS} IS NULL OR true"


def _select(planned: PlannedCounter, parameter: int, tails: Sequence[str], without_own: bool, before: bool) -> str:
    measure = planned.counter.measure
    tests = _OF_CLASS + (_WITHOUT_OWN if without_own else "") + (_OF_CURRENCY if measure is Measure.SUM else "")
    names = {f"n{number}": parameter + number + 1 for number in range(_PARAMETERS)}
    *ranges, range_before = (
        (keys + tests).format(bit=BITS[planned.counter.among], **names) for keys in (*_RANGES, BEFORE_RANGE)
    )
    column = "1 AS value" if measure is Measure.COUNT else "e.value AS value"
    parts = [f"SELECT {column} FROM velocity_events {rows}" for rows in ranges]
    parts += [f"SELECT {column} FROM temp.{tail} {rows}{_NOT_IN_INDEX}" for tail in tails for rows in ranges]
    parts += [f"SELECT {column} FROM velocity_events_before {range_before}"] if before else []
    both = " UNION ALL ".join(parts)
    match measure:
        case Measure.COUNT:
            return f"(SELECT count(*) FROM ({both} LIMIT ?{names['n5']}))"
        case Measure.COUNT_DISTINCT:
            return f"(SELECT count(*) FROM (SELECT DISTINCT value FROM ({both}) LIMIT ?{names['n5']}))"
        case Measure.SUM:
            return f"(SELECT coalesce(sum(value), 0) FROM ({both}))"
