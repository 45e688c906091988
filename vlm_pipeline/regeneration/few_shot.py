"""Worked examples in place of training rows: the last layer of them stands before every question of the task.

They are part of the prompt, so all compared models get the same ones, every row is rendered again, and hosted models
are asked again about every row: the strategy costs no training row and moves all figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.regeneration.candidate import asked_text, slice_of
from vlm_pipeline.settings.data import Shot
from vlm_pipeline.store import TaskStore, read_json, write_json
from vlm_pipeline.task import Task


def shots_file(store: TaskStore, layer: str) -> Path:
    """No section's overlay folder begins with a dot."""
    return store.path("overlay", ".few_shot", f"{layer}.json")


def write_shots(store: TaskStore, layer: str, shots: Sequence[Shot]) -> None:
    write_json(shots_file(store, layer), [shot.model_dump() for shot in shots])


def with_shots(task: Task, store: TaskStore) -> Task:
    """The task as its last layer of worked examples makes it; the task itself where there is none."""
    layers = sorted(shots_file(store, "x").parent.glob("*.json"))
    if not layers:
        return task
    shots = [*task.prompt.few_shot, *(Shot.model_validate(shot) for shot in read_json(layers[-1]))]
    return task.model_copy(update={"prompt": task.prompt.model_copy(update={"few_shot": shots})})


def choose_shots(
    task: Task, requests: Sequence[Mapping[str, Any]], confirmed: Mapping[str, Collection[Example]]
) -> list[Shot]:
    """`regeneration.shots` train rows that the teacher has borne out: weak sections in turn, the kinds most wanted
    first, each page once. A row whose picture a worked example cannot name is passed over."""
    settings = task.regeneration
    chosen: list[Shot] = []
    pages: set[str] = set()
    used: Counter[tuple[str, str]] = Counter()
    while len(chosen) < settings.shots:
        before = len(chosen)
        for request in requests:
            own = [row for row in confirmed.get(request["section"], ()) if row.group not in pages]
            own = [row for row in own if _can_be_shown(row, task.root)]
            own.sort(key=lambda row: (*_rank(row, request, used, settings.slice_key), row.id))
            if own and len(chosen) < settings.shots:
                row = own[0]
                pages.add(str(row.group))
                used[request["section"], slice_of(row, settings.slice_key)] += 1
                chosen.append(_shot(row, task.root))
        if len(chosen) == before:
            break
    return chosen


def _rank(
    row: Example, request: Mapping[str, Any], used: Counter[tuple[str, str]], slice_key: str
) -> tuple[int, float]:
    kind = slice_of(row, slice_key)
    return used[request["section"], kind], -request["kinds"].get(kind, 0)


def _can_be_shown(row: Example, root: Path) -> bool:
    """A worked example has at most one picture, a file of the task folder."""
    paths = [image.path for image in row.images]
    return not paths or (len(paths) == 1 and bool(paths[0]) and Path(str(paths[0])).is_relative_to(root))


def _shot(row: Example, root: Path) -> Shot:
    picture = row.images[0].path if row.images else None
    relative = Path(picture).relative_to(root).as_posix() if picture else None
    return Shot(question=asked_text(row), answer=row.answer, image=relative)
