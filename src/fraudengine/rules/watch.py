"""Whether rule files may have changed, found out a little at a time: 5,000 files cost 2 % of a processor.

A file that is added, removed, renamed or replaced changes its folder's time. A file that is written in place shows
in its own signature only, so that each look compares a share of the files; SHARES looks have seen them all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

Signature: TypeAlias = tuple[int, int, int]  # mtime in nanoseconds, size, inode

SHARES: Final = 18
LEAST_SHARE: Final = 64
# A folder that changed this recently may change again within the same tick of its clock, on some disks a long one.
SETTLED_NS: Final = 2_000_000_000


NOTHING: Final[Signature] = (0, 0, 0)


def signature_of(path: str | os.DirEntry[str]) -> Signature:
    """What a file looks like without reading it; NOTHING when it cannot be told, as of a link to nowhere."""
    try:
        status = path.stat() if isinstance(path, os.DirEntry) else os.stat(path)
    except OSError:
        return NOTHING
    return status.st_mtime_ns, status.st_size, status.st_ino


class Watch:
    """Remembers a directory as it was when `before_reading` and then `remember` were called."""

    def __init__(self, directory: Path, folders: Iterable[str]) -> None:
        self._directory = directory
        self._folders = [str(directory / folder) for folder in folders]
        self._folder_signatures: list[Signature] = []
        self._unsettled_until = 0
        self._files: list[tuple[str, Signature]] = []
        self._next = 0

    def before_reading(self) -> None:
        """Notes the folders; what changes from here on is noticed."""
        self._folder_signatures = [signature_of(folder) for folder in self._folders]
        newest = max(modified_ns for modified_ns, _, _ in self._folder_signatures)
        settled = newest + SETTLED_NS
        self._unsettled_until = settled if settled > time.time_ns() else 0

    def remember(self, files: Mapping[str, Signature]) -> None:
        """Notes the files, by path within the directory."""
        prefix = f"{self._directory}{os.sep}"
        self._files = [(prefix + path, signature) for path, signature in files.items()]

    def may_have_changed(self) -> bool:
        """Whether a reading is due, as far as the folders and the next share of the files tell."""
        if self._unsettled_until and time.time_ns() > self._unsettled_until:
            return True
        if [signature_of(folder) for folder in self._folders] != self._folder_signatures:
            return True
        if self._next >= len(self._files):
            self._next = 0
        share = max(LEAST_SHARE, -(-len(self._files) // SHARES))
        first, self._next = self._next, self._next + share
        stat = os.stat
        for path, signature in self._files[first : self._next]:
            try:
                status = stat(path)
            except OSError:
                if signature != NOTHING:
                    return True
            else:
                if (status.st_mtime_ns, status.st_size, status.st_ino) != signature:
                    return True
        return False
