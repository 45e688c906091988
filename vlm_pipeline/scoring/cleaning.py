"""A response without what the chat machinery and a rambling model put around it.

In this order, each step noted:

- ``template``: special tokens and role names ("<|im_end|>", "assistant:") go; a turn that the model invented behind its
  answer ("User: ...") is cut off with all that follows;
- ``prompt_echo``: the prompt, or its lines, repeated at the beginning;
- ``placeholder``: a line that is the task's own form ("Safety Score: [1-10]");
- ``repeated``: the same line again and again, and a phrase that loops at the end;
- ``unfinished``: a last sentence that breaks off in mid-phrase ("... people on the"). A last sentence that only lacks
  its full stop stays: it may hold the answer.

What a text says is never changed, only parts are left out, and every place of the result is known as a place of the
response; which of several scores counts is the extractor's decision.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial

from vlm_pipeline.scoring.results import Span

_SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|eom_id|begin_of_text|end_of_text|end|start|return|assistant|user|system|vision_start|vision_end|image_pad|"
    r"video_pad|pad|sep|endofprompt|box_start|box_end)\|>|<\|start_header_id\|>\w{1,20}<\|end_header_id\|>|</?s>|<bos>|<eos>|<pad>|<end_of_turn>|<start_of_turn>|"
    r"\[/?INST\]|<</?SYS>>|<image>|<unk>"
)
# Blanks before a name are those of its own line: with line breaks among them, many empty lines take quadratic time.
_TURN = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>)\s?(?:user|human|system)\b|\[INST\]|\n[^\S\n]*(?:###\s*)?(?:user|human|USER|HUMAN|User|Human)\s?:|\n(?:user|human)\s*\n"
)
_ROLE = re.compile(
    r"\s*(?:<\|im_start\|>\s*)?(?:###\s*)?(?:assistant|ASSISTANT|Assistant|AI|model|Response|### Response)\s?(?::|\n)\s*"
)
_ECHOED_CHAT = re.compile(r"\s*(?:system|user)\s*\n")
_ASSISTANT_LINE = re.compile(r"(?:^|\n)[^\S\n]*assistant\s*\n")
_PLACEHOLDER = re.compile(
    r"\[\s?(?:\d{1,3}\s?(?:-|–|to)\s?\d{1,3}|(?:your|insert|enter|the)\b[^\]\n]{0,40}|score|number|answer|value|x)\s?\]|<(?:your|insert)\b[^>\n]{0,40}>|"
    r"\{(?:score|answer|number|value)\}|_{3,}",
    re.IGNORECASE,
)
_BREAKS_OFF = re.compile(
    r"(?:\b(?:the|a|an|of|and|or|to|with|in|on|at|for|from|by|is|are|was|were|that|which|as|but|because|its|their|his|her|this|these|those|such|while|if|when|not|very|also|into|than|has|have|be|been|can|could|would|should|will|may|might|there|it|i|we|they|you)|[,(\[:;–-])$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?][\"')\]*_]*(?=\s)|\n")
_LONGEST_LOOP = 240
_MOST_LINES = 2_000  # that are looked through for repeats; what stands behind them is one line


Spans = list[Span]  # the parts of a text that a step keeps, in order


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What is left of a response, which steps changed it, and which parts of the response it is made of."""

    text: str
    steps: tuple[str, ...]
    kept: tuple[Span, ...]

    def original(self, span: Span) -> Span:
        """A span of ``text`` as the span of the response that holds it."""
        start, end = span
        return self._place(start), (self._place(end - 1) + 1 if end > start else self._place(start))

    def _place(self, place: int) -> int:
        for start, end in self.kept:
            if place < end - start:
                return start + place
            place -= end - start
        return self.kept[-1][1] if self.kept else 0


def clean_response(text: str, prompt: str | None = None) -> str:
    """The cleaned response; "" when nothing but echo and template was there. Rules: see the module."""
    return clean(text, prompt).text


def clean(text: str, prompt: str | None = None) -> Cleaned:
    """The cleaned response, the steps that changed it, and where its parts stood."""
    kept: Spans = _stripped(text, 0, len(text))
    left = _joined(text, kept)
    echo = partial(_without_echo, prompt=prompt) if prompt else None
    names: list[str] = []
    for name, step in (
        ("prompt_echo", echo),
        ("template", _without_template),
        ("prompt_echo", echo),
        ("placeholder", _without_placeholders),
        ("repeated", _without_repeats),
        ("repeated", _without_loop),
        ("unfinished", _without_fragment),
    ):
        parts = step(left) if step else None
        if parts is not None:
            names.append(name)
            kept = _of(kept, parts)
            left = _joined(text, kept)
    return Cleaned(left, tuple(dict.fromkeys(names)), tuple(kept))


def _joined(text: str, spans: Spans) -> str:
    return "".join(text[start:end] for start, end in spans)


