"""The decision log and its archive as one, for whoever reads all screenings in their order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush, merge
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Final

from . import store
from .archive_reading import MAX_ID, Row, count_rows, files_in, ids_of_month, month_of_file, months_in, rows_of_file
from .log_reader import LoggedScreening, LogReader

TRANSACTIONS_KEPT: Final = 200_000  # some 300 bytes each
_LOGGED: Final = ("id", "merchant", "at_us", "currency", "minor", "outcome", "code", "revision", "document")


class WholeLog(LogReader):
    """The log with its archived months. pyarrow must be there: it comes with the extra `replay`.

    The first screening of a transaction is found among the archived ones only as far as they were read in order
    before, and among the TRANSACTIONS_KEPT last transactions of them.
    """

    def __init__(self, path: Path, archive: Path) -> None:
        super().__init__(path)
        self._archive = archive
        self._first: OrderedDict[int, tuple[str, int, tuple[str, str, int]]] = OrderedDict()

    def count(self, since_us: int, until_us: int | None, merchant: str | None) -> int:
        """About how many screenings were answered in `[since_us, until_us)`: of the archive, everybody's."""
        low, high = self.ids_answered_in(since_us, until_us)
        archived = sum(count_rows(path, low, high) for path in files_in(self._archive))
        return super().count(since_us, until_us, merchant) + archived

    def screenings(self, since_us: int, until_us: int | None, merchant: str | None) -> Iterator[LoggedScreening]:
        """Every screening answered in `[since_us, until_us)`, oldest first, one at a time."""
        low, high = self.ids_answered_in(since_us, until_us)
        last = -1
        logged = super().screenings(since_us, until_us, merchant)
        for screening in merge(self._archived(low, high, merchant), logged, key=attrgetter("id")):
            if screening.id != last:  # a month that is being archived is in both for a while
                yield screening
            last = screening.id

    def first_of_transaction(
        self, merchant: str, transaction_id: str, before_id: int
    ) -> tuple[str, str, int] | None:
        """Card identity, currency and minor units of a transaction's first screening, when before that one."""
        transaction, first_id, about = self._first.get(
            store.transaction_hash(merchant, transaction_id), ("", before_id, ("", "", 0))
        )
        if transaction == transaction_id and first_id < before_id:
            return about
        return super().first_of_transaction(merchant, transaction_id, before_id)

    def reports(self, kinds: Sequence[str]) -> Iterator[tuple[int, str, str, str]]:
        """What was reported of payments, in the order of the log: id, merchant, transaction id and kind."""
        return merge(self._archived_reports(frozenset(map(str, kinds))), super().reports(kinds))

    def _archived(self, low: int, high: int, merchant: str | None) -> Iterator[LoggedScreening]:
        for files in months_in(self._archive, low, high):
            for row in merge(*(_rows(path, low, high) for path in files), key=itemgetter("id")):
                if row["id"] < low or row["id"] >= high:
                    continue
                about = (row["card_identity"], row["currency"], row["minor"])
                self._first.setdefault(row["transaction_hash"], (row["transaction_id"], row["id"], about))
                if len(self._first) > TRANSACTIONS_KEPT:
                    self._first.popitem(last=False)
                if merchant in (None, row["merchant"]):
                    yield LoggedScreening(*(row[name] for name in _LOGGED))

    def _archived_reports(self, kinds: frozenset[str]) -> Iterator[tuple[int, str, str, str]]:
        waiting: list[tuple[int, str, str, str]] = []
        columns = ("merchant", "transaction_id", "outcomes")
        for files in months_in(self._archive, 0, MAX_ID):
            begins, _ = ids_of_month(month_of_file(files[0]))
            while waiting and waiting[0][0] < begins:  # nobody reports on what comes later
                yield heappop(waiting)
            for path in files:
                for batch in rows_of_file(path, columns=columns):
                    for row in batch:
                        for report in row["outcomes"]:
                            if report["kind"] in kinds:
                                told = (report["id"], row["merchant"], row["transaction_id"], report["kind"])
                                heappush(waiting, told)
        while waiting:
            yield heappop(waiting)


def _rows(path: Path, low: int, high: int) -> Iterator[Row]:
    for batch in rows_of_file(path, low, high):
        yield from batch
