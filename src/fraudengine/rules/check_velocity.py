"""The `velocity` block: nodes -> counters, with every mistake in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..diagnostics import suggest
from ..facts import CATALOGUE, FactName, FactType
from .check_rules import known_keys, read_text, read_word
from .checked import Mistakes, one_of_words, shown
from .counters import (
    MAX_COUNTERS,
    MAX_PER,
    MAX_WINDOW_US,
    PER_FACTS,
    SECOND_US,
    Among,
    Counter,
    CounterScope,
    Measure,
    guess_duration,
    read_duration,
)
from .yamldoc import Mapping as MappingNode
from .yamldoc import Node, Scalar, Sequence

COUNTER_KEYS: Final = (*(measure.value for measure in Measure), "per", "within", "among", "scope", "help")
_EXAMPLE: Final = "{count: transactions, per: card, within: 1 hour}"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")

Given = dict[str, tuple[Scalar, Node]]


def read_velocity(node: Node, mistakes: Mistakes, settings: Mapping[str, Scalar]) -> list[Counter]:
    """Every counter of the block without mistakes; `settings` are the names that the file's settings take."""
    if not isinstance(node, MappingNode):
        mistakes.report("not-a-mapping", "`velocity` takes names with counters", node, f"write `name: {_EXAMPLE}`")
        return []
    if len(node.items) > MAX_COUNTERS:
        place = node.items[MAX_COUNTERS][0]
        mistakes.report("too-many-counters", f"more than {MAX_COUNTERS} counters", place, "delete those not needed")
        return []
    read = [_read_counter(key, value, mistakes, settings) for key, value in node.items]
    return [counter for counter in read if counter is not None]


def _read_counter(key: Scalar, node: Node, mistakes: Mistakes, settings: Mapping[str, Scalar]) -> Counter | None:
    before = len(mistakes.found)
    name = key.text
    if _NAME.fullmatch(name) is None:
        hint = "lower-case letters and digits with underscores between, 63 at most"
        mistakes.report("bad-name", f"{shown(name)} cannot be the name of a counter", key, hint)
    elif name in CATALOGUE or name in PER_FACTS or name in ("all", "any", "not"):
        message = f"{shown(name)} is the name of a fact already"
        mistakes.report("counter-named-like-fact", message, key, f"give the counter another name: `{name}_1h`")
    elif name in settings:
        also = ((settings[name].span, "the setting"),)
        message = f"{shown(name)} is the name of a setting, so `${name}` would mean both"
        mistakes.report("counter-named-like-setting", message, key, "give one of them another name", also)
    if not isinstance(node, MappingNode):
        mistakes.report("not-a-counter", "a counter was expected here", node, f"write `{_EXAMPLE}`")
        return None
    given = known_keys(node, COUNTER_KEYS, "a counter", mistakes)
    measure, distinct = _read_measure(key, given, mistakes)
    per = _read_per(key, given, mistakes, node)
    within = _read_within(key, given, mistakes, node)
    among = read_word(given["among"][1], Among, mistakes) if "among" in given else Among.ALL
    scope = read_word(given["scope"][1], CounterScope, mistakes) if "scope" in given else CounterScope.MERCHANT
    note = read_text(given, "help", mistakes) or ""
    if distinct is not None and distinct in per:
        message = f"one `{distinct}` has only one `{distinct}`, so there is nothing to count"
        mistakes.report("counts-itself", message, given["per"][1], "count per another fact")
    if len(mistakes.found) > before or measure is None or within is None or among is None or scope is None:
        return None
    return Counter(name, measure, per, within, among, scope, distinct, note, span=key.span)


