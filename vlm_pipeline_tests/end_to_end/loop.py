"""Run the real command on bundled tasks, in a store and a Dagster home of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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
    """`python -m vlm_pipeline loop <task>` below one folder."""

    folder: Path
    tasks: Path = PROJECT / "data"

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(self, *arguments: str, command: str = "loop") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "vlm_pipeline", command, *arguments],
            cwd=PROJECT,
            env={
                **os.environ,
                "VLM_PIPELINE_TASKS": str(self.tasks),
                "VLM_PIPELINE_STORE": str(self.store),
                "DAGSTER_HOME": str(self.home),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, timeout: float = 900) -> str:
        """Run to the end; returns the output. Fails with its end when the exit status is not 0."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, output[-6000:]
        return output
