"""Where artifacts live, and the only ways to write them: whole or not at all.

Every writer here writes a temporary sibling, flushes it to disk and renames it over the target, so a reader
(or a run after SIGKILL) sees the old file or the new file, never half of one. What a killed process left beside
the targets is removed by the next process that writes there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEFAULT_STORE = ".vlm_pipeline/store"
WORKING_COPIES = Path(".vlm_pipeline", "working_copies")
STORE_PROTOCOLS = {
    "s3": "s3",
    "gs": "gcs",
    "memory": "memory",
}  # scheme to extra; memory: of this process, for tests
_SWEPT: set[tuple[int, Path]] = set()
_PLAIN_NAME = re.compile(r"[A-Za-z0-9-][A-Za-z0-9_-]{0,99}")


def store_url() -> str | None:
    """VLM_PIPELINE_STORE where it is a URL, without a slash at its end; None for a folder of this machine.

    Raises ValueError for a URL that says more than where: keys in it would end in logs and artifacts.
    """
    named = os.environ.get("VLM_PIPELINE_STORE") or ""
    if "://" not in named:
        return None
    scheme, _, rest = named.partition("://")
    if scheme not in STORE_PROTOCOLS:
        known = ", ".join(f"{one}://" for one in ("s3", "gs"))
        raise ValueError(f"VLM_PIPELINE_STORE begins with {scheme}://: a store is a folder or one of {known}")
    if not rest.strip("/") or any(sign in rest for sign in "@?#"):
        raise ValueError(
            f"VLM_PIPELINE_STORE must read {scheme}://bucket/folder and nothing else: keys and addresses belong into "
            "the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...)"
        )
    return f"{scheme}://{rest.strip('/')}"


def store_root() -> Path:
    """The folder named by VLM_PIPELINE_STORE, or `.vlm_pipeline/store` under the working folder.

    For a URL: this machine's working copy of it, VLM_PIPELINE_WORKING_COPY or one below `.vlm_pipeline`.
    """
    if url := store_url():
        own = os.environ.get("VLM_PIPELINE_WORKING_COPY")
        return Path(own or WORKING_COPIES / safe_name(url.replace("://", "-"))).expanduser().absolute()
    return Path(os.environ.get("VLM_PIPELINE_STORE") or DEFAULT_STORE).expanduser().absolute()


def safe_name(name: str) -> str:
    """File name (without ending) of a section or other free text: the only place where one becomes the other.

    Plain names stay as they are; all others become plain ones, told apart by a hash: `AXLE - REAR` is
    `AXLE_-_REAR-8b2f6c1d` on every machine.
    """
    if _PLAIN_NAME.fullmatch(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[:60] or "section"
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


class TaskStore:
    """Paths of one task's artifacts: `<store>/<task>/…`, plus the cache shared by all tasks."""

    def __init__(self, task_name: str, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else store_root()
        self.task_name = task_name
        self.base = self.root / task_name

    def path(self, *parts: str) -> Path:
        """Path below the task's folder; parts that leave the folder are refused with ValueError."""
        target = self.base.joinpath(*parts)
        if not Path(os.path.normpath(target)).is_relative_to(os.path.normpath(self.base)):
            raise ValueError(f"{'/'.join(parts)!r} leaves the store folder {self.base}")
        return target

    def section(self, kind: str, section: str) -> Path:
        """Parquet file of one section, for example `raw/torque.parquet`."""
        return self.path(kind, f"{safe_name(section)}.parquet")

    def overlay(self, section: str) -> Path:
        """Folder of a section's regenerated rows (JSON lines)."""
        return self.path("overlay", safe_name(section))

    @property
    def cache(self) -> Path:
        return self.root / "cache"


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success fsync it and rename it over `target`.

    The temporary file is removed on any error. Raises OSError with the target's name (disk full, read-only).
    """
    target = Path(target)
    handle, name = tempfile.mkstemp(**_beside(target))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _fsync(temporary)
        temporary.chmod(0o644)
        temporary.replace(target)
        _fsync(target.parent)
    except OSError as error:
        raise OSError(error.errno, f"could not write {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success it takes the target's place, and what lay there is removed.

    Between the two there is no folder at all for a moment, and never a part of one. Raises OSError with the target's
    name when it cannot be put in place.
    """
    target = Path(target)
    temporary, former = (Path(tempfile.mkdtemp(**_beside(target))) for _ in range(2))
    try:
        yield temporary
        try:
            for path in temporary.rglob("*"):
                _fsync(path)
            temporary.chmod(0o755)
            if target.exists():
                target.rename(former / target.name)
            temporary.rename(target)
            _fsync(target.parent)
        except OSError as error:
            raise OSError(error.errno, f"could not write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _beside(target: Path) -> dict[str, Any]:
    """Where and how temporary siblings of `target` are made; those of dead processes are removed first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    owner = f"{socket.gethostname()}-{os.getpid()}"
    return {"dir": target.parent, "prefix": f".{target.name}.{owner}-", "suffix": ".tmp"}


def _sweep(folder: Path) -> None:
    """Once per process and folder: remove temporary files and folders whose process, of this machine, is gone."""
    if (os.getpid(), folder) in _SWEPT:
        return
    _SWEPT.add((os.getpid(), folder))
    left = re.compile(rf"\..*\.{re.escape(socket.gethostname())}-(\d+)-[^-.]*\.tmp")
    for entry in os.scandir(folder):
        found = left.fullmatch(entry.name)
        if found and not _runs(int(found[1])):
            _remove(Path(entry.path))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs and is not ours
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(target: Path | str, data: bytes) -> None:
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def write_text(target: Path | str, text: str) -> None:
    write_bytes(target, text.encode("utf-8"))


def write_json(target: Path | str, value: Any) -> None:
    """Write sorted, indented, strict JSON; NaN and infinities become null (JSON has none)."""
    write_text(
        target, json.dumps(_finite(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    )


def read_json(source: Path | str, default: Any = ...) -> Any:
    """Read a JSON file; with `default` a missing file gives that, a broken one raises ValueError with its path."""
    source = Path(source)
    if default is not ... and not source.exists():
        return default
    try:
        return json.loads(source.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source} is not JSON (line {error.lineno}: {error.msg}); delete it to rebuild it"
        ) from error


def write_table(target: Path | str, table: Any) -> None:
    """Write a pyarrow Table (or RecordBatch list is not accepted) as Parquet, atomically."""
    import pyarrow.parquet as pq

    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def content_hash(value: Any, length: int = 16) -> str:
    """Hex SHA-256 prefix of the canonical JSON of `value` (dict order and file times do not matter)."""
    try:
        canonical = _canonical(value)
    except (ValueError, TypeError):  # NaN, or keys of several types
        canonical = _canonical(_finite(value))
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


_canonical = json.JSONEncoder(
    sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str, allow_nan=False
).encode


def file_hash(path: Path | str, length: int = 16) -> str:
    """Hex SHA-256 prefix of a file's bytes, read in blocks."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:length]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
