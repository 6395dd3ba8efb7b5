"""The rule directory: snapshots, hot reload, last good kept, and what is said about refused files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fraudengine.diagnostics import RuleFilesRefused, UnknownMerchant
from fraudengine.rules.ast import Mode, RuleSet
from fraudengine.rules.library import Library

PLATFORM = """\
rule_set: platform
settings:
  challenge_above: {type: money}
lists:
  blocked_ip_countries: {of: country}
rules:
  - id: challenge-above
    when: {amount: {over: $challenge_above}}
    then: challenge
    reason: AMOUNT_NEEDS_3DS
  - id: ip-country-blocked
    when: {ip_country: {in_list: blocked_ip_countries}}
    then: refuse
    reason: IP_COUNTRY_BLOCKED
"""
SHOP = "merchant: shop\nextends: platform\nsettings: {challenge_above: {TND: 300}}\n"

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a rule file so that its signature is new, however fast the test runs."""
    stamps = iter(range(1_000_000_000, 2_000_000_000))

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        stamp = next(stamps)
        os.utime(path, ns=(stamp, stamp))

    write("platform.yaml", PLATFORM)
    write("merchants/shop.yaml", SHOP)
    return write


def figures(rule_set: RuleSet) -> object:
    return rule_set.settings["challenge_above"].value


def test_an_edit_makes_a_new_snapshot_and_leaves_the_old_one_whole(tmp_path: Path, write: Write) -> None:
    library = Library.load(tmp_path)
    before = library.snapshot
    assert not library.refresh()
    write("merchants/shop.yaml", SHOP.replace("300", "250"))
    assert library.refresh()
    assert "300000" in str(figures(before.rule_set("shop")))
    assert "250000" in str(figures(library.snapshot.rule_set("shop")))
    assert before.rule_set("shop").revision != library.snapshot.rule_set("shop").revision


def test_a_comment_does_not_change_the_revision(tmp_path: Path, write: Write) -> None:
    library = Library.load(tmp_path)
    before = library.snapshot.rule_set("shop")
    write("merchants/shop.yaml", "# for SUP-1\n" + SHOP)
    assert library.refresh()
    assert library.snapshot.rule_set("shop").revision == before.revision


def test_only_the_edited_merchant_is_linked_anew(tmp_path: Path, write: Write) -> None:
    write("merchants/other.yaml", SHOP.replace("shop", "other"))
    library = Library.load(tmp_path)
    other = library.snapshot.rule_set("other")
    write("merchants/shop.yaml", SHOP.replace("300", "250"))
    library.refresh()
    assert library.snapshot.rule_set("other") is other


def test_a_bad_edit_keeps_the_last_good_rules_and_says_so(tmp_path: Path, write: Write) -> None:
    library = Library.load(tmp_path)
    good = library.snapshot.rule_set("shop")
    write("merchants/shop.yaml", SHOP.replace("challenge_above", "chalenge_above"))
    assert library.refresh()
    assert library.snapshot.rule_set("shop") is good
    (refusal,) = library.snapshot.refusals
    assert str(refusal) == (
        "merchants/shop.yaml:3 is refused: unknown setting `chalenge_above`; the rules from before stay in force"
    )
    write("merchants/shop.yaml", SHOP)
    assert library.refresh()
    assert library.snapshot.refusals == ()


def test_a_bad_platform_keeps_everybody_on_the_last_good_one(tmp_path: Path, write: Write) -> None:
    library = Library.load(tmp_path)
    write("platform.yaml", PLATFORM.replace("then: challenge", "then: chalenge"))
    library.refresh()
    assert [refusal.path for refusal in library.snapshot.refusals] == ["platform.yaml"]
    write("merchants/shop.yaml", SHOP.replace("300", "250"))
    library.refresh()
    assert "250000" in str(figures(library.snapshot.rule_set("shop")))
    assert [rule.id for rule in library.snapshot.rule_set("shop").rules] == [
        "challenge-above",
        "ip-country-blocked",
    ]


def test_a_platform_edit_reaches_every_merchant(tmp_path: Path, write: Write) -> None:
    library = Library.load(tmp_path)
    write("platform.yaml", PLATFORM.replace("then: refuse", "then: refuse\n    mode: off"))
    library.refresh()
    modes = {str(rule.id): rule.mode for rule in library.snapshot.rule_set("shop").rules}
    assert modes["ip-country-blocked"] is Mode.OFF


