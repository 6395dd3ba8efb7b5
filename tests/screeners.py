"""A screener with the sample rules in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraudengine.assembly import open_screener
from fraudengine.config import Config
from fraudengine.environment import claim_state
from fraudengine.service import Screener

from .running import REPOSITORY


@contextmanager
def opened_screener(state: Path) -> Iterator[Screener]:
    """Its state is in that directory; closed at the end."""
    config = Config(rules=REPOSITORY / "rules", data=REPOSITORY / "data", state=state, development=True)
    claim_state(config)
    opened = open_screener(config)
    yield opened
    opened.close()
