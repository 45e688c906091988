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

_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_TURNS = {  # what a reader has to do, by the tag's value
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

Source = Path | str | bytes  # a file, or its bytes


def open_upright(source: Source) -> Image:
    """Decoded, turned as its tag says, RGB. Raises OSError or ValueError for what is no picture."""
    with _open(source) as image:
        return turned(image).convert("RGB")


def turned(image: Image) -> Image:
    """An opened picture as its tag says; itself where it is upright."""
    from PIL import Image as Images

    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(Images.Transpose[turn])


def upright_size(source: Source) -> tuple[int, int]:
    """(height, width) in pixels of the upright picture, from its header. Raises as `open_upright`."""
    with _open(source) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)


def is_turned(source: Source) -> bool:
    """Does the file rely on its reader to turn it? Raises as `open_upright`."""
    with _open(source) as image:
        return _orientation(image) in _TURNS


def _orientation(image: Image) -> int:
    """By the header alone. `ImageOps.exif_transpose` would decode every PNG to look for a tag behind its pixels."""
    from PIL import Image as Images

    return Images.Image.getexif(image).get(_ORIENTATION, 1)


@contextmanager
def _open(source: Source) -> Iterator[Image]:
    from PIL import Image as Images

    try:
        with Images.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
        ) as image:
            yield image
    except SyntaxError as error:  # what Pillow raises for broken tags and chunks
        raise OSError(f"not a readable picture: {error}") from error
