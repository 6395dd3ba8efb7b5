"""Commands that decide: `serve`, `screen`, and `status` of a running service."""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..access import DEVELOPMENT_NAME, AccessKeys, development_key
from ..assembly import open_access, open_screener
from ..audit import AuditLog
from ..config import Config
from ..diagnostics import ConflictingTransaction, InvalidTransaction, UnknownMerchant
from ..environment import claim_state
from ..request import read_transaction
from ..serve import CannotListen, check_certificate, log_to_stderr, open_socket, say_ready
from ..serve import serve as serve_forever
from ..service import Screener
from ..supervisor import Supervisor, WorkerLink
from .options import (
    Problem,
    configuration,
    data_option,
    format_option,
    read_input,
    rules_option,
    state_option,
)

_TRY = """\
Try it in another terminal:

  curl -s http://{host}:{port}/v1/screenings -H 'content-type: application/json' \\
    -H 'authorization: Bearer {key}' -d '{{
    "merchant": "{merchant}", "transaction_id": "T-1", "amount": "450.000", "currency": "TND",
    "card": {{"pan": "4111 1111 1111 1111", "country": "TN"}}, "ip_address": "41.226.11.9"}}'
"""


@click.command()
@rules_option
@state_option
@data_option
@click.option("--host", help="Address to listen on (default: 127.0.0.1). [env: FRAUDENGINE_HOST]")
@click.option("--port", type=int, help="Port to listen on (default: 8080). [env: FRAUDENGINE_PORT]")
@click.option("--workers", type=int, help="Processes that screen (default: 1). [env: FRAUDENGINE_WORKERS]")
def serve(
    rules: Path | None,
    state: Path | None,
    data_directory: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
) -> None:
    """Answer screenings over HTTP until stopped. Edited rule files take effect within a second."""
    config = configuration(rules=rules, state=state, data=data_directory, host=host, port=port, workers=workers)
    log_to_stderr(log_format=config.log_format)
    claim_state(config)
    listening, link = _become_worker(config) if config.workers > 1 else (None, None)
    with AuditLog(config.state) as audit, open_access(config, audit) as access:
        config.require_safe_host(has_keys=not access.names <= {DEVELOPMENT_NAME})
        screener = open_screener(config, audit, (lambda: None) if link is None else link.say_starting)
        if link is None or link.is_first:
            _say_how_it_stands(config, screener, access)
        try:
            serve_forever(config, screener, access, listening, link)
        except CannotListen as error:
            raise Problem(str(error), 3) from None


def _become_worker(config: Config) -> tuple[socket.socket, WorkerLink]:
    """Returns in each worker; the supervisor stays inside, and ends the process when all workers have ended."""
    check_certificate(config)
    try:
        listening = open_socket(config)
    except CannotListen as error:
        raise Problem(str(error), 3) from None
    ready = partial(say_ready, config, listening)
    stall, start = config.worker_stall_seconds, config.worker_start_seconds
    outcome = Supervisor(config.workers, listening, ready, stall, start).run()
    if isinstance(outcome, int):
        sys.exit(outcome)
    return listening, outcome


def _say_how_it_stands(config: Config, screener: Screener, access: AccessKeys) -> None:
    for problem in screener.problems():
        click.echo(f"fraudengine: {problem}", err=True)
    if config.development:
        _show_how_to_try(config, development_key(access, config.state), screener.merchants)
    elif access.names <= {DEVELOPMENT_NAME}:
        click.echo(f"fraudengine: {_ONLY_DEVELOPMENT if access.names else _NO_KEY}", err=True)
    if config.tells_in_clear:
        click.echo(f"fraudengine: {_IN_CLEAR}", err=True)


_NO_KEY = "nobody can call: there is no API key yet; make one with: fraudengine keys create NAME --role gateway"
_ONLY_DEVELOPMENT = (
    f"only the key `{DEVELOPMENT_NAME}` of a development service before this one can call, and it may do anything: "
    "make another with: fraudengine keys create NAME --role gateway, and end that one with: "
    "fraudengine keys revoke ID (`fraudengine keys list` shows it)"
)
_IN_CLEAR = (
    "calls are not encrypted: set FRAUDENGINE_SSL_CERTFILE and FRAUDENGINE_SSL_KEYFILE, or let only a proxy that "
    "ends TLS reach this port"
)


