"""How far judged figures can be trusted: agreement, noise, people's labels, cost; what was asked for and did not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.reporting.view import Comparison, Metric, Table, is_number

_SHARE = Metric("share", "Share", percent=True)


@dataclass(frozen=True)
class Judges:
    """`tables` without empty ones; `not_run` names a judge or tool and says why there is no figure."""

    tables: tuple[Table, ...]
    not_run: tuple[tuple[str, str], ...]


def judges_block(external: Mapping[str, Mapping[str, Any]], view: Comparison) -> Judges | None:
    """From what `metrics/<model>.json` says of scores from elsewhere, by predictor; None where nothing was asked for."""
    labels = {p.name: p.label for p in view.predictors}
    found = [
        (labels.get(name, name), source, block)
        for name, blocks in external.items()
        for source, block in blocks.items()
    ]
    if not found:
        return None
    ready = [entry for entry in found if entry[2].get("status") == "ready"]
    judged = [(who, block) for who, _, block in ready if "judges" in block]
    tables = (_agreement(judged), _people(judged), _cost(judged), _tools(ready))
    return Judges(tuple(table for table in tables if table.rows), _not_run(found))


def _agreement(judged: list[tuple[str, Mapping[str, Any]]]) -> Table:
    lines = []
    for who, block in judged:
        for metric, about in block["metrics"].items():
            counts = list(about["judges"].values())
            agreement, noise = about.get("agreement") or {}, about.get("noise") or {}
            flipped = noise.get("flipped_share")
            lines.append(
                (
                    who, metric, ", ".join(about["judges"]), *(sum(one.get(key, 0) for one in counts) for key in ("n", "n_scored", "n_refused")),
                    agreement.get("krippendorff_alpha"), noise.get("sd"), _SHARE.value(flipped) if is_number(flipped) else None,
                )
            )  # fmt: skip
    columns = (
        "Predictor", "Judged metric", "Judges", "Judgements", "Scored", "Refusals (not put to a judge)",
        "Agreement of judges (alpha)", "Noise of a judge (sd)", "Verdicts that flip when asked again",
    )  # fmt: skip
    return Table(columns, tuple(lines), "Judges, and how much they agree with each other and with themselves")


def _people(judged: list[tuple[str, Mapping[str, Any]]]) -> Table:
    """The same labels for every predictor: told once."""
    calibration = next((block["calibration"] for _, block in judged if block.get("calibration")), None)
    lines = []
    for metric, by_judge in (calibration or {}).get("metrics", {}).items():
        for judge, about in by_judge.items():
            same = about["same_side_of_threshold"]
            interval = _SHARE.interval(same.get("low"), same.get("high"))
            share = f"{_SHARE.value(same.get('estimate'))} {interval}".strip()
            lines.append(
                (
                    metric,
                    judge,
                    about["n_scored"],
                    share,
                    about["mae"].get("estimate"),
                    about["spearman"].get("estimate"),
                )
            )
    columns = (
        "Judged metric",
        "Judge",
        "Labelled answers",
        "Same side of the threshold",
        "Mean absolute error",
        "Rank correlation",
    )
    return Table(columns, tuple(lines), "Judges against people's labels")


def _cost(judged: list[tuple[str, Mapping[str, Any]]]) -> Table:
    keys = ("calls", "cache_hits", "tokens_in", "tokens_out", "cost_usd")
    lines = tuple((who, *((block.get("usage") or {}).get(key) for key in keys)) for who, block in judged)
    return Table(
        ("Predictor", "Calls", "From cache", "Tokens in", "Tokens out", "$"), lines, "What judging cost"
    )


def _tools(ready: list[tuple[str, str, Mapping[str, Any]]]) -> Table:
    lines = tuple(
        (
            who, source, f"{block.get('server') or ''} {block.get('server_version') or ''}".strip(), block.get("n"),
            block.get("n_scored"), block.get("n_silent"), block.get("timeouts"), block.get("cache_hits"),
        )
        for who, source, block in ready
        if "tool" in block
    )  # fmt: skip
    columns = ("Predictor", "Tool", "Server", "Rows", "Scored", "Without a reply", "Time-outs", "From cache")
    return Table(columns, lines, "Scores of MCP tools")


def _not_run(found: list[tuple[str, str, Mapping[str, Any]]]) -> tuple[tuple[str, str], ...]:
    """Each reason once, whichever predictor it was told for; a judge that did not run beside others that did, too."""
    reasons = {}
    for _, source, block in found:
        if block.get("status") != "ready":
            reasons[source, str(block.get("status"))] = None
        for judge, reason in (block.get("not_run") or {}).items():
            if block.get("status") == "ready":
                reasons[f"judge {judge}", str(reason)] = None
    return tuple(reasons)
