"""`fraudengine verify`: a log of the real payment path comes out as answered; what was changed since is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any, Final

import pytest

from fraudengine.archive import archive_month
from fraudengine.archive_reading import archive_files, month_of
from fraudengine.audit import AuditLog
from fraudengine.binlist import COLUMNS
from fraudengine.data_build import build_bins, build_ip_country
from fraudengine.decision_log import DecisionLog
from fraudengine.verify import Cause

from .command_line import REPOSITORY, Ran, run, write_rules
from .test_data_build import ROWS_V6, V4

FIRST_RELEASE = Path(__file__).parent / "fixtures" / "state-first-release"
SHOP: Final = """\
merchant: shop
lists:
  stolen: {of: card, help: Stolen cards.}
  allowed_countries: {of: country, help: Where buyers may be.}
  dear_bins: {of: bin, help: Cards that cost too much.}
velocity:
  attempts_24h: {count: transactions, per: card, within: 24 hours}
  spent_24h: {sum: amount, per: customer, within: 24 hours, among: accepted}
  failed_24h: {count: transactions, per: customer, within: 24 hours, among: declined}
  cards_24h: {count_distinct: card, per: email, within: 24 hours}
rules:
  - {id: stolen, when: {card: {in_list: stolen}}, then: refuse, reason: STOLEN, final: true}
  - {id: abroad, when: {ip_country: {not_in_list: allowed_countries}}, then: challenge, reason: ABROAD}
  - {id: foreign-card, when: {card_country: {not: TN}}, then: challenge, reason: FOREIGN_CARD}
  - {id: often, when: {attempts_24h: {at_least: 3}}, then: challenge, reason: OFTEN}
  - {id: much, when: {spent_24h: {over: 400 TND}}, then: challenge, reason: MUCH}
  - {id: declined, when: {failed_24h: {at_least: 1}}, then: refuse, reason: DECLINED}
  - {id: many-cards, when: {cards_24h: {at_least: 2}}, then: challenge, reason: MANY_CARDS}
  - {id: large, when: {amount: {over: 500 TND}}, then: challenge, reason: LARGE}
  - {id: dear, when: {card_bin: {in_list: dear_bins}}, then: refuse, reason: DEAR, mode: shadow}
