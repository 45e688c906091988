"""Render a conversation by the model's own template and find every assistant turn in the text.

The template is rendered twice: once with the row's words, and once with a mark in place of every message (the
skeleton, kept per conversation shape). The skeleton shows which characters the template itself writes, so the
turns are found in the real text without knowing any template.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.formatting.conversation import Conversation, all_texts, template_messages
from vlm_pipeline.formatting.template import (
    RenderError,
    control_pattern,
    markers,
    render_text,
    takes_parts,
    template_hash,
    tokenizer_of,
)

_MARK = re.compile(r"zqm(\d{4})qz")
_KEPT_SKELETONS = 4096


@dataclass(frozen=True)
class Turn:
    """An assistant turn in the rendered text: characters start..end, end-of-turn token included."""

    message: int  # index in the conversation
    start: int  # first character after the generation prompt
    content_end: int  # first character of the end-of-turn token
    end: int


@dataclass(frozen=True)
class Rendered:
    text: str  # pictures are one placeholder each
    prompt: str  # what add_generation_prompt gives for everything before the last assistant turn
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class _Skeleton:
    """What the template writes around assistant turns: literals, and marks where other messages go."""

    fixed: tuple[tuple[str | int, ...], ...]  # pieces before turn 0, between turns, after the last
    turns: tuple[tuple[int, str], ...]  # message index, end-of-turn text


class Renderer:
    """Renders conversations for one processor; remembers skeletons by conversation shape."""

    def __init__(self, processor: Any, arguments: dict[str, Any] | None = None) -> None:
        self.processor = processor
        self.arguments = dict(arguments or {})
        self.template = template_hash(processor)
        self.parts = takes_parts(processor)
        self.markers = markers(processor, self.arguments)
        self._controls = control_pattern(tokenizer_of(processor))
        self._skeletons: OrderedDict[str, _Skeleton | RenderError] = OrderedDict()

    def prompt(self, talk: Conversation) -> str:
        """The generation prompt of a conversation: everything before its last assistant turn. Raises RenderError."""
        self.check_texts(talk)
        asked = talk.without_answer()
        return self._render(template_messages(asked, self.parts), talk.tools, generation=True)

    def render(self, talk: Conversation) -> Rendered:
        """Text, generation prompt and assistant turns. Raises RenderError with the catalogue's number."""
        if not talk.messages or talk.messages[-1]["role"] != "assistant":
            raise RenderError(
                3, "the row does not end with an assistant turn", "end every row with the answer to learn"
            )
        prompt = self.prompt(talk)
        messages = template_messages(talk, self.parts)
        skeleton = self._skeleton(talk, messages)
        text = self._render(messages, talk.tools)
        turns = self._place(text, skeleton, talk)
        self._check_prompt(text, prompt, turns[-1])
        return Rendered(text, prompt, turns)

    def check_texts(self, talk: Conversation) -> None:
        """No data may carry control tokens: a server tokenizes them as such, so escaping here alone would not help."""
        for where, text in all_texts(talk):
            found = self._controls.search(text)
            if found is not None:
                raise RenderError(
                    19,
                    f"{where} holds the control token {found.group()} of this model as text",
                    f"write it differently in the source, for example {found.group()[0]} {found.group()[1:]}",
                )
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise RenderError(
                    19,
                    f"{where} holds a lone surrogate at character {error.start}",
                    "repair the encoding of the source",
                ) from None

    def _render(self, messages: list[dict[str, Any]], tools: Any, generation: bool = False) -> str:
        return render_text(self.processor, messages, tools, self.arguments, generation)

    def _skeleton(self, talk: Conversation, messages: list[dict[str, Any]]) -> _Skeleton:
        key = _shape(talk)
        if key not in self._skeletons:
            try:
                self._skeletons[key] = self._make_skeleton(talk, messages)
            except RenderError as error:
                self._skeletons[key] = error
            if len(self._skeletons) > _KEPT_SKELETONS:
                self._skeletons.popitem(last=False)
        found = self._skeletons[key]
        if isinstance(found, RenderError):
            raise RenderError(found.number, found.message, found.remedy)
        return found

    def _make_skeleton(self, talk: Conversation, messages: list[dict[str, Any]]) -> _Skeleton:
        marked = [_marked(message, index) for index, message in enumerate(messages)]
        text = self._render(marked, talk.tools)
        pieces: list[str | int] = []
        position = 0
        for match in _MARK.finditer(text):
            pieces += [text[position : match.start()], int(match.group(1))]
            position = match.end()
        pieces.append(text[position:])
        self._check_complete(talk, {piece for piece in pieces if isinstance(piece, int)}, marked, text)
        return self._cut(talk, pieces)

    def _check_complete(
        self, talk: Conversation, seen: set[int], marked: list[dict[str, Any]], text: str
    ) -> None:
        for index, message in enumerate(talk.messages):
            if index not in seen and (message.get("tool_calls") or _has_text(message)):
                raise RenderError(
                    11,
                    f"the template leaves out turn {index + 1} ({message['role']}"
                    f"{', tool calls' if message.get('tool_calls') else ''})",
                    "write tool calls and results as text (Hermes form: <tool_call>{…}</tool_call> in the answer), "
                    "fold the system prompt into the first user turn, or use a model whose template has this role",
                )
        if talk.tools and self._same_without_tools(marked, text):
            raise RenderError(
                11,
                "the template leaves out the row's tools",
                "list the tools in the system prompt (Hermes form: <tools>[…]</tools>), or use a model whose template has tools",
            )

    def _same_without_tools(self, marked: list[dict[str, Any]], text: str) -> bool:
        try:
            return self._render(marked, None) == text
        except RenderError:  # a template that cannot do without tools does show them
            return False

    def _cut(self, talk: Conversation, pieces: list[str | int]) -> _Skeleton:
        """Split the marked text at generation prompts and end-of-turn tokens of assistant messages."""
        fixed: list[tuple[str | int, ...]] = []
        turns: list[tuple[int, str]] = []
        before: list[str | int] = []
        rest = list(pieces)
        while rest:
            piece = rest.pop(0)
            if isinstance(piece, str) or talk.messages[piece]["role"] != "assistant":
                before.append(piece)
                continue
            head = before.pop() if before and isinstance(before[-1], str) else ""
            opener = self.markers.opener
            cut = head.rfind(opener) + len(opener) if opener else len(head)
            if opener not in head:
                raise RenderError(
                    11,
                    f"the generation prompt {opener!r} does not open assistant turn {piece + 1}, "
                    f"which is opened by {head[-60:]!r}",
                    "set prompt.template_args so that both agree (for example enable_thinking), or use another template",
                )
            fixed.append((*before, head[:cut]))
            while rest and (not isinstance(rest[0], int) or rest[0] == piece):
                following = rest.pop(0)
                end = (
                    None if isinstance(following, int) or piece in rest else self._controls.search(following)
                )
                if end is not None:
                    turns.append((piece, end.group()))
                    before = [following[end.end() :]]
                    break
            else:
                raise RenderError(
                    6,
                    f"no control token ends assistant turn {piece + 1}",
                    "use a template whose assistant turns end with the model's end-of-turn token",
                )
        fixed.append(tuple(before))
        return _Skeleton(tuple(fixed), tuple(turns))

    def _place(self, text: str, skeleton: _Skeleton, talk: Conversation) -> tuple[Turn, ...]:
        """Walk the real text along the skeleton."""
        place = _Walker(text, talk)
        turns = []
        for number, (message, end_text) in enumerate(skeleton.turns):
            place.walk(skeleton.fixed[number])
            start = place.position
            place.walk_turn(end_text)
            turns.append(Turn(message, start, place.position, place.position + len(end_text)))
            place.position += len(end_text)
        place.walk(skeleton.fixed[-1])
        if place.position != len(text):
            raise place.lost("after the last turn")
        return tuple(turns)

    def _check_prompt(self, text: str, prompt: str, last: Turn) -> None:
        if text.startswith(prompt) and len(prompt) == last.start:
            return
        common = next(
            (i for i, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b),
            min(len(text), len(prompt)),
        )
        raise RenderError(
            11,
            f"the generation prompt is not how the training text begins: it ends with {prompt[-60:]!r}, "
            f"the training text goes {text[common : common + 60]!r} where they part",
            "set prompt.template_args so that both agree (for example enable_thinking), or write the reasoning into the answers",
        )


