"""Facts as columns: what `fraudengine.enrich` makes of one transaction, made of a whole history.

The IP and BIN tables come as ranges side by side (`replay.data_ranges`), each with a bucket, the leading characters
that all values of the range share. Each distinct address and BIN of a history is looked up once, and what was found
is joined with the rows. What the gateway gave wins over the tables.

Local time needs no time zone library in the engine: the zone's offset is a step function of the instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import and_
from typing import Final
from zoneinfo import ZoneInfo

import ibis

from ..facts import METADATA_PREFIX, WEEKDAYS, FactName, FactType
from .columnar import CURRENCY_SUFFIX, Dialect, Expr
from .columnar_decision import three_ds_word

IP_BUCKET: Final = {"4": 3, "6": 5}  # leading characters of an `ip_key`: /8 of IPv4, /16 of IPv6
BIN_BUCKET: Final = 6
GIVEN: Final = (
    *("channel", "terminal", "card", "card_bin", "ip_address", "email", "phone", "customer", "device"),
    *("billing_country", "shipping_country", "three_ds_version", "eci", "currency"),
)
"""Facts that are columns of the history as they stand."""
FROM_BIN_TABLE: Final = ("card_country", "card_brand", "card_type", "card_issuer")
_DAY_US: Final = 86_400_000_000
_HOUR_US: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class LookupTables:
    """Tables that the engine knows: what was found of each address and BIN, and maps of single values by fact."""

    ip_countries: Expr | None = None  # `address_countries`
    bin_infos: Expr | None = None  # `bin_infos`
    maps: Mapping[str, Expr] | None = None  # for `phone_country` and `metadata.KEY`: value, mapped


@dataclass(frozen=True, slots=True)
class FactsWanted:
    """Which facts a rule set reads, and how it reads those that depend on the rule set."""

    names: frozenset[FactName]
    timezone: str
    metadata: Mapping[str, FactType]


def add_facts(
    history: Expr,
    wanted: FactsWanted,
    tables: LookupTables,
    offsets: Sequence[tuple[int, int]],
    kept: Sequence[str],
    other_zones: Mapping[str, Sequence[tuple[int, int]]] | None = None,
) -> Expr:
    """The history with the wanted facts as columns, `three_ds` and `channel` always, and the columns `kept`.

    `offsets` are those of the timezone (`zone_offsets`); `other_zones` adds local time again, its columns' names
    with that suffix. A fact that the history gives no ground for is left out.
    """
    held = set(history.columns)
    names = wanted.names
    table = _look_up(history, names, tables)
    columns: dict[str, Expr] = {"amount": table["minor"], "amount" + CURRENCY_SUFFIX: table["currency"]}
    for name in GIVEN:
        if name in names and name in held:
            columns[name] = table[name]
    columns["channel"] = table["channel"].fill_null("ecommerce") if "channel" in held else ibis.literal("ecommerce")
    for name in FROM_BIN_TABLE:
        value = _given_or_found(table, name)
        if value is not None:
            columns[name] = value
    columns["three_ds"] = _three_ds(table, held, columns.get("card_brand"))
    if "ip_country" in table.columns:
        columns["ip_country"] = table["ip_country"]
    if "ip_key" in held:
        columns["ip_key"] = table["ip_key"]
    if "card_expired" in names and "card_expires_us" in held:
        columns["card_expired"] = table["at_us"] >= table["card_expires_us"]
    if "email_domain" in names and "email" in held:
        columns["email_domain"] = table["email"].substr(table["email"].find("@") + 1)
    if "hour" in names or "weekday" in names:
        columns |= _local_time(table["at_us"], offsets)
    others: dict[str, Expr] = {}
    for suffix, zone in (other_zones or {}).items():
        others |= {name + suffix: value for name, value in _local_time(table["at_us"], zone).items()}
    columns |= _metadata(table, held, wanted)
    needed = names | {"three_ds", "channel", "amount", "amount" + CURRENCY_SUFFIX}
    if "ip_address" in names:
        needed |= {"ip_key"}
    chosen = {name: value for name, value in columns.items() if name in needed and name not in kept}
    mapped = [name for name in names if name in (tables.maps or {})]
    sources = {name: map_source(name) for name in mapped if map_source(name) in held}
    carried = {f"source_{number}": table[source] for number, source in enumerate(sources.values())}
    found = table.select(*[name for name in kept if name in held], **chosen, **others, **carried)
    for number, name in enumerate(sources):
        found = _map_values(found, f"source_{number}", (tables.maps or {})[name], name)
    return found


def map_source(fact: FactName) -> str:
    """The history's column that a fact made by a map of single values comes from."""
    return "phone" if fact == "phone_country" else f"{fact}:text"


