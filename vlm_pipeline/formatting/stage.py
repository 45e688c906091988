"""The formatting stage: raw sections become verified, labelled rows, OpenAI JSONL and a training set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.raw import write_quarantine
from vlm_pipeline.examples.stage import quarantine_path
from vlm_pipeline.manifest import Artifact, code_version, combined_version, make_once, read_manifest, require
from vlm_pipeline.store import TaskStore, content_hash, file_hash, read_json, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict, verdict_once

TRAINED = ("train", "val")
_SHOWN = 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".md")


@dataclass(frozen=True)
class FormattedSection:
    artifact: Artifact
    raw_version: str  # data version of the raw section it was made from


def processor_identity(task: Task) -> str:
    """Names tokenizer, template and image settings: a hash of a local folder's files, or hub id and revision."""
    folder = Path(task.base_model_path)
    if not folder.is_dir():
        return f"{task.base_model}@{task.revision or 'main'}"
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix not in _WEIGHTS]
    return content_hash({file.name: file_hash(file) for file in files})


def make_formatted(
    task: Task, store: TaskStore, sections: Sequence[str], log: Callable[[str], None]
) -> dict[str, FormattedSection]:
    """Format the given sections; one whose rows, template and settings are unchanged is left alone."""
    raw = require(store, [f"raw/{name}" for name in sections], "Materialize raw_examples of these sections.")

    @cache
    def processor() -> Any:
        from vlm_pipeline.formatting.template import load_processor

        return load_processor(task.base_model_path, task.revision, task.image)

    shared = {
        "processor": processor_identity(task),
        "settings": task.settings_hash("prompt", "image"),
        "code": code_version("formatting"),
    }
    made = {}
    for section in sections:
        version = raw[f"raw/{section}"]

        def make(section: str = section) -> Artifact:
            return _format(task, store, section, processor(), log)

        made[section] = FormattedSection(
            make_once(store, f"formatted/{section}", {"raw": version, **shared}, make, log), version
        )
    return made


def _format(
    task: Task, store: TaskStore, section: str, processor: Any, log: Callable[[str], None]
) -> Artifact:
    from vlm_pipeline.formatting.row_view import markdown_preview
    from vlm_pipeline.formatting.table import format_section, formatted_schema

    path = store.section("formatted", section)
    result = format_section(
        store.section("raw", section), processor, task.prompt, path, root=task.root, log=log
    )
    write_quarantine(result.quarantined, quarantine_path(store, section))
    log(f"{section}: {result.rows} rows, {result.tokens} tokens, {len(result.quarantined)} set aside")
    metadata = {
        "rows": result.rows,
        **{f"rows_{split}": count for split, count in result.splits.items()},
        "quarantined": len(result.quarantined),
        "tokens": result.tokens,
        "supervised_tokens": result.supervised_tokens,
        "image_tokens": result.image_tokens,
        "longest_row_tokens": result.longest,
        "split_versions": _split_versions(path),
        "preview": {"md": markdown_preview(path, processor)},
        "file": {"path": str(path)},
        "dagster/column_schema": {"columns": {field.name: str(field.type) for field in formatted_schema()}},
    }
    return Artifact(result.content_hash, metadata, (path, quarantine_path(store, section)))


def _split_versions(path: Path) -> dict[str, str]:
    """One hash per split, so that a changed train row makes no prediction stale."""
    import pyarrow.parquet as pq

    rows: dict[str, list[list[str]]] = {}
    for row in pq.read_table(path, columns=["id", "split", "group", "content_hash"]).to_pylist():
        rows.setdefault(row["split"], []).append([row["id"], row["group"], row["content_hash"]])
    return {split: content_hash(sorted(found)) for split, found in sorted(rows.items())}


def formatted_versions(task: Task, store: TaskStore) -> dict[str, str]:
    names = [f"formatted/{name}" for name in task.sections.names]
    return require(store, names, "Materialize formatted_examples of all sections.")


def splits_version(task: Task, store: TaskStore, splits: Sequence[str]) -> str:
    """Hash of the rows of some splits over all sections."""
    formatted_versions(task, store)
    found = {}
    for section in task.sections.names:
        versions = (read_manifest(store, f"formatted/{section}") or {})["metadata"]["split_versions"]
        found[section] = {split: versions.get(split) for split in splits}
    return content_hash(found)


def formatted_paths(task: Task, store: TaskStore) -> list[Path]:
    return [store.section("formatted", section) for section in task.sections.names]


