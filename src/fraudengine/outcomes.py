"""What became of a payment, as the gateway reports it: read, checked, and written as a kind and a code.

Reports are kept for any number of times and never changed; the newest is not the only one that counts (a payment
that was authorised can be refunded and then charged back). They are the labels of replay, and velocity counters
leave out what was a technical failure. The code of a refund says how much: `full`, or `part 12.500 TND`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from .cards import find_pans
from .diagnostics import InvalidTransaction, suggest
from .list_entries import read_time
from .money import InvalidAmount, format_minor, read_minor

MAX_CODE: Final = 64
_CODE: Final = re.compile(r"[ -~]*")


class OutcomeKind(StrEnum):
    """What can become of a payment; the words are those of replay's labels."""

    AUTHORISED = "authorised"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"
    CHARGEBACK = "chargeback"
    FRAUD = "fraud"
    LEGITIMATE = "legitimate"
    TECHNICAL_FAILURE = "technical_failure"


class InvalidOutcome(InvalidTransaction):
    """A report is wrong: names its field, repeats no value."""


@dataclass(frozen=True, slots=True)
class OutcomeReport:
    """One report; `code` is the bank's or scheme's code, or how much was refunded."""

    kind: OutcomeKind
    code: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Paid:
    """The amount of the payment that is reported on."""

    currency: str
    minor: int


def read_report(
    outcome: str,
    paid: Paid,
    now_us: int,
    *,
    code: str = "",
    amount: str = "",
    reference: str = "",
    at: str = "",
) -> OutcomeReport:
    """The report that these texts make; raises InvalidOutcome."""
    try:
        kind = OutcomeKind(outcome)
    except ValueError:
        hint = suggest(outcome[:32], list(OutcomeKind)) if not find_pans(outcome) else ""
        raise InvalidOutcome(
            "outcome", f"is one of {', '.join(OutcomeKind)}" + (f"; {hint}" if hint else "")
        ) from None
    for name, text in (("code", code), ("reference", reference)):
        if len(text) > MAX_CODE or _CODE.fullmatch(text) is None:
            raise InvalidOutcome(name, f"has at most {MAX_CODE} printable ASCII characters")
        if find_pans(text):
            raise InvalidOutcome(name, "holds a card number, which is never stored")
    at_us = now_us
    if at:
        found = read_time(at)
        if found is None or found > now_us + 86_400_000_000:
            raise InvalidOutcome("at", "is a time as in 2026-11-23T10:15:00Z, not later than tomorrow")
        at_us = found
    if kind is OutcomeKind.REFUNDED:
        code = " ".join(part for part in (_refunded(amount, paid), code, reference) if part)
    elif amount:
        raise InvalidOutcome("amount", "goes with `refunded` only")
    else:
        code = " ".join(part for part in (code, reference) if part)
    if find_pans(code):
        raise InvalidOutcome("reference", "makes a card number with `code`, which is never stored")
    return OutcomeReport(kind, code, at_us)


def _refunded(amount: str, paid: Paid) -> str:
    if not amount:
        return "full"
    try:
        minor = read_minor(amount, paid.currency)
    except InvalidAmount as error:
        raise InvalidOutcome("amount", str(error)) from None
    if not 0 < minor <= paid.minor:
        raise InvalidOutcome("amount", "is more than nothing and at most what was paid")
    return "full" if minor == paid.minor else f"part {format_minor(minor, paid.currency)} {paid.currency}"


# ---- many at once -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One report of a file, not checked yet, and where it stands."""

    number: int
    screening_id: str
    merchant: str
    transaction_id: str
    fields: Mapping[str, str]


_COLUMNS: Final = ("screening_id", "merchant", "transaction_id", "outcome", "code", "amount", "reference", "at")


def read_csv(text: str, merchant: str) -> Iterator[Line]:
    """The reports of a CSV: its header has `outcome`, and `screening_id` or `transaction_id` (with `merchant`)."""
    sample = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=";" if ";" in sample else ",")
    header = [name.strip().lower() for name in next(rows, [])]
    if unknown := [name for name in header if name not in _COLUMNS]:
        known = ", ".join(_COLUMNS)
        raise InvalidOutcome("header", f"{len(unknown)} columns have no known name; known are {known}")
    if "outcome" not in header or not {"screening_id", "transaction_id"} & set(header):
        raise InvalidOutcome("header", "needs `outcome`, and `screening_id` or `transaction_id`")
    for row in rows:
        if not any(row):
            continue
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=False)}
        yield Line(
            rows.line_num,
            cells.pop("screening_id", ""),
            cells.pop("merchant", "") or merchant,
            cells.pop("transaction_id", ""),
            cells,
        )


