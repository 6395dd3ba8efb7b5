"""What came out otherwise than a test expects: which conditions decided, and which value was off by how much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ..backends.reference import evaluate, match_rule
from ..decision import Match, Outcome, determining_match
from ..explain import Verdict, carrying_tests, explain_rule, tell_tests
from ..rules.ast import Mode, Rule
from ..screening import Screened
from .model import NO_RULE, Expectation, Failure

NEAREST: Final = 3  # rules shown that would have given what was expected


def find_failures(expect: Expectation, screened: Screened) -> tuple[Failure, ...]:
    """Each difference once; a condition that an earlier difference told is not told again."""
    told: set[str] = set()
    found = []
    for message, because in _differences(expect, screened):
        new = tuple(line for line in because if line not in told)
        told |= set(new)
        found.append(Failure(message, new))
    return tuple(found)


def _differences(expect: Expectation, screened: Screened) -> Iterator[tuple[str, list[str]]]:
    decision = screened.decision
    rules: dict[str, Rule] = {rule.id: rule for rule in screened.ready.rule_set.rules}
    matched = tuple(str(match.rule.id) for match in decision.matches)
    if expect.outcome is not None and decision.outcome is not expect.outcome:
        message = f"expected {expect.outcome}, got {decision.outcome} ({decision.code})"
        yield message, [*_what_decided(screened), *_nearest(expect.outcome, screened)]
    if expect.reason is not None and decision.code != expect.reason:
        wanted = [rule for rule in rules.values() if rule.reason == expect.reason]
        message = f"expected reason {expect.reason}, got {decision.code}"
        yield message, [*_what_decided(screened), *_tell_all(wanted, screened)]
    decided = decision.rule.id if decision.rule is not None else NO_RULE
    if expect.rule is not None and decided != expect.rule:
        wanted = [rules[rule_id] for rule_id in rules if rule_id == expect.rule]
        message = f"expected rule {expect.rule} to decide, got {decided}"
        yield message, [*_what_decided(screened), *_tell_all(wanted, screened)]
    if expect.matches is not None and matched != expect.matches:
        missing = sorted(set(expect.matches) - set(matched))
        surplus = sorted(set(matched) - set(expect.matches))
        yield (
            _said("expected other matches", missing, surplus),
            _tell_all([rules[rule_id] for rule_id in (*missing, *surplus) if rule_id in rules], screened),
        )
    reasons = tuple(sorted({match.rule.reason for match in decision.matches}))
    if expect.reasons is not None and reasons != tuple(sorted(set(expect.reasons))):
        missing = sorted(set(expect.reasons) - set(reasons))
        surplus = sorted(set(reasons) - set(expect.reasons))
        concerned = [rule for rule in rules.values() if rule.reason in (*missing, *surplus)]
        yield _said("expected other reasons", missing, surplus), _tell_all(concerned, screened)


def _said(what: str, missing: list[str], surplus: list[str]) -> str:
    parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"not expected: {', '.join(surplus)}"] * bool(
        surplus
    )
    return f"{what}; {'; '.join(parts)}"


def _what_decided(screened: Screened) -> list[str]:
    """The rule that decided and why it matched, and what 3-D Secure made of it."""
    decision = screened.decision
    determining = determining_match(decision.matches)
    if determining is None:
        lines = [f"no rule decided; `otherwise` is {screened.ready.rule_set.otherwise}"]
        before = screened.ready.rule_set.otherwise
    else:
        lines = [f"decided: {_tell(determining.rule, screened)}"]
        before = determining.outcome
    if before is not decision.outcome:
        lines.append(f"3-D Secure, {decision.three_ds}, made {decision.outcome} of {before}")
    return lines


def _nearest(outcome: Outcome, screened: Screened) -> list[str]:
    """The rules that would have given the outcome, those with the fewest conditions against it first."""
    if outcome is screened.ready.rule_set.otherwise:
        return []
    wanted = [
        rule
        for rule in screened.ready.rule_set.rules
        if rule.mode is Mode.LIVE and outcome in (rule.then, rule.if_unknown)
    ]
    wanted.sort(key=lambda rule: (*_distance(rule, screened), rule.id))
    return _tell_all(wanted[:NEAREST], screened)


def _distance(rule: Rule, screened: Screened) -> tuple[bool, int]:
    """How far a rule is from matching: nothing known to ask about is farthest, then the tests against it."""
    facts, lists = screened.facts, screened.lists
    if match_rule(rule, facts, lists) is not None:
        return False, 0
    return evaluate(rule.when, facts, lists) is None, len(carrying_tests(rule.when, facts, lists))


def _tell_all(rules: Iterable[Rule], screened: Screened) -> list[str]:
    determining = determining_match(screened.decision.matches)
    return [_tell(rule, screened) for rule in rules if determining is None or rule.id != determining.rule.id]


def _tell(rule: Rule, screened: Screened) -> str:
    """One rule: whether it matched, and the tests that made it so, with distances."""
    explained = explain_rule(rule, screened.facts, screened.lists)
    if explained.verdict is Verdict.OFF:
        return f"{rule.id} is {explained.sentence}"
    condition = rule.when
    if explained.verdict is Verdict.RESCUED and rule.unless is not None:
        condition = rule.unless
    told = tell_tests(condition, screened.facts, screened.lists, by_how_much=True)
    outranked = _outranked(rule, screened)
    return f"{rule.id} {explained.sentence}{outranked}: {'; '.join(told)}"


def _outranked(rule: Rule, screened: Screened) -> str:
    match: Match | None = next((one for one in screened.decision.matches if one.rule.id == rule.id), None)
    determining = determining_match(screened.decision.matches)
    if match is None or determining is None or rule.mode is not Mode.LIVE or determining.rule.id == rule.id:
        return ""
    return f", but {determining.rule.id} comes first"
