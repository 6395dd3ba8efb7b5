"""Run-time lists within one process: instants, kinds, scopes, filters, keeping up, keys, rules that wake."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine import card_keys
from fraudengine.assembly import open_screener
from fraudengine.cards import CardKey, Pan, load_card_key
from fraudengine.config import Config
from fraudengine.contacts import normalise_phone
from fraudengine.diagnostics import ConfigurationError
from fraudengine.facts import ListKind
from fraudengine.list_admin import NoFingerprint, UnknownEntry, UnknownList
from fraudengine.list_entries import ListTarget
from fraudengine.list_filter import HashFilter, IntervalFilter
from fraudengine.list_import import import_entries
from fraudengine.list_reading import ListReader
from fraudengine.list_review import DAY_US, review_entries
from fraudengine.list_store import ListStore
from fraudengine.list_values import InvalidEntry, Note, holds_card_number, read_note, read_value
from fraudengine.request import transaction_from_object
from fraudengine.rules import check_values
from fraudengine.rules.ast import DeclaredList, ListEntry, ListName
from fraudengine.runtime_lists import RuntimeLists
from fraudengine.service import Screener

ROOT = Path(__file__).parents[1]
START = 1_800_000_000_000_000
PAN, OTHER_PAN = "4111111111111111", "5555555555554444"
NOTE = Note("stolen", "SUP-1", "amina")
KINDS = {ListName(kind.value): DeclaredList(ListName(kind.value), kind) for kind in ListKind}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[ListStore]:
    with ListStore(tmp_path / "lists.db", clock) as opened:
        yield opened


@pytest.fixture
def lists(store: ListStore) -> Iterator[RuntimeLists]:
    opened = RuntimeLists(store.path, store.generation)
    yield opened
    opened.close()


def target(kind: ListKind, scope: str = "carthage-market") -> ListTarget:
    return ListTarget(scope, ListName(kind.value), kind)


def find(
    lists: RuntimeLists, kind: ListKind, value: str, as_of_us: int, scope: str = "carthage-market"
) -> ListEntry | None:
    lists.refresh()
    view = lists.of_merchant(scope, KINDS)
    return None if view is None else view.find(ListName(kind.value), value, as_of_us)


# ---- instants -------------------------------------------------------------------------------------


def test_any_past_instant_can_be_read(store: ListStore, lists: RuntimeLists, clock: Clock) -> None:
    customer = target(ListKind.CUSTOMER)
    first = store.add(customer, "c-1", NOTE, expires_us=START + 100).entry
    clock.now = START + 50
    removed = store.remove(first.id, Note("found", "SUP-2", "sami"))
    assert removed is not None
    clock.now = START + 70
    again = store.add(customer, "c-1", NOTE).entry
    found = {
        at: entry.id if (entry := find(lists, ListKind.CUSTOMER, "c-1", START + at)) else None
        for at in (-1, 0, 49, 50, 69, 70, 10**9)
    }
    assert found == {-1: None, 0: first.id, 49: first.id, 50: None, 69: None, 70: again.id, 10**9: again.id}
    kept = store.get(first.id)
    assert kept is not None
    assert (kept.removed_us, kept.removed_by, kept.removed_reason, kept.removed_ticket) == (
        START + 50,
        "sami",
        "found",
        "SUP-2",
    )


def test_entries_that_met_nothing_for_days_are_reviewed(store: ListStore, clock: Clock) -> None:
    never = store.add(target(ListKind.EMAIL), "never@b.tn", NOTE).entry
    long_ago = store.add(target(ListKind.EMAIL), "long-ago@b.tn", NOTE).entry
    lately = store.add(target(ListKind.EMAIL), "lately@b.tn", NOTE).entry
    removed = store.add(target(ListKind.EMAIL), "removed@b.tn", NOTE).entry
    store.remove(removed.id, NOTE)
    clock.now = START + 40 * DAY_US
    young = store.add(target(ListKind.EMAIL), "young@b.tn", NOTE).entry
    store.note_matches({long_ago.id: START + 10 * DAY_US - 1, lately.id: START + 10 * DAY_US}, {})
    with ListReader(store.path) as reader:
        found = review_entries(reader, {}, clock.now, unused_days=30, expiring_days=14)
    assert [(row.why, row.entry.id, row.last_us) for row in found] == [
        ("unused", never.id, None),
        ("unused", long_ago.id, START + 10 * DAY_US - 1),
    ]
    assert young.id not in {row.entry.id for row in found}


def test_an_entry_ends_at_the_instant_it_expires(store: ListStore, lists: RuntimeLists) -> None:
    store.add(target(ListKind.EMAIL), "a@b.tn", NOTE, expires_us=START + 10)
    assert find(lists, ListKind.EMAIL, "a@b.tn", START + 9) is not None
    assert find(lists, ListKind.EMAIL, "a@b.tn", START + 10) is None


def test_the_same_value_twice_answers_the_entry_that_is_there(store: ListStore, clock: Clock) -> None:
    first = store.add(target(ListKind.DEVICE), "d", NOTE, expires_us=START + 10)
    second = store.add(target(ListKind.DEVICE), "d", Note("other", "", ""))
    assert (first.created, second.created, second.entry) == (True, False, first.entry)
    clock.now = START + 10
    assert store.add(target(ListKind.DEVICE), "d", NOTE).created


def test_a_clock_that_steps_back_changes_no_past_instant(
    store: ListStore, lists: RuntimeLists, clock: Clock
) -> None:
    store.add(target(ListKind.DEVICE), "d", NOTE)
    clock.now -= 10_000_000
    store.add(target(ListKind.DEVICE), "e", NOTE)
    assert find(lists, ListKind.DEVICE, "e", START) is None
    assert find(lists, ListKind.DEVICE, "e", lists.newest_us) is not None


def test_a_removed_entry_stays_as_it_was_removed(store: ListStore, clock: Clock) -> None:
    entry = store.add(target(ListKind.DEVICE), "d", NOTE).entry
    first = store.remove(entry.id, Note("one", "", "x"))
    clock.now += 5
    assert store.remove(entry.id, Note("two", "", "y")) == first
    assert store.remove(99, NOTE) is None


# ---- kinds and scopes -----------------------------------------------------------------------------


def test_the_narrowest_network_counts(store: ListStore, lists: RuntimeLists) -> None:
    for network in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32", "2001:db8::1/128"):
        store.add(target(ListKind.IP), network, NOTE)
    held = {
        address: entry.value if (entry := find(lists, ListKind.IP, address, START + 99)) else None
        for address in ("10.1.2.3", "10.1.2.4", "10.9.9.9", "11.0.0.0", "2001:db8::1", "2001:db8::2", "2001:db9::")
    }
    assert held == {
        "10.1.2.3": "10.1.2.3/32",
        "10.1.2.4": "10.1.0.0/16",
        "10.9.9.9": "10.0.0.0/8",
        "11.0.0.0": None,
        "2001:db8::1": "2001:db8::1/128",
        "2001:db8::2": "2001:db8::/32",
        "2001:db9::": None,
    }


def test_overlapping_networks_are_told(store: ListStore) -> None:
    ip = target(ListKind.IP)
    assert store.add(ip, "10.1.0.0/16", NOTE).overlaps == ()
    assert store.add(ip, "10.0.0.0/8", NOTE).overlaps == ("10.1.0.0/16",)
    assert store.add(ip, "10.1.2.0/24", NOTE).overlaps == ("10.0.0.0/8", "10.1.0.0/16")
    assert store.add(ip, "11.0.0.0/8", NOTE).overlaps == ()
    assert store.add(ip, "2001:db8::1/128", NOTE).overlaps == ()
    assert store.add(ip, "2001:db8::2/128", NOTE).overlaps == ()


def test_the_longest_bin_counts(store: ListStore, lists: RuntimeLists) -> None:
    for digits in ("411111", "41111122", "41111122333"):
        store.add(target(ListKind.BIN), digits, NOTE)
    held = [
        find(lists, ListKind.BIN, digits, START + 99) for digits in ("41111122333", "41111122", "411111", "41111")
    ]
    assert [entry.value if entry else None for entry in held] == ["41111122333", "41111122", "411111", None]


def test_a_merchants_own_entry_comes_before_the_one_for_all(store: ListStore, lists: RuntimeLists) -> None:
    store.add(target(ListKind.CUSTOMER, "*"), "c", Note("all"))
    assert find(lists, ListKind.CUSTOMER, "c", START + 9, "medina-topup") is not None
    store.add(target(ListKind.CUSTOMER), "c", Note("own"))
    own, other = (find(lists, ListKind.CUSTOMER, "c", START + 99, scope) for scope in ("carthage-market", "x"))
    assert own is not None
    assert other is not None
    assert (own.reason, own.scope, other.reason, other.scope) == ("own", "carthage-market", "all", "*")


def test_entries_of_another_kind_of_the_same_name_are_not_met(store: ListStore, lists: RuntimeLists) -> None:
    store.add(ListTarget("carthage-market", ListName("customer"), ListKind.DEVICE), "c", NOTE)
    assert find(lists, ListKind.CUSTOMER, "c", START + 9) is None


# ---- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (ListKind.EMAIL, " Amina+Shop@Example.TN ", "amina+shop@example.tn"),
        (ListKind.EMAIL_DOMAIN, "@Example.TN", "example.tn"),
        (ListKind.PHONE, "71 123 456", "+21671123456"),
        (ListKind.PHONE, "00216 71 123 456", "+21671123456"),
        (ListKind.PHONE, "+33 (0)6 12 34 56 78", "+33612345678"),
        (ListKind.IP, "41.226.11.9", "41.226.11.9/32"),
        (ListKind.IP, "::ffff:10.0.0.0/104", "10.0.0.0/8"),
        (ListKind.IP, "2001:DB8::/32", "2001:db8::/32"),
        (ListKind.COUNTRY, "NO", "NO"),
        (ListKind.BIN, "411111", "411111"),
        (ListKind.BIN, "41111111111", "41111111111"),
        (ListKind.CUSTOMER, "C-77", "C-77"),
    ],
)
def test_values_are_normalised(kind: ListKind, text: str, value: str) -> None:
    assert read_value(kind, text) == value
    assert read_value(kind, value) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ListKind.CARD, PAN),
        (ListKind.CARD, "4111 1111 1111 1111"),
        (ListKind.CARD, "4111.1111.1111.1111"),
        (ListKind.CARD, "4111111111111112"),
        (ListKind.CUSTOMER, f"c {PAN}"),
        (ListKind.DEVICE, "4111/1111/1111/1111"),
        (ListKind.EMAIL, f"{PAN}@example.tn"),
        (ListKind.PHONE, PAN),
        (ListKind.PHONE, "+(3782) 822463 10005"),
        (ListKind.BIN, "41111"),
        (ListKind.BIN, "411111111111"),
        (ListKind.COUNTRY, "XX"),
        (ListKind.COUNTRY, "tn"),
        (ListKind.IP, "10.0.0.1/8"),
        (ListKind.IP, "fe80::1%eth0"),
        (ListKind.EMAIL, "nobody"),
        (ListKind.PHONE, "12"),
        (ListKind.DEVICE, " "),
        (ListKind.DEVICE, "a\nb"),
    ],
)
def test_bad_values_are_refused_without_repeating_card_numbers(kind: ListKind, text: str) -> None:
    with pytest.raises(InvalidEntry) as refused:
        read_value(kind, text)
    assert "1111" not in str(refused.value)


MISTYPED = [
    (ListKind.EMAIL, "“x@y.tn”"),
    (ListKind.EMAIL, "«x@y.tn»"),
    (ListKind.EMAIL, "'x@y.tn'"),
    (ListKind.EMAIL, "x@y.tn’"),
    (ListKind.EMAIL, "mailto:x@y.tn"),
    (ListKind.EMAIL, "<x@y.tn>"),
    (ListKind.EMAIL, "*@y.tn"),
    (ListKind.EMAIL, "x@y.tn;"),
    (ListKind.EMAIL_DOMAIN, "“y.tn”"),
    (ListKind.EMAIL_DOMAIN, "https://y.tn"),
    (ListKind.EMAIL_DOMAIN, "y.tn/shop"),
    (ListKind.EMAIL_DOMAIN, "*.y.tn"),
    (ListKind.EMAIL_DOMAIN, "y.tn, z.tn"),
    (ListKind.CUSTOMER, "c-1 "),
    (ListKind.CUSTOMER, "\u00a0c-1"),
    (ListKind.CUSTOMER, "“c-1”"),
    (ListKind.CUSTOMER, "c-1”"),
    (ListKind.CUSTOMER, "'00123"),
    (ListKind.CUSTOMER, "c-1\tc-2"),
    (ListKind.DEVICE, '"d-1"'),
]


@pytest.mark.parametrize(("kind", "text"), MISTYPED)
def test_values_that_no_payment_can_have_are_refused(kind: ListKind, text: str) -> None:
    with pytest.raises(InvalidEntry) as refused:
        read_value(kind, text)
    assert text.strip() not in str(refused.value)
    assert isinstance(check_values.LIST_READERS[kind](text), check_values.Wrong)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ListKind.EMAIL, "o'brien@y.tn"),
        (ListKind.EMAIL, '"j..d"@y.tn'),
        (ListKind.EMAIL, "a/b*c@y.tn"),
        (ListKind.EMAIL_DOMAIN, "متجر.تونس"),
        (ListKind.CUSTOMER, "O'Brien"),
        (ListKind.CUSTOMER, "Les Amis'"),
        (ListKind.CUSTOMER, "'t Hof"),
        (ListKind.CUSTOMER, 'Société "Amal"'),
        (ListKind.CUSTOMER, '"A" and "B"'),
        (ListKind.CUSTOMER, "Amal; Tunis"),
        (ListKind.DEVICE, "*a/b c*"),
    ],
)
def test_unusual_values_are_taken(kind: ListKind, text: str) -> None:
    assert read_value(kind, text) == text
    assert check_values.LIST_READERS[kind](text) == text


def test_a_mistyped_value_that_is_kept_already_can_be_named_to_remove_it() -> None:
    assert read_value(ListKind.CUSTOMER, " “c-1”", is_new=False) == " “c-1”"


@pytest.mark.parametrize("name", ["reason", "ticket", "author"])
def test_notes_hold_no_card_number(name: str) -> None:
    with pytest.raises(InvalidEntry, match=name):
        read_note(**{name: f"card {PAN} stolen"})
    with pytest.raises(InvalidEntry, match=name):
        read_note(**{name: "x" * 257})


@given(st.sampled_from(["71 123 456", "+216 71123456", "+33 6 12 34 56 78", "+4420 7946 0958", "+1 650-253-0000"]))
def test_requests_and_lists_read_the_same_telephone(text: str) -> None:
    described = {
        "merchant": "m",
        "transaction_id": "t",
        "amount": "1",
        "currency": "TND",
        "phone": text,
        "email": "A+b@C.tn",
    }
    transaction, _ = transaction_from_object(described, CardKey(b"k" * 32), START)
    assert transaction.phone == read_value(ListKind.PHONE, text) == normalise_phone(text)
    assert transaction.email == read_value(ListKind.EMAIL, "A+b@C.tn")


@given(st.text())
def test_looking_for_card_numbers_never_fails(text: str) -> None:
    holds_card_number(text)


# ---- filters --------------------------------------------------------------------------------------

_spans = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))))


@given(_spans, _spans)
def test_intervals_hold_what_was_put_into_them(loaded: list[tuple[int, int]], added: list[tuple[int, int]]) -> None:
    intervals = IntervalFilter(sorted(loaded))
    for low, high in added:
        intervals.add(low, high)
    for number in range(-60, 70):
        assert intervals.holds(number) is any(low <= number <= high for low, high in loaded + added)


@given(st.sets(st.integers(-(2**63), 2**63 - 1)), st.sets(st.integers(-(2**63), 2**63 - 1)))
def test_hashes_hold_what_was_put_into_them(loaded: set[int], added: set[int]) -> None:
    hashes = HashFilter(sorted(loaded))
    for number in added:
        hashes.add(number)
    assert all(map(hashes.holds, loaded | added))
    assert not hashes.holds(7) or 7 in loaded | added


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 3), st.integers(1, 5)), max_size=25))
def test_run_time_lists_agree_with_a_plain_model(tmp_path: Path, steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    model: list[list[Any]] = []  # [value, added, expires, removed]
    with ListStore(tmp_path / secrets.token_hex(4) / "lists.db", clock) as store:
        lists = RuntimeLists(store.path, store.generation)
        try:
            for what, value, length in steps:
                clock.now += 3
                held = [row for row in model if row[0] == value and row[2] > clock.now and row[3] is None]
                if what == "add":
                    created = store.add(target(ListKind.DEVICE), f"d{value}", NOTE, clock.now + length * 4).created
                    assert created is not bool(held)
                    if created:
                        model.append([value, clock.now, clock.now + length * 4, None])
                elif held:
                    entry = next(
                        e for e in store.find(target(ListKind.DEVICE), f"d{value}") if e.in_force(clock.now)
                    )
                    store.remove(entry.id, NOTE)
                    held[0][3] = clock.now
                for at in range(START, clock.now + 20, 2):
                    for each in range(4):
                        expected = any(
                            row[0] == each and row[1] <= at < row[2] and (row[3] is None or at < row[3])
                            for row in model
                        )
                        assert (find(lists, ListKind.DEVICE, f"d{each}", at) is not None) is expected
        finally:
            lists.close()


# ---- keeping up -----------------------------------------------------------------------------------


def test_a_number_lost_by_a_killed_writer_is_published_by_the_next(
    store: ListStore, lists: RuntimeLists, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.generation, "publish", lambda change: None)  # kill -9 between commit and publishing
    store.add(target(ListKind.DEVICE), "d", NOTE)
    assert find(lists, ListKind.DEVICE, "d", START + 9) is None
    with ListStore(store.path, clock):
        assert find(lists, ListKind.DEVICE, "d", START + 9) is not None


def test_the_watch_finds_a_lost_number_too(
    store: ListStore, lists: RuntimeLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.generation, "publish", lambda change: None)
    store.add(target(ListKind.DEVICE), "d", NOTE)
    lists.look_after()
    assert find(lists, ListKind.DEVICE, "d", START + 9) is not None


def test_a_large_import_counts_at_once_and_is_taken_in_by_a_thread(store: ListStore, lists: RuntimeLists) -> None:
    report = import_entries(store, target(ListKind.DEVICE), [b"".join(b"d%d\n" % n for n in range(3000))], NOTE)
    assert report.added == 3000
    assert find(lists, ListKind.DEVICE, "d2999", START + 9) is not None
    assert find(lists, ListKind.DEVICE, "d3000", START + 9) is None
    for thread in threading.enumerate():
        if thread.name == "load-lists":
            thread.join()
    store.add(target(ListKind.DEVICE), "late", NOTE)
    for value, is_held in (("d0", True), ("late", True), ("none", False)):
        assert (find(lists, ListKind.DEVICE, value, START + 9) is not None) is is_held
    assert not lists.is_loading


def test_a_large_import_of_networks_is_found(store: ListStore, lists: RuntimeLists) -> None:
    text = b"".join(b"10.%d.%d.0/24\n" % (n // 256, n % 256) for n in range(2000)) + b"10.0.0.0/16\n"
    import_entries(store, target(ListKind.IP), [text], NOTE)
    for _ in range(2):
        held = find(lists, ListKind.IP, "10.7.9.1", START + 9)
        assert held is not None
        assert held.value == "10.7.9.0/24"
        assert find(lists, ListKind.IP, "11.0.0.1", START + 9) is None
        for thread in threading.enumerate():
            if thread.name == "load-lists":
                thread.join()


def test_a_re_keyed_entry_is_found_under_both_keys(store: ListStore, lists: RuntimeLists) -> None:
    old, new = CardKey(b"o" * 32), CardKey(b"n" * 32)
    before, after = (Pan.parse(PAN).fingerprint(key) for key in (old, new))
    entry = store.add(target(ListKind.CARD), before, NOTE).entry
    assert store.rekey(entry.id, after)
    assert not store.rekey(entry.id, after)
    for fingerprint in (before, after):
        held = find(lists, ListKind.CARD, fingerprint, START + 9)
        assert held is not None
        assert (held.id, held.value) == (entry.id, after)
    reopened = RuntimeLists(store.path, store.generation)
    try:
        assert find(reopened, ListKind.CARD, before, START + 9) is not None
    finally:
        reopened.close()


# ---- with the screener ----------------------------------------------------------------------------


def payment(number: int, merchant: str = "sahara-travel", pan: str = PAN, **changes: Any) -> dict[str, Any]:
    return {
        "merchant": merchant,
        "transaction_id": f"T-{number}",
        "amount": "50.000",
        "currency": "TND",
        "card": {"pan": pan, "country": "TN"},
        "ip_address": "41.226.11.9",
        **changes,
    }


@pytest.fixture
def screener(tmp_path: Path) -> Iterator[Screener]:
    config = Config(rules=ROOT / "rules", state=tmp_path / "var", data=ROOT / "data", development=True)
    opened = open_screener(config)
    yield opened
    opened.close()


def admin(screener: Screener) -> Any:
    assert screener.list_admin is not None
    return screener.list_admin


def screen(screener: Screener, described: dict[str, Any]) -> dict[str, Any]:
    now_us = admin(screener).lists.clock_us()
    transaction, digest = transaction_from_object(described, screener.card_key, now_us)
    answer: dict[str, Any] = json.loads(screener.screen_and_wait(transaction, digest, 0))
    return answer


def test_the_card_of_a_screening_is_blacklisted_and_says_why(screener: Screener) -> None:
    given = screen(screener, payment(1, "carthage-market"))
    assert given["decision"] == "accept"
    document = screener.screening(given["screening_id"])
    listed = admin(screener).blacklist(document, reason="stolen", ticket="SUP-1107", author="amina")
    assert listed.created
    assert not admin(screener).blacklist(document, reason="again").created
    refused = screen(screener, payment(2, "carthage-market"))
    assert (refused["decision"], refused["reason"]["code"]) == ("refuse", "CARD_BLACKLISTED")
    (because,) = refused["matches"][0]["because"]
    assert {name: because["entry"][name] for name in ("id", "list", "source", "reason", "ticket", "author")} == {
        "id": listed.entry.id,
        "list": "blacklist",
        "source": "run-time",
        "reason": "stolen",
        "ticket": "SUP-1107",
        "author": "amina",
    }
    assert because["entry"]["added"].startswith("20")
    assert screen(screener, payment(3, "medina-topup", amount="5.000"))["decision"] == "accept"  # another merchant
    admin(screener).remove("carthage-market", "blacklist", entry_id=listed.entry.id, reason="found")
    assert screen(screener, payment(4, "carthage-market"))["decision"] == "accept"


def test_a_gateway_whose_clock_is_rounded_or_late_meets_a_new_entry(screener: Screener) -> None:
    admin(screener).add("carthage-market", "blacklist", pan=PAN)
    now_s = admin(screener).lists.clock_us() // 1_000_000
    for number, late in enumerate((1, 3600)):
        from datetime import UTC, datetime

        at = datetime.fromtimestamp(now_s - late, UTC).isoformat()
        assert screen(screener, payment(number, "carthage-market", at=at))["decision"] == "refuse"
    assert screen(screener, payment(9, "carthage-market", at="2026-01-05T10:00:00Z"))["decision"] == "accept"


def test_a_masked_number_cannot_be_blacklisted(screener: Screener) -> None:
    given = screen(screener, payment(1, "carthage-market") | {"card": {"masked_pan": "411111******1111"}})
    with pytest.raises(NoFingerprint, match="masked"):
        admin(screener).blacklist(screener.screening(given["screening_id"]))
    without = payment(2, "carthage-market")
    del without["card"]
    with pytest.raises(NoFingerprint, match="no card"):
        admin(screener).blacklist(screener.screening(screen(screener, without)["screening_id"]))


def test_a_rule_wakes_when_its_list_is_filled_and_sleeps_when_it_is_emptied(screener: Screener) -> None:
    def mode(merchant: str) -> str:
        return next(r.mode.value for r in screener.rule_set(merchant).rules if r.id == "ip-country-not-allowed")

    abroad = {"ip_address": "8.8.8.8"}
    assert mode("yasmine-donations") == "off"
    entry = admin(screener).add("yasmine-donations", "allowed_ip_countries", value="TN").entry
    assert screen(screener, payment(1, "yasmine-donations", **abroad))["reason"]["code"] == "IP_COUNTRY_NOT_ALLOWED"
    assert screen(screener, payment(2, "yasmine-donations"))["decision"] == "accept"
    assert (mode("yasmine-donations"), mode("medina-topup")) == ("live", "off")
    admin(screener).remove("yasmine-donations", "allowed_ip_countries", entry_id=entry.id)
    assert screen(screener, payment(3, "yasmine-donations", **abroad))["decision"] == "accept"
    assert mode("yasmine-donations") == "off"
    admin(screener).add("*", "allowed_ip_countries", value="TN")
    assert screen(screener, payment(4, "medina-topup", amount="5.000", **abroad))["decision"] == "refuse"


def test_trust_lets_through_what_is_refused_but_not_what_is_refused_finally(screener: Screener) -> None:
    large = {"amount": "2500.000"}
    assert screen(screener, payment(1, "carthage-market", **large))["decision"] == "refuse"
    admin(screener).add("carthage-market", "trusted_cards", pan=PAN)
    trusted = screen(screener, payment(2, "carthage-market", **large))
    assert (trusted["decision"], trusted["reason"]["code"]) == ("accept", "TRUSTED_CARD")
    admin(screener).add("carthage-market", "trusted_customers", value="c-1")
    customer = payment(3, "carthage-market", OTHER_PAN, customer_id="c-1", **large)
    assert screen(screener, customer)["reason"]["code"] == "TRUSTED_CUSTOMER"
    admin(screener).add("carthage-market", "blacklist", pan=PAN)
    assert screen(screener, payment(4, "carthage-market", **large))["reason"]["code"] == "CARD_BLACKLISTED"


def test_bins_of_eleven_digits_are_met_and_not_recorded(screener: Screener) -> None:
    admin(screener).add("carthage-market", "blocked_bins", value="41111111111")
    refused = screen(screener, payment(1, "carthage-market"))
    assert refused["reason"]["code"] == "BIN_BLOCKED"
    assert refused["matches"][0]["because"][0]["entry"]["value"] == "41111111…"
    assert b"41111111111" not in (screener.screening(refused["screening_id"]) or b"")
    assert screen(screener, payment(2, "carthage-market", "4111111111111111"))["decision"] == "refuse"


def test_only_declared_lists_can_be_filled(screener: Screener) -> None:
    with pytest.raises(UnknownList, match="blacklist"):
        admin(screener).add("carthage-market", "blaklist", pan=PAN)
    with pytest.raises(UnknownList):
        admin(screener).target("carthage-market", "embargoed_countries")  # a shared list that it does not read
    assert admin(screener).target("*", "embargoed_countries")[0].is_shared
    admin(screener).add("*", "embargoed_countries", value="CU")
    assert (
        screen(screener, payment(1, ip_address=None, billing_country="CU"))["reason"]["code"] == "EMBARGOED_COUNTRY"
    )
    with pytest.raises(UnknownEntry, match="rule files"):
        admin(screener).remove("sahara-travel", "blocked_ip_countries", value="NG")


@pytest.mark.parametrize(
    "expires", ["2020-01-01", "2020-01-01T00:00:00Z", "tomorrow", "2027-13-01", "2027-01-01T00:00"]
)
def test_an_expiry_in_the_past_or_unreadable_is_refused(screener: Screener, expires: str) -> None:
    with pytest.raises(InvalidEntry, match="expires"):
        admin(screener).add("carthage-market", "blacklist", pan=PAN, expires=expires)


@pytest.mark.parametrize("merchant", ["carthage-market", "*"])
def test_a_date_of_expiry_means_what_it_means_in_a_rule_file(screener: Screener, merchant: str) -> None:
    added = admin(screener).add(merchant, "blocked_customers", value="c-1", expires="2199-02-01")
    timed = admin(screener).add(merchant, "blocked_customers", value="c-2", expires="2199-02-01T00:00:00Z")
    in_rule_file = check_values.instant("2199-02-01", "Africa/Tunis")
    assert added.entry.expires_us == in_rule_file == timed.entry.expires_us - 3_600_000_000


def test_files_and_run_time_are_one_list(screener: Screener) -> None:
    added = admin(screener).add("sahara-travel", "blocked_card_countries", value="NG")
    assert added.warnings == ("the rule files hold this value in the same list",)
    admin(screener).add("sahara-travel", "blocked_card_countries", value="KP")
    first = admin(screener).page("sahara-travel", "blocked_card_countries", limit=1)
    rest = admin(screener).page("sahara-travel", "blocked_card_countries", limit=9, cursor=first.next)
    assert [entry["value"] for entry in first.entries + rest.entries] == ["NG", "NG", "KP"]
    assert "sahara-travel.yaml:" in first.entries[0]["source"]
    assert [entry["source"] for entry in rest.entries] == ["run-time", "run-time"]
    assert rest.next is None
    found = admin(screener).page("sahara-travel", "blocked_card_countries", search="chargeb")
    assert [entry["value"] for entry in found.entries] == ["NG"]
    with pytest.raises(InvalidEntry, match="search"):
        admin(screener).page("sahara-travel", "blocked_card_countries", search=PAN)


# ---- keys -----------------------------------------------------------------------------------------


def test_two_keys_are_live_and_entries_move_as_cards_are_seen(tmp_path: Path) -> None:
    config = Config(rules=ROOT / "rules", state=tmp_path / "var", data=ROOT / "data", development=True)
    first = open_screener(config)
    try:
        old = admin(first).add("carthage-market", "blacklist", pan=PAN).entry
        admin(first).add("carthage-market", "blacklist", pan=OTHER_PAN)
    finally:
        first.close()
    key = card_keys.rotate(config.key_file)
    assert key.former is not None
    assert (config.key_file.stat().st_mode & 0o777, old.key_id) == (0o600, key.former.id)
    with pytest.raises(ConfigurationError, match="two card keys"):
        card_keys.rotate(config.key_file)
    second = open_screener(config)
    try:
        refused = screen(second, payment(1, "carthage-market"))
        assert refused["reason"]["code"] == "CARD_BLACKLISTED"
        assert not admin(second).add("carthage-market", "blacklist", pan=OTHER_PAN).created
        assert screen(second, payment(2, "carthage-market", "4000000000000002"))["decision"] == "accept"
    finally:
        second.close()
    third = open_screener(config)
    try:
        moved = admin(third).lists.get(old.id)
        assert (moved.key_id, moved.former_value) == (key.id, old.value)
        given = screen(third, payment(3, "carthage-market") | {"card": {"fingerprint": old.value}})
        assert given["reason"]["code"] == "CARD_BLACKLISTED"  # the fingerprint under the key before finds it still
    finally:
        third.close()
    assert card_keys.retire(config.key_file).former is None
    with pytest.raises(ConfigurationError, match="only one"):
        card_keys.retire(config.key_file)


def test_the_watch_takes_up_a_new_key_and_keeps_the_last_good_one(tmp_path: Path) -> None:
    path = tmp_path / "card.key"

    def load() -> CardKey:
        return load_card_key({}, path, create_development_key=True).key

    first = load()
    watch = card_keys.KeyWatch(path, load, first)
    assert watch.current() is first
    rotated = card_keys.rotate(path)
    assert (watch.current().id, watch.current().former is not None) == (rotated.id, True)
    path.chmod(0o644)
    os.utime(path, ns=(1, 1))
    assert watch.current().id == rotated.id
    assert "chmod 600" in watch.problem


def test_two_keys_in_the_environment() -> None:
    new, old = "ab" * 32, "cd" * 32
    key = load_card_key({"FRAUDENGINE_CARD_KEY": f"{new},{old}"}, None, create_development_key=False).key
    assert key.former is not None
    assert (key.id, key.former.id) == (CardKey(b"\xab" * 32).id, CardKey(b"\xcd" * 32).id)
    with pytest.raises(ConfigurationError, match="at most two"):
        load_card_key({"FRAUDENGINE_CARD_KEY": f"{new} {old} {new}"}, None, create_development_key=False)
