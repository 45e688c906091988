"""The verification stage: rows checked section by section and remembered, then together; one verdict before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.raw import read_quarantine
from vlm_pipeline.examples.stage import quarantine_path, rows_version
from vlm_pipeline.examples.verdicts import facts_rows, leaks_of
from vlm_pipeline.formatting.findings import Finding, summary
from vlm_pipeline.formatting.prepared import (
    formatted_paths,
    formatted_versions,
    rendering_inputs,
    section_page,
    show_command,
    task_processor,
)
from vlm_pipeline.manifest import Artifact, code_version, combined_version, make_once, read_manifest
from vlm_pipeline.store import TaskStore, content_hash, read_json, safe_name, write_json, write_text
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict, verdict_once

_SHOWN = 20


def verification_report(task: Task, store: TaskStore) -> Verdict:
    """All checks of the catalogue over every formatted row (1-21, 30, 31); unchanged sections are not checked again."""
    formatted = formatted_versions(task, store)
    shared = {**rendering_inputs(task), "code": code_version("formatting")}
    inputs = {"rows": combined_version(formatted), "read": rows_version(task, store), **shared}
    return verdict_once(store, "verified_format", inputs, lambda: _verify(task, store, formatted, shared))


def _verify(task: Task, store: TaskStore, formatted: dict[str, str], shared: dict[str, str]) -> Verdict:
    from vlm_pipeline.formatting.checks.model import check_model
    from vlm_pipeline.formatting.template import RenderError, markers
    from vlm_pipeline.formatting.verification import Checked, blocking, check_together, tables_of

    tables = tables_of(formatted_paths(task, store))
    findings: list[Finding] = []
    try:
        markers(task_processor(task), task.prompt.template_args)
    except RenderError as error:  # no turn of this template can be told from another: no row can be checked
        findings.append(Finding(error.number, error.message, error.remedy))
        parts: list[Checked] = []
    else:
        findings += check_model(task, task_processor(task), tables)
        parts = [
            _checked_section(task, store, section, {"rows": formatted[f"formatted/{section}"], **shared})
            for section in task.sections.names
        ]  # fmt: skip
        findings += [finding for part in parts for finding in part.findings]
        findings += [
            _emptied(store, section)
            for section, part in zip(task.sections.names, parts, strict=True)
            if not part.rows
        ]
        findings += [*check_together(task, tables, parts), *_leaks(task, store)]
    rows = sum(
        (read_manifest(store, f"formatted/{name}") or {})["metadata"]["rows"] for name in task.sections.names
    )
    write_json(store.path("findings.json"), [finding.as_dict() for finding in findings])
    return _verdict(task, store, findings, blocking(findings), rows)


def _leaks(task: Task, store: TaskStore) -> Iterator[Finding]:
    """31, by what is known of the rows as they were read; worked examples are compared with them."""
    from vlm_pipeline.formatting.checks.together import SplitWatch, leak_findings

    if not task.prompt.few_shot:
        return leak_findings(leak for leak in leaks_of(task, store) if not leak.kind.startswith("near"))
    splits = SplitWatch(task.prompt, task.root)
    for facts in facts_rows(task, store, near=False):
        splits.add_facts(facts)
    return splits.findings()


def _checked_section(task: Task, store: TaskStore, section: str, inputs: dict[str, str]) -> Any:
    """`verified/<section>.json`: what checking the rows of one section found; and the page to look at some of them."""
    from vlm_pipeline.formatting.row_view import write_section_page
    from vlm_pipeline.formatting.verification import Checked, check_rows

    path, page = store.path("verified", f"{safe_name(section)}.json"), section_page(store, section)

    def make() -> Artifact:
        table, processor = store.section("formatted", section), task_processor(task)
        checked = check_rows(task, table, processor)
        title = f"{task.title or task.name}: {section}"
        write_section_page(table, processor, page, title, checked.findings, show_command(task))
        content = {
            "findings": [finding.as_dict() for finding in checked.findings],
            "systems": checked.systems,
            "look_alikes": checked.look_alikes,
            "untold": checked.untold,
            "rows": checked.rows,
        }
        write_json(path, content)
        return Artifact(
            content_hash(content), {"rows": checked.rows, "findings": len(checked.findings)}, (path, page)
        )

    make_once(store, f"verified/{section}", inputs, make)
    found = read_json(path)
    return Checked(
        [Finding.from_dict(record) for record in found["findings"]],
        found["systems"],
        Counter(found["look_alikes"]),
        Counter(found["untold"]),
        found["rows"],
    )


def _emptied(store: TaskStore, section: str) -> Finding:
    """A section without a row: set aside to the last one (then by the failure that cost most), or never there."""
    aside = read_quarantine(quarantine_path(store, section))
    kinds = Counter(record.kind for record in aside if record.kind.startswith("format_"))
    if not kinds:
        return Finding(3, "the section has no row", "add rows, or take it out of task.yaml", section=section)
    kind, count = kinds.most_common(1)[0]
    first = next(record for record in aside if record.kind == kind)
    return Finding(
        int(kind.removeprefix("format_")),
        f"no row of this section is left: {len(aside)} were set aside, {count} of them like row {first.row_id} "
        f"({Path(first.file).name}, line {first.line}): {first.reason}",
        "mend the rows, or the setting that costs them",
        section=section,
    )


def _verdict(
    task: Task, store: TaskStore, findings: Sequence[Finding], stopping: Sequence[Finding], rows: int
) -> Verdict:  # fmt: skip
    sections = sorted({finding.section or "all" for finding in stopping})
    metadata: dict[str, Any] = {
        "rows": rows,
        "findings": len(findings),
        "blocking": len(stopping),
        "failing_sections": sections,
        "failures": {"table": summary(findings)},
        "first_rows": {"table": [_shown(finding.as_dict()) for finding in stopping[:_SHOWN]]},
    }
    page = _findings_page(task, store, findings)
    if page is not None:
        metadata["rows_to_look_at"] = {"path": str(page)}
    if stopping:
        return Verdict(
            False, f"{len(stopping)} findings in {', '.join(sections)}. First: {stopping[0]}", metadata
        )
    return Verdict(True, f"all {rows} rows are fit to train on", metadata)


def _findings_page(task: Task, store: TaskStore, findings: Sequence[Finding]) -> Path | None:
    """`findings.html`: the first rows that findings name, with picture, tokens and mask."""
    from vlm_pipeline.formatting.row_view import find_rows, rows_html

    target = store.path("findings.html")
    named = list(dict.fromkeys(finding.row_id for finding in findings if finding.row_id))
    rows = find_rows(formatted_paths(task, store), named[:_SHOWN])
    if not rows:
        target.unlink(missing_ok=True)
        return None
    note = (
        f"The first {len(rows)} of {len(named)} rows with findings; all findings: {store.path('findings.json')}. "
        f"Any other row: {show_command(task)}"
    )
    write_text(
        target,
        rows_html(
            f"{task.title or task.name}: rows with findings", rows, task_processor(task), findings, note=note
        ),
    )
    return target


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("number", "section", "row_id", "message", "picture", "remedy")}


def verification_findings(task: Task, store: TaskStore) -> list[dict[str, Any]]:
    """What the last verification found, as JSON records."""
    return read_json(store.path("findings.json"), default=[])
