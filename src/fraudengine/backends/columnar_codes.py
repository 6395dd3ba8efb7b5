"""Words of a history as small numbers: what decisions carry through windows, sort and group by.

Five texts a row made the two windows of a replay of two counters take twice the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import ibis

from .columnar import Expr
from .columnar_decision import OUTCOMES, settling

CODED: Final = ("currency_no", "label_no", "recorded_no", "settling")
"""The columns that `Codes.add` makes."""
UNRECORDED: Final = 3  # the champion's outcome where the history does not say what was answered


@dataclass(frozen=True, slots=True)
class Codes:
    """The currencies and labels of a history; a row carries the place of its own, which sorts and groups faster.

    Those of most transactions come first. A transaction without a label has the label `none`.
    """

    currencies: tuple[str, ...]
    labels: tuple[str, ...]

    def add(self, facts: Expr) -> Expr:
        """The facts with what decisions need of a row as small numbers."""
        label = facts["label"].fill_null("none")
        answers = [(facts["recorded_outcome"] == outcome.value, place) for place, outcome in enumerate(OUTCOMES)]
        return facts.mutate(
            currency_no=_place(facts["currency"], self.currencies),
            label_no=_place(label, self.labels),
            recorded_no=ibis.cases(*answers, else_=UNRECORDED).cast("int8"),
            settling=settling(facts["three_ds"], facts["channel"]),
        )

    def currency_of(self, number: Expr) -> Expr:
        branches = [(number == place, code) for place, code in enumerate(self.currencies)]
        return ibis.cases(*branches, else_=ibis.null("string")) if branches else ibis.null("string")


def _place(value: Expr, words: Sequence[str]) -> Expr:
    branches = [(value == word, ibis.literal(place, "int16")) for place, word in enumerate(words)]
    return ibis.cases(*branches, else_=ibis.literal(-1, "int16")) if branches else ibis.literal(-1, "int16")
