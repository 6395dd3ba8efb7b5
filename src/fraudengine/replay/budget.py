"""A budget: how much a change of rules may change, as a YAML file that is read like a rule file.

    description: What may be merged without asking anybody.
    flipped: 50                            # over all merchants together
    bad_newly_accepted: 0
    amount_newly_refused: {TND: 2000, EUR: 600}
    silenced_rules: 0
    rejected_rows: 100
    each_merchant: {refusals: 0.3 pp, challenges: 10 %, good_newly_refused: 5}
    merchants:
      sahara-travel: {refusals: 1 pp}      # in the place of that line of `each_merchant`

Every bound is the most that is allowed: equal is within it. `refusals` and `challenges` bound a growth, as points
of the share of payments (`0.3 pp`), in relation to the champion's number (`10 %`), or as a number (`20`). The rest
count transactions, rules, rows or merchants, or add up an amount for each currency, in major units.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Final, TypeAlias

from ..diagnostics import Diagnostic, RuleFilesRefused, Span, suggest
from ..rules import check_values as values
from ..rules.check_rules import known_keys, read_text
from ..rules.checked import Mistakes, has_errors, in_order, shown
from ..rules.sourcetext import decode_source, text_for_display
from ..rules.yamldoc import Mapping as MappingNode
from ..rules.yamldoc import Node, Scalar, read_document

GROWTHS: Final = ("refusals", "challenges")
COUNTS: Final = ("flipped", "bad_newly_accepted", "good_newly_refused")
AMOUNT: Final = "amount_newly_refused"
BOUNDS: Final = (*GROWTHS, *COUNTS, AMOUNT)
"""What can be bounded over all merchants, for each of them, and for one by name."""

OF_THE_RUN: Final = ("silenced_rules", "rejected_rows", "merchants_left_out")
TOP_KEYS: Final = ("description", *BOUNDS, *OF_THE_RUN, "each_merchant", "merchants")

_GROWTH: Final = re.compile(r"\+?([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(pp|%)?")
_COUNT: Final = re.compile(r"[0-9]{1,12}")


class Unit(StrEnum):
    """In what a growth is measured."""

    POINTS = "pp"
    PERCENT = "%"
    COUNT = ""


@dataclass(frozen=True, slots=True)
class GrowthBound:
    """By how much something may grow: percentage points, percent of what it was, or a number."""

    most: Fraction
    unit: Unit
    span: Span = field(compare=False)
    text: str = field(compare=False, default="")


@dataclass(frozen=True, slots=True)
class CountBound:
    """How many there may be."""

    most: int
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class AmountBound:
    """How much there may be in one currency, in minor units."""

    currency: str
    most: int
    span: Span = field(compare=False)


Bound: TypeAlias = GrowthBound | CountBound | AmountBound
Bounds: TypeAlias = Mapping[str, tuple[Bound, ...]]


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget without mistakes. Bounds of one merchant stand in the place of those of `each_merchant`, by name."""

    path: str
    description: str
    whole: Bounds
    each_merchant: Bounds
    merchants: Mapping[str, tuple[Span, Bounds]]

    def of_merchant(self, merchant: str) -> Bounds:
        """The bounds that hold for one merchant alone."""
        own = self.merchants.get(merchant)
        return self.each_merchant if own is None else {**self.each_merchant, **own[1]}


def load_budget(path: Path) -> Budget:
    """The budget of a file; raises RuleFilesRefused with every mistake, OSError."""
    text, problems = decode_source(str(path), path.read_bytes())
    if text is None:
        raise RuleFilesRefused(problems)
    budget, mistakes = read_budget(str(path), text)
    if budget is None:
        raise RuleFilesRefused(mistakes, {str(path): text_for_display(text)})
    return budget


def read_budget(path: str, text: str) -> tuple[Budget | None, tuple[Diagnostic, ...]]:
    """The budget, or None beside every mistake of the file."""
    node, found = read_document(path, text)
    mistakes = Mistakes(list(found))
    budget = None
    if isinstance(node, MappingNode):
        budget = _read(path, node, mistakes)
    elif node is not None:
        hint = "write bounds such as `flipped: 50`, one a line"
        mistakes.report("not-a-mapping", "a budget is a mapping of bounds", node, hint)
    ordered = in_order(mistakes.found)
    return (None if has_errors(ordered) else budget), ordered


