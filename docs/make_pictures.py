"""The pictures of README and docs, from a real run: ``python docs/make_pictures.py`` after ``make loop``.

Looks with headless Chromium at the report and at the Dagster UI of the run's home. What is drawn is what the run left:
nothing is made up or retouched.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from PIL import Image  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from vlm_pipeline.store import TaskStore  # noqa: E402
from vlm_pipeline_tests.reporting.browser import chromium, prefer, resize  # noqa: E402
from vlm_pipeline_tests.servers.dagster_ui import running_ui  # noqa: E402

CSS = "css selector"
WIDTHS = {"telephone": (390, 1100), "tablet": (820, 1200), "desk": (1280, 1350)}


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Write the pictures; returns their paths. Raises SystemExit when the task has no report yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="manual_qa")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "pictures")
    parser.add_argument("--report-only", action="store_true", help="no Dagster UI")
    options = parser.parse_args(arguments)
    os.environ.setdefault("DAGSTER_HOME", str(PROJECT / ".vlm_pipeline" / "dagster_home"))
    options.out.mkdir(parents=True, exist_ok=True)
    report = TaskStore(options.task).path("report", "index.html")
    if not report.exists():
        raise SystemExit(f"no report of {options.task} yet: run `make loop TASK={options.task}` first")
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as driver:
        prefer(driver, "light")
        made = report_pictures(driver, report.resolve().as_uri(), options.out)
        if not options.report_only:
            with tempfile.TemporaryDirectory() as tasks:
                (Path(tasks) / options.task).symlink_to(PROJECT / "data" / options.task)
                with running_ui(Path(tasks)) as address:
                    made += ui_pictures(driver, address, options.task, options.out)
    for picture in made:
        print(f"{picture} {picture.stat().st_size // 1024} KiB")
    return made


def report_pictures(driver: Any, url: str, out: Path) -> list[Path]:
    """The top of the report at three widths and in the dark, and an opened row."""
    made = []
    for name, size in WIDTHS.items():
        open_page(driver, url, size, ".open-row")
        made.append(shoot(driver, out / f"report-{name}.png"))
    prefer(driver, "dark")
    made.append(shoot(driver, out / "report-dark.png"))
    prefer(driver, "light")
    open_page(driver, url, (1280, 900), ".open-row")
    row = driver.find_element(CSS, ".open-row").text
    driver.execute_script("location.hash = arguments[0]", f"#row={row}")
    wait_for(driver, "tr.detail img")
    return [*made, shoot(driver, out / "row.png")]


def ui_pictures(driver: Any, address: str, task: str, out: Path) -> list[Path]:
    """The graph by groups, the whole graph, an asset with its neighbours, and its page."""
    open_graph(driver, address, (1400, 560))
    made = [shoot(driver, out / "groups.png")]
    open_graph(driver, address, (1800, 1900))
    ActionChains(driver).key_down(Keys.ALT).send_keys("e").key_up(Keys.ALT).perform()  # all groups unfolded
    settle(driver)
    made.append(shoot(driver, out / "graph.png"))
    url = f"{address}/assets/{task}/comparison?view=lineage&lineageScope=neighbors"
    open_page(driver, url, (1400, 620), "foreignObject")
    made.append(shoot(driver, out / "neighbours.png"))
    open_page(
        driver,
        f"{address}/assets/{task}/comparison",
        (1400, 1240),
        "//*[text()='Lineage']/following::*[text()='Compute details']",
    )
    return [*made, shoot(driver, out / "asset.png")]


def open_graph(driver: Any, address: str, size: tuple[int, int]) -> None:
    """The lineage of all assets, without the side bars."""
    open_page(driver, f"{address}/asset-groups", size, "foreignObject")
    for button in (
        "//*[text()='Skip']",  # an invitation to a newsletter
        "//*[text()='Hide navigation']",
        "//input[starts-with(@placeholder, 'Jump')]/following::button[1]",
    ):
        for found in driver.find_elements("xpath", button)[:1]:
            driver.execute_script("arguments[0].click()", found)
            settle(driver)
    driver.get(driver.current_url)  # the graph is fitted anew
    wait_for(driver, "foreignObject")


def open_page(driver: Any, url: str, size: tuple[int, int], wanted: str = "body") -> None:
    resize(driver, *size)
    driver.get("about:blank")
    driver.get(url)
    wait_for(driver, wanted)


def wait_for(driver: Any, wanted: str, seconds: float = 90) -> None:
    """Until the element (CSS, or XPath from `//` on) is there and the page stands still. Raises TimeoutException."""
    by = "xpath" if wanted.startswith("//") else CSS
    WebDriverWait(driver, seconds).until(lambda browser: browser.find_elements(by, wanted))
    settle(driver)


def settle(driver: Any, still_s: float = 2.0, patience_s: float = 40.0) -> None:
    """Until what the page says has not changed for a while; the UI loads its parts one after another."""
    said, since, started = None, time.monotonic(), time.monotonic()
    while time.monotonic() - since < still_s and time.monotonic() - started < patience_s:
        now = driver.execute_script("return document.body.innerText + document.querySelectorAll('*').length")
        if now != said:
            said, since = now, time.monotonic()
        time.sleep(0.25)


def shoot(driver: Any, target: Path) -> Path:
    driver.save_screenshot(str(target))
    small = (
        Image.open(target).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    )
    small.save(target, optimize=True)
    return target


if __name__ == "__main__":
    main()
