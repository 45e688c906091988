from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from vlm_pipeline.reporting.thumbnails import make_thumbnails


def _picture(path: Path, size: tuple[int, int] = (300, 200), shade: int = 90) -> str:
    Image.effect_noise(size, shade).convert("RGB").save(path)
    return str(path)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_that_claims(path: Path, width: int, height: int) -> str:
    """A file of a hundred bytes whose header promises a giant picture."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"\0" * 64)) + _chunk(b"IEND", b"")
    )
    return str(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_images_are_left_out_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    made = make_thumbnails(
        [
            ("good", _picture(tmp_path / "good.png")),
            ("bomb", _png_that_claims(tmp_path / "bomb.png", 60_000, 60_000)),
            ("large", _png_that_claims(tmp_path / "large.png", 10_000, 9_000)),
            ("broken", str(tmp_path / "broken.png")),
            ("absent", str(tmp_path / "absent.png")),
        ]
    )
    assert list(made.images) == ["good"]
    assert "too large" in made.left_out["bomb"]
    assert made.left_out["large"] == "image of 10000 x 9000 pixels is too large to draw"
    assert "cannot be read" in made.left_out["broken"]
    assert made.left_out["absent"] == "the image file is missing"
    assert made.data_uri("good").startswith("data:image/webp;base64,")


def test_equal_images_are_encoded_once_and_the_budget_holds(tmp_path: Path) -> None:
    wanted = [(f"k{i % 4}", _picture(tmp_path / f"{i % 4}.png", shade=60 + i % 4)) for i in range(12)]
    everything = make_thumbnails(wanted)
    assert len(everything.images) == 4
    size = len(everything.images["k0"])
    small = make_thumbnails(wanted, budget=int(2.5 * size))
    assert sum(map(len, small.images.values())) <= 2.5 * size
    assert next(iter(small.images)) == "k0" and set(small.left_out.values()) == {
        "left out to keep the file small"
    }


def test_relative_paths_start_at_the_given_root(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    assert make_thumbnails([("a", "a.png")], tmp_path).images


def test_workbook_pictures_are_png_and_carry_no_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    Image.new("RGB", (200, 100), (200, 10, 10)).save(path, exif=exif)
    made = make_thumbnails([("a", str(path))])
    png = made.png("a", edge=50)
    assert png is not None and png.startswith(b"\x89PNG")
    assert b"secret" not in made.images["a"] and b"secret" not in png
