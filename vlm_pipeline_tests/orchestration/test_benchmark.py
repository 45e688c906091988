"""The orchestration benchmark cannot pass by seeing nothing: it looks at real processes, and says each missed target."""

import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.orchestration import Watched, missed

REACHED = {
    "loop_s": 340.0, "memory_gib": 1.9, "overhead": 0.09, "unchanged_s": 8.0, "p": 0.0002, "lenient_p": 0.0002,
    "tuned": 0.66, "weakest_section": 0.55, "payloads": 3, "unchanged_payloads": 0, "unchanged_made": [],
}  # fmt: skip


def test_a_loop_that_reaches_all_targets_misses_none() -> None:
    assert missed("manual_qa", REACHED) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loop_s", 601.0),
        ("memory_gib", 6.1),
        ("overhead", 0.21),
        ("unchanged_s", 61.0),
        ("p", 0.02),
        ("lenient_p", None),
        ("tuned", 0.59),
        ("weakest_section", 0.39),
        ("payloads", 0),
        ("unchanged_payloads", 1),
        ("unchanged_made", ["adapter"]),
    ],
)
def test_each_missed_target_is_said(name: str, value: object) -> None:
    (reason,) = missed("manual_qa", {**REACHED, name: value})
    assert name.split("_")[0].rstrip("s") in reason


def test_a_payload_and_its_memory_are_seen_from_outside() -> None:
    """The former benchmark looked for a line of the log that was never printed, and so found no model loaded."""
    waits = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', {!r}])"
    )
    loop = subprocess.Popen([sys.executable, "-c", waits.format("vlm_pipeline.training")])
    try:
        watched, deadline = Watched(), time.monotonic() + 30
        while not watched.payloads and time.monotonic() < deadline:
            watched.look(psutil.Process(loop.pid))
            time.sleep(0.05)
        watched.look(psutil.Process(loop.pid))
        assert len(watched.payloads) == 1
        assert watched.most_bytes > psutil.Process(loop.pid).memory_info().rss
    finally:
        for process in [*psutil.Process(loop.pid).children(recursive=True), loop]:
            process.kill()
        loop.wait()
