"""Scoring stages: metrics per predictor, the comparison, weak sections. Nothing is generated here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from vlm_pipeline.markdown import escape
from vlm_pipeline.progress import Progress
from vlm_pipeline.scoring.looks import look_at_test
from vlm_pipeline.scoring.page_facts import PageFacts, read_page_facts
from vlm_pipeline.scoring.row_scorers import build_scorer, scorer_version
from vlm_pipeline.settings.predictors import TransformersPredictor
from vlm_pipeline.settings.scoring import bars_of
from vlm_pipeline.store import TaskStore, content_hash, file_hash, read_json, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict

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
        "thresholds": content_hash([task.settings_hash("thresholds"), _bars(task)]),
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
    bars = _bars(task)
    result: dict[str, Any] = {"predictor": name, "status": READY, "splits": {}}
    for split in splits:
        of_split = [row for row in scores if row["split"] == split]
        result["splits"][split] = compute_metrics(
            of_split, predictions, predictor=name, bars=bars, extraction_bar=task.thresholds.extraction
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
    return Artifact(content_hash(_timeless(result)), metadata, (path, scores_path))


def _bars(task: Task) -> dict[str, float]:
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


def _timeless(value: Any) -> Any:
    """The same figures without latencies and cache hits, which differ from run to run and decide nothing."""
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key != "usage"}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


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


def make_comparison(
    task: Task,
    store: TaskStore,
    names: Sequence[str],
    log: Callable[[str], None],
    deciding: tuple[str, str] | None = None,
    pictures: Pictures = lambda result, metrics: {},
) -> Artifact:
    """`comparison.json`: the picked predictors on the same test rows, base first.

    `deciding` is the (challenger, reference) pair that was asked for; by default the tuned model against the base.
    """
    base = task.base.name
    names = [base, *(name for name in names if name != base)]
    inputs = {
        **require(store, [f"metrics/{name}" for name in names], "Materialize the metrics of all predictors."),
        **require(store, [f"predictions/{name}" for name in names], "Materialize the predictions."),
        "thresholds": task.settings_hash("thresholds"),
        "code": code_version("scoring"),
        **({"deciding": " against ".join(deciding)} if deciding else {}),
    }

    def make() -> Artifact:
        from vlm_pipeline.scoring.comparison import compare

        statuses = {name: predictor_status(store, name) for name in names}
        ready = [name for name in names if statuses[name] == READY]
        if base not in ready:
            raise ValueError(f"the base {base!r} is {statuses[base]}; nothing can be compared without it")
        scores, predictions = scored_rows(store, ready, "test")
        log(f"comparing {', '.join(ready)} on {len({row['id'] for row in scores})} test rows")
        metrics = {name: read_json(store.path("metrics", f"{name}.json"))["splits"]["test"] for name in ready}
        result = compare(
            scores,
            predictions,
            base=base,
            tuned=tuned_name(task),
            deciding=deciding,
            conditions={name: predictions_metadata(store, name).get("conditions", {}) for name in ready},
            not_run={name: status for name, status in statuses.items() if status != READY},
            held=held_twins(task),
            metrics=metrics,
            confidence=1 - task.thresholds.alpha,
        )
        path = store.path("comparison.json")
        write_json(path, result)
        metadata = _describe_comparison(result) | pictures(result, metrics)
        return Artifact(content_hash(_timeless(result)), metadata, (path,))

    return make_once(store, "comparison", inputs, make, log)


def tuned_name(task: Task) -> str | None:
    """The predictor that the task is about: the first one that uses the trained adapter, and answers freely."""
    return next((p.name for p in task.predictors if _adapter(p) == "trained" and not p.constrained), None)


def held_twins(task: Task) -> dict[str, str]:
    """Predictors that are held to the answer's format -> the one that differs from it in nothing else."""
    local = [predictor for predictor in task.predictors if isinstance(predictor, TransformersPredictor)]
    return {
        one.name: twin.name
        for one in local
        for twin in local
        if one.constrained
        and not twin.constrained
        and one.adapter == twin.adapter
        and task.generation_of(one) == task.generation_of(twin)
    }


def _adapter(predictor: Any) -> str | None:
    return getattr(predictor, "adapter", None)


