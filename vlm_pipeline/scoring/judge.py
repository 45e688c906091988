"""Judged metrics: DeepEval's relevancy, faithfulness and GEval over a prediction table.

A judge costs money out of the run's budget, like any hosted predictor. Without a usable judge the result is "not run",
and there is no number anywhere; a row without a valid judgement is unscored and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.prices import PriceError
from vlm_pipeline.scoring.agreement import krippendorff_alpha
from vlm_pipeline.scoring.judge_bench import Bench, Verdicts
from vlm_pipeline.scoring.judge_models import Case, Judge, Tally, prepare_deepeval, unavailable
from vlm_pipeline.scoring.row_scorers import source_version
from vlm_pipeline.settings.judging import JudgedMetric, JudgeSettings, JudgingSettings
from vlm_pipeline.store import content_hash

NO_JUDGE = "not run: no judge is configured"
_CONTROL = re.compile(r"<\|[^|<>]{1,40}\|>")  # template marks in a rendered prompt say nothing to a judge


def judge_version(metric: JudgedMetric, judges: Sequence[JudgeSettings]) -> str:
    """Changes with the metric, the pinned judges, DeepEval and the code of judging; prices and time-outs do not
    matter."""
    who = [
        judge.model_dump(include={"provider", "model", "base_url", "temperature", "images"})
        for judge in judges
    ]
    way = [source_version("judge_bench"), version("deepeval")]
    return content_hash([way, metric.model_dump(exclude={"threshold"}), who], length=12)


def judge_table(
    settings: JudgingSettings,
    formatted_rows: Iterable[Mapping[str, Any]],
    prediction_rows: Iterable[Mapping[str, Any]],
    *,
    cache_folder: Path | str,
    budget: Budget,
    task_folder: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Judge all predictions: score rows (as `score_table` gives them) and a summary for JSON.

    The summary holds ``status`` ("ready" or "not run: …"), ``n_silent`` (judgements that a judge gave no reply to),
    cost, agreement between judges, the judges' noise and their calibration. ``progress(done, all)`` is called after
    every judged case.
    """
    tally = Tally()
    judges, reasons = _usable(settings, cache_folder, budget, tally)
    if not judges:
        why = "; ".join(dict.fromkeys(reasons.values())) or NO_JUDGE
        return [], {"status": why, "judges": [], "metrics": {}, "not_run": reasons}
    prepare_deepeval(cache_folder)
    bench = Bench(settings, judges)
    ready = [judge.settings for judge in judges]
    rows = {str(row["id"]): row for row in formatted_rows}
    chosen = _chosen(prediction_rows, rows, settings.max_rows)
    cases = {
        key: _case(rows[key[1]], prediction)
        for key, prediction in chosen.items()
        if prediction.get("error") is None
    }
    found = dict(zip(cases, bench.judge_all(list(cases.values()), progress), strict=True))
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
            {"name": judge.label, "model": judge.model, "provider": judge.provider, "dated": judge.dated}
            for judge in ready
        ],
        "not_run": reasons,
        "n_cases": len(cases),
        "n_left_out": sum(1 for _ in chosen) - len(cases),
        "n_silent": sum(one.silent for verdicts in found.values() for one in verdicts.values()),
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


def availability_of(settings: JudgingSettings, budget_usd: float) -> dict[str, str | None]:
    """Why each judge cannot be asked now, None where it can: what was "not run" is run when this changes."""
    return {judge.label: unavailable(judge, budget_usd) for judge in settings.judges}


def _usable(
    settings: JudgingSettings, cache_folder: Path | str, budget: Budget, tally: Tally
) -> tuple[list[Judge], dict[str, str]]:
    """The judges that can be asked, and why the others cannot."""
    found, reasons = [], {}
    for judge, reason in zip(
        settings.judges, availability_of(settings, budget.limit_usd).values(), strict=True
    ):
        if reason is None:
            try:
                found.append(
                    Judge(
                        judge,
                        cache_folder=cache_folder,
                        budget=budget,
                        tally=tally,
                        concurrency=settings.concurrency,
                    )
                )
                continue
            except PriceError as error:
                reason = f"not run: {error}"
        reasons[judge.label] = reason
    return found, reasons


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


def _score_row(
    row: Mapping[str, Any],
    predictor: str,
    sample: int,
    metric: JudgedMetric,
    judges: Sequence[JudgeSettings],
    prediction: Mapping[str, Any],
    judged: Verdicts | None,
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
        "flagged": [],
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
