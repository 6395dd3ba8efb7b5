"""The rule files of tests/golden: `<what>.bad.yaml` with the mistakes it shows, and `.good.yaml` without any.

A file stands for `rules/merchants/shop.yaml` unless its first line says `# path: …`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fraudengine.diagnostics import Diagnostic, render_text
from fraudengine.rules.ast import RuleSet
from fraudengine.rules.check import CheckedFile, FileKind, check_text
from fraudengine.rules.link import find_mistakes, link, resolve_extends
from fraudengine.rules.yamldoc import text_for_display

GOLDEN: Final = Path(__file__).parent / "golden"
_MARK: Final = "# path: "


def read_golden(name: str) -> tuple[str, str]:
    """Path and text."""
    text = (GOLDEN / name).read_bytes().decode("utf-8")
    first = text.partition("\n")[0]
    return (first.removeprefix(_MARK) if first.startswith(_MARK) else "rules/merchants/shop.yaml"), text


def checked(name: str) -> CheckedFile:
    file, mistakes = check_text(*read_golden(name))
    assert file is not None, render_all(mistakes, dict([read_golden(name)]))
    return file


def link_text(path: str, text: str) -> tuple[RuleSet | None, tuple[Diagnostic, ...]]:
    """What a text comes to over the good platform file and shared list."""
    file, mistakes = check_text(path, text)
    if file is None or file.kind is FileKind.SHARED_LIST:
        return None, mistakes
    platform, shared = checked("platform.good.yaml"), checked("mail_risks.good.yaml")
    parents = resolve_extends(file.name, {"platform": platform, file.name: file})
    if isinstance(parents, list):
        return None, (*mistakes, *parents)
    linked = link(file, parents, {shared.name: shared})
    if isinstance(linked, list):
        return None, (*mistakes, *linked)
    return linked, mistakes


def mistakes_of(path: str, text: str) -> tuple[Diagnostic, ...]:
    """Every mistake of the text over the good platform file and shared list."""
    platform, shared = checked("platform.good.yaml"), checked("mail_risks.good.yaml")
    return find_mistakes(path, text, {"platform": platform}, {shared.name: shared})


def render_all(mistakes: Sequence[Diagnostic], sources: dict[str, str]) -> str:
    """As `fraudengine check` shows them."""
    shown = {path: text_for_display(text) for path, text in sources.items()}
    return "\n\n".join(render_text(item, shown) for item in mistakes) + "\n"


def golden_sources(path: str, text: str) -> dict[str, str]:
    return {**dict([read_golden("platform.good.yaml"), read_golden("mail_risks.good.yaml")]), path: text}
