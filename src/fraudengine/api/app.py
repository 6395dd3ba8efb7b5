"""The application: screenings on their own path (`screenings`), everything else through FastAPI's routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Final, Protocol

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from ..access import Action, Grant
from ..audit import Caller, acting
from ..cards import find_pans, hide_pans
from ..config import Config
from ..diagnostics import FraudengineError
from ..explain_text import explained_document, revision_of
from ..reasons import Language
from ..request_problems import problem_of, safe_name
from ..request_schema import ScreeningRequest
from ..rules.ast import RuleSet
from ..structured_log import ScreeningLines
from ..supervisor import WorkersState
from .answers import (
    FieldError,
    Health,
    ProblemDocument,
    ProblemKind,
    Readiness,
    RuleSetAnswer,
    ScreeningAnswer,
    Workers,
)
from .archived import archived_row
from .gate import OPEN, AccessPort, Gate
from .lists import KeepsLists, add_list_routes, problem_of_list_error
from .metrics_page import MEDIA_TYPE as METRICS_TYPE
from .metrics_page import Observed, metrics_page
from .outcomes import KeepsOutcomes, add_outcome_routes
from .problems import (
    BASE,
    INTERNAL,
    INVALID_REQUEST,
    KINDS,
    MEDIA_TYPE,
    NOT_FOUND,
    UNKNOWN_SCREENING,
    UNREADABLE,
    Kind,
    Problem,
    in_words,
    problem_for,
    problem_of_status,
)
from .rule_sets import describe_rule_set
from .screenings import PATH, Headers, ScreeningEndpoint, Screens, send_problem
from .search import add_search_routes

DESCRIPTION: Final = """Screens card payments before they are authorised.

Ask before each authorisation; after a 3-D Secure challenge, ask again with the same `transaction_id` and its
result. A retried call gets the recorded decision and counts once. An answer is durable before it is sent.
Card numbers are fingerprinted on arrival and never stored; CVV is never accepted.
Errors are RFC 9457 problem documents."""


class ScreenerPort(Screens, KeepsLists, KeepsOutcomes, Observed, Protocol):
    """What the API needs of the screener (`service.Screener`)."""

    def screening(self, id_text: str) -> bytes | None: ...

    def merchant_of(self, id_text: str) -> str | None: ...

    def rule_texts(self, revision: str) -> list[tuple[str, str]]: ...

    def rule_set(self, merchant: str) -> RuleSet: ...

    def problems(self) -> tuple[str, ...]: ...

    def ready(self) -> bool: ...


class ScreeningApp(FastAPI):
    """FastAPI behind the gate, but `POST /v1/screenings` is answered before its middleware and routing."""

    screenings: ScreeningEndpoint
    gate: Gate
    count: Callable[[str], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif (refused := self._admit(scope)) is not None:
            self.count(f"refused_{refused.kind.name}")
            await send_problem(refused, send)
        elif scope["path"] == PATH and scope["method"] == "POST":
            await self.screenings(scope, receive, send)
        else:
            grant: Grant | None = scope["grant"]
            acting.set(_caller(grant, scope))  # the task is this call's own
            await super().__call__(scope, receive, send)

    def admit_screening(self, headers: Headers) -> Grant | None:
        """The grant of a screening that may pass; None: the call has to come by ASGI to be refused."""
        try:
            grant = self.gate.access.grant(headers)
        except FraudengineError:
            return None
        return grant if grant is not None and grant.may(Action.SCREEN) else None

    def _admit(self, scope: Scope) -> Problem | None:
        try:
            return self.gate.admit(scope)
        except FraudengineError as error:  # the keys or the log cannot be read
            return problem_for(error) or Problem(INTERNAL, INTERNAL.help, close=True)

    def openapi(self) -> dict[str, Any]:
        """The description of the API, with the problem document that every operation refers to."""
        described = super().openapi()
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
        refused = _documented(KINDS["unauthorized"], KINDS["forbidden"], KINDS["store-unavailable"])
        for path, operations in described["paths"].items():
            for operation in operations.values():
                if path in OPEN:
                    operation["security"] = []
                else:
                    for status, answer in refused.items():
                        operation["responses"].setdefault(str(status), answer)
        for model in (ProblemDocument, FieldError):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.pop("$defs", None)
            described["components"]["schemas"][model.__name__] = schema
        return described


def _caller(grant: Grant | None, scope: Scope) -> Caller:
    """Who calls and from where, as the audit log tells it; behind a trusted proxy the address is its client's."""
    client = scope.get("client")
    address = f" from {client[0]}" if client else ""
    if grant is None:
        return Caller("nobody", f"nobody{address}")
    return Caller(grant.name, grant.who + address)


