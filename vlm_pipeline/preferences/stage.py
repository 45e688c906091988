"""The preference stage: pairs of two predictors' answers, as files for TRL's DPOTrainer and OpenAI's DPO.

Val rows are answered and scored anyway. Train rows are answered for this alone, by the prediction payload (and its
cache), into a folder of their own. Test, final and probe rows are never read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_pipeline.formatting.prepared import (
    formatted_paths,
    read_formatted,
    rendering_inputs,
    splits_version,
    task_processor,
)
from vlm_pipeline.formatting.proof import require_proven
from vlm_pipeline.manifest import Artifact, code_version, make_once, read_manifest, require
from vlm_pipeline.markdown import escape
from vlm_pipeline.markdown import table as markdown_table
from vlm_pipeline.preferences.pairs import GOLD, PreferenceError, choose_pairs
from vlm_pipeline.scoring.row_scorers import scorer_version
from vlm_pipeline.scoring.stage import READY, SCORED_COLUMNS, page_facts, predictor_status
from vlm_pipeline.settings.preferences import PreferenceSettings
from vlm_pipeline.store import TaskStore, content_hash, write_json, write_text
from vlm_pipeline.task import Task

FOLDER = "preferences"
DPO_MODEL = "gpt-4.1-2025-04-14"  # whose limits the file is checked against, where the task names no other
COST_OF_VAL = (
    "These pairs are made from val rows. A model that trains on them has seen val: its val figures, weak sections and "
    "places on the leaderboard say nothing any more; judge it on test rows only."
)
Payload = Callable[[dict[str, Any]], dict[str, Any]]


def pair_of(task: Task, settings: PreferenceSettings) -> tuple[str, str]:
    """The two predictors; the second is the one to be trained further. Raises PreferenceError where there are no two."""
    from vlm_pipeline.scoring.decision_stage import tuned_name

    if settings.pair:
        task.picked(settings.pair)
        return settings.pair[0], settings.pair[1]
    others = [predictor.name for predictor in task.predictors[1:]]
    if not others:
        raise PreferenceError(f"{task.name} has one predictor; pairs need the answers of two")
    return task.base.name, tuned_name(task) or others[0]


def make_preferences(
    task: Task,
    store: TaskStore,
    run_payload: Payload,
    log: Callable[[str], None],
    *,
    run_id: str,
    adapters: TaskStore | None = None,
) -> Artifact:
    """`preferences/trl/pairs.parquet`, `preferences/openai/pairs.jsonl` and `preferences/summary.json`.

    A predictor without answers gives a status and no pairs. Raises NotProvenError for rows that did not pass their
    checks: nothing that is trained on leaves unproven.
    """
    settings = task.preferences or PreferenceSettings()
    pair = pair_of(task, settings)
    if reason := _not_made(store, pair):
        log(reason)
        return make_once(
            store, FOLDER, {"status": reason}, lambda: Artifact(content_hash(reason), {"status": reason}), log
        )
    inputs = {
        "rows": splits_version(task, store, [settings.split]),
        **require(store, [f"metrics/{name}" for name in pair], "Materialize the metrics of both predictors."),
        **{f"predictor {name}": _identity(store, name) for name in pair},
        "preferences": content_hash([settings.model_dump(mode="json"), task.name, task.title]),
        "scorer": scorer_version(task.scorers[0]),
        **rendering_inputs(task),
        "code": code_version(FOLDER) + code_version("formatting"),
    }

    def make() -> Artifact:
        spent: Counter[str] = Counter()
        if settings.split == "train":
            spent = _answer_train_rows(task, store, pair, run_payload, run_id, adapters)
        made = write_preferences(task, store, settings, store.path(FOLDER), log)
        return Artifact(made.data_version, {**made.metadata, **spent}, made.files)

    return make_once(store, FOLDER, inputs, make, log)


def _not_made(store: TaskStore, pair: tuple[str, str]) -> str:
    """Why there can be no pairs now; '' where both have answered."""
    statuses = {name: predictor_status(store, name) for name in pair}
    return next((f"not made: {name} is {found}" for name, found in statuses.items() if found != READY), "")


def _identity(store: TaskStore, name: str) -> str:
    """Who answers, whatever rows: weights, settings and server; its answers to val and test rows."""
    manifest = read_manifest(store, f"predictions/{name}") or {}
    made_by = {key: value for key, value in manifest["inputs"].items() if key != "asked again"}
    return content_hash([made_by, manifest["data_version"]])


def _answer_train_rows(
    task: Task, store: TaskStore, pair: tuple[str, str], run_payload: Payload, run_id: str, adapters: TaskStore | None
) -> Counter[str]:  # fmt: skip
    """Ask both about the train rows; returns what it took."""
    from vlm_pipeline.inference.stage import payload_request

    known = {predictor.name: predictor for predictor in task.predictors}
    spent: Counter[str] = Counter()
    for name in pair:
        request = payload_request(
            task, store, known[name], formatted_paths(task, store), ["train"], run_id, adapters
        )
        counts = run_payload({**request, "output": str(store.path(FOLDER, "predictions"))})
        if "status" in counts:
            raise PreferenceError(f"{name} is {counts['status']}: no train row was answered")
        for key in ("asked", "tokens_in", "tokens_out", "cost_usd", "accelerator_seconds"):
            spent[key] += counts.get(key, 0)
    return spent


def write_preferences(
    task: Task, store: TaskStore, settings: PreferenceSettings, folder: Path, log: Callable[[str], None]
) -> Artifact:
    """Write the files from the answers that lie in the store; the artifact says what is in them, and what is not."""
    from vlm_pipeline.formatting.openai_report import OPENAI, takes_preferences
    from vlm_pipeline.formatting.openai_stage import hosted_model
    from vlm_pipeline.formatting.openai_validator import validate_jsonl
    from vlm_pipeline.formatting.template import takes_parts
    from vlm_pipeline.preferences.files import COLUMNS, rendered_rows, write_openai, write_trl

    require_proven(task, store)
    pair, scorer = pair_of(task, settings), task.scorers[0].column_name
    rows, scores, answers = _answers(task, store, pair, settings.split)
    pairs, left_out = choose_pairs(
        rows, scores, answers, pair=pair, scorer=scorer, margin=settings.margin, gold=settings.gold
    )
    wanted = {found.id for found in pairs}
    formatted = [row for row in read_formatted(task, store, [settings.split], COLUMNS) if row["id"] in wanted]
    processor = task_processor(task)
    kept, lost = rendered_rows(pairs, formatted, processor, task.prompt.template_args)
    left_out |= lost
    trl, openai = folder / "trl" / "pairs.parquet", folder / "openai" / "pairs.jsonl"
    write_trl(kept, trl, takes_parts(processor))
    lines, not_hosted = write_openai(kept, formatted, openai)
    model = hosted_model(task)
    model = model if takes_preferences(model, OPENAI) else DPO_MODEL
    report = validate_jsonl(openai, model, method="dpo")
    by = Counter(f"{row['chosen_by']} over {row['rejected_by']}" for row in kept)
    summary = {
        "pair": list(pair), "scorer": scorer, "scorer_version": next(row["version"] for row in scores if row["scorer"] == scorer),
        "split": settings.split, "margin": settings.margin, "gold": settings.gold, "asked": len(rows), "pairs": len(kept),
        "better": dict(sorted(by.items())), "sections": dict(sorted(Counter(row["section"] for row in kept).items())),
        "gold_chosen": sum(row["chosen_by"] == GOLD for row in kept), "rejected_cut_off": sum(row["rejected_cut"] for row in kept),
        "left_out": left_out,
        "openai": {
            "lines": lines, "left_out": not_hosted, "model": model, "tokens": report.tokens,
            "problems": [str(finding) for finding in report.blocking] if lines else [],
        },
    }  # fmt: skip
    note = {"note": COST_OF_VAL} if settings.split == "val" else {}
    write_json(folder / "summary.json", {**summary, **note})
    write_text(folder / "trl" / "README.md", _card(task, {**summary, **note}))
    log(f"{len(kept)} pairs of {len(rows)} {settings.split} rows; {lines} of them for OpenAI")
    if note and kept:
        log(COST_OF_VAL)
    metadata = {
        "rows": len(kept), "rows_asked": len(rows), "compared": f"{pair[1]} - {pair[0]}", "split": settings.split,
        "better": {"table": [{"better": name, "pairs": count} for name, count in sorted(by.items())]},
        "left_out": {"table": [{"reason": reason, "rows": count} for reason, count in left_out.items()]},
        "rejected_cut_off": summary["rejected_cut_off"], "gold_chosen": summary["gold_chosen"],
        "openai_lines": lines, "openai_problems": len(summary["openai"]["problems"]),
        "folder": {"path": str(folder)}, **note,
    }  # fmt: skip
    said = [{name: row[name] for name in row if name != "images"} for row in kept]
    files = (trl, openai, folder / "summary.json", folder / "trl" / "README.md")
    return Artifact(content_hash([said, summary]), metadata, files)


def _answers(
    task: Task, store: TaskStore, pair: tuple[str, str], split: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows, scores and predictions of one split: from the measured tables, or of train rows scored here."""
    import pyarrow.parquet as pq

    from vlm_pipeline.scoring.decision_stage import scored_rows
    from vlm_pipeline.scoring.row_scorers import build_scorer
    from vlm_pipeline.scoring.table import score_table

    rows = read_formatted(task, store, [split], SCORED_COLUMNS)
    if split == "val":
        if reason := _not_made(store, pair):
            raise PreferenceError(reason)
        require(store, [f"metrics/{name}" for name in pair], "Materialize the metrics of both predictors.")
        return rows, *scored_rows(store, pair, split)
    tables = [store.path(FOLDER, "predictions", f"{name}.parquet") for name in pair]
    if missing := [str(table) for table in tables if not table.is_file()]:
        raise PreferenceError(
            f"train rows were not answered ({missing[0]} is missing): set `preferences: {{split: train}}` in task.yaml "
            "and materialize the asset `preferences`"
        )
    answers = [answer for table in tables for answer in pq.read_table(table).to_pylist()]
    return rows, score_table([build_scorer(task.scorers[0])], rows, answers, facts=page_facts(task)), answers


def _card(task: Task, summary: dict[str, Any]) -> str:
    """What the table is, for people. No `configs`: with them `datasets` (5.0) keeps its cache by the folder's name, and
    loads the pairs of another task, or those before a change, without a word."""
    import yaml

    head = yaml.safe_dump({"pretty_name": f"{task.title or task.name}: preference pairs"}, allow_unicode=True)
    lines = ["---", head.strip(), "---", "", f"# {escape(task.title or task.name)}: preference pairs", ""]
    lines += [f"{summary['pairs']} of {summary['asked']} {summary['split']} rows, by `{summary['scorer']}`, "
              f"better by at least {summary['margin']:g}.", ""]  # fmt: skip
    lines += [summary["note"], ""] if "note" in summary else []
    lines += [markdown_table(("better over worse", "pairs"), list(summary["better"].items())), ""]
    lines += [markdown_table(("left out", "rows"), list(summary["left_out"].items())), ""]
    return "\n".join(lines)
