from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import Image

from vlm_pipeline.reporting.thumbnails import make_thumbnails


def _picture(path: Path, size: tuple[int, int] = (300, 200), shade: int = 90) -> str:
    Image.effect_noise(size, shade).convert("RGB").save(path)
    return str(path)


def _header_only_png(path: Path, width: int, height: int) -> str:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    return str(path)


def test_bad_images_are_left_out_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    made = make_thumbnails(
        [
            ("good", _picture(tmp_path / "good.png")),
            ("huge", _header_only_png(tmp_path / "huge.png", 60_000, 60_000)),
            ("broken", str(tmp_path / "broken.png")),
            ("absent", str(tmp_path / "absent.png")),
        ]
    )
    assert list(made.images) == ["good"]
    assert "too large" in made.left_out["huge"] or "Bomb" in made.left_out["huge"]
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
