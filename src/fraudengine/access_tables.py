"""The tables of `var/access.db`: API keys. Of a key only its SHA-256 is kept; a revoked one keeps its row."""

from __future__ import annotations

from typing import Final

from .store import Database, Migrations, Schema

APPLICATION_ID: Final = 0x4652444B  # "FRDK"

migrations = Migrations("fraudengine access")


@migrations()
def m0001_keys(db: Database) -> None:
    """Keys with their role, scope and life; `merchants` is a JSON list, empty for all merchants."""
    db.execute(
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            digest BLOB NOT NULL UNIQUE,
            name TEXT NOT NULL,
            role TEXT NOT NULL,
            merchants TEXT NOT NULL,
            created_us INTEGER NOT NULL,
            created_by TEXT NOT NULL,
            expires_us INTEGER,
            revoked_us INTEGER,
            revoked_by TEXT
        ) STRICT"""
    )
    db.execute("CREATE TABLE changes (id INTEGER PRIMARY KEY AUTOINCREMENT, key_id TEXT NOT NULL) STRICT")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


ACCESS: Final = Schema(migrations, APPLICATION_ID)
