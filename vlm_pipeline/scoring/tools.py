r"""Tool calls in the notations that models write, and their comparison with the right calls.

Read: Hermes (``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, on one line or several), plain JSON (one object,
a list, several objects in a row), JSON in a code fence or after some words, OpenAI messages (``tool_calls`` /
``function_call`` with the arguments as a JSON string), Llama (``{"name": ..., "parameters": {...}}``,
``<|python_tag|>``, ``<function=name>{...}</function>``), Mistral (``[TOOL_CALLS] [...]``) and pythonic calls
(``[get_weather(city="Paris")]``, literals only, never evaluated; alone or behind the markers of the models that write
so, never in a ``<tool_call>``, which holds JSON).

Nothing is repaired: single quotes, trailing commas, NaN, duplicate keys, an unclosed brace, arguments that are no object
make a call *malformed*, and every malformed call is reported with its reason. An end tag inside a JSON text ends nothing. JSON that is no call (an answer such as
``{"score": 7}``, the definition of a tool) is neither. Drafts inside ``<think>`` are not looked at.
"""

import ast
import re
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.scoring.call_syntax import decode, dotted, keywords, strict
from vlm_pipeline.scoring.results import Span


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]
    span: Span | None = None
    form: str = "json"  # tag, json, pythonic


@dataclass(frozen=True, slots=True)
class MalformedCall:
    text: str
    reason: str
    span: Span


@dataclass(frozen=True, slots=True)
class ToolCalls:
    calls: list[ToolCall]
    malformed: list[MalformedCall]


_HIDDEN = re.compile(r"<think>.*?(?:</think>|\Z)|<tools>.*?(?:</tools>|\Z)", re.DOTALL)
_OPENING = re.compile(
    r"(?P<tag><\|?(?:tool_calls?(?:_start|_begin)?|functioncall|function_call)\|?>)|<function=(?P<function>[\w.\-:/]{1,200})>"
    r"|(?P<marker>\[TOOL_CALLS\]|<\|python_tag\|>|<\|python_start\|>|<｜tool▁calls?▁begin｜>)"
)
_FUNCTION_END = re.compile(r"</function>|<function=|<\|eot_id\|>|<\|eom_id\|>")
_MARKER_END = re.compile(
    r"<\|(?:eot_id|eom_id|im_end|python_end|tool_call_end)\|>|</s>|\[TOOL_CALLS\]|<｜tool▁calls▁end｜>"
)
_TAG_END = re.compile(
    r"</?\|?/?(?:tool_calls?(?:_end)?|functioncall|function_call)\|?>|<\|im_end\|>|<\|eot_id\|>|<\|eom_id\|>|</s>"
)
_MISTRAL = re.compile(r"\s*([A-Za-z_][\w.\-]{0,200})\s*(?:\[ARGS\])?\s*(?=\{)")
_KEY = r"[\"']?(?:name|function|tool_calls|function_call|arguments|parameters|tool|type|id|index|tool_name|function_name)[\"']?\s{0,9}:"
_OBJECT_START = re.compile(rf"(?:\[\s{{0,99}})?\{{\s{{0,99}}(?={_KEY})")
_LOOKS_LIKE_CALL = re.compile(r"[\"']?(?:arguments|parameters|tool_calls|function_call)[\"']?\s{0,9}:")
_LOOKS_NAMED = re.compile(r"[\"']?(?:name|function)[\"']?\s{0,9}:")
_BRACKET = re.compile(r"[{}\[\]]|```|\n[ \t]*\n")
_PYTHONIC = re.compile(r"\s*\[?\s*[A-Za-z_][\w.]{0,200}\(")
_FENCE = re.compile(r"```[ \t]*([\w+-]{0,20})[ \t]*\n?")
_PYTHONIC_FENCES = frozenset({"python", "py", "tool_code", "tool_call", "", "json"})


def parse_tool_calls(text: str) -> ToolCalls:
    """All calls of a response and all failed attempts at one, in order of appearance."""
    body = _HIDDEN.sub(lambda m: " " * len(m[0]), text) if "<think>" in text or "<tools>" in text else text
    parser = _Parser(body)
    parser.run()
    by_place = lambda item: item.span or (0, 0)  # noqa: E731
    return ToolCalls(sorted(parser.calls, key=by_place), sorted(parser.malformed, key=by_place))


