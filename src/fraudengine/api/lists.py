"""Lists over HTTP: entries paged through, added, removed, imported, and the card of a screening blacklisted.

SQLite is called on threads (plain `def` routes); a thread never touches the rule core. What is answered as added
is seen by the screening that starts next, in every process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import orjson
from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ..cards import CardKey
from ..list_admin import ListAdmin, Listed, NoFingerprint, UnknownEntry, UnknownList, stored_entry_object
from ..list_entries import read_time
from ..list_import import ImportRefused, ListImport
from ..list_reading import MAX_PAGE
from ..list_values import InvalidEntry, read_note
from .archived import archived_row
from .problems import INVALID_REQUEST, KINDS, UNKNOWN_SCREENING, Kind, Problem

Merchant = Annotated[str, Path(max_length=64, description="The merchant's name, or `*` for all merchants.")]
ListPath = Annotated[str, Path(alias="list", max_length=64, description="A list that the rule files declare.")]
Text = Annotated[str, Field(max_length=256)]
_NO_STORE = {"cache-control": "no-store"}


_AUTHOR = "Left out: the key's owner. Another name is kept as `NAME (by key OWNER)`."
Author = Annotated[str, Field(max_length=256, description=_AUTHOR)]
AuthorQuery = Annotated[str, Query(max_length=256, description=_AUTHOR)]


class NoteRequest(BaseModel):
    """Why, by which ticket, and by whom: the owner of the key, who may name somebody for whom it is done."""

    model_config = ConfigDict(extra="forbid")

    reason: Text = ""
    ticket: Text = ""
    author: Author = ""


_EXPIRES = (
    "A date or RFC 3339 time; left out: never. A date ends the entry as that day begins in the merchant's timezone,"
    " or for `*` in the platform's."
)


class BlacklistRequest(NoteRequest):
    """Why the card of a screening is refused from now on."""

    expires: Annotated[str | None, Field(max_length=40, description=_EXPIRES)] = None


class EntryRequest(BlacklistRequest):
    """An entry: its value as the list's kind has it, or for a list of cards the number itself as `pan`."""

    value: Annotated[str | None, Field(max_length=256)] = None
    pan: Annotated[str | None, Field(max_length=64, description="Becomes a fingerprint at once.")] = None


class EntryAnswer(BaseModel):
    """An entry of a list; `source` is `run-time`, or the rule file and line where it stands (without an id)."""

    id: int | None
    list: str
    kind: str
    scope: Annotated[str, Field(description="The merchant it holds for, or `*` for all.")]
    value: str
    source: str
    state: Annotated[str, Field(description="`in force`, `expired`, `removed` or `not yet`.")]
    reason: str
    ticket: str
    author: str
    added: str | None
    expires: str | None
    removed: str | None
    removed_by: str | None
    removed_reason: str | None
    removed_ticket: str | None


class AddedAnswer(EntryAnswer):
    """The entry that holds the value now; `warnings` say what its author should know."""

    warnings: list[str]


class EntriesAnswer(BaseModel):
    """One page; `next` is the `cursor` of the page after it, null on the last."""

    entries: list[EntryAnswer]
    next: str | None


class ImportAnswer(BaseModel):
    """What an import did; values that were in force already, or stood twice, were not added again."""

    lines: int
    added: int
    existing: int
    repeated: int


class KeepsLists(Protocol):
    """What these routes need of the screener."""

    @property
    def list_admin(self) -> ListAdmin | None: ...

    @property
    def card_key(self) -> CardKey: ...

    def screening(self, id_text: str) -> bytes | None: ...


Documented = Callable[..., dict[int | str, dict[str, Any]]]


