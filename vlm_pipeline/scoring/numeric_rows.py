"""Row scorers of numbers: the rating on a scale and the final number."""

from typing import Any

from vlm_pipeline.scoring.base_rows import BaseScorer, unanswered
from vlm_pipeline.scoring.checked_rows import CheckedScorer
from vlm_pipeline.scoring.final_number import extract_final_number
from vlm_pipeline.scoring.numbers import find_numbers
from vlm_pipeline.scoring.ratings import extract_score, numbers_in_range, strict_pattern, strict_score
from vlm_pipeline.scoring.results import Context, GoldError, Reference, RowScore
from vlm_pipeline.settings.scoring import NumberSettings, ScoreSettings


class ScoreScorer(BaseScorer[ScoreSettings]):
    """A rating. Values: strict_format, extracted, inferred (rates of three kinds of reading), value, expected,
    abs_error, error (signed, for the bias), within_1, within_2; the errors are None where no score was read;
    any_number is the lenient reading: any number of the answer is within one point.
    worst_error is the largest error that the scale allows on this row: what an unreadable answer counts as."""

    def __init__(self, settings: ScoreSettings, *, version: str) -> None:
        super().__init__(settings, version=version)
        self._strict = strict_pattern(settings.strict_format, settings.label)

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        raw = self._gold(example_answer, metadata)
        low, high = self.settings.low, self.settings.high
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            value = float(raw)
        else:
            found = extract_score(self._gold_text(example_answer, metadata), low, high)
            if found.value is None or found.inferred:
                return GoldError(f"no score between {low:g} and {high:g} ({found.rule})", raw)
            value = float(found.value)
        if not low <= value <= high:
            return GoldError(f"the score {value:g} is outside {low:g} to {high:g}", raw)
        return Reference(value, raw)

    def _score(self, cleaned: str, reference: Reference, prompt: str | None, context: Context) -> RowScore:
        low, high = self.settings.low, self.settings.high
        strict = strict_score(cleaned, self._strict, low, high)
        found = extract_score(cleaned, low, high)
        if found.inferred and not self.settings.allow_inferred:
            found = type(found)(None, "inferred_not_allowed", found.span)
        value = found.value
        error = None if value is None else value - reference.value
        given = [] if value is None else [float(value)]
        given += numbers_in_range(cleaned, low, high)
        nearest = min((abs(one - reference.value) for one in given), default=None)
        values = {
            "strict_format": strict.found,
            "extracted": value is not None and not found.inferred,
            "inferred": found.inferred,
            "value": value,
            "expected": reference.value,
            "error": error,
            "abs_error": None if error is None else abs(error),
            "worst_error": max(reference.value - low, high - reference.value),
            "within_1": None if error is None else abs(error) <= 1.0 + 1e-9,
            "within_2": None if error is None else abs(error) <= 2.0 + 1e-9,
            "any_number": None if nearest is None else nearest <= 1.0 + 1e-9,
        }
        failure = None
        if error is None:
            failure = "format" if found.rule in ("out_of_range", "other_scale") else unanswered(cleaned)
        elif abs(error) > 1.0 + 1e-9:
            failure = "wrong_number"
        return RowScore(values, "abs_error", found, failure)


class NumberScorer(CheckedScorer[NumberSettings]):
    """The final number. Values: correct, any_number (the lenient reading: any number of the answer is right), extracted,
    value, expected, abs_error."""

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        raw = self._gold(example_answer, metadata)
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            return Reference(float(raw), raw)
        found = extract_final_number(self._gold_text(example_answer, metadata))
        if found.value is None:
            return GoldError(f"no number in the gold answer ({found.rule})", raw)
        return Reference(float(found.value), raw)

    def _score(self, cleaned: str, reference: Reference, prompt: str | None, context: Context) -> RowScore:
        found = extract_final_number(cleaned)
        gold = reference.value
        error = None if found.value is None else abs(found.value - gold)
        allowed = max(self.settings.relative_tolerance * abs(gold), self.settings.absolute_tolerance)
        correct = None if error is None else error <= allowed
        numbers = find_numbers(cleaned)
        values = {
            "correct": correct,
            "any_number": any(abs(number.value - gold) <= allowed for number in numbers) if numbers else None,
            "extracted": found.found,
            "value": found.value,
            "expected": gold,
            "abs_error": error,
        }
        failure = unanswered(cleaned) if correct is None else (None if correct else "wrong_number")
        return self._checked(RowScore(values, "correct", found, failure), cleaned, reference, context)
