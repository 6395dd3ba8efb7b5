"""5,000 merchants on one machine: time to ready, memory before and after traffic, and what an edit costs.

Everything goes through the parts that the service is made of, in one process. The merchants differ in figures,
lists and rules of their own; one in ten has a rule shape that few share.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from fraudengine.assembly import open_screener
from fraudengine.config import read_configuration
from fraudengine.request import read_transaction
from fraudengine.rules.watch import SHARES
from fraudengine.serve import spare_the_collector
from fraudengine.service import LOOKS_PER_INTERVAL, Screener

REPOSITORY = Path(__file__).parents[2]
COUNTRIES = ("NG", "RU", "KP", "IR", "US", "FR", "DE", "IT", "GB", "CN")


def rss_mb() -> float:
    """Resident memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def merchant_text(number: int, above: int = 300) -> str:
    """A merchant file; every tenth nests its own rule in a shape of its own."""
    first, second = COUNTRIES[number % 10], COUNTRIES[(number * 7 + 3) % 10]
    nested = "".join(f", {{amount: {{over: {10 + step} TND}}}}" for step in range(number % 37))
    own = f"{{any: [{{card_type: prepaid}}, {{all: [{{card_country: {first}}}{nested}]}}]}}"
    simple = f"{{card_country: {second}, amount: {{over: {50 + number % 200} TND}}}}"
    return f"""\
merchant: m{number:05d}
description: Benchmark merchant {number}.
extends: platform
settings:
  challenge_above: {{TND: {above + number % 100}, EUR: 90}}
  refuse_above: {{TND: {5000 + number}}}
lists:
  blocked_ip_countries: [{first}, {second if second != first else "SY"}]
  blocked_card_countries:
    - {{value: {first}, reason: chargebacks, ticket: SUP-{number}, by: support, added: 2026-01-02}}
  trusted_customers: [c-{number}]
change:
  countries-differ: {{mode: live}}
rules:
  - id: own-rule
    description: A rule of this merchant's own.
    when: {own if number % 10 == 0 else simple}
    unless: {{customer: {{in_list: trusted_customers}}}}
    then: challenge
    reason: OWN_RULE
"""


def body(number: int) -> bytes:
    return json.dumps(
        {
            "merchant": f"m{number:05d}",
            "transaction_id": f"T-{number}",
            "amount": "120.000",
            "currency": "TND",
            "card": {"masked_pan": "407024******1111"},
            "ip_address": "41.226.11.9",
        }
    ).encode()


def screen_once(screener: Screener, number: int) -> None:
    transaction, digest = read_transaction(body(number), screener.card_key, time.time_ns() // 1000)
    screener._decide(transaction, digest, time.perf_counter_ns(), ())


def reload_ms(screener: Screener, path: Path, number: int, above: int) -> float:
    path.write_text(merchant_text(number, above))
    started = time.perf_counter()
    assert screener.library.refresh()
    screener.rules.take_up()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merchants", type=int, default=5000)
    parser.add_argument("--reloads", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), arguments.merchants, arguments.reloads)


def run(directory: Path, merchants: int, reloads: int) -> None:
    rules = directory / "rules"
    (rules / "merchants").mkdir(parents=True)
    shutil.copy(REPOSITORY / "rules" / "platform.yaml", rules)
    for number in range(merchants):
        (rules / "merchants" / f"m{number:05d}.yaml").write_text(merchant_text(number))
    config = read_configuration(rules=rules, state=directory / "var", development=True)

    floor = rss_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    screener = open_screener(config)
    ready_s, ready_cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    assert not screener.problems(), screener.problems()
    spare_the_collector()
    idle = rss_mb()
    ready = f"{ready_s:.2f} s ({ready_cpu_s:.2f} s of processor time)"
    print(f"{merchants:,} merchants ready in {ready}; {idle:.0f} MB before traffic ({floor:.0f} MB empty)")

    assert not screener.library.refresh()  # the folders were made a moment ago: they are read once more
    started = time.process_time()
    for _ in range(10 * SHARES):
        assert not screener.library.may_have_changed()
    # Five looks a quarter of a second: what the service does when its reload interval is not changed.
    watch_share = (time.process_time() - started) / (10 * SHARES) * LOOKS_PER_INTERVAL / 0.25
    print(f"watching the files takes {watch_share:.1%} of a processor")

    started = time.perf_counter()
    for number in range(merchants):
        screen_once(screener, number)
    first_us = (time.perf_counter() - started) / merchants * 1e6
    busy = rss_mb()
    print(f"each screened once: {first_us:.0f} us a first screening, {busy:.0f} MB")

    edited = rules / "merchants" / "m00010.yaml"
    times = [reload_ms(screener, edited, 10, 200 + step) for step in range(20)]
    before = rss_mb()
    times += [reload_ms(screener, edited, 10, 300 + step) for step in range(reloads)]
    grown = rss_mb() - before
    platform = rules / "platform.yaml"
    platform.write_text(platform.read_text().replace("otherwise: accept", "otherwise: challenge"))
    started = time.perf_counter()
    assert screener.library.refresh()
    screener.rules.take_up()
    platform_s = time.perf_counter() - started
    edit = f"median {statistics.median(times):.0f} ms, worst {max(times):.0f} ms"
    print(f"one edit: {edit}; an edit of platform.yaml {platform_s:.1f} s")
    print(f"{reloads:,} reloads: memory grew by {grown:.1f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    screener.log.close()
    print(f"figure merchants_ready {ready_s:.2f} s")
    print(f"figure merchants_ready_cpu {ready_cpu_s:.2f} s")
    print(f"figure merchants_watch_share {watch_share * 100:.2f} %")
    print(f"figure merchants_idle_memory {idle:.0f} MB")
    print(f"figure merchants_screened_memory {busy:.0f} MB")
    print(f"figure merchants_reload_median {statistics.median(times):.1f} ms")
    print(f"figure merchants_reload_worst {max(times):.1f} ms")
    print(f"figure merchants_reload_growth {grown:.1f} MB")
    print(f"figure merchants_platform_reload {platform_s:.2f} s")
    print(f"figure merchants_peak_memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
