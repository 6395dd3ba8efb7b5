"""Commands as people call them: results on standard output, the rest on standard error, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .command_line import fraudengine_here
from .running import TRANSACTION, copy_rules, fraudengine

KEY = "5c" * 32
FINGERPRINT = "fp_"


# ---- fingerprint ----------------------------------------------------------------------------------


def test_fingerprints_are_made_from_standard_input() -> None:
    ended = fraudengine("fingerprint", stdin="4111111111111111\n\n5555 5555 5555 4444\n", FRAUDENGINE_CARD_KEY=KEY)
    one, two = ended.stdout.split()
    assert one.startswith(FINGERPRINT)
    assert one != two
    assert ended.returncode == 0
    assert (
        fraudengine_here("fingerprint", stdin="4111-1111-1111-1111", FRAUDENGINE_CARD_KEY=KEY).stdout.strip() == one
    )


def test_wrong_numbers_are_named_by_line_and_not_repeated() -> None:
    ended = fraudengine_here(
        "fingerprint", stdin="4111111111111112\n4111111111111111\nabc\n", FRAUDENGINE_CARD_KEY=KEY
    )
    assert ended.returncode == 1
    assert len(ended.stdout.split()) == 1
    assert "line 1:" in ended.stderr
    assert "line 3:" in ended.stderr
    assert "4111111111111112" not in ended.stderr


def test_a_card_number_is_never_taken_as_an_argument() -> None:
    ended = fraudengine_here("fingerprint", "4111111111111111", FRAUDENGINE_CARD_KEY=KEY)
    assert ended.returncode == 2
    assert "4111111111111111" not in ended.stdout + ended.stderr


def test_a_fingerprint_needs_a_key(tmp_path: Path) -> None:
    ended = fraudengine_here("fingerprint", "--state", str(tmp_path), stdin="4111111111111111")
    assert ended.returncode == 3
    assert "FRAUDENGINE_CARD_KEY" in ended.stderr


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.key").write_text(KEY)
    (tmp_path / "card.key").chmod(0o644)
    ended = fraudengine_here("fingerprint", "--state", str(tmp_path), stdin="4111111111111111")
    assert ended.returncode == 3
    assert "chmod 600" in ended.stderr


# ---- data -----------------------------------------------------------------------------------------


def test_look_up_addresses_and_cards() -> None:
    ended = fraudengine_here("data", "lookup", "41.226.11.9", "::ffff:8.8.8.8", "10.0.0.1", "407024")
    lines = ended.stdout.splitlines()
    assert lines[:3] == ["41.226.11.9: country TN", "8.8.8.8: country US", "10.0.0.1: unknown"]
    assert lines[3].startswith("407024: country TN, brand visa")


def test_look_up_refuses_whole_card_numbers() -> None:
    ended = fraudengine_here("data", "lookup", "4111111111111111")
    assert ended.returncode == 2
    assert "4111111111111111" not in ended.stdout + ended.stderr


def test_look_up_says_what_is_no_address() -> None:
    ended = fraudengine_here("data", "lookup", "41.226.11.999")
    assert (ended.returncode, ended.stdout) == (1, "")


def test_the_operators_own_bins_win(tmp_path: Path) -> None:
    csv = tmp_path / "own.csv"
    csv.write_text(
        "iin_start,iin_end,scheme,type,prepaid,country,bank_name\n407024,,visa,debit,,FR,Bank of Tests\n"
    )
    built = fraudengine_here(
        "data", "build-bins", str(csv), "--without-smartbindb", "--out", str(tmp_path / "bins.dat"),
        "--source-date", "2026-11-01",
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "2026-11-01" in built.stdout
    (tmp_path / "ip-country.mmdb").symlink_to(Path(__file__).parent.parent / "data" / "ip-country.mmdb")
    found = fraudengine_here("data", "lookup", "--data", str(tmp_path), "--format", "json", "407024")
    assert json.loads(found.stdout) == [
        {"looked_up": "407024", "country": "FR", "brand": "visa", "type": "debit", "issuer": "Bank of Tests"}
    ]


def test_build_ip_says_which_source_is_missing(tmp_path: Path) -> None:
    ended = fraudengine_here(
        "data", "build-ip", "--v4", str(tmp_path / "none"), "--out", str(tmp_path / "out.mmdb")
    )
    assert ended.returncode == 1
    assert str(tmp_path / "none") in ended.stderr
    assert not (tmp_path / "out.mmdb").exists()


# ---- screen, check, show --------------------------------------------------------------------------


def test_screen_takes_one_object_a_line_and_says_which_are_wrong(tmp_path: Path) -> None:
    good = json.dumps(TRANSACTION)
    bad = json.dumps(TRANSACTION | {"transaction_id": "T-2", "amount": "12.3456"})
    ended = fraudengine(
        "screen", "-", "--state", str(tmp_path), stdin=f"{good}\n{bad}\n", FRAUDENGINE_CARD_KEY=KEY
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stdout.startswith("accept: NO_RULE_MATCHED")
    assert "transaction 2: amount" in ended.stderr


@pytest.mark.parametrize("given", ["", "nonsense", "[1, 2]", "{}"])
def test_screen_refuses_what_is_no_transaction(tmp_path: Path, given: str) -> None:
    ended = fraudengine_here("screen", "-", "--state", str(tmp_path), stdin=given, FRAUDENGINE_CARD_KEY=KEY)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr


def test_check_and_show_say_what_was_mistyped(tmp_path: Path) -> None:
    rules = copy_rules(tmp_path / "rules")
    path = rules / "merchants" / "medina-topup.yaml"
    path.write_text(path.read_text().replace("prepaid-card:", "prepayed-card:"))
    checked = fraudengine_here("check", "--rules", str(rules))
    assert checked.returncode == 1
    assert "did you mean `prepaid-card`" in checked.stdout
    shown = fraudengine_here("show", "carthage-markt", "--rules", str(rules))
    assert shown.returncode == 1
    assert "did you mean `carthage-market`" in shown.stderr


def test_a_path_that_is_nowhere_is_a_wrong_call() -> None:
    assert fraudengine_here("check", "no/such/file.yaml").returncode == 2


def test_unknown_settings_are_refused() -> None:
    ended = fraudengine("check", FRAUDENGINE_RULLES="rules")
    assert ended.returncode == 3
    assert "FRAUDENGINE_RULES" in ended.stderr