class _Walker:
    def __init__(self, text: str, talk: Conversation) -> None:
        self.text = text
        self.position = 0
        self._talk = talk

    def walk(self, pieces: tuple[str | int, ...]) -> None:
        """Advance over literals (which must match) and messages (whatever the template made of them)."""
        for number, piece in enumerate(pieces):
            if isinstance(piece, str):
                if not self.text.startswith(piece, self.position):
                    raise self.lost(repr(piece[:40]))
                self.position += len(piece)
            else:
                following = pieces[number + 1] if number + 1 < len(pieces) else ""
                self._walk_message(piece, following if isinstance(following, str) else "")

    def walk_turn(self, end_text: str) -> None:
        """Advance to the end-of-turn text of an assistant turn; no data holds control tokens, so the next is it."""
        end = self.text.find(end_text, self.position)
        if end < 0:
            raise self.lost(f"the end of an assistant turn, {end_text}")
        self.position = end

    def _walk_message(self, index: int, following: str) -> None:
        for form in _forms(self._talk.messages[index]):
            end = self.position + len(form)
            if self.text.startswith(form, self.position) and self.text.startswith(following, end):
                self.position = end
                return
        end = self.text.find(following, self.position) if following else -1
        if end < 0:
            raise self.lost(f"turn {index + 1}")
        self.position = end

    def lost(self, what: str) -> RenderError:
        return RenderError(
            11,
            f"the template changes its own text with this row's content: {what} not found at character "
            f"{self.position} ({self.text[self.position : self.position + 40]!r})",
            "remove the markup that the template reacts to from the row, or use another template",
        )


