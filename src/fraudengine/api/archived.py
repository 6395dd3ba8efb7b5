"""Archived screenings, for routes that find none of that id in the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.requests import Request

from ..archive_reading import Row, find_archived
from ..diagnostics import ConfigurationError, StoreUnavailable
from ..store import parse_screening_id
from .problems import ARCHIVE_UNREADABLE, UNKNOWN_SCREENING, Problem


async def archived_row(state: Path, id_text: str, request: Request) -> Row | Problem:
    """The archived row of a screening of the caller's; what is wrong when there is none, or nobody can read it."""
    screening_id = parse_screening_id(id_text)
    if screening_id is None:
        return Problem(UNKNOWN_SCREENING, UNKNOWN_SCREENING.help)
    try:
        row = await asyncio.to_thread(find_archived, state, screening_id)
    except (ConfigurationError, StoreUnavailable) as error:
        return Problem(ARCHIVE_UNREADABLE, f"The screening may be archived, but {error}.")
    if row is None or not request.scope["grant"].covers(row["merchant"]):
        return Problem(UNKNOWN_SCREENING, UNKNOWN_SCREENING.help)
    return row