def test_a_merchant_bad_from_the_start_is_unknown_and_refused(tmp_path: Path, write: Write) -> None:
    write("merchants/bad.yaml", "merchant: bad\nextends: platform\nrules: 3\n")
    library = Library.load(tmp_path)
    assert library.snapshot.merchants == ("shop",)
    with pytest.raises(UnknownMerchant) as caught:
        library.snapshot.rule_set("bad")
    assert caught.value.refused
    assert "it has no rules in force" in str(library.snapshot.refusals[0])


def test_a_removed_file_takes_its_merchant_away(tmp_path: Path, write: Write) -> None:
    write("merchants/other.yaml", SHOP.replace("shop", "other"))
    library = Library.load(tmp_path)
    (tmp_path / "merchants/shop.yaml").unlink()
    assert library.refresh()
    assert library.snapshot.merchants == ("other",)
    assert library.snapshot.refusals == ()


@pytest.mark.parametrize("gone", ["emptied", "unreadable"])
def test_a_lost_directory_takes_nothing_away(tmp_path: Path, write: Write, gone: str) -> None:
    library = Library.load(tmp_path)
    if gone == "emptied":
        (tmp_path / "merchants/shop.yaml").unlink()
        (tmp_path / "platform.yaml").unlink()
    else:
        tmp_path.rename(tmp_path.with_name("elsewhere"))
    assert not library.refresh()
    assert library.problem
    assert library.snapshot.merchants == ("shop",)
    if gone == "unreadable":
        tmp_path.with_name("elsewhere").rename(tmp_path)
    else:
        write("platform.yaml", PLATFORM)
        write("merchants/shop.yaml", SHOP)
    library.refresh()
    assert library.problem == ""


def test_two_files_for_one_merchant(tmp_path: Path, write: Write) -> None:
    library = Library.load(tmp_path)
    good = library.snapshot.rule_set("shop")
    write("merchants/shop.yml", SHOP.replace("300", "3"))
    library.refresh()
    assert {refusal.path for refusal in library.snapshot.refusals} == {"merchants/shop.yaml", "merchants/shop.yml"}
    assert all(item.also for refusal in library.snapshot.refusals for item in refusal.diagnostics)
    assert library.snapshot.rule_set("shop") is good
    (tmp_path / "merchants/shop.yaml").unlink()
    library.refresh()
    assert library.snapshot.refusals == ()
    assert "3000" in str(figures(library.snapshot.rule_set("shop")))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda directory: None, "holds no rule files"),
        (lambda directory: directory.rmdir(), "cannot be read"),
        (lambda directory: (directory / "platform.yaml").write_text("rule_set: ["), "platform.yaml"),
    ],
    ids=["empty", "missing", "only a bad file"],
)
def test_nothing_to_load(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path)
    with pytest.raises(RuleFilesRefused, match=said):
        Library.load(tmp_path)


def test_cyclic_and_missing_extends_are_refused(tmp_path: Path, write: Write) -> None:
    write("a.yaml", "rule_set: a\nextends: b\n")
    write("b.yaml", "rule_set: b\nextends: a\n")
    write("merchants/lost.yaml", "merchant: lost\nextends: platfrom\n")
    library = Library.load(tmp_path)
    codes = {item.code for item in library.diagnostics}
    assert codes == {"cyclic-extends", "unknown-extends"}
    assert any("did you mean `platform`" in item.hint for item in library.diagnostics)


def test_texts_of_what_is_in_force_survive_a_bad_edit(tmp_path: Path, write: Write) -> None:
    library = Library.load(tmp_path)
    good = library.snapshot.rule_set("shop")
    write("merchants/shop.yaml", "merchant: [")
    library.refresh()
    assert dict(library.texts(good)) == {"merchants/shop.yaml": SHOP, "platform.yaml": PLATFORM}


def test_a_thousand_reloads_keep_nothing_behind(tmp_path: Path, write: Write) -> None:
    library = Library.load(tmp_path)
    for amount in range(1000):
        write("merchants/shop.yaml", SHOP.replace("300", str(amount)))
        assert library.refresh()
    assert len(library._texts) == 2


def test_a_file_that_cannot_be_read_is_refused_alone(tmp_path: Path, write: Write) -> None:
    write("merchants/other.yaml", SHOP.replace("shop", "other"))
    (tmp_path / "merchants/other.yaml").unlink()
    (tmp_path / "merchants/other.yaml").symlink_to("other.yaml")
    library = Library.load(tmp_path)
    assert library.snapshot.merchants == ("shop",)
