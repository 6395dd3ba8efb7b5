"""The tables of the handbook (`rules/README.md`), made from the catalogues that the program itself reads.

The handbook is written by hand around marked sections, which this module fills:

    <!-- facts -->
    … replaced …
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from .. import reasons
from ..diagnostics import FraudengineError
from ..facts import CATALOGUE, METADATA_TYPES, FactSpec, FactType, ListKind
from .counters import Among
from .schema import House

_SECTION: Final = re.compile(r"<!-- ([a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)


class MissingSection(FraudengineError):
    """The handbook lacks a section, or has one that nobody fills."""


def write_sections(text: str, house: House) -> str:
    """The handbook with every table up to date."""
    found = _SECTION.findall(text)
    for name in SECTIONS:
        if found.count(name) != 1:
            raise MissingSection(f"needs exactly one section `<!-- {name} --> … <!-- end -->`")
    for name in found:
        if name not in SECTIONS:
            raise MissingSection(f"nobody fills the section `{name}`")
    return _SECTION.sub(lambda section: _section(section[1], house), text)


def _section(name: str, house: House) -> str:
    return f"<!-- {name} -->\n{SECTIONS[name](house)}\n<!-- end -->"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


# ---- facts and tests ------------------------------------------------------------------------------

_TYPE_WORDS: Final[dict[FactType, tuple[str, str]]] = {
    FactType.MONEY: ("amount of money", "`100 TND`, or a figure for each currency: `{TND: 300, EUR: 90}`"),
    FactType.COUNTRY: ("country", "`TN`: the two capital letters of the country"),
    FactType.WORD: ("word", "one of the words listed"),
    FactType.CURRENCY: ("currency", "`TND`: the three capital letters of the currency"),
    FactType.TEXT: ("text", "`c-1001`; in quotes when it has a `:` or a `#`"),
    FactType.INTEGER: ("whole number", "`3`"),
    FactType.BOOLEAN: ("yes or no", "`true` or `false`"),
    FactType.CARD: ("card", "its fingerprint `fp_…`, never its number"),
    FactType.BIN: ("first digits of a card", '`"407024"`: 6 to 8 digits'),
    FactType.IP: ("internet address", "`41.226.11.9`, or a network: `41.226.0.0/16`"),
}


def _facts(house: House) -> str:
    rows = [_fact_row(spec) for spec in CATALOGUE.values()]
    types = _code(kind.value for kind in METADATA_TYPES)
    rows.append(
        [
            "`metadata.KEY`",
            "as declared",
            f"What the shop sends along; declare its type ({types}).",
            "given by the gateway",
        ]
    )
    return _table(["fact", "what it is", "meaning", "from where"], rows)


def _fact_row(spec: FactSpec) -> list[str]:
    meaning = spec.help
    if spec.words:
        meaning += f" One of {_code(spec.words)}."
    if not spec.may_be_unknown:
        meaning += " Always known."
    return [f"`{spec.name}`", _TYPE_WORDS[spec.type][0], meaning, spec.origin.value]


def _counters(house: House) -> str:
    rows = [[f"`{name}`", _TYPE_WORDS[spec.type][0], spec.help] for name, spec in house.counters.items()]
    return _table(["counter", "what it is", "meaning"], rows)


def _value_types(house: House) -> str:
    return _table(["a value that is", "is written"], [[name, how] for name, how in _TYPE_WORDS.values()])


_NUMBERS: Final = "numbers and amounts"
TEST_WORD_HELP: Final[dict[str, tuple[str, str, str]]] = {
    "(a value)": ("is exactly this", "every fact", "card_type: prepaid"),
    "(a list)": ("is one of these", "every fact", "ip_country: [RU, KP]"),
    "not": ("is not this, or none of these", "every fact", "card_country: {not: [TN, FR]}"),
    "over": ("is more than this", _NUMBERS, "amount: {over: 100 TND}"),
    "at_least": ("is this or more", _NUMBERS, "amount: {at_least: {TND: 300, EUR: 90}}"),
    "under": ("is less than this", _NUMBERS, "hour: {under: 6}"),
    "at_most": ("is this or less", _NUMBERS, "amount: {at_most: 5 TND}"),
    "between": ("from the first to the second, both included", _NUMBERS, "hour: {between: [1, 4]}"),
    "in_list": ("is in that list", "facts that lists can hold", "card: {in_list: blacklist}"),
    "not_in_list": ("is not in that list", "facts that lists can hold", "card: {not_in_list: trusted_cards}"),
    "starts_with": ("begins with these letters or digits", "texts and `card_bin`", "email: {starts_with: test}"),
    "unknown": ("is not known", "every fact", "card_country: unknown"),
    "all": ("every condition of the list holds", "conditions", "all: [{hour: 3}, {amount: {over: 9 TND}}]"),
    "any": ("at least one condition of the list holds", "conditions", "any: [{ip_country: NG}, {hour: 3}]"),
}  # fmt: skip


def _test_words(house: House) -> str:
    rows = [
        [f"`{word}`" if word.isidentifier() else word, meaning, where, f"`{example}`"]
        for word, (meaning, where, example) in TEST_WORD_HELP.items()
    ]
    return _table(["word", "holds when the fact", "for", "example"], rows)


# ---- house rules ----------------------------------------------------------------------------------


def _settings(house: House) -> str:
    rows = [[f"`{name}`", _TYPE_WORDS[kind][0], note] for name, (kind, note) in house.settings.items()]
    return _table(["setting", "what it is", "meaning"], rows)


def _lists(house: House) -> str:
    rows = [[f"`{name}`", f"`{kind.value}`", note] for name, (kind, note) in house.lists.items()]
    rows += [
        [f"`{name}`", f"`{kind.value}`", f"Shared by all merchants: `rules/lists/{name}.yaml`."]
        for name, kind in house.shared.items()
    ]
    return _table(["list", "of", "meaning"], rows)


def _rules(house: House) -> str:
    return _table(["rule", "meaning"], [[f"`{name}`", note] for name, note in sorted(house.rules.items())])


_KIND_HELP: Final[dict[ListKind, str]] = {
    ListKind.CARD: "card fingerprints: `fp_…`, which `fraudengine fingerprint` makes",
    ListKind.BIN: 'first digits of cards, 6 to 11, in quotes: `"407024"`',
    ListKind.IP: "internet addresses or networks: `41.226.11.9`, `41.226.0.0/16`",
    ListKind.COUNTRY: "countries, two capital letters: `TN`",
    ListKind.EMAIL: "e-mail addresses: `name@example.tn`",
    ListKind.EMAIL_DOMAIN: "what follows the @ of e-mail addresses: `example.tn`",
    ListKind.PHONE: 'telephone numbers with + and the country: `"+21671123456"`; without, Tunisian: `71123456`',
    ListKind.CUSTOMER: "the merchant's own names of customers: `c-1001`",
    ListKind.DEVICE: "devices as the gateway names them",
}


def _list_kinds(house: House) -> str:
    def facts_of(kind: ListKind) -> str:
        return _code(spec.name for spec in CATALOGUE.values() if kind in spec.lists)

    rows = [[f"`{kind.value}`", _KIND_HELP[kind], facts_of(kind)] for kind in ListKind]
    return _table(["`of:`", "its entries are", "facts that can be in it"], rows)


def _reason_codes(house: House) -> str:
    rows = [[f"`{code}`", reason.en, reason.fr] for code, reason in reasons.CATALOGUE.items()]
    return _table(["reason code", "in English", "in French"], rows)


def _outcomes(house: House) -> str:
    return _table(
        ["outcome", "what happens to the payment"],
        [
            ["`accept`", "It goes on to the bank."],
            ["`challenge`", "The buyer is asked to confirm with 3-D Secure first. The answer settles it."],
            ["`refuse`", "It ends here. The bank never sees it."],
        ],
    )


def _modes(house: House) -> str:
    return _table(
        ["mode", "what the rule does"],
        [
            ["`live`", "It decides. This is what a rule does when it says nothing about its mode."],
            ["`shadow`", "It is tried out: whenever it matches, that is written down, and nothing changes."],
            ["`off`", "Nothing. `fraudengine show` says why a rule is off."],
        ],
    )


_AMONG_HELP: Final[dict[Among, str]] = {
    Among.ALL: "every earlier payment, as long as it did not fail for technical reasons",
    Among.ACCEPTED: "those that were answered `accept`",
    Among.CHALLENGED: "those that were answered `challenge`",
    Among.REFUSED: "those that were answered `refuse`",
    Among.FAILED_3DS: "those whose buyer failed 3-D Secure",
    Among.DECLINED: "those that the card's bank declined",
    Among.TECHNICAL_FAILURES: "those that failed for no fault of the buyer",
}


def _among(house: House) -> str:
    return _table(["`among:`", "what is counted"], [[f"`{one.value}`", _AMONG_HELP[one]] for one in Among])


SECTIONS: Final[dict[str, Callable[[House], str]]] = {
    "outcomes": _outcomes,
    "modes": _modes,
    "facts": _facts,
    "values": _value_types,
    "test-words": _test_words,
    "counters": _counters,
    "among": _among,
    "settings": _settings,
    "lists": _lists,
    "list-kinds": _list_kinds,
    "house-rules": _rules,
    "reason-codes": _reason_codes,
}
