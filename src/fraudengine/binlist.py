"""Reads CSV files in the columns of binlist: what an operator or a data provider says about BINs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .bin_ranges import BinInfo, BinRange, pad_range
from .countries import read_country
from .diagnostics import DataFileError, suggest

COLUMNS: Final = (
    "iin_start",
    "iin_end",
    "number_length",
    "number_luhn",
    "scheme",
    "brand",
    "type",
    "prepaid",
    "country",
    "bank_name",
    "bank_logo",
    "bank_url",
    "bank_phone",
    "bank_city",
)
_TYPES: Final = ("credit", "debit", "prepaid", "charge")
_YES_NO: Final = {"yes": True, "y": True, "true": True, "1": True} | {
    "no": False, "n": False, "false": False, "0": False, "": False,
}  # fmt: skip
_BRANDS: Final = (
    ("visa", ("visa", "vpay", "v pay")),
    ("mastercard", ("mastercard", "master card")),
    ("amex", ("amex", "american express")),
    ("diners", ("diners",)),
    ("discover", ("discover",)),
    ("jcb", ("jcb",)),
    ("unionpay", ("unionpay", "union pay", "china union")),
    ("maestro", ("maestro",)),
)


def read_brand(text: str) -> str | None:
    """The scheme a source means: `AMERICAN EXPRESS` is `amex`, `VISA/DANKORT` `visa`, an unlisted one `other`."""
    folded = " ".join(text.lower().split())
    for brand, beginnings in _BRANDS:
        if folded.startswith(beginnings):
            return brand
    return "other" if folded else None


def read_binlist(path: Path, rank: int = 0) -> Iterator[tuple[int, BinRange | str]]:
    """Each row of a CSV file in binlist's columns with its line number: a range, or in words what is wrong.

    Commas or semicolons separate cells; columns may be left out except `iin_start`, and cells may be empty.
    Raises DataFileError when the file or its first line cannot be understood.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(f"{path} cannot be read as UTF-8 text ({error}); correct or remove it") from error
    lines = text.splitlines()
    first = lines[0] if lines else ""
    delimiter = ";" if ";" in first and "," not in first else ","
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names = [name.strip().lower() for name in next(rows, [])]
    for name in names:
        if name not in COLUMNS:
            hint = suggest(name, COLUMNS) or "known are " + ", ".join(COLUMNS)
            raise DataFileError(f"{path}:1: unknown column `{name}`; {hint}")
    if "iin_start" not in names:
        raise DataFileError(f"{path}:1: the first line names the columns, and `iin_start` must be one of them")
    try:
        for cells in rows:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(names):
                yield (
                    rows.line_num,
                    f"{len(cells)} cells under {len(names)} columns; quote a cell that holds `{delimiter}`",
                )
                continue
            row = dict.fromkeys(COLUMNS, "") | {
                name: cell.strip() for name, cell in zip(names, cells, strict=False)
            }
            yield rows.line_num, _read_row(row, rank, rows.line_num)
    except csv.Error as error:
        raise DataFileError(f"{path}:{rows.line_num}: no CSV ({error}); check the quotes") from error


def _read_row(row: dict[str, str], rank: int, line: int) -> BinRange | str:
    try:
        low, high = pad_range(row["iin_start"], row["iin_end"])
    except ValueError:
        return (
            "`iin_start` is the first 6 to 11 digits of a card number; `iin_end` is empty, or as long and not below"
        )
    country = read_country(row["country"])
    if row["country"] and country is None:
        return f"`{row['country'][:20]}` is no ISO 3166 country code; write two letters such as TN, or nothing"
    kind = row["type"].lower()
    if kind and kind not in _TYPES:
        return f"unknown type `{row['type'][:20]}`; write one of {', '.join(_TYPES)}, or nothing"
    prepaid = _YES_NO.get(row["prepaid"].lower())
    if prepaid is None:
        return f"`prepaid` is yes, no or empty, not `{row['prepaid'][:20]}`"
    info = BinInfo(
        country=country,
        brand=read_brand(row["scheme"] or row["brand"]),
        type="prepaid" if prepaid else kind or None,
        issuer=row["bank_name"] or None,
    )
    return BinRange(low, high, info, rank, line)
