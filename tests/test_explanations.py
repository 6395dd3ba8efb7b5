"""Explanations: the sentences in both languages, every rule with its conditions, files and recorded screenings."""

from __future__ import annotations

import json
import re
import shutil
import string
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudengine import explain_words, french, reasons
from fraudengine.backends.reference import find_matches
from fraudengine.countries import NAMES
from fraudengine.decision import decide
from fraudengine.explain import Verdict, explain_decision, explain_rule
from fraudengine.explain_recorded import explain_recorded
from fraudengine.explain_text import explained_document, line_text
from fraudengine.facts import CATALOGUE, Facts
from fraudengine.lists import ListsAsOf, build_indexes
from fraudengine.money import Money
from fraudengine.reasons import Language
from fraudengine.rules.ast import Mode, Rule, RuleSet
from fraudengine.rules.library import Library
from tests import strategies
from tests.command_line import REPOSITORY, Ran, run, sample_rules, write_rules
from tests.running import running_service

PAYMENT = {
    "merchant": "carthage-market",
    "transaction_id": "T-1",
    "at": "2026-11-23T10:15:00Z",
    "amount": "450.000",
    "currency": "TND",
    "card": {"masked_pan": "411111******1111", "country": "FR"},
    "ip_address": "41.226.11.9",
}

RULES = """\
merchant: shop
settings:
  limit: {type: money, value: {TND: 300, EUR: 90}}
  empty: {type: money}
lists:
  blocked: {of: country, entries: [{value: RU, reason: chargebacks, ticket: SUP-1, by: amel, added: 2026-11-02}]}
  trusted_customers: {of: customer}
rules:
  - {id: over, when: {amount: {over: $limit}}, then: challenge, reason: AMOUNT_NEEDS_3DS}
  - {id: at-least, when: {amount: {at_least: 450 TND}}, then: refuse}
  - {id: foreign, when: {ip_country: {not: TN}}, then: refuse}
  - {id: same-country, when: {ip_country: $card_country}, then: refuse}
  - {id: one-of, when: {ip_country: [DZ, LY]}, then: refuse}
  - {id: listed, when: {ip_country: {in_list: blocked}}, then: refuse}
  - {id: prefix, when: {email: {starts_with: test}}, then: refuse}
  - {id: network, when: {ip_address: 41.226.0.0/16}, then: refuse}
  - {id: no-phone, when: {phone: unknown}, then: refuse}
  - {id: expired, when: {card_expired: true}, if_unknown: challenge, then: refuse}
  - {id: needs-empty, when: {amount: {over: $empty}}, then: refuse}
  - {id: tried, mode: shadow, when: {hour: {between: [1, 4]}}, then: refuse}
  - {id: rescued, when: {channel: ecommerce}, unless: {customer: {in_list: trusted_customers}}, then: refuse}
  - id: nested
    description: {en: Two things at once., fr: Deux choses à la fois.}
    when:
      not:
        any: [{ip_country: TN}, {card_type: debit}]
      hour: {at_most: 20}
    then: refuse
"""
FACTS: Facts = {
    "amount": Money(450_000, "TND"),
    "currency": "TND",
    "channel": "ecommerce",
    "three_ds": "none",
    "ip_country": "FR",
    "card_country": "TN",
    "ip_address": "41.226.11.9",
    "email": "tester@example.tn",
    "hour": 3,
    "customer": "c-1",
}
AT_US = 1_795_000_000_000_000  # 18 November 2026


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    directory = write_rules(tmp_path_factory.mktemp("rules"), merchants__shop=RULES)
    return Library.load(directory).snapshot.rule_set("shop")


def lists_of(rule_set: RuleSet) -> ListsAsOf:
    return ListsAsOf(build_indexes(rule_set.lists), AT_US)


def rule_named(rule_set: RuleSet, rule_id: str) -> Rule:
    return next(rule for rule in rule_set.rules if rule.id == rule_id)


