"""A replay measured by a budget: every bound with its measured value, and what broke those that are broken.

Compared are the transactions whose champion's outcome is known; where there is none, the budget is broken: a gate
that compared nothing has found nothing. Figures are exact fractions, so that a bound that is met to the last
transaction is met.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from ..diagnostics import Diagnostic, Severity, Span, suggest
from ..money import format_minor
from ..rules.checked import shown
from .budget import AMOUNT, OF_THE_RUN, AmountBound, Bound, Bounds, Budget, CountBound, GrowthBound, Unit
from .result import BAD_LABELS, GOOD_LABELS, ReplayResult, ReplayTable


def _labels(found: Iterable[str]) -> str:
    return ", ".join(f"'{label}'" for label in sorted(found))


_NEWLY_REFUSED: Final = "champion <> 'refuse' AND candidate = 'refuse'"
_BREAKING: Final[Mapping[str, str]] = {
    "refusals": _NEWLY_REFUSED,
    "challenges": "champion <> 'challenge' AND candidate = 'challenge'",
    "flipped": "champion <> candidate",
    "bad_newly_accepted": f"champion <> 'accept' AND candidate = 'accept' AND label IN ({_labels(BAD_LABELS)})",
    "good_newly_refused": f"{_NEWLY_REFUSED} AND label IN ({_labels(GOOD_LABELS)})",
    AMOUNT: _NEWLY_REFUSED,
}


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One bound as it was measured. `named` are the transactions, rules, rows or merchants that count against it.

    `transactions` of them there are; `named` may be cut short.
    """

    bound: str
    merchant: str | None
    allowed: str
    measured: str
    within: bool
    span: Span
    transactions: int = 0
    named: tuple[Mapping[str, Any], ...] = ()

    @property
    def heading(self) -> str:
        of = f" of {self.merchant}" if self.merchant is not None else ""
        return f"{self.bound}{of}: {self.measured}, at most {self.allowed}"


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """Every bound measured, and what was compared; `unrecorded` transactions have no answer to compare with."""

    path: str
    lines: tuple[BudgetLine, ...]
    compared: int
    unrecorded: int
    doubts: tuple[Diagnostic, ...] = ()

    @property
    def broken(self) -> tuple[BudgetLine, ...]:
        return tuple(line for line in self.lines if not line.within)

    @property
    def holds(self) -> bool:
        return self.compared > 0 and not self.broken


@dataclass(slots=True)
class _Tally:
    """What both sides decided of one merchant's payments, or of everybody's."""

    compared: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    bad_accepted: int = 0
    good_refused: int = 0
    refused_minor: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        pair, number = (row["champion"], row["candidate"]), row["transactions"]
        self.compared += number
        self.pairs[pair] += number
        if pair[0] != "accept" and pair[1] == "accept" and row["label"] in BAD_LABELS:
            self.bad_accepted += number
        if pair[0] != "refuse" and pair[1] == "refuse":
            self.refused_minor[row["currency"]] += row["minor"]
            if row["label"] in GOOD_LABELS:
                self.good_refused += number

    def of(self, outcome: str) -> tuple[int, int]:
        """How often the champion and the candidate come to the outcome."""
        before = sum(number for pair, number in self.pairs.items() if pair[0] == outcome)
        return before, sum(number for pair, number in self.pairs.items() if pair[1] == outcome)

    def count(self, name: str) -> int:
        match name:
            case "flipped":
                return sum(number for pair, number in self.pairs.items() if pair[0] != pair[1])
            case "bad_newly_accepted":
                return self.bad_accepted
            case _:
                return self.good_refused


def check_budget(result: ReplayResult, budget: Budget, named: int | None = None) -> BudgetReport:
    """Measures the result; at most `named` transactions are named for each broken bound (None: all)."""
    rows = result.query(
        "SELECT merchant, champion, candidate, currency, label, sum(transactions)::BIGINT AS transactions,"
        " sum(minor)::BIGINT AS minor FROM cube GROUP BY ALL"
    ).rows()
    whole, merchants, unrecorded = _Tally(), dict[str, _Tally](), 0
    for row in rows:
        if row["champion"] == "unrecorded":
            unrecorded += row["transactions"]
            continue
        whole.add(row)
        merchants.setdefault(row["merchant"], _Tally()).add(row)
    lines = [*_measure(result, None, whole, budget.whole, named), *_of_the_run(result, budget.whole, named)]
    for merchant, tally in sorted(merchants.items()):
        lines += _measure(result, merchant, tally, budget.of_merchant(merchant), named)
    doubts = tuple(_unmet(budget, {row["merchant"] for row in rows}))
    return BudgetReport(budget.path, tuple(lines), whole.compared, unrecorded, doubts)


def _unmet(budget: Budget, known: set[str]) -> Iterator[Diagnostic]:
    for merchant, (span, _) in budget.merchants.items():
        if merchant not in known:
            message = f"no transaction of merchant {shown(merchant)} was replayed: its bounds were not measured"
            yield Diagnostic("unmet-merchant", message, span, suggest(merchant[:64], known), Severity.WARNING)


