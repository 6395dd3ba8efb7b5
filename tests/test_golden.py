"""Every mistake that a rule file can hold is shown as its golden file says."""

from __future__ import annotations

import pytest

from .golden_files import GOLDEN, checked, golden_sources, link_text, mistakes_of, read_golden, render_all

BAD = sorted(path.name for path in GOLDEN.glob("*.bad.yaml"))
GOOD = sorted(path.name for path in GOLDEN.glob("*.good.yaml"))


@pytest.mark.parametrize("name", BAD)
def test_bad_file_shows_its_mistakes(name: str, request: pytest.FixtureRequest) -> None:
    path, text = read_golden(name)
    mistakes = mistakes_of(path, text)
    assert mistakes
    rendered = render_all(mistakes, golden_sources(path, text))
    expected = GOLDEN / name.replace(".bad.yaml", ".bad.txt")
    if request.config.getoption("--write-golden"):
        expected.write_text(rendered, encoding="utf-8")
    assert rendered == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GOOD)
def test_good_file_has_no_mistakes(name: str) -> None:
    checked(name)
    _, mistakes = link_text(*read_golden(name))
    assert not mistakes


def test_every_golden_text_belongs_to_a_file() -> None:
    texts = {path.name.replace(".bad.txt", ".bad.yaml") for path in GOLDEN.glob("*.bad.txt")}
    assert texts == set(BAD)
