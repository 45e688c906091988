"""Which answers are paired: by the task's scorer and a margin, never on rows that measure, every row accounted for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vlm_pipeline.preferences.pairs import Pair, PreferenceError, choose_pairs
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.scoring.table import score_table
from vlm_pipeline.settings.preferences import PreferenceSettings
from vlm_pipeline.settings.scoring import ScoreSettings, TextSettings

TEXT = TextSettings(kind="text", primary="exact")
SCORE = ScoreSettings(kind="score", low=0, high=10)


def row(name: str, answer: str, split: str = "val") -> dict[str, Any]:
    return {
        "id": name, "section": "s", "group": name, "split": split, "answer": answer, "answer_value": None,
        "metadata": "{}", "prompt_text": "?",
    }  # fmt: skip


def said(name: str, predictor: str, text: str | None, **more: Any) -> dict[str, Any]:
    return {
        "id": name, "predictor": predictor, "text": text, "error": None, "sample": 0, "finish_reason": "stop", **more
    }  # fmt: skip


def chosen(
    rows: list[dict[str, Any]], answers: list[dict[str, Any]], scorer: Any = TEXT, **options: Any
) -> tuple[list[Pair], dict[str, int]]:
    built = build_scorer(scorer)
    scores = score_table([built], rows, answers)
    given = {"pair": ("base", "tuned"), "scorer": built.name, "margin": 0.2, **options}
    return choose_pairs(rows, scores, answers, **given)


def test_every_row_is_a_pair_or_has_a_reason() -> None:
    answers = {  # row -> base, tuned
        "better": ("no idea", "31 Nm"),
        "worse": ("31 Nm", "no idea"),
        "both": ("31 Nm", "31 Nm"),
        "neither": ("no idea", "none"),
        "empty": ("", "31 Nm"),
        "failed": (None, "31 Nm"),
    }
    rows = [row(name, "31 Nm") for name in answers]
    told = [
        said(name, predictor, text, error="timeout" if text is None else None)
        for name, texts in answers.items()
        for predictor, text in zip(("base", "tuned"), texts, strict=True)
    ]
    pairs, left_out = chosen([*rows, row("unasked", "31 Nm")], told)
    assert [(one.id, one.chosen_by, one.chosen, one.rejected_by, one.rejected) for one in pairs] == [
        ("better", "tuned", "31 Nm", "base", "no idea"),
        ("worse", "base", "31 Nm", "tuned", "no idea"),
    ]
    assert len(pairs) + sum(left_out.values()) == 7
    assert left_out["tie: both right"] == left_out["tie: neither right"] == 1
    assert left_out["base: no answer (error)"] == left_out["base: no answer (missing)"] == 1


def test_an_answer_that_nothing_could_be_read_from_is_not_the_worse_one() -> None:
    """Unscored is never wrong, here as everywhere."""
    answers = [said("a", "base", "The bell is green."), said("a", "tuned", "Safety score: 4")]
    answers += [said("b", "base", "Safety score: 9"), said("b", "tuned", "Safety score: 4")]
    pairs, left_out = chosen([row("a", "4"), row("b", "4")], answers, SCORE)
    assert [one.id for one in pairs] == ["b"] and left_out == {"base: nothing could be read": 1}


def test_the_margin_counts_points_of_an_error_downwards() -> None:
    answers = [said("a", "base", "Safety score: 6"), said("a", "tuned", "Safety score: 5")]
    rows = [row("a", "4")]
    ((only,), _) = chosen(rows, answers, SCORE, margin=1.0)
    assert (only.chosen_by, only.chosen_score, only.rejected_score) == ("tuned", 1.0, 2.0)
    assert chosen(rows, answers, SCORE, margin=1.5) == ([], {"tie: within the margin": 1})


def test_the_gold_answer_stands_in_only_where_asked_and_only_where_neither_is_right() -> None:
    rows = [row("neither", "31 Nm"), row("one", "31 Nm")]
    answers = [said("neither", "base", "no idea"), said("neither", "tuned", "32 Nm")]
    answers += [said("one", "base", "no idea"), said("one", "tuned", "31 Nm")]
    pairs, _ = chosen(rows, answers)
    assert [one.id for one in pairs] == ["one"]
    pairs, left_out = chosen(rows, answers, gold="neither_right")
    assert [(one.id, one.chosen, one.chosen_by, one.chosen_score, one.rejected) for one in pairs] == [
        ("neither", "31 Nm", "gold", None, "32 Nm"),  # of two that are equally wrong, the one to be trained
        ("one", "31 Nm", "tuned", 1.0, "no idea"),
    ]
    assert left_out == {}


def test_a_better_answer_that_was_cut_off_teaches_no_ending() -> None:
    rows = [row("a", "31 Nm"), row("b", "31 Nm")]
    answers = [said("a", "base", "no idea"), said("a", "tuned", "31 Nm", finish_reason="length")]
    answers += [said("b", "base", "no idea no idea", finish_reason="length"), said("b", "tuned", "31 Nm")]
    pairs, left_out = chosen(rows, answers)
    assert [(one.id, one.rejected_cut) for one in pairs] == [("b", True)]
    assert left_out == {"tuned: better, but cut off": 1}


@pytest.mark.parametrize("split", ["test", "final", "probe"])
def test_rows_that_measure_are_refused(split: str) -> None:
    rows = [row("a", "31 Nm", split)]
    answers = [said("a", "base", "no idea"), said("a", "tuned", "31 Nm")]
    with pytest.raises(PreferenceError, match=f"row a is a {split} row"):
        chosen(rows, answers)
    with pytest.raises(ValidationError, match=f"{split} rows measure what is trained"):
        PreferenceSettings(split=split)


def test_a_predictor_that_was_never_measured_is_named() -> None:
    with pytest.raises(PreferenceError, match="no answer of tuned was scored"):
        chosen([row("a", "31 Nm")], [said("a", "base", "no idea")])
