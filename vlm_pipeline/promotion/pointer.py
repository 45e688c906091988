"""`promoted.json`: which adapter ships, and how it came to that.

Pointer and history are one file, written whole: a process that dies while it promotes leaves the state before or the
state after, never a history that says otherwise than the pointer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from filelock import FileLock

from vlm_pipeline.store import TaskStore, read_json, write_json
from vlm_pipeline.training.record import AdapterError, adapter_version, read_record

PROMOTED, ROLLED_BACK = "promoted", "rolled back"
EMPTY: dict[str, Any] = {"adapter_id": None, "version": None, "sequence": 0, "history": [], "pushed": None}


class PromotionError(Exception):
    """The pointer stays where it is; the message says why and what to do."""


def read_pointer(store: TaskStore) -> dict[str, Any]:
    """The pointer's file, or an empty one before the first promotion. Raises ValueError for a broken file."""
    return {**EMPTY, **read_json(store.path("promoted.json"), default={})}


def promote(
    store: TaskStore, adapter_id: str, *, by: str, evidence: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Let the pointer show this adapter; nothing happens where it already does. Returns the pointer's new state."""
    version = adapter_version(read_record(store.path("adapters", adapter_id)))
    with _locked(store):
        pointer = read_pointer(store)
        if (pointer["adapter_id"], pointer["version"]) == (adapter_id, version):
            return pointer
        return _move(store, pointer, PROMOTED, adapter_id, version, by, evidence or {})


def roll_back(store: TaskStore, *, by: str, to: str | None = None, why: str = "") -> dict[str, Any]:
    """Let the pointer show the adapter before the present one, or `to`, which must have been promoted once.

    Raises PromotionError where there is none, or its files are not what was promoted.
    """
    with _locked(store):
        pointer = read_pointer(store)
        served = served_before(pointer)
        if to is None:
            if not served:
                shown = pointer["adapter_id"] or "none"
                raise PromotionError(
                    f"there is nothing to roll back to: promoted is {shown}, and nothing before it"
                )
            adapter_id, version = served[-1]
        else:
            known = [
                (move["adapter_id"], move["version"])
                for move in pointer["history"]
                if move["adapter_id"] == to and move["action"] == PROMOTED
            ]
            if not known or to == pointer["adapter_id"]:
                why_not = "is promoted now" if known else "was never promoted"
                raise PromotionError(
                    f"{to} {why_not}; before were: {', '.join(a for a, _ in served) or 'none'}"
                )
            adapter_id, version = known[-1]
        try:
            now = adapter_version(read_record(store.path("adapters", adapter_id)))
        except AdapterError as error:
            raise PromotionError(f"{adapter_id} cannot be served any more: {error}") from error
        if now != version:
            raise PromotionError(
                f"the files of {adapter_id} are not the ones that were promoted; train it again"
            )
        return _move(store, pointer, ROLLED_BACK, adapter_id, version, by, {"why": why} if why else {})


def served_before(pointer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Adapters (id, version) that a roll-back can return to, the nearest last.

    Promotions stack; a roll-back takes off what lies above the adapter it returned to.
    """
    stack: list[tuple[str, str]] = []
    for move in pointer["history"]:
        shown = (move["adapter_id"], move["version"])
        if move["action"] == PROMOTED:
            stack.append(shown)
        elif shown in stack:
            del stack[len(stack) - stack[::-1].index(shown) :]
    return stack[:-1]


def rolled_back_from(pointer: Mapping[str, Any], version: str) -> dict[str, Any] | None:
    """The latest roll-back that took this adapter away, or None where there was none since it was last promoted."""
    found, before = None, None
    for move in pointer["history"]:
        if move["action"] == ROLLED_BACK and before == version:
            found = move
        elif move["action"] == PROMOTED and move["version"] == version:
            found = None
        before = move["version"]
    return found


def remember_push(store: TaskStore, pushed: Mapping[str, Any]) -> None:
    """Note where the promoted adapter was pushed to, so that it is pushed once."""
    with _locked(store):
        write_json(store.path("promoted.json"), {**read_pointer(store), "pushed": dict(pushed)})


def _move(
    store: TaskStore, pointer: dict[str, Any], action: str, adapter_id: str, version: str, by: str, facts: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    move = {
        "sequence": pointer["sequence"] + 1,
        "action": action,
        "adapter_id": adapter_id,
        "version": version,
        "before": pointer["adapter_id"],
        "by": by,
        "at": time.time(),
        **facts,
    }
    after = {
        "adapter_id": adapter_id,
        "version": version,
        "sequence": move["sequence"],
        "history": [*pointer["history"], move],
        "pushed": pointer["pushed"],
    }
    write_json(store.path("promoted.json"), after)
    return after


def _locked(store: TaskStore) -> FileLock:
    path = store.path(".manifests", "promoted.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=60)
