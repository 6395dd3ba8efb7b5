"""JSON Schemas of single values: what a scalar may be, by the type of the fact, setting or list that it is for.

An editor reads YAML 1.2: `NO` and `off` are texts there, but `012345`, `+21671123456` and `05` are numbers. So
every value of digits is described both as a text and as a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from ..cards import FINGERPRINT
from ..countries import NAMES
from ..facts import FactSpec, FactType, ListKind
from ..money import EXPONENTS

Schema: TypeAlias = "dict[str, object]"

_DIGITS: Final = "^[0-9]+$"
_DATE: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
INSTANT: Final = f"^{_DATE}([T ][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}(\\.[0-9]+)?)?(Z|[+-][0-9]{{2}}:?[0-9]{{2}}))?$"
REFERENCE: Final = r"^\$[a-z][A-Za-z0-9_.-]*$"


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def any_of(*options: Schema) -> Schema:
    return {"anyOf": list(options)} if len(options) > 1 else options[0]


def words(values: Iterable[str], helps: Mapping[str, str] | None = None) -> Schema:
    """One of a closed set; `helps` are shown beside each word by editors that can."""
    found = list(values)
    schema: Schema = {"enum": found}
    if helps is not None:
        schema["markdownEnumDescriptions"] = [helps.get(value, "") for value in found]
    return schema


def text(pattern: str | None = None, most: int | None = None, help_text: str = "") -> Schema:
    schema: Schema = {"type": "string", "minLength": 1}
    if pattern is not None:
        schema["pattern"] = pattern
    if most is not None:
        schema["maxLength"] = most
    if help_text:
        schema["description"] = help_text
    return schema


def digits(pattern: str, low: int, high: int) -> Schema:
    """Digits as a text of that pattern, or as the number that an editor makes of them."""
    return any_of({"type": "string", "pattern": pattern}, {"type": "integer", "minimum": low, "maximum": high})


ANY_TEXT: Final[Schema] = {"type": ["string", "number", "boolean"], "minLength": 1, "maxLength": 256}


def mapping(properties: Mapping[str, Schema], required: Iterable[str] = (), help_text: str = "") -> Schema:
    """A closed mapping."""
    schema: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    if required:
        schema["required"] = list(required)
    if help_text:
        schema["description"] = help_text
    return schema


def sequence(items: Schema, least: int = 0) -> Schema:
    schema: Schema = {"type": "array", "items": items}
    if least:
        schema["minItems"] = least
    return schema


def value_definitions() -> dict[str, Schema]:
    """The `$defs` that every schema needs."""
    return {
        "country": words(sorted(NAMES), NAMES),
        "currency": words(sorted(EXPONENTS)),
        "money": {
            "type": "string",
            "pattern": "|".join(
                f"^[0-9]{{1,15}}{_decimals(exponent)} +({'|'.join(codes)})$" for exponent, codes in _by_exponent()
            ),
            "description": "An amount with its currency, such as `100 TND`.",
        },
        "figures": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": False,
            "description": "One figure per currency, such as `{TND: 300, EUR: 90}`.",
            "properties": {
                code: {
                    "type": ["number", "string"],
                    "minimum": 0,
                    "pattern": f"^[0-9]{{1,15}}{_decimals(exponent)}$",
                }
                for exponent, codes in _by_exponent()
                for code in codes
            },
        },
        "instant": {
            "type": "string",
            "pattern": INSTANT,
            "description": "A date (midnight), or an instant with its time zone: `2026-11-02T10:15:00Z`.",
        },
        "outcome": words(
            ["accept", "challenge", "refuse"],
            {"challenge": "Ask for 3-D Secure.", "refuse": "Refuse the payment.", "accept": "Let it through."},
        ),
    }


def _decimals(exponent: int) -> str:
    return f"(\\.[0-9]{{1,{exponent}}})?" if exponent else ""


def _by_exponent() -> list[tuple[int, list[str]]]:
    return [
        (exponent, sorted(code for code, own in EXPONENTS.items() if own == exponent))
        for exponent in sorted(set(EXPONENTS.values()))
    ]


_EMAIL: Final = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
_DOMAIN: Final = r"^[^@\s.]+(\.[^@\s.]+)+$"
_PHONE: Final = any_of(
    {"type": "string", "pattern": r"^(\+[ -]*[1-9]([ -]*[0-9]){6,14}|[0-9]([ -]*[0-9]){7,16})[ -]*$"},
    {"type": "integer", "minimum": 1_000_000, "maximum": 10**15},
)
_IP: Final[Schema] = {
    "type": "string",
    "pattern": "^([0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)(/[0-9]{1,3})?$",
}


def literal(spec: FactSpec) -> Schema:
    """A value of the fact's type."""
    match spec.type:
        case FactType.COUNTRY:
            return ref("country")
        case FactType.CURRENCY:
            return ref("currency")
        case FactType.WORD:
            return words(spec.words)
        case FactType.MONEY:
            return ref("money")
        case FactType.INTEGER:
            low = spec.low if spec.low is not None else -(10**15) + 1
            high = spec.high if spec.high is not None else 10**15 - 1
            return any_of(
                {"type": "integer", "minimum": low, "maximum": high},
                {"type": "string", "pattern": "^-?[0-9]{1,15}$"},
            )
        case FactType.BOOLEAN:
            return {"enum": [True, False, "true", "false"]}
        case FactType.CARD:
            return text(f"^{FINGERPRINT.pattern}$")
        case FactType.BIN:
            return digits("^[0-9]{6,8}$", 0, 99_999_999)
        case FactType.IP:
            return _IP
        case FactType.TEXT:
            return _TEXTS.get(spec.name, ANY_TEXT)


_TEXTS: Final[dict[str, Schema]] = {
    "email": text(_EMAIL),
    "email_domain": text(_DOMAIN),
    "phone": _PHONE,
    "eci": digits("^[0-9]{2}$", 0, 99),
}

ENTRY_VALUES: Final[dict[ListKind, Schema]] = {
    ListKind.CARD: text(f"^{FINGERPRINT.pattern}$"),
    ListKind.BIN: digits("^[0-9]{6,11}$", 0, 99_999_999_999),
    ListKind.IP: _IP,
    ListKind.COUNTRY: ref("country"),
    ListKind.EMAIL: text(_EMAIL),
    ListKind.EMAIL_DOMAIN: text(_DOMAIN),
    ListKind.PHONE: _PHONE,
    ListKind.CUSTOMER: ANY_TEXT,
    ListKind.DEVICE: ANY_TEXT,
}