def _map_values(table: Expr, source: str, values: Expr, name: str) -> Expr:
    renamed = values.rename({f"{source}_value": "value", name: "mapped"})
    joined = table.left_join(renamed, table[source] == renamed[f"{source}_value"])
    return joined.drop(source, f"{source}_value")


# ---- look-ups -------------------------------------------------------------------------------------


def address_countries(history: Expr, ranges: Expr, dialect: Dialect) -> Expr:
    """Each address of the history whose country is known: `found_key`, `ip_country`.

    DuckDB finds the range that begins last at or before an address with its ASOF join, in a third of the time that
    the form for Spark takes, which has no such join.
    """
    distinct = history.select("ip_key").filter(history["ip_key"].notnull()).distinct()
    if dialect is Dialect.DUCKDB:
        asked = distinct.select(place=distinct["ip_key"])
        starts = ranges.select(begins=ranges["low"], ends=ranges["high"], ip_country=ranges["country"])
        found = asked.asof_join(starts, on=asked["place"] >= starts["begins"])
        found = found.filter(found["place"] <= found["ends"])
        return found.select("ip_country", found_key=found["place"])
    return _last_begun(distinct, ranges)


def _last_begun(distinct: Expr, ranges: Expr) -> Expr:
    """The range that begins last at or before an address, by a running maximum over ranges and addresses together.

    A join on buckets alone would compare some addresses with ten thousand ranges.
    """
    key = distinct["ip_key"]
    bucket = ibis.ifelse(key.startswith("4"), key.substr(0, IP_BUCKET["4"]), key.substr(0, IP_BUCKET["6"]))
    asked = distinct.select(bucket=bucket, place=key, start=ibis.null("string"), is_asked=1)
    starts = ranges.select(bucket=ranges["bucket"], place=ranges["low"], start=ranges["low"], is_asked=0)
    both = ibis.union(asked, starts)
    before = ibis.window(group_by="bucket", order_by=["place", "is_asked"], preceding=None, following=0)
    placed = both.mutate(begins=both["start"].max().over(before))
    placed = placed.filter(placed["is_asked"] == 1).select("place", "begins")
    found = placed.inner_join(ranges, [placed["begins"] == ranges["low"], placed["place"] <= ranges["high"]])
    return found.select(found_key=placed["place"], ip_country=ranges["country"])


def bin_infos(history: Expr, ranges: Expr) -> Expr:
    """Each BIN of the history of which something is known: `found_bin`, `found_card_country` …"""
    distinct = history.select("card_bin").filter(history["card_bin"].notnull()).distinct()
    keyed = distinct.mutate(
        bin_bucket=distinct["card_bin"].substr(0, BIN_BUCKET), bin_digits=distinct["card_bin"].length()
    )
    found = keyed.inner_join(
        ranges,
        [
            keyed["bin_bucket"] == ranges["bucket"],
            keyed["bin_digits"] == ranges["digits"],
            keyed["card_bin"] >= ranges["low"],
            keyed["card_bin"] <= ranges["high"],
        ],
    )
    values = {f"found_{name}": ranges[name.removeprefix("card_")] for name in FROM_BIN_TABLE}
    return found.select(found_bin=keyed["card_bin"], **values)


def _look_up(table: Expr, names: frozenset[FactName], tables: LookupTables) -> Expr:
    """The table with what the IP and BIN tables know of its rows, as far as it is wanted."""
    held = set(table.columns)
    countries, bins = tables.ip_countries, tables.bin_infos
    if countries is not None and "ip_country" in names and "ip_key" in held:
        table = table.left_join(countries, table["ip_key"] == countries["found_key"]).drop("found_key")
    wanted = [name for name in FROM_BIN_TABLE if name in names]
    if "card_brand" not in wanted and "three_ds_status" in held:  # the ECI is read by the scheme
        wanted.append("card_brand")
    if bins is not None and wanted and "card_bin" in held:
        some = bins.select("found_bin", *(f"found_{name}" for name in wanted))
        table = table.left_join(some, table["card_bin"] == some["found_bin"]).drop("found_bin")
    return table