def create_app(
    screener: ScreenerPort,
    config: Config,
    access: AccessPort,
    lines: ScreeningLines | None = None,
    workers: Callable[[], WorkersState | None] | None = None,
) -> ScreeningApp:
    """The application around a screener that the caller starts and stops; `access` says who may call.

    `lines` gets a line for each screening; `workers` tells how the other workers fare, when there are several.
    """
    app = ScreeningApp(
        title="fraudengine",
        version="1",
        description=DESCRIPTION,
        docs_url=None,  # the pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.count = screener.count
    app.gate = Gate(access, screener.merchant_of)
    app.screenings = ScreeningEndpoint(screener, config.max_body_bytes, lines)
    _add_problem_handlers(app)
    _add_screening_routes(app, screener, config)
    _add_other_routes(app, screener, workers or (lambda: None))
    add_list_routes(app, screener, _documented)
    add_outcome_routes(app, screener, _documented)
    add_search_routes(app, config.state, _documented)
    return app


# ---- errors -----------------------------------------------------------------------------------------


def _problem_response(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, dict(problem.headers))


def _add_problem_handlers(app: FastAPI) -> None:
    async def on_error(request: Request, error: Exception) -> Response:
        return _problem_response(
            problem_of_list_error(error) or problem_for(error) or Problem(INTERNAL, INTERNAL.help)
        )

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = _problem_response(problem_of_status(error.status_code))
        if error.status_code == 405:
            response.headers["allow"] = ", ".join(_methods_at(request))
        return response

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problems = tuple((safe_name(details["loc"][-1]), problem_of(details)) for details in error.errors())
        return _problem_response(Problem(INVALID_REQUEST, in_words(problems), problems))

    async def on_hang_up(request: Request, error: Exception) -> Response:
        return _problem_response(Problem(UNREADABLE, "The body was cut off.", close=True))  # nobody reads it

    app.add_exception_handler(FraudengineError, on_error)
    app.add_exception_handler(ClientDisconnect, on_hang_up)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_error)  # its traceback goes to the log


