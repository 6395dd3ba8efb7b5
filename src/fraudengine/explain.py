"""Why each rule matched or did not, condition by condition with values, in words that a support agent reads.

The reference backend is the source of every truth here. The same explanation stands behind an answer's
`because`, `fraudengine explain`, `GET /v1/screenings/{id}?explain=true` and the report of a failed rule test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from . import french, reasons
from .backends.reference import Truth, all_of, any_of, evaluate, match_rule
from .decision import Because, Decision, Match, determining_match, level
from .explain_words import Test, entry_notes, phrase, say_fact, short_test, show, tell
from .facts import Facts
from .reasons import Language
from .rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    InList,
    InNetworks,
    IsUnknown,
    ListEntry,
    Lists,
    Mode,
    Not,
    OneOf,
    Rule,
    RuleSet,
    StartsWith,
)
from .rules.checked import DEFAULT_TIMEZONE
from .rules.counters import tell_counter

__all__ = [
    "Explanation",
    "Line",
    "LineKind",
    "RuleExplanation",
    "Verdict",
    "carrying_tests",
    "entry_notes",
    "explain_decision",
    "explain_match",
    "explain_rule",
    "show",
    "tell_tests",
]


class LineKind(StrEnum):
    """What a line of an explanation is about: one test, or how those below it count together."""

    TEST = "test"
    ALL = "all"
    ANY = "any"
    NOT = "not"


@dataclass(frozen=True, slots=True)
class Line:
    """A condition with its truth (None: unknown) and, for a test, the sentence of what it found."""

    kind: LineKind
    truth: Truth
    sentence: str
    fact: str | None = None
    parts: tuple[Line, ...] = ()


class Verdict(StrEnum):
    """What became of a rule."""

    MATCHED = "matched"
    MATCHED_BY_UNKNOWN = "matched_by_unknown"
    NOT_MATCHED = "not_matched"
    UNKNOWN = "unknown"
    RESCUED = "rescued"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class RuleExplanation:
    """One rule: what became of it, the sentence that says so, and its conditions; none for a rule that is off."""

    rule: Rule
    verdict: Verdict
    decided: bool
    sentence: str
    description: str
    when: Line | None = None
    unless: Line | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole decision in one language: a summary, then every rule, those that matched first."""

    language: Language
    summary: tuple[str, ...]
    rules: tuple[RuleExplanation, ...]


# ---- the tests that carried a truth ---------------------------------------------------------------


def explain_match(match: Match, facts: Facts, lists: Lists) -> tuple[Because, ...]:
    """The tests that made the rule match, without repeats, in the order they are written."""
    when = match.rule.when
    if isinstance(when, Compare | OneOf | StartsWith | InNetworks | InList | IsUnknown):
        return (_because(when, False, facts, lists),)  # one test carries its own truth: no need to ask for it
    found = carrying_tests(when, facts, lists)
    return tuple(dict.fromkeys([_because(test, negated, facts, lists) for test, negated in found]))


def _because(test: Test, negated: bool, facts: Facts, lists: Lists) -> Because:
    entry = _entry_met(test, facts, lists)
    words = short_test(test, facts, entry)
    list_name = test.list_name if isinstance(test, InList) else ""
    return Because(test.fact, show(facts.get(test.fact)), f"not {words}" if negated else words, list_name, entry)


def carrying_tests(condition: Condition, facts: Facts, lists: Lists) -> list[tuple[Test, bool]]:
    """The tests that give the condition its truth, each with whether a `not` stands around it."""
    return _weigh(condition, False, facts, lists)[1]


def _weigh(
    condition: Condition, negated: bool, facts: Facts, lists: Lists
) -> tuple[Truth, list[tuple[Test, bool]]]:
    """The condition's truth and the tests that carry it: of a group, those of the parts that have its truth."""
    match condition:
        case All(conditions=inner) | Any(conditions=inner):
            weighed = [_weigh(part, negated, facts, lists) for part in inner]
            truths = [truth for truth, _ in weighed]
            truth = all_of(truths) if isinstance(condition, All) else any_of(truths)
            return truth, [test for part, tests in weighed if part is truth for test in tests]
        case Not(condition=part):
            truth, tests = _weigh(part, not negated, facts, lists)
            return None if truth is None else not truth, tests
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            return evaluate(condition, facts, lists), [(condition, negated)]
        case _:
            assert_never(condition)


