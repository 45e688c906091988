"""Final numbers of worked solutions and chatty answers; every row is written for this suite."""

import math

import pytest

from vlm_pipeline.scoring.final_number import extract_final_number

MARKED = [
    ("Tom has 3 + 4 = 7 pens.\n#### 7", 7),
    ("#### 42", 42),
    ("#### 42\n", 42),
    ("####42", 42),
    ("#### $1,234.50", 1234.5),
    ("#### -17", -17),
    ("#### 3/4", 0.75),
    ("#### 12 apples", 12),
    ("#### 1,200,000", 1200000),
    ("#### 25%", 25),
    ("#### .5", 0.5),
    ("She sells <<16-3-4=9>>9 eggs for <<9*2=18>>18 dollars.\n#### 18", 18),
    ("#### 10\nWait, I counted twice.\n#### 5", 5),
    (r"So the result is $\boxed{42}$.", 42),
    (r"\boxed{-3}", -3),
    (r"Hence $x = \boxed{\frac{3}{4}}$.", 0.75),
    (r"$\boxed{-\frac{1}{2}}$", -0.5),
    (r"$\boxed{\dfrac{7}{2}}$", 3.5),
    (r"\boxed{\frac12}", 0.5),
    (r"\boxed{1,\!024}", 1024),
    (r"\boxed{10{,}000}", 10000),
    (r"\boxed{50\%}", 50),
    (r"\boxed{\$18.90}", 18.9),
    (r"\boxed{12\text{ cm}}", 12),
    (r"\boxed{90^\circ}", 90),
    (r"\boxed{x = 5}", 5),
    (r"\boxed{ 2.50 }", 2.5),
    (r"\boxed{144\pi}", None),
    (r"\boxed{2\sqrt{3}}", None),
    (r"\boxed{(3, 5)}", None),
    (r"\boxed{\text{Monday}} because 5 days passed", None),
    (r"\boxed{3x+2}", None),
    (r"\boxed{2^{10}}", 1024),
    (r"\boxed{6 \times 10^{4}}", 60000),
    (r"\boxed{\text{seven}}", 7),
    (r"\fbox{8}", 8),
    (r"First I get \boxed{7}. But 7 is no solution, so it must be \boxed{8}.", 8),
    (r"**Final Answer:** $\boxed{15}$ hours over 3 days.", 15),
    ("\\[\n\\boxed{1001}\n\\]\nThe problem had 5 parts.", 1001),
]

