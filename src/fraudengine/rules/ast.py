"""The checked form of rules: frozen, typed, closed. Every backend starts from here and nowhere else.

`Condition` is a closed union: handle it with `match` ending in `assert_never`. Operands of an effective rule
are resolved: a `SettingRef` remains only in rules that are off because nobody gave the setting's value.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, Protocol, TypeAlias, assert_never

from ..diagnostics import Span
from ..facts import FactName, FactType, FactValue, ListKind
from .counters import Counter

RuleId = NewType("RuleId", str)
ListName = NewType("ListName", str)


class Outcome(StrEnum):
    ACCEPT = "accept"
    CHALLENGE = "challenge"
    REFUSE = "refuse"


class Mode(StrEnum):
    LIVE = "live"
    SHADOW = "shadow"
    OFF = "off"


class Op(StrEnum):
    """How a fact is compared; the values are the test words."""

    EQUALS = "equals"
    OVER = "over"
    AT_LEAST = "at_least"
    UNDER = "under"
    AT_MOST = "at_most"


# ---- operands -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    """A value written in the rule, or a setting's value: text, country, word, integer or boolean."""

    value: str | int | bool


@dataclass(frozen=True, slots=True)
class MoneyFigures:
    """One figure per currency in minor units, sorted by currency; no figure for a currency = unknown."""

    figures: tuple[tuple[str, int], ...]

    def minor_in(self, currency: str) -> int | None:
        return next((minor for code, minor in self.figures if code == currency), None)


@dataclass(frozen=True, slots=True)
class FactRef:
    """Another fact of the same transaction, of the same type."""

    fact: FactName


@dataclass(frozen=True, slots=True)
class SettingRef:
    """A setting that is not resolved yet."""

    name: str
    span: Span = field(compare=False)


Operand: TypeAlias = Literal | MoneyFigures | FactRef | SettingRef


