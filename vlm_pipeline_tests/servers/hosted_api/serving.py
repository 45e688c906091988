"""The stand-in on a loopback port, and the environment that points the real clients at it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from vlm_pipeline_tests.servers.hosted_api.app import build_app
from vlm_pipeline_tests.servers.hosted_api.stand_in import KEY, StandIn


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
