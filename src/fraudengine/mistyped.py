"""Values of lists that no payment can have, because more was written or pasted than the value itself.

Quotation marks of a word processor, the blank that a spreadsheet leaves, a web address instead of a domain: such
an entry would stand in its list and match nobody. Only what is certainly meant otherwise is refused, since the
merchant is free to name customers as he likes: `O'Brien`, `Amal; Tunis` and `Société "Amal"` are names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_DOUBLE: Final = frozenset('"“”„«»')
_SINGLE: Final = frozenset("'‘’‚‹›`")
_QUOTES: Final = _DOUBLE | _SINGLE
_AROUND: Final = "".join(_QUOTES) + "<>()[]{},;: \t\r\n\u00a0\u202f"
_NOT_IN_DOMAIN: Final = re.compile(r"[\"“”„«»'‘’‚‹›`/\\*:,;<>(){}?#|&=!]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://)?(?=[^0-9])")
_HOST: Final = re.compile(r"[^\s@.]+(?:\.[^\s@.]+)+")
_ADDRESS: Final = re.compile(r"[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+")


@dataclass(frozen=True, slots=True)
class Mistyped:
    """What is wrong, in words that repeat nothing, and the value that is meant when it can be told."""

    problem: str
    meant: str = ""


def mistyped_email(text: str) -> Mistyped | None:
    """What keeps an e-mail address from being one that somebody has; a quoted part before the @ is in order."""
    local, _, domain = text.rpartition("@")
    if local.strip("".join(_QUOTES)) == "*":
        return Mistyped("`*` stands for no name; a whole domain goes into a list of e-mail domains")
    problem = ""
    quoted_local = len(local) > 2 and local[0] == '"' == local[-1]
    if _DOUBLE.intersection(local) - {'"'} or (local[:1] in _QUOTES and not quoted_local) or text[-1:] in _QUOTES:
        problem = "quotation marks do not belong to it"
    elif _SCHEME.match(local) or "<" in local:
        problem = "only the address itself is written"
    elif not domain.startswith("["):
        problem = _problem_of_domain(domain)
    return Mistyped(problem, _bare_email(text)) if problem else None


def mistyped_domain(text: str) -> Mistyped | None:
    """What keeps the domain of an e-mail address from being one, such as a scheme or a path."""
    problem = _problem_of_domain(text)
    return Mistyped(problem, bare_domain(text)) if problem else None


def mistyped_name(text: str) -> Mistyped | None:
    """What keeps a customer or device from being what a payment names; the meant name has no quotes around it."""
    bare = text.strip()
    if bare != text:
        return Mistyped("a blank stands before or after it", bare)
    if "\t" in text or "\n" in text or "\r" in text:
        return Mistyped("it holds a tab or a line end; each value is an entry of its own")
    if _has_stray_quote(text):
        return Mistyped("quotation marks do not belong to it", text.strip("".join(_QUOTES)).strip())
    return None


def bare_domain(text: str) -> str:
    """The domain in a web address, an e-mail address or a pattern; empty when there is none."""
    text = _SCHEME.sub("", text.strip(_AROUND), count=1).rpartition("@")[2]
    host = re.split(r"[/\\?#:]", text, maxsplit=1)[0].lstrip("*.").strip(_AROUND + ".")
    return host if _HOST.fullmatch(host) and not _NOT_IN_DOMAIN.search(host) else ""


def _bare_email(text: str) -> str:
    local, _, domain = _SCHEME.sub("", text.strip(_AROUND), count=1).rpartition("@")
    address = f"{local.rpartition('<')[2].strip(_AROUND)}@{bare_domain(domain)}"
    return address if _ADDRESS.fullmatch(address) else ""


def _problem_of_domain(text: str) -> str:
    found = _NOT_IN_DOMAIN.search(text)
    if found is None:
        return ""
    if _QUOTES.intersection(text):
        return "quotation marks do not belong to it"
    if "*" in text:
        return "`*` stands for nothing; a domain is compared as a whole"
    return "no domain holds such a sign" if "/" not in text else "a web address is none"


def _has_stray_quote(text: str) -> bool:
    """Whether quotes stand around the whole text, or one at an end that nothing opens or closes."""
    first, last, inner = text[0] in _QUOTES, text[-1] in _QUOTES, text[1:-1]
    doubles = [place for place, letter in enumerate(text) if letter in _DOUBLE]
    if first and last:
        same = _DOUBLE if text[0] in _DOUBLE or text[-1] in _DOUBLE else _SINGLE
        return not same.intersection(inner)
    if len(doubles) == 1 and doubles[0] in (0, len(text) - 1):
        return not (text[-1] == '"' and text[-2:-1].isdigit())  # `iPad 12.9"` is a name
    # A spreadsheet's mark of a text, `'00123`; `'t Hof` is a name, and a name may end with an apostrophe.
    return text[0] in _SINGLE and not _SINGLE.intersection(text[1:]) and " " not in text
