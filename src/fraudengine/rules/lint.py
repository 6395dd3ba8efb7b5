"""What is no mistake but hardly meant: the warnings of `fraudengine check`.

A rule set is warned about what its own file says; what it inherits is warned about once, in the file that says
it. So a house rule set may offer lists and settings that no merchant fills in without anybody hearing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final

from ..diagnostics import Diagnostic, Severity, Span
from . import check_values as values
from .ast import Mode, Outcome, Rule, RuleId, RuleSet
from .checked import DEFAULT_TIMEZONE, CheckedFile, CheckedRule, FileKind, shown
from .counters import SECOND_US, Measure
from .lint_pairs import compare_rules
from .yamldoc import Mapping as MappingNode
from .yamldoc import Node, Scalar, Sequence, read_document


def find_warnings(
    files: Mapping[str, CheckedFile], rule_sets: Mapping[str, RuleSet], sources: Mapping[str, str], as_of_us: int
) -> list[Diagnostic]:
    """Every warning about good files; `files` and `sources` by path, `rule_sets` by name, the time in UTC µs."""
    found: list[Diagnostic] = []
    by_name = {file.name: file for file in files.values() if file.kind is not FileKind.SHARED_LIST}
    found += _unread_declarations(files.values())
    found += _crowded_counters(files.values())
    for path, file in files.items():
        rule_set = rule_sets.get(file.name) if file.kind is not FileKind.SHARED_LIST else None
        if rule_set is not None:
            found += compare_rules(rule_set.rules, file.name)
            found += _filled_for_nobody(file, rule_set, by_name)
            found += _silent_without_entries(file, rule_set, rule_sets)
        if "expires" in sources.get(path, ""):
            timezone = rule_set.timezone if rule_set is not None else file.timezone or DEFAULT_TIMEZONE
            found += _expired_entries(path, sources[path], timezone, as_of_us)
    return found


def _warning(code: str, message: str, span: Span, hint: str, also: tuple[tuple[Span, str], ...] = ()) -> Diagnostic:
    return Diagnostic(code, message, span, hint, Severity.WARNING, also)


# ---- declared and never read ----------------------------------------------------------------------


def _names_read(checked: CheckedRule) -> set[str]:
    """The settings, lists and facts that a rule names; of a rule that link has to read again, every text in it."""
    if checked.deferred is not None:
        return set(_texts(checked.deferred))
    return {use.name for use in checked.settings} | {use.name for use in checked.lists} | checked.reads


def _texts(node: Node) -> Iterator[str]:
    if isinstance(node, Scalar):
        yield node.text.removeprefix("$")
    elif isinstance(node, MappingNode):
        for key, value in node.items:
            yield key.text
            yield from _texts(value)
    else:
        for item in node.items:
            yield from _texts(item)


def _unread_declarations(files: Iterable[CheckedFile]) -> Iterator[Diagnostic]:
    """A setting or list that no rule reads: no rule of its own file, nor of one that may inherit or share it."""
    everybody = list(files)
    reads = {file.path: set[str]().union(*map(_names_read, file.rules)) for file in everybody}
    anywhere = set[str]().union(*reads.values())
    for file in everybody:
        read = reads[file.path] if file.kind is FileKind.MERCHANT else anywhere
        declared = [("setting", item.name, item.span) for item in file.settings_declared]
        declared += [("list", item.name, item.span) for item in file.lists_declared]
        declared += [("counter", item.name, item.span) for item in file.velocity]
        for what, name, span in declared:
            if name not in read:
                hint = f"delete it, or write a rule that reads {'$' * (what == 'setting')}{name}"
                yield _warning(f"unread-{what}", f"no rule reads the {what} `{name}`", span, hint)


def _filled_for_nobody(
    file: CheckedFile, rule_set: RuleSet, by_name: Mapping[str, CheckedFile]
) -> Iterator[Diagnostic]:
    """A value or entries given for rules that are all off in this rule set."""
    given = [("setting", item.name, item.span) for item in file.settings_given]
    given += [("list", item.name, item.span) for item in file.lists_filled]
    if not given:
        return
    readers: dict[str, set[RuleId]] = {}
    places: dict[RuleId, Span] = {}
    step: CheckedFile | None = file
    while step is not None:
        for checked in step.rules:
            places[checked.rule.id] = checked.rule.span
            for name in _names_read(checked):
                readers.setdefault(name, set()).add(checked.rule.id)
        step = by_name.get(step.extends) if step.extends is not None else None
    empty = {item.name for item in file.lists_filled if not item.entries.items}
    off = {rule.id: rule.off_because for rule in rule_set.rules if rule.mode is Mode.OFF}
    for what, name, span in given:
        rules = sorted(readers.get(name, ()))
        if all(rule in off for rule in rules):
            message = f"{what} `{name}` is filled in, but no rule in force reads it"
            hint = "set a rule that reads it live, or delete it"
            if what == "list" and name in empty:
                message = f"list `{name}` is empty, and no rule in force reads it"
                hint = "write its entries, or delete the line: an empty list changes nothing"
            also = tuple((places[rule], f"off: {off[rule]}") for rule in rules)
            yield _warning(f"unread-{what}", message, span, hint, also)


_SHARED: Final = frozenset(
    {
        *("channel", "terminal", "card_bin", "card_brand", "card_type", "card_issuer", "card_country"),
        *("ip_country", "phone_country", "billing_country", "shipping_country", "email_domain"),
    }
)
"""Facts that many payments have in common."""
_CROWDED_US: Final = 3_600 * SECOND_US


def _crowded_counters(files: Iterable[CheckedFile]) -> Iterator[Diagnostic]:
    """A sum, or a count of few different values, over what many payments share: each payment reads all of them.

    Counting stops at the figure that rules compare with: a plain count, or one of many different values, is cheap.
    """
    for counter in (counter for file in files for counter in file.velocity):
        endless = counter.measure is Measure.SUM or counter.distinct in _SHARED
        if endless and counter.within_us > _CROWDED_US and _SHARED.issuperset(counter.per):
            per = " and ".join(f"`{name}`" for name in counter.per)
            yield _warning(
                "crowded-counter",
                f"many payments share one {per}, and for each the counter `{counter.name}` reads all the others: "
                "some 5 ms for 100,000, in which the service decides nothing else",
                counter.span,
                f"count per buyer, such as `per: [{', '.join((*counter.per, 'customer'))}]`, or within an hour",
            )


def _silent_without_entries(
    file: CheckedFile, rule_set: RuleSet, rule_sets: Mapping[str, RuleSet]
) -> Iterator[Diagnostic]:
    """A rule against whoever is not in a list that is empty: it is off, so everybody passes it.

    A house rule is warned about when there are merchants and it is off for all of them. An `allowed_*` list is
    left alone: that its rules wait for it is what its name says.
    """
    off = {rule.id: rule for rule in rule_set.rules if rule.mode is Mode.OFF and rule.awaits}
    for checked in file.rules:
        rule = off.get(checked.rule.id)
        if rule is None or rule.then is Outcome.ACCEPT:
            continue
        everybody = ""
        if file.kind is not FileKind.MERCHANT:
            modes = _modes_for_merchants(rule, file.name, rule_sets)
            if not modes or modes != {Mode.OFF}:
                continue
            everybody = " for every merchant"
        for use in checked.lists:
            if use.turns_off and use.name in rule.awaits and not use.name.startswith("allowed_"):
                message = (
                    f"rule `{rule.id}` is off{everybody} while the list `{use.name}` has no entry, "
                    "so it stops nobody"
                )
                hint = (
                    f"fill the list, or name it `trusted_{use.name}`: then the rule holds for everybody meanwhile"
                )
                yield _warning("silent-without-entries", message, use.span, hint)
                break


def _modes_for_merchants(rule: Rule, house: str, rule_sets: Mapping[str, RuleSet]) -> set[Mode]:
    """How a rule that house rules bring stands with those who inherit it."""
    return {
        inherited.mode
        for name, rule_set in rule_sets.items()
        if name != house
        for inherited in rule_set.rules
        if inherited.id == rule.id and inherited.span == rule.span
    }


# ---- expired entries ------------------------------------------------------------------------------


def _expired_entries(path: str, text: str, timezone: str, as_of_us: int) -> Iterator[Diagnostic]:
    node, _ = read_document(path, text)
    for entry in _entries(node) if isinstance(node, MappingNode) else ():
        expires = entry.get("expires")
        if not isinstance(expires, Scalar):
            continue
        moment = values.instant(expires.text, timezone)
        if isinstance(moment, int) and moment <= as_of_us:
            value = entry.get("value")
            name = shown(value.text) if isinstance(value, Scalar) else "this"
            message = f"the list entry {name} has expired and counts no longer"
            yield _warning("expired-entry", message, expires.span, "delete the entry, or give it a later date")


def _entries(top: MappingNode) -> Iterator[MappingNode]:
    """The entries of every list in the file that are written with their notes."""
    lists = top.get("lists")
    held: list[Node | None] = [top.get("entries")]
    for _, value in lists.items if isinstance(lists, MappingNode) else ():
        held.append(value.get("entries") if isinstance(value, MappingNode) else value)
    for entries in held:
        for entry in entries.items if isinstance(entries, Sequence) else ():
            if isinstance(entry, MappingNode):
                yield entry


# ---- rules that no test makes match ---------------------------------------------------------------


def find_unmatched_rules(
    files: Mapping[str, CheckedFile], rule_sets: Mapping[str, RuleSet], matched: Mapping[str, Set[RuleId]]
) -> list[Diagnostic]:
    """Live rules that no test makes match; `matched` holds, for each merchant with tests, those that do.

    A merchant's own rules and those that it sets live itself need a test of its own. For a house rule that is
    live of itself a test of any merchant will do, and none is missed while it cannot match for a tested merchant.
    """
    found: list[Diagnostic] = []
    tested = set[RuleId]().union(*matched.values())
    for file in files.values():
        if file.kind is FileKind.MERCHANT and file.name in matched and file.name in rule_sets:
            live = {rule.id for rule in rule_sets[file.name].rules if rule.mode is Mode.LIVE}
            own = [(checked.rule.id, checked.rule.span) for checked in file.rules]
            own += [(change.rule_id, change.span) for change in file.changes if change.mode is Mode.LIVE]
            found += [_unmatched(rule, span, file.name) for rule, span in own if rule in live - matched[file.name]]
        elif file.kind is FileKind.PLATFORM:
            for checked in file.rules:
                rule_id = checked.rule.id
                if checked.rule.mode is not Mode.LIVE or rule_id in tested:
                    continue
                if any(_may_match(checked, rule_sets[name]) for name in matched):
                    found.append(_unmatched(rule_id, checked.rule.span, ""))
    return found


def _may_match(checked: CheckedRule, rule_set: RuleSet) -> bool:
    """Whether the house rule is live for the rule set, and no list that it reads is empty there."""
    rule = next((rule for rule in rule_set.rules if rule.id == checked.rule.id), None)
    if rule is None or rule.mode is not Mode.LIVE:
        return False
    return all(use.name in rule_set.lists and rule_set.lists[use.name].entries for use in checked.lists)


def _unmatched(rule_id: RuleId, span: Span, merchant: str) -> Diagnostic:
    whose = f"test of {merchant}" if merchant else "test of any merchant"
    hint = "add a test with a payment that it is meant for"
    return _warning("untested-rule", f"no {whose} makes rule `{rule_id}` match", span, hint)
