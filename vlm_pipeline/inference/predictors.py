"""From settings to predictors, and why one cannot run now. A predictor that cannot run is listed with its reason;
it never breaks the loop and never looks like a zero. Importing this module loads neither models nor clients."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vlm_pipeline.settings.predictors import (
    AnthropicPredictor,
    AzureOpenAIPredictor,
    OpenAICompatiblePredictor,
    OpenAIFineTunedPredictor,
    TransformersPredictor,
)
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task

_AZURE_KEYS = ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT")
_CONNECT_SECONDS = 2.0
NOT_RUN = "not run"


def adapter_predictor(adapter_id: str) -> TransformersPredictor:
    """An adapter of the store as a predictor of its own, called by its id."""
    return TransformersPredictor(name=adapter_id, kind="transformers", adapter=adapter_id)


def is_local(predictor: Any) -> bool:
    """Whether the answers come from this machine's own model."""
    return isinstance(predictor, TransformersPredictor)


def is_azure(predictor: Any) -> bool:
    fine_tuned = isinstance(predictor, OpenAIFineTunedPredictor) and predictor.provider == "azure_openai"
    return fine_tuned or isinstance(predictor, AzureOpenAIPredictor)


def key_variables(predictor: Any) -> tuple[str, ...]:
    """Environment variables without which a hosted predictor cannot be asked."""
    if isinstance(predictor, OpenAICompatiblePredictor):
        return (predictor.api_key_env,) if predictor.api_key_env else ()
    if isinstance(predictor, AnthropicPredictor):
        return ("ANTHROPIC_API_KEY",)
    return _AZURE_KEYS if is_azure(predictor) else ("OPENAI_API_KEY",)


def fine_tune_info(task: Task, store: TaskStore, predictor: OpenAIFineTunedPredictor) -> Path:
    """Where the job of a hosted fine-tune is written down: `openai/fine_tune_info.json` for the task's first one,
    and a file that carries the predictor's name for every other."""
    first = next(one for one in task.predictors if isinstance(one, OpenAIFineTunedPredictor))
    own = "" if predictor.name == first.name else f"-{predictor.name}"
    return store.path("openai", f"fine_tune_info{own}.json")


def server_url(predictor: Any, env: Mapping[str, str] | None = None) -> str:
    """Base URL that a hosted predictor asks: another server's answers are another model's."""
    env = os.environ if env is None else env
    if isinstance(predictor, OpenAICompatiblePredictor):
        return predictor.base_url
    if is_azure(predictor):
        return env["AZURE_OPENAI_ENDPOINT"]
    if isinstance(predictor, AnthropicPredictor):
        return env.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
    return env.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


def server_place(predictor: Any, env: Mapping[str, str] | None = None) -> str:
    """Host, port and path of `server_url`; never what stands before an @, which may be a password."""
    parts = urlsplit(server_url(predictor, env))
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def availability(
    predictor: Any,
    env: Mapping[str, str] | None = None,
    *,
    adapter: Path | None = None,
    budget_usd: float | None = None,
    fine_tune: Mapping[str, Any] | None = None,
) -> str | None:
    """None when `predictor` (its settings) can answer now, else "not run: <reason>" or "pending: <reason>".

    adapter: where the adapter of a `transformers` predictor lies. budget_usd: what the task may spend; None: not
    looked at. fine_tune: contents of fine_tune_info.json of an `openai_finetuned` predictor.
    """
    env = os.environ if env is None else env
    if is_local(predictor):
        if predictor.adapter and adapter is not None and not (adapter / "record.json").is_file():
            return f"not run: the adapter {adapter.name} does not exist (its training never finished)"
        return None
    missing = [name for name in key_variables(predictor) if not env.get(name)]
    if missing:
        return f"not run: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
    if isinstance(predictor, AnthropicPredictor) and importlib.util.find_spec("anthropic") is None:
        return "not run: the package `anthropic` is not installed (pip install vlm_pipeline[anthropic])"
    if isinstance(predictor, OpenAICompatiblePredictor):
        return _no_server(predictor.base_url)
    price = predictor.price
    costs_nothing = price is not None and not (price.input or price.output or price.training)
    if budget_usd is not None and budget_usd <= 0 and not costs_nothing:
        return "not run: the task may spend nothing (budget.money_usd is 0)"
    if isinstance(predictor, OpenAIFineTunedPredictor) and fine_tune is not None:
        return _fine_tune_state(predictor, fine_tune)
    return None


def _no_server(base_url: str) -> str | None:
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS):
            return None
    except OSError as error:
        return f"not run: no server answers at {parts.scheme}://{parts.hostname}:{port} ({error.strerror or error})"


def _fine_tune_state(predictor: OpenAIFineTunedPredictor, info: Mapping[str, Any]) -> str | None:
    if info.get("fine_tuned_model") and is_azure(predictor) and not predictor.deployment:
        return (
            f"pending: {info['fine_tuned_model']} is not deployed: deploy it with Azure's tools and name the "
            "deployment in `deployment`"
        )
    if info.get("fine_tuned_model"):
        return None
    status = info.get("status")
    if status == NOT_RUN:
        return f"{NOT_RUN}: {info.get('error')}"
    if status in ("failed", "cancelled"):
        return f"not run: the fine-tuning job {info.get('job_id')} {status}: {info.get('error') or 'no reason given'}"
    if info.get("job_id"):
        return f"pending: the fine-tuning job {info['job_id']} is {status or 'submitted'}"
    return "pending: no fine-tuning job has been submitted yet"
