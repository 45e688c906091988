"""What a model is told: a row's messages with the task's system prompt, worked examples and instruction.

Training, generation and the hosted models all start from `build_conversation`, so that they say the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example, ImageRef, text_of
from vlm_pipeline.examples.images import ImageLimits, ImageReader
from vlm_pipeline.examples.quarantine import BadRow
from vlm_pipeline.formatting.template import RenderError
from vlm_pipeline.settings.data import PromptSettings


@dataclass(frozen=True)
class Conversation:
    """Normalised turns in order, their pictures in order of appearance, and where the row itself starts.

    messages: {"role", "content": str or list of {"type": "text", "text"} / {"type": "image", "index"}},
      plus `tool_calls` ({"name", "arguments"}), `tool_call_id`, `name` and `reasoning_content` where the row has them;
      `weight` 0 on an assistant turn that is context only.
    first_own: index of the first message that is the row's own dialogue (after system and worked examples).
    """

    messages: list[dict[str, Any]]
    images: list[ImageRef] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    first_own: int = 0

    def without_answer(self) -> Conversation:
        """What a predictor is asked: everything before the answer that ends the row, or all of a row without one."""
        last = len(self.messages) - 1
        if last < self.first_own or self.messages[last]["role"] != "assistant":
            return self
        return self.before(last)

    def before(self, message: int) -> Conversation:
        """The turns before a message, with their pictures."""
        kept = self.messages[:message]
        shown = sum(
            part["type"] == "image"
            for m in kept
            if not isinstance(m["content"], str)
            for part in m["content"]
        )
        return Conversation(kept, self.images[:shown], self.tools, self.first_own)


def build_conversation(example: Example, prompt: PromptSettings, root: Path | None = None) -> Conversation:
    """Put the task's prompt settings around a row. root: task folder, which few-shot pictures lie in.

    A task's system prompt replaces the row's own, its preamble goes before either; the instruction follows the text of
    the last user turn.
    """
    own = list(example.messages)
    system = [m for m in own[:1] if m["role"] == "system"]
    dialogue = own[len(system) :]
    if prompt.system is not None:
        system = [{"role": "system", "content": prompt.system}]
    if prompt.preamble:
        told = [prompt.preamble, *(text_of(m["content"]) for m in system)]
        system = [{"role": "system", "content": "\n\n".join(told)}]
    shots, shot_images = _shots(prompt, root)
    if prompt.instruction:
        dialogue = _with_instruction(dialogue, prompt.instruction)
    messages: list[dict[str, Any]] = []
    images: list[ImageRef] = []
    for message, pool in [
        *((m, ()) for m in system),
        *((m, shot_images) for m in shots),
        *((m, example.images) for m in dialogue),
    ]:
        messages.append({**message, "content": _in_order(message["content"], pool, images)})
    return Conversation(messages, images, example.tools, len(system) + len(shots))


def _in_order(content: Any, pool: tuple[ImageRef, ...] | list[ImageRef], images: list[ImageRef]) -> Any:
    """The content with pictures renumbered in order of appearance; keys that hold None do not exist.

    An Arrow or datasets round trip gives every part every key, and templates test for keys, not for values.
    """
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for part in content:
        if part.get("text") is not None and part.get("type") != "image":
            parts.append({"type": "text", "text": part["text"]})
        elif part.get("index") is not None:
            try:
                images.append(pool[part["index"]])
            except IndexError:
                raise RenderError(
                    17,
                    f"a turn shows picture {part['index'] + 1} of {len(pool)}",
                    "name as many pictures as the turns show",
                ) from None
            parts.append({"type": "image", "index": len(images) - 1})
        else:
            raise RenderError(
                18,
                f"a content part is neither text nor picture: {str(part)[:80]}",
                "write {type, text} or {type, image}",
            )
    return parts


def _with_instruction(dialogue: list[dict[str, Any]], instruction: str) -> list[dict[str, Any]]:
    last = max((i for i, m in enumerate(dialogue) if m["role"] == "user"), default=None)
    if last is None:
        return dialogue
    content = dialogue[last]["content"]
    if isinstance(content, str):
        changed: Any = f"{content}\n{instruction}"
    else:
        texts = [i for i, part in enumerate(content) if part.get("text") is not None]
        if texts:
            changed = [dict(part) for part in content]
            changed[texts[-1]]["text"] += f"\n{instruction}"
        else:
            changed = [*content, {"type": "text", "text": instruction}]
    return [*dialogue[:last], {**dialogue[last], "content": changed}, *dialogue[last + 1 :]]


def _shots(prompt: PromptSettings, root: Path | None) -> tuple[list[dict[str, Any]], list[ImageRef]]:
    messages: list[dict[str, Any]] = []
    images = shot_images(prompt, root)
    shown = 0
    for shot in prompt.few_shot:
        content: Any = shot.question
        if shot.image is not None:
            content = [{"type": "image", "index": shown}, {"type": "text", "text": shot.question}]
            shown += 1
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": shot.answer}]
    return messages, images


def shot_images(prompt: PromptSettings, root: Path | None) -> list[ImageRef]:
    """The pictures of the worked examples, as they lie in the task folder now. Raises ValueError naming a bad one."""
    reader = _shot_reader((root or Path()).absolute())
    found = []
    for shot in prompt.few_shot:
        try:
            found += [reader.read(shot.image)] if shot.image is not None else []
        except BadRow as error:
            raise ValueError(f"prompt.few_shot: {error.reason}") from error
    return found


@lru_cache(maxsize=16)
def _shot_reader(root: Path) -> ImageReader:
    """Confined to the folder and to the default size limits, like the pictures of rows; remembers files by size and time."""
    return ImageReader(root, ImageLimits())


_PASSED = {"tool": ("name", "tool_call_id"), "assistant": ("reasoning_content",)}  # beside content and calls


def untold(message: dict[str, Any]) -> list[str]:
    """Keys of a message that no model is given: all predictors are told the same, so none gets them."""
    passed = ("role", "content", "tool_calls", "weight", *_PASSED.get(message["role"], ()))
    return [key for key, value in message.items() if key not in passed and value not in (None, "", [], {})]


def learned_turns(talk: Conversation, prompt: PromptSettings) -> list[int]:
    """Indexes of the messages that carry labels: the row's own answers, all or the last, without those of weight 0."""
    own = [i for i, m in enumerate(talk.messages) if m["role"] == "assistant" and i >= talk.first_own]
    asked = own if prompt.supervise == "all" else own[-1:]
    return [i for i in asked if talk.messages[i].get("weight", 1)]


