"""Several workers behind one listening socket: starts them, starts anew what died, stops them in order.

Decisions that a reader would question:

- The supervisor binds and listens, and forks. It opens no database, log or thread before or after, so every worker,
  also one that is started a month later, comes from a clean process and the same release of the code.
- All workers accept from one queue, which is the supervisor's as well: connections that wait in it when a worker
  dies are taken by the others. With SO_REUSEPORT each worker has a queue of its own, and the kernel resets what
  waits in the queue of one that dies; it also hands connections to a busy worker while another is idle.
- The first worker starts alone: it brings tables forward, makes development keys, and a mistake in the settings is
  told once, with its own exit code. The others follow once it serves.
- A worker that dies is started anew after a pause that doubles (PAUSES). While another serves, this goes on for
  ever: half a service is better than none. When none serves and a worker died MOST_DEATHS times without
  having lived for STEADY_SECONDS, the service ends with exit code 3, for whoever supervises it to see.
- Both hold an end of a socket pair. A worker beats once a second, and is killed when it was silent for
  `stall_seconds`, or before it serves for `start_seconds`: a long start says that it goes on. Time in which the
  supervisor itself stood still (a machine that was paused) counts against nobody: the workers stood still too.
- A worker whose supervisor is gone finishes what it accepted and ends: no orphan holds the port.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

_log = logging.getLogger(__name__)

BEAT_SECONDS: Final = 1.0
STEADY_SECONDS: Final = 10.0
PAUSES: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
MOST_DEATHS: Final = 5
KILL_AFTER_SECONDS: Final = 25.0  # more than a worker's own bound for finishing what it accepted
GIVEN_UP: Final = 3

_READY: Final = b"R"
_BEAT: Final = b"B"
_STARTS: Final = b"S"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class WorkersState:
    """How many workers there should be, how many serve, and how often one was started anew."""

    wanted: int
    ready: int
    restarts: int

    @property
    def problem(self) -> str | None:
        if self.ready >= self.wanted:
            return None
        return f"{self.ready} of {self.wanted} workers serve; those that are missing are being started"


def notify_systemd(message: str) -> None:
    """Tells systemd what sd_notify(3) would (`READY=1`); nothing when nobody asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        told.connect(address)
        told.send(message.encode())


