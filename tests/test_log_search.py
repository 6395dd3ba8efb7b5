"""Search of the decision log: the same answers with an index, behind one, and without."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fraudengine import log_search, search_index
from fraudengine.access import AccessKeys, Role
from fraudengine.audit import AuditLog
from fraudengine.config import Config
from fraudengine.decision_log import DecisionLog, ScreeningRecord
from fraudengine.environment import environment_of
from fraudengine.log_search import LogSearch, Search
from fraudengine.search_index import FILE, SETTLED_US, Indexing, SearchIndex

from .command_line import fraudengine_here, run
from .running import running_service, wait_until

START_US = 1_795_000_000_000_000
STEP_US = 250_000
COUNT = 1_400
MERCHANTS = ("carthage-market", "sahara-travel", "medina-topup")


def record_number(log: DecisionLog, number: int) -> ScreeningRecord:
    chance = random.Random(number)
    merchant = MERCHANTS[0] if chance.random() < 0.7 else chance.choice(MERCHANTS)
    outcome, code = chance.choices(
        (("accept", "NO_RULE_MATCHED"), ("refuse", "IP_COUNTRY_BLOCKED"), ("challenge", "AMOUNT_NEEDS_3DS")),
        (90, 7, 3),
    )[0]
    if number == 1_134:
        outcome, code = "refuse", "CARD_BLACKLISTED"
    transaction = {"merchant": merchant, "order_ref": f"C-{number % 700}"}
    return ScreeningRecord(
        id=log.next_id(),
        merchant=merchant,
        transaction_id=f"T-{number}",
        request_digest=number.to_bytes(16, "little"),
        at_us=START_US + number * STEP_US,
        answered_us=START_US + number * STEP_US,
        card_identity=f"fp_0123ab_{'a' * 28}{''.join(chr(97 + int(d)) for d in f'{number % 400:04d}')}",
        currency="TND",
        minor=1_000 + number,
        outcome=outcome,
        code=code,
        revision="r1",
        document=json.dumps({"transaction": transaction}, separators=(",", ":")).encode(),
    )


def append_all(log: DecisionLog, now: list[int], numbers: range) -> None:
    async def append() -> None:
        futures = []
        for number in numbers:
            now[0] = START_US + number * STEP_US
            futures.append(log.append(record_number(log, number)))
        await asyncio.gather(*futures)

    asyncio.run(append())


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("searched")
    now = [START_US]
    with DecisionLog.open(made / "decisions.db", clock=lambda: now[0]) as log:
        append_all(log, now, range(COUNT))
    return made


@pytest.fixture(scope="module", autouse=True)
def small_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_index, "ROWS", (40, 160, 640))
        patch.setattr(search_index, "FAN", 4)
        yield


@pytest.fixture(scope="module", params=["no index", "behind", "all"])
def indexed(request: pytest.FixtureRequest, state: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("indexed")
    shutil.copy(state / "decisions.db", made)
    if request.param != "no index":
        reached = START_US + (COUNT if request.param == "all" else 900) * STEP_US
        index = SearchIndex.claim(made, lambda: reached + SETTLED_US + 1_000)
        assert index is not None
        with index:
            while index.step(2):
                pass
    return made


CARD = f"fp_0123ab_{'a' * 28}aabh"
SEARCHES = {
    "everything": Search(),
    "merchant": Search(merchant="sahara-travel"),
    "transaction": Search(transaction_id="T-77"),
    "transaction-of-a-merchant": Search(merchant="carthage-market", transaction_id="T-78"),
    "order": Search(order_ref="C-12"),
    "card": Search(card=CARD),
    "card-of-a-merchant": Search(card=CARD, merchant="carthage-market"),
    "rare-code": Search(code="CARD_BLACKLISTED"),
    "code-of-a-merchant": Search(code="IP_COUNTRY_BLOCKED", merchant="medina-topup"),
    "common-code": Search(code="NO_RULE_MATCHED"),
    "outcome": Search(outcome="challenge"),
    "outcome-of-a-merchant": Search(outcome="refuse", merchant="sahara-travel"),
    "accepted": Search(outcome="accept", merchant="sahara-travel"),
    "times": Search(since_us=START_US + 100 * STEP_US, until_us=START_US + 200 * STEP_US),
    "times-and-outcome": Search(
        outcome="refuse", since_us=START_US + 100 * STEP_US, until_us=START_US + 1_200 * STEP_US
    ),
    "nobody": Search(merchant="nobody"),
    "absent": Search(card="fp_0123ab_" + "p" * 32),
}


def expected(state: Path, search: Search) -> list[str]:
    """The law: every row of the log, tested one by one."""
    with sqlite3.connect(state / "decisions.db") as connection:
        rows = connection.execute(
            "SELECT m.name, transaction_id, card_identity, outcome, code, answered_us, document"
            " FROM screenings s JOIN merchants m ON m.id = s.merchant_id ORDER BY s.id DESC"
        ).fetchall()
    return [
        row[1]
        for row in rows
        if search.merchant in (None, row[0])
        and search.transaction_id in (None, row[1])
        and search.card in (None, row[2])
        and search.outcome in (None, row[3])
        and search.code in (None, row[4])
        and (search.since_us is None or row[5] >= search.since_us)
        and (search.until_us is None or row[5] < search.until_us)
        and search.order_ref in (None, json.loads(row[6])["transaction"]["order_ref"])
    ]


def every_page(state: Path, search: Search, limit: int) -> list[str]:
    found: list[str] = []
    with LogSearch(state) as reader:
        before: int | None = None
        for _ in range(10_000):
            asked = replace(search, before=before)
            page = reader.find(asked, limit)
            found += [one.transaction_id for one in page.found]
            assert len(page.found) <= limit
            if page.next is None:
                return found
            assert before is None or page.next < before, "a page must lead further back"
            before = page.next
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
def test_every_search_finds_what_reading_the_whole_log_finds(indexed: Path, search: Search) -> None:
    for limit in (17, 1_000):
        assert every_page(indexed, search, limit) == expected(indexed, search)


def test_runs_are_merged_and_rows_that_came_late_are_found(tmp_path: Path) -> None:
    now = [START_US]
    with DecisionLog.open(tmp_path / "decisions.db", clock=lambda: now[0]) as log:
        late = record_number(log, 1_399)
        append_all(log, now, range(700))
        index = SearchIndex.claim(tmp_path, lambda: START_US + 700 * STEP_US + SETTLED_US)
        assert index is not None
        with index:
            assert index.step() == 40
            log.append_and_wait(late)
            assert SearchIndex.claim(tmp_path) is None, "one process indexes at a time"
            while index.step():
                pass
    with sqlite3.connect(tmp_path / FILE) as connection:
        levels = [row[0] for row in connection.execute("SELECT level FROM runs ORDER BY first_id")]
    assert levels == sorted(levels, reverse=True)
    assert 2 in levels
    assert every_page(tmp_path, Search(transaction_id="T-1399"), 10) == ["T-1399"]


class Ended(BaseException):
    """As abrupt as a kill: nothing of the index's own is done about it."""


