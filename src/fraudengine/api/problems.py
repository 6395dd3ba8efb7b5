"""Everything that can go wrong with a call, as RFC 9457 problem documents.

A document never repeats a value that was sent: `detail` is one of our sentences, and a field's name goes through
the same filter as in `request_problems`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson

from ..cards import hide_pans
from ..diagnostics import ConflictingTransaction, InvalidTransaction, StoreUnavailable, UnknownMerchant
from ..request_problems import NotJson, TransactionRefused

MEDIA_TYPE: Final = "application/problem+json"
BASE: Final = "/problems/"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: the last part of its stable `type` URI, its status, title and what to do about it."""

    name: str
    status: int
    title: str
    help: str

    @property
    def uri(self) -> str:
        return BASE + self.name


NOT_JSON = Kind("not-json", 400, "The body is not JSON", "Send one JSON object in UTF-8.")
INVALID_TRANSACTION = Kind(
    "invalid-transaction", 422, "The transaction is not valid", "Correct the fields that `errors` names."
)
INVALID_REQUEST = Kind("invalid-request", 422, "The request is not valid", "Correct what `errors` names.")
UNKNOWN_MERCHANT = Kind(
    "unknown-merchant",
    404,
    "No rule set has that merchant's name",
    "Add rules/merchants/NAME.yaml; it takes effect within a second.",
)
CONFLICT = Kind(
    "transaction-conflict",
    409,
    "The transaction id was used for another payment",
    "Send another `transaction_id`; only a call that carries a 3-D Secure result may differ from the first.",
)
RULES_REFUSED = Kind(
    "rules-refused",
    503,
    "The merchant's rule file is refused",
    "Nothing was decided: the file has mistakes and no older rules are in force. `fraudengine check` names them.",
)
UNKNOWN_SCREENING = Kind(
    "unknown-screening", 404, "No screening has that id", "Take the `screening_id` of an answer."
)
UNAUTHORIZED = Kind(
    "unauthorized",
    401,
    "The call carries no key that is in force",
    "Send `Authorization: Bearer KEY`; `fraudengine keys create` makes one, `keys list` shows those in force.",
)
FORBIDDEN = Kind(
    "forbidden", 403, "The key does not allow this", "Use a key whose role and merchants cover what you ask for."
)
NOT_FOUND = Kind("not-found", 404, "There is nothing at this address", "See /openapi.json for what there is.")
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed", 405, "This address does not take that method", "See /openapi.json for what it takes."
)
UNKNOWN_LIST = Kind(
    "unknown-list",
    404,
    "No list has that name",
    "Take a name that GET /v1/merchants/NAME/rules shows under `lists`, or declare it in a rule file.",
)
UNKNOWN_ENTRY = Kind(
    "unknown-entry",
    404,
    "The list has no such entry",
    "Take the `id` of a run-time entry; an entry of a rule file is removed by editing the file.",
)
INVALID_ENTRY = Kind("invalid-entry", 422, "The list entry is not valid", "Correct what `errors` names.")
IMPORT_REFUSED = Kind(
    "import-refused",
    422,
    "Lines of the import are wrong",
    "Nothing was imported. Correct the lines and send all again.",
)
NO_FINGERPRINT = Kind(
    "no-fingerprint",
    409,
    "The screening's card cannot be listed",
    "A masked number fits many cards. Screen with the whole number, or list the card by its fingerprint.",
)
UNREADABLE = Kind(
    "unreadable-request", 400, "The request cannot be read as HTTP", "Send HTTP/1.1 with a short head."
)
OVERLOADED = Kind(
    "overloaded",
    503,
    "Too many connections",
    "Nothing was decided. Try again, and keep connections open for reuse.",
)
TIMEOUT = Kind("request-timeout", 408, "The body did not arrive in time", "Send the whole body at once.")
TOO_LARGE = Kind("too-large", 413, "The body is too large", "Send fewer metadata; a transaction is about 1 kB.")
MEDIA_TYPE_REFUSED = Kind(
    "unsupported-media-type", 415, "The body is of another media type", "Send Content-Type: application/json."
)
INTERNAL = Kind("internal-error", 500, "The service failed", "Nothing was decided. The service's log says why.")
UNAVAILABLE = Kind(
    "store-unavailable",
    503,
    "The decision log cannot be written",
    "Nothing was decided. Try again after the seconds that Retry-After gives; /readyz says what is wrong.",
)
ARCHIVE_UNREADABLE = Kind(
    "archive-unreadable",
    503,
    "The archive cannot be read",
    "Do what `detail` says where the service runs, then send the same again.",
)

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        NOT_JSON,
        INVALID_TRANSACTION,
        INVALID_REQUEST,
        UNKNOWN_MERCHANT,
        CONFLICT,
        RULES_REFUSED,
        UNKNOWN_SCREENING,
        UNAUTHORIZED,
        FORBIDDEN,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        UNKNOWN_LIST,
        UNKNOWN_ENTRY,
        INVALID_ENTRY,
        IMPORT_REFUSED,
        NO_FINGERPRINT,
        UNREADABLE,
        OVERLOADED,
        TIMEOUT,
        TOO_LARGE,
        MEDIA_TYPE_REFUSED,
        INTERNAL,
        UNAVAILABLE,
        ARCHIVE_UNREADABLE,
    )
}

