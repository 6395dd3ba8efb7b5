"""Budgets: how they are read, and each bound at what was measured and one below it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fraudengine.cli.budgeting import NAMED, budget_annotations, budget_text
from fraudengine.diagnostics import RuleFilesRefused, render_text
from fraudengine.replay.budget import BOUNDS, OF_THE_RUN, TOP_KEYS, Budget, Unit, load_budget, read_budget
from fraudengine.replay.budget_check import _compare, _Tally, check_budget
from fraudengine.replay.engine import replay
from fraudengine.replay.result import BAD_LABELS, GOOD_LABELS, ReplayResult
from fraudengine.rules.sourcetext import text_for_display

from .command_line import run, sample_rules
from .replaying import RULES, configuration, data_files, make_history

GOLDEN = Path(__file__).parent / "golden" / "budget"
MERCHANT = "carthage-market"


# ---- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bad.yaml")), ids=lambda path: path.name)
def test_bad_budget_shows_its_mistakes(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text(encoding="utf-8")
    budget, mistakes = read_budget("budget.yaml", text)
    assert budget is None
    sources = {"budget.yaml": text_for_display(text)}
    rendered = "\n\n".join(render_text(item, sources) for item in mistakes) + "\n"
    expected = path.with_suffix(".txt")
    if request.config.getoption("--write-golden"):
        expected.write_text(rendered, encoding="utf-8")
    assert rendered == expected.read_text(encoding="utf-8")


def test_sample_budget_is_read() -> None:
    budget = load_budget(RULES / "budgets" / "merge.yaml")
    assert budget.whole.keys() == {
        *("bad_newly_accepted", "good_newly_refused", "flipped", "amount_newly_refused"),
        *("silenced_rules", "merchants_left_out"),
    }
    assert budget.each_merchant.keys() == {"refusals", "challenges"}


def test_merchants_own_bounds_stand_in_the_place_of_those_of_each() -> None:
    budget = _budget("each_merchant: {refusals: 0.3 pp, flipped: 5}\nmerchants: {shop: {refusals: +20}}\n")
    [refusals] = budget.of_merchant("shop")["refusals"]
    assert (refusals.most, getattr(refusals, "unit", None)) == (20, Unit.COUNT)
    assert budget.of_merchant("shop")["flipped"] == budget.of_merchant("cafe")["flipped"]
    [others] = budget.of_merchant("cafe")["refusals"]
    assert (others.most, getattr(others, "unit", None)) == (Fraction(3, 10), Unit.POINTS)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"flipped: \xff\n")
    with pytest.raises(RuleFilesRefused, match="not UTF-8"):
        load_budget(tmp_path / "b.yaml")


def _budget(text: str) -> Budget:
    budget, mistakes = read_budget("budget.yaml", text)
    assert budget is not None, mistakes
    return budget


# ---- measuring ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history, and rules that ask more often, refuse more, and trust what was refused."""
    directory = tmp_path_factory.mktemp("budget")
    make_history(directory / "h.parquet", 4_000)
    rules = sample_rules(directory)
    path = rules / "merchants" / f"{MERCHANT}.yaml"
    path.write_text(
        path.read_text(encoding="utf-8")
        + """
  - id: new-large
    description: Refuses large payments.
    when: {amount: {over: 80 TND}}
    then: refuse
    reason: TOO_LARGE
  - id: new-medium
    description: Asks for medium payments.
    when: {amount: {over: 50 TND}}
    then: challenge
    reason: MEDIUM
  - id: new-trust
    description: Trusts the largest payments.
    when: {amount: {over: 700 TND}}
    then: accept
    reason: LARGEST
""",
        encoding="utf-8",
    )
    configuration(directory / "var")
    return directory


@pytest.fixture(scope="module")
def result(directory: Path) -> Iterator[ReplayResult]:
    config = configuration(directory / "var")
    made = replay(
        directory / "h.parquet", directory / "rules", RULES, config=config, data=data_files(), flip_limit=0
    )
    with made:
        yield made


def _count(result: ReplayResult, condition: str) -> int:
    found = result.query(f"SELECT count(*) AS n FROM decisions WHERE merchant = '{MERCHANT}' AND {condition}")
    return int(found.rows()[0]["n"])


def _quoted(labels: frozenset[str]) -> str:
    return ", ".join(f"'{label}'" for label in labels)


_NUMBERS: dict[str, tuple[str, str]] = {  # what counts against it, and what of that is no growth
    "refusals": ("candidate = 'refuse' AND champion <> 'refuse'", "champion = 'refuse' AND candidate <> 'refuse'"),
    "challenges": (
        "candidate = 'challenge' AND champion <> 'challenge'",
        "champion = 'challenge' AND candidate <> 'challenge'",
    ),
    "flipped": ("champion <> candidate", "false"),
    "bad_newly_accepted": (
        f"candidate = 'accept' AND champion <> 'accept' AND label IN ({_quoted(BAD_LABELS)})",
        "false",
    ),
    "good_newly_refused": (
        f"candidate = 'refuse' AND champion <> 'refuse' AND label IN ({_quoted(GOOD_LABELS)})",
        "false",
    ),
}


