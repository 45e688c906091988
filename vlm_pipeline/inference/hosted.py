"""Hosted predictors through the providers' own clients: retries, adaptive concurrency, and money counted ahead.

A row is asked up to `attempts` times. Every attempt of a row carries the same Idempotency-Key; an attempt whose
answer was lost on the way (cut, timed out, malformed) stays in the budget at its upper bound, since it may have been
paid. Keys come from the environment and are cut out of every message that leaves this module.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from vlm_pipeline.estimates import conversation_tokens
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.inference.budget import Budget, BudgetExhausted
from vlm_pipeline.inference.chat import anthropic_messages, openai_chat, openai_responses, with_calls
from vlm_pipeline.inference.limiter import Limiter, backoff_s
from vlm_pipeline.inference.prediction import Ask, Prediction, answered, failed
from vlm_pipeline.inference.prices import Price
from vlm_pipeline.settings.predictors import GenerationSettings

_SAMPLING = ("temperature", "top_p", "top_k")
_KEY_VARIABLES = re.compile(r"(API_KEY|TOKEN|SECRET)$")
_KEY_SHAPES = re.compile(r"\b(?:sk|hf|pk)[-_][A-Za-z0-9*_-]{8,}")
_T = TypeVar("_T")
log = logging.getLogger(__name__)


def redact(text: str, env: Mapping[str, str] | None = None) -> str:
    """`text` without anything that is a key of this environment or looks like one."""
    for name, value in (os.environ if env is None else env).items():
        if _KEY_VARIABLES.search(name) and len(value) >= 6:
            text = text.replace(value, "***")
    return _KEY_SHAPES.sub("***", text)


class MalformedAnswer(ValueError):
    """The server answered 200 with something that is not an answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    finish_reason: str  # "stop", "length", "refused", or the provider's own word
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exception means: "again", "slower" (429), "row" (this row cannot be answered) or "all" (no row can)."""

    kind: str
    reason: str
    retry_after_s: float | None = None
    maybe_paid: bool = False


class Api(Protocol):
    """One provider's request. `request` is the JSON body, `parse` reads the decoded answer (batches use both)."""

    model: str
    ignored: frozenset[str]  # generation settings that this API cannot express

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]: ...
    def send(self, body: dict[str, Any], key: str) -> Any: ...
    def parse(self, answer: Any) -> Reply: ...


