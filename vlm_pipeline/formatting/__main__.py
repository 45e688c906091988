"""`python -m vlm_pipeline.formatting TASK ROW_ID …`: an HTML page about any rows, as the model is trained on them.

TASK is a task folder. The rows are looked up in the store, with what the last verification found; a row that was set
aside is named with its reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlm_pipeline.examples.stage import quarantine_records
from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.prepared import formatted_paths, task_processor
from vlm_pipeline.formatting.verified import verification_findings
from vlm_pipeline.sharing.share import pull
from vlm_pipeline.store import TaskStore, content_hash, write_text
from vlm_pipeline.task import Task, load_task


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vlm_pipeline.formatting", description=__doc__)
    parser.add_argument("task", type=Path, help="task folder")
    parser.add_argument("rows", nargs="+", help="row ids")
    parser.add_argument("--output", type=Path, help="the page; default: rows/row-<hash>.html in the store")
    options = parser.parse_args(arguments)
    task = load_task(options.task)
    store = TaskStore(task.name)
    pull(store)
    page, problems = rows_page(task, store, options.rows, options.output)
    for problem in problems:
        print(problem, file=sys.stderr)
    if page is not None:
        print(page)
    return 1 if problems else 0


def rows_page(
    task: Task, store: TaskStore, rows: list[str], output: Path | None = None
) -> tuple[Path | None, list[str]]:
    """Write the page about the rows that are there; the other ones come back as sentences."""
    from vlm_pipeline.formatting.row_view import find_rows, rows_html

    paths = [path for path in formatted_paths(task, store) if path.is_file()]
    found = find_rows(paths, rows)
    there = {row["id"] for row in found}
    aside = {record["row_id"]: record for record in quarantine_records(task, store)}
    problems = [
        f"row {name} was set aside ({aside[name]['file']}, line {aside[name]['line']}): {aside[name]['reason']}"
        if name in aside
        else f"row {name} is in no formatted section of {store.base}; materialize formatted_examples first"
        for name in rows
        if name not in there
    ]
    if not found:
        return None, problems
    checked = store.path("findings.json").is_file()
    findings = (
        [Finding.from_dict(record) for record in verification_findings(task, store)] if checked else None
    )
    processor = task_processor(task)
    page = output or store.path("rows", f"row-{content_hash(rows, length=8)}.html")
    write_text(
        page, rows_html(f"{task.title or task.name}: {', '.join(rows)[:80]}", found, processor, findings)
    )
    return page, problems


if __name__ == "__main__":
    sys.exit(main())
