"""The repository on the hub shows what the pointer shows: after a promotion, and after a roll-back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vlm_pipeline.hub import HubError
from vlm_pipeline.promotion.checklist import Item
from vlm_pipeline.promotion.pointer import read_pointer, remember_push
from vlm_pipeline.store import TaskStore, read_json, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.training.record import AdapterError

FOLDER = "promotions"
NOT_ASKED_FOR = "not asked for"


def keep_evidence(
    store: TaskStore, version: str, items: Sequence[Item], pair: Mapping[str, Any] | None
) -> None:
    """Keep what an adapter is promoted for; its card says so again when a roll-back returns to it. Later looks at the
    adapter that is promoted compare it with no other one, and are no evidence."""
    write_json(store.path(FOLDER, f"{version}.json"), {"items": [asdict(one) for one in items], "pair": pair})


def follow_on_hub(task: Task, store: TaskStore, log: Callable[[str], None]) -> str:
    """Push the adapter that the pointer shows, once, with its card; a hub that is away costs nothing but a message,
    and the next call pushes. Returns what became of it."""
    from vlm_pipeline.promotion.card import push_adapter

    pointer = read_pointer(store)
    if task.promotion.hub is None or task.max_examples or pointer["adapter_id"] is None:
        return NOT_ASKED_FOR
    wanted = {"repository": task.promotion.hub, "version": pointer["version"]}
    pushed = pointer["pushed"] or {}
    if {key: pushed.get(key) for key in wanted} == wanted:
        return pushed["url"]
    known = read_json(store.path(FOLDER, f"{pointer['version']}.json"), default={"items": [], "pair": None})
    items = [Item(**one) for one in known["items"]]
    try:
        made = push_adapter(task, store.path("adapters", pointer["adapter_id"]), items, known["pair"])
    except (HubError, AdapterError) as error:
        log(f"hub: {error}")
        return f"not pushed: {error}"
    remember_push(store, {**wanted, "url": made.url, "commit": made.commit})
    return made.url
