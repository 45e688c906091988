"""Scoring, metrics and comparison of 10,000 rows x 5 predictors, statistics included; prints one JSON line.

python -m benchmarks.comparison [rows] [predictors]

Two kinds of task, as the bundled ones are: values with units in sentences of many styles, scored by three scorers, and
ratings. Exits with 1 where metrics and comparison of one of them take longer than the limit.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from vlm_pipeline.scoring.comparison import compare
from vlm_pipeline.scoring.metrics import compute_metrics
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.scoring.table import score_table
from vlm_pipeline.settings.scoring import KeywordSettings, QuantitySettings, ScoreSettings, TextSettings

LIMIT_S = 60.0
ROWS_PER_PAGE = 10
SECTIONS = ("torque", "clearances", "fluids", "procedures", "diagrams")
KINDS: dict[str, tuple[Any, ...]] = {
    "values": (QuantitySettings(), TextSettings(), KeywordSettings()),
    "ratings": (ScoreSettings(low=1, high=10),),
}
# How a row's right value v, or a wrong one, is answered.
STYLES: dict[str, tuple[str, ...]] = {
    "values": ("{v} Nm", "Tighten it to {v} Nm.", "The torque is {v} Nm, as page 12 says.", "It takes {v}.", "I cannot read that from the page.", "Use a new gasket, then {v} Nm and 90 deg."),
    "ratings": ("Safety Score: {v}", "I would rate it {v}/10: there are 3 lamps.", "{v}", "A quiet street with 2 people.", "Overall {v} out of 10."),
}  # fmt: skip


def rows_of(kind: str, n: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"row-{i}", "section": SECTIONS[i // ROWS_PER_PAGE % 5], "group": f"page-{i // ROWS_PER_PAGE}", "split": "test",
            "answer": f"{i % 90 + 10} Nm" if kind == "values" else f"Safety Score: {i % 10 + 1}", "answer_value": None,
            "metadata": json.dumps({"expected_keywords": ["torque"]}), "prompt_text": "What does the page say?",
        }
        for i in range(n)
    ]  # fmt: skip


def answers_of(
    kind: str, rows: list[dict[str, Any]], names: list[str], seed: int = 0
) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    most = 90 if kind == "values" else 10
    made = []
    for k, name in enumerate(names):
        right = draw.random(len(rows)) < 0.2 + 0.1 * k
        styles = draw.integers(0, len(STYLES[kind]), len(rows))
        wrong = draw.integers(1, most + 1, len(rows))
        for i, row in enumerate(rows):
            value = int(row["answer"].split()[0 if kind == "values" else -1]) if right[i] else int(wrong[i])
            made.append(
                {
                    "id": row["id"], "predictor": name, "sample": 0, "prompt_hash": row["id"], "error": None, "cached": False,
                    "text": STYLES[kind][styles[i]].format(v=value), "finish_reason": "stop",
                    "tokens_in": 100, "tokens_out": 8, "latency_s": 0.1, "cost_usd": 0.0,
                }
            )  # fmt: skip
    return made


def main(n_rows: int = 10_000, n_predictors: int = 5) -> int:
    names = ["base", "tuned", *(f"other{i}" for i in range(n_predictors - 2))]
    same = {"engine": "same", "pixels": "same", "generation": "same", "batching": "same"}
    spent: dict[str, dict[str, float]] = {}
    for kind, settings in KINDS.items():
        rows = rows_of(kind, n_rows)
        answers = answers_of(kind, rows, names)
        started = time.perf_counter()
        scores = score_table([build_scorer(one) for one in settings], rows, answers)
        scored = time.perf_counter()
        figures = {name: compute_metrics(scores, answers, predictor=name) for name in names}
        measured = time.perf_counter()
        found = compare(
            scores,
            answers,
            base="base",
            tuned="tuned",
            conditions=dict.fromkeys(names, same),
            metrics=figures,
        )
        done = time.perf_counter()
        spent[kind] = {
            "scorers": len(settings),
            "pairs": len(found["pairs"]),
            "scoring_s": round(scored - started, 2),
            "metrics_s": round(measured - scored, 2),
            "comparison_s": round(done - measured, 2),
        }
    slowest = max(one["metrics_s"] + one["comparison_s"] for one in spent.values())
    figures = {"benchmark": "comparison", "rows": n_rows, "predictors": n_predictors, **spent}
    print(json.dumps({**figures, "slowest_s": round(slowest, 2), "limit_s": LIMIT_S}))
    return 0 if slowest <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
