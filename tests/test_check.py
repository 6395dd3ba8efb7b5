"""What a rule file means once checked, and that checking never crashes nor shows a card number."""

from __future__ import annotations

import time
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudengine.cards import find_pans
from fraudengine.diagnostics import Span
from fraudengine.facts import FactType, ListKind
from fraudengine.list_values import read_value
from fraudengine.rules.ast import (
    All,
    Any,
    Compare,
    Condition,
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
    Outcome,
    Rule,
    SettingRef,
    StartsWith,
)
from fraudengine.rules.check import CheckedFile, FileKind, check_text
from fraudengine.rules.check_values import Wrong, figure, instant, money, network, phone

from .golden_files import GOLDEN, checked, golden_sources, link_text, mistakes_of, read_golden, render_all

S: Final = Span("", 0, 0, 0)  # spans do not take part in comparison
TEXT, MONEY, COUNTRY, INTEGER = FactType.TEXT, FactType.MONEY, FactType.COUNTRY, FactType.INTEGER
US_PER_HOUR: Final = 3_600_000_000


def is_(fact: str, kind: FactType, value: str | int | bool) -> Compare:
    return Compare(fact, kind, Op.EQUALS, Literal(value), S)


def figures(**minors: int) -> MoneyFigures:
    return MoneyFigures(tuple(sorted(minors.items())))


def costs(**minors: int) -> Compare:
    return Compare("amount", MONEY, Op.EQUALS, figures(**minors), S)


def when(text: str, head: str = "") -> Condition:
    """The condition of a rule whose `when` is the text."""
    source = f"merchant: shop\n{head}rules:\n  - id: a-rule\n    when: {text}\n    then: refuse\n"
    file, mistakes = check_text("shop.yaml", source)
    assert file is not None, mistakes
    return file.rules[0].rule.when


def codes(text: str) -> list[str]:
    return [item.code for item in check_text("shop.yaml", text)[1]]


# ---- the whole grammar ----------------------------------------------------------------------------


def grammar() -> CheckedFile:
    return checked("grammar.good.yaml")


def test_head_of_the_file() -> None:
    file = grammar()
    assert (file.kind, file.name, file.extends) == (FileKind.MERCHANT, "shop", "platform")
    assert (file.description, file.timezone) == ("A shop: everything in it.", "Europe/Paris")
    assert file.otherwise is Outcome.CHALLENGE
    assert (file.attempted, file.unavailable, file.impossible) == (
        Outcome.CHALLENGE,
        Outcome.ACCEPT,
        Outcome.ACCEPT,
    )


def test_settings_and_metadata() -> None:
    file = grammar()
    assert [(one.name, one.type, one.value) for one in file.settings_declared] == [
        ("night_from", INTEGER, Literal(23)),
        ("small", MONEY, figures(TND=5_000)),
    ]
    assert [one.name for one in file.settings_given] == ["challenge_above", "home_country"]
    assert [(one.key, one.type) for one in file.metadata] == [("vip", FactType.BOOLEAN), ("origin", COUNTRY)]


def test_lists_are_normalised_by_kind() -> None:
    lists = {one.name: (one.kind, [entry.value for entry in one.entries]) for one in grammar().lists_declared}
    assert lists == {
        "own_networks": (ListKind.IP, ["10.0.0.0/8", "41.226.11.9/32", "2c0f:f698::/32"]),
        "bad_mails": (ListKind.EMAIL, ["bob@example.tn"]),
        "bad_phones": (ListKind.PHONE, ["+21671123456"]),
        "bad_bins": (ListKind.BIN, ["407024", "40702411234"]),
        "devices": (ListKind.DEVICE, []),
    }


@pytest.mark.parametrize("text", ["71123456", "71 123-456", "0021671123456", "+216 71 123 456"])
def test_a_rule_file_reads_a_telephone_as_run_time_lists_do(text: str) -> None:
    assert phone(text) == read_value(ListKind.PHONE, text) == "+21671123456"


@pytest.mark.parametrize("text", ["7112345", "711234567", "71123456x", "4242424242424242"])
def test_a_number_of_no_country_is_no_telephone(text: str) -> None:
    assert isinstance(phone(text), Wrong)


