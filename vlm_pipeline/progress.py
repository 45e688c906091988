"""How far a long step is: text lines that people and programs read, and a bar of them in the terminal.

A line is `training step 34/2640, 6 min 6 s left, loss 2.1`: `Progress` says it, wherever the step runs, and
`read_line` reads it back where a terminal shows it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

EVERY_SECONDS = 5.0
_LINE = re.compile(
    r"(?P<stage>\S.*?) (?P<done>\d[\d,]*)/(?P<total>\d[\d,]*)(?:, (?P<left>[\d hmins]+) left|, took [\d hmins]+)?(?:, (?P<note>.*))?"
)
T = TypeVar("T")


class Progress:
    """Says how far each stage is, at most one line per `every_seconds`.

    A stage's first and last step are always said, unless `quiet`: then a stage that is done within `every_seconds` says
    nothing at all.
    """

    def __init__(
        self, say: Callable[[str], None], every_seconds: float = EVERY_SECONDS, *, quiet: bool = False
    ) -> None:
        self._say, self._every, self._quiet = say, every_seconds, quiet
        self._started: dict[str, tuple[float, int]] = {}
        self._shown: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        started, first = self._started.setdefault(stage, (now, done))
        waited = now - self._shown.get(stage, started if self._quiet else started - self._every)
        last = done >= total and (not self._quiet or stage in self._shown)
        if waited < self._every and not last:
            return
        self._shown[stage] = now
        elapsed = now - started
        if done > first and done < total:
            timing = f", {duration(elapsed / (done - first) * (total - done))} left"
        else:
            timing = f", took {duration(elapsed)}" if done >= total else ""
        self._say(f"{stage} {done}/{total}{timing}{', ' + note if note else ''}")

    def over(self, stage: str, items: Iterable[T], total: int | None) -> Iterator[T]:
        """The same items, counted as they go by; with an unknown total nothing is said."""
        for done, item in enumerate(items, 1):
            yield item
            if total and done < total:  # an estimate may be too small; the end is said when it is there
                self(stage, done, total)
        if total:
            self(stage, total, total)


@dataclass(frozen=True)
class Step:
    stage: str
    done: int
    total: int
    left: str = ""
    note: str = ""


def read_line(text: str) -> Step | None:
    """What a progress line says; None for any other line."""
    found = _LINE.fullmatch(text.strip())
    if found is None:
        return None
    done, total = (int(found[name].replace(",", "")) for name in ("done", "total"))
    if not 0 <= done <= total or not total:
        return None
    return Step(found["stage"], done, total, found["left"] or "", found["note"] or "")


def duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
