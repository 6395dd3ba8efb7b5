"""The number that tells every process at once that run-time lists changed: eight shared bytes.

A screening compares it in some 40 ns, where asking SQLite would take microseconds. Whoever changes lists commits
first, then publishes the id of the change, then answers. INVARIANT: the number is only ever the id of a committed
change, so a process that remembers it has read that change and all before; another number means "read on".

`kill -9` between commit and publishing loses the number, not the entry: nobody was told that it is in force, and
the next process that opens the lists, or the watch of a running one, publishes it.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

from .diagnostics import StoreUnavailable

_BYTES: Final = 8


class Generation:
    """The shared number. `cell[0]` is read on every screening; an aligned eight-byte copy is one access."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot open {path}: {error.strerror}; check the directory and its owner"
            ) from error
        try:
            status = os.fstat(handle)
            if status.st_size != _BYTES:
                os.ftruncate(handle, _BYTES)
            self.inode = (status.st_dev, status.st_ino)
            self._map = mmap.mmap(handle, _BYTES)
        except OSError as error:
            raise StoreUnavailable(f"cannot map {path}: {error.strerror}") from error
        finally:
            os.close(handle)
        self.cell = memoryview(self._map).cast("Q")

    def publish(self, change: int) -> None:
        self.cell[0] = change

    def is_current_file(self) -> bool:
        """Whether the path still leads to the file that is mapped."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.inode

    def close(self) -> None:
        self.cell.release()
        self._map.close()
