"""Response cleaning: what goes, and what must stay."""

import pytest

from vlm_pipeline.scoring.cleaning import clean, clean_response

PROMPT = "How safe does this place look? Give a score from 0 to 10.\nSafety Score: [1-10]"

CASES = [
    ("Safety Score: 6", None, "Safety Score: 6"),
    ("  6 \n", None, "6"),
    ("Safety Score: 6<|im_end|>", None, "Safety Score: 6"),
    ("<|im_start|>assistant\nSafety Score: 6<|im_end|>\n<|endoftext|>", None, "Safety Score: 6"),
    ("assistant\nSafety Score: 6", None, "Safety Score: 6"),
    ("ASSISTANT: It is safe.", None, "It is safe."),
    ("<|start_header_id|>assistant<|end_header_id|>\n\nIt is safe.<|eot_id|>", None, "It is safe."),
    ("[INST] Rate it [/INST] It is safe.</s>", None, "Rate it  It is safe."),
    ("It is safe.\nUser: And now?\nAssistant: Still safe.", None, "It is safe."),
    ("It is safe.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>", None, "It is safe."),
    ("system\nYou rate.\nuser\nHow safe?\nassistant\nSafety Score: 6", None, "Safety Score: 6"),
    (PROMPT + "\nSafety Score: 7", PROMPT, "Safety Score: 7"),
    (PROMPT.upper() + "  7", PROMPT, "7"),
    ("How safe does this place look? Give a score from 0 to 10.\n7", PROMPT, "7"),
    (PROMPT, PROMPT, ""),
    ("Safety Score: [1-10]\nSafety Score: 5", None, "Safety Score: 5"),
    ("Safety Score: [your score]\nI say 5.", None, "I say 5."),
    ("It is safe.\nIt is safe.\nIt is safe.", None, "It is safe."),
    ("A is here.\nB is there.\nA is here.\nB is there.", None, "A is here.\nB is there."),
    (
        "One line of text.\nx\nOne line of text.\ny\nOne line of text.\nz",
        None,
        "One line of text.\nx\nOne line of text.\ny\nz",
    ),
    ("It is a dog. " + "and a cat " * 30, None, "It is a dog. and a cat"),
    ("The place is safe. There are many people on the", None, "The place is safe."),
    ("The place is safe. The answer is 6", None, "The place is safe. The answer is 6"),
    ("The place is safe. It is a quiet street", None, "The place is safe. It is a quiet street"),
    ("The place is safe. The score is 6 and", None, "The place is safe. The score is 6 and"),
    ("<answer>6</answer>", None, "<answer>6</answer>"),
    ("<think>\nHm.\n</think>\n6", None, "<think>\nHm.\n</think>\n6"),
    ("5\n5\n5", None, "5\n5\n5"),
    ("----------", None, "----------"),
    ("", None, ""),
    ("\ud800", None, "\ud800"),
]


@pytest.mark.parametrize(("text", "prompt", "cleaned"), CASES)
def test_cleaning(text: str, prompt: str | None, cleaned: str) -> None:
    assert clean_response(text, prompt) == cleaned


@pytest.mark.parametrize("text", [case[2] for case in CASES if case[1] is None])
def test_cleaning_is_idempotent(text: str) -> None:
    assert clean_response(text) == text


def test_steps_are_named() -> None:
    assert clean(PROMPT + "\nSafety Score: 7<|im_end|>", PROMPT).steps == ("prompt_echo", "template")
    assert clean("It is safe.").steps == ()


def test_an_answer_that_quotes_one_prompt_word_stays() -> None:
    assert clean_response("Give a score? I say 7.", PROMPT) == "Give a score? I say 7."


@pytest.mark.parametrize(
    ("text", "prompt", "evidence"),
    [
        ("<|im_start|>assistant\nSafety Score: 6<|im_end|>", None, "6"),
        (PROMPT + "\nSafety Score: 7", PROMPT, "7"),
        ("Safety Score: [1-10]\nIt is dark.<|im_end|> Safety Score: 5", None, "5"),
        ("It is safe.\nIt is safe.\nIt is safe.\nSafety Score: 4. There are many people on the", None, "4"),
        ("It is dark.\nx\nIt is dark.\ny\nIt is dark.\nScore 3, " + "and a cat " * 30, None, "3"),
    ],
)
def test_a_place_in_the_cleaned_text_is_a_place_in_the_response(text, prompt, evidence) -> None:
    """A report marks the response as it came, not what was left of it."""
    found = clean(text, prompt)
    place = found.text.rindex(evidence)
    start, end = found.original((place, place + len(evidence)))
    assert text[start:end] == evidence and text[:start].count(evidence) >= found.text[:place].count(evidence)


@pytest.mark.parametrize(("text", "prompt", "cleaned"), CASES)
def test_the_kept_parts_are_the_cleaned_text(text: str, prompt: str | None, cleaned: str) -> None:
    found = clean(text, prompt)
    assert "".join(text[start:end] for start, end in found.kept) == cleaned
    for place, letter in enumerate(found.text):
        start, end = found.original((place, place + 1))
        assert text[start:end] == letter
