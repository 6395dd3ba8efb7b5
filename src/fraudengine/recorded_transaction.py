"""A recorded transaction as the one that was screened.

What a record does not hold: the digits of an account range beyond the BIN, and the fingerprint that a card had
under the card key before the present one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cards import CardFingerprint
from .facts import Card, MerchantId, ThreeDsResult, Transaction
from .money import Money, read_minor


def read_transaction(recorded: Mapping[str, Any]) -> Transaction:
    """The transaction of a record's `transaction` object (`screening.transaction_object`)."""
    number, currency = recorded["amount"].split(" ")
    result = recorded.get("three_ds")
    return Transaction(
        merchant=MerchantId(recorded["merchant"]),
        transaction_id=recorded["transaction_id"],
        at_us=recorded["at_us"],
        amount=Money(read_minor(number, currency), currency),
        channel=recorded["channel"],
        card=_read_card(recorded.get("card")),
        three_ds=ThreeDsResult(result["status"], result.get("eci"), result.get("version")) if result else None,
        order_ref=recorded.get("order_ref"),
        terminal=recorded.get("terminal"),
        ip_address=recorded.get("ip_address"),
        email=recorded.get("email"),
        phone=recorded.get("phone"),
        customer=recorded.get("customer"),
        device=recorded.get("device"),
        billing_country=recorded.get("billing_country"),
        shipping_country=recorded.get("shipping_country"),
        metadata=dict(recorded.get("metadata", {})),
    )


def _read_card(recorded: Mapping[str, Any] | None) -> Card | None:
    if recorded is None:
        return None
    fingerprint = recorded.get("fingerprint")
    return Card(
        fingerprint=None if fingerprint is None else CardFingerprint(fingerprint),
        bin=recorded.get("bin"),
        last4=recorded.get("last4"),
        account_range=recorded.get("bin"),
        country=recorded.get("country"),
        brand=recorded.get("brand"),
        type=recorded.get("type"),
        issuer=recorded.get("issuer"),
        expiry=recorded.get("expiry"),
    )
