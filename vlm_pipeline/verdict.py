"""What a check found: pass or fail, one readable message, and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """`metadata` is plain JSON; `message` says what failed, where, and what to do."""

    passed: bool
    message: str
    metadata: dict[str, Any] = field(default_factory=dict)
