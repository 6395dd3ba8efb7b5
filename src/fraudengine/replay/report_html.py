"""Pieces of the report's page. Text from outside comes in through `text` only: escaped, without card numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Final

from ..cards import hide_pans


def text(value: object) -> str:
    """Anything as HTML that shows it and does nothing else."""
    return "" if value is None else escape(hide_pans(str(value)))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: its HTML, what it is sorted by, its classes."""

    html: str
    sort: str = ""
    css: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading. Figures stand to the right and sort from the greatest down, words from A on."""

    title: str
    figures: bool = False
    sorted_now: bool = False
    help: str = ""


def words(value: object, more: str = "", css: str = "") -> Cell:
    return Cell(f"{text(value)}{more}", text(value), css)


def figure(number: int | float | None, shown: str | None = None, was: str | None = None, css: str = "") -> Cell:
    """A number; `was` is the champion's, given where it differs."""
    if number is None:
        return Cell("–" + _was(was), "", f"n {css}".strip())
    return Cell((shown or f"{number:,}") + _was(was), repr(number), f"n {css}".strip())


def _was(was: str | None) -> str:
    return "" if was is None else f"<small>was {was}</small>"


def moment(at: datetime | None) -> Cell:
    if at is None:
        return Cell("–", "", "nowrap")
    return Cell(f"{at:%Y-%m-%d}<small>{at:%H:%M:%S}</small>", f"{at:%Y-%m-%dT%H:%M:%S.%f}", "nowrap")


def pill(outcome: str) -> str:
    return f'<span class="pill {text(outcome)}">{text(outcome)}</span>'


def table(
    name: str,
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell]],
    differing: frozenset[int] = frozenset(),
) -> str:
    """A table that sorts; the first cell of a row names it. `differing`: the rows that a filter may single out."""
    heads = "".join(_head(column) for column in columns)
    body = []
    for number, row in enumerate(rows):
        cells = [_cell(cell, "th scope=row" if place == 0 else "td") for place, cell in enumerate(row)]
        body.append(f"<tr{' data-differs' if number in differing else ''}>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table id="{name}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _head(column: Column) -> str:
    first = "descending" if column.figures else "ascending"
    now = f" aria-sort={first}" if column.sorted_now else ""
    hint = f' title="{escape(column.help)}"' if column.help else ""
    kind = ' class="n"' if column.figures else ""
    button = f'<button type="button">{escape(column.title)}</button>'
    return f"<th scope=col data-first={first}{kind}{now}{hint}>{button}</th>"


def _cell(cell: Cell, tag: str) -> str:
    css = f' class="{cell.css}"' if cell.css else ""
    return f'<{tag}{css} data-v="{cell.sort}">{cell.html}</{tag.partition(" ")[0]}>'


def tools(table_name: str, find: str, only: str = "") -> str:
    """A field that narrows a table down; hidden until the page's script makes it work."""
    box = f"<label><input type=checkbox checked> {escape(only)}</label>" if only else ""
    search = f"<label>{escape(find)} <input type=search></label>"
    return f'<div class="tools" data-for="{table_name}" hidden>{search}{box}</div>'


SHOWN: Final = 500
"""How many rows of a table are shown."""


def left_out(number: int, name: str) -> str:
    """What to say of a table that is longer than what is shown."""
    if number <= SHOWN:
        return ""
    return f'<p class="note">{number - SHOWN:,} more are in the table <code>{text(name)}</code> of an export.</p>'


def section(name: str, title: str, body: str, lead: str = "") -> str:
    said = f'<p class="note">{lead}</p>' if lead else ""
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{said}{body}</section>'
