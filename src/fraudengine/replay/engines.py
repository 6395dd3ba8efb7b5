"""Where the queries of a replay run: DuckDB inside this process, or Spark, on one machine or many.

Both read the history from Parquet and hand the decisions to DuckDB, in which every table of the result is made.
"""

from __future__ import annotations

import socket
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..backends.columnar import Dialect, Expr, to_sql
from ..diagnostics import FraudengineError

Progress: TypeAlias = Callable[[str, float], None]
DECIDED = "decided"
_CONNECT_S = 5.0


class EngineUnavailable(FraudengineError):
    """The engine that was asked for cannot run here; the message says why and what to do."""


class Engine(Protocol):
    """Runs queries of one dialect."""

    connection: duckdb.DuckDBPyConnection
    dialect: Dialect
    phase: str  # what progress is told of

    def add_parquet(self, name: str, paths: Sequence[Path]) -> None:
        """Makes files known as a table."""
        ...

    def add_tables(self, tables: Mapping[str, pa.Table]) -> None: ...

    def store(self, name: str, query: Expr) -> None:
        """Runs a query and keeps its rows as a table."""
        ...

    def drop(self, name: str) -> None: ...

    def fetch(self, query: Expr) -> pa.Table: ...

    def decide(self, query: Expr, fraction: tuple[float, float], into: str = DECIDED) -> None:
        """Adds the rows of a query to the decisions; the fractions are where progress begins and ends."""
        ...

    def close(self) -> None: ...


