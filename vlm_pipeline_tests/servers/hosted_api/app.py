"""The routes of the stand-in, and the faults before them."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from vlm_pipeline_tests.servers.hosted_api import jobs, replies
from vlm_pipeline_tests.servers.hosted_api.conversation import multipart
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn


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
            return replies.error(401, f"Incorrect API key provided: {given}", "invalid_api_key")
        answers = path.endswith(("/chat/completions", "/responses", "/messages"))
        stand_in._in_flight += 1
        stand_in.most_in_flight = max(stand_in.most_in_flight, stand_in._in_flight)
        try:
            limit = stand_in.faults.max_in_flight
            if limit and stand_in._in_flight > limit:
                stand_in.injected["429"] += 1
                return replies.limited(stand_in.faults.retry_after_s)
            fault = stand_in.faults.draw() if answers or stand_in.faults.everywhere else None
            return await _with_fault(fault, request, call_next)
        finally:
            stand_in._in_flight -= 1

    async def _with_fault(fault: str | None, request: Request, call_next: Any) -> Response:
        if fault is None:
            return await call_next(request)
        stand_in.injected[fault] += 1
        if fault == "429":
            return replies.limited(stand_in.faults.retry_after_s)
        if fault == "500":
            return replies.error(500, "the stand-in was told to fail", "server_error")
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
        return replies.chat(stand_in, await request.json(), request.headers.get("idempotency-key"))

    @router.post("/deployments/{deployment}/chat/completions")
    async def azure_chat(deployment: str, request: Request) -> Any:
        body = {**await request.json(), "model": deployment}
        return replies.chat(stand_in, body, request.headers.get("idempotency-key"))

    @router.post("/responses")
    async def responses(request: Request) -> Any:
        return replies.responses(stand_in, await request.json(), request.headers.get("idempotency-key"))

    @router.post("/messages")
    async def messages(request: Request) -> Any:
        return replies.messages(stand_in, await request.json(), request.headers.get("idempotency-key"))

    @router.get("/models")
    async def models() -> Any:
        names = ["stand-in-small", "stand-in-large", *(job["fine_tuned_model"] for job in stand_in.jobs.values() if job["fine_tuned_model"])]  # fmt: skip
        return replies.page(
            [{"id": name, "object": "model", "created": 0, "owned_by": stand_in.owner} for name in names]
        )

    @router.post("/files")
    async def upload(request: Request) -> Any:
        name, purpose, data = multipart(request.headers["content-type"], await request.body())
        return jobs.store_file(stand_in, name, purpose, data)

    @router.get("/files")
    async def list_files() -> Any:
        return replies.page([info for info, _ in reversed(stand_in.files.values())])

    @router.get("/files/{file_id}")
    async def get_file(file_id: str) -> Any:
        return (
            stand_in.files[file_id][0]
            if file_id in stand_in.files
            else replies.error(404, f"no file {file_id}", "not_found")
        )

    @router.get("/files/{file_id}/content")
    async def get_content(file_id: str) -> Any:
        if file_id not in stand_in.files:
            return replies.error(404, f"no file {file_id}", "not_found")
        return Response(stand_in.files[file_id][1], media_type="application/octet-stream")

    @router.delete("/files/{file_id}")
    async def delete_file(file_id: str) -> Any:
        stand_in.files.pop(file_id, None)
        return {"id": file_id, "object": "file", "deleted": True}

    @router.post("/fine_tuning/jobs")
    async def create_job(request: Request) -> Any:
        if stand_in.refuse_jobs:
            return replies.error(403, f"Fine-tuning is not open to {stand_in.key}.", "not_available")
        return jobs.create_job(stand_in, await request.json())

    @router.get("/fine_tuning/jobs")
    async def list_jobs() -> Any:
        return replies.page([stand_in.job_view(job) for job in reversed(stand_in.jobs.values())])

    @router.get("/fine_tuning/jobs/{job_id}")
    async def get_job(job_id: str) -> Any:
        if job_id not in stand_in.jobs:
            return replies.error(404, f"no job {job_id}", "not_found")
        return stand_in.job_view(stand_in.jobs[job_id])

    @router.post("/fine_tuning/jobs/{job_id}/cancel")
    async def cancel_job(job_id: str) -> Any:
        job = stand_in.jobs[job_id]
        if stand_in.job_view(job)["status"] != "succeeded":
            job["status"] = "cancelled"
        return stand_in.job_view(job)

    @router.get("/fine_tuning/jobs/{job_id}/events")
    async def events(job_id: str) -> Any:
        return replies.page(jobs.events_of(stand_in, stand_in.jobs[job_id]))

    @router.get("/fine_tuning/jobs/{job_id}/checkpoints")
    async def checkpoints(job_id: str) -> Any:
        return replies.page(jobs.checkpoints_of(stand_in, stand_in.jobs[job_id]))

    @router.post("/batches")
    async def create_batch(request: Request) -> Any:
        return jobs.create_batch(stand_in, await request.json())

    @router.get("/batches")
    async def list_batches() -> Any:
        return replies.page(
            [jobs.batch_view(stand_in, batch) for batch in reversed(stand_in.batches.values())]
        )

    @router.get("/batches/{batch_id}")
    async def get_batch(batch_id: str) -> Any:
        return jobs.batch_view(stand_in, stand_in.batches[batch_id])

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Any:
        if stand_in.tokenize is None:
            return replies.error(404, "Not Found", "not_found")
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
