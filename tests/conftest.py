"""Options of the test suite."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from fraudengine.bin_table import BinTable
from fraudengine.lookups import IpCountries

DATA = Path(__file__).parent.parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden",
        action="store_true",
        help="write what golden tests expect instead of comparing; read the difference before committing it",
    )


@pytest.fixture(scope="session", autouse=True)
def tables_of_the_repository() -> Iterator[None]:
    """The tables in `data` are read once in each process of tests: nothing changes the files, nor a table read."""
    with (
        patch.object(BinTable, "load", _once(BinTable.load)),
        patch.object(IpCountries, "open", _once(IpCountries.open)),
    ):
        yield


def _once(read: Callable[..., Any]) -> Callable[..., Any]:
    """`read` that remembers what was in the files of `data`; copies and files beside them are read each time."""
    remembered = cache(read)

    def table(path: Path, own_rows: Path | None = None) -> Any:
        if path.resolve().parent == DATA and (own_rows is None or not own_rows.exists()):
            return remembered(path.resolve())
        return read(*(path, own_rows) if own_rows is not None else (path,))

    return table


@pytest.fixture(scope="session", autouse=True)
def authorities_of_the_machine() -> Iterator[None]:
    """The certificate authorities are read once: httpx reads them for each client, for plain HTTP too, in 25 ms."""
    usual = httpx.create_ssl_context()

    def context(verify: ssl.SSLContext | str | bool = True, cert: Any = None, trust_env: bool = True) -> Any:
        return usual if verify is True and cert is None else httpx.create_ssl_context(verify, cert, trust_env)

    with patch("httpx._transports.default.create_ssl_context", context):
        yield
