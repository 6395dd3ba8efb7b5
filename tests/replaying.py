"""What tests of replay share: a small made-up history, real tables, and the law applied to every row."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fraudengine.config import Config, read_configuration
from fraudengine.decision import Decision, decide
from fraudengine.engine import Engine
from fraudengine.enrich import Enricher
from fraudengine.facts import FactValue
from fraudengine.lookups import DataFiles
from fraudengine.money import Money
from fraudengine.replay.generate import generate
from fraudengine.replay.population import RealTables, read_real_tables
from fraudengine.replay.result import ReplayResult
from fraudengine.replay.rows import earlier_of, transaction_of
from fraudengine.rules.ast import RuleSet
from fraudengine.rules.counters import Measure
from fraudengine.rules.library import Library

ROOT = Path(__file__).parent.parent
CACHE = ROOT / "var" / "replay-cache"
RULES = ROOT / "rules"


def configuration(state: Path) -> Config:
    """Settings with a state directory of the test's own; the ranges made from the data files are shared."""
    state.mkdir(parents=True, exist_ok=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    link = state / "replay-cache"
    if not link.exists():
        link.symlink_to(CACHE)
    return read_configuration(state=state, rules=RULES, data=ROOT / "data")


@cache
def data_files() -> DataFiles:
    return DataFiles.in_directory(ROOT / "data")


@cache
def real_tables() -> RealTables:
    return read_real_tables(data_files(), CACHE)


def make_history(path: Path, transactions: int, seed: int = 1) -> Path:
    generate(transactions, path, real_tables(), seed=seed, days=30)
    return path


def rule_sets(directory: Path = RULES) -> dict[str, RuleSet]:
    library = Library.load(directory)
    return {str(name): library.snapshot.rule_set(name) for name in library.snapshot.merchants}


def disagreements(result: ReplayResult, known: dict[str, RuleSet]) -> list[str]:
    """Rows whose decision or matches the reference or the online backend make otherwise; empty when all agree.

    Counters are taken as the columns made them: `test_columnar_counts` compares those with their law.
    """
    engine, enricher = Engine(), Enricher(data_files())
    ready = {name: engine.prepare(rule_set) for name, rule_set in known.items()}
    bits: dict[int, list[tuple[int, int, str]]] = {}
    for bit in result.query("SELECT * FROM rule_bits WHERE side = 'candidate' ORDER BY shape, word, bit").rows():
        bits.setdefault(bit["shape"], []).append((bit["word"], bit["bit"], bit["rule"]))
    rows = result.query(
        "SELECT h.*, d.* EXCLUDE (seq, merchant, at_us, currency, minor, label) FROM history h"
        " JOIN decisions d USING (seq) ORDER BY seq"
    ).rows()
    found = []
    for row in rows:
        rule_set = ready[row["merchant"]].rule_set
        transaction = transaction_of(row)
        facts = dict(enricher.facts(transaction, rule_set, earlier_of(row)))
        facts |= counters_of(row, rule_set)
        lists = ready[row["merchant"]].lists_as_of(transaction.at_us)
        matches = ready[row["merchant"]].online.find_matches(facts, lists)
        law = decide(rule_set, matches, three_ds=str(facts["three_ds"]), channel=str(facts["channel"]))
        assert engine.decide(ready[row["merchant"]], facts, lists) == law
        in_columns = [rule for word, bit, rule in bits[row["shape"]] if row[f"candidate_m{word}"] >> bit & 1]
        if not _same(row, law) or in_columns != [match.rule.id for match in matches]:
            found.append(f"{row['transaction_id']}: {row['candidate']} {in_columns}, by the law {law}")
    return found


def counters_of(row: dict[str, Any], rule_set: RuleSet) -> dict[str, FactValue]:
    """The velocity facts of a row of `decisions`."""
    found: dict[str, FactValue] = {}
    for column, value in row.items():
        if column.startswith(f"counter_{row['shape']}_") and value is not None:
            name = column.split("_", 3)[3]
            is_sum = rule_set.velocity[name].measure is Measure.SUM
            found[name] = Money(value, row["currency"]) if is_sum else value
    return found


def _same(row: dict[str, Any], law: Decision) -> bool:
    rule = law.rule.id if law.rule is not None else None
    return (row["candidate"], row["candidate_code"], row["candidate_rule"]) == (law.outcome.value, law.code, rule)