# ---- sentences ------------------------------------------------------------------------------------

SENTENCES = [
    (
        "over",
        {},
        "amount 450.000 TND is over 300.000 TND",
        "amount (montant) 450.000 TND dépasse 300.000 TND",
    ),
    (
        "over",
        {"amount": Money(300_000, "TND")},
        "amount 300.000 TND is not over 300.000 TND",
        "amount (montant) 300.000 TND ne dépasse pas 300.000 TND",
    ),
    (
        "over",
        {"amount": Money(1_000, "GBP"), "currency": "GBP"},
        "amount 10.00 GBP cannot be compared: there is no figure in GBP, only 90.00 EUR, 300.000 TND",
        "amount (montant) 10.00 GBP ne peut se comparer : il n'y a pas de montant en GBP, seulement 90.00 EUR,"
        " 300.000 TND",
    ),
    (
        "at-least",
        {},
        "amount 450.000 TND is at least 450.000 TND",
        "amount (montant) 450.000 TND est au moins 450.000 TND",
    ),
    (
        "foreign",
        {},
        "ip_country France (FR) is not Tunisia (TN)",
        "ip_country (pays de l'adresse internet) France (FR) n'est pas Tunisie (TN)",
    ),
    (
        "foreign",
        {"ip_country": "TN"},
        "ip_country Tunisia (TN) is Tunisia (TN), where the rule asks for the opposite",
        "ip_country (pays de l'adresse internet) Tunisie (TN) est Tunisie (TN), alors que la règle demande le"
        " contraire",
    ),
    (
        "foreign",
        {"ip_country": None},
        "ip_country is unknown, so it cannot be said whether it is Tunisia (TN)",
        "ip_country (pays de l'adresse internet) n'a pas de valeur connue, on ne peut donc pas dire si cela est"
        " Tunisie (TN)",
    ),
    (
        "same-country",
        {},
        "ip_country France (FR) is not card_country, Tunisia (TN)",
        "ip_country (pays de l'adresse internet) France (FR) n'est pas card_country, Tunisie (TN)",
    ),
    (
        "same-country",
        {"card_country": None},
        "ip_country France (FR) cannot be compared: card_country is unknown",
        "ip_country (pays de l'adresse internet) France (FR) ne peut se comparer : card_country n'a pas de valeur"
        " connue",
    ),
    (
        "one-of",
        {},
        "ip_country France (FR) is none of Algeria (DZ), Libya (LY)",
        "ip_country (pays de l'adresse internet) France (FR) n'est pas parmi Algérie (DZ), Libye (LY)",
    ),
    (
        "listed",
        {"ip_country": "RU"},
        "ip_country Russian Federation (RU) is in the list blocked"
        " (chargebacks, SUP-1, by amel, added 2026-11-02, in merchants/shop.yaml:6)",
        "ip_country (pays de l'adresse internet) Russie (RU) est dans la liste blocked"
        " (chargebacks, SUP-1, par amel, ajouté le 2026-11-02, dans merchants/shop.yaml:6)",
    ),
    (
        "prefix",
        {},
        "email tester@example.tn begins with test",
        "email (e-mail) tester@example.tn commence par test",
    ),
    (
        "network",
        {},
        "ip_address 41.226.11.9 is in the network 41.226.0.0/16",
        "ip_address (adresse internet) 41.226.11.9 est dans le réseau 41.226.0.0/16",
    ),
    ("no-phone", {}, "phone is unknown", "phone (téléphone) n'a pas de valeur connue"),
    (
        "no-phone",
        {"phone": "+21671123456"},
        "phone is known: +21671123456",
        "phone (téléphone) a une valeur connue : +21671123456",
    ),
    (
        "expired",
        {"card_expired": False},
        "card_expired false is not true",
        "card_expired (carte expirée) faux n'est pas vrai",
    ),
]


