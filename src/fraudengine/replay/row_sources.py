"""Rows of an input file, one by one, with the line of each; of a row that is broken the reason instead."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias
from zipfile import BadZipFile

import pyarrow as pa
import pyarrow.parquet as pq

from .. import archive_reading, store
from ..diagnostics import FraudengineError, StoreUnavailable
from ..late_outcomes import late_outcomes
from .mapping import FieldMapping

Row: TypeAlias = tuple[int, Mapping[str, Any] | str]
_SUFFIXES: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".db": "log",
    ".sqlite": "log",
}


class InputUnreadable(FraudengineError):
    """An input file cannot be read at all; the message says why."""


def format_of(path: Path) -> str:
    """The format by a file's name; raises InputUnreadable."""
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise InputUnreadable(f"{path}: no known kind of file; known are {', '.join(sorted(_SUFFIXES))}")
    return "log" if found == "parquet" and _is_archive(path) else found


def _is_archive(path: Path) -> bool:
    """Whether the file is a month that `fraudengine log archive` made: documents, as in the log."""
    try:
        return bool((pq.read_schema(path).metadata or {}).get(archive_reading.FORMAT_KEY) == archive_reading.FORMAT)
    except (pa.ArrowException, OSError):
        return False


def rows_of(path: Path, kind: str, mapping: FieldMapping) -> Iterator[Row]:
    """Line number and row, or line number and what is wrong with it. Raises InputUnreadable."""
    try:
        match kind:
            case "csv":
                yield from _csv_rows(path, mapping)
            case "jsonl" | "json":
                yield from _json_rows(path)
            case "parquet":
                yield from _parquet_rows(path)
            case "xlsx":
                yield from _xlsx_rows(path)
            case _ if path.suffix.lower() == ".parquet":
                yield from _archive_rows(path)
            case _:
                yield from _log_rows(path)
    except OSError as error:
        raise InputUnreadable(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        hint = "write its encoding into the mapping, such as `csv: {encoding: cp1252}`" if kind == "csv" else ""
        raise InputUnreadable(
            f"{path} is no {error.encoding} text: save it as UTF-8" + (f", or {hint}" if hint else "")
        ) from None
    except csv.Error as error:
        raise InputUnreadable(f"{path} cannot be read: {error}") from None


def _csv_rows(path: Path, mapping: FieldMapping) -> Iterator[Row]:
    encoding = "utf-8-sig" if mapping.encoding.lower() in ("utf-8", "utf8") else mapping.encoding
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=mapping.delimiter, strict=True)
        header = next(reader, None)
        if header is None:
            raise InputUnreadable(f"{path} is empty")
        names = [name.strip() for name in header]
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, f"is no CSV: {error}"
                continue
            if not any(values):
                continue
            if len(values) != len(names):
                yield reader.line_num, f"has {len(values)} columns, and the header {len(names)}"
            else:
                yield reader.line_num, dict(zip(names, values, strict=True))


def _json_rows(path: Path) -> Iterator[Row]:
    """An array, one object, or one object a line."""
    with path.open(encoding="utf-8-sig") as file:
        beginning = file.read(1)
        while beginning and beginning.isspace():
            beginning = file.read(1)
        file.seek(0)
        if beginning == "[":
            try:
                values = json.load(file)
            except ValueError as error:
                raise InputUnreadable(f"{path} is no JSON: {_said(error)}") from None
            yield from ((number, _object(value)) for number, value in enumerate(values, start=1))
            return
        lines = 0
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            lines += 1
            try:
                value = json.loads(line)
            except ValueError as error:
                if lines == 1 and number == 1:
                    whole = _one_object(line + file.read())
                    if whole is not None:
                        yield 1, whole
                        return
                yield number, f"is no JSON: {_said(error)}"
            else:
                yield number, _object(value)


def _one_object(text: str) -> Mapping[str, Any] | None:
    """The object that a file of several lines holds; of `{"orders": [...]}` nothing."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _object(value: object) -> Mapping[str, Any] | str:
    return value if isinstance(value, dict) else "is no JSON object"


def _said(error: ValueError) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "cannot be read"


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise InputUnreadable(f"{path} is no Parquet file: {error}") from None
    number = 0
    with file:
        for batch in file.iter_batches(batch_size=10_000):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _xlsx_rows(path: Path) -> Iterator[Row]:
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise InputUnreadable("reading XLSX needs the extra: pip install 'fraudengine[replay]'") from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, BadZipFile, KeyError, ValueError) as error:
        raise InputUnreadable(f"{path} is no XLSX file: {error}") from None
    with closing(book):
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = next(rows, None)
        if header is None:
            raise InputUnreadable(f"{path} is empty")
        names = ["" if name is None else str(name).strip() for name in header]
        for number, values in enumerate(rows, start=2):
            if any(value is not None for value in values):
                yield number, dict(zip(names, values, strict=False))


def _log_rows(path: Path) -> Iterator[Row]:
    """Documents of a decision log in the order in which they were recorded, with what was reported afterwards."""
    if not path.exists():
        raise InputUnreadable(f"there is no file {path}")
    with closing(store.open_database(path, query_only=True).conn) as connection:
        reports = "SELECT screening_id, at_us, kind FROM outcomes ORDER BY id"
        reported: dict[int, tuple[int, str]] = {}
        try:
            for screening_id, at_us, kind in connection.execute(reports):
                if reported.get(screening_id, (0, ""))[1] != "technical_failure":  # final, as counters have it
                    reported[screening_id] = (at_us, kind)
        except sqlite3.OperationalError:
            reported = {}  # a log from before outcomes were reported
        rows = connection.execute("SELECT id, answered_us, document FROM screenings ORDER BY id")
        for number, (screening_id, answered_us, document) in enumerate(rows, start=1):
            row = json.loads(document)
            row["answered_us"] = answered_us
            if screening_id in reported:
                row["labelled_us"], row["label"] = reported[screening_id]
            yield number, row


def _archive_rows(path: Path) -> Iterator[Row]:
    """The same of a month that was archived; a file in its place beside the log is read with what came later."""
    number = 0
    try:
        late = _reported_since(path)
        for batch in archive_reading.rows_of_file(path):
            for archived in batch:
                number += 1
                row = json.loads(archived["document"])
                row["answered_us"] = archived["answered_us"]
                for report in (*archived["outcomes"], *late.get(archived["id"], ())):
                    if row.get("label") != "technical_failure":  # final, as counters have it
                        row["labelled_us"], row["label"] = report["at_us"], report["kind"]
                yield number, row
    except StoreUnavailable as error:
        raise InputUnreadable(str(error)) from None


def _reported_since(path: Path) -> dict[int, list[dict[str, Any]]]:
    """What was reported of a month after it was archived, by screening, when the file lies where it was made."""
    directory = path.resolve().parent
    if path.resolve() not in archive_reading.files_in(directory) or directory.name != archive_reading.DIRECTORY:
        return {}
    bounds = archive_reading.ids_of_month(archive_reading.month_of_file(path))
    return late_outcomes(directory.parent / "decisions.db", *bounds)
