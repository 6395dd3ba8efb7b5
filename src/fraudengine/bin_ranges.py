"""Ranges of card numbers and what is known of them, and how overlapping ones become segments.

ISO/IEC 7812-1:2017 made the BIN 8 digits, older tables hold 6, schemes key account ranges on up to 11; so each
row is a range of 11-digit numbers. Where ranges overlap, each attribute comes from the narrowest one that states
it, then from the source that ranks first, then from the newest row.

Attributes fall through one by one, since a row that leaves the country empty says nothing about the country.
What was given up: a narrow row cannot say "unknown" where a wider one knows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

KEY_DIGITS: Final = 11
END: Final = 10**KEY_DIGITS


class BinInfo(NamedTuple):
    """What is known of the cards below some leading digits; None is unknown. A tuple: a table makes 36,000 of them.

    `country` is ISO 3166 alpha-2, `brand` a scheme such as `visa` or `other`, `type` one of credit, debit, prepaid
    and charge (a prepaid flag makes it `prepaid`), `issuer` the bank's name as the source writes it.
    """

    country: str | None = None
    brand: str | None = None
    type: str | None = None
    issuer: str | None = None


NOTHING: Final = BinInfo()
Widths: TypeAlias = tuple[int, int, int, int]
Attributes: TypeAlias = tuple[str | None, str | None, str | None, str | None]


def attributes(info: BinInfo) -> Attributes:
    return info.country, info.brand, info.type, info.issuer


@dataclass(frozen=True, slots=True)
class BinRange:
    """What one source says of the numbers `low` to `high` (11 digits each, both included).

    The smaller `rank` wins between ranges of one width, then the greater `order` (newest).
    """

    low: int
    high: int
    info: BinInfo
    rank: int = 0
    order: int = 0

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    @property
    def precedence(self) -> tuple[int, int, int]:
        return self.width, self.rank, -self.order


def pad_range(first: str, last: str = "") -> tuple[int, int]:
    """The 11-digit numbers below the leading digits `first` to `last`: `407024` is 40702400000–40702499999."""
    last = last or first
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        raise ValueError("leading digits hold digits only")
    if not 6 <= len(first) <= KEY_DIGITS or len(last) != len(first) or last < first:
        raise ValueError("leading digits are 6 to 11, the last as many as the first and not below it")
    return int(first.ljust(KEY_DIGITS, "0")), int(last.ljust(KEY_DIGITS, "9"))


# --- segments -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Segments:
    """The numbers 0 to 10^11 cut into stretches with one answer each.

    Segment i runs from `starts[i]` to the next start, and says `infos[cells[i]]`; `widths` holds how wide the
    range was that each attribute came from, so that an operator's rows can be laid over a finished table.
    INVARIANT: `starts` begins with 0, ends with 10^11 (no segment) and rises; neighbours differ.
    """

    starts: array[int] = field(default_factory=lambda: array("Q", [0, END]))
    cells: array[int] = field(default_factory=lambda: array("I", [0]))
    infos: list[BinInfo] = field(default_factory=lambda: [NOTHING])
    widths: list[Widths] = field(default_factory=lambda: [(END, END, END, END)])


def lay_over(base: Segments, ranges: Iterable[BinRange]) -> Segments:
    """`base` with ranges laid over it: each attribute from the narrowest, on a tie from `ranges` before `base`."""
    ranges = list(ranges)
    opening: dict[int, list[BinRange]] = {}
    closing: dict[int, list[BinRange]] = {}
    for item in ranges:
        opening.setdefault(item.low, []).append(item)
        closing.setdefault(item.high + 1, []).append(item)
    made = Segments(array("Q"), array("I"), list(base.infos), list(base.widths))
    known = {pair: index for index, pair in enumerate(zip(made.infos, made.widths, strict=True))}

    def append(start: int, cell: int) -> None:
        if not made.cells or made.cells[-1] != cell:
            made.starts.append(start)
            made.cells.append(cell)

    active: list[BinRange] = []
    for start, end in pairwise(sorted({0, END, *opening, *closing})):
        for item in closing.get(start, ()):
            active.remove(item)
        for item in opening.get(start, ()):
            insort(active, item, key=lambda entry: entry.precedence)
        first = bisect_right(base.starts, start) - 1
        last = bisect_left(base.starts, end)
        if not active:
            append(start, base.cells[first])
            made.starts.extend(base.starts[first + 1 : last])
            made.cells.extend(base.cells[first + 1 : last])
            continue
        for index in range(first, last):
            below = base.cells[index]
            pair = _resolve(active, base.infos[below], base.widths[below])
            cell = known.get(pair)
            if cell is None:
                cell = known[pair] = len(made.infos)
                made.infos.append(pair[0])
                made.widths.append(pair[1])
            append(max(start, base.starts[index]), cell)
    made.starts.append(END)
    return made


def _resolve(active: Sequence[BinRange], below: BinInfo, widths: Widths) -> tuple[BinInfo, Widths]:
    values, spans = list(attributes(below)), list(widths)
    for position in range(4):
        for item in active:  # narrowest first
            value = attributes(item.info)[position]
            if value is not None:
                if values[position] is None or item.width <= spans[position]:
                    values[position], spans[position] = value, item.width
                break
    return BinInfo(*values), (spans[0], spans[1], spans[2], spans[3])
