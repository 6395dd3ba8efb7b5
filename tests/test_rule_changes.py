"""`fraudengine diff`: changes in meaning, grouped over merchants; another text with the same meaning is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudengine.backends.reference import evaluate
from fraudengine.facts import Facts, FactType
from fraudengine.rule_changes import RulesState, compare_rules
from fraudengine.rules.ast import All, Any, Compare, Condition, IsUnknown, Literal, Not, OneOf, Op, RuleSet
from fraudengine.rules.canonical import canonical_form
from fraudengine.rules.library import Library
from tests import strategies
from tests.command_line import run, sample_rules, write_rules

PLATFORM = """\
rule_set: platform
otherwise: accept
settings:
  challenge_above: {type: money}
  most: {type: integer}
lists:
  blocked: {of: country}
velocity:
  attempts: {count: transactions, per: card, within: 1 hour}
rules:
  - id: above
    description: Above.
    when: {amount: {over: $challenge_above}}
    then: challenge
  - id: listed
    when: {ip_country: {in_list: blocked}}
    then: refuse
  - id: often
    when: {attempts: {over: $most}}
    then: refuse
"""
SHOP = """\
merchant: shop
extends: platform
settings: {challenge_above: {TND: 300, EUR: 90}}
lists: {blocked: [RU, {value: NG, reason: chargebacks, expires: 2027-02-01}]}
rules:
  - id: own
    when: {card_type: prepaid, channel: ecommerce}
    unless: {customer: c-1}
    then: challenge
    reason: OWN
"""
CAFE = "merchant: cafe\nextends: platform\nsettings: {challenge_above: {TND: 300}}\n"


def changes(tmp_path: Path, platform: str = PLATFORM, shop: str | None = SHOP, cafe: str = CAFE) -> list[str]:
    """What the command says of the base rules against these."""
    before = write_rules(tmp_path / "a", platform=PLATFORM, merchants__shop=SHOP, merchants__cafe=CAFE)
    after = write_rules(tmp_path / "b", platform=platform, merchants__cafe=cafe)
    if shop is not None:
        write_rules(after, merchants__shop=shop)
    ran = run("diff", before, after)
    assert (ran.code, ran.err) == (0, "")
    return ran.out.splitlines()


def test_another_text_with_the_same_meaning_is_no_difference(tmp_path: Path) -> None:
    shop = """\
# a comment
extends: platform
merchant: "shop"
rules:
  - reason: OWN
    then: challenge
    when:
      all: [{channel: ecommerce}, {not: {not: {card_type: [prepaid]}}}]
    id: own
    unless: {customer: c-1}
lists:
  blocked:
    - {expires: 2027-02-01, reason: chargebacks, value: NG}   # first
    - RU
settings:
  challenge_above: {EUR: 90.00, TND: 300.000}
