"""Every setting once: its name, environment variable, default, bounds and help.

A setting comes from a command-line option, else from its environment variable, else from its default; an empty
variable counts as unset. A variable that begins with `FRAUDENGINE_` and is none of these is a mistake that would
otherwise go unseen, so it is refused.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .cards import CARD_KEY_VARIABLE, LoadedCardKey, load_card_key
from .decision import Outcome
from .diagnostics import ConfigurationError, suggest

PREFIX: Final = "FRAUDENGINE_"
_REPOSITORY: Final = Path(__file__).resolve().parents[2]


def _default_data() -> Path:
    """`data` of the repository that this package runs from, else of the working directory."""
    beside = _REPOSITORY / "data"
    return beside if beside.is_dir() else Path("data")


class Config(BaseSettings):
    """The settings of one process, checked; `read_configuration` makes it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    rules: Annotated[Path, Field(description="Directory of the rule files.")] = Path("rules")
    state: Annotated[Path, Field(description="Directory of the decision log and the development key.")] = Path(
        "var"
    )
    data: Annotated[Path, Field(description="Directory of the IP and BIN tables.")] = Field(
        default_factory=_default_data
    )
    ip_country: Annotated[
        Path | None,
        Field(description="A country .mmdb of MaxMind or DB-IP, in the place of `ip-country.mmdb` in the data."),
    ] = None
    card_key: Annotated[
        SecretStr | None,
        Field(description="The key of card fingerprints, 32 bytes or more, hexadecimal or base64."),
    ] = None
    card_key_file: Annotated[
        Path | None,
        Field(description="File of mode 0600 that holds the card key; unset: `card.key` in the state directory."),
    ] = None
    environment: Annotated[
        Literal["live", "test"] | None,
        Field(
            description="`live` or `test` (the gateway's pre-production), each with a state directory of its own; "
            "unset: what the state directory belongs to, else `live` (`test` in development)."
        ),
    ] = None
    host: Annotated[
        str, Field(description="Address to listen on; one that others can reach needs an API key made before.")
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8080
    ssl_certfile: Annotated[Path | None, Field(description="PEM file of the TLS certificate and its chain.")] = None
    ssl_keyfile: Annotated[Path | None, Field(description="PEM file of the certificate's private key.")] = None
    trusted_proxies: Annotated[
        str,
        Field(
            description="Addresses or networks, separated by commas, of proxies whose `X-Forwarded-For` and "
            "`X-Forwarded-Proto` are believed; empty: nobody's."
        ),
    ] = ""
    api_key: Annotated[
        SecretStr | None,
        Field(description="The API key that commands call a service with; unset: that of `make run`, if any."),
    ] = None
    workers: Annotated[int, Field(ge=1, le=64, description="Processes that screen, behind one port.")] = 1
    worker_stall_seconds: Annotated[
        int, Field(ge=3, le=600, description="How long a worker may stand still before it is killed and replaced.")
    ] = 30
    worker_start_seconds: Annotated[
        int,
        Field(
            ge=5,
            le=86_400,
            description="How long a worker may take to begin to serve before it is killed and replaced, beside the "
            "time in which it counts past screenings.",
        ),
    ] = 1800
    unknown_merchant: Annotated[
        Literal["refuse", "platform"],
        Field(description="A merchant without a rule file: `refuse` the call (404), or decide by `platform`."),
    ] = "refuse"
    on_failure: Annotated[
        Literal["challenge", "refuse"],
        Field(description="The outcome when no backend can evaluate the rules; never `accept`."),
    ] = "challenge"
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=1_048_576, description="The longest request body that is read.")
    ] = 65_536
    log_batch_delay_us: Annotated[
        int,
        Field(ge=0, le=100_000, description="How long the log waits for more screenings before it commits."),
    ] = 0
    log_max_waiting: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="Screenings that may wait for the log before new ones get 503."),
    ] = 4096
    reload_interval_ms: Annotated[
        int, Field(ge=10, le=500, description="How often rule and data files are looked at for changes.")
    ] = 250
    archive_after_days: Annotated[
        int, Field(ge=93, le=36_500, description="Age of the months that `fraudengine log archive` moves to files.")
    ] = 400
    retention_days: Annotated[
        int | None,
        Field(ge=93, le=36_500, description="Age of the months that `fraudengine log purge` deletes; unset: none."),
    ] = None
    development: Annotated[
        bool, Field(description="Make a development card key on first use, with a warning. Not for real cards.")
    ] = False
    log_format: Annotated[
        Literal["text", "json"],
        Field(description="The service's log on standard error: text, or JSON with a line for each screening."),
    ] = "text"
    metrics_merchants: Annotated[
        str, Field(description="Merchants that /metrics tells apart, separated by commas; all others are `other`.")
    ] = ""
    format: Annotated[Literal["text", "json"], Field(description="How commands write their results.")] = "text"

    @property
    def on_failure_outcome(self) -> Outcome:
        return Outcome(self.on_failure)

    @property
    def told_apart(self) -> frozenset[str]:
        return frozenset(name.strip() for name in self.metrics_merchants.split(",") if name.strip())

    @property
    def ip_country_file(self) -> Path:
        return self.ip_country if self.ip_country is not None else self.data / "ip-country.mmdb"

    @property
    def key_file(self) -> Path:
        return self.card_key_file if self.card_key_file is not None else self.state / "card.key"

    @property
    def lists_file(self) -> Path:
        return self.state / "lists.db"

    def load_card_key(self) -> LoadedCardKey:
        """The card key by these settings; raises ConfigurationError when there is none or others may read it."""
        given = {CARD_KEY_VARIABLE: self.card_key.get_secret_value()} if self.card_key is not None else {}
        return load_card_key(given, self.key_file, create_development_key=self.development)

    def require_safe_host(self, *, has_keys: bool) -> None:
        """Raises ConfigurationError for a host that others could reach, in development or before a key is made."""
        if _is_loopback(self.host) or (has_keys and not self.development):
            return
        why = (
            "a development service prints a key to everything: unset it there"
            if self.development
            else "there is no API key yet: make one with `fraudengine keys create NAME --role gateway`"
        )
        raise ConfigurationError(
            f"{environment_name('host')} is `{self.host}`, which other machines could reach, and {why}; "
            "or listen on 127.0.0.1"
        )

    @property
    def tells_in_clear(self) -> bool:
        """Whether card numbers could cross a network unencrypted, unless a proxy in front ends TLS."""
        return not _is_loopback(self.host) and self.ssl_certfile is None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_configuration(**given: object) -> Config:
    """The settings from `given` (command-line options; None means not given) and the environment.

    Raises ConfigurationError naming every option or variable that is wrong; a key's text is never repeated.
    """
    problems = [*_unknown_variables(os.environ)]
    options = {name: value for name, value in given.items() if value is not None}
    try:
        config = Config(**options)  # type: ignore[arg-type]  # checked by the model, as is the environment
    except ValidationError as error:
        problems += [
            f"{_name_in_words(str(details['loc'][0]), options)}: {_in_words(details['msg'])}"
            for details in error.errors(include_url=False, include_input=False)
        ]
    if problems:
        raise ConfigurationError("\n".join(problems))
    return config


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {row.environment for row in SETTINGS}
    return [
        f"{name}: there is no such setting" + (f"; {hint}" if (hint := suggest(name, known)) else "")
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]


def _name_in_words(name: str, options: Mapping[str, object]) -> str:
    return f"--{name.replace('_', '-')}" if name in options else environment_name(name)


def _in_words(message: str) -> str:
    return message.replace("Input should be", "must be").replace("'", "`")


# ---- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table; `default` as a person would write it, empty when there is none."""

    name: str
    environment: str
    default: str
    help: str


def environment_name(name: str) -> str:
    return PREFIX + name.upper()


def _setting(name: str) -> Setting:
    field = Config.model_fields[name]
    default = "data" if name == "data" else field.default
    if default is None:
        default = ""
    elif isinstance(default, bool):
        default = str(int(default))
    return Setting(name, environment_name(name), str(default), field.description or "")


SETTINGS: Final[tuple[Setting, ...]] = tuple(_setting(name) for name in Config.model_fields)


def render_settings() -> str:
    """The table in Markdown, as the documentation holds it."""
    rows = [
        f"| `{row.environment}` | {f'`{row.default}`' if row.default else ''} | {row.help} |" for row in SETTINGS
    ]
    return "\n".join(["| variable | default | what it sets |", "|---|---|---|", *rows]) + "\n"
