"""Which live rules no test makes match, merchant by merchant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..rules.ast import Mode, Rule, RuleId, RuleSet
from .model import RuleTestResult


@dataclass(frozen=True, slots=True)
class MerchantCoverage:
    """One merchant's live rules: those that a test of the merchant makes match, and those that none does."""

    merchant: str
    tests: int
    matched: tuple[RuleId, ...]
    unmatched: tuple[Rule, ...]

    @property
    def own_unmatched(self) -> tuple[Rule, ...]:
        """Rules of the merchant's own file, which nobody else's tests can make match."""
        return tuple(rule for rule in self.unmatched if rule.origin == self.merchant)


def measure_coverage(
    rule_sets: Mapping[str, RuleSet], results: Iterable[RuleTestResult]
) -> tuple[MerchantCoverage, ...]:
    """The coverage of each rule set by the tests that ran, in the order of names."""
    tests: dict[str, int] = {}
    matched: dict[str, set[RuleId]] = {}
    for result in results:
        tests[result.merchant] = tests.get(result.merchant, 0) + 1
        found = matched.setdefault(result.merchant, set())
        found |= {match.rule.id for match in result.screened.decision.matches}
    covered = []
    for name, rule_set in sorted(rule_sets.items()):
        live = [rule for rule in rule_set.rules if rule.mode is Mode.LIVE]
        seen = matched.get(name, set())
        covered.append(
            MerchantCoverage(
                name,
                tests.get(name, 0),
                tuple(rule.id for rule in live if rule.id in seen),
                tuple(rule for rule in live if rule.id not in seen),
            )
        )
    return tuple(covered)


def matched_by_nobody(covered: Iterable[MerchantCoverage]) -> dict[str, tuple[RuleId, ...]]:
    """By rule set, the inherited rules that are live somewhere and that no merchant's test makes match."""
    merchants = tuple(covered)
    matched = {rule_id for one in merchants for rule_id in one.matched}
    found: dict[str, set[RuleId]] = {}
    for one in merchants:
        for rule in one.unmatched:
            if rule.origin != one.merchant and rule.id not in matched:
                found.setdefault(rule.origin, set()).add(rule.id)
    return {origin: tuple(sorted(ids)) for origin, ids in sorted(found.items())}
