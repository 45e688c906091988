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
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.examples.quarantine import BadRow
from vlm_pipeline.store import file_hash

# Raster formats only: Pillow would start Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PICTURE_FILES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_CACHED_IMAGES = 20_000


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Checked on file size and header before any pixel is decoded; pixels are width times height."""

    max_bytes: int = 50_000_000
    max_pixels: int = 50_000_000


FileKey = tuple[str, int, int]  # absolute path, bytes, modification time in ns


class KnownPictures:
    """Good pictures of earlier reads, so that a changed row does not decode every page again."""

    def __init__(self, pictures: dict[FileKey, ImageRef] | None = None) -> None:
        self._before = pictures or {}
        self._used: dict[FileKey, ImageRef] = {}
        self._paths = {path for path, _, _ in self._before}
        self.decoded = 0

    def get(self, key: FileKey) -> ImageRef | None:
        found = self._before.get(key)
        if found is not None:
            self._used[key] = found
        return found

    def add(self, key: FileKey, picture: ImageRef) -> None:
        self.decoded += 1
        self._used[key] = picture

    def holds(self, file: Path) -> bool:
        """Whether a row of an earlier read named this file, whatever it is called."""
        return str(file) in self._paths

    def bytes_hash(self, file: Path) -> str:
        """SHA-256 of a file's bytes; they are not read where size and time are those of the earlier read."""
        status = file.stat()
        key = (str(file), status.st_size, status.st_mtime_ns)
        found = self._before.get(key)
        return found.sha256 if found else _bytes_hash(*key)

    @classmethod
    def read(cls, path: Path) -> KnownPictures:
        """What `write` wrote; nothing where there is no such file."""
        import pyarrow.parquet as pq

        if not path.is_file():
            return cls()
        columns = pq.read_table(path).to_pydict()
        keys = zip(columns["path"], columns["bytes"], columns["mtime_ns"], strict=True)
        about = zip(*(columns[name] for name in ("path", "sha256", "width", "height", "format")), strict=True)
        return cls(
            {
                key: ImageRef(name, None, sha256, width, height, kind)
                for key, (name, sha256, width, height, kind) in zip(keys, about, strict=True)
            }
        )

    def write(self, path: Path) -> None:
        """The pictures that were used; does nothing when they are those of the file."""
        import pyarrow as pa

        from vlm_pipeline.store import write_table

        if self._used.keys() == self._before.keys():
            return
        rows = [
            {
                "path": name, "bytes": size, "mtime_ns": time, "sha256": picture.sha256,
                "width": picture.width, "height": picture.height, "format": picture.format,
            }
            for (name, size, time), picture in sorted(self._used.items())
        ]  # fmt: skip
        whole, text = pa.int64(), pa.string()
        schema = {"path": text, "bytes": whole, "mtime_ns": whole, "sha256": text}
        schema |= {"width": whole, "height": whole, "format": text}
        write_table(path, pa.Table.from_pylist(rows, schema=pa.schema(schema)))


@lru_cache(maxsize=100_000)
def _bytes_hash(file: str, size: int, time: int) -> str:
    """Once per process and state of the file: a sensor looks every few seconds."""
    return file_hash(file, length=64)


class ImageReader:
    """Turns what a row says about a picture into an ImageRef, or raises BadRow.

    A path is relative to `root` and may not leave it: not by `..`, not absolutely, not through a link. The
    result for a file is remembered, since a page is named by about a dozen rows. known: pictures of an earlier
    read by path, size and time, which are not decoded again; those of this read are added.
    """

    def __init__(self, root: Path | None, limits: ImageLimits, known: KnownPictures | None = None) -> None:
        self._root = None if root is None else root.resolve()
        self._limits = limits
        self._known = KnownPictures() if known is None else known
        self._seen: OrderedDict[FileKey, ImageRef | BadRow] = OrderedDict()
        self._resolved: dict[str, Path | None] = {}  # None: outside the root

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
            path = self._resolve(self._root, value)
            status = None if path is None else path.stat()
        except FileNotFoundError:
            raise BadRow("missing_image", f"image {value!r} does not exist in {self._root}") from None
        except (OSError, ValueError, RuntimeError) as error:
            raise BadRow("missing_image", f"image {value[:200]!r} cannot be opened: {error}") from None
        if path is None or status is None:
            raise BadRow("outside_folder", f"image {value!r} leaves the image folder {self._root}")
        if not stat.S_ISREG(status.st_mode):
            raise BadRow("missing_image", f"image {value!r} is not a file")
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._seen:
            self._seen[key] = self._inspect_once(path, value, key)
            if len(self._seen) > _CACHED_IMAGES:
                self._seen.popitem(last=False)
        found = self._seen[key]
        if isinstance(found, BadRow):
            raise BadRow(found.kind, found.reason)
        return found

    def _resolve(self, root: Path, value: str) -> Path | None:
        if value not in self._resolved:
            if len(self._resolved) >= _CACHED_IMAGES:
                self._resolved.clear()
            path = (root / value).resolve()
            self._resolved[value] = path if path.is_relative_to(root) else None
        return self._resolved[value]

    def _inspect_once(self, path: Path, value: str, key: FileKey) -> ImageRef | BadRow:
        known = self._known.get(key)
        if known is not None and self._fits(known, key[1]):
            return known
        found = self._inspect_anew(path, value)
        if isinstance(found, ImageRef):
            self._known.add(key, found)
        return found

    def _fits(self, picture: ImageRef, size: int) -> bool:
        pixels = picture.width * picture.height
        return size <= self._limits.max_bytes and pixels <= self._limits.max_pixels

    def _inspect_anew(self, path: Path, value: str) -> ImageRef | BadRow:
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
