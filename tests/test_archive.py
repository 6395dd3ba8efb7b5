"""Old months leave the log for Parquet: nothing is lost at any step, and everything that reads finds them."""

from __future__ import annotations

import asyncio
import builtins
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fraudengine.archive import DAY_US, KEPT_DAYS, archive_month, old_months
from fraudengine.archive_reading import Row, archive_files, find_archived, month_of, rows_of_file
from fraudengine.audit import AuditLog
from fraudengine.config import Config
from fraudengine.decision_log import DecisionLog
from fraudengine.diagnostics import ConfigurationError, StoreUnavailable
from fraudengine.doctor import Verdict, examine
from fraudengine.log_reader import LogReader
from fraudengine.replay.row_sources import format_of, rows_of
from fraudengine.retention import purge
from fraudengine.store import screening_id_text

from .command_line import run
from .running import REPOSITORY, running_service
from .searched_log import record_number

JANUARY = int(datetime(2026, 1, 10, tzinfo=UTC).timestamp()) * 1_000_000
NOW_US = int(datetime(2026, 11, 26, tzinfo=UTC).timestamp()) * 1_000_000
MONTHS = ("2026-01", "2026-02", "2026-11")
PER_MONTH = 130


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("months")
    now = [JANUARY]

    async def append(log: DecisionLog) -> None:
        futures = []
        for place, at in enumerate((JANUARY, JANUARY + 31 * DAY_US, NOW_US - DAY_US)):
            now[0] = at
            futures += [log.append(record_number(log, place * PER_MONTH + n)) for n in range(PER_MONTH)]
        await asyncio.gather(*futures)

    with DecisionLog.open(state / "decisions.db", clock=lambda: now[0]) as log:
        asyncio.run(append(log))
        for screening_id, at_us in log.recorded.read("SELECT id, at_us FROM screenings ORDER BY id DESC")[::40]:
            log.record_outcome(screening_id, "authorised", "", at_us)
            log.record_outcome(screening_id, "chargeback", "10.4", at_us + DAY_US)
    return state


@pytest.fixture
def state(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "var")
    return tmp_path / "var"


def rows_of_log(state: Path) -> dict[int, tuple[Any, ...]]:
    with closing(sqlite3.connect(state / "decisions.db")) as connection:
        return {row[0]: row for row in connection.execute("SELECT * FROM screenings")}


def outcomes_of_log(state: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(state / "decisions.db")) as connection:
        return connection.execute("SELECT screening_id, id, at_us, kind, code FROM outcomes ORDER BY id").fetchall()


def archived(state: Path) -> dict[int, Row]:
    return {row["id"]: row for path in archive_files(state) for batch in rows_of_file(path) for row in batch}