def scored_rows(
    store: TaskStore, names: Sequence[str], split: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Row scores and predictions of the given predictors on one split."""
    import pyarrow.parquet as pq

    from vlm_pipeline.scoring.table import read_scores

    scores: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for name in names:
        scores += [
            row for row in read_scores(store.path("metrics", f"{name}.parquet")) if row["split"] == split
        ]
        table = pq.read_table(store.path("predictions", f"{name}.parquet"), filters=[("split", "==", split)])
        predictions += table.to_pylist()
    return scores, predictions


def _describe_comparison(result: dict[str, Any]) -> dict[str, Any]:
    pairs = [
        {
            "compared": f"{pair['a']} - {pair['b']}", "metric": pair["metric"], "fair": pair["fairness"]["holds"],
            **{key: (pair["headline"] or {}).get(key) for key in ("difference", "low", "high", "p_decision", "n")},
        }
        for pair in result["pairs"]
    ]  # fmt: skip
    main = next((pair["headline"] for pair in result["pairs"] if pair["headline"]), None) or {}
    gain = result["format_gain"]
    return {
        **({"format_or_knowledge": gain["sentence"]} if gain else {}),
        "decision": {"md": f"**{escape(result['decision']['sentence'])}**"},
        "verdict": result["decision"]["verdict"],
        "difference": main.get("difference"),
        "p": main.get("p_decision"),
        "rows": main.get("n"),
        "pairs": {"table": pairs},
    }


def make_weak_sections(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`weak_sections.json` from val rows of the best candidate: the tuned model where there is one, else the base."""
    name = candidate(task, store)
    inputs = {
        **require(store, [f"metrics/{name}"], f"Materialize metrics/{name}."),
        "candidate": name,
        "thresholds": content_hash([task.settings_hash("thresholds"), _bars(task)]),
        "code": code_version("scoring"),
    }

    def make() -> Artifact:
        from vlm_pipeline.scoring.weak import weak_sections

        scores, _ = scored_rows(store, [name], "val")
        first = task.scorers[0].column_name
        own = task.thresholds.sections
        result = weak_sections(scores, predictor=name, bar=_bars(task)[first], section_bars=own, scorer=first)
        path = store.path("weak_sections.json")
        write_json(path, result)
        weak = [section["section"] for section in result["sections"] if section["finding"] == "weak"]
        metadata = {
            "candidate": name,
            "weak": len(weak),
            "weak_sections": ", ".join(weak) or "none",
            "sections": {"table": [_weak_line(section) for section in result["sections"]]},
        }
        return Artifact(content_hash(result), metadata, (path,))

    return make_once(store, "weak_sections", inputs, make, log)


def _weak_line(section: dict[str, Any]) -> dict[str, Any]:
    """A section's finding as people read it."""
    kinds = (f"{failure['kind'].replace('_', ' ')} {failure['n']}" for failure in section["failures"])
    return {
        **{key: section[key] for key in ("section", "finding", "estimate", "low", "high", "bar", "n")},
        "unscored": section["n_unscored"],
        "p (corrected)": section["p_bh"],
        "rows to decide": section["rows_to_decide"],
        "failures": ", ".join(kinds),
    }


def candidate(task: Task, store: TaskStore) -> str:
    """The predictor that the loop tries to improve: the first trained adapter that is ready, else the base."""
    for predictor in task.predictors:
        free = _adapter(predictor) and not predictor.constrained
        if free and _measured(store, predictor.name):
            return predictor.name
    return task.base.name


def _measured(store: TaskStore, name: str) -> bool:
    return (read_manifest(store, f"metrics/{name}") or {"metadata": {}})["metadata"].get("status") == READY


def fairness_report(task: Task, store: TaskStore) -> Verdict:
    """The fairness blocks of all pairs as one check."""
    comparison = read_json(store.path("comparison.json"))
    unfair = {
        f"{pair['a']} - {pair['b']}": pair["fairness"]["why_not"]
        for pair in comparison["pairs"]
        if not pair["fairness"]["holds"]
    }
    checks = [
        {
            "compared": f"{pair['a']} - {pair['b']}",
            "check": check["label"],
            "holds": check["holds"],
            "detail": check["detail"],
        }
        for pair in comparison["pairs"]
        for check in pair["fairness"]["checks"]
    ]
    message = (
        "; ".join(f"{pair}: {why}" for pair, why in unfair.items())
        or "all compared models had the same conditions"
    )
    return Verdict(not unfair, message, {"checks": {"table": checks}})
