"""The rules of the fine-tuning API about one line of a DPO file: an input and two answers to it.

As documented by OpenAI ("Direct preference optimization") and Microsoft ("Direct preference optimization" of Azure
OpenAI), read in November 2026: text only; the answers are assistant (or tool) messages, at least one of them the
assistant's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OUTPUTS = ("preferred_output", "non_preferred_output")
_INPUT_KEYS = {"messages", "tools", "parallel_tool_calls"}
_ROLES = ("assistant", "tool")
Add = Callable[..., None]


def conversations(line: Any, number: int, add: Add) -> list[dict[str, Any]]:
    """The two conversations of a line, as examples of supervised fine-tuning have them; none where it is malformed."""
    asked = line.get("input") if isinstance(line, dict) else None
    messages = asked.get("messages") if isinstance(asked, dict) else None
    if not isinstance(messages, list) or not messages:
        add("preference", "an example is an object with input: {messages: […]} and two outputs", number)
        return []
    for key in line.keys() - {"input", *OUTPUTS}:
        add("unknown_key", f"unknown key {key!r} beside input", number)
    for key in asked.keys() - _INPUT_KEYS:
        add("unknown_key", f"unknown key {key!r} in input", number)
    outputs = [line.get(name) for name in OUTPUTS]
    for name, output in zip(OUTPUTS, outputs, strict=True):
        if not isinstance(output, list) or not output or not all(isinstance(one, dict) for one in output):
            add("preference", f"{name} is not a list of messages", number)
            return []
        roles = [one.get("role") for one in output]
        if "assistant" not in roles or any(role not in _ROLES for role in roles):
            add(
                "preference", f"{name} holds messages of the assistant and of tools only, not {roles}", number
            )
    if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        add("preference", "the input ends with the assistant: the answers stand in the outputs", number)
    if outputs[0] == outputs[1]:
        add("same_outputs", "both outputs say the same: nothing is preferred", number)
    spoken = [one for one in [*messages, *outputs[0], *outputs[1]] if isinstance(one, dict)]
    if any("weight" in one for one in spoken):
        add("weight", "weights are of supervised fine-tuning; DPO knows none", number)
    if any(_shown(one.get("content")) for one in spoken):
        add("text_only", "the example holds a picture; DPO takes text only", number)
    shared = {key: asked[key] for key in ("tools", "parallel_tool_calls") if key in asked}
    return [{"messages": [*messages, *output], **shared} for output in outputs]


def _shown(content: Any) -> bool:
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)
