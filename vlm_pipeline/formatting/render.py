"""Render a conversation by the model's own template and find every assistant turn in the text.

The template is rendered twice: once with the row's words, and once with a mark in place of every text, call and
reasoning (the skeleton, kept per conversation shape). The skeleton shows which characters the template itself writes,
so the turns are found in the real text without knowing any template.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.formatting.conversation import Conversation, all_texts, template_messages
from vlm_pipeline.formatting.said import losses
from vlm_pipeline.formatting.skeleton import (
    Skeleton,
    check_complete,
    holds_mark,
    marked,
    place,
    shape_of,
    skeleton_of,
)
from vlm_pipeline.formatting.template import (
    RenderError,
    control_pattern,
    markers,
    render_text,
    takes_parts,
    template_hash,
    tokenizer_of,
)

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


class Renderer:
    """Renders conversations for one processor; remembers skeletons by conversation shape."""

    def __init__(self, processor: Any, arguments: dict[str, Any] | None = None) -> None:
        self.processor = processor
        self.arguments = dict(arguments or {})
        self.template = template_hash(processor)
        self.parts = takes_parts(processor)
        self.markers = markers(processor, self.arguments)
        self._controls = control_pattern(tokenizer_of(processor))
        self._skeletons: OrderedDict[str, Skeleton | RenderError] = OrderedDict()

    def prompt(self, talk: Conversation) -> str:
        """The generation prompt of a conversation: everything before its last assistant turn. Raises RenderError."""
        self.check_texts(talk)
        return self._prompt(talk.without_answer())

    def render(self, talk: Conversation, learned: Set[int] = frozenset()) -> Rendered:
        """Text, generation prompt and assistant turns. Raises RenderError with the catalogue's number.

        learned: indexes of the messages that carry labels. Each of them, and the last one, must say all that the row
        says and begin as a model is asked for it.
        """
        if not talk.messages or talk.messages[-1]["role"] != "assistant":
            raise RenderError(
                3, "the row does not end with an assistant turn", "end every row with the answer to learn"
            )
        prompt = self.prompt(talk)
        messages = template_messages(talk, self.parts)
        skeleton = self._skeleton(talk, messages)
        check_complete(talk, skeleton.seen, learned)
        text = self._render(messages, talk.tools)
        turns = place(talk, text, skeleton, Turn)
        for turn in turns:
            last = turn is turns[-1]
            if turn.message in learned:
                _check_said(talk.messages[turn.message], turn, text)
            if turn.message in learned or last:
                asked = prompt if last else self._prompt(talk.before(turn.message))
                _check_prompt(text, asked, turn, last)
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

    def _prompt(self, asked: Conversation) -> str:
        return self._render(template_messages(asked, self.parts), asked.tools, generation=True)

    def _render(self, messages: list[dict[str, Any]], tools: Any, generation: bool = False) -> str:
        return render_text(self.processor, messages, tools, self.arguments, generation)

    def _skeleton(self, talk: Conversation, messages: list[dict[str, Any]]) -> Skeleton:
        key = shape_of(talk)
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

    def _make_skeleton(self, talk: Conversation, messages: list[dict[str, Any]]) -> Skeleton:
        if talk.tools and holds_mark(json.dumps(talk.tools)):
            raise RenderError(
                19,
                "the tools hold text by which turns are found (zq…qz)",
                "write it differently in the source",
            )
        shown = [marked(message, index) for index, message in enumerate(messages)]
        text = self._render(shown, talk.tools)
        if talk.tools and self._same_without_tools(shown, text):
            raise RenderError(
                18,
                "the template leaves out the row's tools",
                "list the tools in the system prompt (Hermes form: <tools>[…]</tools>), or use a model whose template has tools",
            )
        return skeleton_of(talk, text, self.markers.opener, self._controls)

    def _same_without_tools(self, shown: list[dict[str, Any]], text: str) -> bool:
        try:
            return self._render(shown, None) == text
        except RenderError:  # a template that cannot do without tools does show them
            return False


def _check_said(message: dict[str, Any], turn: Turn, text: str) -> None:
    lost = next(
        (what for kind, what in losses(message, text[turn.start : turn.content_end]) if kind == "lost"), ""
    )
    if lost:
        raise RenderError(
            5,
            f"the template leaves out or changes a part of turn {turn.message + 1} that should be learned: {lost[:60]!r}",
            "learn this turn from a row that ends with it (or set prompt.supervise: last, or give the turn weight 0), "
            "or write it as the template does",
        )


def _check_prompt(text: str, prompt: str, turn: Turn, last: bool) -> None:
    if text.startswith(prompt) and len(prompt) == turn.start:
        return
    common = next(
        (i for i, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b),
        min(len(text), len(prompt)),
    )
    ways = (
        "end the row before this turn"
        if last
        else "set prompt.supervise: last, or give the turn weight 0, so that it is context only"
    )
    raise RenderError(
        11,
        f"a model is asked for turn {turn.message + 1} with a prompt that is not how the training text begins: the prompt "
        f"goes {prompt[common : common + 40]!r} where they part, the training text {text[common : common + 40]!r}",
        f"{ways}; or set prompt.template_args so that both agree (for example enable_thinking), or mend the chat template "
        "in the model's folder so that it writes the turns before an answer the same with and without it",
    )
