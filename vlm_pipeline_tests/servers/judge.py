"""A judge on loopback: the chat completions and the messages routes, as the official clients speak them.

It knows which of DeepEval's questions it is asked by the JSON that the prompt wants, and answers by ``policy``; a
test may replace it to play a strange, failing or contradicting judge.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

# What marks each of DeepEval's prompts, in the order in which they must be tried.
QUESTIONS = (
    ("steps", 'with the "steps" key'),
    ("statements", 'with the "statements" key'),
    ("claims", 'with the "claims" key'),
    ("truths", 'with the "truths" key'),
    ("verdicts", "'verdicts' key"),
    ("verdicts", 'Expected JSON format:\n{\n  "verdicts"'),
    ("score", "Evaluation Steps:"),
    ("reason", "'reason' key"),
)


@dataclass
class Asked:
    """One request: which question it was, its text, its pictures, who asked."""

    question: str
    text: str
    images: list[bytes]
    model: str
    key: str | None
    body: dict[str, Any] = field(repr=False, default_factory=dict)


def agreeable(asked: Asked) -> Any:
    """Every statement is relevant, every claim is borne out, and the score is 8."""
    return {
        "steps": {"steps": ["Compare the actual output with the expected output."]},
        "statements": {"statements": ["the whole answer"]},
        "claims": {"claims": ["the whole answer"]},
        "truths": {"truths": ["the whole context"]},
        "verdicts": {"verdicts": [{"verdict": "yes"}]},
        "score": {"score": 8, "reason": "nearly complete"},
        "reason": {"reason": "because"},
    }[asked.question]


def _key(request: Request) -> str | None:
    """The key, as either generation of clients sends it."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    return request.headers.get("x-api-key") or bearer or None


class JudgeServer:
    """``with JudgeServer() as server``: ``server.url`` ends in /v1 for openai, ``server.root`` serves anthropic."""

    def __init__(self, policy: Callable[[Asked], Any] = agreeable) -> None:
        self.policy = policy
        self.asked: list[Asked] = []
        self.failures: list[int] = []  # status codes to answer with first, one per request
        self._lock = threading.Lock()
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=0, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> JudgeServer:
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the judge stand-in did not start")
            time.sleep(0.02)
        self.root = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        self.url = f"{self.root}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)

    def questions(self) -> list[str]:
        return [one.question for one in self.asked]

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> JSONResponse:
            body = await request.json()
            parts = body["messages"][-1]["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            images = [p["image_url"]["url"].split(",", 1)[1] for p in parts if p["type"] == "image_url"]
            status, text = self._answer(body, parts, images, _key(request))
            if status != 200:
                return JSONResponse({"error": {"message": text, "type": "stand-in"}}, status)
            return JSONResponse(
                {
                    "id": "c1", "object": "chat.completion", "created": 1, "model": body["model"],
                    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
                    "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
                }
            )  # fmt: skip

        @app.post("/v1/messages")
        async def messages(request: Request) -> JSONResponse:
            body = await request.json()
            parts = body["messages"][-1]["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            images = [p["source"]["data"] for p in parts if p["type"] == "image"]
            status, text = self._answer(body, parts, images, _key(request))
            if status != 200:
                error = {"type": "error", "error": {"type": "api_error", "message": text}}
                return JSONResponse(error, status)
            return JSONResponse(
                {
                    "id": "m1", "type": "message", "role": "assistant", "model": body["model"],
                    "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
                    "usage": {"input_tokens": 1000, "output_tokens": 100},
                }
            )  # fmt: skip

        return app

    def _answer(
        self, body: dict[str, Any], parts: list[dict[str, Any]], images: list[str], key: str | None
    ) -> tuple[int, str]:
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        question = next((name for name, mark in QUESTIONS if mark in text), "unknown")
        asked = Asked(question, text, [base64.b64decode(image) for image in images], body["model"], key, body)
        with self._lock:
            self.asked.append(asked)
            if self.failures:
                return self.failures.pop(0), "the stand-in was told to fail"
        if question == "unknown":
            return 400, "the stand-in does not know this question"
        reply = self.policy(asked)
        return 200, reply if isinstance(reply, str) else json.dumps(reply)
