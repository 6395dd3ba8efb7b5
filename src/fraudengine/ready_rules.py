"""The rule sets in force, each compiled and checked against the law before it decides anything.

A start compiles `EAGER_AT_START` rule sets at once and a reload those of one edit; with more merchants than
that, the rest follows between screenings (`warm_up`) or with a merchant's first screening, whichever comes
first: 5,000 merchants are ready in seconds instead of half a minute, and no rule set ever decides unchecked.
A compiled form that disagrees with the law is refused, and the rules from before stay in force.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .counting import Counting
from .diagnostics import BackendFault, UnknownMerchant
from .engine import Engine, ReadyRuleSet
from .rules.activation import awaited_lists
from .rules.ast import ListName, RuleSet
from .rules.library import PLATFORM, Library, Snapshot
from .runtime_lists import RuntimeLists

EAGER_AT_START: Final = 50
EAGER_AT_RELOAD: Final = 4


class ReadyRules:
    """What the library has in force, ready to screen. Driven from the thread that owns the rule core."""

    def __init__(
        self,
        library: Library,
        engine: Engine,
        *,
        fall_back_to_platform: bool = False,
        run_time: RuntimeLists | None = None,
        counting: Counting | None = None,
    ) -> None:
        self._library = library
        self._engine = engine
        self._fall_back = fall_back_to_platform
        self._snapshot: Snapshot = library.snapshot
        self._ready: dict[str, ReadyRuleSet] = {}
        self._faults: dict[str, tuple[RuleSet, str]] = {}
        self._waiting: Iterator[str] = iter(())
        self._run_time = run_time
        self._counting = counting
        self._lacking: dict[str, str] = {}  # rule sets whose counters do not know their past yet
        self._changes: dict[str, int] = {}  # the change of run-time lists that a rule set was last compared with
        self.take_up(EAGER_AT_START)

    def take_up(self, eager: int = EAGER_AT_RELOAD) -> None:
        """Puts the library's snapshot in force, all of it between two screenings."""
        self._snapshot = self._library.snapshot
        rule_sets = self._snapshot.rule_sets
        self._ready = {name: ready for name, ready in self._ready.items() if name in rule_sets}
        self._faults = {name: fault for name, fault in self._faults.items() if name in rule_sets}
        self._lacking = {name: why for name, why in self._lacking.items() if name in rule_sets}
        stale = [name for name in rule_sets if self._is_stale(name)]
        stale.sort(key=lambda name: name != PLATFORM)
        for name in stale[:eager]:
            self._prepare(name, rule_sets[name])
        self._waiting = iter(stale[eager:])

    def warm_up(self) -> bool:
        """Prepares one rule set that waits; False when none does."""
        for name in self._waiting:
            if self._is_stale(name):
                self._prepare(name, self._snapshot.rule_sets[name])
                return True
        return False

    def ready_for(self, merchant: str) -> ReadyRuleSet:
        """The merchant's rule set, prepared now if it is not yet; raises UnknownMerchant."""
        rule_set = self._snapshot.rule_sets.get(merchant)
        ready = self._ready.get(merchant)
        if rule_set is None or merchant == PLATFORM:
            return self._fallen_back(merchant)
        if ready is not None and ready.linked is rule_set:
            return ready if self._run_time is None else self._with_filled_lists(merchant, ready, self._run_time)
        fault = self._faults.get(merchant)
        if fault is None or fault[0] is not rule_set:
            self._prepare(merchant, rule_set)
            ready = self._ready.get(merchant)
        if ready is None:
            raise UnknownMerchant(merchant, refused=True)
        return ready

    def _fallen_back(self, merchant: str) -> ReadyRuleSet:
        refused = merchant in self._snapshot.refused_merchants
        if self._fall_back and not refused and PLATFORM in self._ready:
            ready = self._ready[PLATFORM]
            return ready if self._run_time is None else self._with_filled_lists(PLATFORM, ready, self._run_time)
        raise UnknownMerchant(merchant, refused=refused)

    def _with_filled_lists(self, name: str, ready: ReadyRuleSet, run_time: RuntimeLists) -> ReadyRuleSet:
        """The rule set with the rules on whose lists were filled at run time, made anew when that changed."""
        if self._changes.get(name) != run_time.change:
            linked = ready.linked or ready.rule_set
            if self._filled_lists(name, linked) != ready.filled:
                self._prepare(name, linked)
            self._changes[name] = run_time.change
        return self._ready[name]

    def _filled_lists(self, name: str, linked: RuleSet) -> frozenset[ListName]:
        """Of the lists that rules wait for, those that run-time entries fill."""
        if self._run_time is None:
            return frozenset()
        awaited = awaited_lists(linked)
        lists = self._run_time.of_merchant(name, linked.lists) if awaited else None
        return frozenset(filter(lists.is_filled, awaited)) if lists is not None else frozenset()

    def _is_stale(self, name: str) -> bool:
        ready, fault = self._ready.get(name), self._faults.get(name)
        rule_set = self._snapshot.rule_sets[name]
        return (ready is None or ready.linked is not rule_set) and (fault is None or fault[0] is not rule_set)

    def _prepare(self, name: str, rule_set: RuleSet) -> None:
        """Compiles and checks one rule set and puts it in force; on a fault the one before it stays.

        So it does until the velocity counters that the new one reads know their past.
        """
        if self._counting is not None and not self._counting.is_ready(name, rule_set):
            kept = "the rules from before stay in force" if name in self._ready else "it has no rules in force"
            self._lacking[name] = f"the new counters of {name} are being computed from the past; {kept} until then"
            return
        self._lacking.pop(name, None)
        try:
            self._ready[name] = self._engine.prepare(rule_set, self._filled_lists(name, rule_set))
        except BackendFault as fault:
            kept = "the rules from before stay in force" if name in self._ready else "it has no rules in force"
            self._faults[name] = (rule_set, f"the compiled rules of {name} are refused: {fault}; {kept}")
        else:
            self._faults.pop(name, None)

    def problems(self) -> tuple[str, ...]:
        """What was refused or cannot be read, in plain language."""
        found = [str(refusal) for refusal in self._snapshot.refusals]
        if self._library.problem:
            found.append(f"the rule directory {self._library.directory} {self._library.problem}")
        return (*found, *(said for _, said in self._faults.values()), *self._lacking.values())

    def __bool__(self) -> bool:
        return bool(self._ready)
