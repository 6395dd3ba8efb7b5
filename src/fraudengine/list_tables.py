"""The tables of `var/lists.db`: list entries kept at run time, and the order in which they changed.

Nothing is ever deleted. A removed entry keeps its row with who removed it, when and why, so any past instant can
be read back. `changes` is append-only; its newest id is what other processes compare to see that lists changed.
A change names a range of entries, because the entries of one transaction have consecutive ids.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import Final

from .store import Database, Migrations, Schema

APPLICATION_ID: Final = 0x4652444C  # "FRDL"

migrations = Migrations("fraudengine lists")


@migrations()
def m0001_entries(db: Database) -> None:
    """Lists, entries with their networks, changes, and when entries last matched."""
    for statement in (
        """CREATE TABLE lists (
            id INTEGER PRIMARY KEY, scope TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
            UNIQUE (scope, name, kind)
        ) STRICT""",
        """CREATE TABLE entries (
            id INTEGER PRIMARY KEY,
            list_id INTEGER NOT NULL REFERENCES lists (id),
            hash INTEGER NOT NULL,
            value TEXT NOT NULL,
            reason TEXT NOT NULL,
            ticket TEXT NOT NULL,
            author TEXT NOT NULL,
            added_us INTEGER NOT NULL,
            expires_us INTEGER,
            removed_us INTEGER,
            removed_by TEXT,
            removed_reason TEXT,
            removed_ticket TEXT,
            key_id TEXT,
            former_value TEXT,
            former_hash INTEGER
        ) STRICT""",
        # Twenty bytes a row where an index of texts would take sixty; the text is compared as well.
        "CREATE INDEX entries_hash ON entries (hash)",
        "CREATE INDEX entries_former_hash ON entries (former_hash) WHERE former_hash IS NOT NULL",
        "CREATE INDEX entries_kept ON entries (list_id) WHERE removed_us IS NULL",
        "CREATE INDEX entries_removed ON entries (list_id) WHERE removed_us IS NOT NULL",
        "CREATE INDEX entries_expiring ON entries (expires_us) WHERE expires_us IS NOT NULL AND removed_us IS NULL",
        # IPv4 addresses as numbers; of IPv6 the first 64 bits, less 2^63 so that they fit and keep their order.
        """CREATE TABLE networks (
            entry_id INTEGER PRIMARY KEY REFERENCES entries (id),
            list_id INTEGER NOT NULL, version INTEGER NOT NULL, length INTEGER NOT NULL,
            low INTEGER NOT NULL, high INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX networks_low ON networks (list_id, version, low)",
        """CREATE TABLE changes (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at_us INTEGER NOT NULL,
            what TEXT NOT NULL,
            list_id INTEGER NOT NULL REFERENCES lists (id),
            first_entry INTEGER NOT NULL,
            last_entry INTEGER NOT NULL
        ) STRICT""",
        "CREATE TABLE entry_matches (entry_id INTEGER PRIMARY KEY, last_us INTEGER NOT NULL) STRICT",
        """CREATE TABLE file_entry_matches (
            merchant TEXT NOT NULL, list TEXT NOT NULL, value TEXT NOT NULL, last_us INTEGER NOT NULL,
            PRIMARY KEY (merchant, list, value)
        ) STRICT, WITHOUT ROWID""",
        "CREATE TABLE began (at_us INTEGER NOT NULL) STRICT",
    ):
        db.execute(statement)
    db.execute("INSERT INTO began VALUES (?)", (time.time_ns() // 1000,))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


LISTS: Final = Schema(migrations, APPLICATION_ID)

SHARED: Final = "*"  # the scope of entries that hold for every merchant

# ---- hashes ---------------------------------------------------------------------------------------

_SIGN: Final = 1 << 63
_MASK: Final = (1 << 64) - 1


def value_hash(value: str) -> int:
    """64 bits of BLAKE2b over the normalised value, signed as SQLite's integers are."""
    return int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "big", signed=True)


def list_salt(scope: str, name: str, kind: str) -> int:
    """What a value's hash is combined with (exclusive or), so that one hash serves every list it is sought in."""
    return value_hash(f"{scope}\0{name}\0{kind}")


# ---- networks -------------------------------------------------------------------------------------


def address_place(version: int, number: int) -> int:
    """Where an address lies on the line that `networks` keeps: see the table."""
    return number if version == 4 else (number >> 64) - _SIGN


def network_span(version: int, first: int, length: int) -> tuple[int, int]:
    """First and last place of a network; of an IPv6 network longer than /64 both are the place of its /64."""
    if version == 4:
        return first, first | ((1 << (32 - length)) - 1)
    top = first >> 64
    last = top | ((1 << (64 - length)) - 1) if length < 64 else top
    return top - _SIGN, last - _SIGN
