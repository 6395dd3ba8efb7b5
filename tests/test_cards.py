"""Card numbers never leave `cards`: parsing, fingerprints, masks, keys, and numbers hidden in free text."""

from __future__ import annotations

import copy
import hmac
import json
import logging
import os
import pickle
import re
import stat
import traceback
from base64 import b64encode
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudengine.cards import (
    CardKey,
    HidePans,
    Pan,
    disguise_pans,
    find_pans,
    hide_pans,
    is_fingerprint,
    load_card_key,
    luhn_ok,
    parse_masked_pan,
    scheme_of,
)
from fraudengine.diagnostics import ConfigurationError, InvalidCard

KEY = CardKey(bytes(range(32)))
# The schemes' published test numbers.
TEST_PANS = {
    "4111111111111111": "visa",
    "4242424242424242": "visa",
    "5555555555554444": "mastercard",
    "378282246310005": "amex",
    "30569309025904": "diners",
    "6011111111111117": "discover",
    "3530111333300000": "jcb",
}
every_test_pan = pytest.mark.parametrize("digits", TEST_PANS)


# --- numbers ------------------------------------------------------------------------------------------------


@every_test_pan
def test_a_test_number_passes_luhn_and_every_single_mistyped_digit_fails(digits: str) -> None:
    assert luhn_ok(digits)
    for place, right in enumerate(digits):
        for wrong in set("0123456789") - {right}:
            assert not luhn_ok(digits[:place] + wrong + digits[place + 1 :])


@every_test_pan
def test_the_scheme_is_told_from_the_number_and_from_its_bin(digits: str) -> None:
    assert scheme_of(digits) == scheme_of(digits[:6]) == TEST_PANS[digits]


@pytest.mark.parametrize(
    ("digits", "scheme"),
    [
        ("222099", None),
        ("222100", "mastercard"),
        ("272099", "mastercard"),
        ("272100", None),
        ("510000", "mastercard"),
        ("559999", "mastercard"),
        ("500000", "maestro"),
        ("560000", "maestro"),
        ("620000", "unionpay"),
        ("650000", "discover"),
        ("643999", "maestro"),
        ("644000", "discover"),
        ("352799", None),
        ("352800", "jcb"),
        ("358999", "jcb"),
        ("359000", None),
        ("340000", "amex"),
        ("360000", "diners"),
        ("999999", None),
        ("411", None),
        ("४१११११", None),
    ],
)
def test_scheme_prefixes_at_their_bounds(digits: str, scheme: str | None) -> None:
    assert scheme_of(digits) == scheme


@every_test_pan
def test_spaces_and_dashes_between_digits_change_nothing(digits: str) -> None:
    spaced = " ".join(digits[place : place + 4] for place in range(0, len(digits), 4))
    assert Pan.parse(digits) == Pan.parse(spaced) == Pan.parse(spaced.replace(" ", "-"))
    assert hash(Pan.parse(digits)) == hash(Pan.parse(spaced))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("4111111111111112", "check digit"),
        ("41111111111", "12 to 19"),
        ("41111111111111111111", "12 to 19"),
        ("4111  1111 1111 1111", "12 to 19"),
        (" 4111111111111111", "12 to 19"),
        ("4111111111111111\n", "12 to 19"),
        ("４111111111111111", "12 to 19"),
        ("411111******1111", "12 to 19"),
        ("", "12 to 19"),
    ],
)
def test_a_wrong_number_is_refused_without_repeating_it(text: str, problem: str) -> None:
    with pytest.raises(InvalidCard, match=problem) as caught:
        Pan.parse(text)
    assert caught.value.field == "card.pan"
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.args)
    assert re.search(r"\d{4}", shown) is None
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_what_leaves_a_number_is_what_pci_lets_leave_it() -> None:
    visa, amex = Pan.parse("4111111111111111"), Pan.parse("378282246310005")
    assert (visa.bin, visa.last4, visa.masked, visa.account_range) == (
        "41111111",
        "1111",
        "411111******1111",
        "41111111111",
    )
    assert (amex.bin, amex.last4, amex.masked) == ("378282", "0005", "378282*****0005")
    assert (visa.scheme, amex.scheme) == ("visa", "amex")


def test_no_text_form_of_a_number_shows_it() -> None:
    pan = Pan.parse("4111111111111111")
    for shown in (repr(pan), str(pan), f"{pan}", f"{pan:>40}", "%s" % pan, repr([pan]), repr({"pan": pan})):  # noqa: UP031
        assert "Pan(411111******1111)" in shown
        assert "1111111" not in shown


