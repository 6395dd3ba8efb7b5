"""Lists as users meet them: over HTTP, on the command line, in several processes at once, after kill -9."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from click.testing import CliRunner, Result

from fraudengine.cards import CardKey, Pan
from fraudengine.cli import program
from fraudengine.cli.options import Problem
from tests.command_line import fraudengine_here
from tests.running import Service, files_below, running_service, wait_until

PAN = "4111111111111111"
PANS = [
    "4000000000000002",
    "4000000000000010",
    "4000000000000028",
    "4000000000000036",
    "4000000000000044",
    "4000000000000051",
    "4000000000000069",
    "4000000000000077",
]
ENTRIES = "/v1/merchants/{}/lists/{}/entries"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("lists")) as running:
        yield running


def screen(service: Service, number: str, pan: str, **changes: Any) -> dict[str, Any]:
    card = {"pan": pan, "country": "TN"}
    response = service.screen(transaction_id=number, at=None, card=card, **changes)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def run(service: Service, *arguments: str, given: str | bytes = "") -> Result:
    """The command on the same state as the service, in this process: another one than the service's."""
    environment = {
        "FRAUDENGINE_RULES": str(service.rules),
        "FRAUDENGINE_STATE": str(service.state),
        "FRAUDENGINE_DATA": str(service.data),
        "FRAUDENGINE_DEVELOPMENT": "1",
    }
    return CliRunner().invoke(program, arguments, input=given, env=environment)


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    found: dict[str, Any] = response.json()
    assert found["type"] == f"/problems/{kind}"
    return found


# ---- over HTTP ------------------------------------------------------------------------------------


def test_blacklist_a_card_and_the_next_payment_with_it_is_refused(service: Service) -> None:
    first = screen(service, "B-1", PANS[0])
    assert first["decision"] == "accept"
    address = f"/v1/screenings/{first['screening_id']}/blacklist"
    listed = service.client.post(address, json={"reason": "stolen", "ticket": "SUP-1107", "author": "amina"})
    assert listed.status_code == 201, listed.text
    entry = listed.json()
    again = service.client.post(address, json={"reason": "other"})
    assert (again.status_code, again.json()["id"], again.json()["reason"]) == (200, entry["id"], "stolen")
    refused = screen(service, "B-2", PANS[0])
    assert refused["reason"]["code"] == "CARD_BLACKLISTED"
    assert refused["matches"][0]["because"][0]["entry"]["ticket"] == "SUP-1107"
    recorded = service.client.get(f"/v1/screenings/{refused['screening_id']}").json()
    kept = recorded["answer"]["matches"][0]["because"][0]["entry"]
    assert (kept["id"], kept["reason"], kept["author"], kept["added"]) == (
        entry["id"],
        "stolen",
        "amina (by key development)",
        entry["added"],
    )
    explained = run(service, "explain", refused["screening_id"])
    assert explained.exit_code == 0, explained.output
    added_on = datetime.fromisoformat(entry["added"]).astimezone(ZoneInfo("Africa/Tunis")).date().isoformat()
    for word in ("stolen", "SUP-1107", "amina", f"run-time entry {entry['id']}", added_on):
        assert word in explained.output
    removed = service.client.delete(
        f"{ENTRIES.format('carthage-market', 'blacklist')}/{entry['id']}",
        params={"reason": "found", "ticket": "SUP-1108", "author": "sami"},
    )
    assert (removed.status_code, removed.json()["state"]) == (200, "removed")
    assert removed.json()["removed_by"] == "sami (by key development)"
    assert screen(service, "B-3", PANS[0])["decision"] == "accept"
    then = {"as_of": entry["added"]}
    page = service.client.get(ENTRIES.format("carthage-market", "blacklist"), params=then).json()
    assert [row["id"] for row in page["entries"]] == [entry["id"]]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", "development"),
        ("development", "development"),
        ("amina", "amina (by key development)"),
        ("amina (by key development)", "amina (by key development)"),
        ("amina (by key other)", "amina (by key other) (by key development)"),
        ("x" * 256, "x" * 256 + " (by key development)"),
    ],
    ids=["nobody", "the owner", "another", "signed already", "signed by another", "longest"],
)
def test_nobody_signs_for_another_without_its_being_told(service: Service, given: str, kept: str) -> None:
    """Every route that writes: what is sent as author is kept with the owner of the key behind it."""
    address, note = ENTRIES.format("carthage-market", "trusted_customers"), {"author": given}
    signed = {}
    for way in ("by id", "by value"):
        entry = service.client.post(address, json={"value": f"s-{way}", **note}).json()
        signed[f"added, {way}"] = entry["author"]
        by_id = way == "by id"
        where, which = (f"{address}/{entry['id']}", {}) if by_id else (address, {"value": f"s-{way}"})
        removed = service.client.delete(where, params=note | which)
        signed[f"removed, {way}"] = removed.json()["removed_by"]
    table = f"value,author\ns-own,{given}\ns-note,\n"
    imported = service.client.post(address.replace("entries", "import"), params=note, content=table)
    assert imported.status_code == 201, imported.text
    for row in service.client.get(address, params={"search": "s-"}).json()["entries"]:
        signed[f"imported {row['value']}"] = row["author"]
        service.client.delete(f"{address}/{row['id']}")
    screening = screen(service, f"S-{kept[:40]}", PANS[1])["screening_id"]
    listed = service.client.post(f"/v1/screenings/{screening}/blacklist", json=note).json()
    signed["blacklisted"] = listed["author"]
    service.client.delete(f"{ENTRIES.format('carthage-market', 'blacklist')}/{listed['id']}")
    assert len(signed) == 7
    assert set(signed.values()) == {kept}, signed
    tell = run(service, "audit", "--action", "lists.import", "--limit", "1", "--format", "json").output
    assert json.loads(tell.splitlines()[0])["what"]["author"] == kept


