"""Texts -> values: what a scalar means is decided by the type that is expected, never by how YAML would guess.

`NO` is Norway where a country is expected, `012345` keeps its zero. Each reader takes the text of a scalar and
gives the value, or `Wrong` with what to say.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from ..cards import is_fingerprint
from ..contacts import normalise_phone
from ..countries import NAMES, code_for_name, read_country
from ..diagnostics import suggest
from ..facts import FactSpec, FactType, ListKind
from ..mistyped import Mistyped, bare_domain, mistyped_domain, mistyped_email, mistyped_name
from ..money import EXPONENTS, InvalidAmount, format_minor, read_minor
from .amounts_meant import currency_meant, plain_figure
from .checked import one_of_words, shown

MAX_TEXT: Final = 256
MAX_FACT_BIN: Final = 8  # the fact `card_bin` has no more digits than PCI DSS lets be shown
MAX_LIST_BIN: Final = 11


@dataclass(frozen=True, slots=True)
class Wrong:
    """Why a text is no value of the expected type."""

    code: str
    message: str
    hint: str = ""


Literal: TypeAlias = str | int | bool
_Read = TypeVar("_Read")

_INTEGER: Final = re.compile(r"-?[0-9]{1,15}", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?[0-9][0-9 _,.']*", re.ASCII)
_NUMBER_THEN_WORD: Final = re.compile(r"([0-9](?:[0-9 _,.'’\u00a0\u202f]*[0-9])?)\s*([^\s0-9,].*)")
_MONEY: Final = re.compile(r"(\S+) +(\S+)")
_AMOUNT: Final = re.compile(r"[0-9]{1,15}\.([0-9]+)", re.ASCII)
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_DOMAIN: Final = re.compile(r"[^@\s.]+(\.[^@\s.]+)+")
_PHONE: Final = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
_NATIONAL_PHONE: Final = re.compile(r"[0-9]{8,17}", re.ASCII)  # or one that begins with 00 and the country
_TWO_DIGITS: Final = re.compile(r"[0-9]{2}", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_LETTERS: Final = re.compile(r"[^\W\d_]+")
_NO_BREAK: Final = re.compile("[\u00a0\u202f]")
_DAY_FIRST: Final = re.compile(r"([0-9]{1,2})[/.-]([0-9]{1,2})[/.-]([0-9]{4})", re.ASCII)
_BOOLEANS: Final = {"true": True, "false": False}
_OTHER_BOOLEANS: Final = {"yes": "true", "on": "true", "y": "true", "1": "true"} | {
    "no": "false",
    "off": "false",
    "n": "false",
    "0": "false",
}


def without_blanks(text: str, read: Callable[[str], _Read | Wrong]) -> Wrong | None:
    """What to say when only the blanks around it keep a text from being a value; None otherwise."""
    bare = text.strip()
    if bare == text or isinstance(read(bare), Wrong):
        return None
    before = text[: len(text) - len(text.lstrip())]
    blanks = before + text[len(text.rstrip()) :]
    what = "a no-break space" if _NO_BREAK.search(blanks) else "a tab" if "\t" in blanks else "a blank"
    return Wrong(
        "blank-beside",
        f"{what} stands {'before' if before else 'after'} {shown(text)}",
        f"delete it: write `{bare[:60]}`",
    )


def _read_bare(read: Callable[[str], _Read | Wrong]) -> Callable[[str], _Read | Wrong]:
    """The reader, which also says when only blanks around a text make it wrong."""

    def read_text(text: str) -> _Read | Wrong:
        value = read(text)
        return (without_blanks(text, read) or value) if isinstance(value, Wrong) else value

    return read_text


# ---- countries, currencies, money -----------------------------------------------------------------


def country(text: str) -> str | Wrong:
    if text in NAMES:
        return text
    several = _LETTERS.findall(text[:64])
    if len(several) > 1 and all(one in NAMES for one in several):
        hint = f"write each by itself: `{', '.join(several)}`"
        return Wrong("unknown-country", f"{shown(text)} is not one country", hint)
    code = read_country(text[:64]) or code_for_name(text[:64])
    if code is None and len(several) == 1 and several[0] in NAMES:
        code = several[0]
    if code is None:
        close = suggest(text[:64].title(), NAMES.values())
        name = close.removeprefix("did you mean `").removesuffix("`?")
        code = code_for_name(name) if name else None
    hint = f"did you mean `{code}` ({NAMES[code]})?" if code else "write its ISO 3166 code, two capital letters"
    return Wrong("unknown-country", f"unknown country {shown(text)}", hint)


def currency(text: str) -> str | Wrong:
    if text in EXPONENTS:
        return text
    upper = text.strip().upper()
    swapped = [known for known in EXPONENTS if sorted(known) == sorted(upper)]
    code = currency_meant(text) or (swapped[0] if swapped else "")
    hint = f"did you mean `{code}`?" if code else suggest(upper[:8], EXPONENTS)
    return Wrong(
        "unknown-currency",
        f"unknown currency {shown(text)}",
        hint or "write its ISO 4217 code, three capital letters",
    )


def money(text: str) -> tuple[str, int] | Wrong:
    """`100 TND` as currency and minor units."""
    found = _MONEY.fullmatch(text)
    if found is None:
        return without_blanks(text, money) or _no_money(text)
    number, code = found[1], found[2]
    before = currency_meant(number)
    if before is not None:
        return Wrong("not-money", f"{shown(text)} is no amount", f"write the currency last: `{code[:20]} {before}`")
    known = currency(code)
    if isinstance(known, Wrong):
        meant = currency_meant(code)
        plain = plain_figure(number, meant) if meant is not None else None
        return replace(known, hint=f"write `{plain} {meant}`") if plain is not None else known
    minor = figure(number, known)
    return minor if isinstance(minor, Wrong) else (known, minor)


def _no_money(text: str) -> Wrong:
    """Why a text that is not a number, a blank and a word is no amount."""
    if _NUMBER.fullmatch(text):
        figure_meant = plain_figure(text, "TND") or text.strip().replace(" ", "")
        return Wrong(
            "money-without-currency",
            f"an amount needs its currency: {shown(text)}",
            f"write `{figure_meant[:20]} TND`, or a figure per currency: {{TND: 300, EUR: 90}}",
        )
    hint = "write it as `100 TND`: digits, a space, the currency"
    parts = _NUMBER_THEN_WORD.fullmatch(text)
    code = currency_meant(parts[2]) if parts is not None else None
    if parts is not None and code is not None:
        plain = plain_figure(parts[1], code)
        hint = f"write `{plain} {code}`: digits, one plain blank, the currency" if plain is not None else hint
    says = f"a no-break space stands in {shown(text)}" if _NO_BREAK.search(text) else f"{shown(text)} is no amount"
    return Wrong("not-money", says, hint)


def figure(text: str, code: str) -> int | Wrong:
    """A figure in major units of a known currency as minor units."""
    try:
        return read_minor(text, code)
    except InvalidAmount as error:
        decimals = _AMOUNT.fullmatch(text)
        if decimals is not None and len(decimals[1]) > EXPONENTS[code]:
            hint = f"{code} has {EXPONENTS[code]} decimals, as in {format_minor(12500, code)}"
            return Wrong("too-many-decimals", f"{shown(text)} has too many decimals for {code}", hint)
        if text.startswith("-"):
            return Wrong("negative-amount", f"{shown(text)} is below zero", "an amount is never negative")
        plain = plain_figure(text, code)
        hint = str(error) if plain in (None, text) else f"decimals take a point, thousands no mark: `{plain}`"
        beside = without_blanks(text, lambda bare: figure(bare, code))
        return beside or Wrong("not-money", f"{shown(text)} is no amount of {code}", hint)


# ---- numbers, words, texts ------------------------------------------------------------------------


def integer(text: str, low: int | None = None, high: int | None = None) -> int | Wrong:
    if _INTEGER.fullmatch(text) is None:
        return Wrong("not-integer", f"{shown(text)} is no whole number", "write digits only, such as `3`")
    number = int(text)
    if (low is not None and number < low) or (high is not None and number > high):
        return Wrong("out-of-range", f"{shown(text)} is out of range", f"it is {low} to {high}")
    return number


def boolean(text: str) -> bool | Wrong:
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    meant = _OTHER_BOOLEANS.get(text.lower(), text.lower() if text.lower() in _BOOLEANS else "")
    hint = f"write `{meant}`" if meant else "write `true` or `false`"
    return Wrong("not-boolean", f"{shown(text)} is neither `true` nor `false`", hint)


def word(text: str, words: tuple[str, ...]) -> str | Wrong:
    if text in words:
        return text
    hint = suggest(text.lower()[:64], words) or f"it is {one_of_words(words)}"
    return Wrong("unknown-word", f"unknown word {shown(text)}", hint)


def text_value(text: str) -> str | Wrong:
    if not text.strip():
        return Wrong("empty-value", "the text is empty", "write the text")
    if len(text) > MAX_TEXT:
        return Wrong("text-too-long", f"the text has {len(text):,} characters", f"{MAX_TEXT} are the most")
    return text


def email(text: str) -> str | Wrong:
    said = mistyped_email(text)
    if said is None and len(text) <= MAX_TEXT and _EMAIL.fullmatch(text):
        return text.lower()
    return _mistyped("not-email", f"{shown(text)} is no e-mail address", said, "write it as `name@example.tn`")


def email_domain(text: str) -> str | Wrong:
    said = mistyped_domain(text)
    if said is None and len(text) <= MAX_TEXT and _DOMAIN.fullmatch(text):
        return text.lower()
    hint = f"write only what follows the @, as `{bare_domain(text)[:60] or 'example.tn'}`"
    return _mistyped("not-email-domain", f"{shown(text)} is no e-mail domain", said, hint)


def name(text: str) -> str | Wrong:
    """What the merchant calls a customer or the gateway a device: any text that is not certainly mistyped."""
    said = mistyped_name(text) if text.strip() else None
    if said is None:
        return text_value(text)
    if said.meant == text.strip():
        return without_blanks(text, text_value) or text_value(text)
    return _mistyped("mistyped-name", f"no payment names {shown(text)}", said, "write the one name only")


def _mistyped(code: str, message: str, said: Mistyped | None, hint: str) -> Wrong:
    if said is None:
        return Wrong(code, message, hint)
    hint = f"write `{said.meant[:60]}`" if said.meant else hint
    return Wrong(code, f"{message}: {said.problem}", hint)


def phone(text: str) -> str | Wrong:
    """In E.164; without + and country as requests and run-time lists read it: `71123456` is Tunisian."""
    number = text.replace(" ", "").replace("-", "")
    if _PHONE.fullmatch(number):
        return normalise_phone(number) or number
    read = normalise_phone(number) if _NATIONAL_PHONE.fullmatch(number) else None
    if read is not None:
        return read
    hint = "write it with + and the country's number, as `+21671123456`"
    return Wrong("not-phone", f"{shown(text)} is no telephone number", hint)


def eci(text: str) -> str | Wrong:
    if _TWO_DIGITS.fullmatch(text):
        return text
    hint = f"write `0{text}`" if len(text) == 1 and text.isdigit() else "write two digits, such as `05`"
    return Wrong("not-eci", f"{shown(text)} is no ECI", hint)


# ---- cards and addresses --------------------------------------------------------------------------


def card(text: str) -> str | Wrong:
    """A card fingerprint; anything else is not repeated, as it may be most of a card number."""
    if is_fingerprint(text):
        return text
    hint = "`fraudengine fingerprint` makes one from a card number"
    return Wrong("not-fingerprint", "this is no card fingerprint", hint)


def bin_digits(text: str, most: int = MAX_LIST_BIN) -> str | Wrong:
    if text.isascii() and text.isdigit() and 6 <= len(text) <= most:
        return text
    if text.isascii() and text.isdigit() and 6 <= len(text) <= MAX_LIST_BIN:
        hint = f"a rule sees {MAX_FACT_BIN} digits at most; put longer ones into a list `of: bin`"
        return Wrong("not-bin", f"{shown(text)} has more digits than `card_bin`", hint)
    said = shown(text) if len(text) < 12 else "this"
    return Wrong("not-bin", f"{said} is no BIN", f"write the first 6 to {most} digits of the card number")


def network(text: str) -> str | Wrong:
    """An address or network in canonical CIDR form; a single address is /32 or /128."""
    try:
        return str(ipaddress.ip_network(_unmapped(text)))
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(_unmapped(text), strict=False)
    except ValueError:
        hint = "write `41.226.11.9`, `41.226.0.0/16` or an IPv6 address"
        return Wrong("not-ip", f"{shown(text)} is no internet address or network", hint)
    hint = f"write `{wider}` for the network or `{text.partition('/')[0]}` for the one address"
    return Wrong("host-bits", f"{shown(text)} is an address inside a network, not a network", hint)


def _unmapped(text: str) -> str:
    """Enrichment unwraps `::ffff:a.b.c.d`, so the test must name the IPv4 address; a zone (`%eth0`) names none."""
    if "%" in text:
        return ""
    if text.lower().startswith("::ffff:") and "." in text and "/" not in text:
        return text[7:]
    return text


# ---- by fact and by list kind ---------------------------------------------------------------------

_TEXT_FACTS: Final[dict[str, Callable[[str], str | Wrong]]] = {
    "email": email,
    "email_domain": email_domain,
    "phone": phone,
    "eci": eci,
    "customer": name,
    "device": name,
}

LIST_READERS: Final[dict[ListKind, Callable[[str], str | Wrong]]] = {
    ListKind.CARD: _read_bare(card),
    ListKind.BIN: _read_bare(bin_digits),
    ListKind.IP: _read_bare(network),
    ListKind.COUNTRY: _read_bare(country),
    ListKind.EMAIL: _read_bare(email),
    ListKind.EMAIL_DOMAIN: _read_bare(email_domain),
    ListKind.PHONE: _read_bare(phone),
    ListKind.CUSTOMER: name,
    ListKind.DEVICE: name,
}


def literal(text: str, spec: FactSpec) -> Literal | Wrong:
    """A value of the fact's type; money has its own forms."""
    value = _literal(text, spec)
    return (without_blanks(text, lambda bare: _literal(bare, spec)) or value) if isinstance(value, Wrong) else value


