"""`fraudengine outcomes import`: what became of payments, many at once, from a CSV or the gateway's own answers."""

from __future__ import annotations

from pathlib import Path

import click

from ..decision_log import DecisionLog
from ..environment import claim_state
from ..list_store import utc_us
from ..outcomes import InvalidOutcome, Line, Paid, check_lines, read_csv, read_order_statuses
from ..store import parse_screening_id
from .options import Problem, configuration, read_input, state_option

SHOWN = 20


@click.group()
def outcomes() -> None:
    """What became of payments: the labels of replay."""


@outcomes.command("import")
@click.argument("source", metavar="FILE|-")
@click.option("--merchant", default="", metavar="NAME", help="Whose payments, where the file does not say.")
@click.option(
    "--from",
    "form",
    type=click.Choice(["csv", "gateway"]),
    help="A CSV, or the gateway's getOrderStatusExtended answers (default: by what the file looks like).",
)
@state_option
def import_outcomes(source: str, merchant: str, form: str | None, state: Path | None) -> None:
    """Take in outcomes from FILE, all or nothing: when any line is wrong, nothing is taken and each is named.

    \b
    CSV columns: outcome, and screening_id or transaction_id (and merchant);
                 code, amount, reference, at.
    Gateway:     JSON of order statuses, an array or one a line;
                 orderNumber is the transaction id.

    The same file again changes nothing.
    """
    config = configuration(state=state)
    text = read_input(source)
    is_json = form == "gateway" or (form is None and text.lstrip()[:1] in ("{", "["))
    claim_state(config)
    try:
        lines, undecided = read_order_statuses(text, merchant) if is_json else (list(read_csv(text, merchant)), 0)
    except InvalidOutcome as error:
        raise Problem(f"{error.field}: {error.problem}") from None
    if not (config.state / "decisions.db").exists():
        raise Problem(f"there is no decision log in {config.state}: name the service's directory with --state", 3)
    with DecisionLog.open(config.state / "decisions.db") as log:
        good, wrong = check_lines(lines, lambda line: _find(log, line), utc_us())
        if wrong:
            told = "\n".join(f"line {number}: {problem}" for number, problem in wrong[:SHOWN])
            more = f"\nand {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise Problem(f"nothing was imported, {len(wrong)} lines are wrong:\n{told}{more}")
        for screening_id, report in good:
            log.record_outcome(screening_id, report.kind.value, report.code, report.at_us)
    click.echo(
        f"{len(good)} outcomes taken in" + (f"; {undecided} orders have come to nothing yet" if undecided else "")
    )


def _find(log: DecisionLog, line: Line) -> tuple[int, Paid] | None:
    """The screening of a line: by its id, else the last one of its transaction."""
    if line.screening_id:
        screening_id = parse_screening_id(line.screening_id)
        amount = log.amount_of(screening_id) if screening_id is not None else None
        return (screening_id, Paid(*amount)) if screening_id is not None and amount is not None else None
    rows = log.find_transaction(line.merchant, line.transaction_id)
    return (rows[-1].id, Paid(rows[-1].currency, rows[-1].minor)) if rows else None


COMMANDS: list[click.Command] = [outcomes]