def open_duckdb(work: Path, memory_limit: str | None, threads: int | None) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that spills below `work` when it reaches its limit."""
    connection = duckdb.connect(":memory:")
    connection.execute(f"SET temp_directory = '{_quoted(work / 'spill')}'")
    connection.execute("SET preserve_insertion_order = false")
    # A notebook without ipywidgets has none, and DuckDB refuses there even to turn it off.
    if connection.execute("SELECT current_setting('enable_progress_bar')").fetchone() != (False,):
        connection.execute("SET enable_progress_bar = false")
    if memory_limit is not None:
        connection.execute(f"SET memory_limit = '{_quoted(memory_limit)}'")
    if threads is not None:
        connection.execute(f"SET threads = {int(threads)}")
    return connection


def _quoted(text: object) -> str:
    return str(text).replace("'", "''")


def read_parquet_sql(paths: Sequence[Path]) -> str:
    files = ", ".join(f"'{_quoted(path)}'" for path in paths)
    return f"read_parquet([{files}], union_by_name = true)"


class DuckDbEngine:
    """DuckDB in this process. Queries run on a thread of their own, so that Ctrl-C and progress are heard."""

    dialect = Dialect.DUCKDB

    def __init__(self, connection: duckdb.DuckDBPyConnection, progress: Progress) -> None:
        self.connection = connection
        self.phase = "deciding"
        self._progress = progress

    def add_parquet(self, name: str, paths: Sequence[Path]) -> None:
        self.connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS SELECT * FROM {read_parquet_sql(paths)}')

    def add_tables(self, tables: Mapping[str, pa.Table]) -> None:
        for name, table in tables.items():
            self.connection.register(name, table)

    def store(self, name: str, query: Expr) -> None:
        self._run(f'CREATE TEMP TABLE "{name}" AS {to_sql(query, Dialect.DUCKDB)}', (0.0, 0.0))

    def drop(self, name: str) -> None:
        self.connection.execute(f'DROP TABLE "{name}"')

    def fetch(self, query: Expr) -> pa.Table:
        return self.connection.sql(to_sql(query, Dialect.DUCKDB)).to_arrow_table()

    def decide(self, query: Expr, fraction: tuple[float, float], into: str = DECIDED) -> None:
        self._run(f"INSERT INTO {into} BY NAME {to_sql(query, Dialect.DUCKDB)}", fraction)

    def run(self, sql: str) -> None:
        self._run(sql, (1.0, 1.0))

    def _run(self, sql: str, fraction: tuple[float, float]) -> None:
        failed: list[BaseException] = []

        def execute() -> None:
            try:
                self.connection.execute(sql)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                failed.append(error)

        thread = threading.Thread(target=execute, name="replay-query", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.1)
                if thread.is_alive():
                    done = max(self.connection.query_progress(), 0.0) / 100
                    self._progress(self.phase, fraction[0] + (fraction[1] - fraction[0]) * done)
        except KeyboardInterrupt:
            self.connection.interrupt()
            thread.join()
            raise
        if failed:
            raise failed[0]
        self._progress(self.phase, fraction[1])

    def close(self) -> None:
        return None


class SparkEngine:
    """Spark: `local-spark` in a process of this machine, or a cluster that sees the working directory."""

    dialect = Dialect.SPARK

    def __init__(
        self,
        master: str,
        connection: duckdb.DuckDBPyConnection,
        work: Path,
        progress: Progress,
        memory_limit: str | None,
        threads: int | None,
    ) -> None:
        self.connection = connection
        self.phase = "deciding"
        self._work = work
        self._progress = progress
        self._parts = 0
        if master.startswith("spark://"):
            _require_master(master)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                from pyspark.sql import SparkSession
            except ImportError:
                raise EngineUnavailable("Spark is not installed: pip install 'fraudengine[spark]'") from None
            address = f"local[{threads or '*'}]" if master == "local-spark" else master
            builder: Any = SparkSession.builder
            builder = builder.master(address).appName("fraudengine replay")
            for name, value in {
                "spark.sql.session.timeZone": "UTC",
                "spark.ui.enabled": "false",
                "spark.ui.showConsoleProgress": "false",
                "spark.sql.shuffle.partitions": str(4 * (threads or 2)) if master == "local-spark" else "200",
                "spark.driver.memory": (memory_limit or "4GB").lower().removesuffix("b"),
                "spark.local.dir": str(work / "spill"),
                "spark.log.level": "ERROR",
                "spark.sql.parquet.mergeSchema": "true",
            }.items():
                builder = builder.config(name, value)
            try:
                self._session = builder.getOrCreate()
            except Exception as error:
                raise EngineUnavailable(f"Spark does not start: {error}; it needs Java 17 or later") from error

    def add_parquet(self, name: str, paths: Sequence[Path]) -> None:
        frame = self._session.read.option("mergeSchema", "true").parquet(*map(str, paths))
        frame.createOrReplaceTempView(name)

    def add_tables(self, tables: Mapping[str, pa.Table]) -> None:
        for name, table in tables.items():
            path = self._work / f"{name}.parquet"
            pq.write_table(table, path)
            self.add_parquet(name, [path])

    def store(self, name: str, query: Expr) -> None:
        path = self._work / f"{name}.parquet"
        self._session.sql(to_sql(query, Dialect.SPARK)).write.mode("overwrite").parquet(str(path))
        self._session.read.parquet(str(path)).createOrReplaceTempView(name)

    def drop(self, name: str) -> None:
        self._session.catalog.dropTempView(name)

    def fetch(self, query: Expr) -> pa.Table:
        return self._session.sql(to_sql(query, Dialect.SPARK)).toArrow()

    def decide(self, query: Expr, fraction: tuple[float, float], into: str = DECIDED) -> None:
        self._progress(self.phase, fraction[0])
        path = self._work / f"decided-{self._parts}.parquet"
        self._parts += 1
        self._session.sql(to_sql(query, Dialect.SPARK)).write.mode("overwrite").parquet(str(path))
        files = sorted(path.glob("*.parquet"))
        if files:
            self.connection.execute(f"INSERT INTO {into} BY NAME SELECT * FROM {read_parquet_sql(files)}")
        self._progress(self.phase, fraction[1])

    def close(self) -> None:
        self._session.stop()


def _require_master(master: str) -> None:
    """Raises EngineUnavailable when no address of `spark://host:port,…` answers; Spark itself tries for long."""
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        except (OSError, OverflowError, ValueError):
            continue
        return
    raise EngineUnavailable(f"no Spark master answers at {master}: check host and port, and that it runs")
