"""`fraudengine show`: what is in force, from where, in the order in which it decides."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from tests.command_line import run, sample_rules, write_rules


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_rules(tmp_path_factory.mktemp("sample"))


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), start=1) if text in line)


def test_shows_settings_and_lists_with_their_source_first(rules: Path) -> None:
    ran = run("show", "sahara-travel", "--rules", rules)
    assert (ran.code, ran.err) == (0, "")
    out = ran.out
    headings = [line for line in out.splitlines() if line.isupper() and not line.startswith(" ")]
    assert headings[:2] == ["SETTINGS", "LISTS"]
    assert headings.index("RULES THAT ARE OFF") == headings.index("RULES, THE FIRST THAT MATCHES DECIDES") + 1
    file = rules / "merchants" / "sahara-travel.yaml"
    settings, lists = out.partition("SETTINGS")[2].partition("LISTS")[::2]
    assert "  refuse_above  9000.00 EUR, 30000.000 TND, 10000.00 USD\n" in settings
    assert f"      merchants/sahara-travel.yaml:{line_of(file, 'refuse_above:')}\n" in settings
    assert settings.index("refuse_above") < settings.index("not filled in:")
    assert "  blocked_ip_countries  Nigeria (NG), Russian Federation (RU)\n" in lists
    assert f"      merchants/sahara-travel.yaml:{line_of(file, 'blocked_ip_countries')} (2)\n" in lists
    assert "Nigeria (NG): chargebacks, SUP-1055, by support, since 2026-11-02, until 2027-02-01" in lists
    assert "      lists/embargoed_countries.yaml:" in lists
    assert lists.index("embargoed_countries") < lists.index("empty: allowed_card_countries")


def test_shows_every_rule_in_the_order_in_which_it_decides(rules: Path) -> None:
    out = run("show", "sahara-travel", "--rules", rules).out
    platform, own = rules / "platform.yaml", rules / "merchants" / "sahara-travel.yaml"
    for earlier, later in (
        ("  card-blacklisted", "  embargoed  "),
        ("  embargoed  ", "  trusted-card"),
        ("  trusted-customer", "  bin-blocked"),
        ("  refuse-above", "  challenge-above"),
        ("  countries-differ", "Otherwise\n  accept"),
        ("Otherwise", "  prepaid-card"),
    ):
        assert out.index(earlier) < out.index(later), (earlier, later)
    assert f"      merchants/sahara-travel.yaml:{line_of(own, 'id: embargoed')}\n" in out
    assert "COUNTRIES_DIFFER — SHADOW, decides nothing" in out
    changed = f"platform.yaml:{line_of(platform, 'id: countries-differ')}, changed in merchants/sahara-travel.yaml:"
    assert changed in out
    assert "when amount is over 9000.00 EUR, 30000.000 TND, 10000.00 USD\n" in out
    assert "  prepaid-card  the rule says `mode: off`\n" in out
    assert "  ip-country-not-allowed  nobody filled the list `allowed_ip_countries`\n" in out


def test_json_has_places_conditions_and_the_same_order(rules: Path) -> None:
    found = run("show", "carthage-market", "--rules", rules, "--format", "json").json
    assert list(found["settings"])[:2] == ["challenge_above", "refuse_above"]
    assert found["settings"]["challenge_above"]["given_at"].startswith("merchants/carthage-market.yaml:")
    assert found["settings"]["challenge_above"]["value"] == {"TND": "300.000"}
    assert next(iter(found["lists"])) == "allowed_card_countries"
    assert found["lists"]["allowed_card_countries"]["values"] == ["TN"]
    modes = [rule["mode"] for rule in found["rules"]]
    assert modes == sorted(modes, key=lambda mode: mode == "off")
    rule = next(rule for rule in found["rules"] if rule["id"] == "night-order")
    assert rule["when"] == "when hour is at least 1 and hour is at most 4 and amount is over 100.000 TND"
    assert (rule["file"], rule["off_because"]) == ("merchants/carthage-market.yaml", None)


def test_long_lists_are_cut_unless_asked_for(tmp_path: Path) -> None:
    entries = ", ".join(f"c-{number:02}" for number in range(30))
    rules = write_rules(
        tmp_path, merchants__shop=f"merchant: shop\nlists: {{mine: {{of: customer, entries: [{entries}]}}}}\n"
    )
    out = run("show", "shop", "--rules", rules).out
    assert "c-11 … 30 in all" in out
    assert "c-12" not in out
    assert "c-29" in run("show", "shop", "--rules", rules, "--all-entries").out


def test_entries_out_of_force_are_counted(tmp_path: Path) -> None:
    entries = "[{value: a, expires: 2001-01-01}, b]"
    rules = write_rules(
        tmp_path, merchants__shop=f"merchant: shop\nlists: {{mine: {{of: customer, entries: {entries}}}}}\n"
    )
    assert "  mine  a, b (1 not in force today)\n" in run("show", "shop", "--rules", rules).out


def test_unknown_and_refused_merchants(rules: Path, tmp_path: Path) -> None:
    ran = run("show", "sahara-travle", "--rules", rules)
    assert (ran.code, "did you mean `sahara-travel`?" in ran.err) == (1, True)
    broken = write_rules(
        tmp_path, merchants__shop="merchant: shop\nrulez: []\n", merchants__cafe="merchant: cafe\n"
    )
    ran = run("show", "shop", "--rules", broken)
    assert (ran.code, "unknown key `rulez`" in ran.err) == (1, True)


@pytest.mark.parametrize("width", [44, 80])
def test_fits_a_terminal_and_has_colours_only_there(width: int, rules: Path) -> None:
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fraudengine", "show", "sahara-travel", "--rules", str(rules)],
        stdout=theirs,
        env=environment,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # how a pseudo-terminal says that its other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(30) == 0
    text = shown.decode()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    too_wide = [line for line in plain.splitlines() if len(line) > width]
    # A place is one word, and words are not broken.
    assert [line for line in too_wide if len(line.split()) > 1] == []
    assert "\x1b" not in run("show", "sahara-travel", "--rules", rules).out
