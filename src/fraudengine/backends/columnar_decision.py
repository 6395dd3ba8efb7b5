"""From columns of matches to columns of decisions: precedence and 3-D Secure, as `fraudengine.decision` has them.

Everything is a small integer, so that ten million decisions stay small: an outcome is its place in `OUTCOMES`, the
determining match its place among the rule set's `Variant`s (-1: no rule decided), and how 3-D Secure settled it a
place in `SETTLED`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any as AnyType
from typing import Final

import ibis

from .. import reasons
from ..decision import Match, level
from ..rules.ast import ChallengeOutcomes, Mode, Outcome, Rule
from .columnar import (
    WORD_BITS,
    Columns,
    Expr,
    RuleColumns,
    bit_words,
    lower_conditions,
    lower_rule,
    read_conditions,
)

OUTCOMES: Final = (Outcome.ACCEPT, Outcome.CHALLENGE, Outcome.REFUSE)
SETTLED: Final = (
    "",  # the reason of the determining rule, or NO_RULE_MATCHED
    reasons.THREE_DS_FAILED,
    reasons.THREE_DS_AUTHENTICATED,
    reasons.THREE_DS_ATTEMPTED,
    reasons.THREE_DS_UNAVAILABLE,
    reasons.CHALLENGE_IMPOSSIBLE,
)
_NUMBER: Final = {outcome: number for number, outcome in enumerate(OUTCOMES)}


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a live rule can determine a decision: by `then`, or by `if_unknown`."""

    rule: Rule
    position: int  # among the evaluated rules
    outcome: Outcome
    by_unknown: bool | None  # None: both ways have this outcome

    @property
    def order(self) -> tuple[int, str]:
        return level(Match(self.rule, self.outcome)), self.rule.id


def list_variants(rules: Sequence[Rule]) -> tuple[Variant, ...]:
    """Every way in which these rules decide, the one that goes first first."""
    found = []
    for position, rule in enumerate(rules):
        if rule.mode is not Mode.LIVE:
            continue
        if rule.if_unknown is None or rule.if_unknown is rule.then:
            found.append(Variant(rule, position, rule.then, None if rule.if_unknown else False))
        else:
            found.append(Variant(rule, position, rule.then, False))
            found.append(Variant(rule, position, rule.if_unknown, True))
    return tuple(sorted(found, key=lambda variant: variant.order))


def determining_variant(variants: Sequence[Variant], matched: Sequence[Expr], unknown: Sequence[Expr]) -> Expr:
    """The number of the variant that decides, -1 when none does."""
    branches = []
    for number, variant in enumerate(variants):
        holds = matched[variant.position]
        if variant.rule.if_unknown is not None and variant.by_unknown is not None:
            is_unknown = unknown[variant.position]
            holds = holds & (is_unknown if variant.by_unknown else ~is_unknown)
        branches.append((holds, ibis.literal(number, "int16")))
    nothing = ibis.literal(-1, "int16")
    return ibis.cases(*branches, else_=nothing) if branches else nothing


def outcome_before_three_ds(variants: Sequence[Variant], determining: Expr, otherwise: Outcome) -> Expr:
    """The outcome that the rules come to. Variants of one level stand together, so few comparisons tell it."""
    branches = []
    for number, variant in enumerate(variants):
        if number + 1 == len(variants) or variants[number + 1].outcome is not variant.outcome:
            branches.append((determining <= number, _literal(variant.outcome)))
    none = (determining < 0, _literal(otherwise))
    return ibis.cases(none, *branches, else_=_literal(otherwise))


def _literal(outcome: Outcome) -> Expr:
    return ibis.literal(_NUMBER[outcome], "int8")


def settling(three_ds: Expr, channel: Expr) -> Expr:
    """What 3-D Secure has to say of a decision: a place in `SETTLED`, 0 for nothing."""
    impossible = three_ds.isin(["none", "pending"]) & channel.isin(["moto", "recurring"])
    cases = (
        (three_ds.isin(["failed", "rejected"]), 1),
        (three_ds == "authenticated", 2),
        (three_ds == "attempted", 3),
        (three_ds == "unavailable", 4),
        (impossible, 5),
    )
    numbered = [(holds, ibis.literal(number, "int8")) for holds, number in cases]
    return ibis.cases(*numbered, else_=ibis.literal(0, "int8"))


def settle(before: Expr, said: Expr, outcomes: ChallengeOutcomes) -> tuple[Expr, Expr]:
    """The outcome after 3-D Secure, and how it was settled, both as numbers (`fraudengine.decision.settle`)."""
    challenge, refuse = _literal(Outcome.CHALLENGE), _literal(Outcome.REFUSE)
    failed, challenged = said == 1, before == challenge
    after, how = [(failed, refuse)], [(failed & (before != refuse), ibis.literal(1, "int8"))]
    for number, outcome in (
        (2, Outcome.ACCEPT),
        (3, outcomes.attempted),
        (4, outcomes.unavailable),
        (5, outcomes.impossible),
    ):
        after.append((challenged & (said == number), _literal(outcome)))
        if outcome is not Outcome.CHALLENGE:
            how.append((challenged & (said == number), ibis.literal(number, "int8")))
    return ibis.cases(*after, else_=before), ibis.cases(*how, else_=ibis.literal(0, "int8"))


# ---- 3-D Secure -----------------------------------------------------------------------------------


