"""The text of a rule file before it is YAML: bytes decoded, hidden characters refused, card numbers hidden.

A card number in a rule file is an error, and nothing that is read or shown afterwards may repeat it. So its
digits are replaced before the YAML is read: `hide_card_numbers` for reading, `text_for_display` for excerpts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..cards import find_pans
from ..diagnostics import Diagnostic, Span

MAX_BYTES: Final = 1_000_000
HIDDEN_DIGIT: Final = "X"

_DIGITS: Final = str.maketrans("0123456789", HIDDEN_DIGIT * 10)
_ANY_DIGIT: Final = re.compile(r"\d")
_MAY_HOLD_CARD: Final = re.compile(r"\d(?:[\W_]{0,3}\d){12}")
_LONG: Final = re.compile(r"[0-9]{13,}")
# Line ends of a folded or continued value: YAML joins the lines with one space or with nothing.
_FOLD: Final = re.compile(r"[ \t]*\\?\r?\n[ \t]*\\?")
_ESCAPED: Final = re.compile(r"\\[xuU0-9]")
# YAML reads some of these as line ends, shows none of them, or cannot carry them at all.
_HIDDEN: Final = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u200a\u200c-\u2027\u202f-\u205f\u2061-\u2065\u206a-\ud7ff"
    "\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_TAB_INDENT: Final = re.compile(r"^ *(\t+)", re.MULTILINE)
_BYTE_ORDER_MARKS: Final = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def decode_source(path: str, content: bytes) -> tuple[str | None, list[Diagnostic]]:
    """The text of a rule file, or why its bytes are none. Line ends stay as they are."""
    if len(content) > MAX_BYTES:
        return None, [too_large(path, len(content))]
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return None, [_not_utf8(path, 1, 1, f"the file is written in {name}")]
    try:
        return content.decode("utf-8"), []
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        line, column = place_of(before, len(before))
        return None, [_not_utf8(path, line, column, f"byte 0x{content[error.start]:02x} is not UTF-8")]


def _not_utf8(path: str, line: int, column: int, message: str) -> Diagnostic:
    return Diagnostic("not-utf-8", message, Span(path, line, column, column + 1), "save the file as UTF-8")


def too_large(path: str, size: int) -> Diagnostic:
    return Diagnostic(
        "file-too-large",
        f"the file has {size:,} bytes, and {MAX_BYTES:,} are the most that is read",
        Span(path, 1, 1, 2),
        "keep long lists in the runtime lists, not in rule files",
    )


def refuse_hidden_characters(path: str, text: str) -> list[Diagnostic]:
    """A mistake for each character that cannot be seen or that YAML cannot carry, and each tab that indents."""
    found = []
    if text.startswith("\ufeff"):
        hint = "save the file as UTF-8 without a byte order mark"
        found.append(
            Diagnostic("byte-order-mark", "the file begins with a byte order mark", Span(path, 1, 1, 2), hint)
        )
    for hidden in _HIDDEN.finditer(text, 1 if found else 0):
        line, column = place_of(text, hidden.start())
        message = f"hidden character U+{ord(hidden[0]):04X}"
        found.append(Diagnostic("hidden-character", message, Span(path, line, column, column + 1), "delete it"))
        if len(found) >= 20:
            break
    for tab in _TAB_INDENT.finditer(text) if "\t" in text else ():
        line, column = place_of(text, tab.start(1))
        span = Span(path, line, column, column + len(tab[1]))
        found.append(Diagnostic("tab", "a tab is used to indent", span, "indent with spaces"))
        if len(found) >= 40:
            break
    return found


def place_of(text: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1, of a character; every line end that YAML knows counts once."""
    before = text[:offset]
    line = before.count("\n") + before.count("\r") - before.count("\r\n")
    start = max(before.rfind("\n"), before.rfind("\r")) + 1
    return line + 1, offset - start + 1


def hide_card_numbers(path: str, text: str) -> tuple[str, list[Diagnostic]]:
    """The text with the digits of every card number replaced one by one, and a mistake for each number."""
    if _MAY_HOLD_CARD.search(text) is None:
        return text, []
    places = find_pans(text)
    found = []
    for start, end in places:
        line, column = place_of(text, start)
        found.append(card_number_mistake(Span(path, line, column, column + end - start)))
    return _hide(text, places), found


def card_number_mistake(span: Span) -> Diagnostic:
    return Diagnostic(
        "card-number",
        "a card number stands in a rule file",
        span,
        "write its fingerprint, which `fraudengine fingerprint` makes; the number itself must leave this file",
    )


def text_for_display(text: str) -> str:
    """The text as excerpts may show it: no digit of a card number, also of one that YAML would join or unescape.

    Every character keeps its place.
    """
    text = hide_numbers(text)
    if "\\" in text and _ESCAPED.search(text):
        lines = text.splitlines(keepends=True)
        text = "".join(line.translate(_DIGITS) if _ESCAPED.search(line) else line for line in lines)
    joined: list[str] = []
    offsets: list[int] = []
    done = 0
    for fold in _FOLD.finditer(text):
        joined.append(text[done : fold.start()])
        offsets.extend(range(done, fold.start()))
        joined.append(" ")
        offsets.append(fold.start())
        done = fold.end()
    joined.append(text[done:])
    offsets.extend(range(done, len(text) + 1))
    places = find_pans("".join(joined))
    return _hide(text, [(offsets[start], offsets[end - 1] + 1) for start, end in places])


def hide_numbers(text: str) -> str:
    """The text without card numbers and without any run of digits long enough to hold one inside."""
    if _MAY_HOLD_CARD.search(text) is None:
        return text
    text = _hide(text, find_pans(text))
    return _LONG.sub(lambda run: HIDDEN_DIGIT * len(run[0]), text)


def _hide(text: str, places: Iterable[tuple[int, int]]) -> str:
    pieces: list[str] = []
    done = 0
    for start, end in places:
        pieces += (text[done:start], _ANY_DIGIT.sub(HIDDEN_DIGIT, text[start:end]))
        done = end
    return "".join(pieces) + text[done:]
