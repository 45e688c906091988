"""What a chat template writes around the words of a conversation, learned by rendering marks in their place.

Every text, call name, call arguments and reasoning gets a mark of its own, so that the skeleton shows which of them the
template leaves out, and where assistant turns begin and end, without knowing any template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.formatting.template import RenderError

Mark = tuple[
    int, str
]  # message, and what of it: "t" text, "r" reasoning, "c0" name and "a0" arguments of a call
Piece = str | Mark

_MARK = re.compile(r"zq(t|r|[ca]\d+)x(\d{4})qz")
_WHAT = {
    "t": "the text",
    "r": "the reasoning",
    "c": "the name of a tool call",
    "a": "the arguments of a tool call",
}
_REMEDY = {
    "t": "fold the text into another turn, write tool calls and results as text (Hermes form: <tool_call>{…}</tool_call> "
    "in the answer), or use a model whose template has both",
    "r": "write it into the answer (<think>…</think>), give the turn weight 0, or take it out of the row",
    "c": "write tool calls and results as text (Hermes form: <tool_call>{…}</tool_call> in the answer), or use a model "
    "whose template has tools",
}


@dataclass(frozen=True)
class Skeleton:
    """Literals, and marks where other messages go, around the assistant turns."""

    fixed: tuple[tuple[Piece, ...], ...]  # pieces before turn 0, between turns, after the last
    turns: tuple[tuple[int, str], ...]  # message index, end-of-turn text
    seen: frozenset[Mark]


def shape_of(talk: Conversation) -> str:
    """Conversations of one shape have one skeleton: roles, kinds of parts, number of calls, the tools."""
    shape: list[Any] = []
    for message in talk.messages:
        content = message["content"]
        kinds = (
            "t" * bool(content)
            if isinstance(content, str)
            else "".join("i" if part["type"] == "image" else "t" * bool(part["text"]) for part in content)
        )
        thinks = bool(message.get("reasoning_content"))
        shape.append(
            [message["role"], kinds, len(message.get("tool_calls") or ()), message.get("name"), thinks]
        )
    return json.dumps([shape, talk.tools], sort_keys=True)


def marked(message: dict[str, Any], index: int) -> dict[str, Any]:
    """A template's message with marks for its words."""
    content = message["content"]
    text = _mark("t", index)
    if isinstance(content, str):
        shaped: Any = text if content else content
    else:
        shaped = [{**part, "text": text} if part.get("text") else part for part in content]
    made = {**message, "content": shaped}
    if message.get("reasoning_content"):
        made["reasoning_content"] = _mark("r", index)
    if message.get("tool_calls"):
        made["tool_calls"] = [
            {**call, "function": {"name": _mark(f"c{k}", index), "arguments": {"x": _mark(f"a{k}", index)}}}
            for k, call in enumerate(message["tool_calls"])
        ]
    return made


def _mark(kind: str, index: int) -> str:
    return f"zq{kind}x{index:04d}qz"


def holds_mark(text: str) -> bool:
    """Would this text be taken for a mark? (Of a row's words only the tools stand in a marked rendering.)"""
    return _MARK.search(text) is not None


def skeleton_of(talk: Conversation, text: str, opener: str, controls: re.Pattern[str]) -> Skeleton:
    """The skeleton in a text that was rendered with marks. Raises RenderError(6 or 11)."""
    pieces: list[Piece] = []
    position = 0
    for match in _MARK.finditer(text):
        pieces += [text[position : match.start()], (int(match.group(2)), match.group(1))]
        position = match.end()
    pieces.append(text[position:])
    seen = frozenset(piece for piece in pieces if not isinstance(piece, str))
    return Skeleton(*_cut(talk, pieces, opener, controls), seen)


