"""stub"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..config import Config
from .engines import Progress
from .result import ReplayTable


@dataclass(frozen=True, slots=True)
class History:
    files: tuple[Path, ...]
    columns: frozenset[str]
    transactions: int
    rejected: int = 0
    rejects_file: Path | None = None
    rejects: list[dict[str, object]] = field(default_factory=list)

    def rejects_table(self) -> ReplayTable:
        schema = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string())])
        return ReplayTable("rejects", pa.Table.from_pylist(self.rejects, schema=schema))


def open_history(
    given: Path | str | Sequence[Path | str],
    work: Path,
    config: Config,
    *,
    mapping: Path | str | None,
    rejects: Path | str | None,
    progress: Progress,
) -> History:
    paths = [Path(given)] if isinstance(given, (str, Path)) else [Path(p) for p in given]
    names = frozenset(n for p in paths for n in pq.read_schema(p).names)
    return History(tuple(paths), names, sum(pq.read_metadata(p).num_rows for p in paths))
