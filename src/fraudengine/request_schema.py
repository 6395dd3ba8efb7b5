"""The shape of `POST /v1/screenings`: field names, types, lengths and their help.

One compiled validator checks it on the raw bytes; OpenAPI documents it from the same classes. What a value
means (an amount, a country, a card) is read afterwards, by `request`. Absent and `null` mean the same: unknown.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired, TypeAlias, cast

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, WithJsonSchema
from typing_extensions import TypedDict

MAX_METADATA_KEYS: Final = 32
MAX_METADATA_TEXT: Final = 256
METADATA_KEY: Final = r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}"

Text16: TypeAlias = Annotated[str, Field(min_length=1, max_length=16)]
Text32: TypeAlias = Annotated[str, Field(min_length=1, max_length=32)]
Text64: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
Text128: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]
Text256: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]

_CARD_EXAMPLE: Final = {"pan": "4111 1111 1111 1111"}

EXAMPLE: Final[dict[str, Any]] = {
    "merchant": "carthage-market",
    "transaction_id": "T-20261123-000187",
    "order_ref": "C-5531",
    "at": "2026-11-23T10:15:00Z",
    "amount": "450.000",
    "currency": "TND",
    "channel": "ecommerce",
    "card": _CARD_EXAMPLE,
    "ip_address": "41.226.11.9",
    "email": "amina@example.tn",
    "terminal_id": "00012",
    "customer_id": "c-77",
    "billing_country": "TN",
}

AFTER_CHALLENGE_EXAMPLE: Final[dict[str, Any]] = {
    **EXAMPLE,
    "three_ds": {
        "status": "Y",
        "eci": "05",
        "version": "2.2.0",
        "ds_trans_id": "f25084f0-5b16-4c0a-ae5d-b24808a95e4b",
    },
}


class CardRequest(TypedDict):
    """The card: exactly one of `pan`, `fingerprint` and `masked_pan`, and what the gateway knows of it.

    What the gateway sends (country, brand, type, issuer) wins over the BIN table. CVV is never accepted.
    """

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # pydantic reads it from a TypedDict
        extra="forbid",
        strict=True,
        json_schema_extra={
            "oneOf": [{"required": [name]} for name in ("pan", "fingerprint", "masked_pan")],
            "examples": [_CARD_EXAMPLE, {"masked_pan": "411111**1111", "country": "TN", "expiry": "2027-09"}],
        },
    )

    pan: NotRequired[Annotated[str, Field(max_length=64, description="Card number; never stored.")] | None]
    fingerprint: NotRequired[
        Annotated[str, Field(max_length=64, description="From `fraudengine fingerprint`: `fp_…`.")] | None
    ]
    bin: NotRequired[
        Annotated[str, Field(max_length=64, description="With `fingerprint`: first 6 to 11 digits.")] | None
    ]
    last4: NotRequired[Annotated[str, Field(max_length=64, description="With `fingerprint`.")] | None]
    masked_pan: NotRequired[
        Annotated[str, Field(max_length=64, description="Such as `411111**1111`; it has no fingerprint.")] | None
    ]
    country: NotRequired[Annotated[Text16, Field(description="Issuing country, ISO 3166-1 alpha-2.")] | None]
    brand: NotRequired[Annotated[Text64, Field(description="Scheme: visa, mastercard, amex …")] | None]
    type: NotRequired[Annotated[Text16, Field(description="credit, debit, prepaid or charge.")] | None]
    issuer: NotRequired[Annotated[Text128, Field(description="Name of the issuing bank.")] | None]
    expiry: NotRequired[Annotated[Text16, Field(description="Last month of validity, YYYY-MM or YYYYMM.")] | None]


class ThreeDsRequest(TypedDict):
    """What 3-D Secure answered for this transaction."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    status: Annotated[Literal["Y", "A", "N", "R", "U", "C", "D", "I"], Field(description="transStatus.")]
    eci: NotRequired[
        Annotated[str | int | None, Field(description='Electronic commerce indicator: "05", "5" or 5.')]
    ]
    version: NotRequired[Annotated[Text16, Field(description="Protocol version, such as 2.2.0.")] | None]
    ds_trans_id: NotRequired[Annotated[Text64, Field(description="The directory server's id.")] | None]