"""
    rules = PLATFORM.partition("rules:\n")
    blocks = ["  - id:" + block for block in rules[2].split("  - id:")[1:]]
    platform = rules[0] + "# turned round\nrules:\n" + "".join(reversed(blocks))
    assert changes(tmp_path, platform, shop) == ["no difference in meaning"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("TND: 300,", "TND: 250,", ["challenge_above 300.000 → 250.000 TND for 1 merchant (shop)"]),
        ("EUR: 90}", "EUR: 90, USD: 80}", ["challenge_above in USD added: 80.00 USD for 1 merchant (shop)"]),
        (", EUR: 90}", "}", ["challenge_above in EUR removed, was 90.00 EUR for 1 merchant (shop)"]),
        (
            "settings: {challenge_above: {TND: 300, EUR: 90}}\n",
            "",
            [
                "challenge_above no longer filled in, was 90.00 EUR, 300.000 TND for 1 merchant (shop)",
                "rule above now off: nobody gave `challenge_above` a value, was live for 1 merchant (shop)",
            ],
        ),
        (
            "EUR: 90}}",
            "EUR: 90}, most: 5}",
            [
                "most filled in: 5 for 1 merchant (shop)",
                "rule often now live, was off: nobody gave `most` a value for 1 merchant (shop)",
            ],
        ),
        (
            "[RU,",
            "[NO, DZ,",
            [
                "blocked: added Algeria (DZ), Norway (NO) for 1 merchant (shop)",
                "blocked: removed Russian Federation (RU) for 1 merchant (shop)",
            ],
        ),
        (
            "expires: 2027-02-01",
            "expires: 2027-03-01",
            ["blocked: Nigeria (NG) until 2027-02-01 → until 2027-03-01 for 1 merchant (shop)"],
        ),
        (
            "reason: chargebacks",
            "reason: fraud",
            [
                "words only, no decision changes:",
                "  blocked: the notes on Nigeria (NG) are changed for 1 merchant (shop)",
            ],
        ),
        (
            "card_type: prepaid",
            "card_type: debit",
            [
                "rule own now matches when card_type is debit and channel is ecommerce,"
                " was when card_type is prepaid and channel is ecommerce for 1 merchant (shop)"
            ],
        ),
        (
            "unless: {customer: c-1}",
            "unless: {customer: c-2}",
            ["rule own unless: customer is c-2, was customer is c-1 for 1 merchant (shop)"],
        ),
        (
            "then: challenge",
            "then: refuse\n    final: true",
            ["rule own now gives refuse (final), gave challenge for 1 merchant (shop)"],
        ),
        ("reason: OWN", "reason: OTHER", ["rule own now answers OTHER, was OWN for 1 merchant (shop)"]),
        (
            "reason: OWN",
            "reason: OWN\n    if_unknown: refuse",
            ["rule own when that cannot be known: refuse, was does not match for 1 merchant (shop)"],
        ),
        ("reason: OWN", "reason: OWN\n    mode: shadow", ["rule own now shadow, was live for 1 merchant (shop)"]),
        (
            "id: own",
            "id: mine",
            [
                "rule mine added (live): challenge when card_type is prepaid and channel is ecommerce,"
                " unless customer is c-1 for 1 merchant (shop)",
                "rule own removed (was live) for 1 merchant (shop)",
            ],
        ),
        (
            "extends: platform",
            "extends: platform\ntimezone: Europe/Paris",
            ["timezone Africa/Tunis → Europe/Paris for 1 merchant (shop)"],
        ),
        (
            "extends: platform",
            "extends: platform\notherwise: challenge",
            ["when no rule decides: accept → challenge for 1 merchant (shop)"],
        ),
        (
            "extends: platform",
            "extends: platform\nchallenge: {attempted: refuse}",
            ["after a challenge, when 3-D Secure was only attempted: accept → refuse for 1 merchant (shop)"],
        ),
        (
            "extends: platform",
            "extends: platform\nmetadata: {campaign: text}",
            ["metadata.campaign is text, was nothing for 1 merchant (shop)"],
        ),
        (
            "extends: platform",
            "extends: platform\ndescription: New words.",
            [
                "words only, no decision changes:",
                "  the description of shop is reworded for 1 merchant (shop)",
            ],
        ),
    ],
)
def test_says_what_changed_for_one_merchant(old: str, new: str, said: list[str], tmp_path: Path) -> None:
    assert SHOP.count(old) == 1
    assert changes(tmp_path, shop=SHOP.replace(old, new)) == said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "then: refuse\n  - id: often",
            "then: challenge\n  - id: often",
            ["rule listed now gives challenge, gave refuse for all 2 merchants"],
        ),
        (
            "within: 1 hour",
            "within: 2 hours",
            [
                "counter attempts now transactions per card within 2 hours,"
                " was transactions per card within 1 hour for all 2 merchants"
            ],
        ),
        (
            "description: Above.",
            "description: Higher.",
            [
                "words only, no decision changes:",
                "  rule above is described in other words for all 2 merchants",
            ],
        ),
        (
            "most: {type: integer}",
            "most: {type: integer, value: 3}",
            [
                "most filled in: 3 for all 2 merchants",
                "rule often now live, was off: nobody gave `most` a value for all 2 merchants",
            ],
        ),
    ],
)
def test_equal_changes_of_many_merchants_are_one(old: str, new: str, said: list[str], tmp_path: Path) -> None:
    assert PLATFORM.count(old) == 1
    assert changes(tmp_path, platform=PLATFORM.replace(old, new)) == said


def test_what_only_the_house_rules_show(tmp_path: Path) -> None:
    """Both merchants give the setting themselves, so a default changes nothing for them."""
    platform = PLATFORM.replace("challenge_above: {type: money}", "challenge_above: {type: money, value: 10 TND}")
    assert changes(tmp_path, platform=platform) == [
        "challenge_above filled in: 10.000 TND for platform alone: no merchant differs",
        "rule above now live, was off: nobody gave `challenge_above` a value for platform alone:"
        " no merchant differs",
    ]


def test_merchants_come_and_go(tmp_path: Path) -> None:
    assert changes(tmp_path, shop=None) == ["the merchant shop is gone"]
    before = write_rules(tmp_path / "none", platform=PLATFORM, merchants__cafe=CAFE)
    assert run("diff", before, tmp_path / "a").out == "the merchant shop is new\n"


def test_json(tmp_path: Path) -> None:
    before = write_rules(tmp_path / "a", platform=PLATFORM, merchants__shop=SHOP)
    after = write_rules(tmp_path / "b", platform=PLATFORM, merchants__shop=SHOP.replace("300", "250"))
    assert run("diff", before, after, "--format", "json").json == {
        "before": str(before),
        "after": str(after),
        "changes": [
            {
                "kind": "setting",
                "subject": "challenge_above",
                "text": "challenge_above 300.000 → 250.000 TND",
                "changes_decisions": True,
                "merchants": ["shop"],
            }
        ],
    }


def test_names_five_merchants_and_counts_the_rest(tmp_path: Path) -> None:
    sides = []
    for side, figure in (("a", 300), ("b", 250)):
        names = {f"merchants__m{number}": f"merchant: m{number}\n{SHOP[15:]}" for number in range(6)}
        texts = {name: text.replace("300", str(figure)) for name, text in names.items()}
        sides.append(write_rules(tmp_path / side, platform=PLATFORM, merchants__cafe=CAFE, **texts))
    assert (
        run("diff", *sides).out == "challenge_above 300.000 → 250.000 TND for 6 merchants (m0, m1, m2, m3, m4 …)\n"
    )


# ---- git ------------------------------------------------------------------------------------------


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.tn")
    subprocess.run(["git", "-C", directory, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of a rule directory inside a repository, and an edit that is not committed."""
    rules = write_rules(tmp_path / "repository" / "some" / "rules", platform=PLATFORM, merchants__shop=SHOP)
    top = tmp_path / "repository"
    git(top, "init", "-b", "main")
    git(top, "add", ".")
    git(top, "commit", "-m", "one")
    write_rules(rules, merchants__shop=SHOP.replace("TND: 300", "TND: 250"))
    git(top, "commit", "-am", "two")
    write_rules(rules, merchants__shop=SHOP.replace("TND: 300", "TND: 200"))
    return rules


