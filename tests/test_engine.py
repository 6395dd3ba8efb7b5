"""Faults of the backends: the law decides instead, then the configured outcome; never a silent accept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fraudengine.backends import reference
from fraudengine.backends.online import OnlineRuleSet
from fraudengine.backends.selfcheck import check_agreement
from fraudengine.diagnostics import BackendFault, UnknownMerchant
from fraudengine.engine import Engine, ReadyRuleSet
from fraudengine.facts import Facts
from fraudengine.money import Money
from fraudengine.ready_rules import ReadyRules
from fraudengine.rules.ast import Outcome
from fraudengine.rules.library import Library

from .running import REPOSITORY, copy_rules

FACTS: Facts = {
    "amount": Money(450_000, "TND"),
    "currency": "TND",
    "channel": "ecommerce",
    "three_ds": "none",
    "card_country": "TN",
    "ip_country": "TN",
    "hour": 12,
}


@pytest.fixture(scope="module")
def library() -> Library:
    return Library.load(REPOSITORY / "rules")


@pytest.fixture
def ready(library: Library) -> ReadyRuleSet:
    return Engine().prepare(library.snapshot.rule_set("carthage-market"))


def fail(*_: object) -> None:
    raise BackendFault("broken on purpose")


def test_the_reference_decides_when_the_online_backend_fails(
    ready: ReadyRuleSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    expected = engine.decide(ready, FACTS, ready.lists_as_of(0))
    monkeypatch.setattr(OnlineRuleSet, "find_matches", fail)
    assert engine.decide(ready, FACTS, ready.lists_as_of(0)) == expected
    assert expected.outcome is Outcome.CHALLENGE
    assert (engine.online_faults, engine.reference_faults) == (1, 0)
    assert "the online backend failed on rule set carthage-market" in caplog.text


@pytest.mark.parametrize(
    ("on_failure", "three_ds", "outcome"),
    [
        (Outcome.CHALLENGE, "none", Outcome.CHALLENGE),
        (Outcome.REFUSE, "none", Outcome.REFUSE),
        (Outcome.CHALLENGE, "failed", Outcome.REFUSE),
        (Outcome.CHALLENGE, "rejected", Outcome.REFUSE),
    ],
)
def test_the_configured_outcome_when_both_fail(
    ready: ReadyRuleSet, monkeypatch: pytest.MonkeyPatch, on_failure: Outcome, three_ds: str, outcome: Outcome
) -> None:
    engine = Engine(on_failure=on_failure)
    monkeypatch.setattr(OnlineRuleSet, "find_matches", fail)
    monkeypatch.setattr(reference, "find_matches", fail)
    decision = engine.decide(ready, {**FACTS, "three_ds": three_ds}, ready.lists_as_of(0))
    assert (decision.outcome, decision.code, decision.matches) == (outcome, "ENGINE_FAILURE", ())
    assert engine.reference_faults == 1


def test_an_engine_that_would_accept_on_failure_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="must not accept"):
        Engine(on_failure=Outcome.ACCEPT)


# ---- putting rules in force -----------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Library:
    return Library.load(copy_rules(tmp_path / "rules"))


def edit(library: Library, before: str, after: str) -> None:
    path = library.directory / "merchants" / "carthage-market.yaml"
    path.write_text(path.read_text().replace(before, after))
    assert library.refresh()


def disagree_on(name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the self-check fail for one rule set, as a miscompiled one would."""
    check = check_agreement

    def failing(rule_set: object, compiled: OnlineRuleSet) -> object:
        if compiled.rule_set.name == name:
            raise BackendFault("the backends disagree on amount 300.000 TND")
        return check(compiled.rule_set, compiled)

    monkeypatch.setattr("fraudengine.engine.check_agreement", failing)
    return lambda: monkeypatch.setattr("fraudengine.engine.check_agreement", check)


def test_a_compiled_form_that_disagrees_keeps_the_rules_from_before(
    own: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = ReadyRules(own, Engine())
    good = rules.ready_for("carthage-market")
    mend = disagree_on("carthage-market", monkeypatch)
    edit(own, "{TND: 300}", "{TND: 250}")
    rules.take_up()
    assert rules.ready_for("carthage-market") is good
    (problem,) = rules.problems()
    assert "disagree on amount 300.000 TND; the rules from before stay in force" in problem
    mend()
    edit(own, "{TND: 250}", "{TND: 200}")
    rules.take_up()
    assert rules.ready_for("carthage-market") is not good
    assert rules.problems() == ()


def test_a_compiled_form_that_disagrees_from_the_start_is_refused(
    own: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    disagree_on("carthage-market", monkeypatch)
    rules = ReadyRules(own, Engine())
    with pytest.raises(UnknownMerchant) as caught:
        rules.ready_for("carthage-market")
    assert caught.value.refused
    assert rules.ready_for("medina-topup").rule_set.name == "medina-topup"


def test_what_is_not_prepared_at_once_is_prepared_before_it_decides(own: Library) -> None:
    rules = ReadyRules(own, Engine())
    before = {name: rules.ready_for(name) for name in own.snapshot.merchants}
    platform = own.directory / "platform.yaml"
    platform.write_text(platform.read_text().replace("otherwise: accept", "otherwise: refuse"))
    assert own.refresh()
    rules.take_up(eager=1)
    for name in own.snapshot.merchants:
        assert rules.ready_for(name).rule_set is own.snapshot.rule_set(name)
        assert rules.ready_for(name) is not before[name]


def test_warming_up_ends(own: Library) -> None:
    rules = ReadyRules(own, Engine())
    assert not rules.warm_up()
    platform = own.directory / "platform.yaml"
    platform.write_text(platform.read_text().replace("otherwise: accept", "otherwise: refuse"))
    assert own.refresh()
    rules.take_up(eager=1)
    assert [rules.warm_up() for _ in range(5)] == [True] * 4 + [False]