STATED = [
    ("The answer is 42.", 42),
    ("The answer is: 42", 42),
    ("the answer is 42", 42),
    ("The final answer is 3.5 hours.", 3.5),
    ("Answer: 7", 7),
    ("**Answer:** 7", 7),
    ("**Answer: 7**", 7),
    ("Final answer: **1,050**", 1050),
    ("### Final Answer\n\nThe answer is **12** boxes.", 12),
    ("A: 18", 18),
    ("Ans = 6", 6),
    ("ANSWER: -4", -4),
    ("The correct answer is $540.", 540),
    ("The answer is $540$.", 540),
    ("The answer is \\$12.75.", 12.75),
    ("The answer is approximately 3.14.", 3.14),
    ("The answer is about 6 million people.", 6e6),
    ("The answer is 3 + 4 = 7.", 7),
    ("The answer is 12 * 5 = 60 dollars per day.", 60),
    ("The answer is 5 apples and not 6.", 5),
    ("The answer is 18 dollars per day for 7 days.", 18),
    ("The answer is 20, since 4 x 5 = 20 and 2 boxes stay empty.", 20),
    ("The answer is x = 9.", 9),
    ("The answer is −8.", -8),
    ("The answer is negative 8.", -8),
    ("The answer is seven.", 7),
    ("The answer is twenty-five dollars.", 25),
    ("The answer is 1/3.", 1 / 3),
    ("The answer is 2 1/2 cups.", 2.5),
    ("The answer is 2½ cups.", 2.5),
    ("The answer is 1.2e-3.", 0.0012),
    ("The answer is 3.0 x 10^8 m/s.", 3e8),
    ("The answer is 45%.", 45),
    ("The answer is 45 percent.", 45),
    ("The answer is 1 234 567.", 1234567),
    ("The answer is 1.234,56 Euro.", 1234.56),
    ("The answer to the question is 11.", 11),
    ("The answer for part (b) is 13.", 13),
    ("The answer (in minutes) is 95.", 95),
    ("So 42 is the answer.", 42),
    ("Therefore 64 is our final answer. I used 3 steps.", 64),
    ("The answer is:\n\n$$\n28\n$$", 28),
    ("The answer is:\n\n**28**", 28),
    ("Answer:\n28", 28),
    ("The answer is 5. Wait, I forgot the tax. The answer is 6.", 6),
    ("The answer is 5. Wait, no, it's 6.", 6),
    ("The answer is 5... actually 7, because one is missing.", 7),
    ("The answer is 10. Sorry, I mean 12.", 12),
    ("Answer: 30. Correction: 33.", 33),
    ("The answer is not 5 but 6.", 6),
    ("The answer isn't 5, it's 6.", 6),
    ("Result: 77", 77),
    ("The final result is 0.75.", 0.75),
    ("The answer is 7.\n\nLet me know if you want the 3 other methods!", 7),
    ("The answer is 7.\nQuestion: What is 2 + 2?\nAnswer: 4", 7),
    ("#### 18\n\nQ: A box holds 12 eggs. How many in 3 boxes?\nA: 36\n#### 36", 18),
    ("Step 1: 3 boxes.\nStep 2: 4 more.\nStep 3: The answer is 7.", 7),
    ("The answer is 1.5 million dollars.", 1.5e6),
    ("The answer is 5k.", 5000),
    ("The answer is .25", 0.25),
    ("The answer is 007.", 7),
]

WORKED = [
    ("48 / 2 = 24 in May. 48 + 24 = 72 in total.", 72),
    ("Each day she earns 9 * 2 = $18.", 18),
    ("He buys 3 packs for $4 each, so he pays 3 x $4 = $12", 12),
    ("Total = 15 + 20 = 35 km", 35),
    ("x = 3y\ny = 4\nx = 12", 12),
    ("1. Count the apples: 5\n2. Count the pears: 7\n3. Add them: 5 + 7 = 12", 12),
    ("1. First we find the price.\n2. Then we double it to get 30.", 30),
    ("Therefore, Maria has 14 marbles left.", 14),
    ("In 5 years Ana will be 30.", 30),
    ("Janet makes 18 dollars every day at the market for 7 days.", 18),
    ("The total cost of 3 books is $45.", 45),
    ("It will take him 6 hours in total.", 6),
    ("So the train covers 240 miles in 4 hours.", 240),
    ("She needs 4 boxes to pack 40 eggs.", 4),
    ("He has 12 apples left out of 20.", 12),
    ("So the area is 25 square meters when the side is 5.", 25),
    ("There are 4 quarters in a dollar, so 3 dollars make 12 quarters.", 12),
    ("The population grew to 1,250,000 by 2019.", 1250000),
    ("That leaves $1,234.50 for rent.", 1234.5),
    ("The temperature fell to -12 degrees.", -12),
    ("The temperature is -3.5 °C.", -3.5),
    ("Half of 50 is 25.", 25),
    ("You'd need **5 boxes**. Each box holds 8 pens and 3 stay spare.", 5),
    ("**18** apples remain. I hope this helps with question 4!", 18),
    ("They need 36 tiles. (This assumes that 4 tiles break.)", 36),
    ("They need 36 tiles.\n\nNote: 4 spare tiles are a good idea.", 36),
    ("They need 36 tiles. Would you like to see 2 other ways?", 36),
    ("It is 6/3 = 2 hours, which is 120 minutes.", 120),
    ("1340 / 80 = 16.75 bags, so rounding up to 17 bags.", 17),
    ("**Step 1: Find the speed of 2 cars**\n60 km/h\n\n**Step 2: Multiply**\n60 × 3 = 180 km", 180),
    ("- Apples: 4\n- Pears: 6\n- Total: 10", 10),
    ("| item | cost |\n|---|---|\n| pen | 2 |\n| book | 9 |\n\nTogether that is $11.", 11),
    ("$$\\frac{12}{4} = 3$$", 3),
    ("Thus $n = 17$.", 17),
    ("\\[ x = \\frac{-5}{2} \\]", -2.5),
    ("So the probability is 3/8.", 0.375),
    ("So the probability is \\( \\frac{3}{8} \\).", 0.375),
    ("He ran 12.5 km on 12/05/2021.", 12.5),
    ("The meeting on 2021-05-12 had 48 guests.", 48),
    ("42", 42),
    ("42.", 42),
    ("-42", -42),
    ("$42", 42),
    ("42 apples", 42),
    ("≈ 42", 42),
    ("There are seven cats.", 7),
    ("Forty-two.", 42),
    ("He finished 3rd", 3),
    ("10 - 4 = 6", 6),
    ("10-4=6", 6),
    ("5 - -3 = 8", 8),
    ("16 – 9 = 7", 7),
    ("2 × 3 × 4 = 24", 24),
    ("The cost is 3 million dollars", 3e6),
    ("Approx. 12,50 Euro", 12.5),
    ("=7", 7),
    ("The value is 6.02 × 10²³", 6.02e23),
]

