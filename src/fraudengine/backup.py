"""Backup of the state directory while it serves, and its way back.

Every SQLite file is copied in one step of SQLite's own backup: one snapshot, while commits go on beside it (what
they write stays in the WAL until the copy is done, so a backup of a large log wants room for that). Copies are
checked, made durable and listed with their SHA-256 in `manifest.json` before the directory gets its name, so a
backup that is there is whole.

Decisions that a reader would question:

- The card key is left out: with it the fingerprints of a stolen backup could be tried out against all card numbers.
  Keep it where secrets are kept, and put it beside the restored files (or in FRAUDENGINE_CARD_KEY) before serving.
- Decisions are copied first and the audit log last: the list entries that a copied decision refers to, and the rows
  that tell of copied changes, are in the copies that are made after it. Archived months follow the decisions, so
  that what has left the log by then is in a file.
- A month of the archive never changes: where the newest backup beside holds it, with the same size and time of
  change, it is linked and not read again. `restore` reads every file, and so finds a copy that went bad.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from . import store
from .archive_reading import DIRECTORY, archive_files
from .diagnostics import StoreUnavailable
from .environment import STAMP

FILES: Final = ("decisions.db", "lists.db", "access.db", "audit.db")
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of a backup, its size and digest."""

    name: str
    bytes: int
    sha256: str