@pytest.mark.parametrize(("rule_id", "changes", "english", "in_french"), SENTENCES)
def test_sentence_of_a_test(
    rule_id: str, changes: dict[str, object], english: str, in_french: str, shop: RuleSet
) -> None:
    facts = {name: value for name, value in {**FACTS, **changes}.items() if value is not None}
    for language, expected in (("en", english), ("fr", in_french)):
        explained = explain_rule(rule_named(shop, rule_id), facts, lists_of(shop), language)  # type: ignore[arg-type]
        assert explained.when is not None
        assert line_text(explained.when, language) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule_id", "verdict", "english", "in_french"),
    [
        ("over", Verdict.MATCHED, "matched: challenge", "s'applique : demander 3-D Secure"),
        ("one-of", Verdict.NOT_MATCHED, "did not match", "ne s'applique pas"),
        (
            "expired",
            Verdict.MATCHED_BY_UNKNOWN,
            "matched, because what it asks about is unknown: challenge",
            "s'applique, car ce qu'elle demande est inconnu : demander 3-D Secure",
        ),
        (
            "nested",
            Verdict.UNKNOWN,
            "did not match, because what it asks about is unknown",
            "ne s'applique pas, car ce qu'elle demande est inconnu",
        ),
        (
            "tried",
            Verdict.MATCHED,
            "would have matched: refuse; it is on trial (shadow) and decides nothing",
            "se serait appliquée : refuser ; elle est à l'essai (shadow) et ne décide rien",
        ),
        (
            "needs-empty",
            Verdict.OFF,
            "off: nobody gave `empty` a value",
            "désactivée : personne n'a donné de valeur à `empty`",
        ),
    ],
)
def test_verdict_on_a_rule(rule_id: str, verdict: Verdict, english: str, in_french: str, shop: RuleSet) -> None:
    rule = rule_named(shop, rule_id)
    found = [explain_rule(rule, FACTS, lists_of(shop), language) for language in ("en", "fr")]
    assert [one.verdict for one in found] == [verdict, verdict]
    assert [one.sentence for one in found] == [english, in_french]


def test_unless_rescues(tmp_path: Path) -> None:
    text = RULES.replace("trusted_customers: {of: customer}", "trusted_customers: {of: customer, entries: [c-1]}")
    rule_set = Library.load(write_rules(tmp_path, merchants__shop=text)).snapshot.rule_set("shop")
    found = explain_rule(rule_named(rule_set, "rescued"), FACTS, lists_of(rule_set))
    assert (found.verdict, found.sentence) == (Verdict.RESCUED, "did not match, because of its `unless`")
    assert found.unless is not None
    assert line_text(found.unless, "en").startswith("customer c-1 is in the list trusted_customers")


def test_conditions_keep_their_nesting(shop: RuleSet) -> None:
    facts = {**FACTS, "card_type": "credit"}
    when = explain_rule(rule_named(shop, "nested"), facts, lists_of(shop)).when
    assert when is not None
    assert (when.truth, when.sentence) == (True, "all of these must hold:")
    group, hour = when.parts
    assert (group.truth, group.sentence, hour.truth) == (True, "this must not hold:", True)
    assert [(line.truth, line.fact) for line in group.parts[0].parts] == [
        (False, "ip_country"),
        (False, "card_type"),
    ]


def test_description_in_the_language_asked_for(shop: RuleSet) -> None:
    nested, over = rule_named(shop, "nested"), rule_named(shop, "over")
    said = [
        explain_rule(rule, FACTS, lists_of(shop), language).description
        for rule in (nested, over)
        for language in ("en", "fr")
    ]
    built_in = reasons.CATALOGUE["AMOUNT_NEEDS_3DS"]
    assert said == ["Two things at once.", "Deux choses à la fois.", built_in.en, built_in.fr]


