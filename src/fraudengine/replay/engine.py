"""Replay: a history decided again, by the rules proposed and by those in force or the answers recorded.

Nothing of the history passes through Python row by row: rules become queries (`backends.columnar_plan`), one for
each shape of rule sets, and what comes back are tables. Flipped transactions are the exception: those that are
listed are explained by the reference backend, which also checks that it decides the same.

Replay asks about rules, so the past stays as it was: counters `among: refused` read what was answered then.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ..backends.columnar import Expr, table_named
from ..backends.columnar_codes import Codes
from ..backends.columnar_enrich import LookupTables, address_countries, bin_infos, map_source
from ..backends.columnar_history import HistorySpan, ReplayedHistory
from ..backends.columnar_plan import CANDIDATE, CHAMPION, Planner
from ..backends.columnar_sides import SidePlan
from ..config import Config, read_configuration
from ..countries import read_country
from ..diagnostics import FraudengineError, UnknownMerchant, suggest
from ..enrich import phone_country
from ..facts import METADATA_PREFIX, FactType
from ..lookups import DataFiles
from ..rules.ast import RuleSet
from .ablation import Ablation
from .data_ranges import bin_ranges_file, ip_ranges_file
from .engines import DuckDbEngine, Engine, Progress, SparkEngine, open_duckdb, read_parquet_sql
from .flips import FlipExplainer, FlipLister, list_flips
from .list_history import ListHistory
from .readers import History, open_history
from .result import ReplayResult, ReplaySummary, ReplayTable
from .rule_sources import RuleSource, load_rules
from .shapes import Form, Shape, Side, group_by_form, make_side
from .silenced import absent_table, silenced_table
from .tables import aggregate, create_decided, make_views, rule_statistics, rule_tables, summary_tables

RECORDED: Final = "recorded"
FLIP_LIMIT: Final = 200
SLICE_ROWS: Final = 3_000_000
MERCHANTS_NAMED: Final = 10


class NothingToReplay(FraudengineError):
    """No transaction of the history can be decided; the message says why."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a replay runs. `since_us` is included, `until_us` excluded; UTC microseconds."""

    merchants: frozenset[str] | None = None
    since_us: int | None = None
    until_us: int | None = None
    lists: Literal["as-of", "now"] = "as-of"
    engine: str = "duckdb"
    memory_limit: str | None = None
    threads: int | None = None
    flip_limit: int = FLIP_LIMIT
    ablation: bool = False

    def described(self) -> dict[str, str]:
        """What was selected, in words; nothing of what has no bearing on the figures."""
        found = {"merchants": "all" if self.merchants is None else ", ".join(sorted(self.merchants))}
        for name, us in (("since", self.since_us), ("until", self.until_us)):
            if us is not None:
                found[name] = f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}"
        return found


def replay(
    history: Path | str | Sequence[Path | str],
    rules: Path | str = "rules",
    against: Path | str = RECORDED,
    *,
    merchants: Iterable[str] | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    lists: Literal["as-of", "now"] = "as-of",
    engine: str = "duckdb",
    memory_limit: str | None = None,
    threads: int | None = None,
    flip_limit: int = FLIP_LIMIT,
    ablation: bool = False,
    mapping: Path | str | None = None,
    rejects: Path | str | None = None,
    keep_history: Path | None = None,
    merchant: str | None = None,
    config: Config | None = None,
    data: DataFiles | None = None,
    progress: Progress = lambda phase, fraction: None,
    counted: Callable[[int], None] = lambda transactions: None,
) -> ReplayResult:
    """Decides the transactions of `history` by `rules` and compares with `against`.

    `history` is a decision log, or CSV, Parquet, JSON lines, XLSX or the gateway's order statuses, read by
    `mapping` (see `readers`). `rules` and `against` name a rule directory or a git revision; `against` may be
    `recorded`. `keep_history` keeps what was read for the next replay; `merchant` is that of rows that name none.
    `engine` is `duckdb`, `local-spark` or `spark://…`; `memory_limit` such as `6GB` bounds what is in memory, the
    rest spills to disk. `ablation` adds what hangs on each of the candidate's rules and list entries. `progress`
    hears what is done and how much of it, `counted` how many transactions will be decided, before the first is.
    Raises FraudengineError subclasses with what to do.
    """
    config = config or read_configuration()
    options = ReplayOptions(
        None if merchants is None else frozenset(merchants),
        since_us,
        until_us,
        lists,
        engine,
        memory_limit,
        threads,
        flip_limit,
        ablation,
    )
    work = Path(tempfile.mkdtemp(prefix="fraudengine-replay-", dir=os.environ.get("TMPDIR")))
    try:
        found = open_history(
            history,
            work,
            config,
            mapping=mapping,
            rejects=rejects,
            keep=keep_history,
            merchant=merchant,
            progress=progress,
        )
        found.require_rows()
        run = _Run(found, options, config, data, work, progress, counted)
        return run.replay(rules, against)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


