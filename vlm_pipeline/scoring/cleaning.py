"""A response without what the chat machinery and a rambling model put around it.

In this order, each step noted:

- ``template``: special tokens and role names ("<|im_end|>", "assistant:") go; a turn that the model invented behind its
  answer ("User: ...") is cut off with all that follows;
- ``prompt_echo``: the prompt, or its lines, repeated at the beginning;
- ``placeholder``: a line that is the task's own form ("Safety Score: [1-10]");
- ``repeated``: the same line again and again, and a phrase that loops at the end;
- ``unfinished``: a last sentence that breaks off in mid-phrase ("... people on the"). A last sentence that only lacks
  its full stop stays: it may hold the answer.

What a text says is never changed; which of several scores counts is the extractor's decision.
"""

import re
from dataclasses import dataclass

_SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|eom_id|begin_of_text|end_of_text|end|start|return|assistant|user|system|vision_start|vision_end|image_pad|"
    r"video_pad|pad|sep|endofprompt|box_start|box_end)\|>|<\|start_header_id\|>\w{1,20}<\|end_header_id\|>|</?s>|<bos>|<eos>|<pad>|<end_of_turn>|<start_of_turn>|"
    r"\[/?INST\]|<</?SYS>>|<image>|<unk>"
)
_TURN = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>)\s?(?:user|human|system)\b|\[INST\]|\n\s*(?:###\s*)?(?:user|human|USER|HUMAN|User|Human)\s?:|\n(?:user|human)\s*\n"
)
_ROLE = re.compile(
    r"\s*(?:<\|im_start\|>\s*)?(?:###\s*)?(?:assistant|ASSISTANT|Assistant|AI|model|Response|### Response)\s?(?::|\n)\s*"
)
_ECHOED_CHAT = re.compile(r"\s*(?:system|user)\s*\n")
_ASSISTANT_LINE = re.compile(r"(?:^|\n)\s*assistant\s*\n")
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


@dataclass(frozen=True, slots=True)
class Cleaned:
    text: str
    steps: tuple[str, ...]


def clean_response(text: str, prompt: str | None = None) -> str:
    """The cleaned response; "" when nothing but echo and template was there. Rules: see the module."""
    return clean(text, prompt).text


def clean(text: str, prompt: str | None = None) -> Cleaned:
    """The cleaned response and the steps that changed it."""
    steps: list[str] = []

    def apply(name: str, new: str) -> None:
        nonlocal text
        if new != text:
            steps.append(name)
            text = new

    text = text.strip()
    if prompt:
        apply("prompt_echo", _without_echo(text, prompt))
    apply("template", _without_template(text))
    if prompt:
        apply("prompt_echo", _without_echo(text, prompt))
    apply("placeholder", _without_placeholders(text))
    apply("repeated", _without_repeats(text))
    apply("unfinished", _without_fragment(text))
    return Cleaned(text, tuple(dict.fromkeys(steps)))


def _without_template(text: str) -> str:
    if _ECHOED_CHAT.match(text) and (lines := list(_ASSISTANT_LINE.finditer(text))):
        text = text[lines[-1].end() :]
    if role := _ROLE.match(text):
        text = text[role.end() :]
    turn = _TURN.search(text, 1)
    if turn and text[: turn.start()].strip():
        text = text[: turn.start()]
    return _SPECIAL.sub("", text).strip()


def _without_echo(text: str, prompt: str) -> str:
    """Drop the whole prompt at the beginning, else leading lines that are lines of the prompt."""
    end = _end_of_echo(text, prompt.strip())
    if end is not None:
        return text[end:].lstrip(" \t\r\n:")
    asked = {_squash(line) for line in prompt.splitlines()}
    lines = text.splitlines(keepends=True)
    kept = 0
    for line in lines:
        if _squash(line) and not (len(_squash(line)) >= 15 and _squash(line) in asked):
            break
        kept += 1
    dropped = any(_squash(line) for line in lines[:kept])
    return "".join(lines[kept:]).strip() if dropped else text


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


def _without_placeholders(text: str) -> str:
    lines = text.splitlines(keepends=True)
    kept = [
        line
        for line in lines
        if not (
            len(line) < 200
            and (found := _PLACEHOLDER.search(line))
            and not re.search(r"\d", line[found.end() :])
        )
    ]
    return "".join(kept).strip() if len(kept) < len(lines) else text


def _without_repeats(text: str) -> str:
    """Blocks of up to five lines that follow themselves, lines seen three times or more, a loop at the end."""
    lines = text.split("\n")
    kept: list[str] = []
    keys: list[str] = []
    for line in lines:
        kept.append(line)
        keys.append(_squash(line))
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
    counts: dict[str, int] = {}
    unique = []
    for line, key in zip(kept, keys, strict=True):
        counts[key] = counts.get(key, 0) + 1
        if len(key) < 8 or counts[key] < 3:
            unique.append(line)
    result = "\n".join(unique) if len(unique) < len(lines) else text
    return _without_loop(result)


def _without_loop(text: str) -> str:
    """A phrase that repeats at least four times up to the end, possibly cut off in its last turn, is kept once."""
    tail = text[-8 * _LONGEST_LOOP :]
    for size in range(4, min(_LONGEST_LOOP, len(tail) // 4) + 1):
        if tail[-size:] != tail[-2 * size : -size] or tail[-2 * size :] != tail[-4 * size : -2 * size]:
            continue
        if len(set(tail[-size:])) < 3:  # a ruler of dashes, a row of blanks
            return text
        end = len(text)
        while end - 2 * size >= 0 and text[end - 2 * size : end - size] == text[end - size : end]:
            end -= size
        return text[:end].rstrip()
    return text


def _without_fragment(text: str) -> str:
    ends = list(_SENTENCE_END.finditer(text))
    if not ends or not _BREAKS_OFF.search(text):
        return text
    fragment = text[ends[-1].end() :]
    if re.search(r"\d", fragment) or len(fragment.split()) < 3:
        return text
    return text[: ends[-1].end()].strip()