# ---- both languages are whole ---------------------------------------------------------------------


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("table", [explain_words.PHRASES, explain_words._ASKED, explain_words._ASKED_NOT])
def test_every_phrase_has_both_languages(table: dict[str, tuple[str, str]]) -> None:
    for name, (english, in_french) in table.items():
        assert english.strip(), name
        assert in_french.strip(), name
        assert _placeholders(english) == _placeholders(in_french), name


def test_french_knows_every_country_and_fact() -> None:
    assert french.COUNTRIES.keys() == NAMES.keys()
    assert french.FACTS.keys() == CATALOGUE.keys()


def test_french_says_why_any_rule_is_off() -> None:
    said = set(
        re.findall(
            r'"((?:nobody|the rule says|`change` says)[^"]*)"', _sources("link_rules", "link_merge", "check_rules")
        )
    )
    assert len(said) >= 4
    for english in said:
        assert not re.search(
            r"\b(nobody|says|gave|filled)\b",
            french.off_because(english.replace("{use.name}", "x").replace("{reads.name}", "x")),
        )


def _sources(*modules: str) -> str:
    directory = REPOSITORY / "src" / "fraudengine" / "rules"
    return "\n".join((directory / f"{module}.py").read_text(encoding="utf-8") for module in modules)


# ---- a whole decision -----------------------------------------------------------------------------


def test_summary_and_order(shop: RuleSet) -> None:
    lists = lists_of(shop)
    decision = decide(shop, find_matches(shop, FACTS, lists), three_ds="none", channel="ecommerce")
    explained = explain_decision(shop, decision, FACTS, lists)
    assert explained.summary[:2] == ("refuse: AT_LEAST. AT_LEAST", "The rule at-least decided.")
    groups = [(one.decided, one.verdict, one.rule.mode) for one in explained.rules]
    assert groups[0] == (True, Verdict.MATCHED, Mode.LIVE)
    assert [one.decided for one in explained.rules].count(True) == 1
    assert groups[-1][1] is Verdict.OFF
    assert len(explained.rules) == len(shop.rules)


def test_summary_tells_what_3ds_made_of_the_rules(shop: RuleSet) -> None:
    facts = {**FACTS, "three_ds": "failed", "amount": Money(1, "TND")}
    decision = decide(shop, (), three_ds="failed", channel="ecommerce")
    explained = explain_decision(shop, decision, facts, lists_of(shop))
    assert "No rule decided; the rule set says `otherwise: accept`." in explained.summary
    assert "Before 3-D Secure was read, the rules came to: accept." in explained.summary


@given(strategies.rule_sets(), strategies.facts(), st.sampled_from(["en", "fr"]))
def test_explains_whatever_the_law_decides(rule_set: RuleSet, facts: Facts, language: Language) -> None:
    """The verdict of each rule is the reference backend's, and each line's truth is that of its condition."""
    lists = strategies.lists_of(rule_set)
    matches = {match.rule.id: match for match in find_matches(rule_set, facts, lists)}
    for rule in rule_set.rules:
        explained = explain_rule(rule, facts, lists, language)
        matched = explained.verdict in (Verdict.MATCHED, Verdict.MATCHED_BY_UNKNOWN)
        assert matched == (rule.id in matches)
        if matched:
            assert (explained.verdict is Verdict.MATCHED_BY_UNKNOWN) == matches[rule.id].by_unknown
        assert explained.sentence
        assert (explained.when is None) == (rule.mode is Mode.OFF)


# ---- the command on a file ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_rules(tmp_path_factory.mktemp("sample"))


def explain(what: object, rules: Path, state: Path, *options: object) -> Ran:
    return run("explain", what, "--rules", rules, "--state", state, *options)


