"""The real command with hosted models and judges, all spoken to over HTTP by their real clients.

One small task (two sections, a few pages) is run four times in one store: the fine-tune is submitted; it has ended
and its model comes in, with judges; nothing has changed; one test row asks something else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from vlm_pipeline_tests.end_to_end.loop import Loop, cut_down, small_task
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import KEY, StandIn
from vlm_pipeline_tests.servers.judge import JudgeServer

NAME = "manual_qa"
SECTIONS = ("torque", "clearances")
PAGES = {"train": 2, "val": 1, "test": 3}  # of each section
JUDGE_KEY = "judge-key-9876543210"
FOUR = ["base", "tuned", "gpt", "gpt_tuned"]
JUDGED_ROWS = 4


def _settings(task: Path, judges: list[dict[str, Any]]) -> None:
    path = task / "task.yaml"
    settings = yaml.safe_load(path.read_text("utf-8"))
    settings["sections"] = list(SECTIONS)
    settings["training"] |= {"max_steps": 3, "eval_steps": 3, "save_steps": 3}
    settings["generation"] = {"max_new_tokens": 12}
    settings["predictors"] = [
        {"name": "base", "kind": "transformers"},
        {"name": "tuned", "kind": "transformers", "adapter": "trained"},
        {"name": "gpt", "kind": "openai", "model": "gpt-4o-mini"},
        {"name": "gpt_tuned", "kind": "openai_finetuned", "model": "gpt-4o-2024-08-06"},
    ]
    settings["budget"] = {"money_usd": 20}
    settings["judging"] = {"judges": judges, "max_rows": JUDGED_ROWS, "noise_rows": 0}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")


def _judges(server: JudgeServer) -> list[dict[str, Any]]:
    common = {"api_key_env": "JUDGE_KEY", "price": {"input": 1.0, "output": 2.0}}
    return [
        {"provider": "openai_compatible", "model": "judge-of-one-kind", "base_url": server.url, **common},
        {"provider": "anthropic", "model": "judge-of-another", "base_url": server.root, **common},
    ]


def _ask_otherwise(task: Path, row_id: str) -> None:
    """Change the question of one row, as a person who edits a section's file."""
    for path in (task / "raw").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for row in rows:
            if row["metadata"]["id"] == row_id:
                row["conversations"][0]["content"] += " Say it once more."
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


