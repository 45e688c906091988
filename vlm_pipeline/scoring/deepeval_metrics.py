"""The pure row scorers as DeepEval metrics, for those who already run DeepEval: no judge, no network, no cost.

Import after `prepare_deepeval`. The expected output of the test case is the gold answer; keywords stand in
``additional_metadata["expected_keywords"]``.
"""

from __future__ import annotations

from typing import Any

from deepeval.metrics import BaseMetric
from deepeval.test_case import LLMTestCase, SingleTurnParams

from vlm_pipeline.scoring.results import GoldError
from vlm_pipeline.scoring.row_scorers import RowScorer, build_scorer
from vlm_pipeline.settings.scoring import (
    DEFAULT_THRESHOLDS,
    KeywordSettings,
    QuantitySettings,
    ScorerSettings,
)


class RowScorerMetric(BaseMetric):
    """Any row scorer of this package as a metric.

    ``score`` is the headline value (an error in points counts as 1 within ``max_error``, else 0). A response that
    nothing can be read from scores 0 with the reason; an unreadable gold answer raises ValueError: it is a finding
    about the data, not about the model.
    """

    _required_params = [SingleTurnParams.INPUT, SingleTurnParams.ACTUAL_OUTPUT]

    def __init__(
        self,
        scorer: RowScorer,
        *,
        threshold: float | None = None,
        name: str | None = None,
        max_error: float = 1.0,
    ) -> None:
        self.scorer = scorer
        self.threshold = 1.0 if threshold is None else threshold
        self.max_error = max_error
        self.evaluation_model = f"{scorer.kind} {scorer.version}"
        self.async_mode = False
        self.include_reason = True
        self._name = name or scorer.name

    @property
    def __name__(self) -> str:
        return self._name

    def measure(self, test_case: LLMTestCase, *args: Any, **kwargs: Any) -> float:
        metadata = _metadata(test_case)
        reference = self.scorer.reference(test_case.expected_output, metadata)
        if isinstance(reference, GoldError):
            raise ValueError(f"the gold answer cannot be read ({reference.reason}): {reference.raw!r}")
        context = "\n".join(map(str, test_case.retrieval_context or test_case.context or [])) or None
        found = self.scorer.score(
            test_case.actual_output or "", reference, prompt=str(test_case.input), context=context
        )
        headline = found.headline
        if headline is None:
            self.score = 0.0
        elif found.primary in ("abs_error", "absolute_error"):
            self.score = float(headline <= self.max_error)
        else:
            self.score = float(headline)
        self.reason = self._reason(found)
        self.success = self.score >= self.threshold
        return self.score

    async def a_measure(self, test_case: LLMTestCase, *args: Any, **kwargs: Any) -> float:
        return self.measure(test_case)

    def is_successful(self) -> bool:
        return bool(self.success)

    @staticmethod
    def _reason(found: Any) -> str:
        if found.headline is None:
            return f"nothing could be read from the answer ({found.failure or 'no answer'})"
        read = (
            f"read {found.extraction.value!r} by {found.extraction.rule}"
            if found.extraction
            else "read as a whole"
        )
        return "; ".join([read, *([found.failure] if found.failure else []), *found.notes])


class NumericExactMatch(RowScorerMetric):
    """Numbers with units, compared after conversion."""

    def __init__(self, threshold: float | None = None, **settings: Any) -> None:
        super().__init__(
            build_scorer(QuantitySettings(**settings)), threshold=threshold, name="NumericExactMatch"
        )


class KeywordPresence(RowScorerMetric):
    """Share of the expected keywords that the answer holds, synonyms and inflected forms included."""

    def __init__(self, threshold: float = DEFAULT_THRESHOLDS["keywords"], **settings: Any) -> None:
        super().__init__(
            build_scorer(KeywordSettings(**settings)), threshold=threshold, name="KeywordPresence"
        )


def metric_of(settings: ScorerSettings) -> RowScorerMetric:
    """The metric of a task's scorer; an error in points is right within `max_error`."""
    return RowScorerMetric(
        build_scorer(settings), threshold=None if settings.kind == "score" else settings.bar
    )


def _metadata(test_case: LLMTestCase) -> dict[str, Any]:
    for name in ("metadata", "additional_metadata"):
        found = getattr(test_case, name, None)
        if isinstance(found, dict):
            return found
    return {}
