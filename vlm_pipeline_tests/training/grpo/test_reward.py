"""What an answer earns, for the three families of scorers: content and format apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.settings.scoring import ScoreSettings, SectionsSettings, TextSettings, ToolCallSettings
from vlm_pipeline.training.grpo.reward import Judge
from vlm_pipeline.training.rows import Row

PENALTY = 0.5
LOG = "10:00 oil 4 bar; 11:00 water 7 bar"
CALL = '<tool_call>{"name": "weigh", "arguments": {"part": "bolt"}}</tool_call>'
SECTIONS = "<analysis>one entry</analysis><proof>10:00 oil 4 bar</proof><final>{}</final>"


def row(answer, metadata=None):
    nothing = np.zeros(1, np.int64)
    return Row(
        "one", "s", "g", nothing, nothing, 1, (), (), (), answer=answer, metadata=metadata, prompt_text="?"
    )


def judged(settings, gold, text, metadata=None):
    return Judge(settings)(row(gold, metadata), text, len(text.split()))


SCORE = ScoreSettings(low=1, high=10)


@pytest.mark.parametrize(
    ("text", "content", "formatted"),
    [
        ("Safety Score: 7", 1.0, True),
        ("Safety Score: 8", 0.5, True),
        ("I would give it 7 out of 10.", 1.0, False),
        ("a quiet street", 0.0, False),
        ("", 0.0, False),
    ],
)
def test_a_score_earns_by_its_error_and_pays_for_another_format(text, content, formatted):
    found = judged(SCORE, "Safety Score: 7", text)
    assert (found.content, found.formatted) == (pytest.approx(content), formatted)
    assert found.reward(PENALTY) == pytest.approx(content - (0 if formatted else PENALTY))


def test_refusing_is_seen_where_the_gold_answer_does_not_refuse():
    refusal = "I'm sorry, but I cannot help with that."
    assert judged(SCORE, "Safety Score: 7", refusal).refused
    assert not judged(SCORE, "Safety Score: 7", "Safety Score: 2").refused
    assert not judged(ToolCallSettings(), refusal, refusal).refused


@pytest.mark.parametrize(
    ("text", "content", "formatted"),
    [
        (CALL, 1.0, True),
        (CALL.replace("bolt", "nut"), 0.0, True),
        ("weigh(part='bolt')", 1.0, False),
        (CALL.replace("}}", "}"), 0.0, False),
        ("Let me think.", 0.0, False),
    ],
)
def test_a_tool_call_earns_when_it_is_the_right_one(text, content, formatted):
    found = judged(ToolCallSettings(), CALL, text)
    assert (found.content, found.formatted) == (content, formatted)


@pytest.mark.parametrize(
    ("text", "content", "formatted"),
    [
        (SECTIONS.format("oil 4 bar"), 1.0, True),
        (SECTIONS.format("oil 4 bar").replace("<analysis>one entry</analysis>", ""), 1.0, False),
        # grounded +2, inconsistent -2, incorrect -5: -5 points of -15 (over-refusal included) to 9
        (SECTIONS.format("water 9 bar"), 10 / 24, True),
        # incorrect -5, of -8 to 5: there is no proof to judge
        ("nothing of the kind", 3 / 13, False),
        ("", 0.0, False),
    ],
)
def test_sections_earn_their_own_points_whatever_the_format(text, content, formatted):
    settings = SectionsSettings(correctness_threshold=0.9)
    found = judged(settings, SECTIONS.format("oil 4 bar"), text, {"context": LOG})
    assert found.formatted == formatted
    assert found.content == pytest.approx(content, abs=1e-6)


def test_abstaining_where_the_log_answers_is_a_refusal_and_earns_less():
    settings = SectionsSettings(correctness_threshold=0.9)
    gold = SECTIONS.format("oil 4 bar")
    abstains = judged(settings, gold, SECTIONS.format("The log does not say."), {"context": LOG})
    assert abstains.refused and abstains.content < 0.5


@given(st.text(max_size=60), st.sampled_from([SCORE, ToolCallSettings(), SectionsSettings()]))
def test_the_reward_stays_in_its_range(text, settings):
    gold = {
        "score": "Safety Score: 7",
        "tool_calls": CALL,
        "sections": SECTIONS.format("oil 4 bar"),
    }[settings.kind]
    found = judged(settings, gold, text, {"context": LOG})
    assert 0 <= found.content <= 1 and -PENALTY <= found.reward(PENALTY) <= 1


def test_a_scorer_that_does_not_read_the_format_gives_no_reward():
    with pytest.raises(PayloadError, match="score, tool_calls, sections"):
        Judge(TextSettings())


def test_rows_without_a_readable_gold_answer_are_named():
    assert Judge(SCORE).unreadable([row("a quiet street")]) == {
        "one": "no score between 1 and 10 (nothing_found)"
    }
