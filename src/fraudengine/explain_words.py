"""The sentences of explanations, in English and French: what a test asks, and what it found, with values.

Every phrase stands here once in both languages, so that the answer's `because`, the command line, the API and
failed rule tests say the same thing. Figures keep the form of rule files (`450.000 TND`) in both languages.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, TypeAlias, assert_never
from zoneinfo import ZoneInfo

from . import french
from .countries import NAMES
from .facts import CATALOGUE, Facts, FactType, FactValue
from .money import Money, format_minor
from .reasons import Language
from .rules.ast import (
    Compare,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    ListEntry,
    Literal,
    MoneyFigures,
    OneOf,
    Op,
    Operand,
    SettingRef,
    StartsWith,
)
from .rules.checked import DEFAULT_TIMEZONE

Test: TypeAlias = Compare | OneOf | StartsWith | InNetworks | InList | IsUnknown

# What a test asks, after the fact's name. {0} is what it compares with.
_ASKED: Final[dict[str, tuple[str, str]]] = {
    "equals": ("is {0}", "est {0}"),
    "over": ("is over {0}", "dépasse {0}"),
    "at_least": ("is at least {0}", "est au moins {0}"),
    "under": ("is under {0}", "est au-dessous de {0}"),
    "at_most": ("is at most {0}", "est au plus {0}"),
    "one_of": ("is one of {0}", "est parmi {0}"),
    "starts_with": ("begins with {0}", "commence par {0}"),
    "in_network": ("is in the network {0}", "est dans le réseau {0}"),
    "in_list": ("is in the list {0}", "est dans la liste {0}"),
    "unknown": ("is unknown", "n'a pas de valeur connue"),
}
_ASKED_NOT: Final[dict[str, tuple[str, str]]] = {
    "equals": ("is not {0}", "n'est pas {0}"),
    "over": ("is not over {0}", "ne dépasse pas {0}"),
    "at_least": ("is not at least {0}", "n'est pas au moins {0}"),
    "under": ("is not under {0}", "n'est pas au-dessous de {0}"),
    "at_most": ("is not at most {0}", "n'est pas au plus {0}"),
    "one_of": ("is none of {0}", "n'est pas parmi {0}"),
    "starts_with": ("does not begin with {0}", "ne commence pas par {0}"),
    "in_network": ("is not in the network {0}", "n'est pas dans le réseau {0}"),
    "in_list": ("is not in the list {0}", "n'est pas dans la liste {0}"),
    "unknown": ("is known", "a une valeur connue"),
}
PHRASES: Final[dict[str, tuple[str, str]]] = {
    "cannot tell": (
        "is unknown, so it cannot be said whether it {0}",
        "n'a pas de valeur connue, on ne peut donc pas dire si cela {0}",
    ),
    "other unknown": (
        "{0} cannot be compared: {1} is unknown",
        "{0} ne peut se comparer : {1} n'a pas de valeur connue",
    ),
    "no figure": (
        "{1} cannot be compared: there is no figure in {0}, only {2}",
        "{1} ne peut se comparer : il n'y a pas de montant en {0}, seulement {2}",
    ),
    "opposite": (
        "{0}, where the rule asks for the opposite",
        "{0}, alors que la règle demande le contraire",
    ),
    "by over": ("{0} is {1} over {2}", "{0} dépasse {2} de {1}"),
    "by under": ("{0} is {1} under {2}", "{0} est à {1} au-dessous de {2}"),
    "by nothing": ("{0} is exactly {1}", "{0} est exactement {1}"),
    "by nothing, not over": ("{0} is exactly {1}, not over", "{0} est exactement {1}, pas plus"),
    "by nothing, not under": ("{0} is exactly {1}, not under", "{0} est exactement {1}, pas moins"),
    "by author": ("by {0}", "par {0}"),
    "added on": ("added {0}", "ajouté le {0}"),
    "run-time entry": ("run-time entry {0}", "entrée {0} tenue hors fichiers"),
    "kept in": ("in {0}", "dans {0}"),
    "in all": ("{0} … ({1} in all)", "{0} … ({1} en tout)"),
    "unknown": ("unknown", "inconnu"),
    "is unknown": ("is unknown", "n'a pas de valeur connue"),
    "known as": ("is known: {0}", "a une valeur connue : {0}"),
    "true": ("true", "vrai"),
    "false": ("false", "faux"),
    "all of": ("all of these must hold:", "toutes ces conditions doivent être remplies :"),
    "any of": ("at least one of these must hold:", "au moins une de ces conditions doit être remplie :"),
    "none of": ("this must not hold:", "ceci ne doit pas être rempli :"),
    "and": ("and", "et"),
    "or": ("or", "ou"),
    "not": ("not ({0})", "pas ({0})"),
    "yes": ("yes", "oui"),
    "no": ("no", "non"),
    "maybe": ("?", "?"),
    "when": ("when", "si"),
    "unless": ("unless", "sauf si"),
    # verdicts on a rule
    "matched": ("matched: {0}", "s'applique : {0}"),
    "matched, decided": ("matched and decided: {0}", "s'applique et décide : {0}"),
    "matched by unknown": (
        "matched, because what it asks about is unknown: {0}",
        "s'applique, car ce qu'elle demande est inconnu : {0}",
    ),
    "matched by unknown, decided": (
        "matched, because what it asks about is unknown, and decided: {0}",
        "s'applique, car ce qu'elle demande est inconnu, et décide : {0}",
    ),
    "shadow": (
        "would have matched: {0}; it is on trial (shadow) and decides nothing",
        "se serait appliquée : {0} ; elle est à l'essai (shadow) et ne décide rien",
    ),
    "not matched": ("did not match", "ne s'applique pas"),
    "not matched, unknown": (
        "did not match, because what it asks about is unknown",
        "ne s'applique pas, car ce qu'elle demande est inconnu",
    ),
    "rescued": (
        "did not match, because of its `unless`",
        "ne s'applique pas, en raison de son `unless`",
    ),
    "off": ("off: {0}", "désactivée : {0}"),
    "set off": ("it is set off", "elle est désactivée"),
    # the decision
    "decision": ("{0}: {1}. {2}", "{0} : {1}. {2}"),
    "decided by": ("The rule {0} decided.", "La règle {0} a décidé."),
    "no rule": (
        "No rule decided; the rule set says `otherwise: {0}`.",
        "Aucune règle n'a décidé ; le jeu de règles dit `otherwise: {0}`.",
    ),
    "before 3ds": (
        "Before 3-D Secure was read, the rules came to: {0}.",
        "Avant la lecture de 3-D Secure, les règles donnaient : {0}.",
    ),
    "order": (
        "The first that matches decides: final refuse, accept, refuse, challenge; then the smallest name.",
        "La première qui s'applique décide : refus définitif, acceptation, refus, 3-D Secure ; puis par nom.",
    ),
    "differs": (
        "What was recorded differs from what these rules give today: {0} was answered.",
        "La réponse enregistrée diffère de ce que donnent ces règles : {0} a été répondu.",
    ),
    "not kept": (
        "It cannot be explained: the rules of revision {0} were not kept, or this release cannot read them.",
        "Impossible à expliquer : les règles de la révision {0} n'ont pas été gardées ou ne sont plus lisibles.",
    ),
    "transaction": (
        "{0} paid to {1} on {2}, transaction {3}",
        "{0} payés à {1} le {2}, transaction {3}",
    ),
    "accept": ("accept", "accepter"),
    "challenge": ("challenge", "demander 3-D Secure"),
    "refuse": ("refuse", "refuser"),
    "from": ("from {0}", "de {0}"),
}


def phrase(name: str, language: Language, *values: object) -> str:
    english, in_french = PHRASES[name]
    return (in_french if language == "fr" else english).format(*values)


def _pick(table: dict[str, tuple[str, str]], name: str, language: Language) -> str:
    return table[name][1 if language == "fr" else 0]


# ---- values ---------------------------------------------------------------------------------------


def show(value: FactValue | None) -> str:
    """A fact's value as rule files write it; no value is `unknown`, never an empty word."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def say_value(value: FactValue | None, fact_type: FactType | None, language: Language) -> str:
    """A value for people: a country has its name beside its code."""
    if value is None:
        return phrase("unknown", language)
    if isinstance(value, bool):
        return phrase("true" if value else "false", language)
    if fact_type is FactType.COUNTRY and isinstance(value, str):
        return say_country(value, language)
    return str(value)