def tell_tests(
    condition: Condition, facts: Facts, lists: Lists, language: Language = "en", *, by_how_much: bool = False
) -> tuple[str, ...]:
    """What the tests that carried the condition's truth found: `amount 300.001 TND is over 300.000 TND`."""
    told = []
    for test, _ in carrying_tests(condition, facts, lists):
        truth = evaluate(test, facts, lists)
        entry = _entry_met(test, facts, lists)
        sentence = tell(test, truth, facts, entry, language, by_how_much=by_how_much)
        told.append(f"{say_fact(test.fact, language)} {sentence}")
    return tuple(dict.fromkeys(told))


def _entry_met(test: Test, facts: Facts, lists: Lists) -> ListEntry | None:
    value = facts.get(test.fact)
    if not isinstance(test, InList) or value is None:
        return None
    return lists.find(test.list_name, value)


# ---- rules ----------------------------------------------------------------------------------------


def explain_rule(
    rule: Rule,
    facts: Facts,
    lists: Lists,
    language: Language = "en",
    *,
    decided: bool = False,
    timezone: str = DEFAULT_TIMEZONE,
) -> RuleExplanation:
    """Why the rule matched or did not; of a rule that is off only why it is."""
    description = describe_rule(rule, language)
    if rule.mode is Mode.OFF:
        why = french.off_because(rule.off_because) if language == "fr" else rule.off_because
        sentence = phrase("off", language, why or phrase("set off", language))
        return RuleExplanation(rule, Verdict.OFF, False, sentence, description)
    match = match_rule(rule, facts, lists)
    seen = _Seen(facts, lists, language, timezone)
    when = _line(rule.when, seen)
    unless = _line(rule.unless, seen) if rule.unless is not None else None
    if match is not None:
        verdict = Verdict.MATCHED_BY_UNKNOWN if match.by_unknown else Verdict.MATCHED
    elif when.truth is False:
        verdict = Verdict.NOT_MATCHED
    elif when.truth is None and rule.if_unknown is None:
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.RESCUED
    sentence = _verdict_sentence(verdict, match, decided, language)
    return RuleExplanation(rule, verdict, decided, sentence, description, when, unless)


def describe_rule(rule: Rule, language: Language) -> str:
    """The rule's own description in that language, else what its built-in reason code says, else what there is."""
    own = rule.description_fr if language == "fr" else rule.description
    return own or reasons.sentence(rule.reason, language, rule.description)


_NO_MATCH = {
    Verdict.NOT_MATCHED: "not matched",
    Verdict.UNKNOWN: "not matched, unknown",
    Verdict.RESCUED: "rescued",
}