"""
DEAR: Final = "dear_bins: {of: bin, help: Cards that cost too much.}"


def card(letter: str, digits: str = "40702411") -> dict[str, str]:
    return {"fingerprint": f"fp_00beef_{letter * 32}", "bin": digits, "last4": "1111"}


def payment(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "merchant": "shop",
        "transaction_id": f"T-{number}",
        "amount": "50.000",
        "currency": "TND",
        "card": card("abcdefgh"[number % 8]),
        "ip_address": "41.226.11.9",
        **fields,
    }


def screen(directory: Path, *payments: dict[str, Any]) -> None:
    file = directory / "payments.jsonl"
    file.write_text("\n".join(map(json.dumps, payments)), encoding="utf-8")
    ran = run("screen", file, "--rules", directory / "rules", "--state", directory / "var")
    assert ran.code == 0, ran.err


def change_lists(directory: Path, *arguments: str) -> None:
    ran = run("lists", *arguments, "--rules", directory / "rules", "--state", directory / "var")
    assert ran.code == 0, ran.err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with everything that a decision may depend on: counters, steps, lists changed on the way, reports."""
    directory = tmp_path_factory.mktemp("verify")
    write_rules(directory / "rules", merchants__shop=SHOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUDENGINE_DEVELOPMENT", "1")
        patch.chdir(directory)
        again = {"card": card("p"), "customer_id": "c-1", "email": "a@b.tn"}
        screen(directory, *(payment(n, at=f"2026-11-01T10:0{n}:00Z", **again) for n in range(8)))
        screen(directory, payment(8, at="2026-11-01T10:09:00Z", **again | {"card": card("o")}))
        screen(directory, payment(20, customer_id="c-2"))
        (directory / "outcomes.csv").write_text("merchant,transaction_id,outcome,code\nshop,T-20,declined,51\n")
        ran = run("outcomes", "import", directory / "outcomes.csv", "--state", directory / "var")
        assert ran.code == 0, ran.err
        screen(directory, payment(21, customer_id="c-2"))
        screen(directory, payment(30, amount="900.000"), payment(31, amount="900.000"))
        three_ds = {"status": "Y", "eci": "05", "version": "2.2.0"}
        screen(directory, payment(30, amount="900.000", three_ds=three_ds))
        change_lists(directory, "add", "shop", "allowed_countries", "FR", "--reason", "opening")
        screen(directory, payment(40))
        change_lists(directory, "remove", "shop", "allowed_countries", "FR", "--reason", "closing")
        screen(directory, payment(41))
        stolen = directory / "stolen.txt"
        stolen.write_text(card("m")["fingerprint"] + "\n")
        screen(directory, payment(50, card=card("m")))
        change_lists(directory, "add", "shop", "stolen", "--file", str(stolen), "--reason", "stolen")
        screen(directory, payment(51, card=card("m")))
        change_lists(directory, "remove", "shop", "stolen", card("m")["fingerprint"], "--reason", "found")
        screen(directory, payment(52, card=card("m")))
        write_rules(directory / "rules", merchants__shop=SHOP.replace("over: 500 TND", "over: 40 TND"))
        screen(directory, payment(60))
        screen(directory, payment(61, card={"pan": "4000000000002503"}))  # a published test card
    return directory


@pytest.fixture
def state(made: Path, tmp_path: Path) -> Path:
    """A copy of the state, to be tampered with."""
    return Path(shutil.copytree(made / "var", tmp_path / "var"))


def verify(state: Path, *options: object) -> Ran:
    return run("verify", "--state", state, *options, "--format", "json")


def execute(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def edit(state: Path, transaction: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the document of the last screening of a transaction, and nothing else."""
    with closing(sqlite3.connect(state / "decisions.db")) as log, log:
        where = "WHERE transaction_id = ? ORDER BY id DESC LIMIT 1"
        found, document = log.execute(f"SELECT id, document FROM screenings {where}", (transaction,)).fetchone()
        read = json.loads(document)
        change(read)
        log.execute("UPDATE screenings SET document = ? WHERE id = ?", (json.dumps(read).encode(), found))


def causes(ran: Ran) -> dict[str, int]:
    assert ran.code == (1 if ran.json["drifted"] else 0), ran.err
    found = ran.json["causes"]
    assert isinstance(found, dict)
    return found


# ---- as it was answered ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--recompute",)], ids=["recorded facts", "recomputed"])
def test_every_decision_comes_out_as_answered(made: Path, options: tuple[str, ...]) -> None:
    ran = verify(made / "var", *options)
    assert ran.json["drifts"] == []
    assert ran.code == 0
    assert ran.json["apart"] == {"TEST_CARD": 1}
    assert ran.json["verified"] == ran.json["screenings"] - 1 == 20
    assert "20 come out as answered, 0 drift" in run("verify", "--state", made / "var").out


@pytest.mark.parametrize("options", [(), ("--recompute",)], ids=["recorded facts", "recomputed"])
def test_archived_decisions_come_out_as_the_same_in_the_log(state: Path, options: tuple[str, ...]) -> None:
    """One half of the screenings in two files of the archive, then all; and a drift in the archive is found."""
    execute(state / "decisions.db", "UPDATE screenings SET code = 'ALTERED' WHERE transaction_id = 'T-20'")
    expected = verify(state, *options)
    assert (expected.code, causes(expected)) == (1, {"record altered": 1})
    with closing(sqlite3.connect(state / "decisions.db")) as log:
        ids = [row[0] for row in log.execute("SELECT id FROM screenings ORDER BY id")]
    month = month_of(ids[0])
    kept: list[int] = []

    def step(name: str) -> None:  # a report that comes when the file is made keeps its screening in the log
        if name == "named" and not kept:
            kept.extend(ids[1::2])
            with DecisionLog.open(state / "decisions.db") as log:
                for screening_id in kept:
                    log.record_outcome(screening_id, "legitimate", "", 1)

    with AuditLog(state) as audit:
        archive_month(state, month, audit, step)
        assert verify(state, *options) == expected
        archive_month(state, month, audit)
    assert len(archive_files(state)) == 2
    assert verify(state, *options) == expected
    moved = state.parent / "elsewhere"
    (state / "archive").rename(moved)
    assert verify(state, *options).json["screenings"] == 0
    assert verify(state, *options, "--archive", moved) == expected
    assert verify(state, "--archive", state).code == 2


def test_the_log_holds_what_this_is_about(made: Path) -> None:
    """Every rule decided once at least, so that none of the above is vacuous."""
    with closing(sqlite3.connect(made / "var" / "decisions.db")) as log:
        codes = {code for (code,) in log.execute("SELECT DISTINCT code FROM screenings")}
    expected = {"STOLEN", "ABROAD", "OFTEN", "DECLINED", "LARGE", "THREE_DS_AUTHENTICATED", "NO_RULE_MATCHED"}
    assert codes >= expected


def test_log_of_the_first_release() -> None:
    assert causes(verify(FIRST_RELEASE)) == {}
    assert causes(verify(FIRST_RELEASE, "--recompute")) == {}


def test_period_and_merchant(made: Path) -> None:
    assert verify(made / "var", "--since", "2100-01-01").json["screenings"] == 0
    assert verify(made / "var", "--until", "2020-01-01").json["screenings"] == 0
    assert verify(made / "var", "--merchant", "nobody", "--recompute").json["screenings"] == 0
    assert verify(made / "var", "--merchant", "shop", "--since", "2020-01-01").json["screenings"] == 21


def test_mistakes(tmp_path: Path) -> None:
    ran = run("verify", "--state", tmp_path)
    assert (ran.code, "there is no decision log" in ran.err) == (3, True)
    ran = run("verify", "--state", tmp_path, "--since", "2026-02-01", "--until", "2026-01-01")
    assert (ran.code, "--until is not after --since" in ran.err) == (2, True)


# ---- what is found --------------------------------------------------------------------------------


def test_row_that_was_changed(state: Path) -> None:
    execute(state / "decisions.db", "UPDATE screenings SET outcome = 'accept' WHERE transaction_id = 'T-31'")
    ran = verify(state)
    assert causes(ran) == {Cause.ALTERED: 1}
    [drift] = ran.json["drifts"]
    assert drift["detail"] == "outcome is accept in the row and challenge in the document"


def test_answer_that_was_changed_everywhere(state: Path) -> None:
    def accept(read: dict[str, Any]) -> None:
        read["answer"] |= {"decision": "accept", "reason": {"code": "NO_RULE_MATCHED", "rule": None}, "matches": []}

    edit(state, "T-31", accept)
    execute(
        state / "decisions.db",
        "UPDATE screenings SET outcome = 'accept', code = 'NO_RULE_MATCHED' WHERE transaction_id = 'T-31'",
    )
    ran = verify(state)
    assert causes(ran) == {Cause.ENGINE: 1}
    [drift] = ran.json["drifts"]
    assert drift["detail"] == "outcome comes out as challenge, and was accept"
    assert drift["now"] == "challenge (LARGE)"
    told = run("verify", "--state", state)
    assert told.code == 1
    assert "decision differs from same facts: 1" in told.out


def test_match_that_was_taken_away(state: Path) -> None:
    edit(state, "T-51", lambda read: read["answer"].update(matches=[]))
    assert causes(verify(state)) == {Cause.ENGINE: 1}


def test_record_that_cannot_be_read(state: Path) -> None:
    execute(state / "decisions.db", "UPDATE screenings SET document = x'7b' WHERE transaction_id = 'T-31'")
    assert causes(verify(state)) == {Cause.UNREADABLE: 1}
    edit(state, "T-40", lambda read: read["facts"].pop("three_ds"))
    assert causes(verify(state)) == {Cause.UNREADABLE: 2}


def test_rules_that_are_gone_or_cannot_be_read(state: Path) -> None:
    execute(
        state / "decisions.db",
        "DELETE FROM revision_files WHERE revision_id = (SELECT max(revision_id) FROM screenings)",
    )
    assert causes(verify(state)) == {Cause.RULES_MISSING: 1}
    execute(state / "decisions.db", "UPDATE rule_texts SET text = 'merchant: [' WHERE id = 1")
    assert causes(verify(state)).keys() == {Cause.RULES_MISSING, Cause.RULES_UNREADABLE}


def test_test_card_in_a_live_log_is_drift(state: Path) -> None:
    (state / "environment").write_text("live\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUDENGINE_ENVIRONMENT", "live")
        ran = verify(state)
    assert causes(ran) == {Cause.ENGINE: 1}
    assert ran.json["apart"] == {}


def test_engine_failure_is_counted_apart(state: Path) -> None:
    edit(state, "T-31", lambda read: read["answer"]["reason"].update(code="ENGINE_FAILURE", rule=None))
    execute(state / "decisions.db", "UPDATE screenings SET code = 'ENGINE_FAILURE' WHERE transaction_id = 'T-31'")
    ran = verify(state)
    assert (causes(ran), ran.json["apart"]) == ({}, {"ENGINE_FAILURE": 1, "TEST_CARD": 1})


# ---- facts made again -----------------------------------------------------------------------------


def test_counter_that_was_wrong(state: Path) -> None:
    edit(state, "T-5", lambda read: read["facts"].update(attempts_24h=3))  # it was 4: the rule matches all the same
    assert causes(verify(state)) == {}
    ran = verify(state, "--recompute")
    assert causes(ran) == {Cause.COUNTER: 1}
    [drift] = ran.json["drifts"]
    assert (drift["detail"], drift["now"]) == ("attempts_24h was 3, now 4", None)


def test_counters_of_a_period_count_what_was_before_it(state: Path) -> None:
    """The screenings of the period are not those that its counters count."""
    with closing(sqlite3.connect(state / "decisions.db")) as log:
        [(at_ms,)] = log.execute("SELECT id >> 21 FROM screenings WHERE transaction_id = 'T-8'")
    since = f"{date.fromtimestamp(at_ms / 1000):%Y-%m-%d}"
    assert causes(verify(state, "--recompute", "--since", since, "--merchant", "shop")) == {}


def test_entry_taken_out_behind_the_logs_back(state: Path) -> None:
    execute(state / "lists.db", "DELETE FROM entries WHERE reason = 'stolen'")
    assert causes(verify(state)) == {}
    ran = verify(state, "--recompute")
    assert causes(ran) == {Cause.LIST: 1}
    [drift] = ran.json["drifts"]
    assert drift["detail"] == "list stolen held it then and not now (card)"
    assert drift["answered"] == "refuse (STOLEN)"
    assert drift["now"] == "accept (NO_RULE_MATCHED)"


def test_entry_put_in_behind_the_logs_back(state: Path) -> None:
    execute(state / "lists.db", "UPDATE entries SET added_us = 0 WHERE reason = 'stolen'")
    ran = verify(state, "--recompute")
    assert causes(ran) == {Cause.LIST: 1}
    assert ran.json["drifts"][0]["detail"] == "list stolen did not hold it then and does now (card)"


def test_list_that_woke_a_rule_is_gone(state: Path) -> None:
    execute(state / "lists.db", "DELETE FROM entries WHERE reason = 'opening'")
    ran = verify(state, "--recompute")
    assert causes(ran) == {Cause.LIST: 1}
    assert ran.json["drifts"][0]["detail"].startswith("rule abroad is asleep now")


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables by which Tunisian addresses are French and 407024 is a Moroccan card."""
    directory = tmp_path_factory.mktemp("data")
    v4, v6, csv = directory / "geoip", directory / "geoip6", directory / "bins.csv"
    v4.write_text(V4.format(rows="702545920,703594495,FR"))
    v6.write_text(ROWS_V6)
    build_ip_country(v4, v6, directory / "ip-country.mmdb", date(2027, 1, 2))
    row = {"iin_start": "407024", "scheme": "visa", "country": "MA", "type": "debit"}
    csv.write_text(f"{','.join(COLUMNS)}\n{','.join(row.get(name, '') for name in COLUMNS)}\n")
    build_bins(directory / "bins.dat", [csv], smartbindb=False, source_date=date(2027, 1, 3))
    return directory


def test_tables_that_were_replaced(state: Path, other_data: Path) -> None:
    ran = verify(state, "--recompute", "--data", other_data)
    found = causes(ran)
    assert found.keys() == {Cause.IP_DATA, Cause.BIN_DATA}
    assert (ran.json["drifted"], ran.json["verified"]) == (20, 0)
    plain = next(drift for drift in ran.json["drifts"] if drift["cause"] == Cause.BIN_DATA)
    assert plain["detail"].startswith("card_country was TN, now MA (table of ")
    assert plain["detail"].endswith("now 2027-01-03)")
    assert plain["now"] == "challenge (FOREIGN_CARD)"


def test_bins_longer_than_a_record_holds(tmp_path: Path) -> None:
    """A list of the rule files tells by eleven digits; the record holds eight, and the match says that it held."""
    text = SHOP.replace(DEAR, f"{DEAR[:-1]}, entries: [41111111111]}}").replace(", mode: shadow", "")
    write_rules(tmp_path / "rules", merchants__shop=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUDENGINE_DEVELOPMENT", "1")
        screen(tmp_path, payment(1, card={"pan": "4111111111111111", "country": "TN"}))
    ran = verify(tmp_path / "var")
    assert (causes(ran), ran.json["verified"]) == ({}, 1)


def test_documented() -> None:
    text = (REPOSITORY / "data" / "ops" / "OPERATIONS.md").read_text(encoding="utf-8")
    assert "fraudengine verify" in text
    assert not [cause for cause in Cause if f"`{cause}`" not in text]
