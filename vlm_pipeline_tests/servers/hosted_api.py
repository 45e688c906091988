"""A loopback stand-in of the hosted APIs, for tests and for trying things out without a key.

It speaks what the real openai and anthropic clients speak: chat completions and responses with images, files,
fine-tuning jobs with events and checkpoints, batches, Anthropic messages, and Azure's paths. Its models are called
`stand-in-…`, so that no table can pass its answers off as a provider's. Under `faults` it misbehaves at a seeded
rate: 429 with Retry-After, 500, slow, cut and malformed answers. What it has computed counts as paid, once per
Idempotency-Key, also when the answer is then lost on the way.

    python -m vlm_pipeline_tests.servers.hosted_api --port 8123 --faults 0.3
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

KEY = "stand-in-key-0123456789"
_NO_TEMPERATURE = "Unsupported parameter: 'temperature' is not supported with this model."
FAULTS = ("429", "500", "slow", "cut", "malformed")


@dataclass(frozen=True)
class Question:
    """What a model is asked: the last user text, hashes of all pictures, and everything said so far."""

    model: str
    text: str
    images: tuple[str, ...]
    transcript: str


Answer = Callable[[Question], str]


def default_answer(question: Question) -> str:
    """A number that depends on model, question and pictures, said at some length."""
    digest = hashlib.sha256(repr((question.model, question.text, question.images)).encode()).digest()
    return f"Looking at the picture, I would say about {digest[0] % 90 + 10}.{digest[1] % 10}."


@dataclass
class Faults:
    """Share of requests that go wrong, drawn by a seeded generator from `kinds`."""

    rate: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = FAULTS
    slow_s: float = 0.3
    retry_after_s: float = 0.05
    everywhere: bool = False  # also files, jobs and batches, not only answers
    max_in_flight: int | None = None  # more than this at once: 429

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self) -> str | None:
        if self._random.random() >= self.rate:
            return None
        return self._random.choice(self.kinds)


@dataclass
class StandIn:
    """Behaviour and memory of the server."""

    answer: Answer = default_answer
    faults: Faults = field(default_factory=Faults)
    key: str = KEY
    owner: str = "stand-in"  # of its models, as the list of models says
    job_s: float = 0.2  # a fine-tuning job takes this long
    batch_s: float = 0.1
    refuse_temperature: bool = False  # as reasoning models do
    refuse_jobs: bool = False  # as a platform that is closed to new users; the refusal repeats the key
    tokenize: Callable[[dict[str, Any]], list[int]] | None = (
        None  # a chat's prompt tokens, as vLLM tells them
    )

    requests: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    paid: dict[str, Any] = field(
        default_factory=dict
    )  # idempotency key -> (model, tokens in, tokens out, text)
    files: dict[str, tuple[dict[str, Any], bytes]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    most_in_flight: int = 0
    _in_flight: int = 0
    _numbers: Counter[str] = field(default_factory=Counter)
    _memories: dict[str, list[tuple[set[str], str]]] = field(default_factory=dict)

    def new_id(self, kind: str) -> str:
        self._numbers[kind] += 1
        return f"{kind}-standin{self._numbers[kind]:04d}"

    def reply(self, question: Question, key: str, images: int) -> tuple[str, int, int]:
        """Text and token counts; computed and paid once per key."""
        if key not in self.paid:
            memory = self._memory_of(question.model)
            text = _nearest(memory, question.text) if memory else self.answer(question)
            tokens_in = len(question.transcript) // 4 + 200 * images + 1
            self.paid[key] = (question.model, tokens_in, len(text) // 4 + 1, text)
        _, tokens_in, tokens_out, text = self.paid[key]
        return text, tokens_in, tokens_out

    def _memory_of(self, model: str) -> list[tuple[set[str], str]]:
        """A fine-tuned model answers as the training row with the most similar question was answered."""
        for job in self.jobs.values():
            if job.get("model_when_done") != model:
                continue
            if model not in self._memories:
                rows = [
                    json.loads(line)
                    for line in self.files[job["training_file"]][1].splitlines()
                    if line.strip()
                ]
                self._memories[model] = [
                    (_words(_last_user(row["messages"])), _text_of(row["messages"][-1]["content"]))
                    for row in rows
                ]
            return self._memories[model]
        return []

    def job_view(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job as of now: queued, running, then succeeded."""
        age = time.monotonic() - job["_started"]
        if job["status"] not in ("cancelled", "failed"):
            job["status"] = (
                "queued" if age < self.job_s / 4 else "running" if age < self.job_s else "succeeded"
            )
        if job["status"] == "succeeded" and job["fine_tuned_model"] is None:
            job |= {"fine_tuned_model": job["model_when_done"], "finished_at": int(time.time())}
            job["trained_tokens"] = len(self.files[job["training_file"]][1]) // 4 * job["_epochs"]
        return {
            name: value
            for name, value in job.items()
            if not name.startswith("_") and name != "model_when_done"
        }


