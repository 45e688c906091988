"""Run the real command on bundled tasks, in a store and a Dagster home of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]


def small_task(folder: Path, name: str = "manual_qa") -> Path:
    """A copy of a bundled task whose training gate warns only: a few rows teach too little to pass it."""
    shutil.copytree(PROJECT / "data" / name, folder / name)
    settings = folder / name / "task.yaml"
    text = settings.read_text("utf-8").replace("../base_model", str(PROJECT / "data" / "base_model"))
    settings.write_text(
        text.replace("training:\n", "training:\n  gate_zero: warn\n  max_steps: 60\n"), "utf-8"
    )
    return folder


@dataclass
class Loop:
    """`python -m vlm_pipeline loop <task>` below one folder.

    Commands start in that folder: an `.env` of the checkout cannot send them to another Dagster home.
    """

    folder: Path
    tasks: Path = PROJECT / "data"
    services: dict[str, str] = field(default_factory=dict)  # addresses and keys, added to the environment

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.services,
            "PYTHONPATH": str(PROJECT),
            "VLM_PIPELINE_TASKS": str(self.tasks),
            "VLM_PIPELINE_STORE": str(self.store),
            "DAGSTER_HOME": str(self.home),
        }

    def start(
        self, *arguments: str, command: str = "loop", output: Any = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        """In a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "vlm_pipeline", command, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, timeout: float = 900, command: str = "loop") -> str:
        """Run to the end; returns the output. Fails with its end when the exit status is not 0."""
        process = self.start(*arguments, command=command)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, output[-6000:]
        return output