def say_country(code: str, language: Language) -> str:
    name = (french.COUNTRIES if language == "fr" else NAMES).get(code)
    return f"{name} ({code})" if name else code


def say_fact(fact: str, language: Language) -> str:
    """The fact's name as rules write it; in French with what it means."""
    meaning = french.FACTS.get(fact) if language == "fr" else None
    return f"{fact} ({meaning})" if meaning else fact


def fact_type_of(test: Test) -> FactType | None:
    if isinstance(test, Compare | OneOf):
        return test.type
    spec = CATALOGUE.get(test.fact)
    return spec.type if spec is not None else None


# ---- what a test asks -----------------------------------------------------------------------------


def ask(test: Test, language: Language, facts: Facts | None = None, *, negated: bool = False) -> str:
    """What the test asks: `is over 300.000 TND`. With facts, only the figure of the transaction's currency."""
    table = _ASKED_NOT if negated else _ASKED
    return _pick(table, _name_of(test), language).format(_other_side(test, language, facts))


def _name_of(test: Test) -> str:
    match test:
        case Compare(op=op):
            return op.value
        case OneOf():
            return "one_of"
        case StartsWith():
            return "starts_with"
        case InNetworks():
            return "in_network"
        case InList():
            return "in_list"
        case IsUnknown():
            return "unknown"
        case _:
            assert_never(test)


