"""Run-time lists at size: 1,000,000 cards and 100,000 networks against empty lists, in the same run.

What is compared is the look-up that a rule makes (`ListsAsOf.find`), of values that no list holds, as almost all
are, and each value only once, so that nothing is remembered of it. Memory is what the whole process takes.
Run: `python -m tests.benchmarks.bench_lists [--cards N] [--networks N]`.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fraudengine.facts import ListKind
from fraudengine.list_entries import ListTarget
from fraudengine.list_import import import_entries
from fraudengine.list_store import ListStore, utc_us
from fraudengine.list_values import Note
from fraudengine.lists import ListsAsOf, build_indexes
from fraudengine.rules.ast import DeclaredList, ListName
from fraudengine.runtime_lists import RuntimeLists

REPEATS = 60
VALUES = 500
CARDS = ListTarget("carthage-market", ListName("blacklist"), ListKind.CARD)
NETWORKS = ListTarget("carthage-market", ListName("blocked_ips"), ListKind.IP)
DECLARED = {target.name: DeclaredList(target.name, target.kind) for target in (CARDS, NETWORKS)}
AS_OF_US = 1_900_000_000_000_000
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


def fingerprint(dice: random.Random) -> str:
    return "fp_abcdef_" + f"{dice.getrandbits(128):032x}".translate(_LETTERS)


def address(dice: random.Random) -> str:
    return str(ipaddress.IPv4Address(dice.getrandbits(32)))


def network(dice: random.Random) -> str:
    if dice.random() < 0.2:
        length = dice.choice([32, 48, 48, 64, 128])
        number = (0x2000 << 112) | dice.getrandbits(125)
        return str(ipaddress.IPv6Network((number >> (128 - length) << (128 - length), length)))
    length = dice.choice([16, 20, 24, 24, 24, 28, 32, 32])
    return str(ipaddress.IPv4Network((dice.getrandbits(32) >> (32 - length) << (32 - length), length)))


def lines(count: int, make: Callable[[random.Random], str], seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    for start in range(0, count, 1000):
        rows = (f"{make(dice)},stolen card,SUP-{start // 1000}\n" for _ in range(min(1000, count - start)))
        yield "".join(rows).encode()


def look_ups(lists: RuntimeLists, make: Callable[[random.Random], str], name: ListName, seed: int) -> float:
    """Microseconds for one look-up, the best of several runs over values that were never sought before."""
    indexes = build_indexes(DECLARED)
    dice = random.Random(seed)
    best = float("inf")
    for _ in range(REPEATS):
        values = [make(dice) for _ in range(VALUES)]
        view = ListsAsOf(indexes, AS_OF_US, lists.of_merchant("carthage-market", DECLARED))
        values = [
            value for value in values if view.find(name, value) is None
        ]  # a filter's denial is not remembered
        started = time.perf_counter()
        for value in values:
            lists.refresh()
            view = ListsAsOf(indexes, AS_OF_US, lists.of_merchant("carthage-market", DECLARED))
            view.find(name, value)
        best = min(best, (time.perf_counter() - started) / len(values) * 1e6)
    return best


_READY = """
import sys, time
from pathlib import Path
from fraudengine.service import Screener
import fraudengine.serve
from fraudengine.list_store import ListStore
from fraudengine.runtime_lists import RuntimeLists
started = time.perf_counter()
store = ListStore(Path(sys.argv[1]))
lists = RuntimeLists(store.path, store.generation)
ready = time.perf_counter() - started
pages = int(Path("/proc/self/statm").read_text().split()[1])
import resource
print(ready, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
lists.close()
store.close()
"""


def measure_ready(path: Path) -> tuple[float, float]:
    """Seconds until lists can be asked, and the most memory in MB that a process with the whole service took."""
    done = subprocess.run(
        [sys.executable, "-c", _READY, str(path)], check=True, capture_output=True, text=True, env=os.environ
    )
    seconds, megabytes = done.stdout.split()
    return float(seconds), float(megabytes)


def measure_adds(store: ListStore, lists: RuntimeLists) -> tuple[float, float]:
    """Milliseconds for adding one entry, seen by a reader: the median and the worst of 200."""
    dice = random.Random(77)
    took = []
    for _ in range(200):
        started = time.perf_counter()
        store.add(CARDS, fingerprint(dice), Note("stolen", "SUP-1", "bench"))
        lists.refresh()
        took.append((time.perf_counter() - started) * 1e3)
    return sorted(took)[len(took) // 2], max(took)


def figure(name: str, value: float, unit: str) -> None:
    print(f"figure {name} {value:.3f} {unit}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cards", type=int, default=1_000_000)
    arguments.add_argument("--networks", type=int, default=100_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        with ListStore(Path(directory) / "empty" / "lists.db") as nothing:
            empty = RuntimeLists(nothing.path, nothing.generation)
            empty_card = look_ups(empty, fingerprint, CARDS.name, 5)
            empty_ip = look_ups(empty, address, NETWORKS.name, 6)
            empty_add, _ = measure_adds(nothing, empty)
            empty.close()
            _, empty_mb = measure_ready(nothing.path)
        with ListStore(Path(directory) / "full" / "lists.db") as store:
            started = utc_us()
            import_entries(store, CARDS, lines(given.cards, fingerprint, 1), Note())
            import_entries(store, NETWORKS, lines(given.networks, network, 2), Note())
            imported = (utc_us() - started) / 1e6
            store.checkpoint()
            ready, megabytes = measure_ready(store.path)
            full = RuntimeLists(store.path, store.generation)
            card = look_ups(full, fingerprint, CARDS.name, 5)
            ip = look_ups(full, address, NETWORKS.name, 6)
            add, worst = measure_adds(store, full)
            full.close()
    print(f"{given.cards:,} cards, {given.networks:,} networks; importing them took {imported:.0f} s")
    print(
        f"a card in no list: {card:.2f} us, empty {empty_card:.2f}; an address: {ip:.2f} us, empty {empty_ip:.2f}"
    )
    print(f"adding one: median {add:.2f} ms, worst {worst:.2f}; to an empty list {empty_add:.2f}")
    figure("list_lookup_extra", card - empty_card, "us")
    figure("list_lookup_extra_ip", ip - empty_ip, "us")
    figure("list_memory", megabytes, "MB")
    figure("list_memory_extra", megabytes - empty_mb, "MB")
    figure("list_ready", ready, "s")
    figure("list_add", add, "ms")
    figure("list_add_worst", worst, "ms")
    figure("list_import", (given.cards + given.networks) / imported, "lines/s")


if __name__ == "__main__":
    main()