def test_explains_the_json_of_a_payment(rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "payment.json"
    file.write_text(json.dumps(PAYMENT))
    ran = explain(file, rules, tmp_path / "no-state")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "450.000 TND paid to carthage-market on 2026-11-23 11:15:00 (Africa/Tunis), transaction T-1"
    assert lines[2] == "The rule card-country-not-allowed decided."
    assert "  yes amount 450.000 TND is over 300.000 TND" in lines
    assert "  yes card_country France (FR) is not in the list allowed_card_countries" in lines
    assert "prepaid-card — off: the rule says `mode: off`" in lines
    assert not (tmp_path / "no-state").exists()
    in_french = explain(file, rules, tmp_path, "--lang", "fr").out
    assert "  oui amount (montant) 450.000 TND dépasse 300.000 TND" in in_french.splitlines()
    for english in ("matched", "unknown", " is ", "decided", "The merchant", "The card"):
        assert english not in in_french.partition("night-order")[0], english
    found = explain(file, rules, tmp_path, "--format", "json").json
    assert found["text"] + "\n" == ran.out
    assert {one["rule"]: one["verdict"] for one in found["rules"]}["challenge-above"] == "matched"


def test_a_payment_is_explained_by_run_time_lists_too(rules: Path, tmp_path: Path) -> None:
    """What `screen` and the service would answer: an entry that is listed, a rule that one has woken."""
    at = {name: value for name, value in PAYMENT.items() if name != "at"}
    file = tmp_path / "payment.json"
    file.write_text(json.dumps({**at, "customer_id": "c-7", "ip_address": "8.8.8.8", "amount": "5.000"}))
    for listed in (("blocked_customers", "c-7"), ("blocked_ip_countries", "US")):
        ran = run(
            "lists", "add", "carthage-market", *listed, "--reason", "spam", "--rules", rules, "--state", tmp_path
        )
        assert ran.code == 0, ran.err
    ran = explain(file, rules, tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert "customer-blocked — matched" in ran.out
    assert "run-time entry 1" in ran.out
    assert "ip-country-blocked — matched" in ran.out


def test_explains_yaml_and_one_rule(rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "payment.yaml"
    file.write_text("merchant: carthage-market\nat: 2026-11-23\ntransaction: {amount: 450 TND, card_country: TN}\n")
    ran = explain(file, rules, tmp_path, "--rule", "challenge-above")
    assert ran.code == 0
    assert "challenge-above — matched and decided: challenge" in ran.out
    assert "night-order" not in ran.out
    assert "on 2026-11-23 00:00:00" in ran.out
    file.write_text("merchant: carthage-market\ntransaction: {amount: 450 TND, card_country: TN}\n")
    today = datetime.now(ZoneInfo("Africa/Tunis")).date()
    told = explain(file, rules, tmp_path).out
    assert f"on {today}" in told or f"on {today + timedelta(days=1)}" in told, "without an instant it is now"
    wrong = explain(file, rules, tmp_path, "--rule", "chalenge-above")
    assert (wrong.code, wrong.err.strip()) == (
        2,
        "fraudengine: there is no rule `chalenge-above`; did you mean `challenge-above`?",
    )


def test_explains_one_test_of_a_test_file(rules: Path, tmp_path: Path) -> None:
    file = rules / "merchants" / "carthage-market.test.yaml"
    ran = explain(file, rules, tmp_path, "-k", "one millime over 300", "--rule", "challenge-above")
    assert "yes amount 300.001 TND is over 300.000 TND" in ran.out
    assert explain(file, rules, tmp_path, "-k", "no such name").code == 2


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ('{"merchant": "carthage-market"', 1, "JSON"),
        ('{"merchant": "carthage-market"}', 1, "amount"),
        (json.dumps({**PAYMENT, "merchant": "carthage-markt"}), 1, "did you mean `carthage-market`?"),
        ("merchant: nobody\ntransaction: {amount: 1 TND}\n", 1, "unknown merchant `nobody`"),
        ("merchant: carthage-market\ntransaction: {amont: 1 TND}\n", 1, "did you mean `amount`?"),
        ("transaction: {amount: 1 TND}\n", 1, "a test file begins with `merchant: NAME`"),
    ],
)
def test_bad_files_say_what_is_wrong(text: str, code: int, said: str, rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "payment"
    file.write_text(text)
    ran = explain(file, rules, tmp_path)
    assert (ran.code, said in ran.err) == (code, True), ran.err


def test_a_name_that_is_neither_file_nor_screening(rules: Path, tmp_path: Path) -> None:
    assert explain("no-such-file.json", rules, tmp_path).code == 2
    assert explain("scr_0000000000000", rules, tmp_path).code == 3  # there is no log


# ---- recorded screenings --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Rules, state and the id of a screening, after which the rules were changed beyond recognition."""
    directory = tmp_path_factory.mktemp("recorded")
    rules, state = sample_rules(directory), directory / "var"
    payment = directory / "payment.json"
    payment.write_text(json.dumps(PAYMENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUDENGINE_DEVELOPMENT", "1")
        ran = run("screen", payment, "--rules", rules, "--state", state, "--format", "json")
    assert ran.code == 0, ran.err
    shutil.rmtree(rules)
    write_rules(rules, merchants__carthage_market="merchant: carthage-market\notherwise: challenge\n")
    return rules, state, ran.json["screening_id"]


def test_a_recorded_screening_is_explained_by_the_rules_of_its_own_revision(
    recorded: tuple[Path, Path, str],
) -> None:
    rules, state, screening_id = recorded
    ran = explain(screening_id, rules, state)
    assert ran.code == 0, ran.err
    assert "The rule card-country-not-allowed decided." in ran.out
    assert "  yes amount 450.000 TND is over 300.000 TND" in ran.out.splitlines()
    assert "merchants/carthage-market.yaml:" in ran.out
    assert "What was recorded differs" not in ran.out
    assert explain("scr_0000000000000", rules, state).code == 1


def test_the_api_returns_the_same_text(recorded: tuple[Path, Path, str]) -> None:
    rules, state, screening_id = recorded
    with running_service(state.parent) as service:
        plain = service.client.get(f"/v1/screenings/{screening_id}").json()
        assert "explanation" not in plain
        for language in ("en", "fr"):
            answer = service.client.get(f"/v1/screenings/{screening_id}?explain=true&lang={language}")
            assert answer.status_code == httpx.codes.OK
            explanation = answer.json()["explanation"]
            text = explain(screening_id, rules, state, "--lang", language).out
            assert (explanation["language"], explanation["text"] + "\n") == (language, text)
            assert {**answer.json(), "explanation": None} == {**plain, "explanation": None}
        for wrong in ("explain=perhaps", "explain=true&lang=de"):
            assert service.client.get(f"/v1/screenings/{screening_id}?{wrong}").status_code == 422
        assert service.client.get("/v1/screenings/scr_0000000000000?explain=true").status_code == 404


def _document(state: Path, screening_id: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    from fraudengine.log_reader import LogReader
    from fraudengine.store import parse_screening_id

    with LogReader(state / "decisions.db") as log:
        number = parse_screening_id(screening_id)
        assert number is not None
        found = log.document(number)
        assert found is not None
        return found[0], log.revision_texts(found[1])


def test_says_when_the_record_and_the_rules_disagree(recorded: tuple[Path, Path, str]) -> None:
    _, state, screening_id = recorded
    document, texts = _document(state, screening_id)
    other = document.replace(b'"450.000 TND"', b'"200.000 TND"')
    assert other != document
    assert not any("differs" in line for line in explain_recorded(document, texts).explanation.summary)
    assert any("differs" in line for line in explain_recorded(other, texts).explanation.summary)


def test_says_when_the_rules_were_not_kept(recorded: tuple[Path, Path, str]) -> None:
    _, state, screening_id = recorded
    document, _ = _document(state, screening_id)
    found = json.loads(explained_document(document, (), "fr"))["explanation"]
    assert found["text"].startswith("Impossible à expliquer")
    assert found["rules"] == []