class OpenAIChat:
    """Chat completions of OpenAI, Azure, or a compatible server (`compatible`: its own names of settings)."""

    ignored = frozenset({"top_k", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"})

    def __init__(self, client: Any, model: str, *, compatible: bool = False) -> None:
        self.client, self.model, self._compatible = client, model, compatible
        if compatible:
            self.ignored = frozenset({"no_repeat_ngram_size"})

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]:
        body = {"model": self.model, **openai_chat(talk)}
        body["max_tokens" if self._compatible else "max_completion_tokens"] = generation.max_new_tokens
        body["temperature"] = generation.temperature if generation.do_sample else 0
        if generation.do_sample and generation.top_p < 1:
            body["top_p"] = generation.top_p
        if generation.stop:
            body["stop"] = generation.stop[:4]
        if self._compatible:  # the names of vLLM and SGLang
            extra = {
                "top_k": generation.top_k if generation.do_sample else 0,
                "min_tokens": generation.min_new_tokens,
            }
            body |= {name: value for name, value in extra.items() if value}
            if generation.repetition_penalty != 1.0:
                body["repetition_penalty"] = generation.repetition_penalty
        return body

    def send(self, body: dict[str, Any], key: str) -> Any:
        named = {
            "model",
            "messages",
            "tools",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "stop",
        }
        extra = {name: value for name, value in body.items() if name not in named}
        known = {name: value for name, value in body.items() if name in named}
        headers = {"Idempotency-Key": key}
        return self.client.chat.completions.create(**known, extra_body=extra or None, extra_headers=headers)

    def parse(self, answer: Any) -> Reply:
        try:
            choice, usage = answer.choices[0], answer.usage
            message, reason = choice.message, choice.finish_reason
            calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
            refusal = getattr(message, "refusal", None)
            text = refusal or with_calls(message.content, calls)
            tokens_in, tokens_out = usage.prompt_tokens, usage.completion_tokens
        except (AttributeError, IndexError, TypeError, KeyError) as error:
            raise MalformedAnswer(f"no choices, message or usage in the answer ({error})") from error
        if not isinstance(text, str) or reason is None:
            raise MalformedAnswer("the answer has no text and no reason why")
        reason = (
            "refused" if refusal else {"tool_calls": "stop", "content_filter": "refused"}.get(reason, reason)
        )
        return Reply(text, reason, tokens_in, tokens_out)


class OpenAIResponses:
    ignored = OpenAIChat.ignored | {"stop"}

    def __init__(self, client: Any, model: str) -> None:
        self.client, self.model = client, model

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]:
        body = {"model": self.model, **openai_responses(talk), "store": False}
        body["max_output_tokens"] = max(16, generation.max_new_tokens)  # the API's own minimum
        body["temperature"] = generation.temperature if generation.do_sample else 0
        if generation.do_sample and generation.top_p < 1:
            body["top_p"] = generation.top_p
        return body

    def send(self, body: dict[str, Any], key: str) -> Any:
        return self.client.responses.create(**body, extra_headers={"Idempotency-Key": key})

    def parse(self, answer: Any) -> Reply:
        try:
            calls = [(item.name, item.arguments) for item in answer.output if item.type == "function_call"]
            parts = [part for item in answer.output if item.type == "message" for part in item.content]
            refusals = [part.refusal for part in parts if part.type == "refusal"]
            text = "".join(part.text for part in parts if part.type == "output_text")
            status, usage = answer.status, answer.usage
            tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        except (AttributeError, TypeError, KeyError) as error:
            raise MalformedAnswer(f"no output or usage in the answer ({error})") from error
        if status not in ("completed", "incomplete"):
            raise MalformedAnswer(f"the response is {status}")
        if refusals:
            return Reply(refusals[0], "refused", tokens_in, tokens_out)
        return Reply(
            with_calls(text, calls), "stop" if status == "completed" else "length", tokens_in, tokens_out
        )


class AnthropicMessages:
    ignored = frozenset({"repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"})

    def __init__(self, client: Any, model: str) -> None:
        self.client, self.model = client, model

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]:
        body = {"model": self.model, **anthropic_messages(talk), "max_tokens": generation.max_new_tokens}
        body["temperature"] = min(1.0, generation.temperature) if generation.do_sample else 0
        if generation.do_sample and generation.top_k:
            body["top_k"] = generation.top_k
        if generation.stop:
            body["stop_sequences"] = generation.stop
        return body

    def send(self, body: dict[str, Any], key: str) -> Any:
        # The client no longer names sampling settings (newer models refuse them), the API takes them where it can.
        sampling = {name: body[name] for name in _SAMPLING if name in body}
        named = {name: value for name, value in body.items() if name not in _SAMPLING}
        headers = {"Idempotency-Key": key}
        return self.client.messages.create(**named, extra_body=sampling or None, extra_headers=headers)

    def parse(self, answer: Any) -> Reply:
        try:
            text = "".join(block.text for block in answer.content if block.type == "text")
            calls = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
            reason, usage = answer.stop_reason, answer.usage
            tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        except (AttributeError, TypeError, KeyError) as error:
            raise MalformedAnswer(f"no content or usage in the answer ({error})") from error
        if reason is None:
            raise MalformedAnswer("the answer has no stop reason")
        names = {
            "end_turn": "stop",
            "stop_sequence": "stop",
            "tool_use": "stop",
            "max_tokens": "length",
            "refusal": "refused",
        }
        return Reply(with_calls(text, calls), names.get(reason, reason), tokens_in, tokens_out)