# Action codes of the gateway (ISO 8583 and its own) that say that nobody decided: the payment failed by itself.
TECHNICAL_CODES: Final = frozenset(
    {"-9000", "-2007", "-100", "-1", "5", "902", "903", "904", "906", "907", "908", "909", "910", "911", "912"}
    | {"913", "151017", "151018", "151019"}
)


def read_order_statuses(text: str, merchant: str) -> tuple[list[Line], int]:
    """The reports of the gateway's `getOrderStatusExtended` answers (an array, or one a line), and how many orders
    have come to nothing yet. `orderNumber` is the transaction id.
    """
    found: list[Line] = []
    undecided = 0
    for number, order in enumerate(_objects(text), start=1):
        reports = list(_reports(order))
        undecided += not reports
        found += [Line(number, "", merchant, str(order.get("orderNumber", "")), fields) for fields in reports]
    return found, undecided


def _objects(text: str) -> list[dict[str, Any]]:
    try:
        read = json.loads(text)
    except ValueError:
        try:
            read = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise InvalidOutcome("file", "is neither JSON nor one JSON object a line") from None
    objects = read if isinstance(read, list) else [read]
    if not all(isinstance(item, dict) for item in objects):
        raise InvalidOutcome("file", "holds something else than objects")
    return objects


def _reports(order: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What one order says: its status, and a chargeback beside it."""
    code = str(order.get("actionCode", "") or "")
    match order.get("orderStatus"):
        case 1 | 2:
            yield {"outcome": OutcomeKind.AUTHORISED}
        case 3:
            yield {"outcome": OutcomeKind.CANCELLED}
        case 4:
            yield {"outcome": OutcomeKind.AUTHORISED}
            yield from _refunds(order)
        case 6 if code in TECHNICAL_CODES:
            yield {"outcome": OutcomeKind.TECHNICAL_FAILURE, "code": code}
        case 6:
            yield {"outcome": OutcomeKind.DECLINED, "code": code}
        case _:  # 0 registered, 5 with the issuer's 3-D Secure server, or absent
            pass
    if order.get("chargeback"):
        yield {"outcome": OutcomeKind.CHARGEBACK}


def _refunds(order: Mapping[str, Any]) -> Iterable[dict[str, str]]:
    refunds = order.get("refunds")
    amounts: list[Any] = (
        [one.get("amount") for one in refunds if isinstance(one, dict)] if isinstance(refunds, list) else []
    )
    if not amounts or not all(isinstance(minor, int) for minor in amounts) or sum(amounts) == order.get("amount"):
        return [{"outcome": OutcomeKind.REFUNDED}]
    return [{"outcome": OutcomeKind.REFUNDED, "minor": str(minor)} for minor in amounts]


def report_of_line(line: Line, paid: Paid, now_us: int) -> OutcomeReport:
    """The report of a line about a payment that was found; raises InvalidOutcome."""
    fields = dict(line.fields)
    minor = fields.pop("minor", "")
    if minor:
        fields["amount"] = format_minor(int(minor), paid.currency)
    return read_report(fields.pop("outcome", ""), paid, now_us, **fields)


Find = Callable[[Line], tuple[int, Paid] | None]


def check_lines(
    lines: Iterable[Line], find: Find, now_us: int
) -> tuple[list[tuple[int, OutcomeReport]], list[tuple[int, str]]]:
    """Every line as a screening and its report, and what is wrong with the others, as (line, problem)."""
    good: list[tuple[int, OutcomeReport]] = []
    wrong: list[tuple[int, str]] = []
    for line in lines:
        found = find(line)
        if found is None:
            wrong.append((line.number, "there is no such screening"))
            continue
        try:
            good.append((found[0], report_of_line(line, found[1], now_us)))
        except InvalidOutcome as error:
            wrong.append((line.number, f"{error.field} {error.problem}"))
    return good, wrong
