"""`fraudengine explain`: why every rule matched or did not, for a payment in a file or a recorded screening."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from ..archive_reading import find_archived
from ..assembly import open_data
from ..cards import CardKey
from ..config import Config
from ..diagnostics import ConfigurationError, InvalidTransaction, RuleFilesRefused, UnknownMerchant, suggest
from ..engine import Engine, ReadyRuleSet
from ..enrich import Enricher
from ..explain import explain_decision
from ..explain_recorded import ExplainedScreening, explain_recorded, transaction_heading
from ..explain_text import explanation_object, explanation_text
from ..log_reader import LogReader
from ..reasons import Language
from ..request import read_transaction
from ..rules.activation import awaited_lists
from ..rules.ast import RuleSet
from ..rules.library import Library
from ..ruletest import read_test_merchant, read_tests, screen_test
from ..ruletest.reading import has_tests, read_one_payment
from ..runtime_lists import RuntimeLists
from ..screening import Screened, screen_transaction
from ..store import parse_screening_id
from .options import Problem, configuration, data_option, format_option, read_input, rules_option, state_option
from .run_time import open_run_time_lists


@click.command()
@click.argument("what", metavar="FILE|SCREENING")
@click.option(
    "--lang", type=click.Choice(["en", "fr"]), default="en", show_default=True, help="Language of the answer."
)
@click.option("--rule", "rule_id", metavar="RULE", help="Explain only this rule.")
@click.option(
    "-k", "name_filter", metavar="TEXT", default="", help="Of a test file, only tests whose name holds this."
)
@rules_option
@state_option
@data_option
@format_option
def explain(
    what: str,
    lang: Language,
    rule_id: str | None,
    name_filter: str,
    rules: Path | None,
    state: Path | None,
    data_directory: Path | None,
    output: str | None,
) -> None:
    """Say for every rule why it matched or did not, condition by condition, with the values it saw.

    SCREENING is the id of a recorded screening (scr_…): it is explained by the rules that were in force then.
    FILE is a payment: the JSON of POST /v1/screenings, or YAML in the words of test files (`merchant`,
    `transaction`), or a test file; `-` reads standard input. It is explained by today's rules; JSON by the run-time
    lists as well, the words of test files by the entries of rule files alone. What came before it is not counted.
    """
    config = configuration(rules=rules, state=state, data=data_directory, format=output)
    screening_id = parse_screening_id(what)
    if screening_id is not None and not Path(what).exists():
        explained = [_explain_recorded(screening_id, what, config, lang)]
    else:
        explained = list(_explain_file(what, config, lang, name_filter))
    if rule_id is not None:
        explained = [_only(one, rule_id) for one in explained]
    if config.format == "json":
        objects = [explanation_object(one) for one in explained]
        click.echo(json.dumps(objects[0] if len(objects) == 1 else objects, indent=2, ensure_ascii=False))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo("\n\n".join(explanation_text(one, width) for one in explained))


def _only(explained: ExplainedScreening, rule_id: str) -> ExplainedScreening:
    rules = tuple(one for one in explained.explanation.rules if one.rule.id == rule_id)
    if not rules:
        hint = suggest(rule_id, [one.rule.id for one in explained.explanation.rules])
        raise Problem(f"there is no rule `{rule_id}`" + (f"; {hint}" if hint else ""), 2)
    return replace(explained, explanation=replace(explained.explanation, rules=rules))


# ---- recorded -------------------------------------------------------------------------------------


def _explain_recorded(screening_id: int, shown: str, config: Config, language: Language) -> ExplainedScreening:
    with LogReader(config.state / "decisions.db") as log:
        found = log.document(screening_id)
        if found is None and (row := find_archived(config.state, screening_id)) is not None:
            found = (row["document"], row["revision"])
        if found is None:
            raise Problem(f"the decision log {log.path} holds no screening {shown}")
        document, revision = found
        texts = log.revision_texts(revision)
    if not texts:
        raise Problem(f"the rules of revision {revision[:12]} were not kept, so {shown} cannot be explained")
    return explain_recorded(document, texts, language)


# ---- from a file ----------------------------------------------------------------------------------


def _explain_file(
    source: str, config: Config, language: Language, name_filter: str
) -> Iterator[ExplainedScreening]:
    if source != "-" and not Path(source).exists():
        raise Problem(f"`{source}` is neither a file nor a screening id (scr_ and 13 letters or digits)", 2)
    text = read_input(source)
    library = Library.load(config.rules)
    engine, enricher = Engine(), Enricher(open_data(config))
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        with open_run_time_lists(config) as run_time:  # open until what it found is told
            yield _explained(_screen_json(text, config, library, engine, enricher, run_time), language)
        return
    for one in _screen_yaml(source, text, library, engine, enricher, name_filter):
        yield _explained(one, language)


def _screen_json(
    text: str,
    config: Config,
    library: Library,
    engine: Engine,
    enricher: Enricher,
    run_time: RuntimeLists | None,
) -> Screened:
    try:
        key = config.load_card_key().key
    except ConfigurationError:
        if '"pan"' in text:
            raise
        key = CardKey(secrets.token_bytes(32))  # no fingerprint is made with it
    try:
        now_us = time.time_ns() // 1000
        transaction, _ = read_transaction(text.encode(), key, now_us)
    except InvalidTransaction as error:
        raise Problem(str(error)) from None
    rule_set = _rule_set(library, transaction.merchant)
    if run_time is None:
        return screen_transaction(engine, enricher, engine.prepare(rule_set), transaction)
    held = run_time.of_merchant(rule_set.name, rule_set.lists)
    filled = frozenset(filter(held.is_filled, awaited_lists(rule_set))) if held is not None else frozenset()
    ready = engine.prepare(rule_set, filled)
    lists = ready.lists_as_of(run_time.instant_for(transaction.at_us, now_us), held, transaction.card, [])
    return screen_transaction(engine, enricher, ready, transaction, lists=lists)


def _screen_yaml(
    source: str, text: str, library: Library, engine: Engine, enricher: Enricher, name_filter: str
) -> list[Screened]:
    merchant = read_test_merchant(source, text)
    ready: ReadyRuleSet = engine.prepare(_rule_set(library, merchant))
    if not has_tests(source, text):
        payment = read_one_payment(source, text, ready.rule_set, time.time_ns() // 1000)
        return [screen_test(payment, ready, engine, enricher)]
    tests = read_tests(source, text, ready.rule_set)
    chosen = [test for test in tests if name_filter.lower() in test.name.lower()]
    if not chosen:
        raise Problem(f"none of {len(tests)} tests has `{name_filter}` in its name", 2)
    return [screen_test(test, ready, engine, enricher) for test in chosen]


def _rule_set(library: Library, merchant: str) -> RuleSet:
    try:
        return library.snapshot.rule_set(merchant)
    except UnknownMerchant as error:
        if error.refused:
            raise RuleFilesRefused(library.diagnostics, library.sources) from None
        hint = suggest(merchant, library.snapshot.merchants)
        raise Problem(f"{error}" + (f"; {hint}" if hint else "")) from None


def _explained(screened: Screened, language: Language) -> ExplainedScreening:
    rule_set, transaction = screened.ready.rule_set, screened.transaction
    heading = transaction_heading(
        language,
        merchant=rule_set.name,
        amount=str(transaction.amount),
        at_us=transaction.at_us,
        transaction_id=transaction.transaction_id,
        timezone=rule_set.timezone,
    )
    explanation = explain_decision(rule_set, screened.decision, screened.facts, screened.lists, language)
    return ExplainedScreening(heading, explanation)


COMMANDS: list[click.Command] = [explain]
