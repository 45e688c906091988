"""Dagster's own commands find the code location, as a newcomer types them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TASKS = ("manual_qa", "street_safety", "tool_calls", "sectioned_answers")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["dg", "check", "defs"], id="dg reads pyproject.toml"),
        pytest.param(
            ["dagster", "job", "list", "-w", "workspace.yaml"], id="webserver and daemon read workspace.yaml"
        ),
    ],
)
def test_the_code_location_loads_by_the_files_of_the_project(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text("utf-8"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLM_PIPELINE_")}
    environment |= {"DAGSTER_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run(
        [program, *command[1:]], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if command[0] == "dagster":
        assert all(f"Job: retrain_and_eval_{task}\n" in done.stdout for task in TASKS)
    else:
        assert "All definitions loaded successfully" in done.stdout + done.stderr
