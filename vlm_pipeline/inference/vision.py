"""Image features for generation: training's store of frozen features, with a reason instead of an error for each
picture that cannot be used, so that one bad file costs its own rows and no others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.inference.plan import ImageInput
from vlm_pipeline.training.images import ImageFeatures, read_pixels

SHARED_BYTES = 2 << 30


class ImageError(ValueError):
    """A picture cannot be read, has changed, or does not have the patch grid that its row states."""


@dataclass(frozen=True, slots=True)
class _Picture:
    """What the feature store reads of a row, for one picture."""

    id: str
    images: tuple[str, ...]
    image_sha256: tuple[str, ...]
    image_grid: tuple[tuple[int, int, int], ...]


class Pictures:
    """Features by image hash; each picture goes through the tower once for all questions and all adapters.

    identity: names the vision weights. folder: where features go that do not fit into a quarter of free memory, and
    those of the first pictures (up to SHARED_BYTES), so that the next process over the same base reads them.
    features: a store that is in use already (while training).
    """

    def __init__(
        self, model: Any, processor: Any, *, identity: str = "", folder: Path | None = None, features: ImageFeatures | None = None
    ) -> None:  # fmt: skip
        self._processor = processor
        self._features = features
        if features is None and getattr(processor, "image_processor", None) is not None:
            self._features = ImageFeatures(
                model,
                processor,
                identity=identity,
                folder=folder,
                shared_bytes=SHARED_BYTES,
                memory_bytes=psutil.virtual_memory().available // 4,
            )

    @property
    def computed(self) -> int:
        """Pictures that went through the vision tower so far."""
        return self._features.tower_calls if self._features else 0

    def prefetch(self, images: Iterable[ImageInput]) -> None:
        """Start decoding and resizing in worker threads."""
        if self._features:
            self._features.prefetch((_row(image), 0) for image in images)

    def get(self, images: Iterable[ImageInput]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Features [tokens, hidden] by hash, and the reason by hash for each picture that has none."""
        wanted = {image.sha256: image for image in images}
        if not wanted:
            return {}, {}
        if self._features is None:
            return {}, dict.fromkeys(wanted, "this model takes no pictures")
        problems: dict[str, str] = {}
        try:
            found = self._features.get([(_row(image), 0) for image in wanted.values()])
        except PayloadError:  # one bad picture stops the whole call: find out which, go on with the others
            for key, image in wanted.items():
                try:
                    self.pixels(image)
                except ImageError as error:
                    problems[key] = str(error)
            wanted = {key: image for key, image in wanted.items() if key not in problems}
            found = self._features.get([(_row(image), 0) for image in wanted.values()])
        return dict(zip(wanted, found, strict=True)), problems

    def pixels(self, image: ImageInput) -> tuple[torch.Tensor, torch.Tensor]:
        """pixel_values and image_grid_thw of one picture, for an ordinary forward pass. Raises ImageError."""
        if self._features is None:
            raise ImageError("this model takes no pictures")
        try:
            inputs = read_pixels(self._processor, _row(image), 0)
        except PayloadError as error:
            raise ImageError(str(error)) from error
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"{image.path} cannot be decoded: {error}") from error
        return inputs["pixel_values"], inputs["image_grid_thw"]


def _row(image: ImageInput) -> Any:
    return _Picture(Path(image.path).name, (image.path,), (image.sha256,), (image.grid,))
