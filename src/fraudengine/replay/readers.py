"""Inputs become histories: each row is read by its mapping and checked as the service checks a request.

A row that is no transaction goes to the rejects file with its line and the reason; no reason repeats what was sent.
A card number becomes its fingerprint at once, or the row is refused where there is no card key. What comes out is
Parquet in the form of `replay.history`, in a directory that goes with the result. A file that is in that form
already (from `fraudengine generate`, or kept by `--keep-history`) is read where it lies.
"""

from __future__ import annotations

import csv
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..cards import CardKey, find_pans, is_fingerprint
from ..config import Config
from ..decision import card_identity
from ..diagnostics import ConfigurationError, InvalidTransaction
from ..facts import Card, Transaction
from ..request import TransactionRefused, transaction_from_object
from .engines import Progress, open_duckdb, read_parquet_sql
from .history import COLUMNS, FORMAT, FORMAT_KEY, LABELS, expires_us, ip_key
from .mapping import FieldMapping, Unreadable, load_mapping, settle_amount
from .result import OUTCOMES, ReplayTable
from .row_sources import InputUnreadable, Row, format_of, rows_of

_BATCH: Final = 50_000
_SHOWN_REJECTS: Final = 1_000
_CARD_PARTS: Final = ("country", "brand", "type", "issuer", "expiry")
_BIN: Final = re.compile(r"[0-9]{6,11}").fullmatch
_LAST4: Final = re.compile(r"[0-9]{4}").fullmatch
_MASKED: Final = re.compile(r"[0-9]{6,8}[*Xx]+[0-9]{4}").fullmatch
_STAGE: Final = {"file": pa.string(), "line": pa.int64(), "digest": pa.binary(), "card_identity": pa.string()}


@dataclass(slots=True)
class History:
    """A history ready to replay: its files, the columns that hold anything, and what was rejected."""

    files: tuple[Path, ...]
    columns: frozenset[str]
    transactions: int
    rejected: int = 0
    rejects_file: Path | None = None
    rejects: list[dict[str, object]] = field(default_factory=list)

    def require_rows(self) -> None:
        """Raises InputUnreadable when no row could be read; the file of rejects, if one was named, stays."""
        if self.files:
            return
        if not self.rejects:
            raise InputUnreadable("there are no transactions to replay: the history has no rows")
        first = self.rejects[0]
        raise InputUnreadable(
            f"no row of the history can be read, {self.rejected:,} are rejected; the first, "
            f"{first['file']}:{first['line']}: {first['reason']}; if all are wrong alike, the mapping may be "
            "that of another file: --guess-mapping makes one"
        )

    def rejects_table(self) -> ReplayTable:
        schema = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string())])
        return ReplayTable("rejects", pa.Table.from_pylist(self.rejects, schema=schema), "rows that are rejected")


def is_history(path: Path) -> bool:
    """Whether the file is a history in its own form."""
    if path.suffix != ".parquet":
        return False
    try:
        return (pq.read_schema(path).metadata or {}).get(FORMAT_KEY) == FORMAT
    except (pa.ArrowInvalid, OSError):
        return False


def open_history(
    given: Path | str | Sequence[Path | str],
    work: Path,
    config: Config,
    *,
    mapping: Path | str | None = None,
    rejects: Path | str | None = None,
    keep: Path | None = None,
    merchant: str | None = None,
    progress: Progress = lambda phase, fraction: None,
) -> History:
    """The history that the files hold. Raises InputUnreadable, MappingRefused, ConfigurationError.

    `rejects` is the file of rejected rows (default: beside the working files). `merchant` is the merchant of rows
    that name none. `keep` is where the history is kept in its own form for the next replay.
    """
    paths = [Path(given)] if isinstance(given, (str, Path)) else [Path(path) for path in given]
    for path in paths:
        if not path.exists():
            raise InputUnreadable(f"there is no file {path}")
    if all(is_history(path) for path in paths):
        names = frozenset(name for path in paths for name in pq.read_schema(path).names)
        return History(tuple(paths), names, sum(pq.read_metadata(path).num_rows for path in paths))
    chosen = load_mapping(_mapping_path(mapping, config)) if mapping is not None else None
    reader = _Reader(work, config, Path(rejects) if rejects is not None else work / "rejects.csv", progress)
    try:
        for path in paths:
            kind = format_of(path)
            used = chosen or _own_mapping(path, kind, config)
            if merchant is not None:
                used = replace(used, defaults={**used.defaults, "merchant": merchant})
            reader.read(path, used.format if chosen and used.format == "log" else kind, used)
        return reader.finish(keep)
    finally:
        reader.close()


