"""The end of a round: judged on val, reported on test, kept or undone; and the history that people see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from filelock import FileLock

from vlm_pipeline.examples.overlay import overlay_version
from vlm_pipeline.formatting.stage import TRAINED, splits_version
from vlm_pipeline.manifest import Artifact, data_version, read_manifest
from vlm_pipeline.markdown import escape
from vlm_pipeline.regeneration.costs import charged, of_rounds
from vlm_pipeline.regeneration.rounds import (
    Log,
    history,
    kept_aside,
    remember,
    undo,
    unfinished,
)
from vlm_pipeline.scoring.looks import looks_at_test
from vlm_pipeline.scoring.stage import READY, predictor_status
from vlm_pipeline.store import TaskStore, content_hash, read_json
from vlm_pipeline.task import Task

_SHOWN = 20


def make_rounds(task: Task, store: TaskStore, log: Log) -> Artifact:
    """`rounds.json` after a look at the open round: judged where the loop has run over its rows, else left open.

    Its metadata tell how many artifacts were put back (`restored_artifacts`).
    """
    restored: list[str] = []
    store.base.mkdir(parents=True, exist_ok=True)
    with FileLock(store.path("rounds.lock")):
        entry = unfinished(history(store))
        if entry and entry["status"] == "rolling back":
            restored = undo(task, store, entry, log)
        elif entry and entry["status"] == "open":
            waiting = why_not_judged(task, store, entry)
            if waiting:
                log(f"round {entry['round']} is not judged yet: {waiting}")
            else:
                restored = _judge(task, store, entry, log)
    rounds = history(store)
    metadata = {**_rounds_metadata(task, store, rounds), "restored_artifacts": len(restored)}
    return Artifact(content_hash(_timeless(rounds)), metadata, (), not restored, "looked at the open round")


def why_not_judged(task: Task, store: TaskStore, entry: dict[str, Any]) -> str | None:
    """The first link between the overlay and the candidate's scores that was not made from the present one."""
    name = entry["predictor"]
    links = [
        (f"raw/{section}", "overlay", overlay_version(store, section)) for section in task.sections.names
    ]
    links += [
        (f"formatted/{section}", "raw", data_version(store, f"raw/{section}"))
        for section in task.sections.names
    ]
    told = task.settings_hash("prompt", "image")
    links += [(f"formatted/{section}", "settings", told) for section in task.sections.names]
    for artifact, key, version in links:
        if (read_manifest(store, artifact) or {"inputs": {}})["inputs"].get(key) != version:
            return f"{artifact} was not made from the present rows"
    later = [
        ("training_set", "rows", splits_version(task, store, TRAINED)),
        ("adapter", "training_set", data_version(store, "training_set")),
        (f"predictions/{name}", "adapter", data_version(store, "adapter")),
        (f"metrics/{name}", f"predictions/{name}", data_version(store, f"predictions/{name}")),
    ]
    for artifact, key, version in later:
        if (read_manifest(store, artifact) or {"inputs": {}})["inputs"].get(key) != version:
            return f"{artifact} was not made from the present {key}"
    if predictor_status(store, name) != READY:
        return f"{name} is {predictor_status(store, name)}"
    return None


def _judge(task: Task, store: TaskStore, entry: dict[str, Any], log: Log) -> list[str]:
    """Compare before and after, decide on val, report test; returns the names of artifacts that were put back."""
    from vlm_pipeline.regeneration.outcome import compare_rounds, decide
    from vlm_pipeline.scoring.table import read_scores

    name, number = entry["predictor"], entry["round"]
    before = read_scores(kept_aside(store, number) / "metrics" / f"{name}.parquet")
    after = read_scores(store.path("metrics", f"{name}.parquet"))
    alpha = task.thresholds.alpha
    found = {}
    for split in ("val", "test"):
        old = [row for row in before if row["split"] == split]
        new = [row for row in after if row["split"] == split]
        found[split] = compare_rounds(old, new, entry["sections"], alpha=alpha) if old and new else None
    if found["val"] is None:
        raise ValueError(f"{task.name} has no val rows: a round cannot be judged without them")
    keep, sentence = decide(found["val"], entry["sections"], task.regeneration.keep)
    headline = read_json(store.path("metrics", f"{name}.json"))["splits"].get("test", {}).get("headline", {})
    earlier = read_json(kept_aside(store, number) / "metrics" / f"{name}.json")
    entry = {
        **entry,
        "status": "kept" if keep else "rolling back",
        "decision": sentence,
        "val": found["val"],
        "test": found["test"],
        "headline": headline,
        "headline_before": earlier["splits"].get("test", {}).get("headline", {}),
        "weak_after": read_json(store.path("weak_sections.json"))["weak"],
    }
    entry = charged(task, store, entry)
    log(sentence)
    remember(store, entry)
    return [] if keep else undo(task, store, entry, log)


