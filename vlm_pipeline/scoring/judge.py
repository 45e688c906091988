"""Judged metrics: DeepEval's relevancy, faithfulness and GEval over a prediction table.

Refusals are scored before a judge sees them: a refusal makes no claim, and DeepEval would call it perfectly faithful
and relevant. Scores outside [0, 1] (a GEval reply of 15 becomes 1.5) are no scores: the row is unscored and counted,
nothing is clamped. Without a usable judge the result is "not run", and there is no number anywhere.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_pipeline.scoring.agreement import krippendorff_alpha
from vlm_pipeline.scoring.judge_calibration import agreement_with_people, read_calibration
from vlm_pipeline.scoring.judge_models import (
    BudgetSpent,
    Case,
    InvalidJudgement,
    JudgeCache,
    Picture,
    Tally,
    judge_model,
    prepare_deepeval,
    unavailable,
)
from vlm_pipeline.scoring.refusals import refusal_kind
from vlm_pipeline.settings.judging import JudgedMetric, JudgeSettings, JudgingSettings
from vlm_pipeline.store import content_hash

VERSION = 1  # raise it when the way of judging changes
NO_REFERENCE = "no context and no gold answer to hold it against"
_CONTROL = re.compile(r"<\|[^|<>]{1,40}\|>")  # template marks in a rendered prompt say nothing to a judge
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judgement:
    """What one judge said of one case. ``score`` is None where ``problem`` says why there is none."""

    score: float | None
    reason: str | None = None
    problem: str | None = None
    refused: bool = False


def judge_version(metric: JudgedMetric, judges: Sequence[JudgeSettings]) -> str:
    """Changes with the metric, the pinned judges and the way of judging; prices and time-outs do not matter."""
    who = [
        judge.model_dump(include={"provider", "model", "base_url", "temperature", "images"})
        for judge in judges
    ]
    return content_hash([VERSION, metric.model_dump(exclude={"threshold"}), who], length=12)


def judge_table(
    settings: JudgingSettings,
    formatted_rows: Iterable[Mapping[str, Any]],
    prediction_rows: Iterable[Mapping[str, Any]],
    *,
    cache_folder: Path | str,
    task_folder: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Judge all predictions: score rows (as `score_table` gives them) and a summary for JSON.

    The summary holds ``status`` ("ready" or "not run: …"), cost, agreement between judges, the judges' noise and
    their calibration. ``progress(done, all)`` is called after every judged case.
    """
    ready, reasons = _usable(settings.judges)
    if not ready:
        why = "; ".join(dict.fromkeys(reasons.values())) or "not run: no judge is configured"
        return [], {"status": why, "judges": [], "metrics": {}, "not_run": reasons}
    prepare_deepeval(cache_folder)
    tally = Tally(max_usd=settings.max_usd)
    bench = _Bench(settings, ready, Path(cache_folder), tally)
    rows = {str(row["id"]): row for row in formatted_rows}
    chosen = _chosen(prediction_rows, rows, settings.max_rows)
    cases = {
        key: _case(rows[key[1]], prediction)
        for key, prediction in chosen.items()
        if prediction.get("error") is None
    }
    found = bench.judge_all(list(cases.values()), list(cases), progress)
    score_rows = [
        _score_row(
            rows[row_id], predictor, sample, metric, ready, prediction, found.get((predictor, row_id, sample))
        )
        for (predictor, row_id, sample), prediction in chosen.items()
        for metric in settings.metrics
    ]
    noise = bench.noise([cases[key] for key in list(cases)[: settings.noise_rows]])
    summary = {
        "status": "ready",
        "judges": [
            {"name": judge.label, "model": judge.model, "provider": judge.provider} for judge in ready
        ],
        "not_run": reasons,
        "n_cases": len(cases),
        "n_left_out": sum(1 for _ in chosen) - len(cases),
        "metrics": {
            metric.label: {
                "threshold": metric.threshold,
                "version": judge_version(metric, ready),
                "judges": _per_judge(metric.label, ready, found),
                "agreement": _agreement(metric.label, ready, found),
                "noise": noise.get(metric.label),
            }
            for metric in settings.metrics
        },
        "calibration": bench.calibrate(settings.calibration, task_folder) if settings.calibration else None,
        "usage": tally.as_dict(),
    }
    return score_rows, summary


def _usable(judges: Sequence[JudgeSettings]) -> tuple[list[JudgeSettings], dict[str, str]]:
    reasons = {judge.label: reason for judge in judges if (reason := unavailable(judge))}
    return [judge for judge in judges if judge.label not in reasons], reasons


