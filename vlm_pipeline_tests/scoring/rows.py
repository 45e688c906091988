"""Rows, predictions and two small scorers for the tests of tables, metrics and comparisons."""

from __future__ import annotations

import json
import re
from typing import Any

from vlm_pipeline.scoring.results import NOTHING, Extraction, GoldError, Reference, RowScore

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class ExactScorer:
    """Right when the text is "A: <gold>"; ``any_number`` reads any number in it."""

    name = "reading"
    kind = "quantity"

    def __init__(self, version: str = "1") -> None:
        self.version = version

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        found = NUMBER.search(str(example_answer))
        return Reference(float(found[0]), example_answer) if found else GoldError("no number", example_answer)

    def score(
        self, text: str, reference: Reference, *, prompt: str | None = None, context: str | None = None
    ) -> RowScore:
        found = NUMBER.search(text)
        if not found:
            return RowScore({"exact": None, "any_number": None}, "exact", NOTHING, "no_answer")
        right = float(found[0]) == reference.value
        exact = right and text.startswith("A: ")
        return RowScore(
            {"exact": exact, "any_number": right},
            "exact",
            Extraction(float(found[0]), "first number", found.span()),
            None if exact else "format" if right else "wrong_number",
        )


class PointScorer(ExactScorer):
    """Points off the gold number."""

    name = "points"
    kind = "score"

    def score(
        self, text: str, reference: Reference, *, prompt: str | None = None, context: str | None = None
    ) -> RowScore:
        found = NUMBER.search(text)
        if not found:
            values = dict.fromkeys(("abs_error", "error", "within_1", "within_2", "any_number"))
            return RowScore(values, "abs_error", NOTHING, "no_answer")
        error = float(found[0]) - reference.value
        values = {
            "abs_error": abs(error),
            "error": error,
            "within_1": abs(error) <= 1,
            "within_2": abs(error) <= 2,
            "any_number": any(abs(float(one) - reference.value) <= 1 for one in NUMBER.findall(text)),
        }
        return RowScore(values, "abs_error", Extraction(float(found[0]), "first number", found.span()))


def formatted(n: int, *, page: int = 1, split: str = "test", sections: str = "ab") -> list[dict[str, Any]]:
    """n rows, ``page`` rows on a page, pages dealt out to the sections; row i asks for i % 10."""
    return [
        {
            "id": f"row-{i:04d}",
            "section": sections[i // page % len(sections)],
            "group": f"page-{i // page}",
            "split": split,
            "answer": str(i % 10),
            "answer_value": None,
            "metadata": json.dumps({"context": "the page"}),
            "prompt_text": f"question {i}",
        }
        for i in range(n)
    ]


def predictions(
    rows: list[dict[str, Any]], predictor: str, texts: list[str | None], **columns: Any
) -> list[dict[str, Any]]:
    """One prediction per row; None is a failed request."""
    return [
        {
            "id": row["id"],
            "predictor": predictor,
            "sample": 0,
            "prompt_hash": f"hash of {row['id']}",
            "text": text,
            "error": "timeout" if text is None else None,
            "finish_reason": "stop",
            "tokens_in": 100,
            "tokens_out": 10,
            "latency_s": 0.5,
            "cost_usd": 0.01,
            "cached": False,
        }
        | columns
        for row, text in zip(rows, texts, strict=True)
    ]


def conditions(**changed: Any) -> dict[str, Any]:
    return {
        "engine": "transformers",
        "pixels": {"max": 1000},
        "generation": {"max_new_tokens": 8},
        "batching": 4,
    } | changed
