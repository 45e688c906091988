"""Proof that formatted rows are fit to train on: every row of the set against every known silent failure.

Rows are checked one by one (`check_rows`, which can be done section by section), then together (`check_together`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.formatting.checks.dates import Dates
from vlm_pipeline.formatting.checks.evidence import Evidence, Model, broken, gather
from vlm_pipeline.formatting.checks.labels import check_labels
from vlm_pipeline.formatting.checks.model import check_model
from vlm_pipeline.formatting.checks.together import SplitWatch, check_told, prompts_differ, systems_differ
from vlm_pipeline.formatting.checks.tokens import (
    check_control_words,
    check_ids,
    check_pictures,
    check_prompt,
    check_rendering,
)
from vlm_pipeline.formatting.conversation import untold
from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.labels import Formatter
from vlm_pipeline.formatting.table import formatted_row, read_formatted_rows, read_table_metadata
from vlm_pipeline.formatting.template import RenderError
from vlm_pipeline.task import Task

_BATCH_ROWS = 256
_PICTURES = 1_000  # rows of each failure that are shown in words
_KEPT = 10_000  # findings of each failure that are kept in full; the rest are counted


@dataclass
class Checked:
    """What checking rows one by one leaves: their findings, and what the checks of the whole set need."""

    findings: list[Finding] = field(default_factory=list)
    systems: dict[str, list[int]] = field(default_factory=dict)  # split: [rows with a system prompt, rows]
    look_alikes: Counter[str] = field(default_factory=Counter)  # what looks like a control token: rows
    untold: Counter[str] = field(default_factory=Counter)  # what rows say and no model is given: rows
    rows: int = 0


def verify(task: Task, rows: Any, processor: Any) -> list[Finding]:
    """Findings over all rows, with row id, failure number and remedy; an empty list means fit to train.

    rows: path(s) of formatted tables, a pyarrow Table, or an iterable of dicts (`input_ids` and `labels` at
    least: a table made elsewhere is checked as far as its columns go) or of Examples, which are formatted first.
    Rows are streamed, memory does not grow with them. Findings that do not block say so; beyond 10,000 of one
    failure they are counted.
    """
    tables = tables_of(rows)
    try:
        Model(processor, task.prompt)
    except RenderError as error:
        return [Finding(error.number, error.message, error.remedy)]
    splits = SplitWatch(task.prompt, task.root)
    checked = check_rows(task, rows, processor, splits.add)
    if not checked.rows and not checked.findings:
        return [Finding(3, "there is no row", "see the quarantine for rows that were set aside")]
    return [
        *check_model(task, processor, tables),
        *checked.findings,
        *check_together(task, tables, [checked]),
        *splits.findings(),
    ]


def check_rows(
    task: Task, rows: Any, processor: Any, also: Callable[[dict[str, Any]], None] = lambda row: None
) -> Checked:
    """Every row by itself (rows as in `verify`); `also` is called with each row. Raises RenderError without markers."""
    model = Model(processor, task.prompt)
    dates = Dates(model)
    checked = Checked()
    shown: Counter[int] = Counter()
    for batch in _batches(_dicts(rows, task, processor, checked.findings)):
        unreadable = [broken(row) for row in batch]
        checked.findings += [finding for finding in unreadable if finding]
        readable = [row for row, finding in zip(batch, unreadable, strict=True) if finding is None]
        for evidence in gather(readable, model):
            _check_row(evidence, model, checked, task.prompt.max_tokens)
            dates.check(evidence)
            also(evidence.row)
            for finding in _with_pictures(evidence, model, shown):
                if shown[finding.number] <= _KEPT:
                    checked.findings.append(finding)
    checked.findings += [
        Finding(number, f"and {count - _KEPT:,} more rows of this kind", "see the rows named before")
        for number, count in shown.items()
        if count > _KEPT
    ]
    return checked


def check_together(task: Task, tables: Sequence[dict[str, Any]], checked: Iterable[Checked]) -> list[Finding]:
    """What only shows when all rows are seen, leaks aside. tables: metadata of the formatted tables (`tables_of`)."""
    systems: dict[str, list[int]] = {}
    look_alikes: Counter[str] = Counter()
    untold: Counter[str] = Counter()
    for part in checked:
        look_alikes.update(part.look_alikes)
        untold.update(part.untold)
        for split, counts in part.systems.items():
            known = systems.setdefault(split, [0, 0])
            known[:] = [known[0] + counts[0], known[1] + counts[1]]
    found = [*prompts_differ(task.prompt, tables), *systems_differ(systems)]
    for word, count in look_alikes.most_common():
        found.append(
            Finding(
                15,
                f"{count} rows write {word}, which this model reads as ordinary text",
                "nothing to do if it is part of the answer format; else remove it",
                blocking=False,
            )
        )
    for what, count in untold.most_common():
        found.append(
            Finding(
                18,
                f"{count} rows have {what}, which no model is given",
                "nothing to do if it means nothing; else write it into the text of the turn",
                blocking=False,
            )
        )
    return found


def blocking(findings: Iterable[Finding]) -> list[Finding]:
    """Those that must stop training."""
    return [finding for finding in findings if finding.blocking]


def _check_row(row: Evidence, model: Model, checked: Checked, limit: int) -> None:
    check_ids(row, model)
    check_prompt(row, model)
    check_rendering(row, model)
    check_pictures(row, model)
    check_control_words(row, model, checked.look_alikes)
    check_labels(row, model)
    check_told(row, model.prompt, checked.systems)
    for what in {f"{key!r} in {m['role']} turns" for m in row.messages or () for key in untold(m)}:
        checked.untold[what] += 1
    checked.rows += 1
    if len(row.ids) > limit:
        row.add(
            5,
            f"the row has {len(row.ids):,} tokens, more than prompt.max_tokens = {limit:,}",
            "shorten the row, lower image.max_pixels or raise prompt.max_tokens; rows are never cut",
        )


def _with_pictures(row: Evidence, model: Model, shown: Counter[int]) -> Iterator[Finding]:
    """The row's findings, one of each number; the first rows of each failure come with a picture in words."""
    for number, same in itertools.groupby(
        sorted(row.found, key=lambda finding: (finding.number, not finding.blocking)), key=lambda f: f.number
    ):
        finding = next(same)
        shown[number] += 1
        yield replace(finding, picture=row.picture(model)) if shown[number] <= _PICTURES else finding


