"""Who may pass: each call's key, role and merchant, asked before anything else looks at the call.

What an address needs is decided here by its form, so that a route that is added is closed to all but `admin` until
a row is added. Without a key only `/healthz` and `/readyz` answer, and the latter keeps its problems to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import parse_qs

from starlette.types import Scope

from ..access import Action, Environment, Grant, read_environment
from .problems import FORBIDDEN, UNAUTHORIZED, UNKNOWN_SCREENING, Problem

SCREENINGS: Final = "/v1/screenings"
OPEN: Final = frozenset({"/healthz", "/readyz"})


class AccessPort(Protocol):
    """What the API needs of the keys (`access.AccessKeys`)."""

    @property
    def environment(self) -> Environment: ...

    def grant(self, headers: Iterable[tuple[bytes, bytes]]) -> Grant | None: ...


@dataclass(frozen=True, slots=True)
class Need:
    """What a call needs: the action, and the merchant or the screening that it is about, when the address says."""

    action: Action
    merchant: str | None = None
    screening: str | None = None


class Gate:
    """Admits a call or says why not. `merchant_of` gives the merchant of a recorded screening."""

    def __init__(self, access: AccessPort, merchant_of: Callable[[str], str | None]) -> None:
        self.access = access
        self._merchant_of = merchant_of

    def admit(self, scope: Scope) -> Problem | None:
        """None when the call may pass; `scope["grant"]` is then its grant, or None on an open address."""
        grant = scope["grant"] = self.access.grant(scope["headers"])
        path, method = scope["path"], scope["method"]
        if path == SCREENINGS and method == "POST" and grant is not None and grant.may(Action.SCREEN):
            return None  # whose payment it is stands in the body, where the endpoint asks for it
        if path in OPEN:
            return None
        if grant is None:
            return self.unauthorized(scope)
        need = need_of(method, path, scope.get("query_string", b""))
        if not grant.may(need.action):
            return forbidden(f"A key of role `{grant.role}` may not {need.action}.", method)
        if grant.merchants is None or need.action is Action.LOOK:
            return None
        if need.screening is not None:
            merchant = self._merchant_of(need.screening)
            if merchant is None or grant.covers(merchant):
                return None
            return Problem(UNKNOWN_SCREENING, UNKNOWN_SCREENING.help, close=has_body(method))
        if need.merchant is None or not grant.covers(need.merchant):
            return forbidden(NOT_YOURS, method)
        return None

    def unauthorized(self, scope: Scope) -> Problem:
        """Why the key is not taken; of a key of the other environment, that it is one."""
        detail = "Send a key in force: `Authorization: Bearer fe_…`."
        for name, value in scope["headers"]:
            if name == b"authorization":
                named = read_environment(value.decode("latin-1").rpartition(" ")[2])
                here = self.access.environment
                if named is not None and named != here:
                    detail = f"This is a key of the `{named}` environment, and here is `{here}`."
        return Problem(UNAUTHORIZED, detail, close=has_body(scope["method"]))


NOT_YOURS: Final = "The key is for other merchants."


def forbidden(detail: str, method: str) -> Problem:
    return Problem(FORBIDDEN, detail, close=has_body(method))


def has_body(method: str) -> bool:
    """Whether an unread body may stand in the way of the next call on the connection."""
    return method not in ("GET", "HEAD", "DELETE", "OPTIONS")


def need_of(method: str, path: str, query: bytes) -> Need:
    """What a call needs, by its method and path."""
    reads = method in ("GET", "HEAD")
    match path.strip("/").split("/"):
        case ["openapi.json"] | ["problems", *_]:
            return Need(Action.LOOK)
        case ["metrics"]:
            return Need(Action.METRICS)
        case ["v1", "screenings"]:
            asked = parse_qs(query.decode("latin-1")).get("merchant", [])
            return Need(Action.READ if reads else Action.SCREEN, asked[0] if len(asked) == 1 else None)
        case ["v1", "screenings", screening, *rest]:
            return Need(_on_screening(reads, rest), screening=screening)
        case ["v1", "merchants", merchant, *rest]:
            changes = Action.CHANGE_LISTS if rest[:1] == ["lists"] else Action.ADMINISTER
            return Need(Action.READ if reads else changes, merchant)
        case ["v1", "merchants"]:
            return Need(Action.READ)
        case ["v1", "lists", *_]:  # entries that every merchant has
            return Need(Action.READ if reads else Action.CHANGE_LISTS)
        case _:
            return Need(Action.ADMINISTER)


def _on_screening(reads: bool, rest: list[str]) -> Action:
    match rest:
        case _ if reads:
            return Action.READ
        case ["outcome"] | ["outcomes"]:
            return Action.OUTCOME
        case ["blacklist"]:
            return Action.CHANGE_LISTS
        case _:
            return Action.ADMINISTER