def _read(path: str, node: MappingNode, mistakes: Mistakes) -> Budget:
    before = len(mistakes.found)
    given = known_keys(node, TOP_KEYS, "a budget", mistakes)
    whole = _bounds({name: pair[1] for name, pair in given.items() if name in BOUNDS}, mistakes)
    for name in OF_THE_RUN:
        if name in given:
            whole[name] = _count(name, given[name][1], mistakes)
    each: Bounds = {}
    if "each_merchant" in given:
        each = _block(given["each_merchant"][1], "`each_merchant`", mistakes)
    merchants: dict[str, tuple[Span, Bounds]] = {}
    if "merchants" in given:
        block = given["merchants"][1]
        if isinstance(block, MappingNode):
            for key, value in block.items:
                merchants[key.text] = key.span, _block(value, f"merchant {shown(key.text)}", mistakes)
        else:
            hint = "write `NAME: {refusals: 1 pp}`, one merchant a line"
            mistakes.report("not-a-mapping", "`merchants` maps names to bounds", block, hint)
    if len(mistakes.found) == before and not (whole or each or any(bounds for _, bounds in merchants.values())):
        hint = "write bounds such as `flipped: 50`, one a line"
        mistakes.report("no-bounds", "the budget bounds nothing", node, hint)
    return Budget(path, read_text(given, "description", mistakes, 500) or "", whole, each, merchants)


def _block(node: Node, of_what: str, mistakes: Mistakes) -> Bounds:
    if not isinstance(node, MappingNode):
        hint = "write `{refusals: 0.3 pp, flipped: 50}`"
        mistakes.report("not-a-mapping", f"{of_what} has bounds", node, hint)
        return {}
    elsewhere = [(key, value) for key, value in node.items if key.text in OF_THE_RUN]
    for key, _ in elsewhere:
        message = f"{shown(key.text)} is of the whole replay, not of a merchant"
        mistakes.report("misplaced-bound", message, key, "write it at the left margin")
    rest = node._replace(items=tuple(pair for pair in node.items if pair not in elsewhere))
    given = known_keys(rest, BOUNDS, of_what, mistakes)
    return _bounds({name: pair[1] for name, pair in given.items()}, mistakes)


def _bounds(given: Mapping[str, Node], mistakes: Mistakes) -> dict[str, tuple[Bound, ...]]:
    found: dict[str, tuple[Bound, ...]] = {}
    for name, node in given.items():
        if name in GROWTHS:
            found[name] = _growth(name, node, mistakes)
        elif name == AMOUNT:
            found[name] = _amounts(node, mistakes)
        else:
            found[name] = _count(name, node, mistakes)
    return found


def _growth(name: str, node: Node, mistakes: Mistakes) -> tuple[Bound, ...]:
    match = _GROWTH.fullmatch(node.text.strip()) if isinstance(node, Scalar) else None
    if match is None:
        hint = "write `0.3 pp` (points of the share), `10 %` (of what it was) or `20` (payments)"
        if isinstance(node, Scalar):
            words = node.text.split()
            close = suggest(words[-1], ("pp", "%")) if len(words) > 1 else ""
            hint = close or hint
        mistakes.report("not-a-growth", f"`{name}` bounds a growth, and this is none", node, hint)
        return ()
    assert isinstance(node, Scalar)
    unit = Unit(match[2] or "")
    if unit is Unit.COUNT and "." in match[1]:
        hint = f"write `{match[1]} pp`, `{match[1]} %`, or a whole number"
        mistakes.report("not-a-growth", f"`{name}` has a fraction and no unit", node, hint)
        return ()
    return (GrowthBound(Fraction(match[1]), unit, node.span, f"{match[1]} {unit.value}".strip()),)


def _count(name: str, node: Node, mistakes: Mistakes) -> tuple[Bound, ...]:
    if not isinstance(node, Scalar) or _COUNT.fullmatch(node.text.strip()) is None:
        mistakes.report("not-a-count", f"`{name}` bounds a number, and this is none", node, "write `0`, `1`, `2` …")
        return ()
    return (CountBound(int(node.text), node.span),)


def _amounts(node: Node, mistakes: Mistakes) -> tuple[Bound, ...]:
    if not isinstance(node, MappingNode):
        hint = "write `{TND: 2000, EUR: 600}`"
        mistakes.report("not-a-mapping", f"`{AMOUNT}` has one figure for each currency", node, hint)
        return ()
    found: list[Bound] = []
    for key, value in node.items:
        code = values.currency(key.text)
        if isinstance(code, values.Wrong):
            mistakes.report(code.code, code.message, key, code.hint)
            continue
        if not isinstance(value, Scalar) or value.is_empty:
            mistakes.report("not-a-figure", "a figure was expected here", value, f"write `{code}: 2000`")
            continue
        minor = values.figure(value.text, code)
        if isinstance(minor, values.Wrong):
            mistakes.report(minor.code, minor.message, value, minor.hint)
        else:
            found.append(AmountBound(code, minor, value.span))
    return tuple(found)
