"""Rules that come alive when a list is filled at run time, and fall silent when it is emptied again.

Linking sees rule files only: a rule that must have a list filled (`allowed_*`, `not_in_list`) is off while they
hold no entry of it. Run-time entries fill it as well, without a new revision: the rules said so all along. A
list is filled while it has an entry that nobody removed; one that expired still counts, as it does in a rule
file, so that a gate never opens by the mere passing of time.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace

from .ast import ListName, Rule, RuleSet, facts_read
from .counters import with_counter_needs


def awaited_lists(rule_set: RuleSet) -> frozenset[ListName]:
    """The lists that turn a rule on when they are filled."""
    return frozenset(name for rule in rule_set.rules for name in rule.awaits)


def activate(rule_set: RuleSet, filled: AbstractSet[ListName]) -> RuleSet:
    """The rule set with those lists filled; the same object when that changes nothing."""
    rules = tuple(_activate_rule(rule, filled) for rule in rule_set.rules)
    woken = [new for new, old in zip(rules, rule_set.rules, strict=True) if new is not old]
    if not woken:
        return rule_set
    reads = with_counter_needs(rule_set.reads.union(*map(_facts_of, woken)), rule_set.velocity)
    return replace(rule_set, rules=rules, reads=reads)


def _activate_rule(rule: Rule, filled: AbstractSet[ListName]) -> Rule:
    if not rule.awaits or not set(rule.awaits) <= filled:
        return rule
    return replace(rule, mode=rule.mode_when_filled, off_because="", awaits=())


def _facts_of(rule: Rule) -> frozenset[str]:
    return facts_read(rule.when) | (facts_read(rule.unless) if rule.unless is not None else frozenset())