def _other_side(test: Test, language: Language, facts: Facts | None) -> str:
    match test:
        case Compare(operand=operand, type=fact_type):
            return _operand(operand, fact_type, language, facts)
        case OneOf(values=values, type=fact_type):
            return _several([say_value(value, fact_type, language) for value in values], language)
        case StartsWith(prefix=prefix):
            return _operand(prefix, None, language, facts)
        case InNetworks(networks=networks):
            return _several(list(networks), language)
        case InList(list_name=name):
            return name
        case IsUnknown():
            return ""
        case _:
            assert_never(test)


def _operand(operand: Operand, fact_type: FactType | None, language: Language, facts: Facts | None) -> str:
    match operand:
        case Literal(value=value):
            return say_value(value, fact_type, language)
        case MoneyFigures(figures=figures):
            currency = facts.get("currency") if facts is not None else None
            mine = [figure for figure in figures if figure[0] == currency] or figures
            return ", ".join(f"{format_minor(minor, code)} {code}" for code, minor in mine)
        case FactRef(fact=fact):
            if facts is None:
                return fact
            return f"{fact}, {say_value(facts.get(fact), fact_type, language)}"
        case SettingRef(name=name):
            return f"${name}"
        case _:
            assert_never(operand)


def _several(names: list[str], language: Language) -> str:
    shown = ", ".join(names[:8])
    return phrase("in all", language, shown, len(names)) if len(names) > 8 else shown


def entry_notes(entry: ListEntry, language: Language, timezone: str = DEFAULT_TIMEZONE) -> str:
    """Why the entry is in its list: reason, ticket, author, day; and its id when it is kept at run time."""
    author = phrase("by author", language, entry.author) if entry.author else ""
    added = phrase("added on", language, day_words(entry.added_us, timezone)) if entry.added_us is not None else ""
    kept = phrase("run-time entry", language, entry.id) if entry.id is not None else ""
    return ", ".join(note for note in (entry.reason, entry.ticket, author, added, kept) if note)


# ---- what a test found ----------------------------------------------------------------------------


def tell(
    test: Test,
    truth: bool | None,
    facts: Facts,
    entry: ListEntry | None,
    language: Language,
    *,
    by_how_much: bool = False,
    timezone: str = DEFAULT_TIMEZONE,
) -> str:
    """What the test found, as a sentence that is true: `450.000 TND is over 300.000 TND`.

    `truth` is the test's own, without any negation around it; `entry` is the list entry that it met.
    """
    value = facts.get(test.fact)
    fact_type = fact_type_of(test)
    if isinstance(test, IsUnknown):
        if truth:
            return phrase("is unknown", language)
        return phrase("known as", language, say_value(value, fact_type, language))
    if value is None:
        return phrase("cannot tell", language, ask(test, language, facts))
    said = say_value(value, fact_type, language)
    if truth is None:
        return _tell_incomparable(test, value, said, facts, language)
    if by_how_much and isinstance(test, Compare):
        distance = _distance(test, value, said, facts, language)
        if distance:
            return distance
    sentence = f"{said} {ask(test, language, facts, negated=not truth)}"
    notes = _entry_history(entry, language, timezone) if entry is not None else ""
    return f"{sentence} ({notes})" if notes else sentence


