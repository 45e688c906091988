"""Pictures as a model sees them: pixels, visible size, and the tokens they take, by the processor's own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_pipeline.examples.upright import open_upright, upright_size
from vlm_pipeline.formatting.template import RenderError, image_processor_of, image_settings
from vlm_pipeline.store import content_hash

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlm_pipeline.examples.example import ImageRef

_KNOWN_SIZES = 200_000


@dataclass(frozen=True)
class PictureTokens:
    """What one picture becomes: `ids` replace its placeholder, `grid` is (t, h, w) in patches where known."""

    ids: tuple[int, ...]
    grid: tuple[int, int, int]
    count: int  # placeholder tokens among ids


def open_image(ref: ImageRef) -> Image:
    """The upright RGB picture, decoded. Raises RenderError(17) when it cannot be read."""
    try:
        return open_upright(source_of(ref))
    except (OSError, ValueError) as error:
        raise _unreadable(ref, error) from error


def source_of(ref: ImageRef) -> str | bytes:
    """The picture's bytes where the row carries them, else its file."""
    return ref.data if ref.data is not None else str(ref.path)


_sizes: dict[tuple[Any, ...], tuple[int, int]] = {}


def visible_size(ref: ImageRef) -> tuple[int, int]:
    """(height, width) of the upright picture in pixels, by its header, remembered. Raises RenderError(17)."""
    try:
        key: tuple[Any, ...] = (ref.sha256,)
        if ref.path is not None:
            status = Path(ref.path).stat()
            key = (ref.path, status.st_size, status.st_mtime_ns)
        if key not in _sizes:
            if len(_sizes) >= _KNOWN_SIZES:
                _sizes.clear()
            _sizes[key] = upright_size(source_of(ref))
    except (OSError, ValueError) as error:
        raise _unreadable(ref, error) from error
    return _sizes[key]


def _unreadable(ref: ImageRef, error: Exception) -> RenderError:
    return RenderError(
        17, f"picture {ref.path or ref.sha256[:12]} cannot be read ({error})", "restore or remove the file"
    )


class PictureCounter:
    """Tokens of a picture by its size alone: nothing is decoded, each size is worked out once."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._known: dict[tuple[int, int], PictureTokens] = {}
        self.token_id: int | None = getattr(processor, "image_token_id", None)
        self._arithmetic: bool | None = None  # whether the resize rule alone gives what the processor gives

    def count(self, ref: ImageRef) -> PictureTokens:
        if self.token_id is None or image_processor_of(self._processor) is None:
            raise RenderError(
                17,
                "the row has a picture but the model has no picture input",
                "use a vision-language base model, or remove the picture from the row",
            )
        size = visible_size(ref)
        if size not in self._known:
            try:
                self._known[size] = self._work_out(*size)
            except ValueError as error:  # for example an aspect ratio beyond the processor's limit
                raise RenderError(
                    17,
                    f"the processor refuses a picture of {size[1]} x {size[0]} pixels ({error})",
                    "crop or pad the picture",
                ) from error
        return self._known[size]

    def _work_out(self, height: int, width: int) -> PictureTokens:
        if self._arithmetic is None:
            probe = self._by_arithmetic(60, 100)
            self._arithmetic = probe is not None and probe == self._by_blank_picture(60, 100)
        found = self._by_arithmetic(height, width) if self._arithmetic else None
        return found or self._by_blank_picture(height, width)

    def _by_arithmetic(self, height: int, width: int) -> PictureTokens | None:
        """Patch grid from the image processor's resize rule; None where it has none to ask."""
        import inspect

        images = image_processor_of(self._processor)
        resize = getattr(inspect.getmodule(type(images)), "smart_resize", None)
        if resize is None or not hasattr(images, "get_number_of_image_patches"):
            return None
        size = images.size
        factor = images.patch_size * images.merge_size
        high, wide = resize(
            height, width, factor=factor, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"]
        )
        grid = (1, high // images.patch_size, wide // images.patch_size)
        if grid[1] * grid[2] != images.get_number_of_image_patches(height, width, {}):
            return None
        count = grid[1] * grid[2] // images.merge_size**2
        return PictureTokens((self.token_id,) * count, grid, count)

    def _by_blank_picture(self, height: int, width: int) -> PictureTokens:
        """Ask the whole processor what a blank picture of this size becomes; works for every processor."""
        from PIL import Image

        blank = Image.new("RGB", (width, height))
        output = self._processor(text=[self._processor.image_token], images=[blank], add_special_tokens=False)
        ids = tuple(int(index) for index in output["input_ids"][0])
        grid = output.get("image_grid_thw")
        shape = tuple(int(side) for side in grid[0]) if grid is not None else (1, 0, 0)
        return PictureTokens(ids, shape, sum(index == self.token_id for index in ids))


_counters: dict[str, PictureCounter] = {}


def picture_counter(processor: Any) -> PictureCounter:
    """The counter of this processor at its present image settings."""
    key = f"{id(processor)}-{content_hash(image_settings(processor))}"
    if key not in _counters or _counters[key]._processor is not processor:
        _counters[key] = PictureCounter(processor)
    return _counters[key]


def pixel_inputs(refs: list[ImageRef] | tuple[ImageRef, ...], processor: Any) -> dict[str, Any]:
    """The image processor's output for these pictures: pixel_values (patches, features) and image_grid_thw, tensors."""
    if not refs:
        return {}
    output = image_processor_of(processor)(images=[open_image(ref) for ref in refs], return_tensors="pt")
    return dict(output)
