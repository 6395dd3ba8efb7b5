"""Positions, refusals and card numbers when YAML is read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudengine.cards import find_pans
from fraudengine.diagnostics import Diagnostic, Span, render_text
from fraudengine.rules.yamldoc import (
    Mapping,
    Node,
    Scalar,
    Sequence,
    content_digest,
    decode_source,
    read_document,
    text_for_display,
)

PAN = "4111111111111111"
# Numbers that schemes publish for tests; each passes Luhn.
PANS = (PAN, "5500005555555559", "378282246310005", "6011111111111117", "4222222222222")


def read(text: str) -> Node:
    node, mistakes = read_document("shop.yaml", text)
    assert not mistakes
    assert node is not None
    return node


def codes(text: str) -> list[str]:
    return [item.code for item in read_document("shop.yaml", text)[1]]


def scalars(node: Node) -> list[Scalar]:
    if isinstance(node, Scalar):
        return [node]
    if isinstance(node, Mapping):
        return [scalar for key, value in node.items for scalar in (key, *scalars(value))]
    return [scalar for item in node.items for scalar in scalars(item)]


def test_positions_are_characters_counted_from_one() -> None:
    node = read("# é\né😀: [\"x€😀y\", b]\nc:\n  - d: '1'\n")
    found = {scalar.text: scalar.span for scalar in scalars(node)}
    assert found == {
        "é😀": Span("shop.yaml", 2, 1, 3),
        "x€😀y": Span("shop.yaml", 2, 6, 12),
        "b": Span("shop.yaml", 2, 14, 15),
        "c": Span("shop.yaml", 3, 1, 2),
        "d": Span("shop.yaml", 4, 5, 6),
        "1": Span("shop.yaml", 4, 8, 11),
    }


def test_a_span_cuts_the_value_out_of_its_line() -> None:
    text = "a: {b: café, ç: [d, 'e f']}\n"
    for scalar in scalars(read(text)):
        cut = text.splitlines()[scalar.line - 1][scalar.column - 1 : scalar.end_column - 1]
        assert cut.strip("'") == scalar.text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_lines_count_alike_with_every_line_end(end: str) -> None:
    node = read(end.join(["a: 1", "b: 2", "c: 3"]))
    assert [scalar.line for scalar in scalars(node)] == [1, 1, 2, 2, 3, 3]


def test_texts_are_never_interpreted() -> None:
    node = read("[NO, 012345, 22:30, 1e3, 2026-11-02, ~, null, true, '', ]")
    assert isinstance(node, Sequence)
    texts = [item.text for item in node.items if isinstance(item, Scalar)]
    assert texts == ["NO", "012345", "22:30", "1e3", "2026-11-02", "~", "null", "true", ""]


def test_no_value_differs_from_an_empty_text() -> None:
    node = read("{a: , b: ''}")
    assert [scalar.is_empty for scalar in scalars(node)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"a: \xff", "not-utf-8", id="byte"),
        pytest.param("é: \n".encode("latin-1"), "not-utf-8", id="latin-1"),
        pytest.param("a: 1".encode("utf-16"), "not-utf-8", id="utf-16"),
        pytest.param(b"a" * 1_000_001, "file-too-large", id="large"),
    ],
)
def test_bytes_that_are_no_text(content: bytes, code: str) -> None:
    text, mistakes = decode_source("shop.yaml", content)
    assert text is None
    assert [item.code for item in mistakes] == [code]


def test_place_of_a_wrong_byte() -> None:
    _, (mistake,) = decode_source("shop.yaml", "é: 1\nab: ".encode() + b"\xff\n")
    assert mistake.span == Span("shop.yaml", 2, 5, 6)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("a: 1\x00", "hidden-character", id="nul"),
        pytest.param("a: \ud800", "hidden-character", id="lone surrogate"),
        pytest.param("a: x\u2028b: 1", "hidden-character", id="line separator"),
        pytest.param("a: \u202eb", "hidden-character", id="right to left override"),
        pytest.param("\ufeffa: 1", "byte-order-mark", id="byte order mark"),
        pytest.param("a:\n\tb: 1", "tab", id="tab"),
        pytest.param("[" * 500_000, "nested-too-deep", id="bomb of lists"),
        pytest.param("{a: " * 200_000, "nested-too-deep", id="bomb of mappings"),
        pytest.param("- " * 200_000, "nested-too-deep", id="bomb of items"),
        pytest.param("a: &x [1]\nb: [*x, *x]", "anchor", id="anchor"),
        pytest.param("a: *nothing", "anchor", id="alias of nothing"),
        pytest.param("", "empty-file", id="empty"),
        pytest.param("# only a comment\n", "empty-file", id="comment"),
        pytest.param("x" * 1_000_001, "file-too-large", id="large"),
    ],
)
def test_text_that_is_refused(text: str, code: str) -> None:
    began = time.perf_counter()
    assert code in codes(text)
    print(f"refused in {time.perf_counter() - began:.3f} s")


def test_arabic_text_is_welcome() -> None:
    assert not codes("description: بقالة\u200f في تونس\n")


def test_billion_laughs_stay_small() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    assert set(codes("\n".join(lines))) == {"anchor"}


def test_digest_is_of_the_content_only() -> None:
    one = content_digest(read("a: 1 # note\nb: [x, 'y']\n"))
    assert one == content_digest(read("# other\n\na:   '1'\nb:\n- x\n- y\n"))
    for other in ("a: 2\nb: [x, y]", "a: 1\nb: [x, y, z]", "a: 1\nb: [xy]", "a: 1\nb: {x: y}", "a: ''\nb: [x, y]"):
        assert one != content_digest(read(other))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"a: {PAN}", id="plain"),
        pytest.param(f"a: 1 # {PAN}", id="comment"),
        pytest.param(f"{PAN}: 1", id="key"),
        pytest.param("a: 4111 1111 1111 1111", id="spaces"),
        pytest.param("a: [x, '4111-1111-1111-1111']", id="dashes"),
        pytest.param("a: 4111 1111\n  1111 1111", id="folded"),
        pytest.param('a: "41111111\\\n  11111111"', id="continued"),
        pytest.param("a: >-\n  4111 1111\n  1111 1111", id="block"),
        pytest.param('a: "\\x34111111111111111"', id="escaped"),
        pytest.param(f"a: &x{PAN} 1", id="anchor"),
        pytest.param(f"a: 'open {PAN}", id="malformed"),
        pytest.param(f"a: {PAN}\x00", id="hidden character"),
    ],
)
def test_card_number_is_refused_and_never_shown(text: str) -> None:
    _, mistakes = read_document("shop.yaml", text)
    assert "card-number" in [item.code for item in mistakes]
    assert_shows_no_card(text, mistakes)


def test_display_text_keeps_every_place() -> None:
    text = f"a: {PAN} # é\nb: 4111 1111\n  1111 1111\n"
    shown = text_for_display(text)
    assert len(shown) == len(text)
    assert shown == "a: XXXXXXXXXXXXXXXX # é\nb: XXXX XXXX\n  XXXX XXXX\n"


def assert_shows_no_card(text: str, mistakes: list[Diagnostic]) -> None:
    shown = text_for_display(text)
    assert not find_pans(shown)
    for item in mistakes:
        rendered = render_text(item, {"shop.yaml": shown})
        assert not find_pans(rendered)
        assert not any(pan in rendered for pan in PANS)


@given(st.lists(st.sampled_from([*PANS, "\n  ", " ", "-", "'", '"', "# ", "a: ", "[", "]", "{", "}", ",", "é"])))
def test_no_arrangement_shows_a_card_number(parts: list[str]) -> None:
    text = "".join(parts)
    node, mistakes = read_document("shop.yaml", text)
    assert_shows_no_card(text, mistakes)
    if find_pans(text):
        assert "card-number" in [item.code for item in mistakes]
    for scalar in scalars(node) if node is not None else ():
        assert not find_pans(scalar.text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    node, mistakes = read_document("shop.yaml", text)
    assert node is not None or mistakes
    lines = max(1, len(text.splitlines()))
    for item in mistakes:
        assert 1 <= item.span.line <= lines + 1
        assert 1 <= item.span.column < item.span.end_column


@given(st.binary())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    text, mistakes = decode_source("shop.yaml", content)
    assert (text is None) is bool(mistakes)
