"""What a replay gives: tables that show themselves in a notebook, and every decision for further questions.

Two sides are compared. The **champion** is what is in force (a rule directory, a git revision, or the answers that
were recorded), the **candidate** what is proposed. Outcomes are the words accept, challenge, refuse; a champion's
outcome is `unrecorded` where the history does not say what was answered.

Tables (`ReplayTable`, columns in this order; money is integer minor units beside the currency):

- `matrix`       champion, candidate, currency, label, transactions, minor
- `by_merchant`  merchant, champion, candidate, currency, transactions, minor
- `by_label`     label, champion, candidate, currency, transactions, minor
- `by_day`       day, merchant, champion, candidate, transactions
- `rules`        side, rule, mode, outcome, reason, merchants, matches, unique_matches, by_unknown, decided,
                 unknown, bad, good, precision, recall, minor_by_currency, first_match, last_match
- `rules_by_merchant`  merchant, and then as `rules` without `merchants`
- `flips`        seq, merchant, transaction_id, at, currency, minor, label, champion, champion_code, champion_rule,
                 candidate, candidate_code, candidate_rule, gone, new, because, card_bin, card_last4
                 (at most `flip_limit` rows; `all_flips` gives every one)
- `silenced`     side, rule, transactions, absent_facts: rules whose condition was unknown, and for want of what
- `absent`       fact, transactions, known, rules: facts that rules read and the history does not always give
- `revisions`    merchant, transactions, champion, candidate: the revisions of the rule sets that decided
- `rejects`      file, line, reason: rows that are no transactions (all of them are in the rejects file)

Ablation (`ablation=True`) adds what would have been answered without one rule or one list entry of the candidate:

- `ablation_rules`    rule, outcome, reason, merchants, matches, last_match, needed, caught, caught_minor,
                      good_refused, good_refused_minor, good_challenged, good_spared, bad_spared, bad_spared_minor,
                      last_needed, last_useful, always_covered, in_its_place, covered_by; live rules only
- `ablation_entries`  list, value, source, merchants, held, last_held, and then as of rules, without `covered_by`
- `…_by_merchant`     the same for each merchant

`needed` payments would be answered otherwise without it. Of these, `caught` are bad ones that it alone made harder,
`good_refused` and `good_challenged` good ones, `good_spared` and `bad_spared` those that it alone made easier.
`last_useful` is the last day (UTC) on which it alone caught a bad payment or spared a good one. `in_its_place` are
rules that decide alike what it touched; `covered_by` those that match, no milder, whenever it does.

Whatever else is asked of a result (`add_table`) becomes one of its tables: shown, exported, reported by its name.

Vocabulary of `label`: authorised, declined, refunded, chargeback, fraud, legitimate, technical_failure, or `none`.
`bad` counts matches labelled chargeback or fraud; `good` those labelled authorised, legitimate or refunded;
declined and unlabelled payments count as neither. `unique_matches`: no other live rule of that side matched.

Every decision stays in a DuckDB database as long as the result lives; `query` asks it. Its relations:

- `decisions`  seq, merchant, at_us, day, currency, minor, label, champion, champion_rule, champion_code, candidate,
               candidate_rule, candidate_code, shape, champion_m0…, champion_u0…, candidate_m0…, candidate_u0…
               (bit k of `m` = rule k of the shape matched, of `u` = its condition was unknown; see `rule_bits`),
               and `counter_…` for each velocity counter that was computed
- `rule_bits`  side, shape, word, bit, rule, mode, outcome, unknown_outcome, final, reason, origin
- `history`    the transactions (`replay.history.COLUMNS`), joined by `seq`
- `cube`       shape, merchant, currency, label, both sides' outcomes, rules, codes and `m` words,
               transactions, minor, first_us, last_us: all tables above are sums over it
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from .notebook import table_html

if TYPE_CHECKING:
    import pandas
    import polars

OUTCOMES = ("accept", "challenge", "refuse")
BAD_LABELS = frozenset({"chargeback", "fraud"})
GOOD_LABELS = frozenset({"authorised", "legitimate", "refunded"})
_SHOWN_ROWS = 50


@dataclass(frozen=True, slots=True)
class ReplayTable:
    """One table of a result; `arrow` is the table, the rest are views of it."""

    name: str
    arrow: pa.Table
    help: str = ""

    def to_pandas(self) -> pandas.DataFrame:
        return self.arrow.to_pandas()

    def to_polars(self) -> polars.DataFrame:
        import polars

        found = polars.from_arrow(self.arrow)
        assert isinstance(found, polars.DataFrame)
        return found

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.arrow.to_pylist()
        return found

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def _repr_html_(self) -> str:
        shown = self.arrow.slice(0, _SHOWN_ROWS).to_pylist()
        return table_html(self.name, self.arrow.column_names, shown, help=self.help, left=len(self) - _SHOWN_ROWS)


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What was replayed, with what, and how long it took. `at` times are UTC microseconds."""

    transactions: int
    rejected: int
    skipped: int  # of merchants that a side has no rules for, or outside --merchant, --since, --until
    flips: int
    merchants: int
    first_us: int | None
    last_us: int | None
    candidate: str  # how the caller named it: a directory, a git revision
    champion: str  # the same, or `recorded`
    lists: str
    engine: str
    data: Mapping[str, str]
    elapsed_s: float
    skipped_merchants: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)  # what was asked, by the names of the options
    disagreements: int = 0  # listed flips that the reference backend decides otherwise: a fault of ours


