"""API keys: what each role and scope may, how a key is made, kept and ended, and the audit log of it all."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from fraudengine.access import KEY, MAY, AccessKeys, Grant, KeyRefused, Role, development_key
from fraudengine.api.gate import Gate, need_of
from fraudengine.audit import AuditLog, AuditRow, operator
from fraudengine.config import Config
from fraudengine.diagnostics import ConfigurationError, StoreUnavailable
from fraudengine.environment import claim_state, environment_of

from .command_line import fraudengine_here
from .running import TRANSACTION, Service, files_below, fraudengine, running_service, wait_until

PAN = "4111111111111111"


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    with AuditLog(tmp_path) as opened:
        yield opened


@pytest.fixture
def keys(tmp_path: Path, audit: AuditLog) -> Iterator[AccessKeys]:
    with AccessKeys(tmp_path, "live", audit) as opened:
        yield opened


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", f"Bearer {key}".encode())]


# ---- keys -------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_only_its_hash_is_kept(keys: AccessKeys, tmp_path: Path) -> None:
    key, row = keys.create("gateway 1", Role.GATEWAY, by="amel", merchants=["m-1"])
    assert KEY.fullmatch(key)
    assert key.startswith(f"fe_live_{row.id}_")
    grant = keys.grant(bearer(key))
    assert grant is not None
    assert (grant.name, grant.role, grant.merchants) == ("gateway 1", Role.GATEWAY, frozenset({"m-1"}))
    secret = key.rpartition("_")[2].encode()
    assert not any(secret in content for content in files_below(tmp_path).values())


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Basic %s")],
        [(b"authorization", b"%s")],
        [(b"authorization", b"Bearer %sx")],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"x-authorization", b"Bearer %s")],
    ],
    ids=repr,
)
def test_anything_else_is_no_key(keys: AccessKeys, headers: list[tuple[bytes, bytes]]) -> None:
    key, _ = keys.create("x", Role.ADMIN, by="amel")
    assert keys.grant((name, value.replace(b"%s", key.encode())) for name, value in headers) is None


def test_a_revoked_key_ends_at_once_in_every_process(keys: AccessKeys, audit: AuditLog, tmp_path: Path) -> None:
    key, row = keys.create("x", Role.ADMIN, by="amel")
    with AccessKeys(tmp_path, "live", audit, clock=lambda: 1000.0) as other:  # its clock never says "look again"
        assert other.grant_of(key.encode()) is not None
        assert keys.revoke(row.id, by="sami").revoked_by == "sami"
        assert other.grant_of(key.encode()) is None
        another, _ = keys.create("y", Role.ADMIN, by="amel")
        assert other.grant_of(another.encode()) is not None
    assert keys.revoke(row.id, by="again").revoked_by == "sami"
    with pytest.raises(KeyRefused, match="keys list"):
        keys.revoke("nobody", by="amel")


def test_a_change_whose_writer_died_before_publishing_it_is_seen_within_a_second(
    keys: AccessKeys, audit: AuditLog, tmp_path: Path
) -> None:
    now = time.time()
    key, row = keys.create("x", Role.ADMIN, by="amel")
    with AccessKeys(tmp_path, "live", audit, clock=lambda: now) as other:
        with closing(sqlite3.connect(tmp_path / "access.db", isolation_level=None)) as killed:
            killed.execute("UPDATE keys SET revoked_us = 1 WHERE id = ?", (row.id,))
            killed.execute("INSERT INTO changes (key_id) VALUES (?)", (row.id,))
        assert other.grant_of(key.encode()) is not None
        now += 1.0
        assert other.grant_of(key.encode()) is None


def test_a_key_expires(keys: AccessKeys, audit: AuditLog, tmp_path: Path) -> None:
    now, later = time.time(), 0.0
    key, _ = keys.create("x", Role.ADMIN, by="amel", expires_us=int((now + 60) * 1e6))
    with AccessKeys(tmp_path, "live", audit, clock=lambda: now + later) as other:
        later = 59.9
        assert other.grant_of(key.encode()) is not None
        later = 60.1
        assert other.grant_of(key.encode()) is None
    with pytest.raises(KeyRefused, match="expired already"):
        keys.create("x", Role.ADMIN, by="amel", expires_us=1)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", f"card {PAN}"], ids=["empty", "long", "line", "card"])
def test_a_name_that_is_none(keys: AccessKeys, name: str) -> None:
    with pytest.raises(KeyRefused) as caught:
        keys.create(name, Role.ADMIN, by="amel")
    assert PAN not in str(caught.value)


def test_a_development_key_stays_until_it_is_revoked(keys: AccessKeys, tmp_path: Path) -> None:
    first = development_key(keys, tmp_path)
    assert development_key(keys, tmp_path) == first
    assert (tmp_path / "development.key").stat().st_mode & 0o777 == 0o600
    assert keys.names == {"development"}
    keys.revoke(first.split("_")[2], by="amel")
    assert development_key(keys, tmp_path) != first


# ---- who may what -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "roles"),
    [
        ("POST", "/v1/screenings", "gateway admin"),
        ("GET", "/v1/screenings/scr_1", "gateway support analyst admin"),
        ("POST", "/v1/screenings/scr_1/outcome", "gateway support admin"),
        ("POST", "/v1/screenings/scr_1/blacklist", "support admin"),
        ("GET", "/v1/merchants/m-1/rules", "gateway support analyst admin"),
        ("GET", "/v1/merchants/m-1/lists/blacklist/entries", "gateway support analyst admin"),
        ("POST", "/v1/merchants/m-1/lists/blacklist/entries", "support admin"),
        ("DELETE", "/v1/merchants/m-1/lists/blacklist/entries/7", "support admin"),
        ("POST", "/v1/merchants/m-1/rules", "admin"),
        ("POST", "/v1/lists/blacklist/entries", "support admin"),
        ("GET", "/metrics", "analyst admin"),
        ("GET", "/openapi.json", "gateway support analyst admin"),
        ("GET", "/problems/forbidden", "gateway support analyst admin"),
        ("GET", "/something/new", "admin"),
        ("POST", "/v1/screenings/scr_1/new", "admin"),
    ],
)
def test_what_each_role_may(method: str, path: str, roles: str) -> None:
    action = need_of(method, path, b"").action
    assert {role.value for role in Role if action in MAY[role]} == set(roles.split())


SCOPED = Grant("k", "shop", Role.ADMIN, frozenset({"m-1"}), b"")


class Scoped:
    """Every call carries the key of one merchant."""

    environment = "live"

    def grant(self, headers: object) -> Grant:
        return SCOPED


@pytest.mark.parametrize(
    ("method", "path", "query", "status"),
    [
        ("POST", "/v1/screenings", "", None),  # whose payment it is stands in the body: asked by the endpoint
        ("GET", "/v1/merchants/m-1/rules", "", None),
        ("GET", "/v1/merchants/m-2/rules", "", 403),
        ("POST", "/v1/merchants/m-2/lists/blacklist/entries", "", 403),
        ("GET", "/v1/merchants", "", 403),
        ("GET", "/v1/screenings", "", 403),
        ("GET", "/v1/screenings", "merchant=m-1", None),
        ("GET", "/v1/screenings", "merchant=m-2", 403),
        ("GET", "/v1/screenings", "merchant=m-1&merchant=m-2", 403),
        ("GET", "/v1/screenings/of-m-1", "", None),
        ("GET", "/v1/screenings/of-m-2", "", 404),
        ("POST", "/v1/screenings/of-m-2/outcome", "", 404),
        ("GET", "/v1/screenings/of-nobody", "", None),  # the route answers 404
        ("GET", "/v1/lists/blacklist/entries", "", 403),
        ("GET", "/metrics", "", 403),
        ("GET", "/openapi.json", "", None),
        ("GET", "/something/new", "", 403),
    ],
)
def test_a_scoped_key_sees_and_changes_only_its_merchant(
    method: str, path: str, query: str, status: int | None
) -> None:
    gate = Gate(Scoped(), {"of-m-1": "m-1", "of-m-2": "m-2"}.get)  # type: ignore[arg-type]
    scope = {"method": method, "path": path, "query_string": query.encode(), "headers": []}
    refused = gate.admit(scope)
    assert (refused.status if refused is not None else None) == status


# ---- the audit log ----------------------------------------------------------------------------------


def test_the_audit_log_only_grows(audit: AuditLog, tmp_path: Path) -> None:
    audit.record(AuditRow("lists.add", "amel", {"value": "RU"}, "m-1"), AuditRow("keys.create", "sami", {}))
    with closing(sqlite3.connect(tmp_path / "audit.db")) as database:
        for statement in ("UPDATE audit SET who = 'nobody'", "DELETE FROM audit", "DELETE FROM audit WHERE id = 1"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)
    assert [(row.action, row.who) for row in audit.rows()] == [("keys.create", "sami"), ("lists.add", "amel")]
    assert [row.action for row in audit.rows(action="lists")] == ["lists.add"]
    assert [row.action for row in audit.rows(merchant="m-1", who="AM")] == ["lists.add"]
    assert audit.verify() == (2, None)


@pytest.mark.parametrize(
    ("tamper", "wrong"),
    [("UPDATE audit SET who = 'nobody' WHERE id = 2", 2), ("DELETE FROM audit WHERE id = 2", 3)],
    ids=["altered", "taken out"],
)
def test_a_row_that_was_tampered_with_is_found(audit: AuditLog, tmp_path: Path, tamper: str, wrong: int) -> None:
    for number in range(4):
        audit.record(AuditRow("lists.add", "amel", {"number": number}))
    with closing(sqlite3.connect(tmp_path / "audit.db", isolation_level=None)) as database:
        database.execute("DROP TRIGGER audit_is_never_updated")
        database.execute("DROP TRIGGER audit_is_never_deleted")
        database.execute(tamper)
    assert audit.verify() == (1, wrong)


def test_a_change_that_failed_is_told_as_such_and_none_happens_untold(audit: AuditLog, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), audit.change(AuditRow("lists.add", "amel", {"value": "RU"})):
        raise ZeroDivisionError("the disk")
    failed, meant = audit.rows()
    assert (meant.action, failed.action, failed.what) == (
        "lists.add",
        "lists.add.failed",
        {"value": "RU", "failed": "the disk"},
    )
    happened = []
    audit._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable), audit.change(AuditRow("lists.add", "amel", {})):
        happened.append(1)
    assert not happened


def test_a_card_number_never_gets_into_the_audit_log(audit: AuditLog, tmp_path: Path) -> None:
    audit.record(AuditRow(f"x {PAN}", PAN, {PAN: [PAN, {"a": PAN}], "digest": "4" * 64}, PAN))
    assert not any(PAN.encode() in content for content in files_below(tmp_path).values())
    assert audit.rows()[0].what["digest"] == "4" * 64


def test_rule_files_are_told_of_once_for_all_processes(audit: AuditLog, tmp_path: Path) -> None:
    with AuditLog(tmp_path) as other:
        assert audit.record_rule_files({"a.yaml": ("1", "amel"), "b.yaml": ("2", "sami")}) == 2
        assert other.record_rule_files({"a.yaml": ("1", "amel"), "b.yaml": ("2", "sami")}) == 0
        assert other.record_rule_files({"a.yaml": ("3", "sami")}) == 2
    rows = audit.rows(action="rules")
    assert [row.who for row in rows] == ["owner unknown", "owner sami", "owner sami", "owner amel"]
    assert rows[1].what == {"files": [{"file": "a.yaml", "before": "1", "after": "3"}]}
    assert rows[0].what == {"files": [{"file": "b.yaml", "before": "2", "after": None}]}


# ---- environments -----------------------------------------------------------------------------------


def test_a_state_directory_belongs_to_one_environment(tmp_path: Path) -> None:
    assert claim_state(Config(state=tmp_path / "a", environment="test")) == "test"
    assert claim_state(Config(state=tmp_path / "a")) == "test"  # commands follow the stamp
    for environment in ("live", "test"):
        state = tmp_path / environment
        claim_state(Config(state=state, environment=environment))
        other = Config(state=state, environment="test" if environment == "live" else "live")
        with pytest.raises(ConfigurationError, match=f"belongs to `{environment}`"):
            claim_state(other)
    assert environment_of(Config(state=tmp_path / "none")) == "live"
    assert environment_of(Config(state=tmp_path / "none", development=True)) == "test"
    (tmp_path / "a" / "environment").write_text("prod\n")
    with pytest.raises(ConfigurationError, match="neither `live` nor `test`"):
        environment_of(Config(state=tmp_path / "a"))


# ---- real processes ---------------------------------------------------------------------------------

OWN = {"FRAUDENGINE_DEVELOPMENT": "0", "FRAUDENGINE_CARD_KEY": "5c" * 32}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A live service without a development key; nobody can call it yet."""
    with running_service(tmp_path_factory.mktemp("live"), OWN) as service:
        yield service


