"""A judge behind DeepEval's model class: a hosted predictor under the run's budget, pictures, strict schemas, the cache.

DeepEval is imported inside `deepeval_model` only, with its switches set first: no telemetry, no .env file, no prompt,
and its working folder beside the row cache instead of the current directory.

What DeepEval would let pass is refused here: a reply that is not the asked-for JSON, or holds a verdict outside the
vocabulary ("maybe" would count as relevant), raises `InvalidJudgement` instead of scoring.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.examples.images import ImageLimits, ImageReader
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.inference.apis import OpenAIChat
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.cache import RowCache
from vlm_pipeline.inference.chat import conversation_hash
from vlm_pipeline.inference.hosted_run import make_hosted
from vlm_pipeline.inference.prediction import Ask, Prediction
from vlm_pipeline.inference.predictors import availability
from vlm_pipeline.redaction import redact
from vlm_pipeline.settings.judging import KEY_VARIABLES, JudgeSettings
from vlm_pipeline.settings.predictors import (
    AnthropicPredictor,
    GenerationSettings,
    OpenAICompatiblePredictor,
    OpenAIPredictor,
)
from vlm_pipeline.store import content_hash

SWITCHES = {
    "DEEPEVAL_TELEMETRY_OPT_OUT": "1",
    "DEEPEVAL_DISABLE_DOTENV": "1",
    "DEEPEVAL_NO_INSPECT_PROMPT": "1",
    "DEEPEVAL_UPDATE_WARNING_OPT_IN": "0",
    "ERROR_REPORTING": "0",
}
_JSON = re.compile(r"\{.*\}", re.DOTALL)


class InvalidJudgement(ValueError):
    """The judge's reply is not what was asked for; it counts as no judgement, never as a score."""


class JudgeSilent(RuntimeError):
    """The judge gave no reply: an outage, a refused key, the end of the budget. Another run may ask again."""


@dataclass
class Tally:
    """What the judging took so far; shared by all threads."""

    calls: int = 0
    cache_hits: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def hit(self) -> None:
        with self.lock:
            self.cache_hits += 1

    def add(self, reply: Prediction) -> None:
        with self.lock:
            self.calls += 1
            self.tokens_in += reply.tokens_in
            self.tokens_out += reply.tokens_out
            self.cost_usd += reply.cost_usd

    def as_dict(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name in ("calls", "cache_hits", "tokens_in", "tokens_out", "cost_usd")
        }


@dataclass(frozen=True)
class Case:
    """One answer to judge. ``context`` is what the answer may rest on; ``expected`` the gold answer."""

    id: str
    question: str
    answer: str
    expected: str | None = None
    context: str | None = None
    images: tuple[str, ...] = ()  # paths; read when the case is judged, so that a large table fits in memory


def hosted_settings(judge: JudgeSettings, concurrency: int = 1) -> Any:
    """The hosted predictor that is this judge."""
    common: dict[str, Any] = {
        "name": "judge",
        "model": judge.model,
        "timeout_s": judge.timeout_s,
        "attempts": judge.attempts,
        "price": judge.price,
        "concurrency": concurrency,
    }
    if judge.provider == "anthropic":
        return AnthropicPredictor(kind="anthropic", **common)
    if judge.provider == "openai":
        return OpenAIPredictor(kind="openai", **common)
    return OpenAICompatiblePredictor(
        kind="openai_compatible", base_url=judge.base_url, api_key_env=judge.api_key_env, **common
    )


def environment(judge: JudgeSettings) -> Mapping[str, str]:
    """The environment in which the judge's key and address stand under the names that its client looks for."""
    env = dict(os.environ)
    if usual := KEY_VARIABLES.get(judge.provider):
        env[usual] = os.environ.get(judge.key_variable or usual, "")
        if judge.base_url:
            env[f"{judge.provider.upper()}_BASE_URL"] = judge.base_url
    return env


def unavailable(judge: JudgeSettings, budget_usd: float) -> str | None:
    """Why this judge cannot be asked now, "not run: …"; None when it can."""
    if judge.key_variable and not os.environ.get(judge.key_variable):
        return f"not run: {judge.key_variable} is not set"
    return availability(hosted_settings(judge), environment(judge), budget_usd=budget_usd)


class _InJson:
    """OpenAI's chat route in JSON mode, which it only takes where the prompt says so."""

    def __init__(self, api: OpenAIChat) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]:
        wanted = "json" in json.dumps(talk.messages).lower()
        return self._api.request(talk, generation) | (
            {"response_format": {"type": "json_object"}} if wanted else {}
        )


