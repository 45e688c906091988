"""Pictures named by rows, from an untrusted source: found, measured and hashed before anybody decodes them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import stat
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.examples.quarantine import BadRow

# Raster formats only: Pillow would start Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_CACHED_IMAGES = 20_000


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Checked on file size and header before any pixel is decoded; pixels are width times height."""

    max_bytes: int = 50_000_000
    max_pixels: int = 50_000_000


class ImageReader:
    """Turns what a row says about a picture into an ImageRef, or raises BadRow.

    A path is relative to `root` and may not leave it: not by `..`, not absolutely, not through a link. The
    result for a file is remembered, since a page is named by about a dozen rows.
    """

    def __init__(self, root: Path | None, limits: ImageLimits) -> None:
        self._root = None if root is None else root.resolve()
        self._limits = limits
        self._seen: OrderedDict[tuple[str, int, int], ImageRef | BadRow] = OrderedDict()

    def read(self, value: Any) -> ImageRef:
        """`value`: path, data URI, bytes, or {"bytes", "path"} / {"url"} as Hugging Face and OpenAI write it."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path") or value.get("url")
        if isinstance(value, bytes | bytearray):
            return self._inspect_bytes(bytes(value))
        if not isinstance(value, str):
            raise BadRow("missing_image", f"image is {type(value).__name__}, not a path, data URI or bytes")
        if not value.strip():
            raise BadRow(
                "missing_image", "image is an empty string; leave the key out in a row without a picture"
            )
        if value.startswith("data:"):
            return self._inspect_bytes(self._decode_uri(value))
        if "://" in value[:12]:
            raise BadRow(
                "remote_image",
                f"image {value[:120]!r} is remote; download it beside the rows and name the file",
            )
        return self._inspect_file(value)

    def _decode_uri(self, uri: str) -> bytes:
        head, comma, payload = uri.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BadRow("unreadable_image", f"data URI {head[:60]!r} is not base64")
        if len(payload) * 3 // 4 > self._limits.max_bytes + 3:
            raise BadRow("image_too_large", f"data URI holds more than {self._limits.max_bytes:,} bytes")
        try:
            return base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRow("unreadable_image", f"data URI is broken base64: {error}") from None

    def _inspect_bytes(self, data: bytes) -> ImageRef:
        if len(data) > self._limits.max_bytes:
            raise BadRow(
                "image_too_large", f"picture has {len(data):,} bytes, the limit is {self._limits.max_bytes:,}"
            )
        width, height, name = self._check(io.BytesIO(data), "picture in the row")
        return ImageRef(None, data, hashlib.sha256(data).hexdigest(), width, height, name)

    def _inspect_file(self, value: str) -> ImageRef:
        if self._root is None:
            raise BadRow(
                "missing_image",
                f"image {value!r} is a path, but these rows have no image folder; pass images=",
            )
        try:
            path = (self._root / value).resolve()
            status = path.stat() if path.is_relative_to(self._root) else None
        except FileNotFoundError:
            raise BadRow("missing_image", f"image {value!r} does not exist in {self._root}") from None
        except (OSError, ValueError, RuntimeError) as error:
            raise BadRow("missing_image", f"image {value[:200]!r} cannot be opened: {error}") from None
        if status is None:
            raise BadRow("outside_folder", f"image {value!r} leaves the image folder {self._root}")
        if not stat.S_ISREG(status.st_mode):
            raise BadRow("missing_image", f"image {value!r} is not a file")
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._seen:
            self._seen[key] = self._inspect_once(path, value)
            if len(self._seen) > _CACHED_IMAGES:
                self._seen.popitem(last=False)
        found = self._seen[key]
        if isinstance(found, BadRow):
            raise BadRow(found.kind, found.reason)
        return found

    def _inspect_once(self, path: Path, value: str) -> ImageRef | BadRow:
        try:
            with path.open("rb") as handle:
                size = os.fstat(handle.fileno()).st_size
                if size > self._limits.max_bytes:
                    return BadRow(
                        "image_too_large",
                        f"image {value!r} has {size:,} bytes, the limit is {self._limits.max_bytes:,}",
                    )
                width, height, name = self._check(handle, f"image {value!r}")
                handle.seek(0)
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
        except BadRow as error:
            return error
        except OSError as error:
            return BadRow("missing_image", f"image {value!r} cannot be opened: {error.strerror or error}")
        return ImageRef(str(path), None, digest, width, height, name)

    def _check(self, handle: Any, name: str) -> tuple[int, int, str]:
        """Width, height and format by the header; then one cheap decode, which finds cut-off files."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(handle, formats=FORMATS) as image:
                    width, height = image.size
                    if width * height > self._limits.max_pixels:
                        raise BadRow(
                            "image_too_large",
                            f"{name} has {width} x {height} pixels, the limit is {self._limits.max_pixels:,}",
                        )
                    found = image.format or "?"
                    image.draft("L", (64, 64))  # JPEG decodes at an eighth of the size, and still to its end
                    image.load()
        except Image.DecompressionBombError as error:
            raise BadRow("image_too_large", f"{name}: {error}") from None
        except BadRow:
            raise
        except Exception as error:  # Pillow's plugins raise many types on hostile bytes
            raise BadRow("unreadable_image", f"{name} cannot be read: {error}") from None
        return width, height, found
