"""In a notebook: a real Jupyter kernel decides a payment, replays a history and is shown the result."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from fraudengine.replay.notebook import table_html

from .replaying import configuration

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120.0


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingKernelClient]:
    state = tmp_path_factory.mktemp("state")
    configuration(state)
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=SECONDS, cwd=str(ROOT))
    try:
        run(client, f"state = {str(state)!r}")
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client: BlockingKernelClient, code: str) -> dict[str, Any]:
    """What the notebook shows under a cell, by media type."""
    shown: dict[str, Any] = {}

    def take(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "error":
            raise AssertionError("\n".join(content["traceback"]))
        if message["msg_type"] in ("execute_result", "display_data"):
            shown.update(content["data"])

    client.execute_interactive(code, timeout=SECONDS, output_hook=take)
    return shown


def test_a_payment_is_decided_in_a_notebook(kernel: BlockingKernelClient) -> None:
    run(kernel, "from fraudengine import load_rules, screen")
    payment = {
        "merchant": "carthage-market",
        "transaction_id": "N-1",
        "amount": "12.500",
        "currency": "TND",
        "card": {"masked_pan": "411111**1111"},
        "ip_address": "41.226.1.1",
    }
    shown = run(kernel, f"screen(load_rules('rules'), {payment!r})['decision']")
    assert shown["text/plain"] in ("'accept'", "'refuse'", "'challenge'")


def test_a_replay_shows_itself_in_a_notebook(kernel: BlockingKernelClient, tmp_path: Path) -> None:
    """The kernel has no ipywidgets: DuckDB refuses there to have its progress bar turned off."""
    history = tmp_path / "history.csv"
    history.write_text(
        "order;shop;when;amount;cur;card;expires;ip;mail;result;campaign\n"
        "A-1;carthage-market;20/11/2026 10:00:00;250,000;TND;411111XXXXXX1111;12/27;41.226.11.9;a@b.tn;paid;\n"
        "A-2;carthage-market;20/11/2026 11:00:00;2.500,000;TND;411111XXXXXX1111;12/27;41.226.11.9;a@b.tn;paid;\n"
    )
    run(kernel, "from fraudengine.replay import replay\nfrom fraudengine.config import Config")
    options = "rules='rules', against='rules', mapping='data/mappings/example-csv.yaml', config=Config(state=state)"
    shown = run(kernel, f"result = replay({str(history)!r}, {options})\nresult")["text/html"]
    assert "<b>2</b> transactions of 1 merchant: " in shown
    for text in ("<b>outcomes</b>", "<th>candidate</th>", "<td>carthage-market</td>", "<td>2,750.000</td>"):
        assert text in shown, text
    assert "<b>rules</b>: what each rule matched" in run(kernel, "result.rules")["text/html"]


def test_values_are_shown_as_people_read_them() -> None:
    row = {
        "merchant": "a<b",
        "currency": "TND",
        "minor": 1_234_567_890,
        "caught_minor": [("EUR", 5), ("TND", 1_500)],
        "matches": 1_234,
        "at": datetime(2026, 11, 20, 10, 0, 0, 5, UTC),
        "precision": 0.25,
        "always_covered": True,
        "because": ["one", "two"],
        "label": None,
        "line": 1_234,
    }
    shown = table_html("by_merchant", row, [row], help="a & b", left=3)
    assert "<caption><b>by merchant</b>: a &amp; b</caption>" in shown
    assert "<th>amount</th><th>caught amount</th>" in shown
    for cell in (
        "a&lt;b",
        "1,234,567.890",
        "0.05 EUR, 1.500 TND",
        "1,234",
        "2026-11-20 10:00:00",
        "0.250",
        "yes",
        "one; two",
        "",
        "1234",
    ):
        assert f"<td>{cell}</td>" in shown, cell
    assert "<p>3 more rows</p>" in shown
    assert "more rows" not in table_html("rules", row, [row], help="", left=0)
