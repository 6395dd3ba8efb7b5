"""The BIN table: the leading digits of a card number to country, brand, type and issuer.

Overlaps between rows are resolved when the table is built (`bin_ranges`): what is left are segments side by side,
so that a look-up is one bisection over arrays of a few megabytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import orjson

from .bin_ranges import KEY_DIGITS, NOTHING, BinInfo, BinRange, Segments, attributes, lay_over
from .binlist import read_binlist
from .diagnostics import DataFileError

REBUILD: Final = "rebuild it with: fraudengine data build-bins"

# --- the table ----------------------------------------------------------------------------------------------

_SCALES: Final = tuple(10 ** (KEY_DIGITS - length) for length in range(KEY_DIGITS + 1))


class BinTable:
    """A built BIN table in memory; safe to share between threads, as nothing in it changes."""

    __slots__ = ("_cells", "_infos", "_starts", "build_date", "local_rows")

    def __init__(self, segments: Segments, build_date: str, local_rows: int = 0) -> None:
        self._starts = segments.starts
        self._cells = segments.cells
        self._infos = [None if info == NOTHING else info for info in segments.infos]
        self.build_date = build_date
        self.local_rows = local_rows

    @classmethod
    def load(cls, path: Path, local_csv: Path | None = None) -> BinTable:
        """The table in `path`, with the operator's own rows of `local_csv` (when that file exists) laid over it.

        Raises DataFileError when a file is missing, damaged or holds a wrong row; the message says what to do.
        """
        segments, build_date = read_table(path)
        rows: list[BinRange] = []
        if local_csv is not None and local_csv.exists():
            for line, row in read_binlist(local_csv):
                if isinstance(row, str):
                    raise DataFileError(f"{local_csv}:{line}: {row}")
                rows.append(row)
            segments = lay_over(segments, rows)
        return cls(segments, build_date, len(rows))

    def __len__(self) -> int:
        return len(self._cells)

    def segments(self) -> Iterator[tuple[int, int, BinInfo | None]]:
        """Every segment: its first 11-digit number, the first after it, and what is known of those between."""
        for place, cell in enumerate(self._cells):
            yield self._starts[place], self._starts[place + 1], self._infos[cell]

    def look_up(self, digits: str) -> BinInfo | None:
        """What is known of the cards that begin with these 6 or more digits; None when nothing is.

        With fewer digits than the table tells apart, an attribute is given only when everything below the
        digits agrees on it; else it is unknown ("ambiguous"), never a guess.
        """
        length = len(digits)
        if length >= KEY_DIGITS:
            low = high = int(digits[:KEY_DIGITS])
        elif length >= 6:
            scale = _SCALES[length]
            low = int(digits) * scale
            high = low + scale - 1
        else:
            return None
        first = bisect_right(self._starts, low) - 1
        if self._starts[first + 1] > high:
            return self._infos[self._cells[first]]
        last = bisect_right(self._starts, high)
        return _agree({self._infos[cell] for cell in self._cells[first:last]})


def _agree(infos: set[BinInfo | None]) -> BinInfo | None:
    columns = zip(*(attributes(info or NOTHING) for info in infos), strict=True)
    agreed = BinInfo(*(column[0] if len(set(column)) == 1 else None for column in columns))
    return None if agreed == NOTHING else agreed


# --- the file -----------------------------------------------------------------------------------------------
# A line `fraudengine-bins 1 <SHA-256 of all that follows>`, a line of JSON, then zlib-compressed: differences
# between starts (64 bits), cells (32 bits), each little-endian, and the answers as JSON.

_FIRST_LINE: Final = re.compile(rb"fraudengine-bins 1 ([0-9a-f]{64})\n")


def write_table(path: Path, segments: Segments, build_date: str, sources: Sequence[str]) -> None:
    """Writes a table that `read_table` reads; equal arguments give equal bytes."""
    steps = array("Q", (after - before for before, after in pairwise(segments.starts)))
    texts: dict[str | None, int] = {None: 0}
    widths: dict[int, int] = {}
    columns: list[list[int]] = [[] for _ in range(8)]
    for info, spans in zip(segments.infos, segments.widths, strict=True):
        for column, value in zip(columns[:4], attributes(info), strict=True):
            column.append(texts.setdefault(value, len(texts)))
        for column, span in zip(columns[4:], spans, strict=True):
            column.append(widths.setdefault(span, len(widths)))
    answers = {"texts": list(texts), "widths": list(widths), "columns": columns}
    head = {"build_date": build_date, "segments": len(segments.cells), "sources": list(sources)}
    body = json.dumps(head, ensure_ascii=False).encode() + b"\n"
    body += zlib.compress(
        b"".join(
            (
                _little_endian(steps).tobytes(),
                _little_endian(segments.cells).tobytes(),
                json.dumps(answers, ensure_ascii=False, separators=(",", ":")).encode(),
            )
        ),
        9,
    )
    path.write_bytes(b"fraudengine-bins 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def read_table(path: Path) -> tuple[Segments, str]:
    """The segments of a BIN table file and its build date (YYYY-MM-DD). Raises DataFileError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error.strerror}); {REBUILD}") from error
    found = _FIRST_LINE.match(content)
    if found is None:
        raise DataFileError(f"{path} is no BIN table of fraudengine; {REBUILD}")
    body = content[found.end() :]
    if hashlib.sha256(body).hexdigest().encode() != found[1]:
        raise DataFileError(f"{path} is truncated or damaged (its checksum differs); {REBUILD}")
    head_line, _, packed = body.partition(b"\n")
    head = json.loads(head_line)
    count = head["segments"]
    payload = zlib.decompress(packed)
    steps, cells = array("Q", payload[: 8 * count]), array("I", payload[8 * count : 12 * count])
    answers = orjson.loads(memoryview(payload)[12 * count :])
    texts, widths, columns = answers["texts"], answers["widths"], answers["columns"]
    values = [map(texts.__getitem__, column) for column in columns[:4]]
    spans = [map(widths.__getitem__, column) for column in columns[4:]]
    segments = Segments(
        array("Q", accumulate(_little_endian(steps), initial=0)),
        _little_endian(cells),
        list(map(BinInfo._make, zip(*values, strict=True))),
        list(zip(*spans, strict=True)),
    )
    return segments, str(head["build_date"])


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "little":
        return numbers
    swapped = numbers[:]
    swapped.byteswap()
    return swapped
