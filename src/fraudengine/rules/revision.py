"""The rule texts of a revision, as the decision log keeps them -> the rule set that was in force then."""

from __future__ import annotations

from collections.abc import Iterable

from ..diagnostics import Diagnostic, RuleFilesRefused, Span
from .ast import RuleSet
from .check import CheckedFile, FileKind, check_text
from .link import link, resolve_extends
from .sourcetext import text_for_display


def read_revision(texts: Iterable[tuple[str, str]]) -> RuleSet:
    """The rule set made from path and text of each file, the rule set's own first, as `RuleSet.sources` has them.

    Raises RuleFilesRefused when this release cannot read what an earlier one could.
    """
    files: dict[str, CheckedFile] = {}
    shared: dict[str, CheckedFile] = {}
    sources: dict[str, str] = {}
    mistakes: list[Diagnostic] = []
    first = ""
    for path, text in texts:
        sources[path] = text_for_display(text)
        checked, found = check_text(path, text)
        if checked is None:
            mistakes += found
        elif checked.kind is FileKind.SHARED_LIST:
            shared[checked.name] = checked
        else:
            first = first or checked.name
            files[checked.name] = checked
    if mistakes or not first:
        nothing = Diagnostic("no-rules", "the revision holds no rule file", Span("revision", 1, 1, 2))
        raise RuleFilesRefused(mistakes or [nothing], sources)
    parents = resolve_extends(first, files)
    linked = parents if isinstance(parents, list) else link(files[first], parents, shared)
    if isinstance(linked, list):
        raise RuleFilesRefused(linked, sources)
    return linked
