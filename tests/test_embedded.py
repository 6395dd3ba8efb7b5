"""The names for notebooks: load_rules and screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraudengine import load_rules, screen
from fraudengine.cards import CardKey
from fraudengine.diagnostics import ConfigurationError, InvalidTransaction, RuleFilesRefused, UnknownMerchant

RULES = Path(__file__).parent.parent / "rules"
TRANSACTION = {
    "merchant": "carthage-market",
    "transaction_id": "T-1",
    "amount": "450.000",
    "currency": "TND",
    "card": {"masked_pan": "411111******1111", "country": "TN"},
    "ip_address": "41.226.11.9",
}


def test_decides_without_a_server() -> None:
    answer = screen(load_rules(RULES), TRANSACTION)
    assert answer["decision"] == "challenge"
    assert answer["reason"] == {
        "code": "AMOUNT_NEEDS_3DS",
        "rule": "challenge-above",
        "message": "The amount is above what the merchant takes without 3-D Secure.",
    }
    assert answer["indicators"] == {
        "card_country": "TN",
        "ip_country": "TN",
        "card_blacklisted": False,
        "three_ds": "none",
    }
    assert "screening_id" not in answer


def test_a_card_number_needs_a_card_key() -> None:
    given = {**TRANSACTION, "card": {"pan": "4111111111111111", "country": "TN"}}
    with pytest.raises(ConfigurationError, match="card_key"):
        screen(load_rules(RULES), given)
    assert screen(load_rules(RULES, card_key=CardKey(bytes(range(32)))), given)["decision"] == "challenge"


def test_says_which_field_is_wrong() -> None:
    with pytest.raises(InvalidTransaction, match="amount"):
        screen(load_rules(RULES), {**TRANSACTION, "amount": "450.0001"})


def test_unknown_merchant() -> None:
    with pytest.raises(UnknownMerchant, match="carthage-markt"):
        screen(load_rules(RULES), {**TRANSACTION, "merchant": "carthage-markt"})


def test_refuses_rules_with_mistakes(tmp_path: Path) -> None:
    (tmp_path / "platform.yaml").write_text("rule_set: platform\notherwise: acept\n")
    with pytest.raises(RuleFilesRefused, match="acept"):
        load_rules(tmp_path)
