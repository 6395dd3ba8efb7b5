"""A row of a history as the transaction that it was, for whoever decides one at a time: explanations and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..cards import CardFingerprint
from ..decision import EarlierScreening
from ..facts import METADATA_PREFIX, Card, MerchantId, MetadataValue, ThreeDsResult, Transaction
from ..money import Money

_CARD: Final = (
    *("card", "card_bin", "card_last4", "card_country", "card_brand", "card_type", "card_issuer", "card_expiry"),
)


def transaction_of(row: Mapping[str, Any]) -> Transaction:
    """The transaction that a row of a history describes."""
    status = row.get("three_ds_status")
    return Transaction(
        merchant=MerchantId(row["merchant"]),
        transaction_id=row["transaction_id"],
        at_us=row["at_us"],
        amount=Money(row["minor"], row["currency"]),
        channel=row.get("channel") or "ecommerce",
        card=_card_of(row),
        three_ds=ThreeDsResult(status, row.get("eci"), row.get("three_ds_version")) if status else None,
        order_ref=row.get("order_ref"),
        terminal=row.get("terminal"),
        ip_address=row.get("ip_address"),
        email=row.get("email"),
        phone=row.get("phone"),
        customer=row.get("customer"),
        device=row.get("device"),
        billing_country=row.get("billing_country"),
        shipping_country=row.get("shipping_country"),
        metadata=dict(_metadata_of(row)),
    )


def _card_of(row: Mapping[str, Any]) -> Card | None:
    if all(row.get(name) is None for name in _CARD):
        return None
    fingerprint = row.get("card")
    return Card(
        fingerprint=None if fingerprint is None else CardFingerprint(fingerprint),
        bin=row.get("card_bin"),
        last4=row.get("card_last4"),
        account_range=row.get("card_bin"),
        country=row.get("card_country"),
        brand=row.get("card_brand"),
        type=row.get("card_type"),
        issuer=row.get("card_issuer"),
        expiry=row.get("card_expiry"),
    )


def _metadata_of(row: Mapping[str, Any]) -> list[tuple[str, MetadataValue]]:
    return [
        (name.removeprefix(METADATA_PREFIX).rpartition(":")[0], value)
        for name, value in row.items()
        if name.startswith(METADATA_PREFIX) and value is not None
    ]


def earlier_of(row: Mapping[str, Any]) -> EarlierScreening | None:
    """What the first screening of the row's transaction was about; None when this is the first."""
    if row.get("first_currency") is None:
        return None
    return EarlierScreening(row["first_card_identity"] or "", row["first_currency"], row["first_minor"])
