"""Checkpoints: whole or absent, checked by hash, keyed by configuration and data.

A checkpoint is a folder `step-00000120/` with `state.safetensors` (adapter and best adapter), `optimizer.pt`
(optimizer, schedule, random states; read with weights_only, so nothing in it can run) and `manifest.json` (key, file
hashes, position, curves). It is written beside its place, flushed and renamed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.store import file_hash

_MANIFEST = "manifest.json"


@dataclass
class Checkpoint:
    """What training needs to go on as if it had never stopped."""

    step: int
    tensors: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]  # plain JSON: position, curves, the best so far


class Checkpoints:
    """The checkpoints of one run in `folder`; those of another `key` (configuration and data) are never read."""

    def __init__(self, folder: Path, key: str, keep: int, say: Callable[[str], None]) -> None:
        self.folder, self.key, self.keep, self._say = folder, key, keep, say

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then drop the oldest. Raises PayloadError on a full disk; earlier ones stay."""
        target = self.folder / f"step-{checkpoint.step:08d}"
        temporary = self.folder / f".{target.name}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save_file(checkpoint.tensors, temporary / "state.safetensors")
            torch.save(checkpoint.optimizer, temporary / "optimizer.pt")
            files = {file.name: file_hash(file, 64) for file in sorted(temporary.iterdir())}
            manifest = {"key": self.key, "step": checkpoint.step, "files": files, "state": checkpoint.state}
            (temporary / _MANIFEST).write_text(json.dumps(manifest), "utf-8")
            for file in temporary.iterdir():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if not disk_trouble(error):
                raise
            kept = self._numbers()
            raise PayloadError(
                f"the checkpoint of step {checkpoint.step} could not be written to {self.folder} ({error}). "
                f"{f'Step {kept[-1]} is intact: ' if kept else ''}free disk space and run the same command again"
            ) from error
        for number in self._numbers()[: -self.keep]:
            shutil.rmtree(self._path(number), ignore_errors=True)

    def load_latest(self) -> Checkpoint | None:
        """The newest intact checkpoint of this key, or None; says so when one had to be passed over."""
        if not self.folder.is_dir():
            return None
        for left_over in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)
        for number in reversed(self._numbers()):
            path = self._path(number)
            try:
                manifest = json.loads((path / _MANIFEST).read_text("utf-8"))
                if manifest["key"] != self.key:
                    self._say(f"checkpoint {path.name} belongs to other settings or data; it is not used")
                    continue
                for name, digest in manifest["files"].items():
                    if file_hash(path / name, 64) != digest:
                        raise ValueError(f"{name} is damaged")
                tensors = load_file(path / "state.safetensors")
                optimizer = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._say(f"checkpoint {path.name} cannot be used ({error}); falling back to the one before")
                continue
            return Checkpoint(manifest["step"], tensors, optimizer, manifest["state"])
        return None

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, intact or not."""
        return max(self._numbers(), default=None)

    def clear(self) -> None:
        """Remove the checkpoints of a finished run."""
        for number in self._numbers():
            shutil.rmtree(self._path(number), ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"step-{number:08d}"

    def _numbers(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-????????"))


def disk_trouble(error: Exception) -> bool:
    """Full or read-only disks; safetensors and torch wrap the operating system's error in their own."""
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EFBIG,
        errno.EACCES,
        errno.EIO,
    ):
        return True
    text = str(error).lower()
    return any(
        sign in text
        for sign in (
            "no space left",
            "unexpected pos",
            "file write failed",
            "enforce fail",
            "os error 28",
            "file too large",
        )
    )
