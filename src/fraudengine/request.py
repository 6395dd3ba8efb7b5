"""The JSON of `POST /v1/screenings` as a `Transaction`, or every problem with it.

Two stages: the shape, by `request_schema` (its short way, else the compiled validator on the raw bytes), then the
meaning, by the readers below.
A reader of one field raises `InvalidTransaction`; only when one has, the rest is read again to name all problems.
No problem repeats a value that was sent, and a card number in a free text is disguised before anything keeps it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson
from pydantic import ValidationError

from .cards import CardFingerprint, CardKey, Pan, disguise_pans, find_pans, is_fingerprint, parse_masked_pan
from .contacts import normalise_email, normalise_phone
from .countries import read_country
from .diagnostics import InvalidTransaction
from .facts import CARD_TYPES, Card, MerchantId, MetadataValue, ThreeDsResult, Transaction
from .lookups import parse_ip
from .money import BY_NUMERIC, EXPONENTS, MAX_MINOR, InvalidAmount, Money, format_minor, read_minor
from .request_problems import (
    CARD_SECRET_PROBLEM,
    NotJson,
    TransactionRefused,
    is_card_secret,
    problems_of,
    safe_name,
)
from .request_schema import (
    MAX_METADATA_TEXT,
    METADATA_KEY,
    REQUEST_ADAPTER,
    CardRequest,
    ScreeningRequest,
    ThreeDsRequest,
    read_plain,
)

__all__ = ["NotJson", "TransactionRefused", "read_transaction", "transaction_from_object"]

DIGEST_BYTES: Final = 16
DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_2000_US: Final = 946_684_800_000_000

_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch
_EXPIRY: Final = re.compile(r"(20[0-9]{2})-?(0[1-9]|1[0-2])").fullmatch
_LEADING_DIGITS: Final = re.compile(r"[0-9]{6,11}").fullmatch
_LAST_FOUR: Final = re.compile(r"[0-9]{4}").fullmatch
_METADATA_KEY: Final = re.compile(METADATA_KEY).fullmatch
# Control characters, lone surrogates, line separators and the marks that reorder what a reader sees.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]").search

_BRANDS: Final[dict[str, str]] = {
    **dict.fromkeys(("visa", "vi", "visaelectron", "electron", "vpay"), "visa"),
    **dict.fromkeys(("mastercard", "mc", "master", "eurocard"), "mastercard"),
    **dict.fromkeys(("amex", "ax", "americanexpress"), "amex"),
    **dict.fromkeys(("diners", "dc", "dinersclub", "dinersclubinternational"), "diners"),
    "discover": "discover",
    "jcb": "jcb",
    **dict.fromkeys(("unionpay", "cup", "upi", "chinaunionpay"), "unionpay"),
    "maestro": "maestro",
}

_validate_json: Final[Callable[[bytes], ScreeningRequest]] = REQUEST_ADAPTER.validator.validate_json
_validate_object: Final[Callable[[object], ScreeningRequest]] = REQUEST_ADAPTER.validator.validate_python


def read_transaction(body: bytes, key: CardKey, now_us: int) -> tuple[Transaction, bytes]:
    """The transaction that a request's body describes, and the digest that a retry of it has again.

    The digest covers what was understood, not how it was written, and never the card number: key order and
    spacing do not change it. `at` counts only when it was sent. Of a key that stands twice the last one holds.
    Raises NotJson (the body is no JSON) or TransactionRefused with every problem.
    """
    plain = read_plain(body)
    if plain is not None:
        return _read(plain, key, now_us)
    try:
        values = _validate_json(body)
    except ValidationError as error:
        refused = problems_of(error)
    else:
        return _read(values, key, now_us)
    raise refused  # outside the handler, so that the refused input does not hang on as its context


def transaction_from_object(described: Mapping[str, Any], key: CardKey, now_us: int) -> tuple[Transaction, bytes]:
    """The same from an object already read: the command line, notebooks, tests."""
    try:
        values = _validate_object(dict(described))
    except ValidationError as error:
        refused = problems_of(error)
    else:
        return _read(values, key, now_us)
    raise refused


def _read(values: ScreeningRequest, key: CardKey, now_us: int) -> tuple[Transaction, bytes]:
    try:
        return _build(values, key, now_us)
    except InvalidTransaction as error:
        first = (error.field, error.problem)
    raise TransactionRefused(tuple(_every_problem(values, key, now_us)) or (first,))


def _build(values: ScreeningRequest, key: CardKey, now_us: int) -> tuple[Transaction, bytes]:
    card_values, three_ds_values, metadata = values.get("card"), values.get("three_ds"), values.get("metadata")
    if metadata:
        metadata = _read_metadata(metadata)
    texts = "|".join(_free_texts(values, card_values, three_ds_values, metadata))
    if not (texts.isascii() and texts.isprintable()) and _UNPRINTABLE(texts):
        raise InvalidTransaction("body", "a text holds a control character")
    if find_pans(texts):
        return _build(_disguised(values, key), key, now_us)

    at = values.get("at")
    at_us = _read_at(at, now_us) if at is not None else now_us
    amount = _read_amount(values["amount"], values["currency"])
    channel = values.get("channel") or "ecommerce"
    card = _read_card(card_values, key) if card_values is not None else None
    three_ds = _read_three_ds(three_ds_values) if three_ds_values is not None else None
    ip_address, email, phone = values.get("ip_address"), values.get("email"), values.get("phone")
    if ip_address is not None:
        ip_address = parse_ip(ip_address)
    if email is not None:
        email = _read_email(email)
    if phone is not None:
        phone = _read_phone(phone)
    billing, shipping = values.get("billing_country"), values.get("shipping_country")
    if billing is not None:
        billing = _read_country(billing, "billing_country")
    if shipping is not None:
        shipping = _read_country(shipping, "shipping_country")
    merchant, transaction_id, order_ref = values["merchant"], values["transaction_id"], values.get("order_ref")
    terminal, customer, device = values.get("terminal_id"), values.get("customer_id"), values.get("device_id")

    transaction = Transaction(
        MerchantId(merchant),
        transaction_id,
        at_us,
        amount,
        channel,
        card,
        three_ds,
        order_ref,
        terminal,
        ip_address,
        email,
        phone,
        customer,
        device,
        billing,
        shipping,
        metadata or {},
    )
    # INVARIANT: nothing here depends on the process, the clock or the order in which keys were sent.
    canonical = orjson.dumps(
        (
            merchant,
            transaction_id,
            None if at is None else at_us,
            amount.minor,
            amount.currency,
            channel,
            order_ref,
            terminal,
            ip_address,
            email,
            phone,
            customer,
            device,
            billing,
            shipping,
            card
            and (
                card.fingerprint,
                card.bin,
                card.last4,
                card.country,
                card.brand,
                card.type,
                card.issuer,
                card.expiry,
            ),
            three_ds and (three_ds.status, three_ds.eci, three_ds.version, three_ds.ds_trans_id),
            metadata or None,
        ),
        option=orjson.OPT_SORT_KEYS,
    )
    return transaction, hashlib.sha256(canonical).digest()[:DIGEST_BYTES]


def _every_problem(values: ScreeningRequest, key: CardKey, now_us: int) -> Iterable[tuple[str, str]]:
    """Reads each field on its own and yields (field, problem) of those that are wrong."""
    card, three_ds, metadata = values.get("card"), values.get("three_ds"), values.get("metadata")
    for name, text in _named_texts(values):
        if _UNPRINTABLE(text):
            yield name, "must not hold control characters or parts of characters (lone surrogates)"
    readings: list[Callable[[], object]] = [lambda: _read_amount(values["amount"], values["currency"])]
    if (at := values.get("at")) is not None:
        readings.append(lambda: _read_at(at, now_us))
    if card is not None:
        readings.append(lambda: _read_card(card, key))
    if three_ds is not None:
        readings.append(lambda: _read_three_ds(three_ds))
    if (ip_address := values.get("ip_address")) is not None:
        readings.append(lambda: parse_ip(ip_address))
    if (email := values.get("email")) is not None:
        readings.append(lambda: _read_email(email))
    if (billing := values.get("billing_country")) is not None:
        readings.append(lambda: _read_country(billing, "billing_country"))
    if (shipping := values.get("shipping_country")) is not None:
        readings.append(lambda: _read_country(shipping, "shipping_country"))
    for name, value in (metadata or {}).items():
        readings.append(lambda name=name, value=value: _read_metadata_value(name, value))  # type: ignore[misc]
    for reading in readings:
        try:
            reading()
        except InvalidTransaction as error:
            yield error.field, error.problem


# ---- free texts ---------------------------------------------------------------------------------------------

_TEXT_FIELDS: Final = (
    "merchant",
    "transaction_id",
    "order_ref",
    "email",
    "terminal_id",
    "customer_id",
    "device_id",
)


def _free_texts(
    values: ScreeningRequest,
    card: CardRequest | None,
    three_ds: ThreeDsRequest | None,
    metadata: Mapping[str, MetadataValue] | None,
) -> list[str]:
    """Every text that is kept as it was sent."""
    texts: list[str | None] = [
        values["merchant"],
        values["transaction_id"],
        values.get("order_ref"),
        values.get("email"),
        values.get("terminal_id"),
        values.get("customer_id"),
        values.get("device_id"),
    ]
    if card is not None:
        texts.append(card.get("issuer"))
    if three_ds is not None:
        texts += (three_ds.get("version"), three_ds.get("ds_trans_id"))
    if metadata:
        texts += [value if isinstance(value, str) else str(value) for value in metadata.values()]
    return [text for text in texts if text]


def _named_texts(values: ScreeningRequest) -> Iterable[tuple[str, str]]:
    held: Mapping[str, Any] = values
    groups: tuple[tuple[str, Mapping[str, Any], tuple[str, ...]], ...] = (
        ("", held, _TEXT_FIELDS),
        ("card.", held.get("card") or {}, ("issuer",)),
        ("three_ds.", held.get("three_ds") or {}, ("version", "ds_trans_id")),
    )
    for prefix, group, names in groups:
        for name in names:
            if isinstance(text := group.get(name), str):
                yield prefix + name, text
    for name, value in (held.get("metadata") or {}).items():
        if isinstance(value, str):
            yield f"metadata.{safe_name(name)}", value


def _disguised(values: ScreeningRequest, key: CardKey) -> ScreeningRequest:
    """The same request with every card number in a free text masked and marked; equal ones stay equal."""
    held: dict[str, Any] = dict(values)
    for name in _TEXT_FIELDS:
        if held.get(name):
            held[name] = disguise_pans(held[name], key)
    for group, names in (("card", ("issuer",)), ("three_ds", ("version", "ds_trans_id"))):
        inner: dict[str, Any] = dict(held.get(group) or {})
        for name in names:
            if inner.get(name):
                inner[name] = disguise_pans(inner[name], key)
        if inner:
            held[group] = inner
    if held.get("metadata"):
        held["metadata"] = {
            name: disguise_pans(str(value), key) if find_pans(str(value)) else value
            for name, value in held["metadata"].items()
        }
    return held  # type: ignore[return-value]  # the same keys


# ---- one field each -----------------------------------------------------------------------------------------


def _read_at(text: str, now_us: int) -> int:
    if _RFC_3339(text) is None:
        raise InvalidTransaction("at", "is a time as in 2026-11-23T10:15:00Z or 2026-11-23T11:15:00+01:00")
    try:
        since = datetime.fromisoformat(text.upper()) - _EPOCH
    except (ValueError, OverflowError):
        raise InvalidTransaction("at", "is a day or time that does not exist") from None
    at_us = since.days * DAY_US + since.seconds * 1_000_000 + since.microseconds
    if at_us > now_us + DAY_US:
        raise InvalidTransaction("at", "is more than a day in the future")
    if at_us < _YEAR_2000_US:
        raise InvalidTransaction("at", "is before the year 2000")
    return at_us


def _read_amount(text: str, currency: str) -> Money:
    code = currency if currency in EXPONENTS else BY_NUMERIC.get(currency)
    if code is None:
        code = currency.strip().upper()
        if code not in EXPONENTS:
            raise InvalidTransaction("currency", "is no ISO 4217 code such as TND or 788")
    try:
        return Money(read_minor(text, code), code)
    except InvalidAmount as error:
        problem = str(error)
    if text.startswith("-") and text[1:2].isdigit():
        problem = "must not be negative"
    elif text.isascii() and text.partition(".")[0].isdigit() and len(text.partition(".")[0]) > 15:
        problem = f"more than {format_minor(MAX_MINOR, code)} {code}, the most that is taken"
    raise InvalidTransaction("amount", problem)


def _read_card(values: CardRequest, key: CardKey) -> Card:
    number, fingerprint, masked = values.get("pan"), values.get("fingerprint"), values.get("masked_pan")
    if (number is not None) + (fingerprint is not None) + (masked is not None) != 1:
        raise InvalidTransaction("card", "takes exactly one of `pan`, `fingerprint` and `masked_pan`")
    bin_digits, last4 = values.get("bin"), values.get("last4")
    if fingerprint is None and (bin_digits is not None or last4 is not None):
        name = "bin" if bin_digits is not None else "last4"
        raise InvalidTransaction(f"card.{name}", "goes with `fingerprint` only; elsewhere the number gives it")

    account_range: str | None
    kept: CardFingerprint | None = None
    former: CardFingerprint | None = None
    if number is not None:
        pan = Pan.parse(number)
        kept, bin_digits, last4, account_range = pan.fingerprint(key), pan.bin, pan.last4, pan.account_range
        if key.former is not None:
            former = pan.fingerprint(key.former)
    elif fingerprint is not None:
        if not is_fingerprint(fingerprint):
            raise InvalidTransaction(
                "card.fingerprint", "is no card fingerprint (`fp_…`) as this engine makes them"
            )
        if bin_digits is not None and _LEADING_DIGITS(bin_digits) is None:
            raise InvalidTransaction("card.bin", "is the first 6 to 11 digits of the card number, no more")
        if last4 is not None and _LAST_FOUR(last4) is None:
            raise InvalidTransaction("card.last4", "is the last 4 digits of the card number")
        kept = CardFingerprint(fingerprint)
        account_range = bin_digits
        bin_digits = bin_digits[:8] if bin_digits is not None else None
    else:
        bin_digits, last4 = parse_masked_pan(masked or "")
        account_range = bin_digits

    country, brand, funding, expiry = (
        values.get("country"),
        values.get("brand"),
        values.get("type"),
        values.get("expiry"),
    )
    if country is not None:
        country = _read_country(country, "card.country")
    if brand is not None:
        brand = _BRANDS.get(brand) or _BRANDS.get("".join(filter(str.isalnum, brand.lower())), "other")
    if funding is not None:
        funding = funding.lower()
        if funding not in CARD_TYPES:
            raise InvalidTransaction("card.type", f"is one of {', '.join(CARD_TYPES)}; leave it out when unknown")
    if expiry is not None:
        found = _EXPIRY(expiry)
        if found is None:
            raise InvalidTransaction("card.expiry", "is the last month of validity as YYYY-MM")
        expiry = f"{found[1]}-{found[2]}"
    issuer = values.get("issuer")
    return Card(kept, bin_digits, last4, account_range, country, brand, funding, issuer, expiry, former)


def _read_three_ds(values: ThreeDsRequest) -> ThreeDsResult:
    eci = values.get("eci")
    if eci is not None:
        eci = f"{eci:02d}" if isinstance(eci, int) else eci.zfill(2)
        if len(eci) != 2 or not (eci.isascii() and eci.isdigit()):
            raise InvalidTransaction("three_ds.eci", 'is two digits, such as "05"')
    return ThreeDsResult(values["status"], eci, values.get("version"), values.get("ds_trans_id"))


def _read_country(text: str, field: str) -> str:
    code = read_country(text)
    if code is None:
        raise InvalidTransaction(field, "is no ISO 3166-1 alpha-2 country code; leave it out when unknown")
    return code


def _read_email(text: str) -> str:
    address = normalise_email(text)
    if address is None:
        raise InvalidTransaction("email", "is no e-mail address; leave it out when unknown")
    return address


_SHORTEST_PAN: Final = 13


def _read_phone(text: str) -> str | None:
    """The number as +216…, or None: a payment does not fail for a telephone number that is none."""
    found = None if find_pans(text) else normalise_phone(text)
    return None if found is not None and len(found) > _SHORTEST_PAN and find_pans(found) else found


def _read_metadata(values: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """The values that are known, by key; `null` means unknown."""
    read = {name: _read_metadata_value(name, value) for name, value in values.items()}
    return {name: value for name, value in read.items() if value is not None}


@lru_cache(maxsize=1024)  # gateways send the same few keys; a refused key raises and is not kept
def _check_metadata_key(name: str) -> None:
    if _METADATA_KEY(name) is None or find_pans(name):
        raise InvalidTransaction(
            f"metadata.{safe_name(name)}",
            "a key is 1 to 64 letters, digits, `_`, `-` or `.`, begins with a letter and holds no card number",
        )
    if is_card_secret(name, strict=False):
        raise InvalidTransaction(f"metadata.{safe_name(name)}", CARD_SECRET_PROBLEM)


def _read_metadata_value(name: str, value: object) -> MetadataValue | None:
    _check_metadata_key(name)
    match value:
        case None | bool():
            return value
        case str():
            if len(value) > MAX_METADATA_TEXT:
                problem = f"longer than {MAX_METADATA_TEXT} characters"
                raise InvalidTransaction(f"metadata.{safe_name(name)}", problem)
            return value
        case int():
            if not -(2**63) <= value < 2**63:
                raise InvalidTransaction(f"metadata.{safe_name(name)}", "does not fit in 64 bits; send it as text")
            return value
    raise InvalidTransaction(
        f"metadata.{safe_name(name)}", "is text, an integer or true/false; no decimals, lists or objects"
    )
