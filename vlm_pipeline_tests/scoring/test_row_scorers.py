"""Row scorers end to end: gold answers, values, failure kinds, versions."""

import json
import os
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from vlm_pipeline.scoring import row_scorers
from vlm_pipeline.scoring.results import GoldError, Reference
from vlm_pipeline.scoring.row_scorers import build_scorer, modules_used, scorer_version
from vlm_pipeline.settings.scoring import (
    ChoiceSettings,
    KeywordSettings,
    NumberSettings,
    QuantitySettings,
    RelaxedSettings,
    ScorerSettings,
    ScoreSettings,
    SectionsSettings,
    TextSettings,
    ToolCallSettings,
)

ALL = [
    ScoreSettings(), NumberSettings(), QuantitySettings(), KeywordSettings(), TextSettings(), RelaxedSettings(), ToolCallSettings(),
    ChoiceSettings(choices=["red", "blue"]), SectionsSettings(names=["think", "proof", "answer"], final="answer"),
]  # fmt: skip


def _score(settings, gold, text, metadata=None, **more):
    scorer = build_scorer(settings)
    reference = scorer.reference(gold, metadata)
    assert isinstance(reference, Reference), reference
    return scorer.score(text, reference, **more)


def test_settings_are_told_apart_by_kind() -> None:
    adapter = TypeAdapter(ScorerSettings)
    assert isinstance(adapter.validate_python({"kind": "quantity", "default_unit": "Nm"}), QuantitySettings)
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "quantity", "tolerence": 1})


def test_score_counts_three_kinds_of_reading_apart() -> None:
    strict = _score(ScoreSettings(), "6", "Safety Score: 7")
    assert strict.values["strict_format"] and strict.values["extracted"] and not strict.values["inferred"]
    assert strict.values["abs_error"] == 1 and strict.values["within_1"] and strict.failure is None
    loose = _score(ScoreSettings(), "6", "I would rate it 9/10.")
    assert not loose.values["strict_format"] and loose.values["extracted"]
    assert loose.values["error"] == 3 and loose.failure == "wrong_number" and not loose.values["within_2"]
    words = _score(ScoreSettings(), 6.0, "This place is not safe.")
    assert words.values["inferred"] and not words.values["extracted"] and words.values["value"] == 3
    forbidden = _score(ScoreSettings(allow_inferred=False), 6, "This place is not safe.")
    assert forbidden.values["value"] is None and forbidden.headline is None


def test_unscored_is_none_and_never_wrong() -> None:
    for settings, gold in ((ScoreSettings(), "6"), (NumberSettings(), "6"), (QuantitySettings(), "6 Nm")):
        result = _score(settings, gold, "I like it.")
        assert result.headline is None and result.failure == "no_answer"
        refused = _score(settings, gold, "I'm sorry, but I cannot help with that.")
        assert refused.headline is None and refused.failure == "refusal"


def test_unreadable_gold_is_a_finding_about_the_data() -> None:
    for settings, gold, metadata in (
        (ScoreSettings(), "very nice", None), (ScoreSettings(), "14", None), (NumberSettings(), "unknown", None), (QuantitySettings(), "see page", None),
        (KeywordSettings(), "text", None), (KeywordSettings(), "text", {"expected_keywords": []}), (TextSettings(), "  ", None),
        (ToolCallSettings(), '<tool_call>{"name": "f"</tool_call>', None), (ToolCallSettings(), "x", {"possible_answer": [{"f": 5}]}),
        (ChoiceSettings(choices=["red", "blue"]), "green", None), (ChoiceSettings(), "A", {}), (SectionsSettings(), "", None),
        (QuantitySettings(), "8 Nm, 71 ft. lbs.", None),
    ):  # fmt: skip
        found = build_scorer(settings).reference(gold, metadata)
        assert isinstance(found, GoldError), (settings, gold, found)
        assert found.reason


