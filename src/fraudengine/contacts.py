"""E-mail addresses and telephone numbers in the one form in which rules and lists compare them.

The request's reader and the reader of list entries both come here, so that what somebody lists is what a
transaction has. E-mail: lower case; a `+tag` is kept, because some hosts give it to different people. Telephone:
E.164 through `phonenumbers`; a number without its country is read as one of `DEFAULT_REGION`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

DEFAULT_REGION: Final = "TN"

_EMAIL: Final = re.compile(r"[^\s@]{1,64}@[^\s@.]+(?:\.[^\s@.]+)*").fullmatch
_DOMAIN: Final = re.compile(r"[^\s@.]+(?:\.[^\s@.]+)+").fullmatch
# Tunisian numbers have eight digits and no trunk prefix, so this form is E.164 already: the common case, for free.
_TUNISIAN: Final = re.compile(r"\+216[2-9][0-9]{7}").fullmatch
MAX_EMAIL: Final = 254


def normalise_email(text: str) -> str | None:
    """The address in lower case, or None when the text is none."""
    if len(text) > MAX_EMAIL or _EMAIL(text) is None:
        return None
    return text.lower()


def normalise_email_domain(text: str) -> str | None:
    """The domain in lower case, as it follows the @ of an address; a leading @ is taken off."""
    domain = text.removeprefix("@")
    if len(domain) > MAX_EMAIL or _DOMAIN(domain) is None:
        return None
    return domain.lower()


def normalise_phone(text: str) -> str | None:
    """The number as `+216…` (E.164), or None when no country's numbers look like it."""
    return text if _TUNISIAN(text) is not None else _read_phone(text)


@lru_cache(maxsize=4096)
def _read_phone(text: str) -> str | None:
    import phonenumbers  # a quarter of a second to import

    text = text.strip()
    if text.startswith("00"):
        text = f"+{text[2:]}"
    try:
        number = phonenumbers.parse(text, DEFAULT_REGION)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
