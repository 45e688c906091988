"""Text measures, the published relaxed rule, and sectioned answers."""

import pytest

from vlm_pipeline.scoring.relaxed import relaxed_match
from vlm_pipeline.scoring.sections import consistency, grounding, parse_sections
from vlm_pipeline.scoring.text import (
    anls,
    contains_answer,
    exact_match,
    find_keywords,
    normalise,
    normalised_match,
    token_f1,
)


@pytest.mark.parametrize(
    ("prediction", "gold", "right"),
    [
        ("5", "5", True), ("5.2", "5", True), ("5.25", "5", True), ("5.26", "5", False), ("4.75", "5", True), ("4.74", "5", False), ("-5", "5", False), ("-5", "-5.1", True),
        ("2010", "2005", True), ("50%", "0.5", True), ("50%", "50", False), ("0.5", "50%", True), ("50", "50%", False), ("50%%", "0.5", True), ("5 %", "0.05", True),
        ("0", "0", True), ("0.0", "0", False), ("0", "0.0", False), ("1e-9", "0", False), ("1234", "1,234", False), ("1,234", "1,234", True), ("10 m", "10", False),
        ("yes", "Yes", True), ("Yes.", "yes", False), (" yes", "yes", False), (" 5 ", "5", True), ("1_000", "1000", True), ("nan", "nan", False), ("inf", "inf", False), ("NaN", "5", False),
        ("5", "five", False), ("", "", True), ("%", "%", True), ("5", "", False), ("[1, 2]", "[1, 2]", True),
    ],
)  # fmt: skip
def test_relaxed_match_is_the_published_rule(prediction: str, gold: str, right: bool) -> None:
    assert relaxed_match(prediction, gold) is right


def test_relaxed_tolerance_can_be_set() -> None:
    assert not relaxed_match("5.2", "5", tolerance=0.01) and relaxed_match("6", "5", tolerance=0.2)


def test_normalise_keeps_signs_points_and_reads_separators() -> None:
    assert normalise("The  Rain-Forest!") == "rain forest"
    assert not normalised_match("-5", "5") and not normalised_match("3.14", "314")
    assert normalised_match("1,234", "1234") and normalised_match("5.0", "5") and normalised_match("A", "a")
    assert exact_match(" x ", "x") and not exact_match("X", "x")


def test_token_f1() -> None:
    assert token_f1("the red car", "red car") == 1.0
    assert token_f1("red car", "blue car") == 0.5
    assert token_f1("", "red") == 0.0 and token_f1("", "") == 1.0


def test_blanks_do_not_raise_anls() -> None:
    """Two kits gave gold "abc" and answer "xyz" + 100 blanks 0.97."""
    assert anls("xyz" + " " * 100, "abc") == 0.0
    assert anls("abd", "abc") == pytest.approx(2 / 3) and anls("ABC ", "abc") == 1.0


@pytest.mark.parametrize(
    ("text", "gold", "given"),
    [
        ("It is 48.", "gear: 48 Nm", True), ("48Nm", "gear: 48 Nm", True), ("It is 148.", "gear: 48 Nm", False), ("4.8 Nm", "gear: 48 Nm", False), ("gear Nm", "gear: 48 Nm", False),
        ("from 0.35 to 0.45 mm", "ring: 0.35-0.45 mm", True), ("0.35 mm", "ring: 0.35-0.45 mm", False), ("48, or four more: 4", "gear: 48 ±4 Nm", True),
        ("first 62, then 73", "step 5: 62 deg, step 6: 73 deg", False), ("5) 62 deg 6) 73 deg", "step 5: 62 deg, step 6: 73 deg", True),
        ("That must be the Rotor.", "gear: rotor", True), ("rotors", "gear: rotor", False), ("gear", "gear: rotor", False), ("strainer", "hourglass, then star: strainer", True),
        ("in the rain forest", "a rain forest", True), ("forest rain", "rain forest", False), ("", "rotor", False), ("", "5", False), ("anything", "?!", False), ("x: y", "note:", False), ("note", "note:", True),
    ],
)  # fmt: skip
def test_the_lenient_reading_finds_the_answer_in_any_wording(text: str, gold: str, given: bool) -> None:
    assert contains_answer(text, gold) is given


@pytest.mark.parametrize(
    ("text", "gold", "question", "given"),
    [
        ("14 deg, then 33 Nm", "step 3: 14 deg, step 4: 33 Nm", "What do steps 3 and 4 say?", True),
        ("14 deg, then 33 Nm", "step 3: 14 deg, step 4: 33 Nm", "What comes after the rotor?", False),
        ("33 Nm", "step 3: 14 deg, step 4: 33 Nm", "What do steps 3 and 4 say?", False),
        ("It is step 5.", "flag: step 5", "In which step comes the coil?", True),
        ("It is there.", "flag: step 5", "Is it step 5 in which the coil comes?", False),
        ("No.", "48 Nm", "Is it 48 Nm?", False),
    ],
)
def test_labels_that_the_question_gives_need_not_be_said_again(
    text: str, gold: str, question: str, given: bool
) -> None:
    assert contains_answer(text, gold, question) is given


