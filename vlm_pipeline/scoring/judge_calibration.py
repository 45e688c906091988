"""Do judges agree with people? Labelled answers of a task, and how close a judge comes to the labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_pipeline.scoring.intervals import mean, proportion, rank_correlation
from vlm_pipeline.scoring.judge_models import Case


def read_calibration(path: Path) -> tuple[list[Case], dict[str, float]]:
    """Labelled answers, one JSON object a line. ValueError names file and line of a bad one."""
    cases, labels = [], {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            label = float(row["label"])
            case = Case(
                f"line {number}", row["question"], row["answer"], row.get("expected"), row.get("context")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: question, answer and a label from 0 to 1 are needed ({error!r})"
            ) from error
        if not 0 <= label <= 1:
            raise ValueError(f"{path}, line {number}: label {label:g} is outside 0 to 1")
        cases.append(case)
        labels[case.id] = label
    return cases, labels


def agreement_with_people(pairs: Sequence[tuple[float, float]], threshold: float) -> dict[str, Any]:
    scores, labels = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
    same = (scores >= threshold) == (labels >= threshold) if len(pairs) else np.array([])
    return {
        "n_scored": len(pairs),
        "same_side_of_threshold": proportion(same).as_dict(),
        "mae": mean(np.abs(scores - labels), bounded=True).as_dict(),
        "spearman": rank_correlation(scores, labels).as_dict(),
    }
