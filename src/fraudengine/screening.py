"""One screening, without its record: transaction, facts, decision, and the answer that the caller reads.

Notebooks, the command line, rule tests and the service all come through `screen_transaction`, so that there is
one path from a transaction to a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from . import reasons
from .decision import Because, Decision, EarlierScreening, Match
from .engine import Engine, ReadyRuleSet
from .enrich import INDICATORS, Enricher
from .explain import explain_match
from .facts import Card, Facts, FactValue, Transaction
from .list_entries import time_text
from .lists import ListsAsOf
from .money import Money
from .records import record
from .rules.ast import ListEntry, ListName, Outcome
from .velocity_index import CounterReader

Json: TypeAlias = "str | int | float | bool | Mapping[str, Json] | list[Json] | None"

_BLACKLIST = ListName("blacklist")


Count: TypeAlias = Callable[[CounterReader, Facts], Mapping[str, FactValue]]
"""The values of velocity counters for a transaction with these facts, without those that are unknown."""


@record
class Screened:
    """A decided transaction with what was known when it was decided."""

    transaction: Transaction
    ready: ReadyRuleSet
    facts: Mapping[str, FactValue]
    lists: ListsAsOf
    decision: Decision


def screen_transaction(
    engine: Engine,
    enricher: Enricher,
    ready: ReadyRuleSet,
    transaction: Transaction,
    earlier: EarlierScreening | None = None,
    given: Mapping[str, FactValue | None] | None = None,
    lists: ListsAsOf | None = None,
    count: Count | None = None,
) -> Screened:
    """Decides on one transaction; without `lists`, by those of the rule files as of its time.

    Rule tests give facts that stand in the place of derived ones; None: unknown. `count` gives the velocity
    counters that the rules read; without it they are unknown.
    """
    facts = enricher.facts(transaction, ready.rule_set, earlier)
    for name, value in (given or {}).items():
        if value is None:
            facts.pop(name, None)
        else:
            facts[name] = value
    if ready.counters is not None and count is not None:
        facts |= {name: value for name, value in count(ready.counters, facts).items() if name not in (given or {})}
    if lists is None:
        lists = ready.lists_as_of(transaction.at_us, card=transaction.card)
    return Screened(transaction, ready, facts, lists, engine.decide(ready, facts, lists))


def answer(
    screened: Screened, screening_id: str, data_versions: Mapping[str, str], elapsed_us: int
) -> dict[str, Json]:
    """The answer of `POST /v1/screenings` (DESIGN.md section 6) as a JSON object."""
    decision = screened.decision
    rule = decision.rule
    given: dict[str, Json] = {
        "screening_id": screening_id,
        "decision": decision.outcome.value,
        "reason": {
            "code": decision.code,
            "rule": rule.id if rule is not None else None,
            "message": reasons.sentence(decision.code, fallback=rule.description if rule is not None else ""),
        },
        "matches": [match_object(match, screened) for match in decision.matches],
        "indicators": indicators(screened),
        "revision": screened.ready.rule_set.revision,
        "data": dict(data_versions),
        "elapsed_us": elapsed_us,
    }
    if decision.outcome is Outcome.CHALLENGE:
        given["three_ds"] = {"challenge_indicator": decision.challenge_indicator}
    return given


def match_object(match: Match, screened: Screened) -> dict[str, Json]:
    """One match as JSON, with the tests that made it."""
    rule = match.rule
    found = explain_match(match, screened.facts, screened.lists)
    counters = screened.ready.counters
    if counters is not None:
        found = tuple(replace(because, value=counters.tell(because.fact, because.value)) for because in found)
    return {
        "rule": rule.id,
        "outcome": match.outcome.value,
        "code": rule.reason,
        "mode": rule.mode.value,
        "because": [_because_object(because) for because in found],
    }


def _because_object(because: Because) -> dict[str, Json]:
    given: dict[str, Json] = {"fact": because.fact, "value": because.value, "test": because.test}
    if because.entry is not None:
        given["entry"] = entry_object(because.list_name, because.entry)
    return given


def entry_object(list_name: str, entry: ListEntry) -> dict[str, Json]:
    """Which entry of a list, from where, and why it is there; what is not known is left out.

    Of a BIN no more than eight digits: with the last four beside it, more would say too much of a card number.
    """
    value = entry.value
    if value.isdigit() and len(value) > 8:
        value = f"{value[:8]}…"
    given: dict[str, Json] = {
        "list": list_name,
        "id": entry.id,
        "value": value,
        "source": entry.source or "rule files",
        "scope": entry.scope or None,
        "reason": entry.reason or None,
        "ticket": entry.ticket or None,
        "author": entry.author or None,
        "added": time_text(entry.added_us),
        "expires": time_text(entry.expires_us),
    }
    return {name: value for name, value in given.items() if value is not None}


def recorded_lists(screened: Screened, change: int) -> dict[str, Json]:
    """What is recorded of the lists: the instant they were read at, and the run-time entries that were found.

    An explanation years later, and a replay, need no more of them.
    """
    lists = screened.lists
    given: dict[str, Json] = {"as_of_us": lists.as_of_us, "change": change}
    entries = [
        {"sought": json_value(hit.value), **entry_object(hit.name, hit.entry)}
        for hit in dict.fromkeys(lists.hits or ())
        if hit.entry.id is not None
    ]
    if entries:
        given["entries"] = list(entries)
    if screened.ready.filled:
        given["filled"] = [str(name) for name in sorted(screened.ready.filled)]
    return given


def indicators(screened: Screened) -> dict[str, Json]:
    """What every answer says about the transaction; an unknown value is null in JSON."""
    facts = screened.facts
    return {
        "card_country": json_value(facts.get("card_country")),
        "ip_country": json_value(facts.get("ip_country")),
        "card_blacklisted": is_blacklisted(screened),
        "three_ds": json_value(facts["three_ds"]),
    }


def is_blacklisted(screened: Screened) -> bool:
    card, lists = screened.facts.get("card"), screened.lists
    if card is None or _BLACKLIST not in screened.ready.rule_set.lists:
        return False
    return card in lists.could_hold[_BLACKLIST] and lists.find(_BLACKLIST, card) is not None


def recorded_facts(screened: Screened, needed: frozenset[str] = frozenset()) -> dict[str, Json]:
    """The facts that decided, as JSON: those that the rule set reads or that are `needed`, and the indicators."""
    wanted = recorded_names(screened.ready.rule_set.reads, needed)
    return {name: json_value(value) for name, value in screened.facts.items() if name in wanted}


@lru_cache(maxsize=4096)
def recorded_names(reads: frozenset[str], needed: frozenset[str]) -> frozenset[str]:
    return reads | INDICATORS | needed


def transaction_object(transaction: Transaction) -> dict[str, Json]:
    """The transaction as it is recorded: what the gateway sent, normalised, without the card number."""
    card, result = transaction.card, transaction.three_ds
    written: dict[str, Json] = {
        "merchant": transaction.merchant,
        "transaction_id": transaction.transaction_id,
        "at_us": transaction.at_us,
        "amount": str(transaction.amount),
        "channel": transaction.channel,
    }
    if transaction.order_ref is not None:
        written["order_ref"] = transaction.order_ref
    if transaction.terminal is not None:
        written["terminal"] = transaction.terminal
    if transaction.ip_address is not None:
        written["ip_address"] = transaction.ip_address
    if transaction.email is not None:
        written["email"] = transaction.email
    if transaction.phone is not None:
        written["phone"] = transaction.phone
    if transaction.customer is not None:
        written["customer"] = transaction.customer
    if transaction.device is not None:
        written["device"] = transaction.device
    if transaction.billing_country is not None:
        written["billing_country"] = transaction.billing_country
    if transaction.shipping_country is not None:
        written["shipping_country"] = transaction.shipping_country
    if card is not None:
        written["card"] = _card_object(card)
    if result is not None:
        written["three_ds"] = {
            "status": result.status,
            "eci": result.eci,
            "version": result.version,
            "ds_trans_id": result.ds_trans_id,
        }
    if transaction.metadata:
        written["metadata"] = dict(transaction.metadata)
    return written


def _card_object(card: Card) -> dict[str, Json]:
    given: dict[str, Json] = {}
    if card.fingerprint is not None:
        given["fingerprint"] = card.fingerprint
    if card.bin is not None:
        given["bin"] = card.bin
    if card.last4 is not None:
        given["last4"] = card.last4
    if card.country is not None:
        given["country"] = card.country
    if card.brand is not None:
        given["brand"] = card.brand
    if card.type is not None:
        given["type"] = card.type
    if card.issuer is not None:
        given["issuer"] = card.issuer
    if card.expiry is not None:
        given["expiry"] = card.expiry
    return given


def json_value(value: FactValue | None) -> Json:
    """A fact's value in JSON; money as text in major units with its currency."""
    return str(value) if isinstance(value, Money) else value
