"""Small pictures, one per 28-pixel tile: pictograms, digits, units, street objects.

28 pixels are one image token of a Qwen2-VL with patch 14 and merge 2, so what a token must know never
straddles two tokens. Everything is drawn from our own polygons and a 5x7 bitmap font: no system font, hence
the same bytes everywhere.
"""

from __future__ import annotations

import math
from functools import lru_cache

from PIL import Image, ImageDraw

TILE = 28

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 32, 40),
    "blue": (30, 80, 208),
    "green": (24, 140, 60),
    "orange": (240, 130, 10),
    "purple": (132, 44, 170),
    "brown": (120, 72, 30),
    "black": (20, 20, 20),
    "pink": (240, 110, 180),
}

PICTOGRAMS = [
    "gear",
    "star",
    "ring",
    "cross",
    "triangle",
    "square",
    "diamond",
    "heart",
    "moon",
    "arrow",
    "hexagon",
    "drop",
    "zigzag",
    "flag",
    "hourglass",
    "disc",
]
STREET_OBJECTS = [
    "lamp",
    "dark lamp",
    "person",
    "litter",
    "tree",
    "bench",
    "window",
    "broken window",
    "door",
    "car",
    "camera",
    "graffiti",
]
SHAPES = PICTOGRAMS + STREET_OBJECTS
UNITS = ["Nm", "mm", "L", "deg", "bar", "rpm", "kg", "min"]

GROUNDS: dict[str, tuple[int, int, int]] = {
    "paper": (250, 250, 246),
    "day sky": (150, 205, 250),
    "dusk sky": (235, 160, 110),
    "night sky": (24, 26, 66),
    "brick wall": (196, 128, 104),
    "shop wall": (222, 206, 150),
    "hedge": (104, 160, 96),
    "concrete wall": (164, 164, 168),
    "pavement": (206, 204, 196),
    "grass": (150, 200, 120),
    "road": (130, 132, 138),
}

_FONT = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11111 00010 00100 00010 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
    ".": "0 0 0 0 0 1 1",
    "-": "000 000 000 111 000 000 000",
    "±": "010 010 111 010 010 000 111",
    "N": "10001 11001 11001 10101 10011 10011 10001",
    "m": "00000 00000 11010 10101 10101 10101 10101",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "d": "00001 00001 01101 10011 10001 10001 01111",
    "e": "00000 00000 01110 10001 11111 10000 01110",
    "g": "00000 01111 10001 10001 01111 00001 01110",
    "b": "10000 10000 10110 11001 10001 10001 11110",
    "a": "00000 00000 01110 00001 01111 10001 01111",
    "r": "00000 00000 10110 11001 10000 10000 10000",
    "p": "00000 11110 10001 10001 11110 10000 10000",
    "k": "10000 10000 10010 10100 11000 10100 10010",
    "i": "010 000 110 010 010 010 111",
    "n": "00000 00000 10110 11001 10001 10001 10001",
}


def text_mask(text: str, width: int, height: int) -> Image.Image:
    """One-bit picture of ``text`` in the 5x7 font, scaled to at most ``width`` x ``height`` pixels."""
    rows = [""] * 7
    for index, char in enumerate(text):
        for line, bits in enumerate(_FONT[char].split()):
            rows[line] += ("0" if index else "") + bits
    small = Image.new("L", (len(rows[0]), 7))
    small.putdata([255 if bit == "1" else 0 for row in rows for bit in row])
    scale = min(2.4, width / small.width)
    return small.resize((max(1, round(small.width * scale)), height), Image.NEAREST)


