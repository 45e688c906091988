"""The real command over real data: figures may be poor, rows may not be lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_pipeline_tests.end_to_end.tables import check_tables

PROJECT = Path(__file__).parents[2]
DATA = Path(os.environ.get("VLM_PIPELINE_TEST_DATA", "/nonexistent"))
BASE = Path(os.environ.get("VLM_PIPELINE_TEST_BASE", PROJECT / "data" / "base_model"))
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
    text = TASK.format(
        rows=source, images=source.parent, sections=", ".join(sections), base=BASE, scorers=scorers
    )
    (folder / "task.yaml").write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "VLM_PIPELINE_TASKS": str(tmp_path / "tasks"),
        "VLM_PIPELINE_STORE": str(tmp_path / "store"),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "vlm_pipeline.definitions"]
    command += ["-j", f"retrain_and_eval_{name}"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    return tmp_path / "store" / name, [json.loads(line) for line in source.read_text("utf-8").splitlines()]


@needs_data
def test_street_photographs_with_human_scores(tmp_path: Path) -> None:
    cities = ["boston", "linz", "new_york_city", "salzburg"]
    store, source = run_loop(tmp_path, "street_safety", cities, "  - {kind: score, low: 0, high: 10}")
    assert len(source) == 160
    check_tables(store, source, DATA / "street_safety", BASE, ["base", "tuned"])


@needs_data
@pytest.mark.slow
def test_real_charts_with_human_questions(tmp_path: Path) -> None:
    scorers = "  - {kind: relaxed}\n  - {kind: quantity, name: corrected}"
    store, source = run_loop(tmp_path, "chartqa_owid_oecd", ["human"], scorers)
    assert len(source) == 230
    check_tables(store, source, DATA / "chartqa_owid_oecd", BASE, ["base", "tuned"])
