"""What operators do: back up while it serves, restore, upgrade from the release before, ask the doctor."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fraudengine import store
from fraudengine.backup import MANIFEST, back_up, restore
from fraudengine.config import Config
from fraudengine.decision_log import DecisionLog
from fraudengine.diagnostics import StoreUnavailable
from fraudengine.doctor import CHECKS, Verdict, examine

from .command_line import fraudengine_here
from .running import REPOSITORY, Service, running_service

FIRST_RELEASE = Path(__file__).parent / "fixtures" / "state-first-release"
CARD_KEY = "5c" * 32
PAN = "4111111111111111"


# ---- backup -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"FRAUDENGINE_DEVELOPMENT": "0", "FRAUDENGINE_CARD_KEY": CARD_KEY}
    with running_service(tmp_path_factory.mktemp("operated"), settings) as running:
        yield running


def test_a_backup_made_under_load_is_whole_and_can_be_served_from(service: Service, tmp_path: Path) -> None:
    """Every screening that was answered before the backup began is in it, and is answered from what is restored."""
    answered: list[tuple[str, str, bytes]] = []
    stop = threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            answer = service.screen(transaction_id=f"load-{number}", amount="50.000")
            assert answer.status_code == 200
            answered.append((f"load-{number}", answer.json()["screening_id"], answer.content))
            number += 1

    worker = threading.Thread(target=load)
    worker.start()
    try:
        while len(answered) < 30:
            pass
        before = len(answered)
        arguments = ("--state", str(service.state), "--rules", str(service.rules))
        made = fraudengine_here("backup", str(tmp_path / "backups"), *arguments)
        during = len(answered) - before
    finally:
        stop.set()
        worker.join()
    assert made.returncode == 0, made.stderr
    assert during > 0, "the service did not go on while the backup was made"
    (directory,) = (tmp_path / "backups").iterdir()
    assert made.stdout.startswith(str(directory))
    names = {one["name"] for one in json.loads((directory / MANIFEST).read_text())["files"]}
    assert {"decisions.db", "lists.db", "access.db", "audit.db", "environment", "rules/platform.yaml"} <= names
    assert not any(CARD_KEY.encode() in path.read_bytes() for path in directory.rglob("*") if path.is_file())

    again = tmp_path / "again"
    restored = fraudengine_here(
        "restore", str(directory), "--state", str(again / "var"), FRAUDENGINE_CARD_KEY=CARD_KEY
    )
    assert restored.returncode == 0, restored.stderr
    settings = {"FRAUDENGINE_DEVELOPMENT": "0", "FRAUDENGINE_CARD_KEY": CARD_KEY}
    with running_service(again, settings) as second:
        for transaction_id, screening_id, content in answered[:before]:
            assert second.client.get(f"/v1/screenings/{screening_id}").status_code == 200
            assert second.screen(transaction_id=transaction_id, amount="50.000").content == content
        assert second.screen(transaction_id="after", amount="50.000").status_code == 200


@pytest.fixture
def state(tmp_path: Path) -> Path:
    made = tmp_path / "var"
    with DecisionLog.open(made / "decisions.db"):
        pass
    return made


def test_what_cannot_be_backed_up_or_restored_leaves_nothing_behind(state: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nothing to back up"):
        back_up(tmp_path / "nobody", tmp_path / "b")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "decisions.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreUnavailable, match=r"decisions\.db"):
        back_up(damaged, tmp_path / "b")
    assert not list((tmp_path / "b").iterdir())

    made, _ = back_up(state, tmp_path / "b")
    with pytest.raises(StoreUnavailable, match="holds data already"):
        restore(made, state)
    with pytest.raises(StoreUnavailable, match="is no backup"):
        restore(tmp_path, tmp_path / "new")
    with (made / "decisions.db").open("r+b") as file:
        file.seek(2000)
        file.write(b"x")
    with pytest.raises(StoreUnavailable, match="missing or damaged"):
        restore(made, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_two_backups_of_one_second_do_not_mix(state: Path, tmp_path: Path) -> None:
    def now() -> datetime:
        return datetime(2026, 11, 23, 10, 15, tzinfo=UTC)

    made, _ = back_up(state, tmp_path / "b", now=now)
    assert made.name == "2026-11-23T101500Z"
    with pytest.raises(StoreUnavailable, match="wait a second"):
        back_up(state, tmp_path / "b", now=now)
    assert [path.name for path in (tmp_path / "b").iterdir()] == [made.name]


# ---- upgrade ----------------------------------------------------------------------------------------


def test_data_of_the_release_before_serve_on(tmp_path: Path) -> None:
    """The fixture was written by the first release: its answers, its lists and its 3-D Secure step still hold."""
    directory = tmp_path / "upgraded"
    (directory / "var").mkdir(parents=True)
    for name in ("decisions.db", "lists.db"):
        shutil.copy(FIRST_RELEASE / name, directory / "var" / name)
        os.chmod(directory / "var" / name, 0o600)
    answers = [json.loads(line) for line in (FIRST_RELEASE / "answers.jsonl").read_text().splitlines()]
    requests = [json.loads(line) for line in (FIRST_RELEASE / "requests.jsonl").read_text().splitlines()]
    settings = {"FRAUDENGINE_DEVELOPMENT": "0", "FRAUDENGINE_CARD_KEY": CARD_KEY}
    with running_service(directory, settings) as service:
        for sent, answer in zip(requests, answers, strict=True):
            sent["card"]["pan"] = PAN
            assert service.client.post("/v1/screenings", json=sent).json() == answer
            recorded = service.client.get(f"/v1/screenings/{answer['screening_id']}").json()
            assert recorded["answer"] == answer
        shown = service.client.get(f"/v1/screenings/{answers[0]['screening_id']}", params={"explain": "true"})
        assert shown.status_code == 200
        reported = service.client.post(
            f"/v1/screenings/{answers[0]['screening_id']}/outcome", json={"outcome": "fraud"}
        )
        assert reported.status_code == 201
        blacklisted = service.screen(
            transaction_id="new-1",
            at=datetime.now(UTC).isoformat(),  # an older payment would read the lists as of before the entry
            card={"pan": "4242424242424242", "country": "TN"},
        ).json()
        assert (blacklisted["decision"], blacklisted["reason"]["code"]) == ("refuse", "CARD_BLACKLISTED")
        assert service.stop() == 0
    with closing(sqlite3.connect(directory / "var" / "decisions.db")) as database:
        assert database.execute("SELECT count(*) FROM screenings").fetchone()[0] == len(answers) + 1


# ---- doctor -----------------------------------------------------------------------------------------


def verdicts(config: Config) -> dict[str, set[Verdict]]:
    found: dict[str, set[Verdict]] = {}
    for one in examine(config):
        found.setdefault(one.check, set()).add(one.verdict)
    return found


def settings(state: Path, **given: object) -> Config:
    told: dict[str, object] = {"state": state, "rules": REPOSITORY / "rules", "card_key": CARD_KEY, "port": 0}
    told |= given
    return Config.model_validate(told)


def test_the_doctor_finds_nothing_wrong_with_a_service_that_is_well(service: Service) -> None:
    port = int(service.url.rpartition(":")[2])
    config = settings(service.state, rules=service.rules, data=service.data, port=port)
    wrong = [one for one in examine(config) if one.verdict is Verdict.WRONG]
    assert not wrong
    assert set(verdicts(config)) == set(CHECKS)
    (workers,) = [one for one in examine(config) if one.check == "workers"]
    assert workers.text == f"1 of 1 workers serve at 127.0.0.1 port {port}, 0 started anew"
    other = [one for one in examine(settings(service.state, port=port, workers=2)) if one.check == "workers"]
    assert "these settings say 2: restart it" in other[-1].text
    assert other[-1].verdict is Verdict.WARNING


@contextmanager
def closing_at_once(listening: socket.socket) -> Iterator[None]:
    """Something that is no fraudengine: it hangs up on whoever connects."""

    def hang_up() -> None:
        with suppress(OSError):
            while True:
                listening.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    yield
    listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_each_check_can_fail(state: Path, tmp_path: Path) -> None:
    config = settings(state)
    assert Verdict.WRONG not in {verdict for found in verdicts(config).values() for verdict in found}

    os.chmod(state / "decisions.db", 0o644)
    assert Verdict.WRONG in verdicts(config)["permissions"]
    os.chmod(state / "decisions.db", 0o600)

    assert Verdict.WRONG in verdicts(settings(state, card_key=None))["card key"]
    assert Verdict.WRONG in verdicts(settings(state, rules=tmp_path / "none"))["rules"]
    assert Verdict.WRONG in verdicts(settings(state, data=tmp_path / "none"))["data"]
    assert Verdict.WRONG in verdicts(settings(state, ssl_keyfile=tmp_path / "none"))["configuration"]
    assert Verdict.WARNING in verdicts(settings(state, development=True))["configuration"]
    assert Verdict.WARNING in verdicts(settings(state, host="0.0.0.0"))["configuration"]
    assert Verdict.WARNING in verdicts(config)["API keys"]
    assert Verdict.WARNING in verdicts(settings(state, workers=64))["workers"]
    with socket.create_server(("127.0.0.1", 0)) as taken, closing_at_once(taken):
        assert Verdict.WRONG in verdicts(settings(state, port=taken.getsockname()[1]))["workers"]

    with closing(sqlite3.connect(state / "decisions.db", isolation_level=None)) as database:
        database.execute("INSERT INTO merchants VALUES (1, 'm')")
        database.execute("INSERT INTO revisions VALUES (1, 'r', 'm')")
        tomorrow = int((datetime.now(UTC).timestamp() + 86_400) * 1000) << 21
        database.execute(
            "INSERT INTO screenings VALUES (?, 1, 1, 1, 1, 0, 0, 0, 'TND', 'accept', 'X', 't', '', x'')",
            (tomorrow,),
        )
    assert Verdict.WRONG in verdicts(config)["clock"]
    (state / "lists.db").write_bytes(b"garbage" * 1000)
    assert Verdict.WRONG in verdicts(config)["databases"]


def test_the_doctor_on_the_command_line(state: Path) -> None:
    well = fraudengine_here("doctor", "--state", str(state), FRAUDENGINE_CARD_KEY=CARD_KEY)
    assert well.returncode == 0, well.stdout
    assert "card key" in well.stdout
    assert CARD_KEY not in well.stdout + well.stderr
    ill = fraudengine_here("doctor", "--state", str(state), "--format", "json")
    assert ill.returncode == 1
    assert {"verdict": "wrong", "check": "card key"}.items() <= next(
        row for row in json.loads(ill.stdout) if row["check"] == "card key"
    ).items()


def work_of_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Hundreds of instructions that SQLite runs until the file is opened and brought forward."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connect = sqlite3.connect

    def counting(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **named)
        connection.set_progress_handler(count, 100)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", counting)
        store.open_database(path).conn.close()
    return steps


def test_an_upgrade_takes_no_longer_for_a_large_log_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Migrations make tables and read no rows, so a log of any size is brought forward in the same time."""
    work = []
    for rows in (0, 20_000):
        path = tmp_path / f"{rows}.db"
        shutil.copy(FIRST_RELEASE / "decisions.db", path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " INSERT INTO screenings SELECT n.i, n.i, n.i, merchant_id, revision_id, at_us, answered_us, minor,"
                " currency, outcome, code, transaction_id || n.i, card_identity, document"
                " FROM (SELECT * FROM screenings LIMIT 1) JOIN n WHERE ? > 0",
                (rows, rows),
            )
            connection.commit()
        caplog.clear()
        work.append(work_of_opening(path, monkeypatch))
        assert f"bringing {path}" in caplog.text
        caplog.clear()
        work_of_opening(path, monkeypatch)
        assert not caplog.text, "once"
    assert work[1] <= work[0] + 20, work
