"""The metrics stage: scores and figures of one predictor from its stored answers. Nothing is generated here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from vlm_pipeline.formatting.probes import SPLIT as PROBES
from vlm_pipeline.formatting.probes import probes_file
from vlm_pipeline.formatting.stage import formatted_versions, read_formatted, splits_version
from vlm_pipeline.manifest import (
    Artifact,
    code_version,
    combined_version,
    left_alone,
    make_once,
    read_manifest,
    require,
)
from vlm_pipeline.progress import Progress
from vlm_pipeline.scoring.looks import look_at_test
from vlm_pipeline.scoring.page_facts import PageFacts, read_page_facts
from vlm_pipeline.scoring.row_scorers import build_scorer, scorer_version
from vlm_pipeline.settings.scoring import bars_of
from vlm_pipeline.store import TaskStore, content_hash, file_hash, write_json
from vlm_pipeline.task import Task

READY = "ready"
Pictures = Callable[[Any, Any], dict[str, Any]]  # a result and what it was made from -> metadata with figures
SCORED_COLUMNS = [
    "id",
    "section",
    "group",
    "split",
    "answer",
    "answer_value",
    "metadata",
    "prompt_text",
    "images",
]


def predictor_status(store: TaskStore, name: str) -> str:
    """`ready`, or why there are no predictions: "not run: …", "pending: …"."""
    if read_manifest(store, f"predictions/{name}") is None:
        return "not run: never materialized"
    return predictions_metadata(store, name).get("status", READY)


def predictions_metadata(store: TaskStore, name: str) -> dict[str, Any]:
    return (read_manifest(store, f"predictions/{name}") or {"metadata": {}})["metadata"]


def make_metrics(
    task: Task,
    store: TaskStore,
    predictor: Any,
    log: Callable[[str], None],
    *,
    run_id: str,
    picked: bool = True,
    pictures: Pictures = lambda result, scores: {},
) -> Artifact:
    """`metrics/<model>.json` and the row scores beside it, per split; a predictor that did not run says why.

    What was measured before stays where the run does not pick this predictor. `run_id` names the ledger that the
    judges share with the run's hosted predictors. Rows that a judge or a tool gave no reply to are asked again by the
    next run, and so is a judge that could not run and now can.
    """
    name = predictor.name
    if not picked and (kept := left_alone(store, f"metrics/{name}")):
        return kept
    inputs = {
        **require(store, [f"predictions/{name}"], f"Materialize predictions/{name}."),
        "rows": combined_version(formatted_versions(task, store)),
        "scorers": content_hash([scorer_version(settings) for settings in task.scorers]),
        **require(store, ["probes"], "Materialize probes."),
        "thresholds": content_hash([task.settings_hash("thresholds"), bars(task)]),
        "judging": task.settings_hash("judging", "mcp_scorers"),
        "facts": file_hash(task.root / task.regeneration.facts) if task.regeneration.facts else "none",
        "code": code_version("scoring"),
        **_elsewhere(task),
    }
    if (read_manifest(store, f"metrics/{name}") or {"metadata": {}})["metadata"].get("silent"):
        inputs["rows without a reply"] = run_id

    def make() -> Artifact:
        path = store.path("metrics", f"{name}.json")
        status = predictor_status(store, name)
        if status != READY:
            result: dict[str, Any] = {"predictor": name, "status": status, "splits": {}}
            write_json(path, result)
            return Artifact(content_hash(result), {"status": status}, (path,))
        return _score(task, store, name, run_id, log, pictures)

    return make_once(store, f"metrics/{name}", inputs, make, log)


def page_facts(task: Task) -> PageFacts | None:
    """What the task's pages are known to show (`regeneration.facts`); None where nobody wrote it down."""
    return read_page_facts(task.root / task.regeneration.facts) if task.regeneration.facts else None


def _elsewhere(task: Task) -> dict[str, str]:
    """What scores from elsewhere depend on besides the settings: who can be asked now, and people's labels."""
    inputs = {}
    if task.judging.judges:
        from vlm_pipeline.scoring.judge import availability_of

        inputs["judges"] = content_hash(availability_of(task.judging, task.budget.money_usd))
    if task.judging.calibration:
        labels = task.root / task.judging.calibration
        inputs["calibration"] = file_hash(labels) if labels.is_file() else "missing"
    return inputs