def roll_back_last(task: Task, store: TaskStore, log: Log) -> list[str]:
    """A person's roll-back of the last round, kept or open; returns the names of artifacts that were put back."""
    with FileLock(store.path("rounds.lock")):
        rounds = history(store)
        if not rounds or rounds[-1]["status"] == "rolled back":
            raise ValueError(f"{task.name} has no round that could be rolled back")
        sentence = "Rolled back by a person."
        if rounds[-1].get("decision"):
            sentence += f" Before: {rounds[-1]['decision']}"
        last = rounds[-1] if rounds[-1]["status"] == "kept" else charged(task, store, rounds[-1])
        entry = {**last, "status": "rolling back", "decision": sentence}
        remember(store, entry)
        return undo(task, store, entry, log)


def _timeless(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    timed = ("accelerator_seconds", "spent_before")
    return [{key: value for key, value in one.items() if key not in timed} for one in rounds]


def _rounds_metadata(task: Task, store: TaskStore, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from vlm_pipeline.regeneration.outcome import effect

    table = []
    for one in rounds[-_SHOWN:]:
        gained = {
            split: "; ".join(f"{s} {effect(one[split]['sections'][s])}" for s in one["sections"] if s in one[split]["sections"])
            if one.get(split)
            else ""
            for split in ("val", "test")
        }  # fmt: skip
        kept = sum(counts["replaced"] + counts["new"] for counts in one["rows"].values())
        table.append(
            {
                "round": one["round"],
                "status": one["status"],
                "sections": ", ".join(one["sections"]),
                "rows": kept,
                **gained,
                "cost_usd": one["cost_usd"],
                "accelerator_seconds": one.get("accelerator_seconds"),
            }
        )
    metadata: dict[str, Any] = {
        "rounds": len(rounds),
        "kept": sum(one["status"] == "kept" for one in rounds),
        "rolled_back": sum(one["status"] == "rolled back" for one in rounds),
        "looks_at_test": looks_at_test(store),
        "cost_usd": float(of_rounds(rounds).usd),
        "accelerator_seconds": float(of_rounds(rounds).seconds),
        "history": {"table": table},
    }
    if rounds and rounds[-1].get("decision"):
        metadata["decision"] = {"md": f"**{escape(rounds[-1]['decision'])}**"}
    picture = _picture(store, rounds)
    return metadata | ({"picture": {"md": picture}} if picture else {})


def points(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The headline figure on test before the first round and after each judged one, for the report's picture."""
    judged = [one for one in rounds if one.get("headline")]
    if not judged:
        return []

    def point(label: int, headline: dict[str, Any], decision: str) -> dict[str, Any]:
        return {
            "round": label,
            "decision": decision,
            **{k: headline.get(k) for k in ("estimate", "low", "high", "n")},
        }

    start = point(0, judged[0]["headline_before"], "start")
    return [start, *(point(one["round"], one["headline"], one["status"]) for one in judged)]


def _picture(store: TaskStore, rounds: Sequence[dict[str, Any]]) -> str | None:
    shown = points(rounds)
    comparison = read_json(store.path("comparison.json"), default=None)
    if not shown or comparison is None:
        return None
    from vlm_pipeline.reporting.figures.training import loop_history
    from vlm_pipeline.reporting.inputs import ReportInputs
    from vlm_pipeline.reporting.reading import read_comparison
    from vlm_pipeline.reporting.summary import picture_markdown

    figure = loop_history(shown, read_comparison(ReportInputs(comparison=comparison)))
    return picture_markdown(figure) if figure else None
