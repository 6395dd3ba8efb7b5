"""The parts of a replay's summary that go by currency, label, merchant and rule, in lines of at most 80 columns."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ..replay.figures import Cross
    from ..replay.result import ReplayResult

_MERCHANTS: Final = 20
_RULES: Final = 20
_NAME: Final = 37
_WIDTH: Final = 80


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


def rule_lines(result: ReplayResult) -> list[str]:
    """For each rule of a side that matched: how often, how well, from when to when, and the amount it matched."""
    rows = [row for row in result.rules.rows() if row["matches"]]
    if not rows:
        return ["no rule matched"]
    lines: list[str] = []
    for side in ("candidate", "champion"):
        found = [row for row in rows if row["side"] == side]
        if not found:
            continue
        lines.append(f"{'rule of the ' + side:<38}{'matches':>12}{'alone':>12}{'precision':>10}{'recall':>8}")
        for row in found[:_RULES]:
            lines += _rule(row)
        if len(found) > _RULES:
            lines.append(f"and {len(found) - _RULES:,} more rules")
        lines.append("")
    return lines[:-1]


def _rule(row: dict[str, Any]) -> list[str]:
    from ..replay.figures import money_text

    name = row["rule"] + (" (shadow)" if row["mode"] == "shadow" else "")
    above = wrap(name, _WIDTH) if len(name) > _NAME else []
    precision, recall = ("" if row[part] is None else f"{row[part]:.1%}" for part in ("precision", "recall"))
    figures = f"{row['matches']:>12,}{row['unique_matches']:>12,}{precision:>10}{recall:>8}"
    amounts = [money_text(minor, currency) for currency, minor in sorted(row["minor_by_currency"] or ())]
    span = f"{row['first_match']:%Y-%m-%d} to {row['last_match']:%Y-%m-%d}"
    told = wrap("; ".join([span, *amounts]), _WIDTH - 4)
    return [*above, f"{'' if above else name:<38}{figures}", *(f"    {line}" for line in told)]


def ablation_lines(result: ReplayResult) -> list[str]:
    """What hangs on the candidate's rules and list entries alone, and which of them nothing hangs on."""
    if "ablation_rules" not in result.extra:
        return []
    rules, entries = (result.extra[name].rows() for name in ("ablation_rules", "ablation_entries"))
    for row in entries:
        row["name"], row["where"] = f"{row['list']}: {row['value']}", row["source"]
    for row in rules:
        row["name"], row["where"] = row["rule"], ""
    lines = ["", *_hanging("without the rule", rules), "", *_hanging("without the list entry", entries)]
    covered = [row for row in rules if row["always_covered"]]
    for row in covered[:_RULES]:
        others = row["covered_by"] or row["in_its_place"]
        by = (
            f"always covered, by {' or '.join(others)}"
            if row["covered_by"]
            else f"others decide: {', '.join(others)}"
        )
        lines += wrap(
            f"{row['rule']}: nothing hangs on it ({by})", _WIDTH, subsequent_indent="    ", break_on_hyphens=False
        )
    idle = [row["rule"] for row in rules if not row["matches"]]
    if idle:
        lines += wrap(
            f"rules that never matched: {', '.join(idle)}", _WIDTH, subsequent_indent="    ", break_on_hyphens=False
        )
    unused = sum(not row["held"] for row in entries)
    alike = sum(row["always_covered"] for row in entries)
    if unused or alike:
        lines.append(f"list entries that held nothing: {unused:,}; that held something others catch too: {alike:,}")
    return lines


def _hanging(title: str, rows: list[dict[str, Any]]) -> list[str]:
    found = [row for row in rows if row["needed"]]
    heads = (("otherwise", 11), ("caught", 10), ("good ref.", 10), ("last useful", 12))
    lines = [f"{title:<37}" + "".join(f"{head:>{width}}" for head, width in heads)]
    for row in found[:_RULES]:
        above = wrap(row["name"], _WIDTH) if len(row["name"]) > _NAME - 1 else []
        day = "" if row["last_useful"] is None else f"{row['last_useful']:%Y-%m-%d}"
        figures = f"{row['needed']:>11,}{row['caught']:>10,}{row['good_refused']:>10,}{day:>12}"
        where = [f"    {row['where']}"] if row["where"] else []
        lines += [*above, f"{'' if above else row['name']:<37}{figures}", *where]
    if len(found) > _RULES:
        lines.append(f"and {len(found) - _RULES:,} more")
    return lines if found else [f"{title}: no answer would be otherwise"]
