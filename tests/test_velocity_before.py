"""A log of the release before, brought forward: what is counted is the law's, whatever comes afterwards.

The fixture was written by that release with the counters of `velocity_cases`: events in the index, a merge that was
cut off, so that some are in index and tail, a tail behind it, reports, and two series whose past is not filled in.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudengine.decision_log import DecisionLog
from fraudengine.money import Money
from fraudengine.rules.ast import Outcome
from fraudengine.velocity import Past, Report, ReportKind, value_of
from fraudengine.velocity_before import has_before
from fraudengine.velocity_documents import facts_of_document
from fraudengine.velocity_index import CounterReader
from tests.test_velocity_merge import merge
from tests.velocity_cases import HOUR_US, MERCHANTS, NOW_US, Driven, Step, histories, planned

UNFILLED = ("declined_cards", "refused_emails")
LOG_BEFORE = Path(__file__).parent / "fixtures" / "log-before-places" / "decisions.db"


def driven_on(log: DecisionLog) -> Driven:
    """With what the log holds already."""
    driven = Driven(log)
    with closing(sqlite3.connect(log.path)) as database:
        rows = database.execute(
            "SELECT s.id, m.name, transaction_id, at_us, minor, currency, outcome, document"
            " FROM screenings s JOIN merchants m ON m.id = s.merchant_id ORDER BY s.id"
        ).fetchall()
        reports = database.execute("SELECT id, screening_id, kind FROM outcomes ORDER BY id").fetchall()
    for screening_id, merchant, transaction_id, at_us, minor, currency, outcome, document in rows:
        facts = facts_of_document(orjson.loads(document))
        amount = Money(minor, currency)
        call = Past(screening_id, merchant, transaction_id, at_us, amount, Outcome(outcome), facts, screening_id)
        driven.calls.append(call)
    for report_id, screening_id, kind in reports:
        about = next(call for call in driven.calls if call.sequence == screening_id)
        driven.told.add((screening_id, ReportKind(kind)))
        driven.reports.append(Report(report_id, about.merchant, about.transaction_id, ReportKind(kind)))
    return driven


def counts_as_the_law(driven: Driven, reader: CounterReader, call: Past) -> Past:
    call, counted = driven.count(call, reader)
    expected = {
        one.counter.name: value
        for one in reader.counters
        if (value := value_of(one.counter, call, driven.calls, driven.reports, one.at_most)) is not None
    }
    assert counted == expected
    return call


SUBJECTS = [
    Past(0, merchant, "subject", NOW_US + offset, Money(5, "TND"), Outcome.ACCEPT, {**facts, "three_ds": "none"})
    for merchant, offset, facts in product(
        MERCHANTS,
        (1, HOUR_US + 1, 3 * HOUR_US + 1, 26 * HOUR_US),
        (
            {"card": "fp_a", "ip_address": "41.226.11.9", "email": "a@b.tn"},
            {"card": "fp_b", "ip_address": "41.226.11.10", "email": "c@d.tn"},
            {"card": "fp_a", "ip_address": "2c0f:f698::1", "email": "c@d.tn"},
        ),
    )
]


@pytest.mark.parametrize("at_most", [None, 2])
def test_it_counts_on(tmp_path: Path, at_most: int | None) -> None:
    """Before and after its series are filled in, while its tail is merged, and when opened again."""
    path, reader = tmp_path / "log.db", CounterReader(planned(at_most))
    filled = CounterReader([one for one in planned(at_most) if one.counter.name not in UNFILLED])
    shutil.copy(LOG_BEFORE, path)
    with DecisionLog.open(path) as log:
        assert has_before(log._writer.connect())
        driven = driven_on(log)
        for subject in SUBJECTS:
            counts_as_the_law(driven, filled, subject)
        driven.keep()
        for number, subject in enumerate(SUBJECTS):
            counts_as_the_law(driven, reader, subject)
            merge(path, number)
        assert merge(path)
    with DecisionLog.open(path) as log:
        driven = driven_on(log)
        for subject in SUBJECTS:
            counts_as_the_law(driven, reader, subject)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM velocity_tail").fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM velocity_events").fetchone() > (0,)
        assert database.execute("SELECT count(*) FROM velocity_events_before").fetchone() > (0,)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(12), st.lists(st.integers(-6, 12), min_size=4, max_size=4), st.sampled_from([None, 1, 3]))
def test_whatever_comes_afterwards(history: list[Step], pieces: list[int], at_most: int | None) -> None:
    """New steps of its transactions, reports about them, retried calls of ours, and merges cut off anywhere."""
    reader = CounterReader(planned(at_most))
    with TemporaryDirectory() as directory:
        path = Path(directory) / "log.db"
        shutil.copy(LOG_BEFORE, path)
        with DecisionLog.open(path) as log:
            driven = driven_on(log)
            driven.keep()
            for number, step in enumerate(history):
                if step.call is not None:
                    new = replace(step.call, request=("new", step.call.request))
                    driven.record(counts_as_the_law(driven, reader, new))
                elif step.kind is not None:
                    driven.report(driven.calls[step.report_on * 7 % len(driven.calls)], step.kind)
                counts_as_the_law(driven, reader, SUBJECTS[number % len(SUBJECTS)])
                if (count := pieces[number % len(pieces)]) > 0:
                    merge(path, count)


def test_a_log_that_counted_nothing_keeps_no_old_table(tmp_path: Path) -> None:
    with DecisionLog.open(tmp_path / "log.db") as log:
        assert not has_before(log._writer.connect())
