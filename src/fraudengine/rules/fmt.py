"""The canonical form of rule files: `format_text` keeps every comment and never changes what a file means.

The formatter works on the parser's events and on the text between them, where nothing but comments, blank lines
and punctuation can stand. What a person chose is kept: the order of keys, one-line or many-line form, quotes, blank
lines (one at a time), the column of a comment after a value. What is made uniform: two spaces a level, lists
indented below their key, spaces inside `{}` and `[]`, one-line forms that grew past the width, line ends.

Why not ruamel.yaml: it moves comments between levels, folds long lines and rewrites numbers and dates on the way;
here the words are copied, never written anew. And whatever happens, the result is read again: unless it says the
same with the same comments, `CannotFormat` is raised and nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..diagnostics import Diagnostic, FraudengineError
from .checked import has_errors
from .fmt_tree import WIDTH, Blank, Collection, Comment, Item, Text, Trivia, parse_tree
from .yamldoc import content_digest, read_document

INDENT = 2


class CannotFormat(FraudengineError):
    """The file has mistakes in its YAML, or its form is too unusual to be rewritten safely; it is left alone."""

    def __init__(self, message: str, diagnostics: Iterable[Diagnostic] = ()) -> None:
        super().__init__(message)
        self.diagnostics = tuple(diagnostics)


def format_text(path: str, text: str) -> str:
    """The canonical form of a rule or test file; raises CannotFormat and changes nothing when in doubt."""
    node, mistakes = read_document(path, text)
    if node is None or has_errors(mistakes):
        raise CannotFormat("the file has mistakes", mistakes)
    tree = parse_tree(text)
    if isinstance(tree.root, Text):
        raise CannotFormat("the file holds only a text")
    formatted = "\n".join(_Writer().document(tree.root, tree.foot)) + "\n"
    again, mistakes = read_document(path, formatted)
    if again is None or mistakes or content_digest(again) != content_digest(node):
        raise CannotFormat("the file is written in a way that cannot be rewritten safely")
    if Counter(parse_tree(formatted).comments) != Counter(tree.comments):
        raise CannotFormat("a comment stands where it cannot be kept")
    return formatted


class _Writer:
    """Collections become lines. Every block collection notes the column that it is written at, for its comments."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def document(self, root: Collection, foot: list[Trivia]) -> list[str]:
        if root.items:
            self.collection(root, 0, "")
        else:
            self.lines.append("{}" if root.is_mapping else "[]")
        self.trivia(foot, 0)
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        return self.lines

    def collection(self, collection: Collection, column: int, lead: str) -> None:
        """The items at that column; `lead` (such as `  - `) stands before the first, on its line."""
        collection.out_column = column
        for number, item in enumerate(collection.items):
            if number or not lead:
                self.trivia(_without_first_blanks(item.before) if not number else item.before, column)
            start = lead if lead and not number else " " * column
            if collection.is_mapping:
                self.mapping_item(item, column, start)
            else:
                self.sequence_item(item, column, start)

    def mapping_item(self, item: Item, column: int, start: str) -> None:
        start += f"{item.key}:"
        value = item.value
        if isinstance(value, Text):
            self.text(value, start, column + INDENT, item)
            return
        if self.one_line(value, start, item):
            return
        self.end_line(start, item)
        self.collection(value, column + INDENT, "")

    def sequence_item(self, item: Item, column: int, start: str) -> None:
        start += "-"
        value = item.value
        if isinstance(value, Text):
            self.text(value, start, column + INDENT, item)
        elif not self.one_line(value, start, item):
            # Comments that would stand between the dash and the first item go above the dash, from all levels.
            hoisted: list[Trivia] = []
            if item.tail is not None:
                hoisted.append(Comment(item.tail.text, 0))
            inner: Collection | Text = value
            while isinstance(inner, Collection) and inner.items and not inner.fits_one_line():
                hoisted += [part for part in inner.items[0].before if isinstance(part, Comment)]
                inner.items[0].before = []
                if inner.is_mapping:
                    break
                inner = inner.items[0].value
            self.trivia(hoisted, len(start) - len(start.lstrip()))
            self.collection(value, column + INDENT, start + " ")

    def one_line(self, value: Collection, start: str, item: Item) -> bool:
        """Writes the value after `start` when it may stand on one line."""
        if not value.fits_one_line():
            return False
        written = value.one_line()
        if value.items and len(start) + 1 + len(written) > WIDTH:
            return False
        self.end_line(f"{start} {written}", item)
        return True

    def text(self, value: Text, start: str, column: int, item: Item) -> None:
        first, *others = value.lines(column)
        self.end_line(f"{start} {first}" if first else start, item)
        self.lines += others

    def end_line(self, line: str, item: Item) -> None:
        if item.tail is not None:
            line = line.ljust(max(len(line) + 2, item.tail.column)) + item.tail.text
        self.lines.append(line)

    def trivia(self, found: list[Trivia], column: int) -> None:
        for part in found:
            if isinstance(part, Comment):
                home = part.home.out_column if part.home is not None else column
                self.lines.append(" " * max(home, column) + part.text)
            elif self.lines and self.lines[-1]:
                self.lines.append("")


def _without_first_blanks(found: list[Trivia]) -> list[Trivia]:
    first = next((number for number, part in enumerate(found) if not isinstance(part, Blank)), len(found))
    return found[first:]
