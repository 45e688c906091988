"""Rebuild the bundled tasks from their seeds: ``python -m vlm_pipeline.bundled.make_data``.

The same seeds give the same bytes. Each split has a generator seed of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from vlm_pipeline.bundled import manual_qa, sectioned_answers, street_safety, tool_calls
from vlm_pipeline.bundled.pages import Page, page_from_dict, render

OUT = Path("data")
TASKS: dict[str, tuple[ModuleType, Any, dict[str, int]]] = {
    manual_qa.NAME: (manual_qa, manual_qa.make_page, manual_qa.PAGES),
    street_safety.NAME: (street_safety, street_safety.make_scene, street_safety.SCENES),
}
#: tasks without pictures
TEXT_TASKS: dict[str, ModuleType] = {module.NAME: module for module in (tool_calls, sectioned_answers)}


def png(page: Page) -> bytes:
    buffer = io.BytesIO()
    render(page).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def section_pages(task: str, section: str) -> list[dict[str, Any]]:
    """Facts of all pages of a section, in order train, val, test."""
    module, make, sizes = TASKS[task]
    facts = []
    for split, size in sizes.items():
        seed = module.SEEDS[split]
        rng = random.Random(f"{task} {section} {seed}")
        for number in range(size):
            group = f"{section}-{split}-{number:03d}"
            facts.append(module.page_facts(section, make(section, rng), group, split, seed))
    return facts


def regenerate_rows(
    task: str, facts: dict[str, Any], rng: random.Random, kinds: set[str] | None = None
) -> list[dict[str, Any]]:
    """New, correct rows for a page of a bundled task, from the facts that ``pages.jsonl`` keeps about it.

    The offline teacher of the regeneration step. ``kinds`` narrows the questions to these content types.
    """
    return TASKS[task][0].rows_of(facts, rng, kinds)


def page_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """The facts of every page of a bundled task's folder, by group."""
    lines = (folder / "pages.jsonl").read_text(encoding="utf-8").splitlines()
    return {facts["group"]: facts for facts in map(json.loads, lines)}


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def probes_of(task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Critical questions on pages that are in no split: (page facts, probes)."""
    module, make, _ = TASKS[task]
    rng = random.Random(f"{task} {module.SEEDS['probes']}")
    pages, probes = [], []
    for section in module.SECTIONS:
        for number in range(module.PROBE_PAGES):
            group = f"probe-{section}-{number:02d}"
            facts = module.page_facts(section, make(section, rng), group, "probe", module.SEEDS["probes"])
            pages.append(facts)
            for row in regenerate_rows(task, facts, rng)[: module.PROBES_A_PAGE]:
                question, answer = (turn["content"] for turn in row["conversations"])
                expected = row["metadata"]["answer"] if task == street_safety.NAME else answer
                probes.append(
                    {
                        "id": row["metadata"]["id"],
                        "category": section,
                        "image": facts["image"],
                        "question": question,
                        "expected_answer": expected,
                    }
                )
    return pages, probes


def make_task(task: str, out: Path) -> dict[str, int]:
    """Write raw rows, pictures and the page facts of one task; returns its counts."""
    folder = out / task
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    module = TASKS[task][0]
    everything: list[dict[str, Any]] = []
    count = 0
    for section in module.SECTIONS:
        pages = section_pages(task, section)
        rows = [
            r
            for f in pages
            for r in regenerate_rows(task, f, random.Random(f"{f['generator_seed']} {f['group']}"))
        ]
        (folder / "raw" / f"{section}.jsonl").write_text(json_lines(rows), encoding="utf-8")
        for facts in pages:
            (folder / facts["image"]).write_bytes(png(page_from_dict(facts["page"])))
        everything += pages
        count += len(rows)
    (folder / "pages.jsonl").write_text(json_lines(everything), encoding="utf-8")
    probe_pages, probes = probes_of(task)
    for facts in probe_pages:
        (folder / facts["image"]).write_bytes(png(page_from_dict(facts["page"])))
    text = yaml.safe_dump(probes, sort_keys=False, allow_unicode=True, width=110)
    (folder / "probes.yaml").write_text(text, encoding="utf-8")
    return {"pages": len(everything), "rows": count, "probes": len(probes)}


def make_text_task(task: str, out: Path) -> dict[str, int]:
    """Write raw rows and probes of a task without pictures; returns its counts."""
    module, folder = TEXT_TASKS[task], out / task
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    count = 0
    for section in module.SECTIONS:
        rows = module.section_rows(section)
        (folder / "raw" / f"{section}.jsonl").write_text(json_lines(rows), encoding="utf-8")
        count += len(rows)
    probes = module.probes() if hasattr(module, "probes") else []
    if probes:
        text = yaml.safe_dump(probes, sort_keys=False, allow_unicode=True, width=110)
        (folder / "probes.yaml").write_text(text, encoding="utf-8")
    return {"rows": count, "probes": len(probes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("tasks", nargs="*", help="default: all")
    arguments = parser.parse_args()
    for task in arguments.tasks or [*TASKS, *TEXT_TASKS]:
        print(task, (make_text_task if task in TEXT_TASKS else make_task)(task, arguments.out))


if __name__ == "__main__":
    main()
