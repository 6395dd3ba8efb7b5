"""The `history` of a rule test: what happened before the payment, for velocity counters to count.

    history:
      - {times: 6, every: 1 minute, ending: 1 minute ago, card: fp_…, outcome: refused}
      - {at: 2026-11-23T10:00:00Z, amount: 90 TND, outcome: declined}

Each line is a payment like the test's own, but for the facts that it gives. `times` (1) payments, `every` so often,
the last one `ending` so long ago or at an instant; or one payment `at` an instant. `outcome` (accepted) is one of
accepted, challenged, refused, failed_3ds, declined (accepted, then declined by the bank), technical_failure
(accepted, then reported as an outage). `transaction` names the transaction, which every line otherwise has anew
for each payment; `merchant` another merchant, for counters of scope `all`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ..decision import Outcome
from ..diagnostics import suggest
from ..facts import Facts, FactValue
from ..money import Money
from ..rules import check_values as values
from ..rules.checked import Mistakes, one_of_words, shown
from ..rules.counters import guess_duration, read_duration
from ..rules.yamldoc import Mapping as MappingNode
from ..rules.yamldoc import Node, Scalar, Sequence
from ..screening import Count
from ..velocity import Past, Report, ReportKind, value_of
from ..velocity_index import CounterReader

HISTORY_KEYS: Final = ("times", "every", "ending", "at", "outcome", "transaction", "merchant")
MAX_TIMES: Final = 10_000
_EXAMPLE: Final = "{times: 6, every: 1 minute, ending: 1 minute ago}"
# word -> what was answered, what 3-D Secure said, what the gateway reported afterwards
_ENDS: Final[Mapping[str, tuple[Outcome, str, ReportKind | None]]] = {
    "accepted": (Outcome.ACCEPT, "none", None),
    "challenged": (Outcome.CHALLENGE, "none", None),
    "refused": (Outcome.REFUSE, "none", None),
    "failed_3ds": (Outcome.REFUSE, "failed", None),
    "declined": (Outcome.ACCEPT, "none", ReportKind.DECLINED),
    "technical_failure": (Outcome.ACCEPT, "none", ReportKind.TECHNICAL_FAILURE),
}
OUTCOMES: Final = tuple(_ENDS)

Given = dict[str, FactValue | None]


@dataclass(frozen=True, slots=True)
class PastPayments:
    """One line: equal payments at several instants. `transaction` and `merchant` are empty for the usual ones."""

    given: Mapping[str, FactValue | None]
    at_us: tuple[int, ...]
    ended: str = "accepted"
    transaction: str = ""
    merchant: str = ""


class FactReader(Protocol):
    """What reads the facts of a line; the reader of test files is one."""

    mistakes: Mistakes

    def facts(self, node: MappingNode) -> tuple[Given, int | None]: ...


# ---- reading --------------------------------------------------------------------------------------


def read_history(
    node: Node | None, given: Given, as_of_us: int, timezone: str, reader: FactReader
) -> tuple[PastPayments, ...]:
    """The lines of a test's `history`; mistakes go to the reader's."""
    if node is None:
        return ()
    if not isinstance(node, Sequence):
        reader.mistakes.report("not-a-list", "`history` lists payments", node, f"write `- {_EXAMPLE}`")
        return ()
    read = [_read_line(item, given, as_of_us, timezone, reader) for item in node.items]
    return tuple(line for line in read if line is not None)


def _read_line(node: Node, given: Given, as_of_us: int, timezone: str, reader: FactReader) -> PastPayments | None:
    if not isinstance(node, MappingNode):
        reader.mistakes.report("not-a-mapping", "a payment of the past is a mapping", node, f"write `{_EXAMPLE}`")
        return None
    before = len(reader.mistakes.found)
    own = {key.text: value for key, value in node.items if key.text in HISTORY_KEYS}
    facts, _ = reader.facts(node._replace(items=tuple(pair for pair in node.items if pair[0].text not in own)))
    instants = _Instants(own, node, as_of_us, timezone, reader.mistakes).read()
    ended = _word(own, "outcome", reader.mistakes) or "accepted"
    if ended not in _ENDS:
        hint = suggest(ended[:64], OUTCOMES) or f"it is {one_of_words(OUTCOMES)}"
        reader.mistakes.report("unknown-word", f"unknown word {shown(ended)}", own["outcome"], hint)
    transaction = _word(own, "transaction", reader.mistakes) or ""
    merchant = _word(own, "merchant", reader.mistakes) or ""
    if len(reader.mistakes.found) > before:
        return None
    return PastPayments({**given, **facts}, tuple(instants), ended, transaction, merchant)


def _word(own: Mapping[str, Node], name: str, mistakes: Mistakes) -> str | None:
    node = own.get(name)
    if node is None:
        return None
    if isinstance(node, Scalar) and not node.is_empty:
        return node.text
    mistakes.report("no-text", f"`{name}` has no text", node, f"write `{name}: …`")
    return None


@dataclass(slots=True)
class _Instants:
    """Reads when the payments of a line were made."""

    own: Mapping[str, Node]
    line: MappingNode
    as_of_us: int
    timezone: str
    mistakes: Mistakes

    def read(self) -> list[int]:
        times = self._times()
        if "at" in self.own:
            for name in ("ending", "every", "times"):
                if name in self.own:
                    hint = "write `ending` instead of `at` for several payments"
                    self.mistakes.report("two-times", f"`{name}` cannot stand beside `at`", self.own[name], hint)
            return [self._instant("at")]
        if "ending" not in self.own:
            message = "the payment does not say when it was made"
            self.mistakes.report("missing-key", message, self.line, "write `ending: 1 minute ago`, or `at:`")
            return []
        every = self._duration("every") if "every" in self.own else 0
        if times > 1 and "every" not in self.own:
            hint = "write `every: 1 minute`"
            self.mistakes.report("missing-key", "several payments need `every`", self.line, hint)
        last = self._instant("ending")
        return [last - number * every for number in range(times)]

    def _times(self) -> int:
        text = _word(self.own, "times", self.mistakes) or "1"
        if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= MAX_TIMES:
            return int(text)
        hint = f"write a number from 1 to {MAX_TIMES:,}"
        self.mistakes.report("out-of-range", f"{shown(text)} is no number of times", self.own["times"], hint)
        return 1

    def _duration(self, name: str) -> int:
        text = _word(self.own, name, self.mistakes) or ""
        found = read_duration(text)
        if found is None:
            guess = guess_duration(text)
            hint = f"did you mean `{guess}`?" if guess else "write `30 seconds` or `1 minute`"
            self.mistakes.report("not-a-duration", f"{shown(text)} is no length of time", self.own[name], hint)
        return found or 0

    def _instant(self, name: str) -> int:
        """An instant, or `1 minute ago` counted from the payment; `now` is the payment's own instant."""
        text = _word(self.own, name, self.mistakes) or ""
        if text == "now":
            return self.as_of_us
        ago = read_duration(text.removesuffix(" ago")) if text.endswith(" ago") else None
        if ago is not None:
            return self.as_of_us - ago
        found = values.instant(text, self.timezone)
        if isinstance(found, values.Wrong):
            guess = guess_duration(text.removesuffix(" ago").removesuffix("ago"))
            hint = f"did you mean `{guess} ago`?" if guess else "write `1 minute ago` or `2026-11-23T10:15:00Z`"
            self.mistakes.report("not-a-date", f"{shown(text)} is no instant", self.own[name], hint)
            return self.as_of_us
        return found


