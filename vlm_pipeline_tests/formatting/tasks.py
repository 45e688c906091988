"""A whole task on disk for the formatting stages: a model folder without weights, pages, rows, task.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.formatting.stage import make_formatted
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task, load_task
from vlm_pipeline_tests.formatting.worlds import picture, picture_model, text_model

SECTIONS = ("AXLE - REAR", "ABS/ESC: 2.0 l")
SPLITS = ("train", "val", "test")


def rows_of(section: str, number: int = 12, pages: bool = True) -> list[dict[str, Any]]:
    """Rows of one section, two to a page; the source gives the splits."""
    rows = []
    for index in range(number):
        row = {
            "conversations": [
                {"role": "user", "content": f"Torque {index} of {section}?"},
                {"role": "assistant", "content": f"{index + 7} Nm"},
            ],
            "metadata": {
                "id": f"{section}-{index}", "section": section, "split": SPLITS[index // 2 % 3], "answer": index + 7,
            },
        }  # fmt: skip
        if pages:
            row["image"] = f"images/{SECTIONS.index(section)}-{index // 2}.png"
        rows.append(row)
    return rows


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "raw" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_task(
    folder: Path, *, text: bool = False, rows: dict[str, list[dict[str, Any]]] | None = None, **settings: Any
) -> Task:
    """`folder/trial` with a JSON Lines file for each section; settings go into task.yaml."""
    root = folder / "trial"
    root.mkdir(parents=True, exist_ok=True)
    model = (text_model if text else picture_model)(folder / "model")
    for place, section in enumerate(SECTIONS):
        if not text:
            for page in range(6):
                picture(root / "images", f"{place}-{page}.png", (84, 56), (40 * page, 90 * place, 9))
        write_rows(root, f"part{place}", (rows or {}).get(section) or rows_of(section, pages=not text))
    about = {
        "sections": list(SECTIONS),
        "base_model": str(model),
        "predictors": [{"name": "base", "kind": "transformers"}],
        "scorers": [{"kind": "text"}],
        **settings,
    }
    (root / "task.yaml").write_text(json.dumps(about), "utf-8")
    return load_task(root)


def formatted(task: Task, folder: Path) -> TaskStore:
    """A store in which the task's sections are read and formatted."""
    store = TaskStore(task.name, folder / "store")
    make_raw(task, store, task.sections.names, quiet)
    make_formatted(task, store, task.sections.names, quiet)
    return store


def quiet(message: str) -> None:
    """A log that nobody reads."""
