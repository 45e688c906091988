"""The fine-tune sensor against the stand-in: one end of a job starts one run, and a lost service starts none."""

import json
from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.definitions import build_defs
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.clients import client_for
from vlm_pipeline.inference.openai_finetune import submit
from vlm_pipeline.inference.predictors import fine_tune_info
from vlm_pipeline.manifest import Artifact, make_once
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.store import TaskStore, read_json
from vlm_pipeline.task import Task, load_task
from vlm_pipeline_tests.orchestration.loop_world import start_and_kill
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn

TASK = """\
sections: [a]
base_model: ../base_model
predictors:
  - {name: base, kind: transformers}
  - {name: hosted, kind: openai_finetuned, model: gpt-4o-mini-2024-07-18}
scorers: [{kind: text}]
budget: {money_usd: 5}
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "task.yaml").write_text(TASK)
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    return load_task(tmp_path / "demo")


def tick(
    task: Task, cursor: str | None = None, instance: dg.DagsterInstance | None = None
) -> dg.SensorResult | dg.SkipReason:
    definitions = build_defs(tasks=[task])
    sensor = definitions.get_sensor_def("demo_hosted_fine_tune")
    context = dg.build_sensor_context(
        instance=instance or dg.DagsterInstance.ephemeral(),
        cursor=cursor,
        resources={"loop": LoopOptions()},
        repository_def=definitions.get_repository_def(),
    )
    return sensor(context)


def submit_job(task: Task, folder: Path) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": str(n)}]}
        for n in range(12)
    ]
    train = folder / "train.jsonl"
    train.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = task.predictors[1]
    info_path = fine_tune_info(task, TaskStore(task.name), settings)
    submit(train, None, settings, info_path=info_path, budget=Budget(5.0), client=client_for(settings))
    return info_path


def test_without_a_job_nothing_is_asked(task: Task) -> None:
    skipped = tick(task)
    assert isinstance(skipped, dg.SkipReason) and "no fine-tuning job" in str(skipped.skip_message)


def test_a_running_job_is_asked_ever_more_seldom_and_its_end_starts_one_run(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(StandIn(job_s=86_400.0)) as (stand_in, url):
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        info_path = submit_job(task, tmp_path)
        first = tick(task)
        assert isinstance(first, dg.SensorResult) and not first.run_requests
        assert isinstance(tick(task, first.cursor), dg.SkipReason)  # too early to ask again
        stand_in.job_s = 0.0
        due = json.dumps({**json.loads(first.cursor), "next": 0.0})
        early = tick(task, due)
        assert isinstance(early, dg.SkipReason)  # three runs failed, and the model was never brought in
        assert "waiting until metrics/base are made" in str(early.skip_message)
        make_once(TaskStore(task.name), "metrics/base", {}, lambda: Artifact("figures"))
        with dg.DagsterInstance.ephemeral() as busy:
            job = build_defs(tasks=[task]).resolve_implicit_global_asset_job_def()
            busy.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={"task": task.name})
            assert "1 runs of demo are not finished" in str(tick(task, due, busy).skip_message)
        ended = tick(task, due)
        again = tick(task, ended.cursor)  # the daemon died before it started the run
    (request,) = ended.run_requests
    assert "succeeded" in request.run_key and [r.run_key for r in again.run_requests] == [request.run_key]
    assert dg.AssetKey(["demo", "predictions", "hosted"]) in request.asset_selection
    assert read_json(info_path)["fine_tuned_model"]
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs(tasks=[task]).resolve_implicit_global_asset_job_def()
        tags = {**request.tags, "dagster/run_key": request.run_key}
        start_and_kill(instance, job, tags, asset_selection=frozenset(request.asset_selection))
        (retry,) = tick(task, ended.cursor, instance).run_requests
        assert retry.run_key != request.run_key  # its run was killed: the end is not lost
        tags = {**retry.tags, "dagster/run_key": retry.run_key}
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS, tags=tags)
        assert "has done it" in str(tick(task, ended.cursor, instance).skip_message)


def test_a_service_that_is_away_starts_nothing_and_loses_nothing(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(StandIn(job_s=60)) as (_, url):
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        info_path = submit_job(task, tmp_path)
        before = read_json(info_path)
    result = tick(task)  # the server is gone
    assert isinstance(result, dg.SensorResult) and not result.run_requests
    assert "could not be asked" in str(result.skip_reason)
    assert read_json(info_path) == before


def test_a_service_that_repeats_the_key_in_its_refusal_does_not_bring_it_into_the_ui(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-secret-8f7e6d5c4b3a"
    with serving(StandIn(job_s=60)) as (_, url):
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        submit_job(task, tmp_path)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        result = tick(task)
    assert isinstance(result, dg.SensorResult) and "Incorrect API key provided: ***" in str(
        result.skip_reason
    )
    assert key not in repr(result) + caplog.text
