"""Many list entries from a CSV text, all or nothing: streamed, in bounded memory, with every wrong line named.

The text has a heading (see `list_headings`) or none: then each line is a value, optionally followed by reason,
ticket, author and expiry. Commas or semicolons; UTF-8, with or without a byte-order mark; any line ends. Lines are
checked and turned into rows of a temporary table as they come; card numbers become fingerprints at once.
At the end one transaction takes the rows over, or none of them.
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Final

import orjson

from . import store
from .audit import AuditRow, sign, who_acts
from .cards import CardKey, Pan, is_fingerprint
from .diagnostics import FraudengineError, InvalidTransaction
from .facts import ListKind
from .list_entries import ListTarget, read_time
from .list_headings import COLUMNS, Heading, UnclearHeading, delimiter_of, read_heading, split_line
from .list_store import BUSY_MS, ListStore, key_id_of, network_row
from .list_tables import LISTS, value_hash
from .list_values import InvalidEntry, NoCardKey, Note, note_problem, read_value
from .rules.checked import DEFAULT_TIMEZONE

MAX_LINE_BYTES: Final = 4_096
MAX_PROBLEMS: Final = 100
_BATCH: Final = 1_000
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did: entries made, values that were in force already, values that stood twice."""

    lines: int
    added: int
    existing: int
    repeated: int


class ImportRefused(FraudengineError):
    """Lines of an import are wrong, so nothing of it was taken; `problems` are (line, what), the first hundred."""

    def __init__(self, problems: list[tuple[int, str]], wrong: int) -> None:
        self.problems = tuple(problems)
        self.wrong = wrong
        super().__init__("\n".join(f"line {line}: {problem}" for line, problem in problems))


