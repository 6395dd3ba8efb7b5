"""What access and counting add to a screening, beside one SHA-256 of a key's length in the same run.

Run: `python -m tests.benchmarks.bench_access`. The gate reads the key from the headers, finds its grant and
compares it; the metrics count one screening. Both stand on the payment path. Medians over turns that alternate.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fraudengine.access import AccessKeys, Role
from fraudengine.api.gate import Gate
from fraudengine.audit import AuditLog
from fraudengine.metrics import Metrics

CALLS = 2_000
TURNS = 30


def microseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - started) / CALLS * 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, AuditLog(Path(directory)) as audit:
        state = Path(directory)
        with AccessKeys(state, "test", audit) as keys:
            key, _ = keys.create("bench", Role.GATEWAY, by="bench")
            gate = Gate(keys, lambda _: None)
            plain = [(b"host", b"x"), (b"content-type", b"application/json")]
            headers = [*plain, (b"authorization", f"Bearer {key}".encode())]
            scope: dict[str, object] = {
                "type": "http",
                "method": "POST",
                "path": "/v1/screenings",
                "query_string": b"",
            }
            scope["headers"] = headers
            metrics = Metrics(state, 0)
            timed: dict[str, Callable[[], object]] = {
                "sha256": lambda: hashlib.sha256(key.encode()).digest(),
                "access_check": lambda: gate.admit(scope),
                "metrics_count": lambda: metrics.count_screening(
                    "shop", "accept", "NO_RULE_MATCHED", 0.00002, 0.00004, 0.0004
                ),
            }
            turns: dict[str, list[float]] = {name: [] for name in timed}
            for _ in range(TURNS):
                for name, call in timed.items():
                    turns[name].append(microseconds(call))
    medians = {name: statistics.median(found) for name, found in turns.items()}
    print(f"one sha256 takes {medians['sha256']:.2f} us")
    for name in ("access_check", "metrics_count"):
        print(f"figure {name} {medians[name]:.2f} us")
        print(f"figure {name}_vs_sha256 {medians[name] / medians['sha256']:.1f} x")


if __name__ == "__main__":
    main()
