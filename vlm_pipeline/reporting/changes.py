"""What changed since: two reports compared by their `report.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.reporting.view import Metric, Table, is_number


@dataclass(frozen=True)
class Changes:
    """`sentence` for people, `tables` with what differs, most important first; empty when nothing differs."""

    sentence: str
    tables: tuple[Table, ...]


def compare_reports(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Differences of figures, decisions, sections, rows and settings. Both are contents of `report.json`.

    Figures of two reports are not a paired comparison (rows may differ): they are listed side by side, and how many
    rows are the same is said.
    """
    metrics = {
        m["key"]: Metric(m["key"], m["label"], m["lower_is_better"], m["percent"], digits=m.get("digits", 2))
        for m in after.get("metrics", ())
    }
    tables = (
        _figures(before, after, metrics),
        _sections(before, after),
        _outcomes(before, after),
        _facts(before, after),
    )
    tables = tuple(table for table in tables if table.rows)
    old, new = before.get("decision", {}), after.get("decision", {})
    if not tables and old == new:
        return Changes(f"Nothing changed since report {before.get('data_version', '?')}.", ())
    if old.get("verdict") != new.get("verdict"):
        sentence = f"The decision changed from “{old.get('verdict')}” to “{new.get('verdict')}”."
    else:
        sentence = f"The decision is still “{new.get('verdict')}”."
    if old.get("sentence") != new.get("sentence"):
        sentence += f" Before: {old.get('sentence')}"
    return Changes(sentence, tables)


def _figures(before: Mapping[str, Any], after: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Table:
    rows = []
    labels = {p["name"]: p["label"] for p in (*before.get("predictors", ()), *after.get("predictors", ()))}
    for name, label in labels.items():
        old, new = (report.get("estimates", {}).get(name, {}) for report in (before, after))
        for key, metric in metrics.items():
            a, b = ((side.get(key) or {}) for side in (old, new))
            if a == b:
                continue
            change = (
                b["value"] - a["value"] if is_number(a.get("value")) and is_number(b.get("value")) else None
            )
            rows.append((label, metric.label, _cell(metric, a), _cell(metric, b), metric.difference(change)))
    return Table(
        ("Predictor", "Metric", "Before", "Now", "Change"), tuple(rows), "Figures, each on its own rows"
    )


def _cell(metric: Metric, estimate: Mapping[str, Any]) -> str:
    interval = metric.interval(estimate.get("low"), estimate.get("high"))
    return f"{metric.value(estimate.get('value'))} {interval}".strip()


def _sections(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    old, new = (set(report.get("sections", ())) for report in (before, after))
    rows = [
        *((name, "new section") for name in sorted(new - old)),
        *((name, "section is gone") for name in sorted(old - new)),
    ]
    weak_old, weak_new = (set(report.get("weak_sections", ())) for report in (before, after))
    rows += [
        *((name, "now weak") for name in sorted(weak_new - weak_old)),
        *((name, "no longer weak") for name in sorted(weak_old - weak_new)),
    ]
    return Table(("Section", "Change"), tuple(rows), "Sections")


def _outcomes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Rows that stand in both reports and whose outcome changed, counted per predictor."""
    rows = []
    old, new = (report.get("outcomes", {}) for report in (before, after))
    labels = {p["name"]: p["label"] for p in after.get("predictors", ())}
    for name in new:
        a, b = _by_id(before, name), _by_id(after, name)
        common = a.keys() & b.keys()
        fixed = sum(1 for i in common if a[i] != "right" and b[i] == "right")
        broken = sum(1 for i in common if a[i] == "right" and b[i] != "right")
        added, gone = len(b.keys() - a.keys()), len(a.keys() - b.keys())
        if name in old and (fixed or broken or added or gone):
            rows.append((labels.get(name, name), len(common), fixed, broken, added, gone))
    return Table(
        ("Predictor", "Same rows", "Now right", "No longer right", "New rows", "Rows gone"),
        tuple(rows),
        "Rows",
    )


def _by_id(report: Mapping[str, Any], name: str) -> dict[str, str]:
    codes = {"r": "right", "w": "wrong", "u": "unscored", "e": "error"}
    outcomes = report.get("outcomes", {}).get(name, "")
    return {
        i: codes.get(code, "")
        for i, code in zip(report.get("row_ids", ()), outcomes, strict=False)
        if code in codes
    }


def _facts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    old, new = (flatten(report.get("provenance", {})) for report in (before, after))
    rows = [
        (key, _short(old.get(key)), _short(new.get(key)))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.endswith("seconds")
    ]
    return Table(("What", "Before", "Now"), tuple(rows[:60]), "Data, settings and versions")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b.c: value`; lists of plain values stay together."""
    if isinstance(value, Mapping):
        return {
            key: leaf
            for name, inner in value.items()
            for key, leaf in flatten(inner, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    if isinstance(value, (list, tuple)) and any(isinstance(entry, (Mapping, list, tuple)) for entry in value):
        return {
            key: leaf
            for i, inner in enumerate(value)
            for key, leaf in flatten(inner, f"{prefix}[{i}]").items()
        }
    return {prefix: ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value}


def _short(value: Any) -> str:
    text = "—" if value is None else str(value)
    return text if len(text) <= 120 else text[:117] + "…"
