"""The online backend: one screening's matches in microseconds, by durable_rules.

A rule set is compiled in layers, one for each rule set that brought rules (the platform's, the merchant's own).
Per layer a generated evaluator turns facts into messages of 0/1 properties (atoms.py), and compiled forms, shared
through `FormCache`, say which rules fire (lowering.py, durable_core.py). A layer that a rule set inherits
keeps its switched-off rules in the form, so that every merchant shares the platform's form whatever it
switched; their properties are never sent, and should other properties fire one it is not listened to.

One thread per process may call (durable_core.py). After a BackendFault the form is compiled anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from ..decision import Match
from ..facts import Facts
from ..rules.ast import Lists, Mode, Rule, RuleId, RuleSet
from .atoms import Evaluate, Evaluator, SentProperty, build_evaluator
from .durable_core import (
    MESSAGE_HEAD,
    MESSAGE_TAIL,
    CompiledForm,
    claim_core,
    release_unused,
    require_owner,
)
from .lowering import RULE_NAMES, FormPlan, FormRule, guards_of, plan_forms

__all__ = ["FormCache", "OnlineRuleSet", "claim_core", "compile_rule_set"]

CheckKey: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


class FormCache:
    """Compiled forms by their text, for as long as a rule set holds them."""

    def __init__(self) -> None:
        self._forms: WeakValueDictionary[str, CompiledForm] = WeakValueDictionary()

    def form(self, text: str) -> CompiledForm:
        found = self._forms.get(text)
        if found is None:
            found = self._forms[text] = CompiledForm(text)
        return found

    def __len__(self) -> int:
        return len(self._forms)


FORMS: Final = FormCache()


class OnlineRuleSet:
    """One rule set, compiled. `find_matches` answers exactly what `reference.find_matches` does."""

    __slots__ = ("_always", "_evaluators", "_layers", "_matches", "rule_set")

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
        layers: list[tuple[Evaluate, tuple[_Listener, ...]]] = []
        evaluators: list[Evaluator] = []
        for rules in _layers_of(rule_set):
            plans, constant = plan_forms(rules)
            always += [2 * place[found.rule.id] + found.by_unknown for found in constant if _is_evaluated(found)]
            heard = [plan for plan in plans if any(map(_is_evaluated, plan.rules))]
            if not heard:
                continue
            evaluator = build_evaluator(
                len(heard), [sent for form, plan in enumerate(heard) for sent in _sent_properties(form, plan)]
            )
            evaluators.append(evaluator)
            layers.append((evaluator.evaluate, tuple(_listen(plan, place, cache) for plan in heard)))
        self._layers = tuple(layers)
        self._evaluators = tuple(evaluators)
        self._always = tuple(sorted(always))

    @property
    def check_key(self) -> CheckKey:
        """What a proof of agreement is about: the forms' texts and the evaluators' sources, without constants."""
        forms = tuple(form.text for _, listeners in self._layers for form, _ in listeners)
        return forms, tuple(evaluator.source for evaluator in self._evaluators)

    @property
    def forms(self) -> tuple[CompiledForm, ...]:
        return tuple(form for _, listeners in self._layers for form, _ in listeners)

    def find_matches(self, facts: Facts, lists: Lists) -> tuple[Match, ...]:
        """Every live and shadow rule that matches, in the order of rule ids.

        Raises BackendFault when the core fails or another thread than its owner calls.
        """
        found = [*self._always]
        for evaluate, listeners in self._layers:
            for message, (form, places) in zip(evaluate(facts, lists), listeners, strict=True):
                if message != MESSAGE_HEAD:
                    found += [places[name] for name in form.fire(message + MESSAGE_TAIL)]
        if not found:
            return ()
        matches = self._matches
        if len(found) == 1:
            return (matches[found[0]],) if found[0] >= 0 else ()
        return tuple([matches[index] for index in sorted(set(found)) if index >= 0])

    def release(self) -> None:
        """Lets go of the compiled forms; those that no other rule set holds give their memory back."""
        require_owner()
        self._layers = ()
        self._evaluators = ()
        release_unused()


_Listener: TypeAlias = tuple[CompiledForm, Mapping[str, int]]


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


def _sent_properties(form: int, plan: FormPlan) -> list[SentProperty]:
    """The properties that an evaluated rule of the form asks for."""
    guards = guards_of(filter(_is_evaluated, plan.rules))
    return [
        SentProperty(form, name, test, guards[test]) for test, name in plan.properties.items() if test in guards
    ]


_SILENT: Final = -1


def _listen(plan: FormPlan, place: Mapping[RuleId, int], cache: FormCache) -> _Listener:
    """The form and what each of its rules answers; a switched-off one answers nothing."""
    places = {
        name: 2 * place[found.rule.id] + found.by_unknown if _is_evaluated(found) else _SILENT
        for name, found in zip(RULE_NAMES, plan.rules, strict=False)
    }
    return cache.form(plan.text), places