def _text(draw_on: Image.Image, text: str, ink: tuple[int, int, int], height: int = 18) -> None:
    mask = text_mask(text, TILE - 3, height)
    draw_on.paste(ink, ((TILE - mask.width) // 2, (TILE - height) // 2), mask)


def _polygon(points: list[tuple[float, float]]) -> list[tuple[int, int]]:
    return [(round(14 + 11 * x), round(14 + 11 * y)) for x, y in points]


def _spokes(count: int, inner: float, turn: float = -0.25) -> list[tuple[int, int]]:
    radius = (1.0, inner)
    angle = [2 * math.pi * (turn + k / (2 * count)) for k in range(2 * count)]
    return _polygon([(radius[k % 2] * math.cos(a), radius[k % 2] * math.sin(a)) for k, a in enumerate(angle)])


def _pictogram(
    d: ImageDraw.ImageDraw, shape: str, ink: tuple[int, int, int], ground: tuple[int, int, int]
) -> None:
    if shape == "gear":
        d.polygon(_spokes(8, 0.66), fill=ink)
        d.ellipse((10, 10, 18, 18), fill=ground)
    elif shape == "star":
        d.polygon(_spokes(5, 0.42), fill=ink)
    elif shape == "ring":
        d.ellipse((3, 3, 25, 25), outline=ink, width=5)
    elif shape == "cross":
        d.rectangle((11, 3, 17, 25), fill=ink)
        d.rectangle((3, 11, 25, 17), fill=ink)
    elif shape == "triangle":
        d.polygon([(14, 3), (25, 24), (3, 24)], fill=ink)
    elif shape == "square":
        d.rectangle((5, 5, 23, 23), outline=ink, width=5)
    elif shape == "diamond":
        d.polygon([(14, 2), (24, 14), (14, 26), (4, 14)], fill=ink)
    elif shape == "heart":
        d.ellipse((3, 4, 14, 15), fill=ink)
        d.ellipse((14, 4, 25, 15), fill=ink)
        d.polygon([(4, 12), (24, 12), (14, 25)], fill=ink)
    elif shape == "moon":
        d.ellipse((3, 3, 25, 25), fill=ink)
        d.ellipse((10, 1, 28, 21), fill=ground)
    elif shape == "arrow":
        d.polygon([(14, 2), (25, 13), (18, 13), (18, 26), (10, 26), (10, 13), (3, 13)], fill=ink)
    elif shape == "hexagon":
        d.polygon([(8, 4), (20, 4), (26, 14), (20, 24), (8, 24), (2, 14)], outline=ink, width=4)
    elif shape == "drop":
        d.polygon([(14, 2), (22, 15), (6, 15)], fill=ink)
        d.ellipse((5, 10, 23, 26), fill=ink)
    elif shape == "zigzag":
        d.line([(3, 5), (25, 9), (3, 14), (25, 19), (3, 24)], fill=ink, width=4)
    elif shape == "flag":
        d.rectangle((5, 2, 8, 26), fill=ink)
        d.polygon([(8, 3), (25, 9), (8, 15)], fill=ink)
    elif shape == "hourglass":
        d.polygon([(4, 3), (24, 3), (4, 25), (24, 25)], fill=ink)
    elif shape == "disc":
        d.ellipse((5, 5, 23, 23), fill=ink)
    else:
        raise KeyError(shape)


def _street_object(d: ImageDraw.ImageDraw, shape: str, ink: tuple[int, int, int]) -> None:
    dark, pale = (40, 40, 44), (250, 236, 120)
    if shape in ("lamp", "dark lamp"):
        d.rectangle((12, 10, 15, 27), fill=dark)
        d.ellipse((6, 1, 21, 13), fill=pale if shape == "lamp" else (90, 90, 96), outline=dark)
    elif shape == "person":
        d.ellipse((10, 2, 17, 9), fill=(220, 170, 130))
        d.rectangle((8, 10, 19, 19), fill=ink)
        d.rectangle((9, 20, 12, 27), fill=dark)
        d.rectangle((15, 20, 18, 27), fill=dark)
    elif shape == "litter":
        d.polygon([(3, 26), (6, 18), (11, 26)], fill=(240, 240, 240), outline=dark)
        d.rectangle((14, 20, 18, 26), fill=(200, 40, 40))
        d.ellipse((20, 21, 26, 26), fill=(230, 200, 60), outline=dark)
    elif shape == "tree":
        d.rectangle((12, 16, 16, 27), fill=(100, 64, 30))
        d.ellipse((3, 1, 25, 19), fill=(30, 120, 50))
    elif shape == "bench":
        d.rectangle((2, 14, 26, 17), fill=(120, 72, 30))
        d.rectangle((2, 9, 26, 11), fill=(120, 72, 30))
        d.rectangle((4, 17, 6, 25), fill=dark)
        d.rectangle((22, 17, 24, 25), fill=dark)
    elif shape in ("window", "broken window"):
        d.rectangle((4, 4, 24, 24), fill=(176, 220, 240), outline=(250, 250, 250), width=2)
        if shape == "window":
            d.line([(14, 4), (14, 24)], fill=(250, 250, 250), width=2)
            d.line([(4, 14), (24, 14)], fill=(250, 250, 250), width=2)
        else:
            d.polygon(
                [(14, 14), (6, 7), (12, 6), (15, 11), (21, 6), (19, 14), (23, 21), (14, 17), (8, 22)],
                fill=dark,
            )
    elif shape == "door":
        d.rectangle((6, 3, 22, 27), fill=(96, 52, 30), outline=dark, width=2)
        d.ellipse((17, 14, 20, 17), fill=pale)
    elif shape == "car":
        d.polygon([(6, 14), (9, 7), (19, 7), (22, 14)], fill=ink)
        d.rectangle((2, 13, 26, 21), fill=ink)
        d.ellipse((4, 18, 10, 25), fill=dark)
        d.ellipse((18, 18, 24, 25), fill=dark)
    elif shape == "camera":
        d.rectangle((5, 9, 20, 17), fill=(235, 235, 235), outline=dark, width=2)
        d.polygon([(20, 11), (26, 8), (26, 18), (20, 15)], fill=dark)
        d.rectangle((9, 17, 12, 24), fill=dark)
    elif shape == "graffiti":
        d.line([(3, 20), (8, 8), (12, 20), (17, 8), (21, 20), (25, 8)], fill=(230, 30, 150), width=3)
        d.line([(3, 24), (25, 24)], fill=(30, 160, 220), width=3)
    else:
        raise KeyError(shape)


def shade(ground: tuple[int, int, int], row: int, col: int) -> tuple[int, int, int]:
    """Paper shading: a tint that falls from the top and from the left, so that a place can be told by eye."""
    red, green, blue = ground
    return max(0, red - 5 * row), green, max(0, blue - 5 * col)


@lru_cache(maxsize=8192)
def tile(picture: str, what: str, colour: str, ground: str, row: int, col: int) -> Image.Image:
    """One 28x28 tile. ``picture`` is "blank", "shape", "text" (digits or a unit) or "step"."""
    back = shade(GROUNDS[ground], row, col)
    image = Image.new("RGB", (TILE, TILE), back)
    draw = ImageDraw.Draw(image)
    if picture == "shape" and what in PICTOGRAMS:
        _pictogram(draw, what, COLOURS[colour], back)
    elif picture == "shape":
        _street_object(draw, what, COLOURS.get(colour, (20, 20, 20)))
    elif picture == "text":
        _text(image, what, (20, 20, 30))
    elif picture == "step":
        draw.ellipse((2, 2, 25, 25), fill=(20, 20, 30))
        _text(image, what, (255, 255, 255), height=14)
    elif picture != "blank":
        raise KeyError(picture)
    return image