def test_entries_are_paged_through_and_searched(service: Service) -> None:
    address = ENTRIES.format("medina-topup", "blocked_customers")
    for number in range(7):
        body = {"value": f"c-{number}", "reason": "odd" if number % 2 else "even"}
        assert service.client.post(address, json=body).status_code == 201
    seen: list[str] = []
    cursor = None
    while True:
        page = service.client.get(address, params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += [row["value"] for row in page["entries"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [f"c-{number}" for number in range(7)]
    found = service.client.get(address, params={"search": "ODD"}).json()["entries"]
    assert [row["value"] for row in found] == ["c-1", "c-3", "c-5"]
    assert service.client.get(address, params={"search": "%"}).json()["entries"] == []
    gone = service.client.delete(address, params={"value": "c-1", "reason": "mistake"})
    assert gone.status_code == 200
    problem(service.client.delete(address, params={"value": "c-1"}), 404, "unknown-entry")
    every = service.client.get(address, params={"all": True}).json()["entries"]
    assert [row["state"] for row in every].count("removed") == 1


def test_what_is_wrong_is_said_and_no_card_number_repeated_or_logged(service: Service) -> None:
    address = ENTRIES.format("carthage-market", "blacklist")
    post = service.client.post
    refused = [
        problem(post(address, json={"value": PAN}), 422, "invalid-entry"),
        problem(post(address, json={"value": "fp_x", "reason": f"card {PAN}"}), 422, "invalid-entry"),
        problem(post(address, json={"pan": PAN[:-1] + "2"}), 422, "invalid-entry"),
        problem(post(address, json={"pan": PAN, "expires": "2020-01-01"}), 422, "invalid-entry"),
        problem(post(address, json={}), 422, "invalid-entry"),
        problem(post(address, json={"pan": PAN, "colour": PAN}), 422, "invalid-request"),
        problem(post(ENTRIES.format("carthage-market", PAN), json={"value": "x"}), 404, "unknown-list"),
        problem(post(ENTRIES.format(PAN, "blacklist"), json={"value": "x"}), 404, "unknown-merchant"),
        problem(service.client.get(address, params={"search": PAN}), 422, "invalid-entry"),
        problem(service.client.get(address, params={"cursor": PAN}), 422, "invalid-entry"),
        problem(service.client.get(address, params={"as_of": PAN}), 422, "invalid-entry"),
        problem(service.client.delete(address, params={"value": PAN}), 422, "invalid-entry"),
        problem(service.client.delete(f"{address}/999999"), 404, "unknown-entry"),
        problem(post(ENTRIES.format("*", "blocked_ip_countries"), json={"value": "XX"}), 422, "invalid-entry"),
        problem(post("/v1/screenings/scr_0000000000000/blacklist", json={}), 404, "unknown-screening"),
    ]
    assert "1111" not in json.dumps(refused)
    assert PAN not in "".join(service.stderr)
    masked = service.screen(transaction_id="M-1", at=None, card={"masked_pan": "411111******1111"}).json()
    why = problem(post(f"/v1/screenings/{masked['screening_id']}/blacklist", json={}), 409, "no-fingerprint")
    assert "masked" in why["detail"]


def test_an_import_is_all_or_nothing_and_says_which_lines_are_wrong(service: Service) -> None:
    address = "/v1/merchants/*/lists/blocked_emails/import"
    csv = {"content-type": "text/csv"}
    text = "\ufeffvalue,reason\r\nmallory@example.tn,fraud\r\nnobody\r\neve@example.tn,fraud\r\n"
    refused = problem(service.client.post(address, content=text.encode(), headers=csv), 422, "import-refused")
    assert [error["field"] for error in refused["errors"]] == ["line 3"]
    assert screen(service, "I-1", PANS[1], email="eve@example.tn")["decision"] == "accept"

    def chunks() -> Iterator[bytes]:
        yield text.replace("nobody\r\n", "").encode()[:31]
        yield text.replace("nobody\r\n", "").encode()[31:]

    taken = service.client.post(address, content=chunks(), headers=csv, params={"ticket": "SUP-9"})
    assert (taken.status_code, taken.json()) == (201, {"lines": 3, "added": 2, "existing": 0, "repeated": 0})
    assert screen(service, "I-2", PANS[1], email="Eve@example.tn")["reason"]["code"] == "EMAIL_BLOCKED"


def test_overlapping_networks_are_allowed_and_told(service: Service) -> None:
    address = ENTRIES.format("carthage-market", "blocked_ips")
    assert service.client.post(address, json={"value": "41.226.200.0/24"}).json()["warnings"] == []
    narrow = service.client.post(address, json={"value": "41.226.200.7"})
    assert narrow.status_code == 201
    assert "overlaps 41.226.200.0/24" in narrow.json()["warnings"][0]
    refused = screen(service, "N-1", PANS[1], ip_address="41.226.200.7")
    assert refused["matches"][-1]["because"][0]["entry"]["value"] == "41.226.200.7/32"


def test_everything_is_documented(service: Service) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    for path, methods in {
        "/v1/merchants/{merchant}/lists/{list}/entries": {"get", "post", "delete"},
        "/v1/merchants/{merchant}/lists/{list}/entries/{entry_id}": {"delete"},
        "/v1/merchants/{merchant}/lists/{list}/import": {"post"},
        "/v1/screenings/{screening_id}/blacklist": {"post"},
    }.items():
        assert methods <= paths[path].keys()


# ---- on the command line --------------------------------------------------------------------------


def test_the_command_line_and_the_service_see_one_thing(service: Service) -> None:
    added = run(service, "lists", "add", "carthage-market", "blacklist", "--reason", "stolen", given=f"{PANS[2]}\n")
    assert added.exit_code == 0, added.output
    assert PANS[2] not in added.output
    assert screen(service, "C-1", PANS[2])["reason"]["code"] == "CARD_BLACKLISTED"
    shown = run(service, "lists", "show", "carthage-market", "blacklist", "--search", "stolen", "--format", "json")
    (row,) = [json.loads(line) for line in shown.stdout.splitlines()]
    assert row["value"].startswith("fp_")
    exported = run(service, "lists", "export", "carthage-market", "blacklist")
    assert exported.stdout.splitlines()[0].startswith("value,reason,ticket,author,expires")
    back = run(service, "lists", "import", "carthage-market", "trusted_cards", "-", given=exported.stdout)
    assert back.exit_code == 0, back.output
    removed = run(service, "lists", "remove", "carthage-market", "blacklist", "--reason", "found", given=PANS[2])
    assert removed.exit_code == 0, removed.output
    assert screen(service, "C-2", PANS[2])["reason"]["code"] == "TRUSTED_CARD"
    history = run(service, "lists", "history", "carthage-market", "blacklist", "--search", row["value"])
    assert [line.split()[1] for line in history.stdout.splitlines()] == ["remove", "add"]
    assert run(service, "lists", "review", "--unused-days", "1").stdout == "nothing to review\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "carthage-market", "blacklist", PAN),
        ("add", "carthage-market", "blacklist", "4111-1111-1111-1111"),
        ("remove", "carthage-market", "blacklist", PAN),
        ("add", "carthage-market", "blacklist", "fp_x", "--reason", f"card {PAN}"),
        ("show", "carthage-market", "blacklist", "--search", PAN),
    ],
    ids=["add", "dashes", "remove", "reason", "search"],
)
def test_a_card_number_as_an_argument_is_refused(service: Service, arguments: tuple[str, ...]) -> None:
    result = run(service, "lists", *arguments)
    assert isinstance(result.exception, Problem)
    assert result.exception.exit_code == 2
    assert "1111" not in f"{result.exception}{result.output}"


def test_an_import_on_the_command_line_names_wrong_lines(service: Service) -> None:
    result = run(service, "lists", "import", "*", "blocked_ip_countries", "-", given="TN\nXX\n".encode("latin-1"))
    assert isinstance(result.exception, Problem)
    assert str(result.exception).splitlines()[0].startswith("line 2: ")
    assert str(result.exception).endswith("nothing was imported")


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (("add", "carthage-market", "blacklist"), f"{PAN}\n{PANS[2]}\n"),
        (("remove", "carthage-market", "blacklist"), f"{PAN}\n"),
        (("import", "carthage-market", "blacklist", "-"), f"{PAN}\n{PANS[2]}\n"),
    ],
    ids=["add", "remove", "import"],
)
def test_without_a_card_key_it_is_said_once_how_to_make_one(
    tmp_path: Path, arguments: tuple[str, ...], given: str
) -> None:
    rules = Path(__file__).parents[1] / "rules"
    places = {"FRAUDENGINE_RULES": str(rules), "FRAUDENGINE_STATE": str(tmp_path)}
    said = fraudengine_here("lists", *arguments, stdin=given, **places)
    wanted = fraudengine_here("fingerprint", stdin=given, **places)
    assert (said.returncode, said.stdout, said.stderr) == (3, "", wanted.stderr)
    fingerprint = Pan.parse(PAN).fingerprint(CardKey(b"k" * 32))
    needs_none = fraudengine_here("lists", "import", "carthage-market", "blacklist", stdin=fingerprint, **places)
    assert needs_none.returncode == 0, needs_none.stderr


