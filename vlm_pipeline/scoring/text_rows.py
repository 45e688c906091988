"""Row scorers of words: free text, keywords, choices, and the published relaxed rule."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_pipeline.scoring.base_rows import BaseScorer, as_text, unanswered
from vlm_pipeline.scoring.checked_rows import CheckedScorer
from vlm_pipeline.scoring.choices import extract_choice
from vlm_pipeline.scoring.refusals import refusal_kind
from vlm_pipeline.scoring.relaxed import relaxed_match
from vlm_pipeline.scoring.results import Context, Extraction, FailureKind, GoldError, Reference, RowScore
from vlm_pipeline.scoring.text import (
    anls,
    contains_answer,
    exact_match,
    find_keywords,
    holds_number,
    normalised_match,
    token_f1,
)
from vlm_pipeline.settings.scoring import ChoiceSettings, KeywordSettings, RelaxedSettings, TextSettings


class TextScorer(CheckedScorer[TextSettings]):
    """Free text against one gold text or the best of several.

    Values: exact, normalised, token_f1, anls, and any_wording (the lenient reading: see `contains_answer`).
    """

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        raw = self._gold(example_answer, metadata)
        golds = [as_text(item) for item in raw] if isinstance(raw, list) else [as_text(raw)]
        golds = [gold for gold in golds if gold.strip()]
        return Reference(tuple(golds), raw) if golds else GoldError("the gold answer is empty", raw)

    def _score(self, cleaned: str, reference: Reference, prompt: str | None, context: Context) -> RowScore:
        golds: tuple[str, ...] = reference.value
        values: dict[str, float | bool | None] = {
            "exact": any(exact_match(cleaned, gold) for gold in golds),
            "normalised": any(normalised_match(cleaned, gold) for gold in golds),
            "token_f1": max(token_f1(cleaned, gold) for gold in golds),
            "anls": max(anls(cleaned, gold) for gold in golds),
            "any_wording": any(contains_answer(cleaned, gold, prompt) for gold in golds),
        }
        if not cleaned.strip():
            values = dict.fromkeys(values)
        failure = None if self._right(values) else self._failure(cleaned, golds, bool(values["any_wording"]))
        score = RowScore(values, self.settings.primary, Extraction(cleaned or None, "whole_text"), failure)
        return self._checked(score, cleaned, reference, context)

    def _right(self, values: Mapping[str, float | bool | None]) -> bool:
        primary = self.settings.primary
        if primary == "token_f1":
            return bool(values["normalised"]) or (values["token_f1"] or 0.0) >= 0.5
        return bool(values[primary])

    @staticmethod
    def _failure(text: str, golds: tuple[str, ...], given: bool) -> FailureKind:
        """Why a text is wrong: it says the gold answer, but not as asked for, or what it lacks."""
        if not text.strip():
            return "no_answer"
        if given:
            return "format"
        if refusal_kind(text) != "none" and all(refusal_kind(gold) == "none" for gold in golds):
            return "refusal"
        wanted = any(holds_number(gold) for gold in golds)
        return ("wrong_number" if holds_number(text) else "no_answer") if wanted else "other"


class KeywordScorer(CheckedScorer[KeywordSettings]):
    """KeywordPresence. Values: keyword_share (in [0, 1]) and all_keywords."""

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        field = self.settings.reference_field
        raw = (metadata or {}).get(field) if field else None
        if raw is None:
            return GoldError(f"the row has no metadata field {field!r} with keywords", raw)
        keywords = [part.strip() for part in raw.split(",")] if isinstance(raw, str) else raw
        if (
            not isinstance(keywords, Sequence)
            or not keywords
            or not all(self._usable(keyword) for keyword in keywords)
        ):
            return GoldError("keywords must be a list of texts, or of lists of alternatives", raw)
        return Reference(tuple(k if isinstance(k, str) else tuple(k) for k in keywords), raw)

    @staticmethod
    def _usable(keyword: Any) -> bool:
        if isinstance(keyword, str):
            return bool(keyword.strip())
        return (
            isinstance(keyword, list | tuple)
            and bool(keyword)
            and all(isinstance(k, str) and k.strip() for k in keyword)
        )

    def _score(self, cleaned: str, reference: Reference, prompt: str | None, context: Context) -> RowScore:
        hits = find_keywords(
            cleaned, reference.value, self.settings.synonyms, inflection=self.settings.inflection
        )
        answered = bool(cleaned.strip())
        values = {
            "keyword_share": hits.share if answered else None,
            "all_keywords": not hits.missing if answered else None,
        }
        failure = None
        if not answered or hits.missing:
            failure = (
                "refusal"
                if answered and refusal_kind(cleaned) == "full"
                else ("missing_keyword" if answered else "no_answer")
            )
        span = next(iter(hits.found.values()), None)
        found = Extraction(", ".join(hits.found) or None, "keywords", span)
        notes = tuple(f"missing: {k}" for k in hits.missing)
        score = RowScore(values, "keyword_share", found, failure, notes)
        return self._checked(score, cleaned, reference, context)


class ChoiceScorer(BaseScorer[ChoiceSettings]):
    """One option of several. Values: correct, extracted."""

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        raw = self._gold(example_answer, metadata)
        choices = self.settings.choices or (metadata or {}).get(self.settings.choices_field)
        if isinstance(choices, list) and all(isinstance(c, str) for c in choices) and choices:
            options: Any = tuple(choices)
        elif isinstance(choices, Mapping) and choices:
            options = tuple((str(key), as_text(value)) for key, value in choices.items())
        else:
            return GoldError(
                f"no choices, neither in the settings nor in metadata field {self.settings.choices_field!r}",
                raw,
            )
        gold = self._gold_text(example_answer, metadata)
        found = extract_choice(gold, _choices(options))
        if found.value is None:
            return GoldError(f"the gold answer {gold[:60]!r} picks none of the choices ({found.rule})", raw)
        return Reference((options, found.value), raw)

    def _score(self, cleaned: str, reference: Reference, prompt: str | None, context: Context) -> RowScore:
        options, gold = reference.value
        found = extract_choice(cleaned, _choices(options))
        correct = None if found.value is None else found.value == gold
        failure = unanswered(cleaned) if correct is None else (None if correct else "wrong_choice")
        return RowScore({"correct": correct, "extracted": found.found}, "correct", found, failure)


def _choices(options: tuple[Any, ...]) -> Any:
    return dict(options) if isinstance(options[0], tuple) else list(options)


class RelaxedScorer(BaseScorer[RelaxedSettings]):
    """The published ChartQA rule on the bare response (no cleaning: the rule is exact). Values: relaxed_match, and any_wording
    (the lenient reading: see `contains_answer`)."""

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        raw = self._gold(example_answer, metadata)
        gold = as_text(raw)
        return Reference(gold, raw) if gold else GoldError("the gold answer is empty", raw)

    def score(
        self, text: str, reference: Reference, *, prompt: str | None = None, context: Context = None
    ) -> RowScore:
        right = relaxed_match(text, reference.value, self.settings.tolerance)
        failure = None if right else ("other" if text.strip() else "no_answer")
        values = {
            "relaxed_match": right,
            "any_wording": right or contains_answer(text, reference.value, prompt),
        }
        return RowScore(values, "relaxed_match", Extraction(text or None, "whole_text"), failure)
