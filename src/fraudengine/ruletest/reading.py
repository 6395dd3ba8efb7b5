"""A test file -> its tests, or every mistake in it with its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

from .. import reasons
from ..cards import CardFingerprint
from ..decision import EarlierScreening, Outcome, card_identity
from ..diagnostics import Diagnostic, RuleFilesRefused, Span, suggest
from ..facts import (
    CATALOGUE,
    METADATA_PREFIX,
    Card,
    FactSpec,
    FactType,
    FactValue,
    Origin,
    ThreeDsResult,
)
from ..money import Money
from ..rules import check_values as values
from ..rules.ast import ListEntry, ListName, Literal, RuleSet
from ..rules.check_lists import read_entries
from ..rules.check_operands import read_operand
from ..rules.checked import Mistakes, has_errors, in_order, shown
from ..rules.yamldoc import Mapping as MappingNode
from ..rules.yamldoc import Node, Scalar, Sequence, read_document, text_for_display
from .model import NO_RULE, Expectation, Given, RuleTest
from .past import read_history

DEFAULT_AT: Final = "2026-01-15T12:00:00+01:00"
TOP_KEYS: Final = ("merchant", "description", "now", "transaction", "tests")
TEST_KEYS: Final = ("name", "given", "at", "now", "lists", "three_ds", "earlier", "history", "expect")
EXPECT_KEYS: Final = ("outcome", "reason", "reasons", "rule", "matches")
THREE_DS_KEYS: Final = ("status", "eci", "version")
STATUSES: Final = ("Y", "A", "N", "R", "U", "C", "D", "I")
PAYMENT_KEYS: Final = (
    *("merchant", "description", "at", "now", "transaction", "lists", "three_ds", "earlier", "history"),
)
_TIME_KEYS: Final = ("at", "now")  # two words for one instant: that of the payment
_FACTS_HINT: Final = "write `{amount: 50 TND, ip_country: TN}`"


def read_test_merchant(path: str, text: str) -> str:
    """The merchant that a test file is for; raises RuleFilesRefused when it does not say."""
    node, found = read_document(path, text)
    merchant = node.get("merchant") if isinstance(node, MappingNode) else None
    if has_errors(found) or not isinstance(merchant, Scalar) or not merchant.text:
        place = node.span if node is not None else Span(path, 1, 1, 2)
        missing = Diagnostic("no-merchant", "a test file begins with `merchant: NAME`", place)
        raise RuleFilesRefused(found or [missing], {path: text_for_display(text)})
    return merchant.text


def has_tests(path: str, text: str) -> bool:
    """Whether the file is a test file; one with a `transaction` and no `tests` describes one payment."""
    node, _ = read_document(path, text)
    return isinstance(node, MappingNode) and node.get("tests") is not None


def read_tests(path: str, text: str, rule_set: RuleSet) -> tuple[RuleTest, ...]:
    """The tests of a file for an effective rule set; raises RuleFilesRefused with every mistake."""
    node, mistakes = _read_mapping(path, text)
    tests = _Reader(rule_set, mistakes).tests(node) if node is not None else ()
    if has_errors(mistakes.found):
        raise RuleFilesRefused(in_order(mistakes.found), {path: text_for_display(text)})
    return tests


def read_one_payment(path: str, text: str, rule_set: RuleSet, now_us: int) -> RuleTest:
    """The payment that a file without `tests` describes in the words of test files, by default made now; expects
    nothing."""
    node, mistakes = _read_mapping(path, text)
    payment = _Reader(rule_set, mistakes).payment(node, now_us) if node is not None else None
    if payment is None or has_errors(mistakes.found):
        raise RuleFilesRefused(in_order(mistakes.found), {path: text_for_display(text)})
    return payment


def _read_mapping(path: str, text: str) -> tuple[MappingNode | None, Mistakes]:
    node, found = read_document(path, text)
    mistakes = Mistakes(list(found))
    if isinstance(node, MappingNode):
        return node, mistakes
    if node is not None:
        mistakes.report("not-a-mapping", "a test file is a mapping", node, "begin it with `merchant: NAME`")
    return None, mistakes


class _Reader:
    def __init__(self, rule_set: RuleSet, mistakes: Mistakes) -> None:
        self.rule_set = rule_set
        self.mistakes = mistakes
        self.report = mistakes.report

    # ---- the file and its tests ---------------------------------------------------------------

    def tests(self, top: MappingNode) -> tuple[RuleTest, ...]:
        self.known_keys(top, TOP_KEYS, "a test file")
        base, given_at_us = self.base(top)
        default = values.instant(DEFAULT_AT, self.rule_set.timezone)
        assert isinstance(default, int)
        at_us = default if given_at_us is None else given_at_us
        items = top.get("tests")
        if not isinstance(items, Sequence) or not items.items:
            self.report("no-tests", "there are no tests", items or top, "write `tests:` and a list of them")
            return ()
        read = [self.test(item, base, at_us) for item in items.items]
        names: dict[str, Span] = {}
        for test in read:
            if test is not None and names.setdefault(test.name, test.span) is not test.span:
                also = ((names[test.name], "the other one"),)
                hint = "give each its own name"
                message = f"two tests are named {shown(test.name)}"
                self.report("duplicate-test", message, test.span, hint, also)
        return tuple(test for test in read if test is not None)

    def payment(self, top: MappingNode, now_us: int) -> RuleTest | None:
        self.known_keys(top, PAYMENT_KEYS, "a payment")
        given, at_us = self.base(top)
        return self.whole(
            PurePosixPath(top.path).stem, top, given, now_us if at_us is None else at_us, Expectation()
        )

    def base(self, top: MappingNode) -> tuple[Given, int | None]:
        """What every test starts from: the facts, and the instant where one is given."""
        given: Given = {}
        at_us = self.moment(top)
        shared = top.get("transaction")
        if isinstance(shared, MappingNode):
            given, own_at_us = self.facts(shared)
            at_us = at_us if own_at_us is None else own_at_us
        elif shared is not None:
            self.report("not-a-mapping", "`transaction` gives facts and their values", shared, _FACTS_HINT)
        return given, at_us

    def test(self, node: Node, base: Given, at_us: int) -> RuleTest | None:
        if not isinstance(node, MappingNode):
            self.report("not-a-mapping", "a test is a mapping", node, "write `name`, `given` and `expect`")
            return None
        self.known_keys(node, TEST_KEYS, "a test")
        name = self.text(node, "name")
        given = dict(base)
        difference = node.get("given")
        own: list[int | None] = [self.moment(node)]
        if isinstance(difference, MappingNode):
            facts, inner = self.facts(difference)
            given |= facts
            own.append(inner)
        elif difference is not None:
            self.report("not-a-mapping", "`given` gives facts and their values", difference, _FACTS_HINT)
        at_us = next((moment for moment in own if moment is not None), at_us)
        expect = self.expectation(node)
        if name is None or expect is None:
            return None
        return self.whole(name, node, given, at_us, expect)

    def whole(self, name: str, node: MappingNode, given: Given, at_us: int, expect: Expectation) -> RuleTest | None:
        if not isinstance(given.get("amount"), Money):
            self.report("no-amount", "the test's transaction has no amount", node, "give `amount: 50 TND`")
            return None
        three_ds, earlier = self.three_ds(node), self.earlier(node, given)
        history = read_history(node.get("history"), given, at_us, self.rule_set.timezone, self)
        return RuleTest(name, node.span, given, at_us, expect, self.lists(node), three_ds, earlier, history)

    def moment(self, node: MappingNode) -> int | None:
        """The instant that `at` or `now` gives, in UTC microseconds."""
        said = [(key, value) for key, value in node.items if key.text in _TIME_KEYS]
        if len(said) > 1:
            also = ((said[0][0].span, "the other one"),)
            self.report("two-times", "`at` and `now` are the same instant", said[1][0], "keep one of them", also)
        if not said:
            return None
        key, value = said[0]
        if not isinstance(value, Scalar) or value.is_empty:
            self.report("no-text", f"`{key.text}` has no instant", value, "write `2026-11-23T10:15:00Z`")
            return None
        moment = values.instant(value.text, self.rule_set.timezone)
        if isinstance(moment, values.Wrong):
            self.report(moment.code, moment.message, value, moment.hint)
            return None
        return moment

    # ---- words and facts ----------------------------------------------------------------------

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

    def facts(self, node: MappingNode) -> tuple[Given, int | None]:
        """Facts by name, None for those that are `unknown`; and the instant, which may stand among them."""
        found: Given = {}
        for key, value in node.items:
            if key.text in _TIME_KEYS:
                continue
            spec = self.spec(key)
            if spec is None:
                continue
            if not isinstance(value, Scalar):
                self.report("not-a-value", f"`{key.text}` has one value", value, "write it without brackets")
            elif value.text == "unknown" and not value.quoted:
                found[key.text] = None
            else:
                read = self.value(value, spec)
                if read is not None:
                    found[key.text] = read
        return found, self.moment(node)

    def spec(self, key: Scalar) -> FactSpec | None:
        spec = CATALOGUE.get(key.text)
        if spec is not None:
            return spec
        declared = self.rule_set.metadata.get(key.text.removeprefix(METADATA_PREFIX))
        if key.text.startswith(METADATA_PREFIX) and declared is not None:
            return FactSpec(key.text, declared, Origin.REQUEST, "")
        counter = self.rule_set.velocity.get(key.text)
        if counter is not None:  # a test may say a count instead of telling the history
            return counter.spec
        known = [*CATALOGUE, *(METADATA_PREFIX + name for name in self.rule_set.metadata), *self.rule_set.velocity]
        hint = suggest(key.text[:64], known) or "rules/README.md lists every fact"
        self.report("unknown-fact", f"unknown fact {shown(key.text)}", key, hint)
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
            hint = "write `{blacklist: [fp_…]}`"
            self.report("not-a-mapping", "`lists` gives list names and entries", given, hint)
            return found
        for key, entries in given.items:
            declared = self.rule_set.lists.get(ListName(key.text))
            if declared is None:
                hint = suggest(key.text[:64], self.rule_set.lists) or "`fraudengine show` names every list"
                self.report("unknown-list", f"unknown list {shown(key.text)}", key, hint)
            elif not isinstance(entries, Sequence):
                self.report("not-a-list", "entries are a list", entries, "write `[…]`")
            else:
                found[declared.name] = read_entries(entries, declared.kind, self.rule_set.timezone, self.mistakes)
        return found

    def three_ds(self, node: MappingNode) -> ThreeDsResult | None:
        given = node.get("three_ds")
        if given is None:
            return None
        eci = version = None
        if isinstance(given, Scalar):
            status: Node | None = given
        elif isinstance(given, MappingNode):
            self.known_keys(given, THREE_DS_KEYS, "a 3-D Secure result")
            status = given.get("status")
            eci, version = (self.text(given, key, required=False) for key in ("eci", "version"))
            wrong = values.eci(eci) if eci is not None else None
            if isinstance(wrong, values.Wrong):
                self.report(wrong.code, wrong.message, given.get("eci") or given, wrong.hint)
        else:
            status = None
        if not isinstance(status, Scalar) or status.text not in STATUSES:
            hint = f"it is one of {', '.join(STATUSES)}"
            self.report("bad-three-ds", "`three_ds` has no transStatus", status or given, hint)
            return None
        return ThreeDsResult(status.text, eci, version)

    def earlier(self, node: MappingNode, given: Given) -> EarlierScreening | None:
        """The earlier screening of the same transaction: what is not said is as in this one."""
        said = node.get("earlier")
        if said is None:
            return None
        if not isinstance(said, MappingNode):
            self.report("not-a-mapping", "`earlier` gives facts of the first screening", said, _FACTS_HINT)
            return None
        facts, _ = self.facts(said)
        before = given | facts
        amount = before["amount"]
        if not isinstance(amount, Money):
            self.report("no-amount", "the earlier screening has no amount", said, "give `amount: 50 TND`")
            return None
        return EarlierScreening(card_identity(card_of(before)), amount.currency, amount.minor)

    def expectation(self, node: MappingNode) -> Expectation | None:
        expect = node.get("expect")
        if isinstance(expect, Scalar):
            outcome = self.outcome(expect)
            return None if outcome is None else Expectation(outcome)
        if not isinstance(expect, MappingNode) or not expect.items:
            hint = "write `expect: refuse`, or `expect: {outcome: …, reason: …}`"
            self.report("no-expectation", "the test expects nothing", expect or node, hint)
            return None
        self.known_keys(expect, EXPECT_KEYS, "`expect`")
        return Expectation(
            outcome=self.outcome(said) if (said := expect.get("outcome")) is not None else None,
            reason=self.reason(said) if (said := expect.get("reason")) is not None else None,
            rule=self.rule_id(said) if (said := expect.get("rule")) is not None else None,
            matches=self.several(expect, "matches", self.rule_id, "rule-id"),
            reasons=self.several(expect, "reasons", self.reason, "REASON"),
        )

    def outcome(self, node: Node) -> Outcome | None:
        word = node.text if isinstance(node, Scalar) else ""
        try:
            return Outcome(word)
        except ValueError:
            hint = suggest(word[:64], list(Outcome)) or "it is accept, challenge or refuse"
            self.report("unknown-outcome", f"unknown outcome {shown(word)}", node, hint)
            return None

    def reason(self, node: Node) -> str | None:
        known = [rule.reason for rule in self.rule_set.rules]
        return self.one_of(node, [*known, *reasons.CATALOGUE], "reason")

    def rule_id(self, node: Node) -> str | None:
        return self.one_of(node, [*(rule.id for rule in self.rule_set.rules), NO_RULE], "rule")

    def one_of(self, node: Node, known: Collection[str], what: str) -> str | None:
        word = node.text if isinstance(node, Scalar) else ""
        if word in known:
            return word
        hint = suggest(word[:64], known) or "`fraudengine show` names every rule with its reason"
        self.report(f"unknown-{what}", f"unknown {what} {shown(word)}", node, hint)
        return None

    def several(
        self, expect: MappingNode, name: str, read: Callable[[Node], str | None], example: str
    ) -> tuple[str, ...] | None:
        said = expect.get(name)
        if said is None:
            return None
        if not isinstance(said, Sequence):
            self.report("not-a-list", f"`{name}` is a list", said, f"write `[{example}, …]`, or `[]` for none")
            return None
        return tuple(sorted(item for node in said.items if (item := read(node)) is not None))


def card_of(given: Mapping[str, FactValue | None]) -> Card | None:
    """The card that the facts describe."""
    fingerprint = text_of(given, "card")
    card = Card(
        fingerprint=CardFingerprint(fingerprint) if fingerprint else None,
        bin=text_of(given, "card_bin"),
        country=text_of(given, "card_country"),
        brand=text_of(given, "card_brand"),
        type=text_of(given, "card_type"),
        issuer=text_of(given, "card_issuer"),
    )
    return None if card == Card() else card


def text_of(given: Mapping[str, FactValue | None], name: str) -> str | None:
    value = given.get(name)
    return value if isinstance(value, str) else None