def _dicts(rows: Any, task: Task, processor: Any, found: list[Finding]) -> Iterator[dict[str, Any]]:
    if isinstance(rows, str | Path):
        yield from read_formatted_rows(rows)
        return
    if hasattr(rows, "to_batches"):
        for batch in rows.to_batches(max_chunksize=_BATCH_ROWS):
            yield from batch.to_pylist()
        return
    formatter = None
    for number, row in enumerate(rows):
        if isinstance(row, str | Path):
            yield from read_formatted_rows(row)
        elif isinstance(row, Example):
            formatter = formatter or Formatter(processor, task.prompt, task.root)
            try:
                yield formatted_row(row, formatter.format(row), "", task.root)
            except RenderError as error:
                found.append(Finding(error.number, error.message, error.remedy, row.id, row.section))
        else:
            yield {"id": f"row {number}", **(row if isinstance(row, dict) else vars(row))}


def tables_of(rows: Any) -> list[dict[str, Any]]:
    """What formatted tables say about their making, each different answer once; nothing for rows made elsewhere."""
    import json

    if hasattr(rows, "schema"):
        raw = rows.schema.metadata or {}
        found = {key.decode(): value.decode() for key, value in raw.items()}
        told = [
            {
                key: value if key == "template_hash" else json.loads(value)
                for key, value in found.items()
                if key in ("template_hash", "image_settings", "prompt")
            }
        ]
    else:
        paths = rows if isinstance(rows, list | tuple) else [rows]
        told = [read_table_metadata(path) for path in paths if isinstance(path, str | Path)]
    return [one for number, one in enumerate(told) if one not in told[:number]]


def _batches(items: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(itertools.islice(items, _BATCH_ROWS)):
        yield batch
