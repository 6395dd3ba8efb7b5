"""The history of a replay as its plans know it: the table, what is said beside it, and when it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import ibis

from .columnar import Dialect, Expr
from .columnar_codes import Codes
from .columnar_enrich import LookupTables

KEPT: Final = ("seq", "merchant", "transaction_id", "at_us", "currency", "minor", "label", "recorded_outcome")
"""Its columns that go on beside the facts."""


@dataclass(frozen=True, slots=True)
class HistorySpan:
    """The instants between which the history lies, and those between which decisions are asked for."""

    first_us: int
    last_us: int
    since_us: int | None = None
    until_us: int | None = None

    def cut(self, table: Expr) -> Expr:
        """The rows that are asked for."""
        if self.since_us is not None:
            table = table.filter(table["at_us"] >= self.since_us)
        if self.until_us is not None:
            table = table.filter(table["at_us"] < self.until_us)
        return table


@dataclass(frozen=True, slots=True)
class ReplayedHistory:
    """The transactions, with the gateway's reports about them and the numbers that stand for words.

    `merchant_numbers` are those of all its merchants, also of those without rules. `currencies` are by merchant's
    number those of its transactions, each as its place in `codes`.
    """

    table: Expr
    lookups: LookupTables
    span: HistorySpan
    reports: Expr | None
    dialect: Dialect
    merchant_numbers: Mapping[str, int]
    codes: Codes
    currencies: Mapping[int, frozenset[int]]


def with_answers(facts: Expr) -> Expr:
    """With the columns `label` and `recorded_outcome`, NULL where the history has none."""
    absent = {name: ibis.null("string") for name in ("label", "recorded_outcome") if name not in facts.columns}
    return facts.mutate(**absent) if absent else facts
