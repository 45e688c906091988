"""A scoring tool behind the official MCP server, on loopback (streamable HTTP) or over standard input and output.

It scores 1 where the response holds the reference, else 0; some responses make it misbehave.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

gym = MCPServer("safety-gym", version="3.1.4")
calls: list[int] = []  # batch sizes


@gym.tool()
def score_batch(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Score responses against their references."""
    calls.append(len(items))
    responses = [item["response"] for item in items]
    if "make it fail" in responses:
        raise ToolError("the gym is closed")
    if "make it slow" in responses:
        time.sleep(3)
    scores = []
    for item in items:
        if item["response"] == "forget me":
            continue
        right = str(item["reference"]) in item["response"]
        score: Any = 15 if item["response"] == "overdo it" else float(right)
        scores.append(
            {
                "id": item["id"],
                "score": score,
                "values": {"polite": "please" in item["response"]},
                "failure": None if right else "hallucination",
                "reason": f"context was {item['context']}",
            }
        )
    return {"scores": scores}


class McpGym:
    """``with McpGym() as server``: ``server.url`` is the endpoint."""

    def __enter__(self) -> McpGym:
        import uvicorn

        calls.clear()
        app = gym.streamable_http_app(stateless_http=True, json_response=True)
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the MCP stand-in did not start")
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/mcp"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)


if __name__ == "__main__":
    gym.run()
