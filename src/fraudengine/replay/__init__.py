"""Replay: what would these rules have done to the payments of the past?

    from fraudengine.replay import replay

    with replay("history.parquet", rules="rules", against="HEAD") as result:
        result.rules.to_pandas()

It gives a `ReplayResult` (in `result`): tables as Arrow, pandas or Polars, which show themselves in a notebook.
Needs the extra `fraudengine[replay]` (DuckDB, Ibis, Arrow); nothing on the payment path imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import replay as replay

__all__ = ["replay"]


def __getattr__(name: str) -> object:
    """The entry, imported when it is first asked for: readers and generators do without the engine."""
    if name == "replay":
        from .engine import replay

        return replay
    raise AttributeError(name)
