"""`GET /metrics` in Prometheus' text form. The only importer of prometheus_client, which only writes the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from ..metrics import Counts, Histogram

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST

Gauges = Mapping[str, Mapping[tuple[str, ...], float]]


class Observed(Protocol):
    """What the page needs of the screener."""

    def counted(self) -> Counts: ...

    def gauges(self) -> Gauges: ...


# Gauges: name -> (help, labels). Their values are the answering worker's; they are the same in all of them.
GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "ready": ("1 while screenings are answered.", ()),
    "problems": ("Problems that /readyz tells of.", ()),
    "rule_files_refused": ("Rule files that are refused; older rules of them may be in force.", ()),
    "rule_sets": ("Rule sets in force.", ()),
    "data_age_seconds": ("Age of the data in use, from its own date.", ("data",)),
    "list_entries": ("Entries that nobody removed, over all merchants.", ("list", "kind")),
    "log_waiting": ("Screenings that wait for their commit in this worker.", ()),
    "log_bytes": ("Size of the decision log's file and its WAL.", ()),
    "disk_free_bytes": ("Free space where the state is.", ()),
    "worker_resident_bytes": ("Memory of the worker that answers.", ()),
}

# Counters: name -> (help, label, label's values as (value, key in Counts.named)).
COUNTERS: Final[dict[str, tuple[str, str, tuple[tuple[str, str], ...]]]] = {
    "backend_faults": (
        "Faults of a rule backend; after one of `online` the reference decides.",
        "backend",
        (("online", "fault_online"), ("reference", "fault_reference")),
    ),
    "log_rows": ("Screenings recorded.", "", (("", "log_rows"),)),
    "log_failures": ("Commits that the disk refused.", "", (("", "log_failures"),)),
    "log_refused": ("Screenings refused because too many waited.", "", (("", "log_refused"),)),
    "log_overtaken": (
        "Screenings decided again because another worker recorded a call of the transaction first.",
        "",
        (("", "log_overtaken"),),
    ),
    "retries": ("Calls that got the recorded answer.", "", (("", "retries"),)),
    "refused_calls": (
        "Calls that were not answered, by problem.",
        "problem",
        tuple(
            (name, f"refused_{name}")
            for name in ("unauthorized", "forbidden", "transaction-conflict", "store-unavailable", "internal-error")
        ),
    ),
}


def metrics_page(observed: Observed) -> bytes:
    """The page; counters are of all workers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(observed))
    return generate_latest(registry)


class _Page:
    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        counts = self._observed.counted()
        screenings = CounterMetricFamily(
            "fraudengine_screenings", "Screenings decided.", labels=("merchant", "outcome", "reason")
        )
        for labels, count in sorted(counts.screenings.items()):
            screenings.add_metric(labels, count)
        yield screenings
        stages = HistogramMetricFamily(
            "fraudengine_screening_seconds",
            "Time of a screening by stage: read and check the call, decide, record durably; whole.",
            labels=("stage",),
        )
        for name, histogram in counts.stages.items():
            stages.add_metric((name,), _buckets(histogram), histogram.sum)
        yield stages
        for suffix, text, histogram in (
            ("commit_seconds", "Time of a commit of the decision log.", counts.commit),
            ("batch_rows", "Screenings in one commit.", counts.batch),
        ):
            family = HistogramMetricFamily(f"fraudengine_log_{suffix}", text)
            family.add_metric((), _buckets(histogram), histogram.sum)
            yield family
        for name, (text, label, values) in COUNTERS.items():
            counter = CounterMetricFamily(f"fraudengine_{name}", text, labels=(label,) if label else ())
            for value, key in values:
                counter.add_metric((value,) if label else (), counts.named[key])
            yield counter
        for name, samples in self._observed.gauges().items():
            text, labels_of = GAUGES[name]
            gauge = GaugeMetricFamily(f"fraudengine_{name}", text, labels=labels_of)
            for gauge_labels, value_now in sorted(samples.items()):
                gauge.add_metric(gauge_labels, value_now)
            yield gauge


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bounds with the number of values up to each, the way Prometheus counts."""
    total, found = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
