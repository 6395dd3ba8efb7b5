"""The JSON Schemas: current, valid, true to every sample file, and blind only where a schema must be."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from jsonschema import Draft7Validator

from fraudengine.cli import program
from fraudengine.cli.handbook import KINDS, house_of, make_schema, render
from fraudengine.rules.check_conditions import COMBINATIONS, ORDER_WORDS, TEST_WORDS
from fraudengine.rules.fmt import format_text
from fraudengine.rules.schema import House, read_house

from .golden_files import GOLDEN, checked, read_golden
from .yaml12 import read_as_editor

RULES: Final = Path(__file__).parents[1] / "rules"
MODELINE: Final = "# yaml-language-server: $schema="


@cache
def sample_house() -> House:
    return house_of(RULES)


@cache
def golden_house() -> House:
    return read_house([checked("platform.good.yaml"), checked("mail_risks.good.yaml")])


@cache
def validator(kind: str, golden: bool) -> Draft7Validator:
    schema = make_schema(kind, golden_house() if golden else sample_house())
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def kind_of(path: str) -> str:
    return "test" if path.endswith(".test.yaml") else "list" if "/lists/" in path else "rules"


def mistakes(kind: str, path: str, text: str, *, golden: bool = False) -> list[str]:
    document = read_as_editor(path, text)
    if document is None:
        return ["not YAML that an editor can validate"]
    return [error.message for error in validator(kind, golden).iter_errors(document)]


@pytest.mark.parametrize("kind", KINDS)
def test_committed_schema_is_current(kind: str) -> None:
    """`fraudengine schema --write` brings it up to date."""
    committed = (RULES / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert committed == render(make_schema(kind, sample_house()))


RULE_FILES = sorted(path for path in RULES.rglob("*.yaml") if path.parent.name != "budgets")


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_sample_file_is_valid_and_names_its_schema(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    kind = kind_of(str(path.relative_to(RULES.parent)))  # the checkout itself may be called `lists`
    assert mistakes(kind, str(path), text) == []
    first = text.partition("\n")[0]
    assert first.startswith(MODELINE)
    named = (path.parent / first.removeprefix(MODELINE)).resolve()
    assert named == RULES.resolve() / f"{kind}.schema.json"


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("*.good.yaml")))
def test_good_golden_file_is_valid(name: str) -> None:
    path, text = read_golden(name)
    assert mistakes(kind_of(path), path, text, golden=True) == []


@pytest.mark.parametrize("name", sorted(path.name for path in (GOLDEN / "lint").glob("*.bad.yaml")))
def test_warnings_are_no_business_of_the_schema(name: str) -> None:
    path, text = read_golden(f"lint/{name}")
    assert mistakes(kind_of(path), path, text, golden=True) == []


# What a schema cannot see, and why; every other bad golden file is rejected.
CANNOT_SEE: Final = {
    "between-backwards": "whether a rule can match",
    "duplicate-entry": "equal entries are only warned about, and `tn.example` equals `TN.example`",
    "duplicate-rule": "two items are compared by one of their keys",
    "metadata-redeclared": "what other files declare for metadata is not in the schema",
    "mistyped-entries": "quotes and blanks that are not meant",
    "name-differs": "the name of the file is not in its text",
    "nested-conditions": "a schema does not count levels",
    "never-amount": "whether a rule can match",
    "never-between": "whether a rule can match",
    "never-by-setting": "whether a rule can match",
    "never-choice": "whether a rule can match",
    "never-currency": "whether a rule can match",
    "never-two-countries": "whether a rule can match",
    "never-unknown": "whether a rule can match",
    "never-unless": "whether a rule can match",
    "setting-value-unsuited": "which fact a setting of the house rules meets",
    "test_files/duplicate-test": "two items are compared by one of their keys",
    "test_files/no-amount": "the amount may stand in `transaction` or in the test",
    "unknown-metadata": "metadata is declared in the same file or an inherited one",
    "unknown-metadata-alone": "metadata is declared in the same file or an inherited one",
    "unknown-timezone": "the names of time zones change with the tz database",
}  # fmt: skip

BAD: Final = sorted(
    str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("*.bad.yaml") if path.parent.name != "lint"
)


@pytest.mark.parametrize("name", BAD)
def test_bad_golden_file_is_rejected(name: str) -> None:
    path, text = read_golden(name)
    kind = "test" if name.startswith("test_files/") else kind_of(path)
    rejected = mistakes(kind, path, text, golden=True)
    if name.removesuffix(".bad.yaml") in CANNOT_SEE:
        assert rejected == [], "the schema sees it after all: take it off the list"
    else:
        assert rejected


def test_every_exception_is_a_golden_file() -> None:
    assert {f"{name}.bad.yaml" for name in CANNOT_SEE} <= set(BAD)


# ---- precision: what an editor can complete, and both forms of digits ------------------------------

FORMS: Final = {
    "Norway": ("lists: {blocked_ip_countries: [NO, \"NO\"]}", True),
    "a country that is none": ("lists: {blocked_ip_countries: [UK]}", False),
    "figures": ("settings: {challenge_above: {TND: 300, EUR: 90.5, USD: \"10\"}}", True),
    "an unknown currency": ("settings: {challenge_above: {TDN: 300}}", False),
    "an unknown setting": ("settings: {chalenge_above: {TND: 300}}", False),
    "an own setting": ("settings: {late: {type: integer, help: Late., value: 23}}", True),
    "an own setting of another type": ("settings: {late: {type: integer, value: late}}", False),
    "a BIN that an editor reads as a number": ("lists: {blocked_bins: [407024, {value: 407024}]}", True),
    "a telephone that an editor reads as a number": ("lists: {blocked_phones: [+21671123456]}", True),
    "a national telephone": ("lists: {blocked_phones: [71123456]}", True),
    "a national telephone with blanks": ("lists: {blocked_phones: [71 123-456]}", True),
    "an unknown key of an entry": ("lists: {blocked_ips: [{value: 10.0.0.1, expire: 2027-01-01}]}", False),
    "off": ("change: {prepaid-card: {mode: off}}", True),
    "an unknown house rule": ("change: {prepaid-cards: {mode: off}}", False),
    "a house rule redefined": ("rules: [{id: prepaid-card, when: {hour: 3}, then: refuse}]", False),
    "a counter of the house": ("rules: [{id: x, when: {attempts_per_card_1h: {over: 3}}, then: refuse}]", True),
    "a counter of nobody": ("rules: [{id: x, when: {tries: {over: 3}}, then: refuse}]", False),
    "an own counter": (
        "velocity: {tries: {count: transactions, per: card, within: 1 hour}}\n"
        "rules: [{id: x, when: {any: [{tries: {over: 3}}]}, then: refuse}]", True),
    "a list of another kind": ("rules: [{id: x, when: {card: {in_list: blocked_ips}}, then: refuse}]", False),
    "an own list": ("rules: [{id: x, when: {card: {in_list: own_cards}}, then: refuse}]", True),
    "an ECI in digits": ("rules: [{id: x, when: {eci: 05}, then: refuse}]", True),
    "true": ("rules: [{id: x, when: {card_expired: true}, then: refuse, final: true}]", True),
    "final without refuse": ("rules: [{id: x, when: {card_expired: true}, then: accept, final: true}]", False),
    "a fact that is always known": ("rules: [{id: x, when: {amount: unknown}, then: refuse}]", False),
}  # fmt: skip


@pytest.mark.parametrize(("text", "valid"), FORMS.values(), ids=FORMS)
def test_form(text: str, valid: bool) -> None:
    found = mistakes("rules", "x.yaml", f"merchant: x\nextends: platform\n{text}\n")
    assert (found == []) is valid, found


def test_schema_knows_every_word_of_the_grammar() -> None:
    definitions = make_schema("rules", sample_house())["$defs"]
    assert isinstance(definitions, dict)
    words = set(definitions["test_amount"]["anyOf"][-1]["properties"])
    words |= set(definitions["test_card"]["anyOf"][-1]["properties"])
    words |= set(definitions["test_card_bin"]["anyOf"][-1]["properties"])
    assert words == {*TEST_WORDS, *ORDER_WORDS}
    assert set(COMBINATIONS) <= set(definitions["condition"]["properties"])


def test_new_merchant_starts_with_its_schema_in_canonical_form(tmp_path: Path) -> None:
    directory = tmp_path / "rules"
    shutil.copytree(RULES, directory)
    runner = CliRunner()
    assert runner.invoke(program, ["new", "merchant", "fresh", "--rules", str(directory)]).exit_code == 0
    for name, kind in (("fresh.yaml", "rules"), ("fresh.test.yaml", "test")):
        text = (directory / "merchants" / name).read_text(encoding="utf-8")
        assert text.startswith(f"{MODELINE}../{kind}.schema.json\n")
        assert mistakes(kind, name, text) == []
        assert format_text(name, text) == text
