"""What lies in a foreign adapter folder, by name alone: nothing in it is opened here, no link is followed."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from vlm_pipeline.candidates.header import Rejected

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "record.json"
# The only files that are ever read.
READ = (CONFIG, WEIGHTS, RECORD, "chat_template.jinja", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")  # fmt: skip
MAX_JSON = 20_000_000  # bytes
MAX_FILES = 10_000
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"}
_CODE = {".py", ".pyc", ".so", ".pyd", ".dll", ".dylib", ".sh", ".exe", ".whl"}
# What trainers leave beside their weights. Never opened, never copied.
_LEFT_OVER = re.compile(
    r"training_args\.bin|optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt|rng_state(_\d+)?\.pth"
)
_UNFINISHED = re.compile(
    r"\.(tmp|part|partial|incomplete|crdownload|filepart|download)$|^\..*\.[A-Za-z0-9]{6}$"
)


@dataclass(frozen=True)
class Entry:
    """A file below the folder; `size` in bytes."""

    name: str  # relative, with /
    size: int
    mtime_ns: int
    regular: bool


def entries(folder: Path) -> list[Entry]:
    """Everything below the folder, links and devices as such. Raises Rejected for far too many files."""
    found: list[Entry] = []
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as listing:
            for item in listing:
                status = item.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(Path(item.path))
                    continue
                name = Path(item.path).relative_to(folder).as_posix()
                found.append(Entry(name, status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode)))
                if len(found) > MAX_FILES:
                    raise Rejected(f"the folder holds more than {MAX_FILES} files")
    return sorted(found, key=lambda entry: entry.name)


def unfinished(found: list[Entry]) -> str | None:
    """Why the folder looks as if it were still being filled; None when it does not."""
    names = {entry.name for entry in found}
    half = [name for name in sorted(names) if _UNFINISHED.search(name.rsplit("/", 1)[-1])]
    if half:
        return f"{half[0]} looks like a file that is still being written"
    if CONFIG not in names:
        return f"{CONFIG} is not there yet"
    if WEIGHTS not in names and not any(_is_pickle(name) for name in names):
        return f"{WEIGHTS} is not there yet"
    return None


def refuse(names_and_kinds: list[tuple[str, bool]]) -> list[str]:
    """Notes on files that are left alone. Raises Rejected for what no adapter folder may hold.

    `names_and_kinds`: relative name, and whether it is a regular file.
    """
    names = {name for name, _ in names_and_kinds}
    for name, regular in names_and_kinds:
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise Rejected(f"the file name {name[:80]!r} leads out of the folder")
        if not regular:
            raise Rejected(f"{name[:80]} is a link or a device, only plain files are accepted")
        if Path(name).suffix.lower() in _CODE:
            raise Rejected(
                f"{name[:80]} is program code; code of strangers is never run, and none may lie here"
            )
    pickles = sorted(name for name in names if _is_pickle(name))
    if pickles:
        remedy = "save it as safetensors (peft's save_pretrained does)"
        raise Rejected(f"{pickles[0][:80]} is a pickle file: opening it runs what its author wants; {remedy}")
    for wanted in (CONFIG, WEIGHTS):
        if wanted not in names:
            raise Rejected(f"{wanted} is missing")
    left = sorted(name for name in names if _LEFT_OVER.fullmatch(name.rsplit("/", 1)[-1]))
    return [f"left alone, never opened: {', '.join(left[:5])}"] if left else []


def _is_pickle(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return Path(last).suffix.lower() in _PICKLES and not _LEFT_OVER.fullmatch(last)


def copy_plain(source: Path, target: Path, limit: int) -> None:
    """Copy a file without following a link, at most `limit` bytes. Raises Rejected."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Rejected(f"{source.name} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as reader:
        if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
            raise Rejected(f"{source.name} is not a plain file")
        copied = 0
        with target.open("wb") as writer:
            while block := reader.read(1 << 20):
                copied += len(block)
                if copied > limit:
                    raise Rejected(f"{source.name} is larger than {limit} bytes")
                writer.write(block)
            writer.flush()
            os.fsync(writer.fileno())
