"""One conversation in the words of each provider, and tool calls back from them."""

from __future__ import annotations

import json
import re

from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.inference.chat import anthropic_messages, openai_chat, with_calls
from vlm_pipeline_tests.inference.test_hosted import picture


def test_tool_calls_of_a_hosted_model_read_like_those_of_a_local_one():
    text = with_calls(None, [("get_weather", '{"city": "Oslo"}')])
    assert re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", text)
    assert json.loads(text.split("\n")[1]) == {"name": "get_weather", "arguments": {"city": "Oslo"}}
    assert with_calls("So:", [("f", "{broken")]).startswith("So:\n<tool_call>")


def test_conversations_in_each_providers_words():
    image = picture(3)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    talk = Conversation(
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "image", "index": 0}, {"type": "text", "text": "Q"}]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"name": "f", "arguments": {"a": 1}, "id": "c1"}],
            },
            {"role": "tool", "content": "R", "tool_call_id": "c1"},
            {"role": "user", "content": "Q2"},
        ],
        [image],
        tools,
    )
    chat = openai_chat(talk)
    assert chat["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert chat["messages"][2]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert chat["messages"][3]["tool_call_id"] == "c1" and chat["tools"] == tools
    claude = anthropic_messages(talk)
    assert claude["system"] == "S" and [turn["role"] for turn in claude["messages"]] == [
        "user",
        "assistant",
        "user",
    ]
    assert [block["type"] for block in claude["messages"][2]["content"]] == ["tool_result", "text"]
