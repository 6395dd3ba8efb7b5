"""Velocity counters as rule sets declare them: what is counted, per what, within which window, among which.

A counter becomes a fact of its own name: an integer, or money for `sum: amount`. What it means exactly is the
law in `fraudengine.velocity`. The words here are those of the `velocity:` block:

    velocity:
      attempts_per_card_1h: {count: transactions, per: card, within: 1 hour}
      spent_per_customer_24h: {sum: amount, per: customer, within: 24 hours, among: accepted}
      cards_per_address_24h: {count_distinct: card, per: ip_address, within: 24 hours, scope: all}

`per` takes one fact or a list of facts. `among` (default `all`) and `scope` (default `merchant`) are enumerated
below; `within` is a number of seconds, minutes, hours, days or weeks, from 1 second to 90 days.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ..diagnostics import Span
from ..facts import CATALOGUE, FactName, FactSpec, FactType, Origin

IP_NETWORK: Final = "ip_network"
"""A `per` word that is no fact of its own: the /24 of an IPv4 address, the /64 of an IPv6 address."""

# Facts that describe the moment or the amount rather than somebody who pays: counting per them means nothing.
_NOT_PER: Final = frozenset(
    {"amount", "three_ds", "three_ds_version", "eci", "hour", "weekday", "card_expired", "currency"}
)
PER_FACTS: Final = (*(name for name in CATALOGUE if name not in _NOT_PER), IP_NETWORK)
MAX_PER: Final = 4
SECOND_US: Final = 1_000_000
MAX_WINDOW_US: Final = 90 * 86_400 * SECOND_US
MAX_COUNTERS: Final = 100


class Measure(StrEnum):
    """What a counter adds up; the values are the words of the `velocity:` block."""

    COUNT = "count"
    SUM = "sum"
    COUNT_DISTINCT = "count_distinct"


class Among(StrEnum):
    """Which screenings a counter looks at. Technical failures are left out of all but the last.

    accepted, challenged, refused: what the screening was answered; failed_3ds: it came with failed or rejected
    authentication; declined: the gateway reported afterwards that the card's bank declined the payment;
    technical_failures: the gateway reported that the attempt failed for no fault of the buyer.
    """

    ALL = "all"
    ACCEPTED = "accepted"
    CHALLENGED = "challenged"
    REFUSED = "refused"
    FAILED_3DS = "failed_3ds"
    DECLINED = "declined"
    TECHNICAL_FAILURES = "technical_failures"


class CounterScope(StrEnum):
    """Whose screenings: the merchant's own, or those of all merchants on this log."""

    MERCHANT = "merchant"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Counter:
    """A velocity counter. `per` is sorted; `distinct` is the fact whose values a distinct count tells apart."""

    name: FactName
    measure: Measure
    per: tuple[FactName, ...]
    within_us: int
    among: Among = Among.ALL
    scope: CounterScope = CounterScope.MERCHANT
    distinct: FactName | None = None
    help: str = ""
    origin: str = field(default="", compare=False)
    span: Span = field(compare=False, default=Span("", 0, 0, 0))

    @property
    def type(self) -> FactType:
        return FactType.MONEY if self.measure is Measure.SUM else FactType.INTEGER

    @property
    def spec(self) -> FactSpec:
        """The counter as a fact."""
        return FactSpec(self.name, self.type, Origin.LOG, self.help or describe_counter(self))

    @property
    def needs(self) -> frozenset[FactName]:
        """The catalogue facts without which it is unknown."""
        named = {*self.per, *([self.distinct] if self.distinct is not None else [])}
        return frozenset("ip_address" if name == IP_NETWORK else name for name in named)


def with_counter_needs(reads: frozenset[FactName], velocity: Mapping[FactName, Counter]) -> frozenset[FactName]:
    """The facts read, with those that the counters among them need."""
    return reads.union(*(velocity[name].needs for name in reads & velocity.keys())) if velocity else reads


