"""Files over what they extend: inheritance, settings, lists that turn rules off, sharing and revisions."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from fraudengine.diagnostics import Diagnostic
from fraudengine.facts import FactType
from fraudengine.rules.ast import Compare, InNetworks, Literal, Mode, MoneyFigures, Outcome, Rule, RuleSet
from fraudengine.rules.check import CheckedFile, check_text
from fraudengine.rules.link import link, resolve_extends

from .golden_files import checked

PLATFORM = """
rule_set: platform
timezone: Africa/Tunis
settings:
  challenge_above: {type: money}
  home: {type: ip}
  quiet: {type: integer, value: 3}
lists:
  blacklist: {of: card}
  blocked_ip_countries: {of: country, entries: [KP]}
  allowed_ip_countries: {of: country}
  trusted_customers: {of: customer}
  regulars: {of: customer}
rules:
  - {id: above, when: {amount: {over: $challenge_above}}, then: challenge}
  - {id: at-home, when: {ip_address: $home}, then: accept}
  - {id: blacklisted, when: {card: {in_list: blacklist}}, then: refuse, final: true}
  - {id: blocked, when: {ip_country: {in_list: blocked_ip_countries}}, then: refuse}
  - {id: not-allowed, when: {ip_country: {not_in_list: allowed_ip_countries}}, then: refuse}
  - {id: not-regular, when: {customer: {not_in_list: regulars}}, then: refuse}
  - {id: not-trusted, when: {customer: {not_in_list: trusted_customers}}, then: challenge}
  - {id: sleeping, when: {hour: $quiet}, then: challenge, mode: off}
