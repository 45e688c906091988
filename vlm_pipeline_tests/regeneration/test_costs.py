"""What rounds cost, and what one more would: by ledgers that failures, kills and foreign adapters stand in rightly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from vlm_pipeline.compute.meter import accelerator_seconds, metered
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.manifest import Artifact, make_once
from vlm_pipeline.regeneration.costs import Cost, accelerator_ledger, ahead, charged, spent
from vlm_pipeline.store import TaskStore, write_json, write_table
from vlm_pipeline.task import Task, load_task

TASK = """\
sections: [a]
base_model: ../base_model
predictors:
  - {name: base, kind: transformers}
  - {name: tuned, kind: transformers, adapter: trained}
  - {name: gpt, kind: openai, model: gpt-4o-mini}
  - {name: gpt_tuned, kind: openai_finetuned, model: gpt-4o-mini-2024-07-18}
scorers: [{kind: text}]
"""


@pytest.fixture
def store(tmp_path: Path) -> TaskStore:
    return TaskStore("demo", tmp_path / "store")


def task_of(folder: Path, more: str = "") -> Task:
    (folder / "demo").mkdir(exist_ok=True)
    (folder / "demo" / "task.yaml").write_text(TASK + more)
    return load_task(folder / "demo")


def test_a_payload_that_failed_is_metered_and_one_that_counted_itself_is_believed(tmp_path: Path) -> None:
    ledger = tmp_path / "accelerator.jsonl"
    with pytest.raises(RuntimeError), metered(ledger, ["training"]):
        time.sleep(0.05)
        raise RuntimeError("out of memory")
    failed = accelerator_seconds(ledger, ["training"])
    assert 0.05 <= failed < 5
    with metered(ledger, ["tuned"]) as counted:
        counted["seconds"] = 7.0  # the rest was waiting for the device
    assert accelerator_seconds(ledger, ["training", "tuned"]) == pytest.approx(failed + 7)
    assert accelerator_seconds(ledger, ["tuned"]) == 7  # training, and candidates of other names, aside


def test_a_killed_payload_is_metered_until_its_last_beat(tmp_path: Path) -> None:
    ledger = tmp_path / "accelerator.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from vlm_pipeline.compute import meter; meter.BEAT_S = 0.1\n"
        "with meter.metered(Path(sys.argv[1]), ['training']): time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(ledger)])
    deadline = time.monotonic() + 60
    while accelerator_seconds(ledger, ["training"]) < 0.3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with ledger.open("a") as torn:
        torn.write('{"payload": "x", "wo')
    assert accelerator_seconds(ledger, ["training"]) >= 0.3


def test_a_round_costs_what_hosted_models_judges_and_payloads_took_since_it_began(
    store: TaskStore, tmp_path: Path
) -> None:
    task = task_of(tmp_path)
    pay(store, "an-earlier-run", 3.0)
    hold(store, "training", 100)
    entry = {"round": 1, "spent_before": {"usd": spent(task, store).usd, "seconds": 100}}
    pay(store, "round-001", 0.25)  # the teacher
    pay(store, "another-run", 1.0)  # predictors, judges and fine-tunes of one run share its ledger
    hold(store, "training", 40)
    hold(store, "tuned", 2)
    hold(store, "stranger-1234", 500)  # an adapter made elsewhere, evaluated meanwhile
    found = charged(task, store, entry)
    assert (found["cost_usd"], found["accelerator_seconds"]) == (1.25, 42)


def test_one_more_round_takes_a_training_the_learner_anew_and_the_hosted_fine_tune(
    store: TaskStore, tmp_path: Path
) -> None:
    task = task_of(tmp_path)
    assert ahead(task, store, "tuned") == Cost()
    made = {"adapter": 60.0, "predictions/tuned": 5.0, "predictions/base": 4.0}
    for name, seconds in made.items():
        make_once(store, name, {}, lambda s=seconds: Artifact("1", {"accelerator_seconds": s}))
    for name, price in {"tuned": 0.0, "gpt": 0.1, "gpt_tuned": 0.2}.items():
        table = pa.table({"cost_usd": [price, price]})
        write_table(store.path("predictions", f"{name}.parquet"), table)
    write_json(store.path("metrics", "tuned.json"), {"external": {"judging": {"usage": {"cost_usd": 0.05}}}})
    write_json(store.path("openai", "fine_tune_info.json"), {"estimate": {"usd": 3.0}})
    assert ahead(task, store, "tuned") == Cost(pytest.approx(3.45), 65.0)
    shots = task_of(tmp_path, "regeneration: {strategies: [few_shot]}\n")
    assert ahead(shots, store, "tuned") == Cost(
        pytest.approx(3.65), 69.0
    )  # every prompt changes: all are asked


def pay(store: TaskStore, ledger: str, usd: float) -> None:
    budget = Budget(10, store.path("spend", f"{ledger}.jsonl"))
    budget.settle(budget.reserve(usd), usd)


def hold(store: TaskStore, work: str, seconds: float) -> None:
    ledger = accelerator_ledger(store)
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a") as lines:
        lines.write(json.dumps({"payload": f"{work} {seconds}", "work": [work], "seconds": seconds}) + "\n")
