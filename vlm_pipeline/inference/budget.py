"""A hard limit on money: a call is made only if its upper bound still fits.

The limit holds for a whole run, whatever processes it is made of: what was spent is a ledger on disk, one line per
call, appended under a lock. What was promised but not settled (a call in flight, or one whose answer was lost) is
counted at its upper bound, so the limit may stop a little early and never late.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import threading
import uuid
from pathlib import Path


class BudgetExhausted(Exception):
    """The next call might cost more than is left; nothing was sent."""


class Budget:
    """`limit_usd` for everything that writes to the same `ledger`; without a ledger, for this object."""

    def __init__(self, limit_usd: float, ledger: Path | None = None) -> None:
        self.limit_usd = limit_usd
        self._ledger = ledger
        self._lock = threading.Lock()
        self._own = uuid.uuid4().hex  # every ticket of ours begins with it
        self._numbers = itertools.count()
        self._open: dict[str, float] = {}  # our calls that are not settled
        self._others: dict[str, float] = {}  # other processes' calls
        self._total = 0.0  # kept, not summed: a run may make a million calls
        self._read_to = 0

    @property
    def spent_usd(self) -> float:
        """Settled calls and the upper bounds of open ones."""
        with self._lock:
            self._refresh()
            return self._total

    def reserve(self, upper_usd: float, what: str = "the next call") -> str:
        """Set the upper bound of a call aside and return its ticket. Raises BudgetExhausted."""
        with self._lock:
            ticket = f"{self._own}-{next(self._numbers)}"
            if self._ledger is None:
                self._check(upper_usd, what)
            else:
                self._ledger.parent.mkdir(parents=True, exist_ok=True)
                with self._ledger.open("ab+") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    self._refresh()
                    self._check(upper_usd, what)
                    self._append(handle, ticket, upper_usd)
            self._open[ticket] = upper_usd
            self._total += upper_usd
            return ticket

    def settle(self, ticket: str, usd: float) -> None:
        """Replace a reservation by what the call cost (0: it was refused and costs nothing)."""
        with self._lock:
            self._total += usd - self._open.pop(ticket)
            if self._ledger is not None:
                with self._ledger.open("ab+") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    self._append(handle, ticket, usd)

    def _check(self, upper_usd: float, what: str) -> None:
        total = self._total
        if total + upper_usd > self.limit_usd * (1 + 1e-9):
            raise BudgetExhausted(
                f"not asked: {what} may cost {upper_usd:.6f} USD, {total:.6f} of {self.limit_usd:.6f} USD are spent or promised"
            )

    def _append(self, handle: object, ticket: str, usd: float) -> None:
        handle.write(json.dumps({"call": ticket, "usd": usd}).encode() + b"\n")  # type: ignore[attr-defined]
        handle.flush()  # type: ignore[attr-defined]

    def _refresh(self) -> None:
        if self._ledger is None or not self._ledger.exists():
            return
        with self._ledger.open("rb") as handle:
            handle.seek(self._read_to)
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # torn by a killed writer
                call, usd = entry["call"], float(entry["usd"])
                if not call.startswith(self._own):
                    self._total += usd - self._others.get(call, 0.0)
                    self._others[call] = usd
