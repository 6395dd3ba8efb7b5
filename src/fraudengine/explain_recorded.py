"""A recorded screening explained: by the rule texts of its own revision and its recorded facts, not today's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import orjson

from .backends import reference
from .decision import Decision, Match, Outcome
from .explain import Explanation, explain_decision
from .explain_words import phrase
from .facts import FactType, FactValue
from .list_entries import read_time
from .lists import ANYTHING, ListIndex, ListsAsOf, build_indexes
from .money import Money, read_minor
from .reasons import Language
from .rules.activation import activate
from .rules.ast import ListContents, ListEntry, ListName, Lists, Mode, RuleSet
from .rules.revision import read_revision

ListsOf: TypeAlias = Callable[[RuleSet, int], Lists]

_MONEY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ([A-Z]{3})")


@dataclass(frozen=True, slots=True)
class ExplainedScreening:
    """What a screening was about, in one line, and the explanation of its decision."""

    heading: str
    explanation: Explanation


class RecordedEntries:
    """The run-time entries that a screening found, as its record tells them; they may be gone since."""

    def __init__(self, recorded: Iterable[Mapping[str, Any]]) -> None:
        self._found = {(each["list"], each["sought"]): _recorded_entry(each) for each in recorded}

    def find(self, name: ListName, value: FactValue, as_of_us: int) -> ListEntry | None:
        return self._found.get((name, value))

    def could_hold(self, indexes: Mapping[ListName, ListIndex]) -> Mapping[ListName, ListContents]:
        return dict.fromkeys(indexes, ANYTHING)  # the reference backend, which explains, looks everything up


def _recorded_entry(each: Mapping[str, Any]) -> ListEntry:
    added, expires = each.get("added"), each.get("expires")
    return ListEntry(
        each["value"],
        each.get("reason", ""),
        each.get("ticket", ""),
        each.get("author", ""),
        read_time(added) if added else None,
        read_time(expires) if expires else None,
        each["source"],
        each.get("id"),
        each.get("scope", ""),
    )


def explain_recorded(
    document: bytes,
    texts: Iterable[tuple[str, str]],
    language: Language = "en",
    lists_of: ListsOf | None = None,
) -> ExplainedScreening:
    """Explains a screening from its document and the rule texts of the revision that decided it.

    The summary says what was answered. When these rules give something else today (an entry that was kept at
    run time, a release that reads the same rules otherwise), it says that too.
    Raises RuleFilesRefused when the texts cannot be read any more.
    """
    recorded = orjson.loads(document)
    lists_read = recorded.get("lists") or {}
    rule_set = activate(read_revision(texts), frozenset(lists_read.get("filled", ())))
    transaction, given = recorded["transaction"], recorded["answer"]
    facts = recorded_facts(recorded, rule_set)
    as_of_us = lists_read.get("as_of_us", transaction["at_us"])
    lists = (
        lists_of(rule_set, as_of_us)
        if lists_of is not None
        else ListsAsOf(build_indexes(rule_set.lists), as_of_us, RecordedEntries(lists_read.get("entries", ())))
    )
    matches = reference.find_matches(rule_set, facts, lists)
    decision = answered_decision(given, rule_set)
    explanation = explain_decision(rule_set, decision, facts, lists, language)
    if {(match.rule.id, match.outcome) for match in matches} != {
        (match.rule.id, match.outcome) for match in decision.matches
    }:
        note = phrase("differs", language, f"{decision.outcome} ({decision.code})")
        explanation = replace(explanation, summary=(*explanation.summary, note))
    heading = transaction_heading(
        language,
        merchant=transaction["merchant"],
        amount=transaction["amount"],
        at_us=transaction["at_us"],
        transaction_id=transaction["transaction_id"],
        timezone=rule_set.timezone,
    )
    return ExplainedScreening(heading, explanation)


def transaction_heading(
    language: Language, *, merchant: str, amount: str, at_us: int, transaction_id: str, timezone: str
) -> str:
    """What the payment was, with its time where the merchant is."""
    at = datetime.fromtimestamp(at_us // 1_000_000, ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M:%S")
    return phrase("transaction", language, amount, merchant, f"{at} ({timezone})", transaction_id)


def recorded_facts(recorded: Mapping[str, Any], rule_set: RuleSet) -> dict[str, FactValue]:
    """The facts that decided, typed again; what every transaction has is taken from the transaction."""
    transaction = recorded["transaction"]
    amount = _money(transaction["amount"])
    found: dict[str, FactValue] = {
        "amount": amount,
        "currency": amount.currency,
        "channel": transaction["channel"],
    }
    for name, value in recorded["facts"].items():
        if value is not None and name not in found:
            found[name] = _typed(name, value, rule_set)
    return found


def _typed(name: str, value: str | int | bool, rule_set: RuleSet) -> FactValue:
    """Money is recorded as text; among the facts beside the amount, only sums are money."""
    counter = rule_set.velocity.get(name)
    if isinstance(value, str) and counter is not None and counter.type is FactType.MONEY:
        return _money(value)
    return value


def _money(text: str) -> Money:
    found = _MONEY.fullmatch(text)
    assert found is not None, "money is recorded as `450.000 TND`"
    return Money(read_minor(found[1], found[2]), found[2])


def answered_decision(given: Mapping[str, Any], rule_set: RuleSet) -> Decision:
    """The decision that an answer says, with the rules of its revision."""
    rules = {str(rule.id): rule for rule in rule_set.rules}
    matches = []
    for match in given["matches"]:
        rule = rules.get(match["rule"])
        if rule is not None:
            outcome, mode = Outcome(match["outcome"]), Mode(match["mode"])
            if rule.mode is not mode:  # run-time entries had turned it on
                rule = replace(rule, mode=mode)
            matches.append(Match(rule, outcome, by_unknown=outcome is not rule.then))
    return Decision(
        outcome=Outcome(given["decision"]),
        code=given["reason"]["code"],
        rule=rules.get(given["reason"]["rule"] or ""),
        matches=tuple(matches),
        three_ds=given["indicators"]["three_ds"],
    )