def _forms(message: dict[str, Any]) -> list[str]:
    """What templates make of a message's text: itself, trimmed, or quoted as JSON."""
    content = message["content"]
    text = content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    return [text, text.strip(), text.lstrip(), text.rstrip(), quoted]


def _has_text(message: dict[str, Any]) -> bool:
    content = message["content"]
    return (
        bool(content.strip()) if isinstance(content, str) else any(part["type"] == "text" for part in content)
    )


def _shape(talk: Conversation) -> str:
    """Conversations of one shape have one skeleton: roles, kinds of parts, number of calls, the tools."""
    shape: list[Any] = []
    for message in talk.messages:
        content = message["content"]
        kinds = (
            "t" * bool(content)
            if isinstance(content, str)
            else "".join("i" if part["type"] == "image" else "t" * bool(part["text"]) for part in content)
        )
        shape.append([message["role"], kinds, len(message.get("tool_calls") or ()), message.get("name")])
    return json.dumps([shape, talk.tools], sort_keys=True)


def _marked(message: dict[str, Any], index: int) -> dict[str, Any]:
    """The message with marks for its words: its text, or the names of the tools it calls."""
    mark = f"zqm{index:04d}qz"
    content = message["content"]
    if isinstance(content, str):
        shaped: Any = mark if content else content
    else:
        shaped = [{**part, "text": mark} if part.get("text") else part for part in content]
    marked = {**message, "content": shaped}
    if message.get("tool_calls"):
        marked["tool_calls"] = [
            {**call, "function": {"name": mark, "arguments": {}}} for call in message["tool_calls"]
        ]
    return marked