def _literal(text: str, spec: FactSpec) -> Literal | Wrong:
    match spec.type:
        case FactType.COUNTRY:
            return country(text)
        case FactType.CURRENCY:
            return currency(text)
        case FactType.WORD:
            return word(text, spec.words)
        case FactType.INTEGER:
            return integer(text, spec.low, spec.high)
        case FactType.BOOLEAN:
            return boolean(text)
        case FactType.CARD:
            return card(text)
        case FactType.BIN:
            return bin_digits(text, MAX_FACT_BIN)
        case FactType.IP:
            return network(text)
        case _:
            return _TEXT_FACTS.get(spec.name, text_value)(text)


# ---- time -----------------------------------------------------------------------------------------

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def timezone(text: str) -> str | Wrong:
    if _zone(text) is not None:
        return text
    hint = suggest(text[:64], available_timezones()) or "write it as `Africa/Tunis`"
    return Wrong("unknown-timezone", f"unknown timezone {shown(text)}", hint)


@lru_cache(maxsize=1000)
def _zone(name: str) -> ZoneInfo | None:
    if not name.isascii() or len(name) > 64 or "." in name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def is_date(text: str) -> bool:
    return _DATE.fullmatch(text) is not None


def _day_first(text: str) -> str:
    """What to write instead of `01/02/2027`, the first of February as people here write it."""
    found = _DAY_FIRST.fullmatch(text)
    if found is None:
        return ""
    try:
        return f"write the year first: `{date(int(found[3]), int(found[2]), int(found[1]))}`"
    except ValueError:
        return ""


@lru_cache(maxsize=10_000)
def instant(text: str, zone: str) -> int | Wrong:
    """UTC microseconds of an instant with its time zone, or of midnight in `zone` on a date."""
    try:
        if is_date(text):
            day = date.fromisoformat(text)
            moment = datetime(day.year, day.month, day.day, tzinfo=_zone(zone))
        else:
            moment = datetime.fromisoformat(text)
    except ValueError:
        hint = _day_first(text) or "write `2026-11-02` or `2026-11-02T10:15:00Z`"
        return Wrong("not-a-date", f"{shown(text)} is no date", hint)
    if moment.tzinfo is None and ":" not in text and "T" not in text:  # as ISO 8601 also has it: `20261102`
        return Wrong("not-a-date", f"{shown(text)} is no date", f"write `{moment.date()}`")
    if moment.tzinfo is None:
        hint = f"write the date alone, or add the zone: `{text[:32]}Z`"
        return Wrong("no-timezone", f"{shown(text)} does not say in which time zone", hint)
    if not 2000 <= moment.year <= 2200:
        return Wrong("not-a-date", f"the year of {shown(text)} cannot be meant", "write a year from 2000 to 2200")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
