"""Where a candidate comes from: a folder, a revision on the hub, or the task's own store. One note per candidate."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vlm_pipeline.candidates.files import MAX_JSON, READ, WEIGHTS, Entry, copy_plain, refuse
from vlm_pipeline.candidates.header import Rejected
from vlm_pipeline.store import TaskStore, content_hash, file_hash, read_json, write_json

FOLDER = "candidates"
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Source:
    """`id` is the candidate's name everywhere: partition, predictor, adapter folder. Equal content has an equal id."""

    id: str
    kind: Literal["folder", "hub", "store"]
    place: str  # folder, repository or adapter id
    revision: str | None = None


def note(store: TaskStore, source: Source) -> None:
    """Remember where a candidate lies, so that its partition can be made at any time."""
    path = store.path(FOLDER, f"{source.id}.json")
    if read_json(path, default=None) != asdict(source):
        write_json(path, asdict(source))


def source_of(store: TaskStore, candidate: str) -> Source:
    """Raises FileNotFoundError for a candidate that nobody has found."""
    path = store.path(FOLDER, f"{candidate}.json")
    if not path.is_file():
        raise FileNotFoundError(
            f"no candidate {candidate!r}: put its folder into a watched one (candidates.folders) and switch the sensor on"
        )
    return Source(**read_json(path))


def known_candidates(store: TaskStore) -> list[str]:
    return sorted(path.stem for path in store.path(FOLDER).glob("*.json"))


def folder_id(folder: Path, found: list[Entry]) -> str:
    """Name of a folder and a hash of its content; a folder that will be refused is named by its listing."""
    names = {entry.name for entry in found if entry.regular}
    read = [name for name in READ if name in names]
    if WEIGHTS in read:
        return f"{_slug(folder.name)}-{content_hash([file_hash(folder / name) for name in read], length=8)}"
    return f"{_slug(folder.name)}-{content_hash([[entry.name, entry.size] for entry in found], length=8)}"


def hub_id(repository: str, revision: str) -> str:
    return f"{_slug(repository.replace('/', '--'))}-{revision[:8]}"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:60] or "adapter"


def hub_revision(watched: str) -> str:
    """The commit that `owner/name` or `owner/name@branch` shows now. Raises what the hub's client raises."""
    repository, _, branch = watched.partition("@")
    return str(_api().model_info(repository, revision=branch or None, timeout=_TIMEOUT_S).sha)


def fetch(source: Source, target: Path, max_bytes: int) -> list[str]:
    """Copy the readable files of a foreign adapter into the empty folder `target`; returns notes.

    Raises Rejected before anything is copied where the folder holds what it must not. Nothing is executed, no link is
    followed, and only files with known names are taken.
    """
    if source.kind == "hub":
        return _download(source, target, max_bytes)
    from vlm_pipeline.candidates.files import entries
    from vlm_pipeline.candidates.header import read_header

    folder = Path(source.place)
    if folder.is_symlink() or not folder.is_dir():
        raise Rejected(f"{folder} is a link or is gone")
    found = entries(folder)
    notes = refuse([(entry.name, entry.regular) for entry in found])
    sizes = {entry.name: entry.size for entry in found}
    _small_enough(sizes, max_bytes)
    read_header(folder / WEIGHTS)
    for name in READ:
        if name in sizes:
            copy_plain(folder / name, target / name, max_bytes if name == WEIGHTS else MAX_JSON)
    return notes


def _download(source: Source, target: Path, max_bytes: int) -> list[str]:
    """Names and sizes are looked at before a byte is fetched."""
    api = _api()
    info = api.model_info(source.place, revision=source.revision, files_metadata=True, timeout=_TIMEOUT_S)
    sizes = {one.rfilename: one.size or 0 for one in info.siblings or []}
    notes = refuse([(name, True) for name in sizes])
    _small_enough(sizes, max_bytes)
    for name in READ:
        if name in sizes:
            api.hf_hub_download(source.place, name, revision=source.revision, local_dir=target)
    return notes


def _small_enough(sizes: dict[str, int], max_bytes: int) -> None:
    if sizes[WEIGHTS] > max_bytes:
        raise Rejected(
            f"{WEIGHTS} has {sizes[WEIGHTS]} bytes, {max_bytes} are accepted (candidates.max_bytes)"
        )
    large = [name for name in READ if name != WEIGHTS and sizes.get(name, 0) > MAX_JSON]
    if large:
        raise Rejected(f"{large[0]} is larger than {MAX_JSON} bytes")


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=os.environ.get("HF_TOKEN") or None)