class ListImport:
    """One import under way: `feed` chunks of bytes, then `commit`; `close` in any case.

    It has its own connection and belongs to one thread at a time. With `take_pans` a value that is a card number
    is turned into its fingerprint; without, only one in a column `pan` is. `feed` and `commit` raise NoCardKey at
    the first card number when there is no key. A date without a time begins in `timezone`.
    """

    def __init__(
        self,
        lists: ListStore,
        target: ListTarget,
        note: Note,
        *,
        key: CardKey | None = None,
        take_pans: bool = False,
        timezone: str = DEFAULT_TIMEZONE,
    ) -> None:
        self._lists = lists
        self._target = target
        self._salt = target.salt
        self._note = note
        self._key = key
        self._take_pans = take_pans
        self._timezone = timezone
        self._now_us = lists.clock_us()
        self._heading: Heading | None = None
        self._unclear = False
        self._rest = b""
        self._line = 0
        self._values = 0
        self._wrong = 0
        self._problems: list[tuple[int, str]] = []
        self._rows: list[tuple[str | int | None, ...]] = []
        self._connection = store.open_database(lists.path, create=False, schema=LISTS, busy_timeout_ms=BUSY_MS).conn
        try:
            self._connection.execute("PRAGMA temp_store = FILE")
            self._connection.execute(
                "CREATE TEMP TABLE staged (hash INTEGER, value TEXT, reason TEXT, ticket TEXT, author TEXT,"
                " expires_us INTEGER, key_id TEXT, version INTEGER, length INTEGER, low INTEGER, high INTEGER)"
            )
        except BaseException:
            self._connection.close()
            raise

    # ---- lines --------------------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """Reads the lines that the chunk completes. Never keeps more than a line and a batch of rows."""
        text = self._rest + chunk
        lines = text.split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._read_line(line)
        if len(self._rest) > 2 * MAX_LINE_BYTES:
            self._rest = self._rest[: MAX_LINE_BYTES + 1]  # the line is too long, whatever follows

    def _read_line(self, raw: bytes) -> None:
        self._line += 1
        if self._line == 1:
            raw = raw.removeprefix(_BOM)
        raw = raw.rstrip(b"\r")
        if not raw.strip() or self._unclear:  # without its columns no line can be read
            return None
        if len(raw) > MAX_LINE_BYTES:
            return self._report(f"longer than {MAX_LINE_BYTES} bytes")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return self._report("is not UTF-8 text (is the file Latin-1 or UTF-16? save it as UTF-8)")
        if "\r" in text:
            return self._report("holds a carriage return; lines end with LF or CR LF")
        try:
            if self._heading is None:
                self._heading = self._read_heading(text)
                if self._heading.columns:
                    return None
                self._heading.columns = {name: place for place, name in enumerate(COLUMNS)}
            self._stage(self._heading, split_line(text, self._heading.delimiter))
        except InvalidTransaction as error:
            self._report(error.problem if error.field == "value" else f"{error.field}: {error.problem}")
        return None

    def _read_heading(self, text: str) -> Heading:
        try:
            return read_heading(text, self._target)
        except UnclearHeading:
            self._unclear = True
            raise
        except InvalidEntry:
            return Heading(delimiter_of(text))  # to be said of the line as of any other

    def _report(self, problem: str) -> None:
        self._wrong += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append((self._line, problem))

    def _stage(self, heading: Heading, cells: list[str]) -> None:
        if len(cells) > max(heading.columns.values()) + 1:
            raise InvalidEntry(
                "value", "has more columns than expected; a text with a comma stands in double quotes"
            )
        row = {name: cells[place].strip() for name, place in heading.columns.items() if place < len(cells)}
        for name in ("reason", "ticket", "author"):
            problem = note_problem(row.get(name, ""))
            if problem:
                raise InvalidEntry(name, problem)
        reason, ticket = row.get("reason") or self._note.reason, row.get("ticket") or self._note.ticket
        author = sign(row["author"]) if row.get("author") else self._note.author
        expires_us = self._read_expiry(row.get("expires", ""))
        value = self._read_value(row)
        self._values += 1
        if self._wrong:
            return
        network = network_row(value) if self._target.kind is ListKind.IP else (None, None, None, None)
        mixed = value_hash(value) ^ self._salt
        key_id = key_id_of(self._target, value)
        self._rows.append((mixed, value, reason, ticket, author, expires_us, key_id, *network))
        if len(self._rows) >= _BATCH:
            self._flush()

    def _read_value(self, row: dict[str, str]) -> str:
        pan = row.get("pan", "")
        if pan and self._target.kind is not ListKind.CARD:
            raise InvalidEntry("pan", "goes into lists of cards only")
        if not pan and not row.get("value"):
            raise InvalidEntry("value", "is empty")
        text = row.get("value", "")
        if self._target.kind is ListKind.CARD:
            if not pan and self._take_pans and text[:1].isdigit():
                pan = text
            if pan and not is_fingerprint(pan):
                number = Pan.parse(pan, "pan")
                if self._key is None:
                    raise NoCardKey("there is no card key, so no fingerprint can be made")
                return number.fingerprint(self._key)
        return read_value(self._target.kind, text or pan)

    def _read_expiry(self, text: str) -> int | None:
        return read_expiry(text, self._now_us, self._timezone) if text else None

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        # One statement for a thousand rows: see runtime_lists._load.
        fields = ", ".join(f"value ->> {place}" for place in range(11))
        self._connection.execute(
            f"INSERT INTO staged SELECT {fields} FROM json_each(?)", (orjson.dumps(rows).decode(),)
        )

    # ---- the end ------------------------------------------------------------------------------------

    def commit(self) -> ImportReport:
        """Takes every line over in one transaction. Raises ImportRefused, with nothing taken, when any is wrong."""
        if self._rest:
            last, self._rest = self._rest, b""
            self._read_line(last)
        if self._wrong:
            raise ImportRefused(self._problems, self._wrong)
        try:
            if self._rows:
                self._flush()
            report = self._take_over()
        except sqlite3.Error as error:
            raise store.explain_error(error, self._lists.path) from error
        self._lists.publish()
        self._lists.checkpoint_if_due()
        return report

    def _take_over(self) -> ImportReport:
        run = self._connection.execute
        # Sorted before the lock is taken: index pages are then written one after the other, and once each.
        run("CREATE TEMP TABLE sorted AS SELECT *, min(rowid) FROM staged GROUP BY hash, value")
        run("CREATE INDEX temp.sorted_hash ON sorted (hash)")
        distinct = int(run("SELECT count(*) FROM sorted").fetchone()[0])
        names = (self._target.scope, self._target.name, self._target.kind.value)
        run("BEGIN IMMEDIATE")
        run("INSERT INTO lists (scope, name, kind) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", names)
        list_id = int(run("SELECT id FROM lists WHERE scope = ? AND name = ? AND kind = ?", names).fetchone()[0])
        newest = run("SELECT at_us FROM changes ORDER BY id DESC LIMIT 1").fetchone()
        now_us = max(self._lists.clock_us(), newest[0] + 1 if newest else 0)
        before = int(run("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0])
        # Left to itself SQLite takes the index of the list, and reads all of it for each row.
        added = run(
            "INSERT INTO entries (list_id, hash, value, reason, ticket, author, added_us, expires_us, key_id)"
            " SELECT ?, hash, value, reason, ticket, author, ?, expires_us, key_id FROM sorted s WHERE NOT EXISTS ("
            "  SELECT 1 FROM entries e INDEXED BY entries_hash"
            "  WHERE e.hash = s.hash AND e.value = s.value AND e.list_id = ?"
            "  AND e.removed_us IS NULL AND (e.expires_us IS NULL OR e.expires_us > ?))",
            (list_id, now_us, list_id, now_us),
        ).rowcount
        if self._target.kind is ListKind.IP:
            run(
                "INSERT INTO networks SELECT e.id, e.list_id, s.version, s.length, s.low, s.high"
                " FROM entries e CROSS JOIN sorted s ON s.hash = e.hash AND s.value = e.value WHERE e.id > ?",
                (before,),
            )
        if added:
            run(
                "INSERT INTO changes (at_us, what, list_id, first_entry, last_entry) VALUES (?, 'import', ?, ?, ?)",
                (now_us, list_id, before + 1, before + added),
            )
        told = {"list": self._target.name, "entries": added, "entry": before + 1, "to_entry": before + added}
        told |= {"reason": self._note.reason, "ticket": self._note.ticket, "author": self._note.author}
        row = AuditRow("lists.import", who_acts(), told, self._target.scope)
        with self._lists.audit.change(row) if added else nullcontext():
            run("COMMIT")
        return ImportReport(self._line, added, distinct - added, self._values - distinct)

    def close(self) -> None:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._connection.close()

    def __enter__(self) -> ListImport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def import_entries(
    lists: ListStore,
    target: ListTarget,
    chunks: Iterable[bytes],
    note: Note,
    *,
    key: CardKey | None = None,
    take_pans: bool = False,
    timezone: str = DEFAULT_TIMEZONE,
) -> ImportReport:
    """A whole import. Raises ImportRefused, NoCardKey, StoreUnavailable; then nothing was taken."""
    with ListImport(lists, target, note, key=key, take_pans=take_pans, timezone=timezone) as under_way:
        for chunk in chunks:
            under_way.feed(chunk)
        return under_way.commit()


def read_expiry(text: str, now_us: int, timezone: str) -> int:
    """The instant at which an entry expires; a date is its midnight in `timezone`, as in the rule files.

    Raises InvalidEntry when it is none or not in the future.
    """
    expires_us = read_time(text, timezone)
    if expires_us is None:
        raise InvalidEntry(
            "expires", "is a date, or a time with its zone, as in 2027-02-01 or 2027-02-01T10:15:00Z"
        )
    if expires_us <= now_us:
        raise InvalidEntry("expires", "is in the past, so the entry would never be in force")
    return expires_us


def lines_of(entries: Iterable[Iterable[str]]) -> Iterator[str]:
    """Rows as CSV lines, in the form that an import reads."""
    buffer: list[str] = []

    class _Lines:
        def write(self, text: str) -> None:
            buffer.append(text)

    writer = csv.writer(_Lines(), lineterminator="\n")
    for row in entries:
        writer.writerow(row)
        yield "".join(buffer)
        buffer.clear()
