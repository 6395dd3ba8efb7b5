"""Tests that stand beside rule files (`*.test.yaml`), run on every backend.

A test file names its merchant, the transaction that every test starts from, and tests that give differences
and say what is expected. Facts are given by their catalogue names; what is not given is derived as for a real
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from .backends import reference
from .cards import CardFingerprint
from .decision import Decision, EarlierScreening, Outcome, card_identity, decide
from .diagnostics import Diagnostic, RuleFilesRefused, Span, suggest
from .engine import Engine, ReadyRuleSet
from .enrich import Enricher
from .explain import explain_match
from .facts import (
    CATALOGUE,
    METADATA_PREFIX,
    Card,
    FactSpec,
    FactType,
    FactValue,
    MerchantId,
    Origin,
    ThreeDsResult,
    Transaction,
)
from .lists import build_index
from .money import Money
from .rules import check_values as values
from .rules.ast import ListEntry, ListName, Literal, RuleSet
from .rules.check_conditions import read_operand
from .rules.checked import Mistakes, has_errors, in_order, shown
from .rules.yamldoc import Mapping as MappingNode
from .rules.yamldoc import Node, Scalar, Sequence, read_document
from .screening import Screened, screen_transaction

DEFAULT_AT: Final = "2026-01-15T12:00:00+01:00"
_TOP_KEYS: Final = ("merchant", "description", "transaction", "tests")
_TEST_KEYS: Final = ("name", "given", "at", "lists", "three_ds", "earlier", "expect")
_EXPECT_KEYS: Final = ("outcome", "reason", "rule", "matches")
_THREE_DS_KEYS: Final = ("status", "eci")
_STATUSES: Final = ("Y", "A", "N", "R", "U", "C", "D", "I")

Given = dict[str, FactValue | None]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a test says of the decision; what it leaves out is not compared."""

    outcome: Outcome | None = None
    reason: str | None = None
    rule: str | None = None
    matches: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RuleTest:
    """One test: the whole transaction as facts, and what must come of it."""

    name: str
    span: Span
    given: Mapping[str, FactValue | None]
    at_us: int
    expect: Expectation
    lists: Mapping[ListName, tuple[ListEntry, ...]] = field(default_factory=dict)
    three_ds: ThreeDsResult | None = None
    earlier: EarlierScreening | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How one test went: `failures` is empty when it passed; `screened` is what was decided."""

    test: RuleTest
    merchant: str
    failures: tuple[str, ...]
    screened: Screened

    @property
    def passed(self) -> bool:
        return not self.failures


# ---- reading --------------------------------------------------------------------------------------


def read_test_merchant(path: str, text: str) -> str:
    """The merchant that a test file is for; raises RuleFilesRefused when it does not say."""
    node, found = read_document(path, text)
    merchant = node.get("merchant") if isinstance(node, MappingNode) else None
    if has_errors(found) or not isinstance(merchant, Scalar):
        place = node.span if node is not None else Span(path, 1, 1, 2)
        missing = Diagnostic("no-merchant", "a test file begins with `merchant: NAME`", place)
        raise RuleFilesRefused(found or [missing], {path: text})
    return merchant.text


def read_tests(path: str, text: str, rule_set: RuleSet) -> tuple[RuleTest, ...]:
    """The tests of a file for an effective rule set; raises RuleFilesRefused with every mistake."""
    node, found = read_document(path, text)
    mistakes = Mistakes(list(found))
    tests: tuple[RuleTest, ...] = ()
    if isinstance(node, MappingNode):
        tests = _Reader(rule_set, mistakes).tests(node)
    elif node is not None:
        mistakes.report("not-a-mapping", "a test file is a mapping", node, "begin it with `merchant: NAME`")
    if has_errors(mistakes.found):
        raise RuleFilesRefused(in_order(mistakes.found), {path: text})
    return tests


class _Reader:
    def __init__(self, rule_set: RuleSet, mistakes: Mistakes) -> None:
        self.rule_set = rule_set
        self.mistakes = mistakes
        self.report = mistakes.report

    def tests(self, top: MappingNode) -> tuple[RuleTest, ...]:
        self.known_keys(top, _TOP_KEYS, "a test file")
        base: Given = {}
        at = DEFAULT_AT
        shared = top.get("transaction")
        if isinstance(shared, MappingNode):
            base, base_at = self.facts(shared)
            at = base_at or at
        elif shared is not None:
            self.report("not-a-mapping", "`transaction` gives facts and their values", shared)
        items = top.get("tests")
        if not isinstance(items, Sequence) or not items.items:
            self.report("no-tests", "there are no tests", items or top, "write `tests:` and a list of them")
            return ()
        read = [self.test(item, base, at) for item in items.items]
        names: dict[str, Span] = {}
        for test in read:
            if test is not None and names.setdefault(test.name, test.span) is not test.span:
                also = ((names[test.name], "the other one"),)
                self.report("duplicate-test", f"two tests are named {shown(test.name)}", test.span, also=also)
        return tuple(test for test in read if test is not None)

    def test(self, node: Node, base: Given, default_at: str) -> RuleTest | None:
        if not isinstance(node, MappingNode):
            self.report("not-a-mapping", "a test is a mapping", node, "write `name`, `given` and `expect`")
            return None
        self.known_keys(node, _TEST_KEYS, "a test")
        name = self.text(node, "name")
        given = dict(base)
        at = default_at
        difference = node.get("given")
        if isinstance(difference, MappingNode):
            facts, own_at = self.facts(difference)
            given |= facts
            at = own_at or at
        elif difference is not None:
            self.report("not-a-mapping", "`given` gives facts and their values", difference)
        at = self.text(node, "at", required=False) or at
        at_us = values.instant(at, self.rule_set.timezone)
        if isinstance(at_us, values.Wrong):
            self.report(at_us.code, at_us.message, node.get("at") or node, at_us.hint)
            at_us = 0
        expect = self.expectation(node)
        if name is None or expect is None:
            return None
        if not isinstance(given.get("amount"), Money):
            self.report("no-amount", "the test's transaction has no amount", node, "give `amount: 50 TND`")
            return None
        three_ds, earlier = self.three_ds(node), self.earlier(node, given)
        return RuleTest(name, node.span, given, at_us, expect, self.lists(node), three_ds, earlier)

    def known_keys(self, node: MappingNode, known: Iterable[str], what: str) -> None:
        names = tuple(known)
        for key, _ in node.items:
            if key.text not in names:
                hint = suggest(key.text, names) or f"{what} has {', '.join(names)}"
                self.report("unknown-key", f"unknown key {shown(key.text)}", key, hint)

    def text(self, node: MappingNode, name: str, *, required: bool = True) -> str | None:
        value = node.get(name)
        if isinstance(value, Scalar) and not value.is_empty:
            return value.text
        if required or value is not None:
            self.report("no-text", f"`{name}` is missing or no text", value or node, f"write `{name}: …`")
        return None

    def facts(self, node: MappingNode) -> tuple[Given, str | None]:
        """Facts by name, None for those that are `unknown`; and `at`, which stands among them for convenience."""
        found: Given = {}
        at: str | None = None
        for key, value in node.items:
            if key.text == "at":
                at = value.text if isinstance(value, Scalar) else None
                continue
            spec = self.spec(key)
            if spec is None:
                continue
            if not isinstance(value, Scalar):
                self.report("not-a-value", f"`{key.text}` has one value", value)
            elif value.text == "unknown" and not value.quoted:
                found[key.text] = None
            else:
                read = self.value(value, spec)
                if read is not None:
                    found[key.text] = read
        return found, at

    def spec(self, key: Scalar) -> FactSpec | None:
        spec = CATALOGUE.get(key.text)
        if spec is not None:
            return spec
        declared = self.rule_set.metadata.get(key.text.removeprefix(METADATA_PREFIX))
        if key.text.startswith(METADATA_PREFIX) and declared is not None:
            return FactSpec(key.text, declared, Origin.REQUEST, "")
        known = [*CATALOGUE, *(METADATA_PREFIX + name for name in self.rule_set.metadata)]
        self.report("unknown-fact", f"unknown fact {shown(key.text)}", key, suggest(key.text, known))
        return None

    def value(self, node: Scalar, spec: FactSpec) -> FactValue | None:
        if spec.type is FactType.MONEY:
            money = values.money(node.text)
            if isinstance(money, values.Wrong):
                self.report(money.code, money.message, node, money.hint)
                return None
            return Money(money[1], money[0])
        read = read_operand(node, spec, self.mistakes)
        if not isinstance(read, Literal):
            return None
        if spec.type is FactType.IP:
            return str(read.value).rpartition("/")[0]
        return read.value

    def lists(self, node: MappingNode) -> dict[ListName, tuple[ListEntry, ...]]:
        """Entries that a test adds to lists."""
        found: dict[ListName, tuple[ListEntry, ...]] = {}
        given = node.get("lists")
        if given is None:
            return found
        if not isinstance(given, MappingNode):
            self.report("not-a-mapping", "`lists` gives list names and entries", given)
            return found
        for key, entries in given.items:
            declared = self.rule_set.lists.get(ListName(key.text))
            if declared is None:
                hint = suggest(key.text, self.rule_set.lists)
                self.report("unknown-list", f"unknown list {shown(key.text)}", key, hint)
            elif not isinstance(entries, Sequence):
                self.report("not-a-list", "entries are a list", entries, "write `[…]`")
            else:
                read = values.LIST_READERS[declared.kind]
                found[declared.name] = tuple(self.entries(entries, read))
        return found

    def entries(self, node: Sequence, read: Callable[[str], str | values.Wrong]) -> Iterable[ListEntry]:
        for item in node.items:
            text = item.text if isinstance(item, Scalar) else ""
            value = read(text)
            if isinstance(value, values.Wrong):
                self.report(value.code, value.message, item, value.hint)
            else:
                yield ListEntry(value)

    def three_ds(self, node: MappingNode) -> ThreeDsResult | None:
        given = node.get("three_ds")
        if given is None:
            return None
        if isinstance(given, Scalar):
            status: Node | None = given
            eci = None
        elif isinstance(given, MappingNode):
            self.known_keys(given, _THREE_DS_KEYS, "a 3-D Secure result")
            status = given.get("status")
            eci = self.text(given, "eci", required=False)
        else:
            status, eci = None, None
        if not isinstance(status, Scalar) or status.text not in _STATUSES:
            hint = f"it is one of {', '.join(_STATUSES)}"
            self.report("bad-three-ds", "`three_ds` has no transStatus", status or given, hint)
            return None
        return ThreeDsResult(status.text, eci)

    def earlier(self, node: MappingNode, given: Given) -> EarlierScreening | None:
        """The earlier screening of the same transaction: what is not said is as in this one."""
        said = node.get("earlier")
        if said is None:
            return None
        if not isinstance(said, MappingNode):
            self.report("not-a-mapping", "`earlier` gives facts of the first screening", said)
            return None
        facts, _ = self.facts(said)
        before = given | facts
        amount = before["amount"]
        assert isinstance(amount, Money)
        return EarlierScreening(card_identity(_card(before)), amount.currency, amount.minor)

    def expectation(self, node: MappingNode) -> Expectation | None:
        expect = node.get("expect")
        if isinstance(expect, Scalar):
            outcome = self.outcome(expect)
            return None if outcome is None else Expectation(outcome)
        if not isinstance(expect, MappingNode) or not expect.items:
            hint = "write `expect: refuse`, or `expect: {outcome: …, reason: …}`"
            self.report("no-expectation", "the test expects nothing", expect or node, hint)
            return None
        self.known_keys(expect, _EXPECT_KEYS, "`expect`")
        said = expect.get("outcome")
        outcome = self.outcome(said) if isinstance(said, Scalar) else None
        rule, reason = self.text(expect, "rule", required=False), self.text(expect, "reason", required=False)
        return Expectation(outcome, reason, self.rule_id(rule, expect), self.matches(expect))

    def outcome(self, node: Scalar) -> Outcome | None:
        try:
            return Outcome(node.text)
        except ValueError:
            hint = suggest(node.text, list(Outcome)) or "it is accept, challenge or refuse"
            self.report("unknown-outcome", f"unknown outcome {shown(node.text)}", node, hint)
            return None

    def matches(self, expect: MappingNode) -> tuple[str, ...] | None:
        said = expect.get("matches")
        if said is None:
            return None
        if not isinstance(said, Sequence) or not all(isinstance(item, Scalar) for item in said.items):
            self.report("not-a-list", "`matches` lists rule ids", said, "write `[rule-id, …]`")
            return None
        ids = [item.text for item in said.items if isinstance(item, Scalar)]
        for rule_id in ids:
            self.rule_id(rule_id, said)
        return tuple(sorted(ids))

    def rule_id(self, rule_id: str | None, place: Node) -> str | None:
        known = [rule.id for rule in self.rule_set.rules]
        if rule_id is not None and rule_id not in known:
            self.report("unknown-rule", f"unknown rule {shown(rule_id)}", place, suggest(rule_id, known))
        return rule_id


# ---- running --------------------------------------------------------------------------------------


def run_test(test: RuleTest, ready: ReadyRuleSet, engine: Engine, enricher: Enricher) -> Outcomes:
    """Runs one test on the online and the reference backend; both must give what is expected."""
    ready = _with_entries(ready, test)
    transaction = _transaction(test, MerchantId(ready.rule_set.name))
    overriding = {name: value for name, value in test.given.items() if name not in _CARRIED or value is None}
    if test.three_ds is not None:
        overriding.pop("three_ds", None)
    screened = screen_transaction(engine, enricher, ready, transaction, test.earlier, overriding)
    failures = list(_differences(test.expect, screened.decision))
    by_law = decide(
        ready.rule_set,
        reference.find_matches(ready.rule_set, screened.facts, screened.lists),
        three_ds=str(screened.facts["three_ds"]),
        channel=str(screened.facts["channel"]),
    )
    if by_law != screened.decision:
        failures.append("the online and the reference backend disagree; please report this as a defect")
    return Outcomes(test, ready.rule_set.name, tuple(failures), screened)


# Facts that the test's transaction itself carries; all others are put over what enrichment derives.
_CARRIED: Final = frozenset(
    {
        "amount",
        "channel",
        "terminal",
        "card",
        "card_bin",
        "card_brand",
        "card_type",
        "card_issuer",
        "card_country",
        "ip_address",
        "email",
        "phone",
        "customer",
        "device",
        "billing_country",
        "shipping_country",
    }
)


def _text(given: Mapping[str, FactValue | None], name: str) -> str | None:
    value = given.get(name)
    return value if isinstance(value, str) else None


def _card(given: Mapping[str, FactValue | None]) -> Card | None:
    fingerprint = _text(given, "card")
    card = Card(
        fingerprint=CardFingerprint(fingerprint) if fingerprint else None,
        bin=_text(given, "card_bin"),
        country=_text(given, "card_country"),
        brand=_text(given, "card_brand"),
        type=_text(given, "card_type"),
        issuer=_text(given, "card_issuer"),
    )
    return None if card == Card() else card


def _transaction(test: RuleTest, merchant: MerchantId) -> Transaction:
    given = test.given
    amount = given["amount"]
    assert isinstance(amount, Money)
    metadata = {
        name.removeprefix(METADATA_PREFIX): value
        for name, value in given.items()
        if name.startswith(METADATA_PREFIX) and value is not None and not isinstance(value, Money)
    }
    return Transaction(
        merchant=merchant,
        transaction_id=test.name,
        at_us=test.at_us,
        amount=amount,
        channel=_text(given, "channel") or "ecommerce",
        card=_card(given),
        three_ds=test.three_ds,
        terminal=_text(given, "terminal"),
        ip_address=_text(given, "ip_address"),
        email=_text(given, "email"),
        phone=_text(given, "phone"),
        customer=_text(given, "customer"),
        device=_text(given, "device"),
        billing_country=_text(given, "billing_country"),
        shipping_country=_text(given, "shipping_country"),
        metadata=metadata,
    )


def _with_entries(ready: ReadyRuleSet, test: RuleTest) -> ReadyRuleSet:
    if not test.lists:
        return ready
    indexes = dict(ready.indexes)
    for name, entries in test.lists.items():
        declared = ready.rule_set.lists[name]
        indexes[name] = build_index(replace(declared, entries=declared.entries + entries))
    return replace(ready, indexes=indexes)


def _differences(expect: Expectation, decision: Decision) -> Iterable[str]:
    if expect.outcome is not None and decision.outcome is not expect.outcome:
        yield f"expected {expect.outcome}, got {decision.outcome}"
    if expect.reason is not None and decision.code != expect.reason:
        yield f"expected reason {expect.reason}, got {decision.code}"
    rule = decision.rule.id if decision.rule is not None else "none"
    if expect.rule is not None and rule != expect.rule:
        yield f"expected rule {expect.rule} to decide, got {rule}"
    found = tuple(match.rule.id for match in decision.matches)
    if expect.matches is not None and found != expect.matches:
        missing = ", ".join(sorted(set(expect.matches) - set(found)))
        surplus = ", ".join(sorted(set(found) - set(expect.matches)))
        said = [f"did not match: {missing}"] * bool(missing) + [f"matched as well: {surplus}"] * bool(surplus)
        yield "expected other matches; " + "; ".join(said)


def explain_outcome(outcomes: Outcomes) -> list[str]:
    """What decided, for the reader of a failed test: every match with the values that made it."""
    screened = outcomes.screened
    lines = []
    for match in screened.decision.matches:
        because = explain_match(match, screened.facts, screened.lists)
        tests = "; ".join(f"{item.fact} {item.value}, {item.test}" for item in because)
        lines.append(f"{match.rule.id} ({match.rule.mode}, {match.outcome}): {tests}")
    return lines or ["no rule matched"]
