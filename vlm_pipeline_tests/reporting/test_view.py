from __future__ import annotations

import pytest

from vlm_pipeline.reporting.view import Metric, number_text, p_text, signed

SHARE = Metric("exact", "Exact answers", percent=True)
ERROR = Metric("mae", "Mean absolute error", lower_is_better=True)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (SHARE, 0.5625, "56.2 %"),
        (SHARE, 1.0, "100.0 %"),
        (SHARE, None, "—"),
        (ERROR, 1.0, "1.00"),
        (ERROR, float("nan"), "—"),
    ],
)
def test_values_keep_the_digits_of_their_metric(metric: Metric, value: float | None, text: str) -> None:
    assert metric.value(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (SHARE, 0.43, "+43.0"),
        (SHARE, -0.004, "−0.4"),
        (SHARE, 0.0, "0.0"),
        (ERROR, -1.0, "−1.00"),
        (ERROR, -0.001, "0.00"),
    ],
)
def test_differences_carry_a_sign_unless_they_round_to_nothing(
    metric: Metric, value: float, text: str
) -> None:
    assert metric.difference(value) == text


def test_intervals_of_differences_are_signed() -> None:
    assert SHARE.interval(-0.02, 0.3, signs=True) == "[−2.0, +30.0]"
    assert SHARE.interval(0.1, 0.3) == "[10.0, 30.0]"
    assert SHARE.interval(None, 0.3) == ""


def test_small_helpers() -> None:
    assert signed("-0.00") == "0.00"
    assert [p_text(p) for p in (0.0004, 0.0123, 0.5, None)] == ["< 0.001", "0.012", "0.50", "—"]
    assert [number_text(v) for v in (None, True, 3.0, 12345.6, "a")] == ["—", "yes", "3", "12,346", "a"]
