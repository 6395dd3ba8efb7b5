"""The files of the archive, `archive/screenings-YYYY-MM.parquet`: their names, months and rows (see `archive`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias

from . import store
from .diagnostics import ConfigurationError, StoreUnavailable
from .search_index import first_id_at

DIRECTORY: Final = "archive"
FORMAT_KEY: Final = b"fraudengine.archive"
FORMAT: Final = b"1"
MAX_ID: Final = (1 << 63) - 1
_NAME: Final = re.compile(r"screenings-(\d{4}-(?:0[1-9]|1[0-2]))(?:\.(\d+))?\.parquet").fullmatch

Row: TypeAlias = dict[str, Any]


def load_pyarrow() -> tuple[ModuleType, ModuleType]:
    """pyarrow and its Parquet module; raises ConfigurationError with what to install."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError("archives need the extra: pip install 'fraudengine[replay]'") from None
    return pyarrow, pyarrow.parquet


def pyarrow_for(paths: Sequence[Path]) -> tuple[ModuleType, ModuleType]:
    """The same to read these files with; the error names them."""
    try:
        return load_pyarrow()
    except ConfigurationError as error:
        raise ConfigurationError(f"{names_of(paths)} cannot be read here: {error}") from None


def names_of(paths: Sequence[Path]) -> str:
    """The first file's name and the last one's, for a sentence."""
    return f"{paths[0].name} to {paths[-1].name}" if len(paths) > 1 else paths[0].name


def month_of(screening_id: int) -> str:
    """The month (UTC) in which the screening with this id was answered."""
    milliseconds = screening_id >> store.WORKER_BITS + store.COUNTER_BITS
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m")


def ids_of_month(month: str) -> tuple[int, int]:
    """The first id of a month, and that of the month after it."""
    year, number = map(int, month.split("-"))
    begins = datetime(year, number, 1, tzinfo=UTC)
    ends = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return first_id_at(int(begins.timestamp()) * 1_000_000), first_id_at(int(ends.timestamp()) * 1_000_000)


def archive_files(state: Path, month: str | None = None) -> list[Path]:
    """The files of the archive, or of one month of it, in the order in which they were made."""
    return files_in(state / DIRECTORY, month)


def files_in(directory: Path, month: str | None = None) -> list[Path]:
    """The same of a directory that holds an archive."""
    found = []
    for path in directory.glob("screenings-*.parquet"):
        named = _NAME(path.name)
        if named is not None and month in (None, named[1]):
            found.append((named[1], int(named[2] or 1), path))
    return [path for _, _, path in sorted(found)]


def months_in(directory: Path, low: int, high: int) -> list[list[Path]]:
    """The files of each month that reaches into the ids `[low, high)`, oldest first."""
    months: dict[str, list[Path]] = {}
    for path in files_in(directory):
        first, after = ids_of_month(month_of_file(path))
        if first < high and after > low:
            months.setdefault(month_of_file(path), []).append(path)
    return [months[month] for month in sorted(months)]


def month_of_file(path: Path) -> str:
    named = _NAME(path.name)
    if named is None:
        raise ValueError(f"{path} is no file of an archive")
    return named[1]


def archived_before_us(state: Path) -> int | None:
    """The end of the newest month of which there is a file, UTC microseconds; None without an archive."""
    paths = archive_files(state)
    return answered_us(ids_of_month(month_of_file(paths[-1]))[1]) if paths else None


def answered_us(screening_id: int) -> int:
    """When the screening with this id was answered, to the millisecond."""
    return (screening_id >> store.WORKER_BITS + store.COUNTER_BITS) * 1000


@contextmanager
def opened_file(path: Path) -> Iterator[Any]:
    """An archive file, open for reading. Raises StoreUnavailable, also for what is read from it meanwhile."""
    arrow, parquet = pyarrow_for([path])
    try:
        with parquet.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(FORMAT_KEY) != FORMAT:
                raise StoreUnavailable(f"{path} is no archive that this release reads")
            yield file
    except (OSError, arrow.ArrowException) as error:
        raise StoreUnavailable(f"{path} cannot be read: {error}; bring a copy of it back") from error


def groups_of(file: Any, low: int, high: int) -> list[int]:
    """The row groups that may hold screenings with ids in `[low, high)`, in order."""
    found = []
    for group in range(file.metadata.num_row_groups):
        bounds = file.metadata.row_group(group).column(0).statistics
        if bounds is None or (bounds.min < high and bounds.max >= low):
            found.append(group)
    return found


def rows_of_file(
    path: Path, low: int = 0, high: int = MAX_ID, columns: Sequence[str] | None = None
) -> Iterator[list[Row]]:
    """The rows of an archive file, a group at a time, of the groups that reach into the ids `[low, high)`.

    Raises StoreUnavailable.
    """
    with opened_file(path) as file:
        for group in groups_of(file, low, high):
            yield file.read_row_group(group, columns=None if columns is None else list(columns)).to_pylist()


def count_rows(path: Path, low: int, high: int) -> int:
    """About how many rows of a file have ids in `[low, high)`."""
    with opened_file(path) as file:
        return sum(file.metadata.row_group(group).num_rows for group in groups_of(file, low, high))


def find_archived(state: Path, screening_id: int) -> Row | None:
    """The archived row of a screening, None when the archive has none; reads one row group of a file.

    Raises StoreUnavailable; ConfigurationError when there is a file of its month and no pyarrow to read it.
    """
    paths = archive_files(state, month_of(screening_id))
    if not paths:
        return None
    for path in reversed(paths):
        with opened_file(path) as file:
            for group in groups_of(file, screening_id, screening_id + 1):
                ids = file.read_row_group(group, columns=["id"]).column(0).to_pylist()
                if screening_id in ids:
                    row: Row = file.read_row_group(group).slice(ids.index(screening_id), 1).to_pylist()[0]
                    return row
    return None
