"""What a check found: pass or fail, one readable message, and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vlm_pipeline.manifest import Artifact, make_once
from vlm_pipeline.store import TaskStore, content_hash


@dataclass(frozen=True)
class Verdict:
    """`metadata` is plain JSON; `message` says what failed, where, and what to do."""

    passed: bool
    message: str
    metadata: dict[str, Any] = field(default_factory=dict)


def verdict_once(
    store: TaskStore, name: str, inputs: Mapping[str, str], decide: Callable[[], Verdict]
) -> Verdict:
    """The verdict on these inputs, decided now or remembered: an unchanged loop checks nothing twice."""

    def make() -> Artifact:
        verdict = asdict(decide())
        return Artifact(content_hash(verdict), verdict)

    return Verdict(**make_once(store, f"checks/{name}", inputs, make).metadata)
