"""What the formatting assets call: raw sections become verified, labelled rows, and a training set of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from vlm_pipeline.examples.raw import SectionDigest, write_quarantine
from vlm_pipeline.examples.seen import SeenKeys
from vlm_pipeline.examples.stage import quarantine_path
from vlm_pipeline.formatting.dataset import make_dataset
from vlm_pipeline.formatting.openai_stage import make_openai_jsonl
from vlm_pipeline.formatting.parity_stage import parity_report
from vlm_pipeline.formatting.prepared import (
    TRAINED,
    formatted_paths,
    formatted_versions,
    processor_identity,
    read_formatted,
    rendering_inputs,
    section_page,
    show_command,
    splits_version,
    task_processor,
)
from vlm_pipeline.formatting.proof import require_proven
from vlm_pipeline.formatting.verified import verification_findings, verification_report
from vlm_pipeline.manifest import Artifact, code_version, combined_version, make_once, require
from vlm_pipeline.store import TaskStore, write_json
from vlm_pipeline.task import Task

__all__ = [
    "TRAINED",
    "FormattedSection",
    "formatted_paths",
    "formatted_versions",
    "make_dataset",
    "make_formatted",
    "make_openai_jsonl",
    "make_training_set",
    "parity_report",
    "processor_identity",
    "read_formatted",
    "splits_version",
    "verification_findings",
    "verification_report",
]


@dataclass(frozen=True)
class FormattedSection:
    artifact: Artifact
    raw_version: str  # data version of the raw section it was made from


def make_formatted(
    task: Task, store: TaskStore, sections: Sequence[str], log: Callable[[str], None]
) -> dict[str, FormattedSection]:
    """Format the given sections; one whose rows, template and settings are unchanged is left alone."""
    raw = require(store, [f"raw/{name}" for name in sections], "Materialize raw_examples of these sections.")

    shared = {**rendering_inputs(task), "code": code_version("formatting")}
    made = {}
    for section in sections:
        version = raw[f"raw/{section}"]

        def make(section: str = section) -> Artifact:
            return _format(task, store, section, log)

        made[section] = FormattedSection(
            make_once(store, f"formatted/{section}", {"raw": version, **shared}, make, log), version
        )
    return made


def _format(task: Task, store: TaskStore, section: str, log: Callable[[str], None]) -> Artifact:
    from vlm_pipeline.formatting.row_view import markdown_preview
    from vlm_pipeline.formatting.table import format_section

    path, processor = store.section("formatted", section), task_processor(task)
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
        "rows_to_look_at": {"path": str(section_page(store, section))},  # which verified_format writes
        "any_row": show_command(task),
        "preview": {"md": markdown_preview(path, processor)},
        "file": {"path": str(path)},
    }
    return Artifact(result.content_hash, metadata, (path, quarantine_path(store, section)))


def _split_versions(path: Path) -> dict[str, str]:
    """One hash per split, so that a changed train row makes no prediction stale."""
    from vlm_pipeline.formatting.table import read_formatted_rows

    digests: dict[str, SectionDigest] = {}
    for row in read_formatted_rows(path, ["id", "split", "group", "content_hash"]):
        digests.setdefault(row["split"], SectionDigest()).add(SimpleNamespace(**row))
    return {split: digest.value for split, digest in sorted(digests.items())}


def make_training_set(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`training_set.json`: what an adapter is made from. Test rows are no part of it.

    Raises NotProvenError when a row did not pass its checks, whoever asks and in whatever order.
    """
    require_proven(task, store)
    inputs = {"rows": splits_version(task, store, TRAINED), **rendering_inputs(task)}

    def make() -> Artifact:
        sections = {name: _counted(store.section("formatted", name)) for name in task.sections.names}
        totals = {
            key: sum(section[key] for section in sections.values()) for key in next(iter(sections.values()))
        }
        result = {**inputs, "sections": sections, "totals": totals}
        path = store.path("training_set.json")
        write_json(path, result)
        table = [{"section": name, **found} for name, found in sections.items()]
        return Artifact(combined_version(inputs), {**totals, "sections": {"table": table}}, (path,))

    return make_once(store, "training_set", inputs, make, log)


def _counted(path: Path) -> dict[str, int]:
    """Rows, groups and tokens of one section's train and val rows."""
    from vlm_pipeline.formatting.table import read_formatted_rows

    groups = SeenKeys()
    counts: Counter[str] = Counter()
    for row in read_formatted_rows(path, ["split", "group", "n_tokens", "n_supervised"]):
        if row["split"] not in TRAINED:
            continue
        groups.add(row["group"])
        counts[f"{row['split']}_rows"] += 1
        counts["tokens"] += row["n_tokens"]
        counts["supervised_tokens"] += row["n_supervised"]
    return {
        **{f"{split}_rows": counts[f"{split}_rows"] for split in TRAINED},
        "groups": len(groups),
        "tokens": counts["tokens"],
        "supervised_tokens": counts["supervised_tokens"],
    }
