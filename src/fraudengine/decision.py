"""From matches to the answer: precedence, then settlement against 3-D Secure (DESIGN.md 4.4 and 4.5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, assert_never

from . import reasons
from .cards import is_fingerprint
from .facts import Card, Transaction
from .money import format_minor
from .records import record
from .rules.ast import ChallengeOutcomes, ListEntry, Mode, Outcome, Rule, RuleSet

__all__ = [
    "Because",
    "Decision",
    "EarlierScreening",
    "Match",
    "Outcome",
    "decide",
    "engine_failure",
    "read_three_ds",
]

UNCHALLENGEABLE_CHANNELS: Final = frozenset({"moto", "recurring"})


@record
class Because:
    """One test that made a rule match: the fact, its value, and what was tested, in words.

    Of a list, `entry` is the one that held the value.
    """

    fact: str
    value: str
    test: str
    list_name: str = field(default="", compare=False)
    entry: ListEntry | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Match:
    """A rule whose condition held; `by_unknown` when it matched only through its `if_unknown`."""

    rule: Rule
    outcome: Outcome
    by_unknown: bool = False


@record
class Decision:
    """The answer: outcome, reason code, the determining rule (None: no rule decided) and every match.

    `challenge_indicator` accompanies a challenge. `three_ds` is the word that 3-D Secure's result came to.
    """

    outcome: Outcome
    code: str
    rule: Rule | None
    matches: tuple[Match, ...]
    three_ds: str = "none"
    challenge_indicator: str | None = None


# ---- precedence -----------------------------------------------------------------------------------


def decide(rule_set: RuleSet, matches: Iterable[Match], *, three_ds: str, channel: str) -> Decision:
    """The decision that the matches come to, settled against the 3-D Secure word of the transaction."""
    found = tuple(matches)
    determining = determining_match(found) if found else None
    if determining is None:
        before = Decision(rule_set.otherwise, reasons.NO_RULE_MATCHED, None, found, three_ds)
    else:
        before = Decision(determining.outcome, determining.rule.reason, determining.rule, found, three_ds)
    settled = settle(before, rule_set.challenge, channel)
    if settled.outcome is Outcome.CHALLENGE:
        indicator = settled.rule.challenge_indicator if settled.rule is not None else "04"
        return Decision(settled.outcome, settled.code, settled.rule, settled.matches, three_ds, indicator)
    return settled


def determining_match(matches: Iterable[Match]) -> Match | None:
    """The live match that decides: final refuse, accept, refuse, challenge; the smallest id within a level."""
    live = [match for match in matches if match.rule.mode is Mode.LIVE]
    if len(live) == 1:
        return live[0]
    return min(live, key=lambda match: (level(match), match.rule.id), default=None)


def level(match: Match) -> int:
    match match.outcome:
        case Outcome.REFUSE:
            return 0 if match.rule.final else 2
        case Outcome.ACCEPT:
            return 1
        case Outcome.CHALLENGE:
            return 3
        case _:
            assert_never(match.outcome)


# ---- 3-D Secure -----------------------------------------------------------------------------------


def settle(decision: Decision, outcomes: ChallengeOutcomes, channel: str) -> Decision:
    """What the decision becomes once 3-D Secure's answer is read.

    Failed or rejected authentication refuses whatever the rules said; everything else touches only a
    decided challenge.
    """
    word = decision.three_ds
    if word in ("failed", "rejected"):
        if decision.outcome is Outcome.REFUSE:
            return decision
        return _settled(decision, Outcome.REFUSE, reasons.THREE_DS_FAILED)
    if decision.outcome is not Outcome.CHALLENGE:
        return decision
    match word:
        case "authenticated":
            return _settled(decision, Outcome.ACCEPT, reasons.THREE_DS_AUTHENTICATED)
        case "attempted":
            return _become(decision, outcomes.attempted, reasons.THREE_DS_ATTEMPTED)
        case "unavailable":
            return _become(decision, outcomes.unavailable, reasons.THREE_DS_UNAVAILABLE)
        case "none" | "pending":
            if channel in UNCHALLENGEABLE_CHANNELS:
                return _become(decision, outcomes.impossible, reasons.CHALLENGE_IMPOSSIBLE)
            return decision
        case _:
            raise AssertionError(f"no such 3-D Secure word: {word}")


def _become(decision: Decision, outcome: Outcome, code: str) -> Decision:
    """A challenge that stays one keeps the reason of its rule."""
    if outcome is Outcome.CHALLENGE:
        return decision
    return _settled(decision, outcome, code)


def _settled(decision: Decision, outcome: Outcome, code: str) -> Decision:
    return Decision(outcome, code, decision.rule, decision.matches, decision.three_ds, decision.challenge_indicator)


@record
class EarlierScreening:
    """What the first screening of the same transaction id was about: a 3-D Secure result belongs to it."""

    card_identity: str
    currency: str
    minor: int


def card_identity(card: Card | None) -> str:
    """What tells one card from another: the fingerprint, else BIN, last four digits and expiry; empty for none."""
    if card is None:
        return ""
    if card.fingerprint is not None:
        return card.fingerprint
    return f"{card.bin or ''}/{card.last4 or ''}/{card.expiry or ''}"


def former_card_identity(card: Card | None) -> str | None:
    """What told the same card from another before the key was changed; None while one key is live."""
    return card.former_fingerprint if card is not None else None


# The ECI that goes with transStatus Y, A and I, per scheme. Visa's values serve every scheme but Mastercard.
# Mastercard: 02 authenticated, 07 authenticated recurring, 01 attempted, 06 exempt, 04 data only.
_ECI_VISA: Final[dict[str, frozenset[str]]] = {
    "Y": frozenset({"05"}),
    "A": frozenset({"06"}),
}
_ECI_MASTERCARD: Final[dict[str, frozenset[str]]] = {
    "Y": frozenset({"02", "07"}),
    "A": frozenset({"01"}),
}
_ECI_UNKNOWN_SCHEME: Final = {status: _ECI_VISA[status] | _ECI_MASTERCARD[status] - {"07"} for status in ("Y", "A")}
_MASTERCARD_FAMILY: Final = frozenset({"mastercard", "maestro"})

_WORDS: Final[dict[str, str]] = {
    "Y": "authenticated",
    "A": "attempted",
    "N": "failed",
    "R": "rejected",
    "U": "unavailable",
    "I": "unavailable",
    "C": "pending",
    "D": "pending",
}


def eci_agrees(status: str, eci: str | None, brand: str | None) -> bool:
    """Whether the ECI can stand beside the transStatus for a card of that scheme.

    Only Y and A claim that liability moved, so only they can be contradicted; no ECI contradicts nothing.
    """
    if eci is None or status not in ("Y", "A"):
        return True
    if brand is None:
        return eci in _ECI_UNKNOWN_SCHEME[status]
    table = _ECI_MASTERCARD if brand in _MASTERCARD_FAMILY else _ECI_VISA
    return eci in table[status]


def read_three_ds(transaction: Transaction, brand: str | None, earlier: EarlierScreening | None) -> str:
    """The word of the fact `three_ds`: what the transaction's 3-D Secure result comes to.

    A result for another card or currency, or for a lower amount than is now asked, than the first screening
    of the same transaction id had, counts as `none`; failure and rejection count always.
    """
    result = transaction.three_ds
    if result is None:
        return "none"
    word = _WORDS[result.status]
    if word in ("failed", "rejected"):
        return word
    if earlier is not None and not belongs(transaction, earlier):
        return "none"
    return word if eci_agrees(result.status, result.eci, brand) else "unavailable"


def belongs(transaction: Transaction, earlier: EarlierScreening) -> bool:
    """Whether a 3-D Secure result asked for by the earlier screening covers this transaction."""
    return (
        earlier.card_identity in (card_identity(transaction.card), former_card_identity(transaction.card))
        and transaction.amount.currency == earlier.currency
        and transaction.amount.minor <= earlier.minor
    )


def conflicts(transaction: Transaction, first: EarlierScreening) -> tuple[tuple[str, str], ...]:
    """What tells this call from the first of its transaction id, as (field, what differs); empty: the same payment.

    Cards are compared only when both calls know them in the same way, by fingerprint or masked.
    """
    found = []
    amount = transaction.amount
    if amount.currency != first.currency:
        found.append(("currency", f"was {first.currency} when this transaction was first screened"))
    elif amount.minor != first.minor:
        before = format_minor(first.minor, first.currency)
        found.append(("amount", f"was {before} {first.currency} when this transaction was first screened"))
    here = card_identity(transaction.card)
    same = first.card_identity in (here, former_card_identity(transaction.card))
    comparable = here and first.card_identity and is_fingerprint(here) == is_fingerprint(first.card_identity)
    if comparable and not same:
        found.append(("card", "was another one when this transaction was first screened"))
    return tuple(found)


def engine_failure(outcome: Outcome, three_ds: str) -> Decision:
    """The configured answer when no backend could evaluate the rules (DESIGN.md 4.9)."""
    refused = three_ds in ("failed", "rejected")
    indicator = "04" if outcome is Outcome.CHALLENGE and not refused else None
    return Decision(Outcome.REFUSE if refused else outcome, reasons.ENGINE_FAILURE, None, (), three_ds, indicator)
