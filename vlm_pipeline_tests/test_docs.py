"""The commands of the documentation, executed as they stand, in a folder laid out like the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PAGES = sorted((PROJECT / "docs").glob("*.md"))
BLOCK = re.compile(r"<!-- (?P<kind>run|file): ?(?P<name>[^ ]*) ?-->\n```\w*\n(?P<text>.*?)```", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    text = page.read_text("utf-8").replace("<!-- run -->", "<!-- run: -->")
    return [(m["kind"], m["name"], m["text"]) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES if blocks(page)])
def test_commands_of_the_page_run_as_written(page: Path, tmp_path: Path) -> None:
    for name in ("manual_qa", "base_model"):
        shutil.copytree(PROJECT / "data" / name, tmp_path / "data" / name)
    home = tmp_path / ".vlm_pipeline" / "dagster_home"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text("utf-8"), "utf-8")
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
