"""Search of the decision log: the same answers with an index, behind one, and without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fraudengine import log_search
from fraudengine.access import AccessKeys, Role
from fraudengine.audit import AuditLog
from fraudengine.config import Config
from fraudengine.environment import environment_of
from fraudengine.log_search import LogSearch, Search
from fraudengine.search_index import SETTLED_US, SearchIndex

from .command_line import fraudengine_here
from .running import running_service
from .searched_log import (
    COUNT,
    SEARCHES,
    START_US,
    STEP_US,
    every_page,
    expected,
    make_log,
    with_small_runs,
)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_log(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module", autouse=True)
def small_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        with_small_runs(patch)
        yield


@pytest.fixture(scope="module", params=["no index", "behind", "all"])
def indexed(request: pytest.FixtureRequest, state: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("indexed")
    shutil.copy(state / "decisions.db", made)
    if request.param != "no index":
        reached = START_US + (COUNT if request.param == "all" else 900) * STEP_US
        index = SearchIndex.claim(made, lambda: reached + SETTLED_US + 1_000)
        assert index is not None
        with index:
            while index.step(2):
                pass
    return made


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
def test_every_search_finds_what_reading_the_whole_log_finds(indexed: Path, search: Search) -> None:
    for limit in (17, 1_000):
        assert every_page(indexed, search, limit) == expected(indexed, search)


def test_a_search_for_what_is_absent_is_bounded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call looks at a bounded number of rows and says how far back it got; the next goes on there."""
    monkeypatch.setattr(log_search, "EXAMINED", 300)
    absent = Search(outcome="accept", code="CARD_BLACKLISTED")
    with LogSearch(state) as reader:
        page, calls = reader.find(replace(absent), 10), 1
        while page.next is not None:
            assert not page.found
            page, calls = reader.find(replace(absent, before=page.next), 10), calls + 1
    assert COUNT // 600 <= calls <= COUNT // 250


# ---- over HTTP and from the command line ------------------------------------------------------------


def test_a_search_over_http_is_scoped_paged_and_takes_no_card_number(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        made = [service.screen(transaction_id=f"T-{number}", order_ref=f"C-{number}").json() for number in range(5)]
        service.screen(merchant="sahara-travel", transaction_id="T-0", currency="EUR", amount="10.00")
        first = service.client.get("/v1/screenings", params={"merchant": "carthage-market", "limit": 3}).json()
        assert [one["transaction_id"] for one in first["screenings"]] == ["T-4", "T-3", "T-2"]
        following = {"merchant": "carthage-market", "limit": 3, "before": first["next"]}
        second = service.client.get("/v1/screenings", params=following).json()
        assert [one["screening_id"] for one in second["screenings"]] == [
            made[1]["screening_id"],
            made[0]["screening_id"],
        ]
        assert second["next"] is None
        whole = service.client.get(f"/v1/screenings/{made[0]['screening_id']}").json()
        card = whole["transaction"]["card"]["fingerprint"]
        for asked, count in (
            ({"order_ref": "C-3"}, 1),
            ({"card": card}, 6),
            ({"card": card, "merchant": "sahara-travel"}, 1),
            ({"transaction_id": "T-0"}, 2),
            ({"since": "2099-01-01"}, 0),
            ({"code": made[0]["reason"]["code"], "outcome": made[0]["decision"], "merchant": "carthage-market"}, 5),
        ):
            found = service.client.get("/v1/screenings", params=asked).json()
            assert len(found["screenings"]) == count, asked
        for wrong in ("card=4111111111111111", "order_ref=4111111111111111", "since=x", "before=x", "limit=0"):
            refused = service.client.get(f"/v1/screenings?{wrong}")
            assert refused.status_code == 422, wrong
            assert "4111111111111111" not in refused.text
        twice = service.client.get("/v1/screenings?merchant=carthage-market&merchant=sahara-travel")
        assert twice.status_code == 422

        with AuditLog(service.state) as audit:
            environment = environment_of(Config(state=service.state))
            with AccessKeys(service.state, environment, audit) as keys:
                key, _ = keys.create("s", Role.SUPPORT, by="tests", merchants=("sahara-travel",))
        scoped = {"authorization": f"Bearer {key}"}
        for params, status in (
            ({"merchant": "sahara-travel"}, 200),
            ({"merchant": "carthage-market"}, 403),
            ({}, 403),
        ):
            assert service.client.get("/v1/screenings", params=params, headers=scoped).status_code == status

        state = {"FRAUDENGINE_STATE": str(service.state), "FRAUDENGINE_DEVELOPMENT": "1"}
        by_card = fraudengine_here("log", "search", "--card", "-", stdin="4111 1111 1111 1111\n", **state)
        assert by_card.stdout.count("scr_") == 6
        told = fraudengine_here("log", "search", "--order", "C-3", "--format", "json", **state)
        assert json.loads(told.stdout)["transaction_id"] == "T-3"
        argument = fraudengine_here("log", "search", "--card", "4111111111111111", **state)
        assert argument.returncode == 2
        assert "4111111111111111" not in argument.stdout + argument.stderr
