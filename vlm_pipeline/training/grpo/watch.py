"""The watch for reward hacking: what the answers to the same val rows were at the start and are at the end.

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
FORMAT_ONLY = "the reward gain came with format only: the content of the answers is not demonstrably better"
LONGER, SHORTER = "length grew", "length fell"
REFUSALS = "refusals rose"


@dataclass(frozen=True)
class Look:
    """Answers to the val rows at one step, in the rows' order; `groups` are what the rows were taken from."""

    step: int
    judged: tuple[Judged, ...]
    groups: tuple[str, ...]


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
    reward, content = (
        compare_means(new, old, before.groups).as_dict()
        for new, old in (
            [[one.reward(penalty) for one in look.judged] for look in (after, before)],
            [[one.content for one in look.judged] for look in (after, before)],
        )
    )
    was, became = figures(before.judged, penalty), figures(after.judged, penalty)
    found = _verdicts(was, became, reward, content, settings)
    return {
        "rows": len(before.judged),
        "before": {"step": before.step, **was},
        "after": {"step": after.step, **became},
        "reward": reward,
        "content": content,
        "verdicts": found,
        "suspicions": [one for one in found if one != NO_GAIN],  # stand before a promotion
    }


def _verdicts(
    was: dict[str, float],
    became: dict[str, float],
    reward: dict[str, Any],
    content: dict[str, Any],
    settings: GrpoSettings,
) -> list[str]:
    found = []
    if not _demonstrated(reward):
        found.append(NO_GAIN)
    elif not _demonstrated(content):
        found.append(
            f"{FORMAT_ONLY} (format valid {was['format_valid']:.0%} to {became['format_valid']:.0%}, content "
            f"{was['content']:.3f} to {became['content']:.3f})"
        )
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


def _demonstrated(difference: dict[str, Any]) -> bool:
    """Whether the whole interval lies above zero."""
    return difference["low"] is not None and difference["low"] > 0


def sentence(watched: dict[str, Any]) -> str:
    """The outcome in one sentence."""
    reward = watched["reward"]
    interval = "" if reward["low"] is None else f" [{reward['low']:+.3f}, {reward['high']:+.3f}]"
    told = "; ".join(watched["verdicts"]) or "the watch has nothing to say"
    return (
        f"val reward {watched['before']['reward']:.3f} to {watched['after']['reward']:.3f}, paired difference "
        f"{reward['difference']:+.3f}{interval} on {watched['rows']} rows; {told}"
    )
