"""Ablation says of every rule and entry what taking it out and deciding each payment again says."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest

from fraudengine.backends import reference
from fraudengine.cli.replay_words import ablation_lines
from fraudengine.decision import decide
from fraudengine.enrich import Enricher
from fraudengine.facts import ListKind
from fraudengine.list_entries import ListTarget
from fraudengine.list_store import ListStore
from fraudengine.list_values import Note
from fraudengine.lists import ListsAsOf, build_index, build_indexes
from fraudengine.replay import shapes
from fraudengine.replay.engine import replay
from fraudengine.replay.list_history import ListHistory
from fraudengine.replay.report import report_page
from fraudengine.replay.result import BAD_LABELS, GOOD_LABELS, ReplayResult
from fraudengine.replay.rows import earlier_of, transaction_of
from fraudengine.rules.ast import InList, ListEntry, ListName, Mode, Outcome, RuleSet
from tests.replaying import RULES, configuration, counters_of, data_files, make_history, rule_sets

ORDER = (Outcome.ACCEPT, Outcome.CHALLENGE, Outcome.REFUSE)
FIGURES = ("needed", "caught", "good_refused", "good_challenged", "good_spared", "bad_spared")

MERCHANT = """
merchant: {name}
description: A shop made up for this test.
extends: platform
timezone: Africa/Tunis
settings:
  challenge_above: {{TND: {limit}}}
  max_attempts_per_card: 4
change:
  prepaid-card: {{mode: live}}
lists:
  allowed_card_countries: [TN, FR, {country}]
  blocked_email_domains: [mailinator.com, gmail.com]
  blocked_customers: ["nobody-has-this-number"]
  blocked_bins: {bins}
  blocked_ips: {networks}
  known_countries:
    of: country
    help: Where its customers live.
    entries: [TN, {country}, DE]
rules:
  - id: night-abroad
    description: Neither the card nor the buyer is at home.
    when: {{hour: {{under: 6}}}}
    unless:
      any:
        - card_country: {{in_list: known_countries}}
        - ip_country: {{in_list: known_countries}}
    then: challenge
    if_unknown: refuse
    reason: UNUSUAL_PATTERN
  - id: known-and-small
    description: Small payments from home need nothing.
    when: {{ip_country: {{in_list: known_countries}}, amount: {{under: {{TND: 15}}}}}}
    then: accept
    reason: TRUSTED_CUSTOMER
  - id: twin-of-countries
    description: Says again what another rule says.
    when: {{card_country: {{not_in_list: allowed_card_countries}}}}
    then: refuse
    reason: CARD_COUNTRY_NOT_ALLOWED