class _Run:
    def __init__(
        self,
        history: History,
        options: ReplayOptions,
        config: Config,
        data: DataFiles | None,
        work: Path,
        progress: Progress,
        counted: Callable[[int], None],
    ) -> None:
        self.history, self.options, self.config, self.work = history, options, config, work
        self.progress, self.counted = progress, counted
        self.data = data or DataFiles(
            config.ip_country_file, config.data / "bins.dat", config.data / "bins.local.csv"
        )

    def replay(self, rules: Path | str, against: Path | str) -> ReplayResult:
        started = time.perf_counter()
        candidate = load_rules(rules, self.work, beside=self.config.rules)
        champion = None
        if str(against) != RECORDED:
            champion = load_rules(against, self.work, beside=self.config.rules)
        connection = open_duckdb(self.work, self.options.memory_limit, self.options.threads)
        engine: Engine = DuckDbEngine(connection, self.progress)
        try:
            connection.execute(f"CREATE VIEW history AS SELECT * FROM {read_parquet_sql(self.history.files)}")
            if self.options.engine != "duckdb":
                engine = SparkEngine(
                    self.options.engine,
                    connection,
                    self.work,
                    self.progress,
                    self.options.memory_limit,
                    self.options.threads,
                )
                engine.add_parquet("history", self.history.files)
            return self._run(engine, candidate, champion, started)
        except BaseException:
            connection.close()
            raise
        finally:
            if self.options.engine != "duckdb":
                engine.close()

    def _run(
        self, engine: Engine, candidate: RuleSource, champion: RuleSource | None, started: float
    ) -> ReplayResult:
        connection = engine.connection
        counts = self._count(connection)
        list_history = ListHistory.read(self.config.state / "lists.db")
        sides, skipped = self._make_sides(counts, candidate, champion, list_history)
        if not sides:
            raise NothingToReplay(self._why_nothing(counts, candidate))
        self.counted(sum(counts[merchant][0] for merchant in sides))
        shapes = group_by_form(sides)
        self._make_known(connection, shapes)
        planner = self._planner(engine, sides)
        self._decide(engine, planner, shapes, champion is not None)
        runner = DuckDbEngine(connection, self.progress)
        for statement in aggregate(connection, shapes):
            runner.run(statement)
        make_views(connection, shapes, champion is None, self._codes)
        tables = summary_tables(connection)
        rule_table = rule_statistics(connection, shapes, by_merchant=False)
        flip_count = connection.execute(
            "SELECT coalesce(sum(transactions), 0) FROM cube_ WHERE champion <> candidate AND champion < 3"
        ).fetchall()[0]
        lister = FlipLister(connection, FlipExplainer(shapes, self.data, list_history, self._as_of_us()))
        flips = list_flips(lister, self.options.flip_limit)
        decided = connection.execute("SELECT count(*), min(at_us), max(at_us) FROM decided").fetchall()[0]
        ablated = self._ablate(engine, planner, shapes, list_history) if self.options.ablation else []
        return ReplayResult(
            summary=ReplaySummary(
                transactions=decided[0],
                rejected=self.history.rejected,
                skipped=self.history.transactions - decided[0],
                flips=int(flip_count[0]),
                merchants=len(sides),
                first_us=decided[1],
                last_us=decided[2],
                candidate=candidate.name,
                champion=RECORDED if champion is None else champion.name,
                lists=self.options.lists,
                engine=self.options.engine,
                data=self.data.dates,
                elapsed_s=time.perf_counter() - started,
                skipped_merchants=skipped,
                parameters=self.options.described(),
                disagreements=lister.disagreements,
            ),
            matrix=tables["matrix"],
            by_merchant=tables["by_merchant"],
            by_label=tables["by_label"],
            by_day=tables["by_day"],
            rules=rule_table,
            rules_by_merchant=rule_statistics(connection, shapes, by_merchant=True),
            flips=flips,
            silenced=silenced_table(shapes, rule_table, self.history.columns),
            absent=absent_table(connection, shapes, self.history.columns, self.history.files),
            revisions=self._revisions(sides, candidate, champion),
            rejects=self.history.rejects_table(),
            rejects_file=self.history.rejects_file,
            extra={table.name: table for table in ablated},
            explain_flips=lister.batches,
            connection=connection,
            work=self.work,
        )

    def _revisions(
        self, merchants: Iterable[str], candidate: RuleSource, champion: RuleSource | None
    ) -> ReplayTable:
        rows = [
            {
                "merchant": merchant,
                "transactions": self._counts[merchant][0],
                "champion": None if champion is None else champion.rule_sets[merchant].revision,
                "candidate": candidate.rule_sets[merchant].revision,
            }
            for merchant in merchants
        ]
        schema = pa.schema(
            [
                *(("merchant", pa.string()), ("transactions", pa.int64())),
                *(("champion", pa.string()), ("candidate", pa.string())),
            ]
        )
        return ReplayTable("revisions", pa.Table.from_pylist(rows, schema=schema), "the rule sets that decided")

    # ---- merchants --------------------------------------------------------------------------------

    def _count(self, connection: Any) -> dict[str, tuple[int, int, int]]:
        """For each merchant of the history: transactions, first and last instant. Notes its words on the way."""
        label = "coalesce(label, 'none')" if "label" in self.history.columns else "'none'"
        rows = connection.execute(
            f"SELECT merchant, currency, {label}, count(*), min(at_us), max(at_us) FROM history GROUP BY ALL"
        ).fetchall()
        found: dict[str, tuple[int, int, int]] = {}
        currencies: Counter[str] = Counter()
        labels: Counter[str] = Counter()
        self._currencies: dict[str, set[str]] = {}
        for merchant, currency, word, count, first_us, last_us in rows:
            self._currencies.setdefault(merchant, set()).add(currency)
            before = found.get(merchant, (0, first_us, last_us))
            found[merchant] = (before[0] + count, min(before[1], first_us), max(before[2], last_us))
            currencies[currency] += count
            labels[word] += count
        self._codes = Codes(by_frequency(currencies), by_frequency(labels))
        return found

    def _make_sides(
        self,
        counts: Mapping[str, tuple[int, int, int]],
        candidate: RuleSource,
        champion: RuleSource | None,
        list_history: ListHistory,
    ) -> tuple[dict[str, tuple[Side | None, Side]], tuple[str, ...]]:
        self._counts = counts
        wanted = self.options.merchants
        if wanted is not None:
            for name in sorted(wanted - candidate.rule_sets.keys()):
                raise UnknownMerchant(name, hint=_hint_of_merchants(name, candidate.rule_sets))
        sides: dict[str, tuple[Side | None, Side]] = {}
        skipped = []
        for merchant in sorted(counts):
            if wanted is not None and merchant not in wanted:
                continue
            proposed = candidate.rule_sets.get(merchant)
            present = champion.rule_sets.get(merchant) if champion is not None else None
            if proposed is None or (champion is not None and present is None):
                skipped.append(merchant)
                continue
            sides[merchant] = (
                None if present is None else self._side(present, merchant, list_history),
                self._side(proposed, merchant, list_history),
            )
        return sides, tuple(skipped)

    def _side(self, rule_set: RuleSet, merchant: str, list_history: ListHistory) -> Side:
        awake, guards = list_history.woken(rule_set, merchant)
        return make_side(awake, list_history.keys_of(awake, merchant), guards)

    def _why_nothing(self, counts: Mapping[str, object], candidate: RuleSource) -> str:
        if not counts:
            return "there is no transaction in the history"
        held, known = ", ".join(sorted(counts)[:5]), ", ".join(sorted(candidate.rule_sets)[:5])
        return f"no transaction is of a merchant that has rules: the history has {held}; the rules have {known}"

    # ---- queries ----------------------------------------------------------------------------------

    def _as_of_us(self) -> int | None:
        return time.time_ns() // 1000 if self.options.lists == "now" else None

    def _make_known(self, connection: Any, shapes: Sequence[Shape]) -> None:
        self._numbers = {name: number for number, name in enumerate(sorted(self._counts))}
        tables = rule_tables(shapes)
        tables["merchants"] = pa.table(
            {"merchant": list(self._numbers), "merchant_no": pa.array(self._numbers.values(), pa.int32())}
        )
        members = [(shape.number, merchant) for shape in shapes for merchant in shape.members]
        tables["shape_members"] = pa.table(
            {"shape": pa.array([row[0] for row in members], pa.int32()), "merchant": [row[1] for row in members]}
        )
        for name, table in tables.items():
            connection.register("given_table", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given_table")
            connection.unregister("given_table")

    def _planner(self, engine: Engine, sides: Mapping[str, tuple[Side | None, Side]]) -> Planner:
        history = table_named("history", self._history_schema(engine))
        cache = self._cache()
        forms = [side.form for pair in sides.values() for side in pair if side is not None]
        reads = frozenset().union(*(form.reads for form in forms))
        counted = {fact for form in forms for counter in form.counters for fact in (*counter.per, counter.distinct)}
        found: dict[str, Expr] = {}
        if "ip_country" in reads | counted and "ip_key" in self.history.columns:
            found["ip_countries"] = self._looked_up(
                engine,
                "ip_countries",
                partial(address_countries, dialect=engine.dialect),
                history,
                ip_ranges_file(self.data, cache),
            )
        if "card_bin" in self.history.columns:
            found["bin_infos"] = self._looked_up(
                engine, "bin_infos", bin_infos, history, bin_ranges_file(self.data, cache)
            )
        maps = self._map_values(engine, forms, history)
        first = min((entry[1] for entry in self._counts.values()), default=0)
        last = max((entry[2] for entry in self._counts.values()), default=0)
        span = HistorySpan(first, last, self.options.since_us, self.options.until_us)
        lookups = LookupTables(found.get("ip_countries"), found.get("bin_infos"), maps)
        currencies = {
            self._numbers[merchant]: frozenset(map(self._codes.currencies.index, held))
            for merchant, held in self._currencies.items()
        }
        reports = self._reports(engine, history)
        replayed = ReplayedHistory(
            history, lookups, span, reports, engine.dialect, self._numbers, self._codes, currencies
        )
        return Planner(replayed, self._as_of_us())

    def _looked_up(
        self, engine: Engine, name: str, look_up: Callable[[Expr, Expr], Expr], history: Expr, ranges: Path
    ) -> Expr:
        """What the ranges of a data file say of every distinct value of the history, stored under `name`."""
        engine.add_parquet(f"{name}_ranges", [ranges])
        query = look_up(history, table_named(f"{name}_ranges", pq.read_schema(ranges)))
        engine.store(name, query)
        return table_named(name, query.schema().to_pyarrow())

    def _history_schema(self, engine: Engine) -> pa.Schema:
        return engine.connection.sql("SELECT * FROM history LIMIT 0").to_arrow_table().schema

    def _cache(self) -> Path:
        """Where ranges made from data files are kept: the state directory, else only for this run."""
        cache = self.config.state / "replay-cache"
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            if os.access(cache, os.W_OK):
                return cache
        return self.work

    def _map_values(self, engine: Engine, forms: Sequence[Form], history: Expr) -> dict[str, Expr]:
        """For facts made by a function of one value: each distinct value and what it comes to."""
        functions: dict[str, Callable[[str], str | None]] = {}
        for form in forms:
            if "phone_country" in form.reads:
                functions["phone_country"] = phone_country
            for key, kind in form.metadata:
                if kind is FactType.COUNTRY:
                    functions[METADATA_PREFIX + key] = read_country
        maps = {}
        for number, (fact, function) in enumerate(sorted(functions.items())):
            source = map_source(fact)
            if source not in self.history.columns:
                continue
            distinct = engine.fetch(history.select(value=history[source]).distinct())
            values = [value for value in distinct["value"].to_pylist() if value is not None]
            table = pa.table(
                {
                    "value": pa.array(values, pa.string()),
                    "mapped": pa.array([function(v) for v in values], pa.string()),
                }
            )
            engine.add_tables({f"map_{number}": table})
            maps[fact] = table_named(f"map_{number}", table.schema)
        return maps

    def _reports(self, engine: Engine, history: Expr) -> Expr | None:
        """What the gateway reported of payments, as far as velocity counters ask; None when there is nothing."""
        if not {"label", "labelled_seq"} <= self.history.columns:
            return None
        said = history.filter(
            history["label"].isin(["declined", "technical_failure"]) & history["labelled_seq"].notnull()
        )
        found = engine.connection.execute(
            "SELECT 1 FROM history WHERE label IN ('declined', 'technical_failure')"
            " AND labelled_seq IS NOT NULL LIMIT 1"
        ).fetchall()
        if not found:
            return None
        return said.select(
            sequence=said["labelled_seq"] * 2 + 1,
            merchant=said["merchant"],
            transaction_id=said["transaction_id"],
            kind=said["label"],
        )

    def _decide(self, engine: Engine, planner: Planner, shapes: Sequence[Shape], compared: bool) -> None:
        plans = []
        for shape in shapes:
            members = [(merchant, self._numbers[merchant]) for merchant in shape.members]
            plans.append(planner.plan(shape.number, members, _side_plans(shape, compared), self._slices(shape)))
        create_decided(engine.connection, shapes, [name for plan in plans for name in plan.counters])
        whole, done = max(sum(len(plan.slices) for plan in plans), 1), 0
        for plan in plans:
            engine.add_tables(plan.tables)
            for name, query in plan.stored.items():
                engine.store(name, query)
            for part in plan.slices:
                for name, query in part.stored.items():
                    engine.store(name, query)
                engine.decide(part.decided, (done / whole, (done + 1) / whole))
                done += 1
                for name in part.stored:
                    engine.drop(name)
            for name in plan.stored:
                engine.drop(name)

    def _ablate(
        self, engine: Engine, planner: Planner, shapes: Sequence[Shape], list_history: ListHistory
    ) -> list[ReplayTable]:
        engine.phase = "ablation"
        return Ablation(
            engine,
            planner,
            shapes,
            self._slices,
            lambda shape: _side_plans(shape, compared=False)[0],
            self._numbers,
            self._codes,
            list_history,
            self._as_of_us(),
        ).tables()

    def _slices(self, shape: Shape) -> list[list[int]]:
        """The merchants of a shape in groups of about SLICE_ROWS transactions, those of most transactions first."""
        slices: list[list[int]] = []
        rows = SLICE_ROWS
        for merchant in sorted(shape.members, key=lambda name: (-self._counts[name][0], name)):
            count = self._counts[merchant][0]
            if rows + count > SLICE_ROWS:
                slices.append([])
                rows = 0
            slices[-1].append(self._numbers[merchant])
            rows += count
        return slices


def _hint_of_merchants(name: str, known: Iterable[str]) -> str:
    held = sorted(known)
    more = f" and {len(held) - MERCHANTS_NAMED:,} more" if len(held) > MERCHANTS_NAMED else ""
    meant = suggest(name, held)
    there_are = f"there are rules for {', '.join(held[:MERCHANTS_NAMED])}{more}: name one of them, or none for all"
    return f"{meant} {there_are}" if meant else there_are


def by_frequency(counted: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(counted, key=lambda word: (-counted[word], word)))


def _side_plans(shape: Shape, compared: bool) -> list[SidePlan]:
    plans = []
    for name, place in ((CHAMPION, 0), (CANDIDATE, 1)):
        if place == 0 and not compared:
            continue
        members = {merchant: pair[place] for merchant, pair in shape.members.items()}
        held = {merchant: side for merchant, side in members.items() if side is not None}
        form = next(iter(held.values())).form
        plans.append(
            SidePlan(
                name,
                form.decided_by,
                form.timezone,
                dict(form.metadata),
                form.counters,
                form.reads,
                {merchant: side.operands for merchant, side in held.items()},
                {merchant: side.lists for merchant, side in held.items()},
                dict(form.guards),
            )
        )
    return plans


__all__ = ["RECORDED", "NothingToReplay", "ReplayOptions", "ReplayTable", "replay"]
