"""Generated rule sets and transactions that every backend is compared on.

All values come from small pools that hold each other's neighbours (one minor unit over and under, one digit more,
the address after the network), so that boundaries are met all the time rather than once in a million.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Final

from hypothesis import strategies as st

from fraudengine.diagnostics import Span
from fraudengine.facts import FactName, Facts, FactType, FactValue, ListKind
from fraudengine.lists import ListsAsOf, build_indexes
from fraudengine.money import Money
from fraudengine.rules.ast import (
    All,
    Any,
    ChallengeOutcomes,
    Compare,
    Condition,
    DeclaredList,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    ListEntry,
    ListName,
    Literal,
    Mode,
    MoneyFigures,
    Not,
    OneOf,
    Op,
    Operand,
    Outcome,
    Rule,
    RuleId,
    RuleSet,
    SettingRef,
    StartsWith,
    facts_read,
)

AS_OF_US: Final = 1_795_428_900_000_000  # 2026-11-23T10:15:00Z
SPAN: Final = Span("generated.yaml", 1, 1, 2)
MERCHANT: Final = "carthage-market"
PLATFORM: Final = "platform"

CURRENCIES: Final = ("TND", "EUR", "JPY")
MINORS: Final = (0, 1, 99_999, 100_000, 100_001, 300_000, 999_999_999_999)
INTEGERS: Final = (0, 1, 2, 3, 4, 22, 23)
COUNTRIES: Final = ("TN", "FR", "NO", "NG", "US")
TEXTS: Final = ("c-1", "c-10", "é", "e\u0301", 'a"b', "a\\u00e9", "200", "", "true", "c")
BINS: Final = ("407024", "40702411", "40702412", "4070241", "543210", "407025")
ADDRESSES: Final = ("41.226.11.9", "41.226.11.255", "41.226.12.0", "10.0.0.1", "2c0f:f698::1", "2c0f:f699::")
NETWORKS: Final = ("41.226.11.0/24", "41.226.11.9/32", "0.0.0.0/0", "2c0f:f698::/32", "::/0", "10.0.0.1/32")
CARDS: Final = ("fp_a", "fp_b", "fp_c")
EMAILS: Final = ("a@b.tn", "a@b.tnx", "x@mailinator.com")

TYPES: Final[Mapping[FactName, FactType]] = {
    "amount": FactType.MONEY,
    "spent_per_card_24h": FactType.MONEY,
    "spent_per_email_24h": FactType.MONEY,
    "currency": FactType.CURRENCY,
    "channel": FactType.WORD,
    "card": FactType.CARD,
    "card_bin": FactType.BIN,
    "card_country": FactType.COUNTRY,
    "ip_country": FactType.COUNTRY,
    "billing_country": FactType.COUNTRY,
    "ip_address": FactType.IP,
    "email": FactType.TEXT,
    "customer": FactType.TEXT,
    "metadata.basket": FactType.TEXT,
    "hour": FactType.INTEGER,
    "attempts_per_card_1h": FactType.INTEGER,
    "metadata.items": FactType.INTEGER,
    "card_expired": FactType.BOOLEAN,
    "metadata.gift": FactType.BOOLEAN,
}

VALUES: Final[Mapping[FactType, tuple[str | int | bool, ...]]] = {
    FactType.CURRENCY: CURRENCIES,
    FactType.WORD: ("ecommerce", "moto", "recurring"),
    FactType.CARD: CARDS,
    FactType.BIN: BINS,
    FactType.COUNTRY: COUNTRIES,
    FactType.IP: ADDRESSES,
    FactType.TEXT: TEXTS,
    FactType.INTEGER: INTEGERS,
    FactType.BOOLEAN: (True, False),
}

# list -> what it holds, the values its entries are drawn from, the facts tested against it
LISTS: Final[Mapping[str, tuple[ListKind, tuple[str, ...], tuple[FactName, ...]]]] = {
    "blacklist": (ListKind.CARD, CARDS, ("card",)),
    "blocked_bins": (ListKind.BIN, BINS, ("card_bin",)),
    "blocked_networks": (ListKind.IP, NETWORKS, ("ip_address",)),
    "blocked_countries": (ListKind.COUNTRY, COUNTRIES, ("card_country", "ip_country", "billing_country")),
    "blocked_emails": (ListKind.EMAIL, EMAILS, ("email",)),
    "trusted_customers": (ListKind.CUSTOMER, TEXTS, ("customer",)),
}


@cache
def of_type(*types: FactType) -> st.SearchStrategy[FactName]:
    return st.sampled_from([name for name, fact_type in TYPES.items() if fact_type in types])


@cache
def monies() -> st.SearchStrategy[Money]:
    return st.builds(Money, st.sampled_from(MINORS), st.sampled_from(CURRENCIES))


@cache
def values_of(fact: FactName) -> st.SearchStrategy[FactValue]:
    if TYPES[fact] is FactType.MONEY:
        return monies()
    if fact == "email":
        return st.sampled_from(EMAILS)
    return st.sampled_from(VALUES[TYPES[fact]])


@cache
def facts() -> st.SearchStrategy[Facts]:
    """The facts of one transaction; about every third is unknown."""
    return st.fixed_dictionaries({}, optional={name: values_of(name) for name in TYPES})


# ---- conditions -----------------------------------------------------------------------------------


@cache
def figures() -> st.SearchStrategy[MoneyFigures]:
    table = st.dictionaries(st.sampled_from(CURRENCIES), st.sampled_from(MINORS), min_size=1)
    return table.map(lambda found: MoneyFigures(tuple(sorted(found.items()))))


@cache
@st.composite
def comparisons(draw: st.DrawFn) -> Compare:
    fact = draw(st.sampled_from(sorted(TYPES)))
    fact_type = TYPES[fact]
    ordered = fact_type in (FactType.MONEY, FactType.INTEGER)
    op = draw(st.sampled_from(list(Op))) if ordered else Op.EQUALS
    others = [name for name, other in TYPES.items() if other is fact_type and name != fact]
    operand: Operand
    refers: bool = draw(st.booleans())
    if others and refers:
        operand = FactRef(draw(st.sampled_from(others)))
    elif fact_type is FactType.MONEY:
        operand = draw(figures())
    else:
        value = draw(values_of(fact))
        assert not isinstance(value, Money)
        operand = Literal(value)
    return Compare(fact, fact_type, op, operand, SPAN)


@cache
@st.composite
def choices(draw: st.DrawFn) -> OneOf:
    kinds = set(FactType) - {FactType.MONEY, FactType.BOOLEAN, FactType.IP}
    fact = draw(of_type(*kinds))
    values = draw(st.lists(values_of(fact), min_size=1, max_size=4, unique=True))
    return OneOf(fact, TYPES[fact], tuple(v for v in values if not isinstance(v, Money)), SPAN)


@cache
@st.composite
def list_tests(draw: st.DrawFn) -> InList:
    name = draw(st.sampled_from(sorted(LISTS)))
    return InList(draw(st.sampled_from(LISTS[name][2])), ListName(name), SPAN)


@cache
def leaves() -> st.SearchStrategy[Condition]:
    networks = st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3, unique=True).map(tuple)
    prefixes = st.sampled_from(("", "c", "c-", "c-1", "é", "e", 'a"', "a\\")).map(Literal)
    return st.one_of(
        comparisons(),
        choices(),
        list_tests(),
        st.builds(InNetworks, st.just("ip_address"), networks, st.just(SPAN)),
        st.builds(StartsWith, of_type(FactType.TEXT), prefixes, st.just(SPAN)),
        st.builds(IsUnknown, st.sampled_from(sorted(TYPES)), st.just(SPAN)),
    )


@cache
def conditions(max_leaves: int = 8) -> st.SearchStrategy[Condition]:
    """Every kind of test, nested; empty `all` and `any` included."""

    def nest(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
        parts = st.lists(inner, max_size=4).map(tuple)
        return st.one_of(
            st.builds(All, parts, st.just(SPAN)),
            st.builds(Any, parts, st.just(SPAN)),
            st.builds(Not, inner, st.just(SPAN)),
        )

    return st.recursive(leaves(), nest, max_leaves=max_leaves)


# ---- rule sets ------------------------------------------------------------------------------------

# Made once: Hypothesis spends most of its time on strategies that are made anew for each draw.
_BOOLEANS: Final = st.booleans()
_OUTCOMES: Final = st.sampled_from(list(Outcome))
_MODES: Final = st.sampled_from([Mode.LIVE] * 5 + [Mode.SHADOW] * 2 + [Mode.OFF])
_IF_UNKNOWN: Final = st.sampled_from([None, None, Outcome.CHALLENGE, Outcome.REFUSE])
_ORIGINS: Final = st.sampled_from([PLATFORM, MERCHANT])
_UNLESS: Final = st.none() | conditions(max_leaves=3)
_AROUND: Final = st.none() | st.sampled_from([AS_OF_US - 1, AS_OF_US, AS_OF_US + 1])


@cache
@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """One rule; about one in eight is off, and some of those read a setting that nobody filled."""
    mode = draw(_MODES)
    when = draw(conditions())
    if mode is Mode.OFF and draw(_BOOLEANS):
        missing = Compare("amount", FactType.MONEY, Op.OVER, SettingRef("challenge_above", SPAN), SPAN)
        when = All((when, missing), SPAN)
    return Rule(
        id=RuleId("rule"),
        when=when,
        then=draw(_OUTCOMES),
        reason="TESTED",
        unless=draw(_UNLESS),
        if_unknown=draw(_IF_UNKNOWN),
        final=draw(_BOOLEANS),
        mode=mode,
        origin=draw(_ORIGINS),
        off_because="switched off" if mode is Mode.OFF else "",
        span=SPAN,
    )


@cache
@st.composite
def entries(draw: st.DrawFn, value: str) -> ListEntry:
    """An entry that is in force, expired, or not added yet; its bounds may lie on `AS_OF_US` itself."""
    return ListEntry(value, added_us=draw(_AROUND), expires_us=draw(_AROUND))


@cache
@st.composite
def declared_lists(draw: st.DrawFn) -> dict[ListName, DeclaredList]:
    found = {}
    for name, (kind, pool, _) in LISTS.items():
        values = draw(st.lists(st.sampled_from(pool), max_size=4))
        held = tuple(draw(entries(value)) for value in values)
        found[ListName(name)] = DeclaredList(ListName(name), kind, entries=held, origin=PLATFORM)
    return found


@cache
@st.composite
def rule_sets(draw: st.DrawFn, max_rules: int = 8) -> RuleSet:
    """An effective rule set as the library would make it: linked, resolved, its rules sorted by id."""
    count = draw(st.integers(min_value=1, max_value=max_rules))
    found = [replace(draw(rules()), id=RuleId(f"rule-{number}")) for number in range(count)]
    outcomes = st.builds(
        ChallengeOutcomes, *(st.sampled_from([Outcome.ACCEPT, Outcome.REFUSE, Outcome.CHALLENGE]) for _ in range(3))
    )
    return make_rule_set(
        found, draw(declared_lists()), otherwise=draw(st.sampled_from(list(Outcome))), challenge=draw(outcomes)
    )


def make_rule_set(
    rules: list[Rule],
    lists: Mapping[ListName, DeclaredList] | None = None,
    *,
    name: str = MERCHANT,
    otherwise: Outcome = Outcome.ACCEPT,
    challenge: ChallengeOutcomes | None = None,
) -> RuleSet:
    """The effective rule set of these rules, for tests that write their own."""
    evaluated = [rule for rule in rules if rule.mode is not Mode.OFF]
    read = [facts_read(rule.when) for rule in evaluated]
    read += [facts_read(rule.unless) for rule in evaluated if rule.unless is not None]
    return RuleSet(
        name=name,
        description="generated",
        revision="0" * 64,
        otherwise=otherwise,
        challenge=challenge or ChallengeOutcomes(),
        timezone="Africa/Tunis",
        rules=tuple(sorted(rules, key=lambda rule: rule.id)),
        lists=lists or {},
        settings={},
        metadata={n.removeprefix("metadata."): t for n, t in TYPES.items() if n.startswith("metadata.")},
        reads=frozenset[FactName]().union(*read),
    )


def lists_of(rule_set: RuleSet, as_of_us: int = AS_OF_US) -> ListsAsOf:
    return ListsAsOf(build_indexes(rule_set.lists), as_of_us)
