"""Figures of scoring by key, and what people call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlm_pipeline.reporting.view import Metric, is_number

READABLE = "extraction"
_LABELS = {
    "mae": "Mean absolute error",
    "rmse": "Root mean square error",
    "within_1": "Within one point",
    "within_2": "Within two points",
    "spearman": "Rank correlation",
    "sample_agreement": "Samples that agree",
    "bias": "Bias (mean error)",
    "exact": "Exact answers",
    "correct": "Correct answers",
    "any_number": "Correct, read leniently",
    "any_wording": "Answer given, in any wording",
    "f1": "Token F1",
    "token_f1": "Token F1",
    "anls": "ANLS",
    "rel_error": "Relative error",
    "numeric_exact": "Number within tolerance",
    "unit_correct": "Unit right",
    READABLE: "Readable answers",
}


def label_of(key: str) -> str:
    """A value name as people write it."""
    text = _LABELS.get(key) or key.replace(".", ": ").replace("_", " ")
    return text[:1].upper() + text[1:] if text else "Metric"


def entries(figures: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Every figure of a predictor as (scorer.metric, entry)."""
    for scorer, found in (figures.get("scorers") or {}).items():
        yield from entries_of(scorer, found)


def entries_of(scorer: str, found: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for metric, entry in (found.get("metrics") or {}).items():
        if entry:
            yield f"{scorer}.{metric}", entry
    if found.get(READABLE):
        extraction = {"kind": "rate", "n": found.get("n"), **found[READABLE]}
        yield f"{scorer}.{READABLE}", extraction


def metrics_of(figures: Mapping[str, Mapping[str, Any]], pairs: list[Mapping[str, Any]]) -> dict[str, Metric]:
    described: dict[str, Mapping[str, Any]] = {}
    for found in figures.values():
        for key, entry in entries(found):
            described.setdefault(key, entry)
    for pair in pairs:
        for scorer, tests in (pair.get("metrics") or {}).items():
            for metric, entry in tests.items():
                described.setdefault(f"{scorer}.{metric}", entry)
    several = len({key.split(".", 1)[0] for key in described}) > 1
    metrics = {}
    for key, entry in described.items():
        scorer, metric = key.split(".", 1)
        label = label_of(metric)
        metrics[key] = Metric(
            key,
            f"{label} ({scorer.replace('_', ' ')})" if several else label,
            entry.get("direction") == "lower",
            entry.get("kind") in ("rate", "share"),
            digits=_digits([e for found in figures.values() for k, e in entries(found) if k == key]),
        )
    return metrics


def _digits(entries: list[Mapping[str, Any]]) -> int:
    """Places after the point that tell the figures of one metric apart."""
    size = max((abs(e["estimate"]) for e in entries if is_number(e.get("estimate"))), default=1.0)
    return 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 0.1 else 4
