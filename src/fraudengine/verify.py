"""Logged decisions derived again from their recorded facts, by the law and the rule texts of their own revision.

Every one must come out as it was answered: outcome, reason code, determining rule, every match. What does not is
drift, with a cause. A record whose columns and document disagree was altered, whatever its rules say. Two kinds of
answers were not made by rules and are counted apart: `ENGINE_FAILURE`, and `TEST_CARD` in the environment `test`.

Screenings are read one at a time; kept are counts, `limit` drifts for each cause, and the last rule sets in use.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

import orjson

from . import reasons
from .backends import reference
from .decision import Decision, decide
from .diagnostics import RuleFilesRefused
from .explain_recorded import RecordedEntries, recorded_facts
from .facts import FactValue, ListKind
from .lists import ListIndex, ListsAsOf, build_indexes
from .log_reader import LoggedScreening, LogReader
from .money import Money, read_minor
from .published_cards import REASON as TEST_CARD
from .rules.activation import activate
from .rules.ast import ListName, RuleSet
from .rules.revision import read_revision
from .store import screening_id_text

EXAMPLES: Final = 20
_REVISIONS_KEPT: Final = 256
_SHOW_EVERY: Final = 500


class Cause(StrEnum):
    """Why a decision does not come out as it was answered, or would not today."""

    UNREADABLE = "record unreadable"
    ALTERED = "record altered"
    RULES_MISSING = "rule text missing"
    RULES_UNREADABLE = "rule text unreadable"
    ENGINE = "decision differs from same facts"
    # with the facts derived again:
    IP_DATA = "ip data changed"
    BIN_DATA = "bin data changed"
    COUNTER = "counter differs"
    LIST = "list differs"
    NOT_DERIVABLE = "fact not derivable"
    FACT = "fact differs"


@dataclass(frozen=True, slots=True)
class Drift:
    """One screening and one cause; `now` is the decision that comes out instead, None when it is the same."""

    screening_id: str
    merchant: str
    at_us: int
    cause: Cause
    detail: str
    answered: str
    now: str | None = None


@dataclass(slots=True)
class VerifyReport:
    """What was verified. `drifts` holds at most `limit` of each cause; `causes` counts all of them."""

    screenings: int = 0
    verified: int = 0
    drifted: int = 0
    apart: Counter[str] = field(default_factory=Counter)
    causes: Counter[Cause] = field(default_factory=Counter)
    drifts: list[Drift] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RecordedRules:
    """The rules of a revision as they were in force: with those that run-time entries had turned on."""

    linked: RuleSet
    rule_set: RuleSet
    indexes: Mapping[ListName, ListIndex]


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """A record whose rules can be read, with the decision that its recorded facts come to."""

    screening: LoggedScreening
    document: Mapping[str, Any]
    rules: RecordedRules
    facts: Mapping[str, FactValue]
    lists: ListsAsOf
    decision: Decision


class FurtherCheck(Protocol):
    """What else is asked of records; `--recompute` is one."""

    def observe(self, screening: LoggedScreening, document: Mapping[str, Any]) -> None:
        """Hears of each record once it was checked, in the order of the log, also of those before the period."""

    def drifts(self, record: ReadRecord) -> Iterable[tuple[Cause, str, Decision | None]]:
        """Cause, what differs, and the decision that comes out instead (None: the same)."""


class Revisions:
    """The rule sets of revisions, read from the log when they are first needed."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._kept: OrderedDict[tuple[str, frozenset[ListName]], RecordedRules | Cause] = OrderedDict()

    def rules(self, revision: str, filled: frozenset[ListName]) -> RecordedRules | Cause:
        """The rules, or why there are none."""
        key = (revision, filled)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._read(revision, filled)
            if len(self._kept) > _REVISIONS_KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return found

    def linked(self) -> Iterable[RuleSet]:
        """The rule sets of every revision of the log that can be read."""
        for revision in self._log.revisions():
            rules = self.rules(revision, frozenset())
            if isinstance(rules, RecordedRules):
                yield rules.linked

    def _read(self, revision: str, filled: frozenset[ListName]) -> RecordedRules | Cause:
        texts = self._log.revision_texts(revision)
        if not texts:
            return Cause.RULES_MISSING
        try:
            linked = read_revision(texts)
        except RuleFilesRefused:
            return Cause.RULES_UNREADABLE
        rule_set = activate(linked, filled)
        return RecordedRules(linked, rule_set, build_indexes(rule_set.lists))


