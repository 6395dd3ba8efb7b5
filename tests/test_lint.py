"""Warnings: each kind with its golden file, none where nothing is wrong, and sound on generated rules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fraudengine.backends import reference
from fraudengine.cli import program
from fraudengine.diagnostics import Diagnostic, Severity
from fraudengine.facts import Facts
from fraudengine.rules.ast import All, Any, Condition, DeclaredList, ListName, Mode, Rule, RuleSet
from fraudengine.rules.check import FileKind, check_text
from fraudengine.rules.checked import in_order
from fraudengine.rules.link import link, resolve_extends
from fraudengine.rules.lint import find_warnings
from fraudengine.rules.lint_pairs import covers, implies

from . import strategies
from .benchmarks.bench_check import check_seconds, make_rules
from .command_line import write_rules
from .golden_files import GOLDEN, checked, golden_sources, read_golden, render_all

AS_OF_US: Final = 1_795_428_900_000_000  # 2026-11-23T10:15:00Z
CASES = sorted(path.name for path in (GOLDEN / "lint").glob("*.bad.yaml"))
RULES = Path(__file__).parents[1] / "rules"


def warnings_of(path: str, text: str) -> tuple[Diagnostic, ...]:
    """What is said of one file without mistakes, over the good platform file and shared list."""
    file, mistakes = check_text(path, text)
    assert file is not None, mistakes
    files = {one.path: one for one in (checked("platform.good.yaml"), checked("mail_risks.good.yaml"), file)}
    by_name = {one.name: one for one in files.values() if one.kind is not FileKind.SHARED_LIST}
    shared = {one.name: one for one in files.values() if one.kind is FileKind.SHARED_LIST}
    rule_sets = {}
    for name, one in by_name.items():
        parents = resolve_extends(name, by_name)
        assert isinstance(parents, tuple)
        linked = link(one, parents, shared)
        assert isinstance(linked, RuleSet), linked
        rule_sets[name] = linked
    found = find_warnings(files, rule_sets, golden_sources(path, text), AS_OF_US)
    return in_order(item for item in found if item.span.path == path)


@pytest.mark.parametrize("name", CASES)
def test_warning_is_shown_as_its_golden_file_says(name: str, request: pytest.FixtureRequest) -> None:
    path, text = read_golden(f"lint/{name}")
    found = warnings_of(path, text)
    assert found
    assert {item.severity for item in found} == {Severity.WARNING}
    rendered = render_all(found, golden_sources(path, text))
    expected = GOLDEN / "lint" / name.replace(".bad.yaml", ".bad.txt")
    if request.config.getoption("--write-golden"):
        expected.write_text(rendered, encoding="utf-8")
    assert rendered == expected.read_text(encoding="utf-8")


NOTHING_WRONG = {
    "thresholds": "{hour: {over: 3}} | challenge || {hour: {over: 8}} | refuse",
    "narrow trust": "{customer: c-1} | accept || {amount: {over: 100 TND}} | refuse",
    "another currency": "{amount: {over: 100 TND}} | refuse || {amount: {over: 200 EUR}} | refuse",
    "overlap": "{card_country: [TN, FR]} | refuse || {card_country: [FR, DE]} | refuse",
    "unknown counts": "{card_country: [TN, FR]} | refuse || {card_country: TN} | refuse, if_unknown: challenge",
    "only without": "{card_country: TN} | refuse, unless: {channel: moto} || {card_country: [TN]} | challenge",
    "shadow": "{card_country: TN} | refuse, mode: shadow || {card_country: TN} | accept",
    "off": "{card_country: TN} | refuse, mode: off || {card_country: TN} | refuse",
    "in a list and not": "{customer: {in_list: trusted_customers}} | accept"
    " || {customer: {not_in_list: trusted_customers}} | refuse",
}  # fmt: skip


def two_rules(said: str) -> str:
    rules = []
    for number, rule in enumerate(said.split(" || ")):
        when, _, then = rule.partition(" | ")
        rules.append(f"  - {{id: rule-{number}, when: {when}, then: {then}}}\n")
    return "merchant: shop\nextends: platform\nrules:\n" + "".join(rules)


@pytest.mark.parametrize("said", NOTHING_WRONG.values(), ids=NOTHING_WRONG)
def test_nothing_is_said_where_nothing_is_wrong(said: str) -> None:
    assert warnings_of("rules/merchants/shop.yaml", two_rules(said)) == ()


# ---- soundness ------------------------------------------------------------------------------------


@st.composite
def likely_implications(draw: st.DrawFn) -> tuple[Condition, Condition]:
    one, other = draw(strategies.conditions()), draw(strategies.conditions())
    span = strategies.SPAN
    return draw(
        st.sampled_from([
            (one, other),
            (All((one, other), span), one),
            (All((other, one), span), Any((one, other), span)),
            (one, Any((other, one), span)),
            (Any((one, All((one, other), span)), span), one),
        ])
    )  # fmt: skip


@given(likely_implications(), strategies.declared_lists(), st.lists(strategies.facts(), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_what_is_called_implied_is(
    pair: tuple[Condition, Condition],
    lists: dict[ListName, DeclaredList],
    several: list[Facts],
) -> None:
    narrow, wide = pair
    assume(implies(narrow, wide))
    held = strategies.lists_of(strategies.make_rule_set([], lists))
    for facts in several:
        if reference.evaluate(narrow, facts, held) is True:
            assert reference.evaluate(wide, facts, held) is True


RULES_IN_FORCE = strategies.rules().filter(lambda rule: rule.mode is not Mode.OFF)


@given(RULES_IN_FORCE, RULES_IN_FORCE, st.booleans(), strategies.declared_lists(), strategies.facts())
@settings(max_examples=100, deadline=None)
def test_rule_that_covers_another_matches_whenever_it_does(
    one: Rule, other: Rule, derive: bool, lists: dict[ListName, DeclaredList], facts: Facts
) -> None:
    if derive:
        other = replace(one, when=All((one.when, other.when), strategies.SPAN), if_unknown=None)
    assume(covers(one, other))
    wide, narrow = (replace(rule, mode=Mode.LIVE) for rule in (one, other))
    held = strategies.lists_of(strategies.make_rule_set([], lists))
    if reference.match_rule(narrow, facts, held) is not None:
        assert reference.match_rule(wide, facts, held) is not None


# ---- the command ----------------------------------------------------------------------------------


def run_check(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(program, ["check", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A house rule set, two merchants, and tests of one of them."""
    (tmp_path / "merchants").mkdir()
    (tmp_path / "platform.yaml").write_text(
        "rule_set: platform\nlists: {blocked: {of: country}}\n"
        "rules:\n  - {id: blocked, when: {ip_country: {in_list: blocked}}, then: refuse}\n"
        "  - {id: expired, when: {card_expired: true}, then: refuse}\n"
        "  - {id: prepaid, mode: off, when: {card_type: prepaid}, then: refuse}\n"
    )
    (tmp_path / "merchants" / "shop.yaml").write_text(
        "merchant: shop\nextends: platform\nchange: {prepaid: {mode: live}}\n"
        "rules:\n  - {id: night, when: {hour: {under: 5}}, then: challenge}\n"
        "  - {id: dawn, when: {hour: 5}, then: challenge}\n"
    )
    (tmp_path / "merchants" / "other.yaml").write_text("merchant: other\nextends: platform\n")
    (tmp_path / "merchants" / "shop.test.yaml").write_text(
        "merchant: shop\ntransaction: {amount: 5 TND}\n"
        "tests:\n  - {name: at night, given: {at: 2026-11-23T03:00:00+01:00}, expect: challenge}\n"
    )
    return tmp_path


