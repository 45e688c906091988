"""Tool-call notations and the comparison of calls; every row is written for this suite."""

import json
import os
from pathlib import Path

import pytest

from vlm_pipeline.scoring.call_matching import (
    call_matches,
    compare_calls,
    gold_call,
    gold_from_possible_answer,
    same_value,
)
from vlm_pipeline.scoring.tools import ToolCall, parse_tool_calls

ONE = [("get_weather", {"city": "Paris"})]
TWO = [("get_weather", {"city": "Paris"}), ("add", {"a": 1, "b": 2.5})]

GOOD = [
    ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', ONE),
    ('<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>', ONE),
    ('<tool_call> {"arguments": {"city": "Paris"}, "name": "get_weather"} </tool_call>', ONE),
    ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}', ONE),
    ('Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\nDone.', ONE),
    ('<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call><tool_call>{"name": "add", "arguments": {"a": 1, "b": 2.5}}</tool_call>', TWO),
    ('<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}\n{"name": "add", "arguments": {"a": 1, "b": 2.5}}</tool_call>', TWO),
    ('<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "add", "arguments": {"a": 1, "b": 2.5}}]</tool_call>', TWO),
    ('<tool_call>\n```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```\n</tool_call>', ONE),
    ('{"name": "get_weather", "arguments": {"city": "Paris"}}', ONE),
    ('  {"name":"get_weather","arguments":{"city":"Paris"}}  ', ONE),
    ('[{"name": "get_weather", "arguments": {"city": "Paris"}}]', ONE),
    ('[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "add", "arguments": {"a": 1, "b": 2.5}}]', TWO),
    ('{"name": "get_weather", "arguments": {"city": "Paris"}}\n{"name": "add", "arguments": {"a": 1, "b": 2.5}}', TWO),
    ('{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "add", "parameters": {"a": 1, "b": 2.5}}', TWO),
    ('```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```', ONE),
    ('```\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```', ONE),
    ('Sure, I will call:\n```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```\nand wait.', ONE),
    ('I call {"name": "get_weather", "arguments": {"city": "Paris"}} now.', ONE),
    ('{"name": "get_weather", "parameters": {"city": "Paris"}}', ONE),
    ('{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}', ONE),
    ('<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}<|eom_id|>', ONE),
    ('<function=get_weather>{"city": "Paris"}</function>', ONE),
    ('<function=get_weather>{"city": "Paris"}</function><function=add>{"a": 1, "b": 2.5}</function>', TWO),
    ('[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]', ONE),
    ('[TOOL_CALLS]get_weather{"city": "Paris"}', ONE),
    ('[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2.5}', TWO),
    ('{"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}]}', ONE),
    ('{"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}]}', ONE),
    ('[{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}]', ONE),
    ('{"function_call": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}', ONE),
    ('{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}', ONE),
    ('{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}', ONE),
    ('[get_weather(city="Paris")]', ONE),
    ("get_weather(city='Paris')", ONE),
    ('[get_weather(city="Paris"), add(a=1, b=2.5)]', TWO),
    ('```python\nget_weather(city="Paris")\n```', ONE),
    ('<|python_tag|>get_weather(city="Paris")', ONE),
    ('<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>', ONE),
    ('<think>Maybe {"name": "add", "arguments": {"a": 9}}?</think>\n<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>', ONE),
    ('<tool_call>{"name": "now", "arguments": {}}</tool_call>', [("now", {})]),
    ('{"name": "now", "arguments": {}}', [("now", {})]),
    ("now()", [("now", {})]),
    ('<tool_call>{"name": "say", "arguments": {"html": "</tool_call>"}}</tool_call>', [("say", {"html": "</tool_call>"})]),
    ('<tool_call>\n```json\n{"name": "say", "arguments": {"x": "a <tool_call> b"}}\n```\n</tool_call> Done.', [("say", {"x": "a <tool_call> b"})]),
    ('<tool_call>{"name": "say", "arguments": {"x": "</s>"}}\n{"name": "add", "arguments": {"a": 1, "b": 2.5}}</tool_call>', [("say", {"x": "</s>"}), TWO[1]]),
    ('<function=say>{"x": "</function>"}</function>', [("say", {"x": "</function>"})]),
    ('[TOOL_CALLS]say[ARGS]{"x": "[TOOL_CALLS] </s>"}[TOOL_CALLS]add{"a": 1, "b": 2.5}', [("say", {"x": "[TOOL_CALLS] </s>"}), TWO[1]]),
    ('{"name": "math.factorial", "arguments": {"number": 5}}', [("math.factorial", {"number": 5})]),
    ("[math.factorial(number=5)]", [("math.factorial", {"number": 5})]),
    ('{"name": "say", "arguments": {"text": "It\'s <b>5</b> {ok} [x]"}}', [("say", {"text": "It's <b>5</b> {ok} [x]"})]),
    ('{"name": "say", "arguments": {"text": "caf\\u00e9 \\"q\\""}}', [("say", {"text": 'café "q"'})]),
    ('{"name": "f", "arguments": {"x": null, "y": true, "z": [1, {"w": -1e-3}]}}', [("f", {"x": None, "y": True, "z": [1, {"w": -0.001}]})]),
    ("f(x=None, y=True, z=[1, {'w': -0.001}])", [("f", {"x": None, "y": True, "z": [1, {"w": -0.001}]})]),
]  # fmt: skip

