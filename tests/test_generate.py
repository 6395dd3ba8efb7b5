"""The made-up history looks like a gateway's: each trait that its page promises is there to be seen."""

from __future__ import annotations

import duckdb
import pytest

from fraudengine.replay.generate import generate
from tests.replaying import real_tables

ROWS = 40_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    file = tmp_path_factory.mktemp("generate") / "h.parquet"
    told: list[int] = []
    generate(ROWS, file, real_tables(), seed=5, days=28, progress=told.append)
    assert len(told) == 28  # a day is written at a time
    assert told[-1] == ROWS
    connection = duckdb.connect()
    connection.execute(f"CREATE VIEW h AS SELECT *, make_timestamp(at_us) AS moment FROM '{file}'")
    return connection


def numbers(made: duckdb.DuckDBPyConnection, sql: str) -> tuple[float, ...]:
    return tuple(float(value) for value in made.execute(sql).fetchall()[0])


def test_days_and_weeks_have_a_rhythm(made: duckdb.DuckDBPyConnection) -> None:
    night, evening = numbers(
        made, "SELECT count(*) FILTER (hour(moment) = 3), count(*) FILTER (hour(moment) = 20) FROM h"
    )
    tuesdays, saturdays = numbers(
        made, "SELECT count(*) FILTER (isodow(moment) = 2), count(*) FILTER (isodow(moment) = 6) FROM h"
    )
    assert evening > 5 * night
    assert saturdays > 1.2 * tuesdays


def test_cards_and_addresses_are_tunisian_and_foreign(made: duckdb.DuckDBPyConnection) -> None:
    merchants, bins, addresses = numbers(
        made, "SELECT count(DISTINCT merchant), count(DISTINCT card_bin), count(DISTINCT ip_key) FROM h"
    )
    tunisian_bins, known = numbers(
        made, "SELECT count(*) FILTER (card_bin LIKE '4070%' OR card_bin LIKE '404%'), count(card_bin) FROM h"
    )
    assert merchants == 4
    assert min(bins, addresses) > 500
    assert 0 < tunisian_bins < known


def test_card_testing_comes_in_bursts(made: duckdb.DuckDBPyConnection) -> None:
    """From one address many cards within ten minutes, in small amounts, mostly declined."""
    cards, declined = numbers(
        made,
        "SELECT max(cards), max_by(declined, cards) FROM (SELECT count(DISTINCT card) AS cards,"
        " avg((label IN ('declined', 'fraud') OR recorded_outcome = 'refuse')::INT) AS declined"
        " FROM h GROUP BY ip_key, at_us // 600000000 HAVING ip_key IS NOT NULL)",
    )
    assert cards > 10
    assert declined > 0.5


def test_stolen_cards_pay_much_and_are_charged_back_later(made: duckdb.DuckDBPyConnection) -> None:
    back, ordinary, days = numbers(
        made,
        "SELECT median(minor) FILTER (label = 'chargeback'), median(minor) FILTER (label = 'authorised'),"
        " max(labelled_us - at_us) FILTER (label = 'chargeback') / 86400e6"
        " FROM h WHERE currency = 'TND'",
    )
    assert back > 1.5 * ordinary
    assert days > 14


def test_addresses_are_shared(made: duckdb.DuckDBPyConnection) -> None:
    """Offices and mobile networks: more customers than one from an address, over the whole time."""
    [shared] = numbers(
        made,
        "SELECT count(*) FROM (SELECT ip_key FROM h WHERE ip_key IS NOT NULL GROUP BY ip_key"
        " HAVING count(DISTINCT customer) > 3 AND max(at_us) - min(at_us) > 7 * 86400000000)",
    )
    assert shared > 10


def test_labels_arrive_later_than_payments(made: duckdb.DuckDBPyConnection) -> None:
    early, declined_s, refunded_d = numbers(
        made,
        "SELECT count(*) FILTER (labelled_us <= at_us), max(labelled_us - at_us) FILTER (label = 'declined') / 1e6,"
        " avg(labelled_us - at_us) FILTER (label = 'refunded') / 86400e6 FROM h",
    )
    assert early == 0
    assert declined_s < 10
    assert refunded_d > 1
