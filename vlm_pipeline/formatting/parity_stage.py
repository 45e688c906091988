"""Train == evaluate == serve, over the rows in the store: what predictors are sent, and what a server makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.prepared import formatted_paths, formatted_versions, task_processor
from vlm_pipeline.manifest import Artifact, code_version, combined_version, make_once
from vlm_pipeline.settings.predictors import OpenAICompatiblePredictor
from vlm_pipeline.store import TaskStore, content_hash, read_json, safe_name, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict, verdict_once

if TYPE_CHECKING:
    from vlm_pipeline.formatting.parity import ParityCensus

ASKED = ("val", "test", "final")
_SHOWN = 20
_TOKENIZED = 16  # rows whose tokens a server is asked for


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
    from vlm_pipeline.inference.hosted_run import conversation_asks

    hosted = requests_of(task, None)
    local = [predictor.name for predictor in task.predictors if predictor.kind == "transformers"]
    names = [predictor.name for predictor in task.predictors]
    census = ParityCensus(names, task.prompt, getattr(task_processor(task), "image_token", None))
    table = store.section("formatted", section)
    asks = iter(conversation_asks([table], ASKED))
    raw = read_raw(store.section("raw", section))  # in the order of the formatted rows
    for row in read_formatted_rows(table, ["id", "split", "prompt_text"]):
        if row["split"] in ASKED:
            example = next(example for example in raw if example.id == row["id"])
            talk = next(asks).body
            sent = dict.fromkeys(local, row["prompt_text"])
            sent |= {name: request(talk) for name, request in hosted.items()}
            census.add(example, build_conversation(example, task.prompt, task.root).without_answer(), sent)
    return census


def servers(task: Task) -> list[OpenAICompatiblePredictor]:
    """Predictors that say whose weights they serve."""
    return [
        predictor
        for predictor in task.predictors
        if isinstance(predictor, OpenAICompatiblePredictor) and predictor.serves
    ]


def served_report(task: Task, store: TaskStore) -> Verdict:
    """Servers of the task's own weights are asked the tokens of training, and answer as the weights do here.

    Asked anew every time: a server can be started with other files at any time.
    """
    from vlm_pipeline.formatting.served import NotTold, compare_answers, compare_tokens, served_tokens
    from vlm_pipeline.formatting.template import tokenizer_of

    names = {predictor.name for predictor in task.predictors}
    processor = task_processor(task)
    rows = list(_rows_to_tokenize(task, store, getattr(processor, "image_token_id", None)))
    findings, how, undecided = [], {}, []
    for server in servers(task):
        if server.serves not in names:
            undecided.append(f"{server.name} serves {server.serves!r}, which is no predictor of this task")
            continue
        try:
            for row in rows:
                finding = compare_tokens(
                    row, served_tokens(server, row.talk), tokenizer_of(processor), server.name
                )
                findings += [finding] if finding else []
            how[server.name] = f"prompt tokens of {len(rows)} rows"
        except NotTold as reason:
            how[server.name] = f"prompt-token counts and answers ({reason})"
        served, local = (_predictions(store, name) for name in (server.name, server.serves))
        shared = served.keys() & local.keys()
        findings += compare_answers(local, served.values(), server.name)
        how[server.name] += f", greedy answers of {len(shared)} rows"
        if not shared and "counts" in how[server.name]:
            undecided.append(
                f"{server.name} tells no tokens and has answered no row that {server.serves} answered"
            )
    metadata = {
        "compared": how,
        "differences": len(findings),
        "first_findings": {"table": [finding.as_dict() for finding in findings[:_SHOWN]]},
    }
    if findings:
        return Verdict(False, f"{len(findings)} differences. First: {findings[0]}", metadata)
    if undecided:
        return Verdict(False, "; ".join(undecided), metadata)
    return Verdict(
        True, "; ".join(f"{name}: {what}" for name, what in how.items()) or "no server is named", metadata
    )


def _rows_to_tokenize(task: Task, store: TaskStore, image_token: int | None) -> Iterator[Any]:
    """Some asked rows of every section, drawn evenly."""
    from vlm_pipeline.formatting.row_view import find_rows
    from vlm_pipeline.formatting.served import AskedRow
    from vlm_pipeline.inference.hosted_run import conversation_asks

    asks = conversation_asks(formatted_paths(task, store), ASKED)
    picked = asks[:: max(1, len(asks) // _TOKENIZED)][:_TOKENIZED]
    rows = find_rows(formatted_paths(task, store), [ask.id for ask in picked])
    for ask, row in zip(picked, rows, strict=True):
        yield AskedRow(ask.id, ask.section, ask.body, row["input_ids"][: row["n_prompt"]], image_token)


def _predictions(store: TaskStore, name: str) -> dict[str, dict[str, Any]]:
    """Asked rows of a prediction table by id; nothing where there is no table yet."""
    from vlm_pipeline.inference.prediction import read_predictions

    path = store.path("predictions", f"{name}.parquet")
    if not path.is_file():
        return {}
    return {
        row.id: {key: getattr(row, key) for key in ("id", "section", "text", "tokens_in", "error")}
        for row in read_predictions(path)
        if row.sample == 0 and row.split in ASKED
    }
