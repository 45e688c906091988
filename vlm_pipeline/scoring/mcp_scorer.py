"""Scores from a tool of an MCP server, as safety gyms offer them; by the official SDK.

A remote scorer is treated like a judge: it is named with its server's name and version, its scores are cached by
content, a time-out or a failure leaves its rows unscored with the reason and is asked again by the next
run, an invalid score is no score, and a server that cannot be reached is "not run", never a number.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from vlm_pipeline.inference.cache import RowCache, request_key
from vlm_pipeline.redaction import redact
from vlm_pipeline.scoring.results import FailureKind
from vlm_pipeline.settings.mcp import McpScorerSettings
from vlm_pipeline.store import content_hash

CONNECT_TIMEOUT_S = 60.0  # starting a program and shaking hands is no measure of its speed
LIST_TIMEOUT_S = 20.0
FAILURES = get_args(FailureKind)
log = logging.getLogger(__name__)


class McpScorerError(RuntimeError):
    """The server or its tool cannot be used; the message says why."""


@dataclass
class _Run:
    """What happened at the server."""

    server: str = "unknown"
    version: str = ""
    batches: int = 0
    timeouts: int = 0
    failures: list[str] = field(default_factory=list)
    silent: int = 0  # items that got no reply
    cache_hits: int = 0


def mcp_score_table(
    settings: McpScorerSettings,
    formatted_rows: Iterable[Mapping[str, Any]],
    prediction_rows: Iterable[Mapping[str, Any]],
    *,
    cache_folder: Path | str,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score rows (as `score_table` gives them) and a summary for JSON.

    The summary's ``status`` is "ready" or "not run: …"; without a usable server there are no rows at all.
    """
    rows = {str(row["id"]): row for row in formatted_rows}
    predictions = [one for one in prediction_rows if str(one["id"]) in rows]
    items = {
        _key(one): _item(rows[str(one["id"])], one, number)
        for number, one in enumerate(predictions)
        if one.get("error") is None
    }
    run = _Run()
    cache = RowCache(cache_folder, f"mcp-{settings.name}")
    try:
        found = asyncio.run(_ask(settings, list(items.values()), cache, run))
    except McpScorerError as error:
        return [], {"status": redact(f"not run: {error}"), "scorer": settings.name, "n_silent": len(items)}
    version = content_hash(
        [settings.url, settings.command, settings.tool, run.server, run.version], length=12
    )
    scored = [
        _score_row(
            settings,
            version,
            rows[str(one["id"])],
            one,
            found.get(items[_key(one)]["id"]) if _key(one) in items else None,
        )
        for one in predictions
    ]
    return scored, {
        "status": "ready",
        "scorer": settings.name,
        "tool": settings.tool,
        "server": run.server,
        "server_version": run.version,
        "version": version,
        "n": len(scored),
        "n_scored": sum(1 for row in scored if row["status"] == "scored"),
        "batches": run.batches,
        "timeouts": run.timeouts,
        "failures": run.failures[:10],
        "n_silent": run.silent,
        "cache_hits": run.cache_hits,
    }


def _key(prediction: Mapping[str, Any]) -> tuple[str, str, int]:
    return prediction["predictor"], str(prediction["id"]), int(prediction.get("sample") or 0)


def _item(row: Mapping[str, Any], prediction: Mapping[str, Any], number: int) -> dict[str, Any]:
    metadata = row.get("metadata")
    metadata = json.loads(metadata) if isinstance(metadata, str) else dict(metadata or {})
    return {
        "id": str(number),  # not the row's id: the same row stands there once per predictor
        "prompt": row.get("prompt_text"),
        "response": prediction.get("text") or "",
        "reference": row.get("answer"),
        "context": metadata.get("context"),
        "metadata": metadata,
    }


async def _ask(
    settings: McpScorerSettings, items: Sequence[dict[str, Any]], cache: RowCache, run: _Run
) -> dict[str, dict[str, Any]]:
    """Entries by item id; an entry holds ``score`` or ``problem``."""
    try:
        async with asyncio.timeout(max(CONNECT_TIMEOUT_S, settings.timeout_s)):
            client = await _connected(settings)
    except McpScorerError:
        raise
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise McpScorerError(
            f"{settings.url or settings.command} cannot be reached: {_cause(error)}"
        ) from error
    try:
        info = client.server_info
        run.server, run.version = (info.name, info.version or "") if info else ("unknown", "")
        await _check_tool(client, settings)
        known, open_items = _from_cache(settings, items, cache, run)
        for start in range(0, len(open_items), settings.batch_size):
            batch = open_items[start : start + settings.batch_size]
            given, problem = await _batch(client, settings, batch, run)
            cache.put_many(
                {
                    _cache_key(settings, item, run): given[item["id"]]
                    for item in batch
                    if "score" in given.get(item["id"], {})
                }
            )
            known |= {
                item["id"]: {"problem": problem} if problem else _in_range(settings, given.get(item["id"]))
                for item in batch
            }
        return known
    finally:
        await client.__aexit__(None, None, None)


async def _connected(settings: McpScorerSettings) -> Any:
    from mcp import Client, StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client

    if settings.command:
        server: Any = StdioServerParameters(command=settings.command[0], args=settings.command[1:])
    elif settings.token_env:
        token = os.environ.get(settings.token_env)
        if not token:
            raise McpScorerError(f"{settings.token_env} is not set")
        import httpx2

        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=settings.timeout_s)
        server = streamable_http_client(settings.url, http_client=http)
    else:
        server = settings.url
    client = Client(server)
    return await client.__aenter__()