def _of(outer: Spans, inner: Spans) -> Spans:
    """Spans of a text that is itself made of spans, as spans of the first text."""
    found: Spans = []
    which, place = 0, 0  # an outer span, and where it begins in the text between
    for start, end in inner:
        while start < end:
            first, last = outer[which]
            if start >= place + last - first:
                which, place = which + 1, place + last - first
                continue
            stop = min(end, place + last - first)
            piece = (first + start - place, first + stop - place)
            if found and found[-1][1] == piece[0]:
                piece = (found.pop()[0], piece[1])
            found.append(piece)
            start = stop
    return found


def _stripped(text: str, start: int, end: int) -> Spans:
    """The stretch without white space at its ends."""
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    inside = inside.strip()
    return [(start, start + len(inside))] if inside else []


# Every step returns the parts that it keeps, or None where it changes nothing.


def _without_template(text: str) -> Spans | None:
    start, end = 0, len(text)
    if _ECHOED_CHAT.match(text) and (lines := list(_ASSISTANT_LINE.finditer(text))):
        start = lines[-1].end()
    if role := _ROLE.match(text, start):
        start = role.end()
    turn = _TURN.search(text, start + 1)
    if turn and text[start : turn.start()].strip():
        end = turn.start()
    places = [start, *(edge for match in _SPECIAL.finditer(text, start, end) for edge in match.span()), end]
    parts = list(zip(places[::2], places[1::2], strict=True))
    if parts == [(0, len(text))]:
        return None
    left = _joined(text, parts)
    return _of(parts, _stripped(left, 0, len(left)))


def _without_echo(text: str, prompt: str) -> Spans | None:
    """Drop the whole prompt at the beginning, else leading lines that are lines of the prompt."""
    end = _end_of_echo(text, prompt.strip())
    if end is not None:
        rest = text[end:]
        start = end + len(rest) - len(rest.lstrip(" \t\r\n:"))
        return [(start, len(text))]
    asked = {_squash(line) for line in prompt.splitlines()}
    start, dropped = 0, False
    for line in text.splitlines(keepends=True):
        key = _squash(line)
        if key and not (len(key) >= 15 and key in asked):
            break
        start += len(line)
        dropped = dropped or bool(key)
    return _stripped(text, start, len(text)) if dropped else None


def _end_of_echo(text: str, prompt: str) -> int | None:
    """Where the prompt ends in a text that begins with it, white space and case aside."""
    place = 0
    if not prompt:
        return None
    for word in prompt.split():
        while place < len(text) and text[place].isspace():
            place += 1
        if text[place : place + len(word)].casefold() != word.casefold():
            return None
        place += len(word)
    return place


def _squash(line: str) -> str:
    return " ".join(line.casefold().split())


def _without_placeholders(text: str) -> Spans | None:
    parts: Spans = []
    place = 0
    if not _PLACEHOLDER.search(text):
        return None
    for line in text.splitlines(keepends=True):
        found = _PLACEHOLDER.search(line) if len(line) < 200 else None
        if not found or re.search(r"\d", line[found.end() :]):
            parts.append((place, place + len(line)))
        place += len(line)
    if sum(end - start for start, end in parts) == len(text):
        return None
    left = _joined(text, parts)
    return _of(parts, _stripped(left, 0, len(left)))


def _without_repeats(text: str) -> Spans | None:
    """Blocks of up to five lines that follow themselves, and lines seen three times or more."""
    kept: Spans = []
    keys: list[str] = []
    place = 0
    for line in text.split("\n", _MOST_LINES):
        kept.append((place, place + len(line)))
        keys.append(_squash(line))
        place += len(line) + 1
        if not any(keys[-5:]):
            continue
        for size in range(1, 6):
            block = keys[-size:]
            if (
                len(keys) >= 2 * size
                and any(block)
                and block == keys[-2 * size : -size]
                and (size > 1 or len(block[0]) > 3)
            ):
                del kept[-size:], keys[-size:]
                break
    counts: Counter[str] = Counter()
    parts: Spans = []
    for (start, end), key in zip(kept, keys, strict=True):
        counts[key] += 1
        if len(key) < 8 or counts[key] < 3:
            parts.append((start - 1 if parts else start, end))  # with the line break before it
    return _of([(0, len(text))], parts) if len(parts) <= text.count("\n") else None


def _without_loop(text: str) -> Spans | None:
    """A phrase that repeats at least four times up to the end, possibly cut off in its last turn, is kept once."""
    tail = text[-8 * _LONGEST_LOOP :]
    for size in range(4, min(_LONGEST_LOOP, len(tail) // 4) + 1):
        if tail[-size:] != tail[-2 * size : -size] or tail[-2 * size :] != tail[-4 * size : -2 * size]:
            continue
        if len(set(tail[-size:])) < 3:  # a ruler of dashes, a row of blanks
            return None
        end = len(text)
        while end - 2 * size >= 0 and text[end - 2 * size : end - size] == text[end - size : end]:
            end -= size
        return [(0, len(text[:end].rstrip()))]
    return None


def _without_fragment(text: str) -> Spans | None:
    ends = list(_SENTENCE_END.finditer(text))
    if not ends or not _BREAKS_OFF.search(text):
        return None
    fragment = text[ends[-1].end() :]
    if re.search(r"\d", fragment) or len(fragment.split()) < 3:
        return None
    return _stripped(text, 0, ends[-1].end())
