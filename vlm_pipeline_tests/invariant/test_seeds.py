"""Packed batches are more alike than shuffled single rows: over three seeds they still end at the same test score."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest
from scipy.stats import ttest_ind

from vlm_pipeline.compute.payload import Reporter
from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.formatting.stage import make_formatted
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.inference.local import LocalEngine, LocalPredictor, stream_prompts
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
from vlm_pipeline.training.__main__ import work

TASK = Path(__file__).parents[2] / "data" / "manual_qa"
SECTIONS = ("torque", "fluids")
SEEDS = 3
MARGIN = 0.10  # of test answers: a smaller difference would change nobody's decision


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_packed_and_unpacked_training_reach_equivalent_test_scores_over_three_seeds(tmp_path):
    """Twelve questions of a page are a whole step here: batches cannot be more alike. Prints the scores."""
    task, store = load_task(TASK), TaskStore("manual_qa", tmp_path / "store")
    make_raw(task, store, list(task.sections.names), print)
    make_formatted(task, store, SECTIONS, print)
    tables = [store.section("formatted", section) for section in SECTIONS]
    scorer = build_scorer(task.scorers[0])
    gold = {row["id"]: row for row in read_formatted_rows(tables) if row["split"] == "test"}

    def test_score(adapter: Path) -> float:
        engine = LocalEngine(Path(task.base_model_path), image=task.image, precision="float32")
        answers = LocalPredictor("tuned", engine, task.generation, adapter=adapter).predict(
            list(stream_prompts(tables, ["test"]))
        )
        right = []
        for answer in (one for batch in answers for one in batch):
            row = gold[answer.id]
            reference = scorer.reference(row["answer"], json.loads(row["metadata"]))
            right.append(bool(scorer.score(answer.text, reference).headline))
        assert len(right) == len(gold) > 200
        return mean(right)

    scores: dict[str, list[float]] = {"shared": [], "none": []}
    for seed in range(SEEDS):
        for packing, reached in scores.items():
            name = f"{packing}{seed}"
            training = {"packing": packing, "seed": seed, "gate_rows": 0, "eval_steps": "epoch"}
            request = {
                "task": str(TASK),
                "formatted": list(map(str, tables)),
                "store": str(tmp_path / "store"),
                "output": str(tmp_path / name),
                "checkpoints": str(tmp_path / f"{name}-checkpoints"),
                "settings": {"training": training},
            }
            work(request, Reporter(silent=True))
            reached.append(test_score(tmp_path / name))
            print(name, f"{reached[-1]:.3f}", flush=True)
    shared, alone = scores["shared"], scores["none"]
    low, high = ttest_ind(shared, alone, equal_var=False).confidence_interval(0.90)
    print(
        f"packed {mean(shared):.3f}, unpacked {mean(alone):.3f}, difference {low:+.3f} to {high:+.3f} (90 %)"
    )
    assert min(shared + alone) > 0.2  # all of them have learned
    assert low > -MARGIN and high < MARGIN