def build_app(stand_in: StandIn) -> FastAPI:
    app = FastAPI(title="stand-in of the hosted APIs", openapi_url=None)
    router = APIRouter()

    @app.middleware("http")
    async def misbehave(request: Request, call_next: Any) -> Response:
        path = request.url.path
        if path.startswith("/stand-in"):
            return await call_next(request)
        stand_in.requests[path.rsplit("/", 1)[-1]] += 1
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("api-key") or request.headers.get("x-api-key") or ""  # fmt: skip
        if given != stand_in.key:
            return _error(401, f"Incorrect API key provided: {given}", "invalid_api_key")
        answers = path.endswith(("/chat/completions", "/responses", "/messages"))
        stand_in._in_flight += 1
        stand_in.most_in_flight = max(stand_in.most_in_flight, stand_in._in_flight)
        try:
            limit = stand_in.faults.max_in_flight
            if limit and stand_in._in_flight > limit:
                stand_in.injected["429"] += 1
                return _limited(stand_in.faults.retry_after_s)
            fault = stand_in.faults.draw() if answers or stand_in.faults.everywhere else None
            return await _with_fault(fault, request, call_next)
        finally:
            stand_in._in_flight -= 1

    async def _with_fault(fault: str | None, request: Request, call_next: Any) -> Response:
        if fault is None:
            return await call_next(request)
        stand_in.injected[fault] += 1
        if fault == "429":
            return _limited(stand_in.faults.retry_after_s)
        if fault == "500":
            return _error(500, "the stand-in was told to fail", "server_error")
        if fault == "slow":
            await asyncio.sleep(stand_in.faults.slow_s)
            return await call_next(request)
        response = await call_next(request)
        body = b"".join([chunk async for chunk in response.body_iterator])  # type: ignore[attr-defined]
        if fault == "cut":

            async def half() -> Any:
                yield body[: len(body) // 2]

            headers = {"content-length": str(len(body)), "content-type": "application/json"}
            return StreamingResponse(half(), status_code=200, headers=headers)
        broken = body[: len(body) // 2] if stand_in.injected[fault] % 2 else b'{"object": "nothing"}'
        return Response(broken, media_type="application/json")

    @router.post("/chat/completions")
    async def chat(request: Request) -> Any:
        return _chat(stand_in, await request.json(), request.headers.get("idempotency-key"))

    @router.post("/deployments/{deployment}/chat/completions")
    async def azure_chat(deployment: str, request: Request) -> Any:
        body = {**await request.json(), "model": deployment}
        return _chat(stand_in, body, request.headers.get("idempotency-key"))

    @router.post("/responses")
    async def responses(request: Request) -> Any:
        return _responses(stand_in, await request.json(), request.headers.get("idempotency-key"))

    @router.post("/messages")
    async def messages(request: Request) -> Any:
        body = await request.json()
        if stand_in.refuse_temperature and "temperature" in body:
            return _error(400, "`temperature` is not supported by this model.", "invalid_request_error")
        question = _question(body["model"], body["messages"])
        key = request.headers.get("idempotency-key") or stand_in.new_id("key")
        text, tokens_in, tokens_out = stand_in.reply(question, key, len(question.images))
        return {
            "id": stand_in.new_id("msg"), "type": "message", "role": "assistant", "model": body["model"],
            "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": tokens_in, "output_tokens": tokens_out},
        }  # fmt: skip

    @router.get("/models")
    async def models() -> Any:
        names = ["stand-in-small", "stand-in-large", *(job["fine_tuned_model"] for job in stand_in.jobs.values() if job["fine_tuned_model"])]  # fmt: skip
        return _page(
            [{"id": name, "object": "model", "created": 0, "owned_by": stand_in.owner} for name in names]
        )

    @router.post("/files")
    async def upload(request: Request) -> Any:
        name, purpose, data = _multipart(request.headers["content-type"], await request.body())
        return _store_file(stand_in, name, purpose, data)

    @router.get("/files")
    async def list_files() -> Any:
        return _page([info for info, _ in reversed(stand_in.files.values())])

    @router.get("/files/{file_id}")
    async def get_file(file_id: str) -> Any:
        return (
            stand_in.files[file_id][0]
            if file_id in stand_in.files
            else _error(404, f"no file {file_id}", "not_found")
        )

    @router.get("/files/{file_id}/content")
    async def get_content(file_id: str) -> Any:
        if file_id not in stand_in.files:
            return _error(404, f"no file {file_id}", "not_found")
        return Response(stand_in.files[file_id][1], media_type="application/octet-stream")

    @router.delete("/files/{file_id}")
    async def delete_file(file_id: str) -> Any:
        stand_in.files.pop(file_id, None)
        return {"id": file_id, "object": "file", "deleted": True}

    @router.post("/fine_tuning/jobs")
    async def create_job(request: Request) -> Any:
        if stand_in.refuse_jobs:
            return _error(403, f"Fine-tuning is not open to {stand_in.key}.", "not_available")
        return _create_job(stand_in, await request.json())

    @router.get("/fine_tuning/jobs")
    async def list_jobs() -> Any:
        return _page([stand_in.job_view(job) for job in reversed(stand_in.jobs.values())])

    @router.get("/fine_tuning/jobs/{job_id}")
    async def get_job(job_id: str) -> Any:
        if job_id not in stand_in.jobs:
            return _error(404, f"no job {job_id}", "not_found")
        return stand_in.job_view(stand_in.jobs[job_id])

    @router.post("/fine_tuning/jobs/{job_id}/cancel")
    async def cancel_job(job_id: str) -> Any:
        job = stand_in.jobs[job_id]
        if stand_in.job_view(job)["status"] != "succeeded":
            job["status"] = "cancelled"
        return stand_in.job_view(job)

    @router.get("/fine_tuning/jobs/{job_id}/events")
    async def events(job_id: str) -> Any:
        return _page(_events(stand_in, stand_in.jobs[job_id]))

    @router.get("/fine_tuning/jobs/{job_id}/checkpoints")
    async def checkpoints(job_id: str) -> Any:
        return _page(_checkpoints(stand_in, stand_in.jobs[job_id]))

    @router.post("/batches")
    async def create_batch(request: Request) -> Any:
        return _create_batch(stand_in, await request.json())

    @router.get("/batches")
    async def list_batches() -> Any:
        return _page([_batch_view(stand_in, batch) for batch in reversed(stand_in.batches.values())])

    @router.get("/batches/{batch_id}")
    async def get_batch(batch_id: str) -> Any:
        return _batch_view(stand_in, stand_in.batches[batch_id])

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Any:
        if stand_in.tokenize is None:
            return _error(404, "Not Found", "not_found")
        tokens = stand_in.tokenize(await request.json())
        return {"count": len(tokens), "max_model_len": 4096, "tokens": tokens}

    @app.get("/stand-in/stats")
    async def stats() -> Any:
        return {
            "requests": stand_in.requests, "injected": stand_in.injected, "paid": len(stand_in.paid),
            "jobs": len(stand_in.jobs), "batches": len(stand_in.batches), "most_in_flight": stand_in.most_in_flight,
        }  # fmt: skip

    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/openai")
    return app


def _chat(stand_in: StandIn, body: dict[str, Any], key: str | None) -> Any:
    if stand_in.refuse_temperature and "temperature" in body:
        return _error(400, _NO_TEMPERATURE, "unsupported_parameter", "temperature")
    question = _question(body["model"], body["messages"])
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


def _responses(stand_in: StandIn, body: dict[str, Any], key: str | None) -> Any:
    question = _question(body["model"], [item for item in body["input"] if "role" in item])
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


def _question(model: str, messages: list[dict[str, Any]]) -> Question:
    images = []
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else ():
            url = part.get("image_url")
            url = url["url"] if isinstance(url, dict) else url
            data = url.partition("base64,")[2] if url else part.get("source", {}).get("data")
            if data:
                images.append(hashlib.sha256(base64.b64decode(data)).hexdigest())
    transcript = "\n".join(_text_of(message["content"]) for message in messages)
    return Question(model, _last_user(messages), tuple(images), transcript)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def _last_user(messages: list[dict[str, Any]]) -> str:
    return next(
        (_text_of(message["content"]) for message in reversed(messages) if message["role"] == "user"), ""
    )


def _words(text: str) -> set[str]:
    return set(text.lower().split())


def _nearest(memory: list[tuple[set[str], str]], text: str) -> str:
    words = _words(text)
    return max(memory, key=lambda row: (len(row[0] & words) / max(1, len(row[0] | words)), row[1]))[1]


def _store_file(stand_in: StandIn, name: str, purpose: str, data: bytes) -> dict[str, Any]:
    info = {
        "id": stand_in.new_id("file"), "object": "file", "bytes": len(data), "created_at": int(time.time()),
        "filename": name, "purpose": purpose, "status": "processed",
    }  # fmt: skip
    stand_in.files[info["id"]] = (info, data)
    return info


def _multipart(content_type: str, body: bytes) -> tuple[str, str, bytes]:
    """File name, purpose and content of the one upload that the clients send."""
    from email.parser import BytesParser
    from email.policy import HTTP

    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}  # type: ignore[attr-defined]
    file = parts["file"]
    return (
        file.get_filename(),
        parts["purpose"].get_payload(decode=True).decode().strip(),
        file.get_payload(decode=True),
    )


