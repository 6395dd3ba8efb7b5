"""Decisions without a server: rules loaded from a directory, one transaction in, one answer out.

Nothing is recorded, so there is no earlier screening to compare a 3-D Secure result with and no retry.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cards import CardKey
from .config import read_configuration
from .diagnostics import ConfigurationError, RuleFilesRefused
from .engine import Engine, ReadyRuleSet
from .enrich import Enricher
from .lookups import DataFiles
from .request import transaction_from_object
from .rules.library import Library
from .screening import Json, answer, screen_transaction

__all__ = ["Rules", "load_rules", "screen"]


class Rules:
    """The rule sets of a directory, ready to decide. Use it from one thread."""

    def __init__(self, library: Library, data: DataFiles, card_key: CardKey | None) -> None:
        self.library = library
        self.data = data
        self.card_key = card_key
        self.engine = Engine()
        self.enricher = Enricher(data)
        self._ready: dict[str, ReadyRuleSet] = {}

    @property
    def merchants(self) -> tuple[str, ...]:
        return self.library.snapshot.merchants

    def ready(self, merchant: str) -> ReadyRuleSet:
        """The merchant's rule set, compiled on first use; raises UnknownMerchant."""
        if merchant not in self._ready:
            self._ready[merchant] = self.engine.prepare(self.library.snapshot.rule_set(merchant))
        return self._ready[merchant]

    def __repr__(self) -> str:
        return f"<Rules of {len(self.merchants)} merchants from {self.library.directory}>"


def load_rules(
    directory: Path | str = "rules", *, data: Path | str | None = None, card_key: CardKey | None = None
) -> Rules:
    """Loads and checks every rule file below `directory`; raises RuleFilesRefused when any has a mistake.

    `data` is the directory of the IP and BIN tables. `card_key` is needed only for transactions that carry a
    card number (`cards.load_card_key` reads one).
    """
    library = Library.load(Path(directory))
    if library.snapshot.refusals:
        raise RuleFilesRefused(library.diagnostics, library.sources)
    config = read_configuration(data=None if data is None else Path(data))
    tables = DataFiles(config.ip_country_file, config.data / "bins.dat", config.data / "bins.local.csv")
    return Rules(library, tables, card_key)


def screen(rules: Rules, transaction: Mapping[str, Any]) -> dict[str, Json]:
    """The answer for one transaction, given as the object of `POST /v1/screenings`; nothing is recorded.

    Raises InvalidTransaction naming the field, UnknownMerchant, and ConfigurationError for a card number
    without a card key.
    """
    started = time.perf_counter_ns()
    card = transaction.get("card")
    if rules.card_key is None and isinstance(card, Mapping) and "pan" in card:
        raise ConfigurationError("a card number needs a card key: load_rules(…, card_key=…), or send a fingerprint")
    key = rules.card_key or CardKey(secrets.token_bytes(32))
    read, _ = transaction_from_object(dict(transaction), key, time.time_ns() // 1000)
    screened = screen_transaction(rules.engine, rules.enricher, rules.ready(read.merchant), read)
    elapsed_us = (time.perf_counter_ns() - started) // 1000
    given = answer(screened, "", rules.data.dates, elapsed_us)
    del given["screening_id"]
    return given
