"""The gate over stored predictions, as CI runs it: plain pytest and `deepeval test run`, by the real commands."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vlm_pipeline
from vlm_pipeline.scoring.gate.gate import Gate, GateError
from vlm_pipeline_tests.scoring.rows import predictions

FOLDER = Path(vlm_pipeline.__file__).parent / "scoring" / "gate"
TASK = """
name: gauges
sections: [torque, gaps]
base_model: nowhere
predictors:
  - {name: base, kind: transformers}
  - {name: tuned, kind: transformers, adapter: trained}
scorers:
  - {kind: quantity}
"""


class Confident:
    """Confident AI on loopback: notes what is sent to it."""

    def __enter__(self) -> Confident:
        self.paths: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.paths.append(self.path)
                body = b'{"success": true, "data": {"id": "x", "link": null}}'
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST

            def log_message(self, *arguments: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def world(tmp_path) -> Path:
    """20 rows in two sections: tuned answers all of torque and half of gaps, base nothing."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "task.yaml").write_text(TASK)
    store = tmp_path / "store" / "gauges"
    answers = {"base": [], "tuned": []}
    for section in ("torque", "gaps"):
        rows = [
            {
                "id": f"{section}-{i}", "section": section, "group": f"{section}-{i // 2}", "split": "test",
                "answer": f"{20 + i} Nm", "answer_value": None, "metadata": "{}", "prompt_text": "How much?",
            }
            for i in range(10)
        ]  # fmt: skip
        (store / "formatted").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), store / "formatted" / f"{section}.parquet")
        texts = [f"{20 + i} Nm" if section == "torque" or i % 2 else "7 Nm" for i in range(10)]
        answers["tuned"] += predictions(rows, "tuned", texts)
        answers["base"] += predictions(rows, "base", ["hm"] * 10)
    (store / "predictions").mkdir()
    for name, table in answers.items():
        pq.write_table(pa.Table.from_pylist(table), store / "predictions" / f"{name}.parquet")
    return tmp_path


def options(world: Path, **changed):
    given = {
        "--task": str(world / "task"), "--store": str(world / "store"), "--model": None, "--split": "test",
        "--sections": None, "--max-samples": None, "--demonstrated": False,
    }  # fmt: skip
    return (given | changed).get


def run(world: Path, *arguments: str, program=("-m", "pytest")) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        *program,
        str(FOLDER),
        "--task",
        str(world / "task"),
        "--store",
        str(world / "store"),
    ]
    environment = {**os.environ, "DEEPEVAL_TELEMETRY_OPT_OUT": "1", "DEEPEVAL_DISABLE_DOTENV": "1"}
    environment["PYTHONPATH"] = str(FOLDER.parents[2])
    return subprocess.run(
        [*command, *arguments], cwd=world, env=environment, capture_output=True, text=True, timeout=900
    )


def test_bars_by_scorer_and_section(world):
    bars = {bar["name"]: bar for bar in Gate.from_options(options(world)).bars()}
    assert list(bars) == ["tuned-quantity-all", "tuned-quantity-gaps", "tuned-quantity-torque"]
    assert {name: bar["passes"] for name, bar in bars.items()} == dict(
        zip(bars, (False, False, True), strict=True)
    )
    assert (
        bars["tuned-quantity-torque"]["demonstrated"] is False
        and bars["tuned-quantity-gaps"]["estimate"] == 0.5
    )


def test_unreadable_answers_do_not_pass(world):
    """Nothing could be read from any answer of the base: no estimate over scored rows, and no pass."""
    bars = Gate.from_options(options(world, **{"--model": "base"})).bars()
    assert [bar["passes"] for bar in bars] == [False] * 3


def test_max_samples_is_per_section(world):
    gate = Gate.from_options(options(world, **{"--max-samples": 3}))
    assert len(gate.rows()) == 6


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--task": None}, "say which task"),
        ({"--model": "gpt"}, "none of the task's predictors: base, tuned"),
        ({"--sections": "oil"}, "the task has torque, gaps"),
        ({"--store": "/nowhere"}, "no predictions of tuned"),
    ],
)
def test_mistakes_are_named(world, changed, said):
    with pytest.raises(GateError, match=said):
        Gate.from_options(options(world, **changed))


def test_plain_pytest_exit_codes_and_output(world):
    found = run(world, "-p", "no:deepeval", "-q", "--sections", "torque", "--output", "gate.json")
    assert found.returncode == 0, found.stdout + found.stderr
    written = json.loads((world / "gate.json").read_text())
    assert written["holds"] is True and written["model"] == "tuned" and len(written["bars"]) == 2
    found = run(world, "-p", "no:deepeval", "-q", "--output", "gate.json")
    assert found.returncode == 1 and "tuned-quantity-gaps: 0.500" in found.stdout
    assert json.loads((world / "gate.json").read_text())["holds"] is False


DEEPEVAL = ("-c", "from deepeval.cli.main import app; app()", "test", "run")


@pytest.mark.parametrize(("opted_in", "sent"), [((), False), (("--confident",), True)])
def test_deepeval_test_run_passes_and_sends_results_only_where_that_is_asked_for(
    world, monkeypatch, opted_in, sent
):
    """A key of Confident AI in the environment is no consent."""
    with Confident() as service:
        monkeypatch.setenv("CONFIDENT_API_KEY", "confident_us_proj_abcdef")
        monkeypatch.setenv("CONFIDENT_BASE_URL", service.url)
        monkeypatch.setenv("CONFIDENT_OPEN_BROWSER", "0")
        chosen = ("--sections", "torque", "--each-row", "--max-samples", "2", *opted_in)
        found = run(world, *chosen, program=DEEPEVAL)
        assert found.returncode == 0, found.stdout + found.stderr
        assert "4 passed" in found.stdout  # two bars, two rows
        assert ("/v1/test-run" in service.paths) is sent and bool(service.paths) is sent


def test_deepeval_test_run_fails(world):
    """One failing row is enough for CI, and every option of the gate gets through DeepEval's own command."""
    chosen = ("--model", "tuned", "--sections", "gaps", "--each-row", "-k", "gaps-0", "--output", "gate.json")
    found = run(world, *chosen, program=DEEPEVAL)
    assert found.returncode == 1 and "1 failed" in found.stdout, found.stdout + found.stderr
    written = json.loads((world / "gate.json").read_text())
    assert written["model"] == "tuned" and written["holds"] is False


PAGE = FOLDER.parents[2] / "docs" / "scoring.md"


@pytest.mark.parametrize(
    "command", re.findall(r"<!-- gate -->\n```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
)
def test_commands_of_the_page_run_as_written(world, monkeypatch, command):
    """In a folder laid out as the page supposes; the task and its store are those of these tests."""
    (world / "data").mkdir()
    (world / "task").rename(world / "data" / "manual_qa")
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(world / "store"))
    monkeypatch.setenv("DEEPEVAL_TELEMETRY_OPT_OUT", "1")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[2]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    found = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=world, capture_output=True, text=True, timeout=900
    )
    assert found.returncode == 0 and " passed" in found.stdout, found.stdout + found.stderr
    if "--output" in command:
        assert json.loads((world / "gate.json").read_text("utf-8"))["holds"] is True