def test_an_index_that_is_cut_off_in_any_part_misleads_nobody_and_is_tidied(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "PART", 64)
    shutil.copy(state / "decisions.db", tmp_path)
    searches = [SEARCHES[name] for name in ("card", "order", "rare-code", "outcome-of-a-merchant")]
    should = [expected(tmp_path, search) for search in searches]
    lives, left = 0, -1

    def end_in_time(_seconds: float) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Ended

    while left < 0:
        lives += 1
        left = lives  # parts: each life is a little longer, so that it ends in another part
        index = SearchIndex.claim(tmp_path, rest=end_in_time)
        assert index is not None
        with index, suppress(Ended):
            while index.step(largest=lives % 3):
                pass
        if lives % 10 == 0:
            assert [every_page(tmp_path, search, 7) for search in searches] == should
    assert lives > 10
    assert [every_page(tmp_path, search, 7) for search in searches] == should
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        listed = connection.execute("SELECT run FROM runs ORDER BY run").fetchall()
        assert connection.execute("SELECT DISTINCT run FROM postings ORDER BY run").fetchall() == listed
        assert connection.execute("SELECT sum(screenings) FROM runs").fetchone()[0] >= COUNT - 40
        levels = [row[0] for row in connection.execute("SELECT level FROM runs ORDER BY first_id")]
        assert levels == sorted(levels, reverse=True), "runs that are merged lie side by side"


