"""The one adapter of durable_rules: compiles a form, says which of its rules a message fires, releases it.

A *form* is a set of rules over 0/1 properties, as the JSON text that the C core (Rete) compiles. What a
property means is not known here, so one compiled form serves every rule set with the same boolean structure.

The extension module is driven directly; `durable.engine.Host` would start timer threads and costs three times
as much (`test_no_thread_is_started_and_host_is_never_imported`).

- The message is a *fact*: it fires every rule that matches, the names are read back, the fact is retracted.
- There is one `sid` and one message id. A message that a fault left behind makes the next one "observed", an
  error here rather than an unnoticed neighbour; and a constant id cannot collide with the id of the core's own
  state message, since the core compares ids by a 32-bit hash only.
- A core that raised, or answered what it never should, is not asked again: the compiled form is abandoned where
  it is (deleting it with facts inside crashes the process) and compiled anew for the next message.
- The core is not thread-safe: the first thread that calls owns it, every other one gets BackendFault.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

import durable_rules_engine as _core

from ..diagnostics import BackendFault

MESSAGE_HEAD: Final = '{"id":"0","sid":"0"'
MESSAGE_TAIL: Final = "}"
_MESSAGE_ID: Final = MESSAGE_HEAD + MESSAGE_TAIL

# Every form holds one rule more, fired once when it is compiled. It proves that the core answers, and it makes
# releasing safe: `delete_state` frees a pointer that only the first fired action initialises.
PROBE_PROPERTY: Final = "z"
PROBE_RULE: Final = f'"-":{{"all":[{{"m":{{"{PROBE_PROPERTY}":1}}}}]}}'
_PROBE_MESSAGE: Final = f'{MESSAGE_HEAD},"{PROBE_PROPERTY}":1{MESSAGE_TAIL}'
_PROBE_FIRED: Final = ["-"]
_SID: Final = "0"

# Answers of assert_fact and retract_fact.
_HANDLED: Final = 0
_NO_RULE_FIRED: Final = 1

# What a form answered is remembered for this many sets of properties; ordinary traffic has some hundred.
MAX_ANSWERS: Final = 1024

# A form that faults this often stays unusable: each abandoned copy costs some hundred kB.
MAX_FAULTS: Final = 8

owner: int | None = None  # the thread that calls the core; None until the first call
_unused: deque[int] = deque()  # handles of forms that nobody holds any more


def claim_core() -> None:
    """Makes the calling thread the owner of the core; no other thread may call it from here on."""
    global owner
    owner = threading.get_ident()


def require_owner() -> None:
    """Raises BackendFault unless the calling thread owns the core; the first to call becomes the owner."""
    global owner
    if owner is None:
        owner = threading.get_ident()
    elif owner != threading.get_ident():
        raise BackendFault(
            "the online backend was called by a second thread; durable_rules is not thread-safe, "
            "so one thread per process calls it"
        )


class CompiledForm:
    """A form, compiled by the core at its first message and released once nobody holds it.

    What fires is a pure function of the properties that hold, so that each answer of the core is remembered:
    `answers`, by the bit mask over `properties`. A fault forgets them all.
    """

    __slots__ = ("__weakref__", "_handle", "_pieces", "answers", "faults", "text")

    def __init__(self, text: str, properties: Sequence[str] = ()) -> None:
        self.text = text
        self._pieces = {1 << place: f',"{name}":1' for place, name in enumerate(properties)}
        self.answers: dict[int, str] = {}
        self.faults = 0
        self._handle: int | None = None

    @property
    def is_compiled(self) -> bool:
        return self._handle is not None

    def ask(self, mask: int) -> str:
        """Asks the core which rules fire when just those properties hold: their one-letter names."""
        message, left = MESSAGE_HEAD, mask
        while left:
            lowest = left & -left
            message += self._pieces[lowest]
            left ^= lowest
        names = "".join(self.fire(message + MESSAGE_TAIL))
        if len(self.answers) >= MAX_ANSWERS:
            self.answers.clear()
        self.answers[mask] = names
        return names

    def fire(self, message: str) -> list[str]:
        """The one-letter names of the rules that the message fires; twice if two branches of a rule are true."""
        if owner != threading.get_ident():
            require_owner()
        handle = self._handle
        if handle is None:
            handle = self._compile()
        try:
            return _fire(handle, message)
        except BaseException as error:
            self._abandon()
            if isinstance(error, Exception) and not isinstance(error, BackendFault):
                raise BackendFault(f"durable_rules failed: {error}") from error
            raise

    def _compile(self) -> int:
        if self.faults >= MAX_FAULTS:
            raise BackendFault(f"durable_rules failed {self.faults} times on these rules; they are not tried again")
        release_unused()
        try:
            handle: int = _core.create_ruleset("f", self.text)
            if _fire(handle, _PROBE_MESSAGE) != _PROBE_FIRED:
                raise BackendFault("durable_rules did not fire the probe of a form")
        except BaseException as error:
            self._abandon()
            if isinstance(error, Exception) and not isinstance(error, BackendFault):
                raise BackendFault(f"durable_rules does not compile a form: {error}") from error
            raise
        self._handle = handle
        return handle

    def _abandon(self) -> None:
        self._handle = None
        self.answers.clear()
        self.faults += 1

    def __del__(self) -> None:
        # The collector may run in any thread, so that the handle is only noted here.
        if self._handle is not None:
            _unused.append(self._handle)


def _fire(handle: int, message: str) -> list[str]:
    # INVARIANT: the message is a string of its own, since the core writes into its buffer while it parses.
    answer, state = _core.assert_fact(handle, message)
    if answer == _NO_RULE_FIRED:
        return []
    if answer != _HANDLED:
        raise BackendFault(f"durable_rules answered {answer} to a message")
    names: list[str] = []
    fired: str | None = _core.start_action_for_state(handle, state)[1]
    while fired is not None:
        names.append(fired[2])  # {"N":{"m":{...}}}
        fired = _core.complete_and_start_action(handle, state)
    if _core.retract_fact(handle, _MESSAGE_ID)[0] != _HANDLED:
        raise BackendFault("durable_rules did not take its message back")
    return names


def release_unused() -> int:
    """Gives back the memory of forms that nobody holds any more; how many they were.

    The order matters: facts are retracted by now, then the state is deleted, then the rule set. Without the state
    some 320 kB leak for each form (`test_memory_is_flat_over_compile_fire_release`).
    """
    require_owner()
    released = 0
    while _unused:
        handle = _unused.popleft()
        _core.delete_state(handle, _SID)
        _core.delete_ruleset(handle)
        released += 1
    return released