def judge_error(error: Exception) -> Verdict:
    """Sort a client's exception; openai's and anthropic's clients name theirs alike."""
    reason = redact(f"{type(error).__name__}: {error}")[:500]
    status = getattr(error, "status_code", None)
    names = {base.__name__ for base in type(error).__mro__}
    if status is not None and "APIResponseValidationError" not in names:
        code = str(getattr(error, "code", None) or "")
        if status == 429 and code == "insufficient_quota":
            return Verdict("all", reason)
        if status == 429:
            return Verdict("slower", reason, _retry_after(error))
        if status in (401, 402, 403, 404):
            return Verdict("all", reason)
        if status in (408, 409) or status >= 500:
            return Verdict("again", reason, _retry_after(error))
        return Verdict("row", reason)
    if "APIConnectionError" in names or isinstance(
        error, (ValueError, KeyError)
    ):  # lost, late or unreadable answers
        return Verdict("again", reason, maybe_paid=True)
    if "APIResponseValidationError" in names:
        return Verdict("again", reason, maybe_paid=True)
    return Verdict("row", reason)


def _retry_after(error: Any) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return min(120.0, max(0.0, float(headers[name]) / unit))
        except (KeyError, ValueError, TypeError):
            continue
    return None


def patiently(call: Callable[[], _T], *, attempts: int = 10, seed: int = 0) -> _T:
    """Repeat a call that changes nothing twice (a look-up, a download) while the server is merely busy or broken.

    Read the answer inside `call`: a page without rows or a line that is no JSON is a reason to ask again.
    """
    source = random.Random(seed)
    for attempt in range(1, attempts + 1):
        try:
            return _identified(call())
        except Exception as error:
            verdict = judge_error(error)
            # Fields that every real answer has may be missing: the clients build objects of whatever JSON arrives.
            again = verdict.kind in ("again", "slower") or isinstance(error, (TypeError, AttributeError))
            if not again or attempt == attempts:
                raise
            time.sleep(max(backoff_s(attempt, source), verdict.retry_after_s or 0.0))
    raise AssertionError("unreachable")


def create_once(
    find: Callable[[], _T | None], create: Callable[[], _T], *, attempts: int = 10, seed: int = 0
) -> _T:
    """Make something on the server that must exist once. Before every attempt, the first included, it is looked for:
    an answer that was lost on the way may have created it."""

    def find_or_create() -> _T:
        found = patiently(find, seed=seed + 1)
        return create() if found is None else found

    return patiently(find_or_create, attempts=attempts, seed=seed)


def _identified(answer: _T) -> _T:
    if getattr(answer, "id", "") is None:
        raise MalformedAnswer("the answer has no id")
    return answer


class HostedPredictor:
    """Asks one provider's model, many rows at once."""

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
        """Rows one by one as they are answered. After a fatal refusal or at the end of the budget the rest become
        error rows without being sent."""
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix=f"ask-{self.name}")
        waiting: set[Future[Prediction]] = set()
        rest = iter(asks)
        try:
            while True:
                for ask in rest:
                    waiting.add(pool.submit(self.answer, ask))
                    if len(waiting) >= 2 * self._concurrency:
                        break
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield [future.result()]
        finally:
            self._stop = self._stop or "stopped"
            pool.shutdown(wait=True, cancel_futures=True)
            self._stop = None

    def upper_usd(self, talk: Conversation) -> float:
        """What a call may cost at most."""
        return self.price.of(self.tokens_ahead(talk), self.generation.max_new_tokens)

    def tokens_ahead(self, talk: Conversation) -> int:
        sizes = [(image.width, image.height) for image in talk.images]
        return conversation_tokens(talk.messages, self.price_model, sizes, talk.tools)

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
                sent = {name: value for name, value in body.items() if name not in self.dropped}
                try:
                    reply = self.api.parse(self.api.send(sent, key))
                except Exception as error:  # sorted below; anything a client raises belongs to this row
                    verdict = judge_error(error)
                    if not verdict.maybe_paid:
                        self.budget.settle(ticket, 0.0)
                    if self._drop_refused(error, sent):
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

    def _drop_refused(self, error: Exception, sent: dict[str, Any]) -> bool:
        """Reasoning models refuse temperature and the like: leave out what the refusal names, and ask again."""
        if getattr(error, "status_code", None) != 400:
            return False
        said = f"{getattr(error, 'param', None)} {error}".lower()
        names = [name for name in (*_SAMPLING, "stop") if name in sent and re.search(rf"\b{name}\b", said)]
        with self._lock:
            for name in set(names) - self.dropped:
                log.warning("%s refuses %s: asking without it", self.name, name)
            self.dropped.update(names)
        return bool(names)
