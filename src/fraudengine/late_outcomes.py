"""What is reported of payments whose screening is archived already: chargebacks come months later.

The files of the archive never change, so such a report stays in the log's file, by screening id, in a table of its
own: `outcomes` refers to screenings that are in the log. Whoever reads what became of an archived payment reads
these after those of its file. They go when their month is purged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from . import store
from .archive_reading import MAX_ID


def keep_late_outcome(
    log: Path, outcome_id: int, archived: Mapping[str, Any], kind: str, code: str, at_us: int
) -> None:
    """Records durably what became of a payment, `archived` being its row of the archive; blocks until it is done.

    The same report again changes nothing. Raises StoreUnavailable.
    """
    if any((one["kind"], one["code"]) == (kind, code) for one in archived["outcomes"]):
        return
    try:
        with closing(store.open_database(log, create=False).conn) as connection:
            connection.execute(
                "INSERT INTO late_outcomes (id, screening_id, at_us, kind, code) SELECT ?1, ?2, ?3, ?4, ?5"
                " WHERE NOT EXISTS"
                " (SELECT 1 FROM late_outcomes WHERE screening_id = ?2 AND kind = ?4 AND code = ?5)",
                (outcome_id, archived["id"], at_us, kind, code),
            )
    except sqlite3.Error as error:
        raise store.explain_error(error, log) from error


def late_outcomes(log: Path, low: int = 0, high: int = MAX_ID) -> dict[int, list[dict[str, Any]]]:
    """The reports about archived screenings with ids in `[low, high)`, each as in a row of the archive, in order.

    Empty for a log of an earlier release, and where there is no log. Raises StoreUnavailable.
    """
    if not log.exists():
        return {}
    found: dict[int, list[dict[str, Any]]] = {}
    try:
        with closing(store.open_database(log, query_only=True).conn) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'late_outcomes'").fetchone():
                return {}
            rows = connection.execute(
                "SELECT screening_id, id, at_us, kind, code FROM late_outcomes"
                " WHERE screening_id >= ? AND screening_id < ? ORDER BY id",
                (low, high),
            )
            for screening_id, *report in rows:
                row = dict(zip(("id", "at_us", "kind", "code"), report, strict=True))
                found.setdefault(screening_id, []).append(row)
    except sqlite3.Error as error:
        raise store.explain_error(error, log) from error
    return found
