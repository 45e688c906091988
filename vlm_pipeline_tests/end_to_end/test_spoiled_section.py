"""The self-driving loop on a spoiled section: found, regenerated, retrained, and better on test, by the real commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlm_pipeline.store import read_json
from vlm_pipeline_tests.end_to_end.loop import Loop
from vlm_pipeline_tests.regeneration.world import copy_task, spoil

SPOILED = "clearances"
BELOW = 0.1  # how far below its figure of the clean rows a section's bar lies


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_round_mends_a_section_whose_training_answers_are_half_wrong(tmp_path: Path) -> None:
    """Every section's bar is what it reaches with clean rows, less a margin: the embedded base is not equally good at all."""
    clean = Loop(tmp_path / "clean", tasks=copy_task(tmp_path / "tasks" / "clean").parent)
    clean.run("manual_qa", timeout=1800)
    reached = {one["section"]: one["estimate"] for one in weak_sections(clean)["sections"]}
    bars = {name: round(figure - BELOW, 2) for name, figure in reached.items()}

    folder = copy_task(tmp_path / "tasks" / "spoiled", thresholds=json.dumps({"sections": bars}))
    right = spoil(folder, SPOILED)
    assert len(right) == 528  # of 1,056
    loop = Loop(tmp_path / "spoiled", tasks=folder.parent)
    loop.run("manual_qa", timeout=1800)
    assert weak_sections(loop)["weak"] == [SPOILED]

    improve = loop.start("manual_qa", command="improve")
    output, _ = improve.communicate(timeout=1800)
    assert improve.returncode == 0, output[-6000:]
    (entry,) = read_json(loop.store / "manual_qa" / "rounds.json")["rounds"]
    print(json.dumps({split: entry[split] for split in ("val", "test")}, indent=1))
    assert entry["status"] == "kept", entry["decision"]
    assert entry["sections"] == [SPOILED] and entry["rows"][SPOILED]["replaced"] == len(right)
    mended = entry["test"]["sections"][SPOILED]
    assert mended["n"] >= 90 and mended["clusters"] >= 8
    assert mended["finding"] == "gain" and mended["low"] > 0, mended
    assert entry["test"]["gains"] == [SPOILED] and entry["test"]["losses"] == []


def weak_sections(loop: Loop) -> dict:
    return read_json(loop.store / "manual_qa" / "weak_sections.json")