def _given_or_found(table: Expr, name: str) -> Expr | None:
    given = table[name] if name in table.columns else None
    found = table[f"found_{name}"] if f"found_{name}" in table.columns else None
    if given is None or found is None:
        return found if given is None else given
    return ibis.coalesce(given, found)


# ---- 3-D Secure -----------------------------------------------------------------------------------


def _three_ds(table: Expr, held: set[str], brand: Expr | None) -> Expr:
    if "three_ds_status" not in held:
        return ibis.literal("none")
    eci = table["eci"] if "eci" in held else ibis.null("string")
    return three_ds_word(
        table["three_ds_status"], eci, brand if brand is not None else ibis.null("string"), _belongs(table, held)
    )


def _belongs(table: Expr, held: set[str]) -> Expr:
    """Whether the result is for what the transaction's first screening was about (`decision.belongs`)."""
    if "first_currency" not in held:
        return ibis.literal(True)
    same = (
        (table["first_card_identity"] == card_identity(table, held))
        & (table["first_currency"] == table["currency"])
        & (table["minor"] <= table["first_minor"])
    )
    # Written as a choice, so that engines join the texts of an identity for second steps only.
    return ibis.ifelse(table["first_currency"].isnull(), ibis.literal(True), same)


def card_identity(table: Expr, held: set[str]) -> Expr:
    """What tells one card from another (`decision.card_identity`)."""
    parts = [
        table[name] if name in held else ibis.null("string") for name in ("card_bin", "card_last4", "card_expiry")
    ]
    nothing = reduce(and_, (part.isnull() for part in parts))
    texts = [part.fill_null("") for part in parts]
    without = ibis.ifelse(nothing, "", texts[0] + "/" + texts[1] + "/" + texts[2])
    return ibis.coalesce(table["card"], without) if "card" in held else without


# ---- time -----------------------------------------------------------------------------------------


def zone_offsets(timezone: str, first_us: int, last_us: int) -> list[tuple[int, int]]:
    """(from which instant on, offset), ascending, in microseconds, over a span of time; exact to the second."""
    zone = ZoneInfo(timezone)

    def offset(second: int) -> int:
        found = datetime.fromtimestamp(second, UTC).astimezone(zone).utcoffset()
        assert found is not None
        return int(found.total_seconds()) * 1_000_000

    first, last = first_us // 1_000_000, last_us // 1_000_000
    steps = [(first_us, offset(first))]
    for day in range(first, last + 86_400, 86_400):
        low, high = day, min(day + 86_400, last + 1)
        while high > low and offset(high) != steps[-1][1]:
            begin, end = low, high
            while end - begin > 1:
                middle = (begin + end) // 2
                if offset(middle) == steps[-1][1]:
                    begin = middle
                else:
                    end = middle
            steps.append((end * 1_000_000, offset(end)))
            low = end
    return steps


def _local_time(at_us: Expr, offsets: Sequence[tuple[int, int]]) -> dict[str, Expr]:
    """`hour` and `weekday`; by remainders, because Ibis divides integers through floating point.

    That is exact where a multiple of the divisor is divided, and where the quotient is small.
    """
    local = at_us + offsets[0][1]
    if len(offsets) > 1:
        branches = [(at_us >= start, ibis.literal(offset, "int64")) for start, offset in reversed(offsets[1:])]
        local = at_us + ibis.cases(*branches, else_=ibis.literal(offsets[0][1], "int64"))
    of_day = local % _DAY_US
    hour = of_day // _HOUR_US
    day = ((local - of_day) / _DAY_US).cast("int64")
    number = (day + 3) % 7  # 1 January 1970 was a Thursday
    weekday = ibis.cases(*((number == place, word) for place, word in enumerate(WEEKDAYS[:-1])), else_=WEEKDAYS[-1])
    return {"hour": hour, "weekday": weekday}


# ---- metadata -------------------------------------------------------------------------------------

_METADATA_COLUMN: Final = {FactType.INTEGER: "integer", FactType.BOOLEAN: "boolean"}


def _metadata(table: Expr, held: set[str], wanted: FactsWanted) -> dict[str, Expr]:
    """Metadata in the declared type; a value of another type lies in another column and is unknown here."""
    found = {}
    for key, fact_type in wanted.metadata.items():
        name = METADATA_PREFIX + key
        column = f"{name}:{_METADATA_COLUMN.get(fact_type, 'text')}"
        if name in wanted.names and fact_type is not FactType.COUNTRY and column in held:
            found[name] = table[column]
    return found
