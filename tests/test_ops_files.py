"""The operations page says what is true: settings, published cards, commands, problems; and those cards do so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fraudengine.api.problems import KINDS
from fraudengine.cards import luhn_ok
from fraudengine.cli import program
from fraudengine.config import render_settings
from fraudengine.published_cards import CARDS, render_cards

from .running import REPOSITORY, Service, running_service

PAGE = REPOSITORY / "data" / "ops" / "OPERATIONS.md"


@pytest.mark.parametrize(("name", "table"), [("published cards", render_cards()), ("settings", render_settings())])
def test_the_tables_of_the_page_are_those_of_the_code(
    name: str, table: str, request: pytest.FixtureRequest
) -> None:
    text = PAGE.read_text()
    before, rest = text.split(f"<!-- {name}: written by tests/test_ops_files.py --write-golden -->\n")
    held, after = rest.split(f"<!-- end of {name} -->\n")
    if request.config.getoption("--write-golden"):
        marks = f"<!-- {name}: written by tests/test_ops_files.py --write-golden -->\n", f"<!-- end of {name} -->\n"
        PAGE.write_text(f"{before}{marks[0]}\n{table}\n{marks[1]}{after}")
        return
    assert held.strip() == table.strip()


def test_the_commands_that_the_page_names_exist() -> None:
    context = click.Context(program)
    for command in re.findall(r"`fraudengine ([a-z]+)(?: ([a-z]+))?", PAGE.read_text()):
        found = program.get_command(context, command[0])
        assert found is not None, command
        if isinstance(found, click.Group):
            assert found.get_command(context, command[1]) is not None, command


def test_every_status_of_a_problem_is_on_the_page() -> None:
    advised = PAGE.read_text().partition("## Keys")[0]
    wanted = {kind.status for kind in KINDS.values()} - {400, 405, 500}
    assert not [status for status in sorted(wanted) if str(status) not in advised]


# ---- published cards --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("in-test"), {"FRAUDENGINE_ENVIRONMENT": "test"}) as service:
        yield service


ECI = {("Y", "visa"): "05", ("Y", "mastercard"): "02", ("A", "visa"): "06", ("A", "mastercard"): "01"}
SECOND = {"Y": "accept", "A": "accept", "N": "refuse", "R": "refuse", "U": "refuse"}


def test_published_cards_get_their_documented_answers(in_test: Service) -> None:
    """A small amount from a country that is served: without the card the rules would accept."""
    for card in CARDS:
        for scheme, pan in (("visa", card.visa), ("mastercard", card.mastercard)):
            assert luhn_ok(pan)
            sent = {"transaction_id": f"card-{pan[-4:]}", "card": {"pan": pan, "country": "TN"}}
            first = in_test.screen(**sent).json()
            assert (first["decision"], first["reason"]["code"]) == ("challenge", "TEST_CARD")
            assert first["matches"][0]["rule"] == "test-card"
            assert first["three_ds"] == {"challenge_indicator": "04"}
            result = {"status": card.status} | ({"eci": ECI[card.status, scheme]} if card.status in "YA" else {})
            second = in_test.screen(**sent, three_ds=result).json()
            assert second["decision"] == SECOND[card.status], (card, second["reason"])
            shown = in_test.client.get(f"/v1/screenings/{first['screening_id']}", params={"explain": "true"})
            assert shown.status_code == 200
    assert in_test.screen(transaction_id="ordinary").json()["reason"]["code"] == "NO_RULE_MATCHED"
    stays = in_test.screen(transaction_id="abroad", ip_address="8.8.8.8", card={"pan": CARDS[0].visa}).json()
    assert (stays["decision"], len(stays["matches"]) > 1) == ("challenge", True)


def test_in_live_they_are_cards_like_any_other(tmp_path: Path) -> None:
    with running_service(tmp_path / "live", {"FRAUDENGINE_ENVIRONMENT": "live"}) as live:
        answer = live.screen(card={"pan": CARDS[0].visa, "country": "TN"}).json()
        assert (answer["decision"], answer["reason"]["code"]) == ("accept", "NO_RULE_MATCHED")