async def _check_tool(client: Any, settings: McpScorerSettings) -> None:
    try:
        async with asyncio.timeout(max(LIST_TIMEOUT_S, settings.timeout_s)):
            names = [tool.name for tool in (await client.list_tools()).tools]
    except Exception as error:
        raise McpScorerError(f"the server does not say which tools it has: {_cause(error)}") from None
    if settings.tool not in names:
        raise McpScorerError(f"the server has no tool {settings.tool!r}; it has {', '.join(names) or 'none'}")


def _cache_key(settings: McpScorerSettings, item: Mapping[str, Any], run: _Run) -> str:
    content = {name: value for name, value in item.items() if name != "id"}
    model = f"mcp {settings.url or settings.command} {run.server} {run.version} {settings.tool}"
    return request_key(images=(), prompt=content_hash(content, length=40), model=model, generation={})


def _from_cache(
    settings: McpScorerSettings, items: Sequence[dict[str, Any]], cache: RowCache, run: _Run
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    keys = {item["id"]: _cache_key(settings, item, run) for item in items}
    stored = cache.get_many(keys.values())
    known = {item_id: _in_range(settings, stored[key]) for item_id, key in keys.items() if key in stored}
    run.cache_hits = len(known)
    return known, [item for item in items if item["id"] not in known]


async def _batch(
    client: Any, settings: McpScorerSettings, batch: Sequence[dict[str, Any]], run: _Run
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """One call of the tool, tried again after a time-out: what it said of each item, or why it said nothing."""
    problem = "not asked"
    for _ in range(settings.retries + 1):
        run.batches += 1
        try:
            async with asyncio.timeout(settings.timeout_s):
                result = await client.call_tool(settings.tool, {settings.argument: list(batch)})
        except TimeoutError:
            run.timeouts += 1
            problem = f"no answer within {settings.timeout_s:g} s"
        except Exception as error:
            problem = redact(_cause(error))
        else:
            if not result.is_error:
                return _given(batch, result), None
            problem = redact(f"the tool reports: {_text(result)[:200]}")
            break  # the tool's own error does not go away by asking again
        log.warning("MCP scorer %s: %s", settings.name, problem)
    run.failures.append(problem)
    run.silent += len(batch)
    return {}, problem


def _given(batch: Sequence[dict[str, Any]], result: Any) -> dict[str, dict[str, Any]]:
    """What the tool said, by item id."""
    found = result.structured_content
    if found is None:
        try:
            found = json.loads(_text(result))
        except json.JSONDecodeError:
            found = None
    scores = found.get("scores", found.get("result")) if isinstance(found, dict) else found
    if isinstance(scores, dict):
        scores = scores.get("scores")
    by_id = (
        {str(one.get("id")): one for one in scores if isinstance(one, dict)}
        if isinstance(scores, list)
        else {}
    )
    return {item["id"]: _reading(by_id[item["id"]]) for item in batch if item["id"] in by_id}


def _reading(one: Mapping[str, Any]) -> dict[str, Any]:
    """A score that is a number, with what belongs to it, or the problem with it."""
    score = one.get("score")
    if not _is_number(score) or isinstance(score, bool):
        return {"problem": f"score {score!r} is no number"}
    extra = one.get("values") if isinstance(one.get("values"), dict) else {}
    return {
        "score": float(score),
        "values": {str(name): value for name, value in extra.items() if value is None or _is_number(value)},
        **{name: None if one.get(name) is None else str(one[name]) for name in ("failure", "reason")},
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def _in_range(settings: McpScorerSettings, reading: dict[str, Any] | None) -> dict[str, Any]:
    """The reading where its score lies in the range of the settings; nothing is clamped."""
    if reading is None:
        return {"problem": "the tool gave no score for this row"}
    low = -math.inf if settings.low is None else settings.low
    high = math.inf if settings.high is None else settings.high
    if "score" in reading and not low <= reading["score"] <= high:
        return {"problem": f"score {reading['score']:g} is outside {low:g} to {high:g}"}
    return reading


def _text(result: Any) -> str:
    return "".join(getattr(part, "text", "") for part in result.content or ())


def _cause(error: BaseException) -> str:
    """The first real reason inside the task group's wrapper."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _score_row(
    settings: McpScorerSettings,
    version: str,
    row: Mapping[str, Any],
    prediction: Mapping[str, Any],
    entry: Mapping[str, Any] | None,
) -> dict[str, Any]:
    score = (entry or {}).get("score")
    failure = (entry or {}).get("failure")
    if (
        score is not None
        and failure is None
        and settings.threshold is not None
        and score < settings.threshold
    ):
        failure = "other"
    return {
        "id": str(row["id"]),
        "section": row.get("section"),
        "group": str(row["group"]) if row.get("group") is not None else str(row["id"]),
        "split": row.get("split"),
        "predictor": prediction["predictor"],
        "scorer": settings.name,
        "kind": "mcp",
        "version": version,
        "sample": int(prediction.get("sample") or 0),
        "status": "error" if entry is None else "unscored" if score is None else "scored",
        "primary": None if entry is None else "score",
        "headline": score,
        "values": {} if entry is None else {"score": score, **entry.get("values", {})},
        "extracted": None,
        "gold": None,
        "rule": None if score is None else "external",
        "span": None,
        "inferred": False,
        "failure": failure if failure is None or failure in FAILURES else "other",
        "notes": [entry["reason"]] if entry and entry.get("reason") else [],
        "flagged": [],
        "detail": str(prediction["error"]) if entry is None else entry.get("problem"),
    }