def make_key(service: Service, *arguments: str) -> dict[str, str]:
    made = fraudengine_here("keys", "create", *arguments, "--state", str(service.state))
    assert made.returncode == 0, made.stderr
    return {"authorization": f"Bearer {made.stdout.strip()}"}


def screen(service: Service, headers: dict[str, str], **changes: object) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/screenings", json=TRANSACTION | changes, headers=headers, timeout=30)


def test_no_key_no_answer_except_health(live: Service) -> None:
    assert any("nobody can call" in line for line in live.stderr) or make_key(live, "x", "--role", "admin")
    for method, path in (
        ("POST", "/v1/screenings"),
        ("GET", "/v1/screenings/scr_1"),
        ("GET", "/v1/merchants/carthage-market/rules"),
        ("GET", "/openapi.json"),
        ("GET", "/problems"),
        ("GET", "/metrics"),
        ("GET", "/"),
    ):
        for headers in ({}, {"authorization": "Bearer fe_live_x"}, {"authorization": "Basic eDp4"}):
            refused = httpx.request(method, live.url + path, headers=headers, json={} if method == "POST" else None)
            assert (refused.status_code, refused.json()["type"]) == (401, "/problems/unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{live.url}/healthz").json() == {"status": "up"}
    assert httpx.get(f"{live.url}/readyz").json() == {"ready": True, "problems": []}