def _methods_at(request: Request) -> list[str]:
    """Every method that the address takes; Starlette names those of the first route alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in matching for method in route.methods or ()})


def _documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The problems that an operation answers, for OpenAPI."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    by_status: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        example = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": kind.help}
        held = by_status.setdefault(
            kind.status, {"description": kind.title, "content": {MEDIA_TYPE: {"schema": schema, "examples": {}}}}
        )
        held["content"][MEDIA_TYPE]["examples"][kind.name] = {"value": example}
    return by_status


# ---- routes -----------------------------------------------------------------------------------------


def _add_screening_routes(app: FastAPI, screener: ScreenerPort, config: Config) -> None:
    post = (
        "unauthorized",
        "forbidden",
        "not-json",
        "invalid-transaction",
        "unknown-merchant",
        "rules-refused",
        "request-timeout",
        "too-large",
    )
    after = ("transaction-conflict", "unsupported-media-type", "internal-error", "store-unavailable")

    @app.post(
        PATH,
        tags=["screenings"],
        summary="Decide on one payment attempt",
        response_model=ScreeningAnswer,
        response_model_exclude_none=True,
        responses=_documented(*(KINDS[name] for name in (*post, *after))),
    )
    async def screen(body: ScreeningRequest) -> Response:
        """The decision on one payment attempt, recorded before it is answered.

        Of a key that stands twice in the body the last one holds.
        """
        raise AssertionError("ScreeningApp answers this before routing; here it is documented")

    @app.get(
        PATH + "/{screening_id}",
        tags=["screenings"],
        summary="A screening as it was recorded",
        response_class=JSONResponse,
        responses=_documented(
            UNKNOWN_SCREENING, INVALID_REQUEST, KINDS["store-unavailable"], KINDS["archive-unreadable"]
        ),
    )
    async def recorded(
        request: Request,
        screening_id: Annotated[str, Path(max_length=64)],
        explain: Annotated[bool, Query(description="Add why every rule matched or did not.")] = False,
        lang: Annotated[Language, Query(description="Language of the explanation.")] = "en",
    ) -> Response:
        """With `explain=true`, `explanation` says for every rule why it matched or did not, condition by condition.

        It goes by the rules that were in force when the screening was decided, and by its recorded facts.
        """
        document = screener.screening(screening_id)
        if document is None:
            archived = await archived_row(config.state, screening_id, request)
            if isinstance(archived, Problem):
                return _problem_response(archived)
            document = archived["document"]
        if explain:
            texts = screener.rule_texts(revision_of(document))
            document = await asyncio.to_thread(explained_document, document, texts, lang)
        return Response(document, 200, {"cache-control": "no-store"}, "application/json")


def _add_other_routes(app: FastAPI, screener: ScreenerPort, workers: Callable[[], WorkersState | None]) -> None:
    @app.get(
        "/v1/merchants/{merchant}/rules",
        tags=["rules"],
        summary="The effective rule set of a merchant",
        response_model=RuleSetAnswer,
        responses=_documented(KINDS["unknown-merchant"], KINDS["rules-refused"], INVALID_REQUEST),
    )
    async def rules(merchant: Annotated[str, Path(max_length=64)]) -> RuleSetAnswer:
        """Every rule with its origin and mode, the settings in force, the lists with their number of entries."""
        rule_set = screener.rule_set(merchant)
        return describe_rule_set(rule_set.name if find_pans(merchant) else merchant, rule_set)

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Counters and gauges for Prometheus",
        response_class=PlainTextResponse,
        responses=_documented(KINDS["unauthorized"], KINDS["forbidden"]),
    )
    def metrics() -> Response:
        """Counters are of all workers; gauges of the one that answers."""
        return Response(metrics_page(screener), 200, {"cache-control": "no-store"}, METRICS_TYPE)

    @app.get("/healthz", tags=["operation"], summary="The process is up")
    async def healthz() -> Health:
        return Health(status="up")

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Whether screenings are answered, and what is wrong",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Screenings are not answered."}},
    )
    async def readyz(request: Request) -> Response:
        """200 while screenings are answered, also with older rules or data in use; `problems` says so then.

        It needs no key; without one it says only how many problems there are.
        """
        ready = screener.ready()
        problems = [hide_pans(text) for text in screener.problems()]
        state = workers()
        if state is not None and state.problem is not None:
            problems.append(state.problem)
        if problems and request.scope["grant"] is None:
            problems = [f"there is something to mend ({len(problems)}): ask with a key to read it"]
        counted = None if state is None else Workers(**asdict(state))
        answer = Readiness(ready=ready, problems=problems, workers=counted)
        return JSONResponse(
            answer.model_dump(exclude_none=True), 200 if ready else 503, {"cache-control": "no-store"}
        )

    @app.get(
        BASE + "{name}",
        tags=["problems"],
        summary="What a problem's type means",
        response_model=ProblemKind,
        responses={**_documented(NOT_FOUND, INVALID_REQUEST), 200: {"model": ProblemKind}},
    )
    async def problem(name: Annotated[str, Path(max_length=64)]) -> Response:
        kind = KINDS.get(name)
        if kind is None:
            return _problem_response(Problem(NOT_FOUND, NOT_FOUND.help))
        document = ProblemKind(type=kind.uri, status=kind.status, title=kind.title, help=kind.help)
        return JSONResponse(document.model_dump())

    @app.get("/problems", tags=["problems"], summary="Every kind of problem")
    async def problems() -> list[ProblemKind]:
        return [
            ProblemKind(type=kind.uri, status=kind.status, title=kind.title, help=kind.help)
            for kind in KINDS.values()
        ]

    app.openapi_tags = [
        {"name": name} for name in ("screenings", "outcomes", "lists", "rules", "operation", "problems")
    ]
