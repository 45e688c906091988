"""`python -m vlm_pipeline fine-tune`: jobs listed, followed and cancelled from a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_pipeline.__main__ import main
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.clients import client_for
from vlm_pipeline.inference.openai_finetune import submit
from vlm_pipeline.inference.predictors import fine_tune_info
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
from vlm_pipeline_tests.inference.test_openai_finetune import write_rows
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn

TASK = """\
sections: [a]
base_model: ../base_model
predictors:
  - {name: base, kind: transformers}
  - {name: hosted, kind: openai_finetuned, model: gpt-4o-mini-2024-07-18}
MORE
scorers: [{kind: text}]
budget: {money_usd: 5}
"""
ANOTHER = "  - {name: other, kind: openai_finetuned, model: gpt-4o-2024-08-06}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLM_PIPELINE_TASKS", str(tmp_path))
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "task.yaml").write_text(TASK.replace("MORE\n", ""))
    with serving(StandIn(job_s=3600)) as (stand_in, url):
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        yield stand_in


def started(folder: Path) -> str:
    task = load_task(folder / "demo")
    settings = task.predictors[1]
    info_path = fine_tune_info(task, TaskStore("demo"), settings)
    train = write_rows(folder / "train.jsonl")
    return submit(
        train, None, settings, info_path=info_path, budget=Budget(5.0), client=client_for(settings)
    )["job_id"]


def test_jobs_are_listed_followed_and_cancelled(server, tmp_path, capsys):
    assert main(["fine-tune", "events", "demo"]) == 2
    assert "the loop has submitted none yet" in capsys.readouterr().err
    job = started(tmp_path)
    assert main(["fine-tune", "list", "demo"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"* {job}") and "gpt-4o-mini-2024-07-18" in line and "queued" in line
    assert main(["fine-tune", "events", "demo"]) == 0
    assert "The job was created" in capsys.readouterr().out
    assert main(["fine-tune", "cancel", "demo", "hosted"]) == 0
    assert f"{job} is cancelled" in capsys.readouterr().out
    assert server.jobs[job]["status"] == "cancelled"


def test_mistakes_are_one_line_with_what_there_is(server, tmp_path, capsys, monkeypatch):
    path = tmp_path / "demo" / "task.yaml"
    path.write_text(TASK.replace("MORE", ANOTHER))
    assert main(["fine-tune", "list", "demo"]) == 2
    assert "name one openai_finetuned predictor of demo; it has hosted, other" in capsys.readouterr().err
    assert main(["fine-tune", "list", "dem"]) == 2
    assert "there is no task 'dem'" in capsys.readouterr().err
    server.key = "another"
    assert main(["fine-tune", "list", "demo", "hosted"]) == 2
    refused = capsys.readouterr().err
    assert "Incorrect API key provided: ***" in refused and "Traceback" not in refused
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main(["fine-tune", "list", "demo", "hosted"]) == 2
    assert "OPENAI_API_KEY is not set" in capsys.readouterr().err
