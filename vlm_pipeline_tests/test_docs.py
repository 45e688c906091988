"""The commands of the documentation, executed as they stand, in a folder laid out like the project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from vlm_pipeline.__main__ import command_line
from vlm_pipeline.orchestration.jobs import HABITS
from vlm_pipeline.reporting import build_report
from vlm_pipeline_tests.reporting.synthetic import make_inputs

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
PAGES = sorted((PROJECT / "docs").glob("*.md"))
TASKS = (
    "manual_qa",
    "street_safety",
    "tool_calls",
    "sectioned_answers",
    "my_manuals",
)  # what the pages speak of
BLOCK = re.compile(r"<!-- (?P<kind>run|file): ?(?P<name>[^ ]*) ?-->\n```\w*\n(?P<text>.*?)```", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    text = page.read_text("utf-8").replace("<!-- run -->", "<!-- run: -->")
    return [(m["kind"], m["name"], m["text"]) for m in BLOCK.finditer(text)]


def two_reports(folder: Path) -> None:
    """What two runs of manual_qa leave: the second has a new row of provenance."""
    report = folder / ".vlm_pipeline" / "store" / "manual_qa" / "report"
    for version in ("first", "second"):
        inputs = make_inputs(folder / "inputs", count=20, pages=5, predictors=2)
        build_report(
            replace(inputs, data_version=version, provenance={"Data versions": {"raw": version}}), report
        )


# What must be there before the commands of a page mean anything.
PREPARED: dict[str, Callable[[Path], None]] = {"reading-the-report": two_reports}


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES if blocks(page)])
def test_commands_of_the_page_run_as_written(page: Path, tmp_path: Path) -> None:
    for name in ("manual_qa", "base_model"):
        shutil.copytree(PROJECT / "data" / name, tmp_path / "data" / name)
    home = tmp_path / ".vlm_pipeline" / "dagster_home"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text("utf-8"), "utf-8")
    PREPARED.get(page.stem, lambda folder: None)(tmp_path)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("VLM_PIPELINE_")},
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": str(PROJECT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for kind, name, text in blocks(page):
        if kind == "file":
            (tmp_path / name).write_text(text, "utf-8")
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{page.name}:\n{text}\n{done.stdout[-4000:]}"


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [PROJECT / "README.md", *PAGES]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def commands(page: Path) -> Iterator[str]:
    """Every command that a page names: lines of code blocks and code in the text."""
    text = page.read_text("utf-8")
    for block in re.findall(r"```(?:sh)?\n(.*?)```|((?:\n    \S.*)+)", text, re.DOTALL):
        yield from "".join(block).replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in (README, *PAGES)])
def test_every_command_that_a_page_names_is_one_that_exists(page: Path) -> None:
    """Not run, but read by what would run it: its parser, make, the names of the jobs and modules."""
    understood = 0
    for line in commands(page):
        words = (
            shlex.split(re.sub(r"[\[\]]", "", line.strip()), comments=True)
            if line.count('"') % 2 == 0 and "'" not in line
            else []
        )
        if words[:1] == ["make"] and len(words) > 1:
            done = subprocess.run(
                ["make", "-n", *words[1:]], cwd=PROJECT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{page.name}: {line}\n{done.stderr}"
        elif words[:3] == ["python", "-m", "vlm_pipeline"]:
            command_line().parse_args(words[3:])  # exits where it does not know an argument
            assert len(words) < 5 or words[4] in TASKS, f"{page.name}: {line}"
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), f"{page.name}: {line}"
        elif words[:3] == ["dagster", "job", "execute"]:
            job = words[words.index("-j") + 1]
            assert job in {f"{habit}_{task}" for habit in HABITS for task in TASKS}, f"{page.name}: {line}"
        else:
            continue
        understood += 1
    assert understood or page.stem not in (
        "README",
        "improving",
        "promotion",
        "reading-the-report",
        "serving",
    )
