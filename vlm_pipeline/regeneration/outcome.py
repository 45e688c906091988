"""Did a round help: the candidate after it against the candidate before it, on the same rows.

Val decides; test is compared in the same way and only reported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from vlm_pipeline.scoring.aligned import AlignedPair
from vlm_pipeline.scoring.columns import columns_of, higher_is_better
from vlm_pipeline.scoring.metrics import metric_name
from vlm_pipeline.scoring.paired import benjamini_hochberg, holm

ScoreRows = Sequence[Mapping[str, Any]]


def compare_rounds(
    before: ScoreRows, after: ScoreRows, targets: Collection[str], *, alpha: float = 0.05
) -> dict[str, Any]:
    """Paired differences (after - before) over all rows and by section, as a JSON dict.

    Both are row scores of one split and one predictor, of the task's first scorer. A section's ``finding`` is
    ``gain`` or ``loss`` where it is demonstrated, else None. Targets are tested together (Holm); so are the sections
    for losses, by the share of false alarms (Benjamini-Hochberg).

    Raises ValueError where splits or scorer versions differ: such figures must not be compared.
    """
    old, new = _table(before, "before"), _table(after, "after")
    if old.version != new.version:
        raise ValueError("the scorer changed between the two measurements: score the earlier answers again")
    aligned = AlignedPair(new, old)
    metric = aligned.decisive_metric(metric_name(new.primary or old.primary))
    if metric is None:
        raise ValueError("no metric that can be compared was scored")
    name, kind = aligned.kind(metric)
    higher = higher_is_better(name, kind)
    sections = {
        section: aligned.compare(metric, mask=aligned.a["sections"] == section).as_dict()
        for section in sorted(set(aligned.a["sections"].tolist()))
    }
    for section, adjusted in zip(
        sections, benjamini_hochberg([s["p_value"] for s in sections.values()]), strict=True
    ):
        sections[section]["p_bh"] = adjusted
    aimed = [section for section in sections if section in targets]
    for section, adjusted in zip(aimed, holm([sections[s]["p_value"] for s in aimed]), strict=True):
        sections[section]["p_targets"] = adjusted
    for found in sections.values():
        found["finding"] = _finding(
            found, found.get("p_targets", found["p_bh"]), higher, alpha, "gain"
        ) or _finding(found, found["p_bh"], higher, alpha, "loss")
    overall = aligned.compare(metric).as_dict()
    return {
        "metric": metric,
        "direction": "higher" if higher else "lower",
        "overall": overall | {"finding": _finding(overall, overall["p_value"], higher, alpha, "gain")
                              or _finding(overall, overall["p_value"], higher, alpha, "loss")},
        "sections": sections,
        "gains": [section for section, found in sections.items() if found["finding"] == "gain"],
        "losses": [section for section, found in sections.items() if found["finding"] == "loss"],
    }  # fmt: skip


def decide(
    val: Mapping[str, Any], targets: Collection[str], keep: Literal["demonstrated", "not_worse"]
) -> tuple[bool, str]:
    """Whether a round is kept, and the sentence that says why."""
    gained = [section for section in val["gains"] if section in targets]
    lost = list(val["losses"])
    if val["overall"]["finding"] == "loss":
        lost.append("all rows together")
    if lost:
        return False, f"Rolled back: val shows a loss in {', '.join(lost)}{_figures(val, val['losses'])}."
    if gained:
        return (
            True,
            f"Kept: val shows a gain in {', '.join(gained)}{_figures(val, gained)}, and no loss elsewhere.",
        )
    aimed = ", ".join(sorted(targets)) or "no section"
    shown = _figures(val, [section for section in sorted(targets) if section in val["sections"]])
    if keep == "not_worse":
        return True, f"Kept: val shows no loss; a gain in {aimed} is not demonstrated{shown}."
    return False, f"Rolled back: val shows no gain in {aimed}{shown}."


def _table(rows: ScoreRows, name: str) -> Any:
    if not rows:
        raise ValueError(f"there are no scored rows {name} the round")
    if len({row["split"] for row in rows}) > 1:
        raise ValueError("rounds are compared on one split at a time")
    first = rows[0]["scorer"]
    named = [{**row, "predictor": name} for row in rows if row["scorer"] == first]
    return columns_of(named)[name, first]


def _finding(
    found: Mapping[str, Any], p_value: float | None, higher: bool, alpha: float, side: Literal["gain", "loss"]
) -> str | None:
    """Demonstrated: the test is passed after correction, and the interval excludes zero where there is one."""
    if p_value is None or p_value >= alpha or not found["difference"]:
        return None
    if found["low"] is not None and found["low"] <= 0 <= found["high"]:
        return None
    improved = (found["difference"] > 0) == higher
    return side if improved == (side == "gain") else None


def _figures(val: Mapping[str, Any], sections: Sequence[str]) -> str:
    if not sections:
        return ""
    return " (" + "; ".join(f"{section} {effect(val['sections'][section])}" for section in sections) + ")"


def effect(found: Mapping[str, Any]) -> str:
    """``0.52 -> 0.81, +0.29 [+0.18, +0.40], 110 rows of 10 pages``"""
    if found["difference"] is None:
        return "not measured"
    interval = f" [{found['low']:+.2f}, {found['high']:+.2f}]" if found["low"] is not None else ""
    return (
        f"{found['b']:.2f} -> {found['a']:.2f}, {found['difference']:+.2f}{interval}, {found['n']} rows of "
        f"{found['clusters']} pages"
    )
