"""Whose turn it is to write, among the processes that write one log.

SQLite lets one write at a time, and who finds the log locked sleeps: 1 ms, 2, 5, and after some tries 100. Two busy
workers that only met so kept one payment of a hundred waiting for 50 ms, one of a thousand for 100 and more
(`make bench-service`). Here a process that waits looks again every LOOK_S, and after HUNGRY_S no other begins a
further turn before it had one. Strict turns from the start would halve the batches: a fifth of the throughput.

It is a courtesy, nothing depends on it: after PATIENCE_S, when a process that has its turn was stopped, everybody
goes on to what SQLite's own lock says, and waits for nobody again before IMPATIENT_S have passed. `flock`: the
kernel frees it when a process dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.0005
HUNGRY_S: Final = 0.005
PATIENCE_S: Final = 0.1
IMPATIENT_S: Final = 5.0


class WriteTurns:
    """The turns of one writer, as a context manager; for one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._descriptors: tuple[int, ...] = ()
        self._patient_at = 0.0
        try:
            for name in ("writing", "hungry"):
                held = os.open(path.with_name(f"{path.name}.{name}"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                self._descriptors += (held,)
        except OSError:  # whoever cannot make files here is told so by SQLite
            self.close()

    def __enter__(self) -> None:
        if not self._descriptors:
            return
        writing, hungry = self._descriptors
        if _is_free(hungry) and _lock(writing):
            return
        began, is_hungry = time.monotonic(), False
        if began < self._patient_at:
            return
        while (waited := time.monotonic() - began) < PATIENCE_S:
            if (is_hungry or _is_free(hungry)) and _lock(writing):
                break
            is_hungry = is_hungry or (waited > HUNGRY_S and _lock(hungry))
            time.sleep(LOOK_S)
        else:
            self._patient_at = time.monotonic() + IMPATIENT_S
        if is_hungry:
            fcntl.flock(hungry, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        if self._descriptors:
            fcntl.flock(self._descriptors[0], fcntl.LOCK_UN)

    def close(self) -> None:
        descriptors, self._descriptors = self._descriptors, ()
        for held in descriptors:
            os.close(held)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the lock; several may look at a time."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
