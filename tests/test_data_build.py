"""The builders: what they read, skip and refuse, and that equal sources give equal bytes."""

from __future__ import annotations

import os
import pickle
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NoReturn

import pytest

from fraudengine import data_build
from fraudengine.binlist import COLUMNS
from fraudengine.data_build import build_bins, build_ip_country, read_plain_pickle
from fraudengine.diagnostics import ConfigurationError, DataFileError
from fraudengine.lookups import BinInfo, BinTable, IpCountries

V4 = """# comment
# Generated: Thu, 25 Jun 2026 04:33:59 GMT
{rows}
"""
# 41.224.0.0-41.224.0.255, 41.224.1.0-41.224.1.255 TN; 8.8.8.0-8.8.8.255 US; 5.0.0.0-5.0.0.255 EU; 81.2.69.0/24 UK
ROWS_V4 = (
    "83886080,83886335,EU\n134744064,134744319,US\n"
    "702545920,702546175,TN\n702546176,702546431,TN\n1359103232,1359103487,UK"
)
ROWS_V6 = (
    "2001:4860::,2001:4860:ffff:ffff:ffff:ffff:ffff:ffff,US\n2c0f:f698::,2c0f:f698:ffff:ffff:ffff:ffff:ffff:ffff,TN"
)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    v4, v6 = tmp_path / "geoip", tmp_path / "geoip6"
    v4.write_text(V4.format(rows=ROWS_V4))
    v6.write_text(ROWS_V6)
    return v4, v6


def test_the_ip_table_holds_what_its_sources_say(sources: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "ip-country.mmdb"
    report = build_ip_country(*sources, out)
    assert (report.rows_read, report.ranges_written, report.source_date) == (7, 5, date(2026, 6, 25))
    assert report.skipped == {"`EU` is no ISO 3166 country": 1}
    assert report.bytes_written == out.stat().st_size
    assert os.listdir(out.parent) == ["ip-country.mmdb"]
    opened = IpCountries.open(out)
    answers = {
        "8.8.8.8": "US",
        "41.224.0.0": "TN",
        "41.224.1.255": "TN",
        "41.224.2.0": None,
        "41.223.255.255": None,
        "81.2.69.142": "GB",
        "5.0.0.1": None,
        "2c0f:f698::1": "TN",
        "2001:4860:4860::8888": "US",
        "2c0f:f699::1": None,
    }
    assert {address: opened.country(address) for address in answers} == answers
    assert opened.build_date == "2026-06-25"


def test_building_the_ip_table_twice_gives_the_same_bytes(sources: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = tmp_path / "one.mmdb", tmp_path / "other.mmdb"
    for out in (one, other):
        build_ip_country(*sources, out, date(2026, 1, 2))
    assert one.read_bytes() == other.read_bytes()
    assert IpCountries.open(one).build_date == "2026-01-02"
    assert b"CC BY-SA 4.0" in one.read_bytes()


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("1,2,TN\nnonsense", r"geoip:4: a row is `first,last,CC`"),
        ("1,x,TN", r"geoip:3: a row is"),
        ("9,1,TN", r"geoip:3: a row is"),
        ("1,2,??", "no row with a country"),
        ("1,2,é", "cannot be read"),
    ],
)
def test_a_source_that_is_something_else_is_refused(rows: str, problem: str, tmp_path: Path) -> None:
    v4, v6, out = tmp_path / "geoip", tmp_path / "geoip6", tmp_path / "out.mmdb"
    v4.write_text(V4.format(rows=rows))
    v6.write_text("")
    with pytest.raises(DataFileError, match=problem):
        build_ip_country(v4, v6, out)
    assert not out.exists()


def test_missing_sources_and_dates_are_asked_for(sources: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="install Debian's tor-geoipdb"):
        build_ip_country(tmp_path / "nowhere", sources[1], tmp_path / "out.mmdb")
    sources[0].write_text(ROWS_V4)
    with pytest.raises(DataFileError, match="source_date"):
        build_ip_country(*sources, tmp_path / "out.mmdb")


