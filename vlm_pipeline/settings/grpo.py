"""GRPO after supervised training: from which adapter, how many answers, and what the watch calls suspicious."""

from __future__ import annotations

from pydantic import Field

from vlm_pipeline.settings.base import Settings

#: kind of the task's first scorer -> its value that says whether an answer has the asked format
FORMAT_VALUES = {"score": "strict_format", "tool_calls": "valid_json", "sections": "format_compliance"}


class GrpoSettings(Settings):
    """`grpo: {}` in task.yaml is enough. Shao et al. 2024, arXiv:2402.03300."""

    # "promoted", "trained", or an adapter's id. None: the promoted adapter, else the trained one.
    start: str | None = None
    steps: int = Field(80, gt=0)
    prompts: int = Field(16, gt=0)  # train rows of a step
    answers: int = Field(8, ge=2)  # sampled for each of them, and compared with one another
    answers_at_once: int | None = Field(None, gt=0)  # through the model in training; None: all of a step
    learning_rate: float = Field(2e-5, gt=0)  # the embedded base wants 1e-3
    kl: float = Field(0.04, ge=0)  # weight of the divergence from the start; 0 switches it off
    temperature: float = Field(1.0, gt=0)  # of the sampled answers
    format_penalty: float = Field(0.5, ge=0)  # taken off the reward of an answer without the asked format
    eval_steps: int = Field(20, gt=0)
    val_rows: int = Field(256, gt=0)  # answered at every evaluation; start and end are compared on them
    val_answers: int = Field(4, ge=0)  # sampled to each of them besides the greedy one; 0: none
    patience: int = Field(5, gt=0)  # evaluations without a better task score before stopping
    longer: float = Field(
        1.5, gt=1
    )  # val answers so many times longer or shorter than the start's are suspicious
    refusals: float = Field(
        0.02, ge=0, le=1
    )  # so is a larger rise of the share that refuses what has an answer


def unfit_scorer(kind: str) -> str:
    """Why this kind of scorer gives no reward."""
    return (
        f"grpo needs a first scorer that also reads the format ({', '.join(FORMAT_VALUES)}); the task's is {kind}. "
        "Put one of these first, or remove `grpo`"
    )
