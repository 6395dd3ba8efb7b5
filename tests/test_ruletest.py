"""`fraudengine test`: what test files may say, how they run on every backend, and what a failure tells."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudengine.assembly import open_data
from fraudengine.backends.online import compile_rule_set
from fraudengine.config import read_configuration
from fraudengine.decision import Match, decide
from fraudengine.diagnostics import RuleFilesRefused
from fraudengine.engine import Engine, ReadyRuleSet
from fraudengine.enrich import Enricher
from fraudengine.facts import CATALOGUE, Facts, FactType, MerchantId, Transaction
from fraudengine.lists import ListsAsOf, build_indexes
from fraudengine.money import Money
from fraudengine.rules.ast import Outcome, RuleSet
from fraudengine.rules.counters import Counter, Measure
from fraudengine.rules.library import Library
from fraudengine.ruletest import BACKENDS, RuleTest, RuleTestResult, read_tests, run_test
from fraudengine.ruletest.junit import junit_xml
from fraudengine.ruletest.running import one_by_one
from fraudengine.screening import Screened
from tests import strategies
from tests.command_line import REPOSITORY, run, sample_rules, write_rules

PLATFORM = """\
rule_set: platform
settings:
  challenge_above: {type: money}
  refuse_above: {type: money}
lists:
  blocked_ip_countries: {of: country}
  allowed_card_countries: {of: country}
  trusted_customers: {of: customer}
rules:
  - id: above
    when: {amount: {over: $challenge_above}}
    if_unknown: challenge
    then: challenge
    reason: AMOUNT_NEEDS_3DS
  - id: far-above
    when: {amount: {over: $refuse_above}}
    then: refuse
    reason: AMOUNT_TOO_HIGH
  - id: blocked-country
    when: {ip_country: {in_list: blocked_ip_countries}}
    then: refuse
    reason: IP_COUNTRY_BLOCKED
  - id: foreign-card
    when: {card_country: {not_in_list: allowed_card_countries}}
    then: refuse
    reason: CARD_COUNTRY_NOT_ALLOWED
"""
SHOP = """\
merchant: shop
extends: platform
settings: {challenge_above: {TND: 300}}
lists: {blocked_ip_countries: [RU]}
rules:
  - id: night
    when: {hour: {between: [1, 4]}}
    unless: {customer: {in_list: trusted_customers}}
    then: challenge
    reason: UNUSUAL_HOUR
  - id: on-trial
    mode: shadow
    when: {ip_country: FR}
    then: refuse
    reason: TRIED_OUT
