"""`fraudengine verify`: whether the decision log still says what its rules and facts come to."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..archive_reading import DIRECTORY, files_in, load_pyarrow, names_of
from ..archived_log import WholeLog
from ..config import Config
from ..diagnostics import ConfigurationError
from ..environment import environment_of
from ..log_reader import LogReader
from ..verify import EXAMPLES, Cause, Revisions, VerifyReport, verify_log
from .options import Problem, configuration, data_option, format_option, state_option
from .replaying import ProgressBar, require_extra

if TYPE_CHECKING:
    from ..replay.recompute import Recomputation
    from ..verify import Drift

_MOMENT = click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])


@click.command()
@click.option("--since", type=_MOMENT, help="Only screenings answered from this UTC time on.")
@click.option("--until", type=_MOMENT, help="Only screenings answered before this UTC time.")
@click.option("--merchant", metavar="NAME", help="Only this merchant's.")
@click.option(
    "--recompute",
    is_flag=True,
    help="Derive the facts again too, by the tables of now, the lists of then and the log itself.",
)
@click.option(
    "--archive",
    "archive",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory of archived months (default: `archive` in the state directory).",
)
@state_option
@data_option
@format_option
def verify(
    since: datetime | None,
    until: datetime | None,
    merchant: str | None,
    recompute: bool,
    archive: Path | None,
    state: Path | None,
    data_directory: Path | None,
    output: str | None,
) -> None:
    """Derive recorded decisions again from their facts and rules; every one must come out as answered.

    Those of archived months too: reading them needs the extra `replay`.

    Exit code 1 when anything drifts. Answers that no rule made (ENGINE_FAILURE, and TEST_CARD in the environment
    test) are counted apart.
    """
    config = configuration(state=state, data=data_directory, format=output)
    since_us, until_us = _us(since) or 0, _us(until)
    if until_us is not None and until_us <= since_us:
        raise Problem("--until is not after --since", 2)
    if archive is not None and not files_in(archive):
        raise Problem(f"{archive} holds no archived month (screenings-YYYY-MM.parquet)", 2)
    files = files_in(archive or config.state / DIRECTORY)
    if files and archive is None and not _can_read_archives():
        click.echo(f"fraudengine: archived screenings are not looked at ({names_of(files)}): {_EXTRA}", err=True)
        files = []
    found = _run(config, since_us, until_us, merchant, recompute, files)
    if config.format == "json":
        click.echo(json.dumps(_as_object(found), indent=2, ensure_ascii=False))
    else:
        click.echo(_as_text(found))
    if files and files_in(files[0].parent) != files:
        click.echo("fraudengine: a month was archived meanwhile: call again to look at all of it", err=True)
    if found.drifted:
        sys.exit(1)


_EXTRA = "that needs the extra: pip install 'fraudengine[replay]'"


def _can_read_archives() -> bool:
    try:
        load_pyarrow()
    except ConfigurationError:
        return False
    return True


def _run(
    config: Config,
    since_us: int,
    until_us: int | None,
    merchant: str | None,
    recompute: bool,
    archived: Sequence[Path],
) -> VerifyReport:
    bar = ProgressBar()
    path = config.state / "decisions.db"
    with WholeLog(path, archived[0].parent) if archived else LogReader(path) as log:
        whole = log.count(since_us, until_us, merchant)
        bar.expect("verifying", whole)
        further = _recomputation(config, log) if recompute else None
        try:
            return verify_log(
                log,
                since_us,
                until_us,
                merchant,
                is_test=environment_of(config) == "test",
                further=further,
                read_from_us=None if further is None else max(since_us - further.reach_us, 0),
                limit=None if config.format == "json" else EXAMPLES,
                progress=lambda done: bar.show("verifying", done / max(whole, 1)),
            )
        finally:
            bar.clear()


def _recomputation(config: Config, log: LogReader) -> Recomputation:
    require_extra()
    from ..assembly import open_data
    from ..replay.list_history import ListHistory
    from ..replay.recompute import recompute

    lists = ListHistory.read(config.state / "lists.db")
    return recompute(log, open_data(config), lists, Revisions(log).linked())


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1_000_000)


def _as_text(found: VerifyReport) -> str:
    lines = [f"{found.screenings:,} screenings: {found.verified:,} come out as answered, {found.drifted:,} drift"]
    lines += [f"{count:,} not made by rules: {code}" for code, count in sorted(found.apart.items())]
    for cause in Cause:
        if not found.causes[cause]:
            continue
        lines.append(f"\n{cause}: {found.causes[cause]:,}")
        shown = [drift for drift in found.drifts if drift.cause is cause]
        lines += [f"  {_line(drift)}" for drift in shown]
        if found.causes[cause] > len(shown):
            lines.append(f"  and {found.causes[cause] - len(shown):,} more, all of them with --format json")
    return "\n".join(lines)


def _line(drift: Drift) -> str:
    now = f"; now {drift.now}" if drift.now is not None else ""
    return f"{drift.screening_id}  {drift.merchant}  {_at(drift.at_us)}  {drift.answered}: {drift.detail}{now}"


def _at(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _as_object(found: VerifyReport) -> dict[str, object]:
    return {
        "screenings": found.screenings,
        "verified": found.verified,
        "drifted": found.drifted,
        "apart": dict(sorted(found.apart.items())),
        "causes": {cause.value: found.causes[cause] for cause in Cause if found.causes[cause]},
        "drifts": [
            {
                "screening_id": drift.screening_id,
                "merchant": drift.merchant,
                "at": _at(drift.at_us),
                "cause": drift.cause.value,
                "detail": drift.detail,
                "answered": drift.answered,
                "now": drift.now,
            }
            for drift in found.drifts
        ],
    }


COMMANDS: list[click.Command] = [verify]
