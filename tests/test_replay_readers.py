"""Inputs become histories: every format, the shipped mappings, rejects with line and reason, and no card number."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fraudengine.cards import find_pans
from fraudengine.replay.guess import guess_mapping
from fraudengine.replay.mapping import TARGETS, MappingRefused, load_mapping, make_mapping
from fraudengine.replay.readers import History, open_history
from fraudengine.replay.row_sources import InputUnreadable
from tests.replaying import configuration

PAN = "4111111111111111"
SIMPLE = """\
mapping: simple
format: csv
columns:
  merchant: shop
  transaction_id: id
  at: {from: at, as: time}
  amount: {from: amount, as: major-units}
  currency: {from: currency, as: currency}
  card: {from: card, as: card-number}
  ip_address: ip
  email: {from: email, if_wrong: unknown}
  metadata.items: items
  label: {from: status, as: words, words: {paid: authorised, failed: declined, "*": unknown}}
"""
HEADER = ("shop", "id", "at", "amount", "currency", "card", "ip", "email", "items", "status")


def row(number: int, **changed: object) -> dict[str, object]:
    held: dict[str, object] = {
        "shop": "carthage-market",
        "id": f"T-{number}",
        "at": f"2026-10-01T10:{number:02d}:00+00:00",
        "amount": "12.500",
        "currency": "TND",
        "card": "544714XXXXXX5619",
        "ip": "41.226.11.9",
        "email": "a@b.tn",
        "items": "3",
        "status": "paid",
    }
    return held | changed


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(tmp_path: Path, path: Path, mapping: Path | str | None = None, **given: Any) -> History:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    config = configuration(tmp_path / "state")
    return open_history(path, work, config, mapping=mapping, rejects=tmp_path / "rejects.csv", **given)


def rows_of(history: History) -> list[dict[str, Any]]:
    return [found for file in history.files for found in pq.read_table(file).to_pylist()]


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    path = tmp_path / "simple.yaml"
    path.write_text(SIMPLE)
    return path


def test_csv(tmp_path: Path, simple: Path) -> None:
    found = read(
        tmp_path, write_csv(tmp_path / "h.csv", [row(1), row(2, status="failed", email="nonsense")]), simple
    )
    first, second = rows_of(found)
    assert (first["seq"], first["minor"], first["currency"], first["label"]) == (0, 12_500, "TND", "authorised")
    assert (first["card_bin"], first["card_last4"], first.get("card")) == (
        "544714",
        "5619",
        None,
    )
    assert first["ip_key"] == "429e20b09"
    assert first["metadata.items:text"] == "3"
    assert (second["email"], second["label"], second["labelled_seq"]) == (None, "declined", 1)
    assert found.rejected == 0
    assert found.rejects_file is None


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "xlsx"])
def test_other_formats_read_as_csv_does(tmp_path: Path, simple: Path, kind: str) -> None:
    rows = [row(1), row(2, status="failed"), row(3, email="")]
    path = tmp_path / f"h.{kind}"
    match kind:
        case "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)) + "\n")
        case "json":
            path.write_text(json.dumps(rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case _:
            from openpyxl import Workbook

            book = Workbook()
            sheet = book.worksheets[0]
            sheet.append(HEADER)
            for one in rows:
                sheet.append([one[name] for name in HEADER])
            book.save(path)
    expected = rows_of(read(tmp_path, write_csv(tmp_path / "h.csv", rows), simple))
    assert rows_of(read(tmp_path, path, simple)) == expected


def test_rows_that_are_no_transactions_are_listed_with_line_and_reason(tmp_path: Path, simple: Path) -> None:
    rows = [
        row(1),
        row(2, amount="12.5001"),
        row(3, currency="XXX"),
        row(4, ip="999.1.1.1"),
        row(5, at="yesterday"),
    ]
    path = write_csv(tmp_path / "h.csv", [*rows, row(6, status="odd"), row(1)])
    path.write_text(path.read_text() + "too,few\n")
    found = read(tmp_path, path, simple)
    listed = {entry["line"]: str(entry["reason"]) for entry in found.rejects}
    assert found.transactions == 2
    assert found.rejected == 6
    assert listed.keys() == {3, 4, 5, 6, 8, 9}
    assert "TND has 3 decimals" in listed[3]
    assert listed[4].startswith("currency")
    assert listed[8].startswith("repeats an earlier row")
    assert found.rejects_file is not None
    assert len(found.rejects_file.read_text().splitlines()) == 7


def test_a_whole_card_number_becomes_a_fingerprint_or_is_refused(
    tmp_path: Path, simple: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_csv(tmp_path / "h.csv", [row(1, card=PAN), row(2, card="4111 1111 1111 1112"), row(3, items=PAN)])
    refused = read(tmp_path, path, simple)
    assert [entry["line"] for entry in refused.rejects] == [2, 3]
    assert "no card key" in str(refused.rejects[0]["reason"])
    monkeypatch.setenv("FRAUDENGINE_CARD_KEY", "ab" * 32)
    found = read(tmp_path, path, simple)
    first, third = rows_of(found)
    assert first["card"].startswith("fp_")
    assert (first["card_bin"], first["card_last4"]) == ("41111111", "1111")
    assert third["metadata.items:text"] != PAN
    for file in tmp_path.rglob("*"):
        if file.is_file() and file != path:
            assert PAN.encode() not in file.read_bytes(), file
            assert b"411111111111111" not in file.read_bytes(), file
    assert PAN not in json.dumps(rows_of(found), default=str)


def test_no_text_column_keeps_a_card_number(tmp_path: Path) -> None:
    """One row for each column that holds text, with a card number in it: masked, or the row is refused."""
    columns = [*(name for name in TARGETS if name not in ("at", "amount", "metadata")), "metadata.note"]
    mapping = tmp_path / "all.yaml"
    mapping.write_text(
        "mapping: all\nformat: csv\ncolumns:\n  at: {from: at, as: time}\n"
        "  amount: {from: amount, as: major-units}\n" + "".join(f"  {name}: {name}\n" for name in columns)
    )
    clean = {
        "merchant": "carthage-market",
        "currency": "TND",
        "amount": "12.500",
        "at": "2026-10-01T10:00:00+00:00",
    }
    path = tmp_path / "h.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["at", "amount", *columns])
        writer.writeheader()
        for number, name in enumerate(columns):
            for place, pan in enumerate((PAN, "4111 1111-1111 1111", f"{PAN}@b.tn", f"order {PAN}, paid")):
                writer.writerow({**clean, "transaction_id": f"T-{number}-{place}", name: pan})
    kept = tmp_path / "kept.parquet"
    found = read(tmp_path, path, mapping, keep=kept)
    rows = rows_of(found)
    assert kept in found.files
    masked = {
        name.partition(":")[0] for row in rows for name, value in row.items() if "411111******1111" in str(value)
    }
    assert masked >= {"transaction_id", "order_ref", "customer", "device", "metadata.note"}
    for row in [*rows, *found.rejects]:
        assert [name for name, value in row.items() if isinstance(value, str) and find_pans(value)] == []
    assert found.rejects_file is not None
    assert find_pans(found.rejects_file.read_text()) == []


def test_second_steps_and_late_rows_are_found(tmp_path: Path, simple: Path) -> None:
    again = row(9, id="T-1", at="2026-10-01T10:05:00+00:00", amount="20.000")
    found = rows_of(read(tmp_path, write_csv(tmp_path / "h.csv", [row(1), again, row(2)]), simple))
    assert [(one["transaction_id"], one["step"], one["late"]) for one in found] == [
        ("T-1", 0, False),
        ("T-2", 0, False),
        ("T-1", 1, False),
    ]
    assert (found[2]["first_minor"], found[2]["first_card_identity"]) == (12_500, "544714/5619/")
    assert found[1]["first_minor"] is None


def test_the_gateways_order_statuses(tmp_path: Path) -> None:
    orders = [
        {
            "merchantLogin": "medina-topup",
            "orderNumber": "A1",
            "orderStatus": 2,
            "actionCode": 0,
            "amount": 15_000,
            "currency": "788",
            "date": 1_795_000_000_123,
            "ip": "41.226.11.9",
            "paymentWay": "CARD",
            "cardAuthInfo": {"maskedPan": "411111**1111", "expiration": "202712", "paymentSystem": "VISA"},
            "secureAuthInfo": {"eci": 5, "aresTransStatus": "Y", "threeDSProtocolVersion": "2.2.0"},
            "bankInfo": {"bankCountryCode": "UNKNOWN", "bankName": "UNKNOWN"},
            "payerData": {"email": "A@B.tn"},
        },
        {
            "merchantLogin": "medina-topup",
            "orderNumber": "A2",
            "orderStatus": 6,
            "actionCode": -2000,
            "amount": 1_000,
            "currency": 788,
            "date": 1_795_000_001_000,
            "paymentWay": "CARD_MOTO",
            "cardAuthInfo": {"pan": "544714XXXXXX5619"},
        },
        {
            "merchantLogin": "medina-topup",
            "orderNumber": "A3",
            "amount": 1,
            "currency": "788",
            "date": 1_795_000_002_000,
        },
        {"orderNumber": "A4"},
    ]
    path = tmp_path / "orders.json"
    path.write_text(json.dumps(orders))
    found = read(tmp_path, path, "bpc-order-status")
    first, second, third = rows_of(found)
    assert (first["at_us"], first["minor"], first["channel"]) == (1_795_000_000_123_000, 15_000, "ecommerce")
    assert (first["card_bin"], first["card_last4"], first["card_expiry"]) == ("411111", "1111", "2027-12")
    assert (first["three_ds_status"], first["eci"], first["card_brand"]) == ("Y", "05", "visa")
    assert (first["label"], first["recorded_outcome"], first["email"]) == ("authorised", "accept", "a@b.tn")
    assert (second["channel"], second["recorded_outcome"], second["label"]) == ("moto", "refuse", None)
    assert (third["ip_key"], third["label"]) == (None, None)
    assert [entry["reason"] for entry in found.rejects] == ["merchant: is missing"]
    assert "card" not in found.columns


def test_merchant_of_rows_that_name_none(tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    path.write_text(json.dumps([{"orderNumber": "A", "amount": 1, "currency": "788", "date": 1_795_000_002_000}]))
    found = read(tmp_path, path, "bpc-order-status", merchant="medina-topup")
    assert rows_of(found)[0]["merchant"] == "medina-topup"


def test_a_kept_history_is_read_where_it_lies(tmp_path: Path, simple: Path) -> None:
    kept = tmp_path / "kept.parquet"
    read(tmp_path, write_csv(tmp_path / "h.csv", [row(1), row(2)]), simple, keep=kept)
    again = read(tmp_path, kept)
    assert again.files == (kept,)
    assert again.transactions == 2


@pytest.mark.parametrize("name", ["bpc-order-status", "fraudengine-log", "example-csv"])
def test_shipped_mappings_are_good(name: str) -> None:
    path = Path(__file__).parent.parent / "data" / "mappings" / f"{name}.yaml"
    assert load_mapping(path).name == name


def test_the_example_reads_its_own_line(tmp_path: Path) -> None:
    mapping = Path(__file__).parent.parent / "data" / "mappings" / "example-csv.yaml"
    lines = [line.removeprefix("#   ") for line in mapping.read_text().splitlines() if line.startswith("#   ")]
    path = tmp_path / "shop.csv"
    path.write_text("\n".join(lines) + "\n")
    (found,) = rows_of(read(tmp_path, path, mapping))
    assert (found["minor"], found["card_expiry"], found["label"]) == (1_450_500, "2027-12", "authorised")
    assert found["at_us"] == 1_795_425_300_000_000  # 10:15 in Tunis is 09:15 UTC
    assert found["metadata.campaign:text"] == "winter"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": {"amont": "x"}}, "did you mean `amount`"),
        ({"columns": {"amount": {"from": "x", "as": "minor-unit"}}}, "did you mean `minor-units`"),
        ({"columns": {"at": {"from": "x", "timezone": "Africa/Carthage"}}}, "there is no timezone"),
        ({"columns": {"label": {"as": "cases", "cases": [{"then": "x"}]}}}, "a case is"),
        ({"columns": {}, "format": "xml"}, "`format` is one of"),
        ({"colums": {}}, "has a `columns:` block"),
        ({"columns": {}, "colour": 1}, "unknown key `colour`"),
    ],
)
def test_mistakes_in_mappings_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(MappingRefused, match=said):
        make_mapping(change, "m.yaml")


def test_input_without_a_mapping_says_what_to_do(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "h.csv", [row(1)])
    with pytest.raises(InputUnreadable, match="--guess-mapping"):
        read(tmp_path, path)
    with pytest.raises(InputUnreadable, match="no known kind"):
        read(tmp_path, write_csv(tmp_path / "h.doc", [row(1)]), "example-csv")
    with pytest.raises(InputUnreadable, match="there is no file"):
        read(tmp_path, tmp_path / "none.csv", "example-csv")


def test_a_mapping_is_guessed_and_works(tmp_path: Path) -> None:
    rows = [
        {
            "Order Number": f"A-{n}",
            "Merchant": "medina-topup",
            "Date": 1_795_000_000_000 + n,
            "Amount": 15_000,
            "Currency": "788",
            "Client IP": "41.226.11.9",
            "Masked PAN": "411111**1111",
            "colour": "red",
        }
        for n in range(5)
    ]
    path = tmp_path / "export.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    text = guess_mapping(path)
    columns = yaml.safe_load(text)["columns"]
    assert columns["transaction_id"] == {"from": "Order Number"}
    assert columns["at"] == {"from": "Date", "as": "epoch-milliseconds"}
    assert columns["amount"]["as"] == "minor-units"
    assert columns["card"]["as"] == "card-number"
    assert "# sure" in text
    assert "colour" in text
    assert "411111" not in text
    mapping = tmp_path / "guessed.yaml"
    mapping.write_text(text)
    assert read(tmp_path, path, mapping).transactions == 5


@pytest.mark.parametrize(
    ("times", "amounts", "at", "amount", "sure"),
    [
        (
            ["23/11/2026 10:15:00", "01/10/2026 08:00:59"],
            ["1.450,500", "12,250"],
            {"as": "time", "pattern": "%d/%m/%Y %H:%M:%S", "timezone": "Africa/Tunis"},
            {"as": "major-units", "decimal": ",", "thousands": "."},
            True,
        ),
        (
            ["2026-11-23 10:15", "2026-11-24 10:15"],
            ["1 450,5", "12,25"],
            {"as": "time"},
            {"as": "major-units", "decimal": ",", "thousands": " "},
            True,
        ),
        (
            ["11/23/2026 10:15", "01/12/2026 08:00"],
            ["1450.500", "12.250"],
            {"as": "time", "pattern": "%m/%d/%Y %H:%M", "timezone": "Africa/Tunis"},
            {"as": "major-units"},
            True,
        ),
        (
            ["23.11.2026", "24.11.2026"],
            ["1,450", "12,250"],  # thousands or decimals: whoever reads the mapping has to say
            {"as": "time", "pattern": "%d.%m.%Y", "timezone": "Africa/Tunis"},
            {"as": "major-units", "decimal": ","},
            False,
        ),
    ],
)
def test_times_and_amounts_are_guessed_as_people_here_write_them(
    tmp_path: Path, times: list[str], amounts: list[str], at: dict[str, str], amount: dict[str, str], sure: bool
) -> None:
    path = tmp_path / "orders.csv"
    lines = [f"C-{n};medina-topup;{times[n]};{amounts[n]};TND;411111XXXXXX1111" for n in range(2)]
    path.write_text("\n".join(["order;shop;when;amount;cur;card", *lines]))
    text = guess_mapping(path)
    columns = yaml.safe_load(text)["columns"]
    assert columns["at"] == {"from": "when"} | at
    assert columns["amount"] == {"from": "amount"} | amount
    (line,) = [line for line in text.splitlines() if line.lstrip().startswith("amount:")]
    assert line.endswith("# sure") == sure
    mapping = tmp_path / "guessed.yaml"
    mapping.write_text(text)
    assert read(tmp_path, path, mapping).transactions == 2


def test_a_csv_in_another_encoding_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_bytes("order;shop;when;amount;cur\nC-1;café;23/11/2026;12,5;TND\n".encode("cp1252"))
    with pytest.raises(InputUnreadable, match=r"is no utf-8 text: save it as UTF-8, or write its encoding"):
        guess_mapping(path)
