"""The one form in which history is replayed: Parquet with a column for each thing a transaction says.

Readers make it, the generator writes it, engines read it. Texts are normalised as the service normalises them. A
column that a history does not have makes its facts unknown. No card number is in it, and no digit of one beyond
BIN and last four.

- `ip_key` is the address as text whose order is the order of addresses: `4` and 8 hexadecimal digits, or `6` and
  32. Ranges, networks and prefixes become comparisons of text that every engine does alike.
- `card_expires_us` is the first instant after the card's last month of validity.
- `seq` is the order of arrival; a row is `late` when one before it has a greater `at_us`.
- `step` counts the screenings of one transaction id from 0; `first_*` say what its first screening was about,
  which a 3-D Secure result must belong to (DESIGN.md 4.5).
- `labelled_us` is when the label was known; `labelled_seq` the `seq` of the last screening recorded before that,
  which velocity counters ask of declined payments and technical failures.
- Metadata has one column for each key and type of value, such as `metadata.items:integer`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import pyarrow as pa

from ..backends import columnar
from ..lists import read_address

FORMAT_KEY: Final = b"fraudengine.history"
FORMAT: Final = b"1"

COLUMNS: Final[dict[str, pa.DataType]] = {
    "seq": pa.int64(),
    "merchant": pa.string(),
    "transaction_id": pa.string(),
    "step": pa.int32(),
    "late": pa.bool_(),
    "at_us": pa.int64(),
    "minor": pa.int64(),
    "currency": pa.string(),
    "channel": pa.string(),
    "terminal": pa.string(),
    "order_ref": pa.string(),
    "card": pa.string(),
    "card_bin": pa.string(),
    "card_last4": pa.string(),
    "card_country": pa.string(),
    "card_brand": pa.string(),
    "card_type": pa.string(),
    "card_issuer": pa.string(),
    "card_expiry": pa.string(),
    "card_expires_us": pa.int64(),
    "ip_address": pa.string(),
    "ip_key": pa.string(),
    "email": pa.string(),
    "phone": pa.string(),
    "customer": pa.string(),
    "device": pa.string(),
    "billing_country": pa.string(),
    "shipping_country": pa.string(),
    "three_ds_status": pa.string(),
    "eci": pa.string(),
    "three_ds_version": pa.string(),
    "first_card_identity": pa.string(),
    "first_currency": pa.string(),
    "first_minor": pa.int64(),
    "label": pa.string(),
    "labelled_us": pa.int64(),
    "labelled_seq": pa.int64(),
    "recorded_outcome": pa.string(),
    "recorded_code": pa.string(),
    "recorded_rule": pa.string(),
    "recorded_revision": pa.string(),
    "screening_id": pa.string(),
    "answered_us": pa.int64(),
}
"""What a history may hold; `metadata.KEY:TYPE` columns (text, integer, boolean) may follow."""

REQUIRED: Final = ("seq", "merchant", "transaction_id", "at_us", "minor", "currency")
LABELS: Final = (
    "authorised",
    "declined",
    "refunded",
    "chargeback",
    "fraud",
    "legitimate",
    "technical_failure",
)


def ip_key(address: str) -> str:
    """The address in the form of the column `ip_key`."""
    return columnar.ip_key(*read_address(address))


def expires_us(expiry: str) -> int:
    """The first instant (UTC microseconds) after the last month of validity `YYYY-MM`."""
    year, month = int(expiry[:4]), int(expiry[5:7])
    after = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return int(after.timestamp()) * 1_000_000
