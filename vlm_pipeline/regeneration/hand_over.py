"""A section handed over to a person, and taken back through the same vetting as a teacher's rows.

The folder holds `rows.jsonl`, one line per train row, and `pictures.txt`, the pictures that they are about. The person
changes answers, sets `"withdraw": true` where a row should go, and adds lines without an id for new rows about the
same pictures (or, in a task without pictures, `"like": "<id>"`: the row whose page it is about).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.facts import folded
from vlm_pipeline.regeneration.candidate import Candidate, asked_text, slice_of
from vlm_pipeline.regeneration.making import SectionRows, known_facts, vetted
from vlm_pipeline.regeneration.rounds import Log, history, layer_of, next_number, unfinished
from vlm_pipeline.regeneration.stage import all_rows, open_round, prepare_round, train_rows
from vlm_pipeline.regeneration.vetting import HeldOut, Rejected
from vlm_pipeline.settings.regeneration import RegenerationSettings
from vlm_pipeline.store import TaskStore, read_json, write_text
from vlm_pipeline.task import Task

ROWS, PICTURES = "rows.jsonl", "pictures.txt"


class HandOverError(ValueError):
    """What was asked for cannot be done; the message says why and what to do."""


def hand_over(task: Task, store: TaskStore, section: str, folder: Path) -> int:
    """Write a section's train rows for a person; returns how many. Raises HandOverError."""
    _check_section(task, store, section)
    rows = train_rows(store, section)
    lines = [json.dumps(_line(row, task.regeneration.slice_key), ensure_ascii=False) for row in rows]
    pictures = sorted({image.path for row in rows for image in row.images if image.path})
    write_text(folder / ROWS, "".join(line + "\n" for line in lines))
    write_text(folder / PICTURES, "".join(path + "\n" for path in pictures))
    return len(rows)


def take_back(task: Task, store: TaskStore, section: str, folder: Path, *, by: str, log: Log) -> SectionRows:
    """Vet what a person sent back and put it into the overlay, as a round that the next loop judges.

    Raises HandOverError where nothing was changed, the file is missing, or a round is still open.
    """
    _check_section(task, store, section)
    if not (folder / ROWS).is_file():
        raise HandOverError(f"{folder / ROWS} does not exist")
    with FileLock(store.path("rounds.lock")):
        rounds = history(store)
        begun = unfinished(rounds)
        if begun and begun["status"] != "preparing":
            raise HandOverError(f"round {begun['round']} is open: run the loop, which judges it, first")
        number = next_number(rounds)
        made = _vetted(task, store, section, folder / ROWS, by, layer_of(number), log)
        if not (made.rows or made.withdrawn or made.rejected):
            raise HandOverError(f"nothing in {folder / ROWS} differs from the rows there are")
        weak = read_json(store.path("weak_sections.json"), default={"weak": []})
        entry = {
            "round": number,
            "sections": [section],
            "predictor": weak.get("predictor") or _learner(task),
            "strategies": ["hand_over"],
            "teacher": by,
            "weak_before": weak["weak"],
        }
        open_round(task, store, prepare_round(task, store, entry), [made], log)
    return made


def read_back(
    lines: Iterable[str], rows: Sequence[Example], settings: RegenerationSettings, by: str
) -> tuple[list[Candidate], dict[str, str], list[Rejected]]:
    """What a person's lines mean: candidates, {id of a withdrawn row: why}, and lines that cannot be used.

    rows: all train rows of the section.
    """
    by_id = {row.id: row for row in rows}
    by_picture = {name: row for row in reversed(rows) for name in _picture_names(row)}
    candidates: list[Candidate] = []
    withdrawn: dict[str, str] = {}
    unusable: list[Rejected] = []

    def refuse(number: int, text: str, reason: str) -> None:
        blank = Candidate(rows[0], text[:200], "", "hand_over", by)
        unusable.append(Rejected(blank, "line", f"{ROWS}, line {number}: {reason}"))

    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            named = {key: line.get(key) for key in ("id", "question", "answer", "image", "like", "kind")}
        except (ValueError, AttributeError) as error:
            refuse(number, text, f"no JSON object ({error})")
            continue
        if any(value is not None and not isinstance(value, str) for value in named.values()):
            refuse(number, text, "id, question, answer, image, like and kind are texts")
            continue
        seed = (
            by_id.get(named["id"])
            if named["id"]
            else by_id.get(named["like"]) or by_picture.get(named["image"])
        )
        if seed is None:
            what = named["id"] or named["like"] or named["image"]
            refuse(number, text, f"{what!r} is no train row and no picture of a train row of this section")
        elif named["id"] and line.get("withdraw") is True:
            withdrawn[named["id"]] = str(line.get("note") or f"withdrawn by {by}")
        elif named["id"] and folded(named["question"] or "") != folded(asked_text(seed)):
            refuse(
                number, text, "the question of a row stays as it is: withdraw it and add a new one without id"
            )
        elif not named["id"] or (named["answer"] or "").strip() != seed.answer.strip():
            candidates.append(
                Candidate(seed, (named["question"] or "").strip(), (named["answer"] or "").strip(), "hand_over", by,
                          named["kind"] or slice_of(seed, settings.slice_key), replaces=named["id"] or None)
            )  # fmt: skip
    return candidates, withdrawn, unusable


def _vetted(
    task: Task, store: TaskStore, section: str, path: Path, by: str, layer: str, log: Log
) -> SectionRows:
    from dataclasses import replace

    from vlm_pipeline.formatting.template import load_processor

    rows = train_rows(store, section)
    with path.open(encoding="utf-8") as lines:
        candidates, withdrawn, unusable = read_back(lines, rows, task.regeneration, by)
    made = vetted(
        task,
        section,
        candidates,
        rows,
        known_facts(task),
        HeldOut.of(all_rows(task, store)),
        load_processor(task.base_model_path, task.revision, task.image),
        layer,
        log,
        kinds={one.counts_as: len(candidates) for one in candidates},  # a person needs no balance
        exact=True,
        withdrawn=withdrawn,
    )
    return replace(made, rejected=(*unusable, *made.rejected))


def _line(row: Example, slice_key: str) -> Mapping[str, Any]:
    names = _picture_names(row)
    return {
        "id": row.id,
        **({"image": names[0]} if names else {}),
        "question": asked_text(row),
        "answer": row.answer,
        "kind": slice_of(row, slice_key),
        "withdraw": False,
    }


def _picture_names(row: Example) -> list[str]:
    return [Path(image.path).name for image in row.images if image.path]


def _check_section(task: Task, store: TaskStore, section: str) -> None:
    if section not in task.sections.names:
        raise HandOverError(
            f"{task.name} has no section {section!r}; it has {', '.join(task.sections.names)}"
        )
    if not store.section("raw", section).is_file():
        raise HandOverError(f"the rows of {section} were not read yet: run the loop of {task.name} once")


def _learner(task: Task) -> str:
    """The predictor that learns from new rows."""
    name = next((one.name for one in task.predictors if getattr(one, "adapter", None) == "trained"), None)
    if name is None:
        raise HandOverError(f"no predictor of {task.name} uses the trained adapter: nothing would learn")
    return name
