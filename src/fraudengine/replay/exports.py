"""Every table of a replay as files: CSV, JSON, Parquet, or one XLSX workbook; the directory is whole or absent.

The directory is written under another name beside its own and renamed at the end, so that an interruption or a full
disk leaves nothing of it. Flips are not those that are listed but all of them, explained and written a few thousand
at a time; memory does not grow with their number.

Money is `minor`, integer minor units of `currency`; CSV and XLSX, which people open, have `amount` in major units
beside it. `about.json` says this, what was replayed, and the columns and types of every table. In CSV and XLSX a
list of texts is joined by ` | `. A text that a spreadsheet would take for a formula (`=`, `+`, `-`, `@`, tab, line
feed first) gets an apostrophe before it in CSV, where nothing else says that it is text; XLSX types it as text.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..cards import hide_pans
from ..diagnostics import FraudengineError
from ..money import EXPONENTS, format_minor
from .result import ReplayResult, ReplayTable

FORMS: Final = ("csv", "xlsx", "parquet", "json")
ABOUT: Final = "about.json"
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_SHEET_ROWS: Final = 1_048_576
_JOINT: Final = " | "


class ExportRefused(FraudengineError):
    """The directory cannot take the export; the message says why."""


class Writer(Protocol):
    """Writes tables one after the other, each in batches of rows."""

    def write(self, table: ReplayTable, batches: Iterable[pa.RecordBatch]) -> int:
        """The number of rows that were written."""
        ...

    def close(self) -> None:
        """Ends well."""
        ...

    def abandon(self) -> None:
        """Lets go of what is open; the files are thrown away with their directory."""
        ...


def check_export_directory(directory: Path) -> None:
    """Raises ExportRefused when there is something that an export would have to overwrite."""
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if directory.exists() or directory.is_symlink():
        raise ExportRefused(f"{directory} exists already; name a directory that does not, or an empty one")


def export(
    result: ReplayResult,
    directory: Path,
    form: str = "csv",
    progress: Callable[[str, float], None] = lambda phase, fraction: None,
) -> dict[str, int]:
    """Writes every table of the result below `directory`; gives the number of rows of each.

    Raises ExportRefused, and OSError when the disk is full.
    """
    make = _WRITERS.get(form)
    if make is None:
        raise ExportRefused(f"`{form}` is no form of export; there is {', '.join(FORMS)}")
    check_export_directory(directory)
    with _whole_directory(directory) as draft:
        writer, written = make(draft), {}
        try:
            for name, table in result.tables.items():
                batches: Iterable[pa.RecordBatch] = table.arrow.to_batches()
                if name == "flips":
                    batches = _watched(result.all_flips(), result.summary.flips, progress)
                written[name] = writer.write(table, batches)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        about = json.dumps(_about(result, form, written), default=str, indent=2, ensure_ascii=False)
        (draft / ABOUT).write_text(about + "\n", encoding="utf-8")
    return written


@contextmanager
def _whole_directory(directory: Path) -> Iterator[Path]:
    draft = directory.with_name(f".{directory.name}.{os.getpid()}.part")
    try:
        draft.mkdir(parents=True)
        yield draft
        os.replace(draft, directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _watched(
    batches: Iterator[pa.RecordBatch], whole: int, progress: Callable[[str, float], None]
) -> Iterator[pa.RecordBatch]:
    done = 0
    for batch in batches:
        yield batch
        done += batch.num_rows
        progress("exporting flips", done / max(whole, 1))


def _about(result: ReplayResult, form: str, written: Mapping[str, int]) -> dict[str, Any]:
    spread = form in ("csv", "xlsx")
    currencies = sorted(set(result.matrix.arrow["currency"].to_pylist()))
    return {
        "summary": asdict(result.summary),
        "money": {
            "minor": "integer minor units of the row's currency; minor_by_currency the same for several currencies",
            **({"amount": "the same in major units, with a decimal point"} if spread else {}),
            "decimals": {code: EXPONENTS[code] for code in currencies if code in EXPONENTS},
        },
        "times": "UTC; days are days of UTC",
        "tables": {
            name: {
                "help": table.help,
                "rows": written[name],
                "columns": {
                    column: "decimal"
                    if column == "amount" and column not in table.arrow.schema.names
                    else str(table.arrow.schema.field(column).type)
                    for column in (_columns(table.arrow.schema) if spread else table.arrow.schema.names)
                },
            }
            for name, table in result.tables.items()
        },
    }


# ---- rows for people ------------------------------------------------------------------------------


def _has_amount(schema: pa.Schema) -> bool:
    return {"currency", "minor"} <= set(schema.names) and "amount" not in schema.names


def _columns(schema: pa.Schema) -> list[str]:
    """The columns of a table in CSV and XLSX."""
    names = list(schema.names)
    if _has_amount(schema):
        names.insert(names.index("minor") + 1, "amount")
    return names


def _rows(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[list[Any]]:
    """Rows in the order of `_columns`: texts, numbers, dates and times, None."""
    names, add = _columns(schema), _has_amount(schema)
    for batch in batches:
        for row in batch.to_pylist():
            if add:
                minor, currency = row["minor"], row["currency"]
                row["amount"] = None if minor is None or currency not in EXPONENTS else _Amount(minor, currency)
            yield [_plain(row[name]) for name in names]


class _Amount(str):
    """An amount in major units, a number and no text of anybody's: `-12.500`."""

    def __new__(cls, minor: int, currency: str) -> _Amount:
        return super().__new__(cls, format_minor(minor, currency))


