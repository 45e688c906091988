"""The judges of one run at work: one case and one metric at a time, many at once; their noise, their calibration.

Refusals are scored before a judge sees them: a refusal makes no claim, and DeepEval would call it perfectly faithful
and relevant. Scores outside [0, 1] (a GEval reply of 15 becomes 1.5) are no scores: nothing is clamped.
"""

from __future__ import annotations

import base64
import logging
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_pipeline.redaction import redact
from vlm_pipeline.scoring.judge_calibration import agreement_with_people, read_calibration
from vlm_pipeline.scoring.judge_models import Case, InvalidJudgement, Judge, JudgeSilent, deepeval_model
from vlm_pipeline.scoring.refusals import refusal_kind
from vlm_pipeline.settings.judging import JudgedMetric, JudgingSettings

NO_REFERENCE = "no context and no gold answer to hold it against"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judgement:
    """What one judge said of one case. ``score`` is None where ``problem`` says why there is none; ``silent`` where
    the judge gave no reply, so that another run should ask again."""

    score: float | None
    reason: str | None = None
    problem: str | None = None
    refused: bool = False
    silent: bool = False


Verdicts = dict[tuple[str, str], Judgement]  # by (metric, judge)


class Bench:
    """The judges of one run."""

    def __init__(self, settings: JudgingSettings, judges: Sequence[Judge]) -> None:
        self.settings, self.judges = settings, judges
        self._models: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def judge_all(
        self, cases: Sequence[Case], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdicts]:
        """Verdicts of every case, in order; one failing case never stops the others."""
        found = []
        for judged in self._at_once(self._judge_case, cases):
            found.append(judged)
            if progress:
                progress(len(found), len(cases))
        return found

    def _at_once(self, work: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            yield from pool.map(work, items)

    def _judge_case(self, case: Case) -> Verdicts:
        return {
            (metric.label, judge.settings.label): self.judge(case, metric, judge)
            for metric in self.settings.metrics
            for judge in self.judges
        }

    def judge(self, case: Case, metric: JudgedMetric, judge: Judge, sample: int = 0) -> Judgement:
        """One judgement; whatever goes wrong costs this one alone. No key leaves in a problem's words."""
        if not case.answer.strip():
            return Judgement(None, problem="empty answer")
        if refusal_kind(case.answer) == "full":
            wanted = case.expected is not None and refusal_kind(case.expected) == "full"
            return Judgement(
                float(wanted), "refused" + (", as the gold answer does" if wanted else ""), refused=True
            )
        if metric.kind == "faithfulness" and not (case.context or case.expected):
            return Judgement(None, problem=NO_REFERENCE)
        try:
            score, reason = _measure(metric, self._model(judge, sample), case, judge.settings.images)
        except (InvalidJudgement, JudgeSilent) as error:
            return Judgement(None, problem=redact(str(error)), silent=isinstance(error, JudgeSilent))
        except Exception as error:
            problem = redact(f"{type(error).__name__}: {error}")
            log.warning("judge %s failed on row %s: %s", judge.settings.label, case.id, problem)
            return Judgement(None, problem=problem)
        if not (isinstance(score, (int, float)) and math.isfinite(score) and 0 <= score <= 1):
            return Judgement(None, problem=f"score {score!r} is outside 0 to 1")
        return Judgement(float(score), reason)

    def _model(self, judge: Judge, sample: int) -> Any:
        with self._lock:
            key = (judge.settings.label, sample)
            if key not in self._models:
                self._models[key] = deepeval_model(judge, sample=sample)
            return self._models[key]

    def noise(self, cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
        """The judge's own scatter: the same cases judged again; {} without repeats."""
        repeats = range(self.settings.repeats)
        if len(repeats) < 2 or not cases:
            return {}
        result = {}
        for metric in self.settings.metrics:
            asked = [(case, judge) for judge in self.judges for case in cases]

            def scores_of(one: tuple[Case, Judge], metric: JudgedMetric = metric) -> list[float]:
                judged = [self.judge(one[0], metric, one[1], sample) for sample in repeats]
                return [found.score for found in judged if found.score is not None and not found.refused]

            several = [scores for scores in self._at_once(scores_of, asked) if len(scores) > 1]
            spreads = [np.std(scores, ddof=1) for scores in several]
            flips = [len({score >= metric.threshold for score in scores}) > 1 for scores in several]
            result[metric.label] = {
                "n": len(several),
                "repeats": self.settings.repeats,
                "sd": float(np.sqrt(np.mean(np.square(spreads)))) if spreads else None,
                "flipped_share": float(np.mean(flips)) if flips else None,
            }
        return result

    def calibrate(self, file: str, folder: Path | str | None) -> dict[str, Any]:
        """How well each judge agrees with people's labels on a file of answers."""
        cases, labels = read_calibration(Path(folder or ".") / file)
        judged = dict(zip((case.id for case in cases), self.judge_all(cases), strict=True))
        report: dict[str, Any] = {"n": len(cases), "metrics": {}}
        for metric in self.settings.metrics:
            for judge in self.judges:
                key = (metric.label, judge.settings.label)
                pairs = [
                    (found[key].score, labels[case_id])
                    for case_id, found in judged.items()
                    if found[key].score is not None
                ]
                agreement = agreement_with_people(pairs, metric.threshold)
                report["metrics"].setdefault(key[0], {})[key[1]] = agreement
        return report


def _measure(metric: JudgedMetric, model: Any, case: Case, images: bool) -> tuple[Any, str | None]:
    """Score and reason by DeepEval; synchronous, one thread per case."""
    from deepeval.metrics import AnswerRelevancyMetric, FaithfulnessMetric, GEval
    from deepeval.test_case import LLMTestCase, MLLMImage, SingleTurnParams
    from deepeval.test_case.llm_test_case import _MLLM_IMAGE_REGISTRY

    shown = [Path(path).read_bytes() for path in case.images] if images else []
    # The type is a placeholder: the judge looks at the bytes.
    pictures = [
        MLLMImage(dataBase64=base64.b64encode(data).decode("ascii"), mimeType="image/png") for data in shown
    ]
    question = "".join(f"{picture}\n" for picture in pictures) + case.question
    context = [text for text in (case.context or case.expected,) if text]
    test_case = LLMTestCase(
        input=question,
        actual_output=case.answer,
        expected_output=case.expected,
        retrieval_context=context or None,
    )
    common = {"model": model, "threshold": metric.threshold, "async_mode": False}
    if metric.kind == "relevancy":
        measured: Any = AnswerRelevancyMetric(**common)
    elif metric.kind == "faithfulness":
        measured = FaithfulnessMetric(**common)
    else:
        params = [SingleTurnParams.INPUT, SingleTurnParams.ACTUAL_OUTPUT]
        params += [SingleTurnParams.EXPECTED_OUTPUT] if case.expected else []
        measured = GEval(
            name=metric.label,
            criteria=metric.criteria,
            evaluation_steps=metric.evaluation_steps or None,
            evaluation_params=params,
            **common,
        )
    try:
        measured.measure(test_case, _show_indicator=False)
    finally:
        for picture in pictures:  # DeepEval keeps every picture: a large table would not fit in memory
            _MLLM_IMAGE_REGISTRY.pop(picture._id, None)
    return measured.score, measured.reason
