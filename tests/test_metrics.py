"""What is seen: /metrics, JSON logs, traces; the files for Prometheus and Grafana speak only of what there is."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fraudengine.api.metrics_page import COUNTERS, GAUGES, metrics_page
from fraudengine.metrics import MAX_CODES, Counts, Histogram, Metrics, read_counts
from fraudengine.structured_log import JsonFormatter, new_trace, read_trace

from .running import REPOSITORY, Service, running_service, wait_until

OPS = REPOSITORY / "data" / "ops"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


# ---- counts -----------------------------------------------------------------------------------------


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.1):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == pytest.approx(7.1)


def test_counts_of_all_workers_are_added_and_outlive_a_restart(tmp_path: Path) -> None:
    first, second = Metrics(tmp_path / "m", 0, ["shop"]), Metrics(tmp_path / "m", 1)
    first.count_screening("shop", "accept", "NO_RULE_MATCHED", 0.001, 0.002, 0.003)
    first.count_screening("another", "refuse", "CARD_BLACKLISTED", 0.001, 0.002, 0.003)
    second.count_screening("shop", "refuse", "CARD_BLACKLISTED", 0.1, 0.1, 0.1)
    second.count("retries")
    second.write()
    first.write()
    again = Metrics(tmp_path / "m", 0)
    assert again.of_all_workers().screenings == {
        ("shop", "accept", "NO_RULE_MATCHED"): 1,
        ("other", "refuse", "CARD_BLACKLISTED"): 2,
    }
    total = again.of_all_workers()
    assert sum(total.stages["whole"].counts) == 3
    assert total.stages["whole"].sum == pytest.approx(0.312)
    assert total.named["retries"] == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"screenings": 1}', b"\xff"], ids=repr)
def test_a_damaged_file_counts_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "worker-000.json").write_bytes(content)
    assert read_counts(tmp_path / "worker-000.json").as_object() == Counts().as_object()


def test_reason_codes_are_bounded(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0)
    for number in range(MAX_CODES + 50):
        metrics.count_screening("shop", "refuse", f"CODE_{number}", 0, 0, 0)
    codes = {code for _, _, code in metrics.counts.screenings}
    assert len(codes) == MAX_CODES + 1
    assert metrics.counts.screenings["other", "refuse", "OTHER"] == 50


class Still:
    def counted(self) -> Counts:
        return Counts()

    def gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        return {name: {tuple("x" for _ in labels): 1.0} for name, (_, labels) in GAUGES.items()}


def names_on_the_page() -> set[str]:
    families = text_string_to_metric_families(metrics_page(Still()).decode())
    found = set()
    for family in families:
        found |= {family.name, f"{family.name}_total"} | {
            f"{family.name}_{part}" for part in ("bucket", "sum", "count")
        }
    return found


# ---- a real service ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"FRAUDENGINE_LOG_FORMAT": "json", "FRAUDENGINE_METRICS_MERCHANTS": "carthage-market, nobody"}
    with running_service(tmp_path_factory.mktemp("metrics"), settings) as running:
        yield running


def samples(service: Service) -> dict[str, float]:
    page = service.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def test_the_page_of_a_service(service: Service) -> None:
    before = samples(service)
    service.screen(transaction_id="m-1")
    service.screen(transaction_id="m-1")
    service.screen(transaction_id="m-2", merchant="medina-topup")
    service.screen(transaction_id="m-1", amount="51.000")
    now = samples(service)

    def grown(name: str, **labels: str) -> float:
        key = name + str(sorted(labels.items()))
        return now[key] - before.get(key, 0)

    screenings = {key: value for key, value in now.items() if key.startswith("fraudengine_screenings_total")}
    assert sum(screenings.values()) - sum(before.get(key, 0) for key in screenings) == 2
    assert any("'carthage-market'" in key for key in screenings)
    assert any("'other'" in key for key in screenings)
    assert grown("fraudengine_retries_total") == 1
    assert grown("fraudengine_log_rows_total") == 2
    assert grown("fraudengine_refused_calls_total", problem="transaction-conflict") == 1
    assert grown("fraudengine_screening_seconds_count", stage="whole") == 2
    assert grown("fraudengine_log_commit_seconds_count") >= 1
    assert now["fraudengine_ready[]"] == 1
    assert now["fraudengine_rule_sets[]"] >= 4
    assert now["fraudengine_data_age_seconds[('data', 'ip_country')]"] > 0
    assert {name for name in GAUGES if not any(key.startswith(f"fraudengine_{name}[") for key in now)} <= {
        "list_entries"
    }


def test_a_trace_goes_in_and_out_and_into_the_log(service: Service) -> None:
    answer = service.client.post(
        "/v1/screenings",
        json=json.loads(service.screen(transaction_id="trace-0").request.content) | {"transaction_id": "trace-1"},
        headers={"traceparent": TRACE},
    )
    version, trace_id, span_id, flags = answer.headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE.split("-")[1], "01")
    assert span_id != TRACE.split("-")[2]
    screening_id = answer.json()["screening_id"]
    wait_until(lambda: any(screening_id in line for line in service.stderr), "the screening is in the log")
    lines = [json.loads(line) for line in service.stderr if line.startswith("{")]
    (line,) = [line for line in lines if line.get("screening_id") == screening_id]
    assert (line["event"], line["trace_id"], line["span_id"]) == ("screening", trace_id, span_id)
    assert (line["merchant"], line["decision"], line["code"]) == ("carthage-market", "accept", "NO_RULE_MATCHED")
    refused = service.client.post("/v1/screenings", content=b"{", headers={"traceparent": TRACE})
    assert refused.headers["traceparent"].split("-")[1] == trace_id


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        b"00-4111111111111111aaaaaaaaaaaaaaaa-00f067aa0ba902b7-01",  # it holds a card number
    ],
    ids=repr,
)
def test_what_is_no_trace(header: bytes) -> None:
    assert read_trace([(b"traceparent", header)]) is None


def test_a_new_trace_can_be_read() -> None:
    trace = new_trace()
    read = read_trace([trace.header])
    assert read is not None
    assert (read.trace_id, read.flags) == (trace.trace_id, "00")


def test_messages_are_json_with_their_traceback() -> None:
    try:
        raise ZeroDivisionError("inside")
    except ZeroDivisionError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it %s", ("failed",), sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"]) == ("error", "it failed")
    assert "ZeroDivisionError: inside" in line["error"]


# ---- files for Prometheus and Grafana ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["prometheus-alerts.yaml", "grafana-dashboard.json"])
def test_every_metric_that_a_file_speaks_of_exists(name: str) -> None:
    used = set(re.findall(r"fraudengine_[a-z_]+", (OPS / name).read_text()))
    assert len(used) >= 8
    assert used <= names_on_the_page()


def test_every_metric_is_on_the_dashboard() -> None:
    text = (OPS / "grafana-dashboard.json").read_text()
    assert not [name for name in (*GAUGES, *COUNTERS) if f"fraudengine_{name}" not in text]
    assert json.loads(text)["title"] == "fraudengine"


def test_promtool_accepts_the_page_and_the_alerts(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    subprocess.run([promtool, "check", "rules", str(OPS / "prometheus-alerts.yaml")], check=True)
    subprocess.run([promtool, "check", "metrics"], input=metrics_page(Still()), check=True)
