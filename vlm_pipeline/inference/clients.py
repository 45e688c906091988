"""The providers' own clients, their retries off: ours see every 429, and look for a first attempt's result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vlm_pipeline.inference.predictors import is_azure, server_url
from vlm_pipeline.settings.predictors import AnthropicPredictor, OpenAICompatiblePredictor


def client_for(settings: Any, env: Mapping[str, str] | None = None) -> Any:
    """The client that these predictor settings need, with address and key of the environment."""
    env = os.environ if env is None else env
    url = server_url(settings, env)
    common: dict[str, Any] = {"max_retries": 0, "timeout": settings.timeout_s}
    if isinstance(settings, AnthropicPredictor):
        from anthropic import Anthropic

        return Anthropic(api_key=env["ANTHROPIC_API_KEY"], base_url=url, **common)
    if is_azure(settings):
        from openai import AzureOpenAI

        key, version = env["AZURE_OPENAI_API_KEY"], settings.api_version
        return AzureOpenAI(api_key=key, azure_endpoint=url, api_version=version, **common)
    from openai import OpenAI

    if isinstance(settings, OpenAICompatiblePredictor):
        key = env.get(settings.api_key_env, "") if settings.api_key_env else ""
        return OpenAI(api_key=key or "none", base_url=url, **common)
    return OpenAI(api_key=env["OPENAI_API_KEY"], base_url=url, **common)
