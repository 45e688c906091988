"""Hosted predictors through the providers' own clients: retries, adaptive concurrency, and money counted ahead.

A row is asked up to `attempts` times. Every attempt of a row carries the same Idempotency-Key; an attempt whose
answer was lost on the way (cut, timed out, malformed) stays in the budget at its upper bound, since it may have been
paid.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from vlm_pipeline.estimates import ROWS_AT_ONCE, conversation_tokens
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.inference.apis import SAMPLING, Api
from vlm_pipeline.inference.budget import Budget, BudgetExhausted
from vlm_pipeline.inference.limiter import Limiter, backoff_s
from vlm_pipeline.inference.patience import judge_error
from vlm_pipeline.inference.prediction import Ask, Prediction, answered, failed
from vlm_pipeline.inference.prices import Price
from vlm_pipeline.redaction import redact
from vlm_pipeline.settings.predictors import GenerationSettings

log = logging.getLogger(__name__)


class HostedPredictor:
    """Asks one provider's model, many rows at once."""

    rows_at_once: int | None = ROWS_AT_ONCE

    def __init__(
        self,
        name: str,
        api: Api,
        generation: GenerationSettings,
        *,
        fingerprint: str,
        price: Price,
        budget: Budget,
        price_model: str | None = None,
        concurrency: int = 8,
        attempts: int = 10,
        seed: int = 0,
    ) -> None:
        self.name, self.generation, self.fingerprint = name, generation, fingerprint
        self.api, self.price, self.budget = api, price, budget
        self.price_model = price_model or api.model  # whose rule counts a picture's tokens
        self.limiter = Limiter(concurrency)
        self._concurrency, self._attempts = concurrency, attempts
        self._random = random.Random(seed)
        self.dropped: set[str] = set()  # settings that this model refuses
        self._stop: str | None = None  # why no further row is asked
        self._lock = threading.Lock()

    def predict(self, asks: Sequence[Ask]) -> Iterator[list[Prediction]]:
        """Rows as they are answered. After a fatal refusal or at the end of the budget the rest become error rows
        without being sent.

        What is sent and not yet taken by the caller never exceeds `concurrency`, so that a caller who stores what it
        takes asks no more than that again after a kill.
        """
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix=f"ask-{self.name}")
        waiting: set[Future[Prediction]] = set()
        rest = iter(asks)
        try:
            while True:
                for ask in rest:
                    waiting.add(pool.submit(self.answer, ask))
                    if len(waiting) >= self._concurrency:
                        break
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield [future.result() for future in done]
        finally:
            self._stop = self._stop or "stopped"
            pool.shutdown(wait=True, cancel_futures=True)
            self._stop = None

    def upper_usd(self, talk: Conversation) -> float:
        """What a call may cost at most."""
        return self.price.of(self.tokens_ahead(talk), self.api.most_out(self.generation))

    @property
    def deterministic(self) -> bool:
        """Whether the same question gets the same answer again: not from a model that refuses a temperature of 0."""
        return self.generation.deterministic and "temperature" not in self.dropped

    def tokens_ahead(self, talk: Conversation) -> int:
        """Tokens of the question at most."""
        sizes = [(image.width, image.height) for image in talk.images]
        return conversation_tokens(talk.messages, self.price_model, sizes, talk.tools, at_most=True)

    def answer(self, ask: Ask) -> Prediction:
        """One row, an error row where there is no answer; may be called from several threads."""
        started = time.perf_counter()
        key = ask.key(self.fingerprint, self.generation)
        reason = "no attempt was made"
        try:
            body = self.api.request(ask.body, self.generation)
            upper = self.upper_usd(ask.body)
        except (OSError, ValueError) as error:
            return failed(ask, self.name, redact(f"the request cannot be built: {error}"))
        attempt = 0
        while attempt < self._attempts:
            if self._stop:
                return failed(ask, self.name, self._stop)
            with self.limiter.slot():
                try:
                    ticket = self.budget.reserve(upper)
                except BudgetExhausted as error:
                    self._stop = str(error)
                    return failed(ask, self.name, str(error))
                sent = self.accepted(body)
                try:
                    reply = self.api.parse(self.api.send(sent, key))
                except Exception as error:  # sorted below; anything a client raises belongs to this row
                    verdict = judge_error(error)
                    if not verdict.maybe_paid:
                        self.budget.settle(ticket, 0.0)
                    said = f"{getattr(error, 'param', None)} {error}"
                    if verdict.status == 400 and self.drop_refused(said, sent):
                        continue
                else:
                    self.limiter.succeeded()
                    cost = self.price.of(reply.tokens_in, reply.tokens_out)
                    self.budget.settle(ticket, cost)
                    return answered(
                        ask, self.name, text=reply.text, finish_reason=reply.finish_reason, tokens_in=reply.tokens_in,
                        tokens_out=reply.tokens_out, latency_s=time.perf_counter() - started, cost_usd=cost,
                    )  # fmt: skip
            reason = verdict.reason
            if verdict.kind == "slower":
                self.limiter.refused(verdict.retry_after_s)
            if verdict.kind == "all":
                self._stop = f"not asked: the provider refuses every request ({reason})"
            if verdict.kind in ("row", "all"):
                break
            attempt += 1
            pause = backoff_s(attempt, self._random)
            time.sleep(max(pause, verdict.retry_after_s or 0.0) if attempt < self._attempts else 0.0)
        return failed(ask, self.name, f"{reason} (after {attempt} repetitions)" if attempt else reason)

    def accepted(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request without what this model has refused."""
        return {name: value for name, value in body.items() if name not in self.dropped}

    def drop_refused(self, said: str, sent: Collection[str]) -> bool:
        """Reasoning models refuse temperature and the like: leave out what the refusal names, and ask again."""
        names = [
            name for name in (*SAMPLING, "stop") if name in sent and re.search(rf"\b{name}\b", said.lower())
        ]
        with self._lock:
            for name in set(names) - self.dropped:
                log.warning("%s refuses %s: asking without it", self.name, name)
            self.dropped.update(names)
        return bool(names)
