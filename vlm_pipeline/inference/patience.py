"""What a failed request means, and how it is repeated: shared by answers, batches and fine-tuning jobs.

No message that leaves this module holds a key, and no exception carries the client's own one, which may.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from vlm_pipeline.inference.limiter import backoff_s
from vlm_pipeline.redaction import redact

_T = TypeVar("_T")
_LONGEST_PAUSE_S = 120.0


class MalformedAnswer(ValueError):
    """The server answered 200 with something that is not an answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exception means: "again", "slower" (429), "row" (this row cannot be answered) or "all" (no row can)."""

    kind: str
    reason: str
    retry_after_s: float | None = None
    maybe_paid: bool = False
    status: int | None = None  # of the HTTP answer


class RequestFailed(Exception):
    """The provider did not give what was asked for, however patiently; the message holds no key.

    Raised without the client's exception, which may hold one.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def judge_error(error: Exception) -> Verdict:
    """Sort a client's exception; openai's and anthropic's clients name theirs alike."""
    if isinstance(error, RequestFailed):
        return error.verdict
    reason = redact(f"{type(error).__name__}: {error}")[:500]
    status = getattr(error, "status_code", None)
    names = {base.__name__ for base in type(error).__mro__}
    if status is not None and "APIResponseValidationError" not in names:
        after = _retry_after(error)
        if status == 429 and str(getattr(error, "code", None) or "") != "insufficient_quota":
            return Verdict("slower", reason, after, status=status)
        if status in (401, 402, 403, 404, 429):
            return Verdict("all", reason, status=status)
        if status in (408, 409) or status >= 500:
            return Verdict("again", reason, after, status=status)
        return Verdict("row", reason, status=status)
    # Lost, late or unreadable answers; whatever else a client raises is this row's.
    lost = names & {"APIConnectionError", "APIResponseValidationError"} or isinstance(
        error, (ValueError, KeyError)
    )
    return Verdict("again", reason, maybe_paid=True) if lost else Verdict("row", reason)


def _retry_after(error: Any) -> float | None:
    """Seconds to wait, as the header says it: milliseconds, seconds, or a date."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return _bounded(float(headers[name]) / unit)
        except (KeyError, ValueError, TypeError):
            continue
    try:
        return _bounded(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None


def _bounded(seconds: float) -> float:
    return min(_LONGEST_PAUSE_S, max(0.0, seconds))


def patiently(call: Callable[[], _T], *, attempts: int = 10, seed: int = 0) -> _T:
    """Repeat a call that changes nothing twice (a look-up, a download) while the server is merely busy or broken.

    Read the answer inside `call`: a page without rows or a line that is no JSON is a reason to ask again. Raises
    RequestFailed.
    """
    source = random.Random(seed)
    attempt = 1
    while True:
        try:
            return identified(call())
        except RequestFailed:
            raise  # it was patient itself
        except Exception as error:
            verdict = judge_error(error)
            # Fields that every real answer has may be missing: the clients build objects of whatever JSON arrives.
            again = verdict.kind in ("again", "slower") or isinstance(error, (TypeError, AttributeError))
        if not again or attempt == attempts:
            raise RequestFailed(verdict)
        time.sleep(max(backoff_s(attempt, source), verdict.retry_after_s or 0.0))
        attempt += 1


def create_once(
    find: Callable[[], _T | None], create: Callable[[], _T], *, attempts: int = 10, seed: int = 0
) -> _T:
    """Make something on the server that must exist once. Before every attempt, the first included, it is looked for:
    an answer that was lost on the way may have created it."""

    def find_or_create() -> _T:
        found = patiently(find, seed=seed + 1)
        return create() if found is None else found

    return patiently(find_or_create, attempts=attempts, seed=seed)


def identified(answer: _T) -> _T:
    """The object that the server made; one without an id is malformed."""
    if getattr(answer, "id", "") is None:
        raise MalformedAnswer("the answer has no id")
    return answer