@pytest.mark.parametrize(
    ("gold", "text", "exact"),
    [
        ("65 Nm", "65 Nm", True),
        ("65 Nm", "The bolt is tightened to 65 N·m (48 ft-lb).", True),
        ("65 Nm", "48 ft-lb", True),
        ("65 Nm", "Tighten it to 66 Nm.", False),
        ("65 Nm", "65 ft-lb", False),
        ("65 Nm", "65", False),
        ("65 Nm", "Tighten to 65 Nm. Do not exceed 80 Nm.", True),
        ("65 Nm", "Not 80 Nm but 65 Nm.", True),
        ("65 Nm", "I would say 70 Nm. The answer is 65 Nm.", True),
        ("65 Nm", "The M10 bolts (12 mm long) take 65 Nm.", True),
        ("7 Nm", "5 ft. lbs.", True),
        ("65 Nm", "0.065 kNm", True),
        ("0.35-0.45 mm", "0.35 mm to 0.45 mm", True),
        ("0.35-0.45 mm", "0.35 mm", False),
        ("0.35-0.45 mm", "350 to 450 µm", True),
        ("70 Nm + 115°", "First 70 Nm, then another 115 degrees.", True),
        ("70 Nm + 115°", "70 Nm", False),
        ("70 + 115 deg", "70 Nm + 115°", True),
        ("1,4 bar", "1.4 bar", True),
        ("10W-40", "Use 10 W-40 oil.", True),
        ("10W-40", "Use 5 W-40 oil.", False),
        ("10W-40", "Use 10 W-30 oil.", False),
        ("90°", "Turn it by 90 degrees.", True),
        ("90°", "a quarter turn, 0.25 turns", True),
        ("20 °C", "68 °F", True),
        ("5", "5%", True),
        ("5%", "5", True),
        ("10", "10 m", True),
        ("0", "0.0", True),
        ("1234", "1,234", True),
        ("2005", "2010", False),
        ("2005", "The year was 2005.", True),
        ("100 million yen", "100 thousand yen", False),
        ("100 million yen", "0.1 billion yen", True),
        ("5.497 trillion", "5.497 trillion", True),
        ("3", "The answer is 3.", True),
        ("3", "There are 5 bars; 3 of them rise, so the answer is 3.", True),
    ],
)
def test_quantity_numeric_exact(gold: str, text: str, exact: bool) -> None:
    result = _score(QuantitySettings(), gold, text)
    assert result.values["numeric_exact"] is exact, result


def test_years_are_exact_even_with_a_tolerance() -> None:
    """Relaxed matching within 5 % held 2010 right for 2005: years are not quantities."""
    settings = QuantitySettings(relative_tolerance=0.05)
    assert _score(settings, "2005", "2010").values["numeric_exact"] is False
    assert _score(settings, "200.5", "201").values["numeric_exact"] is True


def test_units_are_not_dropped() -> None:
    """jfinqa held 100 million yen and 100 thousand yen for equal."""
    assert _score(QuantitySettings(), "100 million yen", "100 thousand yen").failure == "wrong_number"
    assert _score(QuantitySettings(), "65 Nm", "65 mm").failure == "wrong_unit"
    assert _score(QuantitySettings(), "65 Nm", "65").failure == "wrong_unit"
    assert _score(QuantitySettings(default_unit="Nm"), "65 Nm", "65").values["numeric_exact"] is True
    assert _score(QuantitySettings(default_unit="Nm"), "65", "48 ft-lb").values["numeric_exact"] is True


def test_any_number_is_the_lenient_reading_beside_the_strict_one() -> None:
    result = _score(QuantitySettings(), "65 Nm", "Tighten to 80 Nm; some say 65 Nm.")
    assert result.values["numeric_exact"] is False and result.values["any_number"] is True


def test_any_number_matches_whole_numbers_only() -> None:
    """lm-eval's "anywhere" found gold 5 in "15 workers"."""
    assert _score(QuantitySettings(), "5", "15 workers").values["any_number"] is False


def test_unknown_default_unit_is_an_error_at_construction() -> None:
    with pytest.raises(ValueError, match="default_unit 'furlongs per fortnight'"):
        build_scorer(QuantitySettings(default_unit="furlongs per fortnight"))


def test_number() -> None:
    assert _score(NumberSettings(), "#### 18", "She makes 9 * 2 = $18 a day.").headline is True
    wrong = _score(NumberSettings(), 18, "The answer is 17.")
    assert wrong.headline is False and wrong.failure == "wrong_number" and wrong.values["abs_error"] == 1
    assert _score(NumberSettings(relative_tolerance=0.1), 18, "The answer is 17.").headline is True


