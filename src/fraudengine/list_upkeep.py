"""What screenings leave to be written about list entries: when they last matched, and re-keyed cards.

Nothing of it may delay a screening, so it gathers in memory and a thread writes it now and then. What a crash
loses is at most what a few seconds brought: an entry is re-keyed when its card is seen again, and `lists review`
counts days.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .cards import CardFingerprint
from .list_store import ListStore
from .lists import Hit

MATCH_STEP_US: Final = 3_600_000_000  # an entry that matches all day is written once an hour
MAX_KNOWN: Final = 100_000


class ListUpkeep:
    """`note` belongs to the thread that screens; `write` to a thread that may wait for the disk."""

    def __init__(self, lists: ListStore) -> None:
        self._lists = lists
        self._entries: dict[int, int] = {}
        self._file_entries: dict[tuple[str, str, str], int] = {}
        self._rekeyed: dict[int, CardFingerprint] = {}
        self._written: dict[int | tuple[str, str, str], int] = {}

    def note(self, merchant: str, hits: Iterable[Hit], at_us: int, fingerprint: CardFingerprint | None) -> None:
        """Notes the entries that a transaction of that time was found in, and the card's current fingerprint."""
        for hit in hits:
            entry_id = hit.entry.id
            if entry_id is None:
                key = (merchant, hit.name, hit.entry.value)
                if at_us - self._written.get(key, 0) >= MATCH_STEP_US:
                    self._file_entries[key] = max(at_us, self._file_entries.get(key, 0))
                continue
            if at_us - self._written.get(entry_id, 0) >= MATCH_STEP_US:
                self._entries[entry_id] = max(at_us, self._entries.get(entry_id, 0))
            if hit.by_former_key and fingerprint is not None:
                self._rekeyed[entry_id] = fingerprint

    @property
    def waits(self) -> bool:
        return bool(self._entries or self._file_entries or self._rekeyed)

    def write(self) -> None:
        """Writes what was noted; raises StoreUnavailable, and then it is noted still."""
        rekeyed, self._rekeyed = self._rekeyed, {}
        entries, self._entries = self._entries, {}
        file_entries, self._file_entries = self._file_entries, {}
        try:
            for entry_id, fingerprint in list(rekeyed.items()):
                self._lists.rekey(entry_id, fingerprint)
                del rekeyed[entry_id]
            if entries or file_entries:
                self._lists.note_matches(entries, file_entries)
        except BaseException:
            self._rekeyed = {**rekeyed, **self._rekeyed}
            self._entries = {**entries, **self._entries}
            self._file_entries = {**file_entries, **self._file_entries}
            raise
        if len(self._written) > MAX_KNOWN:
            self._written = {}
        for entry_id, at_us in entries.items():
            self._written[entry_id] = at_us
        for key, at_us in file_entries.items():
            self._written[key] = at_us
