"""Cost and speed of each predictor: what was paid, how long a row and an image took."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_pipeline.reporting.rows import Row
from vlm_pipeline.reporting.view import Comparison, Table, is_number


def cost_table(view: Comparison, rows: Sequence[Row]) -> Table:
    """One line per measured predictor. Sums come from the metrics; per image divides by the distinct images asked about.

    A figure that nobody recorded is empty, never zero.
    """
    images = len({row.image_key or row.image for row in rows if row.image or row.image_key})
    columns = (
        "Predictor", "Rows", "$ in all", "$ per 1,000 rows", "$ per image", "s per row", "s, 95 % of rows",
        "s per image", "Tokens in", "Tokens out", "From cache", "Cut off", "Errors",
    )  # fmt: skip
    lines = []
    for predictor in view.measured:
        cost = predictor.cost
        lines.append(
            (
                predictor.full_label,
                cost.get("rows"), cost.get("usd"), cost.get("usd_per_1000"), _share(cost.get("usd"), images),
                cost.get("seconds_per_row"), cost.get("latency_p95_s"), _share(cost.get("seconds"), images),
                cost.get("tokens_in"), cost.get("tokens_out"), cost.get("cached"), cost.get("cut_off"), cost.get("errors"),
            )
        )  # fmt: skip
    kept = [i for i in range(len(columns)) if i < 2 or any(is_number(line[i]) for line in lines)]
    caption = (
        "Seconds are measured per answer as it was first generated; a cached answer keeps its first figure."
    )
    return Table(
        tuple(columns[i] for i in kept), tuple(tuple(line[i] for i in kept) for line in lines), caption
    )


def _share(total: float | None, count: int) -> float | None:
    return total / count if is_number(total) and count else None