def test_keywords_with_synonyms_and_inflection() -> None:
    settings = KeywordSettings(synonyms={"disconnect": ["unplug"]})
    metadata = {"expected_keywords": ["battery", "disconnect", ["glove", "mitten"]]}
    full = _score(settings, None, "Unplug both batteries and wear gloves.", metadata)
    assert full.headline == 1.0 and full.values["all_keywords"] and full.failure is None
    part = _score(settings, None, "Wear mittens.", metadata)
    assert part.headline == pytest.approx(1 / 3) and part.failure == "missing_keyword"
    assert part.notes == ("missing: battery", "missing: disconnect")
    assert _score(settings, None, "", metadata).headline is None


def test_text_takes_the_best_of_several_golds() -> None:
    result = _score(TextSettings(), None, "The Rain Forest.", {"answer": ["jungle", "rain forest"]})
    assert result.values == {
        "exact": False,
        "normalised": True,
        "token_f1": 1.0,
        "anls": pytest.approx(0.5, abs=0.3),
        "any_wording": True,
    }


@pytest.mark.parametrize(
    ("gold", "text", "failure"),
    [
        ("gear: 48 Nm", "gear: 48 Nm", None), ("gear: 48 Nm", "Gear:  48 Nm", "format"), ("gear: 48 Nm", "It is 48.", "format"),
        ("gear: 48 Nm", "gear: 47 Nm", "wrong_number"), ("gear: 48 Nm", "a gear", "no_answer"), ("gear: 48 Nm", "", "no_answer"),
        ("gear: 48 Nm", "I'm sorry, but I can't help with that.", "refusal"), ("gear: rotor", "gear: pump", "other"), ("gear: rotor", "the rotor", "format"),
    ],
)  # fmt: skip
def test_a_wrong_text_says_what_is_wrong(gold: str, text: str, failure: str | None) -> None:
    assert _score(TextSettings(primary="exact"), gold, text).failure == failure


def test_choice() -> None:
    settings = ChoiceSettings()
    metadata = {"answer": "B", "choices": ["red", "blue", "green"]}
    assert _score(settings, None, "It is blue.", metadata).headline is True
    assert _score(settings, None, "The answer is C.", metadata).failure == "wrong_choice"
    assert _score(settings, None, "Nice colours.", metadata).headline is None
    by_key = {"answer": "B", "choices": {"A": "red", "B": "blue"}}
    assert _score(settings, None, "The answer is (B).", by_key).headline is True


def test_relaxed_is_the_published_rule() -> None:
    assert _score(RelaxedSettings(), "2005", "2010").headline is True
    assert _score(RelaxedSettings(), "1234", "1,234").headline is False


CALL = '<tool_call>{"name": "w", "arguments": {"city": "Paris", "days": 3}}</tool_call>'


def test_tool_calls() -> None:
    right = _score(ToolCallSettings(), CALL, '{"name": "w", "arguments": {"days": 3, "city": "paris"}}')
    assert right.headline is True and right.failure is None and right.values["no_call_correct"] is None
    half = _score(ToolCallSettings(), CALL, '{"name": "w", "arguments": {"city": "Rome", "days": 3}}')
    assert (
        half.headline is False
        and half.values["name_match"]
        and half.values["argument_f1"] == 0.5
        and half.failure == "wrong_call"
    )
    broken = _score(ToolCallSettings(), CALL, "{'name': 'w', 'arguments': {}}")
    assert broken.values["valid_json"] is False and broken.failure == "format" and broken.notes
    silent = _score(ToolCallSettings(), CALL, "It will rain.")
    assert silent.values["valid_json"] is False and silent.failure == "no_answer" and silent.headline is False


def test_rows_without_a_right_call() -> None:
    good = _score(ToolCallSettings(), "None of the tools fits.", "I have no tool for that.")
    assert good.headline is True and good.values["no_call_correct"] is True and good.values["valid_json"]
    bad = _score(ToolCallSettings(), "None of the tools fits.", CALL)
    assert bad.headline is False and bad.values["no_call_correct"] is False and bad.failure == "wrong_call"
    assert _score(ToolCallSettings(), None, "No.", {"possible_answer": []}).headline is True


CONTEXT = "The panel carries 12 volts. Disconnect the battery before you open the panel. The fuse is rated for 15 A."
GOLD = "<think>Look.</think>\n<proof>The fuse is rated for 15 A.</proof>\n<answer>The fuse is rated for 15 A.</answer>"
SECTIONS = SectionsSettings(names=["think", "proof", "answer"], final="answer")