def test_every_test_word() -> None:
    rule, short, money_list = linked_rules()
    assert isinstance(rule.when, All)
    in_networks = InNetworks("ip_address", ("10.0.0.0/8", "41.226.11.9/32"), S)
    expected: list[Condition] = [
        All(
            (
                is_("ip_country", COUNTRY, "NO"),
                OneOf("card_country", COUNTRY, ("TN", "FR"), S),
                Not(OneOf("billing_country", COUNTRY, ("US", "DE"), S), S),
            ),
            S,
        ),
        IsUnknown("shipping_country", S),
        Not(IsUnknown("phone_country", S), S),
        Compare("amount", MONEY, Op.OVER, figures(TND=100_000), S),
        All(
            (
                Compare("amount", MONEY, Op.AT_LEAST, figures(TND=100_500, EUR=3_000), S),
                Compare("amount", MONEY, Op.UNDER, SettingRef("challenge_above", S), S),
            ),
            S,
        ),
        All(
            (
                Compare("amount", MONEY, Op.AT_LEAST, SettingRef("small", S), S),
                Compare("amount", MONEY, Op.AT_MOST, figures(TND=1_000_001), S),
            ),
            S,
        ),
        All(
            (
                Compare("hour", INTEGER, Op.AT_LEAST, Literal(6), S),
                Compare("hour", INTEGER, Op.AT_MOST, SettingRef("night_from", S), S),
            ),
            S,
        ),
        OneOf("card_bin", FactType.BIN, ("407024", "40702411"), S),
        StartsWith("card_bin", Literal("4"), S),
        is_("email", TEXT, "bob@example.tn"),
        InList("email_domain", ListName("mail_risks"), S),
        is_("phone", TEXT, "+21671123456"),
        in_networks,
        Not(InList("ip_address", ListName("own_networks"), S), S),
        StartsWith("card_issuer", Literal("BIAT"), S),
        is_("card_expired", FactType.BOOLEAN, False),
        is_("metadata.vip", FactType.BOOLEAN, True),
        Compare("metadata.items", INTEGER, Op.OVER, Literal(3), S),
        is_("metadata.basket", TEXT, "012"),
        OneOf("currency", FactType.CURRENCY, ("TND", "EUR"), S),
        is_("eci", TEXT, "05"),
        Any(
            (
                Compare("channel", FactType.WORD, Op.EQUALS, SettingRef("usual_channel", S), S),
                Not(OneOf("weekday", FactType.WORD, ("saturday", "sunday"), S), S),
            ),
            S,
        ),
    ]
    # `usual_channel` has no value, so the rule is off and its settings stay unresolved.
    assert rule.off_because == "nobody gave `usual_channel` a value"
    assert list(rule.when.conditions) == expected
    assert rule.unless == InList("customer", ListName("trusted_customers"), S)
    assert (rule.then, rule.reason, rule.if_unknown) == (Outcome.CHALLENGE, "EVERYTHING", Outcome.REFUSE)
    assert (rule.mode, rule.challenge_indicator) == (Mode.OFF, "03")
    assert (short.final, short.reason, short.mode) == (True, "SHORT_RULE", Mode.LIVE)
    assert money_list.when == Any(
        (
            Compare("amount", MONEY, Op.EQUALS, figures(TND=100_000), S),
            Compare("amount", MONEY, Op.EQUALS, figures(EUR=5_000), S),
        ),
        S,
    )


def linked_rules() -> list[Rule]:
    linked, mistakes = link_text(*read_golden("grammar.good.yaml"))
    assert linked is not None, mistakes
    return [rule for name in ("every-test", "short-rule", "money-list") for rule in linked.rules if rule.id == name]


