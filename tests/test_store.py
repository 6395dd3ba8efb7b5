"""The SQLite file: how it is opened, refused and migrated; screening ids."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudengine import store
from fraudengine.diagnostics import StoreUnavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "decisions.sqlite"


def test_new_file_is_private_durable_and_migrated(path: Path) -> None:
    with closing(store.open_database(path)) as database:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o077 == 0
        assert database.journal_mode == "wal"
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert store.migrations.pending(database) == []
        database.execute("INSERT INTO merchants (name) VALUES ('m')")
        for suffix in ("-wal", "-shm"):
            assert path.with_name(path.name + suffix).stat().st_mode & 0o777 == 0o600


def test_opening_again_keeps_rows_and_applies_nothing(path: Path) -> None:
    with closing(store.open_database(path)) as database:
        database.execute("INSERT INTO merchants (name) VALUES ('m')")
        applied = store.migrations.applied(database)
    with closing(store.open_database(path)) as database:
        assert store.migrations.applied(database) == applied
        assert database.execute("SELECT name FROM merchants").fetchall() == [("m",)]


def test_migration_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = store.Migrations("fraudengine")
    later()(store.m0001_screenings)

    @later()
    def m0002_broken(db: store.Database) -> None:
        db.execute("CREATE TABLE half (id INTEGER)")
        db.execute("CREATE TABLE merchants (id INTEGER)")

    monkeypatch.setattr(store, "migrations", later)
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        store.open_database(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_database_of_a_newer_release_is_refused(path: Path) -> None:
    with closing(store.open_database(path)) as database:
        database["_sqlite_migrations"].insert(  # type: ignore[union-attr]
            {"migration_set": "fraudengine", "name": "m0099_from_the_future", "applied_at": "2031-01-01"}
        )
    with pytest.raises(StoreUnavailable, match=r"newer release .*m0099_from_the_future"):
        store.open_database(path)


def test_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
    with pytest.raises(StoreUnavailable, match="another program"):
        store.open_database(path)


def test_garbage_is_named_as_damage(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(os.urandom(8192))
    with pytest.raises(StoreUnavailable, match=r"not a database.*restore a backup"):
        store.open_database(path)


def test_damaged_page_is_named_as_damage(path: Path) -> None:
    with closing(store.open_database(path)):
        pass
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    with pytest.raises(StoreUnavailable, match="damaged"):
        store.open_database(path)


def test_path_under_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="check the directory"):
        store.open_database(tmp_path / "file" / "decisions.sqlite")


def test_query_only_refuses_writes_and_makes_no_file(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="is gone"):
        store.open_database(path, query_only=True)
    assert not path.exists()
    with closing(store.open_database(path)), closing(store.open_database(path, query_only=True)) as reader:
        with pytest.raises(sqlite3.OperationalError) as caught:
            reader.execute("INSERT INTO merchants (name) VALUES ('m')")
        assert isinstance(store.explain_error(caught.value, path), StoreUnavailable)


def test_our_own_mistake_is_not_blamed_on_the_disk(path: Path) -> None:
    with closing(store.open_database(path)) as database:
        with pytest.raises(sqlite3.OperationalError) as caught:
            database.execute("SELECT nonsense FROM screenings")
        assert store.explain_error(caught.value, path) is caught.value


def test_checkpoint_empties_the_wal_and_waits_for_no_reader(path: Path) -> None:
    with closing(store.open_database(path)) as database, closing(store.open_database(path)) as reader:
        database.execute("INSERT INTO merchants (name) VALUES ('m')")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM merchants").fetchall()
        database.execute("INSERT INTO merchants (name) VALUES ('n')")
        assert not store.take_checkpoint(database.conn, 5_000)
        reader.execute("COMMIT")
        assert store.take_checkpoint(database.conn, 5_000)
        assert database.execute("PRAGMA busy_timeout").fetchone() == (5_000,)


# ---- ids ------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=(1 << 63) - 1))
def test_id_text_round_trip(screening_id: int) -> None:
    text = store.screening_id_text(screening_id)
    assert len(text) == 17
    assert store.parse_screening_id(text) == screening_id
    assert store.parse_screening_id(f" {text.upper()}\n") == screening_id


@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 63) - 1))
def test_id_texts_sort_as_ids(one: int, other: int) -> None:
    assert (store.screening_id_text(one) < store.screening_id_text(other)) == (one < other)


@given(st.text())
def test_any_text_is_an_id_or_none(text: str) -> None:
    for candidate in (text, "scr_" + text):
        found = store.parse_screening_id(candidate)
        assert found is None or 0 <= found < 1 << 63


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scr_000000000000z", 31),
        ("scr_00000000000il", 33),
        ("scr_000000000000O", 0),
        ("scr_7zzzzzzzzzzzz", (1 << 63) - 1),
        ("scr_8000000000000", None),
        ("scr_000000000000u", None),
        ("scr_00000000000", None),
        ("000000000000000z", None),
        ("", None),
    ],
)
def test_id_text_table(text: str, expected: int | None) -> None:
    assert store.parse_screening_id(text) == expected


@pytest.mark.parametrize("outside", [-1, 1 << 63])
def test_number_that_is_no_id_has_no_text(outside: int) -> None:
    with pytest.raises(ValueError, match="63 bits"):
        store.screening_id_text(outside)


@given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=50), st.integers(0, 255))
def test_ids_increase_whatever_the_clock_does(times_ms: list[int], worker: int) -> None:
    clock = iter(times_ms)
    ids = store.ScreeningIds(worker, 0, lambda: next(clock) * 1000)
    made = [ids.next_id() for _ in times_ms]
    assert all(one < other for one, other in pairwise(made))
    assert {made_id >> store.COUNTER_BITS & 255 for made_id in made} == {worker}


def test_more_ids_than_a_millisecond_holds_spill_into_the_next() -> None:
    ids = store.ScreeningIds(7, 0, lambda: 5_000)
    made = [ids.next_id() for _ in range(20_000)]
    assert len(set(made)) == 20_000
    assert {made_id >> store.COUNTER_BITS & 255 for made_id in made} == {7}


def test_ids_start_past_the_greatest_recorded_one() -> None:
    recorded = store.ScreeningIds(255, 0, lambda: 9_000_000).next_id() | 8191
    after = store.ScreeningIds(0, recorded, lambda: 1_000).next_id()
    assert after > recorded


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[list[store.WorkerSlot]]:
    held: list[store.WorkerSlot] = []
    yield held
    for slot in held:
        slot.release()


def test_worker_slots_differ_and_come_free(tmp_path: Path, slots: list[store.WorkerSlot]) -> None:
    path = tmp_path / "d.sqlite"
    slots += [store.claim_worker_slot(path), store.claim_worker_slot(path)]
    assert [slot.number for slot in slots] == [0, 1]
    slots[0].release()
    slots.append(store.claim_worker_slot(path))
    assert slots[2].number == 0


def test_request_digest_must_be_long_enough() -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        store.request_hash(b"short")
