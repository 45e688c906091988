"""What all row scorers share: where the gold answer stands, and how settings become attributes."""

import json
from dataclasses import replace
from typing import Any, Generic, TypeVar

from vlm_pipeline.scoring.cleaning import clean
from vlm_pipeline.scoring.refusals import Refusal, find_refusal, refusal_kind
from vlm_pipeline.scoring.results import Context, FailureKind, GoldError, Reference, RowScore
from vlm_pipeline.settings.scoring import BaseScorerSettings

S = TypeVar("S", bound=BaseScorerSettings)


class BaseScorer(Generic[S]):
    """Settings, name, version and bar; subclasses read the gold answer and score a response."""

    def __init__(self, settings: S, *, version: str) -> None:
        self.settings = settings
        self.kind: str = settings.kind  # type: ignore[attr-defined]
        self.name: str = settings.column_name
        self.version = version
        self.bar: float = settings.bar

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        raise NotImplementedError

    def score(
        self, text: str, reference: Reference, *, prompt: str | None = None, context: Context = None
    ) -> RowScore:
        """Score the cleaned response; every span is one of the response as it came."""
        cleaned = clean(text, prompt)
        found = self._score(cleaned.text, reference, prompt, context)
        if found.failure == "refusal":
            found = _shown(found, find_refusal(cleaned.text))
        return found.placed(cleaned.original)

    def _score(self, cleaned: str, reference: Reference, prompt: str | None, context: Context) -> RowScore:
        """The scores of a cleaned response. Families that look at the bare response override `score` instead."""
        raise NotImplementedError

    def _gold(self, example_answer: Any, metadata: dict[str, Any] | None) -> Any:
        """The machine-readable gold of the row where it has one, else the assistant's answer."""
        field = self.settings.reference_field
        value = (metadata or {}).get(field) if field else None
        return example_answer if value is None else value

    def _gold_text(self, example_answer: Any, metadata: dict[str, Any] | None) -> str:
        return as_text(self._gold(example_answer, metadata))


def as_text(value: Any) -> str:
    """A gold value as text: texts as they are, numbers without a needless ".0", the rest as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _shown(score: RowScore, refusal: Refusal) -> RowScore:
    """The score with the sentence that refuses, for a person to look at."""
    spans = (refusal.span,) if refusal.span else ()
    note = f"refuses: {refusal.kind}, by {refusal.rule.replace('_', ' ')}"
    return replace(score, notes=(*score.notes, note), flagged=(*score.flagged, *spans))


def unanswered(text: str) -> FailureKind:
    """Why nothing could be read from a response: it refuses, or it gives no answer."""
    return "refusal" if text.strip() and refusal_kind(text) != "none" else "no_answer"
