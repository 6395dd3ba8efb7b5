"""What atheris runs, in a process of its own: any bytes as a rule file, or as the body of a screening.

A rule file is read or refused with diagnostics; a body is read or refused with problems. Anything else is a fault.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

atheris: Any = importlib.import_module("atheris")  # it has no types

with atheris.instrument_imports(include=["fraudengine.rules", "fraudengine.request"]):
    from fraudengine.cards import CardKey
    from fraudengine.request import NotJson, TransactionRefused, read_transaction
    from fraudengine.rules.check import check_text
    from fraudengine.rules.sourcetext import decode_source

KEY = CardKey(bytes(range(32)))
NOW_US = 1_795_000_000_000_000


def read_rule_file(content: bytes) -> None:
    text, _ = decode_source("rules/merchants/m.yaml", content)
    if text is not None:
        checked, diagnostics = check_text("rules/merchants/m.yaml", text)
        assert checked is not None or diagnostics


def read_body(content: bytes) -> None:
    with contextlib.suppress(NotJson, TransactionRefused):
        read_transaction(content, KEY, NOW_US)


if __name__ == "__main__":
    target = {"rules": read_rule_file, "body": read_body}[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