def read_formatted(
    task: Task, store: TaskStore, splits: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of some splits over all sections, in section and file order, with the wanted columns."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for path in formatted_paths(task, store):
        rows += pq.read_table(
            path, columns=list(columns), filters=[("split", "in", list(splits))]
        ).to_pylist()
    return rows


def make_training_set(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`training_set.json`: what an adapter is made from. Test rows are no part of it."""
    inputs = {
        "rows": splits_version(task, store, TRAINED),
        "processor": processor_identity(task),
        "settings": task.settings_hash("prompt", "image"),
    }

    def make() -> Artifact:
        rows = read_formatted(task, store, TRAINED, ["section", "split", "group", "n_tokens", "n_supervised"])
        sections = {}
        for name in task.sections.names:
            own = [row for row in rows if row["section"] == name]
            counts = Counter(row["split"] for row in own)
            sections[name] = {
                **{f"{split}_rows": counts[split] for split in TRAINED},
                "groups": len({row["group"] for row in own}),
                "tokens": sum(row["n_tokens"] for row in own),
                "supervised_tokens": sum(row["n_supervised"] for row in own),
            }
        totals = {
            key: sum(section[key] for section in sections.values()) for key in next(iter(sections.values()))
        }
        result = {**inputs, "sections": sections, "totals": totals}
        path = store.path("training_set.json")
        write_json(path, result)
        table = [{"section": name, **found} for name, found in sections.items()]
        return Artifact(combined_version(inputs), {**totals, "sections": {"table": table}}, (path,))

    return make_once(store, "training_set", inputs, make, log)


def make_openai_jsonl(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`openai/{train,val}_{with_images,text_only}.jsonl`, checked offline; refused where the API would refuse them."""
    inputs = {
        "rows": splits_version(task, store, TRAINED),
        "settings": task.settings_hash("prompt", "image"),
        "code": code_version("formatting"),
    }

    def make() -> Artifact:
        from vlm_pipeline.formatting.openai_jsonl import write_openai_jsonl

        files = write_openai_jsonl(formatted_paths(task, store), store.path("openai"), task.prompt)
        reports = _validated({name: found.path for name, found in files.items()}, _hosted_model(task))
        for name, report in reports.items():
            log(
                f"{name}: {report['examples']} examples, about {report['tokens']:,} tokens, {report['problems']} problems"
            )
        path = store.path("openai", "validation.json")
        write_json(path, reports)
        table = [
            {"file": name, **{k: v for k, v in report.items() if k != "findings"}}
            for name, report in reports.items()
        ]
        metadata = {
            "problems": sum(report["problems"] for report in reports.values()),
            "files": {"table": table},
            "first_findings": {
                "table": [f for report in reports.values() for f in report["findings"]][:_SHOWN]
            },
        }
        version = content_hash({name: file_hash(found.path) for name, found in files.items()})
        return Artifact(version, metadata, (*(found.path for found in files.values()), path))

    return make_once(store, "openai_jsonl", inputs, make, log)


def _hosted_model(task: Task) -> str:
    """The model that the task fine-tunes at the provider; its image rule counts the tokens."""
    models = [predictor.model for predictor in task.predictors if predictor.kind == "openai_finetuned"]
    return models[0] if models else "gpt-4o-2024-08-06"


def _validated(paths: dict[str, Path], model: str) -> dict[str, dict[str, Any]]:
    from vlm_pipeline.estimates import hosted_epochs
    from vlm_pipeline.formatting.openai_validator import validate_jsonl
    from vlm_pipeline.inference.prices import PriceError, price_of

    try:
        price = price_of(model)
    except PriceError:
        price = None
    found = {}
    train_lines: dict[str, set[bytes]] = {}
    for name, path in paths.items():
        split, kind = name.split("_", 1)
        known = train_lines.setdefault(kind, set())
        report = validate_jsonl(path, model, validation=split == "val", known_lines=known)
        epochs = hosted_epochs(report.examples)
        cost = (
            price.of_training(report.tokens, epochs)
            if price and price.training and split == "train"
            else None
        )
        found[name] = {
            "examples": report.examples,
            "images": report.images,
            "bytes": report.bytes,
            "tokens": report.tokens,
            "longest": report.longest,
            "epochs": epochs,
            "cost_usd": None if cost is None else round(cost, 4),
            "price_as_of": price.as_of if price else None,
            "problems": len(report.blocking),
            "findings": [{"file": name, **asdict(finding)} for finding in report.findings[:_SHOWN]],
        }
    return found


def verification_report(task: Task, store: TaskStore) -> Verdict:
    """All checks of the catalogue over every formatted row (FORMAT_FAILURES 1-21, 30, 31)."""
    inputs = {
        "rows": combined_version(formatted_versions(task, store)),
        "processor": processor_identity(task),
        "code": code_version("formatting"),
    }
    return verdict_once(store, "verified_format", inputs, lambda: _verify(task, store))


def _verify(task: Task, store: TaskStore) -> Verdict:
    from vlm_pipeline.formatting.findings import summary
    from vlm_pipeline.formatting.template import load_processor
    from vlm_pipeline.formatting.verification import blocking, verify

    processor = load_processor(task.base_model_path, task.revision, task.image)
    findings = verify(task, formatted_paths(task, store), processor)
    write_json(store.path("findings.json"), [finding.as_dict() for finding in findings])
    stopping = blocking(findings)
    rows = sum(
        (read_manifest(store, f"formatted/{name}") or {})["metadata"]["rows"] for name in task.sections.names
    )
    sections = sorted({finding.section or "all" for finding in stopping})
    metadata = {
        "rows": rows,
        "findings": len(findings),
        "blocking": len(stopping),
        "failing_sections": sections,
        "failures": {"table": summary(findings)},
        "first_rows": {"table": [_shown(finding.as_dict()) for finding in stopping[:_SHOWN]]},
    }
    if stopping:
        return Verdict(
            False, f"{len(stopping)} findings in {', '.join(sections)}. First: {stopping[0]}", metadata
        )
    return Verdict(True, f"all {rows} rows are fit to train on", metadata)


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("number", "section", "row_id", "message", "picture", "remedy")}


def verification_findings(task: Task, store: TaskStore) -> list[dict[str, Any]]:
    return read_json(store.path("findings.json"), default=[])
