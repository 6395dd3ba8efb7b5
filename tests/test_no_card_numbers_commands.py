"""A card number planted in every argument of every command, and in every file that one reads, is shown nowhere."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest

from fraudengine.cli import program
from fraudengine.request_schema import AFTER_CHALLENGE_EXAMPLE

from .card_numbers import PANS, SPELLINGS, assert_nowhere, write_rule_files
from .command_line import Ran, run, sample_rules
from .replaying import configuration
from .running import REPOSITORY, files_below

CARD_KEY = "5c" * 32
# They work for seconds whatever they are given, or write tables: `test_no_card_numbers_data` walks them.
SLOW: Final = frozenset({"data build-ip", "data build-bins", "data compare", "generate"})
NOT_WALKED: Final = {"serve", "replay", *SLOW}  # the first listens for ever; what the second reads is planted below
ORDINARY: Final = {
    "merchant": "carthage-market",
    "list_name": "blacklist",
    "name": "name",
    "role": "gateway",
    "what": "41.226.11.9",
    "key_id": "abcdefgh",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with rules and state, in which commands run; its files are searched at the end."""
    directory = tmp_path_factory.mktemp("commands")
    sample_rules(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("FRAUDENGINE_RULES", str(directory / "rules"))
        patch.setenv("FRAUDENGINE_STATE", str(directory / "var"))
        patch.setenv("FRAUDENGINE_DATA", str(REPOSITORY / "data"))
        patch.setenv("FRAUDENGINE_CARD_KEY", CARD_KEY)
        yield directory


def run_with(stdin: str, *arguments: object) -> Ran:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        return run(*arguments)


def said(ran: Ran) -> bytes:
    return f"{ran.out}\n{ran.err}".encode()


def state_files(place: Path) -> dict[str, bytes]:
    return {str(path): content for path, content in files_below(place / "var").items()}


# ---- arguments -------------------------------------------------------------------------------------


def commands(group: click.Group = program, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def planted_calls(name: str, command: click.Command, number: str) -> Iterator[list[str]]:
    """The command with the card number as each argument and each value of an option, and as an unknown option."""
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    required = [
        word
        for one in command.params
        if isinstance(one, click.Option) and one.required
        for word in (one.opts[0], ORDINARY.get(str(one.name), "1"))
    ]
    plain = [ORDINARY.get(str(one.name), "-") for one in arguments]
    for index in range(len(arguments)):
        yield [*name.split(), *plain[:index], number, *plain[index + 1 :], *required]
    for one in command.params:
        if isinstance(one, click.Option) and not one.is_flag:
            yield [*name.split(), *plain, *required, one.opts[0], number]
    yield [*name.split(), *plain, *required, f"--{number}"]
    yield [*name.split(), *plain, *required, number]


def test_no_command_repeats_a_card_number_of_its_arguments(place: Path) -> None:
    written = {}
    for name, command in commands():
        if name not in NOT_WALKED:
            for arguments in planted_calls(name, command, SPELLINGS["plain"]):
                written[" ".join(arguments)] = said(run_with(SPELLINGS["spaced"], *arguments))
    assert len(written) > 150
    assert_nowhere(written | state_files(place))


# ---- transactions and outcomes ---------------------------------------------------------------------


def transactions(number: str) -> Iterator[dict[str, Any]]:
    """A transaction with the card number in each text of it."""
    plain = AFTER_CHALLENGE_EXAMPLE | {"metadata": {"note": "n"}, "device_id": "d", "phone": "+21620123456"}
    for name in plain:
        yield plain | {"transaction_id": f"T-{name}", name: number}
        inner = plain[name]
        if isinstance(inner, dict):
            for part in (*inner, "issuer"):
                yield plain | {"transaction_id": f"T-{name}-{part}", name: inner | {part: number}}
    yield plain | {number: number}


@pytest.fixture(scope="module")
def screened(place: Path) -> dict[str, bytes]:
    """What `screen` said of planted transactions, in both forms."""
    written = {}
    for name in ("plain", "spaced", "dotted"):
        lines = [json.dumps(one) for one in transactions(SPELLINGS[name])]
        for form in ("text", "json"):
            ran = run_with("\n".join(lines), "screen", "-", "--format", form)
            written[f"screen, {name}, {form}"] = said(ran)
            assert len(ran.out.splitlines()) > 5, ran.err
    return written


def test_screenings_and_outcomes_from_files(place: Path, screened: dict[str, bytes]) -> None:
    written = dict(screened)
    for name, number in SPELLINGS.items():
        for column in ("outcome", "code", "amount", "reference", "at", "screening_id", "transaction_id", number):
            header = [
                "outcome",
                "transaction_id",
                *([column] if column not in ("outcome", "transaction_id") else []),
            ]
            cells = [number if one == column else {"outcome": "declined"}.get(one, "T-email") for one in header]
            table = f"{';'.join(header)}\n{';'.join(cells)}\n"
            arguments = ("outcomes", "import", "-", "--merchant", "carthage-market")
            written[f"{name}, {column}"] = said(run_with(table, *arguments))
        order = {"orderNumber": "T-email", "orderStatus": 6, "actionCode": number, "pan": number, number: number}
        for given in (order, order | {"orderNumber": number}, order | {"orderStatus": number}):
            written[f"{name}, {given}"] = said(run_with(json.dumps(given), "outcomes", "import", "-"))
    assert_nowhere({**written} | state_files(place))


def test_search_verification_and_audit_of_what_was_planted(place: Path, screened: dict[str, bytes]) -> None:
    assert run("keys", "create", "support", "--role", "support").code == 0
    written = {}
    for form in ("text", "json"):
        for arguments in (
            ("log", "search", "--limit", "1000"),
            ("audit", "--limit", "1000"),
            ("verify",),
            ("keys", "list", "--all"),
            ("report", "shadow", "--since", "2026-01-01"),
        ):
            ran = run(*arguments, "--format", form)
            written[f"{arguments} {form}"] = said(ran)
            assert ran.out, ran.err
    names = re.findall(r"scr_\w+", run("log", "search", "--limit", "1000").out)
    assert len(names) > 20
    for name in names[::20]:
        written[name] = said(run("explain", name))
    assert_nowhere(written)


# ---- lists -----------------------------------------------------------------------------------------


def test_lists_from_arguments_and_files(place: Path) -> None:
    written = {}
    for name, number in SPELLINGS.items():
        for option in ("--reason", "--ticket", "--by", "--expires"):
            for action in ("add", "remove"):
                arguments = ("lists", action, "carthage-market", "trusted_customers", "c-1", option, number)
                written[f"{arguments}"] = said(run(*arguments))
        for kept in ("blacklist", "trusted_customers"):
            for table in (
                f"{number}\n",
                f"value,reason\nc-2,{number}\n",
                f"value,{number}\nc-3,x\n",
                f"pan\n{number}\n",
                f"pan,author\n{number},{number}\n",
            ):
                ran = run_with(table, "lists", "import", "carthage-market", kept, "-")
                written[f"{name} {kept} {table}"] = said(ran)
    for kept in ("blacklist", "trusted_customers"):
        for action in ("show", "history", "export"):
            written[f"{action} {kept}"] = said(run("lists", action, "carthage-market", kept))
    assert b"fp_" in written["show blacklist"]
    assert_nowhere(written | state_files(place))


# ---- rule files ------------------------------------------------------------------------------------


def test_commands_on_rule_files_with_card_numbers(tmp_path: Path) -> None:
    """A test file is planted too, in every value of it."""
    rules = sample_rules(tmp_path)
    write_rule_files(rules)
    tests = itertools.product(("given", "expect", "name", "x"), SPELLINGS.values())
    for index, (key, number) in enumerate(tests):
        head = f"merchant: m{index}\ntests:\n  - name: a\n    given: {{amount: 1 TND}}\n    expect: accept\n"
        (rules / "merchants" / f"m{index}.test.yaml").write_text(f"{head}    {key}: '{number}'\n")
        head = f"merchant: {number if key == 'x' else 'carthage-market'}\ntests: []\n"
        (rules / "merchants" / f"n{index}.test.yaml").write_text(f"{head}{key}: '{number}'  # {number}\n")
    written = {}
    one = [rules / "merchants" / name for name in ("m0.yaml", "m3.yaml", f"{PANS[0]}.yaml", "m3.test.yaml")]
    for arguments in (
        *(("check", "--format", form, "--rules", rules) for form in ("text", "json", "github")),
        ("test", "--rules", rules),
        ("test", "--format", "json", "--rules", rules),
        ("fmt", "--rules", rules),
        ("diff", REPOSITORY / "rules", rules),
        *((command, path) for command in ("check", "fmt", "test", "explain") for path in one),
        *(("show", path.stem, "--rules", rules) for path in one),
        *(("new", "merchant", pan, "--rules", rules) for pan in PANS),
    ):
        written[" ".join(map(str, arguments))] = said(run(*arguments))
    assert_nowhere(dict(enumerate_outputs(written)))
    assert sum(b"a card number stands in a rule file" in content for content in written.values()) > 8


def enumerate_outputs(written: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Output by output and line by line, so that a failure names the line."""
    for place, content in written.items():
        for number, line in enumerate(content.splitlines()):
            yield f"{place[:100]}, line {number}: {line[:60]!r}", line
        yield place, content


# ---- replay ----------------------------------------------------------------------------------------


COLUMNS: Final = {
    "transaction_id": "T",
    "merchant": "carthage-market",
    "at": "2026-11-23T10:15:00Z",
    "amount": "450.000",
    "currency": "TND",
    "card": "6011111111111117",
    "card.issuer": "bank",
    "ip_address": "41.226.11.9",
    "email": "a@example.tn",
    "phone": "+21620123456",
    "customer_id": "c",
    "device_id": "d",
    "order_ref": "o",
    "terminal_id": "t",
    "metadata.note": "n",
    "recorded_rule": "r",
    "label": "fraud",
}
READ_AS: Final = {"at": "time", "amount": "major-units", "currency": "currency", "card": "card-number"}


def write_history(place: Path) -> tuple[Path, Path]:
    """A CSV with a card number in every column in turn, in three spellings, and the mapping that reads it."""
    rows = [list(COLUMNS.values())]
    for spelling in ("plain", "spaced", "dotted"):
        for name in COLUMNS:
            planted = COLUMNS | {"transaction_id": f"T-{spelling}-{name}", name: SPELLINGS[spelling]}
            rows.append([*planted.values()])
    history, mapping = place / "history.csv", place / "mapping.yaml"
    history.write_text("\n".join(",".join(row) for row in [list(COLUMNS), *rows]) + "\n")
    columns = "".join(
        f"  {name}: {{from: {name}" + (f", as: {READ_AS[name]}" if name in READ_AS else "") + "}\n"
        for name in COLUMNS
    )
    mapping.write_text(f"mapping: mine\nformat: csv\ncolumns:\n{columns}")
    return history, mapping


def test_a_replay_its_rejects_its_exports_and_its_report(place: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    configuration(place / "var")  # with the ranges that other tests made of the data files
    history, mapping = write_history(place)
    written = {}
    for form in ("json", "text"):
        arguments: list[object] = ["--mapping", mapping, "--format", form, "--rejects", place / "rejects.csv"]
        kept: list[object] = ["--keep-history", place / f"kept-{form}.parquet", "--report", place / "report.html"]
        export: list[object] = ["--export", place / "export", "--export-format", "parquet"]
        ran = run("replay", history, *arguments, *(kept + export if form == "json" else []))
        assert ran.out, ran.err
        written[form] = said(ran)
    written["guess"] = said(run("replay", "--guess-mapping", history))
    for number in (SPELLINGS["plain"], SPELLINGS["spaced"]):
        doubtful = place / "doubtful.yaml"
        doubtful.write_text(f"mapping: '{number}'\nformat: csv\ncolumns:\n  '{number}': {{from: '{number}'}}\n")
        for option in ("--mapping", "--merchant", "--rules"):
            written[f"{option} {number}"] = said(run("replay", history, option, number))
        written[f"{number} in a mapping"] = said(run("replay", history, "--mapping", doubtful))
        doubtful.unlink()
    made = {path: content for path, content in files_below(place).items() if path not in (history, mapping)}
    for path, content in made.items():
        if path.suffix == ".parquet":
            rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}')").fetchall()
            written[str(path)] = "\n".join(map(str, rows)).encode()
        elif "rules" not in path.parts:
            written[str(path)] = content
    assert {"report.html", "rejects.csv", "kept-json.parquet"} <= {path.name for path in made}
    assert_nowhere(written)
