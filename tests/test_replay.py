"""Replay decides as the payment path does, on the sample merchants and on Spark; its tables add up."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest

import fraudengine.replay
from fraudengine.enrich import Enricher
from fraudengine.facts import ListKind
from fraudengine.list_entries import ListTarget
from fraudengine.list_store import ListStore
from fraudengine.list_values import Note
from fraudengine.money import Money
from fraudengine.replay.engine import NothingToReplay, replay
from fraudengine.replay.engines import EngineUnavailable
from fraudengine.replay.generate import generate
from fraudengine.replay.population import RealTables
from fraudengine.replay.result import ReplayResult
from fraudengine.replay.rows import earlier_of, transaction_of
from fraudengine.replay.rule_sources import NoSuchRules
from fraudengine.rules.ast import ListName, Outcome
from fraudengine.velocity import Past, Report, ReportKind, value_of
from tests.replaying import (
    RULES,
    configuration,
    data_files,
    disagreements,
    make_history,
    real_tables,
    rule_sets,
)

STRICTER = "challenge_above: {TND: 300}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def history(directory: Path) -> Path:
    return make_history(directory / "history.parquet", 4_000)


@pytest.fixture(scope="module")
def other_rules(directory: Path) -> Path:
    """The sample rules with one figure and one list changed."""
    found = directory / "other-rules"
    shutil.copytree(RULES, found)
    file = found / "merchants" / "carthage-market.yaml"
    text = file.read_text()
    assert STRICTER in text
    file.write_text(text.replace(STRICTER, "challenge_above: {TND: 100}"))
    return found


@pytest.fixture(scope="module")
def compared(directory: Path, history: Path, other_rules: Path) -> Iterator[ReplayResult]:
    config = configuration(directory / "state")
    with replay(history, other_rules, RULES, config=config, data=data_files(), flip_limit=40) as result:
        yield result


@pytest.fixture(scope="module")
def decided(directory: Path, history: Path) -> Iterator[ReplayResult]:
    """The whole history by the sample rules, against what it records."""
    config = configuration(directory / "state")
    with replay(history, RULES, config=config, data=data_files(), flip_limit=20) as result:
        yield result


def test_columns_reference_and_online_agree_on_the_sample_merchants(decided: ReplayResult) -> None:
    assert disagreements(decided, rule_sets()) == []
    assert decided.summary.transactions == 4_000
    assert decided.summary.disagreements == 0


@pytest.mark.long
def test_they_agree_on_a_hundred_thousand_transactions(tmp_path: Path) -> None:
    made = make_history(tmp_path / "h.parquet", 100_000, seed=7)
    with replay(made, RULES, config=configuration(tmp_path / "state"), data=data_files()) as result:
        assert disagreements(result, rule_sets()) == []


def test_tables_add_up(compared: ReplayResult) -> None:
    total = compared.summary.transactions
    for table in (compared.matrix, compared.by_merchant, compared.by_label, compared.by_day, compared.outcomes()):
        assert sum(row["transactions"] for row in table.rows()) == total, table.name
    flipped = [row for row in compared.matrix.rows() if row["champion"] != row["candidate"]]
    assert sum(row["transactions"] for row in flipped) == compared.summary.flips > 0


def test_only_what_was_changed_flips(compared: ReplayResult) -> None:
    assert {row["merchant"] for row in compared.flips.rows()} == {"carthage-market"}
    for row in compared.flips.rows():
        assert 100_000 < row["minor"] <= 300_000
        assert row["new"][0].startswith("challenge-above: amount")
        assert not row["gone"]
    assert compared.summary.disagreements == 0


def test_rule_table_counts_what_decisions_say(compared: ReplayResult) -> None:
    for side in ("champion", "candidate"):
        found = {row["rule"]: row for row in compared.rules.rows() if row["side"] == side}
        rule = found["challenge-above"]
        by_bits = compared.query(
            f"SELECT count(*) AS n, count(*) FILTER ({side}_rule = 'challenge-above') AS decided FROM decisions d"
            f" JOIN rule_bits b ON b.shape = d.shape AND b.side = '{side}' AND b.rule = 'challenge-above'"
            f" WHERE ({side}_m0 >> b.bit) & 1 = 1"
        ).rows()[0]
        assert (rule["matches"], rule["decided"]) == (by_bits["n"], by_bits["decided"])
        assert rule["unique_matches"] <= rule["matches"]
        assert sum(dict(rule["minor_by_currency"]).values()) > 0


def test_tables_are_pandas_and_polars_tables_too(compared: ReplayResult) -> None:
    assert len(compared.rules.to_pandas()) == len(compared.rules.to_polars()) == len(compared.rules)


def test_time_and_merchants_are_selected(directory: Path, history: Path) -> None:
    config = configuration(directory / "state")
    since = 1_795_000_000_000_000
    with replay(
        history, RULES, merchants=["medina-topup"], since_us=since, config=config, data=data_files(), flip_limit=0
    ) as result:
        rows = result.query(
            "SELECT min(at_us) AS first, count(DISTINCT merchant) AS merchants FROM decisions"
        ).rows()
        assert rows[0]["first"] >= since
        assert rows[0]["merchants"] == 1


def test_counters_see_what_came_before_the_time_asked_for(
    directory: Path, history: Path, decided: ReplayResult
) -> None:
    config = configuration(directory / "state")
    since = decided.query("SELECT (min(at_us) + max(at_us)) // 2 AS middle FROM decisions").rows()[0]["middle"]
    question = f"SELECT seq, candidate, candidate_m0 FROM decisions WHERE at_us >= {since} ORDER BY seq"
    expected = decided.query(question).rows()
    with replay(history, RULES, since_us=since, config=config, data=data_files(), flip_limit=0) as half:
        assert half.query(question).rows() == expected


def test_lists_of_now_hold_what_was_added_later(history: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path / "state")
    table = pq.read_table(history, columns=["merchant", "email", "at_us"]).to_pylist()
    counted = Counter(row["email"] for row in table if row["merchant"] == "carthage-market" and row["email"])
    (email, number), *_ = counted.most_common(1)
    assert number > 10
    times = sorted(row["at_us"] for row in table if (row["merchant"], row["email"]) == ("carthage-market", email))
    added_us = times[number // 2]
    store = ListStore(config.state / "lists.db", lambda: added_us)
    target = ListTarget("carthage-market", ListName("blocked_emails"), ListKind.EMAIL)
    store.add(target, email, Note("bought with stolen cards", "SUP-1", "support"))
    store.close()
    found: dict[str, list[int]] = {}
    lists: Literal["as-of", "now"]
    for lists in ("as-of", "now"):
        given: Any = {"merchants": ["carthage-market"], "lists": lists, "config": config, "data": data_files()}
        with replay(history, RULES, flip_limit=5, **given) as result:
            assert (result.summary.lists, result.summary.disagreements) == (lists, 0)
            rows = result.query(
                "SELECT d.at_us FROM decisions d JOIN history h USING (seq) JOIN rule_bits b ON b.shape = d.shape"
                " AND b.side = 'candidate' AND b.rule = 'email-blocked' AND b.word = 0"
                f" WHERE h.email = '{email}' AND (d.candidate_m0 >> b.bit) & 1 = 1 ORDER BY d.at_us"
            ).rows()
        found[lists] = [row["at_us"] for row in rows]
    assert found["as-of"] == [at_us for at_us in times if at_us >= added_us]
    assert found["now"] == times


@pytest.mark.parametrize(
    "engine",
    ["spark://127.0.0.1:1", "spark://127.0.0.1:1,127.0.0.1:2", "spark://127.0.0.1", "spark://127.0.0.1:99999"],
)
def test_a_spark_that_does_not_answer_is_named_at_once(engine: str, directory: Path, history: Path) -> None:
    config = configuration(directory / "state")
    with pytest.raises(EngineUnavailable, match=f"no Spark master answers at {engine}"):
        replay(history, RULES, config=config, data=data_files(), engine=engine)


def test_a_missing_spark_says_what_to_install(
    directory: Path, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'fraudengine\[spark\]'"):
        replay(history, RULES, config=configuration(directory / "state"), data=data_files(), engine="local-spark")


def test_the_example_of_the_package_runs(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader would run it: a history, `rules` below a repository and the data in the current directory."""
    configuration(tmp_path / "var")
    for name, target in (("history.parquet", history), ("rules", RULES), ("data", RULES.parent / "data")):
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    said = fraudengine.replay.__doc__ or ""
    example = "\n".join(line[4:] for line in said.splitlines() if line.startswith("    ") or not line)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["result"].summary.transactions == 4_000
    assert len(names["result"].rules) > 5