def _plain(value: Any) -> Any:
    if isinstance(value, _Amount):
        return value
    if isinstance(value, str):
        return hide_pans(value)
    if isinstance(value, (list, tuple, dict)):
        items = value.items() if isinstance(value, dict) else value
        return hide_pans(_JOINT.join(_item(item) for item in items))
    return value


def _item(item: Any) -> str:
    if isinstance(item, tuple) and len(item) == 2 and item[0] in EXPONENTS:
        return f"{item[0]} {format_minor(item[1], item[0])}"
    return str(item)


class _Csv:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, table: ReplayTable, batches: Iterable[pa.RecordBatch]) -> int:
        number = 0
        with (self._directory / f"{table.name}.csv").open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\r\n")  # as in RFC 4180; a lone return is quoted then
            lines.writerow(_columns(table.arrow.schema))
            for row in _rows(table.arrow.schema, batches):
                lines.writerow([self._cell(value) for value in row])
                number += 1
        return number

    @staticmethod
    def _cell(value: Any) -> Any:
        if isinstance(value, _Amount):
            return str(value)
        if isinstance(value, str):
            return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
        if isinstance(value, bool):
            return "true" if value else "false"
        return _time_text(value) if isinstance(value, date) else value

    def close(self) -> None:
        """Nothing is open between tables."""

    def abandon(self) -> None:
        """Nothing is open between tables."""


def _time_text(value: date) -> str:
    if not isinstance(value, datetime):
        return value.isoformat()
    return value.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class _Json:
    """Each table is an array with one row a line; lists stay lists, amounts by currency become objects."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, table: ReplayTable, batches: Iterable[pa.RecordBatch]) -> int:
        number = 0
        with (self._directory / f"{table.name}.json").open("w", encoding="utf-8", newline="\n") as file:
            file.write("[")
            for batch in batches:
                for row in batch.to_pylist():
                    file.write(",\n" if number else "\n")
                    file.write(json.dumps(json_row(row), ensure_ascii=False))
                    number += 1
            file.write("\n]\n")
        return number

    def close(self) -> None:
        """Nothing is open between tables."""

    def abandon(self) -> None:
        """Nothing is open between tables."""


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table as JSON has it: times as text in UTC, amounts by currency as an object."""
    return {name: _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, str):
        return hide_pans(value)
    if isinstance(value, date):
        return _time_text(value)
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return {str(key): _json_value(item) for key, item in value}
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    return value


def hide_in(value: Any) -> Any:
    """The value with no card number in any text of it, however deep it lies."""
    match value:
        case str():
            return hide_pans(value)
        case list():
            return [hide_in(item) for item in value]
        case tuple():  # an entry of a map
            return tuple(hide_in(item) for item in value)
        case dict():
            return {hide_in(key): hide_in(item) for key, item in value.items()}
    return value


class _Parquet:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, table: ReplayTable, batches: Iterable[pa.RecordBatch]) -> int:
        schema, number = table.arrow.schema, 0
        with pq.ParquetWriter(self._directory / f"{table.name}.parquet", schema, compression="zstd") as file:
            for batch in batches:
                rows = [{name: hide_in(value) for name, value in row.items()} for row in batch.to_pylist()]
                file.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                number += batch.num_rows
        return number

    def close(self) -> None:
        """Nothing is open between tables."""

    def abandon(self) -> None:
        """Nothing is open between tables."""


class _Xlsx:
    """One workbook, a sheet for each table, and further sheets where a table has more rows than a sheet."""

    def __init__(self, directory: Path, sheet_rows: int = _SHEET_ROWS) -> None:
        from openpyxl import Workbook

        self._path, self._sheet_rows = directory / "replay.xlsx", sheet_rows
        self._book = Workbook(write_only=True)

    def write(self, table: ReplayTable, batches: Iterable[pa.RecordBatch]) -> int:
        number, sheets, sheet, left = 0, 1, self._sheet(table, 1), self._sheet_rows - 1
        for row in _rows(table.arrow.schema, batches):
            if not left:
                sheets += 1
                sheet, left = self._sheet(table, sheets), self._sheet_rows - 1
            sheet.append([self._cell(sheet, value) for value in row])
            left -= 1
            number += 1
        return number

    def _sheet(self, table: ReplayTable, number: int) -> Any:
        name = table.name[:25] if number == 1 else f"{table.name[:25]} {number}"
        sheet = self._book.create_sheet(name)
        sheet.freeze_panes = "A2"
        sheet.append(_columns(table.arrow.schema))
        return sheet

    @staticmethod
    def _cell(sheet: Any, value: Any) -> Any:
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

        if isinstance(value, _Amount):
            cell = WriteOnlyCell(sheet, float(value))
            cell.number_format = "#,##0." + "0" * len(value.partition(".")[2]) if "." in value else "#,##0"
            return cell
        if isinstance(value, datetime):
            return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        if isinstance(value, str):
            cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", value))
            cell.data_type = "s"  # else a text that begins with `=` becomes a formula
            return cell
        return value

    def close(self) -> None:
        self._book.save(self._path)

    def abandon(self) -> None:
        for sheet in self._book.worksheets:
            with suppress(OSError, ValueError):  # its working file may be on the disk that is full
                sheet.close()


_WRITERS: Final[Mapping[str, Callable[[Path], Writer]]] = {
    "csv": _Csv,
    "json": _Json,
    "parquet": _Parquet,
    "xlsx": _Xlsx,
}
