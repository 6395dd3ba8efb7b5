"""Look-ups as columns: the form for DuckDB and the form for engines without its ASOF join find the same."""

from __future__ import annotations

import random

import duckdb
import pyarrow as pa

from fraudengine.backends.columnar import Dialect, ip_key, table_named, to_sql
from fraudengine.backends.columnar_enrich import IP_BUCKET, address_countries


def _ranges(rng: random.Random, count: int) -> pa.Table:
    """Ranges with holes between them, in both versions, none across a bucket."""
    rows = []
    for version, digits, shift in ((4, 8, 24), (6, 32, 112)):
        for bucket in range(3):
            bounds = sorted({rng.randrange(1 << min(shift, 12)) for _ in range(2 * count)})
            for low, high in zip(bounds[::2], bounds[1::2], strict=False):
                keys = [ip_key(version, ((40 + bucket) << shift) + place) for place in (low, high)]
                assert len(keys[0]) == digits + 1
                rows.append((keys[0][: IP_BUCKET[str(version)]], *keys, rng.choice(["TN", "FR", "NG"])))
    return pa.table(
        dict(zip(("bucket", "low", "high", "country"), map(list, zip(*rows, strict=True)), strict=True))
    )


def test_both_forms_find_each_address_in_its_range() -> None:
    rng = random.Random(3)
    ranges = _ranges(rng, 40)
    edges = [*ranges["low"].to_pylist(), *ranges["high"].to_pylist()]
    others = [ip_key(4, (39 << 24) + place) for place in range(5)]
    others += [ip_key(4, ((40 + rng.randrange(4)) << 24) + rng.randrange(1 << 12)) for _ in range(300)]
    others += [ip_key(6, ((40 + rng.randrange(4)) << 112) + rng.randrange(1 << 12)) for _ in range(300)]
    asked = pa.table({"ip_key": pa.array([*edges, *others, *edges[:9], None], pa.string())})
    expected = {
        key: country
        for key in asked["ip_key"].to_pylist()
        for _, low, high, country in zip(*(ranges[name].to_pylist() for name in ranges.column_names), strict=True)
        if key is not None and low <= key <= high
    }
    assert len(expected) > len(edges)
    with duckdb.connect() as connection:
        connection.register("asked", asked)
        connection.register("ranges", ranges)
        for form in Dialect:
            query = address_countries(
                table_named("asked", asked.schema), table_named("ranges", ranges.schema), form
            ).select("found_key", "ip_country")
            rows = connection.sql(to_sql(query, Dialect.DUCKDB)).fetchall()
            assert len(rows) == len(expected)
            assert dict(rows) == expected
