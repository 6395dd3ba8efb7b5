"""Membership of lists as columns: small lists inside the expression, large ones through a join.

An entry is in force in `[added, until)`. An entry of BIN digits holds what begins with it; a network becomes
prefixes of the address's `ip_key` (a hexadecimal digit is four bits, so a network is at most eight prefixes), and
then both kinds are the same question: is a prefix of the value an entry? One join for each length answers it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Final

import ibis
import pyarrow as pa

from ..facts import ListKind
from ..rules.ast import InList, ListEntry, ListName
from .columnar import Expr, ip_key

ALWAYS: Final = (-(1 << 62), 1 << 62)
INLINE_VALUES: Final = 400
"""More values than this in one list are joined instead of written into the query."""


@dataclass(frozen=True, slots=True)
class DatedValue:
    """A value of a list and when it is in force; UTC microseconds, the second bound excluded."""

    value: str
    added_us: int = ALWAYS[0]
    until_us: int = ALWAYS[1]


def dated(entry: ListEntry) -> DatedValue:
    added, until = entry.added_us, entry.expires_us
    return DatedValue(entry.value, ALWAYS[0] if added is None else added, ALWAYS[1] if until is None else until)


Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ListKeys:
    """The entries of one list of one merchant, by the key that a row is matched with."""

    kind: ListKind
    spans: Mapping[str, Spans]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the keys, of lists that hold prefixes; empty where a value matches as a whole."""
        if self.kind not in (ListKind.BIN, ListKind.IP):
            return ()
        return tuple(sorted({len(key) for key in self.spans}))


def key_entries(kind: ListKind, entries: Iterable[DatedValue]) -> ListKeys:
    """The entries by key, intervals of one key merged; entries that are never in force are left out."""
    found: dict[str, list[tuple[int, int]]] = {}
    for entry in entries:
        if entry.added_us >= entry.until_us:
            continue
        for key in network_prefixes(entry.value) if kind is ListKind.IP else (entry.value,):
            found.setdefault(key, []).append((entry.added_us, entry.until_us))
    return ListKeys(kind, {key: merge_spans(spans) for key, spans in found.items()})


def merge_spans(spans: Sequence[tuple[int, int]]) -> Spans:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def network_prefixes(network: str) -> list[str]:
    """The prefixes of `ip_key` that together are the network."""
    read = ipaddress.ip_network(network)
    length = -(-read.prefixlen // 4) * 4
    return [
        ip_key(part.version, int(part.network_address))[: 1 + length // 4]
        for part in read.subnets(new_prefix=length)
    ]


# ---- inside the expression ------------------------------------------------------------------------


def inline_membership(keys: ListKeys, value: Expr, as_of_us: Expr) -> Expr:
    """Whether the value (for addresses: its key) is in the list as of the instant."""
    if not keys.spans:
        return ibis.literal(False)
    by_spans: dict[Spans, list[str]] = {}
    for key, spans in keys.spans.items():
        by_spans.setdefault(spans, []).append(key)
    parts = []
    for spans, held in by_spans.items():
        hit = _is_one_of(keys.kind, value, held)
        parts.append(hit if spans == (ALWAYS,) else hit & _in_force(spans, as_of_us))
    return reduce(or_, parts)


def _is_one_of(kind: ListKind, value: Expr, held: list[str]) -> Expr:
    if kind not in (ListKind.BIN, ListKind.IP):
        return value.isin(held)
    by_length: dict[int, list[str]] = {}
    for key in held:
        by_length.setdefault(len(key), []).append(key)
    return reduce(or_, (value.substr(0, length).isin(same) for length, same in sorted(by_length.items())))


def _in_force(spans: Spans, as_of_us: Expr) -> Expr:
    parts = []
    for start, end in spans:
        bounds = []
        if start != ALWAYS[0]:
            bounds.append(as_of_us >= start)
        if end != ALWAYS[1]:
            bounds.append(as_of_us < end)
        parts.append(reduce(and_, bounds) if bounds else ibis.literal(True))
    return reduce(or_, parts)


# ---- through a join -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JoinedList:
    """One list of many merchants as a table: merchant, key, and the bounds `a0, u0, a1, u1 …` of its intervals."""

    kind: ListKind
    table: pa.Table
    lengths: tuple[int, ...]
    widest: int


def tabulate(kind: ListKind, by_merchant: Mapping[str, ListKeys]) -> JoinedList:
    """The table of a list; the entries of each merchant under its name."""
    rows = [(name, key, spans) for name, keys in by_merchant.items() for key, spans in keys.spans.items()]
    widest = max((len(spans) for _, _, spans in rows), default=1)
    columns: dict[str, pa.Array] = {
        "list_merchant": pa.array([row[0] for row in rows], pa.string()),
        "list_key": pa.array([row[1] for row in rows], pa.string()),
    }
    for place in range(widest):
        for side, name in ((0, "a"), (1, "u")):
            bounds = [spans[place][side] if place < len(spans) else 0 for _, _, spans in rows]
            columns[f"{name}{place}"] = pa.array(bounds, pa.int64())
    lengths = sorted({length for keys in by_merchant.values() for length in keys.lengths})
    return JoinedList(kind, pa.table(columns), tuple(lengths), widest)


def join_membership(
    table: Expr, entries: Expr, listed: JoinedList, value_column: str, as_of_us: Expr | None, name: str
) -> Expr:
    """The table with a boolean column `name`: whether the row's value is in its merchant's list.

    `entries` is `listed.table` where the engine finds it; `as_of_us` None reads the row's own `at_us`.
    """
    hits = []
    for length in listed.lengths or (0,):
        held = entries.filter(entries["list_key"].length() == length) if length else entries
        renamed = held.rename({f"{name}_{length}_{column}": column for column in listed.table.column_names})
        value = table[value_column].substr(0, length) if length else table[value_column]
        table = table.left_join(
            renamed,
            [
                table["merchant"] == renamed[f"{name}_{length}_list_merchant"],
                value == renamed[f"{name}_{length}_list_key"],
            ],
        )
        for place in range(listed.widest):
            at = table["at_us"] if as_of_us is None else as_of_us
            added, until = table[f"{name}_{length}_a{place}"], table[f"{name}_{length}_u{place}"]
            hits.append((added <= at) & (at < until))
    wanted = [column for column in table.columns if not column.startswith(f"{name}_")]
    return table.select(*wanted, reduce(or_, (hit.fill_null(False) for hit in hits)).name(name))


def lists_read(tests: Iterable[InList]) -> dict[ListName, set[str]]:
    """The lists that tests read, with the facts that are sought in each."""
    found: dict[ListName, set[str]] = {}
    for test in tests:
        found.setdefault(test.list_name, set()).add(test.fact)
    return found