# ---- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("{ip_country: NO}", is_("ip_country", COUNTRY, "NO"), id="Norway"),
        pytest.param("{customer: 012345}", is_("customer", TEXT, "012345"), id="leading zero"),
        pytest.param("{customer: '22:30'}", is_("customer", TEXT, "22:30"), id="a time is text"),
        pytest.param("{customer: true}", is_("customer", TEXT, "true"), id="text true"),
        pytest.param("{ip_country: unknown}", IsUnknown("ip_country", S), id="unknown"),
        pytest.param(
            "{ip_country: [TN, unknown]}",
            Any((OneOf("ip_country", COUNTRY, ("TN",), S), IsUnknown("ip_country", S)), S),
            id="unknown in a list",
        ),
        pytest.param(
            "{ip_country: {not: $card_country}}",
            Not(Compare("ip_country", COUNTRY, Op.EQUALS, FactRef("card_country"), S), S),
            id="another fact",
        ),
        pytest.param("{hour: 0}", is_("hour", INTEGER, 0), id="first hour"),
        pytest.param("{hour: 23}", is_("hour", INTEGER, 23), id="last hour"),
        pytest.param("{card_bin: 40702411}", is_("card_bin", FactType.BIN, "40702411"), id="bin"),
        pytest.param(
            "{card_expired: [true, false]}",
            Any((is_("card_expired", FactType.BOOLEAN, True), is_("card_expired", FactType.BOOLEAN, False)), S),
            id="booleans are compared one by one",
        ),
        pytest.param("{ip_address: 41.226.11.9}", InNetworks("ip_address", ("41.226.11.9/32",), S), id="address"),
        pytest.param(
            "{ip_address: '::ffff:41.226.11.9'}",
            InNetworks("ip_address", ("41.226.11.9/32",), S),
            id="mapped address",
        ),
        pytest.param("{amount: 0.001 TND}", costs(TND=1), id="one millime"),
        pytest.param("{amount: 5 JPY}", costs(JPY=5), id="no decimals"),
    ],
)
def test_value_is_read_by_the_type_of_its_fact(text: str, expected: Condition) -> None:
    assert when(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("0.0001 TND", "too-many-decimals", id="decimals"),
        pytest.param("1.0000 TND", "too-many-decimals", id="zero decimals too many"),
        pytest.param("1e3 TND", "not-money", id="exponent"),
        pytest.param("NaN TND", "not-money", id="nan"),
        pytest.param("٣ TND", "not-money", id="other digits"),
        pytest.param("100", "money-without-currency", id="bare"),
        pytest.param("-1 TND", "negative-amount", id="negative"),
    ],
)
def test_amount_that_is_none(text: str, code: str) -> None:
    found = money(text)
    assert isinstance(found, Wrong)
    assert found.code == code


def test_largest_amount() -> None:
    assert figure("999999999.999", "TND") == 999_999_999_999
    assert isinstance(figure("1000000000", "TND"), Wrong)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "1.2.3", "1.2.3.4/33", "fe80::1%eth0", "", "a"])
def test_network_that_is_none(text: str) -> None:
    assert isinstance(network(text), Wrong)


def test_a_date_is_midnight_in_the_timezone() -> None:
    utc = instant("2026-11-02T00:00:00Z", "Africa/Tunis")
    assert isinstance(utc, int)
    assert instant("2026-11-02", "Africa/Tunis") == utc - US_PER_HOUR
    assert instant("2026-11-02", "Pacific/Auckland") == utc - 13 * US_PER_HOUR
    assert instant("2026-11-02T01:00:00+01:00", "UTC") == utc
    assert isinstance(instant("2026-11-02T01:00:00", "UTC"), Wrong)


def test_entry_fields() -> None:
    text = (
        "list: risks\nof: country\nentries:\n  - RU\n"
        "  - {value: NG, reason: why, ticket: SUP-1, by: support, added: 2026-11-02, expires: 2026-11-03}\n"
    )
    file, mistakes = check_text("rules/lists/risks.yaml", text)
    assert file is not None, mistakes
    added = instant("2026-11-02", "Africa/Tunis")
    assert isinstance(added, int)
    assert file.lists_declared[0].entries == (
        ListEntry("RU"),
        ListEntry("NG", "why", "SUP-1", "support", added, added + 24 * US_PER_HOUR),
    )


# ---- limits ---------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "{not: " * depth + "{ip_country: TN}" + "}" * depth


def test_conditions_nest_twenty_deep() -> None:
    when(nested(19))
    text = f"merchant: shop\nrules:\n  - {{id: a, when: {nested(20)}, then: refuse}}\n"
    assert codes(text) == ["nested-too-deep"]


def test_deepest_condition_fits_the_depth_of_yaml() -> None:
    deep = "{any: [" * 19 + "{ip_country: {not: [TN]}}" + "]}" * 19
    when(deep)


def many_rules(count: int) -> str:
    rules = "".join(f"  - {{id: r-{n}, when: {{hour: {n % 24}}}, then: refuse}}\n" for n in range(count))
    return f"merchant: shop\nrules:\n{rules}"


def test_a_thousand_rules_are_the_most() -> None:
    file, mistakes = check_text("shop.yaml", many_rules(1000))
    assert file is not None, mistakes
    assert codes(many_rules(1001)) == ["too-many-rules"]


def test_ten_thousand_entries_are_the_most() -> None:
    def text(count: int) -> str:
        return "merchant: shop\nlists:\n  a: {of: customer, entries: [" + ", ".join(map(str, range(count))) + "]}\n"

    assert not codes(text(10_000))
    assert codes(text(10_001)) == ["too-many-entries"]


