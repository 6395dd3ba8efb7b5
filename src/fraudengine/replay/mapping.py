"""Mapping files: which column of an input is which part of a transaction, and how its text is read.

    mapping: shop-orders
    format: csv                       # csv, jsonl, json, parquet, xlsx or log
    csv: {delimiter: ";"}
    defaults: {merchant: carthage-market, channel: ecommerce}
    columns:
      amount: {from: total, as: major-units}
      card: {from: [masked, pan], as: card-number}       # the first that has a value
      label: {from: status, as: words, words: {paid: authorised, "*": unknown}}

What columns may be named is `TARGETS` and `metadata.KEY`. A value that cannot be read makes the row a reject, or
the fact unknown where the column says `if_wrong: unknown`. `unknown: […]` lists texts that stand for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from ..diagnostics import FraudengineError, suggest
from ..money import BY_NUMERIC, EXPONENTS, format_minor

Value: TypeAlias = Any  # what a JSON document, a spreadsheet cell or a Parquet column holds
FORMATS: Final = ("csv", "jsonl", "json", "parquet", "xlsx", "log")
TARGETS: Final = (
    *("merchant", "transaction_id", "order_ref", "at", "amount", "currency", "channel", "terminal_id"),
    *("customer_id", "device_id", "ip_address", "email", "phone", "billing_country", "shipping_country"),
    *("card", "card.pan", "card.fingerprint", "card.bin", "card.last4", "card.country", "card.brand"),
    *("card.type", "card.issuer", "card.expiry"),
    *("three_ds.status", "three_ds.eci", "three_ds.version", "metadata"),
    *("label", "labelled_at", "recorded_outcome", "recorded_code", "recorded_rule", "recorded_revision"),
    "screening_id",
)
REQUIRED: Final = ("merchant", "transaction_id", "at", "amount", "currency")
_COLUMN_KEYS: Final = frozenset(
    {"from", "as", "if_wrong", "unknown", "words", "cases", "pattern", "timezone", "decimal", "thousands"}
)


class MappingRefused(FraudengineError):
    """A mapping file is wrong; the message names it, the column, and what would be right."""


class Unreadable(FraudengineError):
    """A value cannot be read; the message says what it should be and never repeats it."""


@dataclass(frozen=True, slots=True)
class Column:
    """How one part of a transaction is read."""

    target: str
    sources: tuple[str, ...]
    reading: str = "text"
    if_wrong_unknown: bool = False
    unknown: frozenset[str] = frozenset()
    words: Mapping[str, str] = field(default_factory=dict)
    cases: tuple[tuple[Mapping[str, frozenset[str]], str], ...] = ()
    pattern: str = ""
    timezone: str = "UTC"
    decimal: str = "."
    thousands: str = ""


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """A mapping file that was read and checked."""

    name: str
    format: str | None
    columns: tuple[Column, ...]
    defaults: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    encoding: str = "utf-8"

    @property
    def tolerant(self) -> frozenset[str]:
        """The parts of a transaction that are unknown when they are wrong."""
        return frozenset(column.target for column in self.columns if column.if_wrong_unknown)

    def read(self, row: Mapping[str, Value]) -> tuple[dict[str, Value], str]:
        """The parts of a transaction that a row gives, and why it is none (empty when it may be one)."""
        found: dict[str, Value] = {name: value for name, value in self.defaults.items() if value}
        for column in self.columns:
            try:
                value = read_column(column, row)
            except Unreadable as error:
                if column.if_wrong_unknown:
                    continue
                return found, f"{column.target}: {error}"
            if value is not None:
                found[column.target] = value
        for name in REQUIRED:
            if name not in found:
                return found, f"{name}: is missing"
        return found, ""


# ---- reading the file -----------------------------------------------------------------------------


def load_mapping(path: Path) -> FieldMapping:
    """The mapping of a file; raises MappingRefused."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingRefused(f"the mapping {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MappingRefused(f"the mapping {path} is no YAML: {error}") from None
    return make_mapping(document, str(path))


def make_mapping(document: object, name: str) -> FieldMapping:
    if not isinstance(document, dict) or not isinstance(document.get("columns"), dict):
        raise MappingRefused(f"{name}: a mapping file has a `columns:` block")
    unknown = document.keys() - {"mapping", "description", "format", "csv", "defaults", "columns"}
    if unknown:
        raise MappingRefused(f"{name}: unknown key `{min(map(str, unknown))}`")
    found_format = document.get("format")
    if found_format is not None and found_format not in FORMATS:
        raise MappingRefused(f"{name}: `format` is one of {', '.join(FORMATS)}")
    csv = document.get("csv") or {}
    return FieldMapping(
        name=str(document.get("mapping", name)),
        format=found_format,
        columns=tuple(_column(name, str(target), entry) for target, entry in document["columns"].items()),
        defaults={str(key): str(value) for key, value in (document.get("defaults") or {}).items()},
        delimiter=str(csv.get("delimiter", ",")),
        encoding=str(csv.get("encoding", "utf-8")),
    )


def _column(name: str, target: str, entry: object) -> Column:
    place = f"{name}: column `{target}`"
    if target not in TARGETS and not (target.startswith("metadata.") and len(target) > 9):
        hint = suggest(target, TARGETS)
        raise MappingRefused(f"{place} is no part of a transaction" + (f"; {hint}" if hint else ""))
    if isinstance(entry, str):
        entry = {"from": entry}
    if not isinstance(entry, dict) or entry.keys() - _COLUMN_KEYS:
        raise MappingRefused(f"{place}: takes {', '.join(sorted(_COLUMN_KEYS))}")
    reading = str(entry.get("as", "text"))
    if reading not in READINGS:
        hint = suggest(reading, READINGS)
        raise MappingRefused(f"{place}: cannot be read as `{reading}`" + (f"; {hint}" if hint else ""))
    sources = entry.get("from", [])
    timezone = str(entry.get("timezone", "UTC"))
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise MappingRefused(f"{place}: there is no timezone `{timezone}`") from None
    return Column(
        target=target,
        sources=tuple(map(str, sources)) if isinstance(sources, list) else (str(sources),),
        reading=reading,
        if_wrong_unknown=entry.get("if_wrong") == "unknown",
        unknown=frozenset(map(str, entry.get("unknown", ()))),
        words={str(key): str(value) for key, value in (entry.get("words") or {}).items()},
        cases=tuple(_case(place, case) for case in entry.get("cases") or ()),
        pattern=str(entry.get("pattern", "")),
        timezone=timezone,
        decimal=str(entry.get("decimal", ".")),
        thousands=str(entry.get("thousands", "")),
    )


def _case(place: str, case: object) -> tuple[Mapping[str, frozenset[str]], str]:
    if not isinstance(case, dict) or case.keys() != {"when", "then"} or not isinstance(case["when"], dict):
        raise MappingRefused(f"{place}: a case is `{{when: {{field: [values]}}, then: word}}`")
    when = {
        str(key): frozenset(map(_plain, values if isinstance(values, list) else [values]))
        for key, values in case["when"].items()
    }
    return when, str(case["then"])


# ---- reading a value ------------------------------------------------------------------------------


def look_into(row: Mapping[str, Value], path: str) -> Value:
    """The value at a path such as `cardAuthInfo.maskedPan`; a column whose name is the whole path goes first."""
    if path in row:
        return row[path]
    found: Value = row
    for step in path.split("."):
        if not isinstance(found, Mapping) or step not in found:
            return None
        found = found[step]
    return found


def _plain(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def read_column(column: Column, row: Mapping[str, Value]) -> Value:
    """The value in the form of `POST /v1/screenings`, None where there is none. Raises Unreadable."""
    if column.reading == "cases":
        for when, word in column.cases:
            if all(_plain(look_into(row, name)) in values for name, values in when.items()):
                return None if word == "unknown" else word
        return None
    for source in column.sources:
        value = look_into(row, source)
        if value is None or value == "" or _plain(value) in column.unknown or _plain(value) == "":
            continue
        return READINGS[column.reading](value, column)
    return None


def _text(value: Value, column: Column) -> str:
    del column
    if isinstance(value, (Mapping, list)):
        raise Unreadable("is no single value")
    return _plain(value)


def _epoch(per_second: int) -> Callable[[Value, Column], str]:
    def read(value: Value, column: Column) -> str:
        del column
        try:
            us = int(Decimal(_plain(value)) * (1_000_000 // per_second))
            return _rfc_3339(us)
        except (InvalidOperation, ValueError, OverflowError):
            raise Unreadable("is no number of seconds or fractions of seconds since 1970") from None

    return read


def _rfc_3339(us: int) -> str:
    whole, rest = divmod(us, 1_000_000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"


def _time(value: Value, column: Column) -> str:
    try:
        if isinstance(value, datetime):
            moment = value
        elif column.pattern:
            moment = datetime.strptime(_plain(value), column.pattern)
        else:
            moment = datetime.fromisoformat(_plain(value))
    except ValueError:
        raise Unreadable("is no time" + (f" written as {column.pattern}" if column.pattern else "")) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(column.timezone))
    return moment.isoformat()


def _major_units(value: Value, column: Column) -> str:
    text = _plain(value).replace("\u00a0", "").replace("\u202f", "").replace(" ", "")
    if column.thousands:
        text = text.replace(column.thousands, "")
    return text.replace(column.decimal, ".") if column.decimal != "." else text


def _minor_units(value: Value, column: Column) -> tuple[str, int]:
    """Becomes major units once the currency is known (`settle_amount`)."""
    del column
    try:
        return "minor", int(_plain(value))
    except ValueError:
        raise Unreadable("is no whole number of minor units") from None


def settle_amount(found: dict[str, Value]) -> None:
    """Turns minor units into the text of major units; raises Unreadable."""
    amount = found["amount"]
    if isinstance(amount, tuple):
        currency = found["currency"]
        if currency not in EXPONENTS:
            raise Unreadable("is no ISO 4217 currency")
        found["amount"] = format_minor(amount[1], currency)


def _currency(value: Value, column: Column) -> str:
    del column
    text = _plain(value).upper()
    code = BY_NUMERIC.get(text.zfill(3)) if text.isdigit() else text
    if code is None or code not in EXPONENTS:
        raise Unreadable("is no ISO 4217 currency")
    return code


def _money(value: Value, column: Column) -> str:
    return _text(value, column).partition(" ")[0]


def _money_currency(value: Value, column: Column) -> str:
    return _text(value, column).partition(" ")[2]


def _words(value: Value, column: Column) -> str | None:
    text = _plain(value)
    word = column.words.get(text, column.words.get("*"))
    if word is None:
        raise Unreadable("is none of the words that the mapping knows")
    return None if word == "unknown" else word


def _expiry(order: str) -> Callable[[Value, Column], str]:
    def read(value: Value, column: Column) -> str:
        del column
        digits = "".join(filter(str.isdigit, _plain(value)))
        if order == "mmyy" and len(digits) == 4:
            return f"20{digits[2:]}-{digits[:2]}"
        if order == "mmyy" and len(digits) == 6:
            return f"{digits[2:]}-{digits[:2]}"
        raise Unreadable("is no month and year of expiry")

    return read


def _object(value: Value, column: Column) -> Mapping[str, Value]:
    del column
    if not isinstance(value, Mapping):
        raise Unreadable("is no object")
    return value


READINGS: Final[dict[str, Callable[[Value, Column], Value]]] = {
    "text": _text,
    "epoch-seconds": _epoch(1),
    "epoch-milliseconds": _epoch(1_000),
    "epoch-microseconds": _epoch(1_000_000),
    "time": _time,
    "major-units": _major_units,
    "minor-units": _minor_units,
    "currency": _currency,
    "money": _money,
    "money-currency": _money_currency,
    "card-number": _text,  # a number, a masked number or a fingerprint: told apart by `readers`
    "expiry-mm/yy": _expiry("mmyy"),
    "words": _words,
    "cases": _text,
    "object": _object,
}
