"""A log of 1,400 screenings to search and to index, and what each search should find in it."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from fraudengine import search_index
from fraudengine.decision_log import DecisionLog, ScreeningRecord
from fraudengine.log_search import LogSearch, Search

START_US = 1_795_000_000_000_000
STEP_US = 250_000
COUNT = 1_400
MERCHANTS = ("carthage-market", "sahara-travel", "medina-topup")


def record_number(log: DecisionLog, number: int) -> ScreeningRecord:
    chance = random.Random(number)
    merchant = MERCHANTS[0] if chance.random() < 0.7 else chance.choice(MERCHANTS)
    outcome, code = chance.choices(
        (("accept", "NO_RULE_MATCHED"), ("refuse", "IP_COUNTRY_BLOCKED"), ("challenge", "AMOUNT_NEEDS_3DS")),
        (90, 7, 3),
    )[0]
    if number == 1_134:
        outcome, code = "refuse", "CARD_BLACKLISTED"
    transaction = {"merchant": merchant, "order_ref": f"C-{number % 700}"}
    return ScreeningRecord(
        id=log.next_id(),
        merchant=merchant,
        transaction_id=f"T-{number}",
        request_digest=number.to_bytes(16, "little"),
        at_us=START_US + number * STEP_US,
        answered_us=START_US + number * STEP_US,
        card_identity=f"fp_0123ab_{'a' * 28}{''.join(chr(97 + int(d)) for d in f'{number % 400:04d}')}",
        currency="TND",
        minor=1_000 + number,
        outcome=outcome,
        code=code,
        revision="r1",
        document=json.dumps({"transaction": transaction}, separators=(",", ":")).encode(),
    )


def append_all(log: DecisionLog, now: list[int], numbers: range) -> None:
    async def append() -> None:
        futures = []
        for number in numbers:
            now[0] = START_US + number * STEP_US
            futures.append(log.append(record_number(log, number)))
        await asyncio.gather(*futures)

    asyncio.run(append())


def make_log(directory: Path) -> Path:
    now = [START_US]
    with DecisionLog.open(directory / "decisions.db", clock=lambda: now[0]) as log:
        append_all(log, now, range(COUNT))
    return directory


def with_small_runs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(search_index, "ROWS", (40, 160, 640))
    patch.setattr(search_index, "FAN", 4)


CARD = f"fp_0123ab_{'a' * 28}aabh"
SEARCHES = {
    "everything": Search(),
    "merchant": Search(merchant="sahara-travel"),
    "transaction": Search(transaction_id="T-77"),
    "transaction-of-a-merchant": Search(merchant="carthage-market", transaction_id="T-78"),
    "order": Search(order_ref="C-12"),
    "card": Search(card=CARD),
    "card-of-a-merchant": Search(card=CARD, merchant="carthage-market"),
    "rare-code": Search(code="CARD_BLACKLISTED"),
    "code-of-a-merchant": Search(code="IP_COUNTRY_BLOCKED", merchant="medina-topup"),
    "common-code": Search(code="NO_RULE_MATCHED"),
    "outcome": Search(outcome="challenge"),
    "outcome-of-a-merchant": Search(outcome="refuse", merchant="sahara-travel"),
    "accepted": Search(outcome="accept", merchant="sahara-travel"),
    "times": Search(since_us=START_US + 100 * STEP_US, until_us=START_US + 200 * STEP_US),
    "times-and-outcome": Search(
        outcome="refuse", since_us=START_US + 100 * STEP_US, until_us=START_US + 1_200 * STEP_US
    ),
    "nobody": Search(merchant="nobody"),
    "absent": Search(card="fp_0123ab_" + "p" * 32),
}


def expected(state: Path, search: Search) -> list[str]:
    """The law: every row of the log, tested one by one."""
    with sqlite3.connect(state / "decisions.db") as connection:
        rows = connection.execute(
            "SELECT m.name, transaction_id, card_identity, outcome, code, answered_us, document"
            " FROM screenings s JOIN merchants m ON m.id = s.merchant_id ORDER BY s.id DESC"
        ).fetchall()
    return [
        row[1]
        for row in rows
        if search.merchant in (None, row[0])
        and search.transaction_id in (None, row[1])
        and search.card in (None, row[2])
        and search.outcome in (None, row[3])
        and search.code in (None, row[4])
        and (search.since_us is None or row[5] >= search.since_us)
        and (search.until_us is None or row[5] < search.until_us)
        and search.order_ref in (None, json.loads(row[6])["transaction"]["order_ref"])
    ]


def every_page(state: Path, search: Search, limit: int) -> list[str]:
    found: list[str] = []
    with LogSearch(state) as reader:
        before: int | None = None
        for _ in range(10_000):
            asked = replace(search, before=before)
            page = reader.find(asked, limit)
            found += [one.transaction_id for one in page.found]
            assert len(page.found) <= limit
            if page.next is None:
                return found
            assert before is None or page.next < before, "a page must lead further back"
            before = page.next
    raise AssertionError("the pages have no end")
