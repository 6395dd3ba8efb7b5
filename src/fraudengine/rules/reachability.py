"""Rules that can never match (stub until the analysis lands)."""

from __future__ import annotations

from ..diagnostics import Diagnostic
from .ast import Rule


def find_contradiction(rule: Rule) -> Diagnostic | None:
    return None