def _mapping_path(mapping: Path | str, config: Config) -> Path:
    """A mapping file by path, or by the name of one in `data/mappings`."""
    path = Path(mapping)
    named = config.data / "mappings" / f"{mapping}.yaml"
    return named if not path.exists() and named.exists() else path


def _own_mapping(path: Path, kind: str, config: Config) -> FieldMapping:
    if kind == "log":
        return load_mapping(config.data / "mappings" / "fraudengine-log.yaml")
    raise InputUnreadable(
        f"{path}: say which column is what with --mapping FILE; a first one is made by --guess-mapping {path}"
    )


# ---- rows -----------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, work: Path, config: Config, rejects_file: Path, progress: Progress) -> None:
        self._work = work / "history"
        self._work.mkdir(parents=True, exist_ok=True)
        self._config, self._progress = config, progress
        self._key: CardKey | None = None
        self._has_key = False
        self._parts = self._line_count = self.rejected = 0
        self.rejects_file = rejects_file
        self._draft = rejects_file.with_name(f".{rejects_file.name}.part")
        self._rejects = self._draft.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._rejects)
        self._writer.writerow(["file", "line", "reason"])
        self.shown: list[dict[str, object]] = []
        self._now_us = time.time_ns() // 1000

    def close(self) -> None:
        self._rejects.close()
        self._draft.unlink(missing_ok=True)

    def _card_key(self) -> CardKey:
        """The card key; where there is none a passing one, which hides numbers in free texts and no more."""
        if self._key is None:
            try:
                self._key, self._has_key = self._config.load_card_key().key, True
            except ConfigurationError:
                self._key = CardKey(secrets.token_bytes(32))
        return self._key

    def reject(self, path: Path, line: int, reason: str) -> None:
        self.rejected += 1
        self._writer.writerow([str(path), line, reason])
        if len(self.shown) < _SHOWN_REJECTS:
            self.shown.append({"file": str(path), "line": line, "reason": reason})

    def read(self, path: Path, kind: str, mapping: FieldMapping) -> None:
        """Reads one file into parts."""
        kept = self._kept(path, rows_of(path, kind, mapping), mapping)
        while batch := list(islice(kept, _BATCH)):
            names = dict.fromkeys(name for row in batch for name in row)
            schema = pa.schema([(name, _type_of(name)) for name in names])
            table = pa.Table.from_pylist(batch, schema=schema)
            pq.write_table(table, self._work / f"part-{self._parts:05d}.parquet", compression="zstd")
            self._parts += 1
            self._progress(f"reading {path.name}: {self._line_count:,} rows", 0.0)

    def _kept(self, path: Path, rows: Iterator[Row], mapping: FieldMapping) -> Iterator[dict[str, Any]]:
        for line, row in rows:
            self._line_count += 1
            if isinstance(row, str):
                self.reject(path, line, row)
                continue
            found, problem = mapping.read(row)
            if not problem:
                written, problem = self._try_row(path, line, found, row, mapping.tolerant)
                if written is not None:
                    yield written
                    continue
            self.reject(path, line, problem)

    def _try_row(
        self, path: Path, line: int, found: dict[str, Any], row: Mapping[str, Any], tolerant: AbstractSet[str]
    ) -> tuple[dict[str, Any] | None, str]:
        """The row of the history, or why there is none; parts that may be wrong are left out when they are."""
        try:
            return self._row(path, line, found, row), ""
        except TransactionRefused as refused:
            wrong = {name for name, _ in refused.problems}
            problem = "; ".join(f"{name}: {text}" for name, text in refused.problems)
        except InvalidTransaction as error:
            wrong, problem = {error.field}, f"{error.field}: {error.problem}"
        except Unreadable as error:
            return None, f"amount: {error}"
        if wrong and wrong <= tolerant:
            rest = {name: value for name, value in found.items() if name not in wrong}
            return self._try_row(path, line, rest, row, tolerant - wrong)
        return None, problem

    def _row(self, path: Path, line: int, found: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        settle_amount(found)
        key = self._card_key()
        described, bare = _describe(found)
        if "pan" in described.get("card", {}) and not self._has_key:
            raise InvalidTransaction(
                "card", "is a whole card number, and there is no card key to make a fingerprint"
            )
        transaction, digest = transaction_from_object(described, key, self._now_us)
        written = row_of(transaction)
        written |= {name: value for name, value in bare.items() if written.get(name) is None}
        written |= _recorded(found)
        answered = row.get("answered_us")
        if isinstance(answered, int):
            written["answered_us"] = answered
        return written | {
            "file": str(path),
            "line": line,
            "seq": self._line_count,
            "digest": digest,
            "card_identity": card_identity(transaction.card),
        }

    # ---- the whole -------------------------------------------------------------------------------

    def finish(self, keep: Path | None) -> History:
        """Orders the rows by arrival, finds retried calls and second steps, and writes the history."""
        parts = sorted(self._work.glob("part-*.parquet"))
        target = keep or self._work / "history.parquet"
        columns: frozenset[str] = frozenset()
        count = 0
        if parts:
            connection = open_duckdb(self._work, None, None)
            try:
                count, columns = self._write(connection, parts, target)
            finally:
                connection.close()
            for part in parts:
                part.unlink()
        self._rejects.close()
        rejects_file: Path | None = None
        if self.rejected:
            rejects_file = self.rejects_file
            self._draft.replace(rejects_file)
        files = (target,) if parts else ()
        return History(files, columns, count, self.rejected, rejects_file, self.shown)

    def _write(
        self, connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], target: Path
    ) -> tuple[int, frozenset[str]]:
        connection.execute(f"CREATE VIEW parts AS SELECT * FROM {read_parquet_sql(parts)}")
        held = [name for name, *_ in connection.execute("DESCRIBE parts").fetchall()]
        arrival = "coalesce(answered_us, at_us), seq" if "answered_us" in held else "at_us, seq"
        connection.execute(
            "CREATE TABLE arrived AS SELECT * EXCLUDE (seq), row_number() OVER (ORDER BY "
            f"{arrival}) - 1 AS seq FROM parts"
        )
        retried = connection.execute(
            "SELECT file, line FROM (SELECT *, row_number() OVER (PARTITION BY merchant, transaction_id, digest"
            " ORDER BY seq) AS place FROM arrived) WHERE place > 1 ORDER BY file, line"
        ).fetchall()
        for file, line in retried:
            self.reject(Path(file), line, "repeats an earlier row: a retried call counts once")
        labelled = "labelled_us" if "labelled_us" in held else "NULL::BIGINT"
        label = "label" if "label" in held else "NULL::VARCHAR"
        data = [name for name in held if name not in _STAGE and name != "seq"]
        selected = ", ".join(f'a."{name}"' for name in data if name != "labelled_seq")
        sql = f"""
            WITH once AS (
                SELECT *, {label} AS label_, {labelled} AS labelled_ FROM arrived
                QUALIFY row_number() OVER (PARTITION BY merchant, transaction_id, digest ORDER BY seq) = 1
            ), numbered AS (
                SELECT *, (row_number() OVER steps - 1)::INTEGER AS step,
                    coalesce(max(at_us) OVER (ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                        > at_us, false) AS late,
                    first_value(card_identity) OVER steps AS first_identity_,
                    first_value(currency) OVER steps AS first_currency_,
                    first_value(minor) OVER steps AS first_minor_
                FROM once
                WINDOW steps AS (PARTITION BY merchant, transaction_id ORDER BY seq)
            ), reported AS (
                SELECT n.seq,
                    CASE WHEN n.labelled_ IS NULL THEN n.seq ELSE greatest(n.seq, b.seq) END AS labelled_seq
                FROM numbered n ASOF LEFT JOIN (SELECT at_us, max(seq) AS seq FROM numbered GROUP BY at_us) b
                    ON n.labelled_ >= b.at_us
                WHERE n.label_ IN ('declined', 'technical_failure')
            )
            SELECT a.seq, {selected}, a.step, a.late, r.labelled_seq,
                CASE WHEN a.step > 0 THEN a.first_identity_ END AS first_card_identity,
                CASE WHEN a.step > 0 THEN a.first_currency_ END AS first_currency,
                CASE WHEN a.step > 0 THEN a.first_minor_ END AS first_minor
            FROM numbered a LEFT JOIN reported r ON r.seq = a.seq ORDER BY a.seq
        """
        reader = connection.sql(sql).to_arrow_reader(100_000)
        schema = reader.schema.with_metadata({FORMAT_KEY: FORMAT})
        count, known = 0, set()
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                count += batch.num_rows
                known |= {name for name in schema.names if batch.column(name).null_count < batch.num_rows}
        return count, frozenset(known)


