"""`fraudengine doctor`: what an operator would look at before going live, each as one line with what to do.

Every check is a function of the settings that gives findings; none changes anything.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import resource
import shutil
import sqlite3
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from .archive_reading import MAX_ID, archive_files, count_rows, load_pyarrow, names_of
from .assembly import open_data
from .backup import FILES
from .card_keys import entries_not_found
from .config import Config, environment_name
from .diagnostics import ConfigurationError, DataFileError, RuleFilesRefused, StoreUnavailable
from .environment import environment_of
from .list_reading import ListReader
from .list_store import utc_us
from .log_damage import find_damage, logs_set_aside
from .observation import data_age_s
from .rules.library import Library
from .serve import CannotListen, check_certificate, open_socket
from .store import COUNTER_BITS, WORKER_BITS

DAY_S: Final = 86_400
OLD_DATA_DAYS: Final = {"ip_country": 90, "bins": 180}
LITTLE_DISK: Final = 5 << 30
NO_DISK: Final = 200 << 20
FEW_FILES: Final = 4096


class Verdict(StrEnum):
    WELL = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `text` says what is and, unless all is well, what to do."""

    verdict: Verdict
    check: str
    text: str


def examine(config: Config) -> list[Finding]:
    """Every finding, in the order of the checks; a check that breaks is a finding itself."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            found += (Finding(verdict, name, text) for verdict, text in check(config))
        except (ConfigurationError, DataFileError) as error:
            found.append(Finding(Verdict.WRONG, name, str(error)))
        except (OSError, sqlite3.Error) as error:
            found.append(Finding(Verdict.WRONG, name, f"cannot be checked: {error}"))
    return found


Found = Iterator[tuple[Verdict, str]]


def check_configuration(config: Config) -> Found:
    environment = environment_of(config)
    yield Verdict.WELL, f"environment `{environment}`, state {config.state}, rules {config.rules}"
    if config.development:
        yield (
            Verdict.WARNING,
            f"{environment_name('development')} is set: its card key and API key are not for real cards",
        )
    check_certificate(config)
    if config.tells_in_clear:
        yield (
            Verdict.WARNING,
            "others can reach the port and calls are not encrypted: set "
            f"{environment_name('ssl_certfile')}, or let only a proxy that ends TLS reach it",
        )


def check_rules(config: Config) -> Found:
    try:
        library = Library.load(config.rules)
    except RuleFilesRefused as error:
        yield Verdict.WRONG, f"no rules can be in force: {error.diagnostics[0].message}; run `fraudengine check`"
        return
    for refusal in library.snapshot.refusals:
        yield Verdict.WRONG, str(refusal)
    yield Verdict.WELL, f"{len(library.snapshot.merchants)} merchants in {library.file_count} files"


def check_permissions(config: Config) -> Found:
    if not config.state.exists():
        yield Verdict.WARNING, f"{config.state} is not there yet; `fraudengine serve` makes it"
        return
    mode = stat.S_IMODE(config.state.stat().st_mode)
    if not os.access(config.state, os.W_OK | os.X_OK):
        yield Verdict.WRONG, f"{config.state} cannot be written by this user: chown it to the service's user"
    if mode & 0o077:
        yield (
            Verdict.WARNING,
            f"{config.state} has mode {mode:04o}, so others can look into it: chmod 700 {config.state}",
        )
    for path in sorted(config.state.iterdir()):
        held = path.stat()
        is_private = path.suffix in (".db", ".key") or path.name.endswith(("-wal", "-shm"))
        if is_private and stat.S_IMODE(held.st_mode) & 0o077:
            yield Verdict.WRONG, f"{path} can be read by others: chmod 600 {path}"
        if held.st_uid != os.geteuid():
            yield Verdict.WARNING, f"{path} belongs to user {held.st_uid}, and this is user {os.geteuid()}"
    for path in (config.rules, config.data):
        if not os.access(path, os.R_OK | os.X_OK):
            yield Verdict.WRONG, f"{path} cannot be read by this user"
    yield Verdict.WELL, f"{config.state} has mode {mode:04o}"


def check_card_key(config: Config) -> Found:
    if config.card_key is None and not config.key_file.exists() and config.development:
        yield Verdict.WARNING, "there is no card key yet; a development one is made on the first start"
        return
    key = config.model_copy(update={"development": False}).load_card_key().key
    former = (
        f", {key.former.id} is live beside it until `fraudengine keys retire`" if key.former is not None else ""
    )
    yield Verdict.WELL, f"card key {key.id}{former}"
    if config.lists_file.exists():
        with suppress(StoreUnavailable), ListReader(config.lists_file) as reader:  # the next check tells of that
            if lost := entries_not_found(reader.entries_by_key(utc_us()), key):
                yield Verdict.WRONG, lost


def check_api_keys(config: Config) -> Found:
    path = config.state / "access.db"
    rows: list[tuple[str, str, int | None]] = []
    if path.exists():
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name, role, expires_us FROM keys WHERE revoked_us IS NULL").fetchall()
    now_us = time.time() * 1e6
    in_force = [row for row in rows if row[2] is None or row[2] > now_us]
    for name, role, expires_us in in_force:
        if expires_us is not None and expires_us < now_us + 14 * DAY_S * 1e6:
            days = (expires_us - now_us) / 1e6 / DAY_S
            yield Verdict.WARNING, f"the key of {name} ({role}) expires in {days:.0f} days; make its successor now"
        if name == "development" and not config.development:
            yield Verdict.WRONG, "a development key is in force, which anybody with the terminal saw: revoke it"
    if not any(role in ("gateway", "admin") for _, role, _ in in_force):
        yield Verdict.WARNING, "no key may screen: fraudengine keys create NAME --role gateway"
    yield Verdict.WELL, f"{len(in_force)} API keys in force"


def check_data(config: Config) -> Found:
    tables = open_data(config)
    for name, day in tables.dates.items():
        days = data_age_s(day) / DAY_S
        if days > OLD_DATA_DAYS.get(name, 180):
            yield Verdict.WARNING, f"{name} is of {day}, {days:.0f} days old: renew it (data/README.md)"
        else:
            yield Verdict.WELL, f"{name} is of {day}"


def check_databases(config: Config) -> Found:
    for told in logs_set_aside(config.state / "decisions.db"):
        yield Verdict.WRONG, told
    for name in FILES:
        path = config.state / name
        if not path.exists():
            continue
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if damage := find_damage(path):
            yield Verdict.WRONG, f"{path} is damaged ({damage}): stop, keep a copy, and restore a backup"
            continue
        wal = Path(f"{path}-wal")
        if wal.exists() and wal.stat().st_size > 1 << 30:
            yield Verdict.WARNING, f"{wal} is over 1 GB: a backup or another reader keeps it from being emptied"
        yield Verdict.WELL, f"{name} opens, {path.stat().st_size / 1e6:.1f} MB"


def check_archive(config: Config) -> Found:
    """Whether archived months can be read here: a late outcome or a chargeback may be about one of theirs."""
    files = archive_files(config.state)
    if not files:
        yield Verdict.WELL, "no month is archived"
        return
    try:
        load_pyarrow()
    except ConfigurationError as error:
        yield Verdict.WARNING, f"outcomes and searches of the payments in {names_of(files)} are refused: {error}"
        return
    rows = []
    for path in files:
        try:
            rows.append(count_rows(path, 0, MAX_ID))
        except StoreUnavailable as error:
            yield Verdict.WRONG, str(error)
    if rows:
        yield Verdict.WELL, f"{sum(rows):,} screenings in {len(rows)} of {len(files)} files, {names_of(files)}"


def check_disk(config: Config) -> Found:
    place = config.state if config.state.exists() else config.state.absolute().parent
    usage = shutil.disk_usage(place)
    text = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free at {place}"
    if usage.free < NO_DISK:
        yield Verdict.WRONG, f"{text}: without room screenings are answered 503; free some"
    elif usage.free < LITTLE_DISK:
        yield Verdict.WARNING, f"{text}; a million screenings take about 2 GB"
    else:
        yield Verdict.WELL, text
    handles = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if handles < FEW_FILES:
        yield (
            Verdict.WARNING,
            f"only {handles} files may be open, one for each connection: ulimit -n {FEW_FILES * 4}",
        )


def check_workers(config: Config) -> Found:
    """How many workers there are for the processors, and who has the address that they are to share."""
    processors = len(os.sched_getaffinity(0))
    if config.workers > processors:
        text = f"{config.workers} workers on {processors} processors take turns: more of them answer no sooner"
        yield Verdict.WARNING, f"{text}; set {environment_name('workers')} to {processors} or less"
    address = f"{config.host} port {config.port}"
    try:
        open_socket(config).close()
    except CannotListen as error:
        found = _ask_readiness(config)
        if found is None:
            yield Verdict.WRONG, str(error)
            return
        told = found.get("workers") or {"wanted": 1, "ready": 1, "restarts": 0}
        text = "{ready} of {wanted} workers serve at {at}, {restarts} started anew".format(at=address, **told)
        if not found["ready"] or told["ready"] < told["wanted"]:
            yield Verdict.WRONG if not found["ready"] else Verdict.WARNING, f"{text}; its log says why"
        elif told["wanted"] != config.workers:
            yield Verdict.WARNING, f"{text}, and these settings say {config.workers}: restart it to have them"
        else:
            yield Verdict.WELL, text
    else:
        yield Verdict.WELL, f"{address} is free for {config.workers} worker{'s' * (config.workers != 1)}"


def _ask_readiness(config: Config) -> dict[str, Any] | None:
    """What /readyz says at the configured address; None when no fraudengine answers there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    connection: http.client.HTTPConnection
    if config.ssl_certfile is None:
        connection = http.client.HTTPConnection(host, config.port, timeout=5)
    else:  # whose certificate it is matters to callers; here nothing is told to whoever answers
        trusting = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, config.port, timeout=5, context=trusting)
    with closing(connection):
        try:
            connection.request("GET", "/readyz")
            found = json.loads(connection.getresponse().read(65_536))
        except (OSError, http.client.HTTPException, ValueError):
            return None
    return found if isinstance(found, dict) and isinstance(found.get("ready"), bool) else None