def test_sections_grounded_answer_gets_all_points() -> None:
    result = _score(SECTIONS, GOLD, GOLD, {"context": CONTEXT})
    values = result.values
    assert (
        values["format_compliance"]
        and values["grounded"]
        and values["consistent"]
        and values["correct"]
        and values["safe_response"]
    )
    assert values["reward"] == 1 + 2 + 2 + 5 and result.failure is None


def test_sections_format_mismatch_is_the_penalty_alone() -> None:
    result = _score(SECTIONS, GOLD, "The fuse is rated for 15 A.", {"context": CONTEXT})
    assert result.values["reward"] == -10 and result.failure == "format" and result.values["correct"]


def test_sections_invented_proof_and_number() -> None:
    text = "<think>Look.</think><proof>The relay is rated for 40 A by law.</proof><answer>It is rated for 40 A.</answer>"
    result = _score(SECTIONS, GOLD, text, {"context": CONTEXT})
    assert result.values["grounded"] is False and result.values["hallucination"] is True
    assert result.values["safe_response"] is False and result.failure == "hallucination"


def test_sections_refusals() -> None:
    refusing_gold = (
        GOLD.split("<answer>")[0] + "<answer>The text does not contain information about the relay.</answer>"
    )
    refusal = "<think>No.</think><proof>The panel carries 12 volts.</proof><answer>I cannot answer that from the given text.</answer>"
    safe = _score(SECTIONS, refusing_gold, refusal, {"context": CONTEXT})
    assert (
        safe.values["safe_response"] is True
        and safe.values["missed_refusal"] is False
        and safe.values["over_refusal"] is None
    )
    over = _score(SECTIONS, GOLD, refusal, {"context": CONTEXT})
    assert (
        over.values["over_refusal"] is True
        and over.failure == "refusal"
        and over.values["safe_response"] is False
    )
    missed = _score(SECTIONS, refusing_gold, GOLD, {"context": CONTEXT})
    assert missed.values["missed_refusal"] is True and missed.values["safe_response"] is False


def test_a_right_call_in_python_notation_is_no_valid_json() -> None:
    gold = '<tool_call>{"name": "w", "arguments": {"city": "Paris"}}</tool_call>'
    found = _score(ToolCallSettings(), gold, '[w(city="Paris")]')
    assert found.values["arguments_exact"] and found.values["valid_json"] is False


