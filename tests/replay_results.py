"""A result of a replay made up by hand, for tests of what is done with results."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any, Final

import pyarrow as pa

from fraudengine.replay.flips import SCHEMA
from fraudengine.replay.result import ReplayResult, ReplaySummary, ReplayTable

AT: Final = datetime(2026, 11, 20, 10, 0, 0, 250_000, tzinfo=UTC)


def table(name: str, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> ReplayTable:
    return ReplayTable(name, pa.Table.from_pylist(rows, schema=schema), f"the table {name}")


def flip(number: int, **other: Any) -> dict[str, Any]:
    """A payment that is challenged and was accepted."""
    return {
        "seq": number,
        "merchant": "shop",
        "transaction_id": f"T-{number}",
        "at": AT,
        "currency": "TND",
        "minor": 12_500 + number,
        "label": "authorised",
        "champion": "accept",
        "candidate": "challenge",
        "champion_code": "NO_RULE_MATCHED",
        "candidate_code": "AMOUNT_NEEDS_3DS",
        "candidate_rule": "challenge-above",
        "gone": [],
        "new": ["challenge-above: amount 12.500 TND, over 10.000 TND"],
        "because": [],
        "card_bin": "411111",
        "card_last4": "1111",
        **other,
    }


def flip_batches(numbers: range, size: int = 1_000) -> Iterator[pa.RecordBatch]:
    for start in range(numbers.start, numbers.stop, size):
        rows = [flip(number) for number in range(start, min(start + size, numbers.stop))]
        yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def make_result(**other: Any) -> ReplayResult:
    """Three payments of one merchant, one of them decided otherwise; `other` takes the place of tables."""
    pairs = [
        ("accept", "accept", "authorised"),
        ("accept", "challenge", "authorised"),
        ("refuse", "refuse", "fraud"),
    ]
    money = {"currency": "TND", "minor": 12_500}
    crossed = [
        {"champion": champion, "candidate": candidate, **money, "label": label, "transactions": 1}
        for champion, candidate, label in pairs
    ]
    rule = {
        "rule": "challenge-above",
        "mode": "live",
        "outcome": "challenge",
        "reason": "AMOUNT_NEEDS_3DS",
        "merchants": 1,
        "unique_matches": 1,
        "by_unknown": 0,
        "decided": 1,
        "unknown": 0,
        "bad": 0,
        "good": 1,
        "precision": 0.0,
        "recall": None,
        "first_match": AT.replace(tzinfo=None),
        "last_match": AT.replace(tzinfo=None),
    }
    amounts = pa.map_(pa.string(), pa.int64())
    rules = [
        {**rule, "side": side, "matches": matches, "minor_by_currency": [("TND", 12_500 * matches)]}
        for side, matches in (("candidate", 1), ("champion", 0))
    ]
    schema = pa.Table.from_pylist([{**row, "minor_by_currency": None} for row in rules]).schema
    schema = schema.set(schema.get_field_index("minor_by_currency"), pa.field("minor_by_currency", amounts))
    given: dict[str, Any] = {
        "summary": ReplaySummary(
            transactions=3,
            rejected=1,
            skipped=0,
            flips=1,
            merchants=1,
            first_us=1,
            last_us=2,
            candidate="rules",
            champion="HEAD",
            lists="as-of",
            engine="duckdb",
            elapsed_s=0.5,
            data={"bins": "2026-11-23"},
        ),
        "matrix": table("matrix", crossed),
        "by_merchant": table("by_merchant", [{"merchant": "shop", **row} for row in crossed]),
        "by_label": table("by_label", crossed),
        "by_day": table("by_day", [{"day": date(2026, 11, 20), "merchant": "shop", **row} for row in crossed]),
        "rules": table("rules", rules, schema),
        "rules_by_merchant": table("rules_by_merchant", rules, schema),
        "flips": ReplayTable("flips", pa.Table.from_pylist([flip(1)], schema=SCHEMA)),
        "silenced": table(
            "silenced", [{"side": "candidate", "rule": "r", "transactions": 1, "absent_facts": ["email"]}]
        ),
        "absent": table("absent", [{"fact": "email", "transactions": 3, "known": 0, "rules": ["r"]}]),
        "revisions": table(
            "revisions", [{"merchant": "shop", "transactions": 3, "champion": "ab", "candidate": "cd"}]
        ),
        "rejects": table("rejects", [{"file": "h.csv", "line": 4, "reason": "no amount"}]),
    }
    return ReplayResult(**(given | other))
