"""Does a server ask its model what training asked? Prompt tokens of an OpenAI-compatible server beside our own.

vLLM and its kin tell the tokens of a conversation at `/tokenize` (without generating); servers that do not are judged
by the number of prompt tokens and the greedy answers in their prediction table.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.settings.predictors import OpenAICompatiblePredictor

_TEMPLATE = (
    "serve the exported model folder with its own chat template (python -m vlm_pipeline.inference.serve)"
)
_PIXELS = "serve the exported model folder, whose processor has the pixel budget of the task"


class NotTold(Exception):
    """The server does not tell its tokens, or cannot be reached; the message says which."""


@dataclass(frozen=True)
class AskedRow:
    """A row as a local model is asked it."""

    id: str
    section: str | None
    talk: Conversation  # without the answer
    prompt_ids: Sequence[int]  # pictures expanded
    image_token: int | None


def served_tokens(
    server: OpenAICompatiblePredictor, talk: Conversation, env: Mapping[str, str] | None = None
) -> list[int]:
    """The prompt's token ids as the server makes them, by its `/tokenize` route. Raises NotTold."""
    import httpx

    from vlm_pipeline.inference.chat import openai_chat

    env = os.environ if env is None else env
    key = env.get(server.api_key_env, "") if server.api_key_env else ""
    address = server.base_url.rstrip("/").removesuffix("/v1") + "/tokenize"
    body = {"model": server.model, "add_generation_prompt": True, **openai_chat(talk)}
    try:
        answer = httpx.post(
            address,
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=server.timeout_s,
        )
        answer.raise_for_status()
        tokens = answer.json()["tokens"]
    except httpx.HTTPStatusError as error:
        raise NotTold(f"{address} answers {error.response.status_code}") from None
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise NotTold(f"{address}: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise NotTold(f"{address} sends no list of token ids")
    return tokens


def compare_tokens(row: AskedRow, served: Sequence[int], tokenizer: Any, server: str) -> Finding | None:
    """30: the server's prompt tokens differ from ours (11 in the words of one model). Pictures count as one token."""
    ours, theirs = _short(row.prompt_ids, row.image_token), _short(served, row.image_token)
    if ours == theirs:
        expanded = len(served) != len(theirs)
        if expanded and len(served) != len(row.prompt_ids):
            return Finding(
                20,
                f"{server} gives the pictures {len(served) - len(theirs)} tokens more than placeholders, "
                f"training gave {len(row.prompt_ids) - len(ours)}",
                _PIXELS,
                row.id,
                row.section,
            )
        return None
    place = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    around = slice(max(0, place - 4), place + 8)
    return Finding(
        30,
        f"{server} is asked other tokens than the model was trained on, from token {place} on: "
        f"{tokenizer.decode(theirs[around])!r} against {tokenizer.decode(ours[around])!r}",
        _TEMPLATE,
        row.id,
        row.section,
    )


def compare_answers(
    local: Mapping[str, Mapping[str, Any]], served: Iterable[Mapping[str, Any]], server: str
) -> list[Finding]:
    """For servers that do not tell tokens: prompt-token counts (30) and greedy answers, row by row.

    local, by row id, and served: rows of prediction tables (`id`, `section`, `text`, `tokens_in`, `error`). White space
    around an answer does not count: some servers strip it.
    """
    found = []
    for row in served:
        own = local.get(row["id"])
        if own is None or row["error"] or own["error"]:
            continue
        problem = ""
        if same_counts(row, own) is False:
            problem = f"its prompt has {row['tokens_in']} tokens, ours {own['tokens_in']}"
        elif (row["text"] or "").strip() != (own["text"] or "").strip():
            problem = f"it answers {str(row['text'])[:60]!r}, the same weights here {str(own['text'])[:60]!r}"
        if problem:
            found.append(Finding(30, f"{server}: {problem}", _TEMPLATE, row["id"], row["section"]))
    return found


def same_counts(row: Mapping[str, Any], own: Mapping[str, Any]) -> bool | None:
    """Do two rows of prediction tables tell the same number of prompt tokens? None where one of them tells none."""
    return row["tokens_in"] == own["tokens_in"] if row["tokens_in"] and own["tokens_in"] else None


def _short(ids: Sequence[int], image_token: int | None) -> list[int]:
    """Each run of picture tokens as one: servers expand placeholders later than we do."""
    return [
        int(token)
        for place, token in enumerate(ids)
        if token != image_token or place == 0 or ids[place - 1] != image_token
    ]