def _verdict_sentence(verdict: Verdict, match: Match | None, decided: bool, language: Language) -> str:
    if match is None:
        return phrase(_NO_MATCH[verdict], language)
    outcome = phrase(match.outcome.value, language)
    if match.rule.mode is Mode.SHADOW:
        return phrase("shadow", language, outcome)
    name = "matched by unknown" if match.by_unknown else "matched"
    return phrase(f"{name}, decided" if decided else name, language, outcome)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the lines of one explanation have in common."""

    facts: Facts
    lists: Lists
    language: Language
    timezone: str


def _line(condition: Condition, seen: _Seen) -> Line:
    truth = evaluate(condition, seen.facts, seen.lists)
    match condition:
        case All(conditions=inner):
            parts = tuple(_line(part, seen) for part in _flat(inner))
            return Line(LineKind.ALL, truth, phrase("all of", seen.language), parts=parts)
        case Any(conditions=inner):
            parts = tuple(_line(part, seen) for part in inner)
            return Line(LineKind.ANY, truth, phrase("any of", seen.language), parts=parts)
        case Not(condition=Not(condition=part)):
            return _line(part, seen)
        case Not(condition=All() | Any() as part):
            return Line(LineKind.NOT, truth, phrase("none of", seen.language), parts=(_line(part, seen),))
        case Not(condition=part):
            inside = _line(part, seen)
            contrary = truth is False
            sentence = phrase("opposite", seen.language, inside.sentence) if contrary else inside.sentence
            return Line(LineKind.TEST, truth, sentence, inside.fact)
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            entry = _entry_met(condition, seen.facts, seen.lists)
            sentence = tell(condition, truth, seen.facts, entry, seen.language, timezone=seen.timezone)
            return Line(LineKind.TEST, truth, sentence, condition.fact)
        case _:
            assert_never(condition)


def _flat(conditions: Iterable[Condition]) -> Iterator[Condition]:
    """Conditions that must all hold, without the grouping that `between` and nested mappings make."""
    for condition in conditions:
        if isinstance(condition, All):
            yield from _flat(condition.conditions)
        else:
            yield condition


# ---- the decision ---------------------------------------------------------------------------------


def explain_decision(
    rule_set: RuleSet, decision: Decision, facts: Facts, lists: Lists, language: Language = "en"
) -> Explanation:
    """Every rule of the rule set, and how they came to the decision."""
    determining = determining_match(decision.matches)
    decides = determining.rule.id if determining is not None else None
    explained = [
        explain_rule(rule, facts, lists, language, decided=rule.id == decides, timezone=rule_set.timezone)
        for rule in rule_set.rules
    ]
    if rule_set.velocity:
        explained = [_with_counters(one, rule_set, facts, language) for one in explained]
    explained.sort(key=_place)
    return Explanation(language, _summary(rule_set, decision, determining, language), tuple(explained))


def _with_counters(
    explained: RuleExplanation, rule_set: RuleSet, facts: Facts, language: Language
) -> RuleExplanation:
    """With what was counted beside the tests of velocity counters."""

    def told(line: Line) -> Line:
        counter = rule_set.velocity.get(line.fact) if line.fact is not None else None
        sentence = line.sentence
        if counter is not None and counter.name in facts:
            value = show(facts[counter.name])
            sentence = f"{sentence} ({tell_counter(counter, value, french=language == 'fr')})"
        return replace(line, sentence=sentence, parts=tuple(told(part) for part in line.parts))

    when = told(explained.when) if explained.when is not None else None
    unless = told(explained.unless) if explained.unless is not None else None
    return replace(explained, when=when, unless=unless)


def _place(explained: RuleExplanation) -> tuple[int, int, str]:
    """The rule that decided, other matches, trials, what did not match, what is off; by precedence within."""
    rule = explained.rule
    matched = explained.verdict in (Verdict.MATCHED, Verdict.MATCHED_BY_UNKNOWN)
    if explained.decided:
        group = 0
    elif matched:
        group = 1 if rule.mode is Mode.LIVE else 2
    else:
        group = 4 if explained.verdict is Verdict.OFF else 3
    return group, level(Match(rule, rule.then)), rule.id


def _summary(
    rule_set: RuleSet, decision: Decision, determining: Match | None, language: Language
) -> tuple[str, ...]:
    rule = decision.rule
    fallback = rule.description_in(language) if rule is not None else ""
    meaning = reasons.sentence(decision.code, language, fallback)
    lines = [phrase("decision", language, phrase(decision.outcome.value, language), decision.code, meaning)]
    before = determining.outcome if determining is not None else rule_set.otherwise
    if determining is not None:
        lines.append(phrase("decided by", language, determining.rule.id))
    else:
        lines.append(phrase("no rule", language, rule_set.otherwise.value))
    if before is not decision.outcome:
        lines.append(phrase("before 3ds", language, phrase(before.value, language)))
    lines.append(phrase("order", language))
    return tuple(lines)
