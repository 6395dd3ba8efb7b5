"""The online backend answers what the law answers, and lives with what the C core cannot do."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine.backends import atoms, durable_core, forms, lowering, reference, selfcheck
from fraudengine.backends.online import FormCache, compile_rule_set
from fraudengine.diagnostics import BackendFault
from fraudengine.facts import Facts, FactType, ListKind
from fraudengine.lists import Hit, ListsAsOf, build_indexes
from fraudengine.money import Money
from fraudengine.rules.ast import (
    All,
    Any,
    Compare,
    Condition,
    DeclaredList,
    InList,
    ListEntry,
    ListName,
    Literal,
    Mode,
    MoneyFigures,
    Not,
    Op,
    Outcome,
    Rule,
    RuleId,
    RuleSet,
    SettingRef,
)
from tests import strategies
from tests.strategies import SPAN, lists_of, make_rule_set

CORE_MODULE = vars(durable_core)["_core"]
ROOT = Path(__file__).parent.parent
relaxed = [HealthCheck.too_slow, HealthCheck.data_too_large]
thorough = settings(max_examples=300, deadline=None, suppress_health_check=relaxed)
brief = settings(max_examples=60, deadline=None, suppress_health_check=relaxed)


def rule(rule_id: str, when: Condition, *, origin: str = strategies.MERCHANT, mode: Mode = Mode.LIVE) -> Rule:
    return Rule(RuleId(rule_id), when, Outcome.REFUSE, "TESTED", origin=origin, mode=mode)


def hour(op: Op, number: int) -> Compare:
    return Compare("hour", FactType.INTEGER, op, Literal(number), SPAN)


def items(number: int) -> Compare:
    return Compare("metadata.items", FactType.INTEGER, Op.EQUALS, Literal(number), SPAN)


def assert_agrees(rule_set: RuleSet, *transactions: Facts) -> None:
    compiled = compile_rule_set(rule_set)
    lists = lists_of(rule_set)
    for facts in transactions:
        assert compiled.find_matches(facts, lists) == reference.find_matches(rule_set, facts, lists), facts


# ---- agreement --------------------------------------------------------------------------------------


@thorough
@given(strategies.rule_sets(), st.lists(strategies.facts(), min_size=1, max_size=6))
def test_online_agrees_with_the_law(rule_set: RuleSet, transactions: list[Facts]) -> None:
    assert_agrees(rule_set, *transactions)


@brief
@given(
    strategies.conditions(60),
    strategies.conditions(60),
    strategies.declared_lists(),
    st.lists(strategies.facts(), min_size=1, max_size=4),
)
def test_online_agrees_on_large_conditions(
    when: Condition, unless: Condition, lists: dict[ListName, DeclaredList], transactions: list[Facts]
) -> None:
    found = replace(rule("large", when), unless=unless, if_unknown=Outcome.CHALLENGE)
    assert_agrees(make_rule_set([found], lists), *transactions)


@brief
@given(strategies.rule_sets())
def test_the_check_at_load_passes(rule_set: RuleSet) -> None:
    """The empty transaction at least; never more than the bound."""
    checked = selfcheck.check_agreement(rule_set, compile_rule_set(rule_set))
    assert 1 <= checked <= selfcheck.MAX_TRANSACTIONS


# ---- the check at load ------------------------------------------------------------------------------


def test_the_check_at_load_shows_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that takes "over" for "at least" is found out on the figure itself, and the facts are shown."""
    figures = MoneyFigures((("EUR", 9_000), ("TND", 100_000)))
    rule_set = make_rule_set([rule("above", Compare("amount", FactType.MONEY, Op.OVER, figures, SPAN))])
    monkeypatch.setitem(atoms._OPERATORS, Op.OVER, ">=")
    expected = r"for amount = 90\.00 EUR it finds above \(refuse\), but what matches is nothing"
    with pytest.raises(BackendFault, match=expected):
        selfcheck.check_agreement(rule_set, compile_rule_set(rule_set))


