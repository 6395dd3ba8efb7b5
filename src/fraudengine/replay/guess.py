"""A first mapping from a file's header and some of its rows, saying how sure each line is.

A column is recognised by its name, by what its values look like, or by both: `sure` means both, `likely` one of
them, `guess` that only the name resembles. Nothing of the values is repeated.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from ..cards import is_fingerprint, luhn_ok
from ..countries import is_country
from ..lists import read_address
from ..money import BY_NUMERIC, EXPONENTS
from .mapping import REQUIRED, FieldMapping, look_into
from .row_sources import InputUnreadable, format_of, rows_of

_SAMPLE: Final = 200
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "merchant": ("merchant", "merchantid", "merchantlogin", "shop", "marchand", "store"),
    "transaction_id": ("transactionid", "ordernumber", "orderid", "order", "paymentid", "id", "reference"),
    "order_ref": ("orderref", "orderreference", "invoice", "cart"),
    "at": (
        "at",
        "date",
        "datetime",
        "time",
        "timestamp",
        "when",
        "createdat",
        "created",
        "atus",
        "transactiondate",
    ),
    "amount": ("amount", "total", "montant", "sum", "price", "value"),
    "currency": ("currency", "cur", "devise", "currencycode", "ccy"),
    "channel": ("channel", "paymentway", "source"),
    "terminal_id": ("terminal", "terminalid", "tid"),
    "ip_address": ("ip", "ipaddress", "clientip", "buyerip"),
    "email": ("email", "mail", "emailaddress", "payeremail"),
    "phone": ("phone", "telephone", "tel", "mobile", "phonenumber"),
    "customer_id": ("customer", "customerid", "clientid", "buyerid", "userid"),
    "device_id": ("device", "deviceid", "devicefingerprint"),
    "card": ("card", "pan", "maskedpan", "cardnumber", "cardfingerprint", "maskedcard"),
    "card.expiry": ("expiry", "expiration", "expires", "cardexpiry", "expdate"),
    "card.country": ("cardcountry", "issuercountry", "bankcountrycode", "bincountry"),
    "card.brand": ("brand", "scheme", "cardbrand", "paymentsystem", "cardtype"),
    "card.issuer": ("issuer", "bank", "bankname", "cardissuer"),
    "card.bin": ("bin", "iin", "cardbin"),
    "card.last4": ("last4", "lastfour", "cardlast4"),
    "billing_country": ("billingcountry", "country"),
    "shipping_country": ("shippingcountry", "deliverycountry"),
    "three_ds.status": ("transstatus", "threedsstatus", "3dsstatus", "arestransstatus", "rreqtransstatus"),
    "three_ds.eci": ("eci",),
    "three_ds.version": ("threedsversion", "3dsversion", "threedsprotocolversion"),
    "label": ("label", "status", "result", "outcome", "orderstatus", "state"),
}
_SUFFICES: Final = frozenset({"card", "ip_address", "email", "currency", "at"})
"""Parts of a transaction that values alone tell."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A column of the input taken for a part of a transaction; `sure` is one of sure, likely, guess."""

    target: str
    source: str
    reading: str
    sure: str


def guess_mapping(path: Path) -> str:
    """The text of a mapping file for an input. Raises InputUnreadable."""
    kind = format_of(path)
    if kind == "log":
        raise InputUnreadable(f"{path} is a decision log; it needs no mapping")
    delimiter = _delimiter(path) if kind == "csv" else ","
    mapping = FieldMapping("guess", kind, (), delimiter=delimiter)
    rows = [row for _, row in islice(rows_of(path, kind, mapping), _SAMPLE) if not isinstance(row, str)]
    if not rows:
        raise InputUnreadable(f"{path} holds no row to guess from")
    names = _flat_names(rows)
    return _render(path, kind, delimiter, names, list(_guess(names, rows)))


