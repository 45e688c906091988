"""Stages behind the metrics: the comparison, the weak sections, the fairness of the pairs. Nothing is generated here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vlm_pipeline.manifest import Artifact, code_version, make_once, read_manifest, require
from vlm_pipeline.markdown import escape
from vlm_pipeline.scoring.stage import READY, Pictures, bars, predictions_metadata, predictor_status, timeless
from vlm_pipeline.settings.predictors import TransformersPredictor
from vlm_pipeline.store import TaskStore, content_hash, read_json, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict


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
            stand_ins={name: predictions_metadata(store, name).get("stand_in") for name in ready},
            metrics=metrics,
            confidence=1 - task.thresholds.alpha,
        )
        path = store.path("comparison.json")
        write_json(path, result)
        metadata = _describe_comparison(result) | pictures(result, metrics)
        return Artifact(content_hash(timeless(result)), metadata, (path,))

    return make_once(store, "comparison", inputs, make, log)


def tuned_name(task: Task, adapter: str = "trained") -> str | None:
    """The predictor that the task is about: the first one that uses the trained adapter, and answers freely."""
    return next((p.name for p in task.predictors if _adapter(p) == adapter and not p.constrained), None)


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
    called = {
        one["name"]: f"{one['name']} ({one['stand_in']})" if one.get("stand_in") else one["name"]
        for one in result["predictors"]
    }
    pairs = [
        {
            "compared": f"{called[pair['a']]} - {called[pair['b']]}", "metric": pair["metric"], "fair": pair["fairness"]["holds"],
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
        "thresholds": content_hash([task.settings_hash("thresholds"), bars(task)]),
        "code": code_version("scoring"),
    }

    def make() -> Artifact:
        from vlm_pipeline.scoring.weak import weak_sections

        scores, _ = scored_rows(store, [name], "val")
        first = task.scorers[0].column_name
        own = task.thresholds.sections
        result = weak_sections(scores, predictor=name, bar=bars(task)[first], section_bars=own, scorer=first)
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
