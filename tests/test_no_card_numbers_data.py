"""A card number planted in what builds and compares tables, or makes up a history, is shown and kept nowhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from fraudengine.binlist import COLUMNS as BIN_COLUMNS

from .card_numbers import SPELLINGS, assert_nowhere
from .command_line import run, sample_rules
from .replaying import configuration
from .running import REPOSITORY, files_below
from .test_no_card_numbers_commands import (
    CARD_KEY,
    SLOW,
    commands,
    enumerate_outputs,
    planted_calls,
    run_with,
    said,
    write_history,
)

QUICKLY: Final = ("--without-smartbindb", "--source-date", "2026-11-01")
BIN: Final = dict.fromkeys(BIN_COLUMNS, "") | {"iin_start": "601111", "scheme": "discover", "country": "TN"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory with rules, a small BIN table and no address table of its own, in which commands run."""
    sample_rules(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "bins.csv").write_text("iin_start,country\n601111,TN\n")
    shutil.copy(REPOSITORY / "data" / "ip-country.mmdb", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("FRAUDENGINE_RULES", str(tmp_path / "rules"))
        patch.setenv("FRAUDENGINE_STATE", str(tmp_path / "var"))
        patch.setenv("FRAUDENGINE_DATA", str(data))
        patch.setenv("FRAUDENGINE_CARD_KEY", CARD_KEY)
        assert run("data", "build-bins", data / "bins.csv", *QUICKLY).code == 0
        configuration(tmp_path / "var")
        yield tmp_path


def kept(place: Path, *but: Path) -> dict[str, bytes]:
    """What is in the files now; their names are the caller's."""
    return {str(path): content for path, content in files_below(place).items() if path not in but}


def test_no_argument_is_repeated(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb")
    written = {}
    for name, command in commands():
        if name in SLOW:
            read_only = name in ("generate", "data compare")  # with the ranges that other tests made of these files
            monkeypatch.setenv("FRAUDENGINE_DATA", str((REPOSITORY if read_only else place) / "data"))
            for arguments in planted_calls(name, command, SPELLINGS["plain"]):
                more = () if name != "data build-bins" else QUICKLY[: 1 if "--source-date" in arguments else 3]
                written[" ".join(arguments)] = said(run_with(SPELLINGS["spaced"], *arguments, *more))
    assert {" ".join(call.split()[:2]) for call in written if call.startswith("data ")} == SLOW - {"generate"}
    assert len(written) > 30
    assert_nowhere(dict(enumerate_outputs(written)) | kept(place))


def test_tables_of_addresses(place: Path) -> None:
    written = {}
    for name, number in SPELLINGS.items():
        for row in (number, f"{number},{number},TN", f"1,2,{number}", f"# {number}\n1,2,TN", f"1,2,TN,{number}"):
            for v4, v6 in ((row, "::1,::2,TN"), ("1,2,TN", row)):
                (place / "v4").write_text(f"{v4}\n")
                (place / "v6").write_text(f"{v6}\n")
                ran = run("data", "build-ip", "--v4", "v4", "--v6", "v6", "--out", "made.mmdb", *QUICKLY[1:])
                written[f"{name}: {v4} {v6}"] = said(ran)
    assert_nowhere(dict(enumerate_outputs(written)) | kept(place, place / "v4", place / "v6"))


def test_tables_of_bins_and_their_comparison(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb")
    monkeypatch.setenv("FRAUDENGINE_DATA", str(REPOSITORY / "data"))
    history, mapping = write_history(place)
    table, out = place / "new.csv", place / "new.dat"
    written = {}
    for name in ("plain", "spaced", "dotted", "far apart", "full width", "in words"):
        number = SPELLINGS[name]
        rows = [BIN | {column: number} for column in BIN]
        for place_of, text in (
            ("header", f"iin_start,{number}\n601111,TN\n"),
            ("lonely", f"{number}\n"),
            ("quotes", f'iin_start,bank_name\n601111,"{number}\n'),
            *((column, as_csv([row])) for column, row in zip(BIN, rows, strict=True)),
            ("all", as_csv(rows)),
        ):
            table.write_text(text)
            ran = run("data", "build-bins", table, *QUICKLY, "--out", out)
            written[f"{name} {place_of}"] = said(ran)
    texts = {column: SPELLINGS["spaced"] for column in BIN if column.startswith("bank_")}
    table.write_text(as_csv([BIN | texts | {"country": "FR"}]))
    for form in ("text", "json"):
        ran = run("data", "compare", table, "--history", history, "--mapping", mapping, "--format", form)
        assert (ran.code, "555555******4444" in ran.out) == (0, True), ran
        written[form] = said(ran)
    assert_nowhere(dict(enumerate_outputs(written)) | kept(place, table, history))


def as_csv(rows: list[dict[str, str]]) -> str:
    return "\n".join(",".join(cells) for cells in (list(BIN), *(row.values() for row in rows))) + "\n"
