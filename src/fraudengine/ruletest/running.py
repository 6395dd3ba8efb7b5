"""Runs a test on every backend; the reference backend is the law that the others must agree with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

from ..backends import reference
from ..decision import Decision, Match, decide
from ..engine import Engine, ReadyRuleSet
from ..enrich import Enricher
from ..facts import METADATA_PREFIX, Facts, MerchantId, Transaction
from ..lists import ListsAsOf, build_index
from ..money import Money
from ..screening import Screened, screen_transaction
from .failures import find_failures
from .model import Failure, RuleTest, RuleTestResult
from .reading import card_of, text_of

Backend: TypeAlias = Callable[[ReadyRuleSet, Facts, ListsAsOf], tuple[Match, ...]]

REFERENCE: Final = "reference"

# Every backend that rule tests run on, by the name that a report gives it.
BACKENDS: Final[dict[str, Backend]] = {
    REFERENCE: lambda ready, facts, lists: reference.find_matches(ready.rule_set, facts, lists),
    "online": lambda ready, facts, lists: ready.online.find_matches(facts, lists),
}

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
    """How the test goes: what the law decides against what is expected, and every other backend against the law."""
    started = time.perf_counter()
    screened = screen_test(test, ready, engine, enricher)
    failures = [*find_failures(test.expect, screened), *_disagreements(screened)]
    elapsed_s = time.perf_counter() - started
    return RuleTestResult(test, ready.rule_set.name, tuple(failures), screened, elapsed_s)


def screen_test(test: RuleTest, ready: ReadyRuleSet, engine: Engine, enricher: Enricher) -> Screened:
    """The test's payment on the path of every screening, decided by the reference backend."""
    ready = _with_entries(ready, test)
    transaction = _transaction(test, MerchantId(ready.rule_set.name))
    overriding = {name: value for name, value in test.given.items() if name not in _CARRIED or value is None}
    if test.three_ds is not None:
        overriding.pop("three_ds", None)
    screened = screen_transaction(engine, enricher, ready, transaction, test.earlier, overriding)
    return replace(screened, decision=_decide(BACKENDS[REFERENCE], screened))


def _decide(backend: Backend, screened: Screened) -> Decision:
    facts = screened.facts
    matches = backend(screened.ready, facts, screened.lists)
    three_ds, channel = str(facts["three_ds"]), str(facts["channel"])
    return decide(screened.ready.rule_set, matches, three_ds=three_ds, channel=channel)


def _disagreements(screened: Screened) -> list[Failure]:
    """One failure for each backend that decides otherwise than the law, or cannot."""
    found = []
    for name, backend in BACKENDS.items():
        if name == REFERENCE:
            continue
        try:
            decision = _decide(backend, screened)
        except Exception as error:  # noqa: BLE001 - whatever a backend raises is what this test has found
            found.append(Failure(f"the {name} backend failed: {error}; please report this as a defect"))
            continue
        if decision != screened.decision:
            said = f"the {name} backend gives {decision.outcome} ({decision.code})"
            found.append(Failure(f"{said}, the reference backend does not; please report this as a defect"))
    return found


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