# ---- conditions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class All:
    """True when every condition is (Kleene); true when there is none."""

    conditions: tuple[Condition, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Any:
    """True when at least one condition is (Kleene); false when there is none."""

    conditions: tuple[Condition, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    """True when the condition is false; unknown when it is unknown."""

    condition: Condition
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Compare:
    """True when the fact stands in that relation to the operand; unknown when either side is unknown.

    Equality holds for every type; the ordering words only for integers and money. Money compares within one
    currency only. On a fact of type `bin`, equality means that the fact starts with the digits.
    """

    fact: FactName
    type: FactType
    op: Op
    operand: Operand
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class OneOf:
    """True when the fact equals one of the values (text, country, word, integer)."""

    fact: FactName
    type: FactType
    values: tuple[str | int, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class StartsWith:
    """True when the text begins with the prefix, letter by letter."""

    fact: FactName
    prefix: Literal | SettingRef
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class InNetworks:
    """True when the address lies in one of the networks (CIDR, canonical; a single address is /32 or /128)."""

    fact: FactName
    networks: tuple[str, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class InList:
    """True when the fact's value is an entry of the list as of the transaction's time."""

    fact: FactName
    list_name: ListName
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class IsUnknown:
    """True when the fact has no value, false when it has: the only test that is never unknown."""

    fact: FactName
    span: Span = field(compare=False)


Condition: TypeAlias = All | Any | Not | Compare | OneOf | StartsWith | InNetworks | InList | IsUnknown


# ---- rules ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of an effective rule set; `origin` names the rule set that brought it.

    `if_unknown` is the outcome when `when` is unknown (None: the rule does not match then). `off_because` is
    set when `mode` is off, in words that a support agent reads. `challenge_indicator` is the EMV 3-D Secure
    value (03 preferred, 04 mandated) that goes with a challenge. `description_fr` is empty unless the file
    gives the description in several languages. A rule that is off only because the lists in `awaits` hold
    nothing takes `mode_when_filled` once each of them has a run-time entry (`activation`).
    """

    id: RuleId
    when: Condition
    then: Outcome
    reason: str
    description: str = ""
    unless: Condition | None = None
    if_unknown: Outcome | None = None
    final: bool = False
    mode: Mode = Mode.LIVE
    origin: str = ""
    off_because: str = ""
    challenge_indicator: str = "04"
    awaits: tuple[ListName, ...] = ()
    mode_when_filled: Mode = Mode.LIVE
    span: Span = field(compare=False, default=Span("", 0, 0, 0))
    description_fr: str = ""

    def description_in(self, language: str) -> str:
        """The description in a language, or in the one that there is."""
        return self.description_fr or self.description if language == "fr" else self.description


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A named value of a list. In force when `added_us <= as_of < expires_us`; UTC microseconds.

    `value` is normalised by kind: card fingerprint, bin digits, CIDR, alpha-2 code, lower-case e-mail …
    `source` says where it is kept: a rule file with its line, or `run-time`, where `id` names it and `scope` is
    the merchant it holds for, or `*` for all.
    """

    value: str
    reason: str = ""
    ticket: str = ""
    author: str = ""
    added_us: int | None = None
    expires_us: int | None = None
    source: str = field(default="", compare=False)
    id: int | None = None
    scope: str = ""

    def in_force(self, as_of_us: int) -> bool:
        return (self.added_us is None or self.added_us <= as_of_us) and (
            self.expires_us is None or as_of_us < self.expires_us
        )


class ListContents(Protocol):
    """What a list could hold: contains every value that `Lists.find` could find in it, and perhaps others."""

    @property
    def always(self) -> Container[FactValue]:
        """Values that an entry of a rule file holds at every instant."""
        ...

    def __contains__(self, value: object, /) -> bool: ...


class Lists(Protocol):
    """The lists of one merchant as of one instant; backends read lists only through this."""

    @property
    def hits(self) -> Sequence[object] | None:
        """What `find` found, where somebody wants to know of each entry that it was found; else None."""
        ...

    @property
    def could_hold(self) -> Mapping[ListName, ListContents]:
        """The quick answer to most look-ups."""
        ...

    def find(self, name: ListName, value: FactValue) -> ListEntry | None:
        """The entry in force that holds the value, or None."""
        ...


@dataclass(frozen=True, slots=True)
class DeclaredList:
    """A list that rules may read: what its entries are, and the entries that the rule files hold."""

    name: ListName
    kind: ListKind
    help: str = ""
    entries: tuple[ListEntry, ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class SettingValue:
    """A setting: its declared type and help, and the value in force (None: nobody filled it) and from where."""

    name: str
    type: FactType
    help: str
    value: Literal | MoneyFigures | None
    declared_in: str
    given_in: str


@dataclass(frozen=True, slots=True)
class ChallengeOutcomes:
    """What 3-D Secure's answer means once a challenge was asked (DESIGN.md 4.5)."""

    attempted: Outcome = Outcome.ACCEPT
    unavailable: Outcome = Outcome.REFUSE
    impossible: Outcome = Outcome.REFUSE


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The effective rule set of one merchant: its own file over what it extends, linked and resolved.

    `rules` holds every rule, also those that are off, sorted by id; `live_rules` those that are evaluated
    (live and shadow). `reads` are the facts that evaluation needs; `revision` is the sha256 of the content.
    """

    name: str
    description: str
    revision: str
    otherwise: Outcome
    challenge: ChallengeOutcomes
    timezone: str
    rules: tuple[Rule, ...]
    lists: Mapping[ListName, DeclaredList]
    settings: Mapping[str, SettingValue]
    metadata: Mapping[str, FactType]
    reads: frozenset[FactName]
    sources: tuple[tuple[str, str], ...] = ()  # (path, sha256 of the text) of every file it is made from
    velocity: Mapping[FactName, Counter] = field(default_factory=dict)  # declared, whether or not a rule reads it

    @property
    def evaluated_rules(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.mode is not Mode.OFF)


def walk(condition: Condition) -> Iterator[Condition]:
    """The condition and all below it, parents first."""
    yield condition
    match condition:
        case All(conditions=inner) | Any(conditions=inner):
            for part in inner:
                yield from walk(part)
        case Not(condition=part):
            yield from walk(part)
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList() | IsUnknown():
            pass
        case _:
            assert_never(condition)


def facts_read(condition: Condition) -> frozenset[FactName]:
    """Every fact that the condition reads, on either side of a comparison."""
    found: set[FactName] = set()
    for part in walk(condition):
        match part:
            case All() | Any() | Not():
                pass
            case Compare(fact=fact, operand=FactRef(fact=other)):
                found |= {fact, other}
            case Compare(fact=fact) | OneOf(fact=fact) | StartsWith(fact=fact):
                found.add(fact)
            case InNetworks(fact=fact) | InList(fact=fact) | IsUnknown(fact=fact):
                found.add(fact)
            case _:
                assert_never(part)
    return frozenset(found)
