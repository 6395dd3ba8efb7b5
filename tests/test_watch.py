"""Whatever changes in a rule directory is noticed within as many looks as there are shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fraudengine.rules import watch
from fraudengine.rules.watch import SHARES, Watch, signature_of

FILES = 1_300


def seen(directory: Path) -> dict[str, watch.Signature]:
    return {f"merchants/{path.name}": signature_of(str(path)) for path in (directory / "merchants").iterdir()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that nobody touched for a minute."""
    (tmp_path / "merchants").mkdir()
    for number in range(FILES):
        (tmp_path / "merchants" / f"m{number}.yaml").write_text("merchant: x\n")
    minute_ago = os.stat(tmp_path).st_mtime - 60
    for folder in (tmp_path, tmp_path / "merchants"):
        os.utime(folder, (minute_ago, minute_ago))
    return tmp_path


def watching(directory: Path) -> Watch:
    found = Watch(directory, ("", "merchants/", "lists/"))
    found.before_reading()
    found.remember(seen(directory))
    return found


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_text("merchant: x\n")
    other.rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "written in place": lambda directory: (directory / "merchants/m1299.yaml").write_text("merchant: other\n"),
    "replaced": lambda directory: replace(directory / "merchants/m7.yaml"),
    "added": lambda directory: (directory / "merchants/new.yaml").write_text("merchant: new\n"),
    "removed": lambda directory: (directory / "merchants/m7.yaml").unlink(),
    "a folder added": lambda directory: (directory / "lists").mkdir(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(name: str, directory: Path) -> None:
    found = watching(directory)
    assert not any(found.may_have_changed() for _ in range(2 * SHARES))
    CHANGES[name](directory)
    assert any(found.may_have_changed() for _ in range(SHARES + 1))


def test_each_look_is_at_a_share_of_the_files(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    found = watching(directory)
    real = os.stat

    def look(path: str) -> os.stat_result:
        looked.append(path)
        return real(path)

    monkeypatch.setattr(os, "stat", look)
    for _ in range(SHARES):
        looked.clear()
        assert not found.may_have_changed()
        assert len(looked) <= FILES / SHARES + 4
    assert not found.may_have_changed()


def test_a_folder_that_changed_just_now_is_read_once_more(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time may stand still for another change, so that it is believed only when it is two seconds old."""
    (directory / "merchants/new.yaml").write_text("merchant: new\n")
    found = watching(directory)
    assert not found.may_have_changed()
    later = os.stat(directory / "merchants").st_mtime_ns + watch.SETTLED_NS + 1
    monkeypatch.setattr("time.time_ns", lambda: later)
    assert found.may_have_changed()
    assert not watching(directory).may_have_changed()
