"""`fraudengine data compare`: what a new table would flip, and what it would change without a flip."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from fraudengine.binlist import COLUMNS
from fraudengine.data_build import build_bins, build_ip_country

from .command_line import REPOSITORY, Ran, run, write_rules
from .test_data_build import ROWS_V6, V4
from .test_verify import card, payment, screen

SHOP = """\
merchant: shop
rules:
  - {id: abroad, when: {ip_country: {not: TN}}, then: challenge, reason: ABROAD}
  - {id: foreign-card, when: {card_country: {not: TN}}, then: refuse, reason: FOREIGN_CARD}
"""
HERE, THERE = "41.224.0.9", "41.224.1.9"
TUNISIAN = "702545920,702546431,TN"  # 41.224.0.0 to 41.224.1.255


def ip_table(directory: Path, rows: str, day: int) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "geoip").write_text(V4.format(rows=rows))
    (directory / "geoip6").write_text(ROWS_V6)
    out = directory / "ip-country.mmdb"
    build_ip_country(directory / "geoip", directory / "geoip6", out, date(2027, 1, day))
    return out


def bin_table(directory: Path, countries: dict[str, str], day: int) -> Path:
    directory.mkdir(exist_ok=True)
    csv = directory / "bins.csv"
    rows = [{"iin_start": digits, "scheme": "visa", "country": where} for digits, where in countries.items()]
    lines = [",".join(row.get(name, "") for name in COLUMNS) for row in rows]
    csv.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    out = directory / "bins.dat"
    build_bins(out, [csv], smartbindb=False, source_date=date(2027, 1, day))
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three payments from each of two networks, a fourth with a card whose country the gateway gave."""
    directory = tmp_path_factory.mktemp("compare")
    write_rules(directory / "rules", merchants__shop=SHOP)
    ip_table(directory / "data", TUNISIAN, 1)
    shutil.copytree(REPOSITORY / "data" / "mappings", directory / "data" / "mappings")
    bin_table(directory / "data", {"407024": "TN", "412474": "TN"}, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUDENGINE_DEVELOPMENT", "1")
        patch.setenv("FRAUDENGINE_DATA", str(directory / "data"))
        payments = [payment(n, ip_address=(HERE, THERE)[n % 2]) for n in range(6)]
        given = card("a") | {"country": "TN"}
        screen(
            directory, *payments, payment(6, ip_address=HERE, card=given), payment(7, card=card("b", "41247499"))
        )
    return directory


def compare(made: Path, new: Path, *options: str) -> Ran:
    places = ("--rules", made / "rules", "--state", made / "var", "--data", made / "data")
    return run("data", "compare", new, *places, *options)


def test_addresses(made: Path, tmp_path: Path) -> None:
    """One half of the network becomes French: its payments flip; the address 41.226.11.9 stays unknown."""
    new = ip_table(tmp_path, "702545920,702546175,TN\n702546176,702546431,FR", 2)
    ran = compare(made, new, "--format", "json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert (found["kind"], found["before"], found["after"]) == ("ip", "2027-01-01", "2027-01-02")
    assert (found["transactions"], found["flipped"], found["looked_up"], found["values_changed"]) == (8, 3, 3, 1)
    assert found["changed"] == [{"fact": "ip_country", "before": "TN", "after": "FR", "values": 1}]
    assert found["by_merchant"] == [
        {"merchant": "shop", "before": "accept", "after": "challenge", "transactions": 3}
    ]
    assert [flip["transaction_id"] for flip in found["flips"]] == ["T-1", "T-3", "T-5"]
    first = found["flips"][0]
    assert (first["amount"], first["currency"], first["before_rule"]) == ("50.000", "TND", None)
    assert (first["before"], first["after"], first["after_rule"]) == ("accept", "challenge", "abroad")
    assert first["changed"] == [{"fact": "ip_country", "before": "TN", "after": "FR"}]


def test_bins(made: Path, tmp_path: Path) -> None:
    """A BIN becomes Moroccan: all flip but the card whose country the gateway knew. One changes without a flip."""
    new = bin_table(tmp_path, {"407024": "MA", "412474": ""}, 3)
    ran = compare(made, new, "--format", "json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert (found["kind"], found["flipped"], found["looked_up"], found["values_changed"]) == ("bin", 6, 2, 2)
    assert Counter(flip["after_rule"] for flip in found["flips"]) == {"foreign-card": 6}
    assert "T-6" not in {flip["transaction_id"] for flip in found["flips"]}
    assert {(one["before"], one["after"]) for one in found["changed"] if one["fact"] == "card_country"} == {
        ("TN", "MA"),
        ("TN", None),
    }
    told = compare(made, new).out
    assert told.startswith("table of 2027-01-01 against 2027-01-03: 6 of 8 decisions flip\n2 of 2 BINs")
    assert "shop: accept → refuse: 6" in told
    assert "card_country TN → MA" in told


def test_own_bins(made: Path, tmp_path: Path) -> None:
    bin_table(tmp_path, {"412474": "FR"}, 4)
    ran = compare(made, tmp_path / "bins.csv", "--format", "json")
    assert ran.code == 0, ran.err
    assert [flip["transaction_id"] for flip in ran.json["flips"]] == ["T-7"]


def test_same_table_changes_nothing(made: Path) -> None:
    ran = compare(made, made / "data" / "bins.dat", "--format", "json")
    assert (ran.json["flipped"], ran.json["values_changed"], ran.json["flips"]) == (0, 0, [])


@pytest.mark.parametrize("name", ["ip-country.mmdb", "bins.dat"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty"])
def test_damaged_table(made: Path, tmp_path: Path, name: str, damage: str) -> None:
    content = (made / "data" / name).read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
    (tmp_path / name).write_bytes({"truncated": content[:middle], "corrupt": flipped, "empty": b""}[damage])
    ran = compare(made, tmp_path / name)
    assert (ran.code, ran.out) == (1, "")
    assert str(tmp_path / name) in ran.err
    assert "Traceback" not in ran.err


def test_no_such_table(made: Path, tmp_path: Path) -> None:
    ran = compare(made, tmp_path / "none.mmdb")
    assert (ran.code, "there is no file" in ran.err) == (2, True)


def test_documented() -> None:
    assert "fraudengine data compare" in (REPOSITORY / "data" / "README.md").read_text(encoding="utf-8")
