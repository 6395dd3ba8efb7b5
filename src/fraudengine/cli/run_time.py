"""The run-time lists of this machine, for commands that say what is in force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..config import Config
from ..list_store import ListStore
from ..runtime_lists import RuntimeLists


@contextmanager
def open_run_time_lists(config: Config) -> Iterator[RuntimeLists | None]:
    """They can be read inside the block; None where nobody keeps any. Raises StoreUnavailable."""
    if not config.lists_file.exists():
        yield None
        return
    with ListStore(config.lists_file) as kept:
        lists = RuntimeLists(kept.path, kept.generation)
        try:
            yield lists
        finally:
            lists.close()
