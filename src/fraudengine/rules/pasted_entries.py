"""Entries that somebody pasted as one text instead of a YAML list: what the list is that they meant.

A column from a spreadsheet, lines with bullets or with a dash that no blank follows, and `(RU, KP)` all reach the
checker as one scalar whose lines YAML has joined. Only hints are made of this, so a guess is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .fmt_tree import quoted
from .yamldoc import Scalar

_MOST_INLINE: Final = 8
_WIDTH: Final = 60
_LINE_END: Final = re.compile(r"\r\n?|\n")
_SEPARATOR: Final = re.compile(r"[\n\t,;،؛|]")
_BULLET: Final = re.compile(r"(?:[-•·*‣◦▪●–—−\s]|\d{1,3}[.)]\s|\+\s)+")
_BRACKETS: Final = frozenset({"()", "[]", "{}", "<>"})
_QUOTES: Final = "\"'“”„«»‘’`"
_PLAIN: Final = re.compile(r"[\w+./@][^\n:#,\[\]{}\"'`]*")
_JOINING: Final = frozenset({"and", "et", "or", "ou", "&", "+", "/", "-", "و"})
# A country, a fingerprint, an address, a domain or network, digits of a BIN, or letters with digits such as `c-1`.
_VALUE: Final = re.compile(
    r"[A-Z]{2}|fp_\S+|\S+@\S+|[\w-]+(?:[.:][\w-]+)+(?:/\d+)?|\d{6,11}|(?=\S*\d)(?=\S*[^\W\d_])\S+"
)


def list_meant(name: str, pieces: Sequence[str]) -> str:
    """The hint of how the pieces are written as a list: `write … [c-1, c-2, c-3]`."""
    written = [piece if _PLAIN.fullmatch(piece) else quoted(piece.replace("`", "'")) for piece in pieces]
    inline = ", ".join(written)
    if len(written) == 1 or (len(written) <= _MOST_INLINE and len(inline) <= _WIDTH):
        return f"write `{name}: [{inline[:_WIDTH]}]`"
    first, second = (one[:_WIDTH] for one in written[:2])
    return (
        f"write the {len(written):,} values on a line each, with a dash and a blank: `- {first}`, `- {second}`, …"
    )


def split_entries(node: Scalar, source: str) -> list[str]:
    """The values that the scalar was meant to list; `source` is the text of the file that it stands in."""
    text = _without_brackets(_with_line_ends(node, source).strip())
    pieces = [piece for one in _SEPARATOR.split(text) if (piece := _bare(one))]
    if len(pieces) == 1:
        words = [word for word in re.split(r"[\s/]+", pieces[0]) if word.lower() not in _JOINING]
        if len(words) > 1 and all(_VALUE.fullmatch(_bare(word)) for word in words):
            pieces = [_bare(word) for word in words]
    return pieces or [node.text.strip()]


def _with_line_ends(node: Scalar, source: str) -> str:
    """The text with the line ends that YAML folded to blanks, as far as its words are found in the source."""
    if node.quoted:
        return node.text
    words = node.text.split()
    lines = _LINE_END.split(source)[node.line - 1 :]
    found: list[str] = []
    for line in lines:
        here = (line[node.column - 1 :] if not found else line).split()
        many = 0
        while many < min(len(here), len(words)) and here[many] == words[many]:
            many += 1
        if here and not many:
            break
        found.append(" ".join(here[:many]))
        del words[:many]
        if not words:
            return "\n".join(found)
    return node.text


def _bare(text: str) -> str:
    """Without bullet, dash, brackets and quotes around it."""
    bullet = _BULLET.match(text)
    text = _without_brackets(text[bullet.end() if bullet is not None else 0 :].strip())
    while len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text


def _without_brackets(text: str) -> str:
    return text[1:-1].strip() if text[:1] + text[-1:] in _BRACKETS else text
