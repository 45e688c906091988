"""Fine-tuning against the stand-in: one job per data, whatever is killed or lost; prices; what is recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.inference import openai_finetune as fine_tune
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.clients import client_for
from vlm_pipeline.inference.hosted_run import make_hosted
from vlm_pipeline.inference.openai_jobs import list_jobs
from vlm_pipeline.inference.predictors import availability
from vlm_pipeline.settings.predictors import GenerationSettings, OpenAIFineTunedPredictor
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.inference.test_hosted import ask, collect
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import Faults, StandIn

SETTINGS = OpenAIFineTunedPredictor(
    name="tuned", kind="openai_finetuned", model="stand-in-small", n_epochs=2, price={"input": 1, "output": 1, "training": 10}
)  # fmt: skip


def write_rows(path: Path, count: int = 12, word: str = "answer") -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is value {number}?"},
                {"role": "assistant", "content": f"{word} {number}"},
            ]
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def submit(url: str, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = changes.pop("settings", SETTINGS)
    return fine_tune.submit(
        changes.pop("train", folder / "train.jsonl"),
        None,
        settings,
        info_path=folder / "fine_tune_info.json",
        budget=changes.pop("budget", Budget(1.0)),
        client=client_for(settings, environment(url)),
    )


def test_submit_returns_at_once_and_the_result_is_recorded_with_its_data(tmp_path):
    write_rows(tmp_path / "train.jsonl")
    with serving(StandIn(job_s=0.4)) as (_, url):
        info = submit(url, tmp_path)
        assert info["status"] in ("queued", "running") and info["job_id"].startswith("ftjob")
        on_disk = read_json(tmp_path / "fine_tune_info.json")
        assert on_disk["job_id"] == info["job_id"] and on_disk["training_file"]
        assert (availability(SETTINGS, environment(url), fine_tune=on_disk) or "").startswith(
            "pending: the fine-tuning job"
        )
        client = client_for(SETTINGS, environment(url))
        done = fine_tune.wait(tmp_path / "fine_tune_info.json", client, poll_s=0.1, timeout_s=60)
        assert done["status"] == "succeeded" and done["fine_tuned_model"].startswith("ft:stand-in-small:")
        assert done["data"]["training"] and done["metrics"]["train_loss"] > 0 and done["cost_usd"] > 0
        assert [point["step"] for point in done["checkpoints"]] == [2, 4]
        assert done["events"][0]["message"].startswith("The job was created")
        assert availability(SETTINGS, environment(url), fine_tune=done) is None
        listed = list_jobs(client)
        assert [(job["job_id"], job["key"]) for job in listed] == [(info["job_id"], info["key"])]
        predictor = make_hosted(
            SETTINGS, GenerationSettings(), Budget(1.0), model=done["fine_tuned_model"], env=environment(url)
        )
        assert collect(predictor, [ask(3)])["r3"].text == "answer 3", (
            "the tuned stand-in knows its training rows"
        )


def test_unchanged_data_is_no_new_job_and_changed_data_or_settings_are(tmp_path):
    write_rows(tmp_path / "train.jsonl")
    with serving() as (stand_in, url):
        first = submit(url, tmp_path)
        assert submit(url, tmp_path)["job_id"] == first["job_id"] and len(stand_in.jobs) == 1
        assert len(stand_in.files) == 1
        submit(url, tmp_path, settings=SETTINGS.model_copy(update={"n_epochs": 3}))
        assert len(stand_in.jobs) == 2 and len(stand_in.files) == 1, "the same file is uploaded once"
        write_rows(tmp_path / "train.jsonl", word="other")
        info = submit(url, tmp_path)
        assert len(stand_in.jobs) == 3 and len(stand_in.files) == 2
        assert next(past["job_id"] for past in info["history"]) == first["job_id"]


def test_lost_answers_and_broken_servers_still_make_one_job(tmp_path):
    """The answer to `create` may be cut after the job was made: it must be looked for before asking again."""
    write_rows(tmp_path / "train.jsonl")
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_rows(folder / "train.jsonl")
        faults = Faults(0.4, seed=seed, slow_s=0.01, retry_after_s=0.01, everywhere=True)
        with serving(StandIn(faults=faults, job_s=0.05)) as (stand_in, url):
            info = submit(url, folder)
            done = fine_tune.wait(
                folder / "fine_tune_info.json",
                client_for(SETTINGS, environment(url)),
                poll_s=0.05,
                timeout_s=60,
            )
            assert (
                len(stand_in.jobs) == 1 and done["job_id"] == info["job_id"] and done["status"] == "succeeded"
            )
            assert sum(stand_in.injected.values()) > 0


def test_a_killed_run_finds_the_same_job(tmp_path):
    """SIGKILL between the server's creating the job and our writing its id."""
    write_rows(tmp_path / "train.jsonl")
    script = textwrap.dedent(
        """
        import os, sys, time
        from pathlib import Path
        from vlm_pipeline.inference import openai_finetune as fine_tune
        from vlm_pipeline_tests.inference import test_openai_finetune as here
        made = fine_tune._create
        def create_then_hang(*arguments):
            made(*arguments)
            print("created", flush=True)
            time.sleep(600)
        fine_tune._create = create_then_hang
        here.submit(sys.argv[1], Path(sys.argv[2]))
        """
    )
    with serving() as (stand_in, url):
        victim = subprocess.Popen(
            [sys.executable, "-c", script, url, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert victim.stdout is not None and victim.stdout.readline().strip() == "created"
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait(10)
        assert "job_id" not in read_json(tmp_path / "fine_tune_info.json")
        info = submit(url, tmp_path)
        assert len(stand_in.jobs) == 1 and info["job_id"] in stand_in.jobs and len(stand_in.files) == 1


def test_a_job_that_had_ended_when_it_was_found_is_known_with_its_model(tmp_path):
    """A run that died after the upload comes back after the job's end: nothing else would ever look at it."""
    write_rows(tmp_path / "train.jsonl")
    with serving(StandIn(job_s=0.0)) as (stand_in, url):
        submit(url, tmp_path)
        (tmp_path / "fine_tune_info.json").unlink()
        info = submit(url, tmp_path)
        assert info["status"] == "succeeded" and info["fine_tuned_model"].startswith("ft:stand-in-small")
        assert info["metrics"]["train_loss"] > 0 and read_json(tmp_path / "fine_tune_info.json") == info
        assert len(stand_in.jobs) == 1


def test_a_price_beyond_the_budget_uploads_nothing(tmp_path):
    write_rows(tmp_path / "train.jsonl")
    with serving() as (stand_in, url):
        with pytest.raises(fine_tune.FineTuneError, match="may cost"):
            submit(url, tmp_path, budget=Budget(1e-6))
        assert not stand_in.files and not stand_in.jobs and not (tmp_path / "fine_tune_info.json").exists()


def test_bad_files_are_refused_before_anything_is_sent(tmp_path):
    write_rows(tmp_path / "train.jsonl", count=4)
    with serving() as (stand_in, url):
        with pytest.raises(fine_tune.FineTuneError, match="at least 10"):
            submit(url, tmp_path)
        with pytest.raises(fine_tune.FineTuneError, match="materialize openai_jsonl"):
            submit(url, tmp_path, train=tmp_path / "nothing.jsonl")
        assert stand_in.requests.total() == 0


def test_a_cancelled_job_is_started_anew(tmp_path):
    write_rows(tmp_path / "train.jsonl")
    with serving(StandIn(job_s=30)) as (stand_in, url):
        first = submit(url, tmp_path)
        client = client_for(SETTINGS, environment(url))
        assert fine_tune.cancel(tmp_path / "fine_tune_info.json", client)["status"] == "cancelled"
        second = submit(url, tmp_path)
        assert second["job_id"] != first["job_id"] and len(stand_in.jobs) == 2


def test_azure_takes_the_same_path_and_its_model_waits_for_a_deployment(tmp_path):
    write_rows(tmp_path / "train.jsonl")
    azure = SETTINGS.model_copy(update={"provider": "azure_openai"})
    with serving(StandIn(job_s=0.0)) as (stand_in, url):
        env = environment(url)
        info = submit(url, tmp_path, settings=azure)
        assert info["status"] == "succeeded" and info["job_id"] in stand_in.jobs
        state = availability(azure, env, fine_tune=info) or ""
        assert (
            state.startswith("pending: ft:stand-in-small") and "name the deployment in `deployment`" in state
        )
        assert (
            availability(azure, {}) == "not run: AZURE_OPENAI_API_KEY and AZURE_OPENAI_ENDPOINT are not set"
        )
        deployed = azure.model_copy(update={"deployment": info["fine_tuned_model"]})
        assert availability(deployed, env, fine_tune=info) is None
        predictors = [
            make_hosted(deployed, GenerationSettings(), Budget(1.0), model=model, env=env)
            for model in (info["fine_tuned_model"], "the model that the deployment held before")
        ]
        assert collect(predictors[0], [ask(3)])["r3"].text == "answer 3"
        assert predictors[0].fingerprint != predictors[1].fingerprint, "a deployment is a name, not a model"
