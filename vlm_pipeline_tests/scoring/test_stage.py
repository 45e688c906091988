"""The metrics stage: what is made again, what is asked again, and what never is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from vlm_pipeline.inference.stage import make_predictions
from vlm_pipeline.scoring.stage import make_metrics
from vlm_pipeline.settings.scoring import TextSettings
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.promotion.world import Answers, World, quiet
from vlm_pipeline_tests.servers.judge import JudgeServer, agreeable


class Measured(World):
    """A world in which the base alone has answered."""

    def measure(self, run_id: str = "r", **changed):
        """metrics/base of a run: (artifact, what lies in the file)."""
        task, store = self.task.model_copy(update=changed), self.store
        make_predictions(task, store, task.base, self.answers, picked=True, run_id=run_id, log=quiet)
        made = make_metrics(task, store, task.base, quiet, run_id=run_id)
        return made, read_json(store.path("metrics", "base.json"))


@pytest.fixture
def world(tmp_path: Path) -> Measured:
    found = Measured(tmp_path, Answers({"base": 0.5}), splits={"train": 1, "val": 1, "test": 2})
    found.rows()
    return found


@pytest.fixture
def judge():
    with JudgeServer() as server:
        yield server


def judged_by(server: JudgeServer, **judging) -> str:
    judge = {"provider": "openai_compatible", "model": "judge", "base_url": server.url, "attempts": 1}
    judge["api_key_env"] = "JUDGE_API_KEY"
    metric = {"kind": "geval", "evaluation_steps": ["Compare with the expected output."]}
    return yaml.safe_dump({"judging": {"judges": [judge], "metrics": [metric], "concurrency": 1} | judging})


def test_changing_a_scorer_scores_again_and_asks_nobody(world: Measured, judge, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "a-key")
    world.more = judged_by(judge)
    _, before = world.measure()
    asked, questions = list(world.answers.asked), len(judge.asked)
    assert len(asked) == 1 and questions > 0
    made, after = world.measure(scorers=[TextSettings(primary="token_f1")])
    assert "scorers" in made.reason and not made.reused
    assert before["splits"]["test"]["headline"]["metric"] == "exact"
    assert after["splits"]["test"]["headline"]["metric"] == "token_f1"
    assert world.answers.asked == asked and len(judge.asked) == questions
    assert world.measure(scorers=[TextSettings(primary="token_f1")])[0].reused


def test_a_judge_without_a_key_is_not_run_until_it_has_one(world: Measured, judge, monkeypatch) -> None:
    """A result that once said "not run" must not be kept for ever."""
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    world.more = judged_by(judge)
    _, found = world.measure()
    assert found["external"]["judging"]["status"] == "not run: JUDGE_API_KEY is not set"
    assert "correctness" not in found["splits"]["test"]["scorers"] and judge.asked == []
    assert world.measure(run_id="later")[0].reused
    monkeypatch.setenv("JUDGE_API_KEY", "a-key")
    made, found = world.measure(run_id="later still")
    assert "judges" in made.reason
    score = found["splits"]["test"]["scorers"]["correctness"]["metrics"]["score"]
    assert score["n_scored"] == 16 and score["threshold"]["bar"] == 0.7


def test_rows_that_the_judge_did_not_answer_are_asked_again_by_the_next_run(
    world: Measured, judge, monkeypatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "a-key")
    world.more = judged_by(judge)
    judge.failures = [500] * 3
    first, found = world.measure(run_id="first")
    assert found["external"]["judging"]["n_silent"] == 3 and first.metadata["silent"] == "judging"
    asked = len(judge.asked)
    second, found = world.measure(run_id="second")
    assert "rows without a reply" in second.reason and len(judge.asked) - asked == 3
    assert found["external"]["judging"]["n_silent"] == 0 and "silent" not in second.metadata
    third, _ = world.measure(run_id="third")
    assert third.reused or len(judge.asked) - asked == 3
    assert world.measure(run_id="fourth")[0].reused


def test_other_labels_of_people_calibrate_again(world: Measured, judge, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "a-key")
    world.more = judged_by(judge, calibration="labels.jsonl")
    labels = world.task.root / "labels.jsonl"
    for label, same in ((1, 1.0), (0, 0.0)):
        row = {"question": "q", "answer": "value 1", "expected": "value 1", "label": label}
        labels.write_text(json.dumps(row))
        _, found = world.measure()
        agreement = found["external"]["judging"]["calibration"]["metrics"]["correctness"]["judge"]
        assert agreement["same_side_of_threshold"]["estimate"] == same


def test_a_judged_metric_that_is_asked_for_without_a_judge_is_not_run(world: Measured) -> None:
    assert "judging" not in world.measure()[1]["external"]
    world.more = yaml.safe_dump({"judging": {"metrics": [{"kind": "relevancy"}]}})
    made, found = world.measure()
    assert found["external"]["judging"]["status"] == "not run: no judge is configured"
    assert made.metadata["judging"] == "not run: no judge is configured"


def test_a_tool_server_that_was_down_is_asked_by_the_next_run(world: Measured, tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="the MCP scorer needs the package mcp")
    from vlm_pipeline_tests.servers import mcp_gym

    program = tmp_path / "gym.py"
    scorer = {"kind": "mcp", "name": "gym", "tool": "score_batch", "command": [sys.executable, str(program)]}
    world.more = yaml.safe_dump({"mcp_scorers": [scorer]})
    first, found = world.measure(run_id="first")
    assert found["external"]["gym"]["status"].startswith("not run: ") and first.metadata["silent"] == "gym"
    assert "gym" not in found["splits"]["test"]["scorers"]
    shutil.copy(mcp_gym.__file__, program)
    _, found = world.measure(run_id="second")
    assert found["external"]["gym"]["status"] == "ready"
    assert found["splits"]["test"]["scorers"]["gym"]["metrics"]["score"]["n_scored"] == 16


def test_what_the_judge_says_reaches_the_rows(world: Measured, judge, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "a-key")
    world.more = judged_by(judge)
    judge.policy = lambda asked: {"score": 3, "reason": "half"} if asked.question == "score" else agreeable(asked)  # fmt: skip
    world.measure()
    from vlm_pipeline.scoring.table import read_scores

    rows = [row for row in read_scores(world.store.path("metrics", "base.parquet")) if row["kind"] == "judge"]
    assert {row["split"] for row in rows} == {"test"} and len(rows) == 16
    assert {(row["headline"], row["failure"], *row["notes"]) for row in rows} == {
        (0.3, "other", "half"),
        (0.0, "refusal", "refused"),  # "no idea" is not put to the judge
    }
