"""Rules as columns: each condition becomes a boolean Ibis expression over a table of transactions.

SQL's AND, OR and NOT are Kleene's, and a comparison with NULL is NULL, so the three-valued law of
`backends.reference` carries over as it stands; NULL is unknown. What SQL does otherwise is said here by hand: a
rule matches when `when` IS TRUE and `unless` IS NOT TRUE, an empty `all` is true, an empty `any` false, and money
compares through the figure of the row's own currency.

A table that rules are lowered over has, for each fact, a column of that name; for money facts the minor units, and
beside them `<fact>__currency`; for the address also `ip_key`. A fact without a column is unknown in every row.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from operator import and_, or_
from typing import Any as AnyType
from typing import Final, TypeAlias, assert_never

import ibis
import ibis.expr.operations as operations
import pyarrow as pa

from ..facts import FactName, FactType
from ..rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    Literal,
    MoneyFigures,
    Not,
    OneOf,
    Op,
    Rule,
    SettingRef,
    StartsWith,
)

# Ibis ships no types that a checker reads: an expression is `Expr` here.
Expr: TypeAlias = AnyType
Membership: TypeAlias = Callable[[InList, Expr], Expr]
"""Whether a value that is known is in a list; used only where the fact has a value."""

CURRENCY_SUFFIX: Final = "__currency"
WORD_BITS: Final = 62


@dataclass(frozen=True, slots=True)
class Columns:
    """What conditions read: the table, list membership, and figures that differ between merchants.

    `parameters` gives, for the name of a `SettingRef` that replaced an operand, what makes the expression of its
    value for a row (of a figure: from the row's currency). `aliases` names the column of a fact whose column has
    another name.
    """

    table: Expr
    in_list: Membership
    parameters: Mapping[str, Callable[[Expr | None], Expr]] = field(default_factory=dict)
    aliases: Mapping[FactName, str] = field(default_factory=dict)

    def has(self, fact: FactName) -> bool:
        return self.aliases.get(fact, fact) in self.table.columns

    def value(self, fact: FactName) -> Expr:
        return self.table[self.aliases.get(fact, fact)]

    def currency(self, fact: FactName) -> Expr:
        return self.table[self.aliases.get(fact, fact) + CURRENCY_SUFFIX]


UNKNOWN: Final[Expr] = ibis.null("boolean")


def lower(condition: Condition, columns: Columns) -> Expr:
    """The truth of the condition in each row: TRUE, FALSE or NULL for unknown."""
    match condition:
        case All(conditions=()):
            return ibis.literal(True)
        case Any(conditions=()):
            return ibis.literal(False)
        case All(conditions=inner):
            return reduce(and_, (lower(part, columns) for part in inner))
        case Any(conditions=inner):
            return reduce(or_, (lower(part, columns) for part in inner))
        case Not(condition=part):
            return ~lower(part, columns)
        case IsUnknown(fact=fact):
            return columns.value(fact).isnull() if columns.has(fact) else ibis.literal(True)
        case Compare() | OneOf() | StartsWith() | InNetworks() | InList():
            return _lower_test(condition, columns) if columns.has(condition.fact) else UNKNOWN
        case _:
            assert_never(condition)


def _lower_test(test: Compare | OneOf | StartsWith | InNetworks | InList, columns: Columns) -> Expr:
    value = columns.value(test.fact)
    match test:
        case Compare(op=op, type=fact_type):
            other = _operand(test, columns)
            return UNKNOWN if other is None else _compare(op, value, other, fact_type)
        case OneOf(values=values, type=FactType.BIN):
            return reduce(or_, (value.startswith(str(prefix)) for prefix in values))
        case OneOf(values=values):
            return value.isin(list(values))
        case StartsWith(prefix=Literal(value=prefix)):
            return value.startswith(str(prefix))
        case StartsWith():
            raise AssertionError("a live rule reads an unresolved setting")
        case InNetworks(networks=networks):
            key = columns.table["ip_key"]
            return reduce(or_, (key.between(*network_keys(network)) for network in networks))
        case InList():
            # An address is asked by its key alone, so that its text need not be read.
            asked = columns.table["ip_key"] if test.fact == "ip_address" else value
            return ibis.ifelse(asked.isnull(), UNKNOWN, columns.in_list(test, value))
        case _:
            assert_never(test)


def _operand(test: Compare, columns: Columns) -> Expr | None:
    """What the fact is compared with, or None when that is unknown in every row."""
    match test.operand:
        case Literal(value=literal):
            return ibis.literal(literal)
        case MoneyFigures(figures=figures):
            return figure_of(columns.currency(test.fact), dict(figures))
        case FactRef(fact=other):
            if not columns.has(other):
                return None
            if test.type is not FactType.MONEY:
                return columns.value(other)
            same = columns.currency(test.fact) == columns.currency(other)
            return ibis.ifelse(same, columns.value(other), ibis.null("int64"))
        case SettingRef(name=name):
            currency = columns.currency(test.fact) if test.type is FactType.MONEY else None
            return columns.parameters[name](currency)
        case _:
            assert_never(test.operand)


def figure_of(currency: Expr, figures: Mapping[str, AnyType]) -> Expr:
    """The figure for the row's currency, NULL where there is none."""
    branches = [(currency == code, figure) for code, figure in figures.items()]
    return ibis.cases(*branches, else_=ibis.null("int64")) if branches else ibis.null("int64")


def _compare(op: Op, value: Expr, other: Expr, fact_type: FactType) -> Expr:
    match op:
        case Op.EQUALS:
            return value.startswith(other) if fact_type is FactType.BIN else value == other
        case Op.OVER:
            return value > other
        case Op.AT_LEAST:
            return value >= other
        case Op.UNDER:
            return value < other
        case Op.AT_MOST:
            return value <= other
        case _:
            assert_never(op)


# ---- tables and SQL -------------------------------------------------------------------------------


class Dialect(StrEnum):
    """The engines whose SQL expressions are written in."""

    DUCKDB = "duckdb"
    SPARK = "pyspark"


def table_named(name: str, schema: pa.Schema) -> Expr:
    """A table that the engine knows by that name."""
    return ibis.table(ibis.Schema.from_pyarrow(schema), name=name)


def to_sql(expression: Expr, dialect: Dialect) -> str:
    """The SQL of a table expression.

    Ibis only compiles here, and engines run the text: Ibis 12 with SQLGlot 30.30 writes a `DROP VIEW` without the
    name when it loads tables itself. Its merging of selects is off, because it copies an expression to every place
    that uses it: a column that twenty others read would be computed twenty times.
    """
    merging, ibis.options.sql.fuse_selects = ibis.options.sql.fuse_selects, False
    try:
        return str(ibis.to_sql(expression, dialect=dialect.value, pretty=False))
    finally:
        ibis.options.sql.fuse_selects = merging


# ---- addresses ------------------------------------------------------------------------------------


def ip_key(version: int, number: int) -> str:
    """An address as text whose order is the order of addresses: `4` and 8 hexadecimal digits, or `6` and 32."""
    return f"4{number:08x}" if version == 4 else f"6{number:032x}"


def network_keys(network: str) -> tuple[str, str]:
    """The keys of the first and the last address of a network."""
    read = ipaddress.ip_network(network)
    return ip_key(read.version, int(read[0])), ip_key(read.version, int(read[-1]))


# ---- rules ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleColumns:
    """Of one rule: whether it matches (never NULL), and whether its `when` is unknown (never NULL).

    A rule that matches while its `when` is unknown does so by `if_unknown`.
    """

    rule: Rule
    matched: Expr
    unknown: Expr


def lower_rule(rule: Rule, columns: Columns) -> RuleColumns:
    """The columns of one rule that is live or in shadow."""
    when, unless = lower_conditions(rule, columns)
    return RuleColumns(rule, _matched(rule, when, unless), _is_unknown(rule.when, columns))


def lower_conditions(rule: Rule, columns: Columns) -> tuple[Expr, Expr | None]:
    """The truth of `when` and of `unless`: TRUE, FALSE or NULL."""
    return lower(rule.when, columns), None if rule.unless is None else lower(rule.unless, columns)


def read_conditions(rule: Rule, when: Expr, unless: Expr | None) -> RuleColumns:
    """The columns of a rule whose conditions are columns already, so that neither is worked out twice."""
    return RuleColumns(rule, _matched(rule, when, unless), when.isnull())


def _matched(rule: Rule, when: Expr, unless: Expr | None) -> Expr:
    matched = when.fill_null(rule.if_unknown is not None)
    return matched if unless is None else matched & ~unless.fill_null(False)


def _is_unknown(condition: Condition, columns: Columns) -> Expr:
    """Whether the condition is unknown; never NULL.

    A negation is unknown when what it negates is. Asked of the negation itself, or of a group that holds nothing
    else, Ibis 12 writes `NOT (x) IS NULL`, which SQL reads as `NOT (x IS NULL)`.
    """
    match condition:
        case Not(condition=part) | All(conditions=(part,)) | Any(conditions=(part,)):
            return _is_unknown(part, columns)
    return lower(condition, columns).isnull()


def bit_words(flags: Iterable[Expr]) -> list[Expr]:
    """Flags packed into 64-bit integers, 62 in each, the first in the lowest bit."""
    held = list(flags)
    words = []
    for start in range(0, len(held), WORD_BITS):
        parts = [
            ibis.ifelse(_or_null(flag), ibis.literal(1 << place, "int64"), ibis.literal(0, "int64"))
            for place, flag in enumerate(held[start : start + WORD_BITS])
            if not _is_false(flag)
        ]
        words.append(reduce(lambda one, two: one + two, parts, ibis.literal(0, "int64")))
    return words


def _or_null(flag: Expr) -> Expr:
    """The flag without its `COALESCE(…, FALSE)`, for a choice takes NULL as false, and quicker."""
    found = flag.op()
    if isinstance(found, operations.Coalesce) and len(found.arg) == 2 and _is_false(found.arg[1].to_expr()):
        return found.arg[0].to_expr()
    return flag


def _is_false(flag: Expr) -> bool:
    return bool(flag.equals(ibis.literal(False)))
