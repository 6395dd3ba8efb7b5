"""The handbook: its tables are current, it names every word of the grammar, and its recipes work as written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from fraudengine import reasons
from fraudengine.cli import MODULES, program
from fraudengine.cli.handbook import house_of
from fraudengine.facts import CATALOGUE, FactType, ListKind
from fraudengine.rules.ast import Mode, Outcome
from fraudengine.rules.check import (
    CHALLENGE_KEYS,
    LIST_KEYS,
    METADATA_KEYS,
    RULE_SET_KEYS,
    SETTING_KEYS,
    SHARED_LIST_KEYS,
)
from fraudengine.rules.check_conditions import COMBINATIONS, TEST_WORDS
from fraudengine.rules.check_lists import ENTRY_KEYS
from fraudengine.rules.check_rules import CHANGE_KEYS, RULE_KEYS
from fraudengine.rules.check_velocity import COUNTER_KEYS
from fraudengine.rules.counters import Among
from fraudengine.rules.fmt import format_text
from fraudengine.rules.handbook import SECTIONS, TEST_WORD_HELP, MissingSection, write_sections
from fraudengine.ruletest.past import HISTORY_KEYS
from fraudengine.ruletest.reading import EXPECT_KEYS, TEST_KEYS, THREE_DS_KEYS, TOP_KEYS

from .test_schema import kind_of, mistakes

RULES: Final = Path(__file__).parents[1] / "rules"
TEXT: Final = (RULES / "README.md").read_text(encoding="utf-8")
BLOCK: Final = re.compile(r"^```yaml\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PARTS: Final = re.split(r"^(?=#{2,3} )", TEXT, flags=re.MULTILINE)
RECIPES: Final = {part.partition("\n")[0].lstrip("# "): part for part in PARTS if re.match(r"### [0-9]+\. ", part)}
CARD: Final = next(part for part in PARTS if part.startswith("## The whole grammar"))
ASKED_FOR: Final = (
    "Refuse cards from these countries",
    "3-D Secure above an amount",
    "Only Tunisian cards",
    "Block this card",
    "Let this customer through",
    "Try a rule without enforcing it",
)


def test_tables_are_current() -> None:
    """`fraudengine docs --write` brings them up to date."""
    assert write_sections(TEXT, house_of(RULES)) == TEXT


def test_stale_table_is_found(tmp_path: Path) -> None:
    shutil.copytree(RULES, tmp_path / "rules")
    handbook = tmp_path / "rules" / "README.md"
    handbook.write_text(TEXT.replace("| `amount` |", "| `sum` |"))
    runner = CliRunner()
    assert runner.invoke(program, ["docs", "--rules", str(tmp_path / "rules")]).exit_code == 1
    assert runner.invoke(program, ["docs", "--write", "--rules", str(tmp_path / "rules")]).exit_code == 0
    assert handbook.read_text() == TEXT


def test_missing_and_unknown_sections_are_found() -> None:
    house = house_of(RULES)
    with pytest.raises(MissingSection, match="<!-- facts -->"):
        write_sections(TEXT.replace("<!-- facts -->", ""), house)
    with pytest.raises(MissingSection, match="`extra`"):
        write_sections(TEXT + "<!-- extra -->\n<!-- end -->\n", house)


def section(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


def test_every_word_of_the_catalogues_has_a_row() -> None:
    house = house_of(RULES)
    wanted = {
        "facts": [*CATALOGUE, "metadata.KEY"],
        "test-words": [*TEST_WORDS, "all", "any", "unknown"],
        "settings": list(house.settings),
        "lists": [*house.lists, *house.shared],
        "list-kinds": [kind.value for kind in ListKind],
        "house-rules": list(house.rules),
        "counters": list(house.counters),
        "among": [one.value for one in Among],
        "reason-codes": list(reasons.CATALOGUE),
        "outcomes": [outcome.value for outcome in Outcome],
        "modes": [mode.value for mode in Mode],
    }
    assert {*wanted, "values"} == set(SECTIONS)
    for name, words in wanted.items():
        rows = re.findall(r"^\| `([^`]+[^`:])` \|", section(name), re.MULTILINE)
        assert set(rows) == set(words), name
    assert len(re.findall(r"^\| [a-z]", section("values"), re.MULTILINE)) == len(FactType) + 1
    assert set(TEST_WORD_HELP) >= {*TEST_WORDS, *COMBINATIONS}


@pytest.mark.parametrize("word", sorted({
    *RULE_SET_KEYS, *SHARED_LIST_KEYS, *CHALLENGE_KEYS, *SETTING_KEYS, *LIST_KEYS, *METADATA_KEYS, *ENTRY_KEYS,
    *RULE_KEYS, *CHANGE_KEYS, *COUNTER_KEYS, *TEST_WORDS, *COMBINATIONS, *TOP_KEYS, *TEST_KEYS, *EXPECT_KEYS,
    *THREE_DS_KEYS, *HISTORY_KEYS, "merchant", "rule_set", "list",
}))  # fmt: skip
def test_card_shows_every_word_of_the_grammar(word: str) -> None:
    assert re.search(rf"(?<![a-z_]){word}:", CARD)


def write_rules(part: str, directory: Path) -> list[Path]:
    """A rule directory with the house rules and the files of a part of the handbook."""
    shutil.copytree(RULES, directory, ignore=lambda _, names: [name for name in names if name == "merchants"])
    (directory / "merchants").mkdir()
    written = []
    for path, text in BLOCK.findall(part):
        written.append(directory / Path(path).relative_to("rules"))
        written[-1].write_text(text, encoding="utf-8")
    return written


@pytest.mark.parametrize("part", [CARD, *RECIPES.values()], ids=["the card", *RECIPES])
def test_recipe_works_as_it_is_written(part: str, tmp_path: Path) -> None:
    directory = tmp_path / "rules"
    rules, tests = write_rules(part, directory)
    runner = CliRunner()
    checked = runner.invoke(program, ["check", str(rules), "--strict", "--as-of", "2026-11-23"])
    assert (checked.exit_code, checked.output) == (0, "2 files checked: no mistakes\n")
    ran = runner.invoke(program, ["test", str(tests)])
    assert ran.exit_code == 0, ran.output
    assert re.fullmatch(r"[1-9][0-9]* tests? of 1 merchant: [1-9][0-9]* passed, 0 failed\n", ran.output)
    for path in (rules, tests):
        text = path.read_text(encoding="utf-8")
        assert format_text(str(path), text) == text
        assert mistakes(kind_of(str(path)), str(path), text) == []


def test_handbook_has_the_recipes_that_were_asked_for() -> None:
    assert len(RECIPES) >= 10
    for wanted in ASKED_FOR:
        assert any(wanted in title for title in RECIPES), wanted


@pytest.mark.parametrize("title", RECIPES)
def test_recipe_is_needed_for_its_test(title: str, tmp_path: Path) -> None:
    """Without what the recipe writes, its own test fails."""
    directory = tmp_path / "rules"
    rules, tests = write_rules(RECIPES[title], directory)
    rules.write_text("merchant: shop\nextends: platform\n")
    ran = CliRunner().invoke(program, ["test", str(tests)])
    assert ran.exit_code == 1, ran.output


def test_every_command_that_the_handbook_names_exists() -> None:
    named = set(re.findall(r"fraudengine ([a-z]+)", TEXT))
    assert named <= set(MODULES)
    assert {"check", "test", "show", "fmt", "fingerprint", "explain", "diff"} <= named
