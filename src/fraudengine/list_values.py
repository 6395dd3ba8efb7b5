"""Texts -> values of list entries kept at run time, and what is wrong with them, without repeating them.

The readers are those of the rule files, so that a value means the same in `rules/` and at run time. On top of
them: a card number is refused wherever it stands, and nothing that was sent is repeated, because it could be one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .audit import sign
from .cards import Pan, find_pans
from .contacts import normalise_email, normalise_email_domain, normalise_phone
from .diagnostics import FraudengineError, InvalidTransaction
from .facts import ListKind
from .lists import read_address
from .mistyped import Mistyped, mistyped_domain, mistyped_email, mistyped_name
from .rules import check_values
from .rules.check_values import Wrong

MAX_NOTE: Final = 256
MAX_VALUE: Final = 256
IS_CARD_NUMBER: Final = (
    "holds a card number; a list holds fingerprints (`fp_…`), and a card number is given where it is asked for only"
)
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]").search
_MANY_DIGITS: Final = re.compile(r"(?:[0-9][^0-9A-Za-z]{0,2}){12,}").search

WHAT_IT_IS: Final[dict[ListKind, str]] = {
    ListKind.CARD: "is a card fingerprint (`fp_…`), as answers and `fraudengine fingerprint` give it",
    ListKind.BIN: "is the first 6 to 11 digits of card numbers",
    ListKind.IP: "is an internet address or network, such as `41.226.11.9` or `41.226.0.0/16`",
    ListKind.COUNTRY: "is an ISO 3166 country code of two capital letters",
    ListKind.EMAIL: "is an e-mail address",
    ListKind.EMAIL_DOMAIN: "is what follows the @ of an e-mail address, such as `example.tn`",
    ListKind.PHONE: "is a telephone number, such as `+21671123456`",
    ListKind.CUSTOMER: "is the merchant's name of a customer, 1 to 128 characters",
    ListKind.DEVICE: "is the gateway's name of a device, 1 to 256 characters",
}


class InvalidEntry(InvalidTransaction):
    """A list entry is wrong: `field` names what, `problem` says how it is written; no value is repeated."""


class NoCardKey(FraudengineError):
    """A card number was given, and there is no card key to make its fingerprint with."""


@dataclass(frozen=True, slots=True)
class Note:
    """Why an entry was added or removed, by which ticket, and by whom."""

    reason: str = ""
    ticket: str = ""
    author: str = ""


def read_note(reason: str = "", ticket: str = "", author: str = "") -> Note:
    """The note, checked: raises InvalidEntry for a card number, a control character or too long a text.

    Over HTTP the author is signed with the key's owner; the length is that of what was sent.
    """
    for name, text in (("reason", reason), ("ticket", ticket), ("author", author)):
        problem = note_problem(text)
        if problem:
            raise InvalidEntry(name, problem)
    return Note(reason, ticket, sign(author))


@lru_cache(maxsize=4096)  # an import gives the same few reasons and tickets a million times
def note_problem(text: str) -> str:
    """What is wrong with a free text; empty when nothing is."""
    if not text:
        return ""
    if len(text) > MAX_NOTE:
        return f"longer than {MAX_NOTE} characters"
    if _UNPRINTABLE(text):
        return "must not hold control characters"
    if holds_card_number(text):
        return "holds a card number; name the card by its fingerprint or its last four digits"
    return ""


def holds_card_number(text: str) -> bool:
    """Whether a card number stands in the text, also one with dots or slashes between its digits."""
    if find_pans(text):
        return True
    if _MANY_DIGITS(text) is None:
        return False
    return bool(find_pans(re.sub(r"[^0-9A-Za-z]{1,2}", " ", text)))


def read_value(kind: ListKind, text: str, *, is_new: bool = True) -> str:
    """The value in the form in which it is compared. Raises InvalidEntry, which repeats nothing of it.

    A value that is certainly mistyped is refused unless it is to be found among those that are kept already.
    """
    if kind is ListKind.CARD or kind is ListKind.BIN or len(text) >= 12:
        _refuse_card_number(kind, text)
    if len(text) > MAX_VALUE or not text.strip() or _UNPRINTABLE(text):
        raise InvalidEntry("value", WHAT_IT_IS[kind])
    look = _MISTYPED.get(kind) if is_new else None
    said = look(text) if look is not None else None
    if said is not None:
        raise InvalidEntry("value", f"{WHAT_IT_IS[kind]}; {said.problem}")
    value = _READERS[kind](text)
    if value is None or isinstance(value, Wrong):
        hint = value.hint if isinstance(value, Wrong) and kind in _HINTS else ""
        raise InvalidEntry("value", f"{WHAT_IT_IS[kind]}; {hint}" if hint else WHAT_IT_IS[kind])
    if kind is ListKind.PHONE and find_pans(value):  # brackets and words stood between its digits
        raise InvalidEntry("value", IS_CARD_NUMBER)
    return value


def _refuse_card_number(kind: ListKind, text: str) -> None:
    found = bool(find_pans(text)) if kind in (ListKind.IP, ListKind.PHONE) else holds_card_number(text)
    if not found and kind in (ListKind.CARD, ListKind.BIN):
        try:
            Pan.parse(text.strip())
            found = True
        except InvalidTransaction:
            pass
    if found:
        raise InvalidEntry("value", IS_CARD_NUMBER)


def _text(most: int) -> Callable[[str], str | None]:
    return lambda text: text if len(text) <= most else None


def _network(text: str) -> str | Wrong:
    """As in the rule files; a network of IPv4 addresses written as IPv6 becomes one of IPv4, as enrichment does."""
    text = text.strip()
    address, slash, length = text.partition("/")
    if slash and length.isdigit() and int(length) >= 96 and address.lower().startswith("::ffff:"):
        try:
            version, number = read_address(address)
        except ValueError:
            return check_values.network(text)
        if version == 6:
            packed = (number & 0xFFFFFFFF).to_bytes(4, "big")
            text = f"{'.'.join(map(str, packed))}/{int(length) - 96}"
    if "%" in text:
        return Wrong("not-ip", "")
    return check_values.network(text)


_READERS: Final[dict[ListKind, Callable[[str], str | Wrong | None]]] = {
    ListKind.CARD: lambda text: check_values.card(text.strip()),
    ListKind.BIN: lambda text: check_values.bin_digits(text.strip()),
    ListKind.IP: _network,
    ListKind.COUNTRY: lambda text: check_values.country(text.strip()),
    ListKind.EMAIL: lambda text: normalise_email(text.strip()),
    ListKind.EMAIL_DOMAIN: lambda text: normalise_email_domain(text.strip()),
    ListKind.PHONE: normalise_phone,
    ListKind.CUSTOMER: _text(128),
    ListKind.DEVICE: _text(256),
}
_MISTYPED: Final[dict[ListKind, Callable[[str], Mistyped | None]]] = {
    ListKind.EMAIL: lambda text: mistyped_email(text.strip()),
    ListKind.EMAIL_DOMAIN: lambda text: mistyped_domain(text.strip()),
    ListKind.CUSTOMER: mistyped_name,
    ListKind.DEVICE: mistyped_name,
}
_HINTS: Final = frozenset({ListKind.COUNTRY, ListKind.IP})  # their hints name countries and networks only
