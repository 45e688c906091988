"""One conversation in the words of each hosted API: OpenAI chat, OpenAI responses, Anthropic messages."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.examples.upright import is_turned, open_upright
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.store import content_hash

_MEDIA = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


def conversation_hash(talk: Conversation) -> str:
    """Hash of turns and tools; pictures are hashed apart, by their bytes."""
    return content_hash([talk.messages, talk.tools], length=32)


def image_bytes(ref: ImageRef) -> tuple[str, bytes]:
    """Media type and bytes as they are sent: the file itself, or the same pixels as PNG.

    PNG where no API takes the format, and where the file is turned by a tag, which not every API reads.
    """
    data = ref.data if ref.data is not None else Path(ref.path or "").read_bytes()
    if ref.format in _MEDIA and not is_turned(data):
        return _MEDIA[ref.format], data
    buffer = io.BytesIO()
    open_upright(data).save(buffer, "PNG")
    return "image/png", buffer.getvalue()


@lru_cache(maxsize=256)
def _base64_of(path: str, sha256: str, kind: str) -> tuple[str, str]:
    media, data = image_bytes(ImageRef(path, None, sha256, 0, 0, kind))
    return media, base64.b64encode(data).decode()


def encoded(ref: ImageRef) -> tuple[str, str]:
    """Media type and base64 text."""
    if ref.data is None and ref.path is not None:
        return _base64_of(ref.path, ref.sha256, ref.format)
    media, data = image_bytes(ref)
    return media, base64.b64encode(data).decode()


def data_uri(ref: ImageRef) -> str:
    media, text = encoded(ref)
    return f"data:{media};base64,{text}"


def openai_chat(talk: Conversation) -> dict[str, Any]:
    """`messages` (and `tools`) of the chat completions API."""
    body: dict[str, Any] = {"messages": [_openai_turn(message, talk.images) for message in talk.messages]}
    if talk.tools:
        body["tools"] = talk.tools
    return body


def _openai_turn(message: dict[str, Any], images: Sequence[ImageRef]) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, str):
        content = [
            {"type": "text", "text": part["text"]}
            if part["type"] == "text"
            else {"type": "image_url", "image_url": {"url": data_uri(images[part["index"]])}}
            for part in content
        ]
    turn: dict[str, Any] = {"role": message["role"], "content": content}
    if message.get("tool_calls"):
        turn["tool_calls"] = [
            {
                "id": call.get("id") or f"call_{number}",
                "type": "function",
                "function": {
                    "name": call["name"],
                    "arguments": json.dumps(call["arguments"], ensure_ascii=False),
                },
            }
            for number, call in enumerate(message["tool_calls"])
        ]
    if message["role"] == "tool":
        turn["tool_call_id"] = message.get("tool_call_id") or "call_0"
    return turn


def openai_responses(talk: Conversation) -> dict[str, Any]:
    """`input` (and `tools`) of the responses API."""
    items: list[dict[str, Any]] = []
    for message in openai_chat(talk)["messages"]:
        if message["role"] == "tool":
            items.append(
                {
                    "type": "function_call_output",
                    "call_id": message["tool_call_id"],
                    "output": message["content"],
                }
            )
            continue
        kind = "output_text" if message["role"] == "assistant" else "input_text"
        parts = (
            [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else message["content"]
        )
        content = [
            {"type": kind, "text": part["text"]}
            if part["type"] == "text"
            else {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "high"}
            for part in parts
        ]
        items.append({"role": message["role"], "content": content})
        for call in message.get("tool_calls") or ():
            items.append({"type": "function_call", "call_id": call["id"], **call["function"]})
    body: dict[str, Any] = {"input": items}
    if talk.tools:
        body["tools"] = [{"type": "function", **tool["function"]} for tool in talk.tools]
    return body


def anthropic_messages(talk: Conversation) -> dict[str, Any]:
    """`system`, `messages` (and `tools`) of the messages API; turns of one role in a row are joined, as it demands."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in talk.messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message["role"] == "system":
            system += [part["text"] for part in parts if part["type"] == "text"]
            continue
        blocks: list[dict[str, Any]] = []
        for part in parts:
            if part["type"] == "text":
                if part["text"]:
                    blocks.append({"type": "text", "text": part["text"]})
            else:
                media, data = encoded(talk.images[part["index"]])
                blocks.append(
                    {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}
                )
        for number, call in enumerate(message.get("tool_calls") or ()):
            blocks.append(
                {
                    "type": "tool_use",
                    "id": call.get("id") or f"call_{number}",
                    "name": call["name"],
                    "input": call["arguments"],
                }
            )
        role = "assistant" if message["role"] == "assistant" else "user"
        if message["role"] == "tool":
            blocks = [
                {
                    "type": "tool_result",
                    "tool_use_id": message.get("tool_call_id") or "call_0",
                    "content": blocks,
                }
            ]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    body: dict[str, Any] = {"messages": turns}
    if system:
        body["system"] = "\n\n".join(system)
    if talk.tools:
        body["tools"] = [
            {
                "name": tool["function"]["name"],
                "description": tool["function"].get("description", ""),
                "input_schema": tool["function"].get("parameters") or {"type": "object", "properties": {}},
            }
            for tool in talk.tools
        ]
    return body


def with_calls(text: str | None, calls: Sequence[tuple[str, Any]]) -> str:
    """An answer's text followed by its tool calls as Hermes text: what scorers read, whoever answered."""
    from vlm_pipeline.formatting.conversation import answer_text

    parsed = [{"name": name, "arguments": _arguments(arguments)} for name, arguments in calls]
    if not parsed:
        return text or ""
    called = answer_text({"content": "", "tool_calls": parsed})
    return f"{text}\n{called}" if text else called


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments  # malformed, and scored as such