def check_clock(config: Config) -> Found:
    now = time.time()
    path = config.state / "decisions.db"
    if path.exists():
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            newest = connection.execute("SELECT max(id) FROM screenings").fetchone()[0]
        ahead_s = ((newest or 0) >> (WORKER_BITS + COUNTER_BITS)) / 1000 - now
        if ahead_s > 60:
            yield Verdict.WRONG, f"the newest screening is {ahead_s:.0f} s in the future: the clock was set back"
            return
    match _clock_is_synchronised():
        case False:
            yield Verdict.WARNING, "the kernel says that the clock is not synchronised: run chrony or timesyncd"
        case None:
            yield Verdict.WELL, "the clock is not behind the log; whether it is synchronised cannot be seen here"
        case True:
            yield Verdict.WELL, "the clock is synchronised and not behind the log"


class _Timex(ctypes.Structure):
    """The head of the kernel's `struct timex` (adjtimex(2)); the rest is padding."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 512))


def _clock_is_synchronised() -> bool | None:
    """By adjtimex(2): TIME_ERROR (5) is an unsynchronised clock; None where that cannot be asked."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(_Timex()))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != 5


CHECKS: Final[dict[str, Callable[[Config], Found]]] = {
    "configuration": check_configuration,
    "rules": check_rules,
    "permissions": check_permissions,
    "card key": check_card_key,
    "API keys": check_api_keys,
    "data": check_data,
    "databases": check_databases,
    "archive": check_archive,
    "disk": check_disk,
    "workers": check_workers,
    "clock": check_clock,
}
