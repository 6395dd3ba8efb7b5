"""Test results as JUnit XML, in the elements and attributes that every CI server reads.

The form is that of Jenkins' `junit-10.xsd`, which allows nothing else; where the test stands is therefore told in
the failure's text and in `classname`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Final
from xml.etree import ElementTree

from .model import RuleTestResult

# What XML 1.0 cannot hold, escaped or not.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(results: Iterable[tuple[str, RuleTestResult]], refused: Iterable[tuple[str, str]] = ()) -> str:
    """The document; `results` are (file, result), those of one file together: a file is a suite.

    `refused` are files that hold no readable tests, with what is wrong: a suite of one error each.
    """
    top = ElementTree.Element("testsuites", name="fraudengine test")
    tests = failures = errors = 0
    seconds = 0.0
    for file, group in groupby(results, key=lambda pair: pair[0]):
        ran = [result for _, result in group]
        failed = sum(not result.passed for result in ran)
        took = sum(result.elapsed_s for result in ran)
        suite = _add_suite(top, file, len(ran), failures=failed, seconds=took)
        for result in ran:
            _add_case(suite, file, result)
        tests, failures, seconds = tests + len(ran), failures + failed, seconds + took
    for file, problem in refused:
        suite = _add_suite(top, file, 1, errors=1)
        case = ElementTree.SubElement(suite, "testcase", name="the file can be read", classname=_clean(file))
        error = ElementTree.SubElement(case, "error", message="the test file is refused", type="refused")
        error.text = _clean(problem)
        tests, errors = tests + 1, errors + 1
    for name, value in (("tests", tests), ("failures", failures), ("errors", errors), ("time", f"{seconds:.6f}")):
        top.set(name, str(value))
    ElementTree.indent(top)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(top, encoding="unicode") + "\n"


def _add_suite(
    top: ElementTree.Element, file: str, tests: int, *, failures: int = 0, errors: int = 0, seconds: float = 0.0
) -> ElementTree.Element:
    return ElementTree.SubElement(
        top,
        "testsuite",
        name=_clean(file),
        tests=str(tests),
        failures=str(failures),
        errors=str(errors),
        skipped="0",
        time=f"{seconds:.6f}",
    )


def _add_case(suite: ElementTree.Element, file: str, result: RuleTestResult) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=_clean(result.test.name),
        classname=_clean(result.merchant),
        time=f"{result.elapsed_s:.6f}",
    )
    if result.passed:
        return
    messages = "; ".join(failure.message for failure in result.failures)
    failure = ElementTree.SubElement(case, "failure", message=_clean(messages), type="expectation")
    lines = [f"{file}:{result.test.span.line}"]
    for one in result.failures:
        lines += [one.message, *(f"  {line}" for line in one.because)]
    failure.text = _clean("\n".join(lines))


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
