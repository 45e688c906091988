"""Judging a round: a real gain is found, noise is not, and a loss elsewhere outweighs a gain."""

from __future__ import annotations

import random

import pytest

from vlm_pipeline.regeneration.outcome import compare_rounds, decide


def scores(
    rates: dict[str, float], seed: int, split: str = "val", pages: int = 10, questions: int = 11
) -> list[dict]:
    """Row scores of ten pages a section, right at the given rates."""
    rng = random.Random(seed)
    rows = []
    for section, rate in rates.items():
        for number in range(pages * questions):
            right = rng.random() < rate
            rows.append(
                {
                    "id": f"{section}-{number}", "section": section, "group": f"{section}-page-{number // questions}",
                    "split": split, "predictor": "tuned", "scorer": "text", "kind": "text", "version": "1", "sample": 0,
                    "status": "scored", "primary": "exact", "headline": float(right), "values": {"exact": right},
                    "extracted": None, "gold": None, "rule": None, "span": None, "inferred": False,
                    "failure": None if right else "other", "notes": [], "detail": None,
                }
            )  # fmt: skip
    return rows


BEFORE = {"torque": 0.8, "fluids": 0.4, "diagrams": 0.8}


def judge(after: dict[str, float], targets: set[str], keep: str = "demonstrated") -> tuple[bool, str]:
    val = compare_rounds(scores(BEFORE, 1), scores(after, 2), targets)
    return decide(val, targets, keep)  # type: ignore[arg-type]


def test_a_gain_in_the_section_that_was_aimed_at_is_kept_with_its_figures() -> None:
    keep, sentence = judge({**BEFORE, "fluids": 0.8}, {"fluids"})
    assert keep and "fluids" in sentence and "110 rows of 10 pages" in sentence


def test_noise_is_undone_unless_the_task_keeps_what_is_not_worse() -> None:
    keep, sentence = judge(BEFORE, {"fluids"})
    assert not keep and "no gain in fluids" in sentence
    keep, sentence = judge(BEFORE, {"fluids"}, "not_worse")
    assert keep and "not demonstrated" in sentence


def test_a_gain_bought_with_a_loss_elsewhere_is_undone() -> None:
    for choice in ("demonstrated", "not_worse"):
        keep, sentence = judge({"torque": 0.3, "fluids": 0.8, "diagrams": 0.8}, {"fluids"}, choice)
        assert not keep and "loss in torque" in sentence


def test_a_gain_in_a_section_that_nobody_aimed_at_keeps_nothing() -> None:
    keep, _ = judge({**BEFORE, "diagrams": 0.99}, {"fluids"})
    assert not keep


def test_chance_alone_is_seldom_kept() -> None:
    kept = 0
    for seed in range(8):
        val = compare_rounds(scores(BEFORE, 100 + seed), scores(BEFORE, 500 + seed), {"fluids", "torque"})
        kept += decide(val, {"fluids", "torque"}, "demonstrated")[0]
    assert kept <= 2


def test_figures_of_different_scorers_or_splits_are_not_compared() -> None:
    other = [{**row, "version": "2"} for row in scores(BEFORE, 2)]
    with pytest.raises(ValueError, match="scorer changed"):
        compare_rounds(scores(BEFORE, 1), other, {"fluids"})
    with pytest.raises(ValueError, match="one split"):
        compare_rounds(scores(BEFORE, 1), scores(BEFORE, 1) + scores(BEFORE, 2, "test"), {"fluids"})
