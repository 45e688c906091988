"""Safety-critical numbers: which numbers of an answer stand neither in the reference nor on the page."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache

from vlm_pipeline.scoring.quantities import Quantity, compare_quantities, extract_quantities, same_dimension
from vlm_pipeline.scoring.results import RowScore

Page = str | Collection[float | str]  # a page's text, or what it is known to show, one by one
MOST_NOTES = 5
# What an invented number explains better: it says more of the answer than that it is wrong.
_EXPLAINED = frozenset({"wrong_number", "wrong_unit", "missing_keyword", "other"})


def unsupported_numbers(answer: str, reference: str, page: Page | None = None) -> list[Quantity]:
    """Numbers of the answer that neither the reference nor the page has, with their spans in the answer.

    A number counts as supported when one there has the same value in the same unit, in a unit that converts to it (48
    ft-lb for 65 Nm, rounding allowed), or without unit. Numbering, labels, dates and times are no claims.
    """
    return unsupported_claims(extract_quantities(answer, bare=True), reference, page)


def unsupported_claims(
    claims: Sequence[Quantity], reference: str, page: Page | None = None
) -> list[Quantity]:
    """The same for numbers that were read from the answer already."""
    if not claims:
        return []
    known = list(_read(reference))
    if isinstance(page, str):
        known += _read(page)
    elif page is not None:
        for fact in page:
            known += _read(fact) if isinstance(fact, str) else [Quantity(float(fact), None, (0, 0))]
    return [claim for claim in claims if not _supported(claim, known)]


def marked(
    score: RowScore, claims: Sequence[Quantity], answer: str, reference: str, page: Page | None
) -> RowScore:
    """The score with the numbers that nothing bears out flagged and noted.

    Where the page is known such a number in a wrong answer is its failure: hallucination. Without the page it may stand
    there, and the failure stays what the scorer found.
    """
    invented = unsupported_claims(claims, reference, page)
    if not invented:
        return score
    where = "not in the gold answer" if page is None else "neither in the gold answer nor on the page"
    notes = tuple(f"{answer[slice(*one.span)].strip()!r} stands {where}" for one in invented[:MOST_NOTES])
    return replace(
        score,
        failure="hallucination" if page is not None and score.failure in _EXPLAINED else score.failure,
        notes=score.notes + notes,
        flagged=score.flagged + tuple(one.span for one in invented),
    )


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Quantity, ...]:
    return tuple(extract_quantities(text, bare=True))


def _supported(claim: Quantity, known: Sequence[Quantity]) -> bool:
    return any(
        same_dimension(claim, fact) and compare_quantities(claim, fact, require_unit=False) == "match"
        for fact in known
    )
