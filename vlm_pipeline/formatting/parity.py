"""Do all compared predictors get the same information? System prompt, worked examples, question, pictures, tools.

A comparison in which one model is told more than another measures the prompt, not the model (failure 30). Each
predictor's own request is built as it is sent, taken apart again, and compared with what the row says.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vlm_pipeline.examples.example import Example, text_of
from vlm_pipeline.formatting.conversation import Conversation, build_conversation
from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.pictures import visible_size
from vlm_pipeline.formatting.render import Renderer
from vlm_pipeline.settings.data import PromptSettings

Request = Callable[[Conversation], Any]  # what a predictor sends: a JSON body, or the rendered prompt text


@dataclass(frozen=True)
class Told:
    """What one predictor is told about one row."""

    texts: tuple[str, ...]
    pictures: tuple[tuple[int, int], ...]  # (width, height) in pixels, as sent
    tools: tuple[str, ...]


@dataclass(frozen=True)
class ParityRow:
    """One predictor in the parity report: averages over the rows looked at."""

    predictor: str
    rows: int
    with_system: int
    worked_examples: int
    pictures: int
    tools: int
    differences: int


def requests_of(task: Any, processor: Any) -> dict[str, Request]:
    """How each predictor of a task asks: the base's template, or the body of its API. processor None: hosted ones only."""
    from vlm_pipeline.inference import chat

    renderer = Renderer(processor, task.prompt.template_args) if processor is not None else None
    builders: dict[str, Request] = {}
    for predictor in task.predictors:
        if predictor.kind == "transformers":
            if renderer is not None:
                builders[predictor.name] = renderer.prompt
        elif predictor.kind == "anthropic":
            builders[predictor.name] = chat.anthropic_messages
        elif getattr(predictor, "api", "chat") == "responses":
            builders[predictor.name] = chat.openai_responses
        else:
            builders[predictor.name] = chat.openai_chat
    return builders


def prompt_parity(
    examples: Iterable[Example], prompt: PromptSettings, requests: Mapping[str, Request], root: Any = None
) -> tuple[list[ParityRow], list[Finding]]:
    """Report and findings (30) over rows. requests: see `requests_of`; root: task folder, for few-shot pictures."""
    census = ParityCensus(requests, prompt)
    for example in examples:
        asked = build_conversation(example, prompt, root).without_answer()
        census.add(example, asked, {name: request(asked) for name, request in requests.items()})
    return census.report(), census.found


class ParityCensus:
    """Counts over rows of what each predictor is sent, and findings (30) where that is not what the row says."""

    def __init__(self, names: Iterable[str], prompt: PromptSettings) -> None:
        self._totals = {name: [0] * 6 for name in names}
        self._shots = len(prompt.few_shot)
        self.found: list[Finding] = []

    def add(self, example: Example, asked: Conversation, sent: Mapping[str, Any]) -> None:
        """asked: what the row says; sent: by predictor its request body, or the prompt text it is given."""
        for name, request in sent.items():
            problems = differences(asked, request)
            counted = (
                1,
                any(message["role"] == "system" for message in asked.messages),
                self._shots,
                len(asked.images),
                len(asked.tools or ()),
                bool(problems),
            )
            self._totals[name] = [
                total + more for total, more in zip(self._totals[name], counted, strict=True)
            ]
            if problems:
                self.found.append(
                    Finding(
                        30,
                        f"{name} is asked differently: {'; '.join(problems)}",
                        "give every predictor the conversation that build_conversation makes",
                        example.id,
                        example.section,
                    )
                )

    def report(self) -> list[ParityRow]:
        return [ParityRow(name, *total) for name, total in self._totals.items()]


def differences(asked: Conversation, sent: Any) -> list[str]:
    """In words, what a request body or a prompt text says less or more than the row."""
    return _differences_in_text(asked, sent) if isinstance(sent, str) else _differences(asked, told(sent))


def parity_table(report: Iterable[ParityRow]) -> list[dict[str, Any]]:
    return [asdict(row) for row in report]


def told(body: Mapping[str, Any]) -> Told:
    """Take a request body of any of the APIs apart: every text, picture and tool in it."""
    texts: list[str] = []
    pictures: list[tuple[int, int]] = []
    rest = {key: value for key, value in body.items() if key != "tools"}
    _walk(rest, texts, pictures)
    tools = tuple(tool.get("name") or tool["function"]["name"] for tool in body.get("tools") or ())
    return Told(tuple(texts), tuple(pictures), tools)


def _walk(value: Any, texts: list[str], pictures: list[tuple[int, int]]) -> None:
    if isinstance(value, list):
        for item in value:
            _walk(item, texts, pictures)
    elif isinstance(value, dict):
        if value.get("type") == "base64" and "data" in value:
            pictures.append(_size(value["data"]))
            return
        for key, inner in value.items():
            if isinstance(inner, str) and inner.startswith("data:image/"):
                pictures.append(_size(inner.partition(",")[2]))
            elif isinstance(inner, str) and key in ("text", "content", "system", "instructions", "output"):
                texts.append(inner)
            elif not isinstance(inner, str):
                _walk(inner, texts, pictures)


def _size(encoded: str) -> tuple[int, int]:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        return ImageOps.exif_transpose(image).size


def _expected(asked: Conversation) -> Told:
    sizes = [visible_size(ref) for ref in asked.images]
    return Told(
        tuple(filter(None, (text_of(message["content"]) for message in asked.messages))),
        tuple((width, height) for height, width in sizes),
        tuple(tool["function"]["name"] for tool in asked.tools or ()),
    )


def _differences(asked: Conversation, sent: Told) -> list[str]:
    expected = _expected(asked)
    problems = []
    said, wanted = "".join(sent.texts), "".join(expected.texts)
    missing = [text for text in expected.texts if text not in said]
    if missing:
        problems.append(f"it is not told {missing[0][:60]!r}")
    elif len(said.replace("\n", "")) > len(wanted.replace("\n", "")):
        problems.append(f"it is told {len(said) - len(wanted)} characters more than the row says")
    if sent.pictures != expected.pictures:
        problems.append(
            f"it sees pictures of {list(sent.pictures)} instead of {list(expected.pictures)} pixels"
        )
    if sent.tools != expected.tools:
        problems.append(f"it has the tools {list(sent.tools)} instead of {list(expected.tools)}")
    return problems


def _differences_in_text(asked: Conversation, prompt: str) -> list[str]:
    """For a rendered prompt: all that the row says is in it (what the template adds is the model's own habit)."""
    expected = _expected(asked)
    problems = []
    for text in expected.texts:
        if text.strip() not in prompt and json.dumps(text, ensure_ascii=False)[1:-1] not in prompt:
            problems.append(f"it is not told {text[:60]!r}")
            break
    for tool in expected.tools:
        if tool not in prompt:
            problems.append(f"it does not have the tool {tool!r}")
            break
    return problems
