"""Do all compared predictors get the same information? Turns with their roles and in their order, pictures, tools.

A comparison in which one model is told more than another measures the prompt, not the model (failure 30). Each
predictor's own request is built as it is sent, taken apart again, and compared with what the row says. Figures of the
report are counted in what is sent.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example, ImageRef
from vlm_pipeline.examples.upright import is_turned, open_upright
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.render import Renderer
from vlm_pipeline.settings.data import PromptSettings

Request = Callable[[Conversation], Any]  # what a predictor sends: a JSON body, or the rendered prompt text
Picture = ImageRef | bytes  # as the row has it, as it is sent
Event = tuple[str, Any]  # (role or "call", text) or ("picture", Picture)


@dataclass(frozen=True)
class Told:
    """What one predictor is told about one row: what is said and shown, in order, and the tools as JSON."""

    events: tuple[Event, ...]
    tools: tuple[str, ...]

    def count(self, kind: str) -> int:
        return sum(event[0] == kind for event in self.events)


@dataclass(frozen=True)
class ParityRow:
    """One predictor in the parity report: totals over the rows looked at."""

    predictor: str
    rows: int = 0
    with_system: int = 0
    worked_examples: int = 0
    pictures: int = 0
    tools: int = 0
    differences: int = 0

    def plus(self, *counted: int) -> ParityRow:
        mine = (
            self.rows,
            self.with_system,
            self.worked_examples,
            self.pictures,
            self.tools,
            self.differences,
        )
        return ParityRow(self.predictor, *(a + b for a, b in zip(mine, counted, strict=True)))


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


class ParityCensus:
    """Counts over rows of what each predictor is sent, and findings (30) where that is not what the row says.

    placeholder: what stands for a picture in a prompt text (the processor's `image_token`).
    """

    def __init__(self, names: Iterable[str], prompt: PromptSettings, placeholder: str | None = None) -> None:
        self._totals = {name: ParityRow(name) for name in names}
        self._shots = [(shot.question, shot.answer) for shot in prompt.few_shot]
        self._placeholder = placeholder
        self.found: list[Finding] = []

    def add(self, example: Example, asked: Conversation, sent: Mapping[str, Any]) -> None:
        """asked: what the row says; sent: by predictor its request body, or the prompt text it is given."""
        for name, request in sent.items():
            problems = differences(asked, request, self._placeholder)
            self._totals[name] = self._totals[name].plus(1, *self._counts(asked, request), bool(problems))
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

    def _counts(self, asked: Conversation, sent: Any) -> tuple[int, int, int, int]:
        """System prompt, worked examples, pictures and tools in what is sent."""
        if isinstance(sent, str):
            row = told_by_row(asked)
            system = any(kind == "system" and _place(text, sent, 0) >= 0 for kind, text in row.events)
            shots = sum(_place(q, sent, 0) >= 0 and _place(a, sent, 0) >= 0 for q, a in self._shots)
            pictures = sent.count(self._placeholder) if self._placeholder else 0
            return system, shots, pictures, sum(json.loads(tool)["name"] in sent for tool in row.tools)
        body = told_by_body(sent)
        said = {role: [text for kind, text in body.events if kind == role] for role in ("user", "assistant")}
        shots = sum(q in said["user"] and a in said["assistant"] for q, a in self._shots)
        return body.count("system") > 0, shots, body.count("picture"), len(body.tools)

    def report(self) -> list[ParityRow]:
        return list(self._totals.values())


def parity_table(report: Iterable[ParityRow]) -> list[dict[str, Any]]:
    return [asdict(row) for row in report]


def differences(asked: Conversation, sent: Any, placeholder: str | None = None) -> list[str]:
    """In words, what a request body or a prompt text says other than the row."""
    row = told_by_row(asked)
    if isinstance(sent, str):
        return [*_not_in_text(row, sent, placeholder)]
    body = told_by_body(sent)
    return [*_other_events(row.events, body.events), *_other_tools(row.tools, body.tools)]


def told_by_row(asked: Conversation) -> Told:
    return Told(_merged(_said(asked)), tuple(_tool(tool) for tool in asked.tools or ()))


def _said(asked: Conversation) -> Iterator[Event]:
    for message in asked.messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "image":
                yield "picture", asked.images[part["index"]]
            else:
                yield message["role"], part["text"]
        for call in message.get("tool_calls") or ():
            yield "call", _call(call["name"], call["arguments"])


def told_by_body(body: Mapping[str, Any]) -> Told:
    """Take a request body of any of the APIs apart."""
    tools = (_tool(tool) for tool in body.get("tools") or ())
    return Told(_merged(_in_body(body)), tuple(tools))


def _in_body(body: Mapping[str, Any]) -> Iterator[Event]:
    yield from _in_content("system", body.get("system") or body.get("instructions"))
    for item in body.get("messages") or body.get("input") or ():
        kind = item.get("type")
        if kind == "function_call":
            yield "call", _call(item["name"], item["arguments"])
        elif kind == "function_call_output":
            yield from _in_content("tool", item["output"])
        else:
            yield from _in_content(item["role"], item["content"])
            for call in item.get("tool_calls") or ():
                yield "call", _call(call["function"]["name"], call["function"]["arguments"])


def _in_content(role: str, content: Any) -> Iterator[Event]:
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
        kind = part["type"]
        if kind in ("text", "input_text", "output_text"):
            yield role, part["text"]
        elif kind == "image_url":
            yield "picture", _decoded(part["image_url"]["url"])
        elif kind == "input_image":
            yield "picture", _decoded(part["image_url"])
        elif kind == "image":
            yield "picture", base64.b64decode(part["source"]["data"])
        elif kind == "tool_use":
            yield "call", _call(part["name"], part["input"])
        elif kind == "tool_result":
            yield from _in_content("tool", part["content"])
        else:
            yield kind, json.dumps(part, sort_keys=True)


def _merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Pieces of one role in a row are one text: APIs differ in how they are cut, system prompts stand apart."""
    merged: list[Event] = []
    for kind, run in groupby(events, key=lambda event: event[0]):
        if kind in ("picture", "call"):
            merged += run
            continue
        text = ("\n\n" if kind == "system" else "").join(text for _, text in run)
        if text:
            merged.append((kind, text))
    return tuple(merged)


def _call(name: str, arguments: Any) -> str:
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return json.dumps({"name": name, "arguments": arguments}, sort_keys=True, ensure_ascii=False)


def _tool(tool: Mapping[str, Any]) -> str:
    """Name, description and parameters, whatever the API calls them."""
    inner = tool.get("function") or tool
    schema = inner.get("parameters") or inner.get("input_schema") or {"type": "object", "properties": {}}
    said = {"name": inner["name"], "description": inner.get("description") or "", "parameters": schema}
    return json.dumps(said, sort_keys=True, ensure_ascii=False)


def _decoded(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2]) if url.startswith("data:") else url.encode()


