"""The DeepEval wrappers score like the row scorers, through DeepEval's own test case and runner."""

import os

import pytest

for switch in ("DEEPEVAL_TELEMETRY_OPT_OUT", "DEEPEVAL_DISABLE_DOTENV", "DEEPEVAL_NO_INSPECT_PROMPT"):
    os.environ.setdefault(switch, "1")
metrics = pytest.importorskip("vlm_pipeline.scoring.deepeval_metrics", reason="deepeval is not installed")
from deepeval.test_case import LLMTestCase  # noqa: E402


def test_numeric_exact_match() -> None:
    metric = metrics.NumericExactMatch()
    case = LLMTestCase(
        input="Torque?", actual_output="Tighten to 65 N·m (48 ft-lb).", expected_output="65 Nm"
    )
    assert metric.measure(case) == 1.0 and metric.is_successful()
    wrong = LLMTestCase(input="Torque?", actual_output="Tighten to 70 Nm.", expected_output="65 Nm")
    assert metric.measure(wrong) == 0.0 and not metric.is_successful() and "wrong_number" in metric.reason
    silent = LLMTestCase(input="Torque?", actual_output="I cannot help with that.", expected_output="65 Nm")
    assert metric.measure(silent) == 0.0 and not metric.is_successful() and "refusal" in metric.reason


def test_unreadable_expected_output_is_an_error_of_the_data() -> None:
    with pytest.raises(ValueError, match="gold answer"):
        metrics.NumericExactMatch().measure(
            LLMTestCase(input="?", actual_output="65 Nm", expected_output="see page")
        )


def test_keyword_presence() -> None:
    metric = metrics.KeywordPresence()
    case = LLMTestCase(
        input="How?",
        actual_output="Unplug the batteries.",
        expected_output="",
        metadata={"expected_keywords": ["battery", "glove"]},
    )
    assert metric.measure(case) == 0.5 and not metric.is_successful() and "missing: glove" in metric.reason


def test_deepeval_runs_the_metric_itself() -> None:
    from deepeval import assert_test

    case = LLMTestCase(input="Torque?", actual_output="65 Nm", expected_output="65 Nm")
    assert_test(case, [metrics.NumericExactMatch()], run_async=False)
    wrong = LLMTestCase(input="?", actual_output="66 Nm", expected_output="65 Nm")
    with pytest.raises(AssertionError):
        assert_test(wrong, [metrics.NumericExactMatch()], run_async=False)
