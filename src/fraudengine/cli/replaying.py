"""`fraudengine replay`: what would these rules have done? And `fraudengine generate`: a history to try it on."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from ..cards import hide_pans
from .budgeting import NAMED, budget_annotations, budget_object, budget_text
from .options import Problem, configuration, data_option, state_option
from .replay_words import ablation_lines, breakdown, rule_lines

if TYPE_CHECKING:
    from ..replay.budget import Budget
    from ..replay.budget_check import BudgetReport
    from ..replay.result import ReplayResult

_MOMENT = click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])
_OUTCOMES: Final = ("accept", "challenge", "refuse")


@click.command()
@click.argument("history", nargs=-1, type=click.Path(path_type=Path))
@click.option("--rules", help="Rule directory or git revision that is tried out (default: rules).")
@click.option(
    "--against",
    default="recorded",
    show_default=True,
    help="What it is compared with: a rule directory, a git revision, or `recorded`: the answers in the history.",
)
@click.option("--merchant", "merchants", multiple=True, help="Only this merchant; may be given again.")
@click.option("--since", type=_MOMENT, help="Only transactions from this UTC time on.")
@click.option("--until", type=_MOMENT, help="Only transactions before this UTC time.")
@click.option(
    "--lists",
    type=click.Choice(["as-of", "now"]),
    default="as-of",
    show_default=True,
    help="Judge each transaction by the list entries of its own time, or by those of now.",
)
@click.option(
    "--engine",
    default="duckdb",
    show_default=True,
    help="Where it runs: duckdb, local-spark, or a Spark master such as spark://host:7077.",
)
@click.option("--memory-limit", help="Most memory that is used, such as 4GB; what does not fit goes to disk.")
@click.option("--threads", type=click.IntRange(1), help="Processor threads (default: all).")
@click.option("--mapping", help="Mapping file, or the name of one in data/mappings: which column is what.")
@click.option("--merchant-name", help="The merchant of rows that name none.")
@click.option("--rejects", type=click.Path(path_type=Path), help="Where rows that are no transactions are listed.")
@click.option(
    "--keep-history",
    type=click.Path(path_type=Path),
    help="Keep what was read as Parquet, to replay it again fast.",
)
@click.option("--flips", "flip_limit", type=click.IntRange(0), default=200, help="How many flips are explained.")
@click.option(
    "--ablation",
    is_flag=True,
    help="Say of every rule and list entry what it alone caught, whom it alone refused, and what covers it.",
)
@click.option(
    "--budget",
    "budget_file",
    type=click.Path(path_type=Path),
    help="YAML file of what may change at most; exit with 1 when a bound is broken.",
)
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the result as one HTML file to FILE."
)
@click.option(
    "--export",
    "export_directory",
    type=click.Path(path_type=Path),
    help="Write every table, and every flip with its conditions, as files into this new directory.",
)
@click.option(
    "--export-format",
    type=click.Choice(["csv", "xlsx", "parquet", "json"]),
    default="csv",
    show_default=True,
    help="The form of --export: a file for each table, or one workbook.",
)
@click.option(
    "--guess-mapping",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a first mapping for FILE to standard output, saying how sure it is, and stop.",
)
@state_option
@data_option
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "github"]),
    default=None,
    help="How the result is written; github adds annotations of broken bounds. [env: FRAUDENGINE_FORMAT]",
)
def replay(
    history: tuple[Path, ...],
    rules: str | None,
    against: str,
    merchants: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    lists: Literal["as-of", "now"],
    engine: str,
    memory_limit: str | None,
    threads: int | None,
    mapping: str | None,
    merchant_name: str | None,
    rejects: Path | None,
    keep_history: Path | None,
    flip_limit: int,
    ablation: bool,
    budget_file: Path | None,
    report: Path | None,
    export_directory: Path | None,
    export_format: str,
    guess_mapping: Path | None,
    state: Path | None,
    data_directory: Path | None,
    output: str | None,
) -> None:
    """Decide the transactions of HISTORY again, by other rules, and say what would have been different.

    HISTORY is a decision log (var/decisions.db), a file of `fraudengine generate`, or CSV, Parquet, JSON lines,
    XLSX or the gateway's order statuses with --mapping.
    """
    require_extra()
    if guess_mapping is not None:
        click.echo(_guess(guess_mapping), nl=False)
        return
    if not history:
        raise Problem("name a history to replay", 2)
    form = output or configuration().format
    config = configuration(state=state, data=data_directory, format="text" if form == "github" else form)
    from ..replay.engine import replay as run
    from ..replay.engines import EngineUnavailable
    from ..replay.rule_sources import NoSuchRules

    budget = _read_budget(budget_file)
    if export_directory is not None:
        _check_export(export_directory)
    bar = ProgressBar()
    try:
        result = run(
            history,
            rules if rules is not None else config.rules,
            against,
            merchants=merchants or None,
            since_us=_us(since),
            until_us=_us(until),
            lists=lists,
            engine=engine,
            memory_limit=memory_limit,
            threads=threads,
            mapping=mapping,
            merchant=merchant_name,
            rejects=rejects or Path(f"{history[0].stem}.rejects.csv"),
            keep_history=keep_history,
            flip_limit=flip_limit,
            ablation=ablation,
            config=config,
            progress=bar.show,
            counted=partial(_expect, bar),
        )
    except NoSuchRules as error:
        raise Problem(str(error), 2) from None
    except EngineUnavailable as error:
        raise Problem(str(error), 3) from None
    finally:
        bar.clear()
    with result:
        kept = None if budget is None else _check(result, budget, form)
        if form == "json":
            click.echo(as_json(result, kept))
        else:
            click.echo(hide_pans(summarise(result)))
        if kept is not None and form != "json":
            click.echo(hide_pans(f"\n{budget_text(kept)}"))
        if kept is not None and form == "github":
            for annotation in budget_annotations(kept):
                click.echo(hide_pans(annotation))
        if report is not None:
            from ..replay.report import write_report

            write_report(result, report)
            click.echo(f"fraudengine: the report is in {report}", err=True)
        if export_directory is not None:
            _export(result, export_directory, export_format, bar)
        if result.rejects_file is not None:
            click.echo(
                f"fraudengine: {result.summary.rejected:,} rows are listed in {result.rejects_file}", err=True
            )
        if result.summary.disagreements:
            raise Problem(
                f"the reference backend decides {result.summary.disagreements} of the listed flips otherwise: "
                "this is a fault of fraudengine; do not rely on these figures",
                3,
            )
        if kept is not None and not kept.holds:
            sys.exit(1)


def _read_budget(path: Path | None) -> Budget | None:
    """The budget, before anything is replayed."""
    if path is None:
        return None
    from ..replay.budget import load_budget

    if not path.is_file():
        raise Problem(f"there is no budget {path}", 2)
    return load_budget(path)


def _check_export(directory: Path) -> None:
    """Before anything is replayed: a directory that is taken is no use afterwards."""
    from ..replay.exports import ExportRefused, check_export_directory

    try:
        check_export_directory(directory)
    except ExportRefused as error:
        raise Problem(str(error), 2) from None


def _export(result: ReplayResult, directory: Path, form: str, bar: ProgressBar) -> None:
    from ..replay.exports import export

    bar.expect("exporting flips", result.summary.flips)
    try:
        written = export(result, directory, form, bar.show)
    finally:
        bar.clear()
    click.echo(f"fraudengine: {len(written)} tables are in {directory}", err=True)


def _check(result: ReplayResult, budget: Budget, form: str) -> BudgetReport:
    from ..replay.budget_check import check_budget

    return check_budget(result, budget, NAMED if form == "text" else None)


def require_extra() -> None:
    missing = [name for name in ("duckdb", "ibis", "pyarrow") if find_spec(name) is None]
    if missing:
        raise Problem("replay needs the extra: pip install 'fraudengine[replay]'", 3)


def _guess(path: Path) -> str:
    from ..replay.guess import guess_mapping

    if not path.exists():
        raise Problem(f"there is no file {path}", 2)
    return guess_mapping(path)


def _expect(bar: ProgressBar, transactions: int) -> None:
    for phase in ("deciding", "ablation"):
        bar.expect(phase, transactions)


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1_000_000)


# ---- progress -------------------------------------------------------------------------------------


class ProgressBar:
    """One line on standard error with rate and time left; nothing unless that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._began: dict[str, float] = {}
        self._rows: dict[str, int] = {}
        self._length = 0

    def expect(self, phase: str, rows: int) -> None:
        """How many rows the whole of a phase is: its rate is shown from then on."""
        self._rows[phase] = rows

    def show(self, phase: str, fraction: float) -> None:
        """What is being done, and how much of it."""
        if not self._shown:
            return
        name = phase.partition(":")[0]
        elapsed = time.monotonic() - self._began.setdefault(name, time.monotonic())
        text = phase
        if fraction > 0:
            filled = int(24 * min(fraction, 1.0))
            left = elapsed / fraction - elapsed
            text = f"{phase} [{'#' * filled}{'.' * (24 - filled)}] {fraction:4.0%}, {left:,.0f} s left"
            if name in self._rows and elapsed > 0:
                text += f", {self._rows[name] * fraction / elapsed:,.0f} rows/s"
        sys.stderr.write("\r" + text.ljust(self._length))
        sys.stderr.flush()
        self._length = len(text)

    def clear(self) -> None:
        if self._length:
            sys.stderr.write("\r" + " " * self._length + "\r")
            sys.stderr.flush()


