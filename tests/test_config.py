"""Settings: where they come from, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraudengine.config import PREFIX, SETTINGS, Config, read_configuration, render_settings
from fraudengine.diagnostics import ConfigurationError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.environment, raising=False)


def test_defaults_serve_on_loopback_and_never_accept_on_failure() -> None:
    config = read_configuration()
    assert (config.host, config.port, config.workers) == ("127.0.0.1", 8080, 1)
    assert config.on_failure_outcome == "challenge"
    assert config.key_file == Path("var/card.key")
    assert config.ip_country_file.name == "ip-country.mmdb"


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDENGINE_PORT", "9000")
    monkeypatch.setenv("FRAUDENGINE_STATE", "/srv/state")
    config = read_configuration(port=9001, state=None)
    assert config.port == 9001
    assert config.state == Path("/srv/state")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDENGINE_PORT", "")
    assert read_configuration().port == 8080


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "eighty", "FRAUDENGINE_PORT: must be a valid integer"),
        ("PORT", "70000", "FRAUDENGINE_PORT: must be less than or equal to 65535"),
        ("ON_FAILURE", "accept", "FRAUDENGINE_ON_FAILURE: must be `challenge` or `refuse`"),
        ("UNKNOWN_MERCHANT", "guess", "FRAUDENGINE_UNKNOWN_MERCHANT: must be `refuse` or `platform`"),
        ("RELOAD_INTERVAL_MS", "501", "FRAUDENGINE_RELOAD_INTERVAL_MS: must be less than or equal to 500"),
        ("MAX_BODY_BYTES", "0", "FRAUDENGINE_MAX_BODY_BYTES: must be greater than or equal to 1024"),
        ("RULE", "rules", "FRAUDENGINE_RULE: there is no such setting; did you mean `FRAUDENGINE_RULES`?"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(ConfigurationError) as caught:
        read_configuration()
    assert says in str(caught.value)


def test_every_mistake_is_said_at_once_and_an_option_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDENGINE_WORKERS", "none")
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(port=-1)
    assert "--port: " in str(caught.value)
    assert "FRAUDENGINE_WORKERS: " in str(caught.value)


def test_the_card_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDENGINE_CARD_KEY", "5e" * 32)
    config = read_configuration()
    assert "5e5e" not in f"{config!r} {config} {config.model_dump()}"
    assert config.load_card_key().key.id


def test_without_development_no_key_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no card key"):
        read_configuration(state=tmp_path).load_card_key()
    made = read_configuration(state=tmp_path, development=True).load_card_key()
    assert made.created
    assert (tmp_path / "card.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_hosts_are_taken_without_keys(host: str) -> None:
    read_configuration(host=host).require_safe_host(has_keys=False)
    assert not read_configuration(host=host).tells_in_clear


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.4", "screening.example"])
def test_other_hosts_need_a_key_and_no_development_key(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"FRAUDENGINE_HOST.* no API key yet"):
        read_configuration(host=host).require_safe_host(has_keys=False)
    read_configuration(host=host).require_safe_host(has_keys=True)
    assert read_configuration(host=host).tells_in_clear
    with pytest.raises(ConfigurationError, match=r"FRAUDENGINE_HOST.* development"):
        read_configuration(host=host, development=True).require_safe_host(has_keys=True)


def test_every_setting_has_help_and_stands_in_the_table() -> None:
    table = render_settings()
    for setting in SETTINGS:
        assert setting.help.endswith(".")
        assert f"`{setting.environment}`" in table
    assert len(SETTINGS) == len(Config.model_fields)