def _chosen(
    prediction_rows: Iterable[Mapping[str, Any]], rows: Mapping[str, Any], limit: int | None
) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """Predictions by (predictor, row, sample); with a limit the same rows for every predictor, dealt over sections."""
    known = {
        (one["predictor"], str(one["id"]), int(one.get("sample") or 0)): one
        for one in prediction_rows
        if str(one["id"]) in rows
    }
    if limit is None:
        return known
    asked = sorted({row_id for _, row_id, _ in known}, key=lambda row_id: content_hash(row_id))
    place: dict[str, int] = {}
    dealt: dict[str, int] = {}
    for row_id in asked:
        section = str(rows[row_id].get("section"))
        place[row_id] = dealt[section] = dealt.get(section, -1) + 1
    kept = set(sorted(asked, key=lambda row_id: place[row_id])[:limit])
    return {key: one for key, one in known.items() if key[1] in kept}


def _case(row: Mapping[str, Any], prediction: Mapping[str, Any]) -> Case:
    metadata = row.get("metadata")
    metadata = json.loads(metadata) if isinstance(metadata, str) else dict(metadata or {})
    return Case(
        id=str(row["id"]),
        question=_CONTROL.sub(" ", row.get("prompt_text") or "").strip(),
        answer=prediction.get("text") or "",
        expected=row.get("answer"),
        context=metadata.get("context"),
        images=tuple(row.get("images") or ()),
    )