def test_the_check_at_load_knows_what_it_proved() -> None:
    rule_set = make_rule_set([rule("only-here", All((hour(Op.OVER, 3), Not(hour(Op.OVER, 5), SPAN)), SPAN))])
    other_constants = make_rule_set([rule("elsewhere", All((hour(Op.OVER, 7), Not(hour(Op.OVER, 9), SPAN)), SPAN))])
    compiled = compile_rule_set(rule_set)
    assert not selfcheck.is_proven(compiled)
    selfcheck.check_agreement(rule_set, compiled)
    assert selfcheck.is_proven(compile_rule_set(other_constants))


@brief
@given(strategies.rule_sets())
def test_the_check_at_load_is_the_same_every_time(rule_set: RuleSet) -> None:
    lists = lists_of(rule_set)
    once = list(selfcheck.boundary_transactions(rule_set, lists))
    assert once == list(selfcheck.boundary_transactions(rule_set, lists))


# ---- limits of the core -----------------------------------------------------------------------------


def test_five_hundred_rules_agree_also_when_all_match() -> None:
    rules = [rule(f"r{n:03}", Compare("hour", FactType.INTEGER, Op.AT_LEAST, Literal(n), SPAN)) for n in range(500)]
    rule_set = make_rule_set(rules)
    assert len(compile_rule_set(rule_set).forms) > 1
    assert_agrees(rule_set, {"hour": 0}, {"hour": 250}, {"hour": 499}, {"hour": 1000}, {})


def test_five_hundred_mixed_rules_agree() -> None:
    dice = random.Random(7)

    def condition(depth: int) -> Condition:
        kind = dice.randrange(5)
        if not depth or kind == 4:
            fact = dice.choice(["hour", "attempts_per_card_1h", "metadata.items"])
            return Compare(fact, FactType.INTEGER, dice.choice(list(Op)), Literal(dice.randrange(40)), SPAN)
        parts = tuple(condition(depth - 1) for _ in range(dice.randrange(1, 4)))
        match kind:
            case 0 | 1:
                return All(parts, SPAN)
            case 2:
                return Any(parts, SPAN)
            case _:
                return Not(parts[0], SPAN)

    rules = [
        replace(
            rule(f"r{n:03}", condition(3), origin=dice.choice(["platform", strategies.MERCHANT])),
            if_unknown=dice.choice([None, Outcome.CHALLENGE]),
            unless=dice.choice([None, condition(1)]),
            mode=dice.choice([Mode.LIVE, Mode.LIVE, Mode.SHADOW, Mode.OFF]),
        )
        for n in range(500)
    ]
    facts = ["hour", "attempts_per_card_1h", "metadata.items"]
    transactions = [{name: dice.randrange(40) for name in facts if dice.random() < 0.8} for _ in range(50)]
    assert_agrees(make_rule_set(rules), *transactions)


WIDE_AND_DEEP: dict[str, Callable[[], Condition]] = {
    "any of 400": lambda: Any(tuple(items(n) for n in range(400)), SPAN),
    "all of 400": lambda: All(tuple(Not(items(n), SPAN) for n in range(400)), SPAN),
    "all of 30 anys": lambda: All(
        tuple(Any((hour(Op.AT_LEAST, n), items(n), hour(Op.UNDER, 20)), SPAN) for n in range(30)), SPAN
    ),
    "any of 30 alls": lambda: Any(
        tuple(All((hour(Op.AT_LEAST, n), Not(items(n), SPAN)), SPAN) for n in range(30)), SPAN
    ),
    "100 deep": lambda: nested(100),
    "100 deep, negated": lambda: Not(nested(101), SPAN),
}


def nested(depth: int) -> Condition:
    found: Condition = hour(Op.OVER, 5)
    for level in range(depth):
        kind = All if level % 2 else Any
        found = kind((found, hour(Op.AT_MOST, level % 24), items(level)), SPAN)
    return found


