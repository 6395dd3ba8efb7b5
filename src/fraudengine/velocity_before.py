"""Velocity events that an earlier release wrote: they stay as they are, and are read beside today's.

Its index had `bucket` and `key_hash` where today's has `place` and `key_low` (`velocity_index.place_of`).
Bringing forward hundreds of millions of rows would keep the first start after an upgrade busy for minutes; so the
table is only renamed, to `velocity_events_before`, and the few events of its tail are written anew.

INVARIANT: an event is in one of the two tables at most. Nothing is added to the old one, and a row that is made
anew in today's, because of a report or while a series' past is filled in, leaves it first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

_HALF: Final = 1 << 31
# The old columns from the parameters of today's index: a key's places differ in their bucket only.
_FIRST: Final = f"(?{{n0}} + {_HALF} >> 32)"
_LAST: Final = f"(?{{n1}} + {_HALF} >> 32)"
BEFORE_RANGE: Final = (
    f"e WHERE e.bucket IN ({_FIRST}, {_LAST})"
    f" AND e.key_hash = (?{{n0}} - ({_FIRST} << 32) << 32) + ?{{n2}} + {_HALF}"
    " AND e.at_us >= ?{n3} AND e.at_us < ?{n4}"
)

SET_ASIDE: Final = (
    "ALTER TABLE velocity_events RENAME TO velocity_events_before",
    "ALTER TABLE velocity_tail RENAME TO velocity_tail_before",
)
# The tail's events get new numbers, so that the merges begin anew. Those that a merge has moved already, or that a
# report has changed in the index, are in the old index.
BRING_FORWARD: Final = (
    f"""INSERT INTO velocity_tail (at_us, screening_id, classes, currency, place_0, key_low_0, value_0)
        SELECT at_us, screening_id, classes, currency,
            (bucket << 32) + (key_hash >> 32), (key_hash & {(1 << 32) - 1}) - {_HALF}, value
        FROM velocity_tail_before t WHERE NOT EXISTS (
            SELECT 1 FROM velocity_events_before e WHERE e.bucket = t.bucket AND e.key_hash = t.key_hash
            AND e.at_us = t.at_us AND e.screening_id = t.screening_id
        ) ORDER BY seq""",
    "DROP TABLE velocity_tail_before",
    "UPDATE velocity_merges SET upto = 0, merged_upto = 0",
)


def drop_if_empty(connection: sqlite3.Connection) -> None:
    """Leaves nothing of the old table in a log that has no events in it."""
    if connection.execute("SELECT 1 FROM velocity_events_before LIMIT 1").fetchone() is None:
        connection.execute("DROP TABLE velocity_events_before")


def has_before(connection: sqlite3.Connection) -> bool:
    """Whether an earlier release wrote events."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'velocity_events_before'").fetchone()
    return found is not None


def leave_before(connection: sqlite3.Connection, keys: Iterable[tuple[int, int, int, int]]) -> None:
    """Takes events that are made anew out of the old table; `keys` are those of today's index."""
    if not has_before(connection):
        return
    connection.executemany(
        "DELETE FROM velocity_events_before WHERE bucket = ? AND key_hash = ? AND at_us = ? AND screening_id = ?",
        [(*_key_before(place, low), at_us, screening_id) for place, low, at_us, screening_id in keys],
    )


def _key_before(place: int, key_low: int) -> tuple[int, int]:
    bucket = (place + _HALF) >> 32
    return bucket, ((place - (bucket << 32)) << 32) + key_low + _HALF
