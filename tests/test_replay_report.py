"""The HTML report of a replay: what it says, that it is harmless, needs nothing, and works in a browser."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fraudengine.replay.engine import replay
from fraudengine.replay.figures import all_sums, known_endings
from fraudengine.replay.report import SECTIONS, report_page, write_report
from fraudengine.replay.report_html import SHOWN
from fraudengine.replay.result import ReplayResult, ReplayTable
from tests.chromium import Chromium, find_chromium
from tests.replaying import RULES, configuration, data_files, make_history

HOSTILE = "<script>document.title = 'broken'</script>"
PAN = "4111111111111111"
ONE: Any = {"merchants": ["carthage-market"]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def compared(directory: Path) -> Iterator[ReplayResult]:
    other = directory / "other-rules"
    shutil.copytree(RULES, other)
    file = other / "merchants" / "carthage-market.yaml"
    file.write_text(file.read_text().replace("challenge_above: {TND: 300}", "challenge_above: {TND: 100}"))
    history = make_history(directory / "history.parquet", 3_000)
    config = configuration(directory / "state")
    with replay(history, other, RULES, **ONE, config=config, data=data_files(), flip_limit=30) as result:
        yield result


@pytest.fixture(scope="module")
def recorded(directory: Path, compared: ReplayResult) -> Iterator[ReplayResult]:
    del compared
    config = configuration(directory / "state")
    with replay(
        directory / "history.parquet", RULES, **ONE, config=config, data=data_files(), flip_limit=3
    ) as result:
        yield result


class Page(HTMLParser):
    """What a page is made of: tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rewritten(table: ReplayTable, column: str, values: list[object]) -> ReplayTable:
    at = table.arrow.schema.get_field_index(column)
    kind = table.arrow.schema.field(column)
    return ReplayTable(table.name, table.arrow.set_column(at, kind, pa.array(values, kind.type)), table.help)


def hostile(result: ReplayResult) -> ReplayResult:
    """The result with text in it that wants to be a script, and with a card number where none belongs."""
    flips = rewritten(result.flips, "merchant", [HOSTILE] * len(result.flips))
    flips = rewritten(flips, "transaction_id", [f"order {PAN}"] * len(flips))
    flips = rewritten(
        flips, "new", [[f"{HOSTILE}: email {HOSTILE}, is '\"><img src=x onerror=alert(1)>"]] * len(flips)
    )
    return dataclasses.replace(
        result,
        flips=flips,
        by_merchant=rewritten(result.by_merchant, "merchant", [HOSTILE] * len(result.by_merchant)),
        rules=rewritten(result.rules, "rule", [f'{row["rule"]}"{HOSTILE}' for row in result.rules.rows()]),
        summary=dataclasses.replace(result.summary, candidate=HOSTILE),
        work=None,
        _finalizer=None,
    )


def test_one_file_that_loads_nothing(compared: ReplayResult) -> None:
    page = report_page(compared)
    assert len(page) < 150_000
    parsed = Page(page)
    loading = {"src", "srcset", "data", "action", "formaction", "poster", "background", "xlink:href"}
    for tag, attributes in parsed.tags:
        assert tag not in {"iframe", "object", "embed", "base", "form", "img"}, tag
        assert not loading & attributes.keys(), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        href = attributes.get("href") or "#"
        assert href.startswith("#") or (tag, href) == ("link", "data:,")
    assert not re.search(r"url\(|@import|https?:|//[a-z]", page.replace("http-equiv", ""))
    policies = [found["content"] for tag, found in parsed.tags if tag == "meta" and "http-equiv" in found]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")
    assert "unsafe" not in policies[0]


def test_it_says_what_the_tables_say(compared: ReplayResult) -> None:
    text, cross = Page(report_page(compared)).text, all_sums(compared)
    assert f"{cross.flips:,} of {compared.summary.transactions:,} payments would be decided otherwise" in text
    bad = known_endings(compared).bad
    assert f"{bad.before('accept'):,} → {bad.after('accept'):,}of {bad.base:,} such payments" in text
    for rule in compared.rules.rows():
        assert rule["rule"] in text
    for row in compared.flips.rows():
        assert row["transaction_id"] in text
        assert row["new"][0].partition(": ")[2] in text
    for name, _, make in SECTIONS:
        assert name == "others" or make(compared, cross), name
    assert compared.revisions.rows()[0]["candidate"][:12] in text
    assert compared.summary.data["ip_country"] in text


