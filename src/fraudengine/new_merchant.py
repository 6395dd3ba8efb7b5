"""The files that a new merchant starts from: a commented rule file and its tests, which pass as they stand."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from .backends.reference import find_matches
from .decision import decide
from .facts import WEEKDAYS, FactType, FactValue, ListKind
from .lists import ListsAsOf, build_indexes
from .money import Money
from .rules.ast import DeclaredList, Outcome, RuleSet, SettingValue

_WIDTH: Final = 100
_MODELINE: Final = "# yaml-language-server: $schema=../{}.schema.json"
_AT: Final = datetime(2026, 11, 23, 11, tzinfo=UTC)
_SAMPLE_CARD: Final = "fp_000000_aaaabbbbccccddddeeeeffffgggghhhh"
_EXAMPLES: Final[dict[FactType, str]] = {
    FactType.MONEY: "{TND: 300, EUR: 90}",
    FactType.INTEGER: "5",
    FactType.BOOLEAN: "true",
    FactType.COUNTRY: "TN",
    FactType.CURRENCY: "TND",
    FactType.TEXT: "some text",
    FactType.IP: "41.226.0.0/16",
    FactType.BIN: '"40000000"',
    FactType.CARD: _SAMPLE_CARD,
}
_ENTRIES: Final[dict[ListKind, str]] = {
    ListKind.CARD: f"{{value: {_SAMPLE_CARD}, reason: say why, ticket: SUP-1, by: support}}",
    ListKind.BIN: '{value: "40000000", reason: say why, ticket: SUP-1}',
    ListKind.IP: "{value: 41.226.0.0/16, reason: say why, ticket: SUP-1, expires: 2030-01-15}",
    ListKind.COUNTRY: "[TN, FR]",
    ListKind.EMAIL: "{value: name@example.tn, reason: say why, ticket: SUP-1}",
    ListKind.EMAIL_DOMAIN: "[example.net]",
    ListKind.PHONE: '["+21671123456"]',
    ListKind.CUSTOMER: "{value: c-1001, reason: say why, ticket: SUP-1}",
    ListKind.DEVICE: "[d-1001]",
}


@dataclass(frozen=True, slots=True)
class StartingFiles:
    """The text of the rule file and of the test file."""

    rules: str
    tests: str


def ordinary_outcome(parent: RuleSet | None) -> Outcome:
    """What the inherited rules decide on the payment of the test file, which its first test expects."""
    if parent is None:
        return Outcome.ACCEPT
    local = _AT.astimezone(ZoneInfo(parent.timezone))
    facts: dict[str, FactValue] = {
        "amount": Money(50_000, "TND"),
        "currency": "TND",
        "card_country": "TN",
        "ip_country": "TN",
        "channel": "ecommerce",
        "three_ds": "none",
        "hour": local.hour,
        "weekday": WEEKDAYS[local.weekday()],
    }
    lists = ListsAsOf(build_indexes(parent.lists), int(_AT.timestamp()) * 1_000_000)
    matches = find_matches(parent, facts, lists)
    return decide(parent, matches, three_ds="none", channel="ecommerce").outcome


def starting_files(name: str, description: str, parent: RuleSet | None, *, schemas: bool = False) -> StartingFiles:
    """The files of a merchant that extends `parent`, whose settings and lists stand in it as comments.

    `schemas` says that the JSON Schemas lie in the rule directory; the files then tell editors so.
    """
    lines = [f"merchant: {name}", f"description: {quoted(description)}"]
    if parent is not None:
        lines.append(f"extends: {parent.name}")
    lines += ["", *_settings(parent), "", *_lists(parent), "", *_OWN_RULES]
    head = [
        *([_MODELINE.format("rules")] if schemas else []),
        f"# What {name} decides for itself. Take away the `# ` of a line to use it.",
        f"# After an edit: fraudengine check && fraudengine test && fraudengine show {name}",
    ]
    tests = _MODELINE.format("test") + "\n" if schemas else ""
    tests += _TESTS.format(name=name, outcome=ordinary_outcome(parent).value)
    return StartingFiles("\n".join([*head, *lines]) + "\n", tests)


def quoted(text: str) -> str:
    """The text as a YAML scalar on one line; quoted whenever it could be read as anything else."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _settings(parent: RuleSet | None) -> list[str]:
    if parent is None or not parent.settings:
        return ["# settings: none are declared"]
    lines = ["# settings:"]
    for _, setting in sorted(parent.settings.items()):
        lines += [
            *_comment(setting.help),
            f"#   {setting.name}: {_EXAMPLES.get(setting.type, '…')}{_given(setting)}",
        ]
    return lines


def _given(setting: SettingValue) -> str:
    return f"   # {setting.given_in} gives a value already" if setting.value is not None else ""


def _lists(parent: RuleSet | None) -> list[str]:
    if parent is None or not parent.lists:
        return ["# lists: none are declared"]
    lines = ["# lists:"]
    for _, declared in sorted(parent.lists.items()):
        lines += [*_comment(declared.help), *_list_example(declared)]
    return lines


def _list_example(declared: DeclaredList) -> list[str]:
    entry = _ENTRIES[declared.kind]
    if entry.startswith("["):
        return [f"#   {declared.name}: {entry}"]
    return [f"#   {declared.name}:", f"#     - {entry}"]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="#   # ", subsequent_indent="#   # ")


_OWN_RULES: Final = """\
# change:                                   # tuning of inherited rules
#   countries-differ: {mode: shadow}        # tried out: recorded, decides nothing

# rules:                                    # rules of this merchant only
#   - id: large-prepaid
#     description: A prepaid card for a large payment.
#     when: {card_type: prepaid, amount: {over: {TND: 500}}}
#     then: challenge
#     reason: CARD_TYPE_BLOCKED""".splitlines()

_TESTS: Final = """\
# Run with `fraudengine test`. Each test starts from `transaction` and gives only what differs.
merchant: {name}
description: A buyer in Tunisia with a Tunisian card, at noon.
transaction: {{amount: 50 TND, card_country: TN, ip_country: TN, at: 2026-11-23T12:00:00+01:00}}

tests:
  - name: an ordinary payment
    expect: {outcome}

  - name: a payment whose 3-D Secure failed is refused whatever the rules say
    three_ds: N
    expect: refuse

  # For every rule that you add: one test that it decides, and one just beside its figure that it does not.
  # - name: one millime over 300 TND needs 3-D Secure
  #   given: {{amount: 300.001 TND}}
  #   expect: {{outcome: challenge, reason: AMOUNT_NEEDS_3DS}}
"""