def test_a_date_of_expiry_is_of_the_merchants_timezone(service: Service) -> None:
    path = "/v1/merchants/carthage-market/lists/blocked_customers"
    body = {"value": "z-1", "expires": "2099-02-01"}
    rows = [service.client.post(f"{path}/entries", json=body).json()]
    run(service, "lists", "add", "carthage-market", "blocked_customers", "z-2", "--expires", "2099-02-01")
    service.client.post(f"{path}/import", content="value,expires\nz-3,2099-02-01\n")
    table = "value,expires\nz-4,2099-02-01\n"
    run(service, "lists", "import", "carthage-market", "blocked_customers", "-", given=table)
    rows += service.client.get(f"{path}/entries", params={"search": "z-"}).json()["entries"][1:]
    assert [row["value"] for row in rows] == ["z-1", "z-2", "z-3", "z-4"]
    assert {row["expires"] for row in rows} == {"2099-01-31T23:00:00Z"}


def test_the_history_tells_who_imported_what_and_why(service: Service) -> None:
    lists = ("carthage-market", "blocked_devices")
    table = "value,reason,author\nd-10,stolen,amina\nd-20,,\nd-30,,\n"
    run(service, "lists", "import", *lists, "-", "--by", "sami", "--ticket", "SUP-9", given=table)
    more = "".join(f"x-{number},why {number}\n" for number in range(30))
    service.client.post(f"/v1/merchants/{lists[0]}/lists/{lists[1]}/import", content=more)
    run(service, "lists", "remove", *lists, "d-20", "--by", "leila", "--reason", "found")

    def history(*arguments: str) -> list[dict[str, Any]]:
        said = run(service, "lists", "history", *lists, "--format", "json", *arguments)
        return [json.loads(line) for line in said.stdout.splitlines()]

    removed, large, small = history()
    assert (removed["what"], removed["value"], removed["author"]) == ("remove", "d-20", "leila")
    assert (large["entries"], len(large["some_values"]), large["more_notes"]) == (30, 5, True)
    assert sorted(small["some_values"]) == ["d-10", "d-20", "d-30"]
    assert small["last_id"] - small["first_id"] == 2
    assert small == {
        **{name: small[name] for name in ("at", "first_id", "last_id", "some_values")},
        "what": "import",
        "entries": 3,
        "scope": lists[0],
        "reasons": ["stolen"],
        "tickets": ["SUP-9"],
        "authors": ["amina", "sami"],
        "more_notes": False,
    }
    assert [(row["what"], row["author"]) for row in history("--search", "d-20")] == [
        ("remove", "leila"),
        ("import", "sami"),
    ]
    assert [row["value"] for row in history("--search", "leila")] == ["d-20"]
    assert [row["value"] for row in history("--search", "amina")] == ["d-10"]
    by_ticket = [(row["what"], row["value"]) for row in history("--search", "SUP-9")]
    assert sorted(by_ticket) == [
        ("import", "d-10"),
        ("import", "d-20"),
        ("import", "d-30"),
        ("remove", "d-20"),
    ]
    assert [row["what"] for row in history("--search", "SUP-9", "--limit", "2")] == ["remove", "import"]
    line = run(service, "lists", "history", *lists).stdout.splitlines()[2]
    assert line.split(maxsplit=1)[1].startswith("import 3 entries (")
    assert sorted(line.partition(") by ")[0][-16:].split(", ")) == ["d-10", "d-20", "d-30"]
    assert sorted(line.partition(") by ")[2].split(": ")[0].split(", ")) == ["amina", "sami"]
    assert line.endswith(": stolen, SUP-9")