def add_list_routes(app: FastAPI, screener: KeepsLists, documented: Documented) -> None:
    """Adds the routes of lists to the application."""
    unknown = ("unknown-merchant", "unknown-list", "invalid-entry", "store-unavailable")
    path = "/v1/merchants/{merchant}/lists/{list}"

    def admin() -> ListAdmin:
        found = screener.list_admin
        if found is None:
            raise UnknownList
        return found

    @app.get(
        path + "/entries",
        tags=["lists"],
        summary="The entries of a list, page by page",
        response_model=EntriesAnswer,
        responses=documented(*_kinds(*unknown), INVALID_REQUEST),
    )
    def entries(
        merchant: Merchant,
        name: ListPath,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        cursor: Annotated[str | None, Query(max_length=20, description="The `next` of the page before.")] = None,
        search: Annotated[str, Query(max_length=128, description="In value, reason, ticket or author.")] = "",
        as_of: Annotated[str | None, Query(max_length=40, description="RFC 3339; left out: now.")] = None,
        all: Annotated[bool, Query(description="Also expired and removed entries.")] = False,
    ) -> Response:
        """Those in force as of an instant: of rule files first, then run-time ones, those for all merchants too."""
        as_of_us = _read_instant(as_of)
        page = admin().page(
            merchant, name, limit=limit, cursor=cursor, search=search, as_of_us=as_of_us, everything=all
        )
        return _json({"entries": page.entries, "next": page.next})

    @app.post(
        path + "/entries",
        tags=["lists"],
        summary="Add an entry",
        status_code=201,
        response_model=AddedAnswer,
        responses={
            200: {"model": AddedAnswer, "description": "The value is in the list already: its entry."},
            **documented(*_kinds(*unknown), INVALID_REQUEST),
        },
    )
    def add(merchant: Merchant, name: ListPath, body: EntryRequest) -> Response:
        """In force for every screening that starts after the answer. A value that is listed answers its entry."""
        return _added(admin().add(merchant, name, **body.model_dump()), admin())

    @app.delete(
        path + "/entries/{entry_id}",
        tags=["lists"],
        summary="Remove an entry",
        response_model=EntryAnswer,
        responses=documented(*_kinds(*unknown, "unknown-entry"), INVALID_REQUEST),
    )
    def remove(
        merchant: Merchant,
        name: ListPath,
        entry_id: Annotated[int, Path(ge=1, lt=1 << 63)],
        reason: Annotated[str, Query(max_length=256)] = "",
        ticket: Annotated[str, Query(max_length=256)] = "",
        author: AuthorQuery = "",
    ) -> Response:
        """Out of force for every screening that starts after the answer. It stays readable with who and why."""
        removed = admin().remove(merchant, name, entry_id=entry_id, reason=reason, ticket=ticket, author=author)
        return _json(stored_entry_object(removed, admin().lists.clock_us() + 1_000_000))

    @app.delete(
        path + "/entries",
        tags=["lists"],
        summary="Remove the entry of a value",
        response_model=EntryAnswer,
        responses=documented(*_kinds(*unknown, "unknown-entry"), INVALID_REQUEST),
    )
    def remove_value(
        merchant: Merchant,
        name: ListPath,
        value: Annotated[str, Query(max_length=256, description="A fingerprint, never a card number.")],
        reason: Annotated[str, Query(max_length=256)] = "",
        ticket: Annotated[str, Query(max_length=256)] = "",
        author: AuthorQuery = "",
    ) -> Response:
        removed = admin().remove(merchant, name, value=value, reason=reason, ticket=ticket, author=author)
        return _json(stored_entry_object(removed, admin().lists.clock_us() + 1_000_000))

    @app.post(
        path + "/import",
        tags=["lists"],
        summary="Import a CSV, all or nothing",
        status_code=201,
        response_model=ImportAnswer,
        responses=documented(*_kinds(*unknown, "import-refused"), INVALID_REQUEST),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "text/csv": {
                        "schema": {"type": "string"},
                        "example": "value,reason,ticket\nfp_…,stolen card,SUP-1107\n",
                    }
                },
            }
        },
    )
    async def import_csv(
        request: Request,
        merchant: Merchant,
        name: ListPath,
        reason: Annotated[str, Query(max_length=256)] = "",
        ticket: Annotated[str, Query(max_length=256)] = "",
        author: AuthorQuery = "",
    ) -> Response:
        """One value a line, or a header with `value` (or `pan`), `reason`, `ticket`, `author`, `expires`.

        A header may also be in French or name the list's fact. A first line that looks like a header and is not
        surely one is refused; where it is a value, a line `value` goes above it. A date in `expires` begins in the
        merchant's timezone, or for `*` in the platform's.
        Nothing is taken when any line is wrong; `errors` then names the lines. It is read as it arrives.
        """
        target, _ = await asyncio.to_thread(admin().target, merchant, name)
        timezone = admin().timezone(merchant)
        note = read_note(reason, ticket, author)
        under_way = await asyncio.to_thread(
            ListImport, admin().lists, target, note, key=screener.card_key, timezone=timezone
        )
        try:
            async for chunk in request.stream():
                await asyncio.to_thread(under_way.feed, chunk)
            report = await asyncio.to_thread(under_way.commit)
        finally:
            await asyncio.to_thread(under_way.close)
        answer = ImportAnswer(
            lines=report.lines, added=report.added, existing=report.existing, repeated=report.repeated
        )
        return _json(answer.model_dump(), 201)

    @app.post(
        "/v1/screenings/{screening_id}/blacklist",
        tags=["lists"],
        summary="Blacklist the card of a screening",
        status_code=201,
        response_model=AddedAnswer,
        responses={
            200: {"model": AddedAnswer, "description": "The card is blacklisted already: its entry."},
            **documented(
                *_kinds(*unknown, "no-fingerprint", "archive-unreadable"), UNKNOWN_SCREENING, INVALID_REQUEST
            ),
        },
    )
    async def blacklist(
        request: Request, screening_id: Annotated[str, Path(max_length=64)], body: BlacklistRequest
    ) -> Response:
        """The merchant's next payment with this card is refused, whatever else its rules say.

        An archived screening serves as well: chargebacks come months later.
        """
        document, keeper = screener.screening(screening_id), admin()
        if document is None:
            row = await archived_row(keeper.lists.path.parent, screening_id, request)
            if isinstance(row, Problem):
                return Response(row.body(), row.status, dict(row.headers))
            document = row["document"]
        return _added(await asyncio.to_thread(lambda: keeper.blacklist(document, **body.model_dump())), keeper)