def test_git_revisions_and_the_working_tree(repository: Path) -> None:
    line = "challenge_above {} → {} TND for 1 merchant (shop)\n".format
    assert run("diff", "HEAD~1", "HEAD", "--rules", repository).out == line("300.000", "250.000")
    assert run("diff", "HEAD", "--rules", repository).out == line("250.000", "200.000")
    assert run("diff", "main", repository, "--rules", repository).out == line("250.000", "200.000")
    assert run("diff", repository, "HEAD~1", "--rules", repository).out == line("200.000", "300.000")
    assert run("diff", "HEAD", "HEAD", "--rules", repository).out == "no difference in meaning\n"


@pytest.mark.parametrize("wrong", ["no-such-revision", "--output=x", "platform.yaml"])
def test_what_is_neither_directory_nor_revision(wrong: str, repository: Path) -> None:
    assert run("diff", "--rules", repository, "--", wrong).code == 2


def test_rules_with_mistakes_are_not_compared(tmp_path: Path) -> None:
    good = write_rules(tmp_path / "a", merchants__shop="merchant: shop\n")
    bad = write_rules(tmp_path / "b", merchants__shop="merchant: shop\nrulez: []\n")
    ran = run("diff", good, bad)
    assert ran.code == 1
    assert "unknown key `rulez`" in ran.out
    assert f"--> {bad}/merchants/shop.yaml:2:1" in ran.out


