"""`fraudengine new merchant`: a commented start that passes check and test, and never overwrites anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.command_line import run, sample_rules, write_rules


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return sample_rules(tmp_path)


def test_the_start_passes_check_test_and_fmt(rules: Path) -> None:
    description = 'Sells "jasmine": fresh # from \\ Tunis, at 5 % off'
    ran = run("new", "merchant", "jasmine-shop", "--description", description, "--rules", rules)
    assert ran.code == 0, ran.err
    file = rules / "merchants" / "jasmine-shop.yaml"
    tests = rules / "merchants" / "jasmine-shop.test.yaml"
    assert f"wrote {file}\nwrote {tests}\n" in ran.out
    assert run("check", file, tests, "--strict").code == 0, run("check", file, tests, "--strict").out
    assert run("test", file).out == "2 tests of 1 merchant: 2 passed, 0 failed\n"
    assert run("fmt", "--check", file, tests).code == 0
    found = run("show", "jasmine-shop", "--rules", rules, "--format", "json").json
    assert found["description"] == description
    for path, schema in ((file, "rules"), (tests, "test")):
        modeline = path.read_text().splitlines()[0]
        assert modeline == f"# yaml-language-server: $schema=../{schema}.schema.json"
        assert (path.parent / modeline.partition("=")[2]).exists()


def test_every_comment_can_be_taken_into_use(rules: Path) -> None:
    """Taking away the `# ` of every line gives a file without mistakes that fills every setting and list."""
    assert run("new", "merchant", "jasmine-shop", "--rules", rules).code == 0
    file = rules / "merchants" / "jasmine-shop.yaml"
    head, mark, rest = file.read_text().partition("# settings:")
    file.write_text(head + re.sub(r"(?m)^# ", "", mark + rest))
    ran = run("check", file)
    assert (ran.code, "error" in ran.out) == (0, False), ran.out
    found = run("show", "jasmine-shop", "--rules", rules, "--format", "json").json
    assert all(setting["given_at"] for setting in found["settings"].values())
    assert all(declared["given_at"] for name, declared in found["lists"].items())
    assert "large-prepaid" in {rule["id"] for rule in found["rules"]}


def test_nothing_is_overwritten(rules: Path) -> None:
    file = rules / "merchants" / "carthage-market.yaml"
    before = file.read_text()
    ran = run("new", "merchant", "carthage-market", "--rules", rules)
    assert (ran.code, ran.err) == (1, f"fraudengine: {file} exists already; nothing is written\n")
    assert file.read_text() == before
    tests = rules / "merchants" / "half.test.yaml"
    tests.write_text("mine")
    assert run("new", "merchant", "half", "--rules", rules).code == 1
    assert not (rules / "merchants" / "half.yaml").exists()
    assert tests.read_text() == "mine"


@pytest.mark.parametrize("name", ["Jasmine", "jasmine_shop", "-jasmine", "../evil", "a" * 64, "", "platform", "é"])
def test_names_are_those_of_rule_files(name: str, rules: Path) -> None:
    before = sorted(rules.rglob("*"))
    assert run("new", "merchant", "--rules", rules, "--", name).code == 2
    assert sorted(rules.rglob("*")) == before


def test_house_rules_that_challenge_are_what_the_test_expects(tmp_path: Path) -> None:
    platform = (
        "rule_set: platform\nrules:\n  - {id: noon, when: {hour: {between: [12, 13]}}, then: challenge}\n"
        "  - {id: night, when: {hour: 3}, then: refuse}\n"
    )
    rules = write_rules(tmp_path, platform=platform)
    assert run("new", "merchant", "shop", "--rules", rules).code == 0
    assert "expect: challenge\n" in (rules / "merchants" / "shop.test.yaml").read_text()
    assert run("test", "--rules", rules).code == 0


def test_without_house_rules(tmp_path: Path) -> None:
    rules = write_rules(tmp_path, merchants__other="merchant: other\n")
    assert run("new", "merchant", "shop", "--rules", rules).code == 0
    text = (rules / "merchants" / "shop.yaml").read_text()
    assert ("extends" in text, "yaml-language-server" in text) == (False, False)
    assert run("test", "--rules", rules).code == 0


def test_refused_house_rules_and_a_missing_directory(tmp_path: Path) -> None:
    rules = write_rules(tmp_path / "rules", platform="rule_set: platform\nrulez: []\n")
    ran = run("new", "merchant", "shop", "--rules", rules)
    assert (ran.code, "unknown key `rulez`" in ran.err) == (1, True)
    assert not (rules / "merchants").exists()
    assert run("new", "merchant", "shop", "--rules", tmp_path / "nowhere").code == 1
