"""The decision log on real files: durable before answered, one row per call, failing and healing with the disk."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fraudengine.decision_log import APPENDED, AlreadyRecorded, DecisionLog
from fraudengine.diagnostics import StoreUnavailable
from fraudengine.velocity_index import Registry
from fraudengine.velocity_tail import TailView

from .log_worker import count_recorded, make_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.sqlite"


@pytest.fixture
def log(path: Path) -> Iterator[DecisionLog]:
    with DecisionLog.open(path) as log:
        yield log


def start_worker(what: str, path: Path, argument: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("log_worker.py")), what, str(path), argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def read_rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


# ---- durable before answered ----------------------------------------------------------------------


@pytest.mark.parametrize("run", range(5))
def test_every_answered_screening_survives_kill_9(path: Path, run: int) -> None:
    answered: list[int] = []
    with start_worker("append", path, f"run{run}") as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            answered.append(int(line))
            if len(answered) == random.Random(run).randint(1, 400):
                worker.send_signal(signal.SIGKILL)
                break
        # What it had printed before it died was answered as well; its last line may be cut.
        answered += [int(line) for line in worker.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    with DecisionLog.open(path) as log:
        assert all(log.recorded.get(screening_id) == b"x" * 900 for screening_id in answered)
        assert log.next_id() > max(answered)
    assert read_rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert read_rows(path, "PRAGMA foreign_key_check") == []


def test_row_is_on_disk_for_others_when_the_future_resolves(log: DecisionLog, path: Path) -> None:
    async def append() -> None:
        records = [make_record(log, f"T-{number}") for number in range(100)]
        futures = [log.append(record) for record in records]
        assert await futures[-1] is APPENDED
        assert read_rows(path, "SELECT count(*) FROM screenings") == [(100,)]
        assert await asyncio.gather(*futures) == [APPENDED] * 100

    asyncio.run(append())
    assert (log.rows, log.waiting, log.healthy) == (100, 0, True)
    assert log.batches < 100, "records that wait together are committed together"


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 64, 65, 600])
def test_batches_of_every_size(log: DecisionLog, count: int) -> None:
    async def append() -> list[object]:
        return [*await asyncio.gather(*(log.append(make_record(log, f"T-{number}")) for number in range(count)))]

    assert asyncio.run(append()) == [APPENDED] * count
    assert count_recorded(log) == count


def test_delay_gathers_a_batch(path: Path) -> None:
    async def append(log: DecisionLog) -> None:
        one = log.append(make_record(log, "T-1"))
        await asyncio.sleep(0)
        await asyncio.gather(one, log.append(make_record(log, "T-2")))

    with DecisionLog.open(path, max_delay_us=2_000_000, max_batch=2) as log:
        asyncio.run(append(log))
        assert (log.batches, log.rows) == (1, 2)


def test_close_writes_what_waits(path: Path) -> None:
    async def append(log: DecisionLog) -> None:
        futures = [log.append(make_record(log, f"T-{number}")) for number in range(50)]
        log.close()
        assert await asyncio.gather(*futures) == [APPENDED] * 50

    log = DecisionLog.open(path)
    asyncio.run(append(log))
    with pytest.raises(StoreUnavailable, match="closed"):
        log.append_and_wait(make_record(log, "T-late"))
    log.close()
    assert read_rows(path, "SELECT count(*) FROM screenings") == [(50,)]
    assert not path.with_name(path.name + "-wal").exists()


def test_without_a_loop_from_many_threads(log: DecisionLog) -> None:
    def append(name: str) -> None:
        for number in range(50):
            assert log.append_and_wait(make_record(log, f"{name}-{number}")) is APPENDED

    threads = [threading.Thread(target=append, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count_recorded(log) == 200


# ---- one row per call -----------------------------------------------------------------------------


def test_retried_call_gets_what_was_recorded(log: DecisionLog) -> None:
    first = make_record(log, "T-1", document=b"first")
    again = make_record(log, "T-1", document=b"again")
    assert log.append_and_wait(first) is APPENDED
    assert log.append_and_wait(again) == AlreadyRecorded(first.id, b"first")
    assert log.append_and_wait(make_record(log, "T-1", body="with 3-D Secure")) is APPENDED
    assert log.append_and_wait(make_record(log, "T-1", merchant="other")) is APPENDED
    assert (count_recorded(log), log.rows, log.already_recorded) == (3, 3, 1)


def test_same_call_twice_in_one_batch(log: DecisionLog) -> None:
    async def append() -> None:
        records = [make_record(log, "T-1"), make_record(log, "T-1", document=b"again"), make_record(log, "T-2")]
        futures = [log.append(record) for record in records]
        assert await asyncio.gather(*futures) == [
            APPENDED,
            AlreadyRecorded(records[0].id, records[0].document),
            APPENDED,
        ]

    asyncio.run(append())


def test_two_processes_record_the_same_calls_once(path: Path) -> None:
    DecisionLog.open(path).close()
    workers = [start_worker("calls", path, "300") for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    printed = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        printed.append(sorted(map(int, worker.communicate(timeout=60)[0].split())))
        assert worker.returncode == 0
    recorded = [row[0] for row in read_rows(path, "SELECT id FROM screenings ORDER BY id")]
    assert len(recorded) == 300
    assert printed == [recorded, recorded]
    assert read_rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_earlier_rows_of_this_and_other_processes_and_under_way(log: DecisionLog, path: Path) -> None:
    assert log.find_transaction("carthage-market", "T-1") == ()
    with DecisionLog.open(path) as other:
        elsewhere = make_record(other, "T-1", minor=7)
        other.append_and_wait(elsewhere)

    async def find() -> None:
        record = make_record(log, "T-1", body="second", card_identity="fp_9", currency="EUR")
        future = log.append(record)
        first, second = sorted(log.find_transaction("carthage-market", "T-1"), key=lambda row: row.minor)
        assert (first.id, first.minor, first.pending) == (elsewhere.id, 7, None)
        assert (second.id, second.card_identity, second.currency) == (record.id, "fp_9", "EUR")
        assert second.is_same_request(record.request_digest)
        assert not first.is_same_request(record.request_digest)
        if second.pending is not None:  # the writer may have been quicker
            assert await second.pending.wait() is APPENDED
            assert await second.pending.wait() is APPENDED
        await future
        assert [row.pending for row in log.find_transaction("carthage-market", "T-1")] == [None, None]

    asyncio.run(find())
    assert log.find_transaction("carthage", "T-1") == ()


def test_client_that_hangs_up_disturbs_nobody(log: DecisionLog) -> None:
    async def append() -> None:
        records = [make_record(log, f"T-{number}") for number in range(3)]
        futures = [log.append(record) for record in records]
        (row,) = log.find_transaction("carthage-market", "T-1")
        retried = row.pending.wait() if row.pending is not None else None
        futures[1].cancel()
        assert await futures[0] is APPENDED
        assert await futures[2] is APPENDED
        if retried is not None:
            assert await retried is APPENDED
        assert log.recorded.get(records[1].id) == records[1].document, "it is recorded all the same"

    asyncio.run(append())


def test_loop_that_ended_disturbs_nobody(log: DecisionLog) -> None:
    async def append() -> None:
        log.append(make_record(log, "T-1"))

    asyncio.run(append())
    log.append_and_wait(make_record(log, "T-2"))
    assert count_recorded(log) == 2


# ---- refusals -------------------------------------------------------------------------------------


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[None]:
    with start_worker("hold", path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            holder.communicate("done\n")


def test_database_locked_by_another_process(path: Path) -> None:
    with DecisionLog.open(path, busy_timeout_ms=50, retry_us=0) as log:
        log.append_and_wait(make_record(log, "T-0"))
        with locked_by_another_process(path):
            with pytest.raises(StoreUnavailable, match="another process holds it locked"):
                log.append_and_wait(make_record(log, "T-1"))
            assert not log.healthy
            assert log.find_transaction("carthage-market", "T-1") == ()
        assert log.append_and_wait(make_record(log, "T-1")) is APPENDED
        assert log.healthy
        assert log.last_problem is None


def test_short_lock_is_waited_for(log: DecisionLog, path: Path) -> None:
    async def append() -> None:
        with locked_by_another_process(path):
            future = log.append(make_record(log, "T-1"))
        assert await future is APPENDED

    asyncio.run(append())


def test_overload_is_refused_at_once(path: Path) -> None:
    async def append(log: DecisionLog) -> None:
        problems, futures = [], []
        with locked_by_another_process(path):
            for number in range(200):
                try:
                    futures.append(log.append(make_record(log, f"T-{number}")))
                except StoreUnavailable as error:
                    problems.append(str(error))
        assert await asyncio.gather(*futures) == [APPENDED] * len(futures)
        assert set(problems) == {"overloaded: 10 screenings wait for the disk"}
        assert log.refused == len(problems) >= 180
        assert count_recorded(log) == len(futures)

    with DecisionLog.open(path, max_waiting=10, max_batch=10) as log:
        asyncio.run(append(log))


def test_record_that_sqlite_cannot_take_fails_alone(log: DecisionLog) -> None:
    async def append() -> None:
        records = [make_record(log, "T-1"), make_record(log, "T-2", minor=1 << 70), make_record(log, "T-3")]
        one, two, three = await asyncio.gather(*map(log.append, records), return_exceptions=True)
        assert (one, three) == (APPENDED, APPENDED)
        assert isinstance(two, OverflowError)

    asyncio.run(append())
    assert log.healthy
    assert count_recorded(log) == 2


def test_card_number_is_never_recorded(log: DecisionLog) -> None:
    with pytest.raises(ValueError, match="card number") as caught:
        log.append_and_wait(make_record(log, "T-1", card_identity="4111111111111111"))
    assert "4111" not in str(caught.value)
    assert count_recorded(log) == 0


# ---- disks that fail ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root; SQLITE_FULL itself is tested by the page limit")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def append_until_refused(log: DecisionLog, size: int = 20_000) -> tuple[list[int], StoreUnavailable]:
    async def append() -> tuple[list[int], StoreUnavailable]:
        durable: list[int] = []
        for start in range(0, 100_000, 20):
            records = [make_record(log, f"T-{start + n}", document=b"x" * size) for n in range(20)]
            answers = await asyncio.gather(*map(log.append, records), return_exceptions=True)
            durable += [record.id for record, answer in zip(records, answers, strict=True) if answer is APPENDED]
            for answer in answers:
                if isinstance(answer, StoreUnavailable):
                    return durable, answer
                assert answer is APPENDED
        raise AssertionError("the disk never filled up")

    return asyncio.run(append())


def test_full_disk_fails_the_batch_and_recovers(small_disk: Path) -> None:
    path = small_disk / "decisions.sqlite"
    ballast = small_disk / "ballast"
    with DecisionLog.open(path, retry_us=0) as log:
        ballast.write_bytes(b"b" * 1_000_000)
        durable, error = append_until_refused(log)
        assert "full" in str(error) or "disk" in str(error)
        assert not log.healthy
        assert str(error) == log.last_problem
        ballast.unlink()
        record = make_record(log, "T-after")
        assert log.append_and_wait(record) is APPENDED
        assert log.healthy
        assert all(log.recorded.get(screening_id) is not None for screening_id in durable)
        assert count_recorded(log) == len(durable) + 1, "nothing half-written stays"
    assert read_rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_read_only_disk_fails_and_recovers(small_disk: Path) -> None:
    """The disk is what refuses: a read-only file or directory does not stop root.

    A disk cannot turn read-only under a writer that has its files open, so the log is opened on a disk that is.
    """
    path = small_disk / "decisions.sqlite"
    with DecisionLog.open(path) as log:
        record = make_record(log, "T-0")
        log.append_and_wait(record)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreUnavailable, match="read-only volume"):
        DecisionLog.open(path)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    with DecisionLog.open(path) as log:
        assert log.recorded.get(record.id) is not None
        assert log.append_and_wait(make_record(log, "T-1")) is APPENDED


@contextmanager
def limited_pages(log: DecisionLog, pages: int) -> Iterator[None]:
    """Has each connection that writes answer SQLITE_FULL past that size: works without root."""
    connect = log._writer.connect

    def connect_limited() -> sqlite3.Connection:
        connection = connect()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    log._writer.connect = connect_limited  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        log._writer.connect = connect  # type: ignore[method-assign]
        log._writer.connect().execute("PRAGMA max_page_count = 1073741823")


def test_sqlite_full_fails_the_whole_batch_and_recovers(path: Path) -> None:
    with DecisionLog.open(path, retry_us=0) as log:
        log.append_and_wait(make_record(log, "T-first"))
        with limited_pages(log, 60):
            durable, error = append_until_refused(log)
            assert "free space" in str(error)
            assert not log.healthy
        assert log.append_and_wait(make_record(log, "T-after")) is APPENDED
        assert count_recorded(log) == len(durable) + 2


def test_connection_that_may_not_write_fails_and_recovers(path: Path) -> None:
    with DecisionLog.open(path, retry_us=0) as log:
        log.append_and_wait(make_record(log, "T-0"))
        log._writer.connect().execute("PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailable, match="whether the volume is read-only"):
            log.append_and_wait(make_record(log, "T-1"))
        assert log.append_and_wait(make_record(log, "T-1")) is APPENDED


def test_pause_after_a_failure_refuses_without_touching_the_disk(path: Path) -> None:
    with DecisionLog.open(path, retry_us=3_600_000_000) as log:
        log._writer.connect().execute("PRAGMA query_only = ON")
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="read-only"):
                log.append_and_wait(make_record(log, "T-1"))
        assert log.failed_batches == 1


def test_health_returns_though_nobody_appends(path: Path) -> None:
    with DecisionLog.open(path) as log:
        probed = threading.Event()
        probe = log._writer.probe

        def probe_and_tell() -> None:
            probe()
            probed.set()

        log._writer.probe = probe_and_tell  # type: ignore[method-assign]
        log._writer.connect().execute("PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailable):
            log.append_and_wait(make_record(log, "T-1"))
        assert probed.wait(30)
    assert log.last_problem is None


def test_file_that_was_moved_away_is_noticed(path: Path) -> None:
    with DecisionLog.open(path, retry_us=0) as log:
        log.append_and_wait(make_record(log, "T-0"))
        path.rename(path.with_suffix(".away"))
        with pytest.raises(StoreUnavailable, match="is gone"):
            log.append_and_wait(make_record(log, "T-1"))
        assert not path.exists(), "an empty log is not begun behind the operator's back"
        path.with_suffix(".away").rename(path)
        assert log.append_and_wait(make_record(log, "T-1")) is APPENDED


def test_garbage_says_so_and_leaves_nothing_open(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    with pytest.raises(StoreUnavailable, match="damaged"):
        DecisionLog.open(path)


def test_a_log_whose_velocity_events_cannot_be_read_is_not_opened_and_says_why(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DecisionLog.open(path) as log:
        log.append_and_wait(make_record(log, "T-1"))

    def fail(view: TailView) -> None:
        view.connection.execute("PRAGMA query_only = ON")
        view.connection.execute("DELETE FROM screenings")

    monkeypatch.setattr(TailView, "refresh", fail)
    monkeypatch.setattr(DecisionLog, "velocity", Registry(generation=1))
    with pytest.raises(StoreUnavailable, match="it cannot be written"):
        DecisionLog.open(path)


# ---- reading --------------------------------------------------------------------------------------


def test_what_is_recorded_is_read_back_by_its_id(log: DecisionLog) -> None:
    record = make_record(log, "T-1", minor=7, currency="EUR")
    log.append_and_wait(record)
    recorded = log.recorded
    assert (recorded.get(record.id), recorded.amount_of(record.id)) == (record.document, ("EUR", 7))
    assert recorded.outcomes(record.id) == []
    assert (recorded.get(1), recorded.amount_of(1), recorded.outcomes(1)) == (None, None, [])


READS: dict[str, Callable[[DecisionLog], object]] = {
    "a document": lambda log: log.recorded.get(1),
    "a transaction": lambda log: log.find_transaction("carthage-market", "T-1"),
    "several transactions": lambda log: log.find_transactions([("carthage-market", "T-1"), ("a", "T-2")]),
    "rule texts": lambda log: log.read_revision("r1"),
    "velocity events": lambda log: log.recorded.refresh_tail(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("was_open", [True, False], ids=["read before", "never read"])
def test_reads_of_a_closed_log_are_refused(
    log: DecisionLog, read: Callable[[DecisionLog], object], was_open: bool
) -> None:
    if was_open:
        read(log)
    log.close()
    with pytest.raises(StoreUnavailable, match="the decision log is closed"):
        read(log)


def test_a_read_that_fails_is_explained_and_the_next_one_has_another_connection(log: DecisionLog) -> None:
    record = make_record(log, "T-1")
    log.append_and_wait(record)
    failing = log.recorded._reader
    with pytest.raises(StoreUnavailable, match="read-only"):
        log.recorded.read("DELETE FROM screenings")  # that connection may only query
    assert log.recorded.get(record.id) == record.document
    assert log.recorded._reader is not failing


def test_reads_go_through_an_index(log: DecisionLog) -> None:
    plans: list[str] = []
    read = log.recorded.read

    def explain(sql: str, parameters: tuple[int | str | bytes | None, ...] = ()) -> list[tuple[object, ...]]:
        plans.extend(row[3] for row in read("EXPLAIN QUERY PLAN " + sql, parameters))
        return []

    log.recorded.read = explain  # type: ignore[method-assign]
    log.find_transaction("carthage-market", "T-1")
    assert any("screenings_request (transaction_hash=?" in plan for plan in plans)
    assert not any("SCAN" in plan or "TEMP B-TREE" in plan for plan in plans), plans


def test_clock_that_steps_back_keeps_ids_increasing(path: Path) -> None:
    now = 1_795_000_000_000_000
    with DecisionLog.open(path, clock=lambda: now) as log:
        first = make_record(log, "T-0")
        log.append_and_wait(first)
    now -= 3_600_000_000
    with DecisionLog.open(path, clock=lambda: now) as log:
        later = [make_record(log, f"T-{number}") for number in range(1, 10)]
        now -= 3_600_000_000
        later.append(make_record(log, "T-10"))
        for record in later:
            log.append_and_wait(record)
        ids = [first.id, *(record.id for record in later)]
        assert ids == sorted(set(ids))


# ---- revisions ------------------------------------------------------------------------------------


def test_rule_texts_are_stored_once(log: DecisionLog, path: Path) -> None:
    one = [("rules/platform.yaml", "rule_set: platform\n"), ("rules/merchants/a.yaml", "merchant: a\n")]
    two = [("rules/platform.yaml", "rule_set: platform\n"), ("rules/merchants/b.yaml", "merchant: b\n")]
    log.remember_revision("r1", "a", one)
    log.remember_revision("r1", "a", one)
    log.remember_revision("r2", "b", two)
    assert log.read_revision("r2") == two, "also before it is on disk"
    log.append_and_wait(make_record(log, "T-1", revision="r1"))
    log.append_and_wait(make_record(log, "T-2", revision="r2"))
    with DecisionLog.open(path) as other:
        other.remember_revision("r1", "a", one)
        assert other.read_revision("r1") == one
        assert other.read_revision("r2") == two
        assert other.read_revision("r3") == []
    assert read_rows(path, "SELECT count(*) FROM rule_texts") == [(3,)]
    assert read_rows(path, "SELECT revision, rule_set FROM revisions ORDER BY revision") == [
        ("r1", "a"),
        ("r2", "b"),
    ]


def test_texts_are_on_disk_no_later_than_their_first_screening(log: DecisionLog, path: Path) -> None:
    for number in range(300):
        log.remember_revision(f"r{number}", f"m{number}", [("rules/m.yaml", f"merchant: m{number}\n")])
    log.append_and_wait(make_record(log, "T-1", revision="r299"))
    assert read_rows(
        path,
        "SELECT count(*) FROM screenings JOIN revision_files USING (revision_id)",
    ) == [(1,)]
    log.close()
    assert read_rows(path, "SELECT count(*) FROM revision_files") == [(300,)]


def test_texts_survive_a_disk_that_failed(path: Path) -> None:
    with DecisionLog.open(path, retry_us=0) as log:
        log.append_and_wait(make_record(log, "T-0", revision="r0"))
        log._writer.connect().execute("PRAGMA query_only = ON")
        log.remember_revision("r1", "m", [("rules/m.yaml", "merchant: m\n")])
        record = make_record(log, "T-1", revision="r1")
        try:
            log.append_and_wait(record)
        except StoreUnavailable:
            log.append_and_wait(record)
        assert read_rows(path, "SELECT path FROM revision_files") == [("rules/m.yaml",)]
