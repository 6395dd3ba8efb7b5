"""Rule sets made ready to screen: compiled, checked against the law, with their lists indexed.

A fault of the online backend never reaches the caller: the reference backend decides instead, and the fault is
logged and counted (DESIGN.md 4.9). Only when that fails too is the configured `on_failure` outcome given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from .backends import reference
from .backends.online import OnlineRuleSet, compile_rule_set
from .backends.selfcheck import check_agreement
from .decision import Decision, Match, Outcome, decide, engine_failure
from .facts import Card, Facts
from .lists import Hit, ListIndex, ListsAsOf, RunTimeEntries, build_index
from .rules.activation import activate
from .rules.ast import ListName, RuleSet
from .velocity_index import CounterReader, counter_reader

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadyRuleSet:
    """An effective rule set with its compiled form and list indexes; made by `Engine.prepare` only.

    `linked` is the rule set as the rule files say it: `rule_set` is that with the rules on that run-time entries
    of the lists in `filled` turn on.
    """

    rule_set: RuleSet
    online: OnlineRuleSet
    indexes: Mapping[ListName, ListIndex]
    linked: RuleSet | None = None
    filled: frozenset[ListName] = frozenset()
    counters: CounterReader | None = None  # of the velocity counters that the rules in force read

    def lists_as_of(
        self,
        as_of_us: int,
        run_time: RunTimeEntries | None = None,
        card: Card | None = None,
        hits: list[Hit] | None = None,
    ) -> ListsAsOf:
        return ListsAsOf(self.indexes, as_of_us, run_time, card, hits)


class Engine:
    """Prepares rule sets and decides with them. One thread per process calls it (the C core's own rule)."""

    def __init__(self, *, on_failure: Outcome = Outcome.CHALLENGE) -> None:
        if on_failure is Outcome.ACCEPT:
            raise ValueError("on_failure must not accept: an engine that fails lets nobody through")
        self._on_failure = on_failure
        self.online_faults = 0
        self.reference_faults = 0

    def prepare(self, linked: RuleSet, filled: frozenset[ListName] = frozenset()) -> ReadyRuleSet:
        """Compiles the rule set and checks it against the reference on boundary transactions.

        Raises BackendFault, which shows the transaction, when the compiled form disagrees with the law.
        """
        rule_set = activate(linked, filled)
        online = compile_rule_set(rule_set)
        check_agreement(rule_set, online)
        indexes = {name: build_index(declared) for name, declared in rule_set.lists.items()}
        return ReadyRuleSet(rule_set, online, indexes, linked, filled, counter_reader(rule_set))

    def decide(self, ready: ReadyRuleSet, facts: Facts, lists: ListsAsOf) -> Decision:
        """The decision on one transaction's facts, whatever happens to the backends."""
        three_ds, channel = str(facts["three_ds"]), str(facts["channel"])
        try:
            matches = self._find_matches(ready, facts, lists)
        except Exception:  # noqa: BLE001 - the last resort of the payment path, logged and counted
            self.reference_faults += 1
            _log.exception("the reference backend failed on rule set %s", ready.rule_set.name)
            return engine_failure(self._on_failure, three_ds)
        return decide(ready.rule_set, matches, three_ds=three_ds, channel=channel)

    def _find_matches(self, ready: ReadyRuleSet, facts: Facts, lists: ListsAsOf) -> tuple[Match, ...]:
        try:
            return ready.online.find_matches(facts, lists)
        except Exception:  # noqa: BLE001 - any fault of the C core or its adapter: the law decides instead
            self.online_faults += 1
            _log.exception("the online backend failed on rule set %s", ready.rule_set.name)
            return reference.find_matches(ready.rule_set, facts, lists)
