"""Rules that can never match: two tests that exclude each other, or an `unless` that covers the whole `when`.

The analysis is sound and simple: what it calls impossible is, but it does not find everything that is. A
condition is read as claims (a test that must come out true, or false) that must all hold, with choices where
one of several must. Two claims on one fact are compared pairwise; a choice is impossible when each of its
branches contradicts what holds anyway. Settings without a value and contents of lists are never assumed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from ..diagnostics import Diagnostic, Span
from ..facts import CATALOGUE, FactType
from ..money import MAX_MINOR
from .ast import (
    All,
    Any,
    Compare,
    Condition,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    Literal,
    MoneyFigures,
    Not,
    OneOf,
    Op,
    Rule,
    StartsWith,
)

Leaf: TypeAlias = Compare | OneOf | StartsWith | InNetworks | InList | IsUnknown
Range: TypeAlias = dict[str, tuple[int, int]]  # by currency; integers under the empty currency

MAX_CLAIMS: Final = 200  # more tests in one rule than anyone writes: the analysis passes
_INTEGER_BOUND: Final = 10**18


@dataclass(frozen=True, slots=True)
class Claim:
    """A test that must come out true (`holds`) or false; unknown fulfils neither."""

    leaf: Leaf
    holds: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two claims that exclude each other; `second` is None when the first is impossible by itself."""

    first: Claim
    second: Claim | None


@dataclass(frozen=True, slots=True)
class _Choice:
    """One of several conditions must come out as `holds`."""

    branches: tuple[Condition, ...]
    holds: bool


def find_contradiction(rule: Rule) -> Diagnostic | None:
    """The mistake of a rule whose `when` can never be true, or is never true without its `unless`."""
    if rule.unless is None and not isinstance(rule.when, All | Any | Not):
        conflict = _single(Claim(rule.when, True, rule.when.span))
        return _describe(rule, conflict) if conflict is not None else None
    conflict = find_conflict(rule.when)
    if conflict is not None:
        return _describe(rule, conflict)
    if rule.unless is not None and rule.if_unknown is None:
        places = find_covering(rule.when, rule.unless)
        if places is not None:
            return Diagnostic(
                "never-matches",
                f"rule `{rule.id}` can never match: its `unless` holds whenever its `when` does",
                places[1],
                "narrow the `unless`, or delete the rule",
                also=((places[0], "whenever this holds"),),
            )
    return None


def _describe(rule: Rule, conflict: Conflict) -> Diagnostic:
    first, second = conflict.first, conflict.second
    if rule.if_unknown is None:
        message = f"rule `{rule.id}` can never match"
    else:
        message = f"the `when` of rule `{rule.id}` can never be true"
    if second is None:
        hint = f"no value of `{first.leaf.fact}` passes this test"
        return Diagnostic("never-matches", message, first.span, hint)
    hint = "this and the test below exclude each other; if either may hold, write `any:`"
    return Diagnostic(
        "never-matches", message, second.span, hint, also=((first.span, "this cannot hold together with it"),)
    )


def find_conflict(condition: Condition) -> Conflict | None:
    """Claims of the condition that keep it from ever being true; None when none are found."""
    return _conflict_within(condition, True, [])


def _conflict_within(condition: Condition, holds: bool, given: list[Claim]) -> Conflict | None:
    claims = list(given)
    by_fact: dict[str, list[_Said]] = {}
    for claim in given:
        by_fact.setdefault(claim.leaf.fact, []).append(_Said(claim))
    choices: list[_Choice] = []
    for part in _flatten(condition, holds):
        if isinstance(part, _Choice):
            choices.append(part)
            continue
        found = _single(part)
        if found is not None:
            return found
        for claim in _with_consequences(part):
            said = _Said(claim)
            others = by_fact.setdefault(claim.leaf.fact, [])
            for earlier in others:
                if _exclude(earlier, said):
                    return Conflict(earlier.claim, claim)
            others.append(said)
            claims.append(claim)
        if len(claims) > MAX_CLAIMS:
            return None
    for choice in choices:
        first: Conflict | None = None
        for branch in choice.branches:
            found = _conflict_within(branch, choice.holds, claims)
            if found is None:
                break  # one way out is enough
            first = first or found
        else:
            if first is not None:
                return first
    return None


def _flatten(condition: Condition, holds: bool) -> Iterator[Claim | _Choice]:
    """What must hold for the condition to come out as `holds` (De Morgan holds in Kleene's logic too)."""
    match condition:
        case All(conditions=inner) | Any(conditions=inner):
            if isinstance(condition, All) is holds:
                for part in inner:
                    yield from _flatten(part, holds)
            else:
                yield _Choice(inner, holds)
        case Not(condition=part):
            yield from _flatten(part, not holds)
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            yield Claim(condition, holds, condition.span)
        case _:
            assert_never(condition)