def check_complete(talk: Conversation, seen: Set[Mark], learned: Set[int]) -> None:
    """Raise RenderError(5, 18) where the template leaves out something that the row says.

    learned: the assistant turns that carry labels; templates drop the reasoning of earlier turns by design, which
    only costs where it should be learned.
    """
    for index, message in enumerate(talk.messages):
        for kind in _kinds(message, index in learned):
            if (index, kind) not in seen:
                what = kind[0]
                remedy = _REMEDY["c" if what == "a" else what]
                raise RenderError(
                    5 if message["role"] == "assistant" else 18,
                    f"the template leaves out {_WHAT[what]} of turn {index + 1} ({message['role']})",
                    remedy,
                )


def _kinds(message: dict[str, Any], learned: bool) -> Iterator[str]:
    content = message["content"]
    has_text = content.strip() if isinstance(content, str) else any(p["type"] == "text" for p in content)
    if has_text:
        yield "t"
    if learned and message.get("reasoning_content"):
        yield "r"
    for number in range(len(message.get("tool_calls") or ())):
        yield f"c{number}"
        yield f"a{number}"


def _cut(
    talk: Conversation, pieces: list[Piece], opener: str, controls: re.Pattern[str]
) -> tuple[tuple[tuple[Piece, ...], ...], tuple[tuple[int, str], ...]]:
    """Split the marked text at generation prompts and end-of-turn tokens of assistant messages."""
    fixed: list[tuple[Piece, ...]] = []
    turns: list[tuple[int, str]] = []
    before: list[Piece] = []
    rest = list(pieces)
    while rest:
        piece = rest.pop(0)
        if isinstance(piece, str) or talk.messages[piece[0]]["role"] != "assistant":
            before.append(piece)
            continue
        number = piece[0]
        head = before.pop() if before and isinstance(before[-1], str) else ""
        assert isinstance(head, str)
        cut = head.rfind(opener) + len(opener) if opener else len(head)
        if opener not in head:
            raise RenderError(
                11,
                f"the generation prompt {opener!r} does not open assistant turn {number + 1}, "
                f"which is opened by {head[-60:]!r}",
                "set prompt.template_args so that both agree (for example enable_thinking), or use another template",
            )
        fixed.append((*before, head[:cut]))
        while rest and (isinstance(rest[0], str) or rest[0][0] == number):
            following = rest.pop(0)
            more = any(not isinstance(one, str) and one[0] == number for one in rest)
            end = controls.search(following) if isinstance(following, str) and not more else None
            if end is not None:
                turns.append((number, end.group()))
                before = [following[end.end() :]]
                break
        else:
            raise RenderError(
                6,
                f"no control token ends assistant turn {number + 1}",
                "use a template whose assistant turns end with the model's end-of-turn token",
            )
    fixed.append(tuple(before))
    return tuple(fixed), tuple(turns)


def place(
    talk: Conversation, text: str, skeleton: Skeleton, turn: Callable[[int, int, int, int], Any]
) -> tuple[Any, ...]:
    """Walk a rendered text along its skeleton; `turn` makes each assistant turn of message, start, content end, end."""
    walker = _Walker(text, talk)
    turns = []
    for number, (message, end_text) in enumerate(skeleton.turns):
        walker.walk(skeleton.fixed[number])
        start = walker.position
        walker.walk_turn(end_text)
        turns.append(turn(message, start, walker.position, walker.position + len(end_text)))
        walker.position += len(end_text)
    walker.walk(skeleton.fixed[-1])
    if walker.position != len(text):
        raise walker.lost("after the last turn")
    return tuple(turns)


class _Walker:
    def __init__(self, text: str, talk: Conversation) -> None:
        self.text = text
        self.position = 0
        self._talk = talk

    def walk(self, pieces: tuple[Piece, ...]) -> None:
        """Advance over literals (which must match) and messages (whatever the template made of them)."""
        for number, piece in enumerate(pieces):
            if isinstance(piece, str):
                if not self.text.startswith(piece, self.position):
                    raise self.lost(repr(piece[:40]))
                self.position += len(piece)
            else:
                following = pieces[number + 1] if number + 1 < len(pieces) else ""
                self._walk_message(piece[0], following if isinstance(following, str) else "")

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