@pytest.mark.parametrize("name", WIDE_AND_DEEP)
def test_wide_and_deep_conditions_neither_explode_nor_crash(name: str) -> None:
    rules = [replace(rule(f"r{n}", WIDE_AND_DEEP[name]()), if_unknown=Outcome.CHALLENGE) for n in range(3)]
    transactions: list[Facts] = [{"hour": h, "metadata.items": n} for h in (0, 5, 6, 23) for n in (0, 29, 399, 400)]
    began = time.perf_counter()
    assert_agrees(make_rule_set(rules), *transactions, {}, {"hour": 3}, {"metadata.items": 3})
    assert time.perf_counter() - began < 5  # 2 to the power of 30 firings would take hours


@brief
@given(st.lists(strategies.conditions(20), min_size=1, max_size=40))
def test_no_form_exceeds_what_the_core_holds(conditions: list[Condition]) -> None:
    plans, _ = forms.plan_forms([rule(f"r{n}", when) for n, when in enumerate(conditions)])
    for form in plans:
        assert len(form.rules) <= forms.MAX_RULES
        for found in form.rules:
            assert lowering.count_paths(found.expression) <= lowering.MAX_PATHS
            assert lowering.count_operators(found.expression) <= lowering.MAX_OPERATORS
        everything = durable_core.MESSAGE_HEAD + "".join(f',"{name}":1' for name in form.properties.values()) + "}"
        if len(form.properties) < forms.MAX_STACK:
            compiled = durable_core.CompiledForm(form.text)
            assert set(compiled.fire(everything)) == set(forms.RULE_NAMES[: len(form.rules)])


def test_what_follows_in_a_conjunction_is_sent_only_where_its_first_test_holds() -> None:
    """`items` 2 is asked by an own rule too, so it is always sent; `items` 1 only below its guard."""
    guard = hour(Op.OVER, 5)
    rules = [
        rule("a", All((guard, items(1)), SPAN)),
        rule("b", All((guard, items(2)), SPAN)),
        rule("c", items(2)),
    ]
    compiled = compile_rule_set(make_rule_set(rules))
    ((evaluate, *_),) = compiled._listeners

    def sent(facts: Facts) -> int:
        return evaluate(facts, lists_of(compiled.rule_set)).bit_count()

    assert sent({"hour": 6, "metadata.items": 1}) == 2
    assert sent({"hour": 5, "metadata.items": 1}) == 0
    assert sent({"hour": 6, "metadata.items": 2}) == 2
    assert sent({"hour": 5, "metadata.items": 2}) == 1


def test_names_that_the_core_takes_for_one_are_refused() -> None:
    forms.check_no_collision(f"{letter}{n}" for letter in "tfnpu" for n in range(1_000))
    assert forms.hash_name("costarring") == forms.hash_name("liquid")
    with pytest.raises(BackendFault, match="takes the properties liquid and costarring for one"):
        forms.check_no_collision(["costarring", "liquid"])


# What the core does beyond its limits: the reason for the bounds in lowering.py. In a process of its own, for
# some of it ends in a segmentation fault.

CORE = """
import json, durable_rules_engine as core
def fire(rules, message):
    handle = core.create_ruleset("x", json.dumps(rules))
    answer, state = core.assert_fact(handle, json.dumps({"id": "0", "sid": "0", **message}))
    names, fired = [], core.start_action_for_state(handle, state)[1] if answer == 0 else None
    while fired:
        names.append(next(iter(json.loads(fired))))
        fired = core.complete_and_start_action(handle, state)
    return names
"""