def back_up(
    state: Path, target: Path, rules: Path | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> tuple[Path, tuple[CopiedFile, ...]]:
    """Copies the state into a new directory below `target`, named by the time; gives it and what it holds.

    Raises StoreUnavailable when there is nothing to copy, or a copy fails or is damaged: then nothing is left.
    """
    began = now()
    made = target / began.strftime("%Y-%m-%dT%H%M%SZ")
    draft = target / f".{made.name}.unfinished"
    present = [name for name in FILES if (state / name).exists()]
    if not present:
        raise StoreUnavailable(f"there is nothing to back up in {state}: name the service's directory with --state")
    try:
        if made.exists():
            raise StoreUnavailable(f"{made} exists already; wait a second")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        for name in present:
            _copy_database(state / name, draft / name)
        months = _copy_archive(state, draft, target)
        if (state / STAMP).exists():
            shutil.copyfile(state / STAMP, draft / STAMP)
        if rules is not None and rules.is_dir():
            shutil.copytree(rules, draft / "rules", ignore=shutil.ignore_patterns(".*"))
        files = (path for path in sorted(draft.rglob("*")) if path.is_file())
        copied = tuple(months.get(path) or _describe(draft, path) for path in files)
        _write_durably(draft / MANIFEST, json.dumps(_manifest(state, began, copied), indent=2))
        _sync_directory(draft)
        os.rename(draft, made)
        _sync_directory(target)
    except OSError as error:
        raise StoreUnavailable(f"the backup below {target} failed: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return made, copied


def _copy_database(source: Path, target: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            os.chmod(target, 0o600)
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, no WAL beside it
            problem = writing.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise store.explain_error(error, source) from error
    if problem != "ok":
        raise StoreUnavailable(f"{source} is damaged, its copy says: {problem}")
    _sync_file(target)


def _copy_archive(state: Path, draft: Path, target: Path) -> dict[Path, CopiedFile]:
    """The archived months in the backup, each a copy of its own or a link to that of a backup before."""
    found: dict[Path, CopiedFile] = {}
    paths = archive_files(state)
    if not paths:
        return found
    (draft / DIRECTORY).mkdir(mode=0o700)
    before = _months_before(target)
    for path in paths:
        copy = draft / DIRECTORY / path.name
        try:
            told = path.stat()
            held, known = before.get(path.name, (None, None))
            if held is not None and known is not None and _is_same(held, known, told) and _link(held, copy):
                found[copy] = known
                continue
            digest = _copy_file(path, copy)
        except FileNotFoundError:
            if path.exists():
                raise
            continue  # it was purged meanwhile
        os.utime(copy, ns=(told.st_atime_ns, told.st_mtime_ns))
        found[copy] = _describe(draft, copy)
        if found[copy].sha256 != digest:
            raise StoreUnavailable(f"{copy} is not what was read from {path}: look after the disk")
    _sync_directory(draft / DIRECTORY)
    return found


def _months_before(target: Path) -> dict[str, tuple[Path, CopiedFile]]:
    """The archived months that the newest backup of each holds, by name, with what its manifest says of them."""
    found: dict[str, tuple[Path, CopiedFile]] = {}
    for manifest in sorted(target.glob(f"[0-9]*/{MANIFEST}")):
        with suppress(StoreUnavailable):
            for one in _read_manifest(manifest.parent):
                if _is_month(one):
                    found[Path(one.name).name] = (manifest.parent / one.name, one)
    return found


def _is_month(one: CopiedFile) -> bool:
    return one.name == f"{DIRECTORY}/{Path(one.name).name}"


def _is_same(held: Path, known: CopiedFile, told: os.stat_result) -> bool:
    try:
        there = held.stat()
    except FileNotFoundError:
        return False
    return there.st_size == known.bytes == told.st_size and there.st_mtime_ns == told.st_mtime_ns


def _link(held: Path, copy: Path) -> bool:
    try:
        os.link(held, copy)
    except OSError:  # a file system without links, or a file with as many as it may have
        return False
    return True


def _copy_file(path: Path, copy: Path) -> str:
    """Copies a file durably; the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with path.open("rb") as reading, open(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        while chunk := reading.read(1 << 20):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _describe(directory: Path, path: Path) -> CopiedFile:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return CopiedFile(str(path.relative_to(directory)), path.stat().st_size, digest.hexdigest())


def _manifest(state: Path, began: datetime, copied: tuple[CopiedFile, ...]) -> dict[str, Any]:
    return {
        "fraudengine": metadata.version("fraudengine"),
        "began": began.isoformat(timespec="seconds"),
        "state": str(state.resolve()),
        "files": [{"name": one.name, "bytes": one.bytes, "sha256": one.sha256} for one in copied],
    }


def _read_manifest(backup: Path) -> tuple[CopiedFile, ...]:
    try:
        manifest = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
        return tuple(CopiedFile(one["name"], one["bytes"], one["sha256"]) for one in manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreUnavailable(f"{backup} is no backup: its {MANIFEST} cannot be read") from error


def restore(backup: Path, state: Path) -> tuple[CopiedFile, ...]:
    """Puts a backup into a new or empty state directory, after checking every file of it.

    Raises StoreUnavailable: nothing is put in place unless all of it is whole. Rules are left in the backup.
    """
    listed = _read_manifest(backup)
    if archive_files(state) or (state.exists() and any(name.name in FILES for name in state.iterdir())):
        raise StoreUnavailable(
            f"{state} holds data already: restore into a new directory, then point --state at it"
        )
    for one in listed:
        path = backup / one.name
        if not path.is_file() or _describe(backup, path) != one:
            raise StoreUnavailable(f"{path} is missing or damaged: nothing was restored")
    wanted = tuple(one for one in listed if one.name in (*FILES, STAMP) or _is_month(one))
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(_is_month(one) for one in wanted):
            (state / DIRECTORY).mkdir(mode=0o700, exist_ok=True)
        for one in wanted:
            draft = _draft_of(state / one.name)
            with suppress(FileNotFoundError):
                draft.unlink()
            shutil.copyfile(backup / one.name, draft)
            shutil.copystat(backup / one.name, draft)
            os.chmod(draft, 0o600)
            _sync_file(draft)
        for one in wanted:
            os.replace(_draft_of(state / one.name), state / one.name)
        for directory in {(state / one.name).parent for one in wanted}:
            _sync_directory(directory)
        _sync_directory(state)
    except OSError as error:
        raise StoreUnavailable(f"{state} cannot be written: {error.strerror}") from error
    return wanted


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def _write_durably(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")
    _sync_file(path)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
