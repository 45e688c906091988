"""How many requests are in flight: as many as the server takes, found by trying.

Additive increase, multiplicative decrease (Chiu and Jain 1989): every success lets a little more through, a 429
halves it and holds everybody back for as long as Retry-After says.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Limiter:
    """At most `most` requests at once; `limit` is the present figure."""

    def __init__(self, most: int) -> None:
        self.limit = float(most)
        self._most = most
        self._running = 0
        self._not_before = 0.0
        self._changed = threading.Condition()
        self._last_cut = -1e9

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a free place and for the end of a pause."""
        with self._changed:
            while True:
                wait = self._not_before - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                elif self._running >= max(1, int(self.limit)):
                    self._changed.wait()
                else:
                    break
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def succeeded(self) -> None:
        with self._changed:
            self.limit = min(self._most, self.limit + 1 / max(1.0, self.limit))

    def refused(self, retry_after_s: float | None) -> None:
        """A 429: halve (once per burst, not once per request of it) and pause."""
        with self._changed:
            now = time.monotonic()
            if now - self._last_cut > 0.5:
                self.limit = max(1.0, self.limit / 2)
                self._last_cut = now
            if retry_after_s:
                self._not_before = max(self._not_before, now + retry_after_s)


def backoff_s(attempt: int, random_source: random.Random, *, base: float = 0.5, most: float = 30.0) -> float:
    """Seconds before attempt number `attempt` (1 = first repetition): exponential with full jitter."""
    return random_source.uniform(0, min(most, base * 2**attempt))
