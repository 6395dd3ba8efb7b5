"""The entries of lists: nodes -> `ListEntry`, typed by the kind of the list."""

from __future__ import annotations

from typing import Final

from ..diagnostics import Severity
from ..facts import ListKind
from . import check_values as values
from .ast import ListEntry
from .check_rules import known_keys, read_text
from .check_values import LIST_READERS, Wrong
from .checked import Mistakes, shown
from .yamldoc import Mapping as MappingNode
from .yamldoc import Node, Scalar, Sequence

MAX_ENTRIES: Final = 10_000
ENTRY_KEYS: Final = ("value", "reason", "ticket", "by", "added", "expires")


def read_entries(node: Node, kind: ListKind, timezone: str, mistakes: Mistakes) -> tuple[ListEntry, ...]:
    """The entries that can be read; a date means midnight in `timezone`."""
    if not isinstance(node, Sequence):
        mistakes.report("not-a-list", "entries are written as a list", node, "write `[A, B]`, or one `- A` a line")
        return ()
    read = LIST_READERS[kind]
    entries: list[ListEntry] = []
    first_of: dict[tuple[str, int | None, int | None], Node] = {}
    for item in node.items:
        entry: ListEntry | None = None
        if isinstance(item, Scalar) and _runs_over_lines(item):
            hint = "begin each line with a dash and a blank, or put a long value into quotes on one line"
            mistakes.report("several-lines", f"the lines of {shown(item.text)} make one entry", item, hint)
        elif isinstance(item, Scalar) and not item.is_empty:
            value = read(item.text)
            if isinstance(value, Wrong):
                mistakes.report(value.code, value.message, item, value.hint)
            else:
                entry = ListEntry(value, source=f"{item.span.path}:{item.span.line}")
        else:
            entry = _read_entry(item, kind, timezone, mistakes)
        if entry is None:
            continue
        first = first_of.setdefault((entry.value, entry.added_us, entry.expires_us), item)
        if first is not item:
            also = ((first.span, "it stands here already"),)
            hint = "delete one of the two"
            message = f"{shown(entry.value)} stands twice in the list"
            mistakes.report("duplicate-entry", message, item, hint, also, Severity.WARNING)
        else:
            entries.append(entry)
    return tuple(entries)


def _read_entry(node: Node, kind: ListKind, timezone: str, mistakes: Mistakes) -> ListEntry | None:
    if not isinstance(node, MappingNode):
        hint = "write the value, or `{value: …, reason: …, ticket: …}`"
        mistakes.report("not-an-entry", "a list entry was expected here", node, hint)
        return None
    before = len(mistakes.found)
    given = known_keys(node, ENTRY_KEYS, "a list entry", mistakes)
    pair = given.get("value")
    if pair is None:
        if all(key.text != "value" for key, _ in node.items):
            mistakes.report("missing-key", "the list entry has no `value`", node, "write `{value: …, reason: …}`")
        return None
    text = read_text(given, "value", mistakes)
    value = LIST_READERS[kind](text) if text is not None else None
    if isinstance(value, Wrong):
        mistakes.report(value.code, value.message, pair[1], value.hint)
    reason, ticket, author = (read_text(given, key, mistakes) or "" for key in ("reason", "ticket", "by"))
    instants: list[int | None] = []
    for key in ("added", "expires"):
        written = read_text(given, key, mistakes)
        moment = values.instant(written, timezone) if written is not None else None
        if isinstance(moment, Wrong):
            mistakes.report(moment.code, moment.message, given[key][1], moment.hint)
            moment = None
        instants.append(moment)
    added, expires = instants
    if added is not None and expires is not None and expires <= added:
        also = ((given["added"][1].span, "it is added here"),)
        hint = "an entry is in force from `added` until just before `expires`"
        mistakes.report(
            "expires-before-added", "the entry expires before it is added", given["expires"][1], hint, also
        )
    if len(mistakes.found) > before or not isinstance(value, str):
        return None
    source = f"{node.span.path}:{node.span.line}"
    return ListEntry(value, reason, ticket, author, added, expires, source)


def _runs_over_lines(node: Scalar) -> bool:
    """Whether it is a text without quotes of which YAML joined several lines: its span is then one column wide."""
    return not node.quoted and node.end_column == node.column + 1 and len(node.text) > 1


def says_dates(node: Node) -> bool:
    """Whether an entry has a date without a time, whose meaning depends on the timezone."""
    if not isinstance(node, Sequence):
        return False
    return any(
        key.text in ("added", "expires") and isinstance(value, Scalar) and values.is_date(value.text)
        for item in node.items
        if isinstance(item, MappingNode)
        for key, value in item.items
    )
