"""One rule file: text -> `CheckedFile`, or every mistake in it at once. `check_text` is the whole of it.

What only the files that it extends can settle (the type of an inherited setting, whether a list exists) is
left to `link`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Final

from ..diagnostics import Diagnostic, Span, suggest
from ..facts import CATALOGUE, METADATA_TYPES, FactSpec, FactType, ListKind, Origin
from . import check_values as values
from .ast import ListEntry, ListName, Literal, MoneyFigures, Outcome
from .check_lists import MAX_ENTRIES, read_entries, says_dates
from .check_operands import read_figures, read_operand
from .check_rules import known_keys, read_changes, read_rules, read_text, read_word
from .check_values import Wrong
from .check_velocity import read_velocity
from .checked import (
    DEFAULT_TIMEZONE,
    CheckedFile,
    CheckedList,
    DeclaredMetadata,
    DeclaredSetting,
    FileKind,
    FilledList,
    GivenSetting,
    KnownFacts,
    Mistakes,
    has_errors,
    in_order,
    one_of_words,
    shown,
    types_by_key,
)
from .counters import Counter
from .pasted_entries import list_meant, split_entries
from .yamldoc import Mapping as MappingNode
from .yamldoc import Node, Scalar, Sequence, content_digest, read_document

__all__ = ["CheckedFile", "FileKind", "check_text"]

RULE_SET_KEYS: Final = (
    "description",
    "extends",
    "otherwise",
    "timezone",
    "challenge",
    "settings",
    "lists",
    "metadata",
    "velocity",
    "change",
    "rules",
)
SHARED_LIST_KEYS: Final = ("list", "of", "description", "timezone", "entries")
CHALLENGE_KEYS: Final = ("attempted", "unavailable", "impossible")
SETTING_KEYS: Final = ("type", "help", "value")
LIST_KEYS: Final = ("of", "help", "entries")
METADATA_KEYS: Final = ("type", "help")
SETTING_TYPES: Final = tuple(kind for kind in FactType if kind is not FactType.WORD)

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_WORD_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_METADATA_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_LIST_KIND_NAMES: Final = {"cards": "card", "countries": "country", "emails": "email", "customers": "customer"}


def check_text(path: str, text: str) -> tuple[CheckedFile | None, tuple[Diagnostic, ...]]:
    """The file that the text says, and its mistakes by place; no file when one of them is an error.

    Mistakes point into `text_for_display(text)`, which is what excerpts must be cut from: it is the same text
    without card numbers.
    """
    file, mistakes = read_file(path, text)
    return (None if has_errors(mistakes) else file), mistakes


def read_file(path: str, text: str) -> tuple[CheckedFile | None, tuple[Diagnostic, ...]]:
    """As `check_text`, but with what could be read of a file that has errors, to look for more of them."""
    node, found = read_document(path, text)
    if node is None:
        return None, in_order(found)
    # What was hidden or left out is no mistake a second time.
    doubtful = [(item.span, item.code == "anchor") for item in found if item.code in ("card-number", "anchor")]
    mistakes = Mistakes()
    file = _FileReader(path, text, mistakes).read(node)
    said = [
        item
        for item in mistakes.found
        if not any(
            item.span.line == span.line if whole_line else _touches(item.span, span)
            for span, whole_line in doubtful
        )
    ]
    return file, in_order([*found, *said])


def names_written(path: str, text: str) -> frozenset[str]:
    """The settings, lists, counters and rule ids that the text declares, whether or not they can be read."""
    node, _ = read_document(path, text)
    names: set[str] = set()
    for key, value in node.items if isinstance(node, MappingNode) else ():
        if key.text == "velocity" and isinstance(value, MappingNode):
            names |= {name.text for name, _ in value.items}
        elif key.text in ("settings", "lists") and isinstance(value, MappingNode):
            names |= {name.text for name, entry in value.items if isinstance(entry, MappingNode)}
        elif key.text == "rules" and isinstance(value, Sequence):
            ids = [item.get("id") for item in value.items if isinstance(item, MappingNode)]
            names |= {name.text for name in ids if isinstance(name, Scalar)}
    return frozenset(names)


def _touches(one: Span, other: Span) -> bool:
    return one.line == other.line and one.column < other.end_column and other.column < one.end_column


class _FileReader:
    def __init__(self, path: str, text: str, mistakes: Mistakes) -> None:
        self.path = path
        self.text = text
        self.mistakes = mistakes
        self.report = mistakes.report
        self.settings_declared: list[DeclaredSetting] = []
        self.settings_given: list[GivenSetting] = []
        self.lists_declared: list[CheckedList] = []
        self.lists_filled: list[FilledList] = []
        self.dated_lists: list[FilledList] = []
        self.entry_count = 0

    def read(self, node: Node) -> CheckedFile | None:
        if not isinstance(node, MappingNode):
            hint = "begin with `merchant: its-name`; a space follows each colon"
            self.report("not-a-rule-file", "this is no rule file", node, hint)
            return None
        kinds = [key for key, _ in node.items if key.text in _KINDS]
        if len(kinds) != 1:
            self._report_kinds(node, kinds)
            return None
        kind = FileKind(kinds[0].text)
        allowed = SHARED_LIST_KEYS if kind is FileKind.SHARED_LIST else (kind.value, *RULE_SET_KEYS)
        given = known_keys(node, allowed, "the file", self.mistakes)
        if kind.value not in given:
            return None
        name_node = given[kind.value][1]
        name = self.read_name(name_node, kind)
        timezone = self.read_timezone(given)
        if kind is FileKind.SHARED_LIST:
            self.read_shared_list(ListName(name), name_node, given, timezone or DEFAULT_TIMEZONE)
        extends, extends_span = self.read_extends(given)
        if "settings" in given:
            self.read_settings(given["settings"][1])
        if "lists" in given:
            dates_wait = timezone is None and extends is not None
            self.read_lists(given["lists"][1], timezone or DEFAULT_TIMEZONE, dates_wait)
        metadata = self.read_metadata(given["metadata"][1]) if "metadata" in given else []
        challenge = self.read_challenge(given["challenge"][1]) if "challenge" in given else {}
        settings = given["settings"][1] if "settings" in given else None
        named = {key.text: key for key, _ in settings.items} if isinstance(settings, MappingNode) else {}
        velocity = read_velocity(given["velocity"][1], self.mistakes, named) if "velocity" in given else []
        rules = []
        if "rules" in given:
            known = self.known_facts(metadata, velocity, given)
            rules = read_rules(given["rules"][1], self.mistakes, known, extends is not None)
        return CheckedFile(
            kind=kind,
            name=name,
            path=self.path,
            span=name_node.span,
            description=read_text(given, "description", self.mistakes, 1000) or "",
            extends=extends,
            extends_span=extends_span,
            otherwise=read_word(given["otherwise"][1], Outcome, self.mistakes) if "otherwise" in given else None,
            timezone=timezone,
            attempted=challenge.get("attempted"),
            unavailable=challenge.get("unavailable"),
            impossible=challenge.get("impossible"),
            settings_declared=tuple(self.settings_declared),
            settings_given=tuple(self.settings_given),
            lists_declared=tuple(self.lists_declared),
            lists_filled=tuple(self.lists_filled),
            dated_lists=tuple(self.dated_lists),
            metadata=tuple(metadata),
            velocity=tuple(velocity),
            changes=tuple(read_changes(given["change"][1], self.mistakes)) if "change" in given else (),
            rules=tuple(rules),
            content_sha256=content_digest(node),
            text_sha256=hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest(),
        )

    @staticmethod
    def known_facts(
        metadata: list[DeclaredMetadata], velocity: list[Counter], given: dict[str, tuple[Scalar, Node]]
    ) -> KnownFacts:
        counters = {counter.name: counter for counter in velocity}
        block = given["velocity"][1] if "velocity" in given else None
        written = {key.text for key, _ in block.items} if isinstance(block, MappingNode) else set()
        return KnownFacts(types_by_key(metadata), counters, frozenset(written - counters.keys()))

    # ---- head of the file ---------------------------------------------------------------------

    def _report_kinds(self, node: MappingNode, kinds: list[Scalar]) -> None:
        if kinds:
            also = ((kinds[0].span, "the file is one of these already"),)
            hint = "keep one of them; a file holds one rule set or one list"
            self.report(
                "two-kinds", f"`{kinds[1].text}` cannot stand beside `{kinds[0].text}`", kinds[1], hint, also
            )
            return
        first = node.items[0][0] if node.items else None
        hint = suggest(first.text[:64], _KINDS) if first is not None else ""
        hint = hint or "begin with `merchant: its-name`"
        message = "the file does not say whose rules it holds"
        self.report("no-kind", message, first if first is not None else node, hint)

    def read_name(self, node: Node, kind: FileKind) -> str:
        if not isinstance(node, Scalar):
            self.report("bad-name", f"`{kind.value}` takes a name", node, "write it in lower case, with dashes")
            return ""
        pattern = _WORD_NAME if kind is FileKind.SHARED_LIST else NAME
        path = PurePosixPath(self.path)
        if pattern.fullmatch(node.text) is None:
            between = "underscores" if kind is FileKind.SHARED_LIST else "dashes"
            hint = f"lower-case letters and digits with {between} between, 63 at most"
            self.report("bad-name", f"{shown(node.text)} cannot be a name", node, hint)
        elif path.suffix in (".yaml", ".yml") and path.stem != node.text:
            hint = f"rename the file to `{node.text}{path.suffix}`, or write `{kind.value}: {path.stem}`"
            self.report("name-differs", f"`{kind.value}` differs from the file's name", node, hint)
        return node.text

    def read_extends(self, given: dict[str, tuple[Scalar, Node]]) -> tuple[str | None, Span]:
        text = read_text(given, "extends", self.mistakes)
        if text is None:
            return None, Span(self.path, 1, 1, 2)
        node = given["extends"][1]
        if NAME.fullmatch(text) is None:
            self.report(
                "bad-name", f"{shown(text)} is no rule set's name", node, "write one name, such as `platform`"
            )
        return text, node.span

    def read_timezone(self, given: dict[str, tuple[Scalar, Node]]) -> str | None:
        text = read_text(given, "timezone", self.mistakes)
        if text is None:
            return None
        zone = values.timezone(text)
        if isinstance(zone, Wrong):
            self.report(zone.code, zone.message, given["timezone"][1], zone.hint)
            return None
        return zone

    def read_challenge(self, node: Node) -> dict[str, Outcome | None]:
        pairs = self.mapping(node, "challenge", "{attempted: accept, unavailable: refuse}")
        if pairs is None:
            return {}
        given = known_keys(pairs, CHALLENGE_KEYS, "`challenge`", self.mistakes)
        outcomes = {key: read_word(value, Outcome, self.mistakes) for key, (_, value) in given.items()}
        if outcomes.get("impossible") is Outcome.CHALLENGE:
            message = "`impossible` cannot be a challenge: nobody is there to answer it"
            self.report("impossible-challenge", message, given["impossible"][1], "write `refuse` or `accept`")
        return outcomes

    def mapping(self, node: Node, key: str, example: str) -> MappingNode | None:
        if isinstance(node, MappingNode):
            return node
        self.report("not-a-mapping", f"`{key}` takes names with values", node, f"write it as `{example}`")
        return None

    # ---- settings and metadata ----------------------------------------------------------------

    def read_settings(self, node: Node) -> None:
        pairs = self.mapping(node, "settings", "{challenge_above: 300 TND}")
        for key, value in pairs.items if pairs is not None else ():
            if not self.is_word_name(key, "setting"):
                continue
            if key.text in CATALOGUE:
                message = f"{shown(key.text)} is the name of a fact, so `${key.text}` would mean both"
                self.report("setting-named-like-fact", message, key, "give the setting another name")
            elif isinstance(value, Scalar) and value.is_empty:
                self.report("empty-value", f"`{key.text}` has no value", key, "write the value, or delete the key")
            elif isinstance(value, MappingNode) and any(part.text in SETTING_KEYS for part, _ in value.items):
                self.declare_setting(key, value)
            else:
                self.settings_given.append(GivenSetting(key.text, value, key.span))

    def is_word_name(self, key: Scalar, what: str) -> bool:
        if _WORD_NAME.fullmatch(key.text):
            return True
        hint = "lower-case letters and digits with underscores between, 63 at most"
        self.report("bad-name", f"{shown(key.text)} cannot be the name of a {what}", key, hint)
        return False

    def declare_setting(self, key: Scalar, node: MappingNode) -> None:
        given = known_keys(node, SETTING_KEYS, "a setting", self.mistakes)
        kind = self.read_type(given, node, SETTING_TYPES)
        if kind is None:
            return
        value = read_setting_value(given["value"][1], kind, self.mistakes) if "value" in given else None
        note = read_text(given, "help", self.mistakes) or ""
        self.settings_declared.append(DeclaredSetting(key.text, kind, note, value, key.span))

    def read_type(
        self, given: dict[str, tuple[Scalar, Node]], node: Node, allowed: tuple[FactType, ...]
    ) -> FactType | None:
        words = [kind.value for kind in allowed]
        if "type" not in given:
            if not (isinstance(node, MappingNode) and node.get("type") is not None):
                self.report("missing-key", "a declaration needs its `type`", node, f"it is {one_of_words(words)}")
            return None
        return self.type_word(given["type"][1], words)

    def type_word(self, node: Node, words: list[str]) -> FactType | None:
        if isinstance(node, Scalar) and node.text in words:
            return FactType(node.text)
        said = shown(node.text) if isinstance(node, Scalar) else "this"
        hint = suggest(node.text[:64], words) if isinstance(node, Scalar) else ""
        self.report("unknown-type", f"{said} is no type", node, hint or f"it is {one_of_words(words)}")
        return None

    def read_metadata(self, node: Node) -> list[DeclaredMetadata]:
        """`KEY: text`, or `KEY: {type: text, help: …}`."""
        declared: list[DeclaredMetadata] = []
        pairs = self.mapping(node, "metadata", "{basket_size: integer}")
        for key, value in pairs.items if pairs is not None else ():
            if _METADATA_KEY.fullmatch(key.text) is None:
                hint = "letters, digits, `_` and `-`, 63 at most"
                self.report("bad-name", f"{shown(key.text)} cannot be a metadata key", key, hint)
                continue
            if isinstance(value, MappingNode):
                given = known_keys(value, METADATA_KEYS, "a metadata key", self.mistakes)
                read_text(given, "help", self.mistakes)
                kind = self.read_type(given, value, METADATA_TYPES)
            else:
                kind = self.type_word(value, [kind.value for kind in METADATA_TYPES])
            if kind is not None:
                declared.append(DeclaredMetadata(key.text, kind, key.span))
        return declared

    # ---- lists --------------------------------------------------------------------------------

    def read_lists(self, node: Node, timezone: str, dates_wait: bool) -> None:
        pairs = self.mapping(node, "lists", "{blocked_ip_countries: [RU, KP]}")
        for key, value in pairs.items if pairs is not None else ():
            if not self.is_word_name(key, "list"):
                continue
            if isinstance(value, Sequence):
                if self.may_hold(value):
                    self.lists_filled.append(FilledList(ListName(key.text), value, key.span))
            elif isinstance(value, MappingNode) and not _is_set(value):
                given = known_keys(value, LIST_KEYS, "a list", self.mistakes)
                self.declare_list(key, value, given, timezone, dates_wait)
            elif isinstance(value, Scalar) and value.is_empty:
                self.report("empty-value", f"`{key.text}` has no value", key, "write `[]` for no entries")
            else:
                self.report_not_a_list(key.text, value)

    def report_not_a_list(self, name: str, node: Scalar | MappingNode) -> None:
        keys = [key.text for key, _ in node.items] if isinstance(node, MappingNode) else []
        pieces = split_entries(node, self.text) if isinstance(node, Scalar) else keys
        self.report("not-a-list", "entries are written as a list", node, list_meant(name, pieces))

    def may_hold(self, node: Sequence) -> bool:
        self.entry_count += len(node.items)
        if self.entry_count <= MAX_ENTRIES:
            return True
        hint = "keep long lists in the runtime lists"
        self.report("too-many-entries", f"more than {MAX_ENTRIES:,} list entries in one file", node, hint)
        return False

    def declare_list(
        self,
        key: Scalar,
        node: Node,
        given: dict[str, tuple[Scalar, Node]],
        timezone: str,
        dates_wait: bool,
    ) -> None:
        kind = self.read_list_kind(given, node)
        if kind is None:
            return
        entries = given.get("entries")
        read: tuple[ListEntry, ...] = ()
        if entries is not None and isinstance(entries[1], Scalar) and not entries[1].is_empty:
            self.report_not_a_list("entries", entries[1])
        elif entries is not None and (not isinstance(entries[1], Sequence) or self.may_hold(entries[1])):
            read = read_entries(entries[1], kind, timezone, self.mistakes)
            if dates_wait and isinstance(entries[1], Sequence) and says_dates(entries[1]):
                self.dated_lists.append(FilledList(ListName(key.text), entries[1], key.span))
        note = read_text(given, "help", self.mistakes) or read_text(given, "description", self.mistakes, 1000) or ""
        self.lists_declared.append(CheckedList(ListName(key.text), kind, note, read, key.span))

    def read_list_kind(self, given: dict[str, tuple[Scalar, Node]], node: Node) -> ListKind | None:
        words = [kind.value for kind in ListKind]
        if "of" not in given:
            if not (isinstance(node, MappingNode) and node.get("of") is not None):
                hint = f"write `of:` and {one_of_words(words)}"
                self.report("missing-key", "the list does not say what its entries are", node, hint)
            return None
        value = given["of"][1]
        if isinstance(value, Scalar) and value.text in words:
            return ListKind(value.text)
        text = value.text if isinstance(value, Scalar) else ""
        hint = suggest(_LIST_KIND_NAMES.get(text, text[:64]), words)
        message = f"{shown(text) if text else 'this'} is no kind of entry"
        self.report("unknown-list-kind", message, value, hint or f"it is {one_of_words(words)}")
        return None

    def read_shared_list(
        self, name: ListName, name_node: Node, given: dict[str, tuple[Scalar, Node]], timezone: str
    ) -> None:
        key = name_node if isinstance(name_node, Scalar) else Scalar(name, True, self.path, 1, 1, 2)
        self.declare_list(key, name_node, given, timezone, dates_wait=False)


def _is_set(node: MappingNode) -> bool:
    """Whether it is `{RU, KP}`, which YAML reads as keys without values."""
    empty = all(isinstance(value, Scalar) and value.is_empty for _, value in node.items)
    return empty and bool(node.items) and not any(key.text in LIST_KEYS for key, _ in node.items)


_KINDS: Final = tuple(kind.value for kind in FileKind)


def read_setting_value(node: Node, kind: FactType, mistakes: Mistakes) -> Literal | MoneyFigures | None:
    """A setting's value of its declared type."""
    if isinstance(node, MappingNode) and kind is FactType.MONEY:
        return read_figures(node, mistakes)
    if not isinstance(node, Scalar):
        hint = "for several values use a list: `lists:`" if isinstance(node, Sequence) else "write one value"
        mistakes.report("not-a-value", f"one value of type {kind.value} was expected here", node, hint)
        return None
    return read_operand(node, FactSpec("", kind, Origin.REQUEST, ""), mistakes)