def _score(
    task: Task, store: TaskStore, name: str, run_id: str, log: Callable[[str], None], pictures: Pictures
) -> Artifact:
    import pyarrow.parquet as pq

    from vlm_pipeline.scoring.metrics import compute_metrics
    from vlm_pipeline.scoring.table import score_table, write_scores

    answered = pq.read_table(store.path("predictions", f"{name}.parquet")).to_pylist()
    predictions = [row for row in answered if row["split"] != PROBES]
    splits = sorted({row["split"] for row in predictions})
    rows = read_formatted(task, store, splits, SCORED_COLUMNS)
    scorers = [build_scorer(settings) for settings in task.scorers]
    progress = Progress(log, quiet=True)
    scores = score_table(scorers, rows, predictions, facts=page_facts(task), progress=progress)
    judged, external = _from_elsewhere(task, store, rows, predictions, run_id, log)
    scores += judged
    limits = bars(task)
    result: dict[str, Any] = {"predictor": name, "status": READY, "splits": {}}
    for split in splits:
        of_split = [row for row in scores if row["split"] == split]
        result["splits"][split] = compute_metrics(
            of_split, predictions, predictor=name, bars=limits, extraction_bar=task.thresholds.extraction
        )
    result["external"] = external
    result["probes"] = _probes(task, [row for row in answered if row["split"] == PROBES], name, scorers[0])
    made_by = (read_manifest(store, f"predictions/{name}") or {"inputs": {}})["inputs"]
    if (weights := made_by.get("adapter") or made_by.get("model")) and "test" in splits:
        look_at_test(store, weights, splits_version(task, store, ["test"]))
    path, scores_path = store.path("metrics", f"{name}.json"), store.path("metrics", f"{name}.parquet")
    write_scores(scores_path, scores)
    write_json(path, result)
    silent = [name for name, summary in external.items() if summary.get("n_silent")]
    metadata = (
        _describe(result) | ({"silent": ", ".join(silent)} if silent else {}) | pictures(result, scores)
    )
    return Artifact(content_hash(timeless(result)), metadata, (path, scores_path))


def bars(task: Task) -> dict[str, float]:
    """The bar of every figure that has one: the task's scorers, judged metrics, tools of MCP servers."""
    judged = {metric.label: metric.threshold for metric in task.judging.metrics}
    external = {one.name: one.threshold for one in task.mcp_scorers if one.threshold is not None}
    return bars_of(task.scorers, task.thresholds.primary) | judged | external


def _from_elsewhere(
    task: Task,
    store: TaskStore,
    rows: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    run_id: str,
    log: Callable[[str], None],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Scores of judges and MCP tools on test rows, and what became of each; one that cannot run is no number."""
    tested = [row for row in predictions if row["split"] == "test"]
    scores: list[dict[str, Any]] = []
    summaries: dict[str, Any] = {}
    if task.judging.wanted:
        from vlm_pipeline.inference.budget import Budget
        from vlm_pipeline.scoring.judge import judge_table

        budget = Budget(task.budget.money_usd, store.path("spend", f"{run_id}.jsonl"))
        found, summaries["judging"] = judge_table(
            task.judging, rows, tested, cache_folder=store.cache, budget=budget, task_folder=task.root,
            progress=partial(Progress(log, quiet=True), "answers judged"),
        )  # fmt: skip
        scores += found
    for settings in task.mcp_scorers:
        from vlm_pipeline.scoring.mcp_scorer import mcp_score_table

        found, summaries[settings.name] = mcp_score_table(settings, rows, tested, cache_folder=store.cache)
        scores += found
    for name, summary in summaries.items():
        log(f"{name}: {summary['status']}")
    return scores, summaries


def _probes(task: Task, answers: list[dict[str, Any]], name: str, scorer: Any) -> dict[str, Any] | None:
    from vlm_pipeline.scoring.probes import read_probes, score_probes

    path = probes_file(task)
    if path is None:
        return None
    return score_probes(
        read_probes(path), answers, predictor=name, answer_scorer=scorer, bar=task.thresholds.probes
    )


def timeless(value: Any) -> Any:
    """The same figures without latencies and cache hits, which differ from run to run and decide nothing."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key != "usage"}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def _describe(result: dict[str, Any]) -> dict[str, Any]:
    """Numeric metadata, so that the UI plots every metric over time."""
    metadata: dict[str, Any] = {"status": result["status"]}
    for split, found in result["splits"].items():
        headline = found["headline"]
        metadata[f"{split}_rows"] = headline.get("n")
        metadata[f"{split}_unscored"] = headline.get("n_unscored")
        for scorer, figures in found["scorers"].items():
            if figures["extraction"]["estimate"] is not None:
                metadata[f"{split}_{scorer}_extracted"] = float(figures["extraction"]["estimate"])
            for metric, figure in figures["metrics"].items():
                if figure.get("estimate") is not None:
                    metadata[f"{split}_{scorer}_{metric}"] = float(figure["estimate"])
    if result.get("probes"):
        metadata["probes_passed"] = result["probes"]["n_passed"]
        metadata["probes"] = result["probes"]["sentence"]
    for name, summary in result.get("external", {}).items():
        metadata[name] = summary["status"]
        if cost := summary.get("usage", {}).get("cost_usd"):
            metadata[f"{name}_cost_usd"] = float(cost)
    test = result["splits"].get("test") or next(iter(result["splits"].values()), None)
    if test:
        metadata["figures"] = {"table": _figures_table(test)}
    return metadata


def _figures_table(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "scorer": scorer, "metric": metric, "estimate": figure.get("estimate"), "low": figure.get("low"),
            "high": figure.get("high"), "n": figure.get("n"), "unscored": figure.get("n_unscored"),
        }
        for scorer, figures in found["scorers"].items()
        for metric, figure in figures["metrics"].items()
    ]  # fmt: skip