def _read_measure(key: Scalar, given: Given, mistakes: Mistakes) -> tuple[Measure | None, FactName | None]:
    """What is counted, and the fact whose values a distinct count tells apart."""
    said = [measure for measure in Measure if measure.value in given]
    if len(said) != 1:
        words = one_of_words(measure.value for measure in Measure)
        if said:
            also = ((given[said[0].value][0].span, "it counts this already"),)
            message = f"counter {shown(key.text)} counts two things"
            mistakes.report("counts-two-things", message, given[said[1].value][0], "write two counters", also)
        else:
            message = f"counter {shown(key.text)} does not say what it counts"
            mistakes.report("missing-key", message, key, f"give it {words}")
        return None, None
    measure = said[0]
    node = given[measure.value][1]
    text = node.text if isinstance(node, Scalar) else ""
    match measure:
        case Measure.COUNT:
            if text != "transactions":
                hint = "write `count: transactions`"
                if text in PER_FACTS:
                    hint = f"did you mean `count_distinct: {text}`?"
                mistakes.report("not-countable", "`count` counts transactions", node, hint)
        case Measure.SUM:
            if text != "amount":
                spec = CATALOGUE.get(text)
                named = shown(text) if text else "this"
                what = f"{named} is no money" if spec is not None else f"{named} is no amount"
                mistakes.report("sum-of-no-money", f"{what}, so it has no sum", node, "write `sum: amount`")
        case Measure.COUNT_DISTINCT:
            return measure, _read_fact(node, "counted", mistakes)
    return measure, None


def _read_fact(node: Node, what: str, mistakes: Mistakes) -> FactName | None:
    """A fact that transactions can be told apart by."""
    if not isinstance(node, Scalar):
        mistakes.report("not-a-value", "the name of one fact was expected here", node, "write it without brackets")
        return None
    name = node.text
    if name in PER_FACTS:
        return name
    if name in CATALOGUE:
        kind = CATALOGUE[name].type
        why = "an amount" if kind is FactType.MONEY else "no mark of a buyer, card or address"
        hint = "use a fact that tells buyers apart, such as `card`, `ip_address` or `customer`"
        mistakes.report("unsuited-per", f"transactions cannot be {what} per `{name}`, which is {why}", node, hint)
        return None
    hint = suggest(name[:64], PER_FACTS) or f"it is {one_of_words(PER_FACTS)}"
    mistakes.report("unknown-fact", f"unknown fact {shown(name)}", node, hint)
    return None


def _read_per(key: Scalar, given: Given, mistakes: Mistakes, node: MappingNode) -> tuple[FactName, ...]:
    if "per" not in given:
        if node.get("per") is None:
            message = f"counter {shown(key.text)} does not say per what it counts"
            mistakes.report(
                "missing-key", message, key, "write `per: card`, or several facts: `per: [card, customer]`"
            )
        return ()
    value = given["per"][1]
    items = value.items if isinstance(value, Sequence) else [value]
    if not items or len(items) > MAX_PER:
        mistakes.report("bad-per", f"`per` takes 1 to {MAX_PER} facts", value, "such as `[card, customer]`")
        return ()
    found = [_read_fact(item, "counted", mistakes) for item in items]
    names = [name for name in found if name is not None]
    if len(set(names)) < len(names):
        mistakes.report("duplicate-per", "the same fact stands twice in `per`", value, "write it once")
    return tuple(sorted(names))


def _read_within(key: Scalar, given: Given, mistakes: Mistakes, node: MappingNode) -> int | None:
    if "within" not in given:
        if node.get("within") is None:
            message = f"counter {shown(key.text)} has no window"
            mistakes.report("missing-key", message, key, "write `within: 1 hour`, up to `90 days`")
        return None
    value = given["within"][1]
    text = value.text if isinstance(value, Scalar) else ""
    us = read_duration(text)
    if us is None:
        guess = guess_duration(text)
        if text.isascii() and text.isdigit():
            guess = f"{text[:9]} seconds"
        hint = f"did you mean `{guess}`?" if guess else "write `45 seconds`, `30 minutes`, `1 hour` or `90 days`"
        mistakes.report("not-a-duration", f"{shown(text) if text else 'this'} is no length of time", value, hint)
        return None
    if not SECOND_US <= us <= MAX_WINDOW_US:
        hint = "a window lasts from `1 second` to `90 days`"
        problem = "is no time at all" if us < SECOND_US else "is longer than the log is counted over"
        mistakes.report("window-out-of-range", f"{shown(text)} {problem}", value, hint)
        return None
    return us