def test_an_entry_stops_counting_when_it_expires(service: Service) -> None:
    """In a real service by the real clock, and for good: also after another process wrote it."""
    from datetime import UTC, datetime, timedelta

    soon = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
    added = run(service, "lists", "add", "carthage-market", "blacklist", "--expires", soon, given=PANS[5])
    assert added.exit_code == 0, added.output
    assert screen(service, "E-0", PANS[5])["reason"]["code"] == "CARD_BLACKLISTED"
    numbers = iter(range(1, 10_000))
    wait_until(
        lambda: screen(service, f"E-{next(numbers)}", PANS[5])["reason"]["code"] != "CARD_BLACKLISTED",
        "the entry expires",
    )
    assert datetime.now(UTC) >= datetime.fromisoformat(soon)


def test_entries_about_to_expire_are_reviewed(service: Service, tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    soon = (datetime.now(UTC) + timedelta(days=3)).isoformat(timespec="seconds")
    assert (
        run(service, "lists", "add", "medina-topup", "blocked_phones", "71123456", "--expires", soon).exit_code == 0
    )
    found = json.loads(run(service, "lists", "review", "--format", "json").stdout)
    assert [(row["why"], row["value"]) for row in found if row["scope"] == "medina-topup"] == [
        ("expiring", "+21671123456")
    ]


def test_a_running_service_takes_up_a_rotated_key(service: Service) -> None:
    assert run(service, "lists", "add", "carthage-market", "blacklist", given=PANS[3]).exit_code == 0
    before = screen(service, "K-1", PANS[4])["screening_id"]
    old = service.client.get(f"/v1/screenings/{before}").json()["transaction"]["card"]["fingerprint"][3:9]
    assert run(service, "keys", "rotate").exit_code == 0
    numbers = iter(range(10_000))

    def is_new() -> bool:
        recorded = screen(service, f"K-2-{next(numbers)}", PANS[4])["screening_id"]
        card = service.client.get(f"/v1/screenings/{recorded}").json()["transaction"]["card"]
        return bool(card["fingerprint"][3:9] != old)

    assert wait_until(is_new, "the new key is in use") < 5
    assert screen(service, "K-3", PANS[3])["reason"]["code"] == "CARD_BLACKLISTED"

    def on_old_key() -> int:
        rows = json.loads(run(service, "keys", "status", "--format", "json").stdout)
        return sum(row["entries"] for row in rows if row["key"] == old)

    hanging = on_old_key()
    wait_until(lambda: on_old_key() < hanging or hanging == 0, "the entry is re-keyed")


# ---- several processes ----------------------------------------------------------------------------


def test_every_process_sees_a_change_at_once_also_after_kill_9_and_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    with running_service(directory) as one:
        with running_service(directory) as two:
            listed = one.client.post(ENTRIES.format("carthage-market", "blacklist"), json={"pan": PANS[5]})
            assert listed.status_code == 201
            assert screen(two, "P-1", PANS[5])["reason"]["code"] == "CARD_BLACKLISTED"
            assert screen(one, "P-2", PANS[5])["reason"]["code"] == "CARD_BLACKLISTED"
            for number in range(20):  # adding here and removing there, each seen by the next screening
                adder, remover = (one, two) if number % 2 else (two, one)
                entry = adder.client.post(
                    ENTRIES.format("carthage-market", "blacklist"), json={"pan": PANS[6]}
                ).json()
                assert screen(remover, f"P-3-{number}", PANS[6])["decision"] == "refuse"
                remover.client.delete(f"{ENTRIES.format('carthage-market', 'blacklist')}/{entry['id']}")
                assert screen(adder, f"P-4-{number}", PANS[6])["decision"] == "accept"
            csv = "".join(f"c-{number}\n" for number in range(5_000))
            imported = one.client.post("/v1/merchants/*/lists/blocked_customers/import", content=csv)
            assert imported.json()["added"] == 5_000
            refused = screen(two, "P-5", PANS[7], customer_id="c-4999")
            assert refused["reason"]["code"] == "CUSTOMER_BLOCKED"
            two.stop(signal.SIGKILL)
        one.stop(signal.SIGKILL)
    with running_service(directory) as after:
        assert screen(after, "P-6", PANS[5])["reason"]["code"] == "CARD_BLACKLISTED"
        assert screen(after, "P-7", PANS[6])["decision"] == "accept"
        assert screen(after, "P-8", PANS[7], customer_id="c-0")["reason"]["code"] == "CUSTOMER_BLOCKED"
        after.stop()
        for path, content in files_below(directory / "var").items():
            for pan in PANS:
                assert pan.encode() not in content, path


def test_the_body_of_an_import_is_never_kept(service: Service) -> None:
    body = io.BytesIO(f"pan,reason\n{PANS[7]},stolen\n".encode())
    taken = service.client.post("/v1/merchants/medina-topup/lists/blacklist/import", content=body.read())
    assert taken.json()["added"] == 1
    assert screen(service, "X-1", PANS[7], merchant="medina-topup", amount="5.000")["decision"] == "refuse"
    for path, content in files_below(service.state).items():
        assert PANS[7].encode() not in content, path
