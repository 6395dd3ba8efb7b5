"""`fraudengine serve`: a uvicorn server on uvloop and httptools around one screener, in each worker.

The server owns the signals: SIGTERM and SIGINT stop accepting, finish what was accepted, then close the decision
log; SIGHUP reads the TLS certificate again, for connections from then on (rules and data are watched anyway). There
is no access log, because a path can hold what somebody mistyped into it, a card number too.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, Protocol

import uvicorn
import uvloop

from .api import AccessPort, ScreenerPort, create_app
from .cards import HidePans
from .config import Config, environment_name
from .diagnostics import ConfigurationError
from .http_protocol import UNREAD_SECONDS, BoundedHttp
from .search_index import Indexing
from .structured_log import JsonFormatter, screening_lines
from .supervisor import BEAT_SECONDS, WorkerLink, notify_systemd

_log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS: Final = 75
GRACE_SECONDS: Final = 20
MAX_CONNECTIONS: Final = 4096
BACKLOG: Final = 1024
OTHER_FILES: Final = 256  # databases, rule files, tables: what is open beside connections


class CannotListen(ConfigurationError):
    """The address or port cannot be had: the machine's fault, exit code 3."""


class ServedScreener(ScreenerPort, Protocol):
    """A screener that the server starts before the first request and stops after the last."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def serve(
    config: Config,
    screener: ServedScreener,
    access: AccessPort,
    listening: socket.socket | None = None,
    link: WorkerLink | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT; says when it is ready, on standard error or to the supervisor by `link`.

    Raises ConfigurationError for a certificate that cannot be read, CannotListen when the port is taken, and
    whatever the screener's start raises.
    """
    check_certificate(config)
    with (
        listening or open_socket(config) as bound,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(config, screener, access, bound, link))


def say_ready(config: Config, listening: socket.socket) -> None:
    """The line on standard error that tells where the service answers."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if config.ssl_certfile is not None else "http"
    print(f"fraudengine: ready on {scheme}://{shown}:{port}", file=sys.stderr, flush=True)


def open_socket(config: Config) -> socket.socket:
    """A socket bound to the configured address, listening once the server starts."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((config.host, config.port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise CannotListen(
            f"cannot listen on {config.host} port {config.port}: {error.strerror or error}; "
            f"stop what uses it or set {environment_name('port')}"
        ) from None
    bound.setblocking(False)
    return bound


async def _serve(
    config: Config,
    screener: ServedScreener,
    access: AccessPort,
    listening: socket.socket,
    link: WorkerLink | None,
) -> None:
    await screener.start()
    spare_the_collector()
    lines = screening_lines() if config.log_format == "json" else None
    try:
        server = _Server(
            uvicorn.Config(
                create_app(screener, config, access, lines, None if link is None else lambda: link.state),
                http=BoundedHttp,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(config.trusted_proxies),
                forwarded_allow_ips=config.trusted_proxies or None,
                ssl_certfile=config.ssl_certfile,
                ssl_keyfile=config.ssl_keyfile,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
                limit_concurrency=connections_to_hold(),
                backlog=BACKLOG,
            ),
            config,
            link,
        )
        with Indexing(config.state):
            await server.serve(sockets=[listening])
    finally:
        await screener.stop()
        if lines is not None:
            lines.close()


def connections_to_hold() -> int:
    """How many connections are held at a time: MAX_CONNECTIONS, or as many as this process may open files for.

    Takes all that the hard limit gives: many systems begin with 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS  # newcomers are taken before others are closed
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, soft - OTHER_FILES))


def check_certificate(config: Config) -> None:
    """Raises ConfigurationError unless certificate and private key can be read and belong together."""
    if config.ssl_certfile is None:
        if config.ssl_keyfile is not None:
            raise ConfigurationError(f"{environment_name('ssl_certfile')} is missing beside the private key")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigurationError(
            f"the certificate {config.ssl_certfile} and its key cannot be used ({error}); check "
            f"{environment_name('ssl_certfile')} and {environment_name('ssl_keyfile')}"
        ) from None


def spare_the_collector() -> None:
    """Keeps rules and tables out of garbage collection, and looks for cycles less often.

    A screening leaves no cycles behind; by default each few dozen would have the whole heap walked.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class _Server(uvicorn.Server):
    """uvicorn's server, which otherwise ends the process by the signal before the log is closed."""

    def __init__(self, served: uvicorn.Config, settings: Config, link: WorkerLink | None = None) -> None:
        super().__init__(served)
        self._settings, self._link = settings, link

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._link is not None:
            self._link.attach(self._stop)
            return
        for listening in sockets or ():
            say_ready(self._settings, listening)
        notify_systemd("READY=1")
        self._beat()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes what the kernel accepted before it closes the port: those would be cut off else, unread."""
        kept = [listening.dup() for listening in sockets or ()]  # the loop closes its own in a later round only
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()
        await asyncio.sleep(0)
        waiting: list[socket.socket] = []
        for listening in kept:
            listening.setblocking(False)
            waiting += _take_waiting(listening)
            listening.close()  # at once: who comes in between is cut off
        loop = asyncio.get_running_loop()
        protocol = partial(
            BoundedHttp, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        taken = [loop.connect_accepted_socket(protocol, found, ssl=self.config.ssl) for found in waiting]
        with suppress(TimeoutError):  # who does not shake hands at once is let go
            await asyncio.wait_for(asyncio.gather(*taken, return_exceptions=True), UNREAD_SECONDS)
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.should_exit = True

    def _beat(self) -> None:
        """Keeps systemd's watchdog quiet for as long as the loop turns."""
        notify_systemd("WATCHDOG=1")
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _renew_certificate(self) -> None:
        """New connections get the certificate that is in the file now; a bad one leaves the former in use."""
        context, settings = self.config.ssl, self._settings
        if context is None or settings.ssl_certfile is None:
            return
        try:
            check_certificate(settings)
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
        except (ConfigurationError, OSError) as error:
            _log.error("the certificate from before stays in use: %s", error)
        else:
            _log.info("the certificate was read again")

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._renew_certificate)
        try:
            yield
        finally:
            for number in (*signals, signal.SIGHUP):
                loop.remove_signal_handler(number)


def _take_waiting(listening: socket.socket) -> Iterator[socket.socket]:
    """The connections that the kernel holds for a listening socket, as many as it can hold at most."""
    with suppress(OSError):  # there are no more
        for _ in range(BACKLOG):
            found, _ = listening.accept()
            found.setblocking(False)
            yield found


def log_to_stderr(level: int = logging.INFO, log_format: str = "text") -> None:
    """Sends this process's log to standard error, as text or JSON, with every card number masked."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    handler.addFilter(HidePans())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
