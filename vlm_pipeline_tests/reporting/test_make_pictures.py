"""The script that makes the pictures of README and docs, run as it stands."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_pipeline.reporting import BuiltReport
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.reporting.browser import chromium

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "docs" / "make_pictures.py"


@pytest.fixture
def script(built: BuiltReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script's module, over a store with a report of manual_qa and a Dagster home of its own."""
    with chromium(tmp_path / "probe"):
        pass  # skips where there is no browser
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    shutil.copy(PROJECT / "dagster.yaml", tmp_path / "home" / "dagster.yaml")
    target = TaskStore("manual_qa").path("report", "index.html")
    target.parent.mkdir(parents=True)
    shutil.copy(built.index, target)
    spec = importlib.util.spec_from_file_location("make_pictures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _shows_something(picture: Path, width: int) -> None:
    with Image.open(picture) as image:
        assert image.width == width, picture
        colours = image.convert("RGB").getcolors(1 << 20)
    assert len(colours) > 20 and max(n for n, _ in colours) < 0.98 * sum(n for n, _ in colours), picture


def test_the_report_is_shot_at_three_widths_in_the_dark_and_with_a_row_open(
    script: Any, tmp_path: Path
) -> None:
    made = script.main(["--report-only", "--out", str(tmp_path / "out")])
    widths = {
        "report-telephone": 390,
        "report-tablet": 820,
        "report-desk": 1280,
        "report-dark": 1280,
        "row": 1280,
    }
    assert {picture.stem for picture in made} == set(widths)
    for picture in made:
        _shows_something(picture, widths[picture.stem])
    with Image.open(tmp_path / "out" / "report-dark.png") as dark:
        assert max(dark.convert("RGB").getpixel((640, 5))) < 40


@pytest.mark.slow
def test_the_ui_is_shot_too_and_every_picture_of_the_pages_is_made(script: Any, tmp_path: Path) -> None:
    made = {picture.name for picture in script.main(["--out", str(tmp_path / "out")])}
    for name in ("groups.png", "graph.png", "neighbours.png", "asset.png"):
        assert name in made
        _shows_something(tmp_path / "out" / name, Image.open(tmp_path / "out" / name).width)
    pages = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
    used = {name for page in pages for name in re.findall(r"pictures/([\w-]+\.png)", page.read_text("utf-8"))}
    assert used and used <= made, "a page shows a picture that the script does not make"


def test_without_a_report_it_says_what_to_run_first(script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make loop TASK=other"):
        script.main(["--task", "other", "--out", str(tmp_path)])
