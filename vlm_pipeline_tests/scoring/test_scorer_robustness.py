"""Any string gives a value or nothing found, in bounded time; imports stay light."""

import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scoring import GOLDS, LIMIT_MS, forget_readings, hostile, mixtures, responses
from vlm_pipeline import scoring
from vlm_pipeline.scoring.row_scorers import build_scorer

SCORERS = {name: build_scorer(s) for name, (s, _, _) in GOLDS.items()}
REFERENCES = {name: SCORERS[name].reference(gold, metadata) for name, (_, gold, metadata) in GOLDS.items()}

FUNCTIONS: dict[str, Callable[[str], object]] = {
    "extract_final_number": scoring.extract_final_number,
    "extract_score": lambda text: scoring.extract_score(text, 0, 10),
    "extract_choice": lambda text: scoring.extract_choice(
        text, {"A": "London", "B": "New York", "C": "New York City"}
    ),
    "extract_quantities": lambda text: scoring.extract_quantities(text, bare=True),
    "relaxed_match": lambda text: scoring.relaxed_match(text, "5"),
    "parse_tool_calls": scoring.parse_tool_calls,
    "refusal_kind": scoring.refusal_kind,
    "parse_sections": lambda text: scoring.parse_sections(text, ["think", "proof", "answer"]),
    "clean_response": lambda text: scoring.clean_response(text, "Rate it.\nSafety Score: [1-10]"),
    "find_keywords": lambda text: scoring.find_keywords(text, ["battery"]),
    "unsupported_numbers": lambda text: scoring.unsupported_numbers(text, "65 Nm"),
}

_WORDS = [
    "the answer is ", "Score: ", "7", "-3.5", "1,234", "6/10", "Nm", " bar", "\\boxed{", "}", "#### ", "(B)", "A ", "not ", "I can't help", "<tool_call>", "</tool_call>",
    '{"name": "f", "arguments": {', "}}", "<answer>", "</answer>", "<|channel|>final<|message|>", "<|end|>", "\n", " ", "½", "×10^", "^999999", "e99999", "/0", "\ud800", "\x00", "between 4 and ",
    "seven", " hundred", "°C", "±", "+", "**", "```", "|", "high risk", ".", ",", "wait, ", "10W-", "\\frac{1}{0}", "[f(x=1)]", "\u202e", "９", "٣", "²", "\U0001d7d8",
]  # fmt: skip
ANY = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=300),
    st.lists(st.sampled_from(_WORDS), max_size=60).map("".join),
    st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=ANY)
def test_any_string_is_read_without_a_crash(name: str, text: str) -> None:
    found = FUNCTIONS[name](text)
    span = getattr(found, "span", None)
    if span is not None:
        assert 0 <= span[0] <= span[1] <= len(text)


@pytest.mark.parametrize("name", SCORERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=ANY)
def test_any_string_is_scored_without_a_crash(name: str, text: str) -> None:
    result = SCORERS[name].score(
        text, REFERENCES[name], prompt="Rate it.", context="The fuse is rated for 15 A."
    )
    assert result.primary in result.values
    assert all(value is None or value == value for value in result.values.values())


QUIET_MS = 10.5  # of `_reference` on a quiet core, where the limit was measured


def _reference() -> int:
    """Work as the scorers do it, of known cost: what it takes now tells how slow this machine is now."""
    return sum(
        len(word) for word in re.findall(r"\w+", "Torque 65 Nm, then 48 ft-lb; " * 7_000) if word.isalnum()
    )


def _spent_ms(function: Callable[[], object]) -> float:
    forget_readings()
    start = time.process_time()
    function()
    return 1000 * (time.process_time() - start)


def _best_ms(function: Callable[[], object], limit: float) -> float:
    """CPU time of the quickest of up to five runs; beyond the limit, in milliseconds of a quiet core."""
    best = float("inf")
    for _ in range(5):
        best = min(best, _spent_ms(function))
        if best <= limit:
            return best
    return best / max(1.0, min(_spent_ms(_reference) for _ in range(5)) / QUIET_MS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_hostile_text_takes_long(name: str) -> None:
    FUNCTIONS[name]("5 Nm (4 ft-lb)")  # pint's registry is built once
    slow = {}
    for piece, text in hostile(20_000).items():
        spent = _best_ms(lambda text=text: FUNCTIONS[name](text), LIMIT_MS)
        if spent > LIMIT_MS:
            slow[piece] = round(spent)
    assert not slow, f"more than {LIMIT_MS} ms on 20,000 characters of: {slow}"


@pytest.mark.parametrize("opening", ["Score: ", "user\n", "\nuser", "a\n###"])
@pytest.mark.parametrize("line", ["\n", " \n"])
def test_many_empty_lines_are_not_read_in_quadratic_time(opening: str, line: str) -> None:
    """A pattern that let line breaks stand before a name took nine seconds."""
    text = opening + line * (20_000 // len(line)) + "x"
    assert _best_ms(lambda: scoring.clean_response(text), 4 * LIMIT_MS) <= 4 * LIMIT_MS


def test_a_long_sentence_that_never_turns_is_not_read_in_quadratic_time() -> None:
    text = ("you might think 1/" * 1_200)[:20_000]
    assert _best_ms(lambda: scoring.extract_final_number(text), 2 * LIMIT_MS) <= 2 * LIMIT_MS


def _slow_mixtures(count: int, seed: int) -> dict[str, float]:
    """CPU time of the slowest mixtures by function or scorer, those beyond the limit."""
    calls: dict[str, Callable[[str], object]] = dict(FUNCTIONS)
    for name, scorer in SCORERS.items():
        calls[f"{name} scorer"] = lambda text, name=name, scorer=scorer: scorer.score(
            text, REFERENCES[name], prompt="Rate it.", context="The fuse is rated for 15 A."
        )
    slow = {}
    for text in mixtures(count, seed=seed):
        for name, call in calls.items():
            spent = _best_ms(lambda call=call, text=text: call(text), LIMIT_MS)
            if spent > LIMIT_MS:
                slow[f"{name}: {text[:60]!r}"] = round(spent)
    return slow


def test_no_mixture_of_hostile_texts_takes_long() -> None:
    assert not _slow_mixtures(12, seed=1)


@pytest.mark.slow
def test_no_mixture_of_many_hostile_texts_takes_long() -> None:
    assert not _slow_mixtures(1_000, seed=2)


@pytest.mark.parametrize("name", SCORERS)
def test_usual_responses_are_quick(name: str) -> None:
    scorer, reference = SCORERS[name], REFERENCES[name]
    slow = [
        text
        for text in responses(60)
        if _best_ms(lambda text=text: scorer.score(text, reference), LIMIT_MS / 5) > LIMIT_MS / 5
    ]
    assert not slow


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("piece", ["a", "1", "{", "1 Nm ", '{"name": "f", "arguments": {}} ', "word. "])
def test_a_megabyte_is_read(name: str, piece: str) -> None:
    text = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
    start = time.process_time()
    FUNCTIONS[name](text)
    assert time.process_time() - start < 5.0


def test_importing_the_scorers_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, vlm_pipeline.scoring as s, vlm_pipeline.scoring.row_scorers, vlm_pipeline.settings.scoring; s.extract_score('7', 0, 10);"
        "s.parse_tool_calls('x'); s.refusal_kind('x'); s.extract_choice('A', ['A']);"
        "print([m for m in ('torch', 'transformers', 'deepeval', 'pandas', 'dagster', 'pint', 'scipy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
