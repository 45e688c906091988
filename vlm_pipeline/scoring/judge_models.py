"""A judge behind DeepEval's model class: the official clients, pictures, strict schemas, the row cache, cost.

DeepEval is imported inside `judge_model` only, with its switches set first: no telemetry, no .env file, no prompt,
and its working folder beside the row cache instead of the current directory.

What DeepEval would let pass is refused here: a reply that is not the asked-for JSON, or holds a verdict outside the
vocabulary ("maybe" would count as relevant), raises `InvalidJudgement` instead of scoring.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_pipeline.inference.cache import RowCache, request_key
from vlm_pipeline.settings.judging import JudgeSettings

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


class BudgetSpent(RuntimeError):
    """The judges' budget is used up; what is left stays unjudged."""


@dataclass
class Tally:
    """What the judging cost so far; shared by all threads."""

    calls: int = 0
    cache_hits: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0
    max_usd: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def hit(self) -> None:
        with self.lock:
            self.cache_hits += 1

    def check(self) -> None:
        """Raise BudgetSpent before a call that may not be paid any more."""
        with self.lock:
            if self.max_usd is not None and self.cost_usd >= self.max_usd:
                raise BudgetSpent(f"the judges' budget of {self.max_usd:g} USD is spent")

    def add(self, judge: JudgeSettings, tokens_in: int, tokens_out: int) -> None:
        with self.lock:
            self.calls += 1
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
            if judge.input_usd_per_million is None or judge.output_usd_per_million is None:
                self.unpriced_calls += 1
            else:
                self.cost_usd += (
                    tokens_in * judge.input_usd_per_million + tokens_out * judge.output_usd_per_million
                ) / 1e6

    def as_dict(self) -> dict[str, Any]:
        """Counts; the cost is None where a call had no known price."""
        return {
            "calls": self.calls,
            "cache_hits": self.cache_hits,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost_usd": None if self.unpriced_calls else self.cost_usd,
        }


@dataclass(frozen=True)
class Picture:
    """An image as a judge gets it: bytes, media type, hash."""

    data: bytes
    media_type: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode("ascii")

    @classmethod
    def read(cls, path: Path | str) -> Picture:
        data = Path(path).read_bytes()
        for magic, media_type in (
            (b"\x89PNG", "image/png"),
            (b"\xff\xd8", "image/jpeg"),
            (b"GIF8", "image/gif"),
        ):
            if data.startswith(magic):
                return cls(data, media_type)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return cls(data, "image/webp")
        raise ValueError(f"{path} is no PNG, JPEG, GIF or WebP picture: a judge cannot be shown it")


@dataclass(frozen=True)
class Case:
    """One answer to judge. ``context`` is what the answer may rest on; ``expected`` the gold answer."""

    id: str
    question: str
    answer: str
    expected: str | None = None
    context: str | None = None
    images: tuple[str, ...] = ()  # paths; read when the case is judged, so that a large table fits in memory


class JudgeCache:
    """The row cache behind a lock: judges are asked from several threads, its index is not made for that."""

    def __init__(self, folder: Path | str, namespace: str) -> None:
        self._cache = RowCache(folder, namespace)
        self._lock = threading.Lock()

    def get(self, key: str) -> Any | None:
        with self._lock:
            return self._cache.get(key)

    def put(self, key: str, value: Any) -> None:
        with self._lock:
            self._cache.put(key, value)


def unavailable(judge: JudgeSettings) -> str | None:
    """Why this judge cannot be asked now; None when it can."""
    package = "anthropic" if judge.provider == "anthropic" else "openai"
    if importlib.util.find_spec(package) is None:
        return f"not run: the package {package} is not installed"
    if judge.key_variable and not os.environ.get(judge.key_variable):
        return f"not run: {judge.key_variable} is not set"
    return None


def prepare_deepeval(folder: Path | str) -> None:
    """Set DeepEval's switches; must come before its first import."""
    os.environ.update({name: os.environ.get(name, value) for name, value in SWITCHES.items()})
    os.environ.setdefault("DEEPEVAL_CACHE_FOLDER", str(Path(folder) / "deepeval"))


