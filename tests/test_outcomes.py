"""What became of payments: reported over HTTP, taken in from files, and what is wrong with a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fraudengine.outcomes import (
    InvalidOutcome,
    OutcomeKind,
    Paid,
    check_lines,
    read_csv,
    read_order_statuses,
    read_report,
)

from .command_line import fraudengine_here
from .running import Service, running_service

PAN = "4111111111111111"
PAID = Paid("TND", 50_000)
NOW = 1_795_428_900_000_000  # 23 November 2026


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"outcome": "authorised"}, ""),
        ({"outcome": "declined", "code": "116"}, "116"),
        ({"outcome": "refunded"}, "full"),
        ({"outcome": "refunded", "amount": "50"}, "full"),
        ({"outcome": "refunded", "amount": "49.999"}, "part 49.999 TND"),
        ({"outcome": "refunded", "amount": "0.001", "reference": "R-2"}, "part 0.001 TND R-2"),
        ({"outcome": "chargeback", "code": "10.4", "reference": "CB-9"}, "10.4 CB-9"),
    ],
    ids=str,
)
def test_a_report(fields: dict[str, str], code: str) -> None:
    read = read_report(fields.pop("outcome"), PAID, NOW, **fields)
    assert (read.code, read.at_us) == (code, NOW)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"outcome": "declinde"}, "outcome"),
        ({"outcome": PAN}, "outcome"),
        ({"outcome": "declined", "code": f"card {PAN}"}, "code"),
        ({"outcome": "declined", "code": "x" * 65}, "code"),
        ({"outcome": "declined", "code": "a\nb"}, "code"),
        ({"outcome": "declined", "amount": "1.000"}, "amount"),
        ({"outcome": "refunded", "amount": "50.001"}, "amount"),
        ({"outcome": "refunded", "amount": "0"}, "amount"),
        ({"outcome": "refunded", "amount": "1.0001"}, "amount"),
        ({"outcome": "refunded", "reference": PAN}, "reference"),
        ({"outcome": "declined", "code": PAN[:8], "reference": PAN[8:]}, "reference"),
        ({"outcome": "fraud", "at": "yesterday"}, "at"),
        ({"outcome": "fraud", "at": "2026-11-25T10:15:01Z"}, "at"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_report(fields: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidOutcome) as caught:
        read_report(fields.pop("outcome"), PAID, NOW, **fields)
    assert caught.value.field == field
    assert PAN not in str(caught.value)


@pytest.mark.parametrize(
    ("order", "reports"),
    [
        ({"orderStatus": 2}, [("authorised", "")]),
        ({"orderStatus": 1, "actionCode": 0}, [("authorised", "")]),
        ({"orderStatus": 3}, [("cancelled", "")]),
        ({"orderStatus": 4, "amount": 50_000}, [("authorised", ""), ("refunded", "full")]),
        (
            {"orderStatus": 4, "amount": 50_000, "refunds": [{"amount": 20_000}, {"amount": 5_000}]},
            [("authorised", ""), ("refunded", "part 20.000 TND"), ("refunded", "part 5.000 TND")],
        ),
        (
            {"orderStatus": 4, "amount": 50_000, "refunds": [{"amount": 50_000}]},
            [("authorised", ""), ("refunded", "full")],
        ),
        ({"orderStatus": 6, "actionCode": 116}, [("declined", "116")]),
        ({"orderStatus": 6, "actionCode": -2001}, [("declined", "-2001")]),
        ({"orderStatus": 6, "actionCode": 907}, [("technical_failure", "907")]),
        ({"orderStatus": 6}, [("declined", "")]),
        ({"orderStatus": 2, "chargeback": True}, [("authorised", ""), ("chargeback", "")]),
        ({"orderStatus": 0}, []),
        ({"orderStatus": 5}, []),
        ({}, []),
    ],
    ids=str,
)
def test_what_the_gateways_order_status_says(order: dict[str, Any], reports: list[tuple[str, str]]) -> None:
    lines, undecided = read_order_statuses(json.dumps([{"orderNumber": "T-1", **order}]), "m-1")
    good, wrong = check_lines(lines, lambda line: (7, PAID) if line.transaction_id == "T-1" else None, NOW)
    assert [(report.kind.value, report.code) for _, report in good] == reports
    assert (undecided, wrong) == (0 if reports else 1, [])


@pytest.mark.parametrize("text", ["x", "[1]", '{"a": 1}\n{'], ids=repr)
def test_what_is_no_order_status(text: str) -> None:
    with pytest.raises(InvalidOutcome):
        read_order_statuses(text, "m-1")


@pytest.mark.parametrize(
    "text", ["", "outcome,code\n", "transaction_id,code\n", f"transaction_id,outcome,{PAN}\n"], ids=repr
)
def test_a_header_that_will_not_do(text: str) -> None:
    with pytest.raises(InvalidOutcome) as caught:
        list(read_csv(text, ""))
    assert PAN not in str(caught.value)


def test_a_csv_with_a_byte_order_mark_and_semicolons() -> None:
    (line,) = read_csv("\ufefftransaction_id;outcome;code\r\nT-1;declined;51\r\n\r\n", "m-1")
    assert (line.number, line.merchant, line.transaction_id) == (2, "m-1", "T-1")
    assert line.fields == {"outcome": "declined", "code": "51"}


# ---- a real service ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("outcomes")) as running:
        yield running


def screened(service: Service, transaction_id: str) -> str:
    return str(service.screen(transaction_id=transaction_id).json()["screening_id"])


def outcomes_of(service: Service, screening_id: str) -> list[tuple[str, str]]:
    found = service.client.get(f"/v1/screenings/{screening_id}/outcomes").json()["outcomes"]
    return [(one["outcome"], one["code"]) for one in found]


def test_outcomes_are_reported_any_number_of_times(service: Service) -> None:
    screening_id = screened(service, "paid-1")
    address = f"/v1/screenings/{screening_id}/outcome"
    sent = [
        {"outcome": "authorised", "at": "2026-11-23T10:15:04Z"},
        {"outcome": "refunded", "amount": "10.000", "reference": "R-1"},
        {"outcome": "refunded", "amount": "10.000", "reference": "R-2"},
        {"outcome": "refunded", "amount": "10.000", "reference": "R-2"},  # the same again
        {"outcome": "chargeback", "code": "10.4"},
    ]
    answers = [service.client.post(address, json=body) for body in sent]
    assert [answer.status_code for answer in answers] == [201] * 5
    assert answers[0].json()["at"] == "2026-11-23T10:15:04.000Z"
    assert outcomes_of(service, screening_id) == [
        ("authorised", ""),
        ("refunded", "part 10.000 TND R-1"),
        ("refunded", "part 10.000 TND R-2"),
        ("chargeback", "10.4"),
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"outcome": "lost"}, "outcome"),
        ({"outcome": "declined", "code": PAN}, "code"),
        ({"outcome": "refunded", "amount": "50.001"}, "amount"),
        ({"outcome": "declined", PAN: 1}, "(name not shown)"),
        ({}, "outcome"),
    ],
    ids=str,
)
def test_a_wrong_report_names_its_field(service: Service, body: dict[str, Any], field: str) -> None:
    address = f"/v1/screenings/{screened(service, 'paid-2')}/outcome"
    refused = service.client.post(address, json=body)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert PAN not in refused.text
    for nobody in ("scr_0000000000000", "x"):
        assert service.client.post(f"/v1/screenings/{nobody}/outcome", json={"outcome": "fraud"}).status_code == 404
        assert service.client.get(f"/v1/screenings/{nobody}/outcomes").status_code == 404


def test_a_file_is_taken_in_whole_or_not_at_all(service: Service) -> None:
    first, second = screened(service, "file-1"), screened(service, "file-2")
    state = ("--state", str(service.state))
    bad = f"screening_id,outcome\n{first},fraud\nscr_0,fraud\n{second},gone {PAN}\n"
    refused = fraudengine_here("outcomes", "import", "-", *state, stdin=bad)
    assert refused.returncode == 1
    assert "line 3: there is no such screening" in refused.stderr
    assert "line 4: outcome is one of authorised" in refused.stderr
    assert PAN not in refused.stderr
    assert outcomes_of(service, first) == []

    good = "merchant,transaction_id,outcome,code\ncarthage-market,file-1,declined,51\n"
    for _ in range(2):
        assert fraudengine_here("outcomes", "import", "-", *state, stdin=good).returncode == 0
    assert outcomes_of(service, first) == [("declined", "51")]

    orders = json.dumps({"orderNumber": "file-2", "orderStatus": 2, "chargeback": True})
    taken = fraudengine_here("outcomes", "import", "-", "--merchant", "carthage-market", *state, stdin=orders)
    assert taken.stdout == "2 outcomes taken in\n"
    assert outcomes_of(service, second) == [("authorised", ""), ("chargeback", "")]


def test_every_kind_is_a_label_of_replay(tmp_path: Path) -> None:
    history = pytest.importorskip("fraudengine.replay.history")
    assert {kind.value for kind in OutcomeKind} - {"cancelled"} == set(history.LABELS)
