"""How long payloads held the accelerator: a ledger on disk that a failed payload and a killed run stand in too.

One line every few seconds and at the end, `{"payload": id, "work": names, "seconds": so far}`; the last one counts.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BEAT_S = 5.0
TRAINING = "training"


@contextmanager
def metered(ledger: Path, work: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Note the seconds that pass here. `work` names what they are for: TRAINING, or predictors.

    The dict that is yielded takes `seconds` where the payload itself has counted: it may have waited for the device;
    and `waited`, the seconds so far in a cluster's queue, which are for nothing.
    """
    told: dict[str, Any] = {}
    payload, started, ended = uuid.uuid4().hex, time.monotonic(), threading.Event()
    ledger.parent.mkdir(parents=True, exist_ok=True)

    def held() -> float:
        return max(0.0, time.monotonic() - started - told.get("waited", 0.0))

    def note(seconds: float) -> None:
        line = {"payload": payload, "work": list(work), "seconds": round(seconds, 2)}
        with ledger.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    def beat() -> None:
        while not ended.wait(BEAT_S):
            note(held())

    heart = threading.Thread(target=beat, daemon=True, name="accelerator-meter")
    note(0.0)
    heart.start()
    try:
        yield told
    finally:
        ended.set()
        heart.join()
        note(told.get("seconds", held()))


def accelerator_seconds(ledger: Path, work: Collection[str]) -> float:
    """Seconds of all payloads that were for nothing but `work`."""
    last: dict[str, float] = {}
    for line in ledger.read_text("utf-8").splitlines() if ledger.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # torn by a killed writer
        if set(entry["work"]) <= set(work):
            last[entry["payload"]] = float(entry["seconds"])
    return round(sum(last.values()), 2)