def test_a_git_revision_is_replayed_and_an_unknown_one_refused(directory: Path, history: Path) -> None:
    config = configuration(directory / "state")
    with replay(history, "HEAD", RULES, config=config, data=data_files(), flip_limit=0) as result:
        assert result.summary.candidate == "HEAD"
    with pytest.raises(NoSuchRules, match="no-such-revision"):
        replay(history, "no-such-revision", config=config, data=data_files())


def test_a_history_of_strangers_is_refused(directory: Path, history: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    (rules / "merchants").mkdir(parents=True)
    (rules / "merchants" / "nobody.yaml").write_text("merchant: nobody\ndescription: Nobody.\n")
    with pytest.raises(NothingToReplay, match="carthage-market"):
        replay(history, rules, config=configuration(directory / "state"), data=data_files())


def test_hundreds_of_merchants_share_queries(directory: Path, tmp_path: Path) -> None:
    """Merchants whose rules differ in figures and entries only are one shape."""
    import pyarrow as pa

    rules = tmp_path / "rules"
    shutil.copytree(RULES, rules)
    for file in (rules / "merchants").iterdir():
        file.unlink()
    for number in range(300):
        (rules / "merchants" / f"shop-{number}.yaml").write_text(
            f"merchant: shop-{number}\ndescription: A shop.\nextends: platform\n"
            f"settings:\n  challenge_above: {{TND: {50 + number}}}\n"
            f"lists:\n  blocked_emails: [a{number}@b.tn]\n  blocked_ip_countries: [{('NG', 'RU')[number % 2]}]\n"
        )
    made = pq.read_table(make_history(tmp_path / "one.parquet", 2_000, seed=3))
    names = pa.array([f"shop-{number % 300}" for number in range(2_000)])
    table = made.set_column(made.schema.get_field_index("merchant"), "merchant", names)
    pq.write_table(table.replace_schema_metadata(made.schema.metadata), tmp_path / "many.parquet")
    config = configuration(directory / "state")
    with replay(tmp_path / "many.parquet", rules, config=config, data=data_files(), flip_limit=10) as result:
        assert result.summary.merchants == 300
        assert result.query("SELECT count(DISTINCT shape) AS shapes FROM decisions").rows()[0]["shapes"] == 1
        assert disagreements(result, rule_sets(rules)) == []


COUNTING = """\
rule_set: platform
description: Counters of every kind.
velocity:
  tries: {count: transactions, per: card, within: 7 days}
  refusals: {count: transactions, per: ip_network, within: 90 days, among: refused, scope: all}
  spent: {sum: amount, per: email, within: 90 days, scope: all}
  cards: {count_distinct: card, per: ip_address, within: 90 days}
  cards_everywhere: {count_distinct: card, per: card_country, within: 90 days, scope: all}
  declines: {count: transactions, per: card, within: 90 days, among: declined, scope: all}
rules:
  - id: counted
    description: Reads them all.
    when:
      any:
        - tries: {over: $most}
        - refusals: {over: 1}
        - spent: {over: 100 TND}
        - cards: {over: 1}
        - cards_everywhere: {over: 2}
        - declines: {over: 0}
    then: refuse
    reason: COUNTED
settings:
  most: {type: integer, help: Most tries.}
"""


def test_counters_are_those_of_the_law(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among a merchant's own and among everybody's screenings, with steps, late rows and reports, in slices."""
    rules = tmp_path / "rules"
    (rules / "merchants").mkdir(parents=True)
    (rules / "platform.yaml").write_text(COUNTING)
    for name, extra in (("carthage-market", ""), ("medina-topup", ""), ("sahara-travel", "otherwise: challenge\n")):
        text = f"merchant: {name}\ndescription: A shop.\nextends: platform\n{extra}settings:\n  most: 2\n"
        (rules / "merchants" / f"{name}.yaml").write_text(text)
    monkeypatch.setattr("fraudengine.replay.engine.SLICE_ROWS", 10)
    made = tmp_path / "h.parquet"
    generate(400, made, dense(), seed=5, days=2)
    known = rule_sets(rules)
    counters = known["carthage-market"].velocity
    enricher = Enricher(data_files())
    history, reports = [], []
    for row in pq.read_table(made).to_pylist():
        rule_set = known.get(row["merchant"], known["carthage-market"])
        facts = enricher.facts(transaction_of(row), rule_set, earlier_of(row))
        outcome = Outcome(row["recorded_outcome"])
        amount = Money(row["minor"], row["currency"])
        of = (row["merchant"], row["transaction_id"], row["at_us"], amount, outcome, facts)
        history.append(Past(row["seq"] * 2, *of))
        if row["label"] in ("declined", "technical_failure") and row["labelled_seq"] is not None:
            kind = ReportKind(row["label"])
            reports.append(Report(row["labelled_seq"] * 2 + 1, row["merchant"], row["transaction_id"], kind))
    by_sequence = {past.sequence: past for past in history}
    told: set[int] = set()
    with replay(made, rules, config=configuration(directory / "state"), data=data_files(), flip_limit=5) as result:
        rows = result.query("SELECT * FROM decisions ORDER BY seq").rows()
        assert {row["merchant"] for row in rows} == known.keys()
        for row in rows:
            for column, value in row.items():
                if column.startswith(f"counter_{row['shape']}_"):
                    counter = counters[column.split("_", 3)[3]]
                    law = value_of(counter, by_sequence[row["seq"] * 2], history, reports)
                    assert value == (law.minor if isinstance(law, Money) else law), (column, row)
                    told.add(value or 0)
        assert result.summary.disagreements == 0
    assert len(told) > 5


def dense() -> RealTables:
    """Few addresses, so that many share them."""
    tables = real_tables()
    low = {name: (lows[:1], lows[:1] + 2) for name, (lows, _) in tables.addresses.items()}
    return RealTables(low, tables.bins)


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    make_history(tmp_path / "h.parquet", 60_000)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    configuration(tmp_path / "state")
    process = subprocess.Popen(
        [sys.executable, "-m", "fraudengine", "replay", "h.parquet", "--rules", str(RULES), "--state", "state"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not list(scratch.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.parquet", "state", "tmp"]


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17, which is not installed here")
@pytest.mark.long
def test_spark_decides_as_duckdb_does(directory: Path, history: Path) -> None:
    config = configuration(directory / "state")
    question = "SELECT seq, candidate, candidate_rule, candidate_code, candidate_m0 FROM decisions ORDER BY seq"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with replay(
            history, RULES, ablation=True, config=config, data=data_files(), engine="local-spark", threads=2
        ) as spark:
            by_spark = spark.query(question).rows()
    with replay(history, RULES, ablation=True, config=config, data=data_files()) as embedded:
        assert embedded.query(question).rows() == by_spark
        assert {name: table.rows() for name, table in embedded.extra.items()} == {
            name: table.rows() for name, table in spark.extra.items()
        }
