"""A process that archives a month and is killed at a step: `STATE MONTH STEP NTH`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fraudengine import archive
from fraudengine.audit import AuditLog


def main(state: Path, month: str, at: str, nth: int) -> None:
    seen = 0

    def step(name: str) -> None:
        nonlocal seen
        seen += name == at
        if seen == nth and name == at:
            os.kill(os.getpid(), signal.SIGKILL)

    archive.ROWS_IN_GROUP = 50  # type: ignore[misc]
    archive._DELETED_AT_ONCE = 20  # type: ignore[misc]
    with AuditLog(state) as audit:
        archive.archive_month(state, month, audit, step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