class ScreeningRequest(TypedDict):
    """One payment attempt. Absent and `null` mean the same: unknown."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", strict=True, json_schema_extra={"examples": [EXAMPLE, AFTER_CHALLENGE_EXAMPLE]}
    )

    merchant: Annotated[Text64, Field(description="Whose rule set decides.")]
    transaction_id: Annotated[
        Text128, Field(description="The gateway's id; sent again with a 3-D Secure result it is the next step.")
    ]
    order_ref: NotRequired[Annotated[Text128, Field(description="The merchant's order.")] | None]
    at: NotRequired[
        Annotated[
            str,
            Field(max_length=40, description="When, RFC 3339 with a zone. Left out: when the request arrives."),
            WithJsonSchema({"type": "string", "format": "date-time"}),
        ]
        | None
    ]
    amount: Annotated[str, Field(max_length=64, description="In major units, as text: `450.000`.")]
    currency: Annotated[Text16, Field(description="ISO 4217: `TND` or `788`.")]
    channel: NotRequired[
        Annotated[
            Literal["ecommerce", "moto", "recurring"],
            Field(description="How the order came; left out: ecommerce."),
        ]
        | None
    ]
    card: NotRequired[CardRequest | None]
    ip_address: NotRequired[Annotated[Text64, Field(description="The buyer's, IPv4 or IPv6.")] | None]
    email: NotRequired[Annotated[str, Field(min_length=1, max_length=254)] | None]
    phone: NotRequired[
        Annotated[str, Field(max_length=64, description="+216… ; what is no valid number becomes unknown.")] | None
    ]
    terminal_id: NotRequired[Text64 | None]
    customer_id: NotRequired[Annotated[Text128, Field(description="The merchant's name for the customer.")] | None]
    device_id: NotRequired[Text256 | None]
    billing_country: NotRequired[Annotated[Text16, Field(description="ISO 3166-1 alpha-2.")] | None]
    shipping_country: NotRequired[Annotated[Text16, Field(description="ISO 3166-1 alpha-2.")] | None]
    three_ds: NotRequired[ThreeDsRequest | None]
    metadata: NotRequired[
        Annotated[
            dict[str, Any],
            Field(max_length=MAX_METADATA_KEYS, description="Flat; rules read `metadata.KEY`."),
            WithJsonSchema(
                {
                    "type": "object",
                    "maxProperties": MAX_METADATA_KEYS,
                    "propertyNames": {"pattern": f"^{METADATA_KEY}$"},
                    "additionalProperties": {
                        "anyOf": [
                            {"type": "string", "maxLength": MAX_METADATA_TEXT},
                            {"type": "integer", "format": "int64"},
                            {"type": "boolean"},
                            {"type": "null"},
                        ]
                    },
                }
            ),
        ]
        | None
    ]


REQUEST_ADAPTER: Final[TypeAdapter[ScreeningRequest]] = TypeAdapter(ScreeningRequest)


# ---- the short way ------------------------------------------------------------------------------------------

# The longest text of each field, as the classes above say it; tests/test_request.py compares them.
LONGEST: Final[dict[str, int]] = {
    "merchant": 64,
    "transaction_id": 128,
    "order_ref": 128,
    "at": 40,
    "amount": 64,
    "currency": 16,
    "ip_address": 64,
    "email": 254,
    "phone": 64,
    "terminal_id": 64,
    "customer_id": 128,
    "device_id": 256,
    "billing_country": 16,
    "shipping_country": 16,
}
LONGEST_OF_CARD: Final[dict[str, int]] = {
    "pan": 64,
    "fingerprint": 64,
    "bin": 64,
    "last4": 64,
    "masked_pan": 64,
    "country": 16,
    "brand": 64,
    "type": 16,
    "issuer": 128,
    "expiry": 16,
}
LONGEST_OF_3DS: Final[dict[str, int]] = {"status": 1, "eci": 16, "version": 16, "ds_trans_id": 64}
_CHANNELS: Final = frozenset({"ecommerce", "moto", "recurring"})
_STATUSES: Final = frozenset("YANRUCDI")


def read_plain(body: bytes) -> ScreeningRequest | None:
    """A request of the most ordinary shape, in a third of the validator's time; None: let the validator look.

    It takes only what the validator takes, with the same values, and never says what is wrong.
    """
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if values.__class__ is not dict:
        return None
    longest = LONGEST
    for name, value in values.items():
        if value.__class__ is str:
            if 0 < len(value) <= longest.get(name, 0) or (name == "channel" and value in _CHANNELS):
                continue
        elif value.__class__ is dict:
            if name == "card":
                if _are_texts(value, LONGEST_OF_CARD):
                    continue
            elif name == "three_ds":
                if _are_texts(value, LONGEST_OF_3DS) and value.get("status") in _STATUSES:
                    continue
            elif name == "metadata" and len(value) <= MAX_METADATA_KEYS and _are_plain(value):
                continue
        return None
    if "merchant" in values and "transaction_id" in values and "amount" in values and "currency" in values:
        return cast(ScreeningRequest, values)
    return None


def _are_texts(values: dict[str, Any], longest: dict[str, int]) -> bool:
    for name, value in values.items():
        if value.__class__ is not str or not 0 < len(value) <= longest.get(name, 0):
            return False
    return True


def _are_plain(metadata: dict[str, Any]) -> bool:
    return all(value.__class__ in (str, int, bool) for value in metadata.values())