# ---- meaning --------------------------------------------------------------------------------------


@given(strategies.conditions(), strategies.facts(), strategies.rule_sets())
def test_rewriting_keeps_the_form_and_the_truth(condition: Condition, facts: Facts, rule_set: RuleSet) -> None:
    """Whatever `turned_round` does to a text, form and truth stay."""
    turned, lists = turned_round(condition), strategies.lists_of(rule_set)
    assert canonical_form(turned) == canonical_form(condition)
    assert evaluate(turned, facts, lists) is evaluate(condition, facts, lists)


def turned_round(condition: Condition) -> Condition:
    """The same condition in another text: parts reversed and nested, everything negated twice, De Morgan."""
    match condition:
        case All(conditions=inner, span=span):
            parts = tuple(turned_round(part) for part in reversed(inner))
            return Not(Any(tuple(Not(part, span) for part in parts), span), span)
        case Any(conditions=inner, span=span):
            parts = tuple(turned_round(part) for part in reversed(inner))
            return Any((Any(parts, span),), span) if parts else condition
        case Not(condition=part, span=span):
            return Not(turned_round(part), span)
        case _:
            return Not(Not(condition, condition.span), condition.span)


FEW_LEAVES: tuple[Condition, ...] = (
    Compare("hour", FactType.INTEGER, Op.OVER, Literal(3), strategies.SPAN),
    Compare("hour", FactType.INTEGER, Op.AT_MOST, Literal(3), strategies.SPAN),
    Compare("ip_country", FactType.COUNTRY, Op.EQUALS, Literal("TN"), strategies.SPAN),
    OneOf("ip_country", FactType.COUNTRY, ("TN",), strategies.SPAN),
    IsUnknown("hour", strategies.SPAN),
)
EVERY_CASE: tuple[Facts, ...] = tuple(
    {name: value for name, value in (("hour", hour), ("ip_country", country)) if value is not None}
    for hour in (None, 3, 4)
    for country in (None, "TN", "FR")
)


def small_conditions() -> st.SearchStrategy[Condition]:
    """Conditions over so few tests that many of them have equal forms."""

    def nest(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
        parts = st.lists(inner, max_size=2).map(tuple)
        span = st.just(strategies.SPAN)
        return st.one_of(st.builds(All, parts, span), st.builds(Any, parts, span), st.builds(Not, inner, span))

    return st.recursive(st.sampled_from(FEW_LEAVES), nest, max_leaves=4)


@given(st.lists(small_conditions(), min_size=2, max_size=8))
def test_equal_forms_mean_the_same(conditions: list[Condition]) -> None:
    lists = strategies.lists_of(strategies.make_rule_set([]))
    truths = [tuple(evaluate(condition, facts, lists) for facts in EVERY_CASE) for condition in conditions]
    meaning = dict(zip(map(canonical_form, conditions), truths, strict=True))
    assert [meaning[canonical_form(condition)] for condition in conditions] == truths


def test_the_samples_do_not_differ_from_themselves(tmp_path: Path) -> None:
    library = Library.load(sample_rules(tmp_path))
    other = Library.load(tmp_path / "rules")
    assert compare_rules(RulesState.of(library), RulesState.of(other)) == ()
