"""YAML text -> positioned nodes that keep their text; what a text means is decided later, by the type expected.

Only the plain part of YAML is read: mappings with text keys, lists and scalars. Anchors, aliases, merge keys,
tags, directives, several documents and duplicate keys are mistakes. The parser's events are read one by one
instead of `yaml.compose`: 2.4 times faster, aliases stay visible, and depth is bounded before any recursion.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import yaml

from ..cards import find_pans
from ..diagnostics import Diagnostic, Span
from .sourcetext import (
    HIDDEN_DIGIT,
    MAX_BYTES,
    card_number_mistake,
    decode_source,
    hide_card_numbers,
    refuse_hidden_characters,
    text_for_display,
    too_large,
)

__all__ = [
    "Mapping",
    "Node",
    "Scalar",
    "Sequence",
    "content_digest",
    "decode_source",
    "read_document",
    "text_for_display",
]

MAX_DEPTH: Final = 60  # a condition may nest 20 deep, and each level takes two of YAML's
MAX_MISTAKES: Final = 100

_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


# Named tuples: a third of the cost of a frozen dataclass, and there are a hundred nodes in a small file.
class Scalar(NamedTuple):
    """A text with its place; `quoted` tells an empty text from no value at all."""

    text: str
    quoted: bool
    path: str
    line: int
    column: int
    end_column: int

    @property
    def span(self) -> Span:
        return Span(self.path, self.line, self.column, self.end_column)

    @property
    def is_empty(self) -> bool:
        return not self.text and not self.quoted


class Mapping(NamedTuple):
    """Keys with their values in file order; no key stands twice. The span is that of its first line."""

    items: tuple[tuple[Scalar, Node], ...]
    path: str
    line: int
    column: int
    end_column: int

    @property
    def span(self) -> Span:
        return Span(self.path, self.line, self.column, self.end_column)

    def get(self, name: str) -> Node | None:
        return next((value for key, value in self.items if key.text == name), None)


class Sequence(NamedTuple):
    """A YAML list. The span is that of its first line."""

    items: tuple[Node, ...]
    path: str
    line: int
    column: int
    end_column: int

    @property
    def span(self) -> Span:
        return Span(self.path, self.line, self.column, self.end_column)


Node: TypeAlias = Scalar | Mapping | Sequence


def read_document(path: str, text: str) -> tuple[Node | None, list[Diagnostic]]:
    """The nodes of one rule file and every mistake in its YAML; no nodes when they cannot be told.

    A file with mistakes may still give nodes, so that what follows can find more mistakes in the same run.
    """
    if len(text) > MAX_BYTES:
        return None, [too_large(path, len(text))]
    unseen = refuse_hidden_characters(path, text)
    text, mistakes = hide_card_numbers(path, text)
    if unseen:
        return None, mistakes + unseen
    return _Reader(path, text, mistakes).read()


def content_digest(node: Node) -> str:
    """sha256 of what the nodes say, whatever their places, comments and quotes."""
    parts: list[str] = []
    _append_content(node, parts)
    return hashlib.sha256("".join(parts).encode("utf-8")).hexdigest()


def _append_content(node: Node, parts: list[str]) -> None:
    if isinstance(node, Scalar):
        text = node.text
        parts.append(f"{len(text)}:{text}" if text or node.quoted else "~")
    elif isinstance(node, Mapping):
        parts.append("{")
        for key, value in node.items:
            text = key.text
            parts.append(f"{len(text)}:{text}")
            _append_content(value, parts)
        parts.append("}")
    else:
        parts.append("[")
        for item in node.items:
            _append_content(item, parts)
        parts.append("]")


class _TooManyMistakes(Exception):
    """Ends the reading of a file that is no rule file at all."""


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is open while its items are read; `key` waits for its value."""

    is_mapping: bool
    line: int
    column: int
    items: list[Any] = field(default_factory=list)
    key: Scalar | None = None
    keys: dict[str, Scalar] = field(default_factory=dict)