BEYOND = {
    "64 equalities on one stack": ('fire({f"r{n}": rule(n) for n in range(64)}, facts(64))', "64 fired"),
    "65 equalities on one stack": ('fire({f"r{n}": rule(n) for n in range(65)}, facts(65))', "error code: 303"),
    "253 properties": ("fire({'r': rule(0)}, facts(252))", "1 fired"),
    "255 properties": ("fire({'r': rule(0)}, facts(253))", "error code: 302"),
    "two true branches": ('fire({"r": {"all": [{"m": {"$or": [{"a0": 1}, {"a1": 1}]}}]}}, facts(2))', "2 fired"),
    "15 operators": ("fire({'r': tower(15)}, facts(17))", "fired"),
    "16 operators": ("fire({'r': tower(16)}, facts(17))", "error code: 113"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_the_core_does_at_its_limits(name: str) -> None:
    call, expected = BEYOND[name]
    helpers = """
def rule(n): return {"all": [{"m": {f"a{n}": 1}}]}
def facts(n): return {f"a{i}": 1 for i in range(n)}
def tower(n):
    found = {"a0": 1}
    for level in range(n):
        found = {"$and" if level % 2 else "$or": [{f"a{level + 1}": 1}, found]}
    return {"all": [{"m": found}]}
"""
    found = run_python(f"{CORE}{helpers}\ntry:\n print(len({call}), 'fired')\nexcept Exception as e:\n print(e)")
    assert expected in found.stdout


def test_a_state_that_never_fired_cannot_be_deleted_safely() -> None:
    """Why every form has a probe rule: `delete_state` frees a pointer that only the first action initialises.

    Whether it crashes depends on what the memory held before, so that the probe is checked instead.
    """
    form = durable_core.CompiledForm('{"0":{"all":[{"m":{"t0":1}}]},' + durable_core.PROBE_RULE + "}")
    assert form.fire('{"id":"0","sid":"0","q9":1}') == []
    assert form.is_compiled
    without_probe = durable_core.CompiledForm('{"0":{"all":[{"m":{"t0":1}}]}}')
    with pytest.raises(BackendFault, match="probe"):
        without_probe.fire('{"id":"0","sid":"0","t0":1}')


def test_an_entry_that_holds_a_value_is_noted_where_somebody_wants_to_know() -> None:
    """Also one that is always in force, which is not sought otherwise; not one whose time is over."""
    name = ListName("allowed_ip_countries")
    entries = (ListEntry("TN"), ListEntry("FR", expires_us=5), ListEntry("DE", expires_us=50))
    declared = {name: DeclaredList(name, ListKind.COUNTRY, entries=entries)}
    rule_set = make_rule_set([rule("abroad", Not(InList("ip_country", name, SPAN), SPAN))], declared)
    compiled, indexes = compile_rule_set(rule_set), build_indexes(declared)
    for country, matches, noted in (("TN", 0, 1), ("FR", 1, 0), ("DE", 0, 1), ("US", 1, 0)):
        for hits in (None, list[Hit]()):
            lists = ListsAsOf(indexes, 10, hits=hits)
            assert len(compiled.find_matches({"ip_country": country}, lists)) == matches
            assert hits is None or [hit.entry.value for hit in hits] == [country] * noted


# ---- remembered answers -----------------------------------------------------------------------------


def core_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that reach the core from here on."""
    asked: list[str] = []
    real = CORE_MODULE.assert_fact

    def assert_fact(handle: int, message: str) -> object:
        asked.append(message)
        return real(handle, message)

    monkeypatch.setattr(CORE_MODULE, "assert_fact", assert_fact)
    return asked


def test_the_core_is_asked_once_for_each_set_of_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    rule_set = make_rule_set([rule("a", hour(Op.OVER, 5)), rule("b", hour(Op.OVER, 9)), rule("c", items(1))])
    lists = lists_of(rule_set)
    compiled = compile_rule_set(rule_set, FormCache())
    compiled.find_matches({"metadata.items": 1}, lists)
    asked = core_calls(monkeypatch)
    for number, answer in ((6, ["a"]), (7, ["a"]), (10, ["a", "b"]), (6, ["a"]), (3, []), (11, ["a", "b"])):
        assert [match.rule.id for match in compiled.find_matches({"hour": number}, lists)] == answer
    assert len(asked) == 2
    compiled.find_matches({"hour": 6}, lists, ask=True)
    assert len(asked) == 3


def test_the_check_at_load_asks_the_core_about_every_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a merchant with the same shape of rules asked before."""
    rules = [rule("a", hour(Op.OVER, 5)), rule("b", hour(Op.OVER, 9))]
    held = [compile_rule_set(make_rule_set(rules)) for _ in range(2)]
    selfcheck.check_agreement(held[0].rule_set, held[0])
    asked = core_calls(monkeypatch)
    selfcheck.check_agreement(held[1].rule_set, held[1])
    assert len(asked) >= 2


def test_answers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_core, "MAX_ANSWERS", 4)
    rule_set = make_rule_set([rule(f"r{n}", hour(Op.OVER, n)) for n in range(10)])
    compiled = compile_rule_set(rule_set, FormCache())
    for number in [*range(11), *range(11)]:
        found = compiled.find_matches({"hour": number}, lists_of(rule_set))
        assert [match.rule.id for match in found] == [f"r{n}" for n in range(number)]
        assert len(compiled.forms[0].answers) <= 4


# ---- memory and threads -----------------------------------------------------------------------------


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=environment
    )


