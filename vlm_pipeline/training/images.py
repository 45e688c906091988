"""Frozen image features: the vision tower sees every image once, whatever the number of questions and epochs.

Order of look-up: memory (bounded, least recently used leaves first), disk (`<store>/cache/image_features`, one
safetensors file per image), the vision tower. Written are images that memory has no room for, and at once the first
`shared_bytes` of them, which another process (the next predictor) may want. The key names the image bytes, the
base's weights, the precision and the image settings, so a stale feature cannot be found.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.examples.upright import open_upright
from vlm_pipeline.formatting.template import image_settings
from vlm_pipeline.store import content_hash, write_bytes
from vlm_pipeline.training.rows import Row

_PATCHES_PER_CALL = {"cpu": 4096, "cuda": 16_384}  # bounds the vision tower's activations
_MOST_WAITING = 8  # images read ahead: a megapixel's patches take as much memory as a small model


def read_pixels(processor: Any, row: Row, number: int) -> dict[str, torch.Tensor]:
    """The model's own preprocessing of one image of a row; refuses bytes or grids that differ from the formatted row."""
    path, sha = row.images[number], row.image_sha256[number]
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PayloadError(f"row {row.id}: image {path} cannot be read: {error.strerror}") from error
    if not hashlib.sha256(data).hexdigest().startswith(sha):
        raise PayloadError(
            f"row {row.id}: image {path} has changed since formatting; materialize formatted_examples again"
        )
    inputs = processor.image_processor(images=[open_upright(data)], return_tensors="pt")
    if "image_grid_thw" in inputs and row.image_grid:
        grid = tuple(inputs["image_grid_thw"][0].tolist())
        if grid != row.image_grid[number]:
            raise PayloadError(
                f"row {row.id}: image {path} is cut into {grid} patches now and was into {row.image_grid[number]} at "
                "formatting; the image settings differ, materialize formatted_examples again"
            )
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


class ImageFeatures:
    """Features of images in language-model width, one tensor [image tokens, hidden] per image."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        identity: str,
        memory_bytes: int,
        folder: Path | None = None,
        shared_bytes: int = 0,
        workers: int = 2,
        frozen: bool = True,
    ) -> None:
        self._model, self._processor, self._frozen = model, processor, frozen
        self._identity = content_hash([identity, str(model.dtype), image_settings(processor)])
        self._memory: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._limit, self._bytes, self._folder = memory_bytes, 0, folder
        self._shared_left = shared_bytes if folder is not None else 0
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="image")
        self._pending: dict[str, Future[dict[str, torch.Tensor]]] = {}
        self.tower_calls = 0  # images that went through the vision tower
        self.reused = 0  # images found in memory or on disk

    def prefetch(self, images: Iterable[tuple[Row, int]]) -> None:
        """Start preprocessing of what is not at hand, in worker threads (decoding and resizing release the GIL)."""
        for row, number in images:
            if len(self._pending) >= _MOST_WAITING:
                return
            key = row.image_sha256[number]
            if key not in self._memory and key not in self._pending and not self._on_disk(key):
                self._read(key, row, number)

    def _read(self, key: str, row: Row, number: int) -> Future[dict[str, torch.Tensor]]:
        if key not in self._pending:
            self._pending[key] = self._pool.submit(read_pixels, self._processor, row, number)
        return self._pending[key]

    def get(self, images: Sequence[tuple[Row, int]]) -> list[torch.Tensor]:
        """Features in the given order, on the model's device."""
        found: dict[str, torch.Tensor] = {}
        missing: dict[str, tuple[Row, int]] = {}
        for row, number in images:
            key = row.image_sha256[number]
            if key in found or key in missing:
                continue
            stored = self._look_up(key) if self._frozen else None
            if stored is None:
                missing[key] = (row, number)
            else:
                found[key] = stored
                self.reused += 1
        self.prefetch(missing.values())
        for batch in self._batches(missing):
            for key, features in zip(batch, self._compute(list(batch.values())), strict=True):
                found[key] = features
                if self._frozen:
                    self._remember(key, features)
        device = self._model.device
        return [found[row.image_sha256[number]].to(device) for row, number in images]

    def forget(self) -> None:
        """Drop what is in memory; files stay."""
        self._memory.clear()
        self._bytes = 0

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _batches(self, missing: dict[str, tuple[Row, int]]) -> Iterable[dict[str, dict[str, torch.Tensor]]]:
        """Pixels by key, as many as go through the tower at once: several images where the model takes patch lists,
        one where it does not, since sizes may differ."""
        most = _PATCHES_PER_CALL.get(self._model.device.type, 4096)
        batch: dict[str, dict[str, torch.Tensor]] = {}
        patches = 0
        for key, (row, number) in missing.items():
            reading = self._read(key, row, number)
            del self._pending[key]  # also of an image that cannot be read: asked again, it is read again
            one = reading.result()
            size = len(one["pixel_values"]) if "image_grid_thw" in one else most
            if batch and patches + size > most:
                yield batch
                batch, patches = {}, 0
            batch[key] = one
            patches += size
        if batch:
            yield batch

    def _compute(self, pixels: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        """Features of images that go through the tower together."""
        self.tower_calls += len(pixels)
        inputs = {name: torch.cat([one[name] for one in pixels]).to(self._model.device) for name in pixels[0]}
        with torch.set_grad_enabled(not self._frozen and torch.is_grad_enabled()):
            outputs = self._model.get_image_features(**inputs)
        pooled = getattr(outputs, "pooler_output", outputs)
        if isinstance(pooled, torch.Tensor) and len(pixels) == 1:
            pooled = [pooled]
        return [one.reshape(-1, one.shape[-1]) for one in pooled]

    def _look_up(self, key: str) -> torch.Tensor | None:
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        if self._on_disk(key):
            try:
                features = load(self._file(key).read_bytes())["features"]
            except (OSError, SafetensorError, KeyError):  # half gone or damaged: computed again
                self._file(key).unlink(missing_ok=True)
                return None
            self._remember(key, features)
            return features
        return None

    def _remember(self, key: str, features: torch.Tensor) -> None:
        # A copy: a slice of the tower's output would keep the whole batch alive.
        self._memory[key] = features.detach().to("cpu", copy=True)
        self._bytes += features.nbytes
        if self._shared_left >= features.nbytes and not self._on_disk(key):
            self._shared_left -= features.nbytes
            self._pool.submit(self._write, key, self._memory[key])
        while self._bytes > self._limit and len(self._memory) > 1:
            oldest, tensor = self._memory.popitem(last=False)
            self._bytes -= tensor.nbytes
            if self._folder is not None and not self._on_disk(oldest):
                self._write(oldest, tensor)

    def _write(self, key: str, features: torch.Tensor) -> None:
        write_bytes(self._file(key), save({"features": features.contiguous()}))

    def _file(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / self._identity / key[:2] / f"{key}.safetensors"

    def _on_disk(self, key: str) -> bool:
        return self._folder is not None and self._frozen and self._file(key).is_file()