@pytest.mark.parametrize("secret", [Pan.parse("4111111111111111"), KEY], ids=["number", "key"])
def test_a_number_and_a_key_cannot_be_copied_out(secret: Pan | CardKey) -> None:
    for escape in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, orjson.dumps, vars):
        with pytest.raises(TypeError):
            escape(secret)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("411111**1111", ("411111", "1111")),
        ("544714XXXXXX5619", ("544714", "5619")),
        ("41111111xxxx1111", ("41111111", "1111")),
    ],
)
def test_masked_numbers_give_bin_and_last_four(text: str, parts: tuple[str, str]) -> None:
    assert parse_masked_pan(text) == parts


@pytest.mark.parametrize(
    "text", ["4111111111111111", "41111**1111", "411111**111", "411111--1111", "411111**1111\n"]
)
def test_what_is_no_masked_number_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidCard, match="masked") as caught:
        parse_masked_pan(text)
    assert re.search(r"\d{4}", str(caught.value)) is None


# --- fingerprints and keys ----------------------------------------------------------------------------------


def test_a_fingerprint_is_this_hmac_for_ever() -> None:
    # Stored blacklists hold fingerprints: a change here would silently stop them from matching.
    assert Pan.parse("4111111111111111").fingerprint(KEY) == "fp_ff48dd_agcccebcabdickefjbcplccicildphnl"


def test_fingerprints_differ_by_number_and_by_key_and_name_their_key() -> None:
    other = CardKey(bytes(32))
    made = {Pan.parse(digits).fingerprint(key) for digits in TEST_PANS for key in (KEY, other)}
    assert len(made) == 2 * len(TEST_PANS)
    assert {text.split("_")[1] for text in made} == {KEY.id, other.id}


@given(st.binary(min_size=32, max_size=64))
def test_a_fingerprint_never_looks_like_a_card_number(secret: bytes) -> None:
    fingerprint = Pan.parse("4111111111111111").fingerprint(CardKey(secret))
    assert is_fingerprint(fingerprint)
    assert re.search(r"\d{7}", fingerprint) is None
    assert find_pans(fingerprint) == []


@pytest.mark.parametrize(
    "text", ["", "fp_", "fp_ff48dd_", "4111111111111111", "fp_ff48dd_" + "a" * 31, "fp_ff48dd_" + "q" * 32]
)
def test_other_texts_are_no_fingerprints(text: str) -> None:
    assert not is_fingerprint(text)


def test_a_key_hides_itself() -> None:
    assert repr(KEY) == str(KEY) == f"CardKey(id={KEY.id})"


@pytest.mark.parametrize("form", [bytes.hex, lambda secret: b64encode(secret).decode()], ids=["hex", "base64"])
def test_a_key_comes_from_the_environment(form: object) -> None:
    secret = bytes(range(32))
    loaded = load_card_key({"FRAUDENGINE_CARD_KEY": form(secret)}, None, create_development_key=False)  # type: ignore[operator]
    assert loaded.key.id == KEY.id
    assert not loaded.created


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "0 bytes"), ("ab" * 31, "31 bytes"), ("not a key!", "neither hexadecimal nor base64")],
)
def test_a_bad_key_in_the_environment_is_refused_and_not_passed_over(
    text: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load_card_key({"FRAUDENGINE_CARD_KEY": text}, tmp_path / "key", create_development_key=True)
    assert "token_hex(32)" in str(caught.value)
    assert not (tmp_path / "key").exists()


def test_without_a_key_the_message_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no card key: set FRAUDENGINE_CARD_KEY.*token_hex"):
        load_card_key({}, tmp_path / "key", create_development_key=False)


def test_a_development_key_is_made_once_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "var" / "card.key"
    first = load_card_key({}, path, create_development_key=True)
    second = load_card_key({}, path, create_development_key=True)
    assert (first.created, second.created) == (True, False)
    assert first.key.id == second.key.id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["card.key"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700])
