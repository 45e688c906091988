"""What a teacher is told. Examples come from train rows of other pages; nothing of a held-out row appears here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_pipeline.examples.example import Example, ImageRef
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.regeneration.candidate import NO_SLICE, asked_text

_FAILURES = {
    "no_answer": "answers from which nothing could be read",
    "wrong_number": "wrong numbers",
    "wrong_unit": "wrong units",
    "missing_keyword": "missing key words",
    "format": "a wrong answer format",
    "refusal": "refusals without reason",
    "hallucination": "things that are not on the page",
    "wrong_choice": "the wrong choice",
    "wrong_call": "the wrong tool call",
}


def reading(
    row: Example, question: str, examples: Sequence[Example], negative: str | None = None
) -> Conversation:
    """Answer one question about a page, in the form of the examples."""
    lines = [
        "Answer the question about what is shown. Read it carefully: the answer is used to teach others."
    ]
    lines += ["Write the answer alone, in exactly the form of these answers to questions about other pages:"]
    lines += _shown(examples)
    if negative:
        lines.append(f"If the answer is not shown, write exactly: {negative}")
    return _about(row, "\n".join([*lines, f"Question: {question}", "Answer:"]))


def second_reading(row: Example, question: str, negative: str | None = None) -> Conversation:
    """The same question put another way, without examples: what one prompt suggests, the other does not."""
    text = f"{question}\nLook again and answer in one line with the value or name exactly as it is shown."
    return _about(row, f"{text} If it is not shown, write: {negative}" if negative else text)


def new_rows(
    row: Example,
    count: int,
    kinds: Mapping[str, int],
    examples: Sequence[Example],
    failures: Mapping[str, int],
) -> Conversation:
    """Write `count` new questions and answers about a page, as a JSON list."""
    lines = [f"Write {count} different questions about what is shown, each with its answer."]
    lines += [
        "Every answer must be readable here, and have exactly the form of these examples from other pages:"
    ]
    lines += _shown(examples)
    named = ", ".join(kind for kind in kinds if kind != NO_SLICE)
    if named:
        lines.append(f'Kinds of question, each to be used: {named}. Name it in "kind".')
    weak = ", ".join(_FAILURES[kind] for kind in failures if kind in _FAILURES)
    if weak:
        lines.append(f"Students fail by {weak}: choose questions that train against that.")
    lines.append('Reply with a JSON list only: [{"question": "...", "answer": "...", "kind": "..."}]')
    return _about(row, "\n".join(lines))


def parse_rows(text: str) -> list[dict[str, str]]:
    """The questions and answers of a reply, fenced or not; ValueError says what is wrong with it."""
    body = text.strip()
    fenced = re.search(r"```(?:json)?\s*(.*?)```", body, re.DOTALL)
    body = fenced[1].strip() if fenced else body[body.find("[") : body.rfind("]") + 1]
    try:
        found = json.loads(body)
    except ValueError as error:
        raise ValueError(f"the reply holds no JSON list ({error})") from None
    if isinstance(found, dict):  # {"rows": [...]}
        found = next((value for value in found.values() if isinstance(value, list)), None)
    if not isinstance(found, list):
        raise ValueError("the reply holds no list of rows")
    rows = []
    for item in found:
        if not isinstance(item, dict) or not all(
            isinstance(item.get(k), str) for k in ("question", "answer")
        ):
            raise ValueError(f"an item of the reply is no question with its answer: {str(item)[:80]}")
        rows.append({"question": item["question"].strip(), "answer": item["answer"].strip(),
                     "kind": str(item.get("kind") or "")})  # fmt: skip
    return rows


def _shown(examples: Sequence[Example]) -> list[str]:
    return [f"- Question: {asked_text(row)} Answer: {row.answer}" for row in examples]


def _about(row: Example, text: str) -> Conversation:
    """The row's pictures, then the text; a row without pictures shows its own conversation instead."""
    pictures: list[ImageRef] = list(row.images)
    if pictures:
        content: list[dict[str, Any]] = [
            {"type": "image", "index": number} for number in range(len(pictures))
        ]
    else:
        own = [{"role": turn["role"], "content": turn["content"]} for turn in row.messages[:-1]]
        content = [{"type": "text", "text": f"Given:\n{json.dumps(own, ensure_ascii=False)}\n"}]
    return Conversation([{"role": "user", "content": [*content, {"type": "text", "text": text}]}], pictures)
