"""Choices by letter and by text; every row is written for this suite."""

import pytest

from vlm_pipeline.scoring.choices import extract_choice

LETTERS = ["A", "B", "C", "D"]
CITIES = {"A": "Paris", "B": "London", "C": "New York", "D": "New York City"}
ANIMALS = ["dog", "cat", "bird", "fish"]

BY_LETTER = [
    ("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("B)", "B"), ("[B]", "B"), ("**B**", "B"), ("`B`", "B"), ('"B"', "B"),
    ("**B.** London is the capital.", "B"), ("B. London", "B"), ("B: London", "B"), ("B - London", "B"), ("(B) London", "B"),
    ("B) London\n\nThe capital lies on the Thames.", "B"), ("B\n\nBecause it lies on the Thames.", "B"), ("B, because of the river.", "B"),
    ("Answer: B", "B"), ("Answer: (B)", "B"), ("Answer：B", "B"), ("**Answer:** B", "B"), ("**Answer: B**", "B"), ("Answer: **B**", "B"),
    ("Answer: b", "B"), ("ANSWER: B.", "B"), ("Answer - B", "B"), ("Final answer: B", "B"), ("### Answer\n\nB", "B"),
    ("The answer is B.", "B"), ("The answer is (B).", "B"), ("The answer is **B**.", "B"), ("The answer is: B", "B"), ("the answer is b", "B"),
    ("The answer is option B.", "B"), ("The answer is option (B).", "B"), ("The correct answer is B) London.", "B"), ("The correct option is B", "B"),
    ("The correct choice is (B), since the river is there.", "B"), ("So the answer is (B).", "B"), ("Therefore, the answer is \\boxed{B}.", "B"),
    ("$\\boxed{\\text{B}}$", "B"), ("\\boxed{(B)}", "B"), ("The best answer is B.", "B"), ("The most likely answer is B.", "B"),
    ("My answer is B", "B"), ("My final choice: B", "B"), ("I choose B.", "B"), ("I would choose option B.", "B"), ("I pick B", "B"),
    ("I'd go with B.", "B"), ("I'll go with option B because of the lamp.", "B"), ("I think the answer is B.", "B"), ("I think it's B.", "B"),
    ("I would say B.", "B"), ("It is B.", "B"), ("It must be B.", "B"), ("Option B is correct.", "B"), ("B is correct.", "B"), ("B is the correct answer.", "B"),
    ("(B) is right.", "B"), ("Option B.", "B"), ("Option (B)", "B"), ("The right one is B", "B"), ("Select B", "B"), ("Choice B", "B"),
    ("Based on the picture, the correct answer would be B.", "B"), ("The answer to this question is B.", "B"), ("The answer for the image is **B. London**.", "B"),
    ("The answer is A... wait, the answer is B.", "B"), ("The answer is C. Hmm, wait, no, it's B.", "B"), ("Answer: A\n\nOn reflection: Answer: B", "B"),
    ("First I thought A. Actually, the answer is B.", "B"), ("A is wrong, C is wrong, D is wrong, so it is B.", "B"),
    ("I would not pick A; the answer is B.", "B"), ("The answer is not A but B.", "B"), ("Not A. B.", "B"), ("The answer is B, not C.", "B"),
    ("Option A is incorrect because it is far. Option B is correct.", "B"), ("A) dog\nB) cat\nC) bird\n\nAnswer: B", "B"),
    ("A. far away\nB. near\nC. near too\nThe answer is B.", "B"), ("I see A dog here, so the answer is B.", "B"), ("The answer is B as shown by a sign.", "B"),
    ("<answer>B</answer>", "B"), ('{"answer": "B"}', "B"), ("A: B", "B"), ("#### B", "B"), ("Among the options, (B) fits.", "B"),
    ("I can rule out A and C. That leaves B and D. I'd go with B.", "B"), ("Let's think.\n1. A river.\n2. A bridge.\nSo the answer is (B)", "B"),
    ("The answer is (B) London, a city with a river.", "B"), ("Hence, **B** is the answer.", "B"), ("Thus option B is the best choice.", "B"),
]  # fmt: skip

NO_LETTER = [
    "", "I would not pick B.", "I see A dog here.", "A dog is in the street.", "I think so.", "A", "I don't know.", "It could be A or B.",
    "The answer is A or C.", "Both A and B are correct.", "A) dog\nB) cat\nC) bird\nD) fish", "None of these.", "a", "Vitamin B is healthy",
    "Plan B-17 flew", "B is wrong.", "It isn't B.", "The answer is not B.", "I'd", "C'mon", "U.S.A. is far",
]  # fmt: skip
NO_LETTER.remove("A")
NO_LETTER.remove("a")

