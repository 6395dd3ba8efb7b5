"""The file of card keys while it changes: rotated, its old key retired, and watched by a running service.

The file holds one key, or two on two lines while both are live: the new one, then the one before. It is replaced
in one step, always with mode 0600, so a reader sees the file before or the file after.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .cards import MIN_KEY_BYTES, CardKey, load_card_key
from .diagnostics import ConfigurationError

_Signature = tuple[int, int, int] | None


def rotate(path: Path, *, force: bool = False) -> CardKey:
    """Makes a new key; the one that was current stays live beside it. The new one carries it as `former`.

    Raises ConfigurationError when two keys are live already, unless `force`: then the older one is dropped, and
    no card is found by it any more.
    """
    with _locked(path):
        current = _read(path)
        if current.former is not None and not force:
            raise ConfigurationError(
                f"two card keys are live already ({current.id} and {current.former.id}): see `fraudengine keys "
                "status`, and end the older one with `fraudengine keys retire` when nothing hangs on it"
            )
        _write(path, CardKey(secrets.token_bytes(MIN_KEY_BYTES), CardKey(bytes.fromhex(current.write_secret()))))
        return _read(path)


def retire(path: Path) -> CardKey:
    """Ends the older of two live keys. Raises ConfigurationError when only one is live."""
    with _locked(path):
        current = _read(path)
        if current.former is None:
            raise ConfigurationError(f"only one card key is live ({current.id}); there is none to retire")
        _write(path, CardKey(bytes.fromhex(current.write_secret())))
        return _read(path)


def _read(path: Path) -> CardKey:
    return load_card_key({}, path, create_development_key=False).key


def _write(path: Path, key: CardKey) -> None:
    lines = [key.write_secret(), *([key.former.write_secret()] if key.former is not None else [])]
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(handle, "w", encoding="ascii") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigurationError(f"the card key file {path} cannot be written: {error.strerror}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time change the file."""
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(f"the directory {path.parent} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def entries_not_found(entries_by_key: Mapping[str, int], key: CardKey) -> str:
    """What is wrong when list entries hang on a key that is not live: their cards pass. Empty when none does."""
    live = {key.id} | ({key.former.id} if key.former is not None else set())
    lost = {name: count for name, count in entries_by_key.items() if name not in live}
    if not lost:
        return ""
    keys = ", ".join(f"{count} on key {name}" for name, count in sorted(lost.items()))
    return (
        f"list entries hang on card keys that are not live ({keys}), so their cards are not found: bring that key "
        "back beside the current one, or list those cards again and remove these (`fraudengine keys status`)"
    )


class KeyWatch:
    """The card key in force for a running service: read again when its file changes, the last good one kept."""

    def __init__(self, path: Path, load: Callable[[], CardKey], key: CardKey) -> None:
        self.problem = ""
        self._path: Final = path
        self._load = load
        self._key = key
        self._signature = self._read_signature()

    def current(self) -> CardKey:
        signature = self._read_signature()
        if signature != self._signature:
            try:
                self._key = self._load()
            except ConfigurationError as error:
                self.problem = f"{error}; the card key from before stays in use"
            else:
                self.problem = ""
            self._signature = signature
        return self._key

    def _read_signature(self) -> _Signature:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
