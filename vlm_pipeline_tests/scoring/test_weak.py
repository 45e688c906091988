"""Weak sections: by evidence, on val only, with the failures that show them."""

from __future__ import annotations

import pytest

from vlm_pipeline.scoring.table import score_table
from vlm_pipeline.scoring.weak import weak_sections
from vlm_pipeline_tests.scoring.rows import ExactScorer, PointScorer, formatted, predictions


def found(rates: dict[str, tuple[int, int]], *, scorer=None, split="val", wrong="A: 99", **options):
    """Sections with (right, rows) each, one row per page."""
    rows, texts = [], []
    for section, (right, n) in rates.items():
        for i in range(n):
            rows.append(
                {
                    **formatted(1, split=split)[0],
                    "id": f"{section}-{i}",
                    "group": f"{section}-{i}",
                    "section": section,
                }
            )
            texts.append("A: 0" if i < right else wrong)
    scores = score_table([scorer or ExactScorer()], rows, predictions(rows, "tuned", texts))
    return weak_sections(scores, predictor="tuned", **options)


def test_evidence_ranks_before_the_point_estimate():
    """One of three right looks worse than 120 of 200, and shows nothing."""
    result = found({"tiny": (1, 3), "large": (120, 200), "fine": (198, 200)}, bar=0.85)
    assert [one["section"] for one in result["sections"]] == ["large", "tiny", "fine"]
    assert result["weak"] == ["large"] and result["undecided"] == ["tiny"]
    assert result["sections"][2]["finding"] == "strong"


def test_a_section_is_held_against_its_own_bar():
    result = found({"hard": (110, 200), "easy": (110, 200)}, bar=0.85, section_bars={"hard": 0.4})
    assert {one["section"]: (one["finding"], one["bar"]) for one in result["sections"]} == {
        "easy": ("weak", 0.85),
        "hard": ("strong", 0.4),
    }


def test_the_rows_that_show_the_failure_are_named():
    result = found({"a": (10, 40)}, bar=0.85)
    assert result["sections"][0]["failures"] == [
        {"kind": "wrong_number", "n": 30, "rows": [f"a-{i}" for i in range(10, 20)]}
    ]


def test_unreadable_answers_are_failures_too():
    result = found({"a": (10, 40)}, wrong="I cannot tell", bar=0.85)["sections"][0]
    assert result["estimate"] == pytest.approx(0.25) and result["n_unscored"] == 30
    assert result["failures"][0]["kind"] == "no_answer"


def test_never_on_test_rows():
    with pytest.raises(ValueError, match="never on test"):
        found({"a": (1, 10)}, split="test", bar=0.85)


def test_errors_in_points_rank_downwards():
    rows = [
        {**formatted(1, split="val")[0], "id": f"{s}-{i}", "group": f"{s}-{i}", "section": s}
        for s in "ab"
        for i in range(40)
    ]
    texts = [str(i % 2) for i in range(40)] + [str(3 + i % 4) for i in range(40)]
    scores = score_table([PointScorer()], rows, predictions(rows, "tuned", texts))
    result = weak_sections(scores, predictor="tuned", bar=1.5)
    assert (result["metric"], result["bar"]) == ("mae", 1.5)
    assert [(one["section"], one["finding"]) for one in result["sections"]] == [
        ("b", "weak"),
        ("a", "strong"),
    ]


def test_an_undecided_section_says_how_many_rows_would_decide():
    one = found({"a": (26, 30)}, bar=0.85)["sections"][0]
    assert one["finding"] == "undecided" and one["rows_to_decide"] > 500


def test_chance_findings_are_corrected_over_the_sections():
    result = found(dict.fromkeys("abcdefgh", (17, 20)) | {"z": (14, 20)}, bar=0.85)
    z = result["sections"][0]
    assert z["section"] == "z" and z["p_value"] < 0.1 < 0.3 < z["p_bh"]


def test_few_good_readings_among_unreadable_answers_are_not_strong():
    """An error in points counted over the readable rows alone would call 20 good of 100 answers a strong section."""
    from vlm_pipeline.scoring.row_scorers import build_scorer
    from vlm_pipeline.settings.scoring import ScoreSettings

    rows = [{**row, "section": "a", "answer": "Safety Score: 5"} for row in formatted(100, split="val")]
    texts = ["Safety Score: 5"] * 20 + ["The picture."] * 80
    scores = score_table(
        [build_scorer(ScoreSettings(low=1, high=10))], rows, predictions(rows, "tuned", texts)
    )
    section = weak_sections(scores, predictor="tuned", bar=1.5)["sections"][0]
    assert section["finding"] == "weak" and section["estimate"] == pytest.approx(0.8 * 5)
    assert (section["n"], section["n_unscored"]) == (100, 80)


def test_unreadable_answers_on_a_scale_without_an_end_are_never_strong():
    result = found({"a": (20, 100)}, scorer=PointScorer(), wrong="I cannot tell", bar=1.5)["sections"][0]
    assert result["estimate"] == 0.0 and result["finding"] == "undecided"