@pytest.mark.parametrize("module", ["mmdb_writer", "netaddr"])
def test_without_the_extra_packages_the_message_names_them(
    module: str, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'fraudengine\[data\]'"):
        build_ip_country(*sources, tmp_path / "out.mmdb")


CSV = f"""{",".join(COLUMNS)}
407024,,16,yes,visa,Visa Classic,debit,no,TN,BIAT,,,,
40702455,40702459,16,yes,visa,,debit,yes,TN,BIAT,,,,
abc,,,,,,,,,,,,,
"""


def test_the_bin_table_holds_what_its_csv_says_and_counts_what_it_skips(tmp_path: Path) -> None:
    source, newer, out = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "bins.dat"
    source.write_text(CSV)
    newer.write_text("iin_start,bank_name\n407024,Banque B\n")
    report = build_bins(out, [source, newer], smartbindb=False, source_date=date(2026, 3, 4))
    assert (report.rows_read, sum(report.skipped.values())) == (4, 1)
    table = BinTable.load(out)
    assert table.build_date == "2026-03-04"
    assert table.look_up("40702454") == BinInfo("TN", "visa", "debit", "Banque B")
    assert table.look_up("40702455") == BinInfo("TN", "visa", "prepaid", "BIAT")
    assert table.look_up("407025") is None


def test_building_the_bin_table_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source, one, other = tmp_path / "a.csv", tmp_path / "one.dat", tmp_path / "other.dat"
    source.write_text(CSV)
    for out in (one, other):
        build_bins(out, [source], smartbindb=False, source_date=date(2026, 3, 4))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.long
def test_the_committed_table_is_what_the_build_gives_but_for_csv_rows_which_win(tmp_path: Path) -> None:
    pytest.importorskip("smartbindb")
    source, out = tmp_path / "a.csv", tmp_path / "bins.dat"
    source.write_text("iin_start,country\n378282,TN\n")
    assert build_bins(out, [source]).rows_read > 300_000
    rebuilt, committed = BinTable.load(out), BinTable.load(Path(__file__).parent.parent / "data" / "bins.dat")
    assert rebuilt.build_date == committed.build_date
    differ = [n for n in range(10**6) if rebuilt.look_up(f"{n:06}") != committed.look_up(f"{n:06}")]
    assert differ == [378282]
    found = rebuilt.look_up("378282")
    assert found is not None
    assert (found.country, found.brand) == ("TN", "amex")


ENTRY = {
    "bin": "407024", "brand": "VISA", "type": "DEBIT", "category": "CLASSIC", "issuer": " BANQUE  A ",
    "country_code": "TN",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "info"),
    [
        ({}, BinInfo("TN", "visa", "debit", "BANQUE A")),
        ({"country_code": "US2"}, BinInfo("US", "visa", "debit", "BANQUE A")),
        ({"country_code": "XK", "issuer": ""}, BinInfo(None, "visa", "debit", None)),
        (
            {"category": "PREPAID CLASSIC", "brand": "AMERICAN EXPRESS"},
            BinInfo("TN", "amex", "prepaid", "BANQUE A"),
        ),
        ({"type": "CHARGE CARD", "brand": ""}, BinInfo("TN", None, "charge", "BANQUE A")),
        ({"type": "Type", "brand": "ELO"}, BinInfo("TN", "other", None, "BANQUE A")),
    ],
)
def test_an_entry_of_smartbindb_becomes_the_vocabulary(
    change: dict[str, str], info: BinInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [ENTRY | change, ENTRY | {"bin": "BIN"}]
    monkeypatch.setattr(data_build, "_read_smartbindb", lambda: ("5.17.7", entries))
    report = build_bins(tmp_path / "bins.dat")
    assert report.skipped == {"smartbindb: no BIN of 6 to 11 digits": 1}
    assert BinTable.load(tmp_path / "bins.dat").look_up("407024") == info


def test_without_smartbindb_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(data_build, "distribution", missing)
    with pytest.raises(ConfigurationError, match=r"pip install 'fraudengine\[data\]', or give CSV files only"):
        build_bins(tmp_path / "bins.dat")


def test_bins_without_a_date_or_a_row_are_refused(tmp_path: Path) -> None:
    source, out = tmp_path / "a.csv", tmp_path / "bins.dat"
    source.write_text("iin_start\n")
    with pytest.raises(ConfigurationError, match="source_date"):
        build_bins(out, [source], smartbindb=False)
    with pytest.raises(DataFileError, match="no source holds a BIN"):
        build_bins(out, [source], smartbindb=False, source_date=date(2026, 1, 1))
    assert not out.exists()


def test_a_pickle_that_names_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "attacked"),)

    path = tmp_path / "smartbin.db"
    path.write_bytes(pickle.dumps({"bin_index": {"407024": Attack()}}))
    with pytest.raises(DataFileError, match="plain data names nothing"):
        read_plain_pickle(path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    "content", [b"", b"junk", pickle.dumps([]), pickle.dumps({}), pickle.dumps({"bin_index": {"1": 2}})]
)
def test_a_pickle_of_another_shape_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "smartbin.db"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="cannot be read as smartbindb's BINs"):
        read_plain_pickle(path)
