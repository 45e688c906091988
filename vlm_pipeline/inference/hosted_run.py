"""Hosted predictors of a task: rows as conversations, clients from the environment, one budget for the run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.inference.apis import AnthropicMessages, Api, OpenAIChat, OpenAIResponses
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.chat import conversation_hash
from vlm_pipeline.inference.hosted import HostedPredictor
from vlm_pipeline.inference.openai_batch import BatchPredictor
from vlm_pipeline.inference.predict import Counts
from vlm_pipeline.inference.prediction import Ask
from vlm_pipeline.inference.predictors import NOT_RUN, availability, fine_tune_info, server_place, server_url
from vlm_pipeline.inference.prices import Price, PriceError, price_of
from vlm_pipeline.settings.predictors import (
    AnthropicPredictor,
    AzureOpenAIPredictor,
    GenerationSettings,
    OpenAICompatiblePredictor,
    OpenAIFineTunedPredictor,
    OpenAIPredictor,
)
from vlm_pipeline.store import TaskStore, content_hash, read_json
from vlm_pipeline.task import Task

_COLUMNS = ["id", "section", "group", "split", "messages", "tools", "images", "image_sha256"]


def conversation_asks(formatted: Sequence[Path | str], splits: Sequence[str]) -> list[Ask]:
    """The same rows that local predictors are asked, as the conversations that their prompts were rendered from."""
    return list(stream_asks(formatted, splits))


def stream_asks(formatted: Sequence[Path | str], splits: Sequence[str]) -> Iterator[Ask]:
    """`conversation_asks`, one at a time."""
    for row in read_formatted_rows(list(formatted), _COLUMNS):
        if row["split"] not in splits:
            continue
        images = [
            _image_ref(path, sha)
            for path, sha in zip(row["images"] or (), row["image_sha256"] or (), strict=True)
        ]
        tools = json.loads(row["tools"]) if row["tools"] else None
        talk = Conversation(json.loads(row["messages"]), images, tools).without_answer()
        yield Ask(
            row["id"], row["section"], row["group"], row["split"], conversation_hash(talk),
            tuple(image.sha256 for image in talk.images), talk,
        )  # fmt: skip


@lru_cache(maxsize=10_000)
def _image_ref(path: str, sha256: str) -> ImageRef:
    """The picture with its size, read from the header; one that cannot be read counts as large and fails its row."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return ImageRef(path, None, sha256, *image.size, image.format or "?")
    except (OSError, ValueError, SyntaxError):
        return ImageRef(path, None, sha256, 2048, 2048, "?")


