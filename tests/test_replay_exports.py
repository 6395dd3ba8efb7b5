"""Exports of a replay: every table in every form, whole or absent, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import dataclasses
import json
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudengine.replay import exports
from fraudengine.replay.exports import FORMS, ExportRefused, export
from fraudengine.replay.flips import SCHEMA
from fraudengine.replay.result import ReplayResult, ReplayTable
from tests.replay_results import flip, flip_batches, make_result, table

FORMULA = '=HYPERLINK("http://127.0.0.1")'
PAN = "4111111111111111"


def read(directory: Path, form: str, name: str) -> list[dict[str, Any]]:
    """The rows of an exported table, as its form gives them."""
    if form == "csv":
        with (directory / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if form == "json":
        rows: list[dict[str, Any]] = json.loads((directory / f"{name}.json").read_text())
        return rows
    if form == "parquet":
        found: list[dict[str, Any]] = pq.read_table(directory / f"{name}.parquet").to_pylist()
        return found
    heads, *lines = openpyxl.load_workbook(directory / "replay.xlsx")[name].iter_rows(values_only=True)
    return [dict(zip(map(str, heads), line, strict=True)) for line in lines]


@pytest.mark.parametrize("form", FORMS)
def test_every_table_in_every_form(form: str, tmp_path: Path) -> None:
    result = make_result()
    result.add_table(table("ablation", [{"rule": "r", "caught": 3}]))
    written = export(result, tmp_path / "out", form)
    assert list(written) == list(result.tables)
    for name, of in result.tables.items():
        rows = read(tmp_path / "out", form, name)
        assert len(rows) == written[name] == len(of)
        assert set(of.arrow.schema.names) <= set(rows[0])
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["money"]["decimals"] == {"TND": 3}
    assert about["tables"]["ablation"] == {
        "help": "the table ablation",
        "rows": 1,
        "columns": {"rule": "string", "caught": "int64"},
    }
    found = read(tmp_path / "out", form, "flips")[0]
    assert str(found["minor"]) == "12501"
    assert str(found.get("amount")) == {"csv": "12.501", "xlsx": "12.501"}.get(form, "None")
    assert "challenge-above: amount 12.500 TND, over 10.000 TND" in str(found["new"])
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_what_cells_hold(tmp_path: Path) -> None:
    export(make_result(), tmp_path / "csv", "csv")
    flips = (tmp_path / "csv" / "flips.csv").read_text().splitlines()
    assert flips[1].startswith("1,shop,T-1,2026-11-20T10:00:00.250000Z,TND,12501,12.501,authorised,accept,")
    assert read(tmp_path / "csv", "csv", "rules")[0]["minor_by_currency"] == "TND 12.500"
    export(make_result(), tmp_path / "json", "json")
    rule = read(tmp_path / "json", "json", "rules")[0]
    assert rule["minor_by_currency"] == {"TND": 12_500}
    assert (rule["recall"], rule["first_match"]) == (None, "2026-11-20T10:00:00.250000Z")
    assert read(tmp_path / "json", "json", "by_day")[0]["day"] == "2026-11-20"
    export(make_result(), tmp_path / "xlsx", "xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "xlsx" / "replay.xlsx")["flips"]
    assert (sheet["G2"].value, sheet["G2"].number_format, sheet["D2"].is_date) == (12.501, "#,##0.000", True)


@pytest.mark.parametrize("text", [FORMULA, "+1", "-1", "@a", "\t=1", "\r=1"])
def test_no_text_becomes_a_formula(text: str, tmp_path: Path) -> None:
    rows = [flip(1, merchant=text, minor=-5)]
    result = make_result(flips=ReplayTable("flips", pa.Table.from_pylist(rows, schema=SCHEMA)))
    export(result, tmp_path / "csv", "csv")
    found = read(tmp_path / "csv", "csv", "flips")[0]
    assert (found["merchant"], found["amount"]) == (f"'{text}", "-0.005")
    export(result, tmp_path / "xlsx", "xlsx")
    cell = openpyxl.load_workbook(tmp_path / "xlsx" / "replay.xlsx")["flips"]["B2"]
    assert (cell.data_type, str(cell.value).strip()) == ("s", text.strip())


@pytest.mark.parametrize("form", FORMS)
def test_no_card_number_is_written(form: str, tmp_path: Path) -> None:
    rows = [flip(1, transaction_id=f"order {PAN}", new=[f"r: email {PAN}@b.tn, is x"])]
    result = make_result(flips=ReplayTable("flips", pa.Table.from_pylist(rows, schema=SCHEMA)))
    export(result, tmp_path / "out", form)
    assert PAN not in str(read(tmp_path / "out", form, "flips"))
    assert "order 411111" in str(read(tmp_path / "out", form, "flips"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError], ids=["ctrl-c", "failure"])
def test_an_interruption_leaves_nothing(form: str, failure: type[BaseException], tmp_path: Path) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from flip_batches(range(2_000))
        raise failure

    with pytest.raises(failure):
        export(streaming(batches), tmp_path / "out", form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_nothing(form: str, tmp_path: Path) -> None:
    """A process of its own that may write no file above 40,000 bytes: writing fails as on a full disk."""
    script = (
        "import sys, signal; from pathlib import Path; from fraudengine.replay.exports import export;"
        "from tests.test_replay_exports import streaming; from tests.replay_results import flip_batches;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"export(streaming(lambda: flip_batches(range(20_000))), Path({str(tmp_path / 'out')!r}), {form!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        env={"TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def streaming(batches: Any) -> ReplayResult:
    """A result whose flips come from a function, as long as its connection is open."""
    return make_result(explain_flips=batches, connection=object())


@pytest.mark.long
def test_flips_stream(tmp_path: Path) -> None:
    number = 30_000
    result = streaming(lambda: flip_batches(range(number)))
    said: list[float] = []
    result.summary = dataclasses.replace(result.summary, flips=number)
    export(make_result(), tmp_path / "warm", "csv")
    tracemalloc.start()
    written = export(result, tmp_path / "out", "csv", lambda phase, fraction: said.append(fraction))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written["flips"] == number
    assert said[-1] == 1.0
    assert peak < 8_000_000


def test_a_long_table_goes_on_in_another_sheet(tmp_path: Path) -> None:
    writer = exports._Xlsx(tmp_path, sheet_rows=4)
    assert writer.write(make_result().flips, flip_batches(range(7))) == 7
    writer.close()
    book = openpyxl.load_workbook(tmp_path / "replay.xlsx")
    assert [(sheet.title, sheet.max_row) for sheet in book] == [("flips", 4), ("flips 2", 4), ("flips 3", 2)]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(make_result(), tmp_path / "out", "json")
    before = sorted((tmp_path / "out").iterdir())
    with pytest.raises(ExportRefused, match="exists already"):
        export(make_result(), tmp_path / "out", "csv")
    assert sorted((tmp_path / "out").iterdir()) == before
    with pytest.raises(ExportRefused, match="no form of export"):
        export(make_result(), tmp_path / "other", "pdf")


def test_a_closed_result_says_that_it_is_closed(tmp_path: Path) -> None:
    result = make_result(explain_flips=lambda: flip_batches(range(3)))
    with pytest.raises(ValueError, match="closed"):
        export(result, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
