"""A picture as people see it. Cameras store a rotation as a tag; whoever decodes a picture for a model starts here.

Formatting counts picture tokens by `upright_size`, training and prediction decode by `open_upright`, hosted models
are sent what `is_turned` lets through: all of them see the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_pipeline.examples.images import FORMATS

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # EXIF tag; 1 is upright, 5-8 swap width and height

Source = Path | str | bytes  # a file, or its bytes


def open_upright(source: Source) -> Image:
    """Decoded, turned as its tag says, RGB. Raises OSError or ValueError for what is no picture."""
    from PIL import ImageOps

    with _open(source) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def upright_size(source: Source) -> tuple[int, int]:
    """(height, width) in pixels of the upright picture, from its header. Raises as `open_upright`."""
    with _open(source) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)


def is_turned(source: Source) -> bool:
    """Does the file rely on its reader to turn it? Raises as `open_upright`."""
    with _open(source) as image:
        return image.getexif().get(_ORIENTATION, 1) not in (0, 1)


@contextmanager
def _open(source: Source) -> Iterator[Image]:
    from PIL import Image

    try:
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
        ) as image:
            yield image
    except SyntaxError as error:  # what Pillow raises for broken tags and chunks
        raise OSError(f"not a readable picture: {error}") from error
