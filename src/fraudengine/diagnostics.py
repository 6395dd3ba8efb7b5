"""Positions and messages for rule authors, and the tree of exceptions.

An author's mistake is a `Diagnostic`: collected with all others and shown at once, never raised alone.
What a caller, a machine or a file does wrong raises one of:

    FraudengineError
    ├── RuleFilesRefused       rule files hold mistakes; carries every Diagnostic
    ├── InvalidTransaction     a caller's transaction is wrong; names the field
    │   └── InvalidCard        its card is wrong; never repeats the number
    ├── ConflictingTransaction a transaction id is used again for another payment; names what differs
    ├── UnknownMerchant        no rule set has that name
    ├── DataFileError          an IP or BIN data file is missing, truncated or corrupt
    ├── ConfigurationError     a setting, key or permission is wrong
    ├── StoreUnavailable       the disk or database refuses; nothing was recorded
    ├── Overtaken              another call of the transaction was recorded first; nothing was recorded of this one
    └── BackendFault           a rule backend failed on a transaction or disagrees with the law
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FraudengineError(Exception):
    """The root of every error that this package raises on purpose."""


class InvalidTransaction(FraudengineError):
    """A caller's transaction is wrong: `field` is its dotted name, `problem` says what and what to do."""

    def __init__(self, field_name: str, problem: str) -> None:
        super().__init__(f"{field_name}: {problem}")
        self.field = field_name
        self.problem = problem


class InvalidCard(InvalidTransaction):
    """The card of a transaction is wrong; the message never holds its number."""


class ConflictingTransaction(FraudengineError):
    """A transaction id was screened before for another payment; `differences` are (field, what differs)."""

    def __init__(self, differences: Iterable[tuple[str, str]]) -> None:
        self.differences = tuple(differences)
        super().__init__("; ".join(f"{field} {problem}" for field, problem in self.differences))


class UnknownMerchant(FraudengineError):
    """No rule set has that merchant's name. `hint` says what to do, where the caller may be told."""

    def __init__(self, merchant: str, *, refused: bool = False, hint: str = "") -> None:
        why = "its rule file is refused" if refused else "no rule file has that name"
        super().__init__(f"unknown merchant `{merchant}`: {why}{'; ' if hint else ''}{hint}")
        self.merchant = merchant
        self.refused = refused


class DataFileError(FraudengineError):
    """An IP or BIN data file is missing, truncated, corrupt or of another kind."""


class ConfigurationError(FraudengineError):
    """A setting, a key or a file permission is wrong; the message says what to do."""


class StoreUnavailable(FraudengineError):
    """The disk or the database refuses to work; whatever was asked is not recorded."""


class Overtaken(FraudengineError):
    """Another call of the same transaction was recorded while this one was decided: it has to be decided again."""


class BackendFault(FraudengineError):
    """A rule backend failed on a transaction, or disagrees with the reference backend."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of one line of one file; lines and columns count from 1, `end_column` is excluded."""

    path: str
    line: int
    column: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake in one place: what is wrong, where, and what to do about it.

    `code` is a stable kebab-case name of the kind of mistake; `also` cites other places that matter.
    """

    code: str
    message: str
    span: Span
    hint: str = ""
    severity: Severity = Severity.ERROR
    also: tuple[tuple[Span, str], ...] = field(default=())


class RuleFilesRefused(FraudengineError):
    """Rule files hold mistakes; `diagnostics` are all of them and `sources` the texts they point into."""

    def __init__(self, diagnostics: Iterable[Diagnostic], sources: Mapping[str, str] | None = None) -> None:
        self.diagnostics = tuple(diagnostics)
        self.sources = dict(sources or {})
        super().__init__("\n\n".join(render_text(item, self.sources) for item in self.diagnostics))


def render_text(diagnostic: Diagnostic, sources: Mapping[str, str]) -> str:
    """The form shown to people: message, place, the source line, a caret and the hint."""
    lines = [f"{diagnostic.severity}: {diagnostic.message}"]
    lines += _excerpt(diagnostic.span, diagnostic.hint, "-->", sources)
    for span, note in diagnostic.also:
        lines += _excerpt(span, note, ":::", sources)
    return "\n".join(lines)


def _excerpt(span: Span, note: str, arrow: str, sources: Mapping[str, str]) -> list[str]:
    gutter = len(str(span.line))
    place = f"{' ' * gutter}{arrow} {span.path}:{span.line}:{span.column}"
    source = sources.get(span.path)
    texts = source.splitlines() if source is not None else []
    if not 0 < span.line <= len(texts):
        return [place + (f" ({note})" if note else "")]
    text = texts[span.line - 1].replace("\t", " ")
    width = max(1, min(span.end_column, len(text) + 1) - span.column)
    caret = " " * (span.column - 1) + "^" * width
    return [
        place,
        f"{' ' * gutter} |",
        f"{span.line} | {text}".rstrip(),
        f"{' ' * gutter} | {caret}{' ' + note if note else ''}",
    ]


def to_json_object(diagnostic: Diagnostic) -> dict[str, object]:
    """The JSON form: one flat object with `path`, `line`, `column`, `end_column`."""
    return {
        "severity": diagnostic.severity.value,
        "code": diagnostic.code,
        "message": diagnostic.message,
        "hint": diagnostic.hint,
        **_place(diagnostic.span),
        "also": [{**_place(span), "note": note} for span, note in diagnostic.also],
    }


def _place(span: Span) -> dict[str, object]:
    return {"path": span.path, "line": span.line, "column": span.column, "end_column": span.end_column}


def render_json(diagnostics: Iterable[Diagnostic]) -> str:
    return json.dumps([to_json_object(item) for item in diagnostics], ensure_ascii=False, indent=2)


def render_annotation(diagnostic: Diagnostic) -> str:
    """The form of GitHub's workflow commands, which code review shows beside the line."""
    text = diagnostic.message + (f" ({diagnostic.hint})" if diagnostic.hint else "")
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    span = diagnostic.span
    return (
        f"::{diagnostic.severity} file={span.path},line={span.line},col={span.column},"
        f"endColumn={span.end_column},title={diagnostic.code}::{escaped}"
    )


def suggest(word: str, known: Iterable[str]) -> str:
    """``did you mean `x`?`` when one known word is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""
