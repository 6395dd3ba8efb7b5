"""What hangs on one rule or one list entry: sums over payments, by the answer with it and the answer without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final

import pyarrow as pa

from ..backends.columnar_decision import OUTCOMES
from ..decision import Match, decide, determining_match
from ..rules.ast import Mode, Outcome, Rule, RuleSet
from .result import BAD_LABELS, GOOD_LABELS

ACCEPT, CHALLENGE, REFUSE = range(3)
assert OUTCOMES == (Outcome.ACCEPT, Outcome.CHALLENGE, Outcome.REFUSE)

_SETTLED_BY: Final = (
    ("none", "ecommerce"),
    ("failed", "ecommerce"),
    ("authenticated", "ecommerce"),
    ("attempted", "ecommerce"),
    ("unavailable", "ecommerce"),
    ("none", "moto"),
)
"""For each number of `columnar_decision.settling` a 3-D Secure word and a channel that it stands for."""

_MINOR: Final = pa.map_(pa.string(), pa.int64())
FIGURES: Final = pa.schema(
    [
        *(("needed", pa.int64()), ("caught", pa.int64()), ("caught_minor", _MINOR)),
        *(("good_refused", pa.int64()), ("good_refused_minor", _MINOR), ("good_challenged", pa.int64())),
        *(("good_spared", pa.int64()), ("bad_spared", pa.int64()), ("bad_spared_minor", _MINOR)),
        *(("last_needed", pa.date32()), ("last_useful", pa.date32())),
        *(("always_covered", pa.bool_()), ("in_its_place", pa.list_(pa.string()))),
    ]
)
"""The columns that rules and list entries have in common (`result` says what they are)."""


@dataclass(frozen=True, slots=True)
class Payments:
    """Payments that are alike in everything that is counted. Outcomes are places in `OUTCOMES`; days since 1970."""

    count: int
    minor: int
    currency: str
    label: str
    answered: int
    last_day: int


@dataclass(slots=True)
class Tally:
    """The sums of one rule or entry over the payments that it matched or held."""

    touched: int = 0
    needed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    minor: dict[str, Counter[str]] = field(default_factory=dict)
    last_touched: int = -1
    last_needed: int = -1
    last_useful: int = -1
    in_its_place: set[str] = field(default_factory=set)

    def add(self, payments: Payments, without: int, decided_by: str | None) -> None:
        """Counts payments that would be answered `without`, as the rule `decided_by` has it, if it were gone."""
        self.touched += payments.count
        self.last_touched = max(self.last_touched, payments.last_day)
        if without == payments.answered:
            if decided_by is not None:
                self.in_its_place.add(decided_by)
            return
        self.needed += payments.count
        self.last_needed = max(self.last_needed, payments.last_day)
        what = _effect(payments.label, payments.answered, without)
        if what is None:
            return
        self.counts[what] += payments.count
        self.minor.setdefault(what, Counter())[payments.currency] += payments.minor
        if what in ("caught", "good_spared"):
            self.last_useful = max(self.last_useful, payments.last_day)

    def merge(self, other: Tally) -> None:
        self.touched += other.touched
        self.needed += other.needed
        self.counts += other.counts
        for what, sums in other.minor.items():
            self.minor.setdefault(what, Counter()).update(sums)
        self.last_touched = max(self.last_touched, other.last_touched)
        self.last_needed = max(self.last_needed, other.last_needed)
        self.last_useful = max(self.last_useful, other.last_useful)
        self.in_its_place |= other.in_its_place

    def figures(self) -> dict[str, Any]:
        """The columns of `FIGURES`."""
        found: dict[str, Any] = {
            name: self.counts[name]
            for name in ("caught", "good_refused", "good_challenged", "good_spared", "bad_spared")
        }
        for name in ("caught", "good_refused", "bad_spared"):
            found[f"{name}_minor"] = sorted(self.minor.get(name, Counter()).items())
        return found | {
            "needed": self.needed,
            "last_needed": as_date(self.last_needed),
            "last_useful": as_date(self.last_useful),
            "always_covered": self.touched > 0 and self.needed == 0,
            "in_its_place": sorted(self.in_its_place),
        }


def _effect(label: str, answered: int, without: int) -> str | None:
    """What it did to a payment that ended so; None where nobody knows whether that was right."""
    if label in BAD_LABELS:
        return "caught" if answered > without else "bad_spared"
    if label not in GOOD_LABELS:
        return None
    if answered < without:
        return "good_spared"
    return "good_refused" if answered == REFUSE else "good_challenged"


def as_date(day: int) -> date | None:
    return None if day < 0 else date(1970, 1, 1) + timedelta(days=day)


# ---- a decision without one of its rules ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Without:
    """What some matches come to, and what they would come to without the rule that decided.

    A rule that does not decide changes nothing by going, so `matched` and the one that decides say all of it.
    `covering` has for each live rule that matched the others that matched too and are no milder.
    """

    matched: tuple[Rule, ...]
    deciding: Rule | None
    outcome: int
    next_deciding: Rule | None
    next_outcome: int
    covering: Mapping[str, frozenset[str]]


class Redecider:
    """Decides by the law what groups of payments come to without their deciding rule, each combination once."""

    def __init__(self, rule_set: RuleSet, rules: tuple[Rule, ...]) -> None:
        self._rule_set, self._rules = rule_set, rules
        self._known: dict[tuple[int, int, int], Without] = {}

    def without(self, matched: int, unknown: int, settling: int) -> Without:
        """Bit k of `matched` and `unknown` is rule k; `settling` is a place in `columnar_decision.SETTLED`."""
        key = (matched, matched & unknown, settling)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._decide(*key)
        return found

    def _decide(self, matched: int, by_unknown: int, settling: int) -> Without:
        matches = list(_matches(self._rules, matched, by_unknown))
        determining = determining_match(tuple(matches))
        rest = [match for match in matches if match is not determining]
        after = determining_match(tuple(rest))
        return Without(
            tuple(match.rule for match in matches),
            None if determining is None else determining.rule,
            self._outcome(matches, settling),
            None if after is None else after.rule,
            self._outcome(rest, settling),
            {
                match.rule.id: frozenset(other.rule.id for other in matches if _covers(other, match))
                for match in matches
            },
        )

    def _outcome(self, matches: list[Match], settling: int) -> int:
        three_ds, channel = _SETTLED_BY[settling]
        decision = decide(self._rule_set, matches, three_ds=three_ds, channel=channel)
        return OUTCOMES.index(decision.outcome)


def _matches(rules: Iterable[Rule], matched: int, by_unknown: int) -> Iterable[Match]:
    for place, rule in enumerate(rules):
        if rule.mode is Mode.LIVE and matched >> place & 1:
            unknown = bool(by_unknown >> place & 1)
            outcome = rule.if_unknown if unknown and rule.if_unknown is not None else rule.then
            yield Match(rule, outcome, unknown)


def _covers(other: Match, match: Match) -> bool:
    """Whether one match does at least what another does: it exempts too, or it is as strict."""
    if other.rule is match.rule:
        return False
    if match.outcome is Outcome.ACCEPT:
        return other.outcome is Outcome.ACCEPT
    return OUTCOMES.index(other.outcome) >= OUTCOMES.index(match.outcome)
