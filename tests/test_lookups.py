"""Look-ups in the committed data files, in damaged ones, and in files replaced while they are in use."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudengine.bin_ranges import END, NOTHING, BinInfo, BinRange, Segments, lay_over, pad_range
from fraudengine.bin_table import read_table, write_table
from fraudengine.binlist import read_brand
from fraudengine.countries import is_country
from fraudengine.diagnostics import DataFileError, InvalidTransaction
from fraudengine.facts import CARD_BRANDS, CARD_TYPES
from fraudengine.lookups import BinTable, DataFiles, IpCountries, parse_ip

DATA = Path(__file__).parent.parent / "data"
MMDB, BINS = DATA / "ip-country.mmdb", DATA / "bins.dat"


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def countries() -> IpCountries:
    return IpCountries.open(MMDB)


@pytest.mark.parametrize(
    ("address", "country"),
    [
        ("41.224.0.1", "TN"),
        ("197.0.0.1", "TN"),
        ("196.203.1.1", "TN"),
        ("102.152.10.1", "TN"),
        ("2c0f:f698::1", "TN"),
        ("8.8.8.8", "US"),
        ("2001:4860:4860::8888", "US"),
        ("81.2.69.142", "GB"),
        ("::ffff:41.224.0.1", "TN"),
        ("2002:29e0:1::1", None),  # 6to4 of a Tunisian address
        ("2001:0:29e0:1::1", None),  # Teredo
        ("64:ff9b::29e0:1", None),
        ("10.0.0.1", None),
        ("100.64.0.1", None),
        ("127.0.0.1", None),
        ("169.254.1.1", None),
        ("172.16.0.1", None),
        ("192.168.255.255", None),
        ("::ffff:192.168.1.1", None),
        ("192.0.2.1", None),
        ("198.51.100.255", None),
        ("203.0.113.0", None),
        ("224.0.0.1", None),
        ("255.255.255.255", None),
        ("0.0.0.0", None),
        ("::", None),
        ("::1", None),
        ("fe80::1", None),
        ("fc00::1", None),
        ("ff02::1", None),
        ("2001:db8::1", None),
    ],
)
def test_country_of_an_address(countries: IpCountries, address: str, country: str | None) -> None:
    assert countries.country(address) == country
    assert countries.country(address) == country  # now from the cache


def test_every_answer_is_a_country_and_most_of_the_internet_has_one(countries: IpCountries) -> None:
    chance = random.Random(1)
    found = [
        countries.country(f"{chance.randrange(1, 224)}.{chance.randrange(256)}.{chance.randrange(256)}.1")
        for _ in range(5_000)
    ]
    assert all(code is None or is_country(code) for code in found)
    assert sum(code is not None for code in found) > 4_000


def test_the_date_is_that_of_the_source(countries: IpCountries) -> None:
    assert countries.build_date == "2026-06-25"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("41.226.11.9", "41.226.11.9"),
        ("2C0F:F698:0:0::1", "2c0f:f698::1"),
        ("::ffff:41.224.0.1", "41.224.0.1"),
        ("::FFFF:29e0:1", "41.224.0.1"),
    ],
)
def test_an_address_has_one_canonical_text(text: str, canonical: str) -> None:
    assert parse_ip(text) == canonical
    assert parse_ip(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "41.226.11",
        "41.226.11.256",
        "041.226.11.9",
        " 41.226.11.9",
        "41.226.11.9:80",
        "fe80::1%eth0",
        "41.226.11.9/32",
        "1",
        "::ffff:41.226.11.9.1",
        "41.226.11.9\n",
        "41.226.11.9\x00",
        "\u0664\u0661.\u0662\u0662\u0666.\u0661\u0661.\u0669",
    ],
)
def test_what_is_no_address_is_refused(text: str, countries: IpCountries) -> None:
    with pytest.raises(InvalidTransaction, match="write one IPv4 or IPv6 address") as caught:
        parse_ip(text)
    assert caught.value.field == "ip_address"
    with pytest.raises(InvalidTransaction):
        countries.country(text)


def _damage(content: bytes, kind: str) -> bytes:
    half = len(content) // 2
    return {
        "empty": b"",
        "truncated": content[:half],
        "last byte missing": content[:-1],
        "garbage in the middle": content[:half] + b"\xde\xad\xbe\xef" * 256 + content[half + 1024 :],
        "one bit": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        "zeros": bytes(len(content)),
        "another kind": b"<html>404 not found</html>",
    }[kind]


KINDS = ("empty", "truncated", "last byte missing", "garbage in the middle", "one bit", "zeros", "another kind")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_ip_table_is_refused_at_the_start(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ip-country.mmdb"
    path.write_bytes(_damage(MMDB.read_bytes(), kind))
    with pytest.raises(DataFileError, match="fraudengine data build-ip") as caught:
        IpCountries.open(path)
    assert str(path) in str(caught.value)
    assert "/proc/" not in str(caught.value)


def test_garbage_in_a_file_without_our_checksum_is_found_by_looking_up(tmp_path: Path) -> None:
    content = MMDB.read_bytes().replace(b"sha256:", b"SHA256:")
    path = tmp_path / "other-maker.mmdb"
    path.write_bytes(content)
    assert IpCountries.open(path).country("8.8.8.8") == "US"
    data = content.index(b"iso_code") - 40
    path.write_bytes(content[:data] + b"\xff" * 4000 + content[data + 4000 :])
    with pytest.raises(DataFileError, match=r"damaged|no address"):
        IpCountries.open(path)


def test_a_database_of_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "asn.mmdb"
    path.write_bytes(MMDB.read_bytes().replace(b"fraudengine-Country", b"fraudengine-Network"))
    with pytest.raises(DataFileError, match="type `fraudengine-Network`, not of countries"):
        IpCountries.open(path)


def test_a_file_overwritten_in_place_does_not_disturb_its_readers(tmp_path: Path) -> None:
    path = tmp_path / "ip-country.mmdb"
    shutil.copy(MMDB, path)
    opened = IpCountries.open(path)
    path.write_bytes(b"")  # would be SIGBUS with the file itself mapped
    assert opened.country("41.224.0.1") == "TN"
    assert opened.country("8.8.8.8") == "US"


# --- BINs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bins() -> BinTable:
    return BinTable.load(BINS)


TUNISIAN = (  # BIAT, ATB, UIB, Amen, BT, UBCI, BH, La Poste, BNA, Attijari, STB, Zitouna
    "407024",
    "404383",
    "404763",
    "406284",
    "412545",
    "410968",
    "414646",
    "402379",
    "405664",
    "412474",
    "414286",
    "407205",
)


@pytest.mark.parametrize("bin_", TUNISIAN)
@pytest.mark.parametrize("more", ["", "12", "12345", "1234567890"], ids=["6 digits", "8", "11", "16"])
def test_tunisian_bins_are_known(bins: BinTable, bin_: str, more: str) -> None:
    found = bins.look_up(bin_ + more)
    assert found is not None
    assert (found.country, found.brand) == ("TN", "visa")
    assert found.type in CARD_TYPES
    assert found.issuer


def test_every_answer_keeps_to_the_vocabulary() -> None:
    segments, build_date = read_table(BINS)
    assert build_date.startswith("2026-")
    assert len(segments.cells) > 150_000
    for info in segments.infos:
        assert info.country is None or is_country(info.country)
        assert info.brand is None or info.brand in CARD_BRANDS
        assert info.type is None or info.type in CARD_TYPES
        assert info.issuer is None or info.issuer == info.issuer.strip() != ""


def test_numbered_country_keys_of_the_source_are_the_country(bins: BinTable) -> None:
    found = bins.look_up("378282")  # `US2` in smartbindb
    assert found is not None
    assert (found.country, found.brand) == ("US", "amex")


@pytest.mark.parametrize("digits", ["", "4", "40702"])
def test_fewer_than_six_digits_say_nothing(bins: BinTable, digits: str) -> None:
    assert bins.look_up(digits) is None


@pytest.mark.parametrize("digits", ["000000", "00000000000", "999999999999"])
def test_both_ends_of_the_numbers_can_be_asked_for(bins: BinTable, digits: str) -> None:
    bins.look_up(digits)


def _row(digits: str, country: str | None = None, rank: int = 0, order: int = 0, **more: str) -> BinRange:
    low, high = pad_range(digits)
    return BinRange(low, high, BinInfo(country, **more), rank, order)


def _table(*ranges: BinRange) -> BinTable:
    return BinTable(lay_over(Segments(), ranges), "2026-01-01")


def test_the_narrowest_range_wins_then_rank_then_newest() -> None:
    table = _table(
        _row("407024", "TN", rank=0),
        _row("40702455", "FR", rank=1),  # narrower, though of a lower source
        _row("407025", "TN", rank=1, order=9),
        _row("407025", "DZ", rank=0, order=1),  # same width, higher source
        _row("407026", "LY", order=1),
        _row("407026", "MA", order=2),  # same source, newer
    )
    for digits, country in {
        "40702454": "TN",
        "40702455": "FR",
        "40702456": "TN",
        "407025": "DZ",
        "407026": "MA",
    }.items():
        found = table.look_up(digits)
        assert found is not None
        assert found.country == country


def test_an_attribute_that_a_narrow_row_leaves_out_comes_from_the_wider_one() -> None:
    table = _table(_row("407024", "TN", brand="visa", issuer="BIAT"), _row("40702455", type="prepaid", issuer="B"))
    assert table.look_up("40702455") == BinInfo("TN", "visa", "prepaid", "B")
    assert table.look_up("40702456") == BinInfo("TN", "visa", None, "BIAT")


def test_too_few_digits_give_only_what_everything_below_agrees_on() -> None:
    table = _table(_row("40702411", "TN", brand="visa"), _row("407024", "FR", brand="visa"), _row("50000011", "TN"))
    assert table.look_up("407024") == BinInfo(None, "visa", None, None)
    assert table.look_up("40702411") == BinInfo("TN", "visa", None, None)
    assert table.look_up("500000") is None  # most of what lies below is in no row


# A small world: numbers 40000000000 to 40000000999, so that ranges collide.
_FIRST = 40_000_000_000
_ranges = st.lists(
    st.builds(
        lambda low, width, country, brand, rank, order: BinRange(
            _FIRST + low, min(_FIRST + low + width, _FIRST + 999), BinInfo(country, brand), rank, order
        ),
        st.integers(0, 999),
        st.sampled_from([0, 9, 99, 999]) | st.integers(0, 400),
        st.sampled_from([None, "TN", "FR", "DZ"]),
        st.sampled_from([None, "visa", "jcb"]),
        st.integers(0, 1),
        st.integers(0, 1_000_000),
    ),
    max_size=12,
    unique_by=lambda item: item.order,
)


def _by_reading_all(ranges: list[BinRange], number: int) -> BinInfo:
    """The rule as a person would say it: of the rows that hold the number, in order, the first that states it."""
    rows = sorted((item for item in ranges if item.low <= number <= item.high), key=lambda item: item.precedence)
    return BinInfo(
        next((item.info.country for item in rows if item.info.country), None),
        next((item.info.brand for item in rows if item.info.brand), None),
    )


@settings(max_examples=200)
@given(_ranges, st.lists(st.integers(0, 999), min_size=1, max_size=20))
def test_the_table_answers_as_reading_every_row_would(ranges: list[BinRange], numbers: list[int]) -> None:
    table = _table(*ranges)
    edges = [edge for item in ranges for edge in (item.low, item.high, item.low - 1, item.high + 1)]
    for number in [_FIRST + offset for offset in numbers] + edges:
        assert (table.look_up(f"{number:011}") or NOTHING) == _by_reading_all(ranges, number)


@settings(max_examples=100)
@given(_ranges, st.integers(0, 99))
def test_fewer_digits_answer_what_all_numbers_below_share(ranges: list[BinRange], tens: int) -> None:
    below = [_by_reading_all(ranges, _FIRST + 10 * tens + unit) for unit in range(10)]
    expected = BinInfo(
        below[0].country if len({item.country for item in below}) == 1 else None,
        below[0].brand if len({item.brand for item in below}) == 1 else None,
    )
    assert (_table(*ranges).look_up(f"{_FIRST // 10 + tens:010}") or NOTHING) == expected


@settings(max_examples=200)
@given(_ranges, _ranges)
def test_rows_laid_over_a_finished_table_answer_as_if_built_together(
    below: list[BinRange], local: list[BinRange]
) -> None:
    below = [BinRange(item.low, item.high, item.info, 1 + item.rank, item.order) for item in below]
    local = [BinRange(item.low, item.high, item.info, 0, item.order) for item in local]
    table = BinTable(lay_over(lay_over(Segments(), below), local), "2026-01-01")
    for number in {edge for item in (*below, *local) for edge in (item.low, item.high, item.high + 1)}:
        assert (table.look_up(f"{number:011}") or NOTHING) == _by_reading_all(below + local, number)


@given(_ranges)
def test_segments_keep_their_invariant_and_survive_the_file(ranges: list[BinRange]) -> None:
    segments = lay_over(Segments(), ranges)
    starts = list(segments.starts)
    assert (starts[0], starts[-1]) == (0, END)
    assert starts == sorted(set(starts))
    assert all(one != other for one, other in zip(segments.cells, segments.cells[1:], strict=False))


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    segments = lay_over(Segments(), [_row("407024", "TN", issuer="Société « é »"), _row("40702455", "FR")])
    write_table(tmp_path / "bins.dat", segments, "2026-02-03", ["a.csv"])
    assert read_table(tmp_path / "bins.dat") == (segments, "2026-02-03")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_bin_table_is_refused_at_the_start(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bins.dat"
    path.write_bytes(_damage(BINS.read_bytes(), kind))
    with pytest.raises(DataFileError, match="fraudengine data build-bins") as caught:
        BinTable.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "brand"),
    [("VISA", "visa"), ("Visa/Dankort", "visa"), ("AMERICAN EXPRESS", "amex"), ("CHINA UNION PAY", "unionpay"),
     ("Diners Club International", "diners"), ("MAESTRO/BANCONTACT", "maestro"), ("ELO", "other"), ("", None)],
)  # fmt: skip
def test_brands_of_the_sources_become_the_vocabulary(text: str, brand: str | None) -> None:
    assert read_brand(text) == brand


# --- the operator's own rows --------------------------------------------------------------------------------


def test_own_rows_correct_the_table_and_leave_the_rest(bins: BinTable, tmp_path: Path) -> None:
    local = tmp_path / "bins.local.csv"
    local.write_text("iin_start,iin_end,country,type,prepaid\n407024,,FR,,\n40702411,40702413,,,yes\n")
    table = BinTable.load(BINS, local)
    before, wide, narrow = bins.look_up("407024"), table.look_up("40702410"), table.look_up("40702412")
    assert before is not None
    assert wide == BinInfo("FR", before.brand, before.type, before.issuer)
    assert narrow == BinInfo("FR", before.brand, "prepaid", before.issuer)
    assert table.look_up("404383") == bins.look_up("404383")
    assert table.local_rows == 2


def test_own_rows_as_excel_writes_them(tmp_path: Path) -> None:
    local = tmp_path / "bins.local.csv"
    local.write_bytes("\ufeffIIN_start;country;bank_name\r\n407024;tn;Banque « A, B »\r\n\r\n;;\r\n".encode())
    found = BinTable.load(BINS, local).look_up("407024")
    assert found is not None
    assert (found.country, found.issuer) == ("TN", "Banque « A, B »")


def test_a_missing_file_of_own_rows_is_no_mistake(tmp_path: Path) -> None:
    assert BinTable.load(BINS, tmp_path / "bins.local.csv").local_rows == 0


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("", 1, "names the columns"),
        ("country\nTN\n", 1, "`iin_start` must be one"),
        ("iin_start,contry\n407024,TN\n", 1, "unknown column `contry`; did you mean `country`"),
        ("iin_start,country\n407024,TN\n4070,TN\n", 3, "first 6 to 11 digits"),
        ("iin_start,iin_end\n407024,4070\n", 2, "`iin_end` is empty, or as long"),
        ("iin_start,iin_end\n407024,407023\n", 2, "not below"),
        ("iin_start,country\n407024,XX\n", 2, "`XX` is no ISO 3166 country code"),
        ("iin_start,type\n407024,gold\n", 2, "unknown type `gold`"),
        ("iin_start,prepaid\n407024,maybe\n", 2, "yes, no or empty"),
        ("iin_start,country\n407024,TN,FR\n", 2, "3 cells under 2 columns"),
        ('iin_start,country\n407024,"TN\n', 2, "no CSV"),
    ],
)
def test_a_wrong_own_row_is_named_with_its_line(text: str, place: int, problem: str, tmp_path: Path) -> None:
    local = tmp_path / "bins.local.csv"
    local.write_text(text)
    with pytest.raises(DataFileError) as caught:
        BinTable.load(BINS, local)
    assert str(caught.value).startswith(f"{local}:{place}: ")
    assert problem in str(caught.value)


# --- replacing files in use ---------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copy(MMDB, tmp_path)
    shutil.copy(BINS, tmp_path)
    return tmp_path


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    draft.replace(path)


def test_unchanged_files_are_not_read_again(directory: Path) -> None:
    files = DataFiles.in_directory(directory)
    before = files.ip_countries, files.bins
    assert files.reload_if_changed() == []
    assert (files.ip_countries, files.bins) == before
    assert files.dates["ip_country"] == "2026-06-25"


def test_good_replacements_are_taken_up_and_old_tables_go_on_working(directory: Path) -> None:
    files = DataFiles.in_directory(directory)
    old = files.ip_countries, files.bins
    _replace(files.ip_path, MMDB.read_bytes())
    (directory / "bins.local.csv").write_text("iin_start,country\n407024,FR\n")
    assert files.reload_if_changed() == []
    assert files.ip_countries is not old[0]
    found, found_before = files.bins.look_up("407024"), old[1].look_up("407024")
    assert found is not None
    assert found_before is not None
    assert (found.country, found_before.country) == ("FR", "TN")
    assert old[0].country("41.225.0.1") == "TN"


@pytest.mark.parametrize("kind", KINDS)
def test_bad_replacements_keep_the_old_tables_and_are_reported_until_put_right(kind: str, directory: Path) -> None:
    files = DataFiles.in_directory(directory)
    before = files.ip_countries, files.bins
    _replace(files.ip_path, _damage(MMDB.read_bytes(), kind))
    _replace(files.bins_path, _damage(BINS.read_bytes(), kind))
    problems = files.reload_if_changed()
    assert len(problems) == 2
    assert str(files.ip_path) in problems[0]
    assert "the one of 2026-06-25 stays in use" in problems[0]
    assert files.reload_if_changed() == problems == files.problems
    assert (files.ip_countries, files.bins) == before
    _replace(files.ip_path, MMDB.read_bytes())
    assert len(files.reload_if_changed()) == 1
    _replace(files.bins_path, BINS.read_bytes())
    assert files.reload_if_changed() == []


def test_a_removed_file_or_a_wrong_own_row_is_reported(directory: Path) -> None:
    files = DataFiles.in_directory(directory)
    files.ip_path.unlink()
    (directory / "bins.local.csv").write_text("iin_start,country\n407024,XX\n")
    problems = files.reload_if_changed()
    assert "No such file" in problems[0]
    assert "bins.local.csv:2: `XX` is no ISO 3166 country code" in problems[1]


@pytest.mark.parametrize("name", ["ip-country.mmdb", "bins.dat"])
def test_a_missing_file_at_the_start_says_how_to_build_it(name: str, directory: Path) -> None:
    (directory / name).unlink()
    with pytest.raises(DataFileError, match=rf"{name} cannot be read .*fraudengine data build-(ip|bins)"):
        DataFiles.in_directory(directory)
