"""How the search index is made: in runs and parts, cut off anywhere, behind payments, without what was purged."""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from fraudengine import search_index
from fraudengine.decision_log import DecisionLog
from fraudengine.log_search import Search
from fraudengine.search_index import FILE, SETTLED_US, Indexing, SearchIndex

from .command_line import run
from .running import wait_until
from .searched_log import (
    COUNT,
    SEARCHES,
    START_US,
    STEP_US,
    append_all,
    every_page,
    expected,
    make_log,
    record_number,
    with_small_runs,
)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_log(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module", autouse=True)
def small_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        with_small_runs(patch)
        yield


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


def test_a_log_of_which_nothing_is_left_leaves_nothing_in_the_index(state: Path, tmp_path: Path) -> None:
    shutil.copy(state / "decisions.db", tmp_path)
    index = SearchIndex.claim(tmp_path)
    assert index is not None
    with index, closing(sqlite3.connect(tmp_path / "decisions.db")) as log:
        while index.step():
            pass
        log.execute("DELETE FROM screenings")
        log.commit()
        while index.step():
            pass
    assert not re.search(rb"tT-[0-9]", (tmp_path / FILE).read_bytes())


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
