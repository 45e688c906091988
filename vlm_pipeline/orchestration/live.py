"""A training that is under way, in the UI: what its payload reports becomes observations of the asset, step by step.

Keep the meaning of figures out of this module. An observation at most every so often, since many events slow the UI.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from vlm_pipeline.orchestration.recording import to_metadata
from vlm_pipeline.reporting.pictures import loss_curve

EVERY_SECONDS = 20.0


@contextmanager
def live_view(context: dg.AssetExecutionContext, live: Path) -> Iterator[None]:
    """While the block runs, observe the step's asset with what the JSON-lines file `live` holds by then."""
    over = threading.Event()
    begin = live.stat().st_size if live.exists() else 0  # an earlier run's figures are drawn, and are no news

    def watch() -> None:
        seen = begin
        while not over.wait(EVERY_SECONDS):
            size = live.stat().st_size if live.exists() else 0
            if size == seen:
                continue
            seen = size
            try:
                metadata = to_metadata(so_far(read_lines(live)))
                context.log_event(dg.AssetObservation(context.asset_key, metadata=metadata))
            except Exception as error:  # a view must not end what it looks at
                context.log.warning(f"the live view failed: {error}")
                return

    watcher = threading.Thread(target=watch, name="live-view", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def read_lines(live: Path) -> list[dict[str, Any]]:
    """The whole lines of the file; one that is being written is left for the next time."""
    text = live.read_text("utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def so_far(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The latest figures, the loss curve so far, and the answers of the latest evaluation."""
    latest: dict[str, Any] = {}
    for line in lines:
        latest |= {name: value for name, value in line.items() if name != "time"}
    samples = latest.pop("samples", None)
    evaluations = [
        {"step": line["step"], "val_loss": line["val_loss"], "score": line.get("task_score")}
        for line in lines
        if "val_loss" in line
    ]
    shown: Mapping[str, Any] = {"samples": {"table": samples}} if samples else {}
    return {**latest, **shown, **loss_curve({"loss_curve": lines, "evaluations": evaluations})}
