"""What is wrong with a request, in words for whoever wrote the gateway's side; no word of it was sent by them.

Field names are repeated when they are plain names without many digits; values never are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .cards import hide_pans
from .diagnostics import InvalidTransaction, suggest
from .request_schema import CardRequest, ScreeningRequest, ThreeDsRequest

MAX_PROBLEMS: Final = 20
HIDDEN_NAME: Final = "(name not shown)"
CARD_SECRET_PROBLEM: Final = "is never accepted: CVV, PIN and track data must not be sent (PCI DSS 3.3.1)"

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}").fullmatch
_MAX_DIGITS_IN_NAME: Final = 8
_CARD_SECRET: Final = re.compile(r"cvv|cvc|cvn|securitycode|^pin$|pinblock|^track[12]?(data)?$").search
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "": tuple(ScreeningRequest.__annotations__),
    "card": tuple(CardRequest.__annotations__),
    "three_ds": tuple(ThreeDsRequest.__annotations__),
}


class TransactionRefused(InvalidTransaction):
    """Every problem of a transaction as (field, problem); `field` and `problem` are the first."""

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = tuple(problems)[:MAX_PROBLEMS]
        super().__init__(*self.problems[0])
        self.args = ("; ".join(f"{field}: {problem}" for field, problem in self.problems),)


class NotJson(TransactionRefused):
    """The body is no JSON text at all."""

    def __init__(self, problem: str) -> None:
        super().__init__([("body", problem)])


def is_card_secret(name: str, *, strict: bool = True) -> bool:
    """Whether a field's name says that it holds a CVV, a PIN or track data; `strict` takes `cid` for one too."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _CARD_SECRET(plain) is not None or (strict and plain == "cid")


def safe_name(name: object) -> str:
    """A field name that may be repeated; one that could hide a card number or a control character may not."""
    text = str(name)
    if _PLAIN_NAME(text) is None or sum(map(str.isdigit, text)) > _MAX_DIGITS_IN_NAME:
        return HIDDEN_NAME
    return hide_pans(text)


def problems_of(error: ValidationError) -> TransactionRefused:
    """What the compiled validator found, said in the field's words."""
    found: dict[str, str] = {}
    for details in error.errors(include_url=False, include_input=False):
        if details["type"] == "json_invalid":
            return NotJson(f"is not JSON: {details['ctx']['error']}")
        if len(found) >= MAX_PROBLEMS:
            break
        location = [part for part in details["loc"] if part not in ("[key]",)]
        if location[:2] == ["three_ds", "eci"]:
            location = location[:2]  # one problem for the two types it may have
        field = ".".join(map(safe_name, location)) or "body"
        found.setdefault(field, _in_words(details, field))
    return TransactionRefused(found.items())


def _in_words(details: ErrorDetails, field: str) -> str:
    limits = details.get("ctx", {})
    match details["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return _unknown_field(str(details["loc"][-1]), field.rpartition(".")[0])
        case "string_too_short":
            return "must not be empty; leave it out when it is not known"
        case "string_too_long":
            return f"longer than {limits['max_length']} characters"
        case "too_long":
            return f"more than {limits['max_length']} keys"
        case "literal_error":
            return f"is one of {limits['expected'].replace(chr(39), '`')}"
        case "string_unicode":
            return "holds parts of characters (lone surrogates)"
    if field == "body":
        return "is a JSON object"
    if field == "amount":
        return 'is text in major units, such as "450.000"; a JSON number would lose decimals'
    if field == "three_ds.eci":
        return 'is two digits, such as "05"'
    if field in ("card", "three_ds", "metadata"):
        return "is an object"
    return "is text"


def problem_of(details: ErrorDetails) -> str:
    """What is wrong with one field of any other request; from the schema's own words, never from what was sent."""
    limits = details.get("ctx", {})
    match details["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "unknown field"
        case "json_invalid":
            return "is not JSON"
        case "string_too_short" | "string_too_long":
            return _length(limits)
        case "literal_error" | "enum":
            return f"is one of {limits['expected'].replace(chr(39), '`')}"
        case "string_type":
            return "is text"
        case "int_type" | "int_parsing" | "int_parsing_size" | "int_from_float":
            return "is a whole number"
        case "bool_type" | "bool_parsing":
            return "is `true` or `false`"
        case "greater_than_equal":
            return f"is {limits['ge']} or more"
        case "less_than_equal":
            return f"is {limits['le']} at most"
        case "model_attributes_type" | "model_type" | "dict_type":
            return "is a JSON object"
    return "is not valid; /openapi.json says what it takes"


def _length(limits: Mapping[str, Any]) -> str:
    if "max_length" in limits:
        return f"longer than {limits['max_length']} characters"
    return f"shorter than {limits['min_length']} characters" if limits["min_length"] > 1 else "must not be empty"


def _unknown_field(name: str, parent: str) -> str:
    if is_card_secret(name):
        return CARD_SECRET_PROBLEM
    if parent not in _FIELDS or safe_name(name) == HIDDEN_NAME:
        return "unknown field"
    hint = suggest(name, _FIELDS[parent])
    return f"unknown field; {hint}" if hint else "unknown field"
