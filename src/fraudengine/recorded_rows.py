"""What one process reads back from its decision log: recorded screenings, their outcomes, velocity counters.

There are two connections, each opened by the first read that needs it: one may only query, the other holds the
newest velocity events in temporary tables (`velocity_tail`). A connection on which a read failed is dropped and the
next read opens another, so that reading heals with the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import store
from .batch_writer import Parameter
from .diagnostics import StoreUnavailable
from .facts import FactName, Facts, FactValue
from .money import Money
from .velocity_index import CounterReader
from .velocity_tail import TailView


class RecordedRows:
    """The reads of one process; they see what every process committed. Each raises StoreUnavailable.

    They are made for the event loop's thread: they wait for nobody. Open it after any fork.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader: sqlite3.Connection | None = None
        self._tail: TailView | None = None
        self._closed = False

    def read(self, sql: str, parameters: tuple[Parameter, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows that a SELECT finds."""
        try:
            if self._reader is None:
                if self._closed:
                    raise StoreUnavailable("the decision log is closed")
                # Readers of a WAL wait for nobody but a recovery after a crash: a short timeout is enough.
                self._reader = store.open_database(self.path, query_only=True, busy_timeout_ms=100).conn
            return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
            raise store.explain_error(error, self.path) from error

    # ---- screenings -------------------------------------------------------------------------------

    def get(self, screening_id: int) -> bytes | None:
        """The document of a screening."""
        found = self.read("SELECT document FROM screenings WHERE id = ?", (screening_id,))
        return found[0][0] if found else None

    def amount_of(self, screening_id: int) -> tuple[str, int] | None:
        """Currency and minor units of a screening."""
        found = self.read("SELECT currency, minor FROM screenings WHERE id = ?", (screening_id,))
        return (found[0][0], found[0][1]) if found else None

    def outcomes(self, screening_id: int) -> list[tuple[int, str, str]]:
        """Time (UTC microseconds), kind and code of every report about a screening, in the order they came."""
        found = self.read(
            "SELECT at_us, kind, code FROM outcomes WHERE screening_id = ? ORDER BY id", (screening_id,)
        )
        return [(at_us, kind, code) for at_us, kind, code in found]

    def rule_texts(self, revision: str) -> list[tuple[str, str]]:
        """Path and text of every file of a revision, in the order in which they were given."""
        found = self.read(
            "SELECT f.path, t.text FROM revision_files f JOIN rule_texts t ON t.id = f.text_id"
            " WHERE f.revision_id = (SELECT id FROM revisions WHERE revision = ?) ORDER BY f.position",
            (revision,),
        )
        return [(path, text) for path, text in found]

    # ---- counters ---------------------------------------------------------------------------------

    def read_counters(
        self,
        reader: CounterReader,
        merchant: str,
        facts: Facts,
        at_us: int,
        amount: Money,
        own_ids: Sequence[int] = (),
        *,
        refresh: bool = True,
    ) -> dict[FactName, FactValue]:
        """The counters of a transaction as of `at_us`, without unknown ones.

        Without `refresh` it may miss what was committed after the last read that had it: for calls that had come
        in before that read.
        """
        try:
            is_new = self._tail is None
            tail = self._tail_view()
            if refresh or is_new:
                tail.refresh()
            statement, parameters = reader.question(
                merchant, facts, at_us, amount, own_ids, tail.tables, tail.has_before
            )
            (found,) = tail.connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            self._forget_tail()
            raise store.explain_error(error, self.path) from error
        except BaseException:  # no memory, for one: the temporary tables have no journal
            self._forget_tail()
            raise
        return reader.answer(found, facts, amount)

    def refresh_tail(self) -> None:
        """Takes up the events that are not in the index yet, so that the next counter has little to wait for."""
        try:
            self._tail_view().refresh()
        except sqlite3.Error as error:
            self._forget_tail()
            raise store.explain_error(error, self.path) from error
        except BaseException:  # as above
            self._forget_tail()
            raise

    def _tail_view(self) -> TailView:
        """The events that are not in the index yet, on a connection of its own: they are in temporary tables."""
        if self._tail is None:
            if self._closed:
                raise StoreUnavailable("the decision log is closed")
            self._tail = TailView(store.open_database(self.path, create=False, busy_timeout_ms=100).conn)
        return self._tail

    def _forget_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.connection.close()

    # ---- the end ----------------------------------------------------------------------------------

    def open_no_more(self) -> None:
        """Opens no connection from here on; one that is open is read until `close`."""
        self._closed = True

    def close(self) -> None:
        self._closed = True
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._forget_tail()