# ---- the summary ----------------------------------------------------------------------------------


def summarise(result: ReplayResult) -> str:
    """The result in one screen."""
    summary = result.summary
    rate = summary.transactions / max(summary.elapsed_s, 1e-9)
    lines = [
        f"{summary.transactions:,} transactions of {summary.merchants} merchants, {_day(summary.first_us)} to "
        f"{_day(summary.last_us)}, in {summary.elapsed_s:.1f} s ({rate:,.0f}/s, {summary.engine})",
        f"champion {summary.champion}, candidate {summary.candidate}, lists {summary.lists}",
    ]
    if summary.rejected:
        lines.append(f"{summary.rejected:,} rows rejected")
    if summary.skipped:
        who = f": no rules for {', '.join(summary.skipped_merchants[:5])}" if summary.skipped_merchants else ""
        lines.append(f"{summary.skipped:,} transactions left out{who}")
    lines += ["", *_matrix(result), ""]
    lines += [f"{summary.flips:,} decided otherwise", ""]
    lines += breakdown(result)
    lines += rule_lines(result)
    lines += ablation_lines(result)
    lines += _silenced(result)
    return "\n".join(lines).rstrip()


def _day(us: int | None) -> str:
    return "" if us is None else f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d}"


def _matrix(result: ReplayResult) -> list[str]:
    counted = {(row["champion"], row["candidate"]): row["transactions"] for row in result.outcomes().rows()}
    sides = [side for side in (*_OUTCOMES, "unrecorded") if any(pair[0] == side for pair in counted)]
    lines = ["champion \\ candidate" + "".join(f"{word:>14}" for word in _OUTCOMES)]
    for side in sides:
        lines.append(f"{side:<20}" + "".join(f"{counted.get((side, word), 0):>14,}" for word in _OUTCOMES))
    return lines


