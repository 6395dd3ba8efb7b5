"""Every backend that screens answers the conformance cases as they are written down."""

from __future__ import annotations

import pytest

from fraudengine.backends import reference
from fraudengine.backends.online import compile_rule_set
from tests.conformance import Case, read_cases, show_matches

CASES = pytest.mark.parametrize("case", list(read_cases()), ids=lambda case: case.name)


@CASES
def test_reference_answers_as_written(case: Case) -> None:
    for facts, expected in case.transactions:
        assert show_matches(reference.find_matches(case.rule_set, facts, case.lists)) == expected, facts


@CASES
def test_online_answers_as_written(case: Case) -> None:
    compiled = compile_rule_set(case.rule_set)
    for facts, expected in case.transactions:
        assert show_matches(compiled.find_matches(facts, case.lists)) == expected, facts