class Judge:
    """One judge of one run; may be asked from several threads. Raises PriceError where its price is unknown."""

    def __init__(
        self,
        settings: JudgeSettings,
        *,
        cache_folder: Path | str,
        budget: Budget,
        tally: Tally,
        concurrency: int,
    ) -> None:
        self.settings, self._tally = settings, tally
        generation = GenerationSettings(
            max_new_tokens=settings.max_tokens,
            do_sample=settings.temperature > 0,
            temperature=settings.temperature or 1.0,
        )
        self._predictor = make_hosted(
            hosted_settings(settings, concurrency), generation, budget, env=environment(settings)
        )
        if isinstance(self._predictor.api, OpenAIChat):
            self._predictor.api = _InJson(self._predictor.api)
        self._cache = RowCache(cache_folder, f"judge-{self._predictor.fingerprint}")
        self._key = os.environ.get(settings.key_variable or "", "")
        self._lock = threading.Lock()  # of the cache, whose index is not made for several threads

    def ask(self, parts: Sequence[str | bytes], schema: Any, sample: int) -> str:
        """The reply to a prompt of texts and pictures, from the cache where it was given before (by text and image
        bytes). ``sample`` tells repeated judgings apart. Raises InvalidJudgement, JudgeSilent."""
        images = [_picture(part) for part in parts if isinstance(part, bytes)]
        places = iter(range(len(images)))
        content = [
            {"type": "image", "index": next(places)}
            if isinstance(part, bytes)
            else {"type": "text", "text": part}
            for part in parts
            if isinstance(part, bytes) or part.strip()
        ]
        talk = Conversation([{"role": "user", "content": content}], images)
        asked = content_hash([conversation_hash(talk), schema and schema.model_json_schema()], length=32)
        shown = tuple(image.sha256 for image in images)
        request = Ask("", None, None, None, asked, shown, talk, sample)
        key = request.key(self._predictor.fingerprint, self._predictor.generation)
        with self._lock:
            known = self._cache.get(key)
        if known is not None:
            self._tally.hit()
            return known["text"]
        reply = self._predictor.answer(request)
        if reply.error is not None:
            raise JudgeSilent(redact(reply.error, {"JUDGE_API_KEY": self._key}))
        self._tally.add(reply)
        if schema is not None:
            validated(reply.text or "", schema)  # an invalid reply is not kept
        with self._lock:
            self._cache.put(key, reply.stored)
        return reply.text or ""


@lru_cache(maxsize=64)
def _picture(data: bytes) -> ImageRef:
    return ImageReader(None, ImageLimits()).read(data)


def validated(text: str, schema: Any) -> Any:
    """The reply as an object of the schema. Raises InvalidJudgement."""
    from pydantic import ValidationError

    found = _JSON.search(text)
    if not found:
        raise InvalidJudgement(f"no JSON in the judge's reply: {text[:200]!r}")
    try:
        return schema.model_validate(json.loads(found[0]))
    except (json.JSONDecodeError, ValidationError) as error:
        raise InvalidJudgement(
            f"the judge's reply does not fit {schema.__name__}: {str(error)[:200]}"
        ) from error


def prepare_deepeval(folder: Path | str) -> None:
    """Set DeepEval's switches; must come before its first import."""
    os.environ.update({name: os.environ.get(name, value) for name, value in SWITCHES.items()})
    os.environ.setdefault("DEEPEVAL_CACHE_FOLDER", str(Path(folder) / "deepeval"))


def deepeval_model(judge: Judge, *, sample: int = 0) -> Any:
    """The judge as a DeepEvalBaseLLM."""
    from deepeval.models import DeepEvalBaseLLM
    from deepeval.test_case import MLLMImage

    settings = judge.settings

    class Model(DeepEvalBaseLLM):
        def __init__(self) -> None:
            super().__init__(settings.model)

        def load_model(self) -> Any:
            return self

        def get_model_name(self) -> str:
            return f"{settings.provider}:{settings.model}"

        def supports_multimodal(self) -> bool:
            return settings.images

        def generate(self, prompt: str, schema: Any = None) -> Any:
            text = judge.ask(_parts(prompt, MLLMImage), schema, sample)
            return text if schema is None else validated(text, schema)

        async def a_generate(self, prompt: str, schema: Any = None) -> Any:
            import asyncio

            return await asyncio.to_thread(self.generate, prompt, schema)

    return Model()


def _parts(prompt: str, mllm_image: Any) -> list[str | bytes]:
    """The prompt cut at its pictures; DeepEval marks them by a random id, which must not reach the cache."""
    return [
        base64.b64decode(part.dataBase64 or "") if isinstance(part, mllm_image) else part
        for part in mllm_image.parse_multimodal_string(prompt)
    ]
