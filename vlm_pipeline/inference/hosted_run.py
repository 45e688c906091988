"""Hosted predictors of a task: rows as conversations, clients from the environment, one budget for the run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.inference.apis import AnthropicMessages, Api, OpenAIChat, OpenAIResponses
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.chat import conversation_hash
from vlm_pipeline.inference.clients import client_for
from vlm_pipeline.inference.hosted import HostedPredictor
from vlm_pipeline.inference.openai_batch import BatchPredictor
from vlm_pipeline.inference.predict import Counts
from vlm_pipeline.inference.prediction import Ask, part_of
from vlm_pipeline.inference.predictors import NOT_RUN, availability, fine_tune_info, is_azure, server_place
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
    for row in read_formatted_rows(list(formatted), _COLUMNS, splits):
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
    if is_azure(settings) and model:
        identity["tuned"] = model  # a deployment keeps its name when another model is put there
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
    client = client_for(settings, env)
    if isinstance(settings, AnthropicPredictor):
        return AnthropicMessages(client, settings.model)
    if isinstance(settings, OpenAICompatiblePredictor):
        return OpenAIChat(client, settings.model, compatible=True)
    if isinstance(settings, OpenAIFineTunedPredictor) and model is None:
        raise ValueError(f"{settings.name}: the fine-tuning job has given no model yet")
    asked = settings.deployment if is_azure(settings) else model or settings.model
    responses = isinstance(settings, OpenAIPredictor) and settings.api == "responses"
    return (OpenAIResponses if responses else OpenAIChat)(client, asked)


def stand_in(settings: Any, client: Any) -> str:
    """What every table calls these answers where no provider and no model of one's own gave them; else "".

    A provider's model that this machine answered for is a stand-in; a compatible server here is one if it says so.
    """
    host = urlsplit(f"//{server_place(settings)}").hostname or ""
    if not (
        host == "localhost"
        or host.endswith(".localhost")
        or host.startswith("127.")
        or host in ("::1", "0.0.0.0")
    ):
        return ""
    if isinstance(settings, OpenAICompatiblePredictor):
        try:
            owners = {model.owned_by for model in client.with_options(timeout=5).models.list()}
        except Exception:  # not every server lists its models
            return ""
        if "stand-in" not in owners:
            return ""
    return f"stand-in on {host}"


def _priced_model(settings: Any, api: Api) -> str:
    """The model whose price holds: what a deployment is called says nothing."""
    if isinstance(settings, AzureOpenAIPredictor):
        return settings.model or settings.deployment
    if isinstance(settings, OpenAIFineTunedPredictor):
        return f"ft:{settings.model.removeprefix('ft:')}"
    return api.model


class HostedSession:
    """The hosted predictors of one request share rows and budget."""

    def __init__(
        self,
        task: Task,
        store: TaskStore,
        formatted: Sequence[str],
        splits: Sequence[str],
        run_id: str | None,
        part: Sequence[int] | None = None,
    ) -> None:
        self._task, self._store, self._formatted, self._splits = task, store, formatted, splits
        self._part = part
        ledger = store.path("spend", f"{run_id}.jsonl") if run_id else None
        self.budget = Budget(task.budget.money_usd, ledger)

    @property
    def asks(self) -> Iterable[Ask]:
        return part_of(stream_asks(self._formatted, self._splits), self._part)

    def answer(
        self,
        settings: Any,
        output: Path,
        write: Callable[[Any, Any, Iterable[Ask], Path, Callable[[], dict[str, Any]]], Counts],
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

        played = stand_in(settings, predictor.api.client)

        def about() -> dict[str, Any]:
            price = predictor.price
            return {
                "model": predictor.api.model,
                "place": server_place(settings),
                "stand_in": played,
                "price": {"input": price.input, "output": price.output, "as_of": price.as_of},
                "ignored_settings": predictor.api.unmet(generation),
                "refused_settings": sorted(predictor.dropped),
            }

        counts = write(settings, predictor, self.asks, output, about)
        refused = {"refused_settings": sorted(predictor.dropped)} if predictor.dropped else {}
        return {
            **counts.as_dict(),
            **refused,
            **({"stand_in": played} if played else {}),
            "budget_usd": self.budget.limit_usd,
            "spent_usd": self.budget.spent_usd,
        }
