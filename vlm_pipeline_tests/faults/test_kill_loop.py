"""SIGKILL of a running loop: nothing is orphaned, blocked or half-written, and the next loop goes on at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlm_pipeline_tests.end_to_end.loop import Loop, small_task
from vlm_pipeline_tests.faults.processes import alive, family, rubbish, wait_for

MOMENTS = {
    "while reading rows": lambda store: any(store.rglob("raw/*.parquet")),
    "while the adapter is trained": lambda store: any(store.rglob("*.live.jsonl")),
    "while the tuned model answers": lambda store: any(store.rglob("adapters/*/record.json")),
}


@pytest.mark.parametrize(
    "moment",
    [
        "while the adapter is trained",
        pytest.param("while reading rows", marks=pytest.mark.kill),
        pytest.param("while the tuned model answers", marks=pytest.mark.kill),
    ],
)
def test_killed_loop_leaves_no_orphan_and_the_next_one_goes_on_at_once(tmp_path: Path, moment: str) -> None:
    loop = Loop(tmp_path, small_task(tmp_path / "tasks"))
    process = loop.start("manual_qa", "--max-examples", "6")
    wait_for(lambda: MOMENTS[moment](loop.store) or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0][-3000:]
    processes = family(process.pid)
    os.kill(process.pid, 9)  # the top process only: what it started must notice by itself
    wait_for(lambda: not alive(processes), 30)
    process.communicate()
    output = loop.run("manual_qa", "--max-examples", "6")
    assert "waiting for the device" not in output
    assert (loop.store / "manual_qa.dev6" / "report" / "index.html").is_file()
    assert rubbish(loop.store) == []


def test_a_second_loop_at_once_waits_and_then_makes_nothing_again(tmp_path: Path) -> None:
    loop = Loop(tmp_path, small_task(tmp_path / "tasks"))
    first, second = (loop.start("manual_qa", "--max-examples", "6") for _ in range(2))
    outputs = [process.communicate(timeout=900)[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], (
        outputs[0][-3000:] + outputs[1][-3000:]
    )
    trained = [output.count("adapter: made for the first time") for output in outputs]
    assert sum(trained) == 1
    assert len(list((loop.store / "manual_qa.dev6" / "adapters").glob("*/record.json"))) == 1
