"""A replay's tables as a notebook shows them: amounts in major units, times to the second, numbers with commas.

Only what is looked at; the tables themselves hold minor units and microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from typing import Any, Final

from ..money import format_minor

_AMOUNTS: Final = {"minor": "amount", "minor_by_currency": "amount"}


def table_html(
    name: str, columns: Iterable[str], rows: Iterable[Mapping[str, Any]], *, help: str, left: int
) -> str:
    """An HTML table with a caption; `left` is how many rows are not among those given."""
    columns = tuple(columns)
    head = "".join(f"<th>{escape(_heading(column))}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(column, row))}</td>" for column in columns) + "</tr>" for row in rows
    )
    caption = f"<caption><b>{escape(_words(name))}</b>{escape(f': {help}' if help else '')}</caption>"
    more = f"<p>{left:,} more rows</p>" if left > 0 else ""
    return f'<div style="overflow-x: auto"><table>{caption}<tr>{head}</tr>{body}</table>{more}</div>'


def _words(name: str) -> str:
    return name.replace("_", " ")


def _heading(column: str) -> str:
    return _AMOUNTS.get(column) or _words(column.removesuffix("_minor") + " amount" * column.endswith("_minor"))


def _cell(column: str, row: Mapping[str, Any]) -> str:
    value = row[column]
    if column == "minor" and isinstance(row.get("currency"), str) and isinstance(value, int):
        return _amount(value, row["currency"])
    if (column in _AMOUNTS or column.endswith("_minor")) and isinstance(value, list):
        return ", ".join(f"{_amount(minor, currency)} {currency}" for currency, minor in value)
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value) if column in ("seq", "line") else f"{value:,}"
        case float():
            return f"{value:.3f}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case list():
            return "; ".join(str(one) for one in value)
    return str(value)


def _amount(minor: int, currency: str) -> str:
    whole, point, rest = format_minor(minor, currency).partition(".")
    return f"{int(whole):,}{point}{rest}" if minor >= 0 else f"{whole}{point}{rest}"
