"""Tests that stand beside rule files (`*.test.yaml`), run on every backend.

A test file names its merchant, the transaction that every test starts from, and tests that give differences
and say what is expected. Facts are given by their catalogue names; what is not given is derived as for a real
transaction. `reading` makes tests of the text, `running` decides them, `failures`, `coverage` and `junit` report.
"""

from __future__ import annotations

from .coverage import MerchantCoverage, measure_coverage
from .junit import junit_xml
from .model import Expectation, Failure, RuleTest, RuleTestResult
from .reading import read_test_merchant, read_tests
from .running import BACKENDS, run_test, run_tests, screen_test

__all__ = [
    "BACKENDS",
    "Expectation",
    "Failure",
    "MerchantCoverage",
    "RuleTest",
    "RuleTestResult",
    "junit_xml",
    "measure_coverage",
    "read_test_merchant",
    "read_tests",
    "run_test",
    "run_tests",
    "screen_test",
]
