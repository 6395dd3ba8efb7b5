"""The parts of a replay's summary that go by currency, label and merchant, in lines of at most 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ..replay.figures import Cross
    from ..replay.result import ReplayResult

_MERCHANTS: Final = 20


def breakdown(result: ReplayResult) -> list[str]:
    """What moves from outcome to outcome in money, and both sides' outcomes by label and by merchant."""
    from ..replay.figures import money_text, sums_by

    lines: list[str] = []
    for (currency,), sums in sums_by(result.matrix, ["currency"], "minor").items():
        for champion, candidate in sums.changed:
            amount = money_text(sums.sums[champion, candidate], currency)
            lines.append(f"{champion + ' -> ' + candidate:<24}{amount:>32}")
    if lines:
        lines = ["amounts decided otherwise", *lines, ""]
    by_label = sums_by(result.by_label, ["label"])
    if set(by_label) - {("none",)}:
        lines += [*_table("became", by_label), ""]
    by_merchant = sums_by(result.by_merchant, ["merchant"])
    if len(by_merchant) > 1:
        first = sorted(by_merchant.items(), key=lambda found: (-found[1].flips, -found[1].total, found[0]))
        lines += _table("merchant", dict(first[:_MERCHANTS]))
        if len(first) > _MERCHANTS:
            lines.append(f"and {len(first) - _MERCHANTS:,} more merchants")
        lines.append("")
    return lines


def _table(name: str, rows: dict[tuple[Any, ...], Cross]) -> list[str]:
    lines = [f"{name:<18}{'payments':>10}{'otherwise':>10}{'accept':>14}{'challenge':>14}{'refuse':>14}"]
    for (key,), sums in rows.items():
        cells = "".join(f"{_change(sums, outcome):>14}" for outcome in ("accept", "challenge", "refuse"))
        lines.append(f"{key[:17]:<18}{sums.total:>10,}{sums.flips:>10,}{cells}")
    lines.append("(shares of payments with the candidate's rules, and the change in points)")
    return lines


def _change(sums: Cross, outcome: str) -> str:
    base = sums.base or 1
    share = 100 * sums.after(outcome) / base
    if not sums.recorded:
        return f"{share:.1f}%"
    return f"{share:.1f}% {100 * (sums.after(outcome) - sums.before(outcome)) / base:+.1f}"
