"""Probes: passing the bar and demonstrating it are two facts."""

from __future__ import annotations

import pytest

from vlm_pipeline.scoring.probes import Probe, read_probes, score_probes
from vlm_pipeline_tests.scoring.rows import ExactScorer, PointScorer


def scored(right: int, n: int, *, scorer=None, wrong="A: 99", **options):
    probes = [
        Probe(id=f"p{i}", category="ab"[i % 2], question="How much?", expected_answer="5 Nm")
        for i in range(n)
    ]
    rows = [
        {"id": f"p{i}", "predictor": "tuned", "text": "A: 5" if i < right else wrong, "error": None}
        for i in range(n)
    ]
    return score_probes(probes, rows, predictor="tuned", answer_scorer=scorer or ExactScorer(), **options)


@pytest.mark.parametrize(
    ("right", "passes", "demonstrated"),
    [(25, False, False), (26, True, False), (29, True, False), (30, True, True)],
)
def test_passing_is_not_demonstrating(right, passes, demonstrated):
    found = scored(right, 30)
    assert (found["passes"], found["demonstrated"]) == (passes, demonstrated)
    assert found["passes_needed_to_demonstrate"] == 30
    assert len(found["failed"]) == 30 - right


def test_the_sentence_says_both_facts_and_what_it_would_take():
    sentence = scored(26, 30)["sentence"]
    assert sentence.startswith(
        "26 of 30 probes passed (87 % [70, 95]): passes the 85 % bar, not demonstrated; at this rate"
    )
    assert scored(30, 30)["sentence"].endswith("passes the 85 % bar, demonstrated.")


def test_unreadable_answers_fail_and_unasked_ones_are_listed():
    found = scored(29, 30, wrong="I cannot see it")
    assert found["failed"] == ["p29"] and found["probes"][29]["failure"] == "no_answer"
    probes = [Probe(id=f"p{i}", question="?", expected_answer=5) for i in range(31)]
    rows = [{"id": f"p{i}", "predictor": "tuned", "text": "A: 5", "error": None} for i in range(30)]
    found = score_probes(probes, rows, predictor="tuned", answer_scorer=ExactScorer())
    assert found["not_judged"] == [{"id": "p30", "why": "not asked"}]
    assert found["n_judged"] == 30 and found["demonstrated"] is False


def test_ratings_pass_within_the_allowed_error():
    near = [
        Probe(id="a", question="?", expected_answer=5),
        Probe(id="b", question="?", expected_answer=5, max_error=0),
    ]
    rows = [{"id": probe.id, "predictor": "m", "text": "6", "error": None} for probe in near]
    found = score_probes(near, rows, predictor="m", answer_scorer=PointScorer())
    assert [one["passed"] for one in found["probes"]] == [True, False]


def test_keywords_and_answer_must_both_be_there():
    probe = Probe(id="a", question="?", expected_answer="5", expected_keywords=["bolt", "washer"])
    texts = ("A: 5 for the bolt with its washer", "A: 5 for the bolt", "A: 7 for the bolt with its washer")
    passed = [
        score_probes(
            [probe],
            [{"id": "a", "predictor": "m", "text": text, "error": None}],
            predictor="m",
            answer_scorer=ExactScorer(),
        )["n_passed"]
        for text in texts
    ]
    assert passed == [1, 0, 0]


def test_a_broken_expectation_is_a_finding_and_no_failure():
    probe = Probe(id="a", question="?", expected_answer="as usual")
    rows = [{"id": "a", "predictor": "m", "text": "A: 5", "error": None}]
    found = score_probes([probe], rows, predictor="m", answer_scorer=ExactScorer())
    assert found["failed"] == [] and "cannot be read" in found["not_judged"][0]["why"]


def test_categories_are_counted():
    assert scored(15, 30)["categories"] == {"a": {"n": 15, "n_passed": 8}, "b": {"n": 15, "n_passed": 7}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {id: a, question: q}", "probe a: probe: a probe needs expected_answer or expected_keywords"),
        ("- {id: a, question: q, expected: 5}", "probe a: expected: Extra inputs"),
        (
            "- {id: a, question: q, expected_answer: 1}\n- {id: a, question: q, expected_answer: 1}",
            "stand twice: a",
        ),
        ("{}", "a list of probes is expected"),
        ("- [", "is not YAML"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, said):
    path = tmp_path / "probes.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_probes(path)


def test_reads_what_it_should(tmp_path):
    path = tmp_path / "probes.yaml"
    path.write_text(
        "- {id: a, category: torque, image: images/p.png, question: 'How much?', expected_keywords: [bolt]}"
    )
    assert read_probes(path) == [
        Probe(
            id="a", category="torque", image="images/p.png", question="How much?", expected_keywords=["bolt"]
        )
    ]