def three_ds_word(status: Expr, eci: Expr, brand: Expr, belongs: Expr) -> Expr:
    """The fact `three_ds` (`decision.read_three_ds`); `belongs` says whether the result is this payment's."""
    authenticated, attempted = status == "Y", status == "A"
    mastercard = brand.isin(["mastercard", "maestro"]).fill_null(False)
    no_brand = brand.isnull()
    visa = ~mastercard & ~no_brand
    agrees = ibis.cases(
        (eci.isnull() | ~status.isin(["Y", "A"]), True),
        (authenticated & visa, eci == "05"),
        (authenticated & mastercard, eci.isin(["02", "07"])),
        (authenticated, eci.isin(["05", "02"])),
        (attempted & visa, eci == "06"),
        (attempted & mastercard, eci == "01"),
        else_=eci.isin(["06", "01"]),
    )
    return ibis.cases(
        (status.isnull(), "none"),
        (status == "N", "failed"),
        (status == "R", "rejected"),
        (~belongs, "none"),
        (~agrees, "unavailable"),
        (authenticated, "authenticated"),
        (attempted, "attempted"),
        (status.isin(["C", "D"]), "pending"),
        else_="unavailable",
    )


# ---- a rule set over a table ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DecisionRules:
    """What a rule set decides by: evaluated rules in the order of ids, and the outcomes around them."""

    rules: tuple[Rule, ...]
    otherwise: Outcome
    challenge: ChallengeOutcomes

    @property
    def variants(self) -> tuple[Variant, ...]:
        return list_variants(self.rules)

    @property
    def words(self) -> int:
        return -(-len(self.rules) // WORD_BITS)


def match_columns(decided_by: DecisionRules, columns: Columns, side: str) -> dict[str, Expr]:
    """For rule k the columns `<side>_match_k` and `<side>_unknown_k`: it matches, its condition is unknown."""
    found = {}
    for place, rule in enumerate(decided_by.rules):
        lowered = lower_rule(rule, columns)
        found[f"{side}_match_{place}"] = lowered.matched
        found[f"{side}_unknown_{place}"] = lowered.unknown
    return found


def name_conditions(
    decided_by: DecisionRules, columns: Columns, wanted: Sequence[int], named: dict[AnyType, tuple[str, Expr]]
) -> dict[int, tuple[str, str | None]]:
    """For each wanted rule, by place, the names of the columns of its `when` and `unless`.

    The conditions themselves are added to `named`, an equal one only once: the sides of a replay share most.
    """

    def name_of(condition: Expr) -> str:
        return named.setdefault(condition.op(), (f"holds_{len(named)}", condition))[0]

    found = {}
    for place in wanted:
        when, unless = lower_conditions(decided_by.rules[place], columns)
        found[place] = (name_of(when), None if unless is None else name_of(unless))
    return found


def read_named(
    decided_by: DecisionRules, table: Expr, names: Mapping[int, tuple[str, str | None]]
) -> dict[int, RuleColumns]:
    """The rules whose conditions are columns of the table under these names."""
    return {
        place: read_conditions(decided_by.rules[place], table[when], None if unless is None else table[unless])
        for place, (when, unless) in names.items()
    }


def match_words(
    decided_by: DecisionRules,
    lowered: Mapping[int, RuleColumns],
    side: str,
    guards: Mapping[str, Expr] | None = None,
) -> dict[str, Expr]:
    """Of some rules, by place: bits in `<side>_m0`, `<side>_u0` …: it matches, its condition is unknown.

    `guards` says of rules that slept at times in which rows they were awake.
    """
    nothing = ibis.literal(False)
    places = range(len(decided_by.rules))
    matched = [lowered[place].matched if place in lowered else nothing for place in places]
    for place, found in lowered.items():
        guard = (guards or {}).get(found.rule.id)
        if guard is not None:
            matched[place] = matched[place] & guard
    unknown = [lowered[place].unknown if place in lowered else nothing for place in places]
    words = {f"{side}_m{number}": word for number, word in enumerate(bit_words(matched))}
    return words | {f"{side}_u{number}": word for number, word in enumerate(bit_words(unknown))}


def add_decisions(decided_by: DecisionRules, table: Expr, side: str) -> Expr:
    """A table with `match_words` and `settling`, and the decision of each row.

    `<side>` is the outcome's number, `<side>_d` the determining variant's, `<side>_how` the place in `SETTLED`.
    """

    def bit(letter: str, place: int) -> Expr:
        word = table[f"{side}_{letter}{place // WORD_BITS}"]
        return (word & ibis.literal(1 << place % WORD_BITS, "int64")) != 0

    places = range(len(decided_by.rules))
    variants = decided_by.variants
    determining = determining_variant(variants, [bit("m", p) for p in places], [bit("u", p) for p in places])
    table = table.mutate(**{f"{side}_d": determining})
    before = outcome_before_three_ds(variants, table[f"{side}_d"], decided_by.otherwise)
    table = table.mutate(**{f"{side}_before": before})
    after, how = settle(table[f"{side}_before"], table["settling"], decided_by.challenge)
    return table.mutate(**{side: after, f"{side}_how": how}).drop(f"{side}_before")


def decision_names(decided_by: DecisionRules, side: str) -> list[str]:
    """The columns that `match_words` and `add_decisions` add."""
    words = [f"{side}_{letter}{number}" for letter in "mu" for number in range(decided_by.words)]
    return [side, f"{side}_d", f"{side}_how", *words]
