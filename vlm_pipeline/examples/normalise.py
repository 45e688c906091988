"""From the many ways to write a turn, a tool or a tool call to the one way that Example has."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
from typing import Any

from vlm_pipeline.examples.quarantine import BadRow

MARKER = "<image>"
_MAX_DEPTH = 100
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "function_call",
    "tool_call": "function_call",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
}
_LEARNED_KEYS = ("weight", "loss")
_PICTURE_KEYS = ("image", "image_url", "path", "url", "bytes", "data")


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy made of strict JSON values only. Raises BadRow at NaN, lone surrogates and bottomless nesting.

    Dates become ISO text, decimals and binary values text: Parquet and datasets know more types than JSON.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRow("not_finite", f"{where} is {value}, which is not a number")
        return value
    if depth > _MAX_DEPTH:
        raise BadRow("too_deep", f"{where} is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {
            _text(str(key), where): plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, bytes):
        return f"<binary, {len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()}>"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    raise BadRow("unknown_value", f"{where} is {type(value).__name__}, which has no JSON form")


def _text(value: str, where: str) -> str:
    if value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # what surrogateescape makes of a byte that is not UTF-8
            raise BadRow(
                "encoding", f"{where} holds the byte 0x{code - 0xDC00:02x}, which is not UTF-8"
            ) from None
        raise BadRow(
            "lone_surrogate", f"{where} holds a lone surrogate (U+{code:04X}) at {error.start}"
        ) from None
    return value


class Pictures:
    """The pictures of a row in order: those the row lists, taken one by one by markers, then those inside parts."""

    def __init__(self, listed: list[Any]) -> None:
        self.values = list(listed)
        self._listed = len(listed)
        self.taken = 0

    def take(self, where: str) -> dict[str, Any]:
        if self.taken >= self._listed:
            raise BadRow(
                "image_count", f"{where} asks for picture {self.taken + 1}, the row lists {self._listed}"
            )
        self.taken += 1
        return {"type": "image", "index": self.taken - 1}

    def add(self, value: Any) -> dict[str, Any]:
        self.values.append(value)
        return {"type": "image", "index": len(self.values) - 1}

    def left(self) -> list[dict[str, Any]]:
        """Parts for the listed pictures, when no marker asked for any; some but not all asked for is an error."""
        if self.taken == self._listed:
            return []
        if self.taken:
            raise BadRow(
                "image_count", f"the row lists {self._listed} pictures, its text asks for {self.taken}"
            )
        return [self.take("row") for _ in range(self._listed)]


def messages_of(turns: list[dict[str, Any]], pictures: Pictures, markers: bool) -> tuple[dict[str, Any], ...]:
    """Normalised messages of raw turns ({"role", "content", ...}); raises BadRow.

    Listed pictures that no part and no `<image>` marker asks for go before the text of the first user turn.
    """
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns, start=1):
        message = _message(turn, f"turn {number}", pictures, markers)
        before = messages[-1] if messages else None
        if (
            turn.get("role") == "function_call"
            and before
            and before.get("tool_calls")
            and not before["content"]
            and before.get("weight") == message.get("weight")
        ):
            before["tool_calls"] += message["tool_calls"]  # parallel calls are one assistant turn
            continue
        messages.append(message)
    left = pictures.left()
    if left:
        first = next((message for message in messages if message["role"] == "user"), None)
        if first is None:
            raise BadRow("image_count", "the row has a picture but no user turn to show it in")
        parts = first["content"]
        first["content"] = left + (_text_parts(parts) if isinstance(parts, str) else parts)
    _check_turns(messages)
    return tuple(messages)


def _message(turn: dict[str, Any], where: str, pictures: Pictures, markers: bool) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise BadRow(
            "malformed_turn", f"{where} is {type(turn).__name__}, not an object with role and content"
        )
    raw_role = turn.get("role")
    role = ROLES.get(raw_role) if isinstance(raw_role, str) else None
    if role is None:
        raise BadRow(
            "unknown_role", f"{where} has the unknown role {str(raw_role)[:80]!r}; known: {', '.join(ROLES)}"
        )
    where = f"{where} ({role})"
    content = turn.get("content")
    if role == "function_call":
        called = {
            "role": "assistant",
            "content": "",
            "tool_calls": tool_calls_of(_json(content, where), where),
        }
        return called if _learned(turn, where, "assistant") else {**called, "weight": 0}
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    message: dict[str, Any] = {"role": role, "content": _content(content, where, role, pictures, markers)}
    if calls:
        if role != "assistant":
            raise BadRow("malformed_turn", f"{where} has tool_calls; only an assistant calls tools")
        message["tool_calls"] = tool_calls_of(calls, where)
    if not _learned(turn, where, role):
        message["weight"] = 0
    for key, value in turn.items():
        if value is not None and key not in (
            "role",
            "content",
            "tool_calls",
            "function_call",
            *_LEARNED_KEYS,
        ):
            message[key] = plain(value, f"{where}.{key}")
    thoughts = message.get("reasoning_content")
    if thoughts is not None and (role != "assistant" or not isinstance(thoughts, str)):
        raise BadRow("malformed_turn", f"{where}: reasoning_content is the text of an assistant's thoughts")
    return message


def _learned(turn: dict[str, Any], where: str, role: str) -> bool:
    """False for an answer that its source takes out of learning: `weight: 0` (OpenAI), `loss: false` (ShareGPT)."""
    marks = [(key, turn[key]) for key in _LEARNED_KEYS if turn.get(key) is not None]
    for key, value in marks:
        if value not in (0, 1):
            raise BadRow(
                "malformed_turn", f"{where}: {key} is {str(value)[:40]!r}, not 0 or 1, true or false"
            )
        if value and role != "assistant":
            raise BadRow("malformed_turn", f"{where} has {key}; only an assistant's turn can be learned")
    return role != "assistant" or all(value for _, value in marks)


def _content(
    content: Any, where: str, role: str, pictures: Pictures, markers: bool
) -> str | list[dict[str, Any]]:
    if content is None:
        return ""
    if isinstance(content, str):
        text = plain(content, where)
        if markers and role in ("user", "tool") and MARKER in text and pictures.values:
            return _split_markers(text, where, pictures)
        return text
    if role == "tool" and isinstance(content, dict):
        return json.dumps(plain(content, where), ensure_ascii=False)
    if not isinstance(content, list):
        raise BadRow(
            "malformed_turn",
            f"{where}: content is {type(content).__name__}, neither text nor a list of parts",
        )
    parts = [_part(part, f"{where} part {number}", pictures) for number, part in enumerate(content, start=1)]
    if role != "user" and role != "tool" and any(part["type"] == "image" for part in parts):
        raise BadRow("malformed_turn", f"{where} holds a picture; only user and tool turns may")
    parts = [part for part in parts if part["type"] == "image" or part["text"]]
    if all(part["type"] == "text" for part in parts) and len(parts) <= 1:
        return parts[0]["text"] if parts else ""
    return parts


def _part(part: Any, where: str, pictures: Pictures) -> dict[str, Any]:
    """One content part. Keys that hold None do not exist: Arrow adds them to every part of a column."""
    if isinstance(part, str):
        return {"type": "text", "text": plain(part, where)}
    if not isinstance(part, dict):
        raise BadRow("malformed_part", f"{where} is {type(part).__name__}, not an object")
    part = {key: value for key, value in part.items() if value is not None}
    kind = part.pop("type", None)
    picture_keys = [key for key in _PICTURE_KEYS if key in part]
    if "text" in part and picture_keys:
        raise BadRow("malformed_part", f"{where} holds both text and {picture_keys[0]}")
    if kind is None:
        kind = "text" if "text" in part else "image" if picture_keys else "nothing"
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise BadRow("malformed_part", f"{where} is a text part without text")
        return {"type": "text", "text": plain(part["text"], where)}
    if kind not in ("image", "image_url"):
        raise BadRow(
            "malformed_part", f"{where} has the type {str(kind)[:60]!r}; known: text, image, image_url"
        )
    if len(picture_keys) > 1:
        raise BadRow("malformed_part", f"{where} names its picture twice: {', '.join(picture_keys)}")
    return pictures.add(part[picture_keys[0]]) if picture_keys else pictures.take(where)


def _split_markers(text: str, where: str, pictures: Pictures) -> list[dict[str, Any]]:
    """Text with `<image>` markers as parts; a line break that only sets the marker apart goes with it."""
    parts: list[dict[str, Any]] = []
    pieces = text.split(MARKER)
    for number, piece in enumerate(pieces):
        if number:
            parts.append(pictures.take(where))
            piece = piece.removeprefix("\n")
        if number < len(pieces) - 1:
            piece = piece.removesuffix("\n")
        parts += _text_parts(piece)
    return parts


def _text_parts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def _check_turns(messages: list[dict[str, Any]]) -> None:
    if not messages:
        raise BadRow("empty_answer", "the row has no turns")
    for number, message in enumerate(messages, start=1):
        content = message["content"]
        said = content if isinstance(content, str) else "".join(p.get("text", "") for p in content)
        shown = not isinstance(content, str) and any(part["type"] == "image" for part in content)
        empty = not said.strip() and not shown
        if empty and message["role"] == "assistant" and not message.get("tool_calls"):
            raise BadRow("empty_answer", f"turn {number} (assistant) is empty")
        if empty and message["role"] == "user":
            raise BadRow("empty_turn", f"turn {number} (user) is empty")
    answers = [message for message in messages if message["role"] == "assistant"]
    if answers and all(message.get("weight") == 0 for message in answers):
        raise BadRow("nothing_learned", "every answer has weight 0 (or loss: false): nothing is learned")
    if messages[-1]["role"] != "assistant":
        raise BadRow("empty_answer", f"there is no answer: the last turn is from {messages[-1]['role']}")


def _json(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed_json", f"{where} should hold JSON: {error}") from None


def tool_calls_of(value: Any, where: str) -> list[dict[str, Any]]:
    """[{"name", "arguments": dict}] (plus `id`) from OpenAI tool_calls or ShareGPT function_call values."""
    calls = value if isinstance(value, list) else [value]
    found = []
    for call in calls:
        inner = (
            call.get("function")
            if isinstance(call, dict) and isinstance(call.get("function"), dict)
            else call
        )
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
            raise BadRow("malformed_call", f"{where}: a tool call needs a name and arguments")
        arguments = _json(inner.get("arguments") or {}, f"{where}: arguments of {inner['name']!r}")
        if not isinstance(arguments, dict):
            raise BadRow("malformed_call", f"{where}: arguments of {inner['name']!r} are not an object")
        entry = {"name": inner["name"], "arguments": arguments}
        if call.get("id"):
            entry["id"] = call["id"]
        found.append(plain(entry, where))
    if not found:
        raise BadRow("malformed_call", f"{where}: the list of tool calls is empty")
    return found


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """[{"type": "function", "function": {...}}] from a list, or its JSON text; None where there are none."""
    value = _json(value, "tools") if not isinstance(value, str) or value.strip() else None
    if not value:
        return None
    tools = []
    for tool in value if isinstance(value, list) else [value]:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("malformed_tool", "tools: each needs a name (and parameters as a JSON schema)")
        tools.append(plain({"type": "function", "function": function}, "tools"))
    return tools
