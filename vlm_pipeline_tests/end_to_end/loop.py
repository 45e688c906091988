"""Run the real command on bundled tasks, in a store and a Dagster home of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlm_pipeline_tests.faults import killer

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


def cut_down(task: Path, pages: Mapping[str, Mapping[str, int]], questions: int = 100) -> None:
    """Leave these sections of a task, so many pages of each split and questions of each page, and two probes.

    pages: section -> split -> how many.
    """
    for path in (task / "raw").glob("*.jsonl"):
        if path.stem not in pages:
            path.unlink()
            continue
        wanted, kept = pages[path.stem], []
        asked: dict[str, Counter[str]] = {split: Counter() for split in wanted}
        for line in path.read_text("utf-8").splitlines():
            facts = json.loads(line)["metadata"]
            of_split, page = asked[facts["split"]], facts["group"]
            if (page in of_split or len(of_split) < wanted[facts["split"]]) and of_split[page] < questions:
                of_split[page] += 1
                kept.append(line)
        path.write_text("\n".join(kept) + "\n", "utf-8")
    probes = yaml.safe_load((task / "probes.yaml").read_text("utf-8"))
    probes = [one for one in probes if one["category"] in pages][:2]
    (task / "probes.yaml").write_text(yaml.safe_dump(probes), "utf-8")


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

    def deadly(self, moment: killer.Stop | killer.Write, note: Path) -> dict[str, str]:
        """Environment of a command that is killed at this moment; `note` receives where."""
        return {
            "PYTHONPATH": os.pathsep.join([str(killer.HOOK), str(PROJECT)]),
            **killer.environment(moment, note),
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
