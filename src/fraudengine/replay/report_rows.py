"""Sections of the report that go into single rules and payments, and what the figures rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from .figures import Cross, RulePair, money_text, percent, rule_pairs, signed
from .report_html import SHOWN, Cell, Column, figure, left_out, moment, pill, section, table, text, tools, words
from .result import ReplayResult, ReplayTable

# ---- rules ----------------------------------------------------------------------------------------


def rules(result: ReplayResult, cross: Cross) -> str:
    compared = result.summary.champion != "recorded"
    pairs = rule_pairs(result.rules, compared)
    shown = pairs[:SHOWN]
    differing = frozenset(number for number, pair in enumerate(shown) if pair.differs) if compared else frozenset()
    columns = [
        *(Column("Rule"), Column("Then")),
        Column("Matches", True, True, "payments whose conditions it meets"),
        *((Column("Change", True, help="matches, candidate less champion"),) if compared else ()),
        Column("Unique", True, help="matches that no other live rule of that side caught"),
        Column("Decided", True, help="payments whose outcome it determined"),
        Column("Precision", True, help="fraud and chargebacks among its matches with a known ending"),
        Column("Recall", True, help="its share of all fraud and chargebacks"),
        Column("Amount matched", True),
        *(Column("First match"), Column("Last match")),
    ]
    only = "Only rules that differ" if differing else ""
    lead = (
        "Precision: of the matched payments whose ending is known, the share that was fraud or a chargeback."
        " Recall: the share of all fraud and chargebacks that the rule matched. Unique: no other live rule of that"
        " side matched."
    )
    if compared:
        lead += " The candidate’s figures; small print says what they were with the champion where that differs."
    body = tools("rules-table", "Find a rule", only) + table(
        "rules-table", "Rules", columns, [_rule_row(pair, compared) for pair in shown], differing
    )
    return section("rules", "Rules", body + left_out(len(pairs), "rules"), lead)


def _rule_row(pair: RulePair, compared: bool) -> list[Cell]:
    now, was = pair.candidate, pair.champion
    row = pair.shown
    tags = [row["mode"]] if row["mode"] != "live" else []
    if compared and was is None:
        tags.append("new")
    if now is None:
        tags.append("removed")
    marks = "".join(f'<span class="tag">{text(tag)}</span>' for tag in tags)

    def both(name: str, kind: Callable[[Any], str] = lambda value: f"{value:,}") -> Cell:
        value = None if now is None else now[name]
        before = None if was is None else was[name]
        changed = compared and before is not None and (value is None or kind(value) != kind(before))
        return figure(value, None if value is None else kind(value), kind(before) if changed else None)

    matches = [(side or {"matches": 0})["matches"] for side in (now, was)]
    change = [figure(matches[0] - matches[1], signed(matches[0] - matches[1]))] if compared else []
    sums, before = (dict(side["minor_by_currency"] or ()) if side else {} for side in (now, was))
    return [
        Cell(f"{text(row['rule'])}{marks}<small>{text(row['reason'])}</small>", text(row["rule"])),
        Cell(pill(row["outcome"]), text(row["outcome"])),
        both("matches"),
        *change,
        *(both("unique_matches"), both("decided")),
        *(both(name, lambda value: f"{100 * value:.1f} %") for name in ("precision", "recall")),
        _amounts_cell(sums, before if compared else sums),
        *(moment(row["first_match"]), moment(row["last_match"])),
    ]


def _amounts_cell(sums: Mapping[str, int], before: Mapping[str, int]) -> Cell:
    """The amounts of each currency; sorted by the greatest, since currencies have no common measure here."""
    lines = []
    for currency in sorted(sums.keys() | before.keys()):
        differs = sums.get(currency) != before.get(currency)
        was = f"<small>was {money_text(before.get(currency, 0), currency)}</small>" if differs else ""
        lines.append(f"<div>{money_text(sums.get(currency, 0), currency)}{was}</div>")
    return Cell("".join(lines) or "–", repr(max(sums.values(), default=0)), "n")


# ---- single payments ------------------------------------------------------------------------------


def flips(result: ReplayResult, cross: Cross) -> str:
    if not len(result.flips):
        return ""
    rows = [_flip_row(row) for row in result.flips.arrow.slice(0, SHOWN).to_pylist()]
    columns = [
        *(Column("Time (UTC)", sorted_now=True), Column("Merchant"), Column("Payment"), Column("Amount", True)),
        *(Column("Became"), Column("Decision"), Column("Why")),
    ]
    shown = len(rows)
    lead = f"The first {shown:,} of {result.summary.flips:,}. " if shown < result.summary.flips else ""
    lead += "“+” rules match now and did not before, “−” the other way round, each with what made it match."
    return section(
        "flips",
        "Payments decided otherwise",
        tools("flips-table", "Find") + table("flips-table", "Payments", columns, rows),
        lead,
    )


def _flip_row(row: Mapping[str, Any]) -> list[Cell]:
    card = f"{text(row['card_bin'])}…{text(row['card_last4'])}" if row.get("card_bin") else ""
    reasons = [text(row[f"{side}_code"]) for side in ("champion", "candidate")]
    tests = [_tests(kind, said) for kind, name in (("plus", "new"), ("minus", "gone")) for said in row[name] or ()]
    return [
        moment(row["at"]),
        words(row["merchant"]),
        words(row["transaction_id"], f"<small>{card}</small>" if card else ""),
        figure(row["minor"], money_text(row["minor"], row["currency"])),
        words(row["label"] if row["label"] != "none" else None),
        Cell(
            f"{pill(row['champion'])} → {pill(row['candidate'])}<small>{reasons[0]}<br>{reasons[1]}</small>",
            f"{text(row['champion'])} {text(row['candidate'])}",
            "nowrap",
        ),
        Cell(
            f'<ul class="tests">{"".join(tests)}</ul>' if tests else "the 3-D Secure result or the way it counts",
            "",
        ),
    ]


def _tests(kind: str, said: str) -> str:
    rule, _, conditions = said.partition(": ")
    return f'<li class="{kind}"><b>{text(rule)}</b> {text(conditions)}</li>'


# ---- what limits it -------------------------------------------------------------------------------


def limits(result: ReplayResult, cross: Cross) -> str:
    """What the history did not give, which rules fell silent for it, and what was not replayed at all."""
    summary, parts = result.summary, []
    if len(result.absent):
        rows = [
            [
                words(row["fact"]),
                figure(
                    row["transactions"],
                    f"{row['transactions']:,} · {percent(row['transactions'], row['transactions'] + row['known'])}",
                ),
                words(", ".join(row["rules"])),
            ]
            for row in result.absent.rows()[:SHOWN]
        ]
        columns = [Column("Fact"), Column("Unknown in", True, True), Column("Read by")]
        parts.append(
            "<h3>Facts that the history does not always give</h3>" + table("absent-table", "Facts", columns, rows)
        )
    if len(result.silenced):
        rows = [
            [
                words(row["rule"]),
                words(row["side"]),
                figure(row["transactions"]),
                words(", ".join(row["absent_facts"] or ())),
            ]
            for row in result.silenced.rows()[:SHOWN]
        ]
        columns = [
            Column("Rule"),
            Column("Side"),
            Column("Could not judge", True, True),
            Column("For want of columns"),
        ]
        inner = table("silenced-table", "Rules that were silent", columns, rows)
        parts.append(
            "<details><summary>Rules that could not be judged on some payments"
            f" ({len(result.silenced):,})</summary>{inner}</details>"
        )
    if summary.skipped:
        who = ", ".join(text(name) for name in summary.skipped_merchants[:20])
        whose = f", or are of merchants without rules on a side: {who}" if who else ""
        parts.append(f"<h3>Left out</h3><p>{summary.skipped:,} payments were not selected{whose}.</p>")
    if summary.rejected:
        rows = [
            [words(row["file"]), figure(row["line"]), words(row["reason"])] for row in result.rejects.rows()[:50]
        ]
        columns = [Column("File", sorted_now=True), Column("Line", True), Column("Reason")]
        parts.append(
            f"<h3>{summary.rejected:,} rows are no payments</h3>"
            + table("rejects-table", "Rows that were rejected", columns, rows)
        )
    return section("limits", "What this rests on", "".join(parts)) if parts else ""


def others(result: ReplayResult, cross: Cross) -> str:
    """Tables that were added to the result, as they are."""
    sections = "".join(plain_table(added) for added in result.extra.values())
    return f'<div id="others">{sections}</div>' if sections else ""


def plain_table(added: ReplayTable) -> str:
    schema = added.arrow.schema
    columns = [
        Column(
            name.removesuffix("_minor").replace("_", " ") + (" amount" if pa.types.is_map(kind) else ""),
            pa.types.is_map(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind),
        )
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    amounts = {name for name, kind in zip(schema.names, schema.types, strict=True) if pa.types.is_map(kind)}
    rows = [
        [_amounts(value) if name in amounts else _plain(value) for name, value in row.items()]
        for row in added.arrow.slice(0, SHOWN).to_pylist()
    ]
    name = "".join(letter if letter.isalnum() else "-" for letter in added.name)
    body = tools(f"{name}-table", "Find") + table(f"{name}-table", added.name, columns, rows)
    return section(
        name,
        added.name.replace("_", " ").capitalize(),
        body + left_out(len(added), text(added.name)),
        text(added.help),
    )


def _amounts(sums: Sequence[tuple[str, int]] | None) -> Cell:
    """Minor units of each currency as money."""
    return _amounts_cell(dict(sums or ()), dict(sums or ()))


def _plain(value: object) -> Cell:
    if isinstance(value, bool) or value is None:
        return words({True: "yes", False: "no"}.get(value) if value is not None else None)
    if isinstance(value, float):
        return figure(value, f"{value:,.4g}")
    if isinstance(value, int):
        return figure(value)
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, date):
        return words(value, css="nowrap")
    return words(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)


def run(result: ReplayResult, cross: Cross) -> str:
    """What was replayed with what, so that it can be done again."""
    summary = result.summary
    said = {
        "candidate": summary.candidate,
        "champion": summary.champion,
        "lists": "list entries of each payment’s time" if summary.lists == "as-of" else "list entries of now",
    }
    said |= {**summary.parameters, "engine": summary.engine}
    said |= {f"data: {name}": dated for name, dated in sorted(summary.data.items())}
    listed = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in said.items())
    rows = [
        [
            words(row["merchant"]),
            *(
                Cell(f"<code>{text((row[side] or '–')[:12])}</code>", text(row[side]))
                for side in ("champion", "candidate")
            ),
            words("same" if row["champion"] == row["candidate"] else "changed"),
        ]
        for row in result.revisions.rows()[:SHOWN]
    ]
    columns = [Column("Merchant", sorted_now=True), Column("Champion"), Column("Candidate"), Column("")]
    if summary.champion == "recorded":
        rows, columns = [[row[0], row[2]] for row in rows], [columns[0], columns[2]]
    inner = table("revisions-table", "Revisions of the rule sets", columns, rows) + left_out(
        len(result.revisions), "revisions"
    )
    return section(
        "run",
        "The run",
        f"<dl>{listed}</dl><details><summary>Revisions of the rule sets</summary>{inner}</details>",
    )
