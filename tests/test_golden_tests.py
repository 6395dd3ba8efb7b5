"""Every mistake that a test file can hold is shown as its golden file says."""

from __future__ import annotations

import pytest

from fraudengine.diagnostics import RuleFilesRefused
from fraudengine.ruletest import read_test_merchant, read_tests

from .golden_files import GOLDEN, link_text, render_all

PATH = "rules/merchants/shop.test.yaml"
CASES = sorted(path.name for path in (GOLDEN / "test_files").glob("*.bad.yaml"))
SHOP = (
    "merchant: shop\nextends: platform\nsettings: {challenge_above: 300 TND}\nlists: {blocked_ip_countries: [RU]}\n"
)


def mistakes_of(text: str) -> str:
    rule_set, mistakes = link_text("rules/merchants/shop.yaml", SHOP)
    assert rule_set is not None, mistakes
    with pytest.raises(RuleFilesRefused) as refused:
        read_tests(PATH, text, rule_set) if read_test_merchant(PATH, text) == "shop" else None
    return render_all(refused.value.diagnostics, {PATH: text})


@pytest.mark.parametrize("name", CASES)
def test_bad_test_file_shows_its_mistakes(name: str, request: pytest.FixtureRequest) -> None:
    rendered = mistakes_of((GOLDEN / "test_files" / name).read_text(encoding="utf-8"))
    expected = GOLDEN / "test_files" / name.replace(".bad.yaml", ".bad.txt")
    if request.config.getoption("--write-golden"):
        expected.write_text(rendered, encoding="utf-8")
    assert rendered == expected.read_text(encoding="utf-8")


def test_golden_files_hold_at_least_sixty_different_mistakes() -> None:
    """A mistake is different when its message is, whatever stands in backticks."""
    import re

    messages = set()
    for text in GOLDEN.rglob("*.bad.txt"):
        for line in text.read_text(encoding="utf-8").splitlines():
            if line.startswith(("error: ", "warning: ")):
                messages.add(re.sub(r"`[^`]*`|[0-9,]+", "…", line))
    assert len(messages) >= 60, len(messages)
