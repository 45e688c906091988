"""Scores on a closed scale in the forms that real answers take; every row is written for this suite."""

import pytest

from vlm_pipeline.scoring.ratings import extract_score, strict_pattern, strict_score

TEN = [
    ("Safety Score: **6**", 6),
    ("Score: 6", 6),
    ("**Score:** 6", 6),
    ("**Safety Score**: 6/10", 6),
    ("Safety score = 6", 6),
    ("safety score of 6", 6),
    ("I would give this street a safety score of 6.", 6),
    ("6/10", 6),
    ("6 / 10", 6),
    ("6.5/10", 6.5),
    ("8 out of 10", 8),
    ("eight out of ten", 8),
    ("**8** out of **10**", 8),
    ("Safety score: 7/10", 7),
    ("4, because 2 workers stand on the road.", 4),
    ("between 4 and 5", 4.5),
    ("The score is between 4 and 5.", 4.5),
    ("Score: 4-5", 4.5),
    ("I'd say 4 to 5.", 4.5),
    ("I would say 7", 7),
    ("I'd say 7.", 7),
    ("I would say it is about a 7, maybe.", 7),
    ("seven", 7),
    ("Score: seven", 7),
    ("I would rate it seven out of ten.", 7),
    ("7", 7),
    ("7.", 7),
    ("**7**", 7),
    ("[7]", 7),
    ("7.5", 7.5),
    ("\n\n  7 \n", 7),
    ('{"score": 7, "reason": "2 lamps"}', 7),
    ('{"safety_score": 7.25}', 7.25),
    ('```json\n{"rating": 3}\n```', 3),
    ("Rating: 3 stars", 3),
    ("My rating is 3.", 3),
    ("I rate this place 8.", 8),
    ("I'd rate this neighbourhood an 8 because it is well lit.", 8),
    ("I would give it a 6.", 6),
    ("This place deserves a 4.", 4),
    ("On a scale of 1 to 10, I would rate this street 6.", 6),
    ("On a scale from 0 to 10 it is a 6.", 6),
    ("The safety score (1-10) is 6.", 6),
    ("Safety Score (0-10): 6", 6),
    ("Safety score [1-10]: 6", 6),
    ("The score for this street is 6.", 6),
    ("The overall safety rating of this area would be around 5.", 5),
    ("Based on the image, the score would be approximately 5.5 out of 10.", 5.5),
    ("- Lighting: good\n- Traffic: calm\n- **Safety score:** 8", 8),
    ("1. Lighting is weak.\n2. Two cars.\n3. Score: 5", 5),
    ("| Aspect | Note |\n|---|---|\n| Safety score | 6 |", 6),
    ("| Place | Score |\n|---|---|\n| this street | 6 |", 6),
    ("| Aspect | Rating |\n|---|---|\n| Light | 4 |\n| Overall | 6 |", 6),
    ("Lighting score: 5\nTraffic score: 7\nOverall score: 6", 6),
    ("Overall safety score: 6.\nBreakdown: lighting 5/10, traffic 7/10.", 6),
    ("Initial score: 7\nFinal score: 5", 5),
    ("Score: 7. Actually, I would say 5.", 5),
    ("Score: 7\nWait, there is broken glass. Score: 4", 4),
    ("I first thought 8/10, but on reflection I would lower it to 6.", 6),
    ("I would not give it a 9, but a 6.", 6),
    ("Not a 9. Score: 6", 6),
    ("Safety Score: 6\nSafety Score: 6\nSafety Score: 6", 6),
    ("The street has 4 lanes and a limit of 30 mph. Score: 5", 5),
    ("Built in 1998, 3 floors high. I'd say 6 because it is clean.", 6),
    ("At 221 Baker Street, 2 people wait. Safety score: 8", 8),
    ("The image is 640 x 480. Score: 8", 8),
    ("Score: 10", 10),
    ("Score: 0", 0),
    ("Score: ６", 6),
    ("Score - 6", 6),
    ("Score → 6".replace("→", ":"), 6),
    ("The answer is 7.", 7),
    ("Answer: 7", 7),
    ("Final answer: 7/10", 7),
    ("\\boxed{7}", 7),
    ("Safety: 6", 6),
    ("Overall: 6/10", 6),
    ("This looks like a 7.", 7),
    ("I think 6.", 6),
    ("It gets a solid 8 from me.", 8),
    ("<answer>7</answer>", 7),
    ("My guess is 5", 5),
    ("I'm not sure, but I would say 5.", 5),
    ("Score: 6 (out of 10)", 6),
    ("A score of 6 on a scale of 10.", 6),
    ("6 out of a possible 10", 6),
    ("I'd go with a 6 here.", 6),
]