class _Bench:
    """The judges of one run, their cache and their tally."""

    def __init__(
        self, settings: JudgingSettings, judges: Sequence[JudgeSettings], cache: Path, tally: Tally
    ) -> None:
        self.settings, self.judges, self.tally = settings, judges, tally
        self._caches = {judge.label: JudgeCache(cache, f"judge-{judge.label}") for judge in judges}
        self._models: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def model(self, judge: JudgeSettings, sample: int) -> Any:
        """One model, and so one client with its open connections, per judge and repetition."""
        with self._lock:
            key = (judge.label, sample)
            if key not in self._models:
                self._models[key] = judge_model(judge, self._caches[judge.label], self.tally, sample=sample)
            return self._models[key]

    def judge_all(
        self, cases: Sequence[Case], keys: Sequence[Any], progress: Callable[[int, int], None] | None = None
    ) -> dict[Any, dict[tuple[str, str], Judgement]]:
        """Judgements by key and (metric, judge); one failing case never stops the others."""
        found: dict[Any, dict[tuple[str, str], Judgement]] = {}
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            for done, (key, judged) in enumerate(
                zip(keys, pool.map(self._judge_case, cases), strict=True), 1
            ):
                found[key] = judged
                if progress:
                    progress(done, len(cases))
        return found

    def _judge_case(self, case: Case) -> dict[tuple[str, str], Judgement]:
        return {
            (metric.label, judge.label): self.judge(case, metric, judge)
            for metric in self.settings.metrics
            for judge in self.judges
        }

    def judge(self, case: Case, metric: JudgedMetric, judge: JudgeSettings, sample: int = 0) -> Judgement:
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
            score, reason = _measure(metric, self.model(judge, sample), case, judge.images)
        except (InvalidJudgement, BudgetSpent) as error:
            return Judgement(None, problem=str(error))
        except Exception as error:  # a judge's outage is recorded on its row; nothing else is lost
            log.warning("judge %s failed on row %s: %s", judge.label, case.id, error)
            return Judgement(None, problem=f"{type(error).__name__}: {error}")
        if not (isinstance(score, (int, float)) and math.isfinite(score) and 0 <= score <= 1):
            return Judgement(None, problem=f"score {score!r} is outside 0 to 1")
        return Judgement(float(score), reason)

    def noise(self, cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
        """The judge's own scatter: the same cases judged again; {} without repeats."""
        if self.settings.repeats < 2 or not cases:
            return {}
        result = {}
        for metric in self.settings.metrics:
            spreads, flips = [], []
            for judge in self.judges:
                for case in cases:
                    with_score = [
                        one.score
                        for sample in range(self.settings.repeats)
                        if (one := self.judge(case, metric, judge, sample)).score is not None
                        and not one.refused
                    ]
                    if len(with_score) > 1:
                        spreads.append(np.std(with_score, ddof=1))
                        flips.append(len({score >= metric.threshold for score in with_score}) > 1)
            result[metric.label] = {
                "n": len(spreads),
                "repeats": self.settings.repeats,
                "sd": float(np.sqrt(np.mean(np.square(spreads)))) if spreads else None,
                "flipped_share": float(np.mean(flips)) if flips else None,
            }
        return result

    def calibrate(self, file: str, folder: Path | str | None) -> dict[str, Any]:
        """How well each judge agrees with people's labels on a file of answers."""
        cases, labels = read_calibration(Path(folder or ".") / file)
        judged = self.judge_all(cases, [case.id for case in cases])
        report: dict[str, Any] = {"n": len(cases), "metrics": {}}
        for metric in self.settings.metrics:
            for judge in self.judges:
                pairs = [
                    (one.score, labels[case.id])
                    for case in cases
                    if (one := judged[case.id][metric.label, judge.label]).score is not None
                ]
                report["metrics"].setdefault(metric.label, {})[judge.label] = agreement_with_people(
                    pairs, metric.threshold
                )
        return report


def _measure(metric: JudgedMetric, model: Any, case: Case, images: bool) -> tuple[Any, str | None]:
    """Score and reason by DeepEval; synchronous, one thread per case."""
    from deepeval.metrics import AnswerRelevancyMetric, FaithfulnessMetric, GEval
    from deepeval.test_case import LLMTestCase, MLLMImage, SingleTurnParams
    from deepeval.test_case.llm_test_case import _MLLM_IMAGE_REGISTRY

    shown = [Picture.read(path) for path in case.images] if images else []
    pictures = [MLLMImage(dataBase64=picture.base64, mimeType=picture.media_type) for picture in shown]
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
        for (
            picture
        ) in pictures:  # DeepEval keeps every picture for ever: a large table would not fit in memory
            _MLLM_IMAGE_REGISTRY.pop(picture._id, None)
    return measured.score, measured.reason


def _score_row(
    row: Mapping[str, Any],
    predictor: str,
    sample: int,
    metric: JudgedMetric,
    judges: Sequence[JudgeSettings],
    prediction: Mapping[str, Any],
    judged: Mapping[tuple[str, str], Judgement] | None,
) -> dict[str, Any]:
    """A row of the score table: the mean over the judges that gave a valid score."""
    ones = [judged[metric.label, judge.label] for judge in judges] if judged is not None else []
    scores = [one.score for one in ones if one.score is not None]
    score = float(np.mean(scores)) if scores else None
    refused = any(one.refused for one in ones)
    problems = [f"{j.label}: {one.problem}" for j, one in zip(judges, ones, strict=False) if one.problem]
    status = "error" if judged is None else "scored" if score is not None else "unscored"
    failed = score is not None and score < metric.threshold
    return {
        "id": str(row["id"]),
        "section": row.get("section"),
        "group": str(row["group"]) if row.get("group") is not None else str(row["id"]),
        "split": row.get("split"),
        "predictor": predictor,
        "scorer": metric.label,
        "kind": "judge",
        "version": judge_version(metric, judges),
        "sample": sample,
        "status": status,
        "primary": "score" if judged is not None else None,
        "headline": score,
        "values": {}
        if judged is None
        else {"score": score, "passed": None if score is None else score >= metric.threshold},
        "extracted": None,
        "gold": None,
        "rule": "refused" if refused else "judged" if scores else None,
        "span": None,
        "inferred": False,
        "failure": "refusal" if refused and failed else _failure(metric) if failed else None,
        "notes": [one.reason for one in ones if one.reason],
        "detail": "; ".join(problems) or (str(prediction["error"]) if judged is None else None),
    }


def _failure(metric: JudgedMetric) -> str:
    return "hallucination" if metric.kind == "faithfulness" else "other"


def _per_judge(label: str, judges: Sequence[JudgeSettings], found: Mapping[Any, Any]) -> dict[str, Any]:
    result = {}
    for judge in judges:
        ones = [judged[label, judge.label] for judged in found.values()]
        result[judge.label] = {
            "n": len(ones),
            "n_scored": sum(1 for one in ones if one.score is not None),
            "n_refused": sum(1 for one in ones if one.refused),
            "problems": [one.problem for one in ones if one.problem][:5],
        }
    return result


def _agreement(
    label: str, judges: Sequence[JudgeSettings], found: Mapping[Any, Any]
) -> dict[str, Any] | None:
    """Krippendorff's alpha over the cases that judges really read; refusals were not put to them."""
    if len(judges) < 2:
        return None
    ratings = [
        [None if (one := judged[label, judge.label]).refused else one.score for judged in found.values()]
        for judge in judges
    ]
    return {"krippendorff_alpha": krippendorff_alpha(ratings), "judges": len(judges), "level": "interval"}