def test_a_key_file_that_others_may_use_is_refused_with_the_command_that_helps(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "card.key"
    path.write_text("ab" * 32)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {re.escape(str(path))}"):
        load_card_key({}, path, create_development_key=True)


def test_a_key_file_that_is_a_link_a_directory_or_a_pipe_is_refused(tmp_path: Path) -> None:
    real, link, directory, pipe = (tmp_path / name for name in ("real", "link", "directory", "pipe"))
    real.write_text("ab" * 32)
    real.chmod(0o600)
    link.symlink_to(real)
    directory.mkdir()
    os.mkfifo(pipe, 0o600)
    for path in (link, directory, pipe):
        with pytest.raises(ConfigurationError, match="regular file"):
            load_card_key({}, path, create_development_key=True)


@pytest.mark.parametrize(
    "content", [b"", b"ab" * 31, b"\xff" * 64, b"ab" * 5000], ids=["empty", "short", "binary", "long"]
)
def test_a_key_file_without_a_key_is_refused_without_showing_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "card.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=re.escape(str(path))) as caught:
        load_card_key({}, path, create_development_key=True)
    assert "abab" not in str(caught.value)


# --- numbers in free text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("pay with 4111111111111111 now", "pay with 411111******1111 now"),
        ("pan4111111111111111x", "pan411111******1111x"),
        ("4111 1111 1111 1111", "411111******1111"),
        ("3782-822463-10005.", "378282*****0005."),
        ("at 12 4111111111111111", "at 12 411111******1111"),
        ("4111111111111111 4242424242424242", "411111******1111 424242******4242"),
        ('{"pan":"30569309025904"}', '{"pan":"305693****5904"}'),
        ("4111.1111.1111.1111.", "411111******1111."),
        ("no. 3782/822463/10005", "no. 378282*****0005"),
        ("5555_5555_5555_4444", "555555******4444"),
        ("4111\u00a01111\u20111111\u20131111", "411111******1111"),
        ("\uff14" + "\uff11" * 15, "411111******1111"),
        ("4111  1111  1111  1111", "411111******1111"),
        ("4111  1111--1111 - 1111", "411111******1111"),
        ("card: 3782 - 822463 / 10005.", "card: 378282*****0005."),
        ("4111\u00a0 1111 \u2013 1111__1111", "411111******1111"),
        ("7  4111  1111  1111  1111  12", "7  411111******1111  12"),
        ("رقم \u0664" + "\u0661" * 15 + " é", "رقم 411111******1111 é"),
    ],
)
def test_numbers_in_text_are_masked(text: str, hidden: str) -> None:
    assert hide_pans(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "",
        "order 20261123-000187 at 2026-11-23T10:15:00.123456Z from 41.226.11.9",
        "4111111111111112",  # wrong check digit
        "411111111111111",  # no visa number has 15 digits
        "1111111111111117",  # no scheme begins with 1
        "00004111111111111111",  # another number, of 20 digits
        "4111    1111    1111    1111",  # four columns of a table
        "411  1111  1111  11111",  # a small group beside two separators
        "4111 1111  1111  111  1",
        "4  1  1  1  1  1  1  1  1  1  1  1  1  1  1  1",
        "2026-11-23  10:15:00   4111  1111.111",
        "5555555555554.444",  # an amount, no groups of a card
        "41.111.111.111.111.11",
        "prix \u0664\u0661\u0661 é",
        "1763892900000000",  # microseconds since 1970
    ],
)
def test_texts_without_card_numbers_stay_as_they_are(text: str) -> None:
    assert find_pans(text) == []
    assert hide_pans(text) == disguise_pans(text, KEY) == text


_words = st.text(alphabet=st.characters(exclude_characters="0123456789"), max_size=20) | st.sampled_from(
    ["12 ", " 2026-11-23 ", " 7", " 55-", "x1234567890y", " 4 ", "-4111"]
)
_written = st.sampled_from(sorted(TEST_PANS)).flatmap(
    lambda digits: st.sampled_from(
        [(digits, digits), (digits, "-".join((digits[:4], digits[4:10], digits[10:]))), (digits, " ".join(digits))]
    )
)


def _glue(before: str, number: str, after: str) -> str:
    before = before + " " if before[-1:].isdigit() else before
    return before + number + (" " + after if after[:1].isdigit() else after)


@given(_words, _written, _words)
def test_a_number_in_any_text_never_leaks(before: str, written: tuple[str, str], after: str) -> None:
    digits, number = written
    text = _glue(before, number, after)
    for shown in (hide_pans(text), disguise_pans(text, KEY)):
        assert number not in shown
        assert digits not in re.sub(r"[^0-9]", "", shown)
        assert digits not in re.sub(r"[ -]", "", shown)
        assert find_pans(shown) == []


_separator = st.sampled_from(
    [" ", "-", ".", "/", "_", "  ", "--", " - ", "- ", " / ", "__", ". ", "\u00a0 ", " \u2013 "]
)


@given(_words, st.sampled_from(sorted(TEST_PANS)), st.lists(_separator, min_size=3, max_size=3), _words)
def test_a_number_in_groups_never_leaks_whatever_stands_between(
    before: str, digits: str, between: list[str], after: str
) -> None:
    cuts = (4, 8, 12) if len(digits) == 16 else (4, 10)
    bounds = [0, *cuts, len(digits)]
    groups = [digits[start:end] for start, end in pairwise(bounds)]
    number = groups[0] + "".join(separator + group for separator, group in zip(between, groups[1:], strict=False))
    shown = hide_pans(_glue(before, number, after))
    assert number not in shown
    assert digits not in re.sub(r"[^0-9]", "", shown)
    assert find_pans(shown) == []


