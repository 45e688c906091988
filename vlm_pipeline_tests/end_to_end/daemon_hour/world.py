"""A task that a few optimizer steps can learn, with the servers it talks to and the adapters that others bring.

Every section has one right answer, so that the embedded base answers nothing, an adapter trained for a minute answers
all of it, and a section whose train answers are wrong is answered wrong: what a daemon has to do about each event is
known before it happens. The payloads are the real ones.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_pipeline.candidates.header import read_header
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task, load_task
from vlm_pipeline_tests.candidates import foreign
from vlm_pipeline_tests.end_to_end.loop import Loop
from vlm_pipeline_tests.promotion.world import BASE, MODULE
from vlm_pipeline_tests.servers.hosted_api.conversation import Question
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn
from vlm_pipeline_tests.servers.hub import TOKEN, Hub, Repository, running_hub

NAME = "engine"
ANSWERS = {"torque": "48 Nm", "fluids": "5 l", "gaps": "0.4 mm"}
WRONG = "7 l"
GROUPS = {
    "train": 8,
    "val": 8,
    "test": 8,
}  # of each section, four rows each; a gain on four groups proves nothing
REPOSITORY = "team/adapter"
TASK = f"""\
title: One value a chapter, of a made-up engine
sections: [{", ".join(ANSWERS)}]
base_model: {BASE}
splits: {{group_key: group}}
lora: {{r: 8, alpha: 16}}
training: {{epochs: 10, batch_size: 8, accumulation: 1, learning_rate: 3.0e-3, eval_steps: epoch, save_steps: 60, gate_rows: 12}}
generation: {{max_new_tokens: 8}}
predictors:
  - {{name: base, kind: transformers}}
  - {{name: tuned, kind: transformers, adapter: trained}}
  - {{name: gpt, kind: openai, model: gpt-4o-mini}}
  - {{name: gpt_tuned, kind: openai_finetuned, model: gpt-4o-mini-2024-07-18, n_epochs: 1}}
scorers: [{{kind: text, primary: exact}}]
thresholds: {{primary: 0.7}}
automation: {{train: true, hosted: true, every_s: 5}}
candidates: {{hub: [{REPOSITORY}], settle_s: 5}}
regeneration: {{teacher: {{name: teacher, kind: openai, model: gpt-4o}}, strategies: [correct], money_usd: 20}}
budget: {{money_usd: 5, rounds: 3}}
"""


def asking(part: str, section: str) -> str:
    return f"The chapter is {section}. What is the {section} value of part {part}?"


PROBES = [
    {
        "id": f"p-{section}",
        "question": asking(f"{section}-probe_0_0", section),
        "expected_answer": answer,
    }
    for section, answer in ANSWERS.items()
]
_PART = re.compile(r"part ([a-z]+)-\w+")


def rows_of(
    section: str, groups: dict[str, int], mark: str = "", wrong: bool = False
) -> list[dict[str, Any]]:
    """Four rows a group. `mark` makes other rows of other groups; `wrong`: what train rows answer is wrong."""
    rows = []
    for split, count in groups.items():
        answer = WRONG if wrong and split == "train" else ANSWERS[section]
        for group in range(count):
            names = (f"{section}-{split}{mark}_{group}_{number}" for number in range(4))
            rows += [row(name, section, split, answer) for name in names]
    return rows


def row(name: str, section: str, split: str, answer: str) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": asking(name, section)},
        {"role": "assistant", "content": answer},
    ]
    metadata = {"id": name, "section": section, "group": name.rpartition("_")[0], "split": split}
    return {"conversations": turns, "metadata": metadata}


def answer_of_hosted(question: Question) -> str:
    """Teacher and second reader are right; the model that is compared is right about two rows of three."""
    *_, part = _PART.finditer(question.text)
    right = ANSWERS[part[1]]
    doubtful = question.model.startswith("gpt-4o-mini") and zlib.crc32(part[0].encode()) % 3 == 0
    return "I cannot tell." if doubtful else right


@dataclass
class World:
    """A folder with task, store, Dagster home, and the servers on loopback; leave it by `close`."""

    folder: Path
    stand_in: StandIn = field(default_factory=lambda: StandIn(answer=answer_of_hosted, job_s=20.0))

    def __post_init__(self) -> None:
        self._servers = ExitStack()
        _, url = self._servers.enter_context(serving(self.stand_in))
        self.hub: Hub = self._servers.enter_context(running_hub())
        self.services = {
            **environment(url), "HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(self.folder / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        (self.root / "raw").mkdir(parents=True)
        (self.root / "task.yaml").write_text(TASK, "utf-8")
        (self.root / "probes.yaml").write_text(json.dumps(PROBES), "utf-8")
        for section in ANSWERS:
            self.write(section, rows_of(section, GROUPS))
        self.loop = Loop(self.folder, self.folder, self.services)

    def close(self) -> None:
        self._servers.close()

    @property
    def root(self) -> Path:
        return self.folder / NAME

    @property
    def store(self) -> TaskStore:
        return TaskStore(NAME, self.folder / "store")

    @property
    def task(self) -> Task:
        return load_task(self.root)

    def write(self, file: str, rows: list[dict[str, Any]], broken: int = 0) -> None:
        """Put a row file in place at once, with so many lines in it that are no rows."""
        text = "".join(json.dumps(one) + "\n" for one in rows) + '{"conversations": [\n' * broken
        staging = self.folder / f"{file}.writing"
        staging.write_text(text, "utf-8")
        staging.replace(self.root / "raw" / f"{file}.jsonl")

    def bring(self, name: str, kind: str = "fits", seed: int = 0) -> Path:
        """An adapter folder in the watched place: `fits` the base, is of `another base`, or a `pickle`."""
        made = self.foreign(self.folder / "made" / name, kind, seed)
        target = self.store.path("incoming") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return made.rename(target)

    def foreign(self, folder: Path, kind: str = "fits", seed: int = 0) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        foreign.write(folder, None if kind == "another base" else _linears(), seed=seed)
        if kind == "pickle":
            weights = folder / "adapter_model.safetensors"
            weights.rename(weights.with_suffix(".bin"))
        return folder

    def push(self, seed: int) -> str:
        """A new revision of the watched repository; returns its commit."""
        folder = self.foreign(self.folder / "made" / "pushed", seed=seed)
        before = self.hub.repositories.get(f"model/{REPOSITORY}")
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        commits = [*(before.commits if before else []), f"seed {seed}"]
        self.hub.repositories[f"model/{REPOSITORY}"] = Repository(False, files, commits)
        return self.hub.repositories[f"model/{REPOSITORY}"].sha


def _linears() -> dict[str, tuple[int, int]]:
    layer = read_header(BASE / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    return {MODULE: tuple(layer.shape)}