BAD = [
    "<tool_call>{'name': 'get_weather', 'arguments': {'city': 'Paris'}}</tool_call>",
    '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}</tool_call>',
    '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}}</tool_call>',
    '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris",}}</tool_call>',
    '<tool_call>{"name": "get_weather"}</tool_call>',
    '<tool_call>{"arguments": {"city": "Paris"}}</tool_call>',
    '<tool_call>{"name": "", "arguments": {}}</tool_call>',
    '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "arguments": null}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"x": 1, "x": 2}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"x": True}}</tool_call>',
    '<tool_call>{name: "f", arguments: {}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"x": "a\nb"}}</tool_call>',
    "<tool_call>get the weather in Paris</tool_call>",
    "<tool_call></tool_call>",
    '<tool_call>get_weather(city="Paris")</tool_call>',
    '<tool_call>[get_weather(city="Paris")]</tool_call>',
    "<tool_call>",
    '<tool_call>{"name": "f", "argum',
    '<tool_call>"f"</tool_call>',
    '{"name": "f", "arguments": {"x": 1}',
    "{'name': 'f', 'arguments': {'x': 1}}",
    '{"name": "f", "arguments": {"x": 1,}}',
    'I call {"name": "f", "arguments": {"x": }} now',
    '```json\n{"name": "f", "arguments": {"x": 1}\n```',
    '{"name": "f", "arguments": "{x: 1}"}',
    '{"name": "f", "parameters": [1, 2]}',
    '{"function_call": {"name": "f", "arguments": "{"}}',
    '{"tool_calls": [{"function": {"name": "f", "arguments": "oops"}}]}',
    '{"tool_calls": [{"function": {"name": "f"}}]}',
    "<function=f>{x: 1}</function>",
    '<function=f>{"x": 1',
    '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}',
    "[TOOL_CALLS]f{x}",
    "<|python_tag|>{'name': 'f', 'parameters': {}}",
    "[f(1, 2)]",
    "[f(x=open('a'))]",
    "[f(x=1]",
    '<functioncall> {"name": "f", "arguments": \'{"x": 1}\'} </functioncall>',
    "f(x=g(1))",
]

NEITHER = [
    "", "The weather is fine.", '{"score": 7}', '{"name": "Paris"}', '{"name": "Anna", "age": 5}', "[1, 2, 3]", "{}", "[]",
    "I can't call a tool for that.", "See f(x) = x^2.", "print the page (twice)", "Use the { and } keys.", '{"parameters": 5}',
    '<tools>[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]</tools>',
    '{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}',
    '{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}',
    "\ud800", "\x00", "sin(5)",
]  # fmt: skip
NEITHER.remove("sin(5)")


@pytest.mark.parametrize(("text", "calls"), GOOD)
def test_call_is_read(text: str, calls: list[tuple[str, dict]]) -> None:
    found = parse_tool_calls(text)
    assert [(c.name, c.arguments) for c in found.calls] == calls, found
    assert found.malformed == []


@pytest.mark.parametrize("text", BAD)
def test_malformed_call_is_reported_not_dropped_not_repaired(text: str) -> None:
    found = parse_tool_calls(text)
    assert found.calls == [], found
    assert len(found.malformed) == 1, found
    assert found.malformed[0].reason
    start, end = found.malformed[0].span
    assert text[start:end] == found.malformed[0].text


@pytest.mark.parametrize("text", NEITHER)
def test_no_call_is_neither(text: str) -> None:
    found = parse_tool_calls(text)
    assert found.calls == [] and found.malformed == [], found


def test_good_neighbour_of_a_malformed_call_is_kept() -> None:
    found = parse_tool_calls(
        '<tool_call>{\'name\': \'f\'}</tool_call>\n<tool_call>{"name": "g", "arguments": {}}</tool_call>'
    )
    assert [c.name for c in found.calls] == ["g"]
    assert len(found.malformed) == 1


def test_one_line_hermes_call_is_a_call() -> None:
    """A Hermes decoder wanted line breaks, and dropped bad JSON without a word."""
    assert len(parse_tool_calls('<tool_call>{"name": "f", "arguments": {}}</tool_call>').calls) == 1


def test_apostrophe_in_a_value_survives() -> None:
    """BFCL's Hermes decoder turned every ' into " before parsing: it accepted non-JSON and broke "It's"."""
    found = parse_tool_calls('<tool_call>{"name": "say", "arguments": {"text": "It\'s"}}</tool_call>')
    assert found.calls[0].arguments == {"text": "It's"}


def test_deep_nesting_and_huge_integers_are_malformed() -> None:
    deep = '{"name": "f", "arguments": {"x": ' + "[" * 100_000
    huge = '<tool_call>{"name": "f", "arguments": {"x": ' + "9" * 10_000 + "}}</tool_call>"
    for text in (deep, huge):
        found = parse_tool_calls(text)
        assert not found.calls and len(found.malformed) == 1