class Runs:
    """What the four runs left: output, requests to the stand-in, questions to the judges, and the metrics."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.outputs: list[str] = []
        self.requests: list[Counter[str]] = []
        self.judged: list[int] = []
        self.metrics: list[dict[str, Any]] = []
        self.comparisons: list[dict[str, Any]] = []

    def read(self, name: str) -> Any:
        return json.loads((self.store / name).read_text("utf-8"))

    def note(self, output: str, stand_in: StandIn, judge: JudgeServer) -> None:
        self.outputs.append(output)
        self.requests.append(stand_in.requests - sum(self.requests, Counter()))
        self.judged.append(len(judge.asked) - sum(self.judged))
        self.metrics.append({name: self.read(f"metrics/{name}.json") for name in FOUR})
        self.comparisons.append(self.read("comparison.json"))

    def judged_rows(self) -> list[str]:
        table = pq.read_table(self.store / "metrics" / "gpt.parquet", columns=["id", "scorer"]).to_pylist()
        return sorted({row["id"] for row in table if row["scorer"] == "correctness"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("hosted")
    tasks = small_task(folder / "tasks", NAME)
    task = tasks / NAME
    cut_down(task, dict.fromkeys(SECTIONS, PAGES))
    with serving(StandIn(job_s=86_400.0)) as (stand_in, url), JudgeServer() as judge, pytest.MonkeyPatch.context() as patch:  # fmt: skip
        for name, value in (environment(url) | {"JUDGE_KEY": JUDGE_KEY}).items():
            patch.setenv(name, value)
        loop = Loop(folder, tasks)
        found = Runs(loop.store / NAME)
        for number, judges in enumerate(([], _judges(judge), _judges(judge), _judges(judge))):
            _settings(task, judges)
            if number == 3:
                _ask_otherwise(task, found.judged_rows()[0])
            found.note(loop.run(NAME, timeout=600), stand_in, judge)
            stand_in.job_s = 0.0  # the job goes on between the runs
        found.folder, found.stand_in, found.judge = folder, stand_in, judge
        yield found


def test_a_hosted_fine_tune_is_pending_and_never_a_zero(runs: Runs) -> None:
    first = runs.comparisons[0]
    assert [one["status"] for one in first["predictors"]] == ["measured"] * 3 + ["not_run"]
    pending = first["predictors"][3]
    assert pending["name"] == "gpt_tuned" and pending["reason"].startswith("pending")
    assert runs.metrics[0]["gpt_tuned"]["splits"] == {}


def test_its_model_comes_in_with_the_next_run_and_the_job_exists_once(runs: Runs) -> None:
    second = runs.comparisons[1]
    assert [one["name"] for one in second["predictors"]] == FOUR
    assert {one["status"] for one in second["predictors"]} == {"measured"}
    assert len(runs.stand_in.jobs) == 1
    info = runs.read("openai/fine_tune_info.json")
    assert info["status"] == "succeeded" and info["fine_tuned_model"].startswith("ft:gpt-4o")
    pairs = {(pair["a"], pair["b"]) for pair in second["pairs"]}
    assert {("tuned", "base"), ("gpt", "base"), ("gpt_tuned", "base"), ("tuned", "gpt_tuned")} <= pairs


def test_all_answered_the_same_rows_and_hosted_ones_cost_money(runs: Runs) -> None:
    tables = {
        name: pq.read_table(runs.store / "predictions" / f"{name}.parquet").to_pylist() for name in FOUR
    }
    ids = [sorted(row["id"] for row in table) for table in tables.values()]
    assert ids.count(ids[0]) == 4 and len(ids[0]) == 2 * 11 * (PAGES["val"] + PAGES["test"]) + 2
    assert all(row["error"] is None for table in tables.values() for row in table)
    for name in ("gpt", "gpt_tuned"):
        assert all(row["cost_usd"] > 0 and row["tokens_in"] > 0 for row in tables[name])


def test_unchanged_models_are_asked_nothing_again(runs: Runs) -> None:
    """The second run asks the fine-tuned model alone, the third nobody; no row is generated twice."""
    rows = 2 * 11 * (PAGES["val"] + PAGES["test"]) + 2
    asked = [one["completions"] for one in runs.requests]
    assert asked[:3] == [rows, rows, 0]
    assert "forward" not in runs.outputs[2]


def test_one_changed_row_asks_hosted_models_and_judges_about_that_row_alone(runs: Runs) -> None:
    rows = 2 * 11 * (PAGES["val"] + PAGES["test"]) + 2
    assert (
        runs.requests[3]["completions"] == 2 and len(runs.stand_in.jobs) == 1
    )  # gpt and gpt_tuned, no new job
    assert 0 < runs.judged[3] <= runs.judged[1] / JUDGED_ROWS
    for name in ("gpt", "gpt_tuned"):
        told = runs.read(f".manifests/predictions/{name}.json")["metadata"]  # as the UI shows it
        assert (told["asked"], told["reused"]) == (1, rows - 1)
        assert told["cost_usd_saved"] > 10 * told["cost_usd"] > 0


def test_the_report_shows_all_four_and_calls_stand_ins_so(runs: Runs) -> None:
    page = (runs.store / "report" / "index.html").read_text("utf-8")
    for name in FOUR:
        assert name in page
    assert "stand-in on 127.0.0.1" in page and "they say nothing about the model" in page
    assert "stand-in" in runs.outputs[1]


def test_without_a_judge_there_is_no_number(runs: Runs) -> None:
    for name in FOUR[:3]:
        found = runs.metrics[0][name]
        assert "judging" not in found["external"]
        assert not any("correctness" in split["scorers"] for split in found["splits"].values())
    assert runs.judged[0] == 0


def test_two_judges_over_http_give_scores_agreement_and_cost(runs: Runs) -> None:
    for name in FOUR:
        found = runs.metrics[1][name]
        judging = found["external"]["judging"]
        assert judging["status"] == "ready" and judging["n_cases"] == JUDGED_ROWS
        score = found["splits"]["test"]["scorers"]["correctness"]["metrics"]["score"]
        refused = sum(judge["n_refused"] for judge in judging["metrics"]["correctness"]["judges"].values())
        assert score["n_scored"] == JUDGED_ROWS and (refused or score["estimate"] == pytest.approx(0.8))
        assert judging["usage"]["cost_usd"] > 0 and judging["metrics"]["correctness"]["agreement"]
    assert {one.key for one in runs.judge.asked} == {JUDGE_KEY}
    assert {one.model for one in runs.judge.asked} == {"judge-of-one-kind", "judge-of-another"}
    assert all(one.images for one in runs.judge.asked if one.question == "score")
    assert runs.judged[2] == 0, "an unchanged table was judged again"


def test_keys_appear_nowhere(runs: Runs) -> None:
    secret = re.compile(f"{KEY}|{JUDGE_KEY}".encode())
    leaks = [
        str(path)
        for root in (runs.folder / "store", runs.folder / "home")
        for path in root.rglob("*")
        if path.is_file() and secret.search(path.read_bytes())
    ]
    assert leaks == [] and not any(secret.search(output.encode()) for output in runs.outputs)
