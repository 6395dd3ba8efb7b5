"""Amounts and currencies as people write them: what the ISO 4217 code and the plain figure are. Only for hints."""

from __future__ import annotations

import re
from typing import Final

from ..money import EXPONENTS

_NAMES: Final = {
    **dict.fromkeys(("DT", "D.T.", "D.T", "DINAR", "DINARS", "TD", "د.ت", "د.ت.", "دت", "دينار"), "TND"),
    **dict.fromkeys(("€", "EURO", "EUROS"), "EUR"),
    **dict.fromkeys(("$", "US$", "DOLLAR", "DOLLARS"), "USD"),
    **dict.fromkeys(("£", "POUND", "POUNDS"), "GBP"),
}
_GROUPS: Final = re.compile(r"[0-9]{1,12}(?:[.,' ’_\u00a0\u202f][0-9]{1,12})*", re.ASCII)
_MARK: Final = re.compile(r"[^0-9]")


def currency_meant(text: str) -> str | None:
    """The code of a currency by its code in any case or by a usual name of it; `DT` is the Tunisian dinar."""
    upper = text.strip().upper()
    return upper if upper in EXPONENTS else _NAMES.get(upper)


def plain_figure(text: str, currency: str) -> str | None:
    """Digits with a decimal point: `1.300,500` and `1 300,500` of TND are `1300.500`; None when it is no figure.

    A single mark is a decimal one where the currency can have so many decimals, else one of thousands.
    """
    text = text.strip()
    if _GROUPS.fullmatch(text) is None:
        return None
    marks = _MARK.findall(text)
    digits = _MARK.sub("", text)
    last = marks[-1] if marks else ""
    decimals = len(_MARK.split(text)[-1])
    if last in (".", ",") and marks.count(last) == 1 and 0 < decimals <= EXPONENTS[currency]:
        return f"{digits[:-decimals]}.{digits[-decimals:]}"
    return digits