def _create_job(stand_in: StandIn, body: dict[str, Any]) -> Any:
    if body.get("training_file") not in stand_in.files:
        return _error(400, f"training_file {body.get('training_file')} does not exist", "invalid_file")
    number = len(stand_in.jobs) + 1
    chosen = (
        ((body.get("method") or {}).get("supervised") or {}).get("hyperparameters")
        or body.get("hyperparameters")
        or {}
    )
    epochs = chosen.get("n_epochs", "auto")
    suffix = body.get("suffix") or "stand-in"
    job = {
        "id": f"ftjob-standin{number:04d}", "object": "fine_tuning.job", "model": body["model"], "created_at": int(time.time()),
        "finished_at": None, "fine_tuned_model": None, "organization_id": "org-stand-in", "result_files": [], "status": "queued",
        "seed": body.get("seed") or 0, "error": None, "trained_tokens": None, "training_file": body["training_file"],
        "validation_file": body.get("validation_file"), "hyperparameters": {"n_epochs": epochs}, "metadata": body.get("metadata"),
        "_started": time.monotonic(), "_epochs": epochs if isinstance(epochs, int) else 3,
        "model_when_done": f"ft:{body['model']}:stand-in:{suffix}:{number:04d}",
    }  # fmt: skip
    stand_in.jobs[job["id"]] = job
    return stand_in.job_view(job)


