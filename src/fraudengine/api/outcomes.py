"""What became of a payment, over HTTP: reported any number of times, and read again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

import orjson
from fastapi import FastAPI, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ..decision_log import DecisionLog
from ..late_outcomes import keep_late_outcome, late_outcomes
from ..outcomes import MAX_CODE, InvalidOutcome, OutcomeKind, Paid, read_report
from ..store import parse_screening_id
from .archived import archived_row
from .problems import INVALID_REQUEST, KINDS, UNKNOWN_SCREENING, Problem

Text = Annotated[str, Field(max_length=MAX_CODE)]
ScreeningId = Annotated[str, Path(max_length=64)]
Documented = Callable[..., dict[int | str, dict[str, Any]]]
_NO_STORE = {"cache-control": "no-store"}


class OutcomeRequest(BaseModel):
    """What became of the payment."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"outcome": "declined", "code": "116", "at": "2026-11-23T10:15:04Z"}]},
    )

    outcome: Annotated[OutcomeKind, Field(description="What the gateway or the bank says became of it.")]
    code: Annotated[Text, Field(description="The bank's code, or the scheme's reason of a chargeback.")] = ""
    amount: Annotated[Text, Field(description="Of `refunded`: how much, in major units; left out: all of it.")] = ""
    reference: Annotated[Text, Field(description="Tells two alike reports apart, such as two refunds.")] = ""
    at: Annotated[str, Field(max_length=40, description="RFC 3339; left out: now.")] = ""


class OutcomeAnswer(BaseModel):
    """A report as it is kept; the code of a refund says how much: `full`, or `part 12.500 TND`."""

    screening_id: str
    outcome: OutcomeKind
    code: str
    at: str


class OutcomesAnswer(BaseModel):
    """Every report about a screening, in the order in which they came."""

    outcomes: list[OutcomeAnswer]


class KeepsOutcomes(Protocol):
    """What these routes need of the screener."""

    @property
    def log(self) -> DecisionLog: ...


def add_outcome_routes(app: FastAPI, screener: KeepsOutcomes, documented: Documented) -> None:
    """Adds the routes of outcomes to the application."""
    problems = documented(
        UNKNOWN_SCREENING,
        INVALID_REQUEST,
        *(KINDS[name] for name in ("unauthorized", "forbidden", "store-unavailable", "archive-unreadable")),
    )
    unknown = Problem(UNKNOWN_SCREENING, UNKNOWN_SCREENING.help)

    @app.post(
        "/v1/screenings/{screening_id}/outcome",
        tags=["outcomes"],
        summary="Report what became of a payment",
        status_code=201,
        response_model=OutcomeAnswer,
        responses=problems,
    )
    async def report(request: Request, screening_id: ScreeningId, body: OutcomeRequest) -> Response:
        """Any number of times: a payment that was authorised may be refunded and charged back later.

        The same report again changes nothing. `technical_failure` takes the attempt out of velocity counters,
        and `declined` counts among those that the bank declined. Reports about archived screenings are taken too.
        """
        found = parse_screening_id(screening_id)
        if found is None:
            return _problem(unknown)
        amount = screener.log.recorded.amount_of(found)
        archived: Mapping[str, Any] | Problem | None = None
        if amount is None:
            archived = await archived_row(screener.log.path.parent, screening_id, request)
            if isinstance(archived, Problem):
                return _problem(archived)
            amount = archived["currency"], archived["minor"]
        told = body.model_dump()
        try:
            read = read_report(str(told.pop("outcome")), Paid(*amount), time.time_ns() // 1000, **told)
        except InvalidOutcome as error:
            detail = f"{error.field}: {error.problem}"
            return _problem(Problem(INVALID_REQUEST, detail, ((error.field, error.problem),)))
        kept = (read.kind.value, read.code, read.at_us)
        if archived is None and not await asyncio.to_thread(screener.log.record_outcome, found, *kept):
            # It was, since it was looked for.
            archived = await archived_row(screener.log.path.parent, screening_id, request)
        if isinstance(archived, Problem):
            return _problem(archived)
        if archived is not None:
            next_id = screener.log.next_id()
            await asyncio.to_thread(keep_late_outcome, screener.log.path, next_id, archived, *kept)
        return _json(_answer(screening_id, read.at_us, read.kind, read.code), 201)

    @app.get(
        "/v1/screenings/{screening_id}/outcomes",
        tags=["outcomes"],
        summary="What became of a payment",
        response_model=OutcomesAnswer,
        responses=problems,
    )
    async def reports(request: Request, screening_id: ScreeningId) -> Response:
        found = parse_screening_id(screening_id)
        if found is None:
            return _problem(unknown)
        if screener.log.recorded.amount_of(found) is not None:
            rows = screener.log.recorded.outcomes(found)
        else:
            archived = await archived_row(screener.log.path.parent, screening_id, request)
            if isinstance(archived, Problem):
                return _problem(archived)
            late = await asyncio.to_thread(late_outcomes, screener.log.path, found, found + 1)
            both = (*archived["outcomes"], *late.get(found, ()))
            rows = [(one["at_us"], one["kind"], one["code"]) for one in both]
        return _json({"outcomes": [_answer(screening_id, *row) for row in rows]}, 200)


def _answer(screening_id: str, at_us: int, kind: str, code: str) -> dict[str, str]:
    at = datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds")
    return {"screening_id": screening_id, "outcome": str(kind), "code": code, "at": at.replace("+00:00", "Z")}


def _json(value: object, status: int) -> Response:
    return Response(orjson.dumps(value), status, _NO_STORE, "application/json")


def _problem(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, dict(problem.headers))
