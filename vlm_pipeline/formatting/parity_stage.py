"""Train == evaluate, over the rows in the store: what every predictor is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.prepared import formatted_versions, task_processor
from vlm_pipeline.manifest import Artifact, code_version, combined_version, make_once
from vlm_pipeline.store import TaskStore, content_hash, read_json, safe_name, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict, verdict_once

if TYPE_CHECKING:
    from vlm_pipeline.formatting.parity import ParityCensus

ASKED = ("val", "test", "final")
_SHOWN = 20


def parity_report(task: Task, store: TaskStore) -> Verdict:
    """Every predictor is told what every asked row says: system prompt, worked examples, question, pictures, tools (30)."""
    versions = formatted_versions(task, store)
    shared = {"settings": task.settings_hash("prompt", "predictors"), "code": code_version("formatting")}
    inputs = {"rows": combined_version(versions), **shared}
    return verdict_once(store, "same_prompts", inputs, lambda: _parity(task, store, versions, shared))


def _parity(task: Task, store: TaskStore, versions: Mapping[str, str], shared: Mapping[str, str]) -> Verdict:
    from vlm_pipeline.formatting.parity import ParityRow, parity_table

    report = {predictor.name: ParityRow(predictor.name) for predictor in task.predictors}
    findings: list[Finding] = []
    for section in task.sections.names:
        found = _section(task, store, section, {"rows": versions[f"formatted/{section}"], **shared})
        findings += map(Finding.from_dict, found["findings"])
        for name, *counts in found["counts"]:
            report[name] = report[name].plus(*counts)
    rows = max(row.rows for row in report.values())
    metadata = {
        "rows": rows,
        "predictors": {"table": parity_table(report.values())},
        "differences": len(findings),
        "first_findings": {"table": [finding.as_dict() for finding in findings[:_SHOWN]]},
    }
    if findings:
        return Verdict(False, f"{len(findings)} prompts differ. First: {findings[0]}", metadata)
    return Verdict(True, f"{len(report)} predictors are told the same in all {rows} rows", metadata)


def _section(task: Task, store: TaskStore, section: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """`parity/<section>.json`: counts and findings of the asked rows of one section, made now or found."""
    path = store.path("parity", f"{safe_name(section)}.json")

    def make() -> Artifact:
        census = _census(task, store, section)
        counts = [list(row.values()) for row in map(asdict, census.report())]
        content = {"counts": counts, "findings": [finding.as_dict() for finding in census.found]}
        write_json(path, content)
        return Artifact(content_hash(content), {"findings": len(census.found)}, (path,))

    make_once(store, f"parity/{section}", inputs, make)
    return read_json(path)


def _census(task: Task, store: TaskStore, section: str) -> ParityCensus:
    """Asked rows as they were read, beside the prompt text of local predictors and the bodies of hosted ones."""
    from vlm_pipeline.examples.raw import read_raw
    from vlm_pipeline.formatting.conversation import build_conversation
    from vlm_pipeline.formatting.parity import ParityCensus, requests_of
    from vlm_pipeline.formatting.table import read_formatted_rows
    from vlm_pipeline.inference.hosted_run import stream_asks

    hosted = requests_of(task, None)
    local = [predictor.name for predictor in task.predictors if predictor.kind == "transformers"]
    names = [predictor.name for predictor in task.predictors]
    census = ParityCensus(names, task.prompt, getattr(task_processor(task), "image_token", None))
    table = store.section("formatted", section)
    asks = stream_asks([table], ASKED)
    raw = read_raw(store.section("raw", section))  # in the order of the formatted rows
    for row in read_formatted_rows(table, ["id", "split", "prompt_text"]):
        if row["split"] in ASKED:
            example = next(example for example in raw if example.id == row["id"])
            talk = next(asks).body
            sent = dict.fromkeys(local, row["prompt_text"])
            sent |= {name: request(talk) for name, request in hosted.items()}
            census.add(example, build_conversation(example, task.prompt, task.root).without_answer(), sent)
    return census
