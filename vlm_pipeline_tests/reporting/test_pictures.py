from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import unquote

from vlm_pipeline.reporting import ReportInputs
from vlm_pipeline.reporting.pictures import comparison_pictures, metric_pictures, report_rows
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
from vlm_pipeline_tests.reporting.synthetic import make_inputs

TASK = """\
sections: [torque, clearances, fluids, procedures, diagrams]
base_model: ../base_model
predictors:
  - {name: base, kind: transformers}
  - {name: tuned, kind: transformers, adapter: trained, label: "tuned [x](http://evil.invalid)"}
scorers: [{kind: score, low: 1, high: 10}]
"""


def _task(folder: Path):
    (folder / "street").mkdir()
    (folder / "street" / "task.yaml").write_text(TASK)
    return load_task(folder / "street")


def _sizes(metadata: dict) -> dict[str, int]:
    for name, value in metadata.items():
        picture = value["md"].split("](data:image/png;base64,", 1)[1].rstrip(")")
        assert base64.b64decode(picture).startswith(b"\x89PNG"), name
    return {name: len(value["md"]) for name, value in metadata.items()}


def test_a_comparison_shows_differences_sections_failures_and_cost(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    metrics = {name: found["splits"]["test"] for name, found in inputs.metrics.items()}
    sizes = _sizes(comparison_pictures(_task(tmp_path), inputs.comparison, metrics))
    assert list(sizes) == ["differences", "sections", "failures", "quality_against_cost"]
    assert sum(sizes.values()) < 250_000


def test_a_predictor_shows_how_it_misses(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, count=60, pages=12, score=True)
    found = metric_pictures(_task(tmp_path), "tuned", inputs.metrics["tuned"], inputs.scores["tuned"])
    assert list(_sizes(found)) == ["predicted_against_expected", "confusion", "errors", "failures"]
    assert sum(map(len, (one["md"] for one in found.values()))) < 250_000


def test_a_task_without_numbers_has_no_empty_pictures(tmp_path: Path) -> None:
    text = {
        "scorer": "text",
        "kind": "text",
        "split": "test",
        "sample": 0,
        "gold": "gear",
        "extracted": "ring",
        "values": {},
    }
    result = {"splits": {"test": {"scorers": {"text": {"failures": {"other": 3}}}}}}
    assert list(metric_pictures(_task(tmp_path), "base", result, [text])) == ["failures"]


def test_the_path_to_the_rows_is_one_that_the_page_follows(tmp_path: Path) -> None:
    path = report_rows(TaskStore("demo", tmp_path), section="a & b=c", outcome="wrong")["rows_in_the_report"][
        "path"
    ]
    assert path.startswith(str(tmp_path)) and path.split("#", 1)[1] == "section=a%20%26%20b%3Dc&outcome=wrong"
    assert unquote(path).endswith("section=a & b=c&outcome=wrong")
    assert report_rows(TaskStore("demo", tmp_path), "weak")["rows_in_the_report"]["path"].endswith(
        "index.html#weak"
    )
