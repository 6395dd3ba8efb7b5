"""The service as a gateway meets it: a real process, a real port, real files."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .command_line import fraudengine_here
from .running import (
    CARD,
    TRANSACTION,
    Service,
    copy_data,
    copy_rules,
    fraudengine,
    running_service,
    wait_until,
)

# Published scheme test numbers, as they are, spaced and dashed.
TEST_PANS = ("4111111111111111", "5555555555554444", "378282246310005", "6011111111111117", "3530111333300000")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests that leave its files alone."""
    with running_service(tmp_path_factory.mktemp("shared")) as service:
        yield service


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    with running_service(tmp_path / "own") as service:
        yield service


# ---- decisions ------------------------------------------------------------------------------------


def test_a_screening_is_answered_and_can_be_read_again(shared: Service) -> None:
    answer = shared.screen(transaction_id="read-1", amount="450.000").json()
    assert (answer["decision"], answer["reason"]["code"]) == ("challenge", "AMOUNT_NEEDS_3DS")
    assert answer["three_ds"] == {"challenge_indicator": "04"}
    assert answer["matches"] == [
        {
            "rule": "challenge-above",
            "outcome": "challenge",
            "code": "AMOUNT_NEEDS_3DS",
            "mode": "live",
            "because": [{"fact": "amount", "value": "450.000 TND", "test": "over 300.000 TND"}],
        }
    ]
    assert answer["data"] == {"ip_country": "2026-06-25", "bins": "2026-11-23"}
    recorded = shared.client.get(f"/v1/screenings/{answer['screening_id']}").json()
    assert recorded["answer"] == answer
    assert recorded["transaction"]["card"]["last4"] == "1111"
    assert recorded["facts"]["ip_country"] == "TN"


def test_an_address_abroad_is_refused_by_the_real_table(shared: Service) -> None:
    answer = shared.screen(transaction_id="abroad", ip_address="8.8.8.8").json()
    assert (answer["decision"], answer["indicators"]["ip_country"]) == ("refuse", "US")


def test_a_retried_call_gets_the_recorded_answer(shared: Service) -> None:
    first = shared.screen(transaction_id="retry-1")
    again = shared.client.post(
        "/v1/screenings", json=dict(reversed((TRANSACTION | {"transaction_id": "retry-1"}).items()))
    )
    assert again.content == first.content


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": "50.001"}, "amount"),
        ({"amount": "1.000"}, "amount"),
        ({"currency": "EUR", "amount": "50.00"}, "currency"),
        ({"card": {"pan": "4242424242424242", "country": "TN"}}, "card"),
    ],
    ids=["one millime more", "less", "currency", "card"],
)
def test_an_id_used_again_for_another_payment_is_a_conflict(
    shared: Service, request: pytest.FixtureRequest, changes: dict[str, object], field: str
) -> None:
    name = f"conflict-{request.node.name}"[:120]
    first = shared.screen(transaction_id=name)
    refused = shared.screen(transaction_id=name, **changes)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/transaction-conflict")
    assert [error["field"] for error in refused.json()["errors"]] == [field]
    assert not any(pan.encode() in refused.content for pan in TEST_PANS)
    assert shared.screen(transaction_id=name).content == first.content  # the retry still gets its answer
    assert shared.screen(transaction_id=name, email="a@b.tn").status_code == 200  # the same payment, told better
    with_result = {"three_ds": {"status": "Y", "eci": "05"}} | changes
    assert shared.screen(transaction_id=name, **with_result).status_code == 200
    masked = shared.screen(transaction_id=name, card={"masked_pan": "424242**4242", "country": "TN"})
    assert masked.status_code == 200  # whether it is another card cannot be told


def test_the_second_step_settles_a_challenge(shared: Service) -> None:
    first = shared.screen(transaction_id="step-1", amount="450.000").json()
    second = shared.screen(
        transaction_id="step-1", amount="450.000", three_ds={"status": "Y", "eci": "05", "version": "2.2.0"}
    ).json()
    assert (first["decision"], second["decision"]) == ("challenge", "accept")
    assert second["reason"]["code"] == "THREE_DS_AUTHENTICATED"
    assert second["screening_id"] != first["screening_id"]


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({}, "accept"),
        ({"amount": "449.999"}, "accept"),
        ({"amount": "450.001"}, "challenge"),
        ({"currency": "EUR", "amount": "450.00"}, "challenge"),
        ({"card": {"pan": "4242424242424242", "country": "TN"}}, "challenge"),
    ],
    ids=["same", "lower amount", "one millime more", "other currency", "other card"],
)
def test_a_3ds_result_counts_only_for_what_it_was_asked_for(
    shared: Service, request: pytest.FixtureRequest, changes: dict[str, object], decision: str
) -> None:
    name = f"belongs-{request.node.name}"[:120]
    assert shared.screen(transaction_id=name, amount="450.000").json()["decision"] == "challenge"
    step = {"transaction_id": name, "amount": "450.000", "three_ds": {"status": "Y", "eci": "05"}} | changes
    assert shared.screen(**step).json()["decision"] == decision