@dataclass(slots=True, weakref_slot=True)
class ReplayResult:
    """The tables of one replay. Close it, or use it in a `with`, to remove its working files at once."""

    summary: ReplaySummary
    matrix: ReplayTable
    by_merchant: ReplayTable
    by_label: ReplayTable
    by_day: ReplayTable
    rules: ReplayTable
    rules_by_merchant: ReplayTable
    flips: ReplayTable
    silenced: ReplayTable
    absent: ReplayTable
    revisions: ReplayTable
    rejects: ReplayTable
    rejects_file: Path | None = None
    extra: dict[str, ReplayTable] = field(default_factory=dict)
    explain_flips: Callable[[], Iterator[pa.RecordBatch]] | None = None
    connection: duckdb.DuckDBPyConnection | None = None
    work: Path | None = None
    _finalizer: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.work is not None:
            self._finalizer = weakref.finalize(self, shutil.rmtree, self.work, True)

    @property
    def tables(self) -> dict[str, ReplayTable]:
        """Every table by name."""
        found = (
            *(self.matrix, self.by_merchant, self.by_label, self.by_day, self.rules, self.rules_by_merchant),
            *(self.flips, self.silenced, self.absent, self.revisions, self.rejects),
        )
        return {table.name: table for table in found} | self.extra

    def add_table(self, table: ReplayTable) -> None:
        """Makes a table part of the result: it is shown, reported and exported by its name."""
        self.extra[table.name] = table

    def all_flips(self) -> Iterator[pa.RecordBatch]:
        """Every transaction that is decided otherwise, as rows of `flips`, a few thousand at a time."""
        if self.explain_flips is None:
            yield from self.flips.arrow.to_batches()
        elif self.connection is None:
            raise ValueError("this result is closed; its tables remain")
        else:
            yield from self.explain_flips()

    def query(self, sql: str, name: str = "query") -> ReplayTable:
        """The answer to a SQL question about `decisions`, `history`, `rule_bits` and `cube`."""
        if self.connection is None:
            raise ValueError("this result is closed; its tables remain")
        found = self.connection.sql(sql)
        return ReplayTable(name, found.to_arrow_table())

    def close(self) -> None:
        """Removes the working files; the tables remain."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> ReplayResult:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repr_html_(self) -> str:
        summary = self.summary
        lead = (
            f"<p><b>{summary.transactions:,}</b> transaction{_s(summary.transactions)} of {summary.merchants:,} "
            f"merchant{_s(summary.merchants)}: champion "
            f"<code>{escape(summary.champion)}</code>, candidate <code>{escape(summary.candidate)}</code>; "
            f"<b>{summary.flips:,}</b> decided otherwise; {summary.rejected:,} rows rejected.</p>"
        )
        shown = (self.outcomes(), self.by_merchant, self.rules, self.flips, self.silenced)
        return lead + "".join(table._repr_html_() for table in shown if len(table))

    def outcomes(self) -> ReplayTable:
        """The 3 × 3 matrix by count alone: champion, candidate, transactions."""
        counted: dict[tuple[str, str], int] = {}
        for row in self.matrix.rows():
            pair = (row["champion"], row["candidate"])
            counted[pair] = counted.get(pair, 0) + row["transactions"]
        rows = [
            {"champion": champion, "candidate": candidate, "transactions": number}
            for (champion, candidate), number in sorted(counted.items())
        ]
        schema = pa.schema([("champion", pa.string()), ("candidate", pa.string()), ("transactions", pa.int64())])
        return ReplayTable("outcomes", pa.Table.from_pylist(rows, schema=schema))


def _s(number: int) -> str:
    return "" if number == 1 else "s"