def test_a_month_is_in_its_file_and_no_longer_in_the_log(state: Path) -> None:
    before, reports = rows_of_log(state), outcomes_of_log(state)
    assert old_months(state, KEPT_DAYS, NOW_US) == ["2026-01", "2026-02"]
    with AuditLog(state) as audit:
        done = [archive_month(state, month, audit) for month in ("2026-01", "2026-02")]
        told = [row.what["screenings"] for row in audit.rows(action="log.archive")]
    assert [(one.written, one.deleted, one.left) for one in done] == [(PER_MONTH, PER_MONTH, 0)] * 2
    assert told == [PER_MONTH, PER_MONTH]
    kept, moved = rows_of_log(state), archived(state)
    assert kept.keys() | moved.keys() == before.keys()
    assert not kept.keys() & moved.keys()
    for screening_id, row in moved.items():
        assert (row["transaction_hash"], row["request_hash"]) == before[screening_id][1:3]
        assert (row["document"], row["transaction_id"]) == (before[screening_id][-1], before[screening_id][-3])
        assert row["merchant"] in row["document"].decode()
    found = [
        (screening_id, one["id"], one["at_us"], one["kind"], one["code"])
        for screening_id, row in moved.items()
        for one in row["outcomes"]
    ]
    assert sorted(found + outcomes_of_log(state), key=lambda one: one[1]) == reports
    for path in archive_files(state):
        assert path.stat().st_mode & 0o777 == 0o600
        assert pq.ParquetFile(path).metadata.row_group(0).column(13).compression == "ZSTD"
    with AuditLog(state) as audit:
        again = archive_month(state, "2026-01", audit)
    assert (again.written, again.deleted, len(again.files)) == (0, 0, 1)
    with closing(sqlite3.connect(state / "decisions.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA freelist_count").fetchone()[0] > 0


STEPS = [("written", 2), ("synced", 1), ("verified", 1), ("named", 1), ("told", 1), ("deleted", 1), ("deleted", 4)]


@pytest.mark.parametrize(("step", "nth"), STEPS, ids=[f"{step}-{nth}" for step, nth in STEPS])
def test_a_kill_at_any_step_loses_nothing_and_the_next_call_goes_on(state: Path, step: str, nth: int) -> None:
    before, reports = rows_of_log(state), outcomes_of_log(state)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.archive_worker", str(state), "2026-01", step, str(nth)],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept, moved = rows_of_log(state), archived(state)
    assert kept.keys() | moved.keys() == before.keys(), "every screening is in the log or in a whole file"
    assert all(kept[screening_id] == before[screening_id] for screening_id in kept)
    with AuditLog(state) as audit:
        done = archive_month(state, "2026-01", audit)
    assert done.left == 0
    assert len(done.files) == 1
    assert len(archived(state)) == PER_MONTH
    assert len(rows_of_log(state)) == 2 * PER_MONTH
    assert sum(len(row["outcomes"]) for row in archived(state).values()) + len(outcomes_of_log(state)) == len(
        reports
    )
    assert not list((state / "archive").glob(".*")), "no draft is left"


def test_what_was_reported_after_the_file_was_made_stays_until_it_is_in_a_file(state: Path) -> None:
    reported = min(rows_of_log(state)) + 1

    def step(name: str) -> None:
        if name == "named":
            with DecisionLog.open(state / "decisions.db") as log:
                assert log.record_outcome(reported, "fraud", "", NOW_US)

    with AuditLog(state) as audit:
        first = archive_month(state, "2026-01", audit, step)
        assert (first.deleted, first.left) == (PER_MONTH - 1, 1)
        second = archive_month(state, "2026-01", audit)
    assert (second.written, second.left, len(second.files)) == (1, 0, 2)
    row = find_archived(state, reported)
    assert row is not None
    assert row["outcomes"][-1]["kind"] == "fraud", "the newest file of a month is asked first"


def test_months_that_counters_reach_are_refused(state: Path) -> None:
    with pytest.raises(ConfigurationError, match="counters reach 90 days"):
        old_months(state, KEPT_DAYS - 1, NOW_US)
    assert run("log", "archive", "--older-than", "92", "--state", state).code == 2
    with AuditLog(state) as audit, closing(sqlite3.connect(state / "decisions.db")) as connection:
        connection.execute(
            "INSERT INTO velocity_series (series, merchant, upto_id, filled_id) VALUES ('x', '', 9, 1)"
        )
        connection.commit()
        with pytest.raises(StoreUnavailable, match="still being filled"):
            archive_month(state, "2026-01", audit)
        connection.execute("DELETE FROM velocity_series")
        connection.execute("ALTER TABLE screenings ADD COLUMN later TEXT")
        connection.commit()
        with pytest.raises(StoreUnavailable, match="an archive would lose"):
            archive_month(state, "2026-01", audit)
    assert len(rows_of_log(state)) == 3 * PER_MONTH


def test_a_damaged_file_deletes_nothing(state: Path) -> None:
    def step(name: str) -> None:
        if name == "named":
            (path,) = archive_files(state)
            content = bytearray(path.read_bytes())
            content[200:260] = b"x" * 60
            path.write_bytes(content)

    with AuditLog(state) as audit, pytest.raises(StoreUnavailable, match="cannot be read"):
        archive_month(state, "2026-01", audit, step)
    assert len(rows_of_log(state)) == 3 * PER_MONTH


def test_the_doctor_reads_the_archive(state: Path) -> None:
    def said() -> list[tuple[Verdict, str]]:
        return [(one.verdict, one.text) for one in examine(Config(state=state)) if one.check == "archive"]

    assert said() == [(Verdict.WELL, "no month is archived")]
    with AuditLog(state) as audit:
        for month in ("2026-01", "2026-02"):
            archive_month(state, month, audit)
    names = "screenings-2026-01.parquet to screenings-2026-02.parquet"
    assert said() == [(Verdict.WELL, f"{2 * PER_MONTH} screenings in 2 of 2 files, {names}")]
    path = archive_files(state)[1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (wrong, text), well = said()
    assert wrong is Verdict.WRONG
    assert text.startswith(f"{path} cannot be read")
    assert text.endswith("bring a copy of it back")
    assert well == (Verdict.WELL, f"{PER_MONTH} screenings in 1 of 2 files, {names}")
    archive_files(state)[0].write_bytes(b"garbage")
    assert [verdict for verdict, _ in said()] == [Verdict.WRONG] * 2


def test_without_pyarrow_it_says_what_to_install(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AuditLog(state) as audit:
        archive_month(state, "2026-01", audit)
        real = builtins.__import__

        def no_pyarrow(name: str, *rest: Any, **named: Any) -> Any:
            if name.startswith("pyarrow"):
                raise ImportError(name)
            return real(name, *rest, **named)

        monkeypatch.setattr(builtins, "__import__", no_pyarrow)
        with pytest.raises(ConfigurationError, match=r"fraudengine\[replay\]"):
            archive_month(state, "2026-02", audit)
        (said,) = [one for one in examine(Config(state=state)) if one.check == "archive"]
        assert said.verdict is Verdict.WARNING
        assert "screenings-2026-01.parquet are refused: archives need the extra: pip install" in said.text


def test_the_payment_path_and_the_commands_load_without_pyarrow() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = sys.modules['pandas'] = None;"
        "import fraudengine.serve, fraudengine.cli.running, fraudengine.cli.log, fraudengine.cli.explaining"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_replay_reads_a_month_as_it_reads_the_log(state: Path) -> None:
    before = [row for _, row in rows_of(state / "decisions.db", "log", None)]  # type: ignore[arg-type]
    with AuditLog(state) as audit:
        archive_month(state, "2026-01", audit)
    (path,) = archive_files(state)
    assert format_of(path) == "log"
    after = [row for _, row in rows_of(path, "log", None)]  # type: ignore[arg-type]
    after += [row for _, row in rows_of(state / "decisions.db", "log", None)]  # type: ignore[arg-type]
    assert after == before


def test_retention_deletes_whole_months_and_says_so_in_the_audit_log(state: Path) -> None:
    with AuditLog(state) as audit:
        archive_month(state, "2026-01", audit)
        pretended = purge(state, 120, audit, NOW_US, pretend=True)
        assert (pretended.files, pretended.screenings) == (("screenings-2026-01.parquet",), PER_MONTH)
        assert len(archive_files(state)) == 1
        assert purge(state, 120, audit, NOW_US) == pretended
        told = [row.what for row in audit.rows(action="log.purge")]
        with pytest.raises(ConfigurationError):
            purge(state, 30, audit, NOW_US)
    assert {one.get("file") or one.get("month") for one in told} == {"screenings-2026-01.parquet", "2026-02"}
    assert not archive_files(state)
    assert {month_of(screening_id) for screening_id in rows_of_log(state)} == {"2026-11"}
    assert run("log", "purge", "--state", state).code == 2
    assert run("log", "purge", "--state", state, "--older-than", "120").code == 0


def test_an_archived_screening_is_found_over_http_and_explained(tmp_path: Path) -> None:
    """The service goes on while its old months leave; what left is answered from its file, to whom it may be."""
    with running_service(tmp_path) as service:
        answer = service.screen(transaction_id="old").json()
        old_id = screening_id_text((1_700_000_000_000 << 21) + 5)
        with closing(sqlite3.connect(service.state / "decisions.db")) as connection:
            number = connection.execute("SELECT max(id) FROM screenings").fetchone()[0]
            connection.execute("UPDATE screenings SET id = ? WHERE id = ?", ((1_700_000_000_000 << 21) + 5, number))
            connection.commit()
        recorded = service.client.get(f"/v1/screenings/{old_id}").json()
        state = str(service.state)
        ran = run("log", "archive", "--state", state)
        assert ran.code == 0, ran.err
        assert "2023-11: 1 screenings written, 1 taken out of the log" in ran.out
        assert service.client.get(f"/v1/screenings/{old_id}").json() == recorded
        explained = service.client.get(f"/v1/screenings/{old_id}?explain=true").json()
        assert explained["explanation"]
        told = run("explain", old_id, "--state", state, "--rules", service.rules)
        assert (told.code, "carthage-market" in told.out) == (0, True), told.err
        assert f"record altered: 1\n  {old_id}" in run("verify", "--state", state).out, "it has another id since"
        made = run(
            "keys", "create", "s2", "--role", "support", "--merchant", "sahara-travel", "--state", state,
            "--format", "json",
        )  # fmt: skip
        scoped = {"authorization": f"Bearer {json.loads(made.out)['key']}"}
        assert service.client.get(f"/v1/screenings/{old_id}", headers=scoped).status_code == 404
        assert service.client.get(f"/v1/screenings/{answer['screening_id']}").status_code == 404
        assert service.screen(transaction_id="new").status_code == 200
    with LogReader(service.state / "decisions.db") as reader:
        assert reader.count(0, None, None) == 1
