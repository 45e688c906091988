"""The blocks of the report that are plain facts and tables: training, weak sections, quarantine, provenance, plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from vlm_pipeline.reporting.changes import Changes, flatten
from vlm_pipeline.reporting.costs import cost_table
from vlm_pipeline.reporting.inputs import ReportInputs
from vlm_pipeline.reporting.judges import Judges, judges_block
from vlm_pipeline.reporting.rows import Row
from vlm_pipeline.reporting.view import Comparison, Metric, Table, is_number

Facts = list[tuple[str, Any]]
_FIRST = 50


@dataclass(frozen=True)
class Blocks:
    """Ready for the template, the workbook and the summaries."""

    training_facts: Facts
    plan_facts: Facts
    weak: dict[str, Any] | None
    quarantine: Table
    quarantine_rows: Table
    quarantine_total: int
    findings: Table
    probes: Table | None
    judges: Judges | None
    costs: Table
    provenance: list[tuple[str, Facts]]
    changes: Changes | None = None  # since the report before

    def as_context(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def make_blocks(inputs: ReportInputs, view: Comparison, rows: Sequence[Row]) -> Blocks:
    counts, first, total = quarantine_tables(inputs.quarantine)
    return Blocks(
        training_facts=training_facts(inputs.adapter, inputs.rewarded),
        plan_facts=list(flatten(inputs.plan or {}).items())[:40],
        weak=weak_block(inputs.weak, view),
        quarantine=counts,
        quarantine_rows=first,
        quarantine_total=total,
        findings=findings_table(inputs.findings),
        probes=probes_table(inputs.probes, view),
        judges=judges_block(inputs.external, view),
        costs=cost_table(view, rows),
        provenance=provenance(inputs),
    )


def training_facts(record: Mapping[str, Any] | None, rewarded: Mapping[str, Any] | None = None) -> Facts:
    """What an adapter is and how fast it was trained; lists and long hashes stay in the provenance. `rewarded`: the
    record of the adapter that went on by reward, whose watch is told."""
    facts = _trained(record) if record else []
    if rewarded:
        facts += [("Adapter by reward", rewarded.get("id")), ("Its reward", rewarded["grpo"]["sentence"])]
    return [(name, value) for name, value in facts if value is not None and value != ""]


def _trained(record: Mapping[str, Any]) -> Facts:
    facts: Facts = [("Adapter", record.get("id"))]
    base = record.get("base")
    facts.append(("Base model", PurePath(str(base.get("model"))).name if isinstance(base, Mapping) else base))
    for key, label in (
        ("chosen_step", "Chosen step"),
        ("steps", "Optimizer steps"),
        ("trainable_parameters", "Trainable parameters"),
        ("seed", "Seed"),
    ):
        facts.append((label, record.get(key)))
    training_set = record.get("training_set")
    if isinstance(training_set, Mapping):
        facts.append(("Training rows", training_set.get("rows")))
    throughput = record.get("throughput") or {}
    for key, value in (flatten(throughput) if isinstance(throughput, Mapping) else {}).items():
        facts.append((key.replace("_", " ").replace(".", ": ").capitalize(), value))
    return facts


_FINDINGS = {"weak": "weak", "undecided": "undecided", "strong": "above the bar"}


def weak_block(weak: Mapping[str, Any] | None, view: Comparison) -> dict[str, Any] | None:
    """Sections as scoring ranked them (weakest evidence first), with kinds of failure and the rows that show them."""
    if not weak or not weak.get("sections"):
        return None
    key = f"{weak.get('scorer')}.{weak.get('metric')}"
    metric = next((m for m in view.metrics if m.key == key), view.headline)
    entries = []
    for section in weak["sections"]:
        finding, bar = str(section.get("finding")), section.get("bar", weak.get("bar"))
        text = f"{metric.value(section.get('estimate'))} {metric.interval(section.get('low'), section.get('high'))}".strip()
        text += f" against a bar of {metric.value(bar)}" if is_number(bar) else ""
        text += f", n {section['n']:,}" if is_number(section.get("n")) else ""
        text += f", {section['n_unscored']:,} unscored" if section.get("n_unscored") else ""
        if is_number(section.get("rows_to_decide")):
            text += f"; about {section['rows_to_decide']:,} rows would decide"
        failures = section.get("failures") or ()
        entries.append(
            {
                "name": str(section.get("section")),
                "weak": finding == "weak",
                "verdict": _FINDINGS.get(finding, finding),
                "text": text,
                "kinds": "; ".join(
                    f"{str(f.get('kind')).replace('_', ' ')}: {f.get('n'):,}" for f in failures
                ),
                "rows": [str(row) for f in failures for row in (f.get("rows") or ())[:3]][:8],
            }
        )
    labels = {p.name: p.label for p in view.predictors}
    who = labels.get(str(weak.get("predictor")), str(weak.get("predictor") or "the candidate"))
    note = (
        f"{who}, {metric.label.lower()}, on {weak.get('split', 'val')} rows and never on test rows. A section is weak when its whole "
        "interval lies on the wrong side of its bar, not when its estimate does."
    )
    return {"entries": entries, "note": note, "split": str(weak.get("split", "val"))}


def quarantine_tables(records: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[Table, Table, int]:
    """Counts by section and kind, the first rows, and the total."""
    if isinstance(records, Mapping):
        counted = [
            (section, reason, count)
            for section, reasons in records.items()
            for reason, count in (reasons.items() if isinstance(reasons, Mapping) else [("", reasons)])
            if count
        ]
        return (
            Table(("Section", "Reason", "Rows"), tuple(counted), "Quarantined rows"),
            Table((), ()),
            sum(int(c[2]) for c in counted),
        )
    counts = Counter(
        (str(r.get("section") or "no section"), str(r.get("kind") or r.get("reason") or "")) for r in records
    )
    table = Table(
        ("Section", "Kind", "Rows"),
        tuple(
            (s, k.replace("_", " "), n)
            for (s, k), n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ),
        "Quarantined rows",
    )
    first = tuple(
        (
            f"{PurePath(str(r.get('file') or '')).name}:{r.get('line') or ''}",
            str(r.get("row_id") or r.get("id") or ""),
            str(r.get("reason") or ""),
        )
        for r in records[:_FIRST]
    )
    return table, Table(("Where", "Row", "Reason"), first, "First quarantined rows"), len(records)


def findings_table(findings: Sequence[Mapping[str, Any]]) -> Table:
    """Findings of verification grouped by what is wrong: how many, the first rows, what to do; blocking ones first."""
    groups: dict[tuple[bool, str, str], list[Mapping[str, Any]]] = {}
    for finding in findings:
        key = (
            not finding.get("blocking"),
            str(finding.get("title") or finding.get("number") or ""),
            str(finding.get("remedy") or ""),
        )
        groups.setdefault(key, []).append(finding)
    lines = []
    for (passing, title, remedy), group in sorted(groups.items(), key=lambda item: item[0]):
        ids = [str(f["row_id"]) for f in group if f.get("row_id")]
        lines.append(
            (title, not passing, len(group), str(group[0].get("message") or ""), ", ".join(ids[:3]), remedy)
        )
    return Table(
        ("Finding", "Blocking", "Times", "First message", "First rows", "Remedy"), tuple(lines), "Findings"
    )


def probes_table(probes: Mapping[str, Any] | None, view: Comparison) -> Table | None:
    """Per predictor: passed of all, interval, and the two facts `passes the bar` and `demonstrated`."""
    metric = Metric("probes", "Probes", percent=True)
    labels = {p.name: p.label for p in view.predictors}
    lines = []
    for name, result in (probes or {}).items():
        interval = metric.interval(result.get("low"), result.get("high"))
        passed = f"{result.get('n_passed')} of {result.get('n_judged')}"
        failed = ", ".join(str(i) for i in (result.get("failed") or ())[:6])
        lines.append(
            (
                labels.get(name, name),
                passed,
                metric.value(result.get("estimate")),
                interval,
                result.get("passes"),
                result.get("demonstrated"),
                failed,
            )
        )
    columns = ("Predictor", "Passed", "Share", "95 % interval", "Passes the bar", "Demonstrated", "Failed")
    return Table(columns, tuple(lines), "Hand-written critical questions") if lines else None


def provenance(inputs: ReportInputs) -> list[tuple[str, Facts]]:
    """Hashes, versions and settings, from the caller and from what lies in the inputs."""
    groups = [(title, _rows_of(block)) for title, block in inputs.provenance.items()]
    record = {
        k: v
        for k, v in (inputs.adapter or {}).items()
        if k not in ("loss_curve", "evaluations", "throughput")
    }
    if record:
        groups.append(("Adapter record", _rows_of(record)))
    if inputs.task:
        groups.append(("Settings of the task", _rows_of(inputs.task)))
    document = inputs.comparison
    facts = {
        "scorer versions": document.get("scorer_versions"),
        "seed": document.get("seed"),
        "confidence": document.get("confidence"),
        "split": document.get("split"),
    }
    groups.append(("Comparison", _rows_of({k: v for k, v in facts.items() if v is not None})))
    return [(name, rows) for name, rows in groups if rows]


def _rows_of(block: Mapping[str, Any]) -> Facts:
    flat = {key: value for key, value in flatten(block).items() if value not in (None, "", [])}
    return [
        (key, value if is_number(value) or isinstance(value, bool) else str(value)[:500])
        for key, value in list(flat.items())[:500]
    ]
