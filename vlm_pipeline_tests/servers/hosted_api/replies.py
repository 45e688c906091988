"""The bodies of answers, lists and refusals, as each API writes them."""

from __future__ import annotations

import time
from typing import Any

from fastapi.responses import JSONResponse

from vlm_pipeline_tests.servers.hosted_api.conversation import question_of
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn

NO_TEMPERATURE = "Unsupported parameter: 'temperature' is not supported with this model."


def chat(stand_in: StandIn, body: dict[str, Any], key: str | None) -> Any:
    if stand_in.refuse_temperature and "temperature" in body:
        return error(400, NO_TEMPERATURE, "unsupported_parameter", "temperature")
    question = question_of(body["model"], body["messages"])
    text, tokens_in, tokens_out = stand_in.reply(
        question, key or stand_in.new_id("key"), len(question.images)
    )
    return {
        "id": stand_in.new_id("chatcmpl"), "object": "chat.completion", "created": int(time.time()), "model": body["model"],
        "choices": [
            {"index": 0, "finish_reason": "stop", "logprobs": None, "message": {"role": "assistant", "content": text, "refusal": None}}
        ],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
    }  # fmt: skip


def responses(stand_in: StandIn, body: dict[str, Any], key: str | None) -> Any:
    question = question_of(body["model"], [item for item in body["input"] if "role" in item])
    text, tokens_in, tokens_out = stand_in.reply(
        question, key or stand_in.new_id("key"), len(question.images)
    )
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": stand_in.new_id("resp"), "object": "response", "created_at": time.time(), "model": body["model"],
        "status": "completed", "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
        "parallel_tool_calls": True, "temperature": 0, "tool_choice": "auto", "tools": [], "top_p": 1,
        "output": [{"id": stand_in.new_id("item"), "type": "message", "role": "assistant", "status": "completed", "content": [part]}],
        "usage": {
            "input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip


def messages(stand_in: StandIn, body: dict[str, Any], key: str | None) -> Any:
    """As Anthropic answers."""
    if stand_in.refuse_temperature and "temperature" in body:
        return error(400, "`temperature` is not supported by this model.", "invalid_request_error")
    question = question_of(body["model"], body["messages"])
    text, tokens_in, tokens_out = stand_in.reply(
        question, key or stand_in.new_id("key"), len(question.images)
    )
    return {
        "id": stand_in.new_id("msg"), "type": "message", "role": "assistant", "model": body["model"],
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": tokens_in, "output_tokens": tokens_out},
    }  # fmt: skip


def page(rows: list[Any]) -> dict[str, Any]:
    first, last = (rows[0].get("id"), rows[-1].get("id")) if rows else (None, None)
    return {"object": "list", "data": rows, "has_more": False, "first_id": first, "last_id": last}


def error(status: int, message: str, code: str, param: str | None = None) -> JSONResponse:
    error = {"message": message, "type": "stand_in_error", "code": code, "param": param}
    return JSONResponse({"type": "error", "error": error}, status)


def limited(retry_after_s: float) -> JSONResponse:
    response = error(429, "Rate limit reached (stand-in)", "rate_limit_exceeded")
    response.headers["retry-after"] = str(retry_after_s)
    return response