def test_memory_is_flat_over_compile_fire_release() -> None:
    """300 cycles of 5 rules would leak 90 MB if the state were not deleted."""
    found = run_python("""
from tests.test_online import *
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def cycle(n):
    rules = [rule(f"r{k}", All((items(k), hour(Op.OVER, n % 7)), SPAN)) for k in range(5)]
    rule_set = make_rule_set(rules)
    compiled = compile_rule_set(rule_set)
    for k in range(5):
        assert len(compiled.find_matches({"metadata.items": k, "hour": 9}, lists_of(rule_set))) == 1
    if n % 2:
        compiled.release()
for n in range(60): cycle(n)
gc.collect(); before = resident()
for n in range(300): cycle(n)
gc.collect(); print((resident() - before) // 1024)
""")
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 4_000  # kB


def test_no_thread_is_started_and_host_is_never_imported() -> None:
    found = run_python("""
import sys, threading
from tests.test_online import *
assert_agrees(make_rule_set([rule("r", hour(Op.OVER, 5))]), {"hour": 6}, {"hour": 5}, {})
print(threading.active_count(), "durable.engine" in sys.modules, "durable" in sys.modules)
""")
    assert found.stdout.split() == ["1", "False", "False"], found.stderr


def test_a_second_thread_is_refused() -> None:
    rule_set = make_rule_set([rule("r", hour(Op.OVER, 5))])
    compiled = compile_rule_set(rule_set)
    assert len(compiled.find_matches({"hour": 6}, lists_of(rule_set))) == 1
    caught: list[BaseException] = []

    def intrude() -> None:
        try:
            compiled.find_matches({"hour": 6}, lists_of(rule_set))
        except BackendFault as fault:
            caught.append(fault)

    intruder = threading.Thread(target=intrude)
    intruder.start()
    intruder.join()
    assert [str(fault) for fault in caught] == [
        "the online backend was called by a second thread; durable_rules is not thread-safe, "
        "so one thread per process calls it"
    ]
    assert len(compiled.find_matches({"hour": 6}, lists_of(rule_set))) == 1


def test_a_form_collected_in_another_thread_is_released_by_the_owner() -> None:
    cache = FormCache()
    rule_set = make_rule_set([rule("r", hour(Op.OVER, 5))])
    held = [compile_rule_set(rule_set, cache)]
    held[0].find_matches({"hour": 6}, lists_of(rule_set))
    gc.collect()
    durable_core.release_unused()
    collector = threading.Thread(target=held.clear)
    collector.start()
    collector.join()
    assert durable_core.release_unused() == 1
    assert len(cache) == 0


