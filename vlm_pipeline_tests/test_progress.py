from __future__ import annotations

import sys

import pytest

from vlm_pipeline.progress import Progress, Step, read_line
from vlm_pipeline.terminal import run
from vlm_pipeline_tests.reporting.test_terminal import in_terminal, plain_text


class _Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("vlm_pipeline.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    return _Clock(monkeypatch)


def test_lines_come_every_few_seconds_with_the_time_left_and_are_read_back(clock: _Clock) -> None:
    lines: list[str] = []
    progress = Progress(lines.append)
    for step in range(101):
        progress("training step", step, 100, "loss 2.1")
        clock.now += 1.0
    assert (
        lines[0] == "training step 0/100, loss 2.1" and lines[1] == "training step 5/100, 95 s left, loss 2.1"
    )
    assert len(lines) == 21 and lines[-1] == "training step 100/100, took 100 s, loss 2.1"
    assert read_line(lines[1]) == Step("training step", 5, 100, "95 s", "loss 2.1")
    assert read_line(lines[-1]) == Step("training step", 100, 100, "", "loss 2.1")


def test_a_quiet_stage_that_is_soon_done_says_nothing_and_a_long_one_does(clock: _Clock) -> None:
    lines: list[str] = []
    progress = Progress(lines.append, quiet=True)
    for _ in progress.over("rows read", range(40), 40):
        clock.now += 0.1
    assert lines == []
    for _ in progress.over("rows scored", range(40), 30):  # an estimate that was too small
        clock.now += 1.0
    assert lines[0] == "rows scored 6/30, 24 s left" and lines[-1] == "rows scored 30/30, took 39 s"
    assert sum("took" in line for line in lines) == 1
    assert list(progress.over("unknown", "abc", None)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "17 usable rows in 5 sections",
        "row 3/2",
        "score: 7/10 points",
        "RUN_SUCCESS",
        "a 1/0",
        "see data/raw/a.jsonl",
    ],
)
def test_other_lines_are_no_progress(line: str) -> None:
    assert read_line(line) is None


RUN = """
import sys, time
head = "2026-11-26 04:15:20 +0000 - dagster - {} - loop_demo - 00000000-0000-0000-0000-000000000000 - {} - {}"
def say(text, level="INFO", step="demo__metrics__tuned"):
    print(head.format(level, step, text), file=sys.stderr, flush=True)
say("17 usable rows")
for done in range(0, 11):
    say(f"rows scored {done}/10" + (", 3 min 2 s left, [bold]x[/bold]" if done < 10 else ", took 4 s"))
    time.sleep(0.03)
say("a [red]warning[/red] \\x1b]0;owned\\x07", "WARNING")
print("a bare line of a library", flush=True)
"""


def test_a_terminal_shows_bars_with_the_time_left_and_short_lines() -> None:
    code = f"import sys, os; from vlm_pipeline.terminal import run; sys.exit(run([sys.executable, '-c', {RUN!r}], os.environ))"
    said = in_terminal([sys.executable, "-c", code])
    plain = plain_text(said)
    assert "metrics/tuned 17 usable rows" in plain and "a bare line of a library" in plain
    assert "metrics/tuned rows scored" in plain and "━" in plain and "3 min 2 s left" in plain
    assert "metrics/tuned rows scored: all 10" in plain
    assert "2026-11-26" not in plain, "the time stamp is left to the log"
    assert "a [red]warning[/red]" in plain and "\x1b]0;" not in said, "text is neither markup nor escape"


def test_where_nobody_looks_every_line_is_as_it_was_and_the_status_is_the_runs(capfd) -> None:
    assert run([sys.executable, "-c", RUN + "\nsys.exit(3)"], {}) == 3
    error = capfd.readouterr().err
    assert error.count("2026-11-26") == 13 and "rows scored 4/10, 3 min 2 s left" in error
