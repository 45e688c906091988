"""Prediction tables: reuse, error rows, duplicates, journals of sampled answers. The predictor here is a small real
one: it answers by arithmetic on the prompt, so every answer can be checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlm_pipeline.inference.predict import Counts, predict_table
from vlm_pipeline.inference.prediction import (
    SCHEMA,
    Ask,
    Prediction,
    answered,
    failed,
    predictions_version,
    read_about,
    read_predictions,
)  # fmt: skip
from vlm_pipeline.settings.predictors import GenerationSettings


class Echo:
    """Answers a prompt with its text reversed; fails the ids in `failing`."""

    def __init__(self, generation: GenerationSettings | None = None, batch: int = 3) -> None:
        self.name, self.fingerprint = "echo", "echo-1"
        self.generation = generation or GenerationSettings()
        self.failing: set[str] = set()
        self.asked: list[str] = []
        self.batch = batch
        self.rows_at_once: int | None = None

    @property
    def deterministic(self) -> bool:
        return self.generation.deterministic

    def predict(self, asks: Sequence[Ask]) -> Iterator[list[Prediction]]:
        for start in range(0, len(asks), self.batch):
            yield [self._one(ask) for ask in reversed(asks[start : start + self.batch])]

    def _one(self, ask: Ask) -> Prediction:
        self.asked.append(ask.id)
        if ask.id in self.failing:
            return failed(ask, self.name, "the server said no")
        text = f"{ask.body[::-1]}/{ask.sample}" if self.generation.samples > 1 else ask.body[::-1]
        return answered(ask, self.name, text=text, finish_reason="stop", tokens_in=len(ask.body), tokens_out=1, latency_s=0.1, cost_usd=0.25)  # fmt: skip


def asks(texts: Sequence[str], prefix: str = "r") -> list[Ask]:
    return [
        Ask(f"{prefix}{n}", "s", f"g{n}", "test", f"hash of {text}", (), text) for n, text in enumerate(texts)
    ]


def run(predictor: Echo, rows: list[Ask], folder: Path) -> Counts:
    return predict_table(predictor, rows, cache_folder=folder / "cache", output=folder / "echo.parquet")


def test_table_has_the_contracted_columns_and_the_order_of_the_rows(tmp_path):
    counts = run(Echo(), asks(["abc", "de", "f", "gh"]), tmp_path)
    table = pq.read_table(tmp_path / "echo.parquet")
    assert table.schema.names == SCHEMA.names
    assert table["text"].to_pylist() == ["cba", "ed", "f", "hg"] and table["id"].to_pylist() == [
        "r0",
        "r1",
        "r2",
        "r3",
    ]
    assert (counts.rows, counts.asked, counts.reused, counts.failed) == (4, 4, 0, 0)
    assert counts.cost_usd == 1.0 and counts.tokens_in == 8 and table["cached"].to_pylist() == [False] * 4
    assert read_about(tmp_path / "echo.parquet")["generation"]["max_new_tokens"] == 128


def test_second_run_asks_nothing_and_pays_nothing(tmp_path):
    run(Echo(), asks(["abc", "de"]), tmp_path)
    version = predictions_version(tmp_path / "echo.parquet")
    again = Echo()
    counts = run(again, asks(["abc", "de"]), tmp_path)
    assert again.asked == [] and counts.reused == 2 and counts.cost_usd == 0
    assert all(row.cached and row.cost_usd == 0.25 for row in read_predictions(tmp_path / "echo.parquet"))
    assert predictions_version(tmp_path / "echo.parquet") == version, "a cache hit is not a new version"


def test_only_changed_rows_are_asked(tmp_path):
    run(Echo(), asks(["abc", "de", "f"]), tmp_path)
    predictor = Echo()
    rows = asks(["abc", "CHANGED", "f"])
    assert run(predictor, rows, tmp_path).asked == 1 and predictor.asked == ["r1"]


@pytest.mark.parametrize("change", ["fingerprint", "generation"])
def test_another_model_or_setting_never_gets_old_answers(tmp_path, change):
    run(Echo(), asks(["abc"]), tmp_path)
    other = Echo(GenerationSettings(max_new_tokens=7)) if change == "generation" else Echo()
    other.fingerprint = "echo-2" if change == "fingerprint" else other.fingerprint
    assert run(other, asks(["abc"]), tmp_path).asked == 1


def test_failed_rows_are_error_rows_and_are_asked_again_alone(tmp_path):
    first = Echo()
    first.failing = {"r1"}
    counts = run(first, asks(["abc", "de", "f"]), tmp_path)
    row = read_predictions(tmp_path / "echo.parquet")[1]
    assert (
        counts.failed == 1
        and row.error == "the server said no"
        and row.text is None
        and row.finish_reason is None
    )
    second = Echo()
    counts = run(second, asks(["abc", "de", "f"]), tmp_path)
    assert second.asked == ["r1"] and counts.failed == 0
    assert [row.text for row in read_predictions(tmp_path / "echo.parquet")] == ["cba", "ed", "f"]


def test_equal_requests_of_two_rows_are_asked_once(tmp_path):
    predictor = Echo()
    counts = run(predictor, asks(["same", "same", "other"]), tmp_path)
    assert predictor.asked.count("r0") == 1 and "r1" not in predictor.asked and counts.asked == 2
    rows = read_predictions(tmp_path / "echo.parquet")
    assert [row.text for row in rows] == ["emas", "emas", "rehto"] and [row.id for row in rows] == [
        "r0",
        "r1",
        "r2",
    ]


def test_rows_asked_some_at_a_time_give_the_table_of_all_at_once(tmp_path):
    texts = [f"text {n % 8}" for n in range(11)]  # three requests stand in two parts
    whole, parted = Echo(), Echo()
    parted.rows_at_once = 4
    seen: list[tuple[int, int]] = []
    run(Echo(), asks(texts[:2]), tmp_path / "parted")  # two answers are known
    for name, predictor in (("whole", whole), ("parted", parted)):
        place = {"cache_folder": tmp_path / name / "cache", "output": tmp_path / name / "echo.parquet"}
        if name == "parted":
            place |= {"progress": lambda done, total: seen.append((done, total)), "expected": 11}
        counts = predict_table(predictor, iter(asks(texts)), **place)
        assert (counts.rows, counts.asked) == (11, 8 if name == "whole" else 6)
    tables = [tmp_path / name / "echo.parquet" for name in ("whole", "parted")]
    assert [row.text for row in read_predictions(tables[0])] == [
        row.text for row in read_predictions(tables[1])
    ]
    assert predictions_version(tables[0]) == predictions_version(tables[1])
    assert seen[0] == (2, 9) and seen[-1] == (6, 6), (
        "what the cache holds of later rows is seen when they come"
    )


def test_sampled_answers_never_come_from_the_cache(tmp_path):
    settings = GenerationSettings(do_sample=True, samples=2)
    run(Echo(settings), asks(["abc"]), tmp_path)
    rows = read_predictions(tmp_path / "echo.parquet")
    assert [(row.text, row.sample) for row in rows] == [("cba/0", 0), ("cba/1", 1)]
    again = Echo(settings)
    assert run(again, asks(["abc"]), tmp_path).asked == 2 and not list((tmp_path / "cache").rglob("*.jsonl"))


def test_a_killed_sampled_run_goes_on_where_it_was(tmp_path):
    class Dies(Echo):
        def predict(self, rows: Sequence[Ask]) -> Iterator[list[Prediction]]:
            yield from list(super().predict(rows))[:1]
            raise KeyboardInterrupt

    settings = GenerationSettings(do_sample=True)
    with pytest.raises(KeyboardInterrupt):
        run(Dies(settings, batch=1), asks(["abc", "de", "f"]), tmp_path)
    assert not (tmp_path / "echo.parquet").exists()
    assert run(Echo(settings), asks(["abc", "de", "f"]), tmp_path).asked == 2


def test_answers_are_on_disk_before_the_next_batch_is_asked(tmp_path):
    class Dies(Echo):
        def predict(self, rows: Sequence[Ask]) -> Iterator[list[Prediction]]:
            batches = super().predict(rows)
            yield next(batches)
            raise MemoryError("killed")

    with pytest.raises(MemoryError):
        run(Dies(batch=2), asks(["abc", "de", "f"]), tmp_path)
    assert run(Echo(), asks(["abc", "de", "f"]), tmp_path).asked == 1


def test_a_silent_predictor_leaves_error_rows_not_missing_rows(tmp_path):
    class Silent(Echo):
        def predict(self, rows: Sequence[Ask]) -> Iterator[list[Prediction]]:
            return iter([])

    counts = run(Silent(), asks(["abc"]), tmp_path)
    assert counts.rows == 1 and counts.failed == 1


def test_the_preset_varied_is_what_it_is_documented_to_be():
    assert GenerationSettings(preset="varied").model_dump(exclude_defaults=True) == {
        "preset": "varied", "max_new_tokens": 150, "min_new_tokens": 20, "do_sample": True, "temperature": 0.7,
        "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3,
    }  # fmt: skip
    assert GenerationSettings(preset="varied", max_new_tokens=30).max_new_tokens == 30, (
        "a task may differ from it"
    )
