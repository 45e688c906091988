"""A scorer behind a real MCP server: on loopback, and as a program over standard input and output."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the MCP scorer needs the package mcp")

from vlm_pipeline.scoring.mcp_scorer import mcp_score_table
from vlm_pipeline.scoring.metrics import compute_metrics
from vlm_pipeline.settings.mcp import McpScorerSettings
from vlm_pipeline_tests.scoring.rows import formatted, predictions
from vlm_pipeline_tests.servers import mcp_gym

MUTE = """
import asyncio
from mcp.server.mcpserver import MCPServer

class Mute(MCPServer):
    async def list_tools(self):
        await asyncio.sleep(60)

Mute("mute").run()
"""


@pytest.fixture(scope="module")
def server():
    with mcp_gym.McpGym() as running:
        yield running


def scored(tmp_path, texts, *, predictors=("tuned",), **options):
    rows = formatted(len(texts))
    table = [one for name in predictors for one in predictions(rows, name, texts)]
    settings = McpScorerSettings(**{"tool": "score_batch", "low": 0, "high": 1, **options})
    return *mcp_score_table(settings, rows, table, cache_folder=tmp_path), table


def test_scores_come_back_to_their_rows(server, tmp_path):
    table, summary, given = scored(
        tmp_path, ["0, please", "no", None, "3"], predictors=("base", "tuned"), url=server.url, batch_size=2
    )
    assert [row["status"] for row in table] == ["scored", "scored", "error", "scored"] * 2
    assert [row["headline"] for row in table[:4]] == [1.0, 0.0, None, 1.0]
    assert [row["failure"] for row in table[:4]] == [None, "hallucination", None, None]
    assert table[0]["values"] == {"score": 1.0, "polite": True} and table[0]["notes"] == [
        "context was the page"
    ]
    assert (summary["server"], summary["server_version"], summary["batches"]) == ("safety-gym", "3.1.4", 3)
    figures = compute_metrics(table, given, predictor="tuned")
    assert figures["headline"]["estimate"] == pytest.approx(2 / 3) and figures["headline"]["n_errors"] == 1


def test_the_second_time_nothing_is_asked(server, tmp_path):
    first, _, _ = scored(tmp_path, ["0", "1"], url=server.url)
    before = len(mcp_gym.calls)
    second, summary, _ = scored(tmp_path, ["0", "1"], url=server.url)
    assert second == first and len(mcp_gym.calls) == before and summary["cache_hits"] == 2


def test_invalid_and_missing_scores_are_no_scores(server, tmp_path):
    table, _, _ = scored(tmp_path, ["overdo it", "forget me", "2"], url=server.url)
    assert [row["status"] for row in table] == ["unscored", "unscored", "scored"]
    assert "outside 0 to 1" in table[0]["detail"] and "no score for this row" in table[1]["detail"]


def test_a_narrower_range_holds_for_scores_that_are_already_known(server, tmp_path):
    first, _, _ = scored(tmp_path, ["overdo it", "1"], url=server.url, high=20)
    assert [row["headline"] for row in first] == [15.0, 1.0]
    second, summary, _ = scored(tmp_path, ["overdo it", "1"], url=server.url, high=1)
    assert [row["status"] for row in second] == ["unscored", "scored"] and summary["cache_hits"] == 2


def test_a_server_that_never_says_its_tools_is_not_run(tmp_path, monkeypatch):
    """The handshake works, the list of tools hangs."""
    from vlm_pipeline.scoring import mcp_scorer

    monkeypatch.setattr(mcp_scorer, "LIST_TIMEOUT_S", 1.0)
    program = tmp_path / "mute.py"
    program.write_text(MUTE)
    table, summary, _ = scored(tmp_path, ["0"], command=[sys.executable, str(program)], timeout_s=1)
    assert table == [] and summary["n_silent"] == 1
    assert summary["status"] == "not run: the server does not say which tools it has: TimeoutError"


def test_no_token_leaves_with_a_servers_refusal(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GYM_TOKEN", "secret-token-of-the-gym")
    program = tmp_path / "telling.py"
    program.write_text(
        Path(mcp_gym.__file__).read_text().replace("the gym is closed", "wrong token secret-token-of-the-gym")
    )
    table, summary, _ = scored(tmp_path, ["make it fail"], command=[sys.executable, str(program)])
    assert "wrong token ***" in table[0]["detail"]
    assert "secret-token" not in str([table, summary]) + caplog.text


def test_a_failing_batch_costs_its_rows_and_no_other(server, tmp_path):
    table, summary, _ = scored(tmp_path, ["make it fail", "1", "2"], url=server.url, batch_size=1)
    assert [row["status"] for row in table] == ["unscored", "scored", "scored"]
    assert "the gym is closed" in table[0]["detail"] and len(summary["failures"]) == 1


def test_time_outs_are_recorded(server, tmp_path):
    table, summary, _ = scored(tmp_path, ["make it slow"], url=server.url, timeout_s=1.5, retries=1)
    assert table[0]["status"] == "unscored" and "no answer within 1.5 s" in table[0]["detail"]
    assert summary["timeouts"] == 2


def test_over_standard_input_and_output(tmp_path):
    table, summary, _ = scored(tmp_path, ["0"], command=[sys.executable, mcp_gym.__file__])
    assert table[0]["headline"] == 1.0 and summary["server"] == "safety-gym"


def test_an_unreachable_server_is_not_run_and_no_number(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    table, summary, _ = scored(tmp_path, ["0"], url=f"http://127.0.0.1:{port}/mcp")
    assert (
        table == [] and summary["status"].startswith("not run: ") and "cannot be reached" in summary["status"]
    )


def test_an_unknown_tool_is_named_with_those_that_exist(server, tmp_path):
    _, summary, _ = scored(tmp_path, ["0"], url=server.url, tool="score_all")
    assert summary["status"] == "not run: the server has no tool 'score_all'; it has score_batch"


def test_a_missing_token_is_not_run(server, tmp_path, monkeypatch):
    monkeypatch.delenv("GYM_TOKEN", raising=False)
    assert (
        scored(tmp_path, ["0"], url=server.url, token_env="GYM_TOKEN")[1]["status"]
        == "not run: GYM_TOKEN is not set"
    )
    monkeypatch.setenv("GYM_TOKEN", "secret")
    assert scored(tmp_path, ["0"], url=server.url, token_env="GYM_TOKEN")[1]["status"] == "ready"
