"""Safety-critical numbers: which numbers of an answer stand neither in the reference nor on the page."""

from collections.abc import Iterable, Sequence

from vlm_pipeline.scoring.quantities import Quantity, compare_quantities, extract_quantities, same_dimension


def unsupported_numbers(
    answer: str, reference: str, page_facts: str | Iterable[str | float] | None = None
) -> list[Quantity]:
    """Numbers of the answer that neither the reference nor the page has, with their spans in the answer.

    A number counts as supported when one there has the same value in the same unit, in a unit that converts to it (48
    ft-lb for 65 Nm, rounding allowed), or without unit. Numbering, labels, dates and times are no claims. ``page_facts``
    is the page's text, or its facts one by one, where they are known.
    """
    return unsupported_claims(extract_quantities(answer, bare=True), reference, page_facts)


def unsupported_claims(
    claims: Sequence[Quantity], reference: str, page_facts: str | Iterable[str | float] | None = None
) -> list[Quantity]:
    """The same for numbers that were read from the answer already."""
    if not claims:
        return []
    known = extract_quantities(reference, bare=True)
    if isinstance(page_facts, str):
        known += extract_quantities(page_facts, bare=True)
    elif page_facts is not None:
        for fact in page_facts:
            known += extract_quantities(fact if isinstance(fact, str) else repr(fact), bare=True)
    return [claim for claim in claims if not _supported(claim, known)]


def _supported(claim: Quantity, known: Sequence[Quantity]) -> bool:
    return any(
        same_dimension(claim, fact) and compare_quantities(claim, fact, require_unit=False) == "match"
        for fact in known
    )
