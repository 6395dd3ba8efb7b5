"""What `fraudengine replay --budget` says: each bound as it was measured, for people, programs and code review."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from ..diagnostics import Diagnostic, render_annotation, render_text, to_json_object

if TYPE_CHECKING:
    from ..replay.budget_check import BudgetLine, BudgetReport

NAMED: Final = 10
_LONGEST_ANNOTATION: Final = 30_000  # GitHub cuts what is longer than 64 kB


def budget_text(report: BudgetReport) -> str:
    """The broken bounds with what broke them, then how many hold."""
    broken = report.broken
    lines = [f"budget {report.path}: {'within' if report.holds else 'BROKEN'}"]
    if not report.compared:
        lines.append("  nothing was compared: no transaction has an outcome of the champion")
    for line in broken:
        lines.append(f"  line {line.span.line}: {line.heading}")
        lines += [f"    {named(row)}" for row in line.named[:NAMED]]
        more = line.transactions - min(len(line.named), NAMED)
        if more > 0:
            lines.append(f"    and {more:,} more, all of them in --format json")
    if report.lines:
        lines.append(f"  {len(report.lines) - len(broken):,} of {len(report.lines):,} bounds hold")
    if report.unrecorded:
        lines.append(f"  {report.unrecorded:,} transactions have no recorded answer and were not compared")
    return "\n".join([*lines, *(render_text(doubt, {}) for doubt in report.doubts)])


def named(row: Mapping[str, Any]) -> str:
    """What broke a bound, in one line."""
    if "transaction_id" in row:
        rule = f"  {row['candidate_rule']}" if row["candidate_rule"] is not None else ""
        label = f"  {row['label']}" if row["label"] not in (None, "none") else ""
        return (
            f"{row['merchant']} {row['transaction_id']}  {row['at']}  {row['amount']} {row['currency']}"
            f"  {row['champion']} → {row['candidate']} ({row['candidate_code']}){rule}{label}"
        )
    if "rule" in row:
        return f"{row['rule']}: unknown in {row['transactions']:,} for want of {', '.join(row['absent_facts'])}"
    if "reason" in row:
        return f"{row['file']}:{row['line']}: {row['reason']}"
    return str(row["merchant"])


def budget_annotations(report: BudgetReport) -> Iterator[str]:
    """GitHub's workflow commands, one for each broken bound, at its line of the budget."""
    if not report.compared:
        yield f"::error file={report.path},title=budget-broken::nothing was compared"
    for line in report.broken:
        yield render_annotation(Diagnostic("budget-broken", _with_names(line), line.span))
    for doubt in report.doubts:
        yield render_annotation(doubt)


def _with_names(line: BudgetLine) -> str:
    text = line.heading
    for told, row in enumerate(line.named):
        text += "\n" + named(row)
        if len(text) > _LONGEST_ANNOTATION:
            return f"{text}\nand {line.transactions - told - 1:,} more"
    return text


def budget_object(report: BudgetReport) -> dict[str, object]:
    """The JSON form, with every bound and every transaction that breaks one."""
    return {
        "path": report.path,
        "holds": report.holds,
        "compared": report.compared,
        "unrecorded": report.unrecorded,
        "bounds": [
            {
                "bound": line.bound,
                "merchant": line.merchant,
                "allowed": line.allowed,
                "measured": line.measured,
                "within": line.within,
                "line": line.span.line,
                "transactions": line.transactions,
                "named": [dict(row) for row in line.named],
            }
            for line in report.lines
        ],
        "doubts": [to_json_object(doubt) for doubt in report.doubts],
    }
