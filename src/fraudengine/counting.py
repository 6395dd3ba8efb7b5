"""Velocity counters of a running screener: which series the rules in force need, and what a payment's counts are.

Rules come into force only once the counters that they read know their past. A start waits for that; a reload keeps
a merchant's rules from before until `catch_up`, on another thread, has filled it in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .decision_log import DecisionLog
from .enrich import phone_country
from .facts import FactName, Facts, FactValue, Transaction
from .rules.ast import RuleSet
from .rules.library import PLATFORM
from .screening import Count, Screened
from .velocity_history import VelocityHistory, Wanted, is_ready, wanted_series
from .velocity_index import CounterReader, tail_row
from .velocity_tail import TailRow

MAX_KEPT = 8_192  # merchants whose needs are kept


class Counting:
    """The counters of one log. `adopt` and `catch_up` open the file themselves and may run on any thread."""

    def __init__(self, log: DecisionLog, *, for_everybody: bool = False) -> None:
        self._log = log
        self._history = VelocityHistory(log.path)
        self._for_everybody = for_everybody  # the platform's rules serve merchants without a rule file
        self._stopped = False
        self._is_fresh = False
        self._needs_by = log.velocity
        self._needs: dict[str, frozenset[FactName]] = {}

    def adopt(self, rule_sets: Mapping[str, RuleSet]) -> None:
        """Has every series kept that these rule sets read; cheap when all of them are known."""
        wanted: set[Wanted] = set()
        for name, rule_set in rule_sets.items():
            wanted |= self._wanted(name, rule_set)
        registry = self._log.velocity
        if any(not registry.knows(series, owner) for series, owner in wanted):
            self._log.velocity = self._history.register(wanted)

    def catch_up(self, progress: Callable[[], None] = lambda: None) -> bool:
        """Fills in what lacks its past, telling `progress` again and again; True when there was something."""
        registry = self._log.velocity
        if registry.is_complete:
            return False

        def go_on() -> bool:
            progress()
            return not self._stopped

        self._log.velocity = self._history.fill(go_on=go_on)
        return True

    def stop(self) -> None:
        self._stopped = True

    def _wanted(self, name: str, rule_set: RuleSet) -> frozenset[Wanted]:
        if name == PLATFORM and not self._for_everybody:
            return frozenset()
        return wanted_series(name, rule_set, for_everybody=name == PLATFORM)

    def is_ready(self, name: str, rule_set: RuleSet) -> bool:
        """Whether the counters that the rule set reads know their past."""
        wanted = self._wanted(name, rule_set)
        return not wanted or is_ready(self._log.velocity, wanted)

    # ---- one screening --------------------------------------------------------------------------------

    def begin_round(self) -> None:
        """From here on counters see all that is committed now; calls that are in already look once for them all."""
        self._is_fresh = False

    def counts_of(self, transaction: Transaction, own_ids: Sequence[int]) -> Count:
        """How the counters of a payment are read; `own_ids` are its own earlier screenings."""

        def count(reader: CounterReader, facts: Facts) -> Mapping[str, FactValue]:
            at_us, amount = transaction.at_us, transaction.amount
            counted = self._log.recorded.read_counters(
                reader, transaction.merchant, facts, at_us, amount, own_ids, refresh=not self._is_fresh
            )
            self._is_fresh = True
            return counted

        return count

    def needs(self, merchant: str) -> frozenset[FactName]:
        """The facts that a merchant's records must hold; the same set until another series is kept."""
        registry = self._log.velocity
        if registry is not self._needs_by or len(self._needs) >= MAX_KEPT:
            self._needs_by, self._needs = registry, {}
        needs = self._needs.get(merchant)
        if needs is None:
            needs = self._needs[merchant] = registry.needs_of(merchant)
        return needs

    def row_for(self, screened: Screened) -> tuple[TailRow, int]:
        """What the index keeps of a screening, and the generation of the registry that says so."""
        registry = self._log.velocity
        series = registry.series_for(screened.transaction.merchant)
        if not series:
            return (), registry.generation
        transaction, facts = screened.transaction, screened.facts
        if transaction.phone is not None and "phone_country" not in facts:
            country = phone_country(transaction.phone)
            facts = facts if country is None else {**facts, "phone_country": country}
        merchant, amount, at_us = transaction.merchant, transaction.amount, transaction.at_us
        return tail_row(series, merchant, facts, amount, screened.decision.outcome, at_us), registry.generation
