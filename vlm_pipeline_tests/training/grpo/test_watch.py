"""What the watch says when the reward rose for another reason than better answers."""

import pytest

from vlm_pipeline.settings.grpo import GrpoSettings
from vlm_pipeline.training.grpo.reward import Judged
from vlm_pipeline.training.grpo.watch import (
    FORMAT_ONLY,
    LONGER,
    NO_GAIN,
    REFUSALS,
    SHORTER,
    WORSE,
    Look,
    sentence,
    watch,
)

SETTINGS = GrpoSettings()
GROUPS = tuple(f"page {number}" for number in range(40))


def look(step, content=0.5, formatted=1.0, refusing=0.0, tokens=10):
    """40 answers; the shares are of answers in a fixed order."""
    return Look(
        step,
        tuple(
            Judged(content if number % 2 else content / 2, number < 40 * formatted, number < 40 * refusing, tokens)
            for number in range(40)
        ),
        GROUPS,
    )  # fmt: skip


def verdicts(before, after):
    return watch(before, after, SETTINGS)["verdicts"]


def test_better_content_is_a_gain_and_raises_no_doubt():
    watched = watch(look(0), look(20, content=0.8), SETTINGS)
    assert watched["verdicts"] == [] and watched["reward"]["low"] > 0
    assert "0.375 to 0.600" in sentence(watched) and "nothing to say" in sentence(watched)


def test_a_gain_by_format_alone_is_called_so():
    (verdict,) = verdicts(look(0, formatted=0.5), look(20))
    assert verdict.startswith(FORMAT_ONLY) and "50% to 100%" in verdict


def test_no_gain_is_no_gain():
    assert verdicts(look(0), look(20)) == [NO_GAIN]
    assert verdicts(look(0), look(20, content=0.2)) == [NO_GAIN, f"{WORSE} (reward 0.375 to 0.150)"]


def drawn(step, *, greedy=0.5, content=0.5, formatted=1.0):
    """The answers of `look`, and four drawn to each row, of another worth."""
    one = look(step, content, formatted)
    return Look(step, look(step, greedy).judged, GROUPS, tuple((answer,) * 4 for answer in one.judged))


def test_a_gain_of_sampled_answers_is_seen_where_no_greedy_answer_changes():
    watched = watch(drawn(0), drawn(20, content=0.8), SETTINGS)
    assert watched["verdicts"] == [] and watched["reward"]["difference"] == 0
    assert watched["sampled"]["answers"] == 4 and watched["sampled"]["content"]["low"] > 0
    assert "of 4 sampled answers to each 0.375 to 0.600" in sentence(watched)


def test_a_gain_of_sampled_answers_does_not_hide_that_greedy_ones_got_worse():
    (verdict,) = watch(drawn(0), drawn(20, greedy=0.3, content=0.8), SETTINGS)["verdicts"]
    assert verdict == f"{WORSE} (reward 0.375 to 0.225)"


def test_a_gain_of_sampled_answers_by_format_alone_is_called_so():
    (verdict,) = watch(drawn(0, formatted=0.5), drawn(20), SETTINGS)["verdicts"]
    assert verdict.startswith(FORMAT_ONLY)


def test_better_content_of_sampled_answers_clears_a_greedy_gain_by_format():
    before, after = drawn(0), drawn(20, content=0.8)
    before = Look(0, look(0, formatted=0.5).judged, GROUPS, before.sampled)
    assert watch(before, after, SETTINGS)["verdicts"] == []


def test_longer_answers_are_named():
    (verdict,) = verdicts(look(0), look(20, content=0.8, tokens=16))
    assert verdict == f"{LONGER} from 10.0 to 16.0 tokens an answer"
    assert verdicts(look(0), look(20, content=0.8, tokens=15)) == []


def test_answers_that_collapse_are_named():
    (verdict,) = verdicts(look(0), look(20, content=0.8, tokens=1))
    assert verdict == f"{SHORTER} from 10.0 to 1.0 tokens an answer"
    assert verdicts(look(0), look(20, content=0.8, tokens=7)) == []


def test_more_refusals_are_named():
    (verdict,) = verdicts(look(0, refusing=0.1), look(20, content=0.8, refusing=0.2))
    assert verdict.startswith(REFUSALS) and "10.0% to 20.0%" in verdict
    assert verdicts(look(0, refusing=0.2), look(20, content=0.8, refusing=0.1)) == []


def test_only_answers_to_the_same_rows_are_compared():
    other = Look(20, look(20).judged, tuple(reversed(GROUPS)))
    with pytest.raises(ValueError, match="different rows"):
        watch(look(0), other, SETTINGS)
