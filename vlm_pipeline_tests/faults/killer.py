"""SIGKILL at an exact moment, in whatever process of a loop reaches it first.

A moment travels in the environment: with `hook/` on PYTHONPATH every Python process of a loop or a daemon loads this
module (by `sitecustomize`) and waits for it. Production code knows nothing of that. Standard library only: it is
imported before anything else.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "VLM_PIPELINE_TESTS_KILL"
HOOK = Path(__file__).parent / "hook"
_PATH_OF: dict[str, Callable[..., str]] = {
    "replace": lambda source, target, **more: os.fspath(target),
    "rename": lambda source, target, **more: os.fspath(target),
    "fsync": lambda file: str(Path(f"/proc/self/fd/{file}").readlink()),
}


@dataclass(frozen=True)
class Stop:
    """Just before (or after) the `call`-th call of a function, "module:attribute", in a process of its own choice.

    about: a pattern that the arguments must show; program: one that the process's command line must show.
    """

    place: str
    call: int = 1
    after: bool = False
    about: str = ""
    program: str = ""
    who: str = "itself"  # as in `kill`

    def arm(self, note: str | None = None) -> None:
        if not re.search(self.program, " ".join(sys.orig_argv)):
            return
        module, _, path = self.place.partition(":")
        owner: Any = importlib.import_module(module)
        *owners, name = path.split(".")
        for one in owners:
            owner = getattr(owner, one)
        setattr(
            owner, name, _deadly(getattr(owner, name), self, lambda *a, **o: f"{a} {o}", self.about, note)
        )


@dataclass(frozen=True)
class Write:
    """Just before (or after) the `call`-th time that a process puts a file in place whose path shows `target`.

    how: "replace" (an artifact takes its place), "rename" (a folder does), "fsync" (lines are appended for good), or
    "open" (a file is opened for writing; only before). request: text that the payload's request must hold.
    torn: so many of the file's last bytes never reach the disk, as when a write is cut in the middle.
    """

    target: str
    how: str = "replace"
    call: int = 1
    after: bool = False
    who: str = "itself"  # as in `kill`
    request: str = ""
    torn: int = 0

    def arm(self, note: str | None = None) -> None:
        if self.how != "open":
            path_of = _PATH_OF[self.how]
            setattr(os, self.how, _deadly(getattr(os, self.how), self, path_of, self.target, note))
            return
        opened = _deadly(lambda path: None, self, str, self.target, note)

        def hear(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(arguments[0], str) and set(arguments[1] or "") & set("wax+"):
                opened(arguments[0])

        sys.addaudithook(hear)


def _deadly(
    function: Callable, moment: Any, text_of: Callable[..., str], pattern: str, note: str | None
) -> Any:
    """The function, but for the call of this moment; that call does not return."""
    calls, wanted = itertools.count(1), re.compile(pattern)

    def deadly(*arguments: Any, **options: Any) -> Any:
        text = text_of(*arguments, **options)
        now = (
            wanted.search(text) and _was_asked(getattr(moment, "request", "")) and next(calls) == moment.call
        )
        if now and not moment.after:
            if getattr(moment, "torn", 0):
                os.truncate(text, Path(text).stat().st_size - moment.torn)
            kill(moment.who, note)
        result = function(*arguments, **options)
        if now:
            kill(moment.who, note)
        return result

    return deadly


def _was_asked(request: str) -> bool:
    """Whether this process's last argument is a request file that holds the text."""
    return not request or (Path(sys.argv[-1]).is_file() and request in Path(sys.argv[-1]).read_text("utf-8"))


def kill(who: str, note: str | None = None) -> None:
    """SIGKILL of this process ("itself"), of its group's first one ("top": the rest must notice), or of the "group".

    `note`: a file that receives this process's command line, so that a test sees that the moment came, and where.
    """
    if note:
        Path(note).write_text(" ".join(sys.orig_argv), "utf-8")
    if who == "group":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpgrp() if who == "top" else os.getpid(), signal.SIGKILL)
    time.sleep(60)  # goes no further; whoever is still here then is an orphan
    os._exit(99)


def environment(moment: Stop | Write, note: Path) -> dict[str, str]:
    """What a process and all that it starts need in their environment, beside `HOOK` on PYTHONPATH."""
    told = {"kind": type(moment).__name__, "moment": asdict(moment), "note": str(note)}
    return {VARIABLE: json.dumps(told)}


def arm_from_environment() -> None:
    told = json.loads(os.environ.get(VARIABLE, "null"))
    if told:
        kinds = {"Stop": Stop, "Write": Write}
        kinds[told["kind"]](**told["moment"]).arm(told["note"])