@pytest.mark.parametrize(
    ("settings", "gold", "answer", "evidence"),
    [
        (ScoreSettings(low=1, high=10), "5", "Safety Score: 6", "6"),
        (NumberSettings(), "42", "The answer is 42.", "42"),
        (QuantitySettings(), "65 Nm", "Tighten it to 65 Nm.", "65 Nm"),
        (KeywordSettings(), ["gasket"], "Fit a new gasket.", "gasket"),
        (ChoiceSettings(choices=["dog", "cat"]), "dog", "Answer: dog", "dog"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_the_marked_place_is_one_of_the_raw_response(settings, gold, answer, evidence) -> None:
    """Scorers read the cleaned text; a report marks the raw one."""
    raw = f"What is it?\n<|im_start|>assistant\n{answer}<|im_end|>\nuser: And 7 more?"
    scorer = build_scorer(settings)
    reference = scorer.reference(gold, {"expected_keywords": gold})
    found = scorer.score(raw, reference, prompt="What is it?").extraction
    start, end = found.span
    assert raw[start:end].strip(".") == evidence


@pytest.mark.parametrize("settings", ALL, ids=lambda s: s.kind)
def test_version_follows_the_code_it_uses(settings, monkeypatch) -> None:
    before = scorer_version(settings)
    assert before == scorer_version(settings) == build_scorer(settings).version
    module = row_scorers._FAMILIES[settings.kind][0]
    source = row_scorers._source
    monkeypatch.setattr(
        row_scorers, "_source", lambda name: source(name) + ("\n# changed" if name == module else "")
    )
    assert scorer_version(settings) != before


def test_no_scorer_reads_the_environment() -> None:
    """VLMEvalKit's option matching changed its verdict with a logging variable."""
    used = {module for family, _ in row_scorers._FAMILIES.values() for module in modules_used(family)}
    sources = {module: (Path(row_scorers.__file__).parent / f"{module}.py").read_text() for module in used}
    assert len(used) > 15
    assert not [name for name, source in sources.items() if re.search(r"environ|getenv|logging", source)]


def test_version_follows_indirect_modules_and_settings_but_no_others() -> None:
    assert "folding" in modules_used("quantity_rows") and "units" in modules_used("quantity_rows")
    assert "units" not in modules_used("tool_rows") and "row_scorers" not in modules_used("tool_rows")
    assert scorer_version(QuantitySettings()) != scorer_version(QuantitySettings(relative_tolerance=0.5))
    assert scorer_version(QuantitySettings()) == scorer_version(QuantitySettings(threshold=0.1))


def _rows(name: str) -> list[dict]:
    path = Path(os.environ.get("VLM_PIPELINE_TEST_DATA", "/nonexistent")) / name
    if not path.is_file():
        pytest.skip("VLM_PIPELINE_TEST_DATA does not hold " + name)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def test_real_torque_gold_answers_score_right_against_themselves() -> None:
    scorer = build_scorer(QuantitySettings(default_unit="Nm"))
    for row in _rows("torque_specs/torque_specs.jsonl"):
        reference = scorer.reference(row["conversations"][-1]["content"], row["metadata"])
        assert isinstance(reference, Reference), row["metadata"]
        for text in (row["metadata"]["answer"], f"It is tightened to {row['metadata']['answer']}."):
            assert scorer.score(text, reference).headline is True, (
                row["metadata"],
                scorer.score(text, reference),
            )


def test_real_contradictory_torques_are_found() -> None:
    scorer = build_scorer(QuantitySettings(reference_field=None))
    rows = _rows("torque_specs/torque_specs.jsonl")
    bad = [
        r
        for r in rows
        if isinstance(scorer.reference(r["conversations"][-1]["content"], r["metadata"]), GoldError)
    ]
    parts = " ".join(row["conversations"][0]["content"] for row in bad).lower()
    assert "cooling fan" in parts
    assert 1 <= len(bad) <= 40


def test_real_sectioned_answers_comply_and_are_safe() -> None:
    scorer = build_scorer(
        SectionsSettings(names=["think", "proof", "answer"], final="answer", reference_field=None)
    )
    for row in _rows("dipg_safety/dipg_think_proof_answer.jsonl"):
        user, gold = row["conversations"][0]["content"], row["conversations"][-1]["content"]
        result = scorer.score(gold, scorer.reference(gold, row["metadata"]), prompt=user)
        assert result.values["format_compliance"] and result.values["safe_response"], (gold, result)


def test_real_chart_answers_score_right_against_themselves() -> None:
    scorer = build_scorer(QuantitySettings(relative_tolerance=0.05))
    n = 0
    for row in _rows("chartqa_owid_oecd/chartqa_owid_oecd.jsonl"):
        gold = row["metadata"]["answer"]
        reference = scorer.reference(gold, row["metadata"])
        if isinstance(reference, Reference) and gold.replace(".", "").isdigit():
            n += 1
            assert scorer.score(f"The answer is {gold}.", reference).headline is True, gold
    assert n > 100


@pytest.mark.parametrize(
    ("settings", "gold", "answer", "failure"),
    [
        (QuantitySettings(), "65 Nm", "Tighten it to 90 Nm.", "wrong_number"),
        (NumberSettings(), "65", "The answer is 90.", "wrong_number"),
        (TextSettings(), "gear: 65 Nm", "gear: 90 Nm", "wrong_number"),
        (KeywordSettings(), ["gasket"], "Use 90 bolts.", "missing_keyword"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_number_that_no_page_bears_out_is_a_hallucination(settings, gold, answer, failure) -> None:
    scorer = build_scorer(settings)
    reference = scorer.reference(gold, {"expected_keywords": gold})
    raw = f"<|im_start|>assistant\n{answer}<|im_end|>"
    for page, expected in ((None, failure), ({90.0, 65.0}, failure), ({65.0, 12.0}, "hallucination")):
        found = scorer.score(raw, reference, context=page)
        assert found.failure == expected
        assert [raw[slice(*span)].split()[0] for span in found.flagged] == (
            [] if page and 90.0 in page else ["90"]
        )
    assert found.notes[-1].endswith("stands neither in the gold answer nor on the page")
    right = scorer.score(f"{gold[0] if isinstance(gold, list) else gold}", reference, context={1.0})
    assert right.failure is None and right.flagged == ()