@given(st.lists(st.integers(0, 999), min_size=5, max_size=30), st.sampled_from(["  ", "   ", " - ", "--", " . "]))
def test_columns_of_small_numbers_are_no_card_number(numbers: list[int], separator: str) -> None:
    assert find_pans(separator.join(map(str, numbers))) == []


@given(st.lists(st.text(alphabet="0123456789", min_size=1, max_size=12), min_size=1, max_size=12), st.data())
def test_only_what_is_a_card_number_with_single_spaces_is_one_with_more(
    groups: list[str], data: st.DataObject
) -> None:
    """More separators between groups make no number of what was none: Luhn, prefix and length decide as before."""
    between = data.draw(st.lists(_separator, min_size=len(groups) - 1, max_size=len(groups) - 1))
    spread = groups[0] + "".join(one + group for one, group in zip(between, groups[1:], strict=True))
    if find_pans(spread):
        assert find_pans(" ".join(groups))


@given(st.text(alphabet="0123456789 -x4", max_size=80))
def test_hiding_ends_and_a_second_time_changes_nothing(text: str) -> None:
    assert hide_pans(hide_pans(text)) == hide_pans(text)
    assert disguise_pans(disguise_pans(text, KEY), KEY) == disguise_pans(text, KEY)


def test_a_disguised_identifier_still_identifies() -> None:
    # Two published numbers that share BIN and last four do not exist; these two differ in every way but form.
    first, second = disguise_pans("4111111111111111", KEY), disguise_pans("4242424242424242", KEY)
    assert re.fullmatch(r"411111\*{6}1111#[a-p]{8}", first)
    assert first != second
    assert first == disguise_pans("4111-1111-1111-1111", KEY)
    assert first != disguise_pans("4111111111111111", CardKey(bytes(32)))
    assert first.split("#")[1] not in Pan.parse("4111111111111111").fingerprint(KEY)


# --- logs ---------------------------------------------------------------------------------------------------


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []
        self.addFilter(HidePans())

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(self.format(record))


@pytest.fixture
def collector() -> _Collector:
    return _Collector()


@pytest.fixture
def logger(collector: _Collector) -> logging.Logger:
    made = logging.Logger("test")
    made.addHandler(collector)
    return made


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("card 4111111111111111", ()),
        ("card %s", ("4111111111111111",)),
        ("card %d", (4111111111111111,)),
        ("card %s%s", ("41111111", "11111111")),
        ("body %r", ({"pan": "4111111111111111"},)),
        ("body %(pan)s", ({"pan": "4111111111111111"},)),
        ("too few %s %s", ("4111111111111111",)),
        ("100%% of 4111111111111111 %s", ("ok",)),
    ],
)
def test_no_number_reaches_a_log(
    message: str, args: tuple[object, ...], logger: logging.Logger, collector: _Collector
) -> None:
    logger.warning(message, *args)
    assert "1111111" not in collector.lines[0]
    assert "411111******1111" in collector.lines[0]
    assert "4111111111111111" not in repr(collector.records[0].__dict__)


def test_no_number_reaches_a_log_in_a_traceback(logger: logging.Logger, collector: _Collector) -> None:
    try:
        raise ValueError("no room for 4111111111111111")
    except ValueError:
        logger.exception("failed", extra={"color_message": "4111111111111111"})
    assert "ValueError: no room for 411111******1111" in collector.lines[0]
    assert "4111111111111111" not in repr(collector.records[0].__dict__)


def test_other_log_records_are_left_alone(logger: logging.Logger, collector: _Collector) -> None:
    args = ("127.0.0.1:5000", "POST", "/v1/screenings", "1.1", 200)
    logger.warning('%s - "%s %s HTTP/%s" %d', *args)
    assert collector.records[0].args == args
    logger.warning('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5000", "GET", "/cards/4111111111111111", "1.1", 404)
    assert collector.records[1].args == ("127.0.0.1:5000", "GET", "/cards/411111******1111", "1.1", 404)


@pytest.mark.parametrize("length", [32, 64, 65, 200], ids=["shortest", "one block", "over a block", "long"])
def test_fingerprint_is_hmac_sha256_of_the_whole_number(length: int) -> None:
    secret = bytes(range(length))
    digest = hmac.digest(secret, b"4111111111111111", "sha256").hex()
    letters = digest[:32].translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop"))
    assert Pan.parse("4111 1111 1111 1111").fingerprint(CardKey(secret)).endswith(f"_{letters}")