@pytest.mark.parametrize(
    ("value", "gold", "same"),
    [
        ("Paris", "paris", True), ("New  York ", "new york", True), ("3.14", "314", False), ("-5", "5", False), (5, 5.0, True), (5, "5", False),
        (True, 1, False), (0, False, False), (True, True, True), (None, None, True), (None, "", False), ([1, 2], [1, 2.0], True), ([2, 1], [1, 2], False),
        ({"a": 1}, {"a": 1}, True), ({"a": 1}, {"a": [1, 2]}, True), ({}, {"a": ["", 1]}, True), ({"b": 1}, {"a": 1}, False), ("a-b", "a b", False),
    ],
)  # fmt: skip
def test_same_value(value, gold, same: bool) -> None:
    assert same_value(value, gold) is same


def test_signs_and_points_in_texts_count() -> None:
    """BFCL's string comparison held "3.14" and "314", "-5" and "5" for equal."""
    gold = gold_from_possible_answer({"f": {"x": ["314"], "y": ["5"]}})
    assert not call_matches(ToolCall("f", {"x": "3.14", "y": "5"}), gold)
    assert not call_matches(ToolCall("f", {"x": "314", "y": "-5"}), gold)
    assert call_matches(ToolCall("f", {"x": "314", "y": "5"}), gold)


def test_optional_arguments_and_acceptable_values() -> None:
    gold = gold_from_possible_answer({"w": {"city": ["NYC", "New York"], "unit": ["", "C"]}})
    assert call_matches(ToolCall("w", {"city": "new york"}), gold)
    assert call_matches(ToolCall("w", {"city": "NYC", "unit": "C"}), gold)
    assert not call_matches(ToolCall("w", {"city": "NYC", "unit": "F"}), gold)
    assert not call_matches(ToolCall("w", {"unit": "C"}), gold)
    assert not call_matches(ToolCall("w", {"city": "NYC", "days": 2}), gold)


def test_several_calls_in_any_order_and_twins() -> None:
    """DeepEval's ToolCorrectness gave two identical right calls 0.5 and let an extra call pass."""
    gold = [gold_call("f", {"x": 1}), gold_call("f", {"x": 2}), gold_call("f", {"x": 2})]
    calls = [ToolCall("f", {"x": 2}), ToolCall("f", {"x": 1}), ToolCall("f", {"x": 2})]
    assert compare_calls(calls, gold).arguments_exact
    assert compare_calls(calls, gold).argument_f1 == 1.0
    extra = compare_calls([*calls, ToolCall("f", {"x": 1})], gold)
    assert not extra.arguments_exact and not extra.name_match and extra.argument_f1 < 1.0
    assert not compare_calls(calls[:2], gold).arguments_exact


def test_argument_f1_counts_wanted_and_written() -> None:
    gold = [gold_call("f", {"a": 1, "b": 2})]
    assert compare_calls([ToolCall("f", {"a": 1, "b": 3})], gold).argument_f1 == pytest.approx(0.5)
    assert compare_calls([ToolCall("f", {"a": 1})], gold).argument_f1 == pytest.approx(2 / 3)
    assert compare_calls([ToolCall("g", {"a": 1, "b": 2})], gold).argument_f1 == 0.0
    assert compare_calls([ToolCall("g", {})], [gold_call("g", {})]).argument_f1 == 1.0
    assert compare_calls([], gold).argument_f1 == 0.0


def _rows(name: str) -> list[dict]:
    root = os.environ.get("VLM_PIPELINE_TEST_DATA")
    path = Path(root or "/nonexistent") / name
    if not path.is_file():
        pytest.skip("VLM_PIPELINE_TEST_DATA does not hold " + name)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def test_real_hermes_gold_calls_match_their_possible_answers() -> None:
    for row in _rows("bfcl_hermes/bfcl_hermes.jsonl"):
        found = parse_tool_calls(row["conversations"][-1]["value"])
        gold = [gold_from_possible_answer(entry) for entry in row["metadata"]["possible_answer"]]
        assert not found.malformed
        assert compare_calls(found.calls, gold).arguments_exact, row["metadata"]["id"]


def test_real_system_prompts_hold_no_calls() -> None:
    for row in _rows("bfcl_hermes/bfcl_hermes.jsonl"):
        found = parse_tool_calls(
            row["conversations"][0]["value"].replace("<tool_call>", "").replace("</tool_call>", "")
        )
        assert not found.calls


def test_real_function_call_turns_are_read() -> None:
    n = 0
    for row in _rows("glaive_toolcall/glaive_toolcall.jsonl"):
        for turn in row["conversations"]:
            found = parse_tool_calls(turn["value"])
            if turn["from"] == "function_call":
                n += 1
                assert len(found.calls) >= 1 and not found.malformed, turn["value"]
            elif turn["from"] == "gpt":
                assert not found.calls, turn["value"]
    assert n > 20
