"""The screener: one per process. Rules kept fresh, screenings decided and recorded before they are answered.

It is driven from one thread, the event loop's. A screening sees one snapshot of the rules from start to end,
because nothing between choosing its rule set and queueing its record gives the loop away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import orjson

from .audit import AuditLog
from .batch_writer import Settled
from .calls import MOST_ATTEMPTS, OVERTAKEN_TOO_OFTEN, Again, Asked, UnderWay, answer_in, tell_or_begin_again
from .card_keys import KeyWatch, entries_not_found
from .cards import CardKey
from .counting import Counting
from .decision import EarlierScreening, card_identity, conflicts
from .decision_log import AlreadyRecorded, DecisionLog, EarlierRow, ScreeningRecord, Written
from .diagnostics import ConflictingTransaction, Overtaken, StoreUnavailable
from .engine import Engine, ReadyRuleSet
from .enrich import Enricher
from .facts import MerchantId, Transaction
from .list_admin import ListAdmin
from .list_reading import ListReader
from .list_store import ListStore
from .list_upkeep import ListUpkeep
from .lists import ListsAsOf
from .log_damage import logs_set_aside
from .lookups import DataFiles
from .metrics import Counts, Metrics
from .observation import Gauges, Observation
from .published_cards import PublishedCards
from .ready_rules import ReadyRules
from .rules.ast import RuleSet
from .rules.library import Library
from .runtime_lists import RuntimeLists
from .screening import Screened, screen_transaction
from .store import parse_screening_id, screening_id_text
from .written_answer import AnswerWriter

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
    lists: ListStore | None = None  # None: rule files only
    key_watch: KeyWatch | None = None
    audit: AuditLog | None = None  # None: nobody is told of changed rules
    metrics: Metrics | None = None  # None: kept beside the log, no merchant told apart
    progress: Callable[[], None] = lambda: None  # hears that a long start goes on


UPKEEP_SECONDS: Final = 2.0
PERSIST_SECONDS: Final = 1.0
LOOKS_PER_INTERVAL: Final = 5
MAX_WRITERS: Final = 8_192  # merchants whose pieces of answers are kept


class Screener:
    """Answers screenings with the rules, data and log of one machine."""

    def __init__(
        self,
        parts: Parts,
        *,
        fall_back_to_platform: bool = False,
        reload_interval_ms: int = 250,
        is_test: bool = False,
        clock_us: Callable[[], int] = utc_us,
    ) -> None:
        self.card_key = parts.card_key
        self._published_cards = PublishedCards(parts.card_key) if is_test else None
        self.library = parts.library
        self.log = parts.log
        self.engine = parts.engine
        self.data = parts.data
        self.enricher = Enricher(parts.data)
        self.list_store = parts.lists
        self.run_time_lists, self._upkeep = None, None
        if parts.lists is not None:
            self.run_time_lists = RuntimeLists(parts.lists.path, parts.lists.generation)
            self._upkeep = ListUpkeep(parts.lists)
        self.counting = Counting(parts.log, for_everybody=fall_back_to_platform)
        self.counting.adopt(parts.library.snapshot.rule_sets)
        self.counting.catch_up(parts.progress)
        self.rules = ReadyRules(
            parts.library,
            parts.engine,
            fall_back_to_platform=fall_back_to_platform,
            run_time=self.run_time_lists,
            counting=self.counting,
        )
        self._key_watch = parts.key_watch
        self._looked_for: CardKey | None = None  # the key with which the entries of lists were compared last
        self._looked_at = 0  # the generation of the lists then
        self._lost_entries = ""
        self.list_admin = None
        if parts.lists is not None:
            self.list_admin = ListAdmin(
                parts.lists,
                lambda: self.library.snapshot.rule_sets,
                lambda: self.card_key,
                fall_back_to_platform=fall_back_to_platform,
            )
        self._audit = parts.audit
        metrics = parts.metrics or Metrics(parts.log.path.parent / "metrics", parts.log.worker)
        lists_file = parts.lists.path if parts.lists is not None else None
        self.observation = Observation(
            metrics, parts.log, parts.engine, parts.data, parts.library, lists_file, self._health
        )
        self._metrics = metrics
        self._persist_at = 0.0
        self._upkeep_at = 0.0
        self._reload_interval_s = reload_interval_ms / 1000
        self._clock_us = clock_us
        self._remembered: set[str] = set()
        self._writers: dict[str, AnswerWriter] = {}
        self._logs_set_aside = logs_set_aside(parts.log.path)
        self._tasks: list[asyncio.Task[None]] = []
        self._reported: tuple[str, ...] = ()

    # ---- screening ----------------------------------------------------------------------------------

    def begin(self, asked: Sequence[Asked]) -> None:
        """Decides on all of these calls, and tells each its answer as JSON once its record is durable.

        They are what one round of the event loop received: the log is asked once for all of them. A retried call
        gets the answer it got before. When another process records a call of the transaction meanwhile, it is
        decided again, knowing of that one. UnknownMerchant, ConflictingTransaction and StoreUnavailable are told.
        """
        keys = [(one.transaction.merchant, one.transaction.transaction_id) for one in asked]
        try:
            self.counting.begin_round()
            found = self.log.find_transactions(keys)
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            for one in asked:
                one.tell(error)
            return
        begun: set[tuple[str, str]] = set()
        for one, key in zip(asked, keys, strict=True):
            try:
                # A call that stands here twice: what became of the first is not in `found`.
                rows = self.log.find_transaction(*key) if key in begun else found.get(key, ())
                begun.add(key)
                self._begin(one, rows)
            except Exception as error:  # noqa: BLE001 - as above; the others go on
                one.tell(error)

    def _begin(self, asked: Asked, rows: tuple[EarlierRow, ...]) -> None:
        read_ns = time.perf_counter_ns()
        transaction, request_digest, received_ns = asked.transaction, asked.digest, asked.received_ns
        if rows:
            same = next((row for row in rows if row.is_same_request(request_digest)), None)
            if same is not None:
                self._metrics.count("retries")
                self._answer_again(same, asked)
                return
            try:
                self._refuse_conflict(transaction, rows)
            except ConflictingTransaction:
                if rows[0].pending is None:
                    raise
                # What it conflicts with is not recorded yet, and may be overtaken itself.
                again = Again(asked)
                rows[0].pending.then(asyncio.get_running_loop(), lambda _: self.begin((again,)))
                return
        given, record = self._decide(transaction, request_digest, received_ns, rows)
        decided_ns = time.perf_counter_ns()
        under_way = UnderWay(self._metrics, record, given, read_ns, decided_ns, asked, self.begin)
        self.log.append_then(record, under_way.settled)

    def screen_and_wait(self, transaction: Transaction, request_digest: bytes, received_ns: int) -> bytes:
        """The same for callers without an event loop (the command line); blocks until the record is durable."""
        for _ in range(MOST_ATTEMPTS):
            with suppress(Overtaken):
                return self._screen_and_wait(transaction, request_digest, received_ns)
        raise StoreUnavailable(OVERTAKEN_TOO_OFTEN)

    def _screen_and_wait(self, transaction: Transaction, request_digest: bytes, received_ns: int) -> bytes:
        self.counting.begin_round()
        rows = self.log.find_transaction(transaction.merchant, transaction.transaction_id)
        same = next((row for row in rows if row.is_same_request(request_digest)), None)
        if same is not None:
            if same.pending is not None:  # of another thread
                own = same.pending.record.document
                return self._settled(same.pending.wait_in_thread(), answer_in(own))
            return answer_in(self.log.recorded.get(same.id) or b"{}")
        self._refuse_conflict(transaction, rows)
        given, record = self._decide(transaction, request_digest, received_ns, rows)
        return self._settled(self.log.append_and_wait(record), given)

    @staticmethod
    def _refuse_conflict(transaction: Transaction, rows: tuple[EarlierRow, ...]) -> None:
        """Raises ConflictingTransaction for another payment under a used id, unless it has a 3-D Secure result."""
        if rows and transaction.three_ds is None:
            first = EarlierScreening(rows[0].card_identity, rows[0].currency, rows[0].minor)
            if differences := conflicts(transaction, first):
                raise ConflictingTransaction(differences)

    def _decide(
        self, transaction: Transaction, request_digest: bytes, received_ns: int, rows: tuple[EarlierRow, ...]
    ) -> tuple[bytes, ScreeningRecord]:
        if self.run_time_lists is not None:
            self.run_time_lists.refresh()
        ready = self.rules.ready_for(transaction.merchant)
        earlier = EarlierScreening(rows[0].card_identity, rows[0].currency, rows[0].minor) if rows else None
        lists = self._lists_for(transaction, ready)
        count = None
        if ready.counters is not None:
            count = self.counting.counts_of(transaction, [row.id for row in rows])
        screened = screen_transaction(
            self.engine, self.enricher, ready, transaction, earlier, lists=lists, count=count
        )
        if self._published_cards is not None:
            if self._published_cards.key is not self.card_key:
                self._published_cards = PublishedCards(self.card_key)
            screened = self._published_cards.answer(screened)
        self._note_matches(transaction, lists)
        screening_id = self.log.next_id(rows[-1].id if rows else 0)
        elapsed_us = (time.perf_counter_ns() - received_ns) // 1000
        writer = self._writer_for(screened)
        given = writer.answer(screened, screening_id_text(screening_id), elapsed_us)
        change = self.run_time_lists.change if self.run_time_lists is not None else 0
        document = writer.document(screened, change, given)
        self._remember(ready.rule_set)
        row_kept, generation = self.counting.row_for(screened)
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
            velocity=row_kept,
            velocity_generation=generation,
            after=tuple([row.id for row in rows]) if rows else (),
            presumed=tuple([row.id for row in rows if row.pending is not None]) if rows else (),
        )
        return given, record

    def _writer_for(self, screened: Screened) -> AnswerWriter:
        merchant, dates = screened.transaction.merchant, self.data.dates
        needed = self.counting.needs(merchant)
        writer = self._writers.get(merchant)
        if writer is None or not writer.is_for(screened, dates, needed):
            if len(self._writers) >= MAX_WRITERS:
                self._writers.clear()
            writer = self._writers[merchant] = AnswerWriter(screened, dates, needed)
        return writer

    def _lists_for(self, transaction: Transaction, ready: ReadyRuleSet) -> ListsAsOf:
        """The lists for a payment. The record says as of when, so that a replay reads the same."""
        as_of_us = transaction.at_us
        run_time = None
        if self.run_time_lists is not None:
            run_time = self.run_time_lists.of_merchant(transaction.merchant, ready.rule_set.lists)
            as_of_us = self.run_time_lists.instant_for(as_of_us, self._clock_us())
        return ready.lists_as_of(as_of_us, run_time, transaction.card, [])

    def _note_matches(self, transaction: Transaction, lists: ListsAsOf) -> None:
        if self._upkeep is not None and lists.hits:
            card = transaction.card
            fingerprint = card.fingerprint if card is not None else None
            self._upkeep.note(transaction.merchant, lists.hits, transaction.at_us, fingerprint)

    def _answer_again(self, row: EarlierRow, asked: Asked) -> None:
        """Tells the answer of a call that is recorded, or once it is."""
        pending = row.pending
        if pending is None:
            asked.tell(answer_in(self.log.recorded.get(row.id) or b"{}"))
            return
        own = pending.record.document

        def written(outcome: Settled) -> None:
            if isinstance(outcome, Exception):
                tell_or_begin_again(asked, outcome, self.begin)
            else:
                asked.tell(answer_in(outcome.document if isinstance(outcome, AlreadyRecorded) else own))

        pending.then(asyncio.get_running_loop(), written)

    @staticmethod
    def _settled(written: Written, given: bytes) -> bytes:
        return answer_in(written.document) if isinstance(written, AlreadyRecorded) else given

    def screening(self, id_text: str) -> bytes | None:
        """The recorded document of a screening as JSON, or None when there is none of that id."""
        screening_id = parse_screening_id(id_text)
        return None if screening_id is None else self.log.recorded.get(screening_id)

    def merchant_of(self, id_text: str) -> str | None:
        """The merchant of a recorded screening, or None when there is none of that id."""
        document = self.screening(id_text)
        return None if document is None else str(orjson.loads(document)["transaction"]["merchant"])

    def rule_texts(self, revision: str) -> list[tuple[str, str]]:
        """Path and text of every rule file of a revision that decided screenings; empty when not kept."""
        return self.log.read_revision(revision)

    # ---- what is seen -------------------------------------------------------------------------------

    def _health(self) -> tuple[bool, int]:
        return self.ready(), len(self.problems())

    def counted(self) -> Counts:
        return self.observation.counted()

    def gauges(self) -> Gauges:
        return self.observation.gauges()

    def count(self, name: str) -> None:
        """Counts one event by its name in `api.metrics_page.COUNTERS`."""
        self._metrics.count(name)

    # ---- rules --------------------------------------------------------------------------------------

    def rule_set(self, merchant: str) -> RuleSet:
        """The effective rule set in force for a merchant; raises UnknownMerchant."""
        return self.rules.ready_for(merchant).rule_set

    def _remember(self, rule_set: RuleSet) -> None:
        """Has the texts of a revision written with the first screening that it decides."""
        if rule_set.revision not in self._remembered:
            self._remembered.add(rule_set.revision)
            self.log.remember_revision(rule_set.revision, rule_set.name, self.library.texts(rule_set))

    # ---- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        await asyncio.to_thread(self._tell_of_changed_rules)
        await asyncio.to_thread(self._look_for_lost_entries)
        self._tasks = [
            asyncio.create_task(self._keep_fresh(), name="keep-rules-fresh"),
            asyncio.create_task(self._warm_up(), name="warm-up-rules"),
        ]

    async def stop(self) -> None:
        """Ends the watch; every screening that was accepted is answered before."""
        self.counting.stop()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Writes what waits and lets go of the files; blocks until that is done."""
        self.observation.persist()
        self.log.close()
        if self.run_time_lists is not None:
            self.run_time_lists.close()
        if self.list_store is not None:
            try:
                if self._upkeep is not None:
                    self._upkeep.write()
            except StoreUnavailable as error:
                _log.error("when list entries last matched could not be written: %s", error)
            self.list_store.close()

    async def _keep_fresh(self) -> None:
        while True:
            try:
                if await self._rules_may_have_changed() and await asyncio.to_thread(self.library.refresh):
                    await asyncio.to_thread(self.counting.adopt, self.library.snapshot.rule_sets)
                    self.rules.take_up()
                    await asyncio.to_thread(self._tell_of_changed_rules)
                if await asyncio.to_thread(self.counting.catch_up):
                    self.rules.take_up()
                await asyncio.to_thread(self.data.reload_if_changed)
                if self._key_watch is not None:
                    self.card_key = await asyncio.to_thread(self._key_watch.current)
                if self._looked_for is not self.card_key or (self._lost_entries and self._lists_changed()):
                    await asyncio.to_thread(self._look_for_lost_entries)
                await self._look_after_lists()
                if time.monotonic() >= self._persist_at:
                    self._persist_at = time.monotonic() + PERSIST_SECONDS
                    await asyncio.to_thread(self.observation.persist)
            except Exception:  # noqa: BLE001 - the watch must outlive any one bad file; what is in force stays
                _log.exception("looking for changed rule and data files failed")
            self._report_problems()

    async def _rules_may_have_changed(self) -> bool:
        """Waits for a reload interval at most; meanwhile looks at a share of the rule files at a time."""
        for _ in range(LOOKS_PER_INTERVAL):
            await asyncio.sleep(self._reload_interval_s / LOOKS_PER_INTERVAL)
            if self.library.may_have_changed():
                return True
        return False

    def _tell_of_changed_rules(self) -> None:
        """Has the audit log tell which rule files are not what they were, and who owns them."""
        if self._audit is None:
            return
        try:
            self._audit.record_rule_files(self.library.files_in_force())
        except StoreUnavailable as error:
            _log.error("changed rule files could not be told of in the audit log: %s", error)

    async def _look_after_lists(self) -> None:
        if self.run_time_lists is None or self.list_store is None:
            return
        self.run_time_lists.look_after()
        if self._upkeep is not None and self._upkeep.waits and time.monotonic() >= self._upkeep_at:
            self._upkeep_at = time.monotonic() + UPKEEP_SECONDS
            await asyncio.to_thread(self._upkeep.write)
        await asyncio.to_thread(self.list_store.checkpoint_if_due)

    def _lists_changed(self) -> bool:
        return self.list_store is not None and self.list_store.generation.cell[0] != self._looked_at

    def _look_for_lost_entries(self) -> None:
        """Compares the keys of listed cards with those that are live; waits for the disk."""
        key = self.card_key
        if self.list_store is not None:
            self._looked_at = self.list_store.generation.cell[0]
            try:
                with ListReader(self.list_store.path) as reader:
                    self._lost_entries = entries_not_found(reader.entries_by_key(self.list_store.clock_us()), key)
            except StoreUnavailable:
                return  # it looks again soon
        self._looked_for = key

    async def _warm_up(self) -> None:
        """Prepares the rule sets that wait, one between screenings, at a quarter of the processor at most."""
        while True:
            started = time.perf_counter()
            waited = self.rules.warm_up()
            await asyncio.sleep(3 * (time.perf_counter() - started) if waited else self._reload_interval_s)

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
        found = [*self.rules.problems()]
        found += self.data.problems
        if self._key_watch is not None and self._key_watch.problem:
            found.append(self._key_watch.problem)
        if self._lost_entries:
            found.append(self._lost_entries)
        if self.log.last_problem:
            found.append(f"the decision log: {self.log.last_problem}")
        found += self._logs_set_aside
        return tuple(found)

    def ready(self) -> bool:
        """Whether screenings can be answered: there are rules in force and the log takes records."""
        return bool(self.rules) and self.log.healthy

    @property
    def merchants(self) -> tuple[MerchantId, ...]:
        return self.library.snapshot.merchants
