"""What a replay's tables come to, in the sums that a reader wants: both sides' outcomes, by whatever is asked.

The report and the terminal summary show these. Payments whose champion outcome is `unrecorded` cannot be compared;
they count on the candidate's side only when there is no payment that can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from ..money import format_minor
from .result import BAD_LABELS, GOOD_LABELS, OUTCOMES, ReplayResult, ReplayTable

UNRECORDED: Final = "unrecorded"


@dataclass(frozen=True, slots=True)
class Cross:
    """Sums for each pair of champion and candidate outcome: payments, or minor units of one currency."""

    sums: Mapping[tuple[str, str], int]

    @property
    def total(self) -> int:
        return sum(self.sums.values())

    @property
    def recorded(self) -> int:
        """The part whose champion outcome is known."""
        return sum(number for (champion, _), number in self.sums.items() if champion != UNRECORDED)

    @property
    def base(self) -> int:
        """What shares are shares of: the part that can be compared, else all."""
        return self.recorded or self.total

    @property
    def flips(self) -> int:
        return sum(self.sums[pair] for pair in self.changed)

    @property
    def changed(self) -> list[tuple[str, str]]:
        """The pairs that differ, in the order of outcomes."""
        order = {word: place for place, word in enumerate(OUTCOMES)}
        found = [pair for pair in self.sums if pair[0] != pair[1] and UNRECORDED not in pair and self.sums[pair]]
        return sorted(found, key=lambda pair: (order[pair[0]], order[pair[1]]))

    def before(self, outcome: str) -> int:
        """How much the champion gave this outcome."""
        return sum(number for (champion, _), number in self.sums.items() if champion == outcome)

    def after(self, outcome: str) -> int:
        """How much the candidate gives this outcome."""
        compared = self.recorded > 0
        return sum(
            number
            for (champion, candidate), number in self.sums.items()
            if candidate == outcome and (champion != UNRECORDED or not compared)
        )


def sums_by(table: ReplayTable, keys: Sequence[str], measure: str = "transactions") -> dict[tuple[Any, ...], Cross]:
    """For each value of `keys` the sums of a table that holds `champion` and `candidate`, in the order of keys."""
    grouped = table.arrow.group_by([*keys, "champion", "candidate"]).aggregate([(measure, "sum")])
    found: dict[tuple[Any, ...], dict[tuple[str, str], int]] = {}
    for row in grouped.to_pylist():
        key = tuple(row[name] for name in keys)
        found.setdefault(key, {})[row["champion"], row["candidate"]] = row[f"{measure}_sum"]
    return {key: Cross(found[key]) for key in sorted(found)}


def all_sums(result: ReplayResult) -> Cross:
    """The 3 × 3 by count."""
    return sums_by(result.matrix, ()).get((), Cross({}))


def labels_together(by_label: Mapping[tuple[Any, ...], Cross], labels: frozenset[str]) -> Cross:
    """The sums of several labels as one."""
    summed: dict[tuple[str, str], int] = {}
    for (label, *_), cross in by_label.items():
        if label in labels:
            for pair, number in cross.sums.items():
                summed[pair] = summed.get(pair, 0) + number
    return Cross(summed)


@dataclass(frozen=True, slots=True)
class Known:
    """Payments whose ending is known: `bad` were chargebacks or fraud, `good` turned out well."""

    bad: Cross
    good: Cross


def known_endings(result: ReplayResult) -> Known:
    by_label = sums_by(result.by_label, ["label"])
    return Known(labels_together(by_label, BAD_LABELS), labels_together(by_label, GOOD_LABELS))


@dataclass(frozen=True, slots=True)
class RulePair:
    """One rule on both sides, as rows of the table `rules`; None where a side does not have it."""

    rule: str
    champion: Mapping[str, Any] | None
    candidate: Mapping[str, Any] | None

    @property
    def shown(self) -> Mapping[str, Any]:
        found = self.candidate or self.champion
        assert found is not None
        return found

    @property
    def differs(self) -> bool:
        """Whether the sides match other payments with it, or use it otherwise."""
        compared = ("mode", "outcome", "reason", "matches", "unique_matches", "decided", "bad", "good")
        if self.champion is None or self.candidate is None:
            return True
        return any(self.champion[name] != self.candidate[name] for name in compared)


def rule_pairs(table: ReplayTable, compared: bool) -> list[RulePair]:
    """Every rule that is evaluated, those that match most payments first; without a champion nothing differs."""
    sides: dict[str, dict[str, Mapping[str, Any]]] = {"champion": {}, "candidate": {}}
    for row in table.rows():
        sides[row["side"]][row["rule"]] = row
    pairs = [
        RulePair(
            rule,
            sides["champion"].get(rule) if compared else sides["candidate"].get(rule),
            sides["candidate"].get(rule),
        )
        for rule in sides["champion"].keys() | sides["candidate"].keys()
    ]
    return sorted(pairs, key=lambda pair: (-pair.shown["matches"], pair.rule))


def in_weeks(by_day: Mapping[date, Cross]) -> dict[date, Cross]:
    """Days summed up to weeks, each named by its Monday."""
    weeks: dict[date, dict[tuple[str, str], int]] = {}
    for day, cross in by_day.items():
        week = weeks.setdefault(day - timedelta(days=day.weekday()), {})
        for pair, number in cross.sums.items():
            week[pair] = week.get(pair, 0) + number
    return {day: Cross(weeks[day]) for day in sorted(weeks)}


def days_of(result: ReplayResult) -> dict[date, Cross]:
    return {key[0]: cross for key, cross in sums_by(result.by_day, ["day"]).items()}


def money_text(minor: int, currency: str) -> str:
    """An amount for reading: `1,772,671.400 TND`."""
    whole = format_minor(abs(minor), currency)
    units, dot, rest = whole.partition(".")
    return f"{'-' if minor < 0 else ''}{int(units):,}{dot}{rest} {currency}"


def percent(part: float, whole: float) -> str:
    """A share, with a second decimal where one would hide it: `0.04 %`."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.1f} %" if share == 0 or abs(share) >= 0.1 else f"{share:.2f} %"


def points(before: int, after: int, whole: int) -> str:
    """A change in percentage points."""
    change = 100 * (after - before) / whole if whole else 0.0
    digits = 1 if abs(change) >= 0.1 or change == 0 else 2
    return f"{'±' if change == 0 else '+' if change > 0 else '−'}{abs(change):.{digits}f} pp"


def signed(number: int) -> str:
    """A difference: `+12`, `−3`, `±0`."""
    return f"{'+' if number > 0 else '−' if number < 0 else '±'}{abs(number):,}"
