"""What a rule test is, and how one went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ..decision import EarlierScreening, Outcome
from ..diagnostics import Span
from ..facts import FactValue, ThreeDsResult
from ..rules.ast import ListEntry, ListName
from ..screening import Screened
from .past import PastPayments

Given: TypeAlias = dict[str, FactValue | None]  # None: the test says `unknown`

NO_RULE: Final = "none"  # `rule: none` expects that no rule decides


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a test says of the decision; what it leaves out is not compared.

    `reason` is that of the decision; `reasons` are those of every rule that matches, sorted; `matches` their ids.
    """

    outcome: Outcome | None = None
    reason: str | None = None
    rule: str | None = None
    matches: tuple[str, ...] | None = None
    reasons: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RuleTest:
    """One test: the whole transaction as facts, and what must come of it."""

    name: str
    span: Span
    given: Mapping[str, FactValue | None]
    at_us: int
    expect: Expectation
    lists: Mapping[ListName, tuple[ListEntry, ...]] = field(default_factory=dict)
    three_ds: ThreeDsResult | None = None
    earlier: EarlierScreening | None = None
    history: tuple[PastPayments, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that came out otherwise than expected, and the conditions that made it so."""

    message: str
    because: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleTestResult:
    """How one test went: `failures` is empty when it passed; `screened` is what was decided."""

    test: RuleTest
    merchant: str
    failures: tuple[Failure, ...]
    screened: Screened
    elapsed_s: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.failures