def _entry_history(entry: ListEntry, language: Language, timezone: str) -> str:
    """Why the entry is in its list and since when, and in which file."""
    place = phrase("kept in", language, entry.source) if entry.source and entry.id is None else ""
    return ", ".join(part for part in (entry_notes(entry, language, timezone), place) if part)


def day_words(at_us: int, timezone: str) -> str:
    """An instant as its day in the timezone, with the time when it is not midnight."""
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC).astimezone(ZoneInfo(timezone))
    return at.strftime("%Y-%m-%d" if (at.hour, at.minute, at.second) == (0, 0, 0) else "%Y-%m-%d %H:%M:%S")


def _tell_incomparable(test: Test, value: FactValue, said: str, facts: Facts, language: Language) -> str:
    operand = test.operand if isinstance(test, Compare) else None
    if isinstance(operand, MoneyFigures) and isinstance(value, Money):
        known = ", ".join(f"{format_minor(minor, code)} {code}" for code, minor in operand.figures)
        return phrase("no figure", language, value.currency, said, known)
    other = operand.fact if isinstance(operand, FactRef) else test.fact
    return phrase("other unknown", language, said, other)


def _distance(test: Compare, value: FactValue, said: str, facts: Facts, language: Language) -> str:
    """By how much a number or amount differs from what it is compared with; empty for anything else."""
    other: FactValue | None
    match test.operand:
        case Literal(value=literal):
            other = literal
        case MoneyFigures() as figures if isinstance(value, Money):
            minor = figures.minor_in(value.currency)
            other = None if minor is None else Money(minor, value.currency)
        case FactRef(fact=fact):
            other = facts.get(fact)
        case _:
            other = None
    if isinstance(value, Money) and isinstance(other, Money) and value.currency == other.currency:
        off = value.minor - other.minor
        by: FactValue = Money(abs(off), value.currency)
    elif type(value) is int and type(other) is int:
        off = value - other
        by = abs(off)
    else:
        return ""
    if off == 0:
        strict = test.op in (Op.OVER, Op.UNDER)
        return phrase(f"by nothing, not {test.op.value}" if strict else "by nothing", language, said, other)
    return phrase("by over" if off > 0 else "by under", language, said, by, other)


# ---- the short form of an answer's `because` ------------------------------------------------------

_SHORT: Final = {
    Op.EQUALS: "is",
    Op.OVER: "over",
    Op.AT_LEAST: "at least",
    Op.UNDER: "under",
    Op.AT_MOST: "at most",
}


def short_test(test: Test, facts: Facts, entry: ListEntry | None) -> str:
    """`over 300.000 TND`: the test of an answer's `because`, which programs read too; always English."""
    match test:
        case Compare(op=op, operand=operand):
            return f"{_SHORT[op]} {_short_operand(operand, facts)}"
        case OneOf(values=values):
            return f"one of {_several([str(value) for value in values], 'en')}"
        case StartsWith(prefix=prefix):
            return f"starts with {_short_operand(prefix, facts)}"
        case InNetworks(networks=networks):
            return f"in network {', '.join(networks)}"
        case InList(list_name=name):
            notes = entry_notes(entry, "en") if entry is not None else ""
            return f"in list {name} ({notes})" if notes else f"in list {name}"
        case IsUnknown():
            return "unknown"
        case _:
            assert_never(test)


def _short_operand(operand: Operand, facts: Facts) -> str:
    match operand:
        case Literal(value=literal):
            return show(literal)
        case MoneyFigures(figures=figures):
            currency = facts.get("currency")
            mine = [figure for figure in figures if figure[0] == currency]
            known = ", ".join(f"{format_minor(minor, code)} {code}" for code, minor in mine or figures)
            return known if mine else f"{known} (no figure for {currency})"
        case FactRef(fact=fact):
            return f"{fact} ({show(facts.get(fact))})"
        case SettingRef(name=name):
            return f"${name}"
        case _:
            assert_never(operand)