# ---- faults -----------------------------------------------------------------------------------------


class FailingCore:
    """The real core, but the named function fails once."""

    def __init__(self, function: str, failure: BaseException | object) -> None:
        self._function = function
        self._failure = failure
        self._core = CORE_MODULE

    def __getattr__(self, name: str) -> object:
        if name != self._function:
            return getattr(self._core, name)

        def fail(*_: object) -> object:
            self._function = ""
            if isinstance(self._failure, BaseException):
                raise self._failure
            return self._failure

        return fail


FAULTS = {
    "assert_fact raises": ("assert_fact", RuntimeError("error code: 303")),
    "assert_fact answers observed": ("assert_fact", (2, 1)),
    "no action where one was promised": ("start_action_for_state", None),
    "the second action raises": ("complete_and_start_action", MemoryError()),
    "an action answers nonsense": ("complete_and_start_action", 7),
    "retract_fact raises": ("retract_fact", RuntimeError("error code: 305")),
    "retract_fact answers deferred": ("retract_fact", (3, 1)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_nothing_stale_is_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next screening compiles anew and sees only its own facts."""
    rule_set = make_rule_set([rule("a", hour(Op.OVER, 5)), rule("b", hour(Op.UNDER, 9)), rule("c", items(1))])
    lists = lists_of(rule_set)
    compiled = compile_rule_set(rule_set, FormCache())
    compiled.find_matches({"hour": 6}, lists)
    with monkeypatch.context() as patched:
        patched.setattr(durable_core, "_core", FailingCore(*FAULTS[name]))
        with pytest.raises(BackendFault):
            compiled.find_matches({"hour": 6}, lists, ask=True)
    assert not compiled.forms[0].is_compiled
    assert not compiled.forms[0].answers
    assert [match.rule.id for match in compiled.find_matches({"metadata.items": 1}, lists)] == ["c"]
    assert [match.rule.id for match in compiled.find_matches({"hour": 6}, lists)] == ["a", "b"]


def test_an_interrupt_between_two_calls_leaves_nothing_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    rule_set = make_rule_set([rule("a", hour(Op.OVER, 5)), rule("b", items(1))])
    compiled = compile_rule_set(rule_set, FormCache())
    compiled.find_matches({"hour": 6}, lists_of(rule_set))
    with monkeypatch.context() as patched:
        patched.setattr(durable_core, "_core", FailingCore("retract_fact", KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            compiled.find_matches({"hour": 6}, lists_of(rule_set), ask=True)
    assert [m.rule.id for m in compiled.find_matches({"metadata.items": 1}, lists_of(rule_set))] == ["b"]


def test_a_message_left_behind_is_noticed_by_the_next() -> None:
    """The message id is constant, so that the core itself answers `observed`."""
    rule_set = make_rule_set([rule("a", hour(Op.OVER, 5))])
    compiled = compile_rule_set(rule_set, FormCache())
    compiled.find_matches({"hour": 6}, lists_of(rule_set))
    handle = compiled.forms[0]._handle
    assert CORE_MODULE.assert_fact(handle, '{"id":"0","sid":"0","t0":1}')[0] == 0
    with pytest.raises(BackendFault, match="answered 2"):
        compiled.find_matches({"hour": 6}, lists_of(rule_set), ask=True)
    assert len(compiled.find_matches({"hour": 6}, lists_of(rule_set))) == 1


def test_a_form_that_keeps_failing_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each abandoned copy keeps its memory, so their number is bounded."""
    form = durable_core.CompiledForm('{"0":{"all":[{"m":{"t0":1}}]}}')  # no probe: fails each time
    created: list[object] = []
    real = CORE_MODULE.create_ruleset

    def create(*given: object) -> object:
        created.append(given)
        return real(*given)

    monkeypatch.setattr(CORE_MODULE, "create_ruleset", create)
    for _ in range(2 * durable_core.MAX_FAULTS):
        with pytest.raises(BackendFault):
            form.fire('{"id":"0","sid":"0","t0":1}')
    assert len(created) == durable_core.MAX_FAULTS


def test_a_live_rule_with_an_unresolved_setting_does_not_compile() -> None:
    unresolved = Compare("amount", FactType.MONEY, Op.OVER, SettingRef("challenge_above", SPAN), SPAN)
    with pytest.raises(BackendFault, match="`challenge_above`"):
        compile_rule_set(make_rule_set([rule("r", unresolved)]))
    off = rule("r", unresolved, mode=Mode.OFF, origin="platform")
    assert_agrees(make_rule_set([off, rule("s", hour(Op.OVER, 5))]), {"hour": 6, "amount": Money(1, "TND")})


# ---- sharing ----------------------------------------------------------------------------------------


def platform_of(merchant: str, minor: int | None, mode: Mode = Mode.LIVE) -> RuleSet:
    """A merchant of the platform; no figure means that the rule that needs one is off."""
    operand = SettingRef("challenge_above", SPAN) if minor is None else MoneyFigures((("TND", minor),))
    above = Compare("amount", FactType.MONEY, Op.OVER, operand, SPAN)
    rules = [
        rule("above", above, origin="platform", mode=Mode.OFF if minor is None else Mode.LIVE),
        rule(
            "night",
            All((hour(Op.UNDER, 6), above), SPAN),
            origin="platform",
            mode=Mode.OFF if minor is None else mode,
        ),
        rule("many", items(3), origin="platform"),
    ]
    return make_rule_set(rules, name=merchant)


def test_merchants_share_the_platform_whatever_they_filled_or_switched() -> None:
    cache = FormCache()
    rule_sets = [
        platform_of("a", 100),
        platform_of("b", 200),
        platform_of("c", 200, Mode.SHADOW),
        platform_of("d", 200, Mode.OFF),
        platform_of("e", None),
    ]
    compiled = [compile_rule_set(rule_set, cache) for rule_set in rule_sets]
    assert len(cache) == 1
    assert len({evaluator.source for one in compiled for evaluator in one._evaluators}) == 3  # a-c, d, e
    facts: Facts = {"amount": Money(150, "TND"), "hour": 5, "metadata.items": 3}
    for rule_set, one in zip(rule_sets, compiled, strict=True):
        assert one.find_matches(facts, lists_of(rule_set)) == reference.find_matches(
            rule_set, facts, lists_of(rule_set)
        )
    found = [[match.rule.id for match in one.find_matches(facts, lists_of(rule_sets[0]))] for one in compiled]
    assert found == [["above", "many", "night"], ["many"], ["many"], ["many"], ["many"]]


def test_the_order_and_names_of_rules_do_not_keep_merchants_from_sharing() -> None:
    cache = FormCache()
    one = make_rule_set([rule("a", items(1)), rule("b", All((items(2), hour(Op.OVER, 3)), SPAN))])
    other = make_rule_set([rule("z", items(7)), rule("c", All((hour(Op.UNDER, 2), items(9)), SPAN))])
    held = [compile_rule_set(rule_set, cache) for rule_set in (one, other)]
    assert len(held) == 2
    assert len(cache) == 1


def test_a_form_goes_with_its_last_rule_set() -> None:
    cache = FormCache()
    rule_set = make_rule_set([rule("a", items(1))])
    one, other = compile_rule_set(rule_set, cache), compile_rule_set(rule_set, cache)
    one.find_matches({"metadata.items": 1}, lists_of(rule_set))
    durable_core.release_unused()
    one.release()
    assert len(cache) == 1
    assert len(other.find_matches({"metadata.items": 1}, lists_of(rule_set))) == 1
    other.release()
    assert len(cache) == 0
