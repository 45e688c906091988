"""Scorers whose answers make claims in numbers: what no page bears out is flagged, whatever else they score."""

from vlm_pipeline.scoring.base_rows import BaseScorer, S, as_text
from vlm_pipeline.scoring.hallucination import marked
from vlm_pipeline.scoring.quantities import Quantity, extract_quantities
from vlm_pipeline.scoring.results import Context, Reference, RowScore
from vlm_pipeline.scoring.units import convert


class CheckedScorer(BaseScorer[S]):
    """A scorer with the check of numbers behind its own."""

    def __init__(self, settings: S, *, version: str) -> None:
        super().__init__(settings, version=version)
        convert(1.0, "Nm", "ft-lb")  # pint's registry takes half a second once; no response shall pay for it

    def _checked(
        self,
        score: RowScore,
        cleaned: str,
        reference: Reference,
        context: Context,
        claims: list[Quantity] | None = None,
    ) -> RowScore:
        """``claims``: the numbers of the answer, where they were read already."""
        claims = extract_quantities(cleaned, bare=True) if claims is None else claims
        return marked(score, claims, cleaned, as_text(reference.raw), context)
