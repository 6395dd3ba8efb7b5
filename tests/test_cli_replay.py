"""`fraudengine replay` and `generate` from the command line: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow as pa
import pytest

from fraudengine.cards import find_pans
from fraudengine.cli.replay_words import rule_lines
from fraudengine.cli.replaying import as_json
from fraudengine.replay.flips import SCHEMA
from fraudengine.replay.result import ReplayTable
from tests.command_line import fraudengine_here
from tests.replay_results import flip, make_result, table
from tests.replaying import ROOT, RULES, configuration
from tests.running import fraudengine


def run(
    directory: Path, *arguments: str, by: Callable[..., CompletedProcess[str]] = fraudengine_here
) -> CompletedProcess[str]:
    """A command in that directory; `by=fraudengine` in a process of its own."""
    configuration(directory / "var")
    return by(
        *arguments,
        directory=directory,
        FRAUDENGINE_RULES=str(RULES),
        FRAUDENGINE_DATA=str(ROOT / "data"),
        FRAUDENGINE_CARD_KEY="ab" * 32,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli")
    done = run(directory, "generate", "--transactions", "2000", "--out", "h.parquet", "--days", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("h.parquet: 2,000 screenings")
    return directory


@pytest.mark.parametrize(
    ("rows", "mapping", "said"),
    [
        (
            "A-1;carthage-market;20/11/2026 10:00:00;abc;TND;411111XXXXXX1111",
            "example-csv",
            "h.csv:2: amount: write",
        ),
        (
            "A-1;carthage-market;20/11/2026 10:00:00;1,000;TND;411111XXXXXX1111",
            "bpc-order-status",
            "--guess-mapping",
        ),
        ("", "example-csv", "the history has no rows"),
    ],
)
def test_a_history_without_a_row_that_can_be_read_says_why(
    tmp_path: Path, rows: str, mapping: str, said: str
) -> None:
    (tmp_path / "h.csv").write_text(f"order;shop;when;amount;cur;card\n{rows}\n")
    done = run(tmp_path, "replay", "h.csv", "--mapping", str(ROOT / "data" / "mappings" / f"{mapping}.yaml"))
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "h.rejects.csv").exists() == bool(rows)


def test_equal_seeds_give_equal_files(made: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        assert (
            run(made, "generate", "--transactions", "500", "--seed", "7", "--out", name, by=fraudengine).returncode
            == 0
        )
    assert (made / "a.parquet").read_bytes() == (made / "b.parquet").read_bytes()


def test_summary(made: Path) -> None:
    done = run(
        made, "replay", "h.parquet", "--flips", "5", "--report", "out.html", "--export", "tables", by=fraudengine
    )
    said = "fraudengine: the report is in out.html\nfraudengine: 11 tables are in tables\n"
    assert (done.returncode, done.stderr) == (0, said)
    assert (made / "tables" / "flips.csv").is_file()
    refused = run(made, "replay", "h.parquet", "--export", "tables")
    assert (refused.returncode, "exists already" in refused.stderr) == (2, True)
    by_merchant = done.stdout.partition("\nmerchant ")[2].splitlines()
    assert len(by_merchant) > 4
    assert max(map(len, by_merchant[:5])) <= 80
    assert (made / "out.html").read_text().startswith("<!DOCTYPE html>")
    assert done.stdout.startswith("2,000 transactions of 4 merchants")
    assert "champion \\ candidate" in done.stdout
    assert "card-country-not-allowed" in done.stdout


def test_json(made: Path) -> None:
    done = run(
        made,
        "replay",
        "h.parquet",
        "--against",
        str(RULES),
        "--format",
        "json",
        "--merchant",
        "medina-topup",
        "--ablation",
    )
    found = json.loads(done.stdout)
    assert found["summary"]["merchants"] == 1
    assert found["summary"]["flips"] == 0
    assert found["flips"] == []
    assert {"prepaid-card", "challenge-above"} <= {row["rule"] for row in found["ablation_rules"]}
    assert found["ablation_rules"][0]["needed"] > 0


def test_no_card_number_is_printed() -> None:
    pan = "4111111111111111"
    rows = [flip(1, transaction_id=f"order {pan}", new=[f"r: email {pan}@b.tn, is x"])]
    flips = ReplayTable("flips", pa.Table.from_pylist(rows, schema=SCHEMA))
    rejects = table("rejects", [{"file": f"{pan}.csv", "line": 4, "reason": "no amount"}])
    said = as_json(make_result(flips=flips, rejects=rejects))
    assert find_pans(said) == []
    assert json.loads(said)["flips"][0]["transaction_id"] == "order 411111******1111"
    assert json.loads(said)["rules"][0]["minor_by_currency"] == [["TND", 12_500]]


def test_rules_fit_a_terminal() -> None:
    row = make_result().rules.rows()[0]
    amounts = [(code, 9_999_999_999_999) for code in ("EUR", "GBP", "TND", "USD")]
    rows = [
        {
            **row,
            "rule": "a-rule-" * 9 + "end",
            "mode": "shadow",
            "matches": 123_456_789,
            "minor_by_currency": amounts,
        },
        {**row, "side": "champion", "matches": 7, "recall": 0.5},
    ]
    schema = make_result().rules.arrow.schema
    schema = schema.set(schema.get_field_index("recall"), pa.field("recall", pa.float64()))
    lines = rule_lines(make_result(rules=table("rules", rows, schema)))
    assert max(map(len, lines)) <= 80
    assert "9,999,999,999.999 TND" in "\n".join(lines)
    assert lines[-3:] == [
        "rule of the champion                       matches       alone precision  recall",
        "challenge-above                                  7           1      0.0%   50.0%",
        "    2026-11-20 to 2026-11-20; 12.500 TND",
    ]
    assert rule_lines(make_result(rules=table("rules", [], schema))) == ["no rule matched"]


def test_guessed_mapping_and_rejects(made: Path) -> None:
    (made / "orders.csv").write_text(
        "order;merchant;date;amount;currency;ip\n"
        "A1;medina-topup;2026-11-01T10:00:00;12.500;TND;41.226.11.9\n"
        "A2;medina-topup;2026-11-01T10:00:01;12.5000;TND;41.226.11.9\n"
    )
    guessed = run(made, "replay", "--guess-mapping", "orders.csv")
    assert guessed.returncode == 0
    assert "# sure" in guessed.stdout
    (made / "orders.yaml").write_text(guessed.stdout)
    done = run(made, "replay", "orders.csv", "--mapping", "orders.yaml")
    assert done.returncode == 0, done.stderr
    assert "1 transactions of 1 merchants" in done.stdout
    assert "1 rows are listed in orders.rejects.csv" in done.stderr
    assert (made / "orders.rejects.csv").read_text().splitlines()[1].startswith("orders.csv,3,")
    assert "facts that the history never gives" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["replay"], 2, "name a history"),
        (["replay", "h.parquet", "--rules", "no-such"], 2, "neither a rule directory nor a git revision"),
        (["replay", "none.csv"], 1, "there is no file none.csv"),
        (
            ["replay", "h.parquet", "--merchant", "nobody"],
            1,
            "`nobody`: no rule file has that name; there are rules",
        ),
        (
            ["replay", "h.parquet", "--merchant", "medina-topp"],
            1,
            "did you mean `medina-topup`? there are rules for ",
        ),
        (["replay", "h.parquet", "--lists", "later"], 2, "later"),
    ],
    ids=["no history", "no such rules", "no such file", "no such merchant", "merchant misspelt", "no such word"],
)
def test_mistakes(made: Path, arguments: list[str], code: int, said: str) -> None:
    done = run(made, *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_the_decision_log_is_decided_again_alike(tmp_path: Path) -> None:
    """Screened through the payment path, with counters, a second step and metadata; then replayed from the log."""
    bodies = []
    for number in range(40):
        card = {"fingerprint": f"fp_00beef_{'abcdefgh'[number % 8] * 32}", "bin": "40702411", "last4": "1111"}
        bodies.append(
            {
                "merchant": ("medina-topup", "yasmine-donations", "carthage-market", "sahara-travel")[number % 4],
                "transaction_id": f"T-{number // 8}-{number % 8}",
                "at": f"2026-11-20T{10 + number // 10}:0{number % 10}:00Z",
                "amount": str(5 * (number + 1)),
                "currency": "TND",
                "card": card,
                "ip_address": f"41.226.11.{number % 3}",
                "email": "A@b.tn",
                "metadata": {"campaign": "round-up-1", "basket": number},
            }
        )
    again = [{**body, "three_ds": {"status": "Y", "eci": "05"}} for body in bodies[:10]]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, bodies + again)) + "\n")
    done = run(tmp_path, "screen", "in.jsonl")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "replay", "var/decisions.db", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["transactions"] == 50
    assert found["flips"] == []
    assert {row["champion"] for row in found["matrix"]} >= {"accept", "refuse"}
