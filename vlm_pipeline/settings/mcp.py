"""A scorer that lives behind a tool of an MCP server; pydantic only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vlm_pipeline.settings.base import Settings


class McpScorerSettings(Settings):
    """Where the tool is and how it is asked. It gets ``{argument: [item, ...]}`` with items of id, prompt, response,
    reference, context and metadata, and returns ``{"scores": [{"id", "score", "values", "failure", "reason"}, ...]}``.
    """

    kind: Literal["mcp"] = "mcp"
    name: str = Field("external", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    url: str | None = None  # streamable HTTP
    command: list[str] | None = None  # or a program that speaks over its standard input and output
    tool: str = Field(min_length=1)
    argument: str = "items"
    token_env: str | None = None  # variable that holds a bearer token for the URL
    batch_size: int = Field(32, gt=0)
    timeout_s: float = Field(60, gt=0)  # per batch
    retries: int = Field(1, ge=0)  # of a batch that timed out or broke off
    low: float | None = None  # a score outside low..high is invalid, never clamped
    high: float | None = None
    threshold: float | None = None

    @model_validator(mode="after")
    def _one_address(self) -> McpScorerSettings:
        if (self.url is None) == (self.command is None):
            raise ValueError("an MCP scorer needs either url or command")
        return self
