"""Parts of the daemon's hour, each from an empty store: a real daemon, every sensor on, events, and the expected state."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_pipeline_tests.end_to_end.daemon_hour.checks import findings
from vlm_pipeline_tests.end_to_end.daemon_hour.hour import Hour
from vlm_pipeline_tests.end_to_end.daemon_hour.script import EVENTS
from vlm_pipeline_tests.end_to_end.daemon_hour.world import World

PARTS = {
    "rows changed, rewritten and broken, a hosted fine-tune that ends late, a killed daemon": (
        "train rows", "same again", "kill in a tick", "job ends", "broken rows",
    ),
    "a new file and a killed training, a hosted API that fails": ("new file", "service fails"),
    "a hub revision, several adapters, a half-copied one": ("hub moves", "adapters", "half copied"),
    "a weak section, a round killed and taken up, a roll-back": ("train rows", "job ends", "spoiled", "roll back"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("part", PARTS)
def test_the_daemon_ends_in_the_expected_state(tmp_path: Path, part: str) -> None:
    world = World(tmp_path)
    hour = Hour(world, minutes=1)  # one event after the other, as soon as everything is at rest
    try:
        hour.run([event for event in EVENTS if event.name in ("begin", *PARTS[part])])
        wrong = [one for one in findings(hour) if not one.passed]
    finally:
        if hour.daemon.runs_now:
            hour.daemon.kill()
        world.close()
    assert not wrong, wrong