# ---- counting -------------------------------------------------------------------------------------


def count_by_law(
    history: tuple[PastPayments, ...],
    subject: tuple[str, str, int, Money],
    facts_of: Callable[[PastPayments], Facts],
) -> Count:
    """Counters by the law over the test's history; `subject` is the payment's merchant, id, instant and amount."""
    merchant, transaction_id, at_us, amount = subject

    def count(reader: CounterReader, facts: Facts) -> Mapping[str, FactValue]:
        past, reports = _events(history, merchant, facts_of)
        payment = Past(len(past) + len(reports) + 1, merchant, transaction_id, at_us, amount, Outcome.ACCEPT, facts)
        found = {
            one.counter.name: value_of(one.counter, payment, past, reports, one.at_most) for one in reader.counters
        }
        return {name: value for name, value in found.items() if value is not None}

    return count


def _events(
    history: tuple[PastPayments, ...], merchant: str, facts_of: Callable[[PastPayments], Facts]
) -> tuple[list[Past], list[Report]]:
    """Every payment of the past in the order of time, then what was reported about them."""
    made = sorted(_payments(history, merchant, facts_of), key=lambda one: one[0].at_us)
    past: list[Past] = []
    reports: list[Report] = []
    for sequence, (one, kind) in enumerate(made, start=1):
        past.append(Past(sequence, one.merchant, one.transaction_id, one.at_us, one.amount, one.outcome, one.facts))
        if kind is not None:
            reports.append(Report(len(made) + len(reports) + 1, one.merchant, one.transaction_id, kind))
    return past, reports


def _payments(
    history: tuple[PastPayments, ...], merchant: str, facts_of: Callable[[PastPayments], Facts]
) -> Iterator[tuple[Past, ReportKind | None]]:
    for place, line in enumerate(history):
        outcome, three_ds, kind = _ENDS[line.ended]
        facts = {**facts_of(line), "three_ds": three_ds}
        amount = facts["amount"]
        assert isinstance(amount, Money)
        for number, at_us in enumerate(line.at_us):
            transaction = line.transaction or f"history {place + 1}.{number + 1}"
            yield Past(0, line.merchant or merchant, transaction, at_us, amount, outcome, facts), kind
