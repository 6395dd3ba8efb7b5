"""The catalogue of built-in reason codes, each with its sentence in English and French.

Rules may name reason codes of their own; their sentence is then the rule's description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Language: TypeAlias = Literal["en", "fr"]


@dataclass(frozen=True, slots=True)
class Reason:
    """A stable code and what it says to a support agent."""

    code: str
    en: str
    fr: str

    def sentence(self, language: Language = "en") -> str:
        return self.fr if language == "fr" else self.en


NO_RULE_MATCHED: Final = "NO_RULE_MATCHED"
THREE_DS_AUTHENTICATED: Final = "THREE_DS_AUTHENTICATED"
THREE_DS_ATTEMPTED: Final = "THREE_DS_ATTEMPTED"
THREE_DS_UNAVAILABLE: Final = "THREE_DS_UNAVAILABLE"
THREE_DS_FAILED: Final = "THREE_DS_FAILED"
CHALLENGE_IMPOSSIBLE: Final = "CHALLENGE_IMPOSSIBLE"
ENGINE_FAILURE: Final = "ENGINE_FAILURE"

_REASONS: tuple[Reason, ...] = (
    Reason(
        NO_RULE_MATCHED,
        "No rule had anything against this payment.",
        "Aucune règle ne s'oppose à ce paiement.",
    ),
    Reason(
        THREE_DS_AUTHENTICATED,
        "3-D Secure authenticated the cardholder.",
        "3-D Secure a authentifié le porteur de la carte.",
    ),
    Reason(
        THREE_DS_ATTEMPTED,
        "3-D Secure was attempted, but the bank did not take part.",
        "3-D Secure a été tenté, mais la banque n'a pas participé.",
    ),
    Reason(
        THREE_DS_UNAVAILABLE,
        "3-D Secure could not be performed for this card, or its answer contradicts itself.",
        "3-D Secure n'a pas pu être effectué pour cette carte, ou sa réponse se contredit.",
    ),
    Reason(
        THREE_DS_FAILED,
        "3-D Secure did not authenticate the cardholder.",
        "3-D Secure n'a pas authentifié le porteur de la carte.",
    ),
    Reason(
        CHALLENGE_IMPOSSIBLE,
        "3-D Secure is required, but nobody is there to be challenged on this channel.",
        "3-D Secure est exigé, mais personne n'est présent pour s'authentifier sur ce canal.",
    ),
    Reason(
        ENGINE_FAILURE,
        "The rules could not be evaluated; the configured outcome was given instead.",
        "Les règles n'ont pas pu être évaluées ; la décision configurée a été rendue.",
    ),
    Reason(
        "CARD_BLACKLISTED",
        "The merchant has blacklisted this card.",
        "Le marchand a mis cette carte en liste noire.",
    ),
    Reason(
        "BIN_BLOCKED",
        "The merchant refuses this range of cards.",
        "Le marchand refuse cette plage de cartes.",
    ),
    Reason(
        "IP_BLOCKED",
        "The merchant refuses this internet address.",
        "Le marchand refuse cette adresse internet.",
    ),
    Reason(
        "EMAIL_BLOCKED",
        "The merchant refuses this e-mail address.",
        "Le marchand refuse cette adresse e-mail.",
    ),
    Reason("CUSTOMER_BLOCKED", "The merchant refuses this customer.", "Le marchand refuse ce client."),
    Reason("PHONE_BLOCKED", "The merchant refuses this telephone.", "Le marchand refuse ce téléphone."),
    Reason("DEVICE_BLOCKED", "The merchant refuses this device.", "Le marchand refuse cet appareil."),
    Reason(
        "IP_COUNTRY_BLOCKED",
        "The buyer connects from a country that the merchant does not serve.",
        "L'acheteur se connecte depuis un pays que le marchand ne sert pas.",
    ),
    Reason(
        "IP_COUNTRY_NOT_ALLOWED",
        "The buyer connects from a country outside those that the merchant serves.",
        "L'acheteur se connecte depuis un pays hors de ceux que le marchand sert.",
    ),
    Reason(
        "CARD_COUNTRY_BLOCKED",
        "The card was issued in a country whose cards the merchant refuses.",
        "La carte a été émise dans un pays dont le marchand refuse les cartes.",
    ),
    Reason(
        "CARD_COUNTRY_NOT_ALLOWED",
        "The card was issued outside the countries whose cards the merchant takes.",
        "La carte a été émise hors des pays dont le marchand accepte les cartes.",
    ),
    Reason(
        "COUNTRIES_DIFFER",
        "The card was issued in another country than the one the buyer connects from.",
        "La carte a été émise dans un autre pays que celui d'où l'acheteur se connecte.",
    ),
    Reason("CARD_EXPIRED", "The card has expired.", "La carte est expirée."),
    Reason("CARD_TYPE_BLOCKED", "The merchant refuses this type of card.", "Le marchand refuse ce type de carte."),
    Reason(
        "AMOUNT_NEEDS_3DS",
        "The amount is above what the merchant takes without 3-D Secure.",
        "Le montant dépasse ce que le marchand accepte sans 3-D Secure.",
    ),
    Reason(
        "AMOUNT_TOO_HIGH",
        "The amount is above the most that the merchant takes.",
        "Le montant dépasse le maximum que le marchand accepte.",
    ),
    Reason(
        "MERCHANT_NEEDS_3DS",
        "The merchant requires 3-D Secure for this kind of payment.",
        "Le marchand exige 3-D Secure pour ce type de paiement.",
    ),
    Reason("VELOCITY", "Too many attempts in a short time.", "Trop de tentatives en peu de temps."),
    Reason("TRUSTED_CUSTOMER", "The merchant trusts this customer.", "Le marchand fait confiance à ce client."),
    Reason("TRUSTED_CARD", "The merchant trusts this card.", "Le marchand fait confiance à cette carte."),
)

CATALOGUE: Final[dict[str, Reason]] = {reason.code: reason for reason in _REASONS}


def sentence(code: str, language: Language = "en", fallback: str = "") -> str:
    """What the code says, or `fallback` (a rule's own description) for a code of the rule set's own."""
    reason = CATALOGUE.get(code)
    return reason.sentence(language) if reason is not None else fallback or code
