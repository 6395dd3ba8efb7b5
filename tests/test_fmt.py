"""The formatter: stable, keeps every comment, never changes what a file means, leaves files with mistakes alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudengine.cli import program
from fraudengine.rules.checked import has_errors
from fraudengine.rules.fmt import CannotFormat, format_text
from fraudengine.rules.fmt_tree import parse_tree
from fraudengine.rules.yamldoc import Node, Scalar, content_digest, read_document

from .fmt_strategies import yaml_texts
from .golden_files import GOLDEN

RULES = Path(__file__).parents[1] / "rules"
SAMPLES = sorted(RULES.rglob("*.yaml"))
TEXTS = [path.read_bytes().decode() for path in [*SAMPLES, *sorted(GOLDEN.rglob("*.yaml"))]]


def read(text: str) -> Node | None:
    """The nodes of a text without mistakes in its YAML."""
    node, mistakes = read_document("x.yaml", text)
    return None if has_errors(mistakes) else node


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_sample_file_is_in_canonical_form(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_text(str(path), text) == text


def keeps_everything(text: str) -> None:
    node = read(text)
    assert node is not None
    formatted = format_text("x.yaml", text)
    again = read(formatted)
    assert again is not None
    assert content_digest(again) == content_digest(node)
    assert sorted(parse_tree(formatted).comments) == sorted(parse_tree(text).comments)
    assert format_text("x.yaml", formatted) == formatted
    assert formatted.endswith("\n")
    assert not re.search(r"\n\n\Z", formatted) or re.search(r"\|.*\+", formatted)


@given(yaml_texts())
@settings(max_examples=250, deadline=None)
def test_generated_text_keeps_its_meaning_and_comments(text: str) -> None:
    if read(text) is not None:
        keeps_everything(text)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_rule_file_keeps_its_meaning_and_comments(data: st.DataObject) -> None:
    """Sample and golden files with lines indented deeper, comments and blank lines put anywhere, lines left out."""
    lines = data.draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(0, len(lines) - 1)))
        match data.draw(st.sampled_from(["comment", "blank", "tail", "leave out", "deeper", "wide", "join"])):
            case "comment":
                lines.insert(at, " " * data.draw(st.integers(0, 12)) + "# a note: {not: yaml}")
            case "blank":
                lines[at:at] = [""] * data.draw(st.integers(1, 3))
            case "tail" if lines:
                lines[at] += "  # why"
            case "leave out" if lines:
                del lines[at]
            case "deeper":
                lines = [re.sub(r"^( +)", r"\1\1", line) for line in lines]
            case "wide" if lines:
                lines[at] = re.sub(r"([{\[,])", r"\1   ", lines[at])
            case "join" if lines:
                lines[at] = re.sub(r", ", ",\n" + " " * 40, lines[at])
                lines = "\n".join(lines).split("\n")
            case _:
                pass
    text = "\n".join(lines) + "\n"
    if not isinstance(read(text), Scalar | None):
        keeps_everything(text)


BEFORE_AND_AFTER = {
    "indentation": ("merchant: shop\nrules:\n- id: a\n  when:\n      hour: 3\n  then: refuse\n",
                    "merchant: shop\nrules:\n  - id: a\n    when:\n      hour: 3\n    then: refuse\n"),
    "spaces in brackets": ("lists: {  a : [ RU,KP ] ,b: [] }\n", "lists: {a: [RU, KP], b: []}\n"),
    "one line that grew": (
        "lists:\n  names: [" + ", ".join(["abcdefghij"] * 11) + "]\n",
        "lists:\n  names:\n" + "    - abcdefghij\n" * 11,
    ),
    "comment in brackets": ("a: [b, # why\n  c]\n", "a:\n  - b  # why\n  - c\n"),
    "comment keeps its column": ("a: b       # why\n", "a: b       # why\n"),
    "comment with one space": ("a: b # why\n", "a: b  # why\n"),
    "comment that ends a block": ("r:\n- a\n# next\nb: c\n", "r:\n  - a\n# next\nb: c\n"),
    "comment inside a block": ("r:\n    - a\n    # - b\nb: c\n", "r:\n  - a\n  # - b\nb: c\n"),
    "blank lines": ("\n\na: b\n\n\n\nc:\n\n  - d\n\n\n", "a: b\n\nc:\n  - d\n"),
    "line ends": ("a: b\r\nc: d\r\n", "a: b\nc: d\n"),
    "no line end": ("a: b", "a: b\n"),
    "quotes": ("a: 'b'\nc: 'it''s'\nd: \"05\"\ne: 'x\"y'\n", 'a: "b"\nc: \'it\'\'s\'\nd: "05"\ne: \'x"y\'\n'),
    "many lines": ("a: >-\n      one\n      two\nb: |\n  x\n\n\nc: d\n",
                   "a: >-\n  one\n  two\nb: |\n  x\n\nc: d\n"),
    "document mark": ("---\na: b\n", "a: b\n"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), BEFORE_AND_AFTER.values(), ids=BEFORE_AND_AFTER)
def test_canonical_form(before: str, after: str) -> None:
    assert format_text("x.yaml", before) == after
    keeps_everything(before)


@pytest.mark.parametrize("text", ["a: [b\n", "a: b\na: c\n", "a: &x b\n", "a:\n\t- b\n", ""])
def test_file_with_mistakes_is_refused(text: str) -> None:
    with pytest.raises(CannotFormat) as refused:
        format_text("x.yaml", text)
    assert refused.value.diagnostics


# ---- the command ----------------------------------------------------------------------------------

UNEVEN = """\
merchant: shop
settings:
    size: {type: integer,value: 3}
rules:
- {id: a, when: {hour: $size}, then: refuse}
"""


def run_fmt(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(program, ["fmt", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "merchants").mkdir()
    (tmp_path / "merchants" / "shop.yaml").write_text(UNEVEN)
    (tmp_path / "merchants" / "even.yaml").write_text("merchant: even\n")
    return tmp_path


def test_check_lists_what_would_change_and_changes_nothing(directory: Path) -> None:
    code, output = run_fmt(directory, "--check")
    assert code == 1
    assert f"would change {directory}/merchants/shop.yaml" in output
    assert "even.yaml" not in output
    assert (directory / "merchants" / "shop.yaml").read_text() == UNEVEN


def test_file_is_replaced_in_one_step_and_then_stays(directory: Path) -> None:
    shop = directory / "merchants" / "shop.yaml"
    shop.chmod(0o640)
    before = shop.stat().st_ino
    assert run_fmt(shop)[0] == 0
    assert shop.stat().st_ino != before
    assert shop.stat().st_mode & 0o777 == 0o640
    assert shop.read_text() == format_text("shop.yaml", UNEVEN)
    assert not list(directory.rglob("*.tmp"))
    assert run_fmt(directory, "--check")[0] == 0


def test_file_with_mistakes_is_left_alone_and_says_so(directory: Path) -> None:
    shop = directory / "merchants" / "shop.yaml"
    wrong = UNEVEN.replace("then: refuse", "then: deny")
    shop.write_text(wrong)
    code, output = run_fmt(directory)
    assert code == 1
    assert shop.read_text() == wrong
    assert "unknown word `deny`" in output
    assert "shop.yaml is left as it is: the file has mistakes" in output
