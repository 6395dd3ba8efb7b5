"""What is asked of archived screenings is answered: searches, and outcomes that come months later."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fraudengine.archive import archive_month
from fraudengine.archive_reading import archive_files, archived_before_us, ids_of_month
from fraudengine.archive_search import find_payments
from fraudengine.audit import AuditLog
from fraudengine.backup import back_up, restore
from fraudengine.decision_log import DecisionLog
from fraudengine.diagnostics import StoreUnavailable
from fraudengine.replay.row_sources import rows_of
from fraudengine.retention import purge
from fraudengine.store import parse_screening_id, screening_id_text

from .command_line import fraudengine_here, run
from .running import Service, running_service
from .test_archive import JANUARY, NOW_US, PER_MONTH
from .test_archive import made as made
from .test_archive import state as state

FAR_BACK = 1_700_000_000_000 << 21  # 2023-11
DAY_US = 86_400_000_000


# ---- searches ---------------------------------------------------------------------------------------

CARD = f"fp_0123ab_{'a' * 28}{''.join(chr(97 + int(d)) for d in '0131')}"
SEARCHES: list[tuple[str, ...]] = [
    (),
    ("--limit", "300"),
    ("--limit", "135"),
    ("--merchant", "sahara-travel"),
    ("--merchant", "carthage-market", "--limit", "1000"),
    ("--merchant", "carthage-market", "--transaction", "T-3"),
    ("--transaction", "T-140"),
    ("--order", "C-7"),
    ("--card", CARD),
    ("--outcome", "refuse", "--limit", "1000"),
    ("--outcome", "challenge", "--merchant", "medina-topup"),
    ("--code", "AMOUNT_NEEDS_3DS"),
    ("--since", "2026-01-01", "--until", "2026-02-01", "--limit", "7"),
    ("--since", "2026-02-01", "--limit", "1000"),
    ("--until", "2026-02-02", "--outcome", "refuse"),
    ("--merchant", "nobody"),
]


@pytest.mark.parametrize("asked", SEARCHES, ids=" ".join)
def test_a_search_finds_what_it_found_before_months_were_archived(state: Path, asked: tuple[str, ...]) -> None:
    before = run("log", "search", "--state", state, "--format", "json", *asked)
    with AuditLog(state) as audit:
        for month in ("2026-01", "2026-02"):
            archive_month(state, month, audit)
    after = run("log", "search", "--state", state, "--format", "json", *asked)
    assert after == before
    if found := [json.loads(line) for line in after.out.splitlines()]:
        on = run(
            "log",
            "search",
            "--state",
            state,
            "--format",
            "json",
            *asked,
            "--before",
            found[2 % len(found)]["screening_id"],
        )
        assert on.out.splitlines()[:3] == [json.dumps(one) for one in found[2 % len(found) + 1 :]][:3]


def test_months_in_two_files_and_in_the_log_are_merged(state: Path) -> None:
    """What changed while the month was archived is in the log, and then in a second file."""
    asked = ("log", "search", "--state", state, "--format", "json", "--limit", "1000")
    before = run(*asked)
    with DecisionLog.open(state / "decisions.db") as log, AuditLog(state) as audit:
        found = log.recorded.read(
            "SELECT id FROM screenings WHERE id < ? ORDER BY id DESC", (ids_of_month("2026-01")[1],)
        )
        ids = [screening_id for (screening_id,) in found]

        def step(name: str) -> None:
            if name == "named":
                for screening_id in ids[::9]:
                    log.record_outcome(screening_id, "fraud", "", NOW_US)

        archive_month(state, "2026-01", audit, step)
        assert run(*asked) == before
        archive_month(state, "2026-01", audit)
    assert len(archive_files(state)) == 2
    assert run(*asked) == before


def test_archived_payments_are_found_by_id_and_by_transaction(state: Path) -> None:
    with closing(sqlite3.connect(state / "decisions.db")) as log:
        rows = log.execute(
            "SELECT s.id, m.name, s.transaction_id, s.currency, s.minor FROM screenings s"
            " JOIN merchants m ON m.id = s.merchant_id ORDER BY s.id"
        ).fetchall()
    with AuditLog(state) as audit:
        for month in ("2026-01", "2026-02"):
            archive_month(state, month, audit)
    by_id, by_transaction = rows[5], rows[PER_MONTH + 5]
    kept = rows[2 * PER_MONTH]  # in the log
    found = find_payments(state, {by_id[0], kept[0], 7}, {by_transaction[1:3], kept[1:3], ("nobody", "T-1")})
    assert [(one.id, one.merchant, one.transaction_id, one.currency, one.minor) for one in found] == [
        by_id,
        by_transaction,
    ]
    assert next(find_payments(state, {by_id[0]}, ())).id == by_id[0]
    assert list(find_payments(state, (), ())) == []
    assert archived_before_us(state) == JANUARY - 9 * DAY_US + 59 * DAY_US  # the first of March


# ---- outcomes ---------------------------------------------------------------------------------------


@dataclass
class Archived:
    """A running service, and three of its screenings that are in its archive: ids as texts."""

    service: Service
    ids: tuple[str, ...]


def move_back(state: Path, screening_id: str, to: int) -> str:
    """Gives a screening the id of another time, in its document too."""
    number, text = parse_screening_id(screening_id), screening_id_text(to)
    with closing(sqlite3.connect(state / "decisions.db")) as log:
        (document,) = log.execute("SELECT document FROM screenings WHERE id = ?", (number,)).fetchone()
        moved = document.replace(screening_id.encode(), text.encode())
        log.execute("UPDATE screenings SET id = ?, document = ? WHERE id = ?", (to, moved, number))
        log.commit()
    return text


def archived_in(service: Service) -> Archived:
    ids = []
    for number in range(3):
        answer = service.screen(transaction_id=f"old-{number}").json()
        ids.append(move_back(service.state, answer["screening_id"], FAR_BACK + number))
    service.client.post(f"/v1/screenings/{ids[0]}/outcome", json={"outcome": "authorised"}).raise_for_status()
    ran = run("log", "archive", "--state", service.state)
    assert (ran.code, "3 taken out of the log" in ran.out) == (0, True), ran
    return Archived(service, tuple(ids))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archived]:
    with running_service(tmp_path_factory.mktemp("archived")) as service:
        yield archived_in(service)


def outcomes_of(service: Service, screening_id: str) -> list[tuple[str, str]]:
    given = service.client.get(f"/v1/screenings/{screening_id}/outcomes")
    assert given.status_code == 200, given.text
    return [(one["outcome"], one["code"]) for one in given.json()["outcomes"]]


def labels_of(state: Path) -> dict[str, str]:
    (path,) = archive_files(state)
    rows: list[Mapping[str, Any]] = [row for _, row in rows_of(path, "log", None)]  # type: ignore[misc, arg-type]
    return {row["transaction"]["transaction_id"]: row.get("label", "") for row in rows}


def test_outcomes_of_archived_payments_are_kept_and_are_labels(there: Archived) -> None:
    service, (first, second, third) = there.service, there.ids
    assert outcomes_of(service, first) == [("authorised", "")]
    report = {"outcome": "chargeback", "code": "10.4", "at": "2026-11-20T10:15:00Z"}
    for _ in range(2):
        given = service.client.post(f"/v1/screenings/{first}/outcome", json=report)
        assert (given.status_code, given.json()["outcome"]) == (201, "chargeback")
    again = service.client.post(f"/v1/screenings/{first}/outcome", json={"outcome": "authorised"})
    assert again.status_code == 201
    assert outcomes_of(service, first) == [("authorised", ""), ("chargeback", "10.4")]

    refund = {"outcome": "refunded", "amount": "12.500"}
    assert service.client.post(f"/v1/screenings/{second}/outcome", json=refund).status_code == 201
    too_much = service.client.post(f"/v1/screenings/{second}/outcome", json=refund | {"amount": "50.001"})
    assert too_much.status_code == 422
    assert outcomes_of(service, second) == [("refunded", "part 12.500 TND")]

    table = f"screening_id,merchant,transaction_id,outcome\n{third},,,fraud\n,carthage-market,old-1,chargeback\n"
    for _ in range(2):
        ran = fraudengine_here("outcomes", "import", "-", "--state", str(service.state), stdin=table)
        assert (ran.returncode, ran.stdout) == (0, "2 outcomes taken in\n"), ran.stderr
    assert outcomes_of(service, second)[1:] == [("chargeback", "")]
    assert outcomes_of(service, third) == [("fraud", "")]
    assert labels_of(service.state) == {"old-0": "chargeback", "old-1": "chargeback", "old-2": "fraud"}

    elsewhere = shutil.copytree(service.state, service.state.parent / "copied")  # as a backup is restored
    assert labels_of(elsewhere) == labels_of(service.state)


def test_the_card_of_an_archived_payment_is_blacklisted(there: Archived) -> None:
    service, (first, *_) = there.service, there.ids
    note = {"reason": "chargeback", "ticket": "SUP-2001"}
    added = service.client.post(f"/v1/screenings/{first}/blacklist", json=note)
    assert (added.status_code, added.json()["scope"]) == (201, "carthage-market"), added.text
    try:
        refused = service.screen(transaction_id="after the chargeback", at=None).json()
        assert (refused["decision"], refused["reason"]["code"]) == ("refuse", "CARD_BLACKLISTED")
    finally:
        entry = f"/v1/merchants/carthage-market/lists/blacklist/entries/{added.json()['id']}"
        service.client.delete(entry).raise_for_status()
    assert service.client.post("/v1/screenings/nonsense/blacklist", json=note).status_code == 404


def test_who_may_not_see_an_archived_screening_reports_nothing_of_it(there: Archived) -> None:
    service, (first, *_) = there.service, there.ids
    made = run(
        "keys", "create", "elsewhere", "--role", "gateway", "--merchant", "sahara-travel",
        "--state", service.state, "--format", "json",
    )  # fmt: skip
    headers = {"authorization": f"Bearer {json.loads(made.out)['key']}"}
    before = outcomes_of(service, first)
    supports = run(
        "keys", "create", "elsewhere too", "--role", "support", "--merchant", "sahara-travel",
        "--state", service.state, "--format", "json",
    )  # fmt: skip
    of_support = {"authorization": f"Bearer {json.loads(supports.out)['key']}"}
    for given in (
        service.client.post(f"/v1/screenings/{first}/blacklist", json={}, headers=of_support),
        service.client.post(f"/v1/screenings/{first}/outcome", json={"outcome": "fraud"}, headers=headers),
        service.client.get(f"/v1/screenings/{first}/outcomes", headers=headers),
    ):
        assert (given.status_code, given.json()["type"]) == (404, "/problems/unknown-screening")
    assert outcomes_of(service, first) == before
    nobody = screening_id_text(FAR_BACK + 99)
    assert service.client.post(f"/v1/screenings/{nobody}/outcome", json={"outcome": "fraud"}).status_code == 404
    ran = fraudengine_here(
        "outcomes", "import", "-", "--state", str(service.state), stdin=f"screening_id,outcome\n{nobody},fraud\n"
    )
    assert (ran.returncode, "there is no such screening" in ran.stderr) == (1, True)


def test_a_search_over_http_says_from_when_back_screenings_are_archived(there: Archived) -> None:
    found = there.service.client.get("/v1/screenings").json()
    assert found["archived_before"] == "2023-12-01T00:00:00Z"
    assert not {one["screening_id"] for one in found["screenings"]} & set(there.ids)


def test_a_screening_that_is_archived_while_its_outcome_is_reported(state: Path) -> None:
    """The log held it when it was looked for, and no more when the report is written."""
    with DecisionLog.open(state / "decisions.db") as log, AuditLog(state) as audit:
        ((oldest,),) = log.recorded.read("SELECT min(id) FROM screenings")
        archive_month(state, "2026-01", audit)
        assert not log.record_outcome(oldest, "fraud", "", NOW_US)


def test_late_outcomes_leave_with_their_month(state: Path) -> None:
    with closing(sqlite3.connect(state / "decisions.db")) as log:
        ids = [row[0] for row in log.execute("SELECT id FROM screenings ORDER BY id")]
    with AuditLog(state) as audit:
        for month in ("2026-01", "2026-02"):
            archive_month(state, month, audit)
        table = "screening_id,outcome\n" + "".join(
            f"{screening_id_text(ids[n])},fraud\n" for n in (3, PER_MONTH + 3)
        )
        assert fraudengine_here("outcomes", "import", "-", "--state", str(state), stdin=table).returncode == 0

        def late() -> list[int]:
            with closing(sqlite3.connect(state / "decisions.db")) as log:
                return [row[0] for row in log.execute("SELECT screening_id FROM late_outcomes ORDER BY id")]

        assert late() == [ids[3], ids[PER_MONTH + 3]]
        purge(state, 290, audit, NOW_US)
    assert late() == [ids[PER_MONTH + 3]]


def test_an_archive_may_be_of_a_log_from_before_late_outcomes(state: Path) -> None:
    with AuditLog(state) as audit:
        archive_month(state, "2026-01", audit)
    (path,) = archive_files(state)
    before = [row for _, row in rows_of(path, "log", None)]  # type: ignore[arg-type]
    with closing(sqlite3.connect(state / "decisions.db")) as log:
        log.execute("DROP TABLE late_outcomes")
        log.commit()
    assert [row for _, row in rows_of(path, "log", None)] == before  # type: ignore[arg-type]
    (state / "decisions.db").unlink()
    assert [row for _, row in rows_of(path, "log", None)] == before  # type: ignore[arg-type]


# ---- backups ----------------------------------------------------------------------------------------


def test_a_backup_holds_the_archive_and_restore_brings_it_back(state: Path, tmp_path: Path) -> None:
    """Months of the backup before are linked; one that changed, or whose copy is gone, is copied anew."""
    search = ("log", "search", "--format", "json", "--limit", "1000", "--state")
    expected = run(*search, state).out
    moments = iter(datetime(2026, 11, 23, 10, minute, tzinfo=UTC) for minute in range(60))
    backups = tmp_path / "backups"
    made: list[Path] = []

    def inodes() -> dict[str, int]:
        made.append(back_up(state, backups, now=lambda: next(moments))[0])
        return {path.name: path.stat().st_ino for path in (made[-1] / "archive").glob("*")}

    with AuditLog(state) as audit:
        archive_month(state, "2026-01", audit)
        first = inodes()
        archive_month(state, "2026-02", audit)
    second = inodes()
    january, february = sorted(second)
    assert first == {january: second[january]}
    assert second[january] not in {path.stat().st_ino for path in archive_files(state)}
    assert inodes() == second
    (made[-1] / "archive" / january).unlink()
    third = inodes()
    assert (third[january] != second[january], third[february]) == (True, second[february])
    os.utime(archive_files(state)[1], ns=(1, 1))
    assert inodes()[february] != second[february]

    shutil.rmtree(made[0])  # what is linked stays while one backup has it
    restored = tmp_path / "restored"
    ran = run("restore", made[1], "--state", restored)
    assert (ran.code, f"archive/{january}" in ran.out) == (0, True), ran.err
    assert run(*search, restored).out == expected
    for path, original in zip(archive_files(restored), archive_files(state), strict=True):
        assert path.read_bytes() == original.read_bytes()
        assert (path.stat().st_mode & 0o777, path.stat().st_nlink) == (0o600, 1)
    of_restored, _ = back_up(restored, tmp_path / "of the restored")
    assert len(list((of_restored / "archive").iterdir())) == 2

    again = tmp_path / "again"
    with (made[1] / "archive" / february).open("r+b") as file:
        file.write(b"x")
    with pytest.raises(StoreUnavailable, match="missing or damaged"):
        restore(made[1], again)
    assert not again.exists()
    (again / "archive").mkdir(parents=True)
    shutil.copy(archive_files(state)[0], again / "archive")
    with pytest.raises(StoreUnavailable, match="holds data already"):
        restore(made[-1], again)


# ---- without the extra ------------------------------------------------------------------------------


def test_where_nothing_reads_archives_it_is_said_which_file_and_what_to_install(
    tmp_path: Path, there: Archived
) -> None:
    """An installation for payments alone, with no extra: no answer is a guess, and nothing is refused for good."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text("import sys\nsys.modules['pyarrow'] = None\n")
    shutil.copytree(there.service.state, tmp_path / "s" / "var", ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    path = ":".join([str(tmp_path / "without"), *os.environ.get("PYTHONPATH", "").split(":")])
    with running_service(tmp_path / "s", {"PYTHONPATH": path}) as service:
        first = there.ids[0]
        said = "screenings-2023-11.parquet cannot be read here: archives need the extra: pip install 'fraudengine["
        for given in (
            service.client.get(f"/v1/screenings/{first}"),
            service.client.post(f"/v1/screenings/{first}/blacklist", json={"reason": "x"}),
            service.client.post(f"/v1/screenings/{first}/outcome", json={"outcome": "fraud"}),
            service.client.get(f"/v1/screenings/{first}/outcomes"),
        ):
            assert (given.status_code, said in given.json()["detail"]) == (503, True), given.text
            assert given.json()["type"] == "/problems/archive-unreadable"
            assert "retry-after" in given.headers
        new = screening_id_text(parse_screening_id(service.screen(transaction_id="n").json()["screening_id"]) or 0)
        assert service.client.post(f"/v1/screenings/{new}/outcome", json={"outcome": "fraud"}).status_code == 201
        assert service.client.get("/v1/screenings").json()["archived_before"] == "2023-12-01T00:00:00Z"


def test_a_damaged_archive_is_no_fault_of_the_log(tmp_path: Path, there: Archived) -> None:
    shutil.copytree(there.service.state, tmp_path / "s" / "var", ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    (path,) = archive_files(tmp_path / "s" / "var")
    path.write_bytes(path.read_bytes()[:-20])
    with running_service(tmp_path / "s") as service:
        given = service.client.get(f"/v1/screenings/{there.ids[0]}")
        assert (given.status_code, given.json()["type"]) == (503, "/problems/archive-unreadable")
        assert path.name in given.json()["detail"]
        assert service.client.get("/readyz").json()["ready"]
