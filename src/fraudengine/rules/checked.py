"""What checking one file gives: everything it says, typed as far as the file alone allows.

A setting's value or a list's entries can be typed only where they are declared, which may be an inherited
file; those stay nodes until `link`. The same holds for rules that read inherited metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from ..diagnostics import Diagnostic, Severity, Span
from ..facts import FactName, FactType, ListKind
from . import yamldoc
from .ast import ListEntry, ListName, Literal, Mode, MoneyFigures, Outcome, Rule, RuleId
from .counters import Counter
from .sourcetext import hide_numbers

DEFAULT_TIMEZONE: Final = "Africa/Tunis"
_SHOWN: Final = 60


class FileKind(StrEnum):
    """What a rule file is; the value is the key that it begins with."""

    PLATFORM = "rule_set"
    MERCHANT = "merchant"
    SHARED_LIST = "list"


@dataclass(frozen=True, slots=True)
class SettingUse:
    """A `$setting` in a rule, and the fact that it is compared with."""

    name: str
    fact: FactName
    type: FactType
    span: Span


@dataclass(frozen=True, slots=True)
class ListUse:
    """A list that a rule reads; `turns_off` when its being empty would make `not_in_list` hold for everybody."""

    name: ListName
    fact: FactName
    span: Span
    turns_off: bool


@dataclass(frozen=True, slots=True)
class CheckedRule:
    """A rule with what it needs from outside; `deferred` is its node when only link can type its metadata."""

    rule: Rule
    settings: tuple[SettingUse, ...] = ()
    lists: tuple[ListUse, ...] = ()
    reads: frozenset[FactName] = frozenset()
    deferred: yamldoc.Mapping | None = None


@dataclass(frozen=True, slots=True)
class DeclaredSetting:
    name: str
    type: FactType
    help: str
    value: Literal | MoneyFigures | None
    span: Span


@dataclass(frozen=True, slots=True)
class GivenSetting:
    """A value for a setting that another file declares, not typed yet."""

    name: str
    value: yamldoc.Node
    span: Span


@dataclass(frozen=True, slots=True)
class CheckedList:
    """A list that this file declares, with its entries."""

    name: ListName
    kind: ListKind
    help: str
    entries: tuple[ListEntry, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class FilledList:
    """Entries for a list that another file declares, not typed yet."""

    name: ListName
    entries: yamldoc.Sequence
    span: Span


@dataclass(frozen=True, slots=True)
class Change:
    """Tuning of an inherited rule: only what is given changes."""

    rule_id: RuleId
    span: Span
    mode: Mode | None = None
    then: Outcome | None = None
    if_unknown: Outcome | None = None
    reason: str | None = None
    description: str | None = None
    challenge_indicator: str | None = None
    description_fr: str = ""


@dataclass(frozen=True, slots=True)
class DeclaredMetadata:
    key: str
    type: FactType
    span: Span


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One rule file without mistakes of its own.

    `dated_lists` are the entries of own declared lists whose dates mean midnight in an inherited timezone, kept
    as nodes when the file gives no timezone. `linked` is room for what `link` computes once for all heirs.
    """

    kind: FileKind
    name: str
    path: str
    span: Span
    description: str
    extends: str | None
    extends_span: Span
    otherwise: Outcome | None
    timezone: str | None
    attempted: Outcome | None
    unavailable: Outcome | None
    impossible: Outcome | None
    settings_declared: tuple[DeclaredSetting, ...]
    settings_given: tuple[GivenSetting, ...]
    lists_declared: tuple[CheckedList, ...]
    lists_filled: tuple[FilledList, ...]
    dated_lists: tuple[FilledList, ...]
    metadata: tuple[DeclaredMetadata, ...]
    velocity: tuple[Counter, ...]
    changes: tuple[Change, ...]
    rules: tuple[CheckedRule, ...]
    content_sha256: str
    text_sha256: str
    linked: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(slots=True)
class Mistakes:
    """Collects every mistake of one file in the order found."""

    found: list[Diagnostic] = field(default_factory=list)

    def report(
        self,
        code: str,
        message: str,
        place: yamldoc.Node | Span,
        hint: str = "",
        also: tuple[tuple[Span, str], ...] = (),
        severity: Severity = Severity.ERROR,
    ) -> None:
        span = place if isinstance(place, Span) else place.span
        self.found.append(Diagnostic(code, message, span, hint, severity, also))


def shown(text: str) -> str:
    """User text in backticks, on one line and of a bounded length."""
    plain = hide_numbers(" ".join(text.split()).replace("`", "'"))
    return f"`{plain[:_SHOWN]}…`" if len(plain) > _SHOWN else f"`{plain}`"


def in_order(mistakes: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Without repeats, by place, and without any number that could be or hold a card's."""
    unique = dict.fromkeys(map(_without_numbers, mistakes))
    return tuple(sorted(unique, key=lambda item: (item.span, item.code, item.message)))


def _without_numbers(item: Diagnostic) -> Diagnostic:
    message, hint = hide_numbers(item.message), hide_numbers(item.hint)
    if message == item.message and hint == item.hint:
        return item
    return replace(item, message=message, hint=hint)


def has_errors(mistakes: Iterable[Diagnostic]) -> bool:
    return any(item.severity is Severity.ERROR for item in mistakes)


def one_of_words(words: Iterable[str]) -> str:
    """`a`, `b` or `c`."""
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


@dataclass(frozen=True, slots=True)
class KnownFacts:
    """The facts beyond the catalogue that rules may read: metadata by key, velocity counters by name."""

    metadata: Mapping[str, FactType] = field(default_factory=dict)
    counters: Mapping[FactName, Counter] = field(default_factory=dict)
    unreadable: frozenset[FactName] = frozenset()  # counters with mistakes: reading them is no second one


def types_by_key(metadata: Iterable[DeclaredMetadata]) -> Mapping[str, FactType]:
    return {item.key: item.type for item in metadata}