def _events(stand_in: StandIn, job: dict[str, Any]) -> list[dict[str, Any]]:
    status = stand_in.job_view(job)["status"]
    said = ["The job was created (stand-in)"]
    losses = [2.0 / (step + 1) for step in range(4)] if status in ("running", "succeeded") else []
    events = [{"message": text, "type": "message", "data": None} for text in said]
    events += [
        {
            "message": f"Step {step + 1}/4: training loss={loss:.2f}",
            "type": "metrics",
            "data": {"step": step + 1, "train_loss": loss},
        }
        for step, loss in enumerate(losses)
    ]
    if status == "succeeded":
        events.append(
            {"message": "The job has successfully completed (stand-in)", "type": "message", "data": None}
        )
    common = {"object": "fine_tuning.job.event", "created_at": job["created_at"], "level": "info"}
    return [
        {"id": f"ftevent-{number}", **common, **event} for number, event in reversed(list(enumerate(events)))
    ]


def _checkpoints(stand_in: StandIn, job: dict[str, Any]) -> list[dict[str, Any]]:
    if stand_in.job_view(job)["status"] != "succeeded":
        return []
    return [
        {
            "id": f"ftckpt-{job['id']}-{step}", "object": "fine_tuning.job.checkpoint", "created_at": job["created_at"],
            "fine_tuning_job_id": job["id"], "step_number": step,
            "fine_tuned_model_checkpoint": f"{job['model_when_done']}:ckpt-step-{step}",
            "metrics": {"step": step, "train_loss": 2.0 / step, "full_valid_loss": 2.2 / step},
        }
        for step in (4, 2)
    ]  # fmt: skip


def _create_batch(stand_in: StandIn, body: dict[str, Any]) -> dict[str, Any]:
    batch = {
        "id": stand_in.new_id("batch"), "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"],
        "completion_window": body["completion_window"], "status": "validating", "created_at": int(time.time()),
        "metadata": body.get("metadata"), "output_file_id": None, "error_file_id": None, "_started": time.monotonic(),
    }  # fmt: skip
    stand_in.batches[batch["id"]] = batch
    return _batch_view(stand_in, batch)