def test_rules_that_no_test_makes_match(directory: Path) -> None:
    """Own rules, rules set live by `change`, house rules that could match for somebody: `blocked` is empty."""
    code, output = run_check(directory)
    assert code == 0
    assert "no test of shop makes rule `dawn` match" in output
    assert "no test of shop makes rule `prepaid` match" in output
    assert "no test of any merchant makes rule `expired` match" in output
    assert "`night`" not in output
    assert "`blocked`" not in output
    assert output.endswith("4 files checked: no mistakes, 3 warnings\n")


def test_nothing_is_untested_where_there_are_no_tests(directory: Path) -> None:
    (directory / "merchants" / "shop.test.yaml").unlink()
    assert run_check(directory, "--strict") == (0, "3 files checked: no mistakes\n")


def test_strict_makes_warnings_count(directory: Path) -> None:
    assert run_check(directory, "--strict")[0] == 1


def test_one_merchant_hears_only_of_its_own_files(directory: Path) -> None:
    code, output = run_check(directory / "merchants" / "shop.yaml", "--strict")
    assert code == 1
    assert "platform.yaml:" not in output
    assert output.endswith("2 files checked: no mistakes, 2 warnings\n")
    assert run_check(directory / "merchants" / "other.yaml", "--strict") == (0, "1 file checked: no mistakes\n")