def test_the_wal_of_the_index_stays_small_whatever_is_merged_or_dropped(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "PART", 64)
    shutil.copy(state / "decisions.db", tmp_path)
    wal = tmp_path / f"{FILE}-wal"
    largest = 0

    def measure(_seconds: float) -> None:
        nonlocal largest
        largest = max(largest, wal.stat().st_size)

    index = SearchIndex.claim(tmp_path, lambda: START_US + 1_300 * STEP_US + SETTLED_US, measure)
    assert index is not None
    with index:
        while index.step():
            pass
        made = (tmp_path / FILE).stat().st_size
        assert re.findall(rb"tT-\d+", (tmp_path / FILE).read_bytes())
        with closing(sqlite3.connect(tmp_path / "decisions.db")) as connection:
            connection.execute("DELETE FROM screenings WHERE id < (SELECT max(id) FROM screenings)")
            connection.commit()
        while index.step():
            pass
        assert not re.findall(rb"tT-\d+", (tmp_path / FILE).read_bytes()), "what is purged is overwritten"
        index.empty()
    assert largest < made / 3, "no part is as large as the run that it is of"


def test_what_is_purged_from_the_middle_of_a_run_leaves_the_index_once_the_purge_is_over(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "TRIM_AFTER_S", 0.2)
    shutil.copy(state / "decisions.db", tmp_path)
    index = SearchIndex.claim(tmp_path, lambda: START_US + 1_300 * STEP_US + SETTLED_US)
    assert index is not None
    with index, closing(sqlite3.connect(tmp_path / "decisions.db")) as log:
        while index.step():
            pass
        before = log.execute("SELECT id FROM screenings ORDER BY id").fetchall()
        with closing(sqlite3.connect(tmp_path / FILE)) as found:
            run, last, held = found.execute("SELECT run, last_id, screenings FROM runs ORDER BY run").fetchone()
        gone = held // 2
        assert held > 100
        log.execute("DELETE FROM screenings WHERE id < ?", before[gone])
        log.commit()
        assert index.step() == 0, "not while a purge may be under way"
        time.sleep(0.25)
        assert index.step() == held - gone
        assert index.step() == 0, "once"
        with closing(sqlite3.connect(tmp_path / FILE)) as found:
            assert found.execute("SELECT count(*) FROM postings WHERE id < ?", before[gone]).fetchone() == (0,)
            kept = found.execute("SELECT first_id, screenings FROM runs WHERE last_id = ?", (last,)).fetchone()
            assert kept == (before[gone][0], held - gone)
            assert found.execute("SELECT count(*) FROM runs WHERE run = ?", (run,)).fetchone() == (0,)
    held_bytes = (tmp_path / FILE).read_bytes()
    assert not [number for number in range(gone) if re.search(rb"tT-%d(?![0-9])" % number, held_bytes)]
    for search in SEARCHES.values():
        assert every_page(tmp_path, search, 17) == expected(tmp_path, search)


def test_payments_are_written_while_the_index_works(state: Path) -> None:
    """At any instant of indexing, merging and checkpoints somebody else can take the log's write lock at once."""
    (state / FILE).unlink(missing_ok=True)
    taken = 0
    with closing(sqlite3.connect(state / "decisions.db", isolation_level=None, timeout=0)) as other:

        def write() -> int:
            nonlocal taken
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
            taken += 1
            return 0

        index = SearchIndex.claim(state)
        assert index is not None
        with index:
            index._connection.set_progress_handler(write, 500)
            steps = 0
            while index.step():
                steps += 1
            index.empty()
    (state / FILE).unlink()
    assert steps > 30
    assert taken > 100