def _batch_view(stand_in: StandIn, batch: dict[str, Any]) -> dict[str, Any]:
    """Answers are computed when the batch is done; a share of its rows fails as `faults` says."""
    age = time.monotonic() - batch["_started"]
    if batch["status"] != "completed":
        batch["status"] = "in_progress" if age < stand_in.batch_s else "completed"
    if batch["status"] == "completed" and batch["output_file_id"] is None:
        good, bad = [], []
        for line in stand_in.files[batch["input_file_id"]][1].splitlines():
            entry = json.loads(line)
            refused = stand_in.refuse_temperature and "temperature" in entry["body"]
            if refused or stand_in.faults.draw():
                message = _NO_TEMPERATURE if refused else "the stand-in was told to fail"
                failure = {"status_code": 400 if refused else 500, "body": {"error": {"message": message}}}
                bad.append({"custom_id": entry["custom_id"], "response": failure, "error": None})
                continue
            respond = _responses if entry["url"].endswith("responses") else _chat
            answer = respond(stand_in, entry["body"], entry["custom_id"])
            good.append(
                {
                    "custom_id": entry["custom_id"],
                    "response": {"status_code": 200, "body": answer},
                    "error": None,
                }
            )
        for name, rows in (("output_file_id", good), ("error_file_id", bad)):
            data = "\n".join(json.dumps(row) for row in rows).encode()
            batch[name] = _store_file(stand_in, f"{name}.jsonl", "batch_output", data)["id"]
    return {name: value for name, value in batch.items() if not name.startswith("_")}


def _page(rows: list[Any]) -> dict[str, Any]:
    first, last = (rows[0].get("id"), rows[-1].get("id")) if rows else (None, None)
    return {"object": "list", "data": rows, "has_more": False, "first_id": first, "last_id": last}


def _error(status: int, message: str, code: str, param: str | None = None) -> JSONResponse:
    error = {"message": message, "type": "stand_in_error", "code": code, "param": param}
    return JSONResponse({"type": "error", "error": error}, status)


def _limited(retry_after_s: float) -> JSONResponse:
    response = _error(429, "Rate limit reached (stand-in)", "rate_limit_exceeded")
    response.headers["retry-after"] = str(retry_after_s)
    return response


@contextmanager
def serving(stand_in: StandIn | None = None) -> Iterator[tuple[StandIn, str]]:
    """Run the server on a free loopback port in a thread; yields it and its root URL (append /v1 for OpenAI)."""
    stand_in = stand_in or StandIn()
    config = uvicorn.Config(
        build_app(stand_in), host="127.0.0.1", port=0, log_level="critical", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True, name="stand-in")
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the stand-in did not start")
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield stand_in, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def environment(url: str, key: str = KEY) -> dict[str, str]:
    """Environment variables that point the real clients at the stand-in."""
    return {
        "OPENAI_API_KEY": key, "OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_API_KEY": key, "ANTHROPIC_BASE_URL": url,
        "AZURE_OPENAI_API_KEY": key, "AZURE_OPENAI_ENDPOINT": url,
    }  # fmt: skip


def answers_from(path: Path, accuracy: float, seed: int) -> Answer:
    """Gold answers of a chat-format JSONL file, right for a seeded share of the questions, else the default answer."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    gold = {_last_user(row["messages"]): _text_of(row["messages"][-1]["content"]) for row in rows}

    def answer(question: Question) -> str:
        draw = hashlib.sha256(f"{seed} {question.text} {question.images}".encode()).digest()[0] / 256
        return gold[question.text] if question.text in gold and draw < accuracy else default_answer(question)

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Stand-in of the hosted APIs on loopback. Not a model: its answers mean nothing."
    )
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that go wrong")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job-seconds", type=float, default=5.0, help="how long a fine-tuning job takes")
    parser.add_argument("--answers", type=Path, help="chat-format JSONL whose last turns are gold answers")
    parser.add_argument(
        "--accuracy", type=float, default=0.6, help="share of --answers questions answered right"
    )
    options = parser.parse_args()
    answer = (
        answers_from(options.answers, options.accuracy, options.seed) if options.answers else default_answer
    )
    stand_in = StandIn(answer=answer, faults=Faults(options.faults, options.seed), job_s=options.job_seconds)
    url = f"http://127.0.0.1:{options.port}"
    print("stand-in of the hosted APIs: no real model answers here. Use it with\n")
    print("\n".join(f"export {name}={value}" for name, value in environment(url).items()), flush=True)
    uvicorn.run(build_app(stand_in), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
