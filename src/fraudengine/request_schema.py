"""The shape of `POST /v1/screenings`: field names, types, lengths and their help.

One compiled validator checks it on the raw bytes; OpenAPI documents it from the same classes. What a value
means (an amount, a country, a card) is read afterwards, by `request`. Absent and `null` mean the same: unknown.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired, TypeAlias

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
