"""Imports of list entries: what a CSV may look like, every wrong line named, all or nothing, also under kill -9."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudengine.cards import CardKey, Pan
from fraudengine.facts import ListKind
from fraudengine.list_entries import ListTarget
from fraudengine.list_import import ImportRefused, ListImport, import_entries
from fraudengine.list_reading import ListReader
from fraudengine.list_store import ListStore
from fraudengine.list_values import Note
from fraudengine.rules.ast import ListName

PAN = "4111111111111111"
KEY = CardKey(b"k" * 32)
CARDS = ListTarget("carthage-market", ListName("blacklist"), ListKind.CARD)
EMAILS = ListTarget("carthage-market", ListName("blocked_emails"), ListKind.EMAIL)
COUNTRIES = ListTarget("*", ListName("blocked_ip_countries"), ListKind.COUNTRY)
CUSTOMERS = ListTarget("carthage-market", ListName("blocked_customers"), ListKind.CUSTOMER)
NETWORKS = ListTarget("*", ListName("blocked_ips"), ListKind.IP)
FINGERPRINT = Pan.parse(PAN).fingerprint(KEY)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ListStore]:
    with ListStore(tmp_path / "lists.db") as opened:
        yield opened


def entries(store: ListStore, target: ListTarget) -> list[tuple[str, str, str, str]]:
    with ListReader(store.path) as reader:
        found = reader.page(target, limit=1000)
    return sorted((entry.value, entry.reason, entry.ticket, entry.author) for entry in found)


@pytest.mark.parametrize(
    "text",
    [
        b"a@b.tn\nc@d.tn\n",
        b"a@b.tn\nc@d.tn",
        b"\xef\xbb\xbfa@b.tn\r\nC@D.tn\r\n",
        b"value\na@b.tn\n\nc@d.tn\n",
        b'\xef\xbb\xbfvalue,reason\r\n"a@b.tn","two, or three"\r\nc@d.tn,\r\n',
        b"reason;value;expires\nx;a@b.tn;2099-01-01\n;c@d.tn;\n",
        b"value\treason\na@b.tn\tx\nc@d.tn\n",
        b"a@b.tn\nA@B.tn\nc@d.tn\n",
    ],
)
def test_forms_that_are_read(store: ListStore, text: bytes) -> None:
    for chunk in (1, 7, 4096):
        pieces = [text[at : at + chunk] for at in range(0, len(text), chunk)]
        import_entries(store, EMAILS, pieces, Note())
    assert [row[0] for row in entries(store, EMAILS)] == ["a@b.tn", "c@d.tn"]


@pytest.mark.parametrize(
    ("target", "text", "rows"),
    [
        (CUSTOMERS, "valeur,raison\nc-1,fraude\n", [("c-1", "fraude", "", "")]),
        (CUSTOMERS, "Motif;Numéro de ticket;Client\nfraude;T-1;c-1\n", [("c-1", "fraude", "T-1", "")]),
        (CUSTOMERS, "customer,added by\nc-1,amina\n", [("c-1", "", "", "amina")]),
        (CUSTOMERS, "value,raison\nvaleur,x\n", [("valeur", "x", "", "")]),
        (CUSTOMERS, "value\nclient\n", [("client", "", "", "")]),
        (CUSTOMERS, "client,stolen goods\n", [("client", "stolen goods", "", "")]),
        (CUSTOMERS, "c-1,raison,ticket\n", [("c-1", "raison", "ticket", "")]),
        (CUSTOMERS, "c-1\nclient\n", [("c-1", "", "", ""), ("client", "", "", "")]),
        (EMAILS, "Adresse e-mail\na@b.tn\n", [("a@b.tn", "", "", "")]),
        (EMAILS, "blocked_emails\na@b.tn\n", [("a@b.tn", "", "", "")]),
        (COUNTRIES, "ip_country;raison\nTN;x\n", [("TN", "x", "", "")]),
        (COUNTRIES, "BY\nID\n", [("BY", "", "", ""), ("ID", "", "", "")]),
        (COUNTRIES, "BY,ticket\n", [("BY", "ticket", "", "")]),
        (CARDS, f"numéro de carte\n{PAN}\n", [(FINGERPRINT, "", "", "")]),
        (CARDS, f"card,reason\n{FINGERPRINT},x\n", [(FINGERPRINT, "x", "", "")]),
        (CARDS, f"empreinte\n{FINGERPRINT}\n", [(FINGERPRINT, "", "", "")]),
    ],
)
def test_headings_in_other_words(
    store: ListStore, target: ListTarget, text: str, rows: list[tuple[str, str, str, str]]
) -> None:
    import_entries(store, target, [text.encode()], Note(), key=KEY)
    assert entries(store, target) == rows


@pytest.mark.parametrize("line", ["customer", "valeur", "Téléphone,raison", "client,couleur,raison", "client,nom"])
def test_what_may_be_a_heading_is_neither_added_nor_left_out(store: ListStore, line: str) -> None:
    with pytest.raises(ImportRefused) as refused:
        import_entries(store, CUSTOMERS, [f"{line}\nc-1,\nc-2,x,y,z,2001-01-01\n".encode()], Note())
    ((number, problem),) = refused.value.problems
    assert number == 1
    assert problem.startswith("looks like a heading; known are value, pan, reason, ticket, author, expires")
    assert "put the heading `value` above it" in problem
    assert entries(store, CUSTOMERS) == []


def test_what_is_reported(store: ListStore) -> None:
    first = import_entries(store, EMAILS, [b"a@b.tn\nA@b.tn\nc@d.tn\n"], Note("r", "t", "me"))
    second = import_entries(store, EMAILS, [b"value,reason\nc@d.tn,new\ne@f.tn,own\n"], Note("r"))
    assert (first.lines, first.added, first.existing, first.repeated) == (3, 2, 0, 1)
    assert (second.lines, second.added, second.existing, second.repeated) == (3, 1, 1, 0)
    assert entries(store, EMAILS) == [
        ("a@b.tn", "r", "t", "me"),
        ("c@d.tn", "r", "t", "me"),
        ("e@f.tn", "own", "", ""),
    ]


@pytest.mark.parametrize(
    ("target", "text", "wrong"),
    [
        (EMAILS, b"a@b.tn\nnobody\n", {2: "e-mail"}),
        (EMAILS, "a@b.tn\nné@b.tn\n".encode("latin-1"), {2: "UTF-8"}),
        (EMAILS, "a@b.tn\n".encode("utf-16"), {1: "UTF-8", 2: ""}),
        (EMAILS, b"value,expires\na@b.tn,2020-01-01\n", {2: "past"}),
        (EMAILS, b"value,colour\na@b.tn,red\n", {1: "header"}),
        (EMAILS, b'value,reason\n"a@b.tn,x\n', {2: "quote"}),
        (EMAILS, b'"a@b.tn,x\nnobody\n', {1: "quote", 2: "e-mail"}),
        (EMAILS, b"phone\na@b.tn\n", {1: "looks like a heading"}),
        (EMAILS, b"value,email\na@b.tn,x\n", {1: "header"}),
        (EMAILS, b"value\na@b.tn,x\n", {2: "more columns"}),
        (EMAILS, b"value,reason\na@b.tn,card 4111 1111 1111 1111\n", {2: "card number"}),
        (EMAILS, b"a@b.tn\n" + b"x" * 9000 + b"\n", {2: "longer"}),
        (EMAILS, b"a@b.tn\rc@d.tn\r", {1: "carriage return"}),
        (EMAILS, b"pan\n4111111111111111\n", {2: "lists of cards"}),
        (COUNTRIES, b"TN\nXX\nFR\nuk\n", {2: "ISO 3166", 4: "ISO 3166"}),
        (NETWORKS, b"10.0.0.0/8\n10.0.0.1/8\n", {2: "10.0.0.0/8"}),
        (CARDS, f"{FINGERPRINT}\n{PAN}\n".encode(), {2: "card number"}),
        (CARDS, b"pan\n4111111111111112\n", {2: "check digit"}),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, bytes) else None,
)
def test_wrong_lines_are_named_and_nothing_is_taken(
    store: ListStore, target: ListTarget, text: bytes, wrong: dict[int, str]
) -> None:
    with pytest.raises(ImportRefused) as refused:
        import_entries(store, target, [text], Note(), key=KEY)
    assert {line for line, _ in refused.value.problems} == set(wrong)
    for line, problem in refused.value.problems:
        assert wrong[line] in problem
    assert "1111" not in str(refused.value)
    assert entries(store, target) == []


def test_values_that_no_payment_can_have_are_refused_by_line(store: ListStore) -> None:
    with pytest.raises(ImportRefused) as refused:
        import_entries(store, CUSTOMERS, ["value\nO'Brien\n“c-1”\n\u00a0c-2 \n".encode()], Note())
    ((line, problem),) = refused.value.problems
    assert (line, "quotation marks do not belong to it" in problem) == (3, True)
    assert entries(store, CUSTOMERS) == []


def test_only_the_first_hundred_problems_are_kept(store: ListStore) -> None:
    with pytest.raises(ImportRefused) as refused:
        import_entries(store, COUNTRIES, [b"XX\n" * 5000], Note())
    assert (len(refused.value.problems), refused.value.wrong) == (100, 5000)


def test_card_numbers_become_fingerprints_at_once(store: ListStore) -> None:
    text = f"{PAN}\n{PAN[:4]} {PAN[4:8]} {PAN[8:12]} {PAN[12:]}\n{FINGERPRINT}\n".encode()
    report = import_entries(store, CARDS, [text], Note(), key=KEY, take_pans=True)
    assert (report.added, report.repeated) == (1, 2)
    assert [row[0] for row in entries(store, CARDS)] == [FINGERPRINT]
    store.checkpoint()
    for path in store.path.parent.iterdir():
        assert PAN.encode() not in path.read_bytes()


def test_an_expired_or_removed_value_is_imported_anew(store: ListStore) -> None:
    entry = store.add(EMAILS, "a@b.tn", Note()).entry
    store.remove(entry.id, Note())
    assert import_entries(store, EMAILS, [b"a@b.tn\n"], Note()).added == 1


def test_networks_of_an_import_overlap_freely(store: ListStore) -> None:
    report = import_entries(store, NETWORKS, [b"10.0.0.0/8\n10.1.0.0/16\n10.1.2.3\n2001:db8::/32\n"], Note())
    assert report.added == 4
    assert store.add(NETWORKS, "10.1.2.0/24", Note()).overlaps == ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32")


def test_an_import_that_is_given_up_leaves_nothing(store: ListStore) -> None:
    with ListImport(store, EMAILS, Note()) as under_way:
        under_way.feed(b"a@b.tn\n" * 5000)
    assert entries(store, EMAILS) == []


_IMPORTER = """
import os, sys
from pathlib import Path
from fraudengine.list_import import ListImport
from fraudengine.list_store import ListStore
from fraudengine.list_values import Note
from tests.test_list_import import EMAILS
with ListStore(Path(sys.argv[1])) as store, ListImport(store, EMAILS, Note()) as under_way:
    for start in range(0, 60_000, 1000):
        under_way.feed(b"".join(b"u%d@b.tn\\n" % n for n in range(start, start + 1000)))
    print("staged", flush=True)
    under_way._connection.set_trace_callback(
        lambda sql: os.write(1, b"taking\\n") if sql.startswith("INSERT INTO entries") else None
    )
    under_way.commit()
    print("done", flush=True)
"""


@pytest.mark.parametrize("moment", ["staged", "taking", "done"])
def test_kill_9_leaves_all_or_nothing(store: ListStore, moment: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _IMPORTER, str(store.path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": "src"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == moment:
                process.send_signal(signal.SIGKILL)
                break
        process.wait(30)
    possible = {"staged": {0}, "taking": {0, 60_000}, "done": {60_000}}[moment]
    with ListStore(store.path) as after:
        taken = len(after.rows("SELECT id FROM entries"))
        assert taken in possible
        assert after.add(EMAILS, "u59999@b.tn", Note()).created is (taken == 0)


@pytest.mark.long
def test_two_million_lines_take_bounded_memory(store: ListStore) -> None:
    def lines() -> Iterator[bytes]:
        for start in range(0, 2_000_000, 5_000):
            yield b"".join(b"u%d@b.tn,chargeback,SUP-1\r\n" % n for n in range(start, start + 5_000))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = import_entries(store, EMAILS, lines(), Note())
    assert report.added == 2_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000