def test_recorded_answers_as_champion(recorded: ReplayResult) -> None:
    text = Page(report_page(recorded)).text
    assert "against champion the answers that were given" in text
    assert "Change ↕" not in text


def test_equal_results_give_equal_bytes(compared: ReplayResult, directory: Path) -> None:
    config = configuration(directory / "state")
    history, other = directory / "history.parquet", directory / "other-rules"
    with replay(history, other, RULES, **ONE, config=config, data=data_files(), flip_limit=30) as again:
        assert report_page(again) == report_page(compared)
        assert again.summary.elapsed_s != compared.summary.elapsed_s


def test_text_from_outside_is_only_text(compared: ReplayResult) -> None:
    page = report_page(hostile(compared))
    parsed = Page(page)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in parsed.tags}
    assert HOSTILE in parsed.text
    assert PAN not in page
    assert "411111" in parsed.text


def test_a_long_table_is_cut_and_says_so(compared: ReplayResult) -> None:
    numbers = range(SHOWN + 1_500)
    many = pa.table(
        {
            "merchant": [f"merchant-{number}" for number in numbers],
            **{name: ["accept" for _ in numbers] for name in ("champion", "candidate")},
            "currency": ["TND" for _ in numbers],
            **{name: pa.array(numbers, pa.int64()) for name in ("transactions", "minor")},
        }
    )
    table = ReplayTable("by_merchant", many)
    page = report_page(dataclasses.replace(compared, by_merchant=table, work=None, _finalizer=None))
    assert "1,500 more are in the table <code>by_merchant</code>" in page
    assert len(page) < 600_000


def test_an_added_table_is_shown(compared: ReplayResult) -> None:
    added = pa.table({"list_entry": ["RU <b>"], "caught": [3], "last": [None], "share": [0.25], "always": [True]})
    result = dataclasses.replace(compared, work=None, _finalizer=None, extra={})
    result.add_table(ReplayTable("ablation", added, "what each rule alone caught"))
    page = report_page(result)
    assert '<section id="ablation"' in page
    assert "RU &lt;b&gt;" in page
    assert "what each rule alone caught" in page


def test_a_full_disk_leaves_the_report_from_before(compared: ReplayResult, tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    path.write_text("before")

    def write(*_: object, **__: object) -> int:
        raise OSError(28, "full disk")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", write)
        with pytest.raises(OSError, match="full disk"):
            write_report(compared, path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.html", "before")]


@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium, which is not installed here")
def test_it_works_in_a_browser(compared: ReplayResult, tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    write_report(hostile(compared), path)
    with Chromium(tmp_path / "profile") as page:
        page.open(path)
        assert page.complaints() == []
        assert page.requests() == [path.as_uri()]
        assert page.run("document.title").startswith("Replay: <script>")
        first = "Array.from(document.querySelector('#labels-table').tBodies[0].rows, r => r.cells[%d].dataset.v)"
        head = "document.querySelectorAll('#labels-table thead button')[%d]"
        assert page.run(first % 0) == sorted(page.run(first % 0))

        page.run(head % 1 + ".click()")
        numbers = [int(value) for value in page.run(first % 1)]
        assert numbers == sorted(numbers, reverse=True) != sorted(numbers)
        page.run(head % 1 + ".focus()")
        page.press("Enter", 13)
        assert [int(value) for value in page.run(first % 1)] == sorted(numbers)
        assert page.run(head % 1 + ".closest('th').ariaSort") == "ascending"

        rows = "Array.from(document.querySelector('#rules-table').tBodies[0].rows).filter(r => !r.hidden).length"
        differing = page.run(rows)
        page.run("document.querySelector('#rules input[type=checkbox]').click()")
        assert page.run(rows) > differing > 0
        page.run("let f = document.querySelector('#rules input[type=search]'); f.value = 'no such rule'; ")
        page.run("f.dispatchEvent(new Event('input', {bubbles: true}))")
        assert page.run(rows) == 0

        assert page.run("document.querySelector('#by-week').hidden")
        page.run("document.querySelectorAll('.switch button')[1].click()")
        assert page.run("document.querySelector('#by-day').hidden && !document.querySelector('#by-week').hidden")

        for width in (360, 1440):
            page.tell(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
            )
            assert page.run("document.documentElement.scrollWidth") <= width
        colours = set()
        for scheme in ("light", "dark"):
            page.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            colours.add(page.run("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2
        assert page.complaints() == []
        assert page.requests() == [path.as_uri()]