BY_TEXT = [
    ("The capital is London.", "B"), ("London", "B"), ("london", "B"), ("**London**", "B"), ("It is London, not Paris.", "B"),
    ("The answer is London.", "B"), ("New York", "C"), ("New York City", "D"), ("The answer is New York City.", "D"), ("The answer is New York.", "C"),
    ("I think it is New York.", "C"), ("Not Paris. The answer is London.", "B"), ("It looks like Paris, but the answer is London", "B"),
    ("The answer is B. London", "B"), ("B. London, though Paris is close", "B"), ("It can't be Paris, New York or New York City... London it is", "B"),
    ("This is Paris... wait, the answer is London.", "B"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), BY_LETTER)
def test_letter_is_found(text: str, letter: str) -> None:
    found = extract_choice(text, LETTERS)
    assert found.value == letter, found
    if found.span:
        assert text[slice(*found.span)].upper() == letter


@pytest.mark.parametrize(("text", "letter"), BY_LETTER)
def test_letter_is_found_with_texts_at_hand(text: str, letter: str) -> None:
    found = extract_choice(text, CITIES)
    assert found.value == letter, found


@pytest.mark.parametrize("text", NO_LETTER)
def test_no_choice(text: str) -> None:
    found = extract_choice(text, LETTERS)
    assert found.value is None, found


@pytest.mark.parametrize(("text", "letter"), BY_TEXT)
def test_text_of_the_choice(text: str, letter: str) -> None:
    found = extract_choice(text, CITIES)
    assert found.value == letter, found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("I see A dog here", "dog"),
        ("A dog", "dog"),
        ("There is a cat on the roof.", "cat"),
        ("The answer is B", "cat"),
        ("The answer is a cat.", "cat"),
        ("A cat sits next to the dog. The answer is the dog.", "dog"),
        ("A cat and a dog", None),
        ("dogs", None),
        ("It's a catfish", None),
        ("This isn't a dog.", None),
    ],
)
def test_list_of_texts_gives_the_text(text: str, value: str | None) -> None:
    assert extract_choice(text, ANIMALS).value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("This is not safe.", "unsafe"),
        ("This is safe.", "safe"),
        ("This is unsafe.", "unsafe"),
        ("unsafe", "unsafe"),
        ("The place does not look safe to me.", "unsafe"),
        ("This isn't unsafe", "safe"),
        ("I would call it unsafe.", "unsafe"),
        ("At first it seems safe, but the answer is unsafe.", "unsafe"),
    ],
)
def test_negated_option_of_two_means_the_other(text: str, value: str) -> None:
    """VLMEvalKit's matching picked "safe" for "This is not safe"."""
    assert extract_choice(text, ["safe", "unsafe"]).value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes", "yes"), ("No", "no"), ("Yes, it does.", "yes"), ("No, it does not.", "no"), ("no.", "no"), ("Maybe", "maybe"),
        ("The answer is yes.", "yes"), ("The answer is no.", "no"), ("**Answer:** maybe", "maybe"), ("Final answer: No", "no"),
        ("There is no doubt: yes.", "yes"), ("I think the answer is no, since no link was seen.", "no"), ("There was no effect.", None),
        ("Yes, there is no difference.", "yes"), ("<answer>no</answer>", "no"), ("I do not know.", None), ("**Yes**, clearly", "yes"),
    ],
)  # fmt: skip
def test_yes_no_maybe(text: str, value: str | None) -> None:
    assert extract_choice(text, ["yes", "no", "maybe"]).value == value


@pytest.mark.parametrize(
    ("choices", "text", "value"),
    [
        (["(A) red", "(B) blue"], "blue", "(B) blue"),
        (["(A) red", "(B) blue"], "The answer is (B)", "(B) blue"),
        (["(A)", "(B)"], "So the answer is (A).", "(A)"),
        (["A. 5", "B. 50"], "It is 50", "B. 50"),
        (["5", "50", "5.5"], "The answer is 5.5", "5.5"),
        (["5", "50", "5.5"], "The answer is 5.", "5"),
        (["5 Nm", "50 Nm"], "Tighten it to 50 Nm.", "50 Nm"),
        (["all of the above", "none of the above"], "The answer is none of the above.", "none of the above"),
        ({"1": "left", "2": "right"}, "turn right", "2"),
        (["E", "F"], "The answer is F", "F"),
        (["A"], "A", "A"),
    ],
)
def test_forms_of_choices(choices, text: str, value: str) -> None:
    assert extract_choice(text, choices).value == value


def test_no_choices_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one choice"):
        extract_choice("B", [])


def test_last_statement_wins_over_the_first() -> None:
    """VLMEvalKit took C, the first, of "answer is C ... wait, the answer is B"."""
    assert extract_choice("The answer is C … wait, the answer is B", LETTERS).value == "B"


def test_article_is_no_choice() -> None:
    """VLMEvalKit read A from "I see A dog here"."""
    assert extract_choice("I see A dog here", LETTERS).value is None
    assert extract_choice("I see A dog here", {"A": "cat", "B": "horse"}).value is None
