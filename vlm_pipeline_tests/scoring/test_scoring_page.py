"""docs/scoring.md: its settings are valid, its figures are present ones. Its gate commands run in test_gate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from vlm_pipeline.settings.scoring import DEFAULT_THRESHOLDS, bars_of
from vlm_pipeline.task import Task
from vlm_pipeline_tests.scoring.suites import READ, misread

PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text("utf-8")
ROWS = dict(
    zip(("finals", "scores", "choices", "refusals", "quantities"), re.findall(r"\| ([\d.]+ % of \d+) \|", PAGE), strict=True)
)  # fmt: skip


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_settings_of_the_page_are_valid(block: str) -> None:
    given = {"name": "x", "sections": ["a"], "base_model": "b", "scorers": [{"kind": "text"}]}
    given["predictors"] = [{"name": "base", "kind": "transformers"}]
    assert Task.model_validate(given | yaml.safe_load(block)).name == "x"


@pytest.mark.parametrize("suite", READ)
def test_rates_of_the_page_are_those_of_the_suites(suite: str) -> None:
    wrong, n = misread(suite)
    shown = (
        f"{(n - len(wrong)) / n * 100:.1f}".removesuffix(".0")
        if not wrong
        else f"{(n - len(wrong)) / n * 100:.1f}"
    )
    assert ROWS[suite] == f"{shown} % of {n}"


def test_bars_of_the_page_are_the_defaults() -> None:
    task = {
        "name": "x",
        "sections": ["a"],
        "base_model": "b",
        "predictors": [{"name": "base", "kind": "transformers"}],
    }
    for kind, bar in re.findall(r"\| `(\w+)` \|[^|]*\|[^|]*\| ([\d.]+)", PAGE):
        extra = {"choices": ["a", "b"]} if kind == "choice" else {}
        scorers = Task.model_validate(task | {"scorers": [{"kind": kind, **extra}]}).scorers
        assert bars_of(scorers) == {kind: float(bar)}
    assert DEFAULT_THRESHOLDS["argument_f1"] == 0.60
