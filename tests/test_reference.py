"""The law: Kleene's logic, precedence, 3-D Secure settlement, money, and explanations, as tables."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings

from fraudengine import reasons
from fraudengine.backends.reference import all_of, any_of, evaluate, find_matches, match_rule
from fraudengine.cards import CardFingerprint
from fraudengine.decision import (
    Because,
    Decision,
    EarlierScreening,
    Match,
    card_identity,
    decide,
    engine_failure,
    read_three_ds,
)
from fraudengine.explain import explain_match
from fraudengine.facts import Card, Facts, FactType, ListKind, MerchantId, ThreeDsResult, Transaction
from fraudengine.lists import ListsAsOf
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
    IsUnknown,
    ListEntry,
    ListName,
    Literal,
    Mode,
    MoneyFigures,
    Not,
    OneOf,
    Op,
    Outcome,
    Rule,
    RuleId,
    RuleSet,
    StartsWith,
)
from tests import strategies
from tests.strategies import SPAN, make_rule_set

ACCEPT, CHALLENGE, REFUSE = Outcome.ACCEPT, Outcome.CHALLENGE, Outcome.REFUSE
NO_LISTS = ListsAsOf({}, 0)
T, F, U = True, False, None

# Conditions whose truth about `FACTS` is known at sight.
FACTS: Facts = {"hour": 5}
TRUTHS: dict[bool | None, Condition] = {
    T: Compare("hour", FactType.INTEGER, Op.EQUALS, Literal(5), SPAN),
    F: Compare("hour", FactType.INTEGER, Op.EQUALS, Literal(6), SPAN),
    U: Compare("metadata.items", FactType.INTEGER, Op.EQUALS, Literal(5), SPAN),
}


def rule(rule_id: str, then: Outcome = REFUSE, when: Condition = TRUTHS[True]) -> Rule:
    return Rule(RuleId(rule_id), when, then, rule_id.upper())


# ---- Kleene -----------------------------------------------------------------------------------------

KLEENE = [  # one, other, all, any
    (T, T, T, T),
    (T, F, F, T),
    (T, U, U, T),
    (F, T, F, T),
    (F, F, F, F),
    (F, U, F, U),
    (U, T, U, T),
    (U, F, F, U),
    (U, U, U, U),
]


@pytest.mark.parametrize(("one", "other", "both", "either"), KLEENE)
def test_all_and_any_of_two(one: bool | None, other: bool | None, both: bool | None, either: bool | None) -> None:
    parts = (TRUTHS[one], TRUTHS[other])
    assert evaluate(All(parts, SPAN), FACTS, NO_LISTS) is both
    assert evaluate(Any(parts, SPAN), FACTS, NO_LISTS) is either


@pytest.mark.parametrize(("truth", "negated"), [(T, F), (F, T), (U, U)])
def test_not(truth: bool | None, negated: bool | None) -> None:
    assert evaluate(Not(TRUTHS[truth], SPAN), FACTS, NO_LISTS) is negated


def test_all_of_nothing_is_true_and_any_of_nothing_is_false() -> None:
    assert all_of([]) is True
    assert any_of([]) is False


@pytest.mark.parametrize("truths", list(product([T, F, U], repeat=3)))
def test_de_morgan(truths: tuple[bool | None, ...]) -> None:
    parts = tuple(TRUTHS[truth] for truth in truths)
    negated = tuple(Not(part, SPAN) for part in parts)
    assert evaluate(Not(All(parts, SPAN), SPAN), FACTS, NO_LISTS) is evaluate(Any(negated, SPAN), FACTS, NO_LISTS)


def test_unknown_sees_what_no_other_test_does() -> None:
    assert evaluate(IsUnknown("metadata.items", SPAN), FACTS, NO_LISTS) is True
    assert evaluate(IsUnknown("hour", SPAN), FACTS, NO_LISTS) is False
    assert evaluate(Not(IsUnknown("metadata.items", SPAN), SPAN), FACTS, NO_LISTS) is False


MATCHES = [  # when, unless (absent: ...), if_unknown -> outcome, by unknown
    (T, ..., None, (CHALLENGE, False)),
    (F, ..., REFUSE, None),
    (U, ..., None, None),
    (U, ..., REFUSE, (REFUSE, True)),
    (T, T, REFUSE, None),
    (T, F, None, (CHALLENGE, False)),
    (T, U, None, (CHALLENGE, False)),
    (U, T, REFUSE, None),
    (U, F, REFUSE, (REFUSE, True)),
    (U, U, REFUSE, (REFUSE, True)),
    (F, U, REFUSE, None),
]


@pytest.mark.parametrize(("when", "unless", "if_unknown", "expected"), MATCHES)
def test_when_a_rule_matches(
    when: bool | None, unless: object, if_unknown: Outcome | None, expected: tuple[Outcome, bool] | None
) -> None:
    rescue = None if unless is ... else TRUTHS[unless if isinstance(unless, bool) else None]
    tested = replace(rule("r", CHALLENGE, TRUTHS[when]), unless=rescue, if_unknown=if_unknown)
    match = match_rule(tested, FACTS, NO_LISTS)
    assert (None if match is None else (match.outcome, match.by_unknown)) == expected


def test_matches_come_in_the_order_of_rule_ids_without_those_that_are_off() -> None:
    rules = [rule("c"), rule("a"), replace(rule("b"), mode=Mode.SHADOW), replace(rule("d"), mode=Mode.OFF)]
    assert [match.rule.id for match in find_matches(make_rule_set(rules), FACTS, NO_LISTS)] == ["a", "b", "c"]


# ---- money ------------------------------------------------------------------------------------------

FIGURES = MoneyFigures((("JPY", 500), ("TND", 300_000)))
MONEY = [  # amount, over, at least, equals, at most, under
    (Money(299_999, "TND"), F, F, F, T, T),
    (Money(300_000, "TND"), F, T, T, T, F),
    (Money(300_001, "TND"), T, T, F, F, F),
    (Money(500, "JPY"), F, T, T, T, F),
    (Money(501, "JPY"), T, T, F, F, F),
    (Money(300_001, "EUR"), U, U, U, U, U),
    (Money(0, "TND"), F, F, F, T, T),
]


@pytest.mark.parametrize("row", MONEY, ids=lambda row: str(row[0]))
def test_money_compares_at_the_minor_unit_within_one_currency(row: tuple[Money, *tuple[bool | None, ...]]) -> None:
    amount, *expected = row
    words = (Op.OVER, Op.AT_LEAST, Op.EQUALS, Op.AT_MOST, Op.UNDER)
    tests = [Compare("amount", FactType.MONEY, op, FIGURES, SPAN) for op in words]
    assert [evaluate(test, {"amount": amount}, NO_LISTS) for test in tests] == expected
    assert [evaluate(test, {}, NO_LISTS) for test in tests] == [None] * 5


@pytest.mark.parametrize(
    ("spent", "expected"),
    [(Money(1, "TND"), T), (Money(2, "TND"), F), (Money(1, "EUR"), U), (None, U)],
    ids=["less", "equal", "another currency", "unknown"],
)
def test_money_against_another_fact(spent: Money | None, expected: bool | None) -> None:
    test = Compare("amount", FactType.MONEY, Op.OVER, FactRef("spent"), SPAN)
    facts: dict[str, Money] = {"amount": Money(2, "TND")} | ({} if spent is None else {"spent": spent})
    assert evaluate(test, facts, NO_LISTS) is expected


# ---- precedence -------------------------------------------------------------------------------------

FINAL_REFUSE = Match(replace(rule("z-final"), final=True), REFUSE)
TRUST = Match(rule("y-trust", ACCEPT), ACCEPT)
REFUSAL = Match(rule("x-refuse"), REFUSE)
ASK = Match(rule("w-challenge", CHALLENGE), CHALLENGE)
FINAL_ASK = Match(replace(rule("v-final-challenge", CHALLENGE), final=True), CHALLENGE)

PRECEDENCE = [
    ((), ACCEPT, None),
    ((ASK,), CHALLENGE, "w-challenge"),
    ((ASK, REFUSAL), REFUSE, "x-refuse"),
    ((ASK, REFUSAL, TRUST), ACCEPT, "y-trust"),
    ((ASK, REFUSAL, TRUST, FINAL_REFUSE), REFUSE, "z-final"),
    ((FINAL_ASK, TRUST), ACCEPT, "y-trust"),
    ((FINAL_ASK, ASK), CHALLENGE, "v-final-challenge"),
    ((REFUSAL, Match(rule("b"), REFUSE), Match(rule("a"), REFUSE)), REFUSE, "a"),
    ((Match(replace(rule("a"), mode=Mode.SHADOW), REFUSE), ASK), CHALLENGE, "w-challenge"),
    ((Match(replace(rule("a"), mode=Mode.SHADOW), REFUSE),), ACCEPT, None),
    ((Match(rule("a", CHALLENGE), REFUSE, by_unknown=True), ASK), REFUSE, "a"),
]


def settle_for(matches: tuple[Match, ...], three_ds: str = "none", channel: str = "ecommerce") -> Decision:
    return decide(make_rule_set([]), matches, three_ds=three_ds, channel=channel)


@pytest.mark.parametrize(("matches", "outcome", "determining"), PRECEDENCE)
def test_precedence(matches: tuple[Match, ...], outcome: Outcome, determining: str | None) -> None:
    for ordered in (matches, matches[::-1]):
        decision = settle_for(ordered)
        assert decision.outcome is outcome
        assert (decision.rule.id if decision.rule else None) == determining
        assert decision.code == (determining.upper() if determining else reasons.NO_RULE_MATCHED)
        assert decision.matches == ordered


@pytest.mark.parametrize("otherwise", list(Outcome))
def test_otherwise_decides_where_no_rule_does(otherwise: Outcome) -> None:
    decision = decide(make_rule_set([], otherwise=otherwise), (), three_ds="none", channel="ecommerce")
    assert (decision.outcome, decision.rule, decision.code) == (otherwise, None, reasons.NO_RULE_MATCHED)
    assert decision.challenge_indicator == ("04" if otherwise is CHALLENGE else None)


# ---- 3-D Secure: what the result comes to ------------------------------------------------------------

SCHEMES = [None, "visa", "amex", "jcb", "diners", "unionpay", "discover", "mastercard", "maestro", "other"]
ECIS = [None, "00", "01", "02", "04", "05", "06", "07"]
STATUSES = "YANRUCDI"

# What each scheme's ECI must be beside Y and A, from FACTS: anything else contradicts the status.
VISA_LIKE = {"Y": {None, "05"}, "A": {None, "06"}}
MASTERCARD_LIKE = {"Y": {None, "02", "07"}, "A": {None, "01"}}
UNKNOWN_SCHEME = {"Y": {None, "05", "02"}, "A": {None, "06", "01"}}
WORDS = {
    "Y": "authenticated",
    "A": "attempted",
    "N": "failed",
    "R": "rejected",
    "U": "unavailable",
    "C": "pending",
    "D": "pending",
    "I": "unavailable",
}


def expected_word(status: str, eci: str | None, brand: str | None) -> str:
    if brand is None:
        table = UNKNOWN_SCHEME
    else:
        table = MASTERCARD_LIKE if brand in ("mastercard", "maestro") else VISA_LIKE
    return "unavailable" if status in table and eci not in table[status] else WORDS[status]


CARD = Card(fingerprint=CardFingerprint("fp_one"), bin="407024", last4="1111", expiry="2027-01")


def transaction(
    status: str | None, eci: str | None = None, minor: int = 450_000, currency: str = "TND"
) -> Transaction:
    result = None if status is None else ThreeDsResult(status, eci)
    return Transaction(
        MerchantId("m"), "T-1", 0, Money(450_000, "TND"), card=CARD, three_ds=result, ip_address="41.226.11.9"
    )


@pytest.mark.parametrize("brand", SCHEMES)
@pytest.mark.parametrize("status", STATUSES)
def test_three_ds_word_for_every_status_eci_and_scheme(status: str, brand: str | None) -> None:
    for eci in ECIS:
        assert read_three_ds(transaction(status, eci), brand, None) == expected_word(status, eci, brand), eci


def test_no_result_is_none() -> None:
    assert read_three_ds(transaction(None), "visa", None) == "none"


EARLIER = EarlierScreening(card_identity(CARD), "TND", 450_000)
BELONGS = {
    "the same": (EARLIER, True),
    "a lower amount now": (replace(EARLIER, minor=450_001), True),
    "a higher amount now": (replace(EARLIER, minor=449_999), False),
    "another currency": (replace(EARLIER, currency="EUR"), False),
    "another card": (replace(EARLIER, card_identity="fp_other"), False),
    "no card then": (replace(EARLIER, card_identity=card_identity(None)), False),
}


@pytest.mark.parametrize("name", BELONGS)
@pytest.mark.parametrize("status", STATUSES)
def test_a_result_counts_only_for_what_was_challenged(status: str, name: str) -> None:
    """Failure and rejection count always; everything else as if 3-D Secure had not been asked."""
    earlier, belongs = BELONGS[name]
    counts = belongs or status in "NR"
    assert read_three_ds(transaction(status), "visa", earlier) == (WORDS[status] if counts else "none")


def test_a_masked_card_is_known_by_bin_last_four_and_expiry() -> None:
    masked = replace(CARD, fingerprint=None)
    assert card_identity(masked) == card_identity(replace(masked, country="TN", brand="visa"))
    others = [replace(masked, bin="407025"), replace(masked, last4="1112"), replace(masked, expiry="2027-02"), None]
    assert card_identity(masked) not in [card_identity(other) for other in others]
    assert card_identity(CARD) == card_identity(replace(CARD, last4="1112"))


# ---- 3-D Secure: what the decision becomes -----------------------------------------------------------

OUTCOMES = ChallengeOutcomes(attempted=ACCEPT, unavailable=REFUSE, impossible=REFUSE)
KEPT = "W-CHALLENGE"  # the reason of the rule that challenged

SETTLED = [  # word, channel -> outcome, reason, when a challenge was decided
    ("none", "ecommerce", CHALLENGE, KEPT),
    ("none", "moto", REFUSE, reasons.CHALLENGE_IMPOSSIBLE),
    ("none", "recurring", REFUSE, reasons.CHALLENGE_IMPOSSIBLE),
    ("pending", "ecommerce", CHALLENGE, KEPT),
    ("pending", "moto", REFUSE, reasons.CHALLENGE_IMPOSSIBLE),
    *(("authenticated", channel, ACCEPT, reasons.THREE_DS_AUTHENTICATED) for channel in ("ecommerce", "moto")),
    *(("attempted", channel, ACCEPT, reasons.THREE_DS_ATTEMPTED) for channel in ("ecommerce", "recurring")),
    *(("unavailable", channel, REFUSE, reasons.THREE_DS_UNAVAILABLE) for channel in ("ecommerce", "moto")),
    *(("failed", channel, REFUSE, reasons.THREE_DS_FAILED) for channel in ("ecommerce", "moto")),
    *(("rejected", channel, REFUSE, reasons.THREE_DS_FAILED) for channel in ("ecommerce", "recurring")),
]


@pytest.mark.parametrize(("word", "channel", "outcome", "code"), SETTLED)
def test_a_challenge_is_settled(word: str, channel: str, outcome: Outcome, code: str) -> None:
    decision = decide(make_rule_set([], challenge=OUTCOMES), (ASK,), three_ds=word, channel=channel)
    assert (decision.outcome, decision.code, decision.three_ds) == (outcome, code, word)
    assert decision.rule is ASK.rule
    assert decision.challenge_indicator == ("04" if outcome is CHALLENGE else None)


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize(
    ("word", "channel", "code"),
    [
        ("attempted", "ecommerce", reasons.THREE_DS_ATTEMPTED),
        ("unavailable", "ecommerce", reasons.THREE_DS_UNAVAILABLE),
        ("none", "moto", reasons.CHALLENGE_IMPOSSIBLE),
    ],
)
def test_the_rule_set_says_what_a_half_answer_means(word: str, channel: str, code: str, outcome: Outcome) -> None:
    """Where it says `challenge`, the challenge and its reason stay."""
    outcomes = ChallengeOutcomes(attempted=outcome, unavailable=outcome, impossible=outcome)
    decision = decide(make_rule_set([], challenge=outcomes), (ASK,), three_ds=word, channel=channel)
    assert decision.outcome is outcome
    assert decision.code == (KEPT if outcome is CHALLENGE else code)


@pytest.mark.parametrize("channel", ["ecommerce", "moto", "recurring"])
@pytest.mark.parametrize("word", sorted({*WORDS.values(), "none"}))
def test_what_was_accepted_or_refused_stays_unless_authentication_failed(word: str, channel: str) -> None:
    failed = word in ("failed", "rejected")
    accepted, refused = settle_for((TRUST,), word, channel), settle_for((REFUSAL,), word, channel)
    assert accepted.outcome is (REFUSE if failed else ACCEPT)
    assert accepted.code == (reasons.THREE_DS_FAILED if failed else "Y-TRUST")
    assert (refused.outcome, refused.code) == (REFUSE, "X-REFUSE")
    assert settle_for((), word, channel).outcome is (REFUSE if failed else ACCEPT)


def test_a_challenge_carries_the_indicator_of_its_rule() -> None:
    preferred = Match(replace(ASK.rule, challenge_indicator="03"), CHALLENGE)
    assert settle_for((preferred,)).challenge_indicator == "03"
    assert settle_for((preferred,), "authenticated").challenge_indicator is None


@pytest.mark.parametrize("word", sorted({*WORDS.values(), "none"}))
@pytest.mark.parametrize("configured", list(Outcome))
def test_an_engine_failure_never_ignores_failed_authentication(configured: Outcome, word: str) -> None:
    decision = engine_failure(configured, word)
    expected = REFUSE if word in ("failed", "rejected") else configured
    assert (decision.outcome, decision.code, decision.matches) == (expected, reasons.ENGINE_FAILURE, ())
    assert decision.challenge_indicator == ("04" if expected is CHALLENGE else None)


# ---- explanations -----------------------------------------------------------------------------------

BLACKLIST = DeclaredList(
    ListName("blacklist"),
    ListKind.CARD,
    entries=(ListEntry("fp_one", reason="stolen card", ticket="SUP-1107", author="support"),),
)
OVER = Compare("amount", FactType.MONEY, Op.OVER, MoneyFigures((("EUR", 9_000), ("TND", 300_000))), SPAN)
COUNTRY = FactType.COUNTRY
SEEN: Facts = {
    "amount": Money(450_000, "TND"),
    "currency": "TND",
    "card": "fp_one",
    "card_country": "FR",
    "ip_country": "TN",
    "email": "amal@topnet.tn",
    "card_expired": True,
}
EXPLAINED: dict[str, tuple[Condition, list[Because]]] = {
    "money": (OVER, [Because("amount", "450.000 TND", "over 300.000 TND")]),
    "list": (
        InList("card", ListName("blacklist"), SPAN),
        [Because("card", "fp_one", "in list blacklist (stolen card, SUP-1107, by support)")],
    ),
    "negated leaf": (
        Not(Compare("ip_country", COUNTRY, Op.EQUALS, FactRef("card_country"), SPAN), SPAN),
        [Because("ip_country", "TN", "not is card_country (FR)")],
    ),
    "any names only what was true": (
        Any((OneOf("ip_country", COUNTRY, ("RU",), SPAN), OneOf("card_country", COUNTRY, ("FR",), SPAN)), SPAN),
        [Because("card_country", "FR", "one of FR")],
    ),
    "all names every part, repeats once": (
        All((OVER, StartsWith("email", Literal("amal"), SPAN), OVER), SPAN),
        [
            Because("amount", "450.000 TND", "over 300.000 TND"),
            Because("email", "amal@topnet.tn", "starts with amal"),
        ],
    ),
    "not of all names what was false": (
        Not(All((OVER, OneOf("ip_country", COUNTRY, ("RU",), SPAN)), SPAN), SPAN),
        [Because("ip_country", "TN", "not one of RU")],
    ),
    "unknown": (IsUnknown("device", SPAN), [Because("device", "unknown", "unknown")]),
    "boolean": (
        Compare("card_expired", FactType.BOOLEAN, Op.EQUALS, Literal(True), SPAN),
        [Because("card_expired", "true", "is true")],
    ),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_why_a_rule_matched(name: str) -> None:
    condition, expected = EXPLAINED[name]
    lists = strategies.lists_of(make_rule_set([], {BLACKLIST.name: BLACKLIST}))
    match = match_rule(rule("r", when=condition), SEEN, lists)
    assert match is not None
    assert list(explain_match(match, SEEN, lists)) == expected


def test_a_match_by_unknown_names_what_was_unknown() -> None:
    facts: Facts = {"amount": Money(1_000, "JPY"), "currency": "JPY", "ip_country": "TN"}
    parts = (OVER, OneOf("ip_country", COUNTRY, ("TN",), SPAN))
    match = match_rule(replace(rule("r", when=All(parts, SPAN)), if_unknown=CHALLENGE), facts, NO_LISTS)
    assert match is not None
    no_figure = "over 90.00 EUR, 300.000 TND (no figure for JPY)"
    assert list(explain_match(match, facts, NO_LISTS)) == [Because("amount", "1000 JPY", no_figure)]


@settings(max_examples=100, deadline=None)
@given(strategies.rule_sets(max_rules=4), strategies.facts())
def test_explaining_never_fails(rule_set: RuleSet, facts: Facts) -> None:
    lists = strategies.lists_of(rule_set)
    for match in find_matches(rule_set, facts, lists):
        for because in explain_match(match, facts, lists):
            assert because.fact in strategies.TYPES
            assert because.test
