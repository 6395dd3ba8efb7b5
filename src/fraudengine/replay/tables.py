"""The tables of a result, as sums over the decisions: one pass makes the cube, the rest are questions to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa

from .. import reasons
from ..backends.columnar import WORD_BITS
from ..backends.columnar_codes import UNRECORDED, Codes
from ..backends.columnar_decision import OUTCOMES, SETTLED
from ..backends.columnar_plan import CANDIDATE, CHAMPION
from ..rules.ast import Mode
from .result import BAD_LABELS, GOOD_LABELS, ReplayTable
from .shapes import Form, Shape

_OUTCOME_WORDS: Final = [*(outcome.value for outcome in OUTCOMES), "unrecorded"]
assert _OUTCOME_WORDS.index("unrecorded") == UNRECORDED


def words_of(shapes: Sequence[Shape], side: str) -> int:
    """How many words of bits the widest shape needs on that side."""
    forms = [shape.champion if side == CHAMPION else shape.candidate for shape in shapes]
    return max((form.decided_by.words for form in forms if form is not None), default=0)


def create_decided(connection: duckdb.DuckDBPyConnection, shapes: Sequence[Shape], counters: Sequence[str]) -> None:
    """The empty table of decisions."""
    columns = [
        *("seq BIGINT", "shape INTEGER", "merchant_no INTEGER", "at_us BIGINT", "day INTEGER"),
        *("currency_no SMALLINT", "minor BIGINT", "label_no SMALLINT"),
    ]
    for side in (CHAMPION, CANDIDATE):
        columns += [f"{side} TINYINT", f"{side}_d SMALLINT", f"{side}_how TINYINT"]
        for letter in "mu":
            columns += [f"{side}_{letter}{word} BIGINT DEFAULT 0" for word in range(words_of(shapes, side))]
    columns += [f'"{name}" BIGINT' for name in counters]
    connection.execute(f"CREATE TABLE decided ({', '.join(columns)})")


def rule_tables(shapes: Sequence[Shape]) -> dict[str, pa.Table]:
    """`rule_bits`: which bit is which rule; `variants`: what a determining number means."""
    bits: list[dict[str, Any]] = []
    variants: list[dict[str, Any]] = []
    for shape in shapes:
        for side, form in ((CHAMPION, shape.champion), (CANDIDATE, shape.candidate)):
            if form is not None:
                bits += _bits_of(shape, side, form, words_of(shapes, side))
                variants += [
                    {
                        "shape": shape.number,
                        "side": side,
                        "d": number,
                        "rule": variant.rule.id,
                        "code": variant.rule.reason,
                        "bit": variant.position,
                    }
                    for number, variant in enumerate(form.decided_by.variants)
                ]
    whole = [("shape", pa.int32()), ("side", pa.string())]
    bit_schema = pa.schema(
        [
            *whole,
            *(("word", pa.int32()), ("bit", pa.int32()), ("rule", pa.string()), ("mode", pa.string())),
            *(("outcome", pa.string()), ("unknown_outcome", pa.string()), ("final", pa.bool_())),
            *(("reason", pa.string()), ("alone", pa.list_(pa.int64())), ("live", pa.list_(pa.int64()))),
        ]
    )
    variant_schema = pa.schema(
        [*whole, ("d", pa.int16()), ("rule", pa.string()), ("code", pa.string()), ("bit", pa.int32())]
    )
    return {
        "rule_bits": pa.Table.from_pylist(bits, schema=bit_schema),
        "variants": pa.Table.from_pylist(variants, schema=variant_schema),
    }


def _bits_of(shape: Shape, side: str, form: Form, words: int) -> list[dict[str, Any]]:
    live = [0] * words
    for place, rule in enumerate(form.decided_by.rules):
        if rule.mode is Mode.LIVE:
            live[place // WORD_BITS] |= 1 << place % WORD_BITS
    rows = []
    for place, rule in enumerate(form.decided_by.rules):
        alone = [0] * words
        if rule.mode is Mode.LIVE:
            alone[place // WORD_BITS] = 1 << place % WORD_BITS
        rows.append(
            {
                "shape": shape.number,
                "side": side,
                "word": place // WORD_BITS,
                "bit": place % WORD_BITS,
                "rule": rule.id,
                "mode": rule.mode.value,
                "outcome": rule.then.value,
                "unknown_outcome": rule.if_unknown.value if rule.if_unknown is not None else None,
                "final": rule.final,
                "reason": rule.reason,
                "alone": alone,
                "live": live,
            }
        )
    return rows


def aggregate(connection: duckdb.DuckDBPyConnection, shapes: Sequence[Shape]) -> list[str]:
    """The statements that make `cube`, `unknowns` and `days` from `decided`."""
    del connection
    keys = [f"{side}{rest}" for side in (CHAMPION, CANDIDATE) for rest in ("", "_d", "_how")]
    matched = [f"{side}_m{word}" for side in (CHAMPION, CANDIDATE) for word in range(words_of(shapes, side))]
    unknown = [f"{side}_u{word}" for side in (CHAMPION, CANDIDATE) for word in range(words_of(shapes, side))]
    both = [f"{u} & {u.replace('_u', '_m')} AS {u.replace('_u', '_b')}" for u in unknown]
    group = ", ".join(["shape", "merchant_no", "currency_no", "label_no", *keys, *matched])
    return [
        f"CREATE TABLE cube_ AS SELECT {group}, count(*) AS transactions, sum(minor)::BIGINT AS minor,"
        f" min(at_us) AS first_us, max(at_us) AS last_us FROM decided GROUP BY {group}",
        f"CREATE TABLE unknowns AS SELECT {', '.join(['shape', 'merchant_no', *unknown, *both])},"
        " count(*) AS transactions FROM decided GROUP BY ALL",
        "CREATE TABLE days AS SELECT day, merchant_no, champion, candidate, count(*) AS transactions"
        " FROM decided GROUP BY ALL",
    ]


def make_views(
    connection: duckdb.DuckDBPyConnection, shapes: Sequence[Shape], recorded: bool, codes: Codes
) -> None:
    """`decisions` and `cube` with words in the place of numbers."""
    outcomes = ", ".join(f"'{word}'" for word in _OUTCOME_WORDS)
    settled = ", ".join(f"'{code}'" for code in SETTLED)

    def columns(side: str) -> str:
        code = f"coalesce(nullif([{settled}][{side}_how + 1], ''), {side}_v.code, '{reasons.NO_RULE_MATCHED}')"
        if side == CHAMPION and recorded:
            recorded_as = "h.recorded_rule AS champion_rule, h.recorded_code AS champion_code"
            return f"[{outcomes}][champion + 1] AS champion, {recorded_as}"
        return f"[{outcomes}][{side} + 1] AS {side}, {side}_v.rule AS {side}_rule, {code} AS {side}_code"

    def joins(table: str) -> str:
        return " ".join(
            f"LEFT JOIN variants {side}_v ON {side}_v.shape = {table}.shape AND {side}_v.side = '{side}'"
            f" AND {side}_v.d = {table}.{side}_d"
            for side in (CHAMPION, CANDIDATE)
        )

    currency = f"{_list_of(codes.currencies)}[t.currency_no + 1] AS currency"
    label = f"{_list_of(codes.labels)}[t.label_no + 1] AS label"
    words = [
        f"{side}_{letter}{word}"
        for side in (CHAMPION, CANDIDATE)
        for letter in "mu"
        for word in range(words_of(shapes, side))
    ]
    counters = [
        name for name, *_ in connection.execute("DESCRIBE decided").fetchall() if name.startswith("counter_")
    ]
    quoted = [f't."{name}"' for name in (*words, *counters)]
    held = {name for name, *_ in connection.execute("DESCRIBE history").fetchall()}
    by_seq = "LEFT JOIN history h ON h.seq = t.seq" if recorded else ""
    if recorded and not {"recorded_rule", "recorded_code"} <= held:
        by_seq = "CROSS JOIN (SELECT NULL::VARCHAR AS recorded_rule, NULL::VARCHAR AS recorded_code) h"
    connection.execute(
        "CREATE VIEW decisions AS SELECT t.seq, m.merchant, t.at_us, DATE '1970-01-01' + t.day AS day,"
        f" {currency}, t.minor, {label}, {columns(CHAMPION)}, {columns(CANDIDATE)}, t.shape"
        f"{''.join(', ' + name for name in quoted)}"
        f" FROM decided t JOIN merchants m USING (merchant_no) {joins('t')} {by_seq}"
    )
    matched = "".join(f", t.{name}" for name in words if "_m" in name)
    cube = columns(CHAMPION).replace("h.recorded_rule", "NULL::VARCHAR").replace("h.recorded_code", "NULL::VARCHAR")
    connection.execute(
        f"CREATE TABLE cube AS SELECT t.shape, m.merchant, {currency}, {label}, {cube}, {columns(CANDIDATE)}"
        f"{matched}, t.transactions, t.minor, t.first_us, t.last_us"
        f" FROM cube_ t JOIN merchants m USING (merchant_no) {joins('t')}"
    )


def _list_of(words: Sequence[str]) -> str:
    return "([" + ", ".join("'" + word.replace("'", "''") + "'" for word in words) + "]::VARCHAR[])"


_PAIR: Final = "champion, candidate"
_SUMS: Final = "sum(transactions)::BIGINT AS transactions, sum(minor)::BIGINT AS minor"


def summary_tables(connection: duckdb.DuckDBPyConnection) -> dict[str, ReplayTable]:
    """Matrix, merchants, labels and days."""

    def table(name: str, sql: str, text: str) -> ReplayTable:
        return ReplayTable(name, connection.sql(sql).to_arrow_table(), text)

    return {
        "matrix": table(
            "matrix",
            f"SELECT {_PAIR}, currency, label, {_SUMS} FROM cube GROUP BY ALL ORDER BY ALL",
            "decisions of both sides, by currency and what became of the payment",
        ),
        "by_merchant": table(
            "by_merchant",
            f"SELECT merchant, {_PAIR}, currency, {_SUMS} FROM cube GROUP BY ALL ORDER BY ALL",
            "decisions of both sides for each merchant",
        ),
        "by_label": table(
            "by_label",
            f"SELECT label, {_PAIR}, currency, {_SUMS} FROM cube GROUP BY ALL ORDER BY ALL",
            "decisions of both sides by what became of the payment",
        ),
        "by_day": table(
            "by_day",
            f"SELECT DATE '1970-01-01' + day AS day, merchant, {_outcome('champion')}, {_outcome('candidate')},"
            " sum(transactions)::BIGINT AS transactions FROM days JOIN merchants USING (merchant_no)"
            " GROUP BY ALL ORDER BY ALL",
            "decisions of both sides by day, UTC",
        ),
    }


def _outcome(side: str) -> str:
    outcomes = ", ".join(f"'{word}'" for word in _OUTCOME_WORDS)
    return f"[{outcomes}][{side} + 1] AS {side}"


def rule_statistics(
    connection: duckdb.DuckDBPyConnection, shapes: Sequence[Shape], by_merchant: bool
) -> ReplayTable:
    """What each rule matched, alone and in all, and how much of that was fraud."""
    bad, good = (", ".join(f"'{label}'" for label in sorted(found)) for found in (BAD_LABELS, GOOD_LABELS))
    parts = []
    for side in (CHAMPION, CANDIDATE):
        words = words_of(shapes, side)
        if not words:
            continue
        matched = "[" + ", ".join(f"c.{side}_m{word}" for word in range(words)) + "]"
        live = "[" + ", ".join(f"c.{side}_m{word} & b.live[{word + 1}]" for word in range(words)) + "]"
        parts.append(
            f"SELECT b.side, b.rule, b.mode, b.outcome, b.reason, c.merchant, c.currency, c.label, c.transactions,"
            f" c.minor, c.first_us, c.last_us, {live} = b.alone AS alone, c.{side}_rule = b.rule AS decided"
            f" FROM cube c JOIN rule_bits b ON b.shape = c.shape AND b.side = '{side}'"
            f" WHERE ({matched}[b.word + 1] >> b.bit) & 1 = 1"
        )
    if not parts:
        parts = ["SELECT * FROM (SELECT NULL::VARCHAR side) WHERE false"]
    connection.execute("CREATE OR REPLACE TEMP TABLE rule_hits AS " + " UNION ALL ".join(parts))
    unknown_parts = []
    for side in (CHAMPION, CANDIDATE):
        words = words_of(shapes, side)
        if words:
            lists = [
                "[" + ", ".join(f"u.{side}_{letter}{word}" for word in range(words)) + "][b.word + 1] >> b.bit & 1"
                for letter in "ub"
            ]
            unknown_parts.append(
                f"SELECT b.side, b.rule, m.merchant, sum(u.transactions) FILTER ({lists[0]} = 1) AS unknown,"
                f" sum(u.transactions) FILTER ({lists[1]} = 1) AS by_unknown FROM unknowns u"
                f" JOIN rule_bits b ON b.shape = u.shape AND b.side = '{side}' JOIN merchants m USING (merchant_no)"
                " GROUP BY ALL"
            )
    connection.execute("CREATE OR REPLACE TEMP TABLE rule_unknowns AS " + " UNION ALL ".join(unknown_parts))
    key = "merchant, side, rule" if by_merchant else "side, rule"
    rows = connection.sql(
        f"""
        WITH known AS (
            SELECT {key}, any_value(mode) AS mode, any_value(outcome) AS outcome, any_value(reason) AS reason,
                count(DISTINCT merchant) AS merchants
            FROM rule_bits JOIN (SELECT DISTINCT shape, merchant FROM shape_members) USING (shape) GROUP BY ALL
        ), hits AS (
            SELECT {key}, sum(transactions)::BIGINT AS matches,
                coalesce(sum(transactions) FILTER (alone), 0)::BIGINT AS unique_matches,
                coalesce(sum(transactions) FILTER (decided), 0)::BIGINT AS decided,
                coalesce(sum(transactions) FILTER (label IN ({bad})), 0)::BIGINT AS bad,
                coalesce(sum(transactions) FILTER (label IN ({good})), 0)::BIGINT AS good,
                make_timestamp(min(first_us)) AS first_match, make_timestamp(max(last_us)) AS last_match
            FROM rule_hits GROUP BY ALL
        ), amounts AS (
            SELECT {key}, map(list(currency ORDER BY currency), list(minor ORDER BY currency)) AS minor_by_currency
            FROM (SELECT {key}, currency, sum(minor)::BIGINT AS minor FROM rule_hits GROUP BY ALL) GROUP BY ALL
        ), unknowns AS (
            SELECT {key}, coalesce(sum(unknown), 0)::BIGINT AS unknown,
                coalesce(sum(by_unknown), 0)::BIGINT AS by_unknown
            FROM rule_unknowns GROUP BY ALL
        ), total AS (
            SELECT {"merchant, " if by_merchant else ""}sum(transactions) AS bad_in_all FROM cube
            WHERE label IN ({bad}) GROUP BY ALL
        )
        SELECT {"k.merchant, " if by_merchant else ""}k.side, k.rule, k.mode, k.outcome, k.reason,
            {"" if by_merchant else "k.merchants,"}
            coalesce(matches, 0) AS matches, coalesce(unique_matches, 0) AS unique_matches,
            coalesce(by_unknown, 0) AS by_unknown, coalesce(decided, 0) AS decided, coalesce(unknown, 0) AS unknown,
            coalesce(bad, 0) AS bad, coalesce(good, 0) AS good,
            bad / nullif(bad + good, 0) AS "precision", coalesce(bad, 0) / nullif(bad_in_all, 0)::DOUBLE AS recall,
            minor_by_currency, first_match, last_match
        FROM known k LEFT JOIN hits USING ({key}) LEFT JOIN amounts USING ({key}) LEFT JOIN unknowns USING ({key})
            LEFT JOIN total {"USING (merchant)" if by_merchant else "ON true"}
        ORDER BY {"k.merchant, " if by_merchant else ""}k.side, matches DESC, k.rule
        """
    )
    name = "rules_by_merchant" if by_merchant else "rules"
    return ReplayTable(name, rows.to_arrow_table(), "what each rule matched, alone and in all")