def _type_of(name: str) -> pa.DataType:
    if name in _STAGE:
        return _STAGE[name]
    if name.startswith("metadata."):
        return {"integer": pa.int64(), "boolean": pa.bool_()}.get(name.rpartition(":")[2], pa.string())
    return COLUMNS[name]


def _describe(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The object of `POST /v1/screenings`, and what of a card stands alone without a number or fingerprint."""
    described: dict[str, Any] = {}
    card: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    three_ds: dict[str, Any] = {}
    for name, value in found.items():
        group, _, part = name.partition(".")
        if group == "card":
            card[part or "number"] = value
        elif group == "three_ds":
            three_ds[part] = value
        elif group == "metadata":
            metadata |= value if not part else {part: value}
        elif not name.startswith(("label", "recorded_", "screening_id")):
            described[name] = value
    number = card.pop("number", None) or card.pop("pan", None)
    if number is not None:
        text = "".join(str(number).split())
        kind = "fingerprint" if is_fingerprint(text) else "masked_pan" if _MASKED(text) else "pan"
        card[kind] = text
    bare: dict[str, str] = {}
    if not card.keys() & {"fingerprint", "masked_pan", "pan"}:
        bare = {f"card_{part}": str(card.pop(part)) for part in ("bin", "last4") if part in card}
        for name, matches in (("card_bin", _BIN), ("card_last4", _LAST4)):
            if name in bare and matches(bare[name]) is None:
                raise InvalidTransaction(name.replace("_", "."), "is no leading or last digits of a card number")
        if len(bare) == 2:
            card["masked_pan"] = f"{bare['card_bin'][:8]}**{bare['card_last4']}"
            bare = {}
        elif "card_bin" in bare:
            bare["card_bin"] = bare["card_bin"][:8]
    elif "fingerprint" not in card:
        card.pop("bin", None)
        card.pop("last4", None)
    if card.keys() & {"fingerprint", "masked_pan", "pan"}:
        described["card"] = card
    else:
        bare |= _lone_card_parts(card)
    if "status" in three_ds:
        described["three_ds"] = three_ds
    if metadata:
        described["metadata"] = metadata
    return described, bare


def _lone_card_parts(card: Mapping[str, Any]) -> dict[str, str]:
    """Country, brand and so on of a card of which nothing else is known, read as those of a known card are."""
    if not card:
        return {}
    described = {
        "merchant": "m",
        "transaction_id": "t",
        "amount": "1",
        "currency": "TND",
        "card": {"masked_pan": "400000**0000", **card},
    }
    read, _ = transaction_from_object(described, CardKey(bytes(32)), 0)
    assert read.card is not None
    parts = {f"card_{name}": getattr(read.card, name) for name in _CARD_PARTS}
    found = {name: value for name, value in parts.items() if value is not None}
    if "card_expiry" in found:
        found["card_expires_us"] = expires_us(found["card_expiry"])
    return found


def _recorded(found: Mapping[str, Any]) -> dict[str, Any]:
    """Labels and recorded answers; raises InvalidTransaction for a word that is none."""
    written: dict[str, Any] = {}
    for name, words in (("label", LABELS), ("recorded_outcome", OUTCOMES)):
        if name in found:
            word = str(found[name]).lower()
            if word not in words:
                raise InvalidTransaction(name, f"is one of {', '.join(words)}")
            written[name] = word
    if "labelled_at" in found:
        written["labelled_us"] = _instant(found["labelled_at"])
    for name in ("recorded_code", "recorded_rule", "recorded_revision", "screening_id"):
        if name in found:
            text = str(found[name])
            if find_pans(text):
                raise InvalidTransaction(name, "holds a card number")
            written[name] = text
    return written


def _instant(text: str) -> int:
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidTransaction("labelled_at", "is no time") from None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def row_of(transaction: Transaction) -> dict[str, Any]:
    """The transaction as a row of a history, without what is unknown."""
    card, result = transaction.card or Card(), transaction.three_ds
    written: dict[str, Any] = {
        "merchant": transaction.merchant,
        "transaction_id": transaction.transaction_id,
        "at_us": transaction.at_us,
        "minor": transaction.amount.minor,
        "currency": transaction.amount.currency,
        "channel": transaction.channel,
        "terminal": transaction.terminal,
        "order_ref": transaction.order_ref,
        "card": card.fingerprint,
        "card_bin": card.bin,
        "card_last4": card.last4,
        "card_country": card.country,
        "card_brand": card.brand,
        "card_type": card.type,
        "card_issuer": card.issuer,
        "card_expiry": card.expiry,
        "card_expires_us": None if card.expiry is None else expires_us(card.expiry),
        "ip_address": transaction.ip_address,
        "ip_key": None if transaction.ip_address is None else ip_key(transaction.ip_address),
        "email": transaction.email,
        "phone": transaction.phone,
        "customer": transaction.customer,
        "device": transaction.device,
        "billing_country": transaction.billing_country,
        "shipping_country": transaction.shipping_country,
        "three_ds_status": None if result is None else result.status,
        "eci": None if result is None else result.eci,
        "three_ds_version": None if result is None else result.version,
    }
    for key, value in transaction.metadata.items():
        kind = "boolean" if isinstance(value, bool) else "integer" if isinstance(value, int) else "text"
        written[f"metadata.{key}:{kind}"] = value
    return {name: value for name, value in written.items() if value is not None}
