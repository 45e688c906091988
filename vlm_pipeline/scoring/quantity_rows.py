"""Row scorer of quantities: NumericExactMatch with unit-aware tolerance, and a lenient reading beside it.

Which quantities of a response are its answer: those of the gold's dimension, negated ones ("not 70 Nm") and restatements
in another unit left out. Where the gold has several (ranges, passes, torque plus angle) the answer must give all of them
and, in the strict reading, give them as its first ones. Where the gold has one, an explicitly stated, corrected or
emphasised number is the answer; else the first.
"""

import re
from dataclasses import replace
from typing import Any

from vlm_pipeline.scoring.base_rows import unanswered
from vlm_pipeline.scoring.checked_rows import CheckedScorer
from vlm_pipeline.scoring.final_number import extract_final_number
from vlm_pipeline.scoring.quantities import (
    Quantity,
    compare_quantities,
    extract_quantities,
    same_dimension,
)
from vlm_pipeline.scoring.results import (
    NOTHING,
    Context,
    Extraction,
    FailureKind,
    GoldError,
    Reference,
    RowScore,
)
from vlm_pipeline.scoring.units import canonical_unit
from vlm_pipeline.settings.scoring import QuantitySettings

_NEGATED = re.compile(
    r"(?:\b(?:not|never|exceed(?:ing)?|instead of|rather than|more than|less than|below|above|without)\b|n't\b)[^.;!?\n\d]{0,30}$",
    re.IGNORECASE,
)
_STRONG_RULES = frozenset({"stated", "boxed", "hash_marker", "corrected", "emphasised"})


