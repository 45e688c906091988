"""A large report as real ones are: scanned pages, answers of several sentences, judges' reasons. Built, opened, measured."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vlm_pipeline.reporting import ReportInputs, build_report
from vlm_pipeline_tests.reporting.browser import chromium, wait_for_rows
from vlm_pipeline_tests.reporting.synthetic import make_answers, make_inputs, make_rows

WORDS = [
    "the",
    "torque",
    "of",
    "this",
    "bolt",
    "is",
    "given",
    "in",
    "column",
    "three",
    "of",
    "table",
    "seven",
    "below",
    "figure",
    "and",
    "must",
    "be",
    "checked",
    "cold",
    "before",
    "engine",
    "start",
    "according",
    "to",
    "manual",
    "page",
    "value",
    "reading",
    "shows",
    "clearance",
    "between",
    "valve",
    "stem",
    "rocker",
    "arm",
    "of",
    "cylinder",
    "head",
]


def make_large_inputs(folder: Path, rows: int, pages: int, predictors: int = 5) -> ReportInputs:
    """Inputs whose statistics are those of a small sample, whose rows, answers and pages are many."""
    small = make_inputs(folder / "small", count=100, pages=20, predictors=predictors)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for page in range(pages):
        draw_scan(folder / "images" / f"page{page:04d}.png", page)
    many = make_rows(folder / "images", rows, pages)
    predictions, scores = {}, {}
    for name in small.predictions:
        rng = random.Random(f"{name} at length")
        predictions[name], scores[name] = make_answers(many, name)
        for answer, score in zip(predictions[name], scores[name], strict=True):
            if answer["text"]:
                answer["text"] += f" Because {_said(rng, 30, 90)}."
            score["notes"] = [f"the judge says that {_said(rng, 15, 45)}"]
    return replace(small, rows=many, weak_rows=None, predictions=predictions, scores=scores)


def draw_scan(path: Path, number: int) -> None:
    """A page of 1,000 x 1,400 pixels: lines of text, a table, the grain of a scanner. Every other one is a JPEG inside."""
    rng = random.Random(number)
    grain = Image.effect_noise((250, 350), 18).resize((1000, 1400)).convert("RGB")
    image = Image.blend(Image.new("RGB", (1000, 1400), (250, 248, 240)), grain, 0.12)
    draw = ImageDraw.Draw(image)
    for line in range(40):
        draw.text((70, 60 + line * 18), _said(rng, 12, 18), fill=(30, 30, 34))
    for row in range(9):
        for column in range(4):
            box = (70 + column * 215, 850 + row * 52, 280 + column * 215, 900 + row * 52)
            draw.rectangle(box, outline=(60, 60, 60))
            draw.text((box[0] + 10, box[1] + 18), f"{rng.randint(10, 99)} Nm", fill=(10, 10, 10))
    image.save(
        path, "PNG" if number % 2 else "JPEG", **({"compress_level": 1} if number % 2 else {"quality": 82})
    )


def measure(folder: Path, rows: int, pages: int, predictors: int = 5) -> dict[str, Any]:
    """Seconds to build, megabytes of the page, seconds until headless Chromium shows its rows."""
    inputs = make_large_inputs(folder, rows, pages, predictors)
    started = time.perf_counter()
    built = build_report(inputs, folder / "report")
    build_s = time.perf_counter() - started
    with chromium(folder / "profile") as driver:
        driver.get("about:blank")
        started = time.perf_counter()
        driver.get(built.index.as_uri())
        shown = wait_for_rows(driver)
        open_s = time.perf_counter() - started
        pictures = driver.execute_script(
            "return [...document.querySelectorAll('.thumb')].filter((i) => i.complete && i.naturalWidth).length"
        )
    return {
        "rows": rows, "pages": pages, "predictors": predictors, "build_s": round(build_s, 1), "open_s": round(open_s, 2),
        "megabytes": round(built.index.stat().st_size / 1e6, 2), "shown": shown, "pictures_on_the_first_page": pictures,
    }  # fmt: skip


def _said(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))
