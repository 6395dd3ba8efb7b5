"""Card numbers to be planted, and the search for them in whatever was written afterwards.

They are test numbers that the schemes publish; each spelling is one that callers and people use.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

VISA, MASTERCARD, AMEX = "4111111111111111", "5555555555554444", "378282246310005"
JCB = "3530111333300000"
PANS: Final = (VISA, MASTERCARD, AMEX, JCB)
SPELLINGS: Final = {
    "plain": VISA,
    "spaced": "5555 5555 5555 4444",
    "dashed": "4111-1111-1111-1111",
    "amex": "3782 822463 10005",
    "dotted": "5555.5555.5555.4444",
    "slashed": "4111/1111/1111/1111",
    "far apart": "4111  1111--1111 - 1111",
    "unbroken spaces": "5555\u00a05555\u00a05555\u00a04444",
    "full width": "".join(chr(0xFF10 + int(digit)) for digit in VISA),
    "Arabic": "".join(chr(0x660 + int(digit)) for digit in MASTERCARD),
    "in words": f"card {AMEX}, please",
    "in letters": f"a{VISA}b",
    "in an address": f"{JCB}@example.tn",
    "track": f"%B{MASTERCARD}^AMINA/B^3012101?",
}

_LEFT_OUT: Final = re.compile(rb"[ ._/+-]|\xc2\xa0")
_OTHER_DIGITS: Final = {
    chr(zero + digit).encode(): b"%d" % digit for zero in (0xFF10, 0x660) for digit in range(10)
}
_OTHER_DIGIT: Final = re.compile(b"|".join(_OTHER_DIGITS))


def card_numbers_in(content: bytes) -> list[str]:
    """The planted numbers that stand in these bytes, however they are spelled or percent-encoded."""
    content = _OTHER_DIGIT.sub(lambda found: _OTHER_DIGITS[found[0]], content)
    decoded = _OTHER_DIGIT.sub(lambda found: _OTHER_DIGITS[found[0]], unquote_to_bytes(content))
    forms = (content, _LEFT_OUT.sub(b"", content), _LEFT_OUT.sub(b"", decoded))
    return [pan for pan in PANS if any(pan.encode() in form for form in forms)]


def assert_nowhere(written: Mapping[str, bytes]) -> None:
    found = [f"{pan[:6]}… in {place}" for place, content in written.items() for pan in card_numbers_in(content)]
    assert not found, "\n".join(found[:40])


def digits_of(spelling: str) -> str:
    return next(pan for pan in PANS if card_numbers_in(spelling.encode()) == [pan])


RULE_FILES: Final[dict[str, Callable[[str], str]]] = {
    "description": lambda number: f"extends: platform\ndescription: {number}\n",
    "comment": lambda number: f"extends: platform  # {number}\n",
    "entry": lambda number: f"extends: platform\nlists:\n  blacklist: [{json.dumps(number)}]\n",
    "ticket": lambda number: f"extends: platform\nlists:\n  blacklist: [{{value: TN, ticket: '{number}'}}]\n",
    "unknown key": lambda number: f"extends: platform\n{json.dumps(number)}: x\n",
    "rule set": lambda number: f"extends: {json.dumps(number)}\n",
    "list": lambda number: f"extends: platform\nlists:\n  '{number}': {{of: card}}\n",
    "test": lambda number: f"extends: platform\nrules:\n  - {{id: a, when: {{email: '{number}'}}, then: refuse}}\n",
    "broken": lambda number: f"extends: [platform\n{number}\n",
    "two lines": lambda number: (
        f"extends: platform\ndescription: {digits_of(number)[:8]}\n  {digits_of(number)[8:]}\n"
    ),
    "escaped": lambda number: f'extends: platform\ndescription: "{_escaped(number)}"\n',
}


def _in_two(number: str) -> str:
    return f"{number[:8]}\n  {number[8:]}"


def _escaped(number: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in number)


def write_rule_files(directory: Path) -> int:
    """Rule files with a card number in every place and spelling, and in their names; how many there are."""
    for number, (place, spelling) in enumerate(itertools.product(RULE_FILES, SPELLINGS.values())):
        text = f"merchant: m{number}\n" + RULE_FILES[place](spelling)
        (directory / "merchants" / f"m{number}.yaml").write_text(text)
    for pan in PANS:
        for name in (pan, f"k-{pan}"):
            (directory / "merchants" / f"{name}.yaml").write_text(f"merchant: {name}\nextends: platform\n")
            (directory / "merchants" / f"{name}.test.yaml").write_text("tests: []\n")
            (directory / "lists" / f"{name}.yaml").write_text(f"list: '{name}'\nof: country\nentries: [TN]\n")
    return len(list(directory.glob("m*/m*.yaml")))
