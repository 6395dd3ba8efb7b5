"""Explanations written out: as text for people, and as JSON with the same sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TypeAlias

import orjson

from .diagnostics import RuleFilesRefused
from .explain import Line, LineKind, RuleExplanation, Verdict
from .explain_recorded import ExplainedScreening, explain_recorded
from .explain_words import phrase, say_fact
from .reasons import Language

Json: TypeAlias = "str | int | bool | dict[str, Json] | list[Json] | None"

_MARKS = {True: "yes", False: "no", None: "maybe"}


def explanation_text(explained: ExplainedScreening, width: int | None = None) -> str:
    """The whole explanation; lines are broken at `width` when one is given."""
    explanation = explained.explanation
    lines = [explained.heading, *explanation.summary, ""]
    off = [one for one in explanation.rules if one.verdict is Verdict.OFF]
    for one in explanation.rules:
        if one.verdict is not Verdict.OFF:
            lines += [*_rule_lines(one, explanation.language), ""]
    lines += [f"{one.rule.id} — {one.sentence}" for one in off]
    while lines and not lines[-1]:
        lines.pop()
    if width is not None:
        lines = [part for line in lines for part in _fold(line, width)]
    return "\n".join(lines)


def _rule_lines(one: RuleExplanation, language: Language) -> list[str]:
    place = f"{one.rule.span.path}:{one.rule.span.line}" if one.rule.span.path else one.rule.origin
    lines = [f"{one.rule.id} — {one.sentence}", f"  {one.description} ({place})"]
    if one.when is not None:
        lines += _condition_lines(one.when, language, 2)
    if one.unless is not None:
        lines.append(f"  {phrase('unless', language)}")
        lines += _condition_lines(one.unless, language, 4)
    return lines


def _condition_lines(line: Line, language: Language, indent: int) -> list[str]:
    mark = phrase(_MARKS[line.truth], language)
    return [
        f"{' ' * indent}{mark:<4}{line_text(line, language)}",
        *(text for part in line.parts for text in _condition_lines(part, language, indent + 4)),
    ]


def line_text(line: Line, language: Language) -> str:
    """A test begins with its fact."""
    return line.sentence if line.fact is None else f"{say_fact(line.fact, language)} {line.sentence}"


def _fold(line: str, width: int) -> list[str]:
    indent = len(line) - len(line.lstrip())
    hanging = " " * min(indent + 4, width // 2)
    return textwrap.wrap(line, max(width, 20), subsequent_indent=hanging, break_long_words=False) or [""]


def explanation_object(explained: ExplainedScreening) -> dict[str, Json]:
    """The JSON form; `text` is what people read, the rest says the same in parts."""
    explanation = explained.explanation
    return {
        "language": explanation.language,
        "text": explanation_text(explained),
        "summary": [explained.heading, *explanation.summary],
        "rules": [_rule_object(one, explanation.language) for one in explanation.rules],
    }


def _rule_object(one: RuleExplanation, language: Language) -> dict[str, Json]:
    rule = one.rule
    return {
        "rule": rule.id,
        "mode": rule.mode.value,
        "verdict": one.verdict.value,
        "decided": one.decided,
        "sentence": one.sentence,
        "description": one.description,
        "then": rule.then.value,
        "reason": rule.reason,
        "origin": rule.origin,
        "file": rule.span.path,
        "line": rule.span.line,
        "when": _line_object(one.when, language) if one.when is not None else None,
        "unless": _line_object(one.unless, language) if one.unless is not None else None,
    }


def _line_object(line: Line, language: Language) -> dict[str, Json]:
    if line.kind is LineKind.TEST:
        return {"truth": line.truth, "fact": line.fact, "text": line_text(line, language)}
    return {
        "truth": line.truth,
        "text": line.sentence,
        "parts": [_line_object(part, language) for part in line.parts],
    }


# ---- a recorded screening with its explanation ----------------------------------------------------


def revision_of(document: bytes) -> str:
    """The revision of the rules that decided a recorded screening."""
    return str(orjson.loads(document)["answer"]["revision"])


def explained_document(document: bytes, texts: Sequence[tuple[str, str]], language: Language) -> bytes:
    """The recorded document with `explanation`; when its rules cannot be read any more, that says so."""
    try:
        explanation = explanation_object(explain_recorded(document, texts, language))
    except RuleFilesRefused:
        sentence = phrase("not kept", language, revision_of(document)[:12])
        explanation = {"language": language, "text": sentence, "summary": [sentence], "rules": []}
    return orjson.dumps({**orjson.loads(document), "explanation": explanation})
