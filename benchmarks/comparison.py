"""Metrics and comparison of 10,000 rows x 5 predictors, statistics included; prints one JSON line.

python benchmarks/comparison.py [rows] [predictors]
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from vlm_pipeline.scoring.comparison import compare
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.scoring.table import score_table
from vlm_pipeline.settings.scoring import QuantitySettings

ROWS_PER_PAGE = 10
SECTIONS = ("torque", "clearances", "fluids", "procedures", "diagrams")


def main(n_rows: int = 10_000, n_predictors: int = 5) -> dict[str, float | int]:
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"row-{i}", "section": SECTIONS[i // ROWS_PER_PAGE % 5], "group": f"page-{i // ROWS_PER_PAGE}",
            "split": "test", "answer": f"{i % 90 + 10} Nm", "answer_value": None, "metadata": "{}", "prompt_text": "?",
        }
        for i in range(n_rows)
    ]  # fmt: skip
    names = ["base", "tuned", *(f"other{i}" for i in range(n_predictors - 2))]
    predictions = [
        {
            "id": row["id"], "predictor": name, "sample": 0, "prompt_hash": row["id"], "error": None, "cached": False,
            "text": row["answer"] if rng.random() < 0.2 + 0.1 * k else "about 7", "finish_reason": "stop",
            "tokens_in": 100, "tokens_out": 8, "latency_s": 0.1, "cost_usd": 0.0,
        }
        for k, name in enumerate(names)
        for row in rows
    ]  # fmt: skip
    started = time.perf_counter()
    scores = score_table([build_scorer(QuantitySettings())], rows, predictions)
    scored = time.perf_counter()
    same = {"engine": "same", "pixels": "same", "generation": "same", "batching": "same"}
    found = compare(scores, predictions, base="base", tuned="tuned", conditions=dict.fromkeys(names, same))
    done = time.perf_counter()
    return {
        "benchmark": "comparison",
        "rows": n_rows,
        "predictors": n_predictors,
        "pairs": len(found["pairs"]),
        "scoring_s": round(scored - started, 2),
        "metrics_and_comparison_s": round(done - scored, 2),
        "limit_s": 60,
    }


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:]))))
