"""The drawings of the report, as SVG whose colours come from the page's style: outcomes over time, and the flow.

Coordinates are rounded to tenths, so that equal figures give equal bytes. A chart is one path for each outcome,
whatever the number of days, and one invisible column for each day, which says its figures when it is pointed at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from typing import Final

from .figures import Cross, percent
from .result import OUTCOMES

_WIDTH: Final = 1180.0
_LEFT: Final = 58.0
_PLOT: Final = 118.0
_GAP: Final = 44.0
_FLIP_PLOT: Final = 64.0


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def time_chart(periods: Mapping[date, Cross], compared: bool, word: str) -> str:
    """Stacked outcomes of the candidate and, when there is one, the champion, and what flips; one step a period."""
    days = sorted(periods)
    if not days:
        return "<p class=muted>There is nothing to draw.</p>"
    width = (_WIDTH - _LEFT) / len(days)
    top = max(sum(_stack(periods[day], side)) for day in days for side in ("before", "after")) or 1
    parts, y = [], 22.0
    sides = [("champion", "before"), ("candidate", "after")] if compared else [("candidate", "after")]
    for name, side in sides:
        parts.append(_plot_frame(name, y, _PLOT, top))
        base = [0.0] * len(days)
        for place, outcome in enumerate(OUTCOMES):
            upper = [low + _stack(periods[day], side)[place] for low, day in zip(base, days, strict=True)]
            parts.append(f'<path class="{outcome}" d="{_steps(base, upper, width, y, _PLOT, top)}"/>')
            base = upper
        y += _PLOT + _GAP
    most = max(periods[day].flips for day in days)
    if compared and most:
        parts.append(_plot_frame("decided otherwise", y, _FLIP_PLOT, most))
        flips = [float(periods[day].flips) for day in days]
        parts.append(f'<path class="flips" d="{_steps([0.0] * len(days), flips, width, y, _FLIP_PLOT, most)}"/>')
        y += _FLIP_PLOT + _GAP
    bottom = y - _GAP
    parts += _dates(days, width, bottom)
    for place, day in enumerate(days):
        parts.append(
            f'<rect class="hit" x="{_at(_LEFT + place * width)}" y="22" width="{_at(max(width, 0.5))}"'
            f' height="{_at(bottom - 22)}"><title>{_told(word, day, periods[day], compared)}</title></rect>'
        )
    label = f"Outcomes by {word}, {days[0]} to {days[-1]}"
    return _drawing(_WIDTH, bottom + 24, label, parts)


def _drawing(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    size = f"0 0 {_at(width)} {_at(height)}"
    return f'<svg viewBox="{size}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _stack(cross: Cross, side: str) -> list[int]:
    return [cross.before(word) if side == "before" else cross.after(word) for word in OUTCOMES]


def _plot_frame(name: str, y: float, height: float, top: int) -> str:
    lines = [f'<text x="{_at(_LEFT)}" y="{_at(y - 8)}">{name}</text>']
    for share in (0.0, 0.5, 1.0) if top > 1 else (0.0, 1.0):
        at = y + height * (1 - share)
        lines.append(
            f'<line class="grid" x1="{_at(_LEFT)}" x2="{_at(_WIDTH)}" y1="{_at(at)}" y2="{_at(at)}"/>'
            f'<text class="axis" x="{_at(_LEFT - 8)}" y="{_at(at + 4)}" text-anchor="end">'
            f"{round(top * share):,}</text>"
        )
    return "".join(lines)


def _steps(low: Sequence[float], high: Sequence[float], width: float, y: float, height: float, top: int) -> str:
    def level(value: float) -> str:
        return _at(y + height * (1 - value / top))

    gap = 0.12 * width if width > 4 else 0.0
    bars = []
    for place, (bottom, upper) in enumerate(zip(low, high, strict=True)):
        if upper > bottom:
            left, right = _at(_LEFT + place * width + gap), _at(_LEFT + (place + 1) * width - gap)
            bars.append(f"M{left} {level(bottom)}V{level(upper)}H{right}V{level(bottom)}Z")
    return "".join(bars)


def _dates(days: Sequence[date], width: float, bottom: float) -> list[str]:
    every = max(1, -(-len(days) // 12))
    return [
        f'<text class="axis" x="{_at(_LEFT + (place + 0.5) * width)}" y="{_at(bottom + 18)}"'
        f' text-anchor="middle">{day:%d %b} {day:%Y}</text>'
        if place == 0 or day.year != days[place - every].year
        else f'<text class="axis" x="{_at(_LEFT + (place + 0.5) * width)}" y="{_at(bottom + 18)}"'
        f' text-anchor="middle">{day:%d %b}</text>'
        for place, day in enumerate(days)
        if place % every == 0
    ]


def _told(word: str, day: date, cross: Cross, compared: bool) -> str:
    lines = [f"{'week of ' if word == 'week' else ''}{day}: {cross.total:,} payments"]
    for outcome in OUTCOMES:
        was = f"{cross.before(outcome):,} → " if compared else ""
        lines.append(f"{outcome} {was}{cross.after(outcome):,}")
    if compared:
        lines.append(f"decided otherwise {cross.flips:,}")
    return escape("\n".join(lines))


def flow_chart(cross: Cross) -> str:
    """Ribbons from the champion's outcomes to the candidate's, as wide as the payments they carry.

    A ribbon that carries anything is at least two units wide: a handful of flips among millions must be seen.
    """
    sides = [word for word in (*OUTCOMES, "unrecorded") if any(pair[0] == word for pair in cross.sums)]
    whole, height, gap = max(cross.total, 1), 250.0, 22.0
    carried = {pair: max(height * number / whole, 2.0) for pair, number in cross.sums.items() if number}
    left = {word: sum(size for pair, size in carried.items() if pair[0] == word) for word in sides}
    right = {word: sum(size for pair, size in carried.items() if pair[1] == word) for word in OUTCOMES}
    parts: list[str] = []
    starts, ends, y = {}, {}, 26.0
    for word in sides:
        starts[word] = y
        y += max(left[word], 12) + gap
    lowest, y = y, 26.0
    for word in OUTCOMES:
        ends[word] = y
        y += max(right[word], 12) + gap
    lowest = max(lowest, y)
    from_y, to_y = dict(starts), dict(ends)
    ribbons: list[tuple[bool, str]] = []
    for champion in sides:
        for candidate in OUTCOMES:
            size = carried.get((champion, candidate))
            if size is None:
                continue
            a, b = from_y[champion], to_y[candidate]
            from_y[champion] += size
            to_y[candidate] += size
            stays = champion == candidate
            number = cross.sums[champion, candidate]
            ribbons.append(
                (
                    not stays,
                    f'<path class="ribbon {"stays" if stays else candidate}" d="M170 {_at(a)}C330 {_at(a)}'
                    f" 330 {_at(b)}"
                    f' 490 {_at(b)}V{_at(b + size)}C330 {_at(b + size)} 330 {_at(a + size)} 170 {_at(a + size)}Z">'
                    f"<title>{champion} → {candidate}: {number:,} ({percent(number, cross.total)})</title></path>",
                )
            )
    parts += [path for _, path in sorted(ribbons, key=lambda found: found[0])]
    for word in sides:
        number = sum(count for pair, count in cross.sums.items() if pair[0] == word)
        parts.append(_bar(word, 158, starts[word], left[word], number, cross.total, "end"))
    for word in OUTCOMES:
        number = sum(count for pair, count in cross.sums.items() if pair[1] == word)
        parts.append(_bar(word, 490, ends[word], right[word], number, cross.total, "start"))
    parts.append('<text class="axis" x="170" y="14" text-anchor="end">champion</text>')
    parts.append('<text class="axis" x="490" y="14">candidate</text>')
    return _drawing(660, lowest, "Flow of payments from the champion's outcomes to the candidate's", parts)


def _bar(word: str, x: int, y: float, size: float, number: int, whole: int, anchor: str) -> str:
    beside = x - 10 if anchor == "end" else x + 22
    middle = y + max(size, 12) / 2
    return (
        f'<rect class="{word}" x="{x}" y="{_at(y)}" width="12" height="{_at(max(size, 1))}" rx="2"/>'
        f'<text x="{beside}" y="{_at(middle)}" text-anchor="{anchor}" font-weight="600">{word}</text>'
        f'<text class="axis" x="{beside}" y="{_at(middle + 14)}" text-anchor="{anchor}">{number:,} · '
        f"{percent(number, whole)}</text>"
    )
