"""The watch for reward hacking: what the answers to the same val rows were at the start and are at the end.

Two kinds of answers are compared: the greedy ones, which are what ships, and several sampled ones to each row, whose mean
reward is what GRPO raises; it moves with every answer's probability, where a greedy answer changes or does not.
A reward can rise because answers got better, because they merely took the asked shape, or because they found a gap in the
scorer. The first is wanted; the others are said aloud, on the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from vlm_pipeline.scoring.paired import compare_means
from vlm_pipeline.settings.grpo import GrpoSettings
from vlm_pipeline.training.grpo.reward import Judged

NO_GAIN = "no reward gain is demonstrated on val rows"
WORSE = "the greedy answers, which ship, are demonstrably worse"
FORMAT_ONLY = "the reward gain came with format only: the content of the answers is not demonstrably better"
LONGER, SHORTER = "length grew", "length fell"
REFUSALS = "refusals rose"


@dataclass(frozen=True)
class Look:
    """Answers to the val rows at one step, in the rows' order; `groups` are what the rows were taken from."""

    step: int
    judged: tuple[Judged, ...]
    groups: tuple[str, ...]
    sampled: tuple[tuple[Judged, ...], ...] = ()  # answers drawn to each row; none where none are wanted


def figures(judged: Sequence[Judged], penalty: float) -> dict[str, float]:
    """Means over some answers: reward, content, tokens, and the shares with the asked format and refusing."""
    return {
        "reward": mean(one.reward(penalty) for one in judged),
        "content": mean(one.content for one in judged),
        "format_valid": mean(one.formatted for one in judged),
        "refusing": mean(one.refused for one in judged),
        "answer_tokens": mean(one.tokens for one in judged),
    }


def watch(before: Look, after: Look, settings: GrpoSettings) -> dict[str, Any]:
    """Figures before and after, paired differences with intervals by group, and what they make suspicious."""
    if before.groups != after.groups:
        raise ValueError("start and end were measured on different rows")
    penalty = settings.format_penalty
    was, became = figures(before.judged, penalty), figures(after.judged, penalty)
    reward, content = _differences(
        *([(one,) for one in look.judged] for look in (before, after)), before.groups, penalty
    )
    gains = [(reward, content)]
    sampled: dict[str, Any] = {}
    if before.sampled and after.sampled:
        gains.append(_differences(before.sampled, after.sampled, before.groups, penalty))
        sampled = {
            "answers": len(before.sampled[0]),
            "before": figures([one for answers in before.sampled for one in answers], penalty),
            "after": figures([one for answers in after.sampled for one in answers], penalty),
            "reward": gains[1][0],
            "content": gains[1][1],
        }
    found = _verdicts(was, became, gains, settings)
    return {
        "rows": len(before.judged),
        "before": {"step": before.step, **was},
        "after": {"step": after.step, **became},
        "reward": reward,
        "content": content,
        **({"sampled": sampled} if sampled else {}),
        "verdicts": found,
        "suspicions": [one for one in found if one != NO_GAIN],  # stand before a promotion
    }


def _verdicts(
    was: dict[str, float],
    became: dict[str, float],
    gains: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    settings: GrpoSettings,
) -> list[str]:
    """`gains`: the differences in reward and in content, of greedy and of sampled answers."""
    found = []
    shown = [content for reward, content in gains if _demonstrated(reward)]
    if not shown:
        found.append(NO_GAIN)
    elif not any(map(_demonstrated, shown)):
        found.append(
            f"{FORMAT_ONLY} (format valid {was['format_valid']:.0%} to {became['format_valid']:.0%}, content "
            f"{was['content']:.3f} to {became['content']:.3f})"
        )
    if (high := gains[0][0]["high"]) is not None and high < 0:
        found.append(f"{WORSE} (reward {was['reward']:.3f} to {became['reward']:.3f})")
    tokens = f"from {was['answer_tokens']:.1f} to {became['answer_tokens']:.1f} tokens an answer"
    if became["answer_tokens"] > settings.longer * was["answer_tokens"]:
        found.append(f"{LONGER} {tokens}")
    if became["answer_tokens"] * settings.longer < was["answer_tokens"]:
        found.append(f"{SHORTER} {tokens}")
    if became["refusing"] - was["refusing"] > settings.refusals:
        found.append(
            f"{REFUSALS} where the gold answer does not refuse: {was['refusing']:.1%} to {became['refusing']:.1%} of the rows"
        )
    return found


def _differences(
    before: Sequence[Sequence[Judged]],
    after: Sequence[Sequence[Judged]],
    groups: Sequence[str],
    penalty: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Paired differences of the rows' mean reward and mean content."""
    reward, content = (
        compare_means(
            *([mean(map(worth, answers)) for answers in rows] for rows in (after, before)), groups
        ).as_dict()
        for worth in (lambda one: one.reward(penalty), lambda one: one.content)
    )
    return reward, content


def _demonstrated(difference: dict[str, Any]) -> bool:
    """Whether the whole interval lies above zero."""
    return difference["low"] is not None and difference["low"] > 0


def sentence(watched: dict[str, Any]) -> str:
    """The outcome in one sentence."""
    sampled = watched.get("sampled")
    of_sampled = f"; of {sampled['answers']} sampled answers to each {_rise(sampled)}" if sampled else ""
    told = "; ".join(watched["verdicts"]) or "the watch has nothing to say"
    return f"val reward {_rise(watched)} on {watched['rows']} rows{of_sampled}; {told}"


def _rise(watched: dict[str, Any]) -> str:
    reward = watched["reward"]
    interval = "" if reward["low"] is None else f" [{reward['low']:+.3f}, {reward['high']:+.3f}]"
    return (
        f"{watched['before']['reward']:.3f} to {watched['after']['reward']:.3f}, paired difference "
        f"{reward['difference']:+.3f}{interval}"
    )
