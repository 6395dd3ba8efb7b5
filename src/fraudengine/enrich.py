"""A transaction becomes facts. Those that cost more than a copy are made only when the rule set reads them.

What the gateway knows wins over the tables. A look-up that fails (a data file that went bad on disk) leaves
the fact unknown and is counted in `Enricher.faults`; it never stops a payment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import phonenumbers

from .countries import read_country
from .decision import EarlierScreening, read_three_ds
from .diagnostics import DataFileError
from .facts import METADATA_PREFIX, WEEKDAYS, Card, FactName, FactType, FactValue, Transaction
from .lookups import DataFiles
from .rules.ast import RuleSet

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")

# Facts that every decision reports as indicators, whether or not a rule reads them.
INDICATORS: Final = frozenset({"card", "card_country", "ip_country", "three_ds"})
_FROM_BIN_TABLE: Final = frozenset({"card_country", "card_brand", "card_type", "card_issuer"})


class Enricher:
    """Turns transactions into facts with the data files in use."""

    def __init__(self, data: DataFiles) -> None:
        self.data = data
        self.faults = 0

    def facts(
        self, transaction: Transaction, rule_set: RuleSet, earlier: EarlierScreening | None = None
    ) -> dict[FactName, FactValue]:
        """The facts of the transaction that `rule_set` reads, without those that are unknown."""
        needed = rule_set.reads
        found: dict[FactName, FactValue] = {"amount": transaction.amount, "currency": transaction.amount.currency}
        card = transaction.card
        if card is not None:
            self._add_card(found, card, transaction, needed)
        address = transaction.ip_address
        if address is not None:
            found["ip_address"] = address
            country = self._look_up(self.data.ip_countries.country, address)
            if country is not None:
                found["ip_country"] = country
        brand = found.get("card_brand")
        found["three_ds"] = read_three_ds(transaction, brand if isinstance(brand, str) else None, earlier)
        found["channel"] = transaction.channel
        _add_given(found, transaction)
        if "phone_country" in needed and transaction.phone is not None:
            country = phone_country(transaction.phone)
            if country is not None:
                found["phone_country"] = country
        if "hour" in needed or "weekday" in needed:
            local = datetime.fromtimestamp(transaction.at_us // 1_000_000, ZoneInfo(rule_set.timezone))
            found["hour"] = local.hour
            found["weekday"] = WEEKDAYS[local.weekday()]
        if transaction.metadata:
            _add_metadata(found, transaction, rule_set)
        return found

    def _add_card(
        self,
        found: dict[FactName, FactValue],
        card: Card,
        transaction: Transaction,
        needed: frozenset[FactName],
    ) -> None:
        if card.fingerprint is not None:
            found["card"] = card.fingerprint
        if card.bin is not None:
            found["card_bin"] = card.bin
        digits = card.account_range or card.bin
        info = self._look_up(self.data.bins.look_up, digits) if digits else None
        country, brand, kind, issuer = card.country, card.brand, card.type, card.issuer
        if info is not None:
            country = info.country if country is None else country
            brand = info.brand if brand is None else brand
            kind = info.type if kind is None else kind
            issuer = info.issuer if issuer is None else issuer
        if country is not None:
            found["card_country"] = country
        if brand is not None:
            found["card_brand"] = brand
        if kind is not None:
            found["card_type"] = kind
        if issuer is not None:
            found["card_issuer"] = issuer
        if card.expiry is not None and "card_expired" in needed:
            found["card_expired"] = card_expired(card.expiry, transaction.at_us)

    def _look_up(self, table: Callable[[str], _Found | None], key: str) -> _Found | None:
        try:
            return table(key)
        except DataFileError as error:
            self.faults += 1
            _log.error("a look-up failed, the fact is unknown: %s", error)
            return None


def _add_given(found: dict[FactName, FactValue], transaction: Transaction) -> None:
    """Facts that the gateway gives as they are."""
    if transaction.terminal is not None:
        found["terminal"] = transaction.terminal
    if transaction.email is not None:
        found["email"] = transaction.email
        found["email_domain"] = transaction.email.rpartition("@")[2]
    if transaction.phone is not None:
        found["phone"] = transaction.phone
    if transaction.customer is not None:
        found["customer"] = transaction.customer
    if transaction.device is not None:
        found["device"] = transaction.device
    if transaction.billing_country is not None:
        found["billing_country"] = transaction.billing_country
    if transaction.shipping_country is not None:
        found["shipping_country"] = transaction.shipping_country
    result = transaction.three_ds
    if result is not None:
        if result.version is not None:
            found["three_ds_version"] = result.version
        if result.eci is not None:
            found["eci"] = result.eci


def _add_metadata(found: dict[FactName, FactValue], transaction: Transaction, rule_set: RuleSet) -> None:
    """Metadata as the rule set declares it; a value of another type than declared is unknown."""
    for key, fact_type in rule_set.metadata.items():
        value = transaction.metadata.get(key)
        typed = None if value is None else read_metadata(value, fact_type)
        if typed is not None:
            found[METADATA_PREFIX + key] = typed


def read_metadata(value: str | int | bool, fact_type: FactType) -> str | int | bool | None:
    """A metadata value in the declared type, or None when it is of another."""
    match fact_type:
        case FactType.BOOLEAN:
            return value if isinstance(value, bool) else None
        case FactType.INTEGER:
            return value if isinstance(value, int) and not isinstance(value, bool) else None
        case FactType.COUNTRY:
            return read_country(value) if isinstance(value, str) else None
        case _:
            return value if isinstance(value, str) else None


def card_expired(expiry: str, at_us: int) -> bool:
    """Whether the card's last month (`YYYY-MM`) was over at that instant, by UTC."""
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC)
    return (at.year, at.month) > (int(expiry[:4]), int(expiry[5:7]))


@lru_cache(maxsize=65_536)
def phone_country(phone: str) -> str | None:
    """The country of an E.164 number, or None when its prefix belongs to none or to several."""
    try:
        region = phonenumbers.region_code_for_number(phonenumbers.parse(phone))
    except phonenumbers.NumberParseException:
        return None
    return read_country(region) if region else None
