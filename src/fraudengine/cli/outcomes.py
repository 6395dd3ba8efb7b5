"""`fraudengine outcomes import`: what became of payments, many at once, from a CSV or the gateway's own answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from ..archive_reading import find_archived
from ..archive_search import find_payments
from ..decision_log import DecisionLog
from ..environment import claim_state
from ..late_outcomes import keep_late_outcome
from ..list_store import utc_us
from ..outcomes import InvalidOutcome, Line, Paid, check_lines, read_csv, read_order_statuses
from ..store import parse_screening_id, screening_id_text
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

    The same file again changes nothing. Payments whose screening is archived are found in the archive.
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
        archived = _Archived(log, lines)
        good, wrong = check_lines(lines, lambda line: _find(log, line) or archived.find(line), utc_us())
        if wrong:
            told = "\n".join(f"line {number}: {problem}" for number, problem in wrong[:SHOWN])
            more = f"\nand {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise Problem(f"nothing was imported, {len(wrong)} lines are wrong:\n{told}{more}")
        for screening_id, report in good:
            kept = (report.kind.value, report.code, report.at_us)
            if screening_id in archived.payments or not log.record_outcome(screening_id, *kept):
                archived.keep(log, screening_id, *kept)
    click.echo(
        f"{len(good)} outcomes taken in" + (f"; {undecided} orders have come to nothing yet" if undecided else "")
    )


def _find(log: DecisionLog, line: Line) -> tuple[int, Paid] | None:
    """The screening of a line: by its id, else the last one of its transaction."""
    if line.screening_id:
        screening_id = parse_screening_id(line.screening_id)
        amount = log.recorded.amount_of(screening_id) if screening_id is not None else None
        return (screening_id, Paid(*amount)) if screening_id is not None and amount is not None else None
    rows = log.find_transaction(line.merchant, line.transaction_id)
    return (rows[-1].id, Paid(rows[-1].currency, rows[-1].minor)) if rows else None


class _Archived:
    """The payments of those lines that the log does not hold, as the archive has them; read in one pass."""

    def __init__(self, log: DecisionLog, lines: Iterable[Line]) -> None:
        ids: set[int] = set()
        transactions: set[tuple[str, str]] = set()
        for line in lines:
            screening_id = parse_screening_id(line.screening_id)
            if _find(log, line) is not None:
                continue
            if screening_id is not None:
                ids.add(screening_id)
            elif not line.screening_id:
                transactions.add((line.merchant, line.transaction_id))
        found = find_payments(log.path.parent, ids, transactions)
        self.payments = {one.id: one for one in sorted(found, key=lambda one: one.id)}
        self._last = {(one.merchant, one.transaction_id): one.id for one in self.payments.values()}

    def find(self, line: Line) -> tuple[int, Paid] | None:
        """The same as `_find`."""
        wanted = parse_screening_id(line.screening_id)
        if not line.screening_id:
            wanted = self._last.get((line.merchant, line.transaction_id))
        one = self.payments.get(wanted) if wanted is not None else None
        return (one.id, Paid(one.currency, one.minor)) if one is not None else None

    def keep(self, log: DecisionLog, screening_id: int, kind: str, code: str, at_us: int) -> None:
        """Records a report about one of these, or about a screening that was archived since it was looked for."""
        one = self.payments.get(screening_id)
        row = find_archived(log.path.parent, screening_id) if one is None else one.row
        if row is None:
            raise Problem(f"screening {screening_id_text(screening_id)} was deleted meanwhile")
        keep_late_outcome(log.path, log.next_id(), row, kind, code, at_us)


COMMANDS: list[click.Command] = [outcomes]
