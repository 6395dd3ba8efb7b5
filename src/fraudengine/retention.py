"""The end of screenings: files of the archive and rows of the log that are older than they may be kept.

PCI DSS 3.2.1 wants stored account data kept no longer than needed, and its deletion defined and carried out. A
screening holds no card number, but a fingerprint, BIN and last four digits, e-mail and address are personal data.
Each deletion has its row in the audit log before it happens. Lists, keys and the audit log are not touched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from . import store
from .archive import alone, delete_screenings, old_months, opened_log, sync_directory
from .archive_reading import DIRECTORY, archive_files, ids_of_month, month_of_file
from .audit import AuditLog, AuditRow, who_acts
from .diagnostics import StoreUnavailable
from .search_index import first_id_at

_DELETED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Purged:
    """What was deleted for good: files of the archive, and rows of the log that were never archived."""

    files: tuple[str, ...]
    screenings: int


def purge(state: Path, older_than_days: int, audit: AuditLog, now_us: int, *, pretend: bool = False) -> Purged:
    """Deletes whole months that ended so long ago, from the archive and from the log; `pretend` only counts them.

    Raises ConfigurationError for fewer days than counters reach back, and StoreUnavailable.
    """
    months = old_months(state, older_than_days, now_us)
    limit = first_id_at(now_us - older_than_days * 86_400_000_000)
    with alone(state), opened_log(state, writes=True) as connection:
        files = [path for path in archive_files(state) if ids_of_month(month_of_file(path))[1] <= limit]
        rows = 0
        for month in months:
            low, high = ids_of_month(month)
            count = connection.execute(
                "SELECT count(*) FROM screenings WHERE id >= ? AND id < ?", (low, high)
            ).fetchone()[0]
            rows += count
            if pretend or not count:
                continue
            audit.record(AuditRow("log.purge", who_acts(), {"month": month, "screenings": count, "from": "log"}))
            connection.execute("PRAGMA secure_delete = ON")  # the pages are overwritten, not only given back
            while True:
                ids = [
                    row[0]
                    for row in connection.execute(
                        "SELECT id FROM screenings WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                        (low, high, _DELETED_AT_ONCE),
                    )
                ]
                if not ids:
                    break
                connection.execute("BEGIN IMMEDIATE")
                try:
                    delete_screenings(connection, json.dumps(ids))
                    connection.execute("COMMIT")
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                store.take_checkpoint(connection, 5_000)
        for path in [] if pretend else files:
            audit.record(AuditRow("log.purge", who_acts(), {"file": path.name, "from": "archive"}))
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(
                "DELETE FROM late_outcomes WHERE screening_id >= ? AND screening_id < ?",
                ids_of_month(month_of_file(path)),
            )
            try:
                path.unlink()
                sync_directory(state / DIRECTORY)
            except OSError as error:
                raise StoreUnavailable(f"{path} cannot be deleted: {error.strerror}") from error
    return Purged(tuple(path.name for path in files), rows)
