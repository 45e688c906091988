"""The pure scorers as DeepEval metrics."""

from __future__ import annotations

import asyncio

import pytest

from vlm_pipeline.scoring.judge_models import prepare_deepeval


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    prepare_deepeval(tmp_path_factory.mktemp("cache"))
    from vlm_pipeline.scoring import deepeval_metrics

    return deepeval_metrics


def case(answer, expected="65 Nm", **columns):
    from deepeval.test_case import LLMTestCase

    return LLMTestCase(input="How much?", actual_output=answer, expected_output=expected, **columns)


@pytest.mark.parametrize(
    ("answer", "score"), [("Tighten to 65 Nm.", 1.0), ("48 ft-lb", 1.0), ("56 Nm", 0.0), ("No idea.", 0.0)]
)
def test_numeric_exact_match(metrics, answer, score):
    metric = metrics.NumericExactMatch()
    assert metric.measure(case(answer)) == score
    assert metric.is_successful() is (score == 1.0) and metric.reason
    assert asyncio.run(metric.a_measure(case(answer))) == score


def test_keyword_presence(metrics):
    metric = metrics.KeywordPresence()
    asked = case(
        "Loosen the bolts, then lift the cover.", metadata={"expected_keywords": ["bolt", "cover", "gasket"]}
    )
    assert metric.measure(asked) == pytest.approx(2 / 3)
    assert metric.is_successful() is False and "gasket" in metric.reason


def test_an_unreadable_gold_is_no_wrong_answer(metrics):
    with pytest.raises(ValueError, match="gold answer cannot be read"):
        metrics.NumericExactMatch().measure(case("65 Nm", expected="as usual"))


def test_inside_deepeval_evaluate(metrics):
    from deepeval import assert_test

    assert_test(case("65 Nm"), [metrics.NumericExactMatch()], run_async=False)
    with pytest.raises(AssertionError, match="NumericExactMatch"):
        assert_test(case("66.9 kg"), [metrics.NumericExactMatch()], run_async=False)
