"""`live` and `test` side by side: to which environment a state directory belongs, so that neither touches both.

The first process that opens a state directory stamps it (`environment` in it). Whoever comes later in the name of
the other environment is refused before anything is read or written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from .access import Environment
from .config import Config, environment_name
from .diagnostics import ConfigurationError

STAMP: Final = "environment"


def environment_of(config: Config) -> Environment:
    """The environment by the settings, else by the stamp; a development service that has neither is `test`.

    Raises ConfigurationError when the stamp says another environment than the setting.
    """
    stamped = _read_stamp(config.state)
    if config.environment is not None:
        if stamped is not None and stamped != config.environment:
            raise ConfigurationError(
                f"the state directory {config.state} belongs to `{stamped}`, and "
                f"{environment_name('environment')} is `{config.environment}`: "
                "give each environment a state directory of its own"
            )
        return config.environment
    return stamped or ("test" if config.development else "live")


def claim_state(config: Config) -> Environment:
    """Makes the state directory when there is none, and stamps it; raises ConfigurationError."""
    try:
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"the state directory {config.state} cannot be made: {error.strerror}") from None
    environment = environment_of(config)
    try:
        handle = os.open(config.state / STAMP, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return environment_of(config)
    except OSError as error:
        raise ConfigurationError(f"{config.state / STAMP} cannot be written: {error.strerror}") from None
    with open(handle, "w", encoding="ascii") as stamp:
        stamp.write(environment + "\n")
    return environment


def _read_stamp(state: Path) -> Environment | None:
    try:
        text = (state / STAMP).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        text = ""
    if text == "live":
        return "live"
    if text == "test":
        return "test"
    raise ConfigurationError(f"{state / STAMP} holds neither `live` nor `test`; write the right one into it")
