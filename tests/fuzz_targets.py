"""What reads bytes from outside, each as a function that must take any bytes: read, or refuse in its own words.

`fuzz_readers` gives them to atheris, `test_fuzz` gives them what is kept in `tests/fuzz`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from fraudengine.cards import CardKey, find_pans, hide_pans
from fraudengine.request import NotJson, TransactionRefused, read_transaction
from fraudengine.request_schema import REQUEST_ADAPTER, read_plain
from fraudengine.rules.check import check_text
from fraudengine.rules.sourcetext import decode_source, text_for_display

KEY: Final = CardKey(bytes(range(32)))
NOW_US: Final = 1_795_000_000_000_000


def read_rule_file(content: bytes) -> None:
    """Read or refused with diagnostics, in which no card number stands."""
    text, _ = decode_source("rules/merchants/m.yaml", content)
    if text is not None:
        checked, diagnostics = check_text("rules/merchants/m.yaml", text)
        assert checked is not None or diagnostics
        shown = text_for_display(text)
        assert len(shown) == len(text)
        assert not find_pans(shown)
        for item in diagnostics:
            assert not find_pans(item.message + " " + item.hint)


def read_body(content: bytes) -> None:
    """Read or refused with problems; what the short way reads, the validator reads too, and the same."""
    plain = read_plain(content)
    if plain is not None:
        try:
            assert REQUEST_ADAPTER.validator.validate_json(content) == plain
        except ValidationError as error:
            raise AssertionError("the short way reads what the validator refuses") from error
    with contextlib.suppress(NotJson, TransactionRefused):
        transaction, _ = read_transaction(content, KEY, NOW_US)
        assert not find_pans(repr(transaction).replace("'", " | "))


def hide_card_numbers(content: bytes) -> None:
    """Any text: what is hidden is found no more, and a second time nothing changes."""
    text = content.decode("utf-8", "replace")
    hidden = hide_pans(text)
    assert not find_pans(hidden)
    assert hide_pans(hidden) == hidden


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "rules": read_rule_file,
    "body": read_body,
    "text": hide_card_numbers,
}