def test_a_result_cannot_be_carried_to_a_larger_amount_in_two_steps(shared: Service) -> None:
    result = {"status": "Y", "eci": "05", "ds_trans_id": "d-1"}
    for amount, three_ds in (("310.000", None), ("1900.000", result), ("1900.000", {**result, "version": "2.2.0"})):
        sent = {"transaction_id": "carry", "amount": amount} | ({"three_ds": three_ds} if three_ds else {})
        assert shared.screen(**sent).json()["decision"] == "challenge"


def test_unknown_merchant(shared: Service) -> None:
    response = shared.screen(merchant="nobody")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


def test_unknown_merchant_can_fall_back_to_platform(tmp_path: Path) -> None:
    with running_service(tmp_path / "fallback", {"FRAUDENGINE_UNKNOWN_MERCHANT": "platform"}) as service:
        answer = service.screen(merchant="nobody").json()
        assert answer["decision"] == "accept"
        recorded = service.client.get(f"/v1/screenings/{answer['screening_id']}").json()
        assert recorded["rule_set"] == "platform"


def test_a_merchant_cannot_be_called_platform(shared: Service) -> None:
    assert shared.screen(merchant="platform").status_code == 404


# ---- rules while running --------------------------------------------------------------------------


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_an_edit_takes_effect_within_a_second_and_a_bad_one_changes_nothing(own: Service) -> None:
    merchant = own.rules / "merchants/carthage-market.yaml"
    sent = iter(range(10_000))

    def decision() -> str:
        return str(own.screen(transaction_id=f"edit-{next(sent)}", amount="280.000").json()["decision"])

    assert decision() == "accept"
    edit(merchant, "challenge_above: {TND: 300}", "challenge_above: {TND: 250}")
    assert wait_until(lambda: decision() == "challenge", "the edit takes effect") < 1.0

    edit(merchant, "challenge_above: {TND: 250}", "challenge_above: {TND: 200.0001}")
    wait_until(lambda: own.problems() != [], "the bad edit is reported")
    (problem,) = own.problems()
    assert "merchants/carthage-market.yaml:7" in problem
    assert "stay in force" in problem
    assert own.client.get("/readyz").status_code == 200
    assert decision() == "challenge"
    wait_until(lambda: any("too many decimals" in line for line in own.stderr), "the log says so")
    status = fraudengine_here("status", "--url", own.url, "--state", str(own.state))
    assert status.returncode == 1
    assert "too many decimals" in status.stdout

    edit(merchant, "challenge_above: {TND: 200.0001}", "challenge_above: {TND: 300}")
    wait_until(lambda: own.problems() == [], "the mended file is taken up")
    assert decision() == "accept"


def test_a_past_decision_keeps_the_rules_that_made_it(own: Service) -> None:
    first = own.screen(transaction_id="past", amount="450.000").json()
    edit(own.rules / "merchants/carthage-market.yaml", "challenge_above: {TND: 300}", "challenge_above: {TND: 900}")
    wait_until(
        lambda: own.client.get("/v1/merchants/carthage-market/rules").json()["revision"] != first["revision"],
        "the edit is in force",
    )
    assert own.stop() == 0
    with sqlite3.connect(f"file:{own.state / 'decisions.db'}?mode=ro", uri=True) as database:
        texts = [row[0] for row in database.execute("SELECT text FROM rule_texts")]
    database.close()
    assert any("challenge_above: {TND: 300}" in text for text in texts)


def test_a_merchant_that_was_bad_from_the_start_is_refused_alone(tmp_path: Path) -> None:
    rules = copy_rules(tmp_path / "rules")
    edit(rules / "merchants/medina-topup.yaml", "then: refuse", "then: refuze")
    with running_service(tmp_path) as service:
        assert service.screen().status_code == 200
        assert "medina-topup" in service.problems()[0]
        response = service.screen(merchant="medina-topup")
        assert response.status_code == 503
        assert response.json()["type"] == "/problems/rules-refused"


