"""The `rules` and `change` blocks: nodes -> rules and the tuning of inherited ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

from ..diagnostics import Span, suggest
from . import check_values as values
from .ast import All, Mode, Outcome, Rule, RuleId, facts_read
from .check_conditions import Scope, read_condition
from .check_values import Wrong
from .checked import Change, CheckedRule, KnownFacts, Mistakes, one_of_words, shown
from .reachability import find_contradiction
from .yamldoc import Mapping as MappingNode
from .yamldoc import Node, Scalar, Sequence

MAX_RULES: Final = 1000
RULE_KEYS: Final = (
    "id",
    "description",
    "when",
    "unless",
    "then",
    "reason",
    "if_unknown",
    "final",
    "mode",
    "challenge_indicator",
)
CHANGE_KEYS: Final = ("mode", "then", "if_unknown", "reason", "description", "challenge_indicator")
CHALLENGE_INDICATORS: Final = ("03", "04")
MAX_DESCRIPTION: Final = 1000
LANGUAGES: Final = ("en", "fr")

_RULE_ID: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_REASON: Final = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
_SAYS_SAME: Final = {
    "deny": "refuse",
    "decline": "refuse",
    "reject": "refuse",
    "block": "refuse",
    "allow": "accept",
    "approve": "accept",
    "review": "challenge",
    "3ds": "challenge",
    "on": "live",
    "true": "live",
    "enabled": "live",
    "false": "off",
    "disabled": "off",
    "test": "shadow",
}

E = TypeVar("E", bound=StrEnum)


def read_rules(node: Node, mistakes: Mistakes, known: KnownFacts, more: bool) -> list[CheckedRule]:
    """Every rule of the block without mistakes; `more` says that an inherited file may declare more facts."""
    if not isinstance(node, Sequence):
        mistakes.report("not-a-list", "`rules` takes a list", node, "begin each rule with `- id:`")
        return []
    if len(node.items) > MAX_RULES:
        hint = "split the file, or put values into a list instead of one rule each"
        mistakes.report("too-many-rules", f"more than {MAX_RULES:,} rules", node.items[MAX_RULES], hint)
        return []
    rules: list[CheckedRule] = []
    first_of: dict[str, Scalar] = {}
    for item in node.items:
        name = item.get("id") if isinstance(item, MappingNode) else None
        if isinstance(name, Scalar) and name.text:
            first = first_of.setdefault(name.text, name)
            if first is not name:
                also = ((first.span, "the first one"),)
                mistakes.report(
                    "duplicate-rule", f"two rules have the id {shown(name.text)}", name, "rename one of them", also
                )
        rule = read_rule(item, mistakes, known, more)
        if rule is not None:
            rules.append(rule)
    return rules


def read_rule(node: Node, mistakes: Mistakes, known: KnownFacts, more: bool) -> CheckedRule | None:
    """One rule, or None when it has mistakes."""
    if not isinstance(node, MappingNode):
        mistakes.report("not-a-rule", "a rule was expected here", node, "begin it with `- id: some-name`")
        return None
    before = len(mistakes.found)
    given = known_keys(node, RULE_KEYS, "a rule", mistakes)
    for key in ("id", "when", "then"):
        if key not in given and all(name.text != key for name, _ in node.items):
            mistakes.report("missing-key", f"the rule has no `{key}`", node, _MISSING[key])
    rule_id = read_id(given.get("id"), mistakes)
    then = _optional(given, "then", Outcome, mistakes)
    scope = Scope(mistakes, known, more)
    when = read_condition(given["when"][1], scope) if "when" in given else None
    unless = read_condition(given["unless"][1], scope, in_unless=True) if "unless" in given else None
    common = _read_common(given, mistakes)
    final = read_boolean(given, "final", mistakes)
    if final and then not in (None, Outcome.REFUSE):
        hint = "write `then: refuse`, or delete `final`"
        mistakes.report("final-not-refuse", "only a rule that refuses can be final", given["final"][1], hint)
    if rule_id is None or then is None:
        return None
    if len(mistakes.found) > before and not scope.deferred:  # link may have more to say about a deferred one
        return None
    name, name_node = rule_id
    placeholder = when if when is not None else _EVERYTHING
    mode, if_unknown, reason, (description, description_fr), indicator = common
    rule = Rule(
        id=RuleId(name),
        when=placeholder,
        then=then,
        reason=reason or name.upper().replace("-", "_"),
        description=description or "",
        unless=unless,
        if_unknown=if_unknown,
        final=final,
        mode=mode or Mode.LIVE,
        off_because="the rule says `mode: off`" if mode is Mode.OFF else "",
        challenge_indicator=indicator or "04",
        span=name_node.span,
        description_fr=description_fr,
    )
    if scope.deferred:
        return CheckedRule(rule, deferred=node)
    contradiction = find_contradiction(rule)
    if contradiction is not None:
        mistakes.found.append(contradiction)
        return None
    reads = facts_read(placeholder)
    if unless is not None:
        reads |= facts_read(unless)
    return CheckedRule(rule, tuple(scope.settings), tuple(scope.lists), reads)


_MISSING: Final = {
    "id": "write `id: some-name`, in lower case with dashes",
    "when": "write `when:` and a condition, such as `{ip_country: [RU, KP]}`",
    "then": "write `then: accept`, `challenge` or `refuse`",
}


_EVERYTHING: Final = All(
    (), Span("", 0, 0, 0)
)  # stands in for the condition of a deferred rule, which link reads again


def known_keys(
    node: MappingNode, allowed: tuple[str, ...], of_what: str, mistakes: Mistakes
) -> dict[str, tuple[Scalar, Node]]:
    """The pairs with a known key that have a value; a mistake for each other one."""
    given: dict[str, tuple[Scalar, Node]] = {}
    for key, value in node.items:
        if key.text not in allowed:
            hint = suggest(key.text[:64], allowed) or f"{of_what} has {', '.join(f'`{name}`' for name in allowed)}"
            mistakes.report("unknown-key", f"unknown key {shown(key.text)}", key, hint)
        elif isinstance(value, Scalar) and value.is_empty:
            mistakes.report("empty-value", f"`{key.text}` has no value", key, "write the value, or delete the key")
        else:
            given[key.text] = (key, value)
    return given


def read_id(pair: tuple[Scalar, Node] | None, mistakes: Mistakes) -> tuple[str, Scalar] | None:
    if pair is None:
        return None
    node = pair[1]
    if isinstance(node, Scalar) and len(node.text) <= 63 and _RULE_ID.fullmatch(node.text):
        return node.text, node
    hint = "lower-case letters and digits with dashes between, 63 at most, such as `country-blocked`"
    mistakes.report("bad-rule-id", "this is no rule id", node, hint)
    return None


def _read_common(
    given: Mapping[str, tuple[Scalar, Node]], mistakes: Mistakes
) -> tuple[Mode | None, Outcome | None, str | None, tuple[str | None, str], str | None]:
    """What a rule and a change of one have in common."""
    mode = _optional(given, "mode", Mode, mistakes)
    if_unknown = _optional(given, "if_unknown", Outcome, mistakes)
    if if_unknown is Outcome.ACCEPT:
        hint = "write `challenge` or `refuse`, or delete it"
        message = "`if_unknown` cannot accept: what is not known is no reason to trust"
        mistakes.report("unknown-accepts", message, given["if_unknown"][1], hint)
    reason = read_text(given, "reason", mistakes, 64)
    if reason is not None and _REASON.fullmatch(reason) is None:
        hint = "capital letters, such as `IP_COUNTRY_BLOCKED`"
        mistakes.report("bad-reason", "this is no reason code", given["reason"][1], hint)
    description = read_description(given, mistakes)
    indicator = read_text(given, "challenge_indicator", mistakes, 64)
    if indicator is not None and indicator not in CHALLENGE_INDICATORS:
        hint = '`"03"` prefers a challenge, `"04"` demands one'
        message = "this challenge indicator cannot be given"
        mistakes.report("bad-challenge-indicator", message, given["challenge_indicator"][1], hint)
    return mode, if_unknown, reason, description, indicator


def _optional(given: Mapping[str, tuple[Scalar, Node]], key: str, kind: type[E], mistakes: Mistakes) -> E | None:
    return read_word(given[key][1], kind, mistakes) if key in given else None


def read_word(node: Node, kind: type[E], mistakes: Mistakes) -> E | None:
    """A word of a closed set, with a guess for what other systems call it."""
    words = [member.value for member in kind]
    if not isinstance(node, Scalar):
        mistakes.report("not-a-value", "a single word was expected here", node, f"write {one_of_words(words)}")
        return None
    if node.text in words:
        return kind(node.text)
    same = _SAYS_SAME.get(node.text.lower())
    hint = f"did you mean `{same}`?" if same in words else suggest(node.text.lower()[:64], words)
    mistakes.report(
        "unknown-word", f"unknown word {shown(node.text)}", node, hint or f"it is {one_of_words(words)}"
    )
    return None


def read_text(
    given: Mapping[str, tuple[Scalar, Node]], key: str, mistakes: Mistakes, most: int = values.MAX_TEXT
) -> str | None:
    if key not in given:
        return None
    node = given[key][1]
    if not isinstance(node, Scalar):
        mistakes.report(
            "not-a-value", f"`{key}` takes a text", node, "write it on one line, in quotes if it has a `:`"
        )
        return None
    if len(node.text) > most:
        mistakes.report("text-too-long", f"`{key}` has {len(node.text):,} characters", node, f"{most} are the most")
        return None
    return node.text


def read_description(given: Mapping[str, tuple[Scalar, Node]], mistakes: Mistakes) -> tuple[str | None, str]:
    """The description, and its French when it is given as `{en: …, fr: …}`; one language serves for both."""
    node = given["description"][1] if "description" in given else None
    if not isinstance(node, MappingNode):
        return read_text(given, "description", mistakes, MAX_DESCRIPTION), ""
    texts = known_keys(node, LANGUAGES, "a description", mistakes)
    english, french = (read_text(texts, language, mistakes, MAX_DESCRIPTION) for language in LANGUAGES)
    if not node.items:
        hint = "write a text, or `{en: …, fr: …}`"
        mistakes.report("empty-value", "`description` has no text", given["description"][0], hint)
    return english or french, french or ""


def read_boolean(given: Mapping[str, tuple[Scalar, Node]], key: str, mistakes: Mistakes) -> bool:
    if key not in given:
        return False
    node = given[key][1]
    if not isinstance(node, Scalar):
        mistakes.report("not-boolean", f"`{key}` is true or false", node, "write `true` or `false`")
        return False
    value = values.boolean(node.text)
    if isinstance(value, Wrong):
        mistakes.report(value.code, value.message, node, value.hint)
        return False
    return value


# ---- change ---------------------------------------------------------------------------------------


def read_changes(node: Node, mistakes: Mistakes) -> list[Change]:
    """The tuning of inherited rules; whether they exist is for link to say."""
    if not isinstance(node, MappingNode):
        mistakes.report("not-a-mapping", "`change` takes rule ids", node, "write `some-rule: {mode: off}`")
        return []
    changes: list[Change] = []
    for key, value in node.items:
        if not isinstance(value, MappingNode):
            hint = f"write `{{mode: off}}`, or another of {', '.join(f'`{name}`' for name in CHANGE_KEYS)}"
            mistakes.report("not-a-mapping", f"what changes in {shown(key.text)} was expected here", value, hint)
            continue
        if not value.items:
            mistakes.report("empty-value", f"nothing changes in {shown(key.text)}", value, "write `{mode: off}`")
            continue
        given = known_keys(value, CHANGE_KEYS, "a change", mistakes)
        mode, if_unknown, reason, (description, in_french), indicator = _read_common(given, mistakes)
        then = _optional(given, "then", Outcome, mistakes)
        changes.append(
            Change(RuleId(key.text), key.span, mode, then, if_unknown, reason, description, indicator, in_french)
        )
    return changes
