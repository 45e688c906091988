"""Small pictures of the rows' images, within a fixed budget of bytes.

Image files are untrusted: their size is read from the header before anything is decoded, an unreadable one is left
out with its reason, and only pixels leave this module (re-encoded, without metadata).
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

MAX_PIXELS = 80_000_000
BUDGET = 5_500_000  # bytes of all pictures together, before base64


@dataclass
class Thumbnails:
    """Encoded pictures by image key; `left_out` says why a picture is missing."""

    edge: int
    images: dict[str, bytes] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def data_uri(self, key: str) -> str | None:
        data = self.images.get(key)
        return None if data is None else f"data:image/webp;base64,{base64.b64encode(data).decode()}"

    def png(self, key: str, edge: int = 160) -> bytes | None:
        """The same picture as PNG, for a workbook."""
        from PIL import Image

        if key not in self.images:
            return None
        with Image.open(io.BytesIO(self.images[key])) as image:
            image.thumbnail((edge, edge))
            target = io.BytesIO()
            image.convert("RGB").save(target, "PNG", optimize=True)
        return target.getvalue()


def make_thumbnails(
    wanted: Iterable[tuple[str, str]], root: Path | str | None = None, budget: int = BUDGET
) -> Thumbnails:
    """Encode (key, path) pairs in their order until the budget is spent; equal keys are encoded once.

    With few images the pictures are large enough to read a page; with thousands they are stamps.
    """
    unique: dict[str, str] = {}
    for key, path in wanted:
        if path and key not in unique:
            unique[key] = path
    edge = 448 if len(unique) <= 150 else 320 if len(unique) <= 400 else 192 if len(unique) <= 1200 else 128
    result = Thumbnails(edge)
    spent = 0
    entries = list(unique.items())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 2)) as pool:
        for start in range(0, len(entries), 64):
            block = entries[start : start + 64]
            if spent >= budget:
                result.left_out |= dict.fromkeys(
                    (key for key, _ in entries[start:]), "left out to keep the file small"
                )
                break
            for (key, _), made in zip(
                block, pool.map(lambda e: _encode(e[1], edge, root), block), strict=True
            ):
                if isinstance(made, str):
                    result.left_out[key] = made
                elif spent + len(made) > budget:
                    result.left_out[key] = "left out to keep the file small"
                else:
                    result.images[key] = made
                    spent += len(made)
    return result


def _encode(path: str, edge: int, root: Path | str | None) -> bytes | str:
    """WebP bytes, or the reason why there are none."""
    from PIL import Image

    location = Path(path)
    if not location.is_absolute() and root is not None:
        location = Path(root) / location
    try:
        with Image.open(location) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"image of {image.width} x {image.height} pixels is too large to draw"
            image.draft("RGB", (edge * 2, edge * 2))  # JPEG only: decode at a fraction of the size
            picture = image.convert("RGB")
            picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
            target = io.BytesIO()
            picture.save(target, "WEBP", quality=62 if edge < 200 else 74, method=3)
            return target.getvalue()
    except FileNotFoundError:
        return "the image file is missing"
    except Image.DecompressionBombError:
        return "the image has too many pixels, it is too large to draw"
    except (OSError, ValueError, SyntaxError) as error:
        return f"the image cannot be read ({type(error).__name__})"
