"""The prediction payload as a process, over a real (random) model: base, adapters, constrained; reruns and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_pipeline.compute.payload import PayloadError, Reporter
from vlm_pipeline.inference.local import LocalEngine, LocalPredictor, stream_prompts
from vlm_pipeline.inference.predict import predict_table
from vlm_pipeline.inference.prediction import read_predictions
from vlm_pipeline.inference.run import run
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.store import write_json
from vlm_pipeline.training.record import AdapterError
from vlm_pipeline_tests.inference import models, world


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    request = world.make_world(folder)
    adapters = [world.make_adapter(folder / f"adapter{seed}", folder / "model", seed=seed) for seed in (1, 2)]
    return request, folder, adapters


def texts(path: Path) -> dict[str, str | None]:
    return {row.id: row.text for row in read_predictions(path)}


def test_payload_process_writes_tables_and_the_next_one_loads_nothing(made, tmp_path):
    request, folder, adapters = made
    request = {
        **request,
        "predictors": ["tuned", "base"],
        "adapters": {"tuned": str(adapters[0])},
        "result": str(tmp_path / "result.json"),
    }
    write_json(tmp_path / "request.json", request)
    command = [sys.executable, "-m", "vlm_pipeline.inference", str(tmp_path / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())["metadata"]
    assert list(result) == ["base", "tuned"], "the base is always answered first"
    assert result["base"]["asked"] == result["tuned"]["asked"] == 24 and result["base"]["failed"] == 0
    tables = {
        name: texts(folder / "store" / "tiny" / "predictions" / f"{name}.parquet")
        for name in ("base", "tuned")
    }
    assert tables["base"].keys() == tables["tuned"].keys() and tables["base"] != tables["tuned"]

    reporter = Reporter()
    again, version = run(request, reporter)
    assert (
        again["base"]["asked"] == again["tuned"]["asked"] == 0 and again["base"]["accelerator_seconds"] == 0
    )
    assert run(request, reporter)[1] == version


def test_several_adapters_over_one_base_answer_as_each_would_alone(made, tmp_path):
    request, folder, adapters = made
    asks = list(stream_prompts(request["formatted"], ["test"]))[:6]
    settings = GenerationSettings(max_new_tokens=6)

    def answers(engine: LocalEngine, adapter: Path | None) -> list[str | None]:
        rows = [
            row
            for batch in LocalPredictor("x", engine, settings, adapter=adapter).predict(asks)
            for row in batch
        ]
        return [row.text for row in sorted(rows, key=lambda row: row.id)]

    shared = LocalEngine(folder / "model")
    order = [None, adapters[0], adapters[1], None, adapters[0]]
    together = [answers(shared, adapter) for adapter in order]
    alone = [answers(LocalEngine(folder / "model"), adapter) for adapter in order[:3]]
    assert together == [*alone, alone[0], alone[1]]
    assert alone[0] != alone[1] != alone[2]
    assert shared.generator(None).pictures.computed == len({ask.images for ask in asks}), (
        "features are shared by all"
    )


def test_pictures_are_computed_once_for_predictors_in_different_processes(made, tmp_path):
    """Every predictor is a payload of its own: the second one reads what the first one's vision tower saw."""
    request, _, adapters = made
    request = {**request, "store": str(tmp_path / "store"), "adapters": {"tuned": str(adapters[0])}}
    first = run({**request, "predictors": ["base"]}, Reporter())[0]
    assert (first["images_computed"], first["asked"]) == (6, 24)
    second = run({**request, "predictors": ["tuned"]}, Reporter())[0]
    assert (second["images_computed"], second["asked"]) == (0, 24)


def test_workers_share_the_rows_and_the_table_is_that_of_one(made, tmp_path):
    request, _, _ = made
    run({**request, "store": str(tmp_path / "one")}, Reporter())
    several = {**request, "store": str(tmp_path / "several")}
    parts = [
        run({**several, "part": [number, 3], "output": str(tmp_path / f"part{number}")}, Reporter())[0]
        for number in range(3)
    ]
    assert sum(part["asked"] for part in parts) == 24 and sum(part["images_computed"] for part in parts) == 6
    whole = run(several, Reporter())[0]
    assert (whole["rows"], whole["asked"]) == (24, 0)
    tables = [texts(tmp_path / name / "tiny" / "predictions" / "base.parquet") for name in ("one", "several")]
    assert tables[0] == tables[1]


def test_a_rerun_loads_no_model(made, tmp_path):
    request, folder, _ = made
    asks, place = list(stream_prompts(request["formatted"], ["test"]))[:3], {"output": tmp_path / "t.parquet"}
    loaded = []
    for _ in range(2):
        engine = LocalEngine(folder / "model")
        predictor = LocalPredictor("x", engine, GenerationSettings(max_new_tokens=3))
        counts = predict_table(predictor, asks, cache_folder=tmp_path, **place)
        loaded.append((engine.loaded, counts.asked))
    assert loaded == [(True, 3), (False, 0)]


