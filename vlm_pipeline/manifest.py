"""Do no work twice: an artifact remembers the hashes of what it was made from.

A manifest is written after the artifact, so an artifact without one does not count. On the next run equal input
hashes and intact files mean that the artifact is reused; a difference is named, so that a person sees why
something was made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vlm_pipeline.locks import locked
from vlm_pipeline.store import TaskStore, content_hash, file_hash, read_json, safe_name, write_json

FOLDER = ".manifests"


@dataclass(frozen=True)
class Artifact:
    """What making something returned. `data_version` is a hash of the content; `metadata` is plain JSON."""

    data_version: str
    metadata: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    reused: bool = False
    reason: str = ""
    seconds: float = 0.0


def make_once(
    store: TaskStore,
    name: str,
    inputs: Mapping[str, str],
    make: Callable[[], Artifact],
    log: Callable[[str], None] = lambda message: None,
) -> Artifact:
    """Return the artifact `name` of these inputs, made now or found as it is.

    A file lock lets one process at a time make it; a second waits and then finds it made.
    """
    manifest_path = _path(store, name)
    manifest_path.parent.mkdir(parents=True, exist_ok=True)
    with locked(manifest_path.with_suffix(".lock"), lambda: f"{name}: another process is making it", log):
        manifest = read_manifest(store, name)
        reason = _why_not(store, manifest, inputs)
        if manifest is not None and not reason:
            files = tuple(store.base / relative for relative in manifest["files"])
            log(f"{name}: nothing changed, reused ({manifest['seconds']:.1f} s saved)")
            return Artifact(
                manifest["data_version"],
                manifest["metadata"],
                files,
                True,
                "nothing changed",
                manifest["seconds"],
            )
        log(f"{name}: {reason}")
        started = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - started
        write_json(
            manifest_path,
            {
                "inputs": dict(inputs),
                "data_version": made.data_version,
                "metadata": made.metadata,
                "seconds": seconds,
                "files": {str(file.relative_to(store.base)): _fingerprint(file) for file in made.files},
            },
        )
        return Artifact(made.data_version, made.metadata, made.files, False, reason, seconds)


def left_alone(store: TaskStore, name: str) -> Artifact | None:
    """An artifact that this run does not look at, as it lies in the store; None where it was never made."""
    manifest = read_manifest(store, name)
    if manifest is None:
        return None
    files = tuple(store.base / relative for relative in manifest["files"])
    return Artifact(
        manifest["data_version"],
        manifest["metadata"],
        files,
        True,
        "left out of this run, kept as it is",
        manifest["seconds"],
    )


def read_manifest(store: TaskStore, name: str) -> dict[str, Any] | None:
    """The manifest, or None where there is none or it is not readable (then the artifact is made again)."""
    try:
        return read_json(_path(store, name), default=None)
    except ValueError:
        return None


def _path(store: TaskStore, name: str) -> Path:
    """Artifacts of a section are called `kind/section`, whatever the section's name holds."""
    return store.path(FOLDER, *(safe_name(part) for part in name.split("/", 1))).with_suffix(".json")


def data_version(store: TaskStore, name: str) -> str | None:
    """Content hash of an artifact as it lies in the store, or None when it was never made."""
    manifest = read_manifest(store, name)
    return manifest["data_version"] if manifest else None


def require(store: TaskStore, names: list[str], remedy: str) -> dict[str, str]:
    """Data versions of artifacts that must exist; raises FileNotFoundError that names what is missing."""
    versions = {name: data_version(store, name) for name in names}
    if absent := [name for name, version in versions.items() if version is None]:
        raise FileNotFoundError(f"not made yet: {', '.join(absent)} (under {store.base}). {remedy}")
    return {name: str(version) for name, version in versions.items()}


def missing(store: TaskStore, names: Iterable[str]) -> list[str]:
    """Those of the artifacts that have not been made yet."""
    return [name for name in names if data_version(store, name) is None]


def harm(store: TaskStore, names: Iterable[str]) -> str:
    """Which file of these artifacts is missing or not as it was written; nothing where all are intact."""
    manifests = (read_manifest(store, name) for name in names)
    return next(filter(None, (_harm(store, manifest) for manifest in manifests if manifest)), "")


@cache
def code_version(package: str) -> str:
    """Hash of a package's source: cheap stages run again when their code changed, and keep their data version when
    that changed nothing. Training and prediction do not use it: a comment must not cost an accelerator hour.
    """
    folder = Path(__file__).parent / package
    sources = [file for file in folder.rglob("*.*") if file.suffix in (".py", ".j2", ".css", ".js")]
    return content_hash({str(file.relative_to(folder)): file_hash(file) for file in sorted(sources)})


def combined_version(versions: Mapping[str, str]) -> str:
    return content_hash(dict(versions))


def _why_not(store: TaskStore, manifest: dict[str, Any] | None, inputs: Mapping[str, str]) -> str:
    if manifest is None:
        return "made for the first time"
    before = manifest["inputs"]
    changed = sorted(key for key in {*before, *inputs} if before.get(key) != inputs.get(key))
    if changed:
        return f"made again: {', '.join(changed)} changed"
    harm = _harm(store, manifest)
    return harm and f"made again: {harm}"


def _harm(store: TaskStore, manifest: Mapping[str, Any]) -> str:
    """Which file of an artifact is not as it was written; nothing where all are."""
    for relative, fingerprint in manifest["files"].items():
        file = store.base / relative
        if not file.exists():
            return f"{relative} is missing"
        if not _same(file, fingerprint):
            return f"{relative} was altered"
    return ""


def _fingerprint(file: Path) -> dict[str, Any]:
    status = file.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": file_hash(file)}


def _same(file: Path, fingerprint: Mapping[str, Any]) -> bool:
    status = file.stat()
    if status.st_size != fingerprint["size"]:
        return False
    return status.st_mtime_ns == fingerprint["mtime_ns"] or file_hash(file) == fingerprint["sha256"]
