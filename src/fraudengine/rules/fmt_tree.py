"""A rule file as the formatter sees it: the words as they are written, with their comments and blank lines.

`parse_tree` reads text that `read_document` has found good: no anchors, tags, tabs that indent or duplicate keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

WIDTH: Final = 120
_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BLOCK_HEADER: Final = re.compile(r"([|>][+-]?[1-9]?[+-]?)[ \t]*(#.*)?")
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


class Blank:
    """An empty line between items."""


@dataclass(slots=True)
class Comment:
    """A comment with its `#`: after a value, at the `column` where it stood, or on its own line at a level."""

    text: str
    column: int
    home: Collection | None = None
    levels: tuple[Collection, ...] = ()  # the block collections that were open when it was met


Trivia: TypeAlias = Comment | Blank


@dataclass(slots=True)
class Text:
    """A scalar as it is written; `many` are its further lines when it has any, without their indentation."""

    written: str
    value: str
    style: str | None

    def lines(self, column: int) -> list[str]:
        """As lines, the further ones indented to `column`."""
        if "\n" not in self.written:
            return [_plain_quotes(self.written, self.style)]
        for candidate in (self._moved(column), self._literal(column)):
            if candidate is not None and _says(
                "\n".join(["k: " + candidate[0], *candidate[1:]]) + "\n", self.value
            ):
                return candidate
        return [quoted(self.value)]

    def _moved(self, column: int) -> list[str] | None:
        first, *others = self.written.split("\n")
        if self.style in ("|", ">"):
            indented = next((line for line in others if line.strip()), "")
            width = len(indented) - len(indented.lstrip(" "))
            while others and not others[-1].strip() and "+" not in first:
                others.pop()
            if others and not others[-1]:
                others.pop()
            return [first, *(" " * column + line[width:] if line.strip() else "" for line in others)]
        return [first.rstrip(), *(" " * column + line.strip() if line.strip() else "" for line in others)]

    def _literal(self, column: int) -> list[str] | None:
        if self.style not in ("|", ">") or not self.value.strip():
            return None
        body = self.value.rstrip("\n")
        ending = self.value[len(body) :]
        chomp = {"": "-", "\n": ""}.get(ending, "+")
        digit = str(min(column, 2)) if body[0] in " \n" else ""
        lines = body.split("\n") + [""] * max(0, len(ending) - 1)
        return [f"|{digit}{chomp}", *(" " * column + line if line else "" for line in lines)]

    def on_one_line(self) -> str | None:
        """As one line inside brackets; None when it cannot be."""
        if "\n" not in self.written:
            return _plain_quotes(self.written, self.style) or None
        if self.style is None and _says(f"k: [{self.value}]\n", self.value):
            return self.value
        return quoted(self.value)


@dataclass(slots=True, eq=False)
class Item:
    """One pair of a mapping or one item of a list, with the comments above it and the one after it."""

    key: str
    value: Text | Collection
    before: list[Trivia] = field(default_factory=list)
    tail: Comment | None = None


@dataclass(slots=True, eq=False)
class Collection:
    """A mapping or list. `column` is where it stood, `out_column` where it is written."""

    is_mapping: bool
    flow: bool
    column: int
    items: list[Item] = field(default_factory=list)
    has_comment: bool = False
    out_column: int = 0

    def fits_one_line(self) -> bool:
        """Whether its form allows one line, whatever the width: written in brackets, without comments."""
        if not self.items:
            return True
        if not self.flow or self.has_comment:
            return False
        for item in self.items:
            if isinstance(item.value, Text):
                if item.value.on_one_line() is None:
                    return False
            elif not item.value.fits_one_line():
                return False
        return True

    def one_line(self) -> str:
        parts = []
        for item in self.items:
            value = item.value
            written = value.on_one_line() if isinstance(value, Text) else value.one_line()
            parts.append(f"{item.key}: {written}" if self.is_mapping else f"{written}")
        return f"{{{', '.join(parts)}}}" if self.is_mapping else f"[{', '.join(parts)}]"


@dataclass(frozen=True, slots=True)
class Tree:
    root: Collection | Text
    foot: list[Trivia]
    comments: list[str]


def parse_tree(text: str) -> Tree:
    """The tree of a good document."""
    return _Parser(text.replace("\r\n", "\n").replace("\r", "\n")).parse()


def quoted(value: str) -> str:
    """The value in double quotes on one line."""
    return '"' + "".join(_ESCAPES.get(letter) or _printable(letter) for letter in value) + '"'


def _printable(letter: str) -> str:
    if letter.isprintable() or letter == " ":
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def _plain_quotes(written: str, style: str | None) -> str:
    """Double quotes for single ones, where nothing inside has a meaning in them."""
    if style == "'" and not any(letter in written[1:-1] for letter in "\\\"'") and written.isprintable():
        return f'"{written[1:-1]}"'
    return written


def _says(text: str, value: str) -> bool:
    """Whether the small document `k: …` or `k: […]` holds exactly that one value."""
    try:
        scalars = [event for event in yaml.parse(text, Loader=_Loader) if isinstance(event, yaml.ScalarEvent)]
    except yaml.YAMLError:
        return False
    return [event.value for event in scalars] == ["k", value]


class _Parser:
    """Builds the tree from events; what stands between two of them is read by `gap`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.stack: list[Collection] = []
        self.keys: list[str | None] = []  # per open mapping, the key that waits for its value
        self.pending: list[Trivia] = []
        self.last: Item | None = None
        self.comments: list[str] = []
        self.root: Collection | Text = Text("", "", None)

    def parse(self) -> Tree:
        event: Any
        for event in yaml.parse(self.text, Loader=_Loader):
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self.gap(event.start_mark.index)
                self.scalar(event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self.gap(event.start_mark.index)
                self.open(event)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self.gap(event.start_mark.index if self.stack[-1].flow else event.end_mark.index)
                self.close(event)
        self.gap(len(self.text))
        root = self.root if isinstance(self.root, Collection) else None
        self.settle(root)
        return Tree(self.root, self.pending, self.comments)

    # ---- events -------------------------------------------------------------------------------

    def scalar(self, event: Any) -> None:
        end = event.end_mark.index
        written = self.text[event.start_mark.index : end]
        if not event.style:  # the mark at the end may lie behind the spaces of the next line
            written = written.rstrip()
            end = event.start_mark.index + len(written)
        header = ""
        if event.style in ("|", ">"):
            first, _, rest = written.partition("\n")
            found = _BLOCK_HEADER.fullmatch(first.rstrip())
            if found is not None:
                written, header = f"{found[1]}\n{rest}", found[2] or ""
        value = Text(written, event.value, event.style or None)
        collection = self.stack[-1] if self.stack else None
        if collection is not None and collection.is_mapping and self.keys[-1] is None:
            self.key(collection, value)
        else:
            self.place(value)
            if self.last is not None and header:
                self.comments.append(header)
                column = event.start_mark.index - self.line_start(event.start_mark.index) + first.index("#")
                self.after_last(Comment(header, column))
            if event.style in ("|", ">") and written.endswith("\n\n") and "+" not in written.partition("\n")[0]:
                self.pending.append(Blank())
        self.position = max(self.position, end)

    def key(self, collection: Collection, text: Text) -> None:
        key = text.written if "\n" not in text.written else quoted(text.value)
        item = Item(_plain_quotes(key, text.style), Text("", "", None), self.take(collection))
        collection.items.append(item)
        self.keys[-1] = key
        self.last = item

    def place(self, value: Text | Collection) -> None:
        """Puts a value where it belongs: the document, the list's next item, or the key that waits."""
        if not self.stack:
            self.root = value
            return
        collection = self.stack[-1]
        if collection.is_mapping:
            item = collection.items[-1]
            item.value = value
            self.keys[-1] = None
            if isinstance(value, Text) or value.flow:
                item.before += [part for part in self.take(collection) if isinstance(part, Comment)]
        else:
            item = Item("", value, self.take(collection))
            collection.items.append(item)
        self.last = item

    def open(self, event: Any) -> None:
        flow = bool(event.flow_style)
        start = event.start_mark.index
        collection = Collection(isinstance(event, yaml.MappingStartEvent), flow, start - self.line_start(start))
        self.place(collection)
        self.stack.append(collection)
        self.keys.append(None)
        if flow and self.text[start : start + 1] in ("{", "["):
            self.position = start + 1

    def close(self, event: Any) -> None:
        collection = self.stack.pop()
        self.keys.pop()
        if collection.flow:
            self.pending = [part for part in self.pending if isinstance(part, Comment)]
            self.position = max(self.position, event.end_mark.index)
            holder = self.stack[-1].items if self.stack else []
            self.last = holder[-1] if holder else self.last

    # ---- between events -----------------------------------------------------------------------

    def line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def gap(self, end: int) -> None:
        """Comments and blank lines between the last word and `end`."""
        start = self.position
        if end <= start:
            return
        self.position = end
        lines = self.text[start:end].split("\n")
        at_line_start = not self.text[self.line_start(start) : start].strip()
        offset = start
        for number, line in enumerate(lines):
            here = offset
            offset += len(line) + 1
            mark = line.find("#")
            own_line = number > 0 or at_line_start
            if mark < 0:
                if own_line and not line.strip() and number < len(lines) - 1:
                    self.pending.append(Blank())
                continue
            column = here + mark - self.line_start(here + mark)
            comment = Comment(line[mark:].rstrip(), column)
            self.comments.append(comment.text)
            for collection in self.stack:
                collection.has_comment |= collection.flow
            if not own_line:
                self.after_last(comment)
            else:
                if line[:mark].strip():  # behind a dash: it belongs to what follows
                    comment.column = 0
                comment.levels = tuple(one for one in self.stack if not one.flow)
                self.pending.append(comment)

    def after_last(self, comment: Comment) -> None:
        if self.last is not None and self.last.tail is None:
            self.last.tail = comment
        else:
            comment.column = 0
            self.pending.append(comment)

    def take(self, collection: Collection) -> list[Trivia]:
        """What waits for the next item, which begins in `collection`."""
        self.settle(collection)
        taken, self.pending = self.pending, []
        return taken

    def settle(self, collection: Collection | None) -> None:
        """Finds the level of each waiting comment: one that is indented deeper belongs to what ended above it."""
        for part in self.pending:
            if not isinstance(part, Comment):
                continue
            part.home = collection
            if collection is None or collection.flow or part.column <= collection.column:
                continue
            levels = part.levels
            deeper = levels[levels.index(collection) :] if collection in levels else ()
            for level in deeper:
                if level.column <= part.column:
                    part.home = level


__all__ = ["WIDTH", "Blank", "Collection", "Comment", "Item", "Text", "Tree", "Trivia", "parse_tree", "quoted"]