INFERRED = [
    ("This is a high risk area.", 3),
    ("Medium risk.", 5),
    ("low-risk street", 7),
    ("The place looks safe.", 7),
    ("It is unsafe.", 3),
    ("A reasonably safe place.", 6),
    ("Safety here is reasonable.", 6),
    ("This is not safe.", 3),
    ("This isn't a very safe street.", 3),
    ("This does not look safe to me.", 3),
    ("It is not unsafe.", 7),
    ("It may seem unsafe at night, but overall it is safe.", 7),
    ("Overall I would call it unsafe, although the school is safe.", 3),
    ("The risk is high.", 3),
]

NONE = [
    "",
    "There are 4 lanes.",
    "The street has 2 cars and 3 trees.",
    "The speed limit is 30 mph.",
    "The speed limit is 5 mph.",
    "It was built in 2009.",
    "221B Baker Street",
    "The house number is 7 Elm Street",
    "The image is 8 x 10 inches.",
    "Score: [1-10]",
    "Safety Score: [1-10]",
    "Please rate from 1 to 10.",
    "On a scale from 1 to 10",
    "On a scale of 10",
    "Score: 11",
    "Score: -3",
    "Score: 75/100",
    "Score: X/10",
    "Score: N/A",
    "I cannot give a score.",
    "I would not give it a 9.",
    "4/5 stars",
    "50% of the lamps work.",
    "Lane 3",
    "It costs $5.",
    "At 5:30 the street is empty.",
]


@pytest.mark.parametrize(("text", "value"), TEN)
def test_score_is_found(text: str, value: float) -> None:
    found = extract_score(text, 0, 10)
    assert found.value == value, found
    assert not found.inferred
    start, end = found.span
    assert text[start:end].strip()


@pytest.mark.parametrize(("text", "value"), INFERRED)
def test_words_are_inferred_and_counted_apart(text: str, value: float) -> None:
    found = extract_score(text, 0, 10)
    assert found.value == value, found
    assert found.inferred and found.rule.startswith("inferred_")


@pytest.mark.parametrize("text", NONE)
def test_no_score_is_none(text: str) -> None:
    found = extract_score(text, 0, 10)
    assert found.value is None, found
    assert found.rule


def test_out_of_range_says_so() -> None:
    assert extract_score("Score: 11", 0, 10).rule == "out_of_range"
    assert extract_score("Score: 0", 1, 10).rule == "out_of_range"


def test_other_scale_is_not_silently_rescaled() -> None:
    assert extract_score("I give it 4/5", 0, 10).rule == "other_scale"


@pytest.mark.parametrize(
    ("text", "low", "high", "value"),
    [
        ("Score: 4", 1, 5, 4),
        ("4/5", 1, 5, 4),
        ("4 out of 5", 1, 5, 4),
        ("Score: 85", 0, 100, 85),
        ("85/100", 0, 100, 85),
        ("This is unsafe", 1, 5, 1.5),
        ("This is safe", 0, 100, 70),
        ("Score: 0.7", 0, 1, 0.7),
    ],
)
def test_other_scales(text: str, low: float, high: float, value: float) -> None:
    assert extract_score(text, low, high).value == pytest.approx(value)


def test_a_strict_format_may_ask_for_words_after_the_score() -> None:
    pattern = strict_pattern("{label}: {score} - {text}", "Safety Score")
    assert strict_score("Safety Score: 6 - dusk, with lamp.", pattern, 1, 10).value == 6
    assert strict_score("Safety Score: 6", pattern, 1, 10).value is None
    assert strict_score("Safety Score: 6 -\nday", pattern, 1, 10).value is None


def test_strict_format_is_strict() -> None:
    pattern = strict_pattern("{label}: {score}", "Safety Score")
    assert strict_score("Safety Score: 6", pattern, 0, 10).value == 6
    assert strict_score("Nice.\nSafety Score: 6.5\nBye", pattern, 0, 10).value == 6.5
    for loose in (
        "Safety Score: **6**",
        "safety score: 6",
        "Score: 6",
        "Safety Score: 6/10",
        "Safety Score: 66",
    ):
        assert strict_score(loose, pattern, 0, 10).value is None, loose
