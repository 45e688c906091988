"""The tests of the gate: one per bar, and with --each-row one per row. `-k` picks by model, scorer, section or id."""

from __future__ import annotations

import json
import os

import pytest

from vlm_pipeline.scoring.judge_models import prepare_deepeval


def test_bar(gate, bar):
    """The figure passes its bar (with --demonstrated: its whole interval does)."""
    if gate.holds(bar):
        return
    shown = "nothing was scored"
    if bar["estimate"] is not None:
        limits = f" [{bar['low']:.3f}, {bar['high']:.3f}]" if bar["low"] is not None else ""
        shown = f"{bar['estimate']:.3f}{limits}"
    pytest.fail(f"{bar['name']}: {shown} on {bar['n']} rows misses the bar of {bar['bar']:g}", pytrace=False)


def test_row(gate, row):
    """One stored answer as a DeepEval test case, scored by the task's own scorers."""
    prepare_deepeval(gate.store.cache)
    from deepeval import assert_test
    from deepeval.test_case import LLMTestCase

    from vlm_pipeline.scoring.deepeval_metrics import metric_of

    prediction = row["prediction"]
    if prediction is None or prediction.get("error") is not None:
        pytest.fail(f"no answer: {(prediction or {}).get('error') or 'not asked'}", pytrace=False)
    metadata = json.loads(row["metadata"] or "{}")
    if row.get("answer_value"):
        metadata.setdefault("answer", json.loads(row["answer_value"]))
    case = LLMTestCase(
        input=row["prompt_text"] or row["id"],
        actual_output=prediction["text"] or "",
        expected_output=row["answer"],
        metadata=metadata,
        name=row["id"],
    )
    os.environ.setdefault("DEEPEVAL_DISABLE_PROGRESS_BAR", "1")
    assert_test(case, [metric_of(settings) for settings in gate.task.scorers], run_async=False)
