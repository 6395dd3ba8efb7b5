"""The report of a replay: one HTML file that needs nothing else, for those who decide on the candidate.

The page holds its style and a small script and may load nothing (its content security policy says so), so it can be
mailed, kept with a merge request, printed, or opened where there is no network. Equal results give equal bytes: no
clock is read, and the time that a replay took is left out. Long tables are cut at `SHOWN` rows; exports have all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Final, TypeAlias

from . import report_rows, report_sections
from .atomic import replaced_file
from .figures import Cross, all_sums
from .report_html import text
from .report_sections import headline, tiles, warnings_of
from .result import ReplayResult

Section: TypeAlias = tuple[str, str, Callable[[ReplayResult, Cross], str]]

SECTIONS: Final[tuple[Section, ...]] = (
    ("flow", "Flow", report_sections.flow),
    ("time", "Over time", report_sections.over_time),
    ("amounts", "Amounts", report_sections.amounts),
    ("labels", "Labels", report_sections.by_label),
    ("merchants", "Merchants", report_sections.by_merchant),
    ("rules", "Rules", report_rows.rules),
    ("flips", "Payments", report_rows.flips),
    ("others", "More", report_rows.others),
    ("limits", "Limits", report_rows.limits),
    ("run", "The run", report_rows.run),
)
"""Name, title and maker of each; an empty text means there is nothing to say."""


def write_report(result: ReplayResult, path: Path) -> None:
    """Writes the page; a file of that name is replaced only by a whole one. Raises OSError."""
    with replaced_file(path) as draft:
        draft.write_text(report_page(result), encoding="utf-8", newline="\n")


def report_page(result: ReplayResult) -> str:
    """The whole page."""
    style, script = _resource("report.css"), _resource("report.js")
    cross = all_sums(result)
    made = [(name, title, make(result, cross)) for name, title, make in SECTIONS]
    shown = [(name, title, body) for name, title, body in made if body]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in shown)
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:"
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>Replay: {text(result.summary.candidate)} against {text(result.summary.champion)}</title>\n"
        f"<style>{style}</style></head>\n<body>\n"
        f"<header>{headline(result, cross)}</header>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f"<main>{warnings_of(result)}{tiles(result, cross)}\n"
        + "\n".join(body for _, _, body in shown)
        + "\n</main>\n<footer>Amounts are in the currency of the payment; days are UTC."
        " Made by fraudengine replay.</footer>\n"
        f"<script>{script}</script>\n</body></html>\n"
    )


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