def answer_text(message: dict[str, Any]) -> str:
    """Text of an assistant turn; its calls as Hermes text where it only calls."""
    text = text_of(message["content"])
    if text or not message.get("tool_calls"):
        return text
    return "\n".join(
        "<tool_call>\n"
        + json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
        + "\n</tool_call>"
        for call in message["tool_calls"]
    )


def template_messages(talk: Conversation, parts: bool) -> list[dict[str, Any]]:
    """Messages in the form chat templates expect. parts: content as a list of parts, else as one string.

    Raises RenderError(17) for a picture in a template that only takes strings.
    """
    messages = []
    for message in talk.messages:
        content = message["content"]
        if parts:
            shaped: Any = (
                [{"type": "text", "text": content}]
                if isinstance(content, str)
                else [{"type": "image"} if part["type"] == "image" else part for part in content]
            )
        elif isinstance(content, str):
            shaped = content
        elif any(part["type"] == "image" for part in content):
            raise RenderError(
                17,
                "the row has a picture but the model's template takes text only",
                "use a vision-language base model, or remove the picture from the row",
            )
        else:
            shaped = "".join(part["text"] for part in content)
        turn = {"role": message["role"], "content": shaped}
        if message.get("tool_calls"):
            turn["tool_calls"] = [
                {
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                    **({"id": call["id"]} if "id" in call else {}),
                }
                for call in message["tool_calls"]
            ]
        for key in _PASSED.get(message["role"], ()):
            if message.get(key):
                turn[key] = message[key]
        messages.append(turn)
    return messages


def all_texts(talk: Conversation) -> list[tuple[str, str]]:
    """(where, text) of every string that comes from data, not from the template: the places control tokens hide."""
    found = []
    for number, message in enumerate(talk.messages, start=1):
        where = f"turn {number} ({message['role']})"
        found.append((where, text_of(message["content"])))
        if message.get("reasoning_content"):
            found.append((f"{where}, reasoning", message["reasoning_content"]))
        for call in message.get("tool_calls") or ():
            found.append((f"{where}, tool call", json.dumps(call, ensure_ascii=False)))
    if talk.tools:
        found.append(("tools", json.dumps(talk.tools, ensure_ascii=False)))
    return found
