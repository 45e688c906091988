"""The asset checks of the rows as they were read: usable, without leaks, balanced.

All of them stand on the facts of the rows (`vlm_pipeline.examples.facts`), which are made section by section: where one
section changed, the others' rows are not read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from vlm_pipeline.examples.facts import Facts, read_facts, read_looks, write_facts
from vlm_pipeline.examples.leakage import Leak, LeakSearch
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.examples.representation import representation
from vlm_pipeline.examples.stage import quarantine_records, rows_version
from vlm_pipeline.manifest import Artifact, code_version, make_once, read_manifest, require
from vlm_pipeline.store import TaskStore, content_hash, read_json, safe_name, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.verdict import Verdict, verdict_once

_SHOWN = 20


def facts_rows(task: Task, store: TaskStore, near: bool = True) -> Iterator[Facts]:
    """Facts of all rows, in the order of sections and rows; those of a changed section are made first."""
    for section in task.sections.names:
        yield from read_facts(_facts(store, section)[0], near)


def _facts(store: TaskStore, section: str) -> tuple[Path, Path]:
    """`facts/<section>.parquet` and what its pictures look like, made now or found as they are."""
    name = f"facts/{section}"
    target = store.section("facts", section)
    pictures = store.path("facts", f"{safe_name(section)}.pictures.parquet")
    inputs = {
        **require(store, [f"raw/{section}"], "Materialize raw_examples."),
        "code": code_version("examples"),
    }
    before = read_manifest(store, name)
    known = before is not None and before["inputs"].get("code") == inputs["code"]

    def make() -> Artifact:
        rows = write_facts(
            read_raw(store.section("raw", section)), target, pictures, read_looks(pictures) if known else None
        )
        return Artifact(content_hash(inputs), {"rows": rows}, (target, pictures))

    make_once(store, name, inputs, make)
    return target, pictures


def leaks_of(task: Task, store: TaskStore) -> list[Leak]:
    """`leaks.json`: all leaks between the splits of the rows in the store, searched now or found."""
    path = store.path("leaks.json")

    def make() -> Artifact:
        search = LeakSearch()
        for section in task.sections.names:
            facts, pictures = _facts(store, section)
            search.know(read_looks(pictures))
            for row in read_facts(facts):
                search.add_facts(row)
        found = [asdict(leak) for leak in search.find()]
        write_json(path, found)
        return Artifact(content_hash(found), {"leaks": len(found)}, (path,))

    make_once(store, "leaks", _compared(task, store), make)
    return [
        Leak(**{**leak, "splits": tuple(leak["splits"]), "rows": tuple(leak["rows"])})
        for leak in read_json(path)
    ]


def _compared(task: Task, store: TaskStore) -> dict[str, str]:
    return {"rows": rows_version(task, store), "code": code_version("examples")}


def usable_rows(task: Task, store: TaskStore) -> Verdict:
    """Every section needs train, val and test rows; says which are missing, and why rows were set aside."""
    versions = require(
        store, [f"raw/{name}" for name in task.sections.names], "Materialize raw_examples of all sections."
    )
    counts = {
        name: Counter(row["split"] for row in read_raw(store.section("raw", name), ["split"]))
        for name in task.sections.names
    }
    records = quarantine_records(task, store)
    reasons = Counter(record["kind"] for record in records).most_common(3)
    aside = (
        f"{len(records)} rows are in quarantine ({', '.join(f'{kind}: {n}' for kind, n in reasons)})"
        if records
        else "no row is in quarantine"
    )
    total = sum(sum(count.values()) for count in counts.values())
    metadata = {
        "rows": total,
        "quarantined": len(records),
        "rows_per_section": {"table": [{"section": name, **dict(count)} for name, count in counts.items()]},
    }
    if not total:
        first = ""
        if records:
            one = records[0]
            first = f" The first one, {Path(one['file']).name}, line {one['line']}: {one['reason']}"
        return Verdict(False, f"{task.name} has no usable row: {aside}.{first}", metadata)
    wanted = [split for split in ("train", "val", "test") if task.splits.ratios[split] > 0]
    empty = [f"{name} ({split})" for name, count in counts.items() for split in wanted if not count[split]]
    if empty:
        return Verdict(
            False,
            f"no rows in {', '.join(empty)}; {aside}. Add rows, or take the section out of task.yaml.",
            metadata,
        )
    return Verdict(True, f"{total} usable rows in {len(versions)} sections; {aside}.", metadata)


def leakage_report(task: Task, store: TaskStore) -> Verdict:
    """Groups, pictures and texts on two sides of a split (FORMAT_FAILURES 31)."""
    return verdict_once(store, "leakage", _compared(task, store), lambda: _leakage(task, store))


def _leakage(task: Task, store: TaskStore) -> Verdict:
    leaks = leaks_of(task, store)
    blocking = [leak for leak in leaks if leak.blocking]
    shown = [
        {"kind": leak.kind, "blocks": leak.blocking, "splits": ", ".join(leak.splits), "rows": ", ".join(leak.rows[:3]),
         "reason": leak.reason, "remedy": leak.remedy}
        for leak in leaks[:_SHOWN]
    ]  # fmt: skip
    metadata = {
        "findings": sum(leak.count for leak in leaks),
        "blocking": len(blocking),
        "first_findings": {"table": shown},
    }
    if blocking:
        first = blocking[0]
        return Verdict(
            False,
            f"{len(blocking)} leaks across splits; rows {', '.join(first.rows[:3])}: {first.reason}; {first.remedy}",
            metadata,
        )
    return Verdict(
        True,
        f"no group and no picture on two sides of a split; {metadata['findings']} near-duplicates reported",
        metadata,
    )


def representation_report(task: Task, store: TaskStore) -> Verdict:
    """What is over-represented: sections, answers, refusals, scores, by split. Never blocking: it may be meant so."""
    return verdict_once(store, "representation", _compared(task, store), lambda: _representation(task, store))


def _representation(task: Task, store: TaskStore) -> Verdict:
    found = representation(facts_rows(task, store, near=False))
    table = [
        {
            "split": split,
            "rows": counts["rows"],
            "refusals": counts["refusals"],
            "sections": ", ".join(f"{name} {number}" for name, number in counts["sections"].items()),
            "most frequent answers": ", ".join(
                f"{answer[:40]!r} {number}" for answer, number in list(counts["top_answers"].items())[:3]
            ),
            "scores": " ".join(map(str, counts["score_histogram"])),
        }
        for split, counts in found["splits"].items()
    ]
    metadata = {"splits": {"table": table}, "score_bins": found["score_bins"], "flags": found["flags"]}
    if found["flags"]:
        return Verdict(False, f"over-represented: {'; '.join(found['flags'][:5])}", metadata)
    return Verdict(True, "no answer, refusal, score or section dominates a split", metadata)
