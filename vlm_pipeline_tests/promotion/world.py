"""A task with rows, an adapter folder and prediction tables of known quality; everything else is the real code.

Only the models are missing: answers are written by `Answers` where the prediction payload would be started.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vlm_pipeline.candidates.header import read_header
from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.formatting.probes import make_probes
from vlm_pipeline.formatting.stage import make_formatted, make_training_set
from vlm_pipeline.inference.local import stream_prompts
from vlm_pipeline.inference.prediction import answered, prediction_table, write_predictions
from vlm_pipeline.inference.stage import make_predictions
from vlm_pipeline.promotion.stage import Promotion, make_promotion, present_formats
from vlm_pipeline.scoring.decision_stage import make_comparison
from vlm_pipeline.scoring.stage import make_metrics
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task, load_task
from vlm_pipeline.training.record import write_record
from vlm_pipeline.training.stage import base_identity, make_adapter

PROJECT = Path(__file__).parents[2]
BASE = PROJECT / "data" / "base_model"
MODULE = "model.language_model.layers.0.self_attn.q_proj"
SECTIONS = ("torque", "fluids")
TASK = """\
title: Values of a made-up engine
sections: [torque, fluids]
base_model: {base}
training: {{seed: {seed}}}
splits: {{group_key: group}}
predictors:
  - {{name: base, kind: transformers}}
  - {{name: tuned, kind: transformers, adapter: trained}}
{rivals}{predictors}scorers: [{{kind: text, primary: exact}}]
{more}"""
PROBES = """\
- {id: p1, question: "What is the value of probe 1?", expected_answer: "value 1"}
- {id: p2, question: "What is the value of probe 2?", expected_answer: "value 2"}
"""


def write_rows(folder: Path, section: str, splits: dict[str, int], edition: str = "") -> Path:
    """Text rows, four to a group; `splits` names how many groups each split has."""
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    lines = []
    for split, groups in splits.items():
        for group in range(groups):
            for number in range(4):
                name = f"{section}-{split}-{group}-{number}"
                answer = f"value {zlib.crc32(name.encode()) % 997}{edition if split == 'train' else ''}"
                turns = [
                    {"role": "user", "content": f"What is the value of {name}?"},
                    {"role": "assistant", "content": answer},
                ]
                metadata = {
                    "id": name,
                    "section": section,
                    "group": f"{section}-{split}-{group}",
                    "split": split,
                }
                lines.append(json.dumps({"conversations": turns, "metadata": metadata}))
    path = folder / "raw" / f"{section}.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write_adapter(folder: Path, base: str, formats: dict[str, Any], seed: int) -> Path:
    """A completed adapter folder; its weights are numbers of the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    layer = read_header(BASE / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    random, (outputs, inputs) = np.random.default_rng(seed), layer.shape
    halves = {"A": random.normal(size=(2, inputs)), "B": random.normal(size=(outputs, 2))}
    weights = {
        f"base_model.model.{MODULE}.lora_{side}.weight": one.astype(np.float32)
        for side, one in halves.items()
    }
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "/home/somebody/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    record = {
        "base": {"model": "/home/somebody/base", "fingerprint": base, "revision": None},
        "template_hash": formats["template_hash"],
        "image_settings": formats["image_settings"],
        "training_set": {"rows": 16, "hash": f"set {seed}"},
        "settings": {"base_model": "/home/somebody/base"},
        "seed": seed,
        "adapted_modules": [MODULE],
        "trainable_parameters": 8,
        "loss_curve": [],
        "throughput": {},
    }
    write_record(folder, record)
    return folder


@dataclass
class Answers:
    """Stands where the prediction payload is started: right answers to the given share of rows, by row id."""

    share: dict[str, float]
    spared: dict[str, str] = field(default_factory=dict)  # predictor -> a section that it answers wrongly
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        import pyarrow.parquet as pq

        gold = {
            row["id"]: row["answer"]
            for path in request["formatted"]
            for row in pq.read_table(path, columns=["id", "answer"]).to_pylist()
        }
        (name,) = request["predictors"]
        self.asked.append((name, tuple(request["splits"])))
        asks = list(stream_prompts(request["formatted"], request["splits"]))
        rows = [
            answered(
                ask, name, text=gold[ask.id] if self._right(name, ask) else "no idea", finish_reason="stop",
                tokens_in=9, tokens_out=3, latency_s=0.01, cost_usd=0.0,
            )
            for ask in asks
        ]  # fmt: skip
        default = TaskStore(request["store_name"], request["store"]).path("predictions")
        output = Path(request.get("output") or default) / f"{name}.parquet"
        about = {"predictor": name, "adapter": request["adapters"]}
        write_predictions(output, [prediction_table(rows)], about)
        return {"rows": len(rows), "asked": len(rows), "reused": 0, "failed": 0}

    def _right(self, name: str, ask: Any) -> bool:
        if self.spared.get(name) == ask.section:
            return False
        return zlib.crc32(ask.id.encode()) % 1000 < 1000 * self.share.get(name, 0.0)


@dataclass
class World:
    folder: Path
    answers: Answers
    seed: int = 0
    more: str = ""
    rivals: tuple[str, ...] = ()  # predictors besides base and tuned
    predictors: str = ""  # lines of task.yaml beside base and tuned
    splits: dict[str, int] = field(default_factory=lambda: {"train": 3, "val": 2, "test": 10})
    base: Path = BASE
    payloads: list[str] = field(default_factory=list)  # modules that were started, where a graph starts them

    def __post_init__(self) -> None:
        for section in SECTIONS:
            write_rows(self.folder / "demo", section, self.splits)
        (self.folder / "demo" / "probes.yaml").write_text(PROBES)

    @property
    def task(self) -> Task:
        rivals = "".join(
            f"  - {{name: {name}, kind: transformers, adapter: trained}}\n" for name in self.rivals
        )
        text = TASK.format(
            base=self.base, seed=self.seed, more=self.more, rivals=rivals, predictors=self.predictors
        )
        (self.folder / "demo" / "task.yaml").write_text(text)
        return load_task(self.folder / "demo")

    @property
    def store(self) -> TaskStore:
        return TaskStore("demo", self.folder / "store")

    def loop(self, seed: int | None = None) -> Task:
        """Rows to comparison, with an adapter of this seed; returns the task."""
        self.seed = self.seed if seed is None else seed
        task, store = self.rows(), self.store
        make_training_set(task, store, quiet)
        make_adapter(task, store, self._train, quiet)
        for predictor in task.predictors:
            make_predictions(task, store, predictor, self.answers, picked=True, run_id="r", log=quiet)
            make_metrics(task, store, predictor, quiet, run_id="r")
        make_comparison(task, store, ["base", "tuned"], quiet)
        return task

    def rows(self) -> Task:
        """Raw rows, formatted rows and probes; returns the task."""
        task, store = self.task, self.store
        make_raw(task, store, list(SECTIONS), quiet)
        make_formatted(task, store, list(SECTIONS), quiet)
        make_probes(task, store, quiet)
        return task

    def promote(self, **options: Any) -> Promotion:
        return make_promotion(self.task, self.store, self.answers, run_id="r", log=quiet, **options)

    def _train(self, request: dict[str, Any]) -> dict[str, Any]:
        task = self.task
        folder = Path(request["output"])
        write_adapter(folder, base_identity(task, self.store), present_formats(task, self.store), self.seed)
        return {"steps": 1}


def quiet(message: str) -> None:
    """Nobody listens."""


def results(promotion: Promotion) -> dict[str, bool | None]:
    return {item.name: item.passed for item in promotion.items}