def test_warnings_do_not_refuse_the_file() -> None:
    file, mistakes = check_text("shop.yaml", "merchant: shop\nlists:\n  a: {of: country, entries: [TN, TN]}\n")
    assert file is not None
    assert [item.code for item in mistakes] == ["duplicate-entry"]
    assert len(file.lists_declared[0].entries) == 1


# ---- nothing crashes, nothing leaks ---------------------------------------------------------------

PAN: Final = "4111111111111111"
GOOD_TEXT: Final = read_golden("grammar.good.yaml")[1]
FRAGMENTS: Final = st.sampled_from(
    [
        *("{}", "[]", "''", "~", "unknown", "$x", "$hour", "$metadata.vip", "$", "TN", "1", "-1", "1.5", "true"),
        *(
            "100 TND",
            "{TND: 1}",
            "[a, b]",
            "all",
            "any",
            "not",
            "over",
            "between",
            "in_list",
            "rules",
            "4111111111111111",
        ),
        *(
            "\n",
            "  ",
            ": ",
            "- ",
            "#",
            '"',
            "'",
            "&a",
            "*a",
            "!",
            "|",
            ">",
            "%",
            "@",
            "\t",
            "\x00",
            "é",
            "\ud800",
            "{",
            "]",
        ),
    ]
)


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """A good file with a few stretches replaced by something else."""
    text = GOOD_TEXT
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(FRAGMENTS) + text[end:]
    return text


@st.composite
def rewired_texts(draw: st.DrawFn) -> str:
    """A good file with one value replaced by a value of another shape."""
    lines = GOOD_TEXT.splitlines()
    place = draw(st.sampled_from([n for n, line in enumerate(lines) if ": " in line]))
    key = lines[place].split(": ", 1)[0]
    lines[place] = f"{key}: {draw(FRAGMENTS)}"
    return "\n".join(lines)


@given(st.one_of(mutated_texts(), rewired_texts(), st.text()))
def test_the_checker_never_crashes_and_never_shows_a_card(text: str) -> None:
    path = "rules/merchants/shop.yaml"
    file, mistakes = check_text(path, text)
    assert (file is None) is any(item.severity == "error" for item in mistakes)
    everything = mistakes_of(path, text)
    rendered = render_all(everything, golden_sources(path, text))
    assert PAN not in rendered
    assert not find_pans(rendered)
    assert set(mistakes) <= set(everything)
    lines = text.splitlines()
    for item in mistakes:
        assert item.message
        assert item.span.path == path
        assert 1 <= item.span.line <= max(1, len(lines) + 1)
        assert 1 <= item.span.column < item.span.end_column


def test_every_mistake_speaks_to_an_author() -> None:
    for bad in sorted(GOLDEN.glob("*.bad.yaml")):
        for item in mistakes_of(*read_golden(bad.name)):
            assert not item.message.endswith("."), item
            assert item.message[0] in "`" or not item.message[0].isupper(), item
            assert item.hint, item
            for word in ("None", "str", "int", "dict", "node", "scalar", "NoneType"):
                assert word not in item.message.split(), item


def test_time_for_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints milliseconds for the file of a usual merchant; 5,000 of them are read at start."""
    path, text = "shop.yaml", "\n".join(GOOD_TEXT.splitlines()[:36])
    count = 50
    began = time.process_time()
    for _ in range(count):
        check_text(path, text)
    with capsys.disabled():
        print(f" [check: {(time.process_time() - began) / count * 1000:.2f} ms for 36 lines]", end="")


# ---- entries that were pasted as one text ---------------------------------------------------------


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        ("\n    c-1\n\n    c 2 # the second\n", "c-1, c 2"),
        ("c-1\r\n    c-2\r\n", "c-1, c-2"),
        ("|\n    c-1\n    c 2\n", "c-1, c 2"),
        ("c-1\n    - c-2\n", "c-1, c-2"),
        ("1. RU\n    2. KP\n", "RU, KP"),
        ("“RU”، «KP»", "RU, KP"),
        ("RU/KP", "RU, KP"),
        ("C(1); C(2)", "C(1), C(2)"),
        ("Ali Ben Salah", "Ali Ben Salah"),
        ("71 123 456", "71 123 456"),
        ('"it is: so"', '"it is: so"'),
    ],
)
def test_pasted_entries_are_shown_as_the_list_they_are(pasted: str, meant: str) -> None:
    mistakes = check_text("shop.yaml", f"merchant: shop\nlists:\n  some: {pasted}\n")[1]
    assert [item.hint for item in mistakes] == [f"write `some: [{meant}]`"]