def judge_model(judge: JudgeSettings, cache: JudgeCache, tally: Tally, *, sample: int = 0) -> Any:
    """A DeepEvalBaseLLM that asks this judge. ``sample`` tells repeated judgings of one case apart in the cache."""
    from deepeval.models import DeepEvalBaseLLM
    from deepeval.test_case import MLLMImage

    ask = _Client(judge)

    class Judge(DeepEvalBaseLLM):
        def __init__(self) -> None:
            super().__init__(judge.model)

        def load_model(self) -> Any:
            return self

        def get_model_name(self) -> str:
            return f"{judge.provider}:{judge.model}"

        def supports_multimodal(self) -> bool:
            return judge.images

        def generate(self, prompt: str, schema: Any = None) -> Any:
            parts = _parts(prompt, MLLMImage)
            if not judge.images and any(isinstance(part, Picture) for part in parts):
                raise InvalidJudgement(
                    f"{judge.label} cannot see pictures: set images, or judge without them"
                )
            text = _cached(judge, cache, tally, ask, parts, schema, sample)
            return text if schema is None else _validated(text, schema)

        async def a_generate(self, prompt: str, schema: Any = None) -> Any:
            import asyncio

            return await asyncio.to_thread(self.generate, prompt, schema)

    return Judge()


def _parts(prompt: str, mllm_image: Any) -> list[str | Picture]:
    """The prompt cut at its pictures; DeepEval marks them by a random id, which must not reach the cache."""
    parts: list[str | Picture] = []
    for part in mllm_image.parse_multimodal_string(prompt):
        if isinstance(part, mllm_image):
            parts.append(Picture(base64.b64decode(part.dataBase64 or ""), part.mimeType or "image/png"))
        else:
            parts.append(part)
    return parts


def _cached(
    judge: JudgeSettings,
    cache: JudgeCache,
    tally: Tally,
    ask: _Client,
    parts: list[str | Picture],
    schema: Any,
    sample: int,
) -> str:
    shown = [part for part in parts if isinstance(part, Picture)]
    text = "".join("<picture>" if isinstance(part, Picture) else part for part in parts)
    key = request_key(
        images=[picture.sha256 for picture in shown],
        prompt=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        model=f"{judge.provider} {judge.base_url or ''} {judge.model}",
        generation={
            "temperature": judge.sent_temperature,
            "max_tokens": judge.max_tokens,
            "schema": schema.model_json_schema() if schema is not None else None,
        },
        sample=sample,
    )
    known = cache.get(key)
    if known is not None:
        tally.hit()
        return known["text"]
    tally.check()
    reply = ask(parts, schema)
    tally.add(judge, reply["tokens_in"], reply["tokens_out"])
    if schema is not None:
        _validated(reply["text"], schema)  # an invalid reply is not kept: the next run may ask again
    cache.put(key, reply)
    return reply["text"]


def _validated(text: str, schema: Any) -> Any:
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


class _Client:
    """One official client per judge; called with parts, gives text and token counts."""

    def __init__(self, judge: JudgeSettings) -> None:
        self.judge = judge
        key = os.environ.get(judge.key_variable or "") or "no key"
        options = {"api_key": key, "timeout": judge.timeout_s, "max_retries": judge.retries}
        if judge.base_url:
            options["base_url"] = judge.base_url
        if judge.provider == "anthropic":
            import anthropic

            self._client: Any = anthropic.Anthropic(**options)
        else:
            import openai

            self._client = openai.OpenAI(**options)

    def __call__(self, parts: list[str | Picture], schema: Any) -> dict[str, Any]:
        return self._anthropic(parts) if self.judge.provider == "anthropic" else self._openai(parts, schema)

    def _openai(self, parts: list[str | Picture], schema: Any) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{part.base64}"}}
            if isinstance(part, Picture)
            else {"type": "text", "text": part}
            for part in parts
        ]
        options: dict[str, Any] = {}
        if self.judge.sent_temperature is not None:
            options["temperature"] = self.judge.sent_temperature
        if schema is not None:
            options["response_format"] = {"type": "json_object"}
        limit = "max_completion_tokens" if self.judge.provider == "openai" else "max_tokens"
        reply = self._client.chat.completions.create(
            model=self.judge.model,
            messages=[{"role": "user", "content": content}],
            **{limit: self.judge.max_tokens},
            **options,
        )
        usage = reply.usage
        return {
            "text": reply.choices[0].message.content or "",
            "tokens_in": usage.prompt_tokens if usage else 0,
            "tokens_out": usage.completion_tokens if usage else 0,
        }

    def _anthropic(self, parts: list[str | Picture]) -> dict[str, Any]:
        content = [
            {
                "type": "image",
                "source": {"type": "base64", "media_type": part.media_type, "data": part.base64},
            }
            if isinstance(part, Picture)
            else {"type": "text", "text": part}
            for part in parts
            if isinstance(part, Picture) or part.strip()
        ]
        reply = self._client.messages.create(
            model=self.judge.model,
            max_tokens=self.judge.max_tokens,
            messages=[{"role": "user", "content": content}],
        )
        return {
            "text": "".join(block.text for block in reply.content if block.type == "text"),
            "tokens_in": reply.usage.input_tokens,
            "tokens_out": reply.usage.output_tokens,
        }
