"""What is new in the watched places. A half-copied adapter waits; one that stays incomplete is looked at in the end,
so that it appears on the leaderboard with the reason.

The state is plain JSON and only saves looks: without it every place is looked at again, and equal content has the
same candidate id as before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_pipeline.candidates.files import WEIGHTS, Entry, entries, unfinished
from vlm_pipeline.candidates.header import Incomplete, Rejected, read_header
from vlm_pipeline.candidates.sources import Source, folder_id, hub_id, hub_revision, source_of
from vlm_pipeline.settings.promotion import CandidateSettings
from vlm_pipeline.store import TaskStore, content_hash
from vlm_pipeline.training.record import AdapterError, read_record

FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 900.0


@dataclass
class Scan:
    """What one look found: candidates to evaluate, and why others are not ready."""

    found: list[Source] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def scan(settings: CandidateSettings, store: TaskStore, state: dict[str, Any], now: float) -> Scan:
    """Look at all watched places; `state` is changed in place. `now` in seconds."""
    result = Scan()
    for watched in settings.folders:
        _scan_folder(store.base / watched, settings, state, now, result)
    _scan_store(store, state, result)
    for watched in settings.hub:
        _scan_hub(watched, state, now, result)
    return result


def _scan_folder(
    root: Path, settings: CandidateSettings, state: dict[str, Any], now: float, result: Scan
) -> None:
    if not root.is_dir():
        return
    seen = state.setdefault("folders", {})
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        try:
            listed, stopped = entries(folder), ""
        except (Rejected, OSError) as error:
            listed, stopped = [], str(error)
        listing = content_hash([[entry.name, entry.size, entry.mtime_ns, stopped] for entry in listed])
        before = seen.get(str(folder), {})
        if before.get("listing") != listing:
            before = seen[str(folder)] = {"listing": listing, "since": now, "taken": False}
        if before["taken"]:
            continue
        quiet = now - before["since"]
        why = _why_wait(folder, listed, quiet, settings)
        if why:
            result.waiting.append(f"{folder.name}: {why}")
            continue
        try:
            source = Source(folder_id(folder, listed), "folder", str(folder))
        except OSError as error:
            result.waiting.append(f"{folder.name}: {error}")
            continue
        before["taken"] = True
        result.found.append(source)


def _why_wait(folder: Path, listed: list[Entry], quiet: float, settings: CandidateSettings) -> str | None:
    if quiet < settings.settle_s:
        return f"changed {quiet:.0f} s ago"
    if quiet >= settings.give_up_s:
        return None
    reason = unfinished(listed)
    if reason is None and any(entry.name == WEIGHTS and entry.regular for entry in listed):
        try:
            read_header(folder / WEIGHTS)
        except Incomplete as error:
            reason = str(error)
        except (Rejected, OSError):
            return None  # complete, and to be refused by name
    return reason


def _scan_store(store: TaskStore, state: dict[str, Any], result: Scan) -> None:
    """Adapters of the task's own store: an adapter exists when its record is written, so none of them is half there."""
    taken = state.setdefault("store", [])
    for record in sorted(store.path("adapters").glob("[!.]*/record.json")):
        name = record.parent.name
        if name in taken:
            continue
        try:
            foreign = "foreign" in read_record(record.parent, verify_files=False)
            known = source_of(store, name)
        except AdapterError:
            continue
        except FileNotFoundError:
            known = Source(name, "store", name)
        taken.append(name)
        if not foreign:
            result.found.append(known)


def _scan_hub(watched: str, state: dict[str, Any], now: float, result: Scan) -> None:
    """Asks ever more seldom while nothing changes; a hub that is away is asked again later."""
    seen = state.setdefault("hub", {}).setdefault(
        watched, {"revision": None, "wait": FIRST_WAIT_S, "next": 0.0}
    )
    if now < seen["next"]:
        return
    try:
        revision = hub_revision(watched)
    except Exception as error:  # the client raises many kinds: no network, no such repository, offline mode
        result.waiting.append(f"{watched}: the hub could not be asked ({type(error).__name__})")
        revision = None
    if revision is None or revision == seen["revision"]:
        seen["next"], seen["wait"] = now + seen["wait"], min(LONGEST_WAIT_S, seen["wait"] * 1.5)
        return
    seen |= {"revision": revision, "wait": FIRST_WAIT_S, "next": now + FIRST_WAIT_S}
    repository = watched.partition("@")[0]
    result.found.append(Source(hub_id(repository, revision), "hub", repository, revision))
