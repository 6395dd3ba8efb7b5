"""The screener: one per process. Rules kept fresh, screenings decided and recorded before they are answered.

It is driven from one thread, the event loop's. A screening sees one snapshot of the rules from start to end,
because nothing between choosing its rule set and queueing its record gives the loop away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import orjson

from .cards import CardKey
from .decision import EarlierScreening, card_identity
from .decision_log import AlreadyRecorded, DecisionLog, EarlierRow, ScreeningRecord, Written
from .diagnostics import BackendFault, UnknownMerchant
from .engine import Engine, ReadyRuleSet
from .enrich import Enricher
from .facts import MerchantId, Transaction
from .lookups import DataFiles
from .rules.ast import RuleSet
from .rules.library import PLATFORM, Library
from .screening import answer, recorded_facts, screen_transaction, transaction_object
from .store import parse_screening_id, screening_id_text

_log = logging.getLogger(__name__)


def utc_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Parts:
    """What a screener is made of; whoever makes them decides where their files are."""

    library: Library
    data: DataFiles
    log: DecisionLog
    engine: Engine
    card_key: CardKey


class Screener:
    """Answers screenings with the rules, data and log of one machine."""

    def __init__(
        self,
        parts: Parts,
        *,
        fall_back_to_platform: bool = False,
        reload_interval_ms: int = 250,
        clock_us: Callable[[], int] = utc_us,
    ) -> None:
        self.card_key = parts.card_key
        self.library = parts.library
        self.log = parts.log
        self.engine = parts.engine
        self.data = parts.data
        self.enricher = Enricher(parts.data)
        self._fall_back = fall_back_to_platform
        self._reload_interval_s = reload_interval_ms / 1000
        self._clock_us = clock_us
        self._ready: dict[str, ReadyRuleSet] = {}
        self._faulty: dict[str, str] = {}
        self._texts: dict[str, tuple[tuple[str, str], ...]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._reported: tuple[str, ...] = ()
        self.take_up_rules()

    # ---- screening ----------------------------------------------------------------------------------

    async def screen(self, transaction: Transaction, request_digest: bytes, received_ns: int) -> bytes:
        """The answer as JSON, once its record is durable. A retried call gets the answer it got before.

        Raises UnknownMerchant, and StoreUnavailable when the record cannot be made.
        """
        rows = self.log.find_transaction(transaction.merchant, transaction.transaction_id)
        if rows:
            same = next((row for row in rows if row.is_same_request(request_digest)), None)
            if same is not None:
                return await self._recorded_answer(same)
        given, record = self._decide(transaction, request_digest, received_ns, rows)
        return self._settled(await self.log.append(record), given)

    def screen_and_wait(self, transaction: Transaction, request_digest: bytes, received_ns: int) -> bytes:
        """The same for callers without an event loop (the command line); blocks until the record is durable."""
        rows = self.log.find_transaction(transaction.merchant, transaction.transaction_id)
        same = next((row for row in rows if row.is_same_request(request_digest)), None)
        if same is not None:
            return _answer_in(self.log.get(same.id) or b"{}")
        given, record = self._decide(transaction, request_digest, received_ns, rows)
        return self._settled(self.log.append_and_wait(record), given)

    def _decide(
        self, transaction: Transaction, request_digest: bytes, received_ns: int, rows: tuple[EarlierRow, ...]
    ) -> tuple[bytes, ScreeningRecord]:
        ready = self._ready_for(transaction.merchant)
        earlier = EarlierScreening(rows[0].card_identity, rows[0].currency, rows[0].minor) if rows else None
        screened = screen_transaction(self.engine, self.enricher, ready, transaction, earlier)
        screening_id = self.log.next_id()
        elapsed_us = (time.perf_counter_ns() - received_ns) // 1000
        given = orjson.dumps(answer(screened, screening_id_text(screening_id), self.data.dates, elapsed_us))
        document = orjson.dumps(
            {
                "transaction": transaction_object(transaction),
                "facts": recorded_facts(screened),
                "rule_set": ready.rule_set.name,
                "answer": orjson.Fragment(given),
            }
        )
        self._remember(ready.rule_set)
        record = ScreeningRecord(
            id=screening_id,
            merchant=transaction.merchant,
            transaction_id=transaction.transaction_id,
            request_digest=request_digest,
            at_us=transaction.at_us,
            answered_us=self._clock_us(),
            card_identity=card_identity(transaction.card),
            currency=transaction.amount.currency,
            minor=transaction.amount.minor,
            outcome=screened.decision.outcome.value,
            code=screened.decision.code,
            revision=ready.rule_set.revision,
            document=document,
        )
        return given, record

    async def _recorded_answer(self, row: EarlierRow) -> bytes:
        """The answer of a call that is recorded, or about to be."""
        if row.pending is not None:
            written = await row.pending.wait()
            if isinstance(written, AlreadyRecorded):
                return _answer_in(written.document)
            return _answer_in(row.pending.record.document)
        return _answer_in(self.log.get(row.id) or b"{}")

    @staticmethod
    def _settled(written: Written, given: bytes) -> bytes:
        return _answer_in(written.document) if isinstance(written, AlreadyRecorded) else given

    def screening(self, id_text: str) -> bytes | None:
        """The recorded document of a screening as JSON, or None when there is none of that id."""
        screening_id = parse_screening_id(id_text)
        return None if screening_id is None else self.log.get(screening_id)

    # ---- rules --------------------------------------------------------------------------------------

    def rule_set(self, merchant: str) -> RuleSet:
        """The effective rule set in force for a merchant; raises UnknownMerchant."""
        return self._ready_for(merchant).rule_set

    def _ready_for(self, merchant: str) -> ReadyRuleSet:
        ready = self._ready.get(merchant)
        if ready is not None and merchant != PLATFORM:
            return ready
        snapshot = self.library.snapshot
        if merchant in snapshot.rule_sets and merchant != PLATFORM and merchant not in self._faulty:
            return self._prepare_late(merchant, snapshot.rule_sets[merchant])
        refused = merchant in snapshot.refused_merchants or merchant in self._faulty
        if self._fall_back and not refused and PLATFORM in self._ready:
            return self._ready[PLATFORM]
        raise UnknownMerchant(merchant, refused=refused)

    def _prepare_late(self, merchant: str, rule_set: RuleSet) -> ReadyRuleSet:
        ready = self._prepare(merchant, rule_set)
        if ready is None:
            raise UnknownMerchant(merchant, refused=True)
        return ready

    def _prepare(self, name: str, rule_set: RuleSet) -> ReadyRuleSet | None:
        """Compiles one rule set and puts it in force; on a fault the one before it stays."""
        try:
            ready = self.engine.prepare(rule_set)
        except BackendFault as fault:
            kept = "the rules from before stay in force" if name in self._ready else "it has no rules in force"
            self._faulty[name] = f"the compiled rules of {name} are refused: {fault}; {kept}"
            return None
        self._faulty.pop(name, None)
        self._ready[name] = ready
        return ready

    def take_up_rules(self) -> None:
        """Puts the library's snapshot in force, all of it between two screenings."""
        rule_sets = self.library.snapshot.rule_sets
        for name in [name for name in self._ready if name not in rule_sets]:
            del self._ready[name]
        for name in [name for name in self._faulty if name not in rule_sets]:
            del self._faulty[name]
        for name, rule_set in rule_sets.items():
            ready = self._ready.get(name)
            if ready is None or ready.rule_set is not rule_set:
                self._prepare(name, rule_set)

    def _remember(self, rule_set: RuleSet) -> None:
        """Has the texts of a revision written with the first screening that it decides."""
        if rule_set.revision in self._texts:
            return
        texts = self.library.texts(rule_set)
        self._texts[rule_set.revision] = texts
        self.log.remember_revision(rule_set.revision, rule_set.name, texts)

    # ---- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._watch = asyncio.create_task(self._keep_fresh(), name="keep-rules-fresh")

    async def stop(self) -> None:
        """Ends the watch; every screening that was accepted is answered before."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await asyncio.to_thread(self.log.close)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._reload_interval_s)
            try:
                if await asyncio.to_thread(self.library.refresh):
                    self.take_up_rules()
                await asyncio.to_thread(self.data.reload_if_changed)
            except Exception:  # noqa: BLE001 - the watch must outlive any one bad file
                _log.exception("looking for changed rule and data files failed; what is in force stays")
            self._report_problems()

    def _report_problems(self) -> None:
        problems = self.problems()
        for problem in problems:
            if problem not in self._reported:
                _log.error("%s", problem)
        for problem in self._reported:
            if problem not in problems:
                _log.warning("mended: %s", problem)
        self._reported = problems

    def problems(self) -> tuple[str, ...]:
        """Everything that is not as it should be, in plain language; empty when all is well."""
        found = [str(refusal) for refusal in self.library.snapshot.refusals]
        if self.library.problem:
            found.append(f"the rule directory {self.library.directory} {self.library.problem}")
        found += self._faulty.values()
        found += self.data.problems
        if self.log.last_problem:
            found.append(f"the decision log: {self.log.last_problem}")
        return tuple(found)

    def ready(self) -> bool:
        """Whether screenings can be answered: there are rules in force and the log takes records."""
        return bool(self._ready) and self.log.healthy

    @property
    def merchants(self) -> tuple[MerchantId, ...]:
        return self.library.snapshot.merchants


def _answer_in(document: bytes) -> bytes:
    return orjson.dumps(orjson.loads(document)["answer"])