class WorkerLink:
    """A worker's end of its tie to the supervisor."""

    def __init__(self, tie: socket.socket, *, is_first: bool, state: WorkersState) -> None:
        self._tie = tie
        self.is_first = is_first
        self.state = state  # as it was at the fork, until something else is told
        self._held = b""

    def say_starting(self) -> None:
        """Says that the start, which takes long, goes on."""
        self._say(_STARTS)

    def attach(self, stop: Callable[[], None]) -> None:
        """Says that this worker serves, and goes on saying so; `stop` is called when the supervisor is gone."""
        loop = asyncio.get_running_loop()
        self._tie.setblocking(False)
        loop.add_reader(self._tie, self._hear, loop, stop)
        self._hear(loop, stop)  # what was told during the start
        self._say(_READY)
        loop.call_later(BEAT_SECONDS, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._say(_BEAT)
        loop.call_later(BEAT_SECONDS, self._beat, loop)

    def _say(self, what: bytes) -> None:
        with suppress(OSError):  # that the supervisor is gone is heard by the reader
            self._tie.send(what, socket.MSG_DONTWAIT)

    def _hear(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        try:
            heard = self._tie.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not heard:
            loop.remove_reader(self._tie)
            _log.error("the supervisor is gone; finishing what was accepted")
            stop()
            return
        *lines, self._held = (self._held + heard).split(b"\n")
        if lines:
            self.state = WorkersState(*json.loads(lines[-1]))


@dataclass(slots=True)
class _Place:
    """One of the workers that there should be: who fills it now, and how its holders fared."""

    pid: int = 0  # 0: nobody
    tie: socket.socket | None = None
    ready_at: float | None = None
    heard_at: float = 0.0
    deaths: int = 0  # one after the other, without a steady life between
    start_at: float = 0.0
    hung: bool = field(default=False)


class Supervisor:
    """Keeps `wanted` workers behind a listening socket. The process is its own: one thread, no event loop."""

    def __init__(
        self,
        wanted: int,
        listening: socket.socket,
        say_ready: Callable[[], None],
        stall_seconds: float,
        start_seconds: float,
    ) -> None:
        self._listening = listening
        self._stall_seconds, self._start_seconds = stall_seconds, start_seconds
        self._looked_at = time.monotonic()
        self._say_ready = say_ready
        self._places = [_Place() for _ in range(wanted)]
        self._restarts = 0
        self._has_served = False
        self._was_complete = False
        self._stopping_since: float | None = None
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._asked: set[int] = set()

    def run(self) -> WorkerLink | int:
        """In each worker its link, at once; in the supervisor the exit code, when all has ended."""
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        former = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        code: int | None = None
        while code is None:
            link = self._start_due()
            if link is not None:
                return link
            for key, _ in self._selector.select(self._pause()):
                self._hear(key.fileobj)
            self._obey()
            code = self._bury()
            self._look_for_hung()
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        self._close_all()
        return code

    # ---- what is heard ----------------------------------------------------------------------------

    def _take(self, number: int, _: object) -> None:
        self._asked.add(number)

    def _hear(self, source: object) -> None:
        if source is self._woken:
            with suppress(BlockingIOError):
                self._woken.recv(4096)
            return
        place = next(place for place in self._places if place.tie is source)
        assert place.tie is not None
        try:
            heard = place.tie.recv(65536)
        except OSError:
            heard = b""
        if not heard:  # it is dying; what waits for SIGCHLD is only its exit code
            self._selector.unregister(place.tie)
            place.tie.close()
            place.tie = None
            return
        place.heard_at = time.monotonic()
        if _READY in heard and place.ready_at is None:
            place.ready_at = place.heard_at
            self._note_change()

    def _obey(self) -> None:
        asked, self._asked = self._asked, set()
        if signal.SIGHUP in asked:
            self._tell_all(signal.SIGHUP)
        if asked & {signal.SIGTERM, signal.SIGINT} and self._stopping_since is None:
            self._stop()

    def _stop(self) -> None:
        self._stopping_since = time.monotonic()
        notify_systemd("STOPPING=1")
        self._listening.close()  # whoever comes now is refused by the kernel, and asks another machine
        self._tell_all(signal.SIGTERM)

    def _tell_all(self, number: signal.Signals) -> None:
        for place in self._places:
            if place.pid:
                with suppress(ProcessLookupError):
                    os.kill(place.pid, number)

    # ---- life and death ---------------------------------------------------------------------------

    def _start_due(self) -> WorkerLink | None:
        """Starts whom it is time to start; returns in a new worker with its link."""
        if self._stopping_since is not None:
            return None
        now = time.monotonic()
        places = self._places if self._has_served else self._places[:1]
        for place in places:
            if not place.pid and now >= place.start_at:
                link = self._start(place)
                if link is not None:
                    return link
        return None

    def _start(self, place: _Place) -> WorkerLink | None:
        mine, its = socket.socketpair()
        is_first = not self._has_served
        state = WorkersState(len(self._places), self._ready_places(), self._restarts)
        # A signal between fork and the handlers of the worker must neither be lost nor be taken for ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                mine.close()
                self._leave_to_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if pid == 0:
            return WorkerLink(its, is_first=is_first, state=state)
        its.close()
        mine.setblocking(False)
        place.pid, place.tie, place.ready_at, place.heard_at = pid, mine, None, time.monotonic()
        place.hung = False
        self._selector.register(mine, selectors.EVENT_READ)
        return None

    def _leave_to_worker(self) -> None:
        """In a new worker: lets go of all that is the supervisor's."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        self._close_all()

    def _close_all(self) -> None:
        for place in self._places:
            if place.tie is not None:
                place.tie.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _bury(self) -> int | None:
        """Notes who died; the exit code when the service ends with that."""
        code = None
        for place in self._places:
            if not place.pid:
                continue
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if pid:
                found = self._note_death(place, os.waitstatus_to_exitcode(status))
                code = code if found is None else found
        if self._stopping_since is not None:
            return 0 if not any(place.pid for place in self._places) else None
        if code is not None:
            self._stop()
            self._end_the_rest()
        return code

    def _note_death(self, place: _Place, exit_code: int) -> int | None:
        pid, ready_at, now = place.pid, place.ready_at, time.monotonic()
        if place.tie is not None:
            self._selector.unregister(place.tie)
            place.tie.close()
        place.pid, place.tie, place.ready_at = 0, None, None
        if self._stopping_since is not None:
            return None
        if not self._has_served and exit_code > 0:
            return exit_code  # it said itself what is wrong
        place.deaths = 1 if ready_at is not None and now - ready_at >= STEADY_SECONDS else place.deaths + 1
        how = f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
        when = "" if ready_at is not None else " before it served"
        self._restarts += 1
        if place.deaths >= MOST_DEATHS and not self._ready_places():
            _log.critical("worker %d ended %s%s, the %dth in a row, and no other serves: giving up",
                          pid, how, when, place.deaths)  # fmt: skip
            return GIVEN_UP
        pause = PAUSES[min(place.deaths, len(PAUSES)) - 1]
        place.start_at = now + pause
        _log.error("worker %d ended %s%s; another is started in %g s", pid, how, when, pause)
        self._note_change()
        return None

    def _end_the_rest(self) -> None:
        """Waits for those that still live, as on SIGTERM."""
        while any(place.pid for place in self._places):
            self._selector.select(self._pause())
            for place in self._places:
                if place.pid and os.waitpid(place.pid, os.WNOHANG)[0]:
                    place.pid = 0
            self._look_for_hung()

    def _look_for_hung(self) -> None:
        now = time.monotonic()
        stood_still, self._looked_at = now - self._looked_at - BEAT_SECONDS, now
        stops_late = self._stopping_since is not None and now - self._stopping_since > KILL_AFTER_SECONDS
        for place in self._places:
            if not place.pid or place.hung:
                continue
            if stood_still > BEAT_SECONDS:
                place.heard_at = min(now, place.heard_at + stood_still)
            serves = place.ready_at is not None
            is_silent = now - place.heard_at > (self._stall_seconds if serves else self._start_seconds)
            if stops_late or (is_silent and self._stopping_since is None):
                place.hung = True
                what = "end" if stops_late else "respond" if serves else "begin to serve"
                _log.error("worker %d does not %s: killing it", place.pid, what)
                with suppress(ProcessLookupError):
                    os.kill(place.pid, signal.SIGKILL)
        if self._has_served and self._ready_places():
            notify_systemd("WATCHDOG=1")

    def _ready_places(self) -> int:
        return sum(place.ready_at is not None for place in self._places)

    def _pause(self) -> float:
        """Until the next one is due to start, a beat at most."""
        if self._stopping_since is not None:
            return BEAT_SECONDS / 4
        now = time.monotonic()
        places = self._places if self._has_served else self._places[:1]
        return max(0.0, min([BEAT_SECONDS, *(place.start_at - now for place in places if not place.pid)]))

    def _note_change(self) -> None:
        ready = self._ready_places()
        self._has_served = self._has_served or ready > 0
        told = json.dumps([len(self._places), ready, self._restarts]).encode() + b"\n"
        for place in self._places:
            if place.tie is not None:
                with suppress(OSError):
                    place.tie.send(told)
        if ready == len(self._places) and not self._was_complete:
            self._was_complete = True
            self._say_ready()
            notify_systemd("READY=1")
        notify_systemd(f"STATUS={ready} of {len(self._places)} workers serve")