def _show_how_to_try(config: Config, key: str, merchants: Sequence[str]) -> None:
    click.echo(f"fraudengine: development key, also in {config.state / 'development.key'}:\n  {key}", err=True)
    if merchants:
        click.echo(_TRY.format(host=config.host, port=config.port, merchant=merchants[0], key=key), err=True)


@click.command()
@click.argument("source", metavar="FILE|-")
@rules_option
@state_option
@data_option
@format_option
def screen(
    source: str,
    rules: Path | None,
    state: Path | None,
    data_directory: Path | None,
    output: str | None,
) -> None:
    """Decide on transactions: the JSON of POST /v1/screenings, one object or one a line, from FILE or `-`.

    Goes through the same path as the service, and is recorded in the decision log likewise.
    """
    config = configuration(rules=rules, state=state, data=data_directory, format=output)
    bodies = list(_bodies(read_input(source)))
    if not bodies:
        raise Problem("there is no transaction in the input")
    log_to_stderr()
    screener = open_screener(config)
    wrong = 0
    try:
        for number, body in bodies:
            try:
                started = time.perf_counter_ns()
                transaction, digest = read_transaction(body, screener.card_key, time.time_ns() // 1000)
                given = json.loads(screener.screen_and_wait(transaction, digest, started))
            except (InvalidTransaction, UnknownMerchant, ConflictingTransaction) as error:
                wrong += 1
                click.echo(f"fraudengine: transaction {number}: {error}", err=True)
                continue
            click.echo(json.dumps(given) if config.format == "json" else _in_words(given))
    finally:
        screener.close()
    if wrong:
        sys.exit(1)


def _bodies(text: str) -> Iterator[tuple[int, bytes]]:
    """One JSON object over the whole input, or one on each line."""
    try:
        json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            lines = [text] if text.strip() else []
        yield from ((number, line.encode()) for number, line in enumerate(lines, start=1))
    else:
        yield 1, text.encode()


def _in_words(given: dict[str, Any]) -> str:
    reason = given["reason"]
    by = f" by rule {reason['rule']}" if reason["rule"] else ""
    lines = [f"{given['decision']}: {reason['code']}{by}. {reason['message']}"]
    for match in given["matches"]:
        tests = "; ".join(f"{item['fact']} {item['value']}, {item['test']}" for item in match["because"])
        shadow = " (shadow)" if match["mode"] == "shadow" else ""
        lines.append(f"  {match['rule']}{shadow}: {tests or 'matched'}")
    lines.append(f"  screening {given['screening_id']}")
    return "\n".join(lines)


def _key_header(config: Config, address: str) -> dict[str, str]:
    """The key that commands call the service with; without one the service says less.

    The development key is shown to this machine only.
    """
    if config.api_key is not None:
        return {"authorization": f"Bearer {config.api_key.get_secret_value()}"}
    if urllib.parse.urlsplit(address).hostname not in ("127.0.0.1", "::1", "localhost"):
        return {}
    try:
        key = (config.state / "development.key").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return {}
    return {"authorization": f"Bearer {key}"}


@click.command()
@click.option("--url", help="Where the service answers (default: http://HOST:PORT of the settings).")
@state_option
@format_option
def status(url: str | None, state: Path | None, output: str | None) -> None:
    """Say how the running service is: whether it answers, which rule files it refuses and why, data dates."""
    config = configuration(state=state, format=output)
    host = f"[{config.host}]" if ":" in config.host else config.host
    scheme = "https" if config.ssl_certfile is not None else "http"
    address = (url or f"{scheme}://{host}:{config.port}").rstrip("/")
    try:
        asked = urllib.request.Request(f"{address}/readyz", headers=_key_header(config, address))
        with urllib.request.urlopen(asked, timeout=5) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    except (OSError, ValueError) as error:
        raise Problem(f"no service answers at {address}: {getattr(error, 'reason', error)}", 3) from None
    if config.format == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        problems = found.get("problems", [])
        ready = "ready" if found.get("ready", found.get("status") == "ready") else "NOT READY"
        click.echo(f"{address}: {ready}" + ("" if problems else ", all is well"))
        if workers := found.get("workers"):
            click.echo("  {ready} of {wanted} workers serve, {restarts} started anew".format(**workers))
        for problem in problems:
            click.echo(f"  {problem}")
    if found.get("problems"):
        sys.exit(1)


COMMANDS: list[click.Command] = [serve, screen, status]