def test_constrained_variant_answers_inside_the_pattern(made):
    request, folder, _ = made
    run({**request, "predictors": ["yesno"]}, Reporter())
    assert set(texts(folder / "store" / "tiny" / "predictions" / "yesno.parquet").values()) <= {"yes", "no"}


def test_one_changed_section_is_asked_alone(made, tmp_path):
    """Unchanged models are asked only about changed rows."""
    request, _, _ = made
    request = {**request, "store": str(tmp_path / "store")}
    assert run(request, Reporter())[0]["asked"] == 24
    table = pq.read_table(request["formatted"][1]).to_pylist()
    tokenizer = world.processor().tokenizer
    for row in table[:5]:
        extra = tokenizer(" again")["input_ids"]
        at = row["n_prompt"] - 3
        row["input_ids"] = row["input_ids"][:at] + extra + row["input_ids"][at:]
        row["n_prompt"] += len(extra)
    changed = tmp_path / "beta.parquet"
    pq.write_table(pa.Table.from_pylist(table), changed)
    request = {**request, "formatted": [request["formatted"][0], str(changed)]}
    counts = run(request, Reporter())[0]
    assert (counts["asked"], counts["reused"]) == (5, 19)


def test_sigkill_in_mid_prediction_keeps_every_finished_batch(made, tmp_path):
    request, _, _ = made
    task = tmp_path / "task"
    task.mkdir()
    text = (Path(request["task"]) / "task.yaml").read_text()
    (task / "task.yaml").write_text(
        text.replace("max_new_tokens: 8", "max_new_tokens: 60").replace(
            "{name: base, kind: transformers}", "{name: base, kind: transformers, batch_size: 2}"
        )
    )
    request = {**request, "task": str(task), "store": str(tmp_path / "store")}
    write_json(tmp_path / "request.json", request)
    command = [sys.executable, "-m", "vlm_pipeline.inference", str(tmp_path / "request.json")]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    rows = tmp_path / "store" / "cache" / "rows"
    deadline = time.monotonic() + 400

    def lines() -> int:
        return (
            sum(file.read_bytes().count(b"\n") - 1 for file in rows.glob("*.jsonl")) if rows.is_dir() else 0
        )

    while lines() < 4 and time.monotonic() < deadline and victim.poll() is None:
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait(10)
    kept = lines()
    assert 4 <= kept < 24, "the kill came too early or too late to show anything"
    counts = run(request, Reporter())[0]
    assert counts["asked"] == 24 - kept and counts["failed"] == 0


def test_an_adapter_without_a_record_does_not_exist(made, tmp_path):
    request, folder, adapters = made
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (unfinished / name).write_bytes((adapters[0] / name).read_bytes())
    with pytest.raises(AdapterError, match=r"record\.json"):
        LocalEngine(folder / "model").fingerprint(unfinished)
    outcome, _ = run({**request, "predictors": ["tuned"], "adapters": {"tuned": str(unfinished)}}, Reporter())
    assert outcome == {
        "status": "not run: the adapter unfinished does not exist (its training never finished)"
    }


def test_an_adapter_of_another_base_is_refused(made, tmp_path):
    """peft would load it with a warning at most, and the answers would be nobody's."""
    request, _, adapters = made
    other = models.save(world.small_vision_model(seed=5), world.processor(), tmp_path / "other")
    predictor = LocalPredictor("x", LocalEngine(other), GenerationSettings(), adapter=adapters[0])
    with pytest.raises(AdapterError, match="was trained on"):
        list(predictor.predict(list(stream_prompts(request["formatted"], ["test"]))[:1]))


def test_changed_picture_is_an_error_row_not_another_answer(made, tmp_path):
    """The hash in the row says which pixels were formatted; other bytes under the same name are not those."""
    request, folder, _ = made
    import shutil

    copies = shutil.copytree(folder / "images-alpha", tmp_path / "images")
    rows = pq.read_table(request["formatted"][0]).to_pylist()
    for row in rows:
        row["images"] = [str(copies / Path(row["images"][0]).name)]
    (copies / "page1.png").write_bytes((copies / "page0.png").read_bytes())
    path = world.write_formatted(tmp_path / "alpha.parquet", rows)
    request = {**request, "formatted": [str(path)], "store": str(tmp_path / "store")}
    counts = run(request, Reporter())[0]
    table = read_predictions(tmp_path / "store" / "tiny" / "predictions" / "base.parquet")
    assert counts["failed"] == 4 and {row.id for row in table if row.error} == {
        f"alpha-1-{n}" for n in range(4)
    }
    assert "changed since formatting" in next(row.error for row in table if row.error)


def test_unknown_predictor_is_named(made):
    request, _, _ = made
    with pytest.raises(PayloadError, match="nobody; it has base, tuned, yesno"):
        run({**request, "predictors": ["nobody"]}, Reporter())
