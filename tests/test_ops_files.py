"""The operations page says what is true: settings, published cards, commands, problems; and those cards do so."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fraudengine.api.problems import KINDS
from fraudengine.cards import luhn_ok
from fraudengine.cli import program
from fraudengine.config import Config, render_settings
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


# ---- systemd and container --------------------------------------------------------------------------

UNIT = PAGE.with_name("fraudengine.service")
CONTAINERFILE = PAGE.with_name("Containerfile")


@pytest.mark.parametrize("path", [UNIT, CONTAINERFILE], ids=lambda path: path.name)
def test_settings_of_unit_and_container_exist(path: Path) -> None:
    named = set(re.findall(r"FRAUDENGINE_([A-Z_]+)=", path.read_text()))
    assert len(named) >= 4
    assert {name.lower() for name in named} <= set(Config.model_fields)


@pytest.mark.parametrize("path", [UNIT, CONTAINERFILE], ids=lambda path: path.name)
def test_unit_and_container_start_the_program_as_it_is(path: Path) -> None:
    command = program.get_command(click.Context(program), "serve")
    assert command is not None
    assert "--workers" in {option for parameter in command.params for option in parameter.opts}
    assert re.search(r'serve"?,? "?--workers"?,? "?2', path.read_text())
    assert "card.key" in path.read_text(), "the key is handed over as a file"
    assert "CARD_KEY=" not in path.read_text(), "and never in the environment"


def test_the_container_runs_as_nobody_of_importance_from_files_that_exist() -> None:
    lines = CONTAINERFILE.read_text().splitlines()
    (user,) = (line.split()[1] for line in lines if line.startswith("USER "))
    assert int(user) >= 1000
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copied
    assert all((REPOSITORY / name).exists() for names in copied for name in names)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """The program's path is that of an installation, so a copy of the unit names something that is here."""
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    ran = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in ran.stderr.splitlines() if UNIT.name in line]
    assert (ran.returncode, complaints) == (0, [])