def _silenced(result: ReplayResult) -> list[str]:
    lines = [
        f"  {row['fact']}: unknown in {row['transactions']:,} transactions; read by {', '.join(row['rules'])}"
        for row in result.absent.rows()
        if not row["known"]
    ]
    if lines:
        lines.insert(0, "\nfacts that the history never gives, so that rules could not be judged by them:")
    return lines


def as_json(result: ReplayResult, kept: BudgetReport | None = None) -> str:
    """Every table and the summary as one JSON object, and how the budget was kept; no card number is in it."""
    import json
    from dataclasses import asdict

    from ..replay.exports import hide_in

    tables = {name: table.rows() for name, table in result.tables.items()}
    kept_object = {} if kept is None else {"budget": budget_object(kept)}
    whole = hide_in({"summary": asdict(result.summary), **tables, **kept_object})
    return json.dumps(whole, default=str, indent=2)


MOST_MADE_UP = 1_000_000_000


# ---- generate -------------------------------------------------------------------------------------


@click.command()
@click.option(
    "--transactions", type=click.IntRange(1, MOST_MADE_UP), required=True, help="How many screenings to make up."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The Parquet file to write.")
@click.option("--seed", type=int, default=1, show_default=True, help="Equal seeds give equal histories.")
@click.option("--days", type=click.IntRange(1, 1000), default=90, show_default=True, help="Days that it covers.")
@state_option
@data_option
def generate(
    transactions: int, out: Path, seed: int, days: int, state: Path | None, data_directory: Path | None
) -> None:
    """Make up a realistic history of the sample merchants, to try rules and replays on."""
    require_extra()
    config = configuration(state=state, data=data_directory)
    from ..assembly import open_data
    from ..replay import generate as generator
    from ..replay.population import read_real_tables

    bar = ProgressBar()
    bar.expect("generating", transactions)
    cache = config.state / "replay-cache"
    try:
        tables = read_real_tables(open_data(config), cache)
        generator.generate(
            transactions,
            out,
            tables,
            seed=seed,
            days=days,
            progress=lambda done: bar.show("generating", done / transactions),
        )
    finally:
        bar.clear()
    click.echo(f"{hide_pans(str(out))}: {transactions:,} screenings, {out.stat().st_size / 1e6:.1f} MB")


COMMANDS: list[click.Command] = [replay, generate]
