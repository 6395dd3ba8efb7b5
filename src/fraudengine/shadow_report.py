"""What shadow rules would have done, from the decision log: each taken as live alone and the payment decided again.

Only screenings that a shadow rule matched are read, one at a time, and only sums, counts and a few examples are
kept: memory grows with the number of shadow rules, not with the log. Decided again is what was recorded (matches,
3-D Secure's word, channel) by the precedence of the revision in force then; nothing is evaluated again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import orjson

from .decision import Match, Outcome, decide
from .diagnostics import RuleFilesRefused
from .explain_recorded import answered_decision
from .log_reader import LoggedScreening, LogReader
from .rules.ast import Mode, Rule, RuleSet
from .rules.revision import read_revision
from .store import screening_id_text

EXAMPLES: Final = 3
_REVISIONS_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Example:
    """A screening that the rule would have decided otherwise."""

    screening_id: str
    at_us: int
    minor: int
    currency: str
    before: Outcome
    after: Outcome


@dataclass(slots=True)
class ShadowTally:
    """One shadow rule of one merchant; amounts are minor units by currency, `changes` by (before, after)."""

    merchant: str
    rule: Rule
    matched: int = 0
    amounts: Counter[str] = field(default_factory=Counter)
    changes: Counter[tuple[Outcome, Outcome]] = field(default_factory=Counter)
    changed_amounts: dict[tuple[Outcome, Outcome], Counter[str]] = field(default_factory=dict)
    examples: deque[Example] = field(default_factory=lambda: deque(maxlen=EXAMPLES))

    @property
    def changed(self) -> int:
        return self.changes.total()

    def add(self, screening: LoggedScreening, before: Outcome, after: Outcome) -> None:
        self.matched += 1
        self.amounts[screening.currency] += screening.minor
        if before is after:
            return
        change = before, after
        self.changes[change] += 1
        self.changed_amounts.setdefault(change, Counter())[screening.currency] += screening.minor
        shown = screening_id_text(screening.id)
        self.examples.append(Example(shown, screening.at_us, screening.minor, screening.currency, before, after))


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """`screenings` were answered in the period; `unreadable` of those that matched have rules nobody can read."""

    screenings: int
    rules: tuple[ShadowTally, ...]
    unreadable: int = 0


def report_shadow(
    log: LogReader,
    since_us: int,
    until_us: int | None = None,
    merchant: str | None = None,
    in_force: Iterable[RuleSet] = (),
) -> ShadowReport:
    """The shadow rules that matched in `[since_us, until_us)`, and those of `in_force` that matched nothing."""
    tallies: dict[tuple[str, str], ShadowTally] = {}
    for rule_set in in_force:
        for rule in rule_set.rules:
            if rule.mode is Mode.SHADOW and merchant in (None, rule_set.name):
                tallies[rule_set.name, rule.id] = ShadowTally(rule_set.name, rule)
    revisions = _Revisions(log)
    unreadable = 0
    for screening in log.with_shadow_matches(since_us, until_us, merchant):
        found = revisions.get(screening.revision)
        if found is None:
            unreadable += 1
            continue
        for rule, before, after in would_have(screening.document, found):
            key = (screening.merchant, rule.id)
            tally = tallies.setdefault(key, ShadowTally(screening.merchant, rule))
            tally.add(screening, before, after)
    ordered = sorted(tallies.values(), key=lambda tally: (tally.merchant, -tally.changed, tally.rule.id))
    return ShadowReport(log.count(since_us, until_us, merchant), tuple(ordered), unreadable)


def would_have(document: bytes, rule_set: RuleSet) -> list[tuple[Rule, Outcome, Outcome]]:
    """Each shadow rule that matched, what was answered, and what would have been with that rule live."""
    recorded = orjson.loads(document)
    decision = answered_decision(recorded["answer"], rule_set)
    channel = recorded["transaction"]["channel"]
    found = []
    for match in decision.matches:
        if match.rule.mode is Mode.SHADOW:
            matches = [_live(other) if other is match else other for other in decision.matches]
            after = decide(rule_set, matches, three_ds=decision.three_ds, channel=channel)
            found.append((match.rule, decision.outcome, after.outcome))
    return found


def _live(match: Match) -> Match:
    return replace(match, rule=replace(match.rule, mode=Mode.LIVE))


class _Revisions:
    """The rule sets of revisions, the last used kept."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._kept: OrderedDict[str, RuleSet | None] = OrderedDict()

    def get(self, revision: str) -> RuleSet | None:
        """The rule set, or None when its texts were not kept or cannot be read any more."""
        if revision in self._kept:
            self._kept.move_to_end(revision)
            return self._kept[revision]
        try:
            found = read_revision(self._log.revision_texts(revision))
        except RuleFilesRefused:
            found = None
        self._kept[revision] = found
        if len(self._kept) > _REVISIONS_KEPT:
            self._kept.popitem(last=False)
        return found
