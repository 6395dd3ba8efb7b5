"""The transaction, its facts, and the catalogue of every fact that a rule can read.

The catalogue is the one place where a fact's name, type, origin and help stand: the rule checker, the
handbook and the JSON Schema are made from it. A fact that has no value is absent from `Facts`: unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType, TypeAlias

from .cards import CardFingerprint
from .money import Money
from .records import record

MerchantId = NewType("MerchantId", str)
FactName: TypeAlias = str
FactValue: TypeAlias = str | int | bool | Money
Facts: TypeAlias = Mapping[FactName, FactValue]
MetadataValue: TypeAlias = str | int | bool


class FactType(StrEnum):
    """The type of a fact or setting; it decides which test words apply and how a value is read."""

    MONEY = "money"
    COUNTRY = "country"
    WORD = "word"  # one of a closed set
    CURRENCY = "currency"
    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    CARD = "card"  # a card fingerprint
    BIN = "bin"  # 6 to 11 leading digits of a card number; a test means "starts with"
    IP = "ip"  # an address; a test value may also be a network (CIDR)


class ListKind(StrEnum):
    """What the entries of a list are."""

    CARD = "card"
    BIN = "bin"
    IP = "ip"
    COUNTRY = "country"
    EMAIL = "email"
    EMAIL_DOMAIN = "email_domain"
    PHONE = "phone"
    CUSTOMER = "customer"
    DEVICE = "device"


class Origin(StrEnum):
    REQUEST = "given by the gateway"
    REQUEST_OR_BIN = "given by the gateway, else the BIN table"
    IP_TABLE = "the IP table"
    DERIVED = "derived from the transaction"
    LOG = "counted in the decision log"
    TIME = "the transaction's time, in the rule set's timezone"


@dataclass(frozen=True, slots=True)
class FactSpec:
    """One row of the catalogue. `words` closes the set of values; `low`/`high` bound an integer."""

    name: FactName
    type: FactType
    origin: Origin
    help: str
    words: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    may_be_unknown: bool = True
    lists: tuple[ListKind, ...] = ()


CHANNELS: Final = ("ecommerce", "moto", "recurring")
CARD_BRANDS: Final = (
    "visa",
    "mastercard",
    "amex",
    "diners",
    "discover",
    "jcb",
    "unionpay",
    "maestro",
    "other",
)
CARD_TYPES: Final = ("credit", "debit", "prepaid", "charge")
THREE_DS: Final = ("none", "authenticated", "attempted", "failed", "rejected", "unavailable", "pending")
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_CATALOGUE: tuple[FactSpec, ...] = (
    FactSpec("amount", FactType.MONEY, Origin.REQUEST, "What the buyer pays.", may_be_unknown=False),
    FactSpec("currency", FactType.CURRENCY, Origin.REQUEST, "ISO 4217 code of the amount.", may_be_unknown=False),
    FactSpec(
        "channel",
        FactType.WORD,
        Origin.REQUEST,
        "How the order came: on the site, by mail or telephone (`moto`), or a repeat without the buyer.",
        words=CHANNELS,
        may_be_unknown=False,
    ),
    FactSpec("terminal", FactType.TEXT, Origin.REQUEST, "The merchant's terminal at the acquirer."),
    FactSpec(
        "card",
        FactType.CARD,
        Origin.REQUEST,
        "Fingerprint of the card; unknown when the gateway sends only a masked number.",
        lists=(ListKind.CARD,),
    ),
    FactSpec(
        "card_bin",
        FactType.BIN,
        Origin.REQUEST,
        "First 6 to 8 digits of the card number.",
        lists=(ListKind.BIN,),
    ),
    FactSpec("card_brand", FactType.WORD, Origin.REQUEST_OR_BIN, "Scheme on the card.", words=CARD_BRANDS),
    FactSpec("card_type", FactType.WORD, Origin.REQUEST_OR_BIN, "How the card is funded.", words=CARD_TYPES),
    FactSpec("card_issuer", FactType.TEXT, Origin.REQUEST_OR_BIN, "Name of the bank that issued the card."),
    FactSpec(
        "card_expired",
        FactType.BOOLEAN,
        Origin.DERIVED,
        "The card's last month of validity was over at the transaction's time.",
    ),
    FactSpec(
        "card_country",
        FactType.COUNTRY,
        Origin.REQUEST_OR_BIN,
        "Country that issued the card (its nationality).",
        lists=(ListKind.COUNTRY,),
    ),
    FactSpec(
        "ip_address",
        FactType.IP,
        Origin.REQUEST,
        "Internet address of the buyer.",
        lists=(ListKind.IP,),
    ),
    FactSpec(
        "ip_country",
        FactType.COUNTRY,
        Origin.IP_TABLE,
        "Country the buyer connects from.",
        lists=(ListKind.COUNTRY,),
    ),
    FactSpec(
        "email", FactType.TEXT, Origin.REQUEST, "E-mail of the buyer, in lower case.", lists=(ListKind.EMAIL,)
    ),
    FactSpec(
        "email_domain",
        FactType.TEXT,
        Origin.DERIVED,
        "What follows the @ of the e-mail.",
        lists=(ListKind.EMAIL_DOMAIN,),
    ),
    FactSpec(
        "phone",
        FactType.TEXT,
        Origin.REQUEST,
        "Telephone of the buyer as +216…; unknown when it is no valid number.",
        lists=(ListKind.PHONE,),
    ),
    FactSpec(
        "phone_country",
        FactType.COUNTRY,
        Origin.DERIVED,
        "Country of the telephone number.",
        lists=(ListKind.COUNTRY,),
    ),
    FactSpec(
        "customer",
        FactType.TEXT,
        Origin.REQUEST,
        "The merchant's own name for the customer.",
        lists=(ListKind.CUSTOMER,),
    ),
    FactSpec(
        "device",
        FactType.TEXT,
        Origin.REQUEST,
        "The buyer's device as the gateway names it.",
        lists=(ListKind.DEVICE,),
    ),
    FactSpec(
        "billing_country",
        FactType.COUNTRY,
        Origin.REQUEST,
        "Country of the billing address.",
        lists=(ListKind.COUNTRY,),
    ),
    FactSpec(
        "shipping_country",
        FactType.COUNTRY,
        Origin.REQUEST,
        "Country the goods go to.",
        lists=(ListKind.COUNTRY,),
    ),
    FactSpec(
        "three_ds",
        FactType.WORD,
        Origin.REQUEST,
        "What 3-D Secure answered; `none` before it was asked.",
        words=THREE_DS,
        may_be_unknown=False,
    ),
    FactSpec("three_ds_version", FactType.TEXT, Origin.REQUEST, "Version of 3-D Secure, such as 2.2.0."),
    FactSpec("eci", FactType.TEXT, Origin.REQUEST, "Electronic commerce indicator, two digits."),
    FactSpec(
        "hour",
        FactType.INTEGER,
        Origin.TIME,
        "Hour of the day, 0 to 23.",
        low=0,
        high=23,
        may_be_unknown=False,
    ),
    FactSpec("weekday", FactType.WORD, Origin.TIME, "Day of the week.", words=WEEKDAYS, may_be_unknown=False),
)

CATALOGUE: Final[dict[FactName, FactSpec]] = {spec.name: spec for spec in _CATALOGUE}

METADATA_PREFIX: Final = "metadata."
# Types that a rule set's `metadata:` block may declare.
METADATA_TYPES: Final = (FactType.TEXT, FactType.INTEGER, FactType.BOOLEAN, FactType.COUNTRY)


@record
class Card:
    """The card of a transaction, without its number.

    `account_range` holds up to 11 leading digits for the BIN look-up and bin lists only; it is never recorded.
    `expiry` is the last month of validity as `YYYY-MM`. `former_fingerprint` is that under the key before, while
    two keys are live and the number itself was sent; it serves list look-ups only.
    """

    fingerprint: CardFingerprint | None = None
    bin: str | None = None
    last4: str | None = None
    account_range: str | None = field(default=None, repr=False)
    country: str | None = None
    brand: str | None = None
    type: str | None = None
    issuer: str | None = None
    expiry: str | None = None
    former_fingerprint: CardFingerprint | None = field(default=None, repr=False)


@record
class ThreeDsResult:
    """What 3-D Secure answered: transStatus `status` (Y A N R U C D I), the ECI, version, and its own id."""

    status: str
    eci: str | None = None
    version: str | None = None
    ds_trans_id: str | None = None


@record
class Transaction:
    """One payment attempt as the gateway describes it, checked and normalised; `at_us` is UTC microseconds."""

    merchant: MerchantId
    transaction_id: str
    at_us: int
    amount: Money
    channel: str = "ecommerce"
    card: Card | None = None
    three_ds: ThreeDsResult | None = None
    order_ref: str | None = None
    terminal: str | None = None
    ip_address: str | None = None
    email: str | None = None
    phone: str | None = None
    customer: str | None = None
    device: str | None = None
    billing_country: str | None = None
    shipping_country: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
