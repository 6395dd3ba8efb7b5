"""What happens to support staff whose file is not quite what they mean: nothing is passed over in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fraudengine.mistyped import mistyped_name
from fraudengine.replay.atomic import replaced_file
from fraudengine.rules.library import Library

from .command_line import fraudengine_here, run, sample_rules
from .running import REPOSITORY, running_service, wait_until


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return sample_rules(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("merchants/shop.YAML", "rename it"),
        ("merchants/shop.yaml.txt", "rename it"),
        ("platform.yml.txt", "rename it"),
        ("merchants/sub/shop.yaml", "move it to merchants/"),
        ("lists/old/bad.yml", "move it to lists/"),
    ],
)
def test_check_tells_of_files_that_nobody_reads(rules: Path, name: str, hint: str) -> None:
    path = rules / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("merchant: shop\nextends: platform\n")
    ran = run("check", rules)
    assert ran.code == 0
    assert "warning: this file is not read" in ran.out
    assert f"{name}:1:1" in ran.out
    assert hint in ran.out
    assert run("check", "--strict", rules).code == 1


def test_check_leaves_copies_that_editors_keep_alone(rules: Path) -> None:
    for name in ("shop.yaml~", ".shop.yaml.swp", "shop.yaml.bak", "README.md"):
        (rules / "merchants" / name).write_text("merchant: shop\n")
    assert "not read" not in run("check", rules).out


def test_check_of_a_file_that_is_no_rule_file_is_a_wrong_call(rules: Path) -> None:
    (rules / "merchants" / "shop.yaml.txt").write_text("merchant: shop\nextends: platform\n")
    ran = run("check", rules / "merchants" / "shop.yaml.txt")
    assert (ran.code, "is no rule file: the name of one ends in `.yaml`" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("setting", "least"),
    [
        ("max_attempts_per_card: 0", 1),
        ("max_attempts_per_card: -1", 1),
        ("max_refusals_per_address: 0", 1),
        ("max_cards_per_address: -5", 0),
    ],
)
def test_a_figure_that_every_count_reaches_is_a_mistake(rules: Path, setting: str, least: int) -> None:
    """Zero is what people write for `off`; it would refuse every card."""
    shop = rules / "merchants" / "shop.yaml"
    shop.write_text(f"merchant: shop\nextends: platform\nsettings:\n  {setting}\n")
    ran = run("check", rules)
    assert ran.code == 1
    assert "would match every payment" in ran.out
    assert "shop.yaml:4:" in ran.out
    assert f"write {least} or more, or delete the line: then the rule is off" in ran.out
    shop.write_text(f"merchant: shop\nextends: platform\nsettings:\n  {setting.split(':')[0]}: {least}\n")
    assert run("check", rules).code == 0


def test_lists_can_be_kept_while_the_merchants_file_has_a_mistake(rules: Path, tmp_path: Path) -> None:
    """A stolen card must not wait for a typo."""
    merchant = rules / "merchants" / "carthage-market.yaml"
    merchant.write_text(merchant.read_text() + "\nrulez: []\n")
    where = ("--rules", rules, "--state", tmp_path / "var")
    added = run("lists", "add", "carthage-market", "blocked_customers", "c-7", "--reason", "stolen", *where)
    assert added.code == 0, added.err
    assert "merchants/carthage-market.yaml:" in added.err
    assert "is refused: unknown key `rulez`" in added.err
    assert "c-7" in run("lists", "show", "carthage-market", "blocked_customers", *where).out
    (rules / "platform.yaml").write_text("rule_set: platform\nrulez: []\n")
    refused = run("lists", "show", "carthage-market", "blocked_customers", *where)
    assert (refused.code, "unknown key `rulez`" in refused.err) == (1, True)


def test_a_pipe_in_the_place_of_a_rule_file_is_refused_and_holds_nobody_up(rules: Path) -> None:
    os.mkfifo(rules / "merchants" / "pipe.yaml")
    ran = run("check", rules)
    assert (ran.code, "it is a pipe or a device, and no file" in ran.out) == (1, True)
    library = Library.load(rules)
    assert "carthage-market" in library.snapshot.merchants
    (rules / "merchants" / "pipe.yaml").unlink()
    library.refresh()
    assert not library.snapshot.refusals


def test_a_card_key_by_which_no_listed_card_is_found_is_said(rules: Path, tmp_path: Path) -> None:
    """After a restore without the key every blacklisted card would pass, and nobody would know."""
    where = {"FRAUDENGINE_STATE": str(tmp_path / "var"), "FRAUDENGINE_RULES": str(rules)}
    keys = [{**where, "FRAUDENGINE_CARD_KEY": key * 32} for key in ("5c", "7e")]
    listed = fraudengine_here("lists", "add", "carthage-market", "blacklist", stdin="4242424242424242\n", **keys[0])
    assert listed.returncode == 0, listed.stderr
    well, wrong = (fraudengine_here("doctor", **one).stdout for one in keys)
    assert "are not live" not in well
    assert "list entries hang on card keys that are not live (1 on key" in wrong
    with running_service(tmp_path, {"FRAUDENGINE_CARD_KEY": "7e" * 32}) as service:
        ready = service.client.get("/readyz").json()
        assert (ready["ready"], ["are not live" in problem for problem in ready["problems"]]) == (True, [True])
        entries = "/v1/merchants/carthage-market/lists/blacklist/entries"
        (entry,) = service.client.get(entries).json()["entries"]
        removed = service.client.delete(f"{entries}/{entry['id']}", params={"reason": "listed again"})
        assert removed.status_code == 200, removed.text
        wait_until(lambda: service.client.get("/readyz").json() == {"ready": True, "problems": []}, "all is well")
    with running_service(tmp_path, {"FRAUDENGINE_CARD_KEY": "5c" * 32}) as service:
        assert service.client.get("/readyz").json() == {"ready": True, "problems": []}


def test_a_name_may_end_with_inches_and_not_with_a_stray_quote() -> None:
    assert mistyped_name('iPad 12.9"') is None
    assert mistyped_name('c-1"') is None
    assert mistyped_name('amal"') is not None
    assert mistyped_name('"c-1') is not None


def test_show_names_lists_that_are_filled_at_run_time_and_the_rules_that_they_wake(
    rules: Path, tmp_path: Path
) -> None:
    where = ("--rules", rules, "--state", tmp_path / "var")
    (rules / "merchants" / "shop.yaml").write_text("merchant: shop\nextends: platform\n")
    before = run("show", "shop", *where)
    assert "ip-country-not-allowed  nobody filled the list `allowed_ip_countries`" in before.out
    assert not (tmp_path / "var").exists(), "to look makes no files"
    assert run("lists", "add", "shop", "allowed_ip_countries", "TN", *where).code == 0
    after = run("show", "shop", *where)
    assert after.code == 0, after.err
    assert "nobody filled the list `allowed_ip_countries`" not in after.out
    assert "run time, see `lists show`: allowed_ip_countries" in after.out
    (empty,) = [line for line in after.out.splitlines() if line.strip().startswith("empty:")]
    assert "allowed_ip_countries" not in empty
    found = run("show", "shop", *where, "--format", "json").json
    assert found["filled_at_run_time"] == ["allowed_ip_countries"]


def test_a_terminal_that_cannot_show_every_letter_shows_the_others(tmp_path: Path) -> None:
    payment = {"merchant": "carthage-market", "transaction_id": "T-1", "amount": "5.000", "currency": "TND"}
    file = tmp_path / "payment.json"
    file.write_text(json.dumps(payment))
    for language in ("en", "fr"):
        ran = subprocess.run(
            [sys.executable, "-m", "fraudengine", "explain", file, "--lang", language],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "latin-1"},
            cwd=REPOSITORY,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert b"\nprepaid-card ? " in ran.stdout


def test_a_file_that_is_replaced_stays_a_link_and_nothing_else_is_replaced(tmp_path: Path) -> None:
    there, link, pipe = tmp_path / "there", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(there)
    with replaced_file(link) as draft:
        draft.write_text("whole")
    assert (link.is_symlink(), there.read_text()) == (True, "whole")
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="is no file that can be replaced"), replaced_file(pipe):
        raise AssertionError("nothing is to be written")
    assert pipe.is_fifo()


def test_an_error_of_the_disk_names_the_file(rules: Path, tmp_path: Path) -> None:
    ran = run("test", rules, "--junit", tmp_path / "nowhere" / "x.xml")
    assert (ran.code, ran.err.strip()) == (3, f"fraudengine: {tmp_path}/nowhere/x.xml: No such file or directory")