def _other_events(expected: tuple[Event, ...], sent: tuple[Event, ...]) -> Iterator[str]:
    """The first place where the two part."""
    for wanted, got in zip_longest(expected, sent):
        if wanted is None:
            yield f"it is told more than the row says: {_shown(got)}"
        elif got is None:
            yield f"it is not told {_shown(wanted)}"
        elif wanted[0] != got[0] or not _same(wanted[1], got[1]):
            yield f"it is told {_shown(got)} where the row says {_shown(wanted)}"
        else:
            continue
        return


def _other_tools(expected: tuple[str, ...], sent: tuple[str, ...]) -> Iterator[str]:
    for wanted, got in zip_longest(expected, sent):
        if wanted != got:
            yield f"its tools differ: {(got or 'nothing')[:120]} where the row has {(wanted or 'nothing')[:120]}"
            return


def _same(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, ImageRef):
        return _same_picture(wanted, got)
    return bool(wanted == got)


def _same_picture(ref: ImageRef, sent: bytes) -> bool:
    """The same file, or the same pixels: a picture that no API takes, or that a tag turns, is sent as PNG."""
    from hashlib import sha256

    digest = sha256(sent).hexdigest()
    return _same_pixels(ref, digest, sent) if digest != ref.sha256 else not is_turned(sent)


_known: dict[tuple[str, str], bool] = {}


def _same_pixels(ref: ImageRef, digest: str, sent: bytes) -> bool:
    key = (ref.sha256, digest)
    if key not in _known:
        if len(_known) > 10_000:
            _known.clear()
        _known[key] = _pixels(sent) == _pixels(ref.data if ref.data is not None else Path(str(ref.path)))
    return _known[key]


def _pixels(source: bytes | Path) -> tuple[tuple[int, int], bytes] | None:
    try:
        image = open_upright(source)
    except (OSError, ValueError):
        return None
    return image.size, image.tobytes()


def _shown(event: Event) -> str:
    kind, said = event
    if kind != "picture":
        return f"{said[:60]!r} ({kind})"
    return f"the picture {Path(said.path).name if said.path else said.sha256[:12]}" if isinstance(said, ImageRef) else "a picture"  # fmt: skip


def _not_in_text(row: Told, prompt: str, placeholder: str | None) -> Iterator[str]:
    """For a rendered prompt: all that the row says stands in it, in order. What the template adds, and which role it
    gives each turn, is the model's own habit, and proven by `verified_format`."""
    position = 0
    for kind, said in row.events:
        if kind == "picture":
            continue
        texts = _strings(json.loads(said)) if kind == "call" else [said]
        for text in texts:
            place = _place(text, prompt, position)
            if place < 0:
                yield f"it is not told {text[:60]!r} ({kind}) in its place"
                return
            if kind != "call":  # templates write the parts of a call in an order of their own
                position = place + len(text.strip())
    shown, wanted = prompt.count(placeholder) if placeholder else 0, row.count("picture")
    if shown != wanted:
        yield f"it is shown {shown} pictures instead of {wanted}"
    for tool in row.tools:
        lost = [text for text in _strings(json.loads(tool)) if _place(text, prompt, 0) < 0]
        if lost:
            yield f"of the tool {json.loads(tool)['name']!r} it is not told {lost[0][:60]!r}"
            return


def _place(text: str, prompt: str, start: int) -> int:
    """Where a text stands in a prompt from `start` on: as it is, trimmed, or quoted as JSON; -1 where it does not."""
    for form in _forms(text):
        place = prompt.find(form, start)
        if place >= 0:
            return place
    return -1


@lru_cache(maxsize=4_096)
def _forms(text: str) -> tuple[str, ...]:
    quoted = (json.dumps(text.strip(), ensure_ascii=plain)[1:-1] for plain in (False, True))
    escaped = re.sub(r"[<>&']", lambda found: f"\\u{ord(found.group()):04x}", json.dumps(text.strip())[1:-1])
    return (text.strip(), *quoted, escaped)  # Jinja's tojson escapes what HTML would read


def _strings(value: Any) -> list[str]:
    """All texts in a JSON value that are no words of JSON Schema itself: names, descriptions, values."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, Mapping):
        names = list(value.get("properties") or {}) if isinstance(value.get("properties"), Mapping) else []
        inner = [_strings(item) for key, item in value.items() if key != "type"]
        return [*names, *(text for texts in inner for text in texts)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return []
