"""Packed batches are more alike than shuffled single rows: over three seeds they still end at the same place."""

from __future__ import annotations

from statistics import mean, stdev

import pytest

from vlm_pipeline.formatting.template import load_processor
from vlm_pipeline.training.record import read_record
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import make_request, page_rows, run


@pytest.mark.slow
def test_packed_and_unpacked_training_reach_the_same_val_loss_and_score_over_three_seeds(tmp_path):
    model = tiny.save_vision_model(tmp_path / "model")
    rows = page_rows(load_processor(model), tmp_path / "images", pages=8, questions=6, val_pages=2)
    table = tiny.write_rows(tmp_path / "rows.parquet", rows)
    losses: dict[str, list[float]] = {"shared": [], "none": []}
    scores: dict[str, list[float]] = {"shared": [], "none": []}
    for packing, reached in losses.items():
        for seed in range(3):
            request = make_request(
                tmp_path, f"{packing}{seed}", model, table, packing=packing, seed=seed, epochs=14, batch_size=6,
                accumulation=1, learning_rate=1e-2, scorers=[{"kind": "text"}], gate_rows=12,
            )  # fmt: skip
            run(request)
            evaluations = read_record(request["output"])["evaluations"]
            assert evaluations[-1]["val_loss"] < 0.3 * evaluations[0]["val_loss"]
            reached.append(evaluations[-1]["val_loss"])
            scores[packing].append(evaluations[-1]["score"])
    noise = max(stdev(losses["shared"]), stdev(losses["none"]))
    assert abs(mean(losses["shared"]) - mean(losses["none"])) <= max(3 * noise, 0.02)
    assert abs(mean(scores["shared"]) - mean(scores["none"])) <= 0.25