_AMONG_WORDS: Final[dict[Among, tuple[str, str]]] = {
    Among.ALL: ("", ""),
    Among.ACCEPTED: ("accepted ", "acceptées "),
    Among.CHALLENGED: ("challenged ", "avec 3-D Secure demandé "),
    Among.REFUSED: ("refused ", "refusées "),
    Among.FAILED_3DS: ("failed-3-D-Secure ", "avec 3-D Secure échoué "),
    Among.DECLINED: ("bank-declined ", "déclinées par la banque "),
    Among.TECHNICAL_FAILURES: ("technically failed ", "en échec technique "),
}


def describe_counter(counter: Counter) -> str:
    """`refused transactions per ip_address within 1 hour, of all merchants`."""
    among = _AMONG_WORDS[counter.among][0]
    match counter.measure:
        case Measure.COUNT:
            what = f"{among}transactions"
        case Measure.SUM:
            what = f"amount of {among}transactions"
        case Measure.COUNT_DISTINCT:
            what = f"different values of {counter.distinct} in {among}transactions"
    everywhere = ", of all merchants" if counter.scope is CounterScope.ALL else ""
    return f"{what} per {' and '.join(counter.per)} within {format_duration(counter.within_us)}{everywhere}"


def tell_counter(counter: Counter, value: str, *, at_least: bool = False, french: bool = False) -> str:
    """What was counted: `6 transactions per card within 1 hour`; `at least 6 …` where the count stopped."""
    among = _AMONG_WORDS[counter.among][1 if french else 0]
    per = f"{' et ' if french else ' and '}".join(counter.per)
    window = format_duration(counter.within_us)
    everywhere = counter.scope is CounterScope.ALL
    if french:
        window = _in_french(window)
        what = {
            Measure.COUNT: f"{value} transactions {among}",
            Measure.SUM: f"{value} de transactions {among}",
            Measure.COUNT_DISTINCT: f"{value} valeurs de {counter.distinct} dans les transactions {among}",
        }[counter.measure]
        said = f"{what}par {per} en {window}{', tous marchands confondus' if everywhere else ''}"
        return f"au moins {said}" if at_least else said
    what = {
        Measure.COUNT: f"{value} {among}transactions",
        Measure.SUM: f"{value} of {among}transactions",
        Measure.COUNT_DISTINCT: f"{value} different values of {counter.distinct} in {among}transactions",
    }[counter.measure]
    said = f"{what} per {per} within {window}{', of all merchants' if everywhere else ''}"
    return f"at least {said}" if at_least else said


def _in_french(duration: str) -> str:
    count, unit = duration.split(" ")
    names = {"second": "seconde", "minute": "minute", "hour": "heure", "day": "jour", "week": "semaine"}
    return f"{count} {names[unit.removesuffix('s')]}{'s' * (count != '1')}"


# ---- durations ------------------------------------------------------------------------------------

_UNITS: Final = (("week", 604_800), ("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
_DURATION: Final = re.compile(r"([0-9]{1,9}) (second|minute|hour|day|week)s?", re.ASCII)
_LOOSE: Final = re.compile(r"([0-9]{1,9}) *([a-z]+)", re.ASCII)
_SHORT: Final = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}


def read_duration(text: str) -> int | None:
    """`1 hour`, `90 days` … in microseconds, or None when the text is none."""
    found = _DURATION.fullmatch(text)
    return int(found[1]) * dict(_UNITS)[found[2]] * SECOND_US if found is not None else None


def guess_duration(text: str) -> str:
    """How somebody who wrote `1h` or `5 mins` would write it here; empty when that cannot be guessed."""
    found = _LOOSE.fullmatch(text.lower().strip())
    unit = _SHORT.get(found[2][0]) if found is not None else None
    if found is None or unit is None or not (unit.startswith(found[2]) or found[2].startswith(unit[:3])):
        return ""
    return f"{int(found[1])} {unit}{'s' * (int(found[1]) != 1)}"


def format_duration(us: int) -> str:
    """In the largest unit of at most a day that divides it, so that 24 hours stay 24 hours."""
    seconds = us // SECOND_US
    for unit, length in _UNITS[1:]:
        if seconds % length == 0 and not (unit == "day" and seconds == length):
            count = seconds // length
            return f"{count} {unit}{'s' * (count != 1)}"
    raise AssertionError("a second divides everything")
