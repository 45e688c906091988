"""Offline check of a fine-tuning JSONL file against the documented limits of the hosted API, before it is uploaded.

Files of supervised fine-tuning and, with `method="dpo"`, of direct preference optimization: the same rules for turns,
tools and sizes, over the input with either output.

Limits as documented by OpenAI ("Supervised fine-tuning", "Vision fine-tuning") and Microsoft ("Vision fine-tuning" of
Azure OpenAI), read in November 2026. What no offline check can know is said once: pictures of people, faces, children
and CAPTCHAs are left out of training by the provider without an error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from vlm_pipeline.estimates import conversation_tokens
from vlm_pipeline.examples.seen import SeenKeys
from vlm_pipeline.formatting.openai_preferences import conversations
from vlm_pipeline.formatting.openai_report import (
    AZURE,
    OPENAI,
    JsonlFinding,
    JsonlReport,
    Limits,
    check_whole,
    max_tokens,
    takes_pictures,
    takes_preferences,
)
from vlm_pipeline.formatting.openai_tools import NAME, check_order, check_tools

__all__ = ["AZURE", "OPENAI", "JsonlFinding", "JsonlReport", "Limits", "check_lines", "validate_jsonl"]

Method = Literal["supervised", "dpo"]
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_LINE_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
_MESSAGE_KEYS = {
    "role",
    "content",
    "name",
    "weight",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "refusal",
}
_URI = re.compile(r"data:(image/[a-z+.-]+);base64,(.*)", re.DOTALL)
_MEDIA = {"image/jpeg": "JPEG", "image/jpg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
_OTHER_PICTURES = {".gif", ".bmp", ".tif", ".tiff", ".svg", ".heic", ".avif", ".ico", ".pdf"}
EARLIER = "the same example as an earlier line"
IN_TRAINING = "the same example stands in the training file"


def validate_jsonl(
    path: Path | str,
    model: str = "gpt-4o-2024-08-06",
    limits: Limits = OPENAI,
    *,
    method: Method = "supervised",
    validation: bool = False,
    known_lines: SeenKeys | None = None,
    max_findings: int = 1_000,
) -> JsonlReport:
    """Check every line. Streams: memory holds one line and an 8-byte key of each.

    validation: a validation file may have fewer than the minimum of examples. known_lines: keys of the training
    file's lines (filled when given for the training file), to report rows that stand in both.
    """
    path = Path(path)
    seen = known_lines if known_lines is not None and not validation else SeenKeys()

    def same(raw: bytes) -> str | None:
        line = hashlib.blake2b(raw.strip(), digest_size=8).hexdigest()
        if not seen.add(line):
            return EARLIER
        return IN_TRAINING if validation and known_lines is not None and line in known_lines else None

    report = check_lines(path, model, limits, method=method, same=same, max_findings=max_findings)
    report.bytes = path.stat().st_size
    return check_whole(report, validation)


def check_lines(
    path: Path | str,
    model: str,
    limits: Limits = OPENAI,
    *,
    method: Method = "supervised",
    start: int = 0,
    length: int | None = None,
    same: Callable[[bytes], str | None] = lambda raw: None,
    max_findings: int = 1_000,
) -> JsonlReport:
    """The rules of single lines, over a file or `length` bytes of it; lines are counted from `start`.

    same: what another line is like this one (EARLIER, IN_TRAINING), or None.
    """
    report = JsonlReport(Path(path), limits)
    pictures = _Pictures(limits)

    def add(rule: str, message: str, line: int | None = None, blocking: bool = True) -> None:
        if len(report.findings) < max_findings:
            report.findings.append(JsonlFinding(rule, message, line, blocking))

    if method == "dpo" and not takes_preferences(model, limits):
        named = ", ".join(limits.preference_models)
        add("model_dpo", f"{model} is not fine-tuned on preferences; {limits.name} does it for {named}")
    with Path(path).open("rb") as handle:
        handle.seek(start)
        for number, raw in enumerate(handle, start=1):
            report.bytes += len(raw)
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                add("encoding", "the file starts with a byte order mark; write plain UTF-8", 1)
                raw = raw[3:]
            other = same(raw)
            if other is not None:
                add("duplicate", other, number, blocking=False)
            _check_line(raw, number, model, report, pictures, add, method)
            if length is not None and report.bytes >= length:
                break
    return report


Add = Callable[..., None]


def _check_line(
    raw: bytes, number: int, model: str, report: JsonlReport, pictures: _Pictures, add: Add, method: Method
) -> None:
    if not raw.strip():
        add("empty_line", "the line is empty", number)
        return
    try:
        example = json.loads(raw)
    except (ValueError, RecursionError) as error:
        add("json", f"not JSON: {str(error)[:120]}", number)
        return
    report.examples += 1
    if method == "dpo":
        known: set[tuple[str, str]] = set()

        def once(rule: str, message: str, line: int, **more: Any) -> None:
            """What is wrong with the input is wrong with it before either output."""
            if (rule, message) not in known:
                known.add((rule, message))
                add(rule, message, line, **more)

        for one in conversations(example, number, once):
            _check_example(one, number, model, report, pictures, once)
        return
    _check_example(example, number, model, report, pictures, add)


def _check_example(
    example: Any, number: int, model: str, report: JsonlReport, pictures: _Pictures, add: Add
) -> None:
    """The rules of one conversation; adds its tokens and pictures to the report."""
    if (
        not isinstance(example, dict)
        or not isinstance(example.get("messages"), list)
        or not example["messages"]
    ):
        add("messages", "an example is an object with a list of messages", number)
        return
    for key in example.keys() - _LINE_KEYS:
        add("unknown_key", f"unknown key {key!r} beside messages", number)
    sizes: list[tuple[int, int]] = []
    images = 0
    for place, message in enumerate(example["messages"], start=1):
        images += _check_message(message, f"message {place}", number, sizes, pictures, add)
    if all(isinstance(message, dict) for message in example["messages"]):
        check_order(example["messages"], number, add)
        check_tools(example, number, report.limits.max_tools, add)
        counted = (example["messages"], model, sizes, example.get("tools"))
        try:
            tokens, at_most = (conversation_tokens(*counted, at_most=bound) for bound in (False, True))
        except (TypeError, KeyError, AttributeError):  # a malformed part, which has its own finding
            tokens = at_most = 0
        most = max_tokens(model)
        report.tokens += min(tokens, most)
        report.tokens_at_most += min(at_most, most)
        report.longest = max(report.longest, tokens)
        if tokens > most:
            add(
                "tokens", f"about {tokens:,} tokens, {model} takes {most:,}: the end would be cut off", number
            )
    if images > report.limits.max_images:
        add(
            "max_images",
            f"{images} pictures, {report.limits.name} takes {report.limits.max_images} an example",
            number,
        )
    if images and not takes_pictures(model, report.limits):
        named = ", ".join(report.limits.vision_models)
        add(
            "model_images",
            f"{model} is not fine-tuned on pictures; {report.limits.name} does it for {named}",
            number,
        )
    report.images += images
    report.image_examples += bool(images)


def _check_message(
    message: Any, where: str, number: int, sizes: list[tuple[int, int]], pictures: _Pictures, add: Add
) -> int:
    """Findings of one message; returns its number of pictures."""
    if not isinstance(message, dict):
        add("messages", f"{where} is not an object", number)
        return 0
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        add("role", f"{where} has the role {str(role)[:40]!r}; known: {', '.join(ROLES)}", number)
    for key in message.keys() - _MESSAGE_KEYS:
        add("unknown_key", f"{where} has the unknown key {key!r}", number)
    if "weight" in message:
        if role != "assistant":
            add("weight", f"{where} ({role}) has a weight; only assistant messages may", number)
        elif message["weight"] not in (0, 1) or isinstance(message["weight"], bool | float):
            add("weight", f"{where} has weight {message['weight']!r}; it is 0 or 1", number)
    if "name" in message and not (isinstance(message["name"], str) and NAME.fullmatch(message["name"])):
        add("name", f"{where} has a name that is not 1-64 letters, digits, _ or -", number)
    if content is None or content == "" or content == []:
        if not (role == "assistant" and (message.get("tool_calls") or message.get("function_call"))):
            add("content", f"{where} ({role}) is empty", number)
        return 0
    if isinstance(content, str):
        return 0
    if not isinstance(content, list):
        add("content", f"{where}: content is neither text nor a list of parts", number)
        return 0
    images = 0
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            if not isinstance(part.get("text"), str) or not part["text"]:
                add("content", f"{where} has a text part without text", number)
        elif kind == "image_url":
            images += 1
            if role != "user":
                add("image_role", f"{where} ({role}) holds a picture; only user messages may", number)
            _check_image(part.get("image_url"), where, number, sizes, pictures, add)
        else:
            add("content", f"{where} has a part of type {str(kind)[:40]!r}; known: text, image_url", number)
    return images


def _check_image(
    value: Any, where: str, number: int, sizes: list[tuple[int, int]], pictures: _Pictures, add: Add
) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("url"), str):
        add("image", f"{where}: image_url needs a url", number)
        return
    if value.get("detail", "auto") not in ("auto", "low", "high"):
        add("image", f"{where}: detail is auto, low or high, not {value['detail']!r}", number)
    url = value["url"]
    if url.startswith(("http://", "https://")):
        sizes.append((1024, 1024))  # not fetched; counted as a middling picture
        ending = PurePosixPath(urlsplit(url).path).suffix.lower()
        if ending in _OTHER_PICTURES:
            add("image_format", f"{where}: {ending} is not JPEG, PNG or WEBP", number)
        return
    problem, size = pictures.check(url)
    for rule, message in problem:
        add(rule, f"{where}: {message}", number)
    if size is not None:
        sizes.append(size)


class _Pictures:
    """Data URIs checked once each: a page stands in about a dozen rows."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, tuple[list[tuple[str, str]], tuple[int, int] | None]] = {}

    def check(self, url: str) -> tuple[list[tuple[str, str]], tuple[int, int] | None]:
        key = hashlib.sha256(url.encode("utf-8", "replace")).digest()[:16]
        if key not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            size: list[tuple[int, int]] = []
            problems = list(self._problems(url, size))
            self._known[key] = (problems, size[0] if size else None)
        return self._known[key]

    def _problems(self, url: str, size: list[tuple[int, int]]) -> Iterator[tuple[str, str]]:
        from PIL import Image

        match = _URI.fullmatch(url)
        if match is None:
            yield "image_url", f"{url[:40]!r} is neither an http(s) URL nor a base64 data URI"
            return
        media, payload = match.groups()
        if media not in _MEDIA:
            yield "image_format", f"{media} is not JPEG, PNG or WEBP"
        try:
            data = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as error:
            yield "image_url", f"broken base64: {error}"
            return
        if len(data) > self._limits.max_image_bytes:
            yield (
                "image_size",
                f"the picture has {len(data):,} bytes, at most {self._limits.max_image_bytes:,}",
            )
        try:
            with Image.open(io.BytesIO(data)) as image:
                size.append(image.size)
                found, mode = image.format, image.mode
        except Exception as error:  # Pillow's plugins raise many types on hostile bytes
            yield "image", f"the picture cannot be read: {str(error)[:100]}"
            return
        if found not in _MEDIA.values():
            yield "image_format", f"the picture is {found}, not JPEG, PNG or WEBP"
        elif media in _MEDIA and found != _MEDIA[media]:
            yield "image_format", f"the picture is {found}, its data URI says {media}"
        if mode not in self._limits.modes:
            yield "image_mode", f"the picture's colour mode is {mode}, not {' or '.join(self._limits.modes)}"
