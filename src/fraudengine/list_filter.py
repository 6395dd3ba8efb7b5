"""Which values may be in a run-time list, in little memory: what it denies is in no list, the rest SQLite knows.

It holds every entry that ever was, removed ones too, so it serves any instant. A million values take eight
megabytes as one sorted array of 64-bit hashes, and four for a bitmap before it, which alone denies 97 of 100 values
at the cost of one memory access, where the search takes twenty; networks are merged into intervals.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class HashFilter:
    """A set of 64-bit hashes: a bitmap, a sorted array, and a set of those that came since."""

    __slots__ = ("_bits", "_mask", "_recent", "_sorted")

    def __init__(self, ascending: Iterable[int] = ()) -> None:
        self._sorted = array("q", ascending)
        self._recent: set[int] = set()
        size = 1 << max(16, (len(self._sorted) * 3).bit_length())  # 24 to 48 bits for each
        self._mask = size - 1
        self._bits = bits = bytearray(size)
        mask = self._mask
        for number in self._sorted:
            bits[number >> 3 & mask] |= 1 << (number & 7)

    def add(self, number: int) -> None:
        self._recent.add(number)
        self._bits[number >> 3 & self._mask] |= 1 << (number & 7)

    def holds(self, number: int) -> bool:
        if not self._bits[number >> 3 & self._mask] >> (number & 7) & 1:
            return False
        if number in self._recent:
            return True
        numbers = self._sorted
        place = bisect_left(numbers, number)
        return place < len(numbers) and numbers[place] == number

    @property
    def recent(self) -> int:
        return len(self._recent)

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)


class IntervalFilter:
    """A set of closed intervals of 64-bit numbers; those that overlap or touch become one."""

    __slots__ = ("_highs", "_lows")

    def __init__(self, by_low: Iterable[tuple[int, int]] = ()) -> None:
        self._lows, self._highs = array("q"), array("q")
        for low, high in by_low:
            if self._highs and low <= self._highs[-1] + 1:
                if high > self._highs[-1]:
                    self._highs[-1] = high
            else:
                self._lows.append(low)
                self._highs.append(high)

    def add(self, low: int, high: int) -> None:
        """Takes the interval in; the cost is one move of memory behind it."""
        first = bisect_left(self._highs, low)
        behind = bisect_right(self._lows, high)
        if first < behind:
            low, high = min(low, self._lows[first]), max(high, self._highs[behind - 1])
        self._lows[first:behind] = array("q", (low,))
        self._highs[first:behind] = array("q", (high,))

    def holds(self, number: int) -> bool:
        place = bisect_right(self._lows, number) - 1
        return place >= 0 and number <= self._highs[place]

    def __len__(self) -> int:
        return len(self._lows)
