"""A checked file over the files that it extends -> one effective rule set, or every mistake between them.

Files are merged from the farthest parent down. What a parent comes to is computed once and kept with it
(`CheckedFile.linked`), and so is every form that its rules take with given setting values: merchants whose
figures are equal share their rules object by object.

A rule is off, and says why, when it refers to a setting that nobody gave a value or to an `allowed_*` list
without entries, or when its `when` does `not_in_list` on another list without entries: it would then hold for
everybody. Lists named `trusted_*`, `blocked_*` or `blacklist` are excepted: nobody trusted and nobody blocked
are ordinary states, and a rule "challenge unless trusted" must not fall silent for them. Entries add up along
`extends`: a merchant's file never takes away what the house rules list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from ..diagnostics import Diagnostic, suggest
from .ast import ChallengeOutcomes, DeclaredList, ListName, Mode, Outcome, Rule, RuleId, RuleSet
from .check import names_written, read_file
from .checked import DEFAULT_TIMEZONE, CheckedFile, FileKind, has_errors, in_order, shown
from .counters import with_counter_needs
from .link_merge import Merged, merge
from .link_rules import make_effective

__all__ = ["find_mistakes", "link", "resolve_extends", "rules_before_settings"]

_REVISION_FORM: Final = "fraudengine rule set 1"


def resolve_extends(name: str, files: Mapping[str, CheckedFile]) -> tuple[CheckedFile, ...] | list[Diagnostic]:
    """The files that `files[name]` extends, nearest first, or why the chain does not hold.

    `files` are merchants and rule sets by name, without shared lists.
    """
    chain = [files[name]]
    while (wanted := chain[-1].extends) is not None:
        heir = chain[-1]
        parent = files.get(wanted)
        if parent is None:
            names = [known.name for known in files.values() if known.kind is FileKind.PLATFORM]
            hint = suggest(wanted[:64], names) or "write the name of a rule set, such as `platform`"
            return [Diagnostic("unknown-extends", f"no rule set {shown(wanted)}", heir.extends_span, hint)]
        if any(parent is known for known in chain):
            hint = "a rule set cannot extend itself, directly or through others"
            also = tuple((file.extends_span, "through this") for file in chain if file is not heir)
            message = f"{shown(wanted)} is extended in a circle"
            return [Diagnostic("cyclic-extends", message, heir.extends_span, hint, also=also)]
        if parent.kind is not FileKind.PLATFORM:
            hint = "only a file that begins with `rule_set:` can be extended"
            also = ((parent.span, "it is a merchant's"),)
            message = f"{shown(wanted)} cannot be extended"
            return [Diagnostic("extends-merchant", message, heir.extends_span, hint, also=also)]
        chain.append(parent)
    return tuple(chain[1:])


def link(
    file: CheckedFile, parents: Sequence[CheckedFile], shared_lists: Mapping[str, CheckedFile]
) -> RuleSet | list[Diagnostic]:
    """The effective rule set of a merchant or rule set; `parents` as `resolve_extends` gives them."""
    base: Merged | None = None
    for parent in reversed(parents):
        base = _merge_once(parent, base, shared_lists)
    merged = (
        merge(file, base, shared_lists) if file.kind is FileKind.MERCHANT else _merge_once(file, base, shared_lists)
    )
    mistakes = list(merged.mistakes)
    rules: list[Rule] = []
    for checked in merged.rules.values():
        effective = make_effective(checked, merged, base)
        if isinstance(effective, Rule):
            rules.append(effective)
        else:
            mistakes += effective
    if mistakes:
        return list(in_order(mistakes))
    rules.sort(key=lambda rule: rule.id)
    return _rule_set(file, parents, merged, base, tuple(rules), shared_lists)


def rules_before_settings(
    file: CheckedFile, parents: Sequence[CheckedFile], shared_lists: Mapping[str, CheckedFile]
) -> dict[RuleId, Rule]:
    """The rules of a rule set as files write them, `$settings` not filled in: what `diff` compares."""
    base: Merged | None = None
    for parent in reversed(parents):
        base = _merge_once(parent, base, shared_lists)
    return {rule_id: checked.rule for rule_id, checked in merge(file, base, shared_lists).rules.items()}


def find_mistakes(
    path: str, text: str, files: Mapping[str, CheckedFile], shared_lists: Mapping[str, CheckedFile]
) -> tuple[Diagnostic, ...]:
    """Every mistake of one file at once: its own, and those against the files that it extends.

    `check_text` and then `link` show the second kind only once the first is mended; a person wants both.
    `files` are the good merchants and rule sets by name, with or without this one.
    """
    file, mistakes = read_file(path, text)
    if file is None or file.kind is FileKind.SHARED_LIST:
        return mistakes
    parents = resolve_extends(file.name, {**files, file.name: file})
    if isinstance(parents, list):
        return in_order([*mistakes, *parents])
    if not has_errors(mistakes):
        linked = link(file, parents, shared_lists)
        return in_order([*mistakes, *linked]) if isinstance(linked, list) else mistakes
    base: Merged | None = None
    for parent in reversed(parents):
        base = _merge_once(parent, base, shared_lists)
    # What the file meant to declare but could not be read is no mistake a second time.
    written = names_written(path, text)
    further = [item for item in merge(file, base, shared_lists).mistakes if not _is_about(item, written)]
    return in_order([*mistakes, *further])


def _is_about(mistake: Diagnostic, names: frozenset[str]) -> bool:
    if mistake.code not in ("unknown-setting", "unknown-list", "unknown-rule", "unknown-fact"):
        return False
    return any(f"`{name}`" in mistake.message or f"`${name}`" in mistake.message for name in names)


def _merge_once(file: CheckedFile, base: Merged | None, shared_lists: Mapping[str, CheckedFile]) -> Merged:
    """`merge`, kept with the file as long as its parents and the shared lists are the same objects."""
    shared = tuple(shared_lists.values())
    known = file.linked.get("merged")
    if known is not None:
        known_base, known_shared, merged = known
        if known_base is base and len(known_shared) == len(shared) and all(map(_is, known_shared, shared)):
            assert isinstance(merged, Merged)
            return merged
    merged = merge(file, base, shared_lists)
    file.linked["merged"] = (base, shared, merged)
    return merged


def _is(one: object, other: object) -> bool:
    return one is other


def _rule_set(
    file: CheckedFile,
    parents: Sequence[CheckedFile],
    merged: Merged,
    base: Merged | None,
    rules: tuple[Rule, ...],
    shared_lists: Mapping[str, CheckedFile],
) -> RuleSet:
    lists: dict[ListName, DeclaredList] = merged.lists
    read_shared = sorted({use.name for rule in merged.rules.values() for use in rule.lists} & shared_lists.keys())
    sources = [file, *parents]
    if read_shared:
        lists = dict(lists)
        for name in read_shared:
            shared = shared_lists[name]
            lists[ListName(name)] = shared_list(shared)
            sources.append(shared)
    evaluated = [merged.rules[rule.id] for rule in rules if rule.mode is not Mode.OFF]
    reads = frozenset().union(*(rule.reads for rule in evaluated))
    reads = with_counter_needs(reads, merged.velocity)
    form = "\n".join([_REVISION_FORM, *(source.content_sha256 for source in sources)])
    return RuleSet(
        name=file.name,
        description=file.description,
        revision=hashlib.sha256(form.encode()).hexdigest(),
        otherwise=merged.otherwise or Outcome.ACCEPT,
        challenge=ChallengeOutcomes(
            merged.attempted or Outcome.ACCEPT,
            merged.unavailable or Outcome.REFUSE,
            merged.impossible or Outcome.REFUSE,
        ),
        timezone=merged.timezone or DEFAULT_TIMEZONE,
        rules=rules,
        lists=lists,
        settings=merged.settings,
        metadata=merged.metadata,
        reads=(base or merged).shared_reads(reads),
        sources=tuple((source.path, source.text_sha256) for source in sources),
        velocity=merged.velocity,
    )


def shared_list(file: CheckedFile) -> DeclaredList:
    """The list of a shared-list file: one object for everybody who reads it."""
    known = file.linked.get("list")
    if not isinstance(known, DeclaredList):
        declared = file.lists_declared[0]
        known = DeclaredList(declared.name, declared.kind, declared.help, declared.entries, file.path)
        file.linked["list"] = known
    return known