def make_hosted(
    settings: Any,
    generation: GenerationSettings,
    budget: Budget,
    *,
    model: str | None = None,
    journal: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> HostedPredictor:
    """The predictor of these settings. model: the fine-tuned model's id. journal: where batch ids are kept.

    Raises PriceError where no price is known: without one the budget could not hold.
    """
    env = os.environ if env is None else env
    api = _api(settings, model, env)
    free = isinstance(settings, OpenAICompatiblePredictor) and settings.price is None
    price = (
        Price(0, 0, as_of="own server")
        if free
        else price_of(_priced_model(settings, api), settings.price, env)
    )
    identity = {"kind": settings.kind, "model": api.model, "api": type(api).__name__}
    identity["place"] = server_place(settings, env)
    batch = isinstance(settings, OpenAIPredictor) and settings.batch
    options: dict[str, Any] = {
        "fingerprint": content_hash(identity, length=24),
        "price": price,
        "price_model": _priced_model(settings, api),
        "budget": budget,
        "concurrency": settings.concurrency,
        "attempts": settings.attempts,
        "seed": generation.seed,
    }
    if batch:
        assert journal is not None, "the batch API needs a place to remember the batch's id"
        return BatchPredictor(
            settings.name, api, generation, journal=journal, wait_s=settings.batch_wait_s, **options
        )
    return HostedPredictor(settings.name, api, generation, **options)


def _api(settings: Any, model: str | None, env: Mapping[str, str]) -> Api:
    """The provider's client, its own retries off: ours see every 429."""
    url = server_url(settings, env)
    common: dict[str, Any] = {"max_retries": 0, "timeout": settings.timeout_s}
    if isinstance(settings, AnthropicPredictor):
        from anthropic import Anthropic

        client: Any = Anthropic(api_key=env["ANTHROPIC_API_KEY"], base_url=url, **common)
        return AnthropicMessages(client, settings.model)
    if isinstance(settings, AzureOpenAIPredictor):
        from openai import AzureOpenAI

        client = AzureOpenAI(
            api_key=env["AZURE_OPENAI_API_KEY"], azure_endpoint=url, api_version=settings.api_version, **common
        )  # fmt: skip
        return OpenAIChat(client, settings.deployment)
    from openai import OpenAI

    if isinstance(settings, OpenAICompatiblePredictor):
        key = env.get(settings.api_key_env, "") if settings.api_key_env else ""
        return OpenAIChat(
            OpenAI(api_key=key or "none", base_url=url, **common), settings.model, compatible=True
        )
    client = OpenAI(api_key=env["OPENAI_API_KEY"], base_url=url, **common)
    if isinstance(settings, OpenAIFineTunedPredictor):
        if model is None:
            raise ValueError(f"{settings.name}: the fine-tuning job has given no model yet")
        return OpenAIChat(client, model)
    api = OpenAIResponses if settings.api == "responses" else OpenAIChat
    return api(client, settings.model)


def _priced_model(settings: Any, api: Api) -> str:
    return (
        (settings.model or settings.deployment) if isinstance(settings, AzureOpenAIPredictor) else api.model
    )


class HostedSession:
    """The hosted predictors of one request share rows and budget."""

    def __init__(
        self,
        task: Task,
        store: TaskStore,
        formatted: Sequence[str],
        splits: Sequence[str],
        run_id: str | None,
    ) -> None:
        self._task, self._store, self._formatted, self._splits = task, store, formatted, splits
        ledger = store.path("spend", f"{run_id}.jsonl") if run_id else None
        self.budget = Budget(task.budget.money_usd, ledger)
        self._asks: list[Ask] | None = None

    @property
    def asks(self) -> list[Ask]:
        if self._asks is None:
            self._asks = conversation_asks(self._formatted, self._splits)
        return self._asks

    def answer(
        self,
        settings: Any,
        output: Path,
        write: Callable[[Any, Any, Sequence[Ask], Path, Callable[[], dict[str, Any]]], Counts],
    ) -> dict[str, Any]:
        """Write the table through `write` and return its counts, or {"status": why not}."""
        fine_tuned = isinstance(settings, OpenAIFineTunedPredictor)
        info = (
            read_json(fine_tune_info(self._task, self._store, settings), default={}) if fine_tuned else None
        )
        reason = availability(settings, fine_tune=info)
        if reason:
            return {"status": reason}
        generation = self._task.generation_of(settings)
        try:
            predictor = make_hosted(
                settings, generation, self.budget, model=info["fine_tuned_model"] if info else None,
                journal=self._store.path("predictions", "batches", f"{settings.name}.json"),
            )  # fmt: skip
        except PriceError as error:
            return {"status": f"{NOT_RUN}: {error}"}
        if problem := predictor.api.refuse(generation):
            return {"status": f"{NOT_RUN}: {problem}"}

        def about() -> dict[str, Any]:
            price = predictor.price
            return {
                "model": predictor.api.model,
                "place": server_place(settings),
                "price": {"input": price.input, "output": price.output, "as_of": price.as_of},
                "ignored_settings": predictor.api.unmet(generation),
                "refused_settings": sorted(predictor.dropped),
            }

        counts = write(settings, predictor, self.asks, output, about)
        refused = {"refused_settings": sorted(predictor.dropped)} if predictor.dropped else {}
        return {
            **counts.as_dict(),
            **refused,
            "budget_usd": self.budget.limit_usd,
            "spent_usd": self.budget.spent_usd,
        }
