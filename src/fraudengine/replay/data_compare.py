"""A new IP or BIN table against the one in use: the decisions of a history that would flip, before it is put live.

The same rules decide the history twice, once by each table; what differs is the table's doing alone. Beside the
flips, every distinct address or BIN of the history is looked up in both tables, for the facts that change without
a flip.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from ..config import Config
from ..lookups import BinInfo, DataFiles
from .engine import replay
from .engines import Progress
from .result import ReplayResult

BIN_FACTS: Final = ("card_country", "card_brand", "card_type", "card_issuer")


@dataclass(frozen=True, slots=True)
class DataFlip:
    """A payment that the new table decides otherwise; `changed` are (fact, before, after)."""

    merchant: str
    transaction_id: str
    at_us: int
    currency: str
    minor: int
    before: str
    after: str
    before_rule: str | None
    after_rule: str | None
    changed: tuple[tuple[str, str | None, str | None], ...]


@dataclass(frozen=True, slots=True)
class DataComparison:
    """What a new table would change. `looked_up` distinct addresses or BINs are in the history.

    `changed` counts those of them whose fact changes, by (fact, before, after); `by_merchant` counts flips by
    (merchant, before, after).
    """

    kind: Literal["ip", "bin"]
    before: str  # dates of the tables
    after: str
    transactions: int
    looked_up: int
    values_changed: int
    changed: Mapping[tuple[str, str | None, str | None], int]
    by_merchant: Mapping[tuple[str, str, str], int]
    flips: tuple[DataFlip, ...]

    @property
    def flipped(self) -> int:
        return sum(self.by_merchant.values())


def files_with(present: DataFiles, new: Path) -> tuple[Literal["ip", "bin"], DataFiles]:
    """The tables in use with `new` in the place of one: an .mmdb, a BIN table, or a CSV of one's own BINs.

    Raises DataFileError when the new file is missing, truncated or damaged.
    """
    if new.suffix == ".mmdb":
        return "ip", DataFiles(new, present.bins_path, present.local_bins)
    if new.suffix == ".csv":
        return "bin", DataFiles(present.ip_path, present.bins_path, new)
    return "bin", DataFiles(present.ip_path, new, present.local_bins)


def compare_data(
    history: Sequence[Path],
    rules: Path,
    present: DataFiles,
    new: Path,
    config: Config,
    *,
    merchants: Iterable[str] | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    limit: int | None = None,
    progress: Progress = lambda phase, fraction: None,
    mapping: str | None = None,
) -> DataComparison:
    """Decides the history by both tables; at most `limit` flips are listed (None: all)."""
    kind, renewed = files_with(present, new)
    wanted = None if merchants is None else tuple(merchants)
    with tempfile.TemporaryDirectory(prefix="fraudengine-compare-") as name:
        kept, decided = Path(name) / "history.parquet", Path(name) / "decided.parquet"
        given: dict[str, Any] = {"merchants": wanted, "since_us": since_us, "until_us": until_us, "config": config}
        given |= {"flip_limit": 0, "rejects": Path(name) / "rejects.csv"}
        before = replay(
            history, rules, data=present, keep_history=kept, mapping=mapping, progress=progress, **given
        )
        with before:
            assert before.connection is not None
            before.connection.execute(
                "COPY (SELECT seq, candidate, candidate_rule FROM decisions)"
                f" TO '{_quoted(decided)}' (FORMAT parquet)"
            )
        again = [kept] if kept.exists() else history  # a history in its own form is read where it lies
        with replay(again, rules, data=renewed, progress=progress, **given) as after:
            return _compare(after, decided, kind, present, renewed, limit)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _compare(
    after: ReplayResult,
    decided: Path,
    kind: Literal["ip", "bin"],
    present: DataFiles,
    renewed: DataFiles,
    limit: int | None,
) -> DataComparison:
    held = {row["column_name"] for row in after.query("DESCRIBE history").rows()}
    column = "ip_address" if kind == "ip" else "card_bin"
    value = f"h.{column}" if column in held else "NULL::VARCHAR"
    own = {name: f"h.{name}" if name in held else "NULL::VARCHAR" for name in BIN_FACTS}
    flipped = (
        "FROM decisions d JOIN read_parquet('" + _quoted(decided) + "') b USING (seq)"
        " WHERE d.candidate <> b.candidate"
    )
    by_merchant = after.query(
        f"SELECT d.merchant, b.candidate AS before, d.candidate AS after, count(*) AS n {flipped}"
        " GROUP BY ALL ORDER BY ALL"
    ).rows()
    listed = after.query(
        f"SELECT p.*, h.transaction_id, {value} AS looked_up,"
        f" {', '.join(f'{text} AS own_{name}' for name, text in own.items())}"
        " FROM (SELECT seq, d.merchant, d.at_us, d.currency, d.minor, b.candidate AS before, d.candidate AS after,"
        f" b.candidate_rule AS before_rule, d.candidate_rule AS after_rule {flipped} ORDER BY seq"
        f"{'' if limit is None else f' LIMIT {limit}'}) p JOIN history h USING (seq) ORDER BY seq"
    ).rows()
    values = after.query(
        f"SELECT DISTINCT {value} AS value FROM history h JOIN (SELECT seq FROM decisions) USING (seq) ORDER BY 1"
    ).rows()
    changes: Counter[tuple[str, str | None, str | None]] = Counter()
    looked_up = [row["value"] for row in values if row["value"] is not None]
    changed_values = 0
    for one in looked_up:
        found = _changes(kind, present, renewed, one)
        changed_values += bool(found)
        changes.update(found)
    table = "ip_country" if kind == "ip" else "bins"
    return DataComparison(
        kind,
        present.dates[table],
        renewed.dates[table],
        after.summary.transactions,
        len(looked_up),
        changed_values,
        dict(sorted(changes.items(), key=lambda item: (-item[1], str(item[0])))),
        {(row["merchant"], row["before"], row["after"]): row["n"] for row in by_merchant},
        tuple(_flip(row, kind, present, renewed) for row in listed),
    )


def _flip(row: Mapping[str, Any], kind: Literal["ip", "bin"], present: DataFiles, renewed: DataFiles) -> DataFlip:
    """A flip with the facts that changed; what the gateway gave does not come from a table."""
    found = [] if row["looked_up"] is None else _changes(kind, present, renewed, row["looked_up"])
    own = tuple(change for change in found if kind == "ip" or row[f"own_{change[0]}"] is None)
    return DataFlip(
        merchant=row["merchant"],
        transaction_id=row["transaction_id"],
        at_us=row["at_us"],
        currency=row["currency"],
        minor=row["minor"],
        before=row["before"],
        after=row["after"],
        before_rule=row["before_rule"],
        after_rule=row["after_rule"],
        changed=own,
    )


def _changes(
    kind: Literal["ip", "bin"], present: DataFiles, renewed: DataFiles, value: str
) -> list[tuple[str, str | None, str | None]]:
    """The facts of an address or a BIN that the two tables tell otherwise."""
    if kind == "ip":
        before, after = present.ip_countries.country(value), renewed.ip_countries.country(value)
        return [] if before == after else [("ip_country", before, after)]
    old, new = _facts(present.bins.look_up(value)), _facts(renewed.bins.look_up(value))
    return [(name, old[name], new[name]) for name in BIN_FACTS if old[name] != new[name]]


def _facts(info: BinInfo | None) -> dict[str, str | None]:
    if info is None:
        return dict.fromkeys(BIN_FACTS)
    return dict(zip(BIN_FACTS, (info.country, info.brand, info.type, info.issuer), strict=True))


def told_at(at_us: int) -> str:
    """An instant in UTC."""
    return f"{datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
