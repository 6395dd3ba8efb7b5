"""Search of recorded screenings over HTTP, newest first, a page at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, Field

from ..archive_reading import archived_before_us
from ..cards import FINGERPRINT, find_pans
from ..list_entries import read_time, time_text
from ..log_search import LogSearch, Search, found_object
from ..store import parse_screening_id, screening_id_text
from .answers import OutcomeWord
from .problems import INVALID_REQUEST, KINDS, Problem, in_words

Documented = Callable[..., dict[int | str, dict[str, Any]]]
Text = Annotated[str | None, Query(max_length=128)]
NAMES = (
    "merchant",
    "transaction_id",
    "order_ref",
    "card",
    "outcome",
    "code",
    "since",
    "until",
    "limit",
    "before",
)


class FoundAnswer(BaseModel):
    """A screening that was found; `GET /v1/screenings/{screening_id}` has all of it."""

    screening_id: str
    merchant: str
    transaction_id: str
    at: str
    answered: str
    amount: str
    currency: str
    decision: OutcomeWord
    code: str
    revision: str


class SearchAnswer(BaseModel):
    """A page, newest first. It may be empty and yet have a `next`: then nothing was found as far back as that."""

    screenings: list[FoundAnswer]
    next: Annotated[str | None, Field(description="Give it as `before` to go on; null at the end.")]
    archived_before: Annotated[
        str | None,
        Field(
            description="Screenings answered before this are archived, as far as they are not found here; "
            "`fraudengine log search` searches them too. Null when none are."
        ),
    ]


class _Searcher:
    """The one connection that searches, opened when first asked; searches take turns."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._search: LogSearch | None = None
        self._turn = threading.Lock()

    def find(self, search: Search, limit: int) -> bytes:
        with self._turn:
            try:
                if self._search is None:
                    self._search = LogSearch(self._state)
                page = self._search.find(search, limit)
            except Exception:
                held, self._search = self._search, None
                if held is not None:
                    held.close()
                raise
        following = screening_id_text(page.next) if page.next is not None else None
        archived_us = archived_before_us(self._state)
        return orjson.dumps(
            {
                "screenings": [found_object(one) for one in page.found],
                "next": following,
                "archived_before": time_text(archived_us) if archived_us is not None else None,
            }
        )


def add_search_routes(app: FastAPI, state: Path, documented: Documented) -> None:
    """Adds the search to the application; `state` is the directory of the decision log."""
    searcher = _Searcher(state)

    @app.get(
        "/v1/screenings",
        tags=["screenings"],
        summary="Search recorded screenings",
        response_model=SearchAnswer,
        responses=documented(
            INVALID_REQUEST, *(KINDS[name] for name in ("unauthorized", "forbidden", "store-unavailable"))
        ),
    )
    def search(
        request: Request,
        merchant: Annotated[
            str | None, Query(max_length=64, description="A key of some merchants only must name one of them.")
        ] = None,
        transaction_id: Text = None,
        order_ref: Text = None,
        card: Annotated[
            str | None, Query(max_length=64, description="A card fingerprint, `fp_…`; never a card number.")
        ] = None,
        outcome: Annotated[OutcomeWord | None, Query(description="What was decided.")] = None,
        code: Annotated[str | None, Query(max_length=64, description="The reason code of the decision.")] = None,
        since: Annotated[
            str | None, Query(max_length=40, description="Answered at this time (RFC 3339, or a date) or later.")
        ] = None,
        until: Annotated[str | None, Query(max_length=40, description="Answered before this time.")] = None,
        limit: Annotated[int, Query(ge=1, le=500, description="The longest page.")] = 50,
        before: Annotated[str | None, Query(max_length=64, description="`next` of the page before.")] = None,
    ) -> Response:
        """Screenings for which everything given holds, newest first.

        What is rare is found at once however large the log is. A call looks at a bounded number of screenings:
        a page may be short, even empty, while `next` leads further back. Archived screenings are not searched:
        `archived_before` says from when back there are some.
        """
        problems = [
            (name, "is given more than once") for name in NAMES if len(request.query_params.getlist(name)) > 1
        ]
        texts = {"merchant": merchant, "transaction_id": transaction_id, "order_ref": order_ref, "code": code}
        problems += [
            (name, "holds what looks like a card number")
            for name, text in texts.items()
            if text is not None and find_pans(text)
        ]
        if card is not None and FINGERPRINT.fullmatch(card) is None:
            problems.append(("card", "is no card fingerprint (fp_…)"))
        cursor = parse_screening_id(before) if before is not None else None
        if before is not None and cursor is None:
            problems.append(("before", "is not the `next` of a page"))
        since_us, until_us = (
            _read_instant(name, text, problems) for name, text in (("since", since), ("until", until))
        )
        if problems:
            problem = Problem(INVALID_REQUEST, in_words(problems), tuple(problems))
            return Response(problem.body(), problem.status, dict(problem.headers))
        asked = Search(merchant, transaction_id, order_ref, card, outcome, code, since_us, until_us, cursor)
        body = searcher.find(asked, limit)
        return Response(body, 200, {"cache-control": "no-store"}, "application/json")


def _read_instant(name: str, text: str | None, problems: list[tuple[str, str]]) -> int | None:
    found = read_time(text) if text is not None else None
    if text is not None and found is None:
        problems.append((name, "is a time as in 2026-11-23T10:15:00Z, or a date"))
    return found
