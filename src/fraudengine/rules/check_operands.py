"""What a fact is compared with, and what a setting is given: nodes -> literals and money figures."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from ..facts import FactSpec, FactType
from . import check_values as values
from .amounts_meant import plain_figure
from .ast import Literal, MoneyFigures
from .check_values import Wrong
from .checked import Mistakes, shown
from .yamldoc import Mapping as MappingNode
from .yamldoc import Scalar

_FIGURE: Final = re.compile(r"[0-9][0-9.' ]*", re.ASCII)
_DECIMALS: Final = re.compile(r"[0-9]", re.ASCII)


def with_article(fact_type: FactType) -> str:
    if fact_type is FactType.MONEY:
        return "money"
    return f"{'an' if fact_type.value[0] in 'aeiou' else 'a'} {fact_type.value}"


def read_operand(node: Scalar, spec: FactSpec, mistakes: Mistakes) -> Literal | MoneyFigures | None:
    """The value that a scalar says for a fact or setting of that type."""
    if node.is_empty:
        mistakes.report("empty-value", "a value is missing here", node, "write the value")
        return None
    if spec.type is FactType.MONEY:
        amount = values.money(node.text)
        if isinstance(amount, Wrong):
            mistakes.report(amount.code, amount.message, node, amount.hint)
            return None
        return MoneyFigures((amount,))
    value = values.literal(node.text, spec)
    if isinstance(value, Wrong):
        mistakes.report(value.code, value.message, node, value.hint)
        return None
    return Literal(value)


def read_figures(node: MappingNode, mistakes: Mistakes) -> MoneyFigures | None:
    """`{TND: 300, EUR: 90}` as figures sorted by currency."""
    figures: list[tuple[str, int]] = []
    split = decimal_commas(node)
    for key, value in node.items:
        if any(key is decimals for _, _, decimals in split):
            continue
        code = values.currency(key.text)
        whole = next((joined for whole, joined, _ in split if whole is value), None)
        if whole is not None and not isinstance(code, Wrong):
            _report_comma(code, whole, mistakes)
            continue
        if isinstance(code, Wrong):
            mistakes.report(code.code, code.message, key, code.hint)
        elif not isinstance(value, Scalar) or value.is_empty:
            mistakes.report("not-money", f"a figure in {code} was expected here", value, f"write `{code}: 300`")
        else:
            minor = values.figure(value.text, code)
            if isinstance(minor, Wrong):
                mistakes.report(minor.code, minor.message, value, minor.hint)
            else:
                figures.append((code, minor))
    if not node.items:
        mistakes.report("not-money", "no figure is given", node, "write one per currency: `{TND: 300, EUR: 90}`")
    return MoneyFigures(tuple(sorted(figures))) if figures and len(figures) == len(node.items) else None


def decimal_commas(node: MappingNode) -> list[tuple[Scalar, Scalar, Scalar]]:
    """`{TND: 300,500}` is read as `300` and a key `500`: each such value, both as they are written, and the key."""
    found: list[tuple[Scalar, Scalar, Scalar]] = []
    for (_, value), (key, nothing) in pairwise(node.items):
        if not isinstance(value, Scalar) or not isinstance(nothing, Scalar) or not nothing.is_empty:
            continue
        if _FIGURE.fullmatch(value.text) and _DECIMALS.match(key.text) and key.line == value.line:
            whole = value._replace(text=f"{value.text},{key.text}", end_column=key.end_column)
            found.append((value, whole, key))
    return found


def _report_comma(code: str, whole: Scalar, mistakes: Mistakes) -> None:
    plain = plain_figure(whole.text, code)
    hint = f"decimals take a point, thousands no mark: `{{{code}: {plain or '300.500'}}}`"
    mistakes.report("not-money", f"{shown(whole.text)} is no amount of {code}", whole, hint)
