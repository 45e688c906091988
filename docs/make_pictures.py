"""The README's pictures, from a real run: ``python docs/make_pictures.py --task manual_qa`` after ``make loop``.

Starts `dagster-webserver` on the Dagster home of the run and looks with headless Chromium.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from PIL import Image  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from vlm_pipeline.store import TaskStore  # noqa: E402
from vlm_pipeline_tests.reporting.browser import chromium, prefer, resize  # noqa: E402


@contextmanager
def webserver(task: str, folder: Path) -> Iterator[str]:
    """The address of a Dagster UI that shows one task only."""
    (folder / task).symlink_to(PROJECT / "data" / task)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "dagster_webserver"]
    command += ["-m", "vlm_pipeline.definitions", "-p", str(port), "--read-only"]
    environment = {**os.environ, "VLM_PIPELINE_TASKS": str(folder)}
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=quiet, stderr=quiet)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/server_info", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise SystemExit("the Dagster UI did not come up within a minute")
        yield address
    finally:
        server.terminate()
        server.wait(20)


def shoot(
    driver: Any, url: str, target: Path, size: tuple[int, int], wait: float = 1.0, unfold: bool = False
) -> None:
    """Screenshot of a page; `unfold` opens all groups of a lineage graph (Alt+E)."""
    resize(driver, *size)
    driver.get(url)
    time.sleep(wait)
    if unfold:
        ActionChains(driver).key_down(Keys.ALT).send_keys("e").key_up(Keys.ALT).perform()
        time.sleep(wait)
    driver.save_screenshot(str(target))
    Image.open(target).convert("RGB").quantize(128).save(target, optimize=True)
    print(f"{target} {target.stat().st_size // 1024} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="manual_qa")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "pictures")
    options = parser.parse_args()
    os.environ.setdefault("DAGSTER_HOME", str(PROJECT / ".vlm_pipeline" / "dagster_home"))
    options.out.mkdir(parents=True, exist_ok=True)
    report = TaskStore(options.task).path("report", "index.html")
    if not report.exists():
        raise SystemExit(f"no report of {options.task} yet: run `make loop TASK={options.task}` first")
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as driver:
        prefer(driver, "light")
        shoot(driver, report.resolve().as_uri(), options.out / "report.png", (1280, 1350))
        shoot()
        with tempfile.TemporaryDirectory() as tasks, webserver(options.task, Path(tasks)) as address:
            shoot(driver, f"{address}/asset-groups", options.out / "graph.png", (2300, 1600), 8, unfold=True)
            asset = f"{address}/assets/{options.task}/formatted_examples"
            shoot(driver, asset, options.out / "asset.png", (1500, 1000), 8)


if __name__ == "__main__":
    main()