def _with_consequences(claim: Claim) -> Iterator[Claim]:
    """The claim and what follows from it about other facts."""
    yield claim
    match claim.leaf:
        case Compare(operand=FactRef(fact=other)):
            yield Claim(IsUnknown(other, claim.span), False, claim.span)
        case Compare(fact="amount", operand=MoneyFigures(figures=figures)):
            codes = tuple(code for code, _ in figures)
            yield Claim(OneOf("currency", FactType.CURRENCY, codes, claim.span), True, claim.span)


# ---- one claim ------------------------------------------------------------------------------------


def _single(claim: Claim) -> Conflict | None:
    """The claim by itself, when no value of its fact can fulfil it."""
    leaf = claim.leaf
    if isinstance(leaf, IsUnknown):
        spec = CATALOGUE.get(leaf.fact)
        never_unknown = spec is not None and not spec.may_be_unknown
        return Conflict(claim, None) if claim.holds and never_unknown else None
    candidates = _candidates(claim)
    if candidates is not None and not candidates:
        return Conflict(claim, None)
    ranges = _ranges(claim)
    if ranges is not None and all(low > high for low, high in ranges.values()):
        return Conflict(claim, None)
    return None


def _candidates(claim: Claim) -> frozenset[str | int] | None:
    """Every value that fulfils the claim, when they can be listed."""
    leaf = claim.leaf
    values: frozenset[str | int]
    match leaf:
        case Compare(op=Op.EQUALS, operand=Literal(value=value), type=fact_type):
            values = frozenset({value})
        case OneOf(values=some, type=fact_type):
            values = frozenset(some)
        case _:
            return None
    if fact_type is FactType.BIN:
        return None
    if claim.holds:
        return values
    if fact_type is FactType.BOOLEAN:
        return frozenset({True, False}) - values
    spec = CATALOGUE.get(leaf.fact)
    return frozenset(spec.words) - values if spec is not None and spec.words else None


def _ranges(claim: Claim) -> Range | None:
    """Between which figures the value must lie; wider than the claim where it must be, never narrower."""
    match claim.leaf:
        case Compare(fact=fact, op=op, operand=Literal(value=value), type=FactType.INTEGER):
            spec = CATALOGUE.get(fact)
            low = spec.low if spec is not None and spec.low is not None else -_INTEGER_BOUND
            high = spec.high if spec is not None and spec.high is not None else _INTEGER_BOUND
            assert not isinstance(value, str)
            return {"": _range(op, int(value), claim.holds, low, high)}
        case Compare(fact=fact, op=op, operand=MoneyFigures(figures=figures)):
            most = MAX_MINOR if fact == "amount" else _INTEGER_BOUND
            return {code: _range(op, minor, claim.holds, 0, most) for code, minor in figures}
        case _:
            return None


def _range(op: Op, figure: int, holds: bool, low: int, high: int) -> tuple[int, int]:
    match op:
        case Op.EQUALS:
            return (max(low, figure), min(high, figure)) if holds else (low, high)
        case Op.OVER:
            return (max(low, figure + 1), high) if holds else (low, min(high, figure))
        case Op.AT_LEAST:
            return (max(low, figure), high) if holds else (low, min(high, figure - 1))
        case Op.UNDER:
            return (low, min(high, figure - 1)) if holds else (max(low, figure), high)
        case Op.AT_MOST:
            return (low, min(high, figure)) if holds else (max(low, figure + 1), high)
        case _:
            assert_never(op)


# ---- two claims on one fact -----------------------------------------------------------------------


class _Said:
    """What a claim says about its fact, worked out once for all that it is compared with."""

    __slots__ = ("candidates", "claim", "ranges")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.candidates = _candidates(claim)
        self.ranges = _ranges(claim) if self.candidates is None else None


def _exclude(first: _Said, second: _Said) -> bool:
    """Whether no value of the fact, nor its absence, fulfils both claims."""
    one, other = first.claim, second.claim
    if isinstance(one.leaf, IsUnknown) or isinstance(other.leaf, IsUnknown):
        return _says_unknown(one) is not _says_unknown(other)
    if one.holds is not other.holds and one.leaf == other.leaf:
        return True
    if first.candidates is not None:
        return not any(_may_fulfil(value, other) for value in first.candidates)
    if second.candidates is not None:
        return not any(_may_fulfil(value, one) for value in second.candidates)
    left, right = first.ranges, second.ranges
    if left is not None and right is not None:
        common = left.keys() & right.keys()
        return all(max(left[code][0], right[code][0]) > min(left[code][1], right[code][1]) for code in common)
    return _prefixes_exclude(one, other) or _networks_exclude(one, other)