NONE = [
    "",
    "   ",
    "I don't know.",
    "The answer is unknown.",
    "No numbers here!",
    "GSK-J4 and H2O",
    "\ud800",
    "\x00\x01",
    "N/A",
    "####",
]


@pytest.mark.parametrize(("text", "value"), MARKED + STATED + WORKED)
def test_final_number(text: str, value: float | None) -> None:
    found = extract_final_number(text)
    if value is None:
        assert found.value is None, found
    else:
        assert found.value is not None, found
        assert math.isclose(found.value, value, rel_tol=1e-12), found


@pytest.mark.parametrize("text", NONE)
def test_nothing_found_is_a_value_of_its_own(text: str) -> None:
    found = extract_final_number(text)
    assert found.value is None
    assert found.rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("#### 4", "hash_marker"),
        (r"\boxed{4}", "boxed"),
        (r"\boxed{(4,5)}", "boxed_not_numeric"),
        ("The answer is 4.", "stated"),
        ("Wait, it is 4.", "corrected"),
        ("**4** pens.", "emphasised"),
        ("2 + 2 = 4", "result"),
        ("It has 4 legs.", "last_sentence"),
        ("four", "words"),
        ("3rd", "ordinal"),
        ("none", "nothing_found"),
    ],
)
def test_rule_is_named(text: str, rule: str) -> None:
    assert extract_final_number(text).rule == rule


@pytest.mark.parametrize("text", [row[0] for row in MARKED + STATED + WORKED if row[1] is not None])
def test_span_is_the_evidence(text: str) -> None:
    found = extract_final_number(text)
    start, end = found.span
    assert 0 <= start < end <= len(text)
    evidence = text[start:end]
    again = extract_final_number(evidence)
    assert again.value is not None and math.isclose(abs(again.value), abs(found.value), rel_tol=1e-12)


def test_first_number_anywhere_is_not_the_answer() -> None:
    """lm-eval's "anywhere" rule accepted gold 5 for "15 workers ..."."""
    assert extract_final_number("15 workers finish the wall in 3 days.").value != 5


def test_long_response_is_read_at_both_ends() -> None:
    filler = "blah blah. " * 100_000
    end = extract_final_number(filler + "The answer is 42.")
    assert end.value == 42
    assert (filler + "The answer is 42.")[slice(*end.span)] == "42"
    assert extract_final_number("#### 17\n" + filler).value == 17