def _kinds(*names: str) -> list[Kind]:
    return [KINDS[name] for name in names]


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, _NO_STORE, "application/json")


def _added(listed: Listed, admin: ListAdmin) -> Response:
    answer = stored_entry_object(listed.entry, max(admin.lists.clock_us(), listed.entry.added_us))
    return _json({**answer, "warnings": list(listed.warnings)}, 201 if listed.created else 200)


def _read_instant(text: str | None) -> int | None:
    if text is None:
        return None
    found = read_time(text)
    if found is None:
        raise InvalidEntry("as_of", "is a time as in 2026-11-23T10:15:00Z")
    return found


def problem_of_list_error(error: Exception) -> Problem | None:
    """The problem that an error about lists is to a caller; None when it is not about lists."""
    match error:
        case InvalidEntry():
            return Problem(
                KINDS["invalid-entry"], f"{error.field}: {error.problem}", ((error.field, error.problem),)
            )
        case ImportRefused():
            problems = tuple((f"line {line}", problem) for line, problem in error.problems)
            detail = f"{error.wrong} lines are wrong, so nothing was imported."
            return Problem(KINDS["import-refused"], detail, problems)
        case UnknownEntry():
            return Problem(KINDS["unknown-entry"], f"{error}.")
        case UnknownList():
            return Problem(KINDS["unknown-list"], f"{error}.")
        case NoFingerprint():
            return Problem(KINDS["no-fingerprint"], f"{error}.")
    return None
