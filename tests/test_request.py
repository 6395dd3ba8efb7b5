"""The JSON of a screening: what it comes to, and every way in which it can be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudengine.cards import CardKey, Pan
from fraudengine.facts import Transaction
from fraudengine.money import Money
from fraudengine.request import NotJson, TransactionRefused, read_transaction, transaction_from_object
from fraudengine.request_schema import (
    AFTER_CHALLENGE_EXAMPLE,
    EXAMPLE,
    LONGEST,
    LONGEST_OF_3DS,
    LONGEST_OF_CARD,
    REQUEST_ADAPTER,
    read_plain,
)

KEY = CardKey(b"k" * 32)
NOW = 1_795_428_900_000_000  # 2026-11-23T10:15:00Z
PAN = "4111111111111111"
FINGERPRINT = Pan.parse(PAN).fingerprint(KEY)


def request(**changed: Any) -> dict[str, Any]:
    return {**EXAMPLE, **changed}


def read(described: dict[str, Any]) -> Transaction:
    return read_transaction(json.dumps(described).encode(), KEY, NOW)[0]


def digest(described: dict[str, Any], now_us: int = NOW) -> bytes:
    return read_transaction(json.dumps(described).encode(), KEY, now_us)[1]


def problems(described: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(TransactionRefused) as caught:
        read(described)
    assert caught.value.__context__ is None  # the refused input does not hang on to the error
    return dict(caught.value.problems)


# ---- what is understood -------------------------------------------------------------------------------------


def test_the_documented_example_is_read_whole() -> None:
    transaction = read(AFTER_CHALLENGE_EXAMPLE)
    assert transaction.merchant == "carthage-market"
    assert transaction.at_us == NOW
    assert transaction.amount == Money(450_000, "TND")
    assert transaction.card is not None
    assert (transaction.card.fingerprint, transaction.card.bin, transaction.card.last4) == (
        FINGERPRINT,
        "41111111",
        "1111",
    )
    assert transaction.three_ds is not None
    assert (transaction.three_ds.status, transaction.three_ds.eci) == ("Y", "05")
    assert (transaction.terminal, transaction.customer, transaction.device) == ("00012", "c-77", None)


def test_the_smallest_request() -> None:
    transaction = read({"merchant": "m", "transaction_id": "t", "amount": "0", "currency": "TND"})
    assert transaction.amount == Money(0, "TND")  # an account verification
    assert transaction.channel == "ecommerce"
    assert transaction.at_us == NOW
    assert (transaction.card, transaction.three_ds) == (None, None)


def test_null_means_unknown_like_a_field_left_out() -> None:
    optional = [name for name in EXAMPLE if name not in ("merchant", "transaction_id", "amount", "currency")]
    described = request(**dict.fromkeys([*optional, "phone", "device_id", "three_ds", "metadata"]))
    bare = {name: EXAMPLE[name] for name in EXAMPLE if name not in optional}
    assert read(described) == read(bare)
    assert digest(described) == digest(bare)


@pytest.mark.parametrize(
    ("amount", "currency", "money"),
    [
        ("450.5", "TND", Money(450_500, "TND")),
        ("450", "788", Money(450_000, "TND")),
        ("1.50", " eur ", Money(150, "EUR")),
        ("0", "JPY", Money(0, "JPY")),
        ("999999999.999", "TND", Money(999_999_999_999, "TND")),
        ("10.5", "012", Money(1_050, "DZD")),
    ],
)
def test_amounts(amount: str, currency: str, money: Money) -> None:
    assert read(request(amount=amount, currency=currency)).amount == money


@pytest.mark.parametrize(
    ("at", "at_us"),
    [
        ("2026-11-23T10:15:00Z", NOW),
        ("2026-11-23t10:15:00z", NOW),
        ("2026-11-23T11:15:00+01:00", NOW),
        ("2026-11-23T10:15:00.25Z", NOW + 250_000),
        ("2026-11-23T10:15:00.123456789Z", NOW + 123_456),
        ("2026-11-24T10:15:00Z", NOW + 86_400_000_000),
        ("2000-01-01T00:00:00Z", 946_684_800_000_000),
    ],
)
def test_times(at: str, at_us: int) -> None:
    assert read(request(at=at)).at_us == at_us


@pytest.mark.parametrize(
    ("card", "fingerprint", "bin_digits", "last4", "account_range"),
    [
        ({"pan": PAN}, FINGERPRINT, "41111111", "1111", "41111111111"),
        ({"pan": "4111-1111-1111-1111"}, FINGERPRINT, "41111111", "1111", "41111111111"),
        ({"pan": "378282246310005"}, ..., "378282", "0005", "37828224631"),
        ({"fingerprint": FINGERPRINT}, FINGERPRINT, None, None, None),
        ({"fingerprint": FINGERPRINT, "bin": "411111", "last4": "1111"}, FINGERPRINT, "411111", "1111", "411111"),
        ({"fingerprint": FINGERPRINT, "bin": "41111111111"}, FINGERPRINT, "41111111", None, "41111111111"),
        ({"masked_pan": "411111**1111"}, None, "411111", "1111", "411111"),
        ({"masked_pan": "54471423XXXX5619"}, None, "54471423", "5619", "54471423"),
    ],
)
def test_forms_of_a_card(
    card: dict[str, Any], fingerprint: Any, bin_digits: str | None, last4: str | None, account_range: str | None
) -> None:
    read_card = read(request(card=card)).card
    assert read_card is not None
    assert fingerprint is ... or read_card.fingerprint == fingerprint
    assert (read_card.bin, read_card.last4, read_card.account_range) == (bin_digits, last4, account_range)


@pytest.mark.parametrize(
    ("field", "sent", "kept"),
    [
        ("brand", "VISA", "visa"),
        ("brand", "Master Card", "mastercard"),
        ("brand", "MC", "mastercard"),
        ("brand", "American Express", "amex"),
        ("brand", "MIR", "other"),
        ("type", "PREPAID", "prepaid"),
        ("country", "uk", "GB"),
        ("expiry", "202709", "2027-09"),
        ("expiry", "2027-09", "2027-09"),
        ("issuer", "Banque de l'Habitat", "Banque de l'Habitat"),
    ],
)
def test_what_the_gateway_knows_of_the_card(field: str, sent: str, kept: str) -> None:
    card = read(request(card={"pan": PAN, field: sent})).card
    assert getattr(card, field) == kept


@pytest.mark.parametrize(("sent", "kept"), [("05", "05"), ("5", "05"), (5, "05"), (0, "00"), (None, None)])
def test_eci(sent: Any, kept: str | None) -> None:
    result = read(request(three_ds={"status": "Y", "eci": sent})).three_ds
    assert result is not None
    assert result.eci == kept


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("+21698123456", "+21698123456"),
        ("+216 98 123 456", "+21698123456"),
        ("00216 98 123 456", "+21698123456"),
        ("98 123 456", "+21698123456"),  # without its country it is read as Tunisian, as in lists
        ("12", None),
        ("unknown", None),
        ("", None),
        ("+1", None),
        ("+" + "9" * 40, None),
        ("+378282246310005", None),  # a card number
        ("+(3782) 822463 10005", None),
        ("+\uff13\uff17\uff18\uff12822463-(10005)", None),
        ("\x00", None),
    ],
)
def test_a_bad_telephone_is_unknown_and_fails_no_payment(sent: str, kept: str | None) -> None:
    assert read(request(phone=sent)).phone == kept


@pytest.mark.parametrize(
    ("field", "sent", "kept"),
    [
        ("email", "Amina.B@Example.TN", "amina.b@example.tn"),
        ("ip_address", "::ffff:41.226.11.9", "41.226.11.9"),
        ("billing_country", "tn", "TN"),
        ("shipping_country", "EL", "GR"),
        ("order_ref", "commande n° 12 — قرطاج 🛒", "commande n° 12 — قرطاج 🛒"),
    ],
)
def test_normal_forms(field: str, sent: str, kept: str) -> None:
    assert getattr(read(request(**{field: sent})), field) == kept


def test_metadata_keeps_types_and_drops_unknown_values() -> None:
    sent = {"basket": 3, "gift": False, "shop": "tunis", "note": None, "big": 2**63 - 1}
    assert read(request(metadata=sent)).metadata == {"basket": 3, "gift": False, "shop": "tunis", "big": 2**63 - 1}


# ---- the digest ---------------------------------------------------------------------------------------------


def test_a_retry_has_the_same_digest_however_it_is_written() -> None:
    described = request(metadata={"a": 1, "b": 2})
    again = dict(reversed(described.items()), metadata={"b": 2, "a": 1})
    spaced = json.dumps(again, indent=4).encode()
    assert digest(described) == read_transaction(spaced, KEY, NOW)[1]
    assert digest(described) == transaction_from_object(described, KEY, NOW)[1]
    assert len(digest(described)) == 16


def test_the_digest_does_not_depend_on_the_clock_when_no_time_was_sent() -> None:
    described = {name: value for name, value in EXAMPLE.items() if name != "at"}
    assert digest(described) == digest(described, NOW + 5_000_000)
    assert digest(described) != digest(EXAMPLE)


def test_the_digest_is_the_same_in_every_process_and_release() -> None:
    assert digest(EXAMPLE).hex() == GOLDEN_DIGEST


GOLDEN_DIGEST = "ac117d3a3f45939fae8ad70da105696e"


@pytest.mark.parametrize(
    "changed",
    [
        {"merchant": "other"},
        {"transaction_id": "T-2"},
        {"at": "2026-11-23T10:15:01Z"},
        {"amount": "450.001"},
        {"currency": "LYD"},
        {"channel": "moto"},
        {"card": {"pan": "5555555555554444"}},
        {"card": {"pan": PAN, "country": "FR"}},
        {"card": {"pan": PAN, "expiry": "2027-01"}},
        {"ip_address": "8.8.8.8"},
        {"email": "b@example.tn"},
        {"phone": "+21698123456"},
        {"device_id": "d"},
        {"customer_id": "d"},
        {"shipping_country": "TN"},
        {"three_ds": {"status": "Y"}},
        {"metadata": {"a": 1}},
        {"metadata": {"a": "1"}},
        {"metadata": {"a": True}},
    ],
    ids=str,
)
def test_another_transaction_has_another_digest(changed: dict[str, Any]) -> None:
    assert digest(request(**changed)) != digest(EXAMPLE)


# ---- what is refused ----------------------------------------------------------------------------------------

TEXT = "is text"
EMPTY = "must not be empty; leave it out when it is not known"
UNREADABLE = "must not hold control characters or parts of characters (lone surrogates)"
NO_COUNTRY = "is no ISO 3166-1 alpha-2 country code; leave it out when unknown"
FLAT = "is text, an integer or true/false; no decimals, lists or objects"
SECRET = "is never accepted: CVV, PIN and track data must not be sent (PCI DSS 3.3.1)"
WHICH_CARD = "takes exactly one of `pan`, `fingerprint` and `masked_pan`"
NO_NUMBER = "a card number is 12 to 19 digits, with single spaces or dashes between at most"
NO_TIME = "is a time as in 2026-11-23T10:15:00Z or 2026-11-23T11:15:00+01:00"
AS_DIGITS = "write the amount as digits with a point, such as 12.500"
AS_TEXT = 'is text in major units, such as "450.000"; a JSON number would lose decimals'
TOO_MUCH = "more than 999999999.999 TND, the most that is taken"
NO_ADDRESS = "write one IPv4 or IPv6 address, such as 41.226.11.9, without port, zone or spaces"
NO_EMAIL = "is no e-mail address; leave it out when unknown"
TWO_DIGITS = 'is two digits, such as "05"'
KEY_FORM = "a key is 1 to 64 letters, digits, `_`, `-` or `.`, begins with a letter and holds no card number"


@pytest.mark.parametrize(
    ("changed", "field", "problem"),
    [
        ({"merchant": 7}, "merchant", TEXT),
        ({"merchant": None}, "merchant", TEXT),
        ({"merchant": ""}, "merchant", EMPTY),
        ({"merchant": "m" * 65}, "merchant", "longer than 64 characters"),
        ({"transaction_id": ""}, "transaction_id", EMPTY),
        ({"transaction_id": "t" * 129}, "transaction_id", "longer than 128 characters"),
        ({"transaction_id": "a\nb"}, "transaction_id", UNREADABLE),
        ({"order_ref": "a\x00"}, "order_ref", UNREADABLE),
        ({"order_ref": "a\u202eb"}, "order_ref", UNREADABLE),
        ({"order_ref": ["x"]}, "order_ref", TEXT),
        ({"at": 1_795_428_900}, "at", TEXT),
        ({"at": "2026-11-23T10:15:00"}, "at", NO_TIME),
        ({"at": "2026-11-23"}, "at", NO_TIME),
        ({"at": "20261123T101500Z"}, "at", NO_TIME),
        ({"at": "2026-13-23T10:15:00Z"}, "at", "is a day or time that does not exist"),
        ({"at": "2026-11-23T10:15:60Z"}, "at", "is a day or time that does not exist"),
        ({"at": "2026-11-24T10:15:00.000001Z"}, "at", "is more than a day in the future"),
        ({"at": "1999-12-31T23:59:59Z"}, "at", "is before the year 2000"),
        ({"at": "0001-01-01T00:00:00+23:00"}, "at", "is before the year 2000"),
        ({"amount": 450}, "amount", AS_TEXT),
        ({"amount": 450.5}, "amount", AS_TEXT),
        ({"amount": None}, "amount", AS_TEXT),
        ({"amount": ""}, "amount", AS_DIGITS),
        ({"amount": "NaN"}, "amount", AS_DIGITS),
        ({"amount": "Infinity"}, "amount", AS_DIGITS),
        ({"amount": "1e3"}, "amount", AS_DIGITS),
        ({"amount": "1,5"}, "amount", AS_DIGITS),
        ({"amount": " 1"}, "amount", AS_DIGITS),
        ({"amount": "٣"}, "amount", AS_DIGITS),
        ({"amount": "-1"}, "amount", "must not be negative"),
        ({"amount": "-0.001"}, "amount", "must not be negative"),
        ({"amount": "1.2345"}, "amount", "TND has 3 decimals, not 4"),
        ({"amount": "1.5", "currency": "JPY"}, "amount", "JPY has 0 decimals, not 1"),
        ({"amount": "1000000000"}, "amount", TOO_MUCH),
        ({"amount": "9" * 40}, "amount", TOO_MUCH),
        ({"amount": "9" * 65}, "amount", "longer than 64 characters"),
        ({"currency": "XXX"}, "currency", "is no ISO 4217 code such as TND or 788"),
        ({"currency": "999"}, "currency", "is no ISO 4217 code such as TND or 788"),
        ({"currency": 788}, "currency", TEXT),
        ({"channel": "shop"}, "channel", "is one of `ecommerce`, `moto` or `recurring`"),
        ({"card": PAN}, "card", "is an object"),
        ({"card": {}}, "card", WHICH_CARD),
        ({"card": {"pan": PAN, "masked_pan": "411111**1111"}}, "card", WHICH_CARD),
        ({"card": {"pan": int(PAN)}}, "card.pan", TEXT),
        ({"card": {"pan": "4111"}}, "card.pan", NO_NUMBER),
        ({"card": {"pan": "4111111111111112"}}, "card.pan", ...),
        ({"card": {"pan": PAN, "last4": "1111"}}, "card.last4", ...),
        ({"card": {"masked_pan": PAN}}, "card.masked_pan", ...),
        ({"card": {"fingerprint": PAN}}, "card.fingerprint", ...),
        ({"card": {"fingerprint": FINGERPRINT, "bin": PAN}}, "card.bin", ...),
        ({"card": {"fingerprint": FINGERPRINT, "last4": "11"}}, "card.last4", ...),
        ({"card": {"pan": PAN, "expiry": "09/27"}}, "card.expiry", "is the last month of validity as YYYY-MM"),
        ({"card": {"pan": PAN, "expiry": "2027-13"}}, "card.expiry", "is the last month of validity as YYYY-MM"),
        ({"card": {"pan": PAN, "type": "gold"}}, "card.type", ...),
        ({"card": {"pan": PAN, "country": "XX"}}, "card.country", NO_COUNTRY),
        ({"card": {"pan": PAN, "cvv": "123"}}, "card.cvv", SECRET),
        ({"card": {"pan": PAN, "CVC2": "123"}}, "card.CVC2", SECRET),
        ({"card": {"pan": PAN, "cid": "123"}}, "card.cid", SECRET),
        ({"cvv2": "123"}, "cvv2", SECRET),
        ({"card_cvc": "123"}, "card_cvc", SECRET),
        ({"metadata": {"security-code": "123"}}, "metadata.security-code", SECRET),
        ({"metadata": {"track2": "123"}}, "metadata.track2", SECRET),
        ({"card": {"pna": PAN}}, "card.pna", "unknown field; did you mean `pan`?"),
        ({"ip": "1.2.3.4"}, "ip", "unknown field"),
        ({"trasaction_id": "t"}, "trasaction_id", "unknown field; did you mean `transaction_id`?"),
        ({PAN: "x"}, "(name not shown)", "unknown field"),
        ({"a\nb": "x"}, "(name not shown)", "unknown field"),
        ({"ip_address": "41.226.11"}, "ip_address", NO_ADDRESS),
        ({"ip_address": "41.226.11.9:80"}, "ip_address", NO_ADDRESS),
        ({"ip_address": "fe80::1%eth0"}, "ip_address", NO_ADDRESS),
        ({"ip_address": ""}, "ip_address", EMPTY),
        ({"email": "amina"}, "email", NO_EMAIL),
        ({"email": "a@b@c.tn"}, "email", NO_EMAIL),
        ({"email": "a b@c.tn"}, "email", NO_EMAIL),
        ({"email": "a@c..tn"}, "email", NO_EMAIL),
        ({"email": "a" * 250 + "@c.tn"}, "email", "longer than 254 characters"),
        ({"billing_country": "EU"}, "billing_country", NO_COUNTRY),
        ({"shipping_country": "Tunisia"}, "shipping_country", NO_COUNTRY),
        ({"three_ds": "Y"}, "three_ds", "is an object"),
        ({"three_ds": {}}, "three_ds.status", "is required"),
        ({"three_ds": {"status": "X"}}, "three_ds.status", ...),
        ({"three_ds": {"status": "Y", "eci": "five"}}, "three_ds.eci", TWO_DIGITS),
        ({"three_ds": {"status": "Y", "eci": 5.0}}, "three_ds.eci", TWO_DIGITS),
        ({"three_ds": {"status": "Y", "eci": True}}, "three_ds.eci", TWO_DIGITS),
        ({"three_ds": {"status": "Y", "eci": 100}}, "three_ds.eci", TWO_DIGITS),
        ({"three_ds": {"status": "Y", "eci": -1}}, "three_ds.eci", TWO_DIGITS),
        ({"three_ds": {"status": "Y", "cavv": "x"}}, "three_ds.cavv", "unknown field"),
        ({"metadata": []}, "metadata", "is an object"),
        ({"metadata": {f"k{n}": 1 for n in range(33)}}, "metadata", "more than 32 keys"),
        ({"metadata": {"": 1}}, "metadata.(name not shown)", KEY_FORM),
        ({"metadata": {"1a": 1}}, "metadata.(name not shown)", KEY_FORM),
        ({"metadata": {"k" + PAN: 1}}, "metadata.(name not shown)", KEY_FORM),
        ({"metadata": {"a": [1]}}, "metadata.a", FLAT),
        ({"metadata": {"a": {"b": 1}}}, "metadata.a", FLAT),
        ({"metadata": {"a": 1.5}}, "metadata.a", FLAT),
        ({"metadata": {"a": float("nan")}}, "metadata.a", FLAT),
        ({"metadata": {"a": 2**63}}, "metadata.a", "does not fit in 64 bits; send it as text"),
        ({"metadata": {"a": "x" * 257}}, "metadata.a", "longer than 256 characters"),
        ({"metadata": {"a": "\x7f"}}, "metadata.a", UNREADABLE),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_field_is_named_and_its_value_is_not_repeated(
    changed: dict[str, Any], field: str, problem: Any
) -> None:
    found = problems(request(**changed))
    assert set(found) == {field}
    assert problem is ... or found[field] == problem
    assert "4111" not in f"{found}"


def test_a_missing_field_is_named() -> None:
    assert problems({"merchant": "m"}) == dict.fromkeys(("transaction_id", "amount", "currency"), "is required")


def test_every_problem_is_said_at_once() -> None:
    found = problems(
        request(
            at="now",
            amount="-1",
            card={"pan": "1"},
            ip_address="x",
            email="x",
            billing_country="EU",
            shipping_country="EU",
            three_ds={"status": "Y", "eci": "x"},
            metadata={"a": []},
            order_ref="\x00",
        )
    )
    assert set(found) == {
        "at",
        "amount",
        "card.pan",
        "ip_address",
        "email",
        "billing_country",
        "shipping_country",
        "three_ds.eci",
        "metadata.a",
        "order_ref",
    }


def test_a_flood_of_problems_is_cut() -> None:
    assert len(problems(request(**{f"field_{chr(97 + n // 26)}{chr(97 + n % 26)}": 1 for n in range(500)}))) == 20


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b"{'a': 1}",
        b'{"merchant": "\xff"}',
        b'{"merchant": "\\ud800"}',
        b'{"merchant": "\\udc00\\ud800"}',
        b'{"merchant": "a\x01"}',
        b'{"amount": 0123}',
        b'{"metadata": {"a": ' + b"9" * 5000 + b"}}",
        b'{"metadata": {"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}}",
        b'{"a":' * 12_000 + b"1" + b"}" * 12_000,
        b"[" * 60_000,
        b'{"card": {"pan": "4111111111111111"',
    ],
    ids=lambda body: str(body[:24]),
)
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(NotJson) as caught:
        read_transaction(body, KEY, NOW)
    assert caught.value.field == "body"
    assert caught.value.problem.startswith("is not JSON: ")
    assert "4111" not in str(caught.value)


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"text"', b"NaN", b"true"])
def test_json_that_is_no_object(body: bytes) -> None:
    with pytest.raises(TransactionRefused) as caught:
        read_transaction(body, KEY, NOW)
    assert caught.value.problems == (("body", "is a JSON object"),)


def test_of_a_key_that_stands_twice_the_last_one_holds() -> None:
    body = json.dumps(EXAMPLE)[:-1] + ', "amount": "1"}'
    assert read_transaction(body.encode(), KEY, NOW)[0].amount == Money(1_000, "TND")


@pytest.mark.parametrize(
    "described", [{1: 2}, {"merchant": "\ud800"}, {**EXAMPLE, "order_ref": "\ud800"}, {"\ud800": 1}], ids=repr
)
def test_objects_that_json_could_not_hold(described: dict[Any, Any]) -> None:
    with pytest.raises(TransactionRefused):
        transaction_from_object(described, KEY, NOW)


# ---- card numbers where none belong ---------------------------------------------------------------------------

FREE_TEXTS: list[dict[str, Any]] = [
    {"merchant": PAN},
    {"transaction_id": f"T {PAN}"},
    {"order_ref": "4111 1111 1111 1111"},
    {"email": f"{PAN}@example.tn"},
    {"terminal_id": PAN},
    {"customer_id": f"c-{PAN}"},
    {"device_id": "4111-1111-1111-1111"},
    {"card": {"pan": PAN, "issuer": f"bank {PAN}"}},
    {"three_ds": {"status": "Y", "version": PAN}},
    {"three_ds": {"status": "Y", "ds_trans_id": PAN}},
    {"metadata": {"note": f"card {PAN} expires"}},
    {"metadata": {"note": int(PAN)}},
]


@pytest.mark.parametrize("changed", FREE_TEXTS, ids=str)
def test_a_card_number_in_a_free_text_is_disguised(changed: dict[str, Any]) -> None:
    transaction = read(request(**changed))
    everything = f"{transaction} {transaction.metadata}".replace(" ", "").replace("-", "")
    assert PAN not in everything
    assert "411111******1111#" in everything
    assert transaction == read(request(**changed))  # a retry is the same transaction
    assert digest(request(**changed)) == digest(request(**changed))


def test_disguised_identifiers_stay_different() -> None:
    other = "4242424242424242"
    assert read(request(transaction_id=PAN)).transaction_id != read(request(transaction_id=other)).transaction_id


@pytest.mark.parametrize("field", [*EXAMPLE, "phone", "device_id", "shipping_country", "metadata", "three_ds"])
@pytest.mark.parametrize("planted", [PAN, int(PAN), [PAN], {PAN: PAN}, {"pan": {"x": PAN}}], ids=str)
def test_a_card_number_planted_anywhere_is_never_repeated(field: str, planted: Any) -> None:
    try:
        outcome = repr(read(request(**{field: planted})))
    except TransactionRefused as refused:
        outcome = f"{refused} {refused!r} {refused.problems} {refused.args}"
    assert PAN not in outcome


# ---- the short way ------------------------------------------------------------------------------------------


def longest_by_schema(schema: dict[str, Any]) -> dict[str, int]:
    """The longest text that each field takes, where the schema bounds it."""
    return {
        name: one["maxLength"]
        for name, described in schema["properties"].items()
        for one in described.get("anyOf", [described])
        if "maxLength" in one
    }


def test_the_short_way_knows_the_lengths_of_the_schema() -> None:
    schema = REQUEST_ADAPTER.json_schema()
    assert longest_by_schema(schema) | {"at": 40} == LONGEST  # of a date-time the schema says no length
    assert longest_by_schema(schema["$defs"]["CardRequest"]) == LONGEST_OF_CARD
    assert longest_by_schema(schema["$defs"]["ThreeDsRequest"]) | {"status": 1, "eci": 16} == LONGEST_OF_3DS


def test_ordinary_requests_go_the_short_way() -> None:
    for described in (
        EXAMPLE,
        AFTER_CHALLENGE_EXAMPLE,
        {**EXAMPLE, "metadata": {"basket": "b", "n": 1, "x": True}},
    ):
        assert read_plain(json.dumps(described).encode()) == described


texts = st.one_of(
    st.sampled_from([0, 1, 2, 16, 17, 40, 41, 64, 65, 128, 129, 254, 256, 257]).map("x".__mul__),
    st.sampled_from(["Y", "ecommerce", "moto", "05", "é\u2028", "\ud800", "\x00"]),
)
odd = st.one_of(
    texts,
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.lists(texts, max_size=1),
    st.dictionaries(texts, texts, max_size=1),
)


def objects(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), st.one_of(texts, odd), max_size=4)


nested = st.one_of(
    objects([*LONGEST_OF_CARD, "cvv"]),
    objects([*LONGEST_OF_3DS, "cavv"]),
    st.dictionaries(texts, odd, max_size=40),
)
requests = st.builds(
    lambda first, more, inner: {**first, **more, **inner},
    st.sampled_from([{}, EXAMPLE, AFTER_CHALLENGE_EXAMPLE]),
    objects([*LONGEST, "channel", "unheard_of"]),
    st.dictionaries(st.sampled_from(["card", "three_ds", "metadata", "email"]), nested, max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(requests)
def test_the_short_way_takes_only_what_the_validator_takes_and_as_it_does(described: dict[str, Any]) -> None:
    body = json.dumps(described).encode()
    plain = read_plain(body)
    if plain is not None:
        assert REQUEST_ADAPTER.validator.validate_json(body) == plain


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{}", b'{"merchant": "x"}', b"\xff", b"[" * 100_000])
def test_the_short_way_leaves_the_rest_to_the_validator(body: bytes) -> None:
    assert read_plain(body) is None
