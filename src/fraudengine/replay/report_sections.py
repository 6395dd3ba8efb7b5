"""The sections of the report, each made from a result alone; an empty text means there is nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeAlias

from .figures import (
    UNRECORDED,
    Cross,
    days_of,
    in_weeks,
    known_endings,
    money_text,
    percent,
    points,
    signed,
    sums_by,
)
from .report_charts import flow_chart, time_chart
from .report_html import Cell, Column, figure, left_out, section, table, text, tools, words
from .result import OUTCOMES, ReplayResult

SHOWN: Final = 500
_DAILY_AT_MOST: Final = 120
_KEPT_DAYS: Final = 400
_NAMES: Final = {"accept": "Accepted", "challenge": "Challenged", "refuse": "Refused"}

Section: TypeAlias = tuple[str, str, Callable[[ReplayResult, Cross], str]]


# ---- the top --------------------------------------------------------------------------------------


def headline(result: ReplayResult, cross: Cross) -> str:
    summary = result.summary
    if not cross.recorded:
        said = f"How {summary.transactions:,} payments are decided"
    elif not cross.flips:
        said = "No payment would be decided otherwise"
    else:
        share = percent(cross.flips, cross.recorded)
        said = f"{cross.flips:,} of {cross.recorded:,} payments would be decided otherwise ({share})"
    against = (
        "the answers that were given"
        if summary.champion == "recorded"
        else f"<code>{text(summary.champion)}</code>"
    )
    merchants = f"{summary.merchants:,} merchant{'s' if summary.merchants != 1 else ''}"
    return (
        f"<h1>{said}</h1><p>Candidate <code>{text(summary.candidate)}</code> against champion {against}, on"
        f" {summary.transactions:,} payments of {merchants},"
        f" {_day(summary.first_us)} to {_day(summary.last_us)}.</p>"
    )


def _day(us: int | None) -> str:
    return "–" if us is None else f"{datetime.fromtimestamp(us / 1e6, UTC):%d %B %Y}".lstrip("0")


def warnings_of(result: ReplayResult) -> str:
    if not result.summary.disagreements:
        return ""
    return (
        '<section class="warning"><h2>Do not rely on these figures</h2><p>The reference backend decides'
        f" {result.summary.disagreements:,} of the listed payments otherwise."
        " This is a fault of fraudengine.</p></section>"
    )


def tiles(result: ReplayResult, cross: Cross) -> str:
    """The figures that matter first: what happens to buyers, to known fraud, and to good payments."""
    made = []
    compared = cross.recorded > 0
    for outcome in ("refuse", "challenge", "accept"):
        before, after = cross.before(outcome), cross.after(outcome)
        lines = [f"{percent(after, cross.base)} of payments"]
        if compared:
            lines = [
                f"{percent(before, cross.base)} → {percent(after, cross.base)}",
                f"was {before:,}: {signed(after - before)}",
            ]
        shown = points(before, after, cross.base) if compared else f"{after:,}"
        made.append(_tile(_NAMES[outcome], shown, lines, outcome))
    known = known_endings(result)
    for name, about, outcome, css in (
        ("Known fraud accepted", known.bad, "accept", "refuse"),
        ("Good payments refused", known.good, "refuse", "refuse"),
        ("Good payments challenged", known.good, "challenge", "challenge"),
    ):
        if not about.total:
            continue
        before, after = about.before(outcome), about.after(outcome)
        lines = [f"{percent(after, about.base)} of {about.base:,}"]
        if about.recorded:
            lines = [f"{before:,} → {after:,}", f"of {about.base:,} such payments"]
        made.append(_tile(name, signed(after - before) if about.recorded else f"{after:,}", lines, css))
    return f'<div class="tiles">{"".join(made)}</div>'


def _tile(name: str, shown: str, lines: list[str], css: str) -> str:
    said = "".join(f"<span>{line}</span>" for line in lines)
    return f'<div class="tile {css}"><span class="name">{name}</span><b>{shown}</b>{said}</div>'


# ---- outcomes -------------------------------------------------------------------------------------


def flow(result: ReplayResult, cross: Cross) -> str:
    if not cross.recorded:
        return ""
    sides = [word for word in (*OUTCOMES, UNRECORDED) if any(pair[0] == word for pair in cross.sums)]
    heads = "".join(f'<th scope=col class="n">{word}</th>' for word in OUTCOMES)
    rows = ""
    for champion in sides:
        cells = ""
        for candidate in OUTCOMES:
            number = cross.sums.get((champion, candidate), 0)
            css = "n same" if champion in (candidate, UNRECORDED) or not number else "n changed"
            cells += f'<td class="{css}">{number:,}<small>{percent(number, cross.total)}</small></td>'
        rows += f"<tr><th scope=row>{champion}</th>{cells}</tr>"
    matrix = (
        '<div class="scroll"><table><caption>Payments by both sides’ outcome: champion down, candidate across'
        f"</caption><thead><tr><th scope=col>champion ↓ candidate →</th>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )
    lead = "Grey ribbons stay as they are; coloured ones are decided otherwise."
    return section(
        "flow",
        "What becomes of what",
        f'<div class="split"><div class="chart">{flow_chart(cross)}</div><div>{matrix}</div></div>',
        lead,
    )


def over_time(result: ReplayResult, cross: Cross) -> str:
    by_day = days_of(result)
    if not by_day:
        return ""
    compared = cross.recorded > 0
    key = "".join(f'<span class="key"><i class="{word}"></i>{word}</span>' for word in OUTCOMES)
    weeks = time_chart(in_weeks(by_day), compared, "week")
    if len(by_day) > _KEPT_DAYS:
        return section("time", "Over time", f'<div class="tools">{key}</div>{weeks}')
    daily = len(by_day) <= _DAILY_AT_MOST
    choice = (
        '<div class="switch" role="group" aria-label="Period">'
        f'<button type="button" aria-controls="by-day" aria-pressed="{str(daily).lower()}">Daily</button>'
        f'<button type="button" aria-controls="by-week" aria-pressed="{str(not daily).lower()}">Weekly'
        "</button></div>"
    )
    body = (
        f'<div class="tools">{key}{choice}</div>'
        f'<div class="chart long" id="by-day"{"" if daily else " hidden"}>'
        f"{time_chart(by_day, compared, 'day')}</div>"
        f'<div class="chart long" id="by-week"{" hidden" if daily else ""}>{weeks}</div>'
    )
    return section("time", "Over time", body, "Payments by outcome; point at a column for its figures.")


def amounts(result: ReplayResult, cross: Cross) -> str:
    counts = sums_by(result.matrix, ["currency"])
    rows = []
    for (currency,), sums in sums_by(result.matrix, ["currency"], "minor").items():
        counted = counts[currency,]
        row = [words(currency), figure(counted.total), _money(sums.total, currency)]
        for outcome in OUTCOMES:
            row.append(_money(sums.after(outcome), currency, sums.before(outcome) if sums.recorded else None))
        row += [_money(sums.sums.get(pair, 0), currency) for pair in cross.changed]
        rows.append(row)
    columns = [
        *(Column("Currency", sorted_now=True), Column("Payments", True), Column("Amount", True)),
        *(Column(_NAMES[outcome], True) for outcome in OUTCOMES),
        *(Column(f"{champion} → {candidate}", True) for champion, candidate in cross.changed),
    ]
    return section(
        "amounts", "Amounts", table("amounts-table", "Sums by currency, candidate’s side", columns, rows)
    )


def _money(minor: int, currency: str, was: int | None = None) -> Cell:
    changed = None if was is None or was == minor else money_text(was, currency).removesuffix(f" {currency}")
    return figure(minor, money_text(minor, currency).removesuffix(f" {currency}"), changed)


def _crossed(sums: Cross) -> list[Cell]:
    """Cells of both sides' shares and of what is decided otherwise."""
    cells = [
        figure(sums.total),
        figure(sums.flips, was=None),
        figure(sums.flips / sums.base if sums.base else None, percent(sums.flips, sums.base)),
    ]
    for outcome in ("refuse", "challenge", "accept"):
        before, after = sums.before(outcome), sums.after(outcome)
        was = f"{before:,}, {points(before, after, sums.base)}" if sums.recorded and before != after else None
        cells.append(figure(after, f"{after:,} · {percent(after, sums.base)}", was))
    return cells


