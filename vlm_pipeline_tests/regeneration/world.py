"""Copies of a bundled task with few pages, and with one section's train answers deliberately spoiled."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.manifest import Artifact, make_once
from vlm_pipeline.store import TaskStore, write_json
from vlm_pipeline.task import Task, load_task

PROJECT = Path(__file__).parents[2]
NAME = "manual_qa"


def copy_task(folder: Path, pages: dict[str, int] | None = None, **settings: str) -> Path:
    """`<folder>/manual_qa` with at most so many pages per split and section; settings replace lines of task.yaml."""
    source, target = PROJECT / "data" / NAME, folder / NAME
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("raw"))
    (target / "raw").mkdir()
    for file in sorted((source / "raw").glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        write_rows(target, file.stem, [row for row in rows if _wanted(row, pages)])
    path = target / "task.yaml"
    text = path.read_text("utf-8").replace("../base_model", str(PROJECT / "data" / "base_model"))
    for name, value in settings.items():
        lines = [line for line in text.splitlines() if not line.strip().startswith(f"{name}:")]
        if name in ("epochs", "gate_zero", "max_steps", "eval_steps", "learning_rate"):
            lines.insert(lines.index("training:") + 1, f"  {name}: {value}")
        else:
            lines.append(f"{name}: {value}")
        text = "\n".join(lines) + "\n"
    path.write_text(text, "utf-8")
    return target


def _wanted(row: dict[str, Any], pages: dict[str, int] | None) -> bool:
    _, split, number = row["metadata"]["group"].rsplit("-", 2)
    return pages is None or int(number) < pages[split]


def read_rows(task: Path, section: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (task / "raw" / f"{section}.jsonl").read_text("utf-8").splitlines()]


def write_rows(task: Path, section: str, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (task / "raw" / f"{section}.jsonl").write_text(text, "utf-8")


def spoil(task: Path, section: str, share: float = 0.5) -> dict[str, str]:
    """Give a share of a section's train rows the answer of another row of their kind; returns {row id: right answer}.

    As after a slipped column of a spreadsheet: in the most frequent kinds of question, each answer is the one of the
    next row of its kind. The form stays right and the content is wrong in the same way all over, so that a model learns
    it instead of averaging it out.
    """
    rows = read_rows(task, section)
    train = [row for row in rows if row["metadata"]["split"] == "train"]
    kinds = Counter(row["metadata"]["content_type"] for row in train)
    train.sort(
        key=lambda row: (-kinds[row["metadata"]["content_type"]], row["metadata"]["content_type"])
    )  # stable
    right: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for place, row in enumerate(train):
        kind, answer, name = row["metadata"]["content_type"], answer_of(row), row["metadata"]["id"]
        others = [
            one for one in (*train[place + 1 :], *train[:place]) if one["metadata"]["content_type"] == kind
        ]
        other = next((answer_of(one) for one in others if answer_of(one) != answer), None)
        if other is not None and len(wrong) < round(share * len(train)):
            right[name], wrong[name] = answer, other
    for row in train:
        if row["metadata"]["id"] in wrong:
            row["conversations"][1]["content"] = row["metadata"]["answer"] = wrong[row["metadata"]["id"]]
    write_rows(task, section, rows)
    return right


def answer_of(row: dict[str, Any]) -> str:
    return row["conversations"][1]["content"]


def read_task(folder: Path, store_folder: Path) -> tuple[Task, TaskStore]:
    """The task with its rows read into a store."""
    task = load_task(folder)
    store = TaskStore(task.name, store_folder)
    make_raw(task, store, task.sections.names, lambda message: None)
    return task, store


def say_weak(task: Task, store: TaskStore, *weak: str, undecided: tuple[str, ...] = ()) -> None:
    """Leave what a loop would have found: these sections are below the bar."""
    rows = {name: [f"{name}-val-000-q01", f"{name}-val-000-q02"] for name in weak}
    sections = [
        {"section": name, "finding": "weak" if name in weak else "undecided" if name in undecided else "strong",
         "bar": 0.7, "estimate": 0.3 if name in weak else 0.9, "low": 0.2, "high": 0.4,
         "failed": rows.get(name, []), "failures": [{"kind": "wrong_number", "n": 2, "rows": rows[name]}] if name in weak else []}
        for name in task.sections.names
    ]  # fmt: skip
    found = {
        "predictor": "tuned", "metric": "exact", "sections": sections, "weak": list(weak),
        "undecided": list(undecided),
    }  # fmt: skip
    path = store.path("weak_sections.json")

    def make() -> Artifact:
        write_json(path, found)
        return Artifact(str(weak), {}, (path,))

    make_once(store, "weak_sections", {"weak": str(weak)}, make)