class _Reader:
    """Turns the parser's events into nodes."""

    def __init__(self, path: str, text: str, mistakes: list[Diagnostic]) -> None:
        self.path = path
        self.text = text
        self.mistakes = mistakes
        self.root: Node | None = None
        self.stack: list[_Frame] = []

    def read(self) -> tuple[Node | None, list[Diagnostic]]:
        loader = _Loader(self.text)
        try:
            self._read_events(loader)
        except yaml.MarkedYAMLError as error:
            self.mistakes.append(_describe_yaml_error(self.path, self.text, error))
            return None, self.mistakes
        except yaml.YAMLError:
            self._report("yaml", "this is not valid YAML", Span(self.path, 1, 1, 2), "")
            return None, self.mistakes
        except _TooManyMistakes:
            return None, self.mistakes
        finally:
            loader.dispose()
        if self.root is None and not self.mistakes:
            hint = "begin with `merchant:`, `rule_set:` or `list:`"
            self._report("empty-file", "the file holds nothing", Span(self.path, 1, 1, 2), hint)
        return self.root, self.mistakes

    def _read_events(self, loader: Any) -> None:
        next_event = loader.get_event
        scalar_event, mapping_start, sequence_start = (
            yaml.ScalarEvent,
            yaml.MappingStartEvent,
            yaml.SequenceStartEvent,
        )
        stack = self.stack
        while True:
            event = next_event()
            kind = type(event)
            if kind is scalar_event:
                self._place(self._scalar(event))
            elif kind is mapping_start or kind is sequence_start:
                self._refuse_marks(event)
                mark = event.start_mark
                stack.append(_Frame(kind is mapping_start, mark.line + 1, mark.column + 1))
                if len(stack) > MAX_DEPTH:
                    span = self._span_at(mark)
                    self._report("nested-too-deep", "the file is nested too deep", span, "write it flatter")
                    raise _TooManyMistakes
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._close(event)
            elif kind is yaml.AliasEvent:
                self._report_alias(event)
                mark = event.start_mark
                self._place(Scalar("", False, self.path, mark.line + 1, mark.column + 1, mark.column + 2))
            elif kind is yaml.DocumentStartEvent:
                if self.root is not None:
                    hint = "put the second part into a file of its own"
                    self._report(
                        "several-documents",
                        "a second document begins here",
                        self._span_at(event.start_mark, 3),
                        hint,
                    )
                    return
                if event.version or event.tags:
                    self._report(
                        "directive",
                        "a YAML directive is not used in rule files",
                        self._span_at(event.start_mark),
                        "delete the line",
                    )
            elif kind is yaml.StreamEndEvent or event is None:
                return

    def _scalar(self, event: Any) -> Scalar:
        if event.anchor is not None or event.tag is not None:
            self._refuse_marks(event)
        start, end = event.start_mark, event.end_mark
        column = start.column + 1
        end_column = end.column + 1 if end.line == start.line else column + 1
        text = event.value
        style = event.style
        scalar = Scalar(text, bool(style), self.path, start.line + 1, column, max(end_column, column + 1))
        if len(text) >= 13 and (style == '"' or end.line != start.line) and find_pans(text):
            self.mistakes.append(card_number_mistake(scalar.span))  # joined or unescaped: not seen in the raw text
            scalar = scalar._replace(text=HIDDEN_DIGIT)
        return scalar

    def _place(self, node: Node) -> None:
        """Puts a finished node where it belongs: the document, a list, a key, or the value of a key."""
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        if not frame.is_mapping:
            frame.items.append(node)
        elif frame.key is None:
            frame.key = self._key(frame, node)
        else:
            if frame.key.text:
                frame.items.append((frame.key, node))
            frame.key = None

    def _key(self, frame: _Frame, node: Node) -> Scalar:
        """The key that a mapping goes on with; an empty one when the pair is to be dropped."""
        if isinstance(node, Scalar) and node.text and (node.quoted or node.text != "<<"):
            first = frame.keys.setdefault(node.text, node)
            if first is node:
                return node
            name = node.text if len(node.text) <= 60 else node.text[:60] + "…"
            self.mistakes.append(
                Diagnostic(
                    "duplicate-key",
                    f"`{name}` stands twice",
                    node.span,
                    "keep one of the two",
                    also=((first.span, "it stands here already"),),
                )
            )
        elif not isinstance(node, Scalar):
            self._report("key-not-text", "a key must be a plain word", node.span, "write `key: value`")
        elif node.text:
            self._report("merge-key", "merge keys are not used in rule files", node.span, "write the keys out")
        else:
            self._report("key-not-text", "a key without a name", node.span, "write `key: value`")
        return Scalar("", False, self.path, node.line, node.column, node.end_column)

    def _close(self, event: Any) -> None:
        frame = self.stack.pop()
        end = event.end_mark
        column = frame.column
        one_line = end.line + 1 == frame.line and end.column + 1 > column
        end_column = end.column + 1 if one_line else column + 1
        if frame.is_mapping:
            if not one_line and frame.items:
                end_column = max(frame.items[0][0].end_column, column + 1)
            self._place(Mapping(tuple(frame.items), self.path, frame.line, column, end_column))
        else:
            self._place(Sequence(tuple(frame.items), self.path, frame.line, column, end_column))

    def _refuse_marks(self, event: Any) -> None:
        if event.anchor is not None:
            hint = "delete the `&` word and write the value wherever it is needed"
            self._report(
                "anchor",
                "anchors are not used in rule files",
                self._span_at(event.start_mark, 1 + len(event.anchor)),
                hint,
            )
        if event.tag is not None:
            self._report(
                "tag", "tags are not used in rule files", self._span_at(event.start_mark), "delete the `!` word"
            )

    def _report_alias(self, event: Any) -> None:
        hint = "write the value out; a text that begins with `*` needs quotes"
        self._report(
            "anchor",
            "aliases are not used in rule files",
            self._span_at(event.start_mark, 1 + len(event.anchor)),
            hint,
        )

    def _span_at(self, mark: Any, width: int = 1) -> Span:
        return Span(self.path, mark.line + 1, mark.column + 1, mark.column + 1 + width)

    def _report(self, code: str, message: str, span: Span, hint: str) -> None:
        self.mistakes.append(Diagnostic(code, message, span, hint))
        if len(self.mistakes) >= MAX_MISTAKES:
            raise _TooManyMistakes


