"""Device memory: how much is used, what lack of it looks like, and the token budget that shrinks when it lacks."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from vlm_pipeline.compute.payload import PayloadError

Result = TypeVar("Result")


class TokenBudget:
    """How many tokens go through the model at once; halved whenever the device has no room for that many."""

    def __init__(self, tokens: int, smallest: int, say: Callable[[str], None]) -> None:
        self.tokens, self._smallest, self._say = tokens, smallest, say

    def run(self, work: Callable[[int], Result], where: str) -> Result:
        """`work(tokens)`, again with half the tokens after each lack of memory.

        Raises PayloadError where not even the shortest row finds room.
        """
        while True:
            try:
                return work(self.tokens)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.tokens <= self._smallest:
                    raise no_room(where) from error
            # Outside the except clause: the traceback holds the tensors of the pass that failed.
            self.tokens //= 2
            free_memory()
            self._say(f"out of memory {where}: the token budget is now {self.tokens:,}")


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the operating system had no memory left; libraries say it in several ways."""
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in text for sign in ("out of memory", "can't allocate memory", "Cannot allocate memory")
    )


def no_room(where: str) -> PayloadError:
    return PayloadError(
        f"out of memory {where} with one row in a forward pass; use gradient_checkpointing, quantization or smaller images"
    )


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> int:
    """Largest memory so far, in bytes: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # ru_maxrss would begin with what the starting process held
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def used_memory(device: torch.device) -> int:
    """Memory in use now, in bytes, counted as `peak_memory` counts."""
    return (
        torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    )
