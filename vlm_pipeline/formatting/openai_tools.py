"""The rules of the fine-tuning API about turns and tools of one example: their order, calls, results, definitions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
Add = Callable[..., None]


def check_order(messages: list[dict[str, Any]], number: int, add: Add) -> None:
    """Who speaks last, who learns, and that every call is answered before anybody else speaks."""
    if messages[-1].get("role") != "assistant":
        add(
            "last_message",
            f"the last message is from {messages[-1].get('role')}, not from the assistant",
            number,
        )
    answers = [message for message in messages if message.get("role") == "assistant"]
    if not answers:
        add("no_answer", "no assistant message: nothing to learn", number)
    elif all(message.get("weight") == 0 for message in answers):
        add("no_answer", "every assistant message has weight 0: nothing to learn", number)
    if not any(message.get("role") == "user" for message in messages):
        add("no_user", "no user message: the model learns to speak unasked", number, blocking=False)
    waiting: list[str] = []
    for message in messages:
        role = message.get("role")
        if role == "tool":
            answered = message.get("tool_call_id")
            if answered in waiting:
                waiting.remove(answered)
            else:
                add("tool_call_id", f"a tool result answers the unknown call {str(answered)[:40]!r}", number)
            continue
        if waiting:
            add(
                "tool_calls",
                f"the call {waiting[0][:40]!r} is not answered by a tool message before the {role} message after it",
                number,
            )
        waiting = [
            call["id"]
            for call in _listed(message.get("tool_calls"))
            if isinstance(call, dict) and isinstance(call.get("id"), str)
        ]


def check_tools(example: dict[str, Any], number: int, most: int, add: Add) -> None:
    """Definitions (`tools`, and `functions`, which they replaced) and calls of one example."""
    known = _definitions(example.get("tools"), number, most, add)
    known |= _functions(example.get("functions"), number, add)
    if not isinstance(example.get("parallel_tool_calls", False), bool):
        add("parallel_tool_calls", "parallel_tool_calls is neither true nor false", number)
    calls = 0
    for message in example["messages"]:
        if message.get("tool_calls") is not None and not isinstance(message["tool_calls"], list):
            add("tool_calls", "tool_calls is not a list", number)
        for call in _listed(message.get("tool_calls")):
            calls += 1
            _check_call(call, known, number, add)
        if message.get("function_call") is not None:
            calls += 1
            _check_function(message["function_call"], known, number, add, "function_call")
    if calls and not known:
        add("no_tools", "tools are called that the example does not define", number, blocking=False)


def _definitions(tools: Any, number: int, most: int, add: Add) -> set[str]:
    if tools is not None and not isinstance(tools, list):
        add("tools", "tools is not a list", number)
    names: set[str] = set()
    if len(_listed(tools)) > most:
        add("tools", f"{len(tools)} tools, at most {most}", number)
    for tool in _listed(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            kind = tool.get("type") if isinstance(tool, dict) else tool
            add("tools", f"a tool has the type {str(kind)[:40]!r}; known: function", number)
        names |= _definition(
            tool.get("function") if isinstance(tool, dict) else None, names, number, add, "tools"
        )
    return names


def _functions(functions: Any, number: int, add: Add) -> set[str]:
    if functions is not None and not isinstance(functions, list):
        add("functions", "functions is not a list", number)
    names: set[str] = set()
    for function in _listed(functions):
        names |= _definition(function, names, number, add, "functions")
    return names


def _definition(function: Any, before: set[str], number: int, add: Add, rule: str) -> set[str]:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        add(rule, f"a tool has the name {str(name)[:60]!r}; 1-64 letters, digits, _ or -", number)
        return set()
    if name in before:
        add(rule, f"two tools have the name {name!r}", number)
    if not isinstance(function.get("parameters") or {}, dict):
        add(rule, f"parameters of the tool {name!r} are no JSON schema", number)
    return {name}


def _check_call(call: Any, known: set[str], number: int, add: Add) -> None:
    if not isinstance(call, dict):
        add("tool_calls", "a tool call is not an object", number)
        return
    if not isinstance(call.get("id"), str) or not call["id"]:
        add("tool_calls", "a tool call has no id, by which its result is found", number)
    if call.get("type") != "function":
        add("tool_calls", f"a tool call has the type {str(call.get('type'))[:40]!r}; known: function", number)
    _check_function(call.get("function"), known, number, add, "tool_calls")


def _check_function(function: Any, known: set[str], number: int, add: Add, rule: str) -> None:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        add(rule, "a tool call has no function name", number)
        return
    name = function["name"][:60]
    if known and function["name"] not in known:
        add(rule, f"the called tool {name!r} is not among the tools", number)
    try:
        arguments = json.loads(function.get("arguments"))  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError):
        add(rule, f"arguments of {name!r} are not a string of JSON", number)
        return
    if not isinstance(arguments, dict):
        add(rule, f"arguments of {name!r} are not a JSON object", number)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