def _says_unknown(claim: Claim) -> bool:
    """Whether the claim holds only of an unknown fact; every other claim holds only of a known one."""
    return isinstance(claim.leaf, IsUnknown) and claim.holds


def _may_fulfil(value: str | int, claim: Claim) -> bool:
    """False only when the value certainly does not fulfil the claim."""
    match claim.leaf:
        case Compare(type=FactType.BIN) | OneOf(type=FactType.BIN):
            return True
        case Compare(op=Op.EQUALS, operand=Literal(value=other)):
            return (value == other) is claim.holds
        case OneOf(values=some):
            return (value in some) is claim.holds
        case StartsWith(prefix=Literal(value=prefix)):
            return str(value).startswith(str(prefix)) is claim.holds
        case Compare(type=FactType.INTEGER):
            ranges = _ranges(claim)
            return ranges is None or ranges[""][0] <= int(value) <= ranges[""][1]
        case _:
            return True


def _prefixes(claim: Claim) -> tuple[str, ...] | None:
    """The texts of which the value must begin with one (or with none, when the claim does not hold)."""
    match claim.leaf:
        case StartsWith(prefix=Literal(value=prefix)):
            return (str(prefix),)
        case Compare(type=FactType.BIN, op=Op.EQUALS, operand=Literal(value=prefix)):
            return (str(prefix),)
        case OneOf(type=FactType.BIN, values=some):
            return tuple(str(prefix) for prefix in some)
        case _:
            return None


def _prefixes_exclude(one: Claim, other: Claim) -> bool:
    left, right = _prefixes(one), _prefixes(other)
    if left is None or right is None or not (one.holds or other.holds):
        return False
    if one.holds and other.holds:
        return not any(a.startswith(b) or b.startswith(a) for a in left for b in right)
    wanted, barred = (left, right) if one.holds else (right, left)
    return all(any(prefix.startswith(bar) for bar in barred) for prefix in wanted)


def _networks_exclude(one: Claim, other: Claim) -> bool:
    if not isinstance(one.leaf, InNetworks) or not isinstance(other.leaf, InNetworks):
        return False
    left = [ipaddress.ip_network(text) for text in one.leaf.networks]
    right = [ipaddress.ip_network(text) for text in other.leaf.networks]
    if one.holds and other.holds:
        return not any(a.overlaps(b) for a in left for b in right)
    if not (one.holds or other.holds):
        return False
    wanted, barred = (left, right) if one.holds else (right, left)
    return all(any(_lies_in(network, bar) for bar in barred) for network in wanted)


def _lies_in(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, bar: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> bool:
    return network.version == bar.version and network.network_address in bar and network.prefixlen >= bar.prefixlen


# ---- unless ---------------------------------------------------------------------------------------


def find_covering(when: Condition, unless: Condition) -> tuple[Span, Span] | None:
    """Where `when` makes `unless` true, as a place in each; None when it may be false or unknown."""
    parts = when.conditions if isinstance(when, All) else (when,)
    for part in (when, *parts):
        if part == unless:
            return part.span, unless.span
    claims = [part for part in _flatten(when, True) if isinstance(part, Claim)]
    if len(claims) > MAX_CLAIMS:
        return None
    return _implied(unless, True, claims)


def _implied(condition: Condition, holds: bool, claims: list[Claim]) -> tuple[Span, Span] | None:
    match condition:
        case All(conditions=inner) | Any(conditions=inner):
            places = [_implied(part, holds, claims) for part in inner]
            found = next((place for place in places if place is not None), None)
            if isinstance(condition, All) is holds and None in places:
                return None
            return found
        case Not(condition=part):
            return _implied(part, not holds, claims)
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            for claim in claims:
                if claim.leaf.fact == condition.fact and _implies(claim, condition, holds):
                    return claim.span, condition.span
            return None
        case _:
            assert_never(condition)


def _implies(claim: Claim, leaf: Leaf, holds: bool) -> bool:
    """Whether the claim makes the test come out as `holds`, and not unknown."""
    if claim.leaf == leaf:
        return claim.holds is holds
    if not isinstance(leaf, IsUnknown) and (_says_unknown(claim) or not _is_decided(leaf, claim)):
        return False
    return _exclude(_Said(claim), _Said(Claim(leaf, not holds, leaf.span)))


def _is_decided(leaf: Leaf, claim: Claim) -> bool:
    """Whether the test is true or false, never unknown, whenever the claim is fulfilled."""
    match leaf:
        case Compare(operand=Literal()) | OneOf() | StartsWith(prefix=Literal()) | InNetworks() | InList():
            return True
        case Compare(operand=MoneyFigures(figures=figures)):
            ranges = _ranges(claim)
            return ranges is not None and ranges.keys() <= {code for code, _ in figures}
        case _:
            return False