def _delimiter(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        sample = file.read(65_536)
    try:
        return csv.Sniffer().sniff(sample, ",;\t|").delimiter
    except csv.Error:
        return ","


def _flat_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found: dict[str, None] = {}

    def walk(prefix: str, value: Mapping[str, Any]) -> None:
        for name, inner in value.items():
            if isinstance(inner, Mapping):
                walk(f"{prefix}{name}.", inner)
            else:
                found.setdefault(prefix + str(name))

    for row in rows:
        walk("", row)
    return list(found)


def _guess(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Guess]:
    """For each part of a transaction the column that fits best, no column twice."""
    candidates: list[tuple[float, Guess]] = []
    for name in names:
        values = [str(look_into(row, name)).strip() for row in rows if look_into(row, name) not in (None, "")]
        plain = re.sub("[^a-z0-9]", "", name.rpartition(".")[2].lower())
        for target, known in _NAMES.items():
            named = 1.0 if plain in known else 0.0
            resembles = 0.0 if named else max(difflib.SequenceMatcher(None, plain, word).ratio() for word in known)
            reading, looks = _look(target, values)
            if looks is False:
                continue
            if named and looks:
                candidates.append((3.0 + 1 / (1 + known.index(plain)), Guess(target, name, reading, "sure")))
            elif named or (looks and target in _SUFFICES):
                candidates.append((2.0 + named, Guess(target, name, reading, "likely")))
            elif resembles >= 0.75:
                candidates.append((resembles, Guess(target, name, reading, "guess")))
    taken: dict[str, Guess] = {}
    used: set[str] = set()
    for _, guess in sorted(candidates, key=lambda item: -item[0]):
        if guess.target not in taken and guess.source not in used:
            taken[guess.target] = guess
            used.add(guess.source)
    return [taken[target] for target in _NAMES if target in taken]


def _look(target: str, values: Sequence[str]) -> tuple[str, bool | None]:
    """How values would be read, and whether they look right (None: they say nothing either way)."""
    if not values:
        return "text", None
    match target:
        case "at":
            for reading, matches in _TIMES:
                if all(matches(value) for value in values):
                    return reading, True
            for pattern in _PATTERNS:
                if all(_is_time(value, pattern) for value in values):
                    return f'time, pattern: "{pattern}", timezone: Africa/Tunis', True
            return "text", False
        case "amount":
            if all(re.fullmatch(r"-?\d+", value) for value in values):
                return "minor-units", True
            return _amounts(values)
        case "currency":
            known = all(value.upper() in EXPONENTS or value.zfill(3) in BY_NUMERIC for value in values)
            return "currency", known
        case "card":
            return "card-number", all(_is_card(value) for value in values)
        case "ip_address":
            return "text", all(_is_address(value) for value in values)
        case "email":
            return "text", sum("@" in value for value in values) >= 0.9 * len(values)
        case "card.country" | "billing_country" | "shipping_country":
            return "text", sum(is_country(value.upper()) for value in values) >= 0.8 * len(values)
        case "card.expiry":
            if all(re.fullmatch(r"20\d\d-?\d\d", value) for value in values):
                return "text", True
            return "expiry-mm/yy", all(re.fullmatch(r"\d\d/?(20)?\d\d", value) for value in values)
        case "three_ds.status":
            return "text", all(value in {"Y", "A", "N", "R", "U", "C", "D", "I"} for value in values)
        case _:
            return "text", None


def _between(low: int, high: int) -> Callable[[str], bool]:
    return lambda value: value.isdigit() and low <= int(value) < high


_TIMES: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("epoch-seconds", _between(946_684_800, 9_000_000_000)),
    ("epoch-milliseconds", _between(946_684_800_000, 9_000_000_000_000)),
    ("epoch-microseconds", _between(946_684_800_000_000, 9_000_000_000_000_000)),
    ("time", lambda value: re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", value) is not None),
)


# Day before month, as is written here; the other way round only where a value shows it.
_PATTERNS: Final = tuple(
    f"{date}{time}"
    for date in ("%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y", "%Y/%m/%d", "%Y-%m-%d", "%m/%d/%Y")
    for time in (" %H:%M:%S", " %H:%M", "")
)


def _is_time(value: str, pattern: str) -> bool:
    try:
        datetime.strptime(value, pattern)
    except ValueError:
        return False
    return True


def _amounts(values: Sequence[str]) -> tuple[str, bool | None]:
    """Amounts in major units: what parts their decimals, and their thousands, as far as the values tell."""
    if not all(re.fullmatch(r"-?[\d.,' \u00a0\u202f]+", value) for value in values):
        return "major-units", False
    marks = {mark for value in values for mark in re.findall(r"[^\d-]", value)}
    last = {found[-1] for value in values if (found := re.findall(r"[.,]", value))}
    if len(last) > 1 or any(value.count(mark) > 1 for value in values for mark in last):
        return "major-units", None  # whoever reads the mapping has to say
    decimal = last.pop() if last else "."
    reading = "major-units" + (f', decimal: "{decimal}"' if decimal != "." else "")
    others = sorted(marks - {decimal})
    if others:
        reading += f', thousands: "{others[0]}"'
    certain = (
        decimal == "." or bool(others) or any(not re.search(r",\d{3}$", value) for value in values if "," in value)
    )
    return reading, True if certain and len(others) < 2 else None


def _is_card(value: str) -> bool:
    if is_fingerprint(value) or re.fullmatch(r"[0-9]{6,8}[*Xx]+[0-9]{4}", value):
        return True
    digits = re.sub("[ -]", "", value)
    return digits.isascii() and digits.isdigit() and 12 <= len(digits) <= 19 and luhn_ok(digits)


def _is_address(value: str) -> bool:
    try:
        read_address(value)
    except ValueError:
        return False
    return True


def _render(path: Path, kind: str, delimiter: str, names: Sequence[str], guesses: Sequence[Guess]) -> str:
    lines = [
        f"# Guessed from {path.name}. Each line says how sure it is; look at those that are not `sure`.",
        f"mapping: {re.sub('[^a-z0-9]+', '-', path.stem.lower()).strip('-') or 'guessed'}",
        f"format: {kind}",
    ]
    if kind == "csv":
        lines.append(f'csv: {{delimiter: "{_escaped(delimiter)}"}}')
    found = {guess.target for guess in guesses}
    if "merchant" not in found:
        lines += ["defaults:", '  merchant: ""   # name the merchant: no column looks like one']
    lines.append("columns:")
    width = max((len(guess.target) for guess in guesses), default=0)
    for guess in guesses:
        reading = f", as: {guess.reading}" if guess.reading != "text" else ""
        lines.append(
            f'  {guess.target + ":":{width + 1}} {{from: "{_escaped(guess.source)}"{reading}}}   # {guess.sure}'
        )
    for name in REQUIRED:
        if name not in found and name != "merchant":
            lines.append(f"  # {name}: needed, and no column looks like it")
    used = {guess.source for guess in guesses}
    for name in names:
        if name not in used:
            plain = re.sub("[^A-Za-z0-9_.-]", "_", name.rpartition(".")[2])
            lines.append(f'  # metadata.{plain}: {{from: "{_escaped(name)}"}}   # not used')
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
