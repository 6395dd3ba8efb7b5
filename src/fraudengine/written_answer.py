"""The answer of a screening and its record as JSON bytes, written from parts that are ready.

What they hold is said once, by the functions of `screening`; here the same bytes come together from pieces that are
made once for each rule set, rule or set of values, because building and writing two dozen dictionaries was a third
of the payment path. A piece that depends on an instant (which list entry holds a value) is never kept.
`tests/test_written_answer.py` compares both, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, TypeVar

import orjson

from . import reasons
from .decision import Decision, Match, Outcome
from .explain import show
from .explain_words import Test, short_test
from .facts import CATALOGUE, FactName, FactType, FactValue
from .rules.ast import (
    Compare,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    MoneyFigures,
    Not,
    OneOf,
    StartsWith,
    facts_read,
    walk,
)
from .screening import Screened, is_blacklisted, match_object, recorded_lists, recorded_names, transaction_object

MAX_MATCHES: Final = 2_048
MAX_KEPT: Final = 64  # for each rule: thousands of merchants have writers
_FEW_VALUES: Final = frozenset(
    {FactType.COUNTRY, FactType.CURRENCY, FactType.WORD, FactType.BOOLEAN, FactType.INTEGER}
)
_Key = TypeVar("_Key")
_Write = Callable[[Match, Screened], bytes]
_OWN_CLASSES: Final = orjson.OPT_PASSTHROUGH_DATACLASS


class AnswerWriter:
    """Writes the answers and records of one rule set, for data files of one date.

    `needed` are the facts that records hold beyond those that the rules read.
    """

    def __init__(self, screened: Screened, data_versions: Mapping[str, str], needed: frozenset[str]) -> None:
        ready = screened.ready
        self.ready, self.data_versions, self.needed = ready, data_versions, needed
        rule_set = ready.rule_set
        self._wanted = recorded_names(rule_set.reads, needed)
        self._after_indicators = b',"revision":%b,"data":%b,"elapsed_us":' % (
            orjson.dumps(rule_set.revision),
            orjson.dumps(dict(data_versions)),
        )
        self._after_facts = b',"rule_set":%b,"lists":' % orjson.dumps(rule_set.name)
        filled = [str(name) for name in sorted(ready.filled)]
        self._after_change = b',"filled":%b}' % orjson.dumps(filled) if filled else b"}"
        self._matches: dict[int, tuple[Match, _Write]] = {}

    def is_for(self, screened: Screened, data_versions: Mapping[str, str], needed: frozenset[str]) -> bool:
        return (
            screened.ready is self.ready
            and needed is self.needed
            and (data_versions is self.data_versions or data_versions == self.data_versions)
        )

    def answer(self, screened: Screened, screening_id: str, elapsed_us: int) -> bytes:
        """The bytes of `screening.answer`."""
        decision, facts = screened.decision, screened.facts
        rule = decision.rule
        matches = [self._write_match(match, screened) for match in decision.matches]
        return b'{"screening_id":"%b",%b,"matches":[%b],"indicators":%b%b%d%b}' % (
            screening_id.encode(),
            _head(decision.outcome, decision.code, rule and (rule.id, rule.description)),
            b",".join(matches),
            _indicators(
                facts.get("card_country"), facts.get("ip_country"), is_blacklisted(screened), facts["three_ds"]
            ),
            self._after_indicators,
            elapsed_us,
            _challenge(decision),
        )

    def document(self, screened: Screened, change: int, answer: bytes) -> bytes:
        """What is recorded: transaction, facts, lists and answer."""
        wanted, lists = self._wanted, screened.lists
        facts = {name: value for name, value in screened.facts.items() if name in wanted}
        written = orjson.dumps(
            {"transaction": transaction_object(screened.transaction), "facts": facts}, str, _OWN_CLASSES
        )
        if lists.hits:
            read = orjson.dumps(recorded_lists(screened, change))
        else:
            read = b'{"as_of_us":%d,"change":%d%b' % (lists.as_of_us, change, self._after_change)
        return b'%b%b%b,"answer":%b}' % (written[:-1], self._after_facts, read, answer)

    # ---- matches ------------------------------------------------------------------------------------

    def _write_match(self, match: Match, screened: Screened) -> bytes:
        held = self._matches.get(id(match))  # the match is held beside it, so nothing else can have its id
        if held is None:
            if len(self._matches) >= MAX_MATCHES:  # the reference backend makes matches anew
                self._matches.clear()
            held = self._matches[id(match)] = match, self._writer_of(match)
        return held[1](match, screened)

    def _writer_of(self, match: Match) -> _Write:
        when = match.rule.when
        counters = self.ready.counters
        counted = {one.counter.name for one in counters.counters} if counters is not None else set()
        parts = tuple(walk(when))
        if counted & facts_read(when):
            return _write_anew
        if isinstance(when, Compare | OneOf | StartsWith | InNetworks | IsUnknown):
            return _OneTest(match, when)
        if isinstance(when, InList):
            return _OneList(when)
        if isinstance(when, Not) and isinstance(when.condition, InList) and _has_few_values(when.condition.fact):
            return _SeveralTests(match)  # it matched, so no entry holds the value: there is none to tell
        if any(isinstance(part, InList) for part in parts) or not all(map(_has_few_values, facts_read(when))):
            return _write_anew
        return _SeveralTests(match)


def _write_anew(match: Match, screened: Screened) -> bytes:
    return orjson.dumps(match_object(match, screened))


def _has_few_values(fact: FactName) -> bool:
    spec = CATALOGUE.get(fact)
    return spec is not None and spec.type in _FEW_VALUES


class _OneTest:
    """A rule of one test: only the value of its fact, and seldom the words of the test, differ."""

    __slots__ = ("_before_value", "_fact", "_other", "_test", "_words")

    def __init__(self, match: Match, test: Test) -> None:
        rule = match.rule
        empty = orjson.dumps(
            {
                "rule": rule.id,
                "outcome": match.outcome.value,
                "code": rule.reason,
                "mode": rule.mode.value,
                "because": [{"fact": test.fact}],
            }
        )
        self._before_value = empty[: -len(b"}]}")] + b',"value":'
        self._fact, self._test = test.fact, test
        self._words: dict[FactValue | None, bytes] = {}
        self._other: str | None = None  # the fact on which the test's words depend
        match test:
            case Compare(operand=MoneyFigures()):
                self._other = "currency"
            case Compare(operand=FactRef(fact=fact)):
                self._other = fact
            case _:
                pass

    def __call__(self, match: Match, screened: Screened) -> bytes:
        facts = screened.facts
        key = facts.get(self._other) if self._other is not None else None
        words = self._words.get(key)
        if words is None:
            words = _keep(self._words, key, b',"test":%b}]}' % orjson.dumps(short_test(self._test, facts, None)))
        return b"%b%b%b" % (self._before_value, orjson.dumps(show(facts.get(self._fact))), words)


class _OneList:
    """A rule of one list: by value and by the entry that holds it now, when that stands in a rule file."""

    __slots__ = ("_known", "_test")

    def __init__(self, test: InList) -> None:
        self._test = test
        self._known: dict[tuple[FactValue, int], tuple[object, bytes]] = {}

    def __call__(self, match: Match, screened: Screened) -> bytes:
        value = screened.facts.get(self._test.fact)
        entry = screened.lists.find(self._test.list_name, value) if value is not None else None
        if entry is None or entry.id is not None or value is None:
            return _write_anew(match, screened)
        key = value, id(entry)
        held = self._known.get(key)
        if held is None:
            held = _keep(self._known, key, (entry, _write_anew(match, screened)))
        return held[1]


class _SeveralTests:
    """A rule whose tests find no entry of a list, and read facts of few values: by those values."""

    __slots__ = ("_known", "_reads")

    def __init__(self, match: Match) -> None:
        self._reads = (*sorted(facts_read(match.rule.when)), "currency")
        self._known: dict[tuple[FactValue | None, ...], bytes] = {}

    def __call__(self, match: Match, screened: Screened) -> bytes:
        get = screened.facts.get
        key = tuple([get(name) for name in self._reads])
        return self._known.get(key) or _keep(self._known, key, _write_anew(match, screened))


_Kept = TypeVar("_Kept")


def _keep(known: dict[_Key, _Kept], key: _Key, made: _Kept) -> _Kept:
    if len(known) >= MAX_KEPT:
        known.clear()
    known[key] = made
    return made


# ---- what answers have in common ------------------------------------------------------------------


@lru_cache(maxsize=4_096)
def _head(outcome: Outcome, code: str, rule: tuple[str, str] | None) -> bytes:
    rule_id, description = rule or (None, "")
    reason = {"code": code, "rule": rule_id, "message": reasons.sentence(code, fallback=description)}
    return b'"decision":%b,"reason":%b' % (orjson.dumps(outcome.value), orjson.dumps(reason))


@lru_cache(maxsize=8_192)
def _indicators(
    card_country: FactValue | None, ip_country: FactValue | None, listed: bool, three_ds: FactValue
) -> bytes:
    return orjson.dumps(
        {
            "card_country": card_country,
            "ip_country": ip_country,
            "card_blacklisted": listed,
            "three_ds": three_ds,
        }
    )


def _challenge(decision: Decision) -> bytes:
    if decision.outcome is not Outcome.CHALLENGE:
        return b""
    return b',"three_ds":{"challenge_indicator":%b}' % orjson.dumps(decision.challenge_indicator)