def verify_log(
    log: LogReader,
    since_us: int = 0,
    until_us: int | None = None,
    merchant: str | None = None,
    *,
    is_test: bool = False,
    further: FurtherCheck | None = None,
    read_from_us: int | None = None,
    limit: int | None = EXAMPLES,
    progress: Callable[[int], None] = lambda done: None,
) -> VerifyReport:
    """Derives every screening answered in `[since_us, until_us)` again.

    `is_test`: the log is of the environment `test`. `further` also hears of the screenings of everybody from
    `read_from_us` on. `limit` None keeps every drift.
    """
    report, revisions = VerifyReport(), Revisions(log)
    first = since_us if read_from_us is None else min(read_from_us, since_us)
    everybody = merchant if further is None else None
    for screening in log.screenings(first, until_us, everybody):
        document = _read_document(screening)
        if log.answered_us(screening.id) >= since_us and merchant in (None, screening.merchant):
            report.screenings += 1
            found = list(_check(screening, document, revisions, report, is_test, further))
            for drift in found:
                report.causes[drift.cause] += 1
                if limit is None or report.causes[drift.cause] <= limit:
                    report.drifts.append(drift)
            report.drifted += bool(found)
            if report.screenings % _SHOW_EVERY == 0:
                progress(report.screenings)
        if further is not None and document is not None:
            further.observe(screening, document)
    report.verified = report.screenings - report.drifted - report.apart.total()
    return report