def _measure(
    result: ReplayResult, merchant: str | None, tally: _Tally, bounds: Bounds, named: int | None
) -> Iterator[BudgetLine]:
    for name, bounded in bounds.items():
        if name in OF_THE_RUN:
            continue
        for bound in bounded:
            measured, within = _compare(name, tally, bound)
            allowed, number, found = _allowed(bound), 0, ReplayTable("", result.matrix.arrow.slice(0, 0))
            if not within:
                number, found = _transactions(result, name, merchant, bound, named)
            title = f"{name} {bound.currency}" if isinstance(bound, AmountBound) else name
            yield BudgetLine(
                title, merchant, allowed, measured, within, bound.span, number, tuple(map(_plain, found.rows()))
            )


def _compare(name: str, tally: _Tally, bound: Bound) -> tuple[str, bool]:
    """The measured value in words, and whether it is within the bound."""
    match bound:
        case CountBound(most=most):
            count = tally.count(name)
            return f"{count:,}", count <= most
        case AmountBound(currency=currency, most=most):
            minor = tally.refused_minor[currency]
            return f"{format_minor(minor, currency)} {currency}", minor <= most
        case GrowthBound():
            return _compare_growth(name, tally, bound)


def _compare_growth(name: str, tally: _Tally, bound: GrowthBound) -> tuple[str, bool]:
    before, after = tally.of("refuse" if name == "refusals" else "challenge")
    grown = after - before
    numbers = f"({before:,} → {after:,} of {tally.compared:,})"
    match bound.unit:
        case Unit.COUNT:
            return f"{grown:+,} {numbers}", grown <= bound.most
        case Unit.POINTS:
            points = Fraction(100 * grown, tally.compared) if tally.compared else Fraction(0)
            return f"{_signed(points, bound.most)} pp {numbers}", points <= bound.most
        case Unit.PERCENT:
            if before == 0:
                return f"{grown:+,} {numbers}", grown <= 0
            percent = Fraction(100 * grown, before)
            return f"{_signed(percent, bound.most)} % {numbers}", percent <= bound.most


def _signed(value: Fraction, most: Fraction) -> str:
    """With as many decimals as it takes to tell it from the bound."""
    text = ""
    for decimals in range(2, 13):
        text = f"{float(value):+.{decimals}f}"
        if value == most or Fraction(text) != most:
            break
    return text


def _allowed(bound: Bound) -> str:
    match bound:
        case GrowthBound(text=text):
            return text
        case AmountBound(currency=currency, most=most):
            return f"{format_minor(most, currency)} {currency}"
        case CountBound(most=most):
            return f"{most:,}"


def _transactions(
    result: ReplayResult, name: str, merchant: str | None, bound: Bound, named: int | None
) -> tuple[int, ReplayTable]:
    """How many transactions count against a bound, and those that are named, in the order of arrival."""
    where = f"champion <> 'unrecorded' AND {_BREAKING[name]}"
    if merchant is not None:
        where += f" AND merchant = '{merchant.replace(chr(39), chr(39) * 2)}'"
    if isinstance(bound, AmountBound):
        where += f" AND currency = '{bound.currency}'"
    number = result.query(f"SELECT coalesce(sum(transactions), 0)::BIGINT AS number FROM cube WHERE {where}")
    limit = "" if named is None else f" LIMIT {named}"
    found = result.query(
        "SELECT d.merchant, h.transaction_id, make_timestamp(d.at_us) AS at, d.currency, d.minor, d.label,"
        " d.champion, d.candidate, d.candidate_rule, d.candidate_code"
        f" FROM (SELECT * FROM decisions WHERE {where} ORDER BY seq{limit}) d"
        " JOIN (SELECT seq, transaction_id FROM history) h USING (seq) ORDER BY seq"
    )
    return number.rows()[0]["number"], found


def _plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A transaction with its time and amount as people and programs read them."""
    minor, currency = row["minor"], row["currency"]
    rest = {name: value for name, value in row.items() if name not in ("minor", "at")}
    return {**rest, "at": f"{row['at'].isoformat()}Z", "amount": format_minor(minor, currency)}


def _of_the_run(result: ReplayResult, bounds: Bounds, named: int | None) -> Iterator[BudgetLine]:
    for name in OF_THE_RUN:
        for bound in bounds.get(name, ()):
            assert isinstance(bound, CountBound)
            count, found = _of_the_run_found(result, name)
            within = count <= bound.most
            told = () if within else tuple(found if named is None else found[:named])
            yield BudgetLine(name, None, _allowed(bound), f"{count:,}", within, bound.span, len(found), told)


def _of_the_run_found(result: ReplayResult, name: str) -> tuple[int, list[dict[str, Any]]]:
    match name:
        case "silenced_rules":
            rows = result.silenced.rows()
            silent = [row for row in rows if row["side"] == "candidate" and row["absent_facts"]]
            told = [{key: row[key] for key in ("rule", "absent_facts", "transactions")} for row in silent]
            return len({row["rule"] for row in silent}), told
        case "rejected_rows":
            return result.summary.rejected, result.rejects.rows()
        case _:
            names = result.summary.skipped_merchants
            return len(names), [{"merchant": merchant} for merchant in names]
