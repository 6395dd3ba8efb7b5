"""The parts of a screener put together from the settings: rules, data, card key, log, engine."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .access import AccessKeys
from .audit import AuditLog
from .card_keys import KeyWatch
from .config import Config
from .decision_log import DecisionLog
from .engine import Engine
from .environment import claim_state
from .list_store import ListStore
from .log_damage import set_aside_if_damaged
from .lookups import DataFiles
from .metrics import Metrics
from .rules.library import Library
from .service import Parts, Screener

_log = logging.getLogger(__name__)


def open_data(config: Config) -> DataFiles:
    """The IP and BIN tables by the settings; raises DataFileError with what to do."""
    return DataFiles(config.ip_country_file, config.data / "bins.dat", config.data / "bins.local.csv")


def open_screener(
    config: Config, audit: AuditLog | None = None, progress: Callable[[], None] = lambda: None
) -> Screener:
    """A screener on real files; changes of rules go to `audit`, and `progress` hears that a long start goes on.

    Raises ConfigurationError, RuleFilesRefused, DataFileError, StoreUnavailable.
    """
    environment = claim_state(config)
    data = open_data(config)
    library = Library.load(config.rules)
    loaded = config.load_card_key()
    if loaded.created:
        _log.warning(
            "made a development card key in %s; fingerprints made with it are for trying out only, "
            "never use it with real cards",
            config.key_file,
        )
    if damage := set_aside_if_damaged(config.state / "decisions.db"):
        _log.error("%s: set aside, a new log begins", damage)
    log = DecisionLog.open(
        config.state / "decisions.db",
        max_delay_us=config.log_batch_delay_us,
        max_waiting=config.log_max_waiting,
    )
    try:
        lists = ListStore(config.lists_file)
    except BaseException:
        log.close()
        raise
    watch = KeyWatch(config.key_file, lambda: config.load_card_key().key, loaded.key)
    metrics = Metrics(config.state / "metrics", log.worker, config.told_apart)
    return Screener(
        Parts(
            library,
            data,
            log,
            Engine(on_failure=config.on_failure_outcome),
            loaded.key,
            lists,
            watch,
            audit,
            metrics,
            progress,
        ),
        fall_back_to_platform=config.unknown_merchant == "platform",
        reload_interval_ms=config.reload_interval_ms,
        is_test=environment == "test",
    )


def open_access(config: Config, audit: AuditLog) -> AccessKeys:
    """The API keys of the state directory; changes of keys go to `audit`."""
    return AccessKeys(config.state, claim_state(config), audit)
