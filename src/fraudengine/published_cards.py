"""Published 3-D Secure test cards, and what they are answered in the `test` environment.

The numbers are those of Cardinal (Visa), which the sandboxes of Cybersource, Braintree, NMI and Cielo publish for
EMV 3-D Secure 2. The first call with one of them is a challenge (reason `TEST_CARD`), whatever the rules say, so
that a gateway can try each way through 3-D Secure. The second call, which carries what the gateway's own 3-D
Secure simulator gave, is settled as in `live` (DESIGN.md 4.5). Every other card, the well-known 4111 1111 1111 1111
too, is decided by the rules alone. In `live` none of this is in force.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from .cards import CardKey, Pan
from .decision import Match, decide
from .diagnostics import Span
from .rules.ast import All, Outcome, Rule, RuleId
from .screening import Screened

REASON: Final = "TEST_CARD"


@dataclass(frozen=True, slots=True)
class PublishedCard:
    """The card of a Visa and of a Mastercard, what the simulator makes of it, and the transStatus it gives."""

    visa: str
    mastercard: str
    simulated: str
    status: str


CARDS: Final = (
    PublishedCard("4000000000002701", "5200000000002235", "authenticated without a challenge", "Y"),
    PublishedCard("4000000000002719", "5200000000002482", "attempted, the issuer takes no part", "A"),
    PublishedCard("4000000000002925", "5200000000002276", "not authenticated", "N"),
    PublishedCard("4000000000002537", "5200000000002185", "rejected by the issuer", "R"),
    PublishedCard("4000000000002313", "5200000000002268", "the issuer is unavailable", "U"),
    PublishedCard("4000000000002503", "5200000000002151", "challenged, and passed", "Y"),
    PublishedCard("4000000000002370", "5200000000002490", "challenged, and failed", "N"),
    PublishedCard("4000000000002420", "5200000000002664", "challenged, and then unavailable", "U"),
)

_RULE: Final = Rule(
    RuleId("test-card"),
    All((), Span("", 0, 0, 0)),
    Outcome.CHALLENGE,
    REASON,
    description="A published 3-D Secure test card: always a challenge in the test environment.",
    description_fr="Une carte de test 3-D Secure publiée : toujours authentifiée dans l'environnement de test.",
    origin="test environment",
)


class PublishedCards:
    """The published cards under one card key."""

    def __init__(self, key: CardKey) -> None:
        self.key = key
        pans = [Pan.parse(number) for card in CARDS for number in (card.visa, card.mastercard)]
        self._fingerprints = frozenset(pan.fingerprint(key) for pan in pans)

    def answer(self, screened: Screened) -> Screened:
        """The screening with its documented answer when its card is one of these, else as it is."""
        card = screened.transaction.card
        if card is None or card.fingerprint not in self._fingerprints:
            return screened
        match = Match(_RULE, Outcome.CHALLENGE)
        decided = decide(
            screened.ready.rule_set,
            (match,),
            three_ds=screened.decision.three_ds,
            channel=screened.transaction.channel,
        )
        return replace(screened, decision=replace(decided, matches=(match, *screened.decision.matches)))


def render_cards() -> str:
    """The table in Markdown, as the documentation holds it."""
    second = {"Y": "accept", "N": "refuse", "R": "refuse"}
    rows = [
        f"| {card.visa} | {card.mastercard} | {card.simulated} | {card.status} | "
        f"{second.get(card.status, 'as the rule set says')} |"
        for card in CARDS
    ]
    head = "| Visa | Mastercard | 3-D Secure simulates | transStatus | second answer |"
    return "\n".join([head, "|---|---|---|---|---|", *rows]) + "\n"