"""


@dataclass
class Sums:
    counts: Counter[str] = field(default_factory=Counter)
    minor: Counter[tuple[str, str]] = field(default_factory=Counter)
    days: dict[str, date] = field(default_factory=dict)

    def add(self, row: dict[str, Any], answered: Outcome, without: Outcome) -> None:
        day = datetime.fromtimestamp(row["at_us"] / 1e6, UTC).date()
        self._add("touched", row, day)
        change = ORDER.index(answered) - ORDER.index(without)
        if change:
            self._add("needed", row, day)
        if row["label"] in BAD_LABELS and change:
            self._add("caught" if change > 0 else "bad_spared", row, day)
        if row["label"] in GOOD_LABELS and change:
            to = "good_spared" if change < 0 else "good_refused"
            self._add("good_challenged" if change > 0 and answered is Outcome.CHALLENGE else to, row, day)

    def _add(self, what: str, row: dict[str, Any], day: date) -> None:
        self.counts[what] += 1
        self.minor[what, row["currency"]] += row["minor"]
        self.days[what] = max(self.days.get(what, day), day)


@dataclass
class BruteForce:
    """Every payment decided anew without each rule that matched and each entry of a list, one at a time."""

    rules: dict[tuple[str, str], Sums] = field(default_factory=lambda: defaultdict(Sums))
    entries: dict[tuple[str, str, str, str], Sums] = field(default_factory=lambda: defaultdict(Sums))
    together: dict[tuple[str, str], set[str]] = field(default_factory=dict)


def by_brute_force(
    result: ReplayResult, known: dict[str, RuleSet], history: ListHistory, now: int | None
) -> BruteForce:
    found, enricher = BruteForce(), Enricher(data_files())
    ready = {name: history.woken(rule_set, name) for name, rule_set in known.items()}
    lists = {name: history.merged(rule_set, name) for name, (rule_set, _) in ready.items()}
    indexes = {name: build_indexes(held) for name, held in lists.items()}
    holes = {name: list(_without_each(ready[name][0], lists[name])) for name in known}
    rows = result.query(
        "SELECT h.*, d.* EXCLUDE (seq, merchant, at_us, currency, minor, label) FROM history h JOIN decisions d"
        " USING (seq) ORDER BY seq"
    ).rows()
    for row in rows:
        merchant, as_of = row["merchant"], now or row["at_us"]
        rule_set, guards = ready[merchant]
        asleep = {name for name, spans in guards.items() if not any(a <= as_of < b for a, b in spans)}
        awake = replace(rule_set, rules=tuple(rule for rule in rule_set.rules if rule.id not in asleep))
        facts = dict(enricher.facts(transaction_of(row), rule_set, earlier_of(row)))
        facts |= counters_of(row, rule_set)

        def answer(of: RuleSet, held: Any, facts: Any = facts, as_of: int = as_of) -> Any:
            matches = reference.find_matches(of, facts, ListsAsOf(held, as_of))
            return decide(of, matches, three_ds=str(facts["three_ds"]), channel=str(facts["channel"]))

        whole = answer(awake, indexes[merchant])
        assert whole.outcome.value == row["candidate"]
        live = [match for match in whole.matches if match.rule.mode is Mode.LIVE]
        for match in live:
            rest = replace(awake, rules=tuple(rule for rule in awake.rules if rule.id != match.rule.id))
            key = (merchant, str(match.rule.id))
            found.rules[key].add(row, whole.outcome, answer(rest, indexes[merchant]).outcome)
            found.together.setdefault(key, {str(other.rule.id) for other in live if _is_no_milder(other, match)})
            found.together[key] &= {str(other.rule.id) for other in live if _is_no_milder(other, match)}
        for entry, name, alone, rest_of_list, tested in holes[merchant]:
            if any(fact in facts and alone.find(facts[fact], as_of) is not None for fact in tested):
                without = answer(awake, indexes[merchant] | {name: rest_of_list})
                key_of = (merchant, str(name), entry.value, entry.source.split(" ")[0])
                found.entries[key_of].add(row, whole.outcome, without.outcome)
    return found


def _without_each(rule_set: RuleSet, lists: Any) -> Iterator[tuple[ListEntry, ListName, Any, Any, set[str]]]:
    """Each entry: an index of it alone, one of the rest of its list, and the facts that rules seek in the list."""
    tests = [test for test in shapes.tests_of(rule_set.evaluated_rules) if isinstance(test, InList)]
    for name, declared in lists.items():
        tested = {test.fact for test in tests if test.list_name == name}
        for place, entry in enumerate(declared.entries):
            rest = (*declared.entries[:place], *declared.entries[place + 1 :])
            alone, others = (build_index(replace(declared, entries=held)) for held in ((entry,), rest))
            yield entry, name, alone, others, tested


def _is_no_milder(other: Any, match: Any) -> bool:
    if other.rule.id == match.rule.id:
        return False
    if match.outcome is Outcome.ACCEPT:
        return other.outcome is Outcome.ACCEPT
    return ORDER.index(other.outcome) >= ORDER.index(match.outcome)


# ---- what is compared -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def history(directory: Path) -> Path:
    return make_history(directory / "history.parquet", 1_600, seed=3)


@pytest.fixture(scope="module")
def rules(directory: Path, history: Path) -> Path:
    """Two merchants of one form and different entries, drawn from what their payments hold."""
    found = directory / "rules"
    shutil.copytree(RULES, found, ignore=shutil.ignore_patterns("merchants"))
    (found / "merchants").mkdir()
    rows = pq.read_table(history).to_pylist()
    for name, limit, country in (("carthage-market", 200, "IT"), ("medina-topup", 20, "US")):
        own = [row for row in rows if row["merchant"] == name]
        bins = [value for value, _ in Counter(row["card_bin"] for row in own if row["card_bin"]).most_common(3)]
        seen = Counter(address for row in own if (address := _address(row)) is not None)
        addresses = [value for value, _ in seen.most_common(8)]
        networks = [f"{addresses[0]}/32", _wider(addresses[0], 20), "198.51.100.0/24"]
        networks += sorted({_wider(address, 24) for address in addresses[1:]})
        text = MERCHANT.format(
            name=name,
            limit=limit,
            country=country,
            bins=[bins[0], bins[0][:6] + "0", bins[1], "400000"],
            networks=networks,
        )
        (found / "merchants" / f"{name}.yaml").write_text(text)
    return found


def _address(row: dict[str, Any]) -> str | None:
    value = row["ip_address"]
    return value if value and ":" not in value else None


def _wider(address: str, bits: int) -> str:
    from ipaddress import ip_network

    return str(ip_network(f"{address}/{bits}", strict=False))


@pytest.fixture(scope="module", params=["as-of", "now"])
def ablated(
    request: pytest.FixtureRequest, directory: Path, history: Path, rules: Path
) -> Iterator[tuple[ReplayResult, BruteForce]]:
    lists: Literal["as-of", "now"] = request.param
    config = configuration(directory / f"state-{lists}")
    _add_run_time_entries(config.state / "lists.db", history)
    given: Any = {"merchants": ["carthage-market", "medina-topup"], "lists": lists, "flip_limit": 0}
    with replay(history, rules, ablation=True, config=config, data=data_files(), **given) as result:
        of_lists = ListHistory.read(config.state / "lists.db")
        now = None if lists == "as-of" else 1 << 60
        yield result, by_brute_force(result, rule_sets(rules), of_lists, now)


def _add_run_time_entries(path: Path, history: Path) -> None:
    """E-mails blocked early, one of them not for long; a customer trusted later; a card blocked for everybody."""
    rows = pq.read_table(history).to_pylist()
    own = [row for row in rows if row["merchant"] == "carthage-market"]
    times = sorted(row["at_us"] for row in own)
    customers, emails, cards = (
        [value for value, _ in Counter(row[name] for row in own if row[name]).most_common(12)]
        for name in ("customer", "email", "card")
    )
    now = times[5]
    store = ListStore(path, lambda: now)
    note = Note("a test", "SUP-1", "support")
    target = ListTarget("carthage-market", ListName("blocked_emails"), ListKind.EMAIL)
    kept = [store.add(target, email, note).entry for email in emails]
    now = times[len(times) // 3]
    store.add(ListTarget("carthage-market", ListName("trusted_customers"), ListKind.CUSTOMER), customers[0], note)
    now = times[len(times) // 2]
    store.add(ListTarget("*", ListName("blacklist"), ListKind.CARD), cards[0], note)
    now = times[-50]
    store.remove(kept[0].id, note)
    store.close()


def test_every_rule_says_what_deciding_without_it_says(ablated: tuple[ReplayResult, BruteForce]) -> None:
    result, law = ablated
    rows = result.extra["ablation_rules_by_merchant"].rows()
    assert {(row["merchant"], row["rule"]) for row in rows} >= law.rules.keys()
    for row in rows:
        sums = law.rules[row["merchant"], row["rule"]]
        assert _figures(row, "matches", "last_match") == _expected(sums), row["rule"]
        assert row["covered_by"] == sorted(law.together.get((row["merchant"], row["rule"]), ())), row["rule"]
        assert row["always_covered"] == (sums.counts["touched"] > 0 and not sums.counts["needed"])
    assert sum(row["needed"] > 0 for row in rows) >= 10
    by_name = {row["rule"]: row for row in result.extra["ablation_rules"].rows()}
    assert by_name["twin-of-countries"]["covered_by"] == ["card-country-not-allowed"]
    assert by_name["twin-of-countries"]["always_covered"]


def test_every_entry_says_what_deciding_without_it_says(ablated: tuple[ReplayResult, BruteForce]) -> None:
    result, law = ablated
    rows = result.extra["ablation_entries_by_merchant"].rows()
    found = {(row["merchant"], row["list"], row["value"], row["source"].split(" ")[0]): row for row in rows}
    assert len(found) == len(rows)
    assert found.keys() >= law.entries.keys()
    for key, row in found.items():
        assert _figures(row, "held", "last_held") == _expected(law.entries[key]), key
    assert sum(row["needed"] > 0 for row in rows) >= 12
    assert {row["list"] for row in rows if row["needed"]} >= {
        *("allowed_card_countries", "known_countries", "blocked_ips", "blocked_bins", "blocked_emails", "blacklist")
    }
    assert {row["value"] for row in rows if not row["held"]} >= {"nobody-has-this-number", "198.51.100.0/24"}


def test_the_tables_of_all_merchants_are_sums_of_those_of_each(ablated: tuple[ReplayResult, BruteForce]) -> None:
    tables = ablated[0].extra
    for whole, parts, touched in (
        ("ablation_rules", "ablation_rules_by_merchant", "matches"),
        ("ablation_entries", "ablation_entries_by_merchant", "held"),
    ):
        for column in (*FIGURES, touched):
            sums = [sum(row[column] for row in tables[name].rows()) for name in (whole, parts)]
            assert sums[0] == sums[1] > 0 or column in ("bad_spared", "good_challenged"), (whole, column)


def test_the_summary_and_the_report_tell_it(ablated: tuple[ReplayResult, BruteForce]) -> None:
    lines = ablation_lines(ablated[0])
    assert max(map(len, lines)) <= 80
    said = " ".join(" ".join(lines).split())
    assert "twin-of-countries: nothing hangs on it (always covered, by card-country-not-allowed)" in said
    assert "blocked_email_domains: gmail.com" in said
    page = report_page(ablated[0])
    for name in ("ablation_rules", "ablation_entries"):
        assert f'<section id="{name.replace("_", "-")}"' in page
        assert "TND" in page.partition(f'id="{name.replace("_", "-")}-table"')[2].partition("</table>")[0]


def _figures(row: dict[str, Any], touched: str, last: str) -> dict[str, Any]:
    minor = {name: dict(row[f"{name}_minor"]) for name in ("caught", "good_refused", "bad_spared")}
    days = {"last": row[last], "last_needed": row["last_needed"], "last_useful": row["last_useful"]}
    return {"touched": row[touched], **{name: row[name] for name in FIGURES}, **minor, **days}


def _expected(sums: Sums) -> dict[str, Any]:
    minor = {
        name: {code: value for (what, code), value in sums.minor.items() if what == name}
        for name in ("caught", "good_refused", "bad_spared")
    }
    useful = [sums.days[what] for what in ("caught", "good_spared") if what in sums.days]
    days = {"last": sums.days.get("touched"), "last_needed": sums.days.get("needed")}
    counts = {name: sums.counts[name] for name in ("touched", *FIGURES)}
    return counts | minor | days | {"last_useful": max(useful, default=None)}