"""
HEAD = "merchant: shop\ntransaction: {amount: 50 TND, ip_country: TN, at: 2026-11-23T12:00:00+01:00}\ntests:\n"


@pytest.fixture(scope="module")
def rule_set(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    directory = write_rules(tmp_path_factory.mktemp("rules"), platform=PLATFORM, merchants__shop=SHOP)
    return Library.load(directory).snapshot.rule_set("shop")


@pytest.fixture(scope="module")
def ready(rule_set: RuleSet) -> ReadyRuleSet:
    return Engine().prepare(rule_set)


@pytest.fixture(scope="module")
def enricher() -> Enricher:
    return Enricher(open_data(read_configuration()))


def read_shop_tests(text: str, rule_set: RuleSet) -> tuple[RuleTest, ...]:
    return read_tests("shop.test.yaml", HEAD + indent(text, "  "), rule_set)


def result_of(test: str, ready: ReadyRuleSet, enricher: Enricher) -> RuleTestResult:
    (read,) = read_shop_tests(test, ready.rule_set)
    return run_test(read, ready, Engine(), enricher)


# ---- what a test may give and expect --------------------------------------------------------------


@pytest.mark.parametrize(
    "test",
    [
        pytest.param("- {name: a, expect: accept}", id="outcome-alone"),
        pytest.param("- {name: a, expect: {outcome: accept, rule: none, matches: [], reasons: []}}", id="nothing"),
        pytest.param("- {name: a, given: {amount: 300 TND}, expect: accept}", id="at-the-figure"),
        pytest.param(
            "- {name: a, given: {amount: 300.001 TND}, expect: {outcome: challenge, rule: above}}",
            id="one-millime-over",
        ),
        pytest.param(
            "- {name: a, given: {amount: 1 EUR}, expect: {reason: AMOUNT_NEEDS_3DS, matches: [above]}}",
            id="no-figure",
        ),
        pytest.param(
            "- {name: a, given: {ip_country: FR}, expect: {outcome: accept, matches: [on-trial]}}", id="shadow"
        ),
        pytest.param(
            "- {name: a, given: {ip_country: RU, amount: 301 TND},"
            " expect: {reason: IP_COUNTRY_BLOCKED, reasons: [AMOUNT_NEEDS_3DS, IP_COUNTRY_BLOCKED]}}",
            id="reasons-of-all-matches",
        ),
        pytest.param("- {name: a, given: {ip_country: unknown}, expect: {matches: []}}", id="a-fact-made-unknown"),
        pytest.param("- {name: a, at: 2026-11-23T01:00:00+01:00, expect: {rule: night}}", id="at"),
        pytest.param("- {name: a, now: 2026-11-23T00:00:00Z, expect: {rule: night}}", id="now"),
        pytest.param("- {name: a, given: {at: 2026-11-23T00:00:00Z}, expect: {rule: night}}", id="at-among-facts"),
        pytest.param("- {name: a, given: {hour: 3}, expect: {rule: night}}", id="a-derived-fact"),
        pytest.param(
            "- name: a\n  given: {hour: 3, customer: c-1}\n  lists: {trusted_customers: [c-1]}\n  expect: accept",
            id="list-entry",
        ),
        pytest.param(
            "- name: a\n  given: {hour: 3, customer: c-1}\n"
            "  lists: {trusted_customers: [{value: c-1, expires: 2026-11-23}]}\n  expect: {rule: night}",
            id="expired-list-entry",
        ),
        pytest.param(
            "- name: a\n  given: {amount: 301 TND, card_brand: visa}\n"
            "  three_ds: {status: Y, eci: '05', version: 2.2.0}\n"
            "  expect: {outcome: accept, reason: THREE_DS_AUTHENTICATED, rule: above}",
            id="authenticated",
        ),
        pytest.param("- {name: a, three_ds: N, expect: {outcome: refuse, rule: none}}", id="failed-3ds"),
        pytest.param(
            "- name: a\n  given: {amount: 301 TND}\n  three_ds: Y\n  earlier: {amount: 300 TND}\n"
            "  expect: challenge",
            id="result-of-a-smaller-amount",
        ),
    ],
)
def test_passes(test: str, ready: ReadyRuleSet, enricher: Enricher) -> None:
    assert result_of(test, ready, enricher).failures == ()


def test_at_top_is_the_time_of_every_test_that_gives_none(rule_set: RuleSet) -> None:
    text = (
        "merchant: shop\nnow: 2026-11-23T02:00:00Z\ntransaction: {amount: 1 TND}\ntests:\n"
        "  - {name: a, expect: accept}\n  - {name: b, at: 2026-11-23T03:00:00Z, expect: accept}\n"
    )
    first, second = read_tests("shop.test.yaml", text, rule_set)
    assert second.at_us - first.at_us == 3_600_000_000


# ---- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "place", "message", "hint"),
    [
        ("- {name: a, expect: accept, expct: x}", "4:31", "unknown key `expct`", "did you mean `expect`?"),
        ("- {name: a, expect: refused}", "4:23", "unknown outcome `refused`", "did you mean `refuse`?"),
        (
            "- {name: a, given: {ip_contry: TN}, expect: accept}",
            "4:23",
            "unknown fact `ip_contry`",
            "did you mean `ip_country`?",
        ),
        (
            "- {name: a, expect: {rule: abov}}",
            "4:30",
            "unknown rule `abov`",
            "did you mean `above`?",
        ),
        (
            "- {name: a, expect: {matches: [above, nigth]}}",
            "4:41",
            "unknown rule `nigth`",
            "did you mean `night`?",
        ),
        (
            "- {name: a, expect: {reason: AMOUNT_NEED_3DS}}",
            "4:32",
            "unknown reason `AMOUNT_NEED_3DS`",
            "did you mean `AMOUNT_NEEDS_3DS`?",
        ),
        (
            "- {name: a, lists: {trusted_customer: [c]}, expect: accept}",
            "4:23",
            "unknown list `trusted_customer`",
            "did you mean `trusted_customers`?",
        ),
        (
            "- {name: a, given: {amount: 1.0001 TND}, expect: accept}",
            "4:31",
            "`1.0001` has too many decimals for TND",
            "TND has 3 decimals, as in 12.500",
        ),
        (
            "- {name: a, at: 2026-11-23T10:15:00Z, now: 2026-11-23T10:15:00Z, expect: accept}",
            "4:41",
            "`at` and `now` are the same instant",
            "keep one of them",
        ),
        (
            "- {name: a, at: yesterday, expect: accept}",
            "4:19",
            "`yesterday` is no date",
            "write `2026-11-02` or `2026-11-02T10:15:00Z`",
        ),
        (
            "- {name: a, three_ds: X, expect: accept}",
            "4:25",
            "`three_ds` has no transStatus",
            "it is one of Y, A, N, R, U, C, D, I",
        ),
        (
            "- {name: a, three_ds: {status: Y, eci: 5}, expect: accept}",
            "4:42",
            "`5` is no ECI",
            "write `05`",
        ),
        (
            "- {name: a, expect: {}}",
            "4:23",
            "the test expects nothing",
            "write `expect: refuse`, or `expect: {outcome: …, reason: …}`",
        ),
        (
            "- {name: a, expect: accept}\n- {name: a, expect: accept}",
            "5:5",
            "two tests are named `a`",
            "give each its own name",
        ),
    ],
)
def test_mistake_has_its_place_and_hint(test: str, place: str, message: str, hint: str, rule_set: RuleSet) -> None:
    with pytest.raises(RuleFilesRefused) as refused:
        read_shop_tests(test, rule_set)
    found = [
        (f"{item.span.line}:{item.span.column}", item.message, item.hint) for item in refused.value.diagnostics
    ]
    assert found == [(place, message, hint)]


def test_every_mistake_of_a_file_is_told_at_once(rule_set: RuleSet) -> None:
    with pytest.raises(RuleFilesRefused) as refused:
        read_shop_tests(
            "- {name: a, expect: acept}\n- {expect: accept}\n- {name: c, given: {x: 1}, expect: {rule: y}}",
            rule_set,
        )
    assert [item.span.line for item in refused.value.diagnostics] == [4, 5, 6, 6]


# ---- what a failure tells -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "message", "because"),
    [
        (
            "- {name: a, given: {amount: 300.001 TND}, expect: accept}",
            "expected accept, got challenge (AMOUNT_NEEDS_3DS)",
            ("decided: above matched: challenge: amount 300.001 TND is 0.001 TND over 300.000 TND",),
        ),
        (
            "- {name: a, given: {amount: 299 TND}, expect: {rule: above}}",
            "expected rule above to decide, got none",
            (
                "no rule decided; `otherwise` is accept",
                "above did not match: amount 299.000 TND is 1.000 TND under 300.000 TND",
            ),
        ),
        (
            "- {name: a, given: {amount: 300 TND}, expect: {reason: AMOUNT_NEEDS_3DS}}",
            "expected reason AMOUNT_NEEDS_3DS, got NO_RULE_MATCHED",
            (
                "no rule decided; `otherwise` is accept",
                "above did not match: amount 300.000 TND is exactly 300.000 TND, not over",
            ),
        ),
        (
            "- {name: a, expect: {rule: far-above}}",
            "expected rule far-above to decide, got none",
            ("no rule decided; `otherwise` is accept", "far-above is off: nobody gave `refuse_above` a value"),
        ),
        (
            "- {name: a, given: {ip_country: RU, amount: 301 TND}, expect: {rule: above}}",
            "expected rule above to decide, got blocked-country",
            (
                "decided: blocked-country matched: refuse: ip_country Russian Federation (RU) is in the list"
                " blocked_ip_countries",
                "above matched: challenge, but blocked-country comes first:"
                " amount 301.000 TND is 1.000 TND over 300.000 TND",
            ),
        ),
        (
            "- {name: a, given: {ip_country: FR}, expect: {matches: []}}",
            "expected other matches; not expected: on-trial",
            (
                "on-trial would have matched: refuse; it is on trial (shadow) and decides nothing:"
                " ip_country France (FR) is France (FR)",
            ),
        ),
        (
            "- name: a\n  given: {hour: 3, customer: c}\n  lists: {trusted_customers: [c]}\n"
            "  expect: {matches: [night]}",
            "expected other matches; missing: night",
            ("night did not match, because of its `unless`: customer c is in the list trusted_customers",),
        ),
        (
            "- {name: a, given: {ip_country: unknown}, expect: {matches: [blocked-country]}}",
            "expected other matches; missing: blocked-country",
            (
                "blocked-country did not match, because what it asks about is unknown: ip_country is unknown,"
                " so it cannot be said whether it is in the list blocked_ip_countries",
            ),
        ),
        (
            "- {name: a, given: {amount: 301 TND}, three_ds: Y, expect: challenge}",
            "expected challenge, got accept (THREE_DS_AUTHENTICATED)",
            (
                "decided: above matched: challenge: amount 301.000 TND is 1.000 TND over 300.000 TND",
                "3-D Secure, authenticated, made accept of challenge",
                "night did not match: hour 12 is 8 over 4",
            ),
        ),
        (
            "- {name: a, given: {amount: 301 TND}, expect: {reasons: [UNUSUAL_HOUR]}}",
            "expected other reasons; missing: UNUSUAL_HOUR; not expected: AMOUNT_NEEDS_3DS",
            ("night did not match: hour 12 is 8 over 4",),
        ),
    ],
)
def test_failure_says_which_condition_decided_and_by_how_much(
    test: str, message: str, because: tuple[str, ...], ready: ReadyRuleSet, enricher: Enricher
) -> None:
    (failure,) = result_of(test, ready, enricher).failures
    assert failure.message == message
    assert tuple(line.partition(" (in ")[0] for line in failure.because) == because


# ---- backends -------------------------------------------------------------------------------------


@pytest.fixture
def broken_backend() -> Iterator[str]:
    """A backend beside the others that never finds a match."""

    def finds_nothing(ready: ReadyRuleSet, facts: Facts, lists: ListsAsOf) -> tuple[Match, ...]:
        if facts["currency"] == "EUR":
            raise ValueError("no euros")
        return ()

    BACKENDS["broken"] = one_by_one(finds_nothing)
    yield "broken"
    del BACKENDS["broken"]


def test_a_backend_that_disagrees_or_fails_fails_the_test(
    broken_backend: str, ready: ReadyRuleSet, enricher: Enricher
) -> None:
    agreeing = result_of("- {name: a, expect: accept}", ready, enricher)
    assert agreeing.passed
    disagreeing = result_of("- {name: a, given: {amount: 301 TND}, expect: challenge}", ready, enricher)
    assert [failure.message for failure in disagreeing.failures] == [
        "the broken backend gives accept (NO_RULE_MATCHED), the reference backend does not;"
        " please report this as a defect"
    ]
    failing = result_of("- {name: a, given: {amount: 1 EUR}, expect: challenge}", ready, enricher)
    assert failing.failures[0].message.startswith("the broken backend failed: no euros")


def test_runs_on_every_backend() -> None:
    assert list(BACKENDS) == ["reference", "online", "columnar"]
    assert run("test", REPOSITORY / "rules", "--format", "json").json["backends"] == list(BACKENDS)


@settings(max_examples=10, deadline=None)
@given(strategies.rule_sets(), st.lists(strategies.facts(), min_size=1, max_size=4))
def test_the_backends_find_the_same_matches(rule_set: RuleSet, payments: list[Facts]) -> None:
    counters = [
        Counter(name, Measure.SUM if kind is FactType.MONEY else Measure.COUNT, ("card",), 3_600_000_000)
        for name, kind in strategies.TYPES.items()
        if name not in CATALOGUE and not name.startswith("metadata.")
    ]
    rule_set = replace(rule_set, velocity={counter.name: counter for counter in counters})
    ready = ReadyRuleSet(rule_set, compile_rule_set(rule_set), build_indexes(rule_set.lists))
    lists = strategies.lists_of(rule_set)
    transaction = Transaction(MerchantId("m"), "T", 0, Money(1, "TND"))
    decision = decide(rule_set, (), three_ds="none", channel="ecommerce")
    screened = [Screened(transaction, ready, {"currency": "TND", **facts}, lists, decision) for facts in payments]
    law, *others = (list(backend(screened)) for backend in BACKENDS.values())
    for found in others:
        assert found == law


# ---- the command ----------------------------------------------------------------------------------

FAILING = HEAD + "  - {name: fails, given: {amount: 301 TND}, expect: accept}\n  - {name: passes, expect: accept}\n"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return write_rules(tmp_path / "rules", platform=PLATFORM, merchants__shop=SHOP, merchants__shop__test=FAILING)


def test_exit_codes(rules: Path) -> None:
    failed = run("test", "--rules", rules)
    assert failed.code == 1
    assert "FAIL shop: fails" in failed.out
    assert f"--> {rules}/merchants/shop.test.yaml:4" in failed.out
    assert failed.out.splitlines()[-1] == "2 tests of 1 merchant: 1 passed, 1 failed"
    assert "\x1b" not in failed.out
    passed = run("test", "--rules", rules, "-k", "PASS")
    assert (passed.code, passed.out) == (0, "1 test of 1 merchant: 1 passed, 0 failed\n")
    assert run("test", "--rules", rules, "-k", "nothing has this").code == 2
    assert run("test", "--rules", rules, "-k", "passes", "--coverage").code == 2
    assert run("test", rules / "no-such-file").code == 2


def test_a_file_with_mistakes_does_not_keep_the_others_from_running(rules: Path) -> None:
    write_rules(rules, merchants__cafe="merchant: cafe\n", merchants__cafe__test="merchant: cafe\ntests: nothing\n")
    ran = run("test", "--rules", rules)
    assert ran.code == 1
    assert "there are no tests" in ran.err
    assert "2 tests of 1 merchant: 1 passed, 1 failed, 1 file not readable" in ran.out
    found = run("test", "--rules", rules, "--format", "json").json
    assert [item["code"] for item in found["mistakes"]] == ["no-tests"]
    assert (found["passed"], found["failed"]) == (1, 1)
    assert found["tests"][0]["failures"][0]["message"] == "expected accept, got challenge (AMOUNT_NEEDS_3DS)"


def test_a_test_file_of_nobody_says_so(rules: Path) -> None:
    write_rules(rules, merchants__ghost__test="merchant: ghost\ntests: [{name: a, expect: accept}]\n")
    ran = run("test", "--rules", rules, "-k", "passes")
    assert ran.code == 1
    assert "unknown merchant `ghost`: no rule file has that name" in ran.err


def test_coverage_names_the_live_rules_that_no_test_makes_match(rules: Path) -> None:
    ran = run("test", "--rules", rules, "--coverage")
    assert ran.out.splitlines()[-6:] == [
        "Live rules that no test of the merchant makes match:",
        "  shop: 2 of 3, with 2 tests",
        "    its own: night",
        "    from platform: blocked-country",
        "1 of 3 live rules of 1 merchant are made to match by a test",
        "no merchant's test makes these of platform match: blocked-country",
    ]
    (shop,) = run("test", "--rules", rules, "--coverage", "--format", "json").json["coverage"]
    assert shop == {
        "merchant": "shop",
        "tests": 2,
        "matched": ["above"],
        "unmatched": [
            {"rule": "blocked-country", "origin": "platform"},
            {"rule": "night", "origin": "shop"},
        ],
    }


# Elements with their attributes and children as Jenkins' junit-10.xsd has them: (attributes, required, children).
JUNIT = {
    "testsuites": ({"name", "time", "tests", "failures", "disabled", "errors"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id"},
        {"name", "tests"},
        {"testcase"},
    ),
    "testcase": (
        {"name", "assertions", "time", "classname", "status"},
        {"name", "classname"},
        {"failure", "error"},
    ),
    "failure": ({"type", "message"}, set(), set()),
    "error": ({"type", "message"}, set(), set()),
}


def test_junit_is_valid(rules: Path, tmp_path: Path) -> None:
    write_rules(rules, merchants__cafe="merchant: cafe\n", merchants__cafe__test="merchant: cafe\ntests: <&>\n")
    file = tmp_path / "results.xml"
    assert run("test", "--rules", rules, "--junit", file).code == 1
    top = ElementTree.parse(file).getroot()
    for element in top.iter():
        allowed, required, children = JUNIT[element.tag]
        assert required <= element.attrib.keys() <= allowed, element.tag
        assert {child.tag for child in element} <= children, element.tag
    assert (top.get("tests"), top.get("failures"), top.get("errors")) == ("3", "1", "1")
    for suite in top:
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert suite.get("errors") == str(len(suite.findall("testcase/error")))
    (failure,) = top.iter("failure")
    assert "amount 301.000 TND is 1.000 TND over 300.000 TND" in (failure.text or "")
    assert f"{rules}/merchants/shop.test.yaml:4" in (failure.text or "")


def test_junit_leaves_out_what_xml_cannot_hold(ready: ReadyRuleSet, enricher: Enricher) -> None:
    result = result_of("- {name: a, expect: accept}", ready, enricher)
    odd = replace(result, test=replace(result.test, name="a\x00b\ufffe<c>"))
    (case,) = ElementTree.fromstring(junit_xml([("f", odd)])).iter("testcase")
    assert case.get("name") == "a?b?<c>"


def test_the_samples_pass_on_every_backend(tmp_path: Path) -> None:
    ran = run("test", "--rules", sample_rules(tmp_path), "--format", "json").json
    assert ran["failed"] == 0
    assert ran["passed"] >= 4 * 6
    assert {Outcome.ACCEPT, Outcome.CHALLENGE, Outcome.REFUSE} == {
        Outcome(test["outcome"]) for test in ran["tests"]
    }
