"""Pages and scenes as facts, their picture, and what each image token of the picture shows.

A ``Page`` is a grid of 28-pixel tiles. An ``Entry`` is one fact on it (a coloured pictogram with a value, a
tolerance or a range and a unit; a step; a street object) and owns one or more tiles. ``render`` draws it;
``token_features`` says, for every tile, what a reader should see there (the labels of the vision stage).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vlm_pipeline.bundled.glyphs import COLOURS, GROUNDS, SHAPES, TILE, UNITS, tile

KINDS = ["blank", "head", "value", "second", "unit", "step"]
MODES = ["none", "tolerance", "range"]

#: name of a feature -> number of its values; 0 is always "nothing of that kind here"
FEATURES: dict[str, int] = {
    "kind": len(KINDS),
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "tens": 11,
    "ones": 11,
    "dot": 4,
    "mode": len(MODES) + 1,
    "tens2": 11,
    "ones2": 11,
    "unit": len(UNITS) + 1,
    "step": 10,
    "row": 11,
    "col": 11,
    "ground": len(GROUNDS) + 1,
}


@dataclass
class Entry:
    """One fact. ``value`` and ``second`` are two-digit integers; ``dot`` 0, 1, 2 makes 48 read 48, 4.8, 0.48."""

    shape: str | None = None
    colour: str | None = None
    value: int | None = None
    second: int | None = None
    mode: str = "none"
    dot: int = 0
    unit: str | None = None
    step: int | None = None
    tiles: list[tuple[int, int, str]] = field(default_factory=list)

    def number(self, which: str = "value") -> str:
        """The value (or ``second``) as the page shows it, for example ``0.48``."""
        raw = getattr(self, which)
        return str(raw) if self.dot == 0 else f"{raw / 10**self.dot:.{self.dot}f}"

    @property
    def place(self) -> tuple[int, int]:
        """Row and column of the entry's first tile."""
        return self.tiles[0][0], self.tiles[0][1]


@dataclass
class Page:
    """A grid of ``rows`` x ``cols`` tiles, its entries in reading order, and the ground under each tile."""

    rows: int
    cols: int
    layout: str
    entries: list[Entry]
    ground: list[list[str]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; what an entry does not have is left out."""
        plain = asdict(Entry())
        entries = [{k: v for k, v in asdict(e).items() if v != plain[k]} for e in self.entries]
        return {**asdict(self), "entries": entries}


def page_from_dict(facts: dict[str, Any]) -> Page:
    """The inverse of ``Page.as_dict`` (also after a round trip through JSON)."""
    entries = [Entry(**{**e, "tiles": [tuple(t) for t in e["tiles"]]}) for e in facts["entries"]]
    return Page(**{**facts, "entries": entries})


def place_entries(
    entries: Sequence[Entry], layout: str, columns: int = 1, ground: list[list[str]] | None = None
) -> Page:
    """Lay entries out in reading order.

    ``list``: strips of head, value, second, unit. ``steps``: strips of step, head, value, unit. ``cards``:
    two tiles by two. ``pairs``: head and value. ``map``: one tile each.
    """
    shapes = {
        "list": [(0, 0, "head"), (0, 1, "value"), (0, 2, "second"), (0, 3, "unit")],
        "steps": [(0, 1, "head"), (0, 0, "step"), (0, 2, "value"), (0, 3, "unit")],
        "cards": [(0, 0, "head"), (0, 1, "unit"), (1, 0, "value"), (1, 1, "second")],
        "pairs": [(0, 0, "head"), (0, 1, "value")],
        "map": [(0, 0, "head")],
    }[layout]
    height = 1 + max(r for r, _, _ in shapes)
    width = 1 + max(c for _, c, _ in shapes)
    for index, entry in enumerate(entries):
        top, left = index // columns * height, index % columns * width
        entry.tiles = [(top + r, left + c, kind) for r, c, kind in shapes]
    rows = -(-len(entries) // columns) * height
    return Page(rows, columns * width, layout, list(entries), ground)


def _tile_picture(entry: Entry, kind: str) -> tuple[str, str]:
    if kind == "head":
        return ("shape", entry.shape) if entry.shape else ("blank", "")
    if kind == "value" and entry.value is not None:
        return "text", entry.number().removeprefix("0")
    if kind == "second" and entry.second is not None:
        sign = {"tolerance": "±", "range": "-"}[entry.mode]
        return "text", sign + entry.number("second").removeprefix("0")
    if kind == "unit" and entry.unit is not None:
        return "text", entry.unit
    if kind == "step" and entry.step is not None:
        return "step", str(entry.step)
    return "blank", ""


def render(page: Page) -> Image.Image:
    """The page as an RGB picture of ``28 * cols`` x ``28 * rows`` pixels."""
    image = Image.new("RGB", (page.cols * TILE, page.rows * TILE))
    ground = page.ground or [["paper"] * page.cols for _ in range(page.rows)]
    for row in range(page.rows):
        for col in range(page.cols):
            image.paste(tile("blank", "", "", ground[row][col], row, col), (col * TILE, row * TILE))
    draw = ImageDraw.Draw(image)
    for entry in page.entries:
        for row, col, kind in entry.tiles:
            picture, what = _tile_picture(entry, kind)
            if picture != "blank":
                spot = tile(picture, what, entry.colour or "", ground[row][col], row, col)
                image.paste(spot, (col * TILE, row * TILE))
        if len(entry.tiles) > 1:
            rows, cols = [t[0] for t in entry.tiles], [t[1] for t in entry.tiles]
            box = (min(cols) * TILE, min(rows) * TILE, (max(cols) + 1) * TILE - 1, (max(rows) + 1) * TILE - 1)
            draw.rectangle(box, outline=(150, 150, 150))
    return image


def token_features(page: Page) -> np.ndarray:
    """What every image token shows: int array of shape (rows * cols, len(FEATURES)), in token order."""
    grid = np.zeros((page.rows, page.cols, len(FEATURES)), dtype=np.int64)
    names = {name: index for index, name in enumerate(FEATURES)}
    grid[..., names["row"]] = 1 + np.arange(page.rows)[:, None]
    grid[..., names["col"]] = 1 + np.arange(page.cols)[None, :]
    ground_names = list(GROUNDS)
    for row in range(page.rows):
        for col in range(page.cols):
            ground = page.ground[row][col] if page.ground else "paper"
            grid[row, col, names["ground"]] = 1 + ground_names.index(ground)
    colours = list(COLOURS)
    for entry in page.entries:
        seen = {
            "shape": 1 + SHAPES.index(entry.shape) if entry.shape else 0,
            "colour": 1 + colours.index(entry.colour) if entry.colour else 0,
            "unit": 1 + UNITS.index(entry.unit) if entry.unit else 0,
            "step": entry.step or 0,
        }
        if entry.value is not None:
            seen |= {"tens": 1 + entry.value // 10, "ones": 1 + entry.value % 10, "dot": 1 + entry.dot}
        if entry.second is not None:
            seen |= {"mode": 1 + MODES.index(entry.mode)}
            seen |= {"tens2": 1 + entry.second // 10, "ones2": 1 + entry.second % 10}
        for row, col, kind in entry.tiles:
            grid[row, col, names["kind"]] = KINDS.index(kind)
            for name, value in seen.items():
                grid[row, col, names[name]] = value
    return grid.reshape(page.rows * page.cols, len(FEATURES))