def test_a_live_service_says_that_the_key_of_a_development_service_before_it_still_works(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        key = (service.state / "development.key").read_text().strip()
    with running_service(tmp_path, OWN) as service:
        assert any("only the key `development`" in line for line in service.stderr), service.stderr
        assert screen(service, {"authorization": f"Bearer {key}"}).status_code == 200
        revoked = fraudengine_here("keys", "revoke", key.split("_")[2], "--state", str(service.state))
        assert revoked.returncode == 0, revoked.stderr
        assert screen(service, {"authorization": f"Bearer {key}"}).status_code == 401


def test_a_key_that_is_made_works_at_once_and_one_that_is_revoked_ends_at_once(live: Service) -> None:
    headers = make_key(live, "gateway", "--role", "gateway")
    key_id = headers["authorization"].split("_")[2]
    with httpx.Client(base_url=live.url, headers=headers) as client:  # one connection, the same head each time
        for number in range(3):
            sent = {**TRANSACTION, "transaction_id": f"made-{number}"}
            assert client.post("/v1/screenings", json=sent).status_code == 200
        assert fraudengine_here("keys", "revoke", key_id, "--state", str(live.state)).returncode == 0
        refused = client.post("/v1/screenings", json={**TRANSACTION, "transaction_id": "made-3"})
        assert (refused.status_code, refused.json()["type"]) == (401, "/problems/unauthorized")
    assert screen(live, headers, transaction_id="revoked").status_code == 401
    listed = fraudengine_here("keys", "list", "--all", "--format", "json", "--state", str(live.state))
    (row,) = [row for row in json.loads(listed.stdout) if row["id"] == key_id]
    assert (row["role"], row["state"]) == ("gateway", "revoked")
    told = fraudengine_here("audit", "--action", "keys", "--state", str(live.state)).stdout
    assert re.search(rf"keys.revoke .*key {key_id}", told)
    assert "0 rows" not in fraudengine_here("audit", "--verify", "--state", str(live.state)).stdout


def test_a_scoped_key_screens_only_for_its_merchant(live: Service) -> None:
    shop = make_key(live, "shop", "--role", "gateway", "--merchant", "carthage-market")
    other = make_key(live, "other", "--role", "gateway", "--merchant", "medina-topup")
    answer = screen(live, shop, transaction_id="scoped")
    refused = screen(live, other, transaction_id="scoped-2")
    assert (answer.status_code, refused.status_code) == (200, 403)
    assert refused.json()["errors"] == [{"field": "merchant", "problem": "is not one of the key's"}]
    address = f"{live.url}/v1/screenings/{answer.json()['screening_id']}"
    assert httpx.get(address, headers=shop).status_code == 200
    assert httpx.get(address, headers=other).status_code == 404
    assert httpx.get(f"{live.url}/v1/merchants/medina-topup/rules", headers=shop).status_code == 403
    role = httpx.get(f"{live.url}/metrics", headers=shop)
    assert (role.status_code, role.json()["type"]) == (403, "/problems/forbidden")


def test_a_test_key_can_never_touch_live(live: Service, tmp_path: Path) -> None:
    with running_service(tmp_path / "test") as test:
        headers = dict(test.client.headers)
        assert headers["authorization"].startswith("Bearer fe_test_")
        refused = screen(live, {"authorization": headers["authorization"]})
        assert refused.status_code == 401
        assert "This is a key of the `test` environment, and here is `live`" in refused.json()["detail"]
    crossed = fraudengine("serve", "--state", str(live.state), "--port", "0", FRAUDENGINE_ENVIRONMENT="test")
    assert crossed.returncode == 3
    assert "belongs to `live`" in crossed.stderr
    made = fraudengine_here("keys", "create", "x", "--role", "admin", "--state", str(live.state))
    assert made.stdout.startswith("fe_live_")


def test_an_edited_rule_file_is_in_the_audit_log(live: Service) -> None:
    path = live.rules / "merchants/sahara-travel.yaml"
    path.write_text(path.read_text() + "# edited\n")

    def told() -> list[str]:
        shown = fraudengine_here(
            "audit", "--action", "rules", "--state", str(live.state), "--format", "json"
        ).stdout
        return [json.dumps(json.loads(line)["what"]) for line in shown.splitlines()]

    wait_until(lambda: len(told()) == 2, "the edit is told of")
    assert '"merchants/sahara-travel.yaml"' in told()[0]
    assert '"platform.yaml"' in told()[1]  # the first start tells of every file


def test_every_change_of_lists_says_who_made_it(live: Service) -> None:
    """Added over HTTP by a key, removed on the command line by a user."""
    headers = make_key(live, "amel", "--role", "support", "--merchant", "carthage-market")
    address = f"{live.url}/v1/merchants/carthage-market/lists/blocked_ip_countries/entries"
    added = httpx.post(address, headers=headers, json={"value": "KP", "ticket": "SUP-1"}, timeout=30)
    assert added.status_code == 201, added.text
    shared = address.replace("carthage-market", "*")
    assert httpx.post(shared, headers=headers, json={"value": "KP"}).status_code == 403
    command = ("lists", "remove", "carthage-market", "blocked_ip_countries", "KP", "--reason", "mistake")
    removed = fraudengine_here(*command, "--state", str(live.state), "--rules", str(live.rules))
    assert removed.returncode == 0, removed.stderr
    imported = fraudengine_here(
        *("lists", "import", "carthage-market", "blocked_ip_countries", "-"),
        *("--state", str(live.state), "--rules", str(live.rules)),
        stdin="IR\nSY\n",
    )
    assert imported.returncode == 0, imported.stderr
    with AuditLog(live.state) as log:
        third, second, first = log.rows(action="lists", merchant="carthage-market")
        assert log.verify()[1] is None
    key_id = headers["authorization"].split("_")[2]
    assert (first.action, first.who) == ("lists.add", f"amel (key {key_id}) from 127.0.0.1")
    assert (first.what["list"], first.what["value"], first.what["ticket"]) == (
        "blocked_ip_countries",
        "KP",
        "SUP-1",
    )
    assert (second.action, second.who, second.what["reason"]) == ("lists.remove", operator(), "mistake")
    assert (third.action, third.what["entries"]) == ("lists.import", 2)


@pytest.mark.parametrize(("trusted", "told"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.9")])
def test_a_proxys_word_counts_only_when_it_is_trusted(tmp_path: Path, trusted: str, told: str) -> None:
    with running_service(tmp_path / "own", {"FRAUDENGINE_TRUSTED_PROXIES": trusted}) as service:
        added = service.client.post(
            "/v1/merchants/carthage-market/lists/blocked_ip_countries/entries",
            json={"value": "KP"},
            headers={"x-forwarded-for": "203.0.113.9"},
        )
        assert added.status_code == 201
        with AuditLog(service.state) as log:
            assert log.rows(action="lists")[0].who.endswith(f" from {told}")


def test_without_a_key_readiness_keeps_its_problems_to_itself(tmp_path: Path) -> None:
    with running_service(tmp_path / "own") as service:
        path = service.rules / "merchants/sahara-travel.yaml"
        path.write_text("merchant: [")
        wait_until(lambda: service.problems() != [], "the bad file is reported")
        assert "sahara-travel" in service.problems()[0]
        said = httpx.get(f"{service.url}/readyz").json()["problems"]
        assert said == ["there is something to mend (1): ask with a key to read it"]


def test_changes_of_the_card_key_are_told_of(tmp_path: Path) -> None:
    fraudengine_here("fingerprint", "--state", str(tmp_path), FRAUDENGINE_DEVELOPMENT="1")
    before = (tmp_path / "card.key").read_bytes()
    assert fraudengine_here("keys", "rotate", "--state", str(tmp_path)).returncode == 0
    with AuditLog(tmp_path) as log:
        (row,) = log.rows()
    assert (row.action, row.who) == ("card_keys.rotate", operator())
    assert before.strip() not in (tmp_path / "audit.db").read_bytes()


def test_tls(tmp_path: Path) -> None:
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(certificate, private)
    tls = {"FRAUDENGINE_SSL_CERTFILE": str(certificate), "FRAUDENGINE_SSL_KEYFILE": str(private)}
    with running_service(
        tmp_path / "own", tls | {"SSL_CERT_FILE": str(certificate)}, verify=certificate
    ) as service:
        assert service.url.startswith("https://")
        assert service.screen().status_code == 200
    wrong = tls | {"FRAUDENGINE_SSL_KEYFILE": str(certificate), "FRAUDENGINE_DEVELOPMENT": "1"}
    ended = fraudengine("serve", "--state", str(tmp_path / "var"), "--port", "0", **wrong)
    assert ended.returncode == 3
    assert "FRAUDENGINE_SSL_KEYFILE" in ended.stderr


def make_certificate(certificate: Path, private: Path) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {private} -out {certificate}"
    )
    subprocess.run(
        command.split(),
        check=True,
        capture_output=True,
    )


def test_a_host_that_others_reach_needs_a_key(tmp_path: Path) -> None:
    arguments = ("serve", "--host", "0.0.0.0", "--port", "0", "--state", str(tmp_path))
    refused = fraudengine(*arguments, FRAUDENGINE_CARD_KEY="5c" * 32)
    assert refused.returncode == 3
    assert "fraudengine keys create NAME --role gateway" in refused.stderr