def _read_document(screening: LoggedScreening) -> dict[str, Any] | None:
    """The record's document with everything that its checking reads, else None."""
    try:
        document = orjson.loads(screening.document)
        transaction, answer = document["transaction"], document["answer"]
        needed = (transaction["merchant"], transaction["at_us"], transaction["amount"], transaction["channel"])
        said = (answer["decision"], answer["reason"]["code"], answer["reason"]["rule"], answer["matches"])
        del needed, said
        document["facts"]["three_ds"], answer["revision"], answer["screening_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return document if isinstance(document, dict) else None


def _check(
    screening: LoggedScreening,
    document: dict[str, Any] | None,
    revisions: Revisions,
    report: VerifyReport,
    is_test: bool,
    further: FurtherCheck | None,
) -> Iterable[Drift]:
    def drift(cause: Cause, detail: str, now: Decision | None = None) -> Drift:
        came = None if now is None else _words(now)
        answered = f"{screening.outcome} ({screening.code})"
        identity = screening_id_text(screening.id)
        return Drift(identity, screening.merchant, screening.at_us, cause, detail, answered, came)

    if document is None:
        yield drift(Cause.UNREADABLE, "the document cannot be read")
        return
    altered = _altered(screening, document)
    if altered:
        yield drift(Cause.ALTERED, altered)
        return
    code = document["answer"]["reason"]["code"]
    if code == reasons.ENGINE_FAILURE or (is_test and _is_test_card(document)):
        report.apart[code if code == reasons.ENGINE_FAILURE else TEST_CARD] += 1
        return
    filled = frozenset(map(ListName, (document.get("lists") or {}).get("filled", ())))
    rules = revisions.rules(screening.revision, filled)
    if isinstance(rules, Cause):
        yield drift(rules, f"revision {screening.revision}")
        return
    try:
        record = _derive(screening, document, rules)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        yield drift(Cause.UNREADABLE, f"the recorded facts cannot be read ({type(error).__name__})")
        return
    difference = _difference(record.decision, document["answer"])
    if difference and _reads_digits_beyond(record):
        yield drift(Cause.NOT_DERIVABLE, f"{difference}; a list tells cards by digits that no record holds")
    elif difference:
        yield drift(Cause.ENGINE, difference, record.decision)
    elif further is not None:
        for cause, detail, now in further.drifts(record):
            yield drift(cause, detail, now)


def _is_test_card(document: Mapping[str, Any]) -> bool:
    """Whether the answer is one of the documented ones of a published card, settled or not."""
    matches = document["answer"]["matches"]
    return bool(matches) and matches[0].get("code") == TEST_CARD


def _altered(screening: LoggedScreening, document: Mapping[str, Any]) -> str:
    """Which column does not say what the document says; empty when all do."""
    transaction, answer = document["transaction"], document["answer"]
    number, _, currency = str(transaction["amount"]).partition(" ")
    try:
        minor: int | None = read_minor(number, currency)
    except ValueError:
        minor = None
    for name, column, written in (
        ("merchant", screening.merchant, transaction["merchant"]),
        ("at_us", screening.at_us, transaction["at_us"]),
        ("currency", screening.currency, currency),
        ("amount", screening.minor, minor),
        ("outcome", screening.outcome, answer["decision"]),
        ("code", screening.code, answer["reason"]["code"]),
        ("revision", screening.revision, answer["revision"]),
        ("id", screening_id_text(screening.id), answer["screening_id"]),
    ):
        if column != written:
            return f"{name} is {column} in the row and {written} in the document"
    return ""


def _derive(screening: LoggedScreening, document: Mapping[str, Any], rules: RecordedRules) -> ReadRecord:
    """The decision by the recorded facts, run-time entries and instant."""
    lists_read = document.get("lists") or {}
    as_of_us = lists_read.get("as_of_us", document["transaction"]["at_us"])
    facts = recorded_facts(document, rules.rule_set)
    entries = [*lists_read.get("entries", ()), *_entries_cut_short(document, facts)]
    lists = ListsAsOf(rules.indexes, as_of_us, RecordedEntries(entries))
    return ReadRecord(screening, document, rules, facts, lists, decide_again(rules.rule_set, facts, lists))


def _entries_cut_short(document: Mapping[str, Any], facts: Mapping[str, FactValue]) -> Iterable[Mapping[str, Any]]:
    """Entries of BINs longer than what a record may hold of a card: that they held, only the matches tell."""
    for match in document["answer"]["matches"]:
        for because in match.get("because", ()):
            entry = because.get("entry")
            if entry is not None and str(entry["value"]).endswith("…") and because["fact"] in facts:
                yield {**entry, "sought": facts[because["fact"]]}


def _reads_digits_beyond(record: ReadRecord) -> bool:
    """Whether a BIN list of the rule files has entries that begin with the whole recorded BIN and go on."""
    recorded = record.facts.get("card_bin")
    return recorded is not None and any(
        declared.kind is ListKind.BIN
        and any(len(entry.value) > 8 and entry.value.startswith(str(recorded)) for entry in declared.entries)
        for declared in record.rules.rule_set.lists.values()
    )


def decide_again(rule_set: RuleSet, facts: Mapping[str, FactValue], lists: ListsAsOf) -> Decision:
    """The decision by the law."""
    matches = reference.find_matches(rule_set, facts, lists)
    return decide(rule_set, matches, three_ds=str(facts["three_ds"]), channel=str(facts["channel"]))


def _difference(decision: Decision, answer: Mapping[str, Any]) -> str:
    """What the answer says otherwise; empty when it says the same."""
    rule = decision.rule.id if decision.rule is not None else None
    came = {(match.rule.id, match.outcome.value, match.rule.mode.value) for match in decision.matches}
    given = {(match["rule"], match["outcome"], match["mode"]) for match in answer["matches"]}
    for name, now, then in (
        ("outcome", decision.outcome.value, answer["decision"]),
        ("code", decision.code, answer["reason"]["code"]),
        ("rule", rule, answer["reason"]["rule"]),
    ):
        if now != then:
            return f"{name} comes out as {now or 'none'}, and was {then or 'none'}"
    if came != given:
        more, less = sorted({one[0] for one in came - given}), sorted({one[0] for one in given - came})
        told = [f"{', '.join(names)} {word}" for names, word in ((more, "more"), (less, "less")) if names]
        return f"matches differ: {'; '.join(told)}"
    return ""


def _words(decision: Decision) -> str:
    return f"{decision.outcome} ({decision.code})"


def told_value(value: FactValue | None) -> str:
    """A fact's value in a sentence."""
    if value is None:
        return "unknown"
    return str(value) if isinstance(value, (Money, str)) else orjson.dumps(value).decode()
