"""Two rules of one rule set compared: one that adds nothing, one that can never decide, two that contradict.

The analysis is sound and simple, as that of `reachability`: what it says of two rules holds for every transaction,
but it does not find every such pair. Contents of lists are never assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ..diagnostics import Diagnostic, Severity
from .ast import All, Any, Condition, Mode, Not, Outcome, Rule, RuleId, facts_read
from .reachability import find_covering

MAX_PAIRS: Final = 50_000  # more than anyone writes by hand: the analysis passes


def compare_rules(rules: Sequence[Rule], own: str) -> Iterator[Diagnostic]:
    """Warnings about pairs of live rules of which at least one was brought by the rule set `own`."""
    live = [(rule, facts_read(rule.when)) for rule in rules if rule.mode is Mode.LIVE]
    mine = [item for item in live if item[0].origin == own]
    if len(mine) * len(live) > MAX_PAIRS:
        return
    said: set[tuple[str, RuleId]] = set()
    for rule, facts in mine:
        for other, other_facts in live:
            if other is rule or facts.isdisjoint(other_facts):
                continue
            if other.origin != own or rule.id < other.id:
                found = _compare(rule, other, own)
                if found is not None and (found.code, found.loser) not in said:
                    said.add((found.code, found.loser))  # one wider rule is reason enough
                    yield found.diagnostic


def _compare(one: Rule, other: Rule, own: str) -> _Finding | None:
    """What there is to say of two rules; `one` is the rule set's own."""
    forth, back = covers(one, other), covers(other, one)
    if forth and back and (one.then is other.then or Outcome.ACCEPT in (one.then, other.then)):
        return _say_same(one, other)
    if forth and _level(one) <= _level(other):
        return _say_useless(other, one, own)
    if back and _level(other) <= _level(one):
        return _say_useless(one, other, own)
    return None


def covers(wide: Rule, narrow: Rule) -> bool:
    """Whether `wide` matches, with its own outcome, whenever `narrow` matches."""
    if wide.unless is not None and wide.unless != narrow.unless:
        return False
    if narrow.if_unknown is not None and (wide.when != narrow.when or wide.if_unknown != narrow.if_unknown):
        return False
    return implies(narrow.when, wide.when)


def implies(given: Condition, wanted: Condition) -> bool:
    """Whether `wanted` is true, and not unknown, whenever `given` is true."""
    if given == wanted:
        return True
    if isinstance(given, Any):
        return all(implies(part, wanted) for part in given.conditions)
    match wanted:
        case All(conditions=parts):
            return all(implies(given, part) for part in parts)
        case Any(conditions=parts) if any(implies(given, part) for part in parts):
            return True
        case _:
            pass
    if find_covering(given, wanted) is not None:
        return True
    return isinstance(given, All) and any(implies(part, wanted) for part in given.conditions if _is_choice(part))


def _is_choice(condition: Condition) -> bool:
    return isinstance(condition, Any | Not)


def _level(rule: Rule) -> int:
    """Where the rule stands among those that match: the lowest number decides (DESIGN.md 4.4)."""
    if rule.then is Outcome.REFUSE:
        return 0 if rule.final else 2
    return 1 if rule.then is Outcome.ACCEPT else 3


def _say_same(one: Rule, other: Rule) -> _Finding:
    if one.then is other.then:
        message = f"rules `{one.id}` and `{other.id}` say the same"
        return _warning(
            "subsumed-rule", message, one, other, "the same condition and outcome", "delete one of them"
        )
    winner = min(one, other, key=_level)
    message = f"rules `{one.id}` and `{other.id}` contradict each other: one says {one.then}, one {other.then}"
    hint = f"`{winner.id}` always decides; delete one of them, or narrow it"
    return _warning("contradicting-rules", message, one, other, f"the same condition, and {other.then}", hint)


def _say_useless(narrow: Rule, wide: Rule, own: str) -> _Finding | None:
    """`narrow` never decides anything, because `wide` matches whenever it does and counts no less."""
    if wide.then is Outcome.ACCEPT and narrow.then is not Outcome.ACCEPT:
        message = f"rule `{wide.id}` accepts every payment that `{narrow.id}` would {narrow.then}"
        hint = "narrow the rule that accepts, or delete the other one"
        if wide.origin == own:
            return _warning("accept-too-wide", message, wide, narrow, f"it never gets to {narrow.then}", hint)
        return _warning("accept-too-wide", message, narrow, wide, "this rule accepts", hint)
    if narrow.origin != own:  # a rule set may be stricter than what it inherits
        return None
    hint = "delete it, or narrow the other one"
    if narrow.then is wide.then:
        message = f"rule `{narrow.id}` adds nothing: `{wide.id}` matches whenever it does, also to {wide.then}"
        return _warning("subsumed-rule", message, narrow, wide, "this rule is wider", hint)
    why = "is final and " if wide.final else ""
    message = f"rule `{narrow.id}` never gets to {narrow.then}: `{wide.id}` {why}matches whenever it does"
    return _warning("never-decides", message, narrow, wide, f"this rule says {wide.then}", hint)


def _warning(code: str, message: str, place: Rule, other: Rule, note: str, hint: str) -> _Finding:
    also = ((other.span, note),)
    loser = other if code == "accept-too-wide" and place.then is Outcome.ACCEPT else place
    return _Finding(code, loser.id, Diagnostic(code, message, place.span, hint, Severity.WARNING, also=also))


class _Finding(NamedTuple):
    """A warning, and the rule that it says to be of no use."""

    code: str
    loser: RuleId
    diagnostic: Diagnostic