def test_a_service_that_stops_does_not_wait_for_a_long_step(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def step(index: SearchIndex, largest: int = 0) -> int:
        began.set()
        sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        return int(index._connection.execute(sql).fetchone()[0])  # without end

    monkeypatch.setattr(SearchIndex, "step", step)
    with Indexing(state, pause_s=0.01) as indexing:
        assert began.wait(30)
    assert indexing.problem is None
    (state / FILE).unlink()
    index = SearchIndex.claim(state)
    assert index is not None, "the index is free again"
    index.close()
    (state / FILE).unlink()


def test_a_damaged_index_is_told_of_and_the_log_is_read_instead(state: Path) -> None:
    (state / FILE).write_bytes(b"garbage" * 5_000)
    try:
        assert every_page(state, SEARCHES["rare-code"], 10) == ["T-1134"]
        damaged = run("log", "index", "--state", state)
        assert (damaged.code, "the file is damaged: delete it, it is made again" in damaged.err) == (3, True)
        assert "restore" not in damaged.err
        with Indexing(state, pause_s=0.01) as indexing:
            wait_until(lambda: indexing.problem is not None, "the damage is told")
            assert "delete it, it is made again" in (indexing.problem or "")
            (state / FILE).unlink()
            wait_until(lambda: indexing.problem is None and (state / FILE).exists(), "it is made again")
    finally:
        (state / FILE).unlink()


def test_a_search_for_what_is_absent_is_bounded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call looks at a bounded number of rows and says how far back it got; the next goes on there."""
    monkeypatch.setattr(log_search, "EXAMINED", 300)
    absent = Search(outcome="accept", code="CARD_BLACKLISTED")
    with LogSearch(state) as reader:
        page, calls = reader.find(replace(absent), 10), 1
        while page.next is not None:
            assert not page.found
            page, calls = reader.find(replace(absent, before=page.next), 10), calls + 1
    assert COUNT // 600 <= calls <= COUNT // 250


# ---- over HTTP and from the command line ------------------------------------------------------------


def test_a_search_over_http_is_scoped_paged_and_takes_no_card_number(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        made = [service.screen(transaction_id=f"T-{number}", order_ref=f"C-{number}").json() for number in range(5)]
        service.screen(merchant="sahara-travel", transaction_id="T-0", currency="EUR", amount="10.00")
        first = service.client.get("/v1/screenings", params={"merchant": "carthage-market", "limit": 3}).json()
        assert [one["transaction_id"] for one in first["screenings"]] == ["T-4", "T-3", "T-2"]
        following = {"merchant": "carthage-market", "limit": 3, "before": first["next"]}
        second = service.client.get("/v1/screenings", params=following).json()
        assert [one["screening_id"] for one in second["screenings"]] == [
            made[1]["screening_id"],
            made[0]["screening_id"],
        ]
        assert second["next"] is None
        whole = service.client.get(f"/v1/screenings/{made[0]['screening_id']}").json()
        card = whole["transaction"]["card"]["fingerprint"]
        for asked, count in (
            ({"order_ref": "C-3"}, 1),
            ({"card": card}, 6),
            ({"card": card, "merchant": "sahara-travel"}, 1),
            ({"transaction_id": "T-0"}, 2),
            ({"since": "2099-01-01"}, 0),
            ({"code": made[0]["reason"]["code"], "outcome": made[0]["decision"], "merchant": "carthage-market"}, 5),
        ):
            found = service.client.get("/v1/screenings", params=asked).json()
            assert len(found["screenings"]) == count, asked
        for wrong in ("card=4111111111111111", "order_ref=4111111111111111", "since=x", "before=x", "limit=0"):
            refused = service.client.get(f"/v1/screenings?{wrong}")
            assert refused.status_code == 422, wrong
            assert "4111111111111111" not in refused.text
        twice = service.client.get("/v1/screenings?merchant=carthage-market&merchant=sahara-travel")
        assert twice.status_code == 422

        with AuditLog(service.state) as audit:
            environment = environment_of(Config(state=service.state))
            with AccessKeys(service.state, environment, audit) as keys:
                key, _ = keys.create("s", Role.SUPPORT, by="tests", merchants=("sahara-travel",))
        scoped = {"authorization": f"Bearer {key}"}
        for params, status in (
            ({"merchant": "sahara-travel"}, 200),
            ({"merchant": "carthage-market"}, 403),
            ({}, 403),
        ):
            assert service.client.get("/v1/screenings", params=params, headers=scoped).status_code == status

        state = {"FRAUDENGINE_STATE": str(service.state), "FRAUDENGINE_DEVELOPMENT": "1"}
        by_card = fraudengine_here("log", "search", "--card", "-", stdin="4111 1111 1111 1111\n", **state)
        assert by_card.stdout.count("scr_") == 6
        told = fraudengine_here("log", "search", "--order", "C-3", "--format", "json", **state)
        assert json.loads(told.stdout)["transaction_id"] == "T-3"
        argument = fraudengine_here("log", "search", "--card", "4111111111111111", **state)
        assert argument.returncode == 2
        assert "4111111111111111" not in argument.stdout + argument.stderr


def test_the_index_is_made_anew_by_command(state: Path) -> None:
    try:
        assert run("log", "index", "--state", state).code == 0
        with sqlite3.connect(state / FILE) as connection:
            before = connection.execute("SELECT count(*) FROM postings").fetchone()[0]
        ran = run("log", "index", "--rebuild", "--state", state)
        assert (ran.code, before > COUNT) == (0, True)
        with sqlite3.connect(state / FILE) as connection:
            assert connection.execute("SELECT count(*) FROM postings").fetchone()[0] == before
    finally:
        (state / FILE).unlink()
    assert run("log", "index", "--state", state / "nowhere").code == 3