class QuantityScorer(CheckedScorer[QuantitySettings]):
    """Values: numeric_exact (the strict reading), unit_correct, any_number (the lenient one: any number of the answer
    equals the gold), extracted, value and expected (in the gold's unit), rel_error, unsupported_numbers (a count)."""

    def __init__(self, settings: QuantitySettings, *, version: str) -> None:
        super().__init__(settings, version=version)
        self._default = canonical_unit(settings.default_unit) if settings.default_unit else None
        if settings.default_unit and self._default is None:
            raise ValueError(
                f"default_unit {settings.default_unit!r} is not known; write it as in 'Nm', 'mm' or 'ft-lb'"
            )

    def reference(self, example_answer: Any, metadata: dict[str, Any] | None) -> Reference | GoldError:
        raw = self._gold(example_answer, metadata)
        text = self._gold_text(example_answer, metadata)
        found = extract_quantities(text)
        if not found:
            return GoldError("no number in the gold answer", raw)
        if self._default:
            found = [replace(q, unit=q.unit or self._default) for q in found]
        units = list(dict.fromkeys(q.unit for q in found))
        groups = [[q for q in found if q.unit == unit] for unit in units]
        kept = groups[0]
        for group in groups[1:]:
            if not group[0].unit or not kept[0].unit or not same_dimension(group[0], kept[0]):
                kept = kept + group  # torque and angle: both belong to the answer
            elif len(group) == len(groups[0]) and any(
                compare_quantities(other, one) != "match" and compare_quantities(one, other) != "match"
                for one, other in zip(groups[0], group, strict=True)
            ):
                return GoldError(
                    f"the gold answer contradicts itself in two units: {text.strip()[:80]!r}", raw
                )
        return Reference(tuple(kept), raw)

    def _score(self, cleaned: str, reference: Reference, prompt: str | None, context: Context) -> RowScore:
        gold: tuple[Quantity, ...] = reference.value
        numbers = extract_quantities(cleaned, bare=True)
        any_number = all(any(self._same(q, g, lenient=True) for q in numbers) for g in gold)
        candidates = self._candidates(cleaned, numbers, gold)
        first = gold[0]
        if not candidates:
            other = next((q for q in numbers if q.unit), None)  # a quantity, but of something else
            wrong_unit = False if other else None
            values = _values(
                wrong_unit, wrong_unit, any_number if numbers else None, bool(other), None, first
            )
            found = Extraction(other.value, other.unit or "", other.span) if other else NOTHING
            score = RowScore(values, "numeric_exact", found, "wrong_unit" if other else unanswered(cleaned))
            return self._checked(score, cleaned, reference, context, numbers)
        verdicts = [self._verdict(candidates, place, g) for place, g in enumerate(gold)]
        exact = all(v == "match" for v in verdicts)
        unit_right = all(v != "wrong_unit" for v in verdicts)
        answer = candidates[0]
        in_gold_unit = answer.to(first.unit) if first.unit and answer.unit else answer.value
        values = _values(exact, unit_right, any_number, True, in_gold_unit, first)
        wrong: FailureKind | None = (
            None if exact else ("wrong_number" if "wrong_number" in verdicts else "wrong_unit")
        )
        found = Extraction(answer.value, answer.unit or "no_unit", answer.span)
        score = RowScore(values, "numeric_exact", found, wrong)
        return self._checked(score, cleaned, reference, context, numbers)

    def _checked(self, *given: Any) -> RowScore:
        score = super()._checked(*given)
        return replace(score, values=score.values | {"unsupported_numbers": float(len(score.flagged))})

    def _candidates(self, text: str, numbers: list[Quantity], gold: tuple[Quantity, ...]) -> list[Quantity]:
        """The quantities that are the answer, the headline first."""
        first = gold[0]
        united = [q for q in numbers if q.unit is not None and any(same_dimension(q, g) for g in gold)]
        pool = (
            united
            if united and first.unit is not None
            else [q for q in numbers if q.unit is None or first.unit is None]
        )
        if first.unit is not None and len(gold) > 1:  # "70 + 115 deg": the torque may stand without its unit
            pool = [q for q in numbers if q in united or q.unit is None]
        pool = [q for q in pool if not _NEGATED.search(text[max(0, q.span[0] - 60) : q.span[0]])] or pool
        if len(gold) == 1 and len(pool) > 1:
            headline = extract_final_number(text)
            weak = headline.rule not in _STRONG_RULES and not (first.unit is None and headline.found)
            if headline.span and not weak:
                chosen = [
                    q
                    for q in pool
                    if q.span[0] <= headline.span[0] < q.span[1]
                    or headline.span[0] <= q.span[0] < headline.span[1]
                ]
                pool = chosen + [q for q in pool if q not in chosen]
        return pool

    def _verdict(self, candidates: list[Quantity], place: int, gold: Quantity) -> str:
        if place == 0 and gold.low is None and gold.high is None:
            return self._compare(candidates[0], gold)
        results = [self._compare(candidate, gold) for candidate in candidates]
        return next((r for r in ("match", "wrong_unit") if r in results), "wrong_number")

    def _compare(self, answer: Quantity, gold: Quantity) -> str:
        return compare_quantities(
            answer,
            gold,
            relative_tolerance=self.settings.relative_tolerance,
            conversion_tolerance=self.settings.conversion_tolerance,
            absolute_tolerance=self.settings.absolute_tolerance,
            default_unit=self._default,
            require_unit=self.settings.require_unit,
        )

    def _same(self, answer: Quantity, gold: Quantity, *, lenient: bool) -> bool:
        if self._compare(answer, gold) == "match":
            return True
        return lenient and abs(answer.value - gold.value) <= 1e-9 * max(1.0, abs(gold.value))


def _values(
    exact: bool | None,
    unit_right: bool | None,
    any_number: bool | None,
    extracted: bool,
    value: float | None,
    gold: Quantity,
) -> dict[str, float | bool | None]:
    error = None if value is None else abs(value - gold.value)
    return {
        "numeric_exact": exact,
        "unit_correct": unit_right,
        "any_number": any_number,
        "extracted": extracted,
        "value": value,
        "expected": gold.value,
        "rel_error": None if error is None or gold.value == 0 else error / abs(gold.value),
    }