class _Parser:
    def __init__(self, body: str) -> None:
        self.body = body
        self.calls: list[ToolCall] = []
        self.malformed: list[MalformedCall] = []

    def run(self) -> None:
        """Tags first; what stands between them is looked through for bare JSON and pythonic calls."""
        position = 0
        while opening := _OPENING.search(self.body, position):
            self._free(position, opening.start())
            if opening["function"]:
                position = self._function(opening)
            elif opening["tag"]:
                position = self._tagged(opening.end(), pythonic=opening["tag"].startswith("<|"))
            else:
                position = self._marked(opening)
        self._free(position, len(self.body))

    def _tagged(self, start: int, *, pythonic: bool) -> int:
        closing = _TAG_END.search(self.body, _behind_values(self.body, start))
        end = closing.start() if closing else len(self.body)
        opens_again = (
            closing is not None
            and not closing[0].startswith(("</", "<|im", "<|eo"))
            and "/" not in closing[0]
            and "end" not in closing[0]
        )
        self._certain(start, end, unclosed=closing is None, pythonic=pythonic)
        if closing is None or opens_again:
            return end
        return closing.end()

    def _function(self, opening: re.Match[str]) -> int:
        closing = _FUNCTION_END.search(self.body, _behind_values(self.body, opening.end()))
        end = closing.start() if closing else len(self.body)
        stop = closing.end() if closing and closing[0] == "</function>" else end
        span = (opening.start(), stop)
        arguments, reason = strict(self.body[opening.end() : end].strip())
        if reason or not isinstance(arguments, dict):
            self._bad(span, reason or "the arguments are no JSON object")
        else:
            self.calls.append(ToolCall(opening["function"], arguments, span, "tag"))
        return stop

    def _marked(self, opening: re.Match[str]) -> int:
        """A marker without end tag: everything up to the next marker or special token is calls."""
        named = _MISTRAL.match(self.body, opening.end())
        start = named.end() if named else opening.end()
        stop = _MARKER_END.search(self.body, _behind_values(self.body, start))
        end = stop.start() if stop else len(self.body)
        if named:
            arguments, reason = strict(self.body[named.end() : end].strip())
            if reason or not isinstance(arguments, dict):
                self._bad((opening.start(), end), reason or "the arguments are no JSON object")
            else:
                self.calls.append(ToolCall(named[1], arguments, (opening.start(), end), "tag"))
        else:
            self._certain(opening.end(), end, unclosed=False, pythonic=True)
        return end if stop is None or stop[0] == "[TOOL_CALLS]" else stop.end()

    def _certain(self, start: int, end: int, *, unclosed: bool, pythonic: bool) -> None:
        """A stretch that must be calls: whatever in it is none is malformed."""
        inside = self.body[start:end]
        stripped = inside.strip()
        offset = start + len(inside) - len(inside.lstrip())
        span = (offset, offset + len(stripped))
        fence = _FENCE.match(stripped)
        if fence and stripped.endswith("```") and len(stripped) > fence.end() + 3:
            span = (offset + fence.end(), span[1] - 3)
            stripped = self.body[span[0] : span[1]].strip()
        if not stripped:
            self._bad(span, "the call is empty" + (" and has no end tag" if unclosed else ""))
            return
        if stripped[0] not in "{[" or _PYTHONIC.match(stripped):
            if not pythonic or not self._pythonic(stripped, span):
                if unclosed and (found := _OBJECT_START.search(self.body, start, end)):
                    self._free(found.start(), end)
                    return
                self._bad(span, "no JSON object")
            return
        position, last = span[0], span[1]
        values: list[tuple[Any, Span]] = []
        rest = last
        while position < last:
            value, stop, reason = decode(self.body, position, last)
            if reason:
                self._bad((position, last), reason)
                break
            values.append((value, (position, stop)))
            position = _skip(self.body, stop, last, " \t\r\n;,")
            if position < last and self.body[position] not in "{[":
                if not unclosed:
                    self._bad(span, "text behind the JSON object")
                    return
                rest = position  # no end tag: the answer went on in words
                break
        for value, place in values:
            self._accept(value, place, certain=True)
        self._free(rest, last)

    def _free(self, start: int, end: int) -> None:
        """A stretch of ordinary text: JSON that has the shape of a call, or nothing but pythonic calls."""
        if start >= end:
            return
        position = start
        before = len(self.calls) + len(self.malformed)
        while found := _OBJECT_START.search(self.body, position, end):
            value, stop, reason = decode(self.body, found.start(), end)
            if not reason:
                self._accept(value, (found.start(), stop), certain=False)
                position = stop
                continue
            region_end = _region_end(self.body, found.start(), end)
            attempt = self.body[found.start() : region_end]
            if _LOOKS_LIKE_CALL.search(attempt) and _LOOKS_NAMED.search(attempt):
                self._bad((found.start(), region_end), reason)
            position = max(region_end, found.end())
        if len(self.calls) + len(self.malformed) == before:
            self._free_pythonic(start, end)

    def _free_pythonic(self, start: int, end: int) -> None:
        inside = self.body[start:end].strip()
        offset = self.body.find(inside, start) if inside else start
        fence = _FENCE.match(inside)
        if (
            fence
            and inside.endswith("```")
            and inside.count("```") == 2
            and fence[1].lower() in _PYTHONIC_FENCES
        ):
            offset += fence.end()
            inside = inside[fence.end() : -3].rstrip()
        if inside and inside[-1] in ")]" and _PYTHONIC.match(inside):
            self._pythonic(inside, (offset, offset + len(inside)), certain=inside[0] == "[")

    def _pythonic(self, source: str, span: Span, *, certain: bool = True) -> bool:
        """Calls in Python notation, literals only. True when the text was such calls, right or malformed."""
        if not _PYTHONIC.match(source):
            return False
        if len(source) > 100_000:
            self._bad(span, "a pythonic call of more than 100,000 characters")
            return True
        try:
            tree = ast.parse(source.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if certain:
                self._bad(span, f"not a Python call: {type(error).__name__}")
            return certain
        nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        if not nodes or not all(isinstance(node, ast.Call) for node in nodes):
            return False
        for node in nodes:
            name = dotted(node.func)  # type: ignore[attr-defined]
            arguments, reason = keywords(node)  # type: ignore[arg-type]
            if name is None or reason:
                if certain or name is not None:
                    self._bad(span, reason or "the name is no identifier")
            else:
                self.calls.append(ToolCall(name, arguments, span, "pythonic"))
        return True

    def _accept(self, value: Any, span: Span, *, certain: bool) -> None:
        """Calls in decoded JSON, by their shape."""
        if isinstance(value, list):
            if certain and not value:
                return
            for item in value:
                self._accept(item, span, certain=certain)
            return
        if not isinstance(value, dict):
            if certain:
                self._bad(span, "a call must be a JSON object")
            return
        if isinstance(value.get("tool_calls"), list):
            for item in value["tool_calls"]:
                self._accept(item, span, certain=True)
            return
        for wrapper in ("function_call", "function", "tool_call"):
            inner = value.get(wrapper)
            if isinstance(inner, dict) and ("name" in inner or certain):
                if not _is_definition(inner):
                    self._accept(inner, span, certain=True)
                return
        if _is_definition(value):
            return
        name = next(
            (
                value[key]
                for key in ("name", "function", "tool", "tool_name", "function_name")
                if key in value
            ),
            None,
        )
        key = next((key for key in ("arguments", "parameters", "args", "input") if key in value), None)
        if not certain and (
            name is None or key is None or (key in ("args", "input") and "name" not in value)
        ):
            return
        if not isinstance(name, str) or not name.strip():
            self._bad(span, "the name is missing or no text")
        elif key is None:
            self._bad(span, "the arguments are missing")
        else:
            arguments, reason = value[key], None
            if isinstance(arguments, str):
                arguments, reason = strict(arguments)
            if reason:
                self._bad(span, f"the arguments are no JSON: {reason}")
            elif not isinstance(arguments, dict):
                self._bad(span, "the arguments are no JSON object")
            else:
                self.calls.append(ToolCall(name.strip(), arguments, span, "json"))

    def _bad(self, span: Span, reason: str) -> None:
        self.malformed.append(MalformedCall(self.body[span[0] : span[1]], reason, span))


def _behind_values(body: str, start: int) -> int:
    """Where the JSON values that stand at ``start`` end, ``start`` where there are none; only behind them may a tag be
    an end tag."""
    position = _skip(body, start, len(body), " \t\r\n")
    fence = _FENCE.match(body, position)
    position = _skip(body, fence.end(), len(body), " \t\r\n") if fence else position
    while body[position : position + 1] in ("{", "["):
        _, stop, reason = decode(body, position, len(body))
        if reason:
            break
        start, position = stop, _skip(body, stop, len(body), " \t\r\n;,")
    return start


def _skip(body: str, start: int, end: int, characters: str) -> int:
    while start < end and body[start] in characters:
        start += 1
    return start


def _region_end(body: str, start: int, end: int) -> int:
    """Where a failed attempt ends: its closing bracket, else a fence or blank line, else the end."""
    depth = 0
    for match in _BRACKET.finditer(body, start, end):
        token = match[0]
        if token in "{[":
            depth += 1
        elif token in "}]":
            depth -= 1
            if depth <= 0:
                return match.end()
        else:
            return match.start()
    return end


def _is_definition(value: dict[str, Any]) -> bool:
    """A tool's definition (a schema), repeated from the prompt."""
    schema = value.get("parameters")
    if isinstance(schema, dict) and "properties" in schema and ("type" in schema or "description" in value):
        return True
    return "description" in value and "arguments" not in value and not isinstance(schema, dict)
