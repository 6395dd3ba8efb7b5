"""Runs a test on every backend; the reference backend is the law that the others must agree with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Final, TypeAlias

from ..backends import reference
from ..decision import Decision, Match, decide
from ..engine import Engine, ReadyRuleSet
from ..enrich import Enricher
from ..facts import METADATA_PREFIX, Facts, FactValue, MerchantId, Transaction
from ..lists import ListsAsOf, build_index
from ..money import Money
from ..screening import Count, Screened, screen_transaction
from .failures import find_failures
from .model import Failure, RuleTest, RuleTestResult
from .past import PastPayments, count_by_law
from .reading import card_of, text_of

# What a backend finds for each payment of one merchant: its matches, or what it raised.
Found: TypeAlias = "tuple[Match, ...] | Exception"
Backend: TypeAlias = Callable[[Sequence[Screened]], Sequence[Found]]

REFERENCE: Final = "reference"


def one_by_one(find_matches: Callable[[ReadyRuleSet, Facts, ListsAsOf], tuple[Match, ...]]) -> Backend:
    """A backend that decides one payment at a time."""

    def find(one: Screened) -> Found:
        try:
            return find_matches(one.ready, one.facts, one.lists)
        except Exception as error:  # noqa: BLE001 - whatever a backend raises is what the test has found
            return error

    return lambda screened: [find(one) for one in screened]


def _columnar(screened: Sequence[Screened]) -> Sequence[Found]:
    from .columnar import find_columnar_matches  # a second to import; `fraudengine check` does without

    try:
        return find_columnar_matches(screened)
    except Exception as error:  # noqa: BLE001 - as above
        return [error] * len(screened)


# Every backend that rule tests run on, by the name that a report gives it.
BACKENDS: Final[dict[str, Backend]] = {
    REFERENCE: one_by_one(lambda ready, facts, lists: reference.find_matches(ready.rule_set, facts, lists)),
    "online": one_by_one(lambda ready, facts, lists: ready.online.find_matches(facts, lists)),
}
if all(find_spec(module) is not None for module in ("duckdb", "ibis", "pyarrow")):
    BACKENDS["columnar"] = _columnar

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


def run_test(test: RuleTest, ready: ReadyRuleSet, engine: Engine, enricher: Enricher) -> RuleTestResult:
    """How one test goes, see `run_tests`."""
    return run_tests([test], ready, engine, enricher)[0]


def run_tests(
    tests: Sequence[RuleTest], ready: ReadyRuleSet, engine: Engine, enricher: Enricher
) -> list[RuleTestResult]:
    """How the tests of a merchant go: the law against what they expect, every other backend against the law."""
    screened, times = [], []
    for test in tests:
        started = time.perf_counter()
        screened.append(screen_test(test, ready, engine, enricher))
        times.append(time.perf_counter() - started)
    disagreements = _disagreements(screened)
    return [
        RuleTestResult(
            test,
            ready.rule_set.name,
            (*find_failures(test.expect, one), *disagreements[number]),
            one,
            times[number],
        )
        for number, (test, one) in enumerate(zip(tests, screened, strict=True))
    ]


def screen_test(test: RuleTest, ready: ReadyRuleSet, engine: Engine, enricher: Enricher) -> Screened:
    """The test's payment on the path of every screening, decided by the reference backend."""
    ready = _with_entries(ready, test)
    transaction = _transaction(test, MerchantId(ready.rule_set.name))
    overriding = {name: value for name, value in test.given.items() if name not in _CARRIED or value is None}
    if test.three_ds is not None:
        overriding.pop("three_ds", None)
    count = _count(test, ready, enricher, transaction) if ready.counters is not None else None
    screened = screen_transaction(engine, enricher, ready, transaction, test.earlier, overriding, count=count)
    matches = reference.find_matches(ready.rule_set, screened.facts, screened.lists)
    return replace(screened, decision=_decide(screened, matches))


def _count(test: RuleTest, ready: ReadyRuleSet, enricher: Enricher, transaction: Transaction) -> Count:
    """The counters of the test's payment, by the law over the history that it tells."""

    def facts_of(line: PastPayments) -> Facts:
        facts = enricher.facts(_described(line.given, test, transaction.merchant), ready.rule_set)
        for name, value in line.given.items():
            if value is None:
                facts.pop(name, None)
            elif name not in _CARRIED:
                facts[name] = value
        return facts

    subject = (transaction.merchant, transaction.transaction_id, transaction.at_us, transaction.amount)
    return count_by_law(test.history, subject, facts_of)


def _decide(screened: Screened, matches: tuple[Match, ...]) -> Decision:
    facts = screened.facts
    three_ds, channel = str(facts["three_ds"]), str(facts["channel"])
    return decide(screened.ready.rule_set, matches, three_ds=three_ds, channel=channel)


def _disagreements(screened: Sequence[Screened]) -> list[list[Failure]]:
    """For each payment one failure for each backend that decides otherwise than the law, or cannot."""
    failures: list[list[Failure]] = [[] for _ in screened]
    for name, backend in BACKENDS.items():
        if name == REFERENCE or not screened:
            continue
        for one, found, told in zip(screened, backend(screened), failures, strict=True):
            if isinstance(found, Exception):
                told.append(Failure(f"the {name} backend failed: {found}; please report this as a defect"))
                continue
            decision = _decide(one, found)
            if decision != one.decision:
                said = f"the {name} backend gives {decision.outcome} ({decision.code})"
                told.append(Failure(f"{said}, the reference backend does not; please report this as a defect"))
    return failures


def _transaction(test: RuleTest, merchant: MerchantId) -> Transaction:
    return _described(test.given, test, merchant)


def _described(given: Mapping[str, FactValue | None], test: RuleTest, merchant: MerchantId) -> Transaction:
    """The payment with those facts, otherwise that of the test."""
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
        channel=text_of(given, "channel") or "ecommerce",
        card=card_of(given),
        three_ds=test.three_ds,
        terminal=text_of(given, "terminal"),
        ip_address=text_of(given, "ip_address"),
        email=text_of(given, "email"),
        phone=text_of(given, "phone"),
        customer=text_of(given, "customer"),
        device=text_of(given, "device"),
        billing_country=text_of(given, "billing_country"),
        shipping_country=text_of(given, "shipping_country"),
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
