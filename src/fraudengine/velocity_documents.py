"""From a recorded screening's document to what counters see of it: its facts, amount, outcome, index rows.

A record holds every fact that was needed for the counters of its day (`Registry.needs`). For a counter that is
declared later the rest is derived as it was then: from the transaction itself. What only a data table knew
and nobody asked for (`card_brand`, `card_type`, `card_issuer`) stays unknown: such a counter begins to count with
the first records that hold the fact.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from .enrich import phone_country
from .facts import FactName, FactValue
from .money import Money, read_minor
from .rules.ast import Outcome
from .rules.counters import PER_FACTS
from .velocity_index import EventRow, Registry, event_rows

_GIVEN: Final = (
    "channel",
    "terminal",
    "ip_address",
    "email",
    "phone",
    "customer",
    "device",
    "billing_country",
    "shipping_country",
)
_OF_CARD: Final = {
    "card": "fingerprint",
    "card_bin": "bin",
    "card_country": "country",
    "card_brand": "brand",
    "card_type": "type",
    "card_issuer": "issuer",
}
_RECORDED: Final = frozenset(PER_FACTS) | {"three_ds"}


def facts_of_document(document: dict[str, Any]) -> dict[FactName, FactValue]:
    """The facts of a recorded screening that a counter may count per."""
    transaction = document["transaction"]
    found: dict[FactName, FactValue] = {name: transaction[name] for name in _GIVEN if name in transaction}
    card = transaction.get("card", {})
    found |= {fact: card[name] for fact, name in _OF_CARD.items() if name in card}
    if "email" in found:
        found["email_domain"] = str(found["email"]).rpartition("@")[2]
    if "phone" in found:
        country = phone_country(str(found["phone"]))
        found |= {"phone_country": country} if country is not None else {}
    recorded = document["facts"]
    return found | {name: value for name, value in recorded.items() if name in _RECORDED and value is not None}


def rows_of_document(
    registry: Registry, merchant: str, document: bytes, *, reported: bool = False
) -> tuple[EventRow, ...]:
    """The rows that a recorded screening has in the index, before its transaction's other steps are regarded."""
    series = registry.series_for(merchant)
    if not series:
        return ()
    read = orjson.loads(document)
    number, currency = read["transaction"]["amount"].split(" ")
    amount = Money(read_minor(number, currency), currency)
    outcome = Outcome(read["answer"]["decision"])
    return event_rows(series, merchant, facts_of_document(read), amount, outcome, reported=reported)
