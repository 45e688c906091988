"""What a report is made of, as one typed value.

Everything but `comparison` may be missing: a block without data is left out or shown as "not run", and never
stops the report. Tables may be pyarrow Tables, paths of Parquet files, or lists of either (read one after another).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TableLike = Any  # pyarrow.Table, path of a Parquet file, list of row dicts, or a list of tables and paths


@dataclass(frozen=True)
class ReportInputs:
    """All inputs of one report.

    comparison    comparison.json: decision, predictors, paired differences, fairness
    metrics       metrics/<model>.json by predictor name (all splits; the comparison's is taken)
    rows          formatted rows of the compared split: id, section, group, split, question or prompt_text, answer,
                  images (absolute paths, or relative to `image_root`), image_sha256
    predictions   prediction table by predictor name: id, text, finish_reason, tokens_in, tokens_out, latency_s,
                  cost_usd, cached, error, sample
    scores        row scores by predictor name, as scoring writes them: one row per (example, sample, scorer)
    title         name for people; the task's name when None
    task          the task's settings as plain values (name, sections, predictors, base model, prompt, thresholds)
    adapter       record.json of the compared adapter: loss curve, throughput, hashes
    rewarded      record.json of the adapter that went on by reward, where the task has one: its watch
    weak          weak_sections.json
    weak_rows     formatted rows that weak_sections.json names, as in `rows`; their answers are in the same tables
    rounds        history of the self-driving loop, oldest first
    looks_at_test how often the compared split has been looked at, this time included
    quarantine    quarantined rows: list of {section, file, line, reason}, or counts {section: {reason: n}}
    findings      verification findings: {number, title, message, remedy, row_id, section, blocking}
    plan          plan.json: what the run was expected to cost
    probes        probe results by predictor name: n_passed, n_judged, estimate, low, high, passes, demonstrated, failed
    external      scores from elsewhere by predictor name: what judges and MCP tools say of themselves, or "not run: why"
    provenance    what the caller knows, by title of the block: data versions, libraries, how answers were made
    data_version  names this report among its siblings; None: hash of the inputs
    previous      report.json of an earlier report; None: the newest other version in the folder
    """

    comparison: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: TableLike = None
    predictions: Mapping[str, TableLike] = field(default_factory=dict)
    scores: Mapping[str, TableLike] = field(default_factory=dict)
    title: str | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
    rewarded: Mapping[str, Any] | None = None
    weak: Mapping[str, Any] | None = None
    weak_rows: TableLike = None
    rounds: Sequence[Mapping[str, Any]] = ()
    looks_at_test: int = 1
    quarantine: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    findings: Sequence[Mapping[str, Any]] = ()
    plan: Mapping[str, Any] | None = None
    probes: Mapping[str, Any] | None = None
    external: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    data_version: str | None = None
    previous: Mapping[str, Any] | None = None
    image_root: Path | str | None = None


def read_table(source: TableLike) -> dict[str, list[Any]]:
    """Columns of a table as Python lists; an empty dict for None or no rows.

    Columns that are absent from one part of a list are filled with None. Raises FileNotFoundError with the path.
    """
    if source is None:
        return {}
    if isinstance(source, (list, tuple)):
        if source and isinstance(source[0], Mapping):
            names = list(dict.fromkeys(name for row in source for name in row))
            return {name: [row.get(name) for row in source] for name in names}
        return _concatenate([read_table(part) for part in source])
    if isinstance(source, (str, Path)):
        import pyarrow.parquet as pq

        return pq.read_table(source).to_pydict()
    return source.to_pydict()


def _concatenate(parts: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    length = 0
    for part in parts:
        size = len(next(iter(part.values()), []))
        for name, values in part.items():
            columns.setdefault(name, [None] * length).extend(values)
        length += size
        for values in columns.values():
            values.extend([None] * (length - len(values)))
    return columns
