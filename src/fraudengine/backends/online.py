"""The online backend: one screening's matches in microseconds, by durable_rules.

A rule set is compiled in layers, one for each rule set that brought rules (the platform's, the merchant's own).
Each layer has its forms (lowering.py, forms.py). For each form a generated evaluator says which 0/1 properties hold
(atoms.py), and the compiled form, shared through `FormCache`, which rules then fire (durable_core.py). What a form
answered is remembered: most transactions of ordinary traffic hold just the properties of one before.

A layer that a rule set inherits keeps its switched-off rules in the form, so that every merchant shares the
platform's form whatever it switched; their properties are never sent, and should other properties fire one it is
not listened to.

One thread per process may call (durable_core.py). After a BackendFault the form is compiled anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import get_ident
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from ..decision import Match
from ..facts import Facts
from ..rules.ast import Lists, Mode, Rule, RuleId, RuleSet
from . import durable_core
from .atoms import Evaluate, Evaluator, SentProperty, build_evaluator
from .durable_core import CompiledForm, claim_core, release_unused, require_owner
from .forms import RULE_NAMES, FormPlan, FormRule, guards_of, plan_forms

__all__ = ["FormCache", "OnlineRuleSet", "claim_core", "compile_rule_set"]

CheckKey: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


class FormCache:
    """Compiled forms by their text, for as long as a rule set holds them."""

    def __init__(self) -> None:
        self._forms: WeakValueDictionary[str, CompiledForm] = WeakValueDictionary()

    def form(self, plan: FormPlan) -> CompiledForm:
        found = self._forms.get(plan.text)
        if found is None:
            found = self._forms[plan.text] = CompiledForm(plan.text, plan.names)
        return found

    def __len__(self) -> int:
        return len(self._forms)


FORMS: Final = FormCache()


class OnlineRuleSet:
    """One rule set, compiled. `find_matches` answers exactly what `reference.find_matches` does."""

    __slots__ = ("_always", "_evaluators", "_listeners", "_matches", "rule_set")

    def __init__(self, rule_set: RuleSet, cache: FormCache) -> None:
        self.rule_set = rule_set
        place = {rule.id: index for index, rule in enumerate(sorted(rule_set.evaluated_rules, key=_by_id))}
        # What each place answers: the match by `when`, then the match by `if_unknown`.
        self._matches: tuple[Match, ...] = tuple(
            match
            for rule in sorted(rule_set.evaluated_rules, key=_by_id)
            for match in (Match(rule, rule.then), Match(rule, rule.if_unknown or rule.then, by_unknown=True))
        )
        always: list[int] = []
        listeners: list[_Listener] = []
        evaluators: list[Evaluator] = []
        for rules in _layers_of(rule_set):
            plans, constant = plan_forms(rules)
            always += [2 * place[found.rule.id] + found.by_unknown for found in constant if _is_evaluated(found)]
            for plan in plans:
                if any(map(_is_evaluated, plan.rules)):
                    evaluator = build_evaluator(_sent_properties(plan))
                    evaluators.append(evaluator)
                    form = cache.form(plan)
                    listeners.append((evaluator.evaluate, form, form.answers, _places(plan, place)))
        self._listeners = tuple(listeners)
        self._evaluators = tuple(evaluators)
        self._always = tuple(sorted(always))

    @property
    def check_key(self) -> CheckKey:
        """What a proof of agreement is about: the forms' texts and the evaluators' sources, without constants."""
        return tuple(form.text for form in self.forms), tuple(evaluator.source for evaluator in self._evaluators)

    @property
    def forms(self) -> tuple[CompiledForm, ...]:
        return tuple(form for _, form, _, _ in self._listeners)

    def find_matches(self, facts: Facts, lists: Lists, *, ask: bool = False) -> tuple[Match, ...]:
        """Every live and shadow rule that matches, in the order of rule ids.

        The core answers what was not answered before, or everything when told to `ask`. Raises BackendFault when
        it fails or another thread than its owner calls.
        """
        if durable_core.owner != get_ident():
            require_owner()
        found = [*self._always]
        for evaluate, form, answers, places in self._listeners:
            mask = evaluate(facts, lists)
            if mask:
                names = answers.get(mask)
                if names is None or ask:
                    names = form.ask(mask)
                for name in names:
                    found.append(places[name])
        if not found:
            return ()
        matches = self._matches
        if len(found) == 1:
            return (matches[found[0]],) if found[0] >= 0 else ()
        return tuple([matches[index] for index in sorted(set(found)) if index >= 0])

    def release(self) -> None:
        """Lets go of the compiled forms; those that no other rule set holds give their memory back."""
        require_owner()
        self._listeners = ()
        self._evaluators = ()
        release_unused()


_Listener: TypeAlias = tuple[Evaluate, CompiledForm, Mapping[int, str], Mapping[str, int]]
"""What holds, the form to ask, what it answered before, and the place of each of its rules."""


def compile_rule_set(rule_set: RuleSet, cache: FormCache = FORMS) -> OnlineRuleSet:
    """The rule set ready to screen. The core compiles a form at its first message, once for all that share it."""
    return OnlineRuleSet(rule_set, cache)


def _by_id(rule: Rule) -> str:
    return rule.id


def _is_evaluated(found: FormRule) -> bool:
    return found.rule.mode is not Mode.OFF


def _layers_of(rule_set: RuleSet) -> Iterable[list[Rule]]:
    """Rules by the rule set that brought them; an inherited layer with its switched-off rules."""
    layers: dict[str, list[Rule]] = {}
    for rule in rule_set.rules:
        if rule.origin != rule_set.name or rule.mode is not Mode.OFF:
            layers.setdefault(rule.origin, []).append(rule)
    return [rules for rules in layers.values() if any(rule.mode is not Mode.OFF for rule in rules)]


def _sent_properties(plan: FormPlan) -> list[SentProperty]:
    """The properties that an evaluated rule of the form asks for."""
    guards = guards_of(filter(_is_evaluated, plan.rules))
    bits = {name: 1 << place for place, name in enumerate(plan.names)}
    return [
        SentProperty(test, bits[name], guards[test]) for test, name in plan.properties.items() if test in guards
    ]


_SILENT: Final = -1


def _places(plan: FormPlan, place: Mapping[RuleId, int]) -> dict[str, int]:
    """What each rule of the form answers; a switched-off one answers nothing."""
    return {
        name: 2 * place[found.rule.id] + found.by_unknown if _is_evaluated(found) else _SILENT
        for name, found in zip(RULE_NAMES, plan.rules, strict=False)
    }
