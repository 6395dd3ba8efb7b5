"""The `when` and `unless` of a rule: nodes -> conditions, with every mistake in them.

Keys under one mapping must all hold. Settings stay `SettingRef`; lists are named, not looked up: both may be
declared in a file that this one extends, so `link` has the last word on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from ..diagnostics import Span, suggest
from ..facts import CATALOGUE, METADATA_PREFIX, FactSpec, FactType, Origin
from . import check_values as values
from .ast import (
    All,
    Any,
    Compare,
    Condition,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    ListName,
    Literal,
    MoneyFigures,
    Not,
    OneOf,
    Op,
    Operand,
    SettingRef,
    StartsWith,
)
from .check_operands import decimal_commas, read_figures, read_operand, with_article
from .check_values import Wrong
from .checked import KnownFacts, ListUse, Mistakes, SettingUse, one_of_words, shown
from .yamldoc import Mapping as MappingNode
from .yamldoc import Node, Scalar, Sequence

MAX_NESTING: Final = 20
MAX_ONE_OF: Final = 10_000

COMBINATIONS: Final = ("all", "any", "not")
ORDER_WORDS: Final = {
    "over": Op.OVER,
    "at_least": Op.AT_LEAST,
    "under": Op.UNDER,
    "at_most": Op.AT_MOST,
}
TEST_WORDS: Final = ("not", *ORDER_WORDS, "between", "in_list", "not_in_list", "starts_with")
ORDERED_TYPES: Final = (FactType.INTEGER, FactType.MONEY)
# What people write for a test word, from other rule languages.
_SYNONYMS: Final = {
    ">": "over",
    "gt": "over",
    "above": "over",
    "greater_than": "over",
    "more_than": "over",
    ">=": "at_least",
    "gte": "at_least",
    "min": "at_least",
    "<": "under",
    "lt": "under",
    "below": "under",
    "less_than": "under",
    "<=": "at_most",
    "lte": "at_most",
    "max": "at_most",
    "in": "in_list",
    "list": "in_list",
    "not_in": "not_in_list",
    "is_not": "not",
    "!=": "not",
    "ne": "not",
    "range": "between",
    "prefix": "starts_with",
    "begins_with": "starts_with",
}
_COUNTER_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PLAIN_EQUALITY: Final = ("equals", "is", "eq", "=", "==", "one_of", "any_of")


@dataclass(slots=True)
class Scope:
    """What the conditions of one rule may name, and what they turned out to need.

    `more` says that an inherited file may declare more, and then a test on an undeclared metadata key or on a name
    that can be a counter's is left to link: the rule is `deferred`.
    """

    mistakes: Mistakes
    known: KnownFacts
    more: bool
    settings: list[SettingUse] = field(default_factory=list)
    lists: list[ListUse] = field(default_factory=list)
    deferred: bool = False


def read_condition(node: Node, scope: Scope, *, in_unless: bool = False) -> Condition | None:
    """The condition that the node says, or None when mistakes keep it from saying one."""
    return _Reader(scope, in_unless).condition(node, 1)


@lru_cache(maxsize=10_000)
def _metadata_spec(name: str, fact_type: FactType) -> FactSpec:
    return FactSpec(name, fact_type, Origin.REQUEST, "")


def _join(conditions: list[Condition], span: Span) -> Condition:
    return conditions[0] if len(conditions) == 1 else All(tuple(conditions), span)


def _is_greater(low: Operand, high: Operand) -> bool:
    """Whether both are known, and no value lies from the one to the other."""
    match low, high:
        case Literal(value=int(first)), Literal(value=int(second)):
            return first > second
        case MoneyFigures(figures=some), MoneyFigures(figures=others):
            most = dict(others)
            common = [(minor, most[code]) for code, minor in some if code in most]
            return bool(common) and all(first > second for first, second in common)
        case _:
            return False


def _span_of(key: Scalar, value: Node) -> Span:
    """From the key to the end of its value when both stand on one line, else the key."""
    end = value.end_column if value.line == key.line and isinstance(value, Scalar) else key.end_column
    return Span(key.path, key.line, key.column, end)


class _Reader:
    def __init__(self, scope: Scope, in_unless: bool) -> None:
        self.scope = scope
        self.in_unless = in_unless
        self.report = scope.mistakes.report

    # ---- all, any, not, and facts -------------------------------------------------------------

    def condition(self, node: Node, depth: int) -> Condition | None:
        if depth > MAX_NESTING:
            hint = "split the rule into several"
            self.report("nested-too-deep", f"conditions nest more than {MAX_NESTING} deep", node, hint)
            return None
        if not isinstance(node, MappingNode):
            hint = "write a fact and its test, such as `ip_country: TN`"
            if isinstance(node, Sequence):
                hint = "say whether `all:` or `any:` of the list must hold"
            self.report("not-a-condition", "a condition was expected here", node, hint)
            return None
        if not node.items:
            self.report("empty-condition", "the condition is empty", node, "write a fact and its test")
            return None
        parts: list[Condition] = []
        for key, value in node.items:
            name = key.text
            part: Condition | None
            if name == "all" or name == "any":
                part = self.combination(key, value, depth)
            elif name == "not":
                inner = self.condition(value, depth + 1)
                part = Not(inner, key.span) if inner is not None else None
            else:
                spec = CATALOGUE.get(name) or self.find_spec(key)
                part = self.test(spec, key, value, depth) if spec is not None else None
            if part is not None:
                parts.append(part)
        return _join(parts, node.span) if len(parts) == len(node.items) else None

    def combination(self, key: Scalar, value: Node, depth: int) -> Condition | None:
        if not isinstance(value, Sequence):
            hint = f"write a list: `{key.text}: [{{ip_country: TN}}, {{card_type: prepaid}}]`"
            self.report("not-a-list", f"`{key.text}` takes a list of conditions", value, hint)
            return None
        if not value.items:
            self.report("empty-condition", f"`{key.text}` has no conditions", value, "write at least one")
            return None
        parts = [self.condition(item, depth + 1) for item in value.items]
        found = tuple(part for part in parts if part is not None)
        if len(found) < len(parts):
            return None
        return All(found, key.span) if key.text == "all" else Any(found, key.span)

    def find_spec(self, key: Scalar) -> FactSpec | None:
        """The spec of a counter or metadata fact; for anything else None and a mistake."""
        name = key.text
        counter = self.scope.known.counters.get(name)
        if counter is not None:
            return counter.spec
        if name in self.scope.known.unreadable:
            return None
        if name.startswith(METADATA_PREFIX):
            fact_type = self.scope.known.metadata.get(name[len(METADATA_PREFIX) :])
            if fact_type is not None:
                return _metadata_spec(name, fact_type)
            if self.scope.more:
                self.scope.deferred = True
                return None
            keys = [METADATA_PREFIX + known for known in self.scope.known.metadata]
            wanted = name[len(METADATA_PREFIX) :][:40] or "KEY"
            hint = suggest(name[:64], keys) or f"declare its type: `metadata: {{{wanted}: text}}`"
            self.report("unknown-metadata", f"{shown(name)} is not declared", key, hint)
            return None
        if name in TEST_WORDS or name in _SYNONYMS:
            hint = f"name the fact first, such as `amount: {{{name}: …}}`"
            self.report("test-without-fact", f"{shown(name)} tests no fact here", key, hint)
        else:
            if self.scope.more and _COUNTER_NAME.fullmatch(name):
                self.scope.deferred = True
                return None
            hint = suggest(name[:64], [*CATALOGUE, *COMBINATIONS, *self.scope.known.counters])
            hint = hint or "rules/README.md lists every fact; counters are declared under `velocity:`"
            self.report("unknown-fact", f"unknown fact {shown(name)}", key, hint)
        return None

    # ---- tests on one fact --------------------------------------------------------------------

    def test(self, spec: FactSpec, key: Scalar, value: Node, depth: int) -> Condition | None:
        """The test of a fact: a scalar equals, a list is one of, a mapping holds test words."""
        if isinstance(value, Scalar):
            return self.equals(spec, value, _span_of(key, value))
        if isinstance(value, Sequence):
            return self.one_of(spec, value, _span_of(key, value))
        return self.test_words(spec, value, depth)

    def test_words(self, spec: FactSpec, node: MappingNode, depth: int) -> Condition | None:
        if depth > MAX_NESTING:
            self.report("nested-too-deep", f"tests nest more than {MAX_NESTING} deep", node, "write it flatter")
            return None
        if not node.items:
            hint = f"write one of {one_of_words(TEST_WORDS)}"
            self.report("empty-condition", f"`{spec.name}` is not tested", node, hint)
            return None
        split = decimal_commas(node) if spec.type is FactType.MONEY else []
        if split:
            self.report_commas(split)
            return None
        parts = [self.test_word(spec, key, value, depth) for key, value in node.items]
        found = [part for part in parts if part is not None]
        return _join(found, node.span) if len(found) == len(parts) else None

    def report_commas(self, split: list[tuple[Scalar, Scalar, Scalar]]) -> None:
        for _, whole, _ in split:
            amount = values.money(whole.text)
            if isinstance(amount, Wrong):
                self.report(amount.code, amount.message, whole, amount.hint)

    def test_word(self, spec: FactSpec, key: Scalar, value: Node, depth: int) -> Condition | None:
        word = key.text
        span = _span_of(key, value)
        op = ORDER_WORDS.get(word)
        if op is not None:
            if not self.is_ordered(spec, key):
                return None
            operand = self.operand(spec, value)
            return Compare(spec.name, spec.type, op, operand, span) if operand is not None else None
        match word:
            case "not":
                inner = self.test(spec, key, value, depth + 1)
                return Not(inner, span) if inner is not None else None
            case "between":
                return self.between(spec, key, value)
            case "in_list" | "not_in_list":
                return self.in_list(spec, key, value)
            case "starts_with":
                return self.starts_with(spec, key, value)
        self.report_unknown_word(spec, key, value)
        return None

    def report_unknown_word(self, spec: FactSpec, key: Scalar, value: Node) -> None:
        word = key.text
        if word == "unknown":
            hint = f"write `{spec.name}: unknown`, or `{{not: unknown}}`"
        elif word in _PLAIN_EQUALITY:
            example = value.text[:40] if isinstance(value, Scalar) else "[A, B]"
            hint = f"write the value itself: `{spec.name}: {example}`"
        elif spec.type is FactType.MONEY and not isinstance(values.currency(word), Wrong):
            hint = f"say how to compare: `{spec.name}: {{over: {{{word}: 300}}}}`"
        else:
            close = _SYNONYMS.get(word.lower().replace(" ", "_"))
            hint = f"did you mean `{close}`?" if close else suggest(word[:64], TEST_WORDS)
            hint = hint or f"it is {one_of_words(TEST_WORDS)}"
        self.report("unknown-test-word", f"unknown test word {shown(word)}", key, hint)

    def is_ordered(self, spec: FactSpec, key: Scalar) -> bool:
        if spec.type in ORDERED_TYPES:
            return True
        message = f"`{key.text}` cannot test `{spec.name}`, which is no number or amount"
        self.report("wrong-test-word", message, key, "write the value, a list of values, or `not`")
        return False

    def equals(self, spec: FactSpec, node: Scalar, span: Span) -> Condition | None:
        text = node.text
        if text == "unknown":
            return IsUnknown(spec.name, span)
        operand = self.operand(spec, node)
        if operand is None:
            return None
        if spec.type is FactType.IP and isinstance(operand, Literal):
            return InNetworks(spec.name, (str(operand.value),), span)
        return Compare(spec.name, spec.type, Op.EQUALS, operand, span)

    def one_of(self, spec: FactSpec, node: Sequence, span: Span) -> Condition | None:
        """One of several values; settings, facts, money and `unknown` in it become alternatives."""
        if not node.items:
            hint = f"write at least one value, or delete the test of `{spec.name}`"
            self.report("empty-one-of", "an empty list never matches", node, hint)
            return None
        literals: list[str | int] = []
        others: list[Condition] = []
        complete = True
        for item in node.items:
            if not isinstance(item, Scalar):
                self.report("not-a-value", "a single value was expected here", item, "write it without brackets")
                complete = False
                continue
            part = self.equals(spec, item, item.span)
            match part:
                case None:
                    complete = False
                case InNetworks(networks=(one,)):
                    literals.append(one)
                case Compare(operand=Literal(value=value)) if spec.type is not FactType.BOOLEAN:
                    literals.append(value)
                case _:
                    others.append(part)
        if not complete:
            return None
        if literals:
            distinct = tuple(dict.fromkeys(literals))
            if spec.type is FactType.IP:
                others.insert(0, InNetworks(spec.name, tuple(str(one) for one in distinct), span))
            else:
                others.insert(0, OneOf(spec.name, spec.type, distinct, span))
        return others[0] if len(others) == 1 else Any(tuple(others), span)

    def between(self, spec: FactSpec, key: Scalar, value: Node) -> Condition | None:
        if not self.is_ordered(spec, key):
            return None
        if not isinstance(value, Sequence) or len(value.items) != 2:
            example = "[100 TND, 300 TND]" if spec.type is FactType.MONEY else "[8, 18]"
            self.report("not-a-pair", "`between` takes the lowest and the highest", value, f"write `{example}`")
            return None
        low, high = (self.operand(spec, item) for item in value.items)
        if low is None or high is None:
            return None
        if _is_greater(low, high):
            self.report_backwards(spec, value)
            return None
        low_span, high_span = (item.span for item in value.items)
        return All(
            (
                Compare(spec.name, spec.type, Op.AT_LEAST, low, low_span),
                Compare(spec.name, spec.type, Op.AT_MOST, high, high_span),
            ),
            key.span,
        )

    def report_backwards(self, spec: FactSpec, pair: Sequence) -> None:
        texts = [shown(item.text)[1:-1] for item in pair.items if isinstance(item, Scalar)]
        said, hint = "the first is greater than the second", "exchange the two"
        if len(texts) == 2:
            low, high = texts
            said, hint = f"`{low}` is greater than `{high}`", f"write `between: [{high}, {low}]`"
            if spec.name == "hour":
                hint = f"past midnight write `any: [{{hour: {{at_least: {low}}}}}, {{hour: {{at_most: {high}}}}}]`"
        self.report("never-matches", f"`between` takes the lowest first, and {said}", pair, hint)

    def in_list(self, spec: FactSpec, key: Scalar, value: Node) -> Condition | None:
        if not isinstance(value, Scalar) or not value.text:
            hint = f"name one list: `{{{key.text}: blocked_ip_countries}}`; for values write `{spec.name}: [A, B]`"
            self.report("not-a-list-name", f"`{key.text}` takes the name of a list", value, hint)
            return None
        if not spec.lists:
            hint = "write the values here instead: `[A, B]`"
            self.report("no-list-of-fact", f"no list can hold `{spec.name}`", key, hint)
            return None
        name = ListName(value.text)
        negated = key.text == "not_in_list"
        self.scope.lists.append(ListUse(name, spec.name, value.span, negated and not self.in_unless))
        span = _span_of(key, value)
        test = InList(spec.name, name, span)
        return Not(test, span) if negated else test

    def starts_with(self, spec: FactSpec, key: Scalar, value: Node) -> Condition | None:
        if spec.type not in (FactType.TEXT, FactType.BIN):
            message = f"`starts_with` cannot test `{spec.name}`, which is no text"
            self.report("wrong-test-word", message, key, "write the value, or a list of values")
            return None
        if not isinstance(value, Scalar) or value.is_empty:
            self.report("not-a-value", "`starts_with` takes one text", value, "write the first letters or digits")
            return None
        prefix: Literal | SettingRef
        if value.text.startswith("$"):
            operand = self.reference(spec, value)
            if not isinstance(operand, SettingRef):
                if operand is not None:
                    hint = "write the letters, or a setting"
                    self.report("wrong-test-word", "`starts_with` takes no other fact", value, hint)
                return None
            prefix = operand
        else:
            text = values.text_value(value.text)
            if isinstance(text, Wrong):
                self.report(text.code, text.message, value, text.hint)
                return None
            if spec.type is FactType.BIN and not (text.isascii() and text.isdigit() and len(text) <= 8):
                self.report("not-bin", f"{shown(text)} begins no BIN", value, "write 1 to 8 digits")
                return None
            prefix = Literal(text.lower() if spec.name in ("email", "email_domain") else text)
        return StartsWith(spec.name, prefix, _span_of(key, value))

    # ---- operands -----------------------------------------------------------------------------

    def operand(self, spec: FactSpec, node: Node) -> Operand | None:
        if isinstance(node, MappingNode) and spec.type is FactType.MONEY:
            return read_figures(node, self.scope.mistakes)
        if not isinstance(node, Scalar):
            self.report("not-a-value", "a single value was expected here", node, "write it without brackets")
            return None
        if node.text.startswith("$"):
            return self.reference(spec, node)
        return read_operand(node, spec, self.scope.mistakes)

    def reference(self, spec: FactSpec, node: Scalar) -> Operand | None:
        """`$name`: a fact of the same type when the catalogue has one, else a setting, which link looks up."""
        name = node.text[1:]
        if name == spec.name:
            hint = "compare it with another fact, a setting or a value"
            self.report("compares-with-itself", f"`{name}` is compared with itself", node, hint)
            return None
        other = CATALOGUE.get(name)
        if other is None and name in self.scope.known.counters:
            other = self.scope.known.counters[name].spec
        if other is None and name.startswith(METADATA_PREFIX):
            other = self.find_spec(node._replace(text=name, column=node.column + 1))
            if other is None:
                return None
        if other is None:
            if not name:
                self.report("empty-value", "`$` names nothing", node, "write the setting's name after it")
                return None
            self.scope.settings.append(SettingUse(name, spec.name, spec.type, node.span))
            return SettingRef(name, node.span)
        if other.type is not spec.type:
            message = f"`{spec.name}` is {with_article(spec.type)} and `{other.name}` is {with_article(other.type)}"
            self.report("types-differ", message, node, "compare facts of one type only")
            return None
        return FactRef(other.name)
