"""The real command over real data: figures may be poor, rows may not be lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

PROJECT = Path(__file__).parents[2]
DATA = Path(os.environ.get("VLM_PIPELINE_TEST_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="VLM_PIPELINE_TEST_DATA names no folder of real data sets"
)

TASK = """\
source: {{path: {rows}, images: {images}, outside: true}}
sections: [{sections}]
splits: {{train: 0.6, val: 0.2, test: 0.2}}
base_model: {base}
training: {{max_steps: 3, batch_size: 4, accumulation: 1, eval_steps: 3, save_steps: 3, gate_rows: 4, gate_zero: warn}}
generation: {{max_new_tokens: 12}}
predictors:
  - {{name: base, kind: transformers}}
  - {{name: tuned, kind: transformers, adapter: trained}}
scorers:
{scorers}
"""


def run_loop(tmp_path: Path, name: str, sections: list[str], scorers: str) -> tuple[Path, list[dict]]:
    """Run `dagster job execute` on a real set; returns the task's store and the source rows."""
    source = DATA / name / f"{name}.jsonl"
    folder = tmp_path / "tasks" / name
    folder.mkdir(parents=True)
    base = os.environ.get("VLM_PIPELINE_TEST_BASE", str(PROJECT / "data" / "base_model"))
    text = TASK.format(
        rows=source, images=source.parent, sections=", ".join(sections), base=base, scorers=scorers
    )
    (folder / "task.yaml").write_text(text)
    environment = {
        **os.environ,
        "VLM_PIPELINE_TASKS": str(tmp_path / "tasks"),
        "VLM_PIPELINE_STORE": str(tmp_path / "store"),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "vlm_pipeline.definitions"]
    command += ["-j", f"retrain_and_eval_{name}"]
    result = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    return tmp_path / "store" / name, [json.loads(line) for line in source.read_text("utf-8").splitlines()]


def table(store: Path, kind: str) -> list[dict]:
    return [
        row
        for path in sorted((store / kind).glob("[!_]*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def check_tables(store: Path, source: list[dict]) -> None:
    """Every table against its input, row by row."""
    expected = {row["metadata"]["id"]: row for row in source}
    raw = {row["id"]: row for row in table(store, "raw")}
    aside = {row["row_id"] for row in table(store, "quarantine")}
    aside |= {row["row_id"] for row in pq.read_table(store / "quarantine" / "_source.parquet").to_pylist()}
    assert raw.keys() | aside == expected.keys() and len(raw) + len(
        aside & expected.keys() - raw.keys()
    ) == len(source)
    for name, row in raw.items():
        messages = json.loads(row["messages"])
        assert messages[-1]["content"] == expected[name]["conversations"][-1]["content"]
        assert row["section"] == expected[name]["metadata"]["section"]
        assert Path(row["images"][0]["path"]).name == Path(expected[name]["image"]).name
    formatted = {row["id"]: row for row in table(store, "formatted")}
    assert formatted.keys() == raw.keys() - aside
    for name, row in formatted.items():
        assert row["answer"] == expected[name]["conversations"][-1]["content"]
        assert expected[name]["conversations"][0]["content"] in row["text"]
        assert row["split"] == raw[name]["split"] and row["n_supervised"] > 0
        supervised = [
            token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100
        ]
        assert supervised == [label for label in row["labels"] if label != -100]
    asked = {name for name, row in formatted.items() if row["split"] in ("val", "test")}
    for predictor in ("base", "tuned"):
        predictions = pq.read_table(store / "predictions" / f"{predictor}.parquet").to_pylist()
        assert sorted(row["id"] for row in predictions) == sorted(asked)
        assert all(row["error"] is None and row["text"] is not None for row in predictions)
        metrics = json.loads((store / "metrics" / f"{predictor}.json").read_text())
        for split in ("val", "test"):
            headline = metrics["splits"][split]["headline"]
            assert headline["n"] + headline["n_gold_errors"] == sum(
                formatted[n]["split"] == split for n in asked
            )
    comparison = json.loads((store / "comparison.json").read_text())
    assert comparison["decision"]["sentence"] and (store / "report" / "index.html").is_file()


@needs_data
def test_street_photographs_with_human_scores(tmp_path: Path) -> None:
    cities = ["boston", "linz", "new_york_city", "salzburg"]
    store, source = run_loop(tmp_path, "street_safety", cities, "  - {kind: score, low: 0, high: 10}")
    assert len(source) == 160
    check_tables(store, source)


@needs_data
@pytest.mark.slow
def test_real_charts_with_human_questions(tmp_path: Path) -> None:
    scorers = "  - {kind: relaxed}\n  - {kind: quantity, name: corrected}"
    store, source = run_loop(tmp_path, "chartqa_owid_oecd", ["human"], scorers)
    assert len(source) == 230
    check_tables(store, source)