# What libyaml says, in words of a rule file: what is wrong, what to do, and whether the beginning of the
# construct is the better place to point at.
_YAML_PROBLEMS: Final = (
    ("unexpected end of stream", "a quote is opened here and never closed", "close the quote", True),
    (
        "expected ',' or ']'",
        "a list is opened here and not closed",
        "put `,` between the items and `]` at the end",
        True,
    ),
    (
        "expected ',' or '}'",
        "a mapping is opened here and not closed",
        "put `,` between the pairs and `}` at the end",
        True,
    ),
    (
        "mapping values are not allowed",
        "a `:` stands where none can be",
        "check the indentation, or put the text in quotes",
        False,
    ),
    ("cannot start any token", "a value cannot begin with this character", "put the value in quotes", False),
    (
        "could not find expected ':'",
        "a key without a `:`",
        "write `key: value`, with a space after the colon, and `- value` for each entry of a list",
        True,
    ),
    (
        "did not find expected key",
        "a key was expected here",
        "check the indentation and the quotes of the lines above",
        False,
    ),
    (
        "expected '-' indicator",
        "a list item was expected here",
        "begin each item with `- `, all equally indented",
        False,
    ),
    (
        "alphabetic or numeric",
        "a value cannot begin with `*` or `&`",
        "begin list items with `- `, and put a text that begins with such a sign in quotes",
        False,
    ),
    ("expected node content", "a value is missing here", "write the value, or delete the comma", False),
    ("escape character", "an unknown `\\` sequence", "use single quotes, where `\\` is only a character", False),
)


def _describe_yaml_error(path: str, text: str, error: yaml.MarkedYAMLError) -> Diagnostic:
    problem = error.problem or ""
    mark = error.problem_mark or error.context_mark
    message, hint = "this is not valid YAML", problem.replace("\n", " ")
    for words, said, advice, at_beginning in _YAML_PROBLEMS:
        if words in problem:
            message, hint = said, advice
            if at_beginning and error.context_mark is not None:
                mark = error.context_mark
            break
    if mark is None:
        return Diagnostic("yaml", message, Span(path, 1, 1, 2), hint)
    line, column = mark.line + 1, mark.column + 1
    last = text.count("\n") + 1
    if line > last:
        line, column = last, 1
    return Diagnostic("yaml", message, Span(path, line, column, column + 1), hint)