@pytest.mark.parametrize("name", _NUMBERS)
@pytest.mark.parametrize("scope", ["{name}: {most}", "each_merchant: {{{name}: {most}}}"], ids=["all", "each"])
def test_bound_as_a_number(result: ReplayResult, name: str, scope: str) -> None:
    against, less = _NUMBERS[name]
    measured = _count(result, against) - _count(result, less)
    assert measured > 0, "the rules of this test change too little"
    assert check_budget(result, _budget(scope.format(name=name, most=measured))).holds
    report = check_budget(result, _budget(scope.format(name=name, most=measured - 1)))
    [line] = report.broken
    assert not report.holds
    assert line.heading.startswith(name)
    assert f"{measured:,}" in line.measured
    assert line.transactions == len(line.named) == _count(result, against)
    assert {row["merchant"] for row in line.named} == {MERCHANT}


@pytest.mark.parametrize("outcome", ["refuse", "challenge"])
@pytest.mark.parametrize("unit", ["pp", "%"])
def test_bound_on_growth(result: ReplayResult, outcome: str, unit: str) -> None:
    before, after = _count(result, f"champion = '{outcome}'"), _count(result, f"candidate = '{outcome}'")
    growth = Fraction(100 * (after - before), _count(result, "true") if unit == "pp" else before)
    ceiling = -(-growth.numerator * 10**6 // growth.denominator)  # six decimals, rounded up: at most one too many
    name = {"refuse": "refusals", "challenge": "challenges"}[outcome]
    at = f"merchants: {{{MERCHANT}: {{{name}: {ceiling // 10**6}.{ceiling % 10**6:06d} {unit}}}}}"
    below = ceiling - 1 if Fraction(ceiling, 10**6) != growth else ceiling - 10
    under = f"merchants: {{{MERCHANT}: {{{name}: {below // 10**6}.{below % 10**6:06d} {unit}}}}}"
    assert check_budget(result, _budget(at)).holds
    [line] = check_budget(result, _budget(under)).broken
    assert line.merchant == MERCHANT
    assert f"({before:,} → {after:,} of {_count(result, 'true'):,})" in line.measured


def test_points_that_meet_the_bound_exactly_are_within() -> None:
    """3 of 1,000 more are 0.3 pp: no floating point between them."""
    tally = _Tally()
    tally.add({**_ROW, "champion": "accept", "candidate": "refuse", "transactions": 3})
    tally.add({**_ROW, "champion": "accept", "candidate": "accept", "transactions": 997})
    [bound] = _budget("refusals: 0.3 pp").whole["refusals"]
    assert _compare("refusals", tally, bound) == ("+0.30 pp (0 → 3 of 1,000)", True)
    tally.add({**_ROW, "champion": "accept", "candidate": "refuse", "transactions": 1})
    assert _compare("refusals", tally, bound) == ("+0.40 pp (0 → 4 of 1,001)", False)
    [percent] = _budget("refusals: 900 %").whole["refusals"]
    assert not _compare("refusals", tally, percent)[1], "from none to some is more than any percentage"


_ROW: dict[str, Any] = {"currency": "TND", "minor": 0, "label": "none"}


def test_amount_in_its_currency(result: ReplayResult) -> None:
    found = result.query(
        "SELECT sum(minor)::BIGINT AS n FROM decisions WHERE currency = 'TND' AND champion <> 'refuse'"
        " AND candidate = 'refuse'"
    )
    minor = found.rows()[0]["n"]

    def text(most: int) -> str:
        return f"amount_newly_refused: {{TND: {most // 1000}.{most % 1000:03d}, EUR: 0}}"

    assert check_budget(result, _budget(text(minor))).holds
    [line] = check_budget(result, _budget(text(minor - 1))).broken
    assert line.bound == "amount_newly_refused TND"
    assert {row["currency"] for row in line.named} == {"TND"}


def test_merchants_that_hold_are_not_in_the_way(result: ReplayResult) -> None:
    report = check_budget(
        result, _budget(f"each_merchant: {{flipped: 0}}\nmerchants: {{{MERCHANT}: {{flipped: 99999}}}}")
    )
    assert report.holds
    assert len(report.lines) == 4


def test_merchant_nobody_met_is_told(result: ReplayResult) -> None:
    report = check_budget(result, _budget("merchants: {carthage-markt: {flipped: 0}}"))
    [doubt] = report.doubts
    assert doubt.hint == f"did you mean `{MERCHANT}`?"


def test_what_is_of_the_run(directory: Path, tmp_path: Path) -> None:
    """Rows that are rejected, rules that the history silences, merchants whose rules are gone; and no answers."""
    rows = "".join(f"T-{n},{m},2026-11-01T10:00:0{n}Z,{a},TND\n" for n, m, a in _CSV)
    (tmp_path / "h.csv").write_text("transaction_id,merchant,at,amount,currency\n" + rows)
    names = ("transaction_id", "merchant", "at", "amount", "currency")
    (tmp_path / "m.yaml").write_text("columns:\n" + "".join(f"  {name}: {name}\n" for name in names))
    config = configuration(directory / "var")
    with replay(
        tmp_path / "h.csv",
        RULES,
        config=config,
        data=data_files(),
        flip_limit=0,
        mapping=tmp_path / "m.yaml",
        rejects=tmp_path / "r.csv",
    ) as made:
        loose = check_budget(made, _budget("rejected_rows: 2\nmerchants_left_out: 1\nsilenced_rules: 999"))
        measured = {line.bound: int(line.measured) for line in loose.lines}
        silenced = measured["silenced_rules"]
        at = f"rejected_rows: 2\nmerchants_left_out: 1\nsilenced_rules: {silenced}"
        below = f"rejected_rows: 1\nmerchants_left_out: 0\nsilenced_rules: {silenced - 1}"
        assert not check_budget(made, _budget(at)).broken
        broken = check_budget(made, _budget(below)).broken
    assert {line.bound: line.transactions for line in broken} == {
        "rejected_rows": 2,
        "merchants_left_out": 1,
        "silenced_rules": silenced,
    }
    named = {line.bound: line.named[0] for line in broken}
    assert named["merchants_left_out"] == {"merchant": "nobody"}
    assert named["rejected_rows"]["line"] == 3
    # The history records no answers: nothing was compared, and the gate stays shut.
    assert (loose.compared, loose.unrecorded, loose.holds) == (0, 1, False)
    assert "nothing was compared" in budget_text(loose)
    assert "nothing was compared" in next(budget_annotations(loose))


_CSV = [(1, "carthage-market", "5.000"), (2, "carthage-market", "x"), (3, "nobody", "5"), (4, "medina-topup", "")]


# ---- the command ----------------------------------------------------------------------------------


def _run(directory: Path, budget: str, *options: str, form: str = "text") -> Any:
    path = directory / "budget.yaml"
    path.write_text(budget, encoding="utf-8")
    given = ("--rules", directory / "rules", "--against", RULES, "--state", directory / "var", "--flips", "0")
    return run("replay", directory / "h.parquet", *given, "--budget", path, "--format", form, *options)


def test_text_of_a_budget_that_holds(result: ReplayResult) -> None:
    told = budget_text(check_budget(result, _budget("flipped: 9999\n")))
    assert told == "budget budget.yaml: within\n  1 of 1 bounds hold"


def test_text_names_some(result: ReplayResult) -> None:
    report = check_budget(result, _budget("# kept small\nflipped: 3\n"))
    for limit in (NAMED, None):
        told = budget_text(check_budget(result, _budget("# kept small\nflipped: 3\n"), limit))
        assert told.startswith("budget budget.yaml: BROKEN\n  line 2: flipped: ")
        assert told.count(f"    {MERCHANT} ") == NAMED
        more = report.broken[0].transactions - NAMED
        assert f"and {more:,} more, all of them in --format json" in told


def test_annotations_name_all(result: ReplayResult) -> None:
    small = check_budget(result, _budget("bad_newly_accepted: 0\n"))
    [line] = budget_annotations(small)
    assert line.startswith("::error file=budget.yaml,line=1,col=21,")
    assert f"at most 0%0A{MERCHANT} " in line
    assert line.count("%0A") == small.broken[0].transactions


def test_command_json_names_all(directory: Path) -> None:
    ran = _run(directory, "flipped: 3\neach_merchant: {refusals: 0 pp}\n", form="json")
    assert ran.code == 1, ran.err
    budget = json.loads(ran.out)["budget"]
    flipped = next(line for line in budget["bounds"] if line["bound"] == "flipped")
    assert len(flipped["named"]) == flipped["transactions"] == int(flipped["measured"].replace(",", ""))
    assert flipped["named"][0].keys() >= {"merchant", "transaction_id", "amount", "champion", "candidate"}
    assert [
        line["merchant"] for line in budget["bounds"] if line["bound"] == "refusals" and not line["within"]
    ] == [MERCHANT]


def test_command_annotates(directory: Path) -> None:
    """Of a merchant whose rules did not change: within, and nothing to annotate."""
    ran = _run(directory, "flipped: 0\n", "--merchant", "medina-topup", form="github")
    assert ran.code == 0, ran.err
    assert "budget.yaml: within" in ran.out
    assert "::error" not in ran.out


def test_command_refuses_a_bad_budget_before_it_replays(directory: Path) -> None:
    ran = _run(directory, "fliped: 3\n")
    assert (ran.code, ran.out) == (1, "")
    assert "did you mean `flipped`?" in ran.err


def test_command_without_the_file(directory: Path) -> None:
    ran = run("replay", directory / "h.parquet", "--budget", directory / "none.yaml")
    assert (ran.code, "there is no budget" in ran.err) == (2, True)


def test_every_bound_is_in_the_handbook() -> None:
    text = (RULES / "README.md").read_text(encoding="utf-8")
    assert not [name for name in (*TOP_KEYS, *BOUNDS, *OF_THE_RUN) if f"`{name}`" not in text]
