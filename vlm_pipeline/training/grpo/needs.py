"""What GRPO needs before anything is spent: TRL, a scorer that reads the format, one process."""

from __future__ import annotations

from importlib.util import find_spec

from vlm_pipeline.settings.compute import AcceleratePlace
from vlm_pipeline.settings.grpo import FORMAT_VALUES
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict


def missing_trl() -> str:
    """'' where TRL is installed, else what to install."""
    return (
        "" if find_spec("trl") else "grpo needs TRL, which is not installed: pip install 'vlm_pipeline[grpo]'"
    )


def grpo_verdict(task: Task) -> Verdict:
    """Whether this task's GRPO can run here; decided before the supervised training that it goes on from."""
    place = task.compute.training
    problems = [missing_trl()]
    if isinstance(place, AcceleratePlace) and place.processes > 1:
        problems.append("grpo runs in one process: set compute.training to {kind: local}")
    problems = [problem for problem in problems if problem]
    reward = f"{task.scorers[0].kind}, format by {FORMAT_VALUES[task.scorers[0].kind]}"
    return Verdict(not problems, "; ".join(problems) or f"GRPO can run; its reward is the scorer {reward}")