_CROSSED: Final = (
    *(Column("Payments", True), Column("Decided otherwise", True), Column("Share", True)),
    *(Column(_NAMES[outcome], True) for outcome in ("refuse", "challenge", "accept")),
)


def by_label(result: ReplayResult, cross: Cross) -> str:
    found = sums_by(result.by_label, ["label"])
    if set(found) <= {("none",)}:
        return ""
    rows = [[words(label if label != "none" else "not known"), *_crossed(sums)] for (label,), sums in found.items()]
    columns = [Column("What became of it", sorted_now=True), *_CROSSED]
    return section("labels", "What became of them", table("labels-table", "Outcomes by label", columns, rows))


def by_merchant(result: ReplayResult, cross: Cross) -> str:
    found = sorted(
        sums_by(result.by_merchant, ["merchant"]).items(),
        key=lambda item: (-item[1].flips, -item[1].total, item[0]),
    )
    rows = [[words(merchant), *_crossed(sums)] for (merchant,), sums in found[:SHOWN]]
    columns = [Column("Merchant"), *_CROSSED]
    columns[2] = Column("Decided otherwise", True, sorted_now=True)
    find = tools("merchants-table", "Find a merchant") if len(rows) > 8 else ""
    return section(
        "merchants",
        "Merchants",
        find
        + table("merchants-table", "Outcomes by merchant", columns, rows)
        + left_out(len(found), "by_merchant"),
    )