"""


def check(path: str, text: str) -> CheckedFile:
    file, mistakes = check_text(path, text)
    assert file is not None, mistakes
    return file


def platform(text: str = PLATFORM) -> CheckedFile:
    return check("rules/platform.yaml", text)


def shop(text: str = "", name: str = "shop") -> CheckedFile:
    return check(f"rules/merchants/{name}.yaml", f"merchant: {name}\nextends: platform\n{text}")


def linked(file: CheckedFile, *parents: CheckedFile, shared: Mapping[str, CheckedFile] | None = None) -> RuleSet:
    found = link(file, parents, shared or {})
    assert isinstance(found, RuleSet), found
    return found


def codes(found: RuleSet | list[Diagnostic]) -> list[str]:
    assert isinstance(found, list)
    return [item.code for item in found]


def rule(rule_set: RuleSet, name: str) -> Rule:
    return next(one for one in rule_set.rules if one.id == name)


# ---- extends --------------------------------------------------------------------------------------


def named(name: str, extends: str = "", kind: str = "rule_set") -> CheckedFile:
    return check(f"{name}.yaml", f"{kind}: {name}\n" + (f"extends: {extends}\n" if extends else ""))


def test_chain_is_nearest_first() -> None:
    files = {one.name: one for one in (named("a", "b"), named("b", "c"), named("c"))}
    assert resolve_extends("a", files) == (files["b"], files["c"])
    assert resolve_extends("c", files) == ()


@pytest.mark.parametrize(
    ("files", "code"),
    [
        pytest.param([named("a", "plattform"), named("platform")], "unknown-extends", id="missing"),
        pytest.param([named("a", "a")], "cyclic-extends", id="itself"),
        pytest.param([named("a", "b"), named("b", "c"), named("c", "b")], "cyclic-extends", id="circle above"),
        pytest.param([named("a", "b"), named("b", kind="merchant")], "extends-merchant", id="merchant"),
    ],
)
def test_chain_that_does_not_hold(files: list[CheckedFile], code: str) -> None:
    found = resolve_extends("a", {file.name: file for file in files})
    assert isinstance(found, list)
    assert [item.code for item in found] == [code]


def test_three_files_add_up() -> None:
    base = platform()
    region = check(
        "rules/region.yaml",
        "rule_set: region\nextends: platform\notherwise: challenge\nlists: {blocked_ip_countries: [RU]}\n"
        "settings: {challenge_above: 100 TND}\nchange: {sleeping: {mode: live}}\n",
    )
    merchant = check(
        "rules/merchants/shop.yaml",
        "merchant: shop\nextends: region\nlists: {blocked_ip_countries: [NG]}\nchallenge: {attempted: refuse}\n",
    )
    found = linked(merchant, region, base)
    assert [entry.value for entry in found.lists["blocked_ip_countries"].entries] == ["NG", "RU", "KP"]  # type: ignore[index]
    assert (found.otherwise, found.challenge.attempted) == (Outcome.CHALLENGE, Outcome.REFUSE)
    assert found.settings["challenge_above"].given_in == "region"
    assert (rule(found, "sleeping").mode, rule(found, "sleeping").origin) == (Mode.LIVE, "platform")
    assert [path for path, _ in found.sources] == [file.path for file in (merchant, region, base)]


# ---- settings and lists ---------------------------------------------------------------------------


def test_settings_are_filled_in() -> None:
    found = linked(shop("settings: {challenge_above: {EUR: 90, TND: 300}, home: 10.0.0.1}\n"), platform())
    above, home = rule(found, "above").when, rule(found, "at-home").when
    assert isinstance(above, Compare)
    assert above.operand == MoneyFigures((("EUR", 9_000), ("TND", 300_000)))
    assert isinstance(home, InNetworks)
    assert home.networks == ("10.0.0.1/32",)
    setting = found.settings["challenge_above"]
    assert (setting.type, setting.declared_in, setting.given_in) == (FactType.MONEY, "platform", "shop")
    assert found.settings["quiet"].value == Literal(3)


def test_rules_are_off_in_plain_words() -> None:
    found = linked(shop(), platform())
    assert {one.id: one.off_because for one in found.rules if one.mode is Mode.OFF} == {
        "above": "nobody gave `challenge_above` a value",
        "at-home": "nobody gave `home` a value",
        "not-allowed": "nobody filled the list `allowed_ip_countries`",
        "not-regular": "nobody filled the list `regulars`",
        "sleeping": "the rule says `mode: off`",
    }
    assert found.reads == {"card", "ip_country", "customer"}


def test_filled_lists_wake_their_rules() -> None:
    found = linked(shop("lists: {allowed_ip_countries: [TN], regulars: [c-1]}\n"), platform())
    assert rule(found, "not-allowed").mode is Mode.LIVE
    assert rule(found, "not-regular").mode is Mode.LIVE


def test_an_empty_list_in_unless_turns_nothing_off() -> None:
    text = "rules:\n  - {id: own, when: {hour: 1}, unless: {customer: {in_list: regulars}}, then: refuse}\n"
    assert rule(linked(shop(text), platform()), "own").mode is Mode.LIVE


def test_dates_follow_an_inherited_timezone() -> None:
    entries = "{value: NG, added: 2026-11-02}"
    filled = shop(f"lists: {{blocked_ip_countries: [{entries}]}}\n")
    declared = shop(f"lists: {{own: {{of: country, entries: [{entries}]}}}}\n")
    for file, name in ((filled, "blocked_ip_countries"), (declared, "own")):
        tunis = linked(file, platform()).lists[name].entries[0].added_us  # type: ignore[index]
        paris = platform(PLATFORM.replace("Africa/Tunis", "Asia/Tokyo"))
        tokyo = linked(file, paris).lists[name].entries[0].added_us  # type: ignore[index]
        assert tunis is not None
        assert tokyo is not None
        assert tunis - tokyo == 8 * 3_600_000_000


def test_shared_list_is_one_object_for_all() -> None:
    shared = {"mail_risks": checked("mail_risks.good.yaml")}
    text = "rules:\n  - {id: own, when: {email_domain: {in_list: mail_risks}}, then: refuse}\n"
    base = platform()
    one, other = linked(shop(text), base, shared=shared), linked(shop(text, "bazaar"), base, shared=shared)
    assert one.lists["mail_risks"] is other.lists["mail_risks"]  # type: ignore[index]
    assert one.sources[-1][0] == "rules/lists/mail_risks.yaml"
    assert "mail_risks" not in linked(shop(), base, shared=shared).lists


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("settings: {above: 1 TND}\n", "unknown-setting", id="setting"),
        pytest.param("lists: {blocked: [TN]}\n", "unknown-list", id="list"),
        pytest.param("lists: {blacklist: [TN]}\n", "not-fingerprint", id="entry of another kind"),
        pytest.param("change: {nothing: {mode: off}}\n", "unknown-rule", id="change"),
        pytest.param("rules: [{id: above, when: {hour: 1}, then: refuse}]\n", "redefined-rule", id="rule"),
        pytest.param(
            "rules: [{id: own, when: {metadata.a: 1}, then: refuse}]\n", "unknown-metadata", id="metadata"
        ),
    ],
)
def test_what_does_not_fit_the_parent(text: str, code: str) -> None:
    assert codes(link(shop(text), [platform()], {})) == [code]


def test_a_mistake_of_the_parent_is_cited_in_the_parent() -> None:
    broken = platform(PLATFORM.replace("in_list: blacklist", "in_list: blaklist"))
    found = link(shop(), [broken], {})
    assert isinstance(found, list)
    assert [item.span.path for item in found] == ["rules/platform.yaml"]


# ---- sharing and revisions ------------------------------------------------------------------------


def test_merchants_share_rules_object_by_object() -> None:
    base = platform()
    values = "settings: {challenge_above: 300 TND}\nchange: {sleeping: {mode: live}}\n"
    one, other = linked(shop(values), base), linked(shop(values, "bazaar"), base)
    assert len(one.rules) == 8
    assert all(mine is theirs for mine, theirs in zip(one.rules, other.rules, strict=True))
    assert one.reads is other.reads
    third = linked(shop("settings: {challenge_above: 301 TND}\n", "third"), base)
    assert rule(third, "above") is not rule(one, "above")
    assert rule(third, "blocked") is rule(one, "blocked")


def test_a_thousand_reloads_of_one_merchant_keep_nothing_without_bound() -> None:
    base = platform()
    for number in range(1, 12_001, 4):
        linked(shop(f"settings: {{challenge_above: {number} TND}}\n"), base)
    assert len(base.linked) <= 2
    _, _, merged = base.linked["merged"]
    assert len(merged.variants) <= 10_000


def test_revision_is_of_the_content_only() -> None:
    base = platform()
    one = linked(shop("otherwise: accept\n"), base)
    same = linked(shop("# a comment\n\notherwise:   accept  # another\n"), base)
    assert one.revision == same.revision
    assert one.sources != same.sources
    for other in (
        linked(shop("otherwise: refuse\n"), base),
        linked(shop("otherwise: accept\n"), platform(PLATFORM.replace("KP", "IR"))),
    ):
        assert other.revision != one.revision


def test_revision_follows_the_shared_lists_that_are_read() -> None:
    text = "rules:\n  - {id: own, when: {email_domain: {in_list: risks}}, then: refuse}\n"

    def risks(entry: str) -> dict[str, CheckedFile]:
        return {"risks": check("rules/lists/risks.yaml", f"list: risks\nof: email_domain\nentries: [{entry}]\n")}

    base = platform()
    one, other = (linked(shop(text), base, shared=risks(entry)) for entry in ("a.tn", "b.tn"))
    assert one.revision != other.revision
    one, other = (linked(shop(), base, shared=risks(entry)) for entry in ("a.tn", "b.tn"))
    assert one.revision == other.revision


def test_time_for_one_merchant(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints milliseconds; 5,000 merchants are linked at start."""
    base, file = platform(), shop("settings: {challenge_above: 300 TND}\nlists: {blocked_ip_countries: [RU, NO]}\n")
    began = time.process_time()
    for _ in range(100):
        linked(file, base)
    with capsys.disabled():
        print(f" [link: {(time.process_time() - began) * 10:.3f} ms]", end="")
