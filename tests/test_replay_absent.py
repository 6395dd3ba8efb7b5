"""How many rows give a fact is the same, told by the files of a history or counted."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudengine.replay.engines import read_parquet_sql
from fraudengine.replay.silenced import count_known

HELD = ("card", "card_bin", "email", "card_type")
CHOICES: dict[tuple[str, ...], list[str]] = {(one, other): [one, other] for one in HELD for other in HELD}
CHOICES[("phone",)] = []
FIRST = pa.table(
    {
        "merchant": ["a", "a", "b", "b"],
        "card": ["x", None, None, "y"],
        "card_bin": ["4", "4", "5", "5"],
        "email": [None, "m", "m", None],
        "card_type": pa.array([None] * 4, pa.string()),
    }
)
SECOND = pa.table({"merchant": ["a", "b"], "card": ["x", None], "card_bin": ["4", "5"]})


@pytest.mark.parametrize("merchants", [["a", "b"], ["b"]], ids=["of all merchants", "of one merchant"])
@pytest.mark.parametrize("told", [True, ["merchant", "card_bin"], False], ids=["told", "partly told", "not told"])
def test_counts_of_known_values(tmp_path: Path, told: bool | list[str], merchants: list[str]) -> None:
    files = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for file, table in zip(files, (FIRST, SECOND), strict=True):
        pq.write_table(table, file, write_statistics=told, row_group_size=3)
    rows = [row for table in (FIRST, SECOND) for row in table.to_pylist() if row["merchant"] in merchants]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW history AS SELECT * FROM {read_parquet_sql(files)}")
        transactions, known = count_known(connection, merchants, CHOICES, files)
    assert transactions == len(rows)
    assert known == {
        key: sum(any(row.get(name) is not None for name in names) for row in rows) for key, names in CHOICES.items()
    }