# ---- data while running ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ip-country.mmdb", "bins.dat"])
def test_a_bad_replacement_leaves_the_old_table_in_use(own: Service, name: str) -> None:
    replaced = own.data / name
    good = replaced.read_bytes()
    for bad in (b"", good[: len(good) // 2], b"garbage" * 1000):
        beside = own.data / "new"
        beside.write_bytes(bad)
        os.replace(beside, replaced)
        wait_until(lambda: own.problems() != [], "the bad file is reported")
        assert name in own.problems()[0]
        assert "stays in use" in own.problems()[0]
        answer = own.screen(transaction_id=f"{name}-{len(bad)}", card={"pan": "5555555555554444"}).json()
        assert answer["indicators"]["ip_country"] == "TN"
        beside.write_bytes(good)
        os.replace(beside, replaced)
        wait_until(lambda: own.problems() == [], "the good file is taken up")


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 1000], ids=["missing", "empty", "garbage"])
@pytest.mark.parametrize("name", ["ip-country.mmdb", "bins.dat"])
def test_a_bad_table_at_start_is_a_clear_error(tmp_path: Path, name: str, content: bytes | None) -> None:
    data = copy_data(tmp_path / "data")
    (data / name).unlink()
    if content is not None:
        (data / name).write_bytes(content)
    ended = fraudengine("serve", "--data", str(data), "--state", str(tmp_path / "var"), "--port", "0")
    assert ended.returncode in (1, 3)
    assert name in ended.stderr
    assert "fraudengine data build-" in ended.stderr
    assert "Traceback" not in ended.stderr


# ---- a disk that is full --------------------------------------------------------------------------


@pytest.fixture
def small_state(tmp_path: Path) -> Iterator[Path]:
    """A service directory whose state lies on a disk of 24 MB."""
    state = tmp_path / "own" / "var"
    state.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(state)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path / "own"
    subprocess.run(["umount", "--lazy", str(state)], check=True)


def test_a_full_disk_answers_503_and_no_unlogged_decision_and_recovers_by_itself(small_state: Path) -> None:
    note = {"note": "x" * 200}
    answered = []
    with running_service(small_state) as service:
        ballast = service.state / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65_536))
        for number in range(20_000):
            response = service.screen(transaction_id=f"full-{number}", metadata=note)
            if response.status_code != 200:
                break
            answered.append(response.json()["screening_id"])
        assert response.status_code == 503
        assert response.json()["type"] == "/problems/store-unavailable"
        assert "Retry-After" in response.headers
        wait_until(lambda: service.client.get("/readyz").status_code == 503, "the full disk is reported")
        assert "disk is full" in " ".join(service.problems())
        ballast.unlink()
        wait_until(lambda: service.screen(transaction_id="after").status_code == 200, "the service recovers")
        assert service.client.get("/readyz").status_code == 200
        refused = service.screen(transaction_id=f"full-{len(answered)}", metadata=note)
        assert refused.status_code == 200
        recorded = [service.client.get(f"/v1/screenings/{name}").status_code for name in answered]
        assert set(recorded) <= {200}


# ---- card numbers ---------------------------------------------------------------------------------


def test_a_crash_shows_no_card_number() -> None:
    """What Python prints of a fault while a card number is at hand: no locals, and types that hide theirs."""
    code = (
        "import faulthandler, traceback, sys\n"
        "from fraudengine.cards import CardKey, Pan\n"
        "pan = Pan.parse(sys.stdin.read()); key = CardKey(bytes(32))\n"
        "print(repr(pan), str(pan), f'{pan}', [pan], {'p': pan}, vars(type(pan)))\n"
        "def fail(pan, key): raise RuntimeError(pan, key)\n"
        "try: fail(pan, key)\n"
        "except RuntimeError as e:\n"
        "    shown = traceback.TracebackException.from_exception(e, capture_locals=True)\n"
        "    print(''.join(shown.format()))\n"
        "fail(pan, key)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], input=TEST_PANS[0], capture_output=True, text=True, check=False
    )
    assert "RuntimeError" in ended.stderr
    assert "411111******1111" in ended.stdout
    assert TEST_PANS[0] not in ended.stdout + ended.stderr


# ---- command line ---------------------------------------------------------------------------------


def test_status_without_a_service() -> None:
    ended = fraudengine_here("status", "--url", "http://127.0.0.1:9")
    assert ended.returncode == 3
    assert "no service answers" in ended.stderr


def test_a_taken_port(shared: Service, tmp_path: Path) -> None:
    port = shared.url.rpartition(":")[2]
    ended = fraudengine("serve", "--port", port, "--state", str(tmp_path), FRAUDENGINE_DEVELOPMENT="1")
    assert ended.returncode == 3
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.stderr


def test_service_and_command_share_one_log(shared: Service) -> None:
    first = shared.screen(transaction_id="both-1", card=CARD)
    ended = fraudengine_here(
        "screen",
        "-",
        "--format",
        "json",
        "--state",
        str(shared.state),
        stdin=first.request.content.decode(),
    )
    assert ended.stdout.strip().replace(" ", "") == first.text.replace(" ", "")