@pytest.mark.parametrize(
    ("text", "keyword", "found"),
    [
        ("batteries", "battery", True), ("Disconnecting it", "disconnect", True), ("disconnected", "disconnect", True), ("stopped", "stop", True), ("running", "run", True),
        ("boxes", "box", True), ("cities", "city", True), ("use", "using", True), ("a light", "lights", True), ("lighthouse", "light", False), ("carpet", "car", False), ("car", "care", False),
        ("glass", "glas", False), ("Tighten to 65 Nm", "65 Nm", True), ("165 Nm", "65 Nm", False), ("6.5", "65", False), ("1,234 km", "1234", True), ("the rear brakes", "rear brake", True),
        ("brake rear", "rear brake", False), ("", "x", False), ("ÜBUNG", "übung", True), ("-5 degrees", "5", False),
    ],
)  # fmt: skip
def test_keywords(text: str, keyword: str, found: bool) -> None:
    assert bool(find_keywords(text, [keyword]).found) is found


def test_keyword_synonyms_and_spans() -> None:
    text = "Please unplug the accumulator."
    hits = find_keywords(text, ["disconnect", ["battery", "accumulator"]], {"Disconnect": ["unplug"]})
    assert hits.share == 1.0
    assert (
        text[slice(*hits.found["disconnect"])] == "unplug"
        and text[slice(*hits.found["battery"])] == "accumulator"
    )
    assert find_keywords("unplugging", ["unplug"], inflection=False).missing == ("unplug",)


NAMES = ["analysis", "proof", "final"]
CHANNELS = "<|channel|>analysis<|message|>\nA1\n<|end|>\n<|channel|>proof<|message|>\nP1<|end|>\n<|channel|>final<|message|>\nF1<|end|>"


@pytest.mark.parametrize(
    ("text", "style"),
    [
        (CHANNELS, "channel"), (CHANNELS.replace("\n", "\\n"), "channel"), ("<|start|>assistant" + CHANNELS, "channel"), (CHANNELS.replace("<|end|>", "<|return|>"), "channel"),
        ("<analysis>A1</analysis>\n<proof>\nP1\n</proof>\n<final>F1</final>", "tag"), ("<Analysis>A1</Analysis><PROOF>P1</PROOF><final>F1</final>", "tag"),
        ("## Analysis\nA1\n## Proof\nP1\n## Final\nF1", "heading"), ("**Analysis:** A1\n**Proof:** P1\n**Final:** F1", "heading"),
        ("Analysis: A1\nProof: P1\nFinal: F1", "heading"), ("[ANALYSIS] A1\n[PROOF] P1\n[FINAL] F1", "heading"),
    ],
)  # fmt: skip
def test_sections_in_every_notation(text: str, style: str) -> None:
    found = parse_sections(text, NAMES)
    assert dict(found) == {"analysis": "A1", "proof": "P1", "final": "F1"} and found.style == style
    assert found.compliant, found.problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<analysis>A</analysis><final>F</final>", "section proof is missing"),
        ("<analysis>A</analysis><proof></proof><final>F</final>", "section proof is empty"),
        ("<proof>P</proof><analysis>A</analysis><final>F</final>", "order is proof, analysis, final"),
        ("<analysis>A</analysis><proof>P</proof><final>F", "section final has no end mark"),
        (
            "<analysis>A</analysis><proof>P</proof><final>F</final><final>G</final>",
            "section final is repeated",
        ),
        ("Hello <analysis>A</analysis><proof>P</proof><final>F</final>", "text outside the sections"),
        ("<|channel|>notes<|message|>x<|end|>" + CHANNELS, "section notes was not asked for"),
        ("just words", "section analysis is missing"),
        ("", "section analysis is missing"),
    ],
)
def test_format_problems_are_named(text: str, problem: str) -> None:
    found = parse_sections(text, NAMES)
    assert not found.compliant and problem in found.problems


def test_first_of_a_repeated_section_counts_and_spans_fit() -> None:
    text = "<final>one</final><final>two</final>"
    found = parse_sections(text, ["final"])
    assert found["final"] == "one" and text[slice(*found.spans["final"])] == "one"


CONTEXT = "Report A: the valve opens at 2 bar. The pump runs at 3,000 rpm when the tank is empty."


@pytest.mark.parametrize(
    ("proof", "share"),
    [
        ("The pump runs at 3000 rpm.", 1.0), ('The text says: "the valve opens at 2 bar"', 1.0), ("[Source A]: the valve opens at 2 bar", 1.0),
        ("The relay was replaced last winter.", 0.0), ("", None), ("the VALVE   opens at 2 bar!", 1.0),
    ],
)  # fmt: skip
def test_grounding(proof: str, share: float | None) -> None:
    assert grounding(proof, CONTEXT).share == (pytest.approx(share) if share is not None else None)


def test_grounding_names_what_is_unsupported_and_changed_numbers_cost() -> None:
    found = grounding("The valve opens at 2 bar. The relay is blue and old.", CONTEXT)
    assert found.unsupported == ("The relay is blue and old",)
    assert grounding("the valve opens at 9 bar", CONTEXT).share < 0.8


def test_consistency() -> None:
    assert consistency("The valve opens at 2 bar.", "valves open at 2 bar") == 1.0
    assert consistency("The relay is blue.", "valves open at 2 bar") == 0.0
    assert consistency("", "x") is None