def test_mistake_in_a_test_file_is_found_by_check(directory: Path) -> None:
    tests = directory / "merchants" / "shop.test.yaml"
    tests.write_text(tests.read_text().replace("expect: challenge", "expect: chalenge"))
    code, output = run_check(directory, "--format", "json")
    assert code == 1
    (mistake,) = (item for item in json.loads(output) if item["severity"] == "error")
    assert mistake["code"] == "unknown-outcome"
    assert mistake["path"] == str(tests)
    assert (mistake["line"], mistake["hint"]) == (4, "did you mean `challenge`?")


def test_test_file_of_nobody_is_a_mistake(directory: Path) -> None:
    (directory / "merchants" / "gone.test.yaml").write_text("merchant: gone\ntests: []\n")
    code, output = run_check(directory)
    assert code == 1
    assert "unknown merchant `gone`" in output


def test_annotations_for_code_review(directory: Path) -> None:
    shop = directory / "merchants" / "shop.yaml"
    shop.write_text(shop.read_text().replace("hour: 5", "hour: 25").replace("hour: {under: 5}", "hours: 3"))
    code, output = run_check(directory, "--format", "github")
    assert code == 1
    assert output.splitlines() == [
        f"::error file={shop},line=5,col=24,endColumn=29,title=unknown-fact::unknown fact `hours`"
        " (did you mean `hour`?)",
        f"::error file={shop},line=6,col=29,endColumn=31,title=out-of-range::`25` is out of range (it is 0 to 23)",
    ]


def test_sample_rules_give_no_warnings() -> None:
    code, output = run_check(RULES, "--strict", "--as-of", "2026-11-23")
    files = [path for path in RULES.rglob("*.yaml") if path.parent.name != "budgets"]
    assert (code, output) == (0, f"{len(files)} files checked: no mistakes\n")


def test_expiry_is_judged_by_the_time_that_is_given() -> None:
    code, output = run_check(RULES, "--strict", "--as-of", "2027-02-01")
    assert code == 1
    assert "the list entry `NG` has expired" in output


@pytest.mark.long
@pytest.mark.parametrize("with_tests", [False, True])
def test_thousand_files_are_checked_in_five_seconds(tmp_path: Path, with_tests: bool) -> None:
    directory = tmp_path / "rules"
    make_rules(directory, 1000, with_tests=with_tests)
    assert min(check_seconds(directory) for _ in range(3)) < 5


# ---- over several files ---------------------------------------------------------------------------

HOUSE = """rule_set: platform
lists:
  known_devices: {of: device, help: Devices seen before.}
  allowed_devices: {of: device, help: The only ones.}
rules:
  - id: unknown-device
    description: Nobody has seen the device.
    when: {device: {not_in_list: known_devices}}
    then: refuse
    reason: UNKNOWN_DEVICE
  - id: device-not-allowed
    description: Another device.
    when: {device: {not_in_list: allowed_devices}}
    then: refuse
    reason: UNKNOWN_DEVICE
"""
PLAIN, FILLS = "extends: platform\n", "extends: platform\nlists: {known_devices: [d-1]}\n"


@pytest.mark.parametrize(
    ("merchants", "is_warned"),
    [
        pytest.param([], False, id="a house without merchants"),
        pytest.param([PLAIN], True, id="nobody fills it"),
        pytest.param([PLAIN, PLAIN], True, id="nobody of two fills it"),
        pytest.param([PLAIN, FILLS], False, id="one fills it"),
        pytest.param(["description: Takes nothing of the house.\n"], False, id="one beside the house"),
        pytest.param([PLAIN + "change: {unknown-device: {mode: off}}\n"], True, id="one has it off"),
    ],
)
def test_a_house_rule_that_stops_nobody_of_any_merchant(
    merchants: list[str], is_warned: bool, tmp_path: Path
) -> None:
    write = {f"merchants__m{number}": f"merchant: m{number}\n{text}" for number, text in enumerate(merchants)}
    write_rules(tmp_path / "rules", platform=HOUSE, **write)
    _, output = run_check(tmp_path / "rules", "--format", "json")
    found = [one for one in json.loads(output) if one["code"] == "silent-without-entries"]
    off = "is off for every merchant while the list `known_devices` has no entry, so it stops nobody"
    assert [one["message"] for one in found] == ([f"rule `unknown-device` {off}"] if is_warned else [])
    assert all(one["path"].endswith("platform.yaml") for one in found)