RETRY_AFTER_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document, ready to be sent; `errors` are (field, problem)."""

    kind: Kind
    detail: str
    errors: tuple[tuple[str, str], ...] = ()
    close: bool = False  # the connection holds an unread body and cannot be used again

    @property
    def status(self) -> int:
        return self.kind.status

    @property
    def headers(self) -> list[tuple[str, str]]:
        headers = [("content-type", MEDIA_TYPE), ("cache-control", "no-store")]
        if self.kind is UNAUTHORIZED:
            headers.append(("www-authenticate", "Bearer"))
        if self.kind in (UNAVAILABLE, ARCHIVE_UNREADABLE):
            headers.append(("retry-after", str(RETRY_AFTER_SECONDS)))
        if self.close:
            headers.append(("connection", "close"))
        return headers

    def body(self) -> bytes:
        document: dict[str, object] = {
            "type": self.kind.uri,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": hide_pans(self.detail),
        }
        if self.errors:
            document["errors"] = [
                {"field": hide_pans(field), "problem": hide_pans(problem)} for field, problem in self.errors
            ]
        return orjson.dumps(document)


def problem_for(error: Exception) -> Problem | None:
    """The problem that an error of this package is to a caller; None for one that is our own fault."""
    match error:
        case NotJson():
            return Problem(NOT_JSON, f"The body {error.problem}.", error.problems)
        case TransactionRefused():
            return Problem(INVALID_TRANSACTION, in_words(error.problems), error.problems)
        case InvalidTransaction():
            problems = ((error.field, error.problem),)
            return Problem(INVALID_TRANSACTION, in_words(problems), problems)
        case ConflictingTransaction():
            return Problem(CONFLICT, in_words(error.differences), error.differences)
        case UnknownMerchant(refused=True):
            why = "its rule file is refused"
            return Problem(RULES_REFUSED, "The merchant's rule file is refused.", (("merchant", why),))
        case UnknownMerchant():
            why = "no rule file has that name"
            return Problem(UNKNOWN_MERCHANT, f"Unknown merchant: {why}.", (("merchant", why),))
        case StoreUnavailable():
            return Problem(UNAVAILABLE, "Nothing was decided, because the decision could not have been recorded.")
    return None


def in_words(problems: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{field}: {problem}" for field, problem in problems)


def problem_of_status(status: int) -> Problem:
    """The problem behind a bare HTTP status of the framework."""
    kind = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED, 413: TOO_LARGE, 415: MEDIA_TYPE_REFUSED}.get(status)
    if kind is not None:
        return Problem(kind, kind.help)
    if status < 500:
        return Problem(INVALID_REQUEST, HTTPStatus(status).phrase)
    return Problem(INTERNAL, INTERNAL.help)
