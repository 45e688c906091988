"""Runs of the real payload for tests: in this process, or in a child that imported everything once."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
from pathlib import Path
from typing import Any

import torch

from vlm_pipeline.compute.payload import Reporter
from vlm_pipeline.training.__main__ import work
from vlm_pipeline_tests.faults.killer import Stop
from vlm_pipeline_tests.training import tiny

# The fork server pays the import of torch and transformers once for all children.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["vlm_pipeline_tests.training.runs", "vlm_pipeline.training.finish"])


class Ears(Reporter):
    """A reporter that keeps what was said."""

    def __init__(self, live: Path | None = None) -> None:
        super().__init__(live=live)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.said)


def run(request: dict[str, Any]) -> tuple[dict[str, Any], Ears]:
    """The payload's work in this process; returns its metadata and what it said."""
    torch.set_num_threads(1)
    ears = Ears(request.get("live"))
    metadata, _ = work(request, ears)
    return metadata, ears


def _child(request: dict[str, Any], outcome: str, file_limit: int | None, stop: Stop | None) -> None:
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if stop is not None:
        stop.arm()
    try:
        run(request)
        message = "finished"
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    Path(outcome).write_text(message)
    os._exit(0)


def start(
    request: dict[str, Any], outcome: Path, file_limit: int | None = None, stop: Stop | None = None
) -> Any:
    """Start the payload's work in a child process; `outcome` receives "finished" or the error.

    file_limit: bytes after which the operating system refuses to let a file grow, as on a full disk.
    """
    outcome.unlink(missing_ok=True)
    child = _CONTEXT.Process(target=_child, args=(request, str(outcome), file_limit, stop))
    child.start()
    return child


def make_request(folder: Path, name: str, model: Path, formatted: Path, **training: Any) -> dict[str, Any]:
    """A request with everything under `folder/name`; `training` overrides training settings."""
    scorers = training.pop("scorers", [])
    lora = training.pop("lora", {})
    defaults = {
        "epochs": 3,
        "batch_size": 2,
        "accumulation": 2,
        "learning_rate": 5e-3,
        "log_steps": 1,
        "warmup": 0.1,
    }
    return {
        "formatted": [str(formatted)],
        "output": str(folder / name / "adapters" / "one"),
        "checkpoints": str(folder / name / "checkpoints"),
        "store": str(folder / name / "store"),
        "live": str(folder / name / "live.jsonl"),
        "settings": {
            "base_model": str(model),
            "training": {**defaults, "eval_steps": 1000, **training},
            "scorers": scorers,
            "lora": {"r": 4, "alpha": 8, **lora},
        },
    }


def page_rows(
    processor: Any, folder: Path, pages: int = 6, questions: int = 4, val_pages: int = 1
) -> list[dict[str, Any]]:
    """Questions whose answer is in the question: a random model can learn them."""
    rows = []
    for page in range(pages):
        image = tiny.draw_page(folder, page)
        for number in range(questions):
            rows.append(
                tiny.formatted_row(
                    processor, f"{page}-{number}", f"Say {number}!", f"It is {number}", image=image,
                    split="val" if page >= pages - val_pages else "train", section=("torque", "fluids")[page % 2],
                )
            )  # fmt: skip
    return rows


def live(request: dict[str, Any]) -> list[dict[str, Any]]:
    path = Path(request["live"])
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
