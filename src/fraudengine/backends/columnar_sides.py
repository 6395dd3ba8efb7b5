"""One side of a shape: its rules, with the figures and lists that each of its merchants gives them.

Merchants of a shape share their queries, so a figure that differs between them is a column, and so is membership of
a list that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ibis
import pyarrow as pa

from ..facts import FactName, FactType
from ..rules.ast import InList, ListName, Literal, MoneyFigures, walk
from ..rules.counters import Counter
from .columnar import Expr
from .columnar_codes import Codes
from .columnar_decision import DecisionRules
from .columnar_lists import INLINE_VALUES, JoinedList, ListKeys, Spans, tabulate


@dataclass(frozen=True, slots=True)
class SidePlan:
    """One side of the merchants of a shape. `operands` and `lists` are by merchant.

    A side may be another one with holes: the lists of `without` hold none of the fact beside them. It has a name
    of its own, and shares the columns of the side that it is `made_from`.
    """

    name: str
    rules: DecisionRules
    timezone: str
    metadata: Mapping[str, FactType]
    counters: tuple[Counter, ...]
    reads: frozenset[FactName]
    operands: Mapping[str, Sequence[Literal | MoneyFigures]]
    lists: Mapping[str, Mapping[ListName, ListKeys]]
    guards: Mapping[str, Spans] = field(default_factory=dict)
    made_from: str = ""
    without: frozenset[tuple[ListName, FactName]] = frozenset()

    @property
    def columns_of(self) -> str:
        """The side whose figures and memberships it reads."""
        return self.made_from or self.name

    # ---- lists ------------------------------------------------------------------------------------

    def list_tests(self) -> list[InList]:
        """The tests of its rules that read a list, each list and fact once."""
        found: dict[tuple[ListName, FactName], InList] = {}
        for rule in self.rules.rules:
            for condition in (rule.when, rule.unless):
                if condition is not None:
                    for part in walk(condition):
                        if isinstance(part, InList):
                            found.setdefault((part.list_name, part.fact), part)
        return list(found.values())

    def membership_name(self, test: InList) -> str:
        """The column that says whether the test's list holds the fact."""
        return f"in_{self.columns_of}_{test.list_name}_{test.fact.replace('.', '_')}"

    def is_inline(self, name: ListName) -> bool:
        """Whether the list can stand in the query: its entries are few, and the same for every merchant."""
        held = [lists[name] for lists in self.lists.values()]
        if not any(keys.spans for keys in held):
            return True
        same = all(keys.spans == held[0].spans for keys in held[1:])
        return same and len(held[0].spans) <= INLINE_VALUES

    def inline_keys(self, name: ListName) -> ListKeys:
        """The entries of a list that `is_inline`."""
        return next(iter(self.lists.values()))[name]

    def tabulated(self, name: ListName) -> JoinedList:
        """The list of every merchant as one table to join."""
        held = {merchant: lists[name] for merchant, lists in self.lists.items()}
        return tabulate(next(iter(held.values())).kind, held)

    # ---- figures ----------------------------------------------------------------------------------

    def operand_columns(self, merchants: Sequence[str]) -> list[tuple[dict[str, pa.Array], bool]]:
        """For each operand its column, or one for each currency, and whether all merchants have the same value."""
        first = self.operands[merchants[0]]
        found = []
        for place, operand in enumerate(first):
            values = [self.operands[merchant][place] for merchant in merchants]
            constant = all(value == operand for value in values)
            if isinstance(operand, MoneyFigures):
                figures = [dict(value.figures) for value in values if isinstance(value, MoneyFigures)]
                codes = sorted({code for figure in figures for code in figure})
                columns = {f"_{code}": pa.array([held.get(code) for held in figures], pa.int64()) for code in codes}
            else:
                columns = {"": pa.array([value.value for value in values if isinstance(value, Literal)])}
            found.append((columns, constant))
        return found


def operand_of(
    table: Expr, name: str, values: Mapping[str, pa.Array], constant: bool, codes: Codes, currency: Expr | None
) -> Expr:
    """The operand in each row. Money is in the row's currency, whose number compares faster than its text."""

    def of(suffix: str, column: pa.Array) -> Expr:
        return ibis.literal(column[0].as_py()) if constant else table[f"{name}{suffix}"]

    if currency is None:
        return of("", values[""])
    branches = [
        (table["currency_no"] == codes.currencies.index(suffix[1:]), of(suffix, column))
        for suffix, column in values.items()
        if suffix[1:] in codes.currencies and (not constant or column[0].as_py() is not None)
    ]
    return ibis.cases(*branches, else_=ibis.null("int64")) if branches else ibis.null("int64")
